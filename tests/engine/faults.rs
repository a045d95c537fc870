//! Devices that fail, fall silent or are slow: the client is told, the device is started again once where it can be, and
//! nothing hangs.

use crate::device::Fault;
use crate::harness::{Asked, CAPACITY, Engine, FLAT, Question, Setup, until};
use hesper::engine::queue::{Refused, queue};
use hesper::engine::request::Event;
use hesper::engine::worker;
use hesper::plan::ExecutorError;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Long enough for every token of a device that works.
const SILENCE: Duration = Duration::from_millis(300);

/// Tokens until the request fails, and what it is told then. Nothing follows.
fn failure(mut asked: Asked) -> (usize, String) {
    let mut tokens = 0;
    loop {
        match asked.next() {
            Some(Event::Started { .. }) => {}
            Some(Event::Token { .. }) => tokens += 1,
            Some(Event::Failed(message)) => {
                assert_eq!(asked.next(), None, "nothing follows a failure");
                return (tokens, message);
            }
            other => panic!("{other:?}, though the device fails"),
        }
    }
}

/// Asks a device that goes wrong after so many submissions. What the thread returns, and the failure.
fn ask_failing(submits: u32, fault: Fault) -> (ExecutorError, usize, String) {
    let engine = Setup { silence: SILENCE, ..Setup::of(FLAT) }.start();
    engine.device.fail_after(submits, fault);
    engine.device.hold_after(0);
    let asked = engine.ask(&Question::sampled(20, 1).max_tokens(30));
    engine.device.until_held();
    let mut waiting = engine.ask(&Question::greedy(3));
    engine.device.open();
    let (tokens, message) = failure(asked);
    assert_eq!(waiting.next(), None, "what waits is not left waiting");
    until("the handle says so", || engine.handle.is_stopped());
    assert_eq!(Question::greedy(3).submit(&engine.handle).expect_err("the engine is gone"), Refused::Stopped);
    let error = engine.end().expect_err("the device has failed");
    assert_eq!(message, error.to_string());
    (error, tokens, message)
}

#[test]
fn a_lost_device_ends_the_engine() {
    let chunks = Question::sampled(20, 1).chunks();
    // In the prompt, at the first decode, and amid the answer. The failing submission is two ahead of the token.
    for (submits, tokens) in [(0, 0), (chunks - 1, 0), (chunks, 0), (chunks + 1, 0), (chunks + 2, 1), (chunks + 9, 8)] {
        let (error, sent, message) = ask_failing(submits, Fault::Lost);
        assert!(matches!(error, ExecutorError::DeviceLost(_)), "{error:?}");
        assert_eq!(message, "the device was lost: the test has unplugged it");
        assert_eq!(sent, tokens, "after {submits} submissions");
    }
}

#[test]
fn a_device_that_never_samples_ends_the_engine() {
    let chunks = Question::sampled(20, 1).chunks();
    for (submits, tokens) in [(0, 0), (chunks, 1), (chunks + 4, 5)] {
        let (error, sent, message) = ask_failing(submits, Fault::Swallowed);
        assert!(matches!(error, ExecutorError::Device(_)), "{error:?}");
        assert_eq!(message, "the device finished its work without giving a token");
        assert_eq!(sent, tokens, "after {submits} submissions");
    }
}

#[test]
fn a_device_that_hangs_is_asked_and_says_so() {
    let chunks = Question::sampled(20, 1).chunks();
    for (submits, tokens) in [(1, 0), (chunks + 4, 5)] {
        let (error, sent, _) = ask_failing(submits, Fault::TimedOut);
        assert!(matches!(error, ExecutorError::TimedOut { waited_s: 7 }), "{error:?}");
        assert_eq!(sent, tokens, "after {submits} submissions");
    }
}

#[test]
fn a_failure_is_told_even_if_the_client_is_gone() {
    let engine = Engine::of(FLAT);
    engine.device.fail_after(0, Fault::Lost);
    engine.device.hold_after(0);
    let asked = engine.ask(&Question::greedy(3));
    engine.device.until_held();
    drop(asked);
    engine.device.open();
    let error = engine.end().expect_err("the device is lost");
    assert!(matches!(error, ExecutorError::DeviceLost(_)), "{error:?}");
}

/// Silence alone is no failure: whoever is asked and then gives the token goes on.
#[test]
fn a_device_slower_than_the_silence_is_not_given_up() {
    let question = Question::sampled(20, 1).max_tokens(4);
    let expected = Engine::of(FLAT).answer(&question);
    let engine = Setup { silence: Duration::from_millis(5), ..Setup::of(FLAT) }.start();
    engine.device.be_lazy();
    assert_eq!(engine.answer(&question), expected);
    engine.end().expect("the device works");
}

/// The first failure is told to the request that ran; what waits is answered by the device that comes next.
#[test]
fn a_lost_device_is_started_again_once() {
    let question = Question::greedy(9);
    let expected = Engine::of(FLAT).answer(&question);
    let (first, device) = Setup::of(FLAT).load();
    let (second, next_device) = Setup::of(FLAT).load();
    let (handle, inbox) = queue(CAPACITY);
    let (failed, failure_seen) = mpsc::channel();
    let (restart, restarting) = mpsc::channel::<()>();
    let engine = thread::spawn(move || {
        worker::run_restarting(first, inbox, SILENCE, |failure| {
            failed.send(failure.to_string()).expect("the test listens");
            restarting.recv().expect("the test lets it go on");
            Ok::<_, ExecutorError>(second)
        })
    });
    device.fail_after(question.chunks() + 2, Fault::Lost);
    device.hold_after(0);
    let running = Question::sampled(20, 1).max_tokens(30).submit(&handle).expect("there is room");
    device.until_held();
    let waiting = question.submit(&handle).expect("there is room");
    device.open();
    let (_, message) = failure(running);
    assert_eq!(failure_seen.recv().expect("it is started again"), message);
    assert!(handle.is_restarting() && !handle.is_stopped());
    assert!(matches!(question.submit(&handle).expect_err("there is no device"), Refused::Restarting { .. }));
    restart.send(()).expect("the engine waits");
    assert_eq!(waiting.answers(), std::slice::from_ref(&expected));
    assert!(!handle.is_restarting());
    assert_eq!(question.submit(&handle).expect("there is a device").answers(), [expected]);

    next_device.reset();
    next_device.fail_after(0, Fault::Lost);
    failure(question.submit(&handle).expect("there is a device"));
    until("the handle says so", || handle.is_stopped());
    let error = engine.join().expect("the engine does not panic").expect_err("the second failure is final");
    assert!(matches!(error, ExecutorError::DeviceLost(_)), "{error:?}");
}

#[test]
fn a_device_that_cannot_be_started_again_ends_the_engine() {
    let (runner, device) = Setup::of(FLAT).load();
    let (handle, inbox) = queue(CAPACITY);
    device.fail_after(0, Fault::Lost);
    let engine = thread::spawn(move || {
        worker::run_restarting(runner, inbox, SILENCE, |_| Err(ExecutorError::Device("it is gone for good".into())))
    });
    failure(Question::greedy(3).submit(&handle).expect("there is room"));
    until("the handle says so", || handle.is_stopped());
    let error = engine.join().expect("the engine does not panic").expect_err("there is no device");
    assert_eq!(error.to_string(), "it is gone for good");
}
