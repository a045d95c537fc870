//! The queue, and clients that go away or have had enough.

use crate::harness::{CAPACITY, Engine, FLAT, Question, Setup, until};
use hesper::engine::queue::{Handle, Refused, queue};
use hesper::engine::request::{Event, FinishReason};

/// Submissions of decodes ahead of the token that the host looks at.
const AHEAD: u32 = 2;

/// The next request after another was given up.
fn next() -> Question {
    Question::sampled(15, 77)
}

fn submits(question: &Question) -> u32 {
    question.chunks() + question.max_tokens - 1
}

#[test]
fn a_client_that_leaves_frees_the_engine_for_the_next() {
    let expected = Engine::of(FLAT).answer(&next());
    let engine = Engine::of(FLAT);
    let long = Question::sampled(5, 1).max_tokens(50);
    engine.device.hold_after(long.chunks() + 4);
    let mut leaving = engine.ask(&long);
    let waiting = engine.ask(&next());
    leaving.take_tokens(3);
    engine.device.until_held();
    drop(leaving);
    engine.device.open();
    assert_eq!(waiting.answers(), [expected]);
    // The one submission that was held, and no other.
    assert_eq!(engine.device.submits(), long.chunks() + 5 + submits(&next()));
    assert_eq!(engine.handle.running() + engine.handle.waiting(), 0);
    engine.end().expect("the device works");
}

#[test]
fn a_client_that_leaves_ends_the_evaluation_of_its_prompt() {
    let expected = Engine::of(FLAT).answer(&next());
    let engine = Engine::of(FLAT);
    let long = Question::sampled(60, 1);
    assert!(long.chunks() > 5);
    engine.device.hold_after(2);
    let leaving = engine.ask(&long);
    let waiting = engine.ask(&next());
    engine.device.until_held();
    drop(leaving);
    engine.device.open();
    assert_eq!(waiting.answers(), [expected]);
    assert_eq!(engine.device.submits(), 3 + submits(&next()));
}

#[test]
fn a_client_that_leaves_between_two_choices_gets_no_more() {
    let engine = Engine::of(FLAT);
    let question = Question::sampled(6, 1).choices(100).max_tokens(3);
    // The third choice's first submission is held.
    let until_third = question.chunks() + 2 + 3;
    engine.device.hold_after(until_third);
    let leaving = engine.ask(&question);
    engine.device.until_held();
    drop(leaving);
    engine.device.open();
    engine.answer(&next());
    let more = engine.device.submits() - until_third - submits(&next());
    assert!(more <= 1 + AHEAD, "{more} more submissions");
}

#[test]
fn a_choice_that_is_ended_stops_and_the_next_one_runs() {
    let engine = Engine::of(FLAT);
    let question = Question::sampled(7, 50).choices(2).max_tokens(30);
    let whole = engine.answers(&question);
    for logprobs in [None, Some(1)] {
        let first = engine.device.submits();
        let ahead = if logprobs.is_some() { 0 } else { AHEAD };
        engine.device.hold_after(first + question.chunks() + 2 + ahead);
        let mut asked = engine.ask(&Question { logprobs, ..question.clone() });
        let mut ids = asked.take_tokens(3);
        engine.device.until_held();
        asked.ended.end(0);
        engine.device.open();
        let mut others = Vec::new();
        let mut finished = Vec::new();
        while let Some(event) = asked.next() {
            match event {
                Event::Token { choice: 0, token } => ids.push(token.id),
                Event::Token { choice, token } => others.push((choice, token.id)),
                Event::Finished { choice, reason } => finished.push((choice, reason)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ids, whole[0].ids()[..3], "no token after the end");
        assert_eq!(finished, [(0, FinishReason::Stop), (1, FinishReason::Length)]);
        assert_eq!(others, whole[1].ids().into_iter().map(|id| (1, id)).collect::<Vec<_>>());
        let used = engine.device.submits() - first;
        assert_eq!(used, question.chunks() + 3 + ahead + 30, "in flight when it was ended, and the other choice");
    }
}

#[test]
fn a_full_queue_refuses_and_takes_again() {
    let engine = Engine::of(FLAT);
    engine.device.hold_after(0);
    let running = engine.ask(&next());
    engine.device.until_held();
    let waiting: Vec<_> = (0..CAPACITY).map(|_| engine.ask(&next())).collect();
    assert_eq!((engine.handle.running(), engine.handle.waiting()), (1, CAPACITY));
    let refused = next().submit(&engine.handle).expect_err("the queue is full");
    assert_eq!(refused, Refused::Full { capacity: CAPACITY, retry_after_s: 1 });
    assert_eq!(engine.handle.waiting(), CAPACITY, "a refused request does not wait");
    engine.device.open();
    let expected = running.answers();
    for asked in waiting {
        assert_eq!(asked.answers(), expected);
    }
    assert_eq!(engine.answers(&next()), expected);
    until("nothing runs", || engine.handle.running() + engine.handle.waiting() == 0);
}

#[test]
fn a_client_that_leaves_the_queue_is_skipped() {
    let engine = Engine::of(FLAT);
    engine.device.hold_after(0);
    let running = engine.ask(&next());
    engine.device.until_held();
    drop(engine.ask(&Question::sampled(50, 4)));
    let last = engine.ask(&next());
    engine.device.open();
    assert_eq!(running.answers(), last.answers());
    assert_eq!(engine.device.submits(), 2 * submits(&next()));
    assert_eq!(engine.handle.waiting(), 0);
}

#[test]
fn a_draining_queue_completes_what_it_has() {
    let engine = Engine::of(FLAT);
    engine.device.hold_after(0);
    let accepted = [engine.ask(&next()), engine.ask(&next())];
    engine.device.until_held();
    assert!(!engine.handle.is_draining());
    engine.handle.clone().drain();
    assert!(engine.handle.is_draining());
    assert_eq!(next().submit(&engine.handle).expect_err("it drains"), Refused::ShuttingDown);
    engine.device.open();
    for asked in accepted {
        let answers = asked.answers();
        assert_eq!((answers.len(), answers[0].tokens.len()), (1, 12));
    }
    assert!(!engine.handle.is_stopped());
    engine.end().expect("the device works");
}

#[test]
fn without_handles_the_engine_completes_what_it_has_and_ends() {
    let engine = Engine::of(FLAT);
    let other = engine.handle.clone();
    let accepted = [engine.ask(&next()), engine.ask(&next())];
    drop(other);
    engine.end().expect("the device works");
    for asked in accepted {
        assert_eq!(asked.answers()[0].tokens.len(), 12);
    }
    Setup::of(FLAT).start().end().expect("an engine that nobody asked anything ends too");
}

#[test]
fn a_queue_counts_what_waits_and_what_runs() {
    let (handle, mut inbox) = queue(2);
    let counts = |handle: &Handle| (handle.waiting(), handle.running());
    drop(Question::greedy(3).submit(&handle).expect("there is room"));
    let _asked = Question::greedy(4).submit(&handle).expect("there is room");
    assert!(matches!(Question::greedy(5).submit(&handle), Err(Refused::Full { capacity: 2, .. })));
    assert_eq!(counts(&handle), (2, 0));
    assert!(inbox.wait().expect("one waits").events.is_closed());
    inbox.dropped();
    assert_eq!(counts(&handle), (1, 0));
    let request = inbox.wait().expect("another waits");
    assert_eq!(request.tokens.len(), 4);
    inbox.started();
    assert_eq!(counts(&handle), (0, 1));
    inbox.finished();
    assert_eq!(counts(&handle), (0, 0));
    assert!(!handle.is_stopped());
    drop(inbox);
    assert!(handle.is_stopped());
    assert_eq!(Question::greedy(3).submit(&handle).expect_err("nobody is there"), Refused::Stopped);
    assert_eq!(counts(&handle), (0, 0));
}
