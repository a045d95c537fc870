//! `hesper bench --copy`: generation from a prompt that invites to copy, with and without drafts, by turns.

use super::bench_report::{Case, Copying, Result as Measured};
use anyhow::{Result, anyhow, bail};
use hesper::engine::pace::SILENCE;
use hesper::engine::queue::{Handle, queue};
use hesper::engine::request::{Event, Request, SamplingParameters};
use hesper::engine::runner::Runner;
use hesper::engine::worker;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// The prompt says the same so many times.
const TIMES: u32 = 2;

/// The case of `generated` tokens, in one of both ways.
pub fn case(generated: u32, copy: Copying) -> Case {
    Case { depth: 0, prompt: TIMES * generated, generated, copy: Some(copy), ..Case::default() }
}

/// Measures each of `generated`, tokens to copy, and tells `write` of both ways. The prompts are made of `tokens`, of which
/// there are enough. The engine is the one that serves.
///
/// # Errors
/// The device's, `write`'s, and if drafts change an answer.
pub fn measure(
    runner: Runner,
    tokens: &[u32],
    generated: &[u32],
    repetitions: u32,
    mut write: impl FnMut(Measured) -> Result<()>,
) -> Result<()> {
    let (handle, inbox) = queue(1);
    let engine = std::thread::spawn(move || worker::run(runner, inbox, SILENCE));
    let outcome = generated.iter().try_for_each(|&count| -> Result<()> {
        let prompt = tokens[..count as usize].repeat(TIMES as usize);
        let results = by_turns(&handle, &prompt, count, repetitions)?;
        let (drafted, accepted) = results[1].drafts;
        eprintln!("copy{count}: {accepted} of {drafted} drafted tokens were accepted");
        results.into_iter().try_for_each(&mut write)
    });
    // Without a handle the engine ends.
    drop(handle);
    let ended = engine.join().map_err(|_| anyhow!("the engine ended unexpectedly"))?;
    outcome.and(Ok(ended?))
}

fn by_turns(handle: &Handle, prompt: &[u32], generated: u32, repetitions: u32) -> Result<[Measured; 2]> {
    let ways = [Copying::Plainly, Copying::WithDrafts];
    let mut results = ways.map(|way| Measured {
        case: case(generated, way),
        started: SystemTime::now(),
        samples: Vec::new(),
        profile: None,
        drafts: (0, 0),
    });
    let mut expected: Option<Vec<u32>> = None;
    // The first turn warms up.
    for turn in 0..=repetitions {
        for (way, result) in ways.iter().zip(&mut results) {
            let counts = || (handle.stats().drafted_tokens.get(), handle.stats().accepted_tokens.get());
            let before = counts();
            let (answer, elapsed) = answer(handle, prompt, generated, *way)?;
            if turn > 0 {
                result.samples.push(elapsed);
                let after = counts();
                result.drafts = (result.drafts.0 + after.0 - before.0, result.drafts.1 + after.1 - before.1);
            }
            if *expected.get_or_insert_with(|| answer.clone()) != answer {
                bail!("with drafts the answer is another one: this is a defect of Hesper");
            }
        }
    }
    Ok(results)
}

/// The most probable answer, and the time from its first token, which is not measured, to its end.
fn answer(handle: &Handle, prompt: &[u32], generated: u32, way: Copying) -> Result<(Vec<u32>, Duration)> {
    let (sender, mut events) = mpsc::unbounded_channel();
    handle.submit(Request {
        sampling: SamplingParameters { temperature: 0.0, ..SamplingParameters::default() },
        max_tokens: generated + 1,
        speculate: way == Copying::WithDrafts,
        ..Request::new(prompt.to_vec(), sender)
    })?;
    let (mut answer, mut start) = (Vec::new(), Instant::now());
    loop {
        match events.blocking_recv() {
            Some(Event::Started { .. }) => {}
            Some(Event::Token { token, .. }) => {
                if answer.is_empty() {
                    start = Instant::now();
                }
                answer.push(token.id);
            }
            Some(Event::Finished { .. }) => return Ok((answer, start.elapsed())),
            Some(Event::Failed(problem)) => bail!(problem),
            Some(Event::TimedOut) | None => bail!("the engine ended"),
        }
    }
}
