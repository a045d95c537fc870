//! Many sequences at once: the same tokens as alone, whatever runs beside them, however the cache is shared.

use crate::harness::{Answer, Asked, Engine, FLAT, PATIENCE, Question, Setup, prompt, until};
use hesper::engine::request::{Allowed, Constraints, Ended, Event, FinishReason, Request, SamplingParameters};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const CONTEXT: u32 = 128;

fn batch(sequences: u32) -> Setup {
    Setup { context_tokens: CONTEXT, sequences, chunk_rows: 16, capacity: 64, ..Setup::of(FLAT) }
}

/// Questions of every kind and length, so that prompts end in different steps and answers too.
fn mixed(count: u32) -> Vec<Question> {
    (0..count)
        .map(|index| {
            let mut question = Question::sampled(1 + index * 11 % 90, u64::from(index)).max_tokens(2 + index * 7 % 30);
            match index % 5 {
                0 => question.sampling.temperature = 0.0,
                1 => {
                    question.sampling.repetition_penalty = 1.3;
                    question.sampling.frequency_penalty = 0.6;
                }
                2 => question.logprobs = Some(3),
                3 => question.sampling.logit_bias = vec![(index, 3.0), (7, -5.0)],
                _ => question.sampling.top_k = 5,
            }
            question
        })
        .collect()
}

fn alone(setup: Setup, questions: &[Question]) -> Vec<Vec<Answer>> {
    let engine = Setup { sequences: 1, ..setup }.start();
    questions.iter().map(|question| engine.answers(question)).collect()
}

/// Asks all while the device is held, so that all are there when it begins.
fn together(engine: &Engine, questions: &[Question]) -> Vec<Vec<Answer>> {
    engine.device.hold_after(engine.device.submits());
    let asked: Vec<Asked> = questions.iter().map(|question| engine.ask(question)).collect();
    engine.device.open();
    asked.into_iter().map(Asked::answers).collect()
}

#[test]
fn a_batch_gives_what_each_gives_alone() {
    let questions = mixed(32);
    let expected = alone(batch(32), &questions);
    for sequences in [3, 32] {
        let engine = batch(sequences).start();
        assert_eq!(together(&engine, &questions), expected, "{sequences} at once");
        assert_eq!(together(&engine, &questions), expected, "{sequences} at once, with a warm cache");
        let stats = engine.handle.stats();
        assert!(stats.prefix_hit_tokens.get() > 0, "the second time prompts are found");
        assert!(stats.batch_sum.get() > stats.steps.get(), "steps worked on several sequences");
        until("no block is held", || stats.blocks_held.get() == 0);
        engine.end().expect("the device works");
    }
}

#[test]
fn sequences_that_lose_their_blocks_give_the_same_tokens() {
    let questions: Vec<Question> = (0..6).map(|seed| Question::sampled(30, seed).max_tokens(90)).collect();
    let expected = alone(batch(6), &questions);
    // Five blocks for the longest and one a sequence that may run past its end: all six need 24.
    let engine = Setup { cache_tokens: Some(CONTEXT), ..batch(6) }.start();
    assert_eq!(together(&engine, &questions), expected);
    let stats = engine.handle.stats();
    assert!(stats.preemptions.get() > 0, "there are not enough blocks for all");
    until("no block is held", || stats.blocks_held.get() == 0);
}

#[test]
fn a_shared_prefix_is_evaluated_once() {
    let engine = batch(4).start();
    let first = Question::sampled(97, 1).max_tokens(2);
    let expected = alone(batch(1), std::slice::from_ref(&first));
    assert_eq!(engine.answers(&first), expected[0]);
    let evaluated = engine.handle.stats().prompt_tokens.get();
    let mut second = engine.ask(&first);
    assert_eq!(second.next(), Some(Event::Started { cached_tokens: 96 }));
    let mut other = first.clone();
    other.prompt[95] += 1;
    let mut other = engine.ask(&other);
    assert_eq!(other.next(), Some(Event::Started { cached_tokens: 64 }), "the third block differs");
    while second.next().is_some() || other.next().is_some() {}
    let evaluated_again = engine.handle.stats().prompt_tokens.get() - evaluated;
    assert!(evaluated_again < 40, "{evaluated_again} tokens of prompts are evaluated again");
}

#[test]
fn a_request_can_refuse_what_others_left() {
    let engine = batch(2).start();
    let question = Question::sampled(97, 1).max_tokens(2);
    engine.answers(&question);
    let mut asked =
        question.submit_with(&engine.handle, |request| request.reuse_prefix = false).expect("there is room");
    assert_eq!(asked.next(), Some(Event::Started { cached_tokens: 0 }));
}

#[test]
fn decoding_goes_on_while_a_prompt_is_evaluated() {
    let engine = batch(2).start();
    let mut short = engine.ask(&Question::sampled(4, 1).max_tokens(100));
    short.take_tokens(2);
    engine.device.hold_after(engine.device.submits());
    let long = engine.ask(&Question::sampled(90, 2).max_tokens(1));
    engine.device.open();
    // 90 tokens in steps of at most 15 beside one that decodes.
    let answers = long.answers();
    assert_eq!(answers[0].tokens.len(), 1);
    assert!(short.take_tokens(5).len() == 5, "it was not held up");
}

#[test]
fn clients_share_the_device_evenly() {
    let engine = batch(1).start();
    engine.device.hold_after(0);
    let ask = |client: &str, seed| {
        let client: Arc<str> = client.into();
        Question::sampled(5, seed)
            .max_tokens(3)
            .submit_with(&engine.handle, |request| request.client = client)
            .expect("there is room")
    };
    let first = ask("greedy", 0);
    engine.device.until_held();
    let greedy: Vec<Asked> = (1..8).map(|seed| ask("greedy", seed)).collect();
    let modest: Vec<Asked> = (10..12).map(|seed| ask("modest", seed)).collect();
    engine.device.open();
    let ends = |asked: Vec<Asked>| -> Vec<Instant> { asked.into_iter().map(Asked::end).collect() };
    // Watched side by side, since the time of an event is when it is taken.
    let (greedy, modest) = std::thread::scope(|scope| {
        let greedy = scope.spawn(|| ends(greedy));
        let modest = scope.spawn(|| ends(modest));
        (greedy.join().expect("no panic"), modest.join().expect("no panic"))
    });
    drop(first);
    let before = greedy.iter().filter(|end| **end < modest[1]).count();
    assert!(before <= 3, "{before} of the greedy client's later requests came before the modest one's second");
}

#[test]
fn a_deadline_ends_a_request_wherever_it_stands() {
    let engine = batch(1).start();
    engine.device.hold_after(2);
    let late = |request: &mut Request| request.deadline = Some(Instant::now() + Duration::from_millis(20));
    let question = Question::sampled(5, 1).max_tokens(60);
    let mut running = question.submit_with(&engine.handle, late).expect("there is room");
    let mut waiting = question.submit_with(&engine.handle, late).expect("there is room");
    engine.device.until_held();
    std::thread::sleep(Duration::from_millis(30));
    engine.device.open();
    let last = |asked: &mut Asked| std::iter::from_fn(|| asked.next()).last();
    assert_eq!(last(&mut running), Some(Event::TimedOut));
    assert_eq!(waiting.next(), Some(Event::TimedOut), "without having begun");
    assert_eq!(waiting.next(), None);
    until("nothing runs", || engine.handle.running() + engine.handle.waiting() == 0);
}

/// Allows the tokens from `first` on, a run of three after each token, and then token 1 alone, which ends the answer.
fn counting(first: u32, calls: Arc<AtomicU32>) -> Constraints {
    Constraints(Arc::new(move || {
        let (mut left, calls) = (5, calls.clone());
        Box::new(move |sampled, mask| {
            calls.fetch_add(1, Ordering::Relaxed);
            assert_eq!(sampled.is_none(), left == 5, "called once for each token");
            left -= 1;
            let allowed = if left == 0 { 1..2 } else { sampled.unwrap_or(first)..sampled.unwrap_or(first) + 3 };
            allowed.for_each(|token: u32| mask[(token / 32) as usize] |= 1 << (token % 32));
            Ok(Allowed::Masked)
        })
    }))
}

#[test]
fn masks_hold_beside_sequences_without() {
    let free: Vec<Question> = mixed(3);
    let expected = alone(batch(8), &free);
    let engine = batch(8).start();
    engine.device.hold_after(0);
    let free: Vec<Asked> = free.iter().map(|question| engine.ask(question)).collect();
    let calls = Arc::new(AtomicU32::new(0));
    let question = Question { stop_tokens: vec![1], ..Question::sampled(9, 3).max_tokens(20).choices(3) };
    let constrained = question
        .submit_with(&engine.handle, |request| request.constraint = Some(counting(30, calls.clone())))
        .expect("there is room");
    engine.device.open();
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); 3];
    let mut ended = 0;
    for event in std::iter::from_fn({
        let mut constrained = constrained;
        move || constrained.next()
    }) {
        match event {
            Event::Token { choice, token } => answers[choice as usize].push(token.id),
            Event::Finished { reason, .. } => {
                assert_eq!(reason, FinishReason::Stop, "the mask allows nothing but the end");
                ended += 1;
            }
            Event::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, 3);
    for answer in &answers {
        assert_eq!(answer.len(), 4);
        let mut before = 30;
        for &token in answer {
            assert!((before..before + 3).contains(&token), "{answer:?}");
            before = token;
        }
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3 * 5);
    assert_eq!(free.into_iter().map(Asked::answers).collect::<Vec<_>>(), expected);
}

#[test]
fn a_constraint_that_fails_fails_its_request_alone() {
    let engine = batch(4).start();
    let other = engine.ask(&Question::sampled(5, 1).max_tokens(30));
    let fail = Constraints(Arc::new(|| {
        let mut tokens = 0;
        Box::new(move |_, _| {
            tokens += 1;
            if tokens > 3 { Err("no way on".to_owned()) } else { Ok(Allowed::Any) }
        })
    }));
    let mut asked = Question::sampled(9, 3)
        .submit_with(&engine.handle, |request| request.constraint = Some(fail))
        .expect("there is room");
    let events: Vec<Event> = std::iter::from_fn(|| asked.next()).collect();
    assert_eq!(events.last(), Some(&Event::Failed("no way on".to_owned())));
    assert_eq!(events.len(), 1 + 2 + 1, "{events:?}");
    assert_eq!(other.answers()[0].tokens.len(), 30);
    until("nothing runs", || engine.handle.running() == 0);
}

#[test]
fn clients_that_leave_free_every_block() {
    let engine = batch(8).start();
    let asked: Vec<Asked> = (0..24).map(|seed| engine.ask(&Question::sampled(20, seed).max_tokens(100))).collect();
    for mut asked in asked.into_iter().take(12) {
        asked.take_tokens(1);
    }
    until("nothing runs", || engine.handle.running() + engine.handle.waiting() == 0);
    until("no block is held", || engine.handle.stats().blocks_held.get() == 0);
    assert_eq!(engine.answers(&mixed(3)[2]), alone(batch(1), &mixed(3))[2]);
}

#[test]
fn a_request_of_defaults_runs_to_the_contexts_end() {
    let engine = batch(2).start();
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let sampling = SamplingParameters { temperature: 0.0, ..SamplingParameters::default() };
    let ended = Arc::new(Ended::none_of(1));
    engine
        .handle
        .submit(Request { sampling, ended, ..Request::new(prompt(100), sender) })
        .unwrap_or_else(|refused| panic!("{refused}"));
    let (mut tokens, start) = (0, Instant::now());
    loop {
        match events.try_recv() {
            Ok(Event::Token { .. }) => tokens += 1,
            Ok(Event::Finished { reason, .. }) => break assert_eq!(reason, FinishReason::Length),
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(tokens, CONTEXT - 100);
}
