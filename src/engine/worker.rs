//! The engine thread: takes requests from the queue, one at a time, and answers them.

use super::logprobs;
use super::pace::Pace;
use super::queue::Inbox;
use super::request::{Event, FinishReason, Request, Token};
use super::runner::Runner;
use crate::plan::ExecutorError;
use std::time::Duration;

/// Decode submissions in flight: while the host looks at one token, the device works on the next.
const IN_FLIGHT: u32 = 2;

/// Serves until every [`super::queue::Handle`] is gone, or the device fails: then the inbox is dropped and the handles
/// say so. `silence` as in [`Pace::new`].
pub fn run(mut runner: Runner, mut inbox: Inbox, silence: Duration) -> Result<(), ExecutorError> {
    work(&mut runner, &mut inbox, silence)
}

/// As [`run`], but the first time the device fails `restart` gives another runner. The request that ran is told of the
/// failure; those that wait are answered afterwards; meanwhile new ones are refused. A second failure is final, since a
/// device that keeps failing needs someone to look at it.
pub fn run_restarting<E: From<ExecutorError>>(
    mut runner: Runner,
    mut inbox: Inbox,
    silence: Duration,
    restart: impl FnOnce(&ExecutorError) -> Result<Runner, E>,
) -> Result<(), E> {
    let Err(failure) = work(&mut runner, &mut inbox, silence) else { return Ok(()) };
    inbox.set_restarting(true);
    // The old device's memory must be free before the new one's is taken.
    drop(runner);
    let mut runner = restart(&failure)?;
    inbox.set_restarting(false);
    Ok(work(&mut runner, &mut inbox, silence)?)
}

fn work(runner: &mut Runner, inbox: &mut Inbox, silence: Duration) -> Result<(), ExecutorError> {
    while let Some(request) = inbox.next_request() {
        let outcome = answer(runner, &request, silence);
        inbox.finished();
        if let Err(error) = outcome {
            // The client may be gone already; the error is not lost, it is returned.
            let _ = request.events.send(Event::Failed(error.to_string()));
            return Err(error);
        }
    }
    Ok(())
}

/// Answers a request. A client that went away ends it, which is no error.
fn answer(runner: &mut Runner, request: &Request, silence: Duration) -> Result<(), ExecutorError> {
    let cancelled = || request.events.is_closed();
    let Some((last, before)) = request.tokens.split_last() else { return Ok(()) };
    let last_position = before.len() as u32;
    for choice in 0..request.choices {
        let seed = request.sampling.seed.wrapping_add(u64::from(choice));
        runner.begin(&request.tokens, &request.sampling, seed);
        // Every further answer starts from the keys and values that the first has left, and evaluates one token again.
        let whole = if choice == 0 {
            runner.prefill(&request.tokens, 0, true, &cancelled)?
        } else {
            runner.prefill(std::slice::from_ref(last), last_position, true, &cancelled)?
        };
        if !whole {
            return Ok(());
        }
        if choice == 0 {
            send(request, Event::Started { cached_tokens: 0 });
        }
        let finished = generate(runner, request, choice, Pace::new(silence))?;
        runner.wait()?;
        match finished {
            Some(reason) => send(request, Event::Finished { choice, reason }),
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Sends to a client that may be gone: the next look at `is_closed` sees that.
fn send(request: &Request, event: Event) {
    let _ = request.events.send(event);
}

/// Streams tokens until the answer ends; `None` when the client went away. May leave submissions in flight.
fn generate(
    runner: &mut Runner,
    request: &Request,
    choice: u32,
    mut pace: Pace,
) -> Result<Option<FinishReason>, ExecutorError> {
    let first = request.tokens.len() as u32;
    let room = runner.context_tokens().saturating_sub(first);
    let end = first + request.max_tokens.min(room);
    // Reading logits between tokens leaves no room for the device to run ahead.
    let in_flight = if request.logprobs.is_some() { 0 } else { IN_FLIGHT };
    let mut submitted = first;
    for position in first..end {
        while submitted < (position + in_flight).min(end - 1) {
            runner.submit_decode()?;
            submitted += 1;
        }
        let Some(id) = pace.wait(runner, || request.events.is_closed(), |runner| runner.sampled(position))? else {
            return Ok(None);
        };
        if request.stop_tokens.contains(&id) || request.ended.is_ended(choice) {
            return Ok(Some(FinishReason::Stop));
        }
        let logprobs = match request.logprobs {
            Some(count) => Some(logprobs::logprobs(&runner.last_logits()?, id, count)),
            None => None,
        };
        send(request, Event::Token { choice, token: Token { id, logprobs } });
        if request.events.is_closed() {
            return Ok(None);
        }
    }
    Ok(Some(FinishReason::Length))
}
