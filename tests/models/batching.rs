//! The same request gives the same tokens and log-probabilities alone, in a batch of 32, with a cold or a warm prefix
//! cache, in steps of any size, and when it loses its place in between: on a device, with the worker that serves.

use crate::device;
use crate::fixtures::Fixture;
use hesper::engine::pace::SILENCE;
use hesper::engine::queue::{Handle, queue};
use hesper::engine::request::{Allowed, Constraints, Event, FinishReason, Request, SamplingParameters, Token};
use hesper::engine::runner::{KvType, Options, Planned};
use hesper::engine::worker;
use hesper::kernels::policy::Policy;
use hesper::plan::ExecutorError;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

const REQUESTS: u32 = 32;
const CONTEXT: u32 = 256;

pub struct Engine {
    pub handle: Handle,
    thread: JoinHandle<Result<(), ExecutorError>>,
}

impl Engine {
    pub fn start(fixture: &Fixture, options: Options) -> Option<Engine> {
        let gpu = device::gpu()?;
        let planned = Planned::new(&fixture.gguf, &options).unwrap_or_else(|error| panic!("{error}"));
        let runner = planned.load(&fixture.gguf, Box::new(gpu), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
        let (handle, inbox) = queue(REQUESTS as usize);
        Some(Engine { handle, thread: std::thread::spawn(move || worker::run(runner, inbox, SILENCE)) })
    }

    /// Answers to all requests, which are there together.
    fn answers(&self, fixture: &Fixture) -> Vec<(Vec<Token>, FinishReason)> {
        self.answers_to(REQUESTS, |index, events| request(fixture, index, events))
    }

    fn answers_to(
        &self,
        count: u32,
        request: impl Fn(u32, UnboundedSender<Event>) -> Request,
    ) -> Vec<(Vec<Token>, FinishReason)> {
        let asked: Vec<UnboundedReceiver<Event>> = (0..count)
            .map(|index| {
                let (events, answer) = mpsc::unbounded_channel();
                self.handle.submit(request(index, events)).unwrap_or_else(|refused| panic!("{refused}"));
                answer
            })
            .collect();
        asked.into_iter().map(answer).collect()
    }

    pub fn end(self) {
        drop(self.handle);
        let outcome = self.thread.join().expect("the engine does not panic");
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
}

pub fn answer(mut events: UnboundedReceiver<Event>) -> (Vec<Token>, FinishReason) {
    let mut tokens = Vec::new();
    loop {
        match events.blocking_recv() {
            Some(Event::Started { .. }) => {}
            Some(Event::Token { token, .. }) => tokens.push(token),
            Some(Event::Finished { reason, .. }) => return (tokens, reason),
            other => panic!("{other:?} after {} tokens", tokens.len()),
        }
    }
}

/// Requests of every kind: prompts of 1 to 150 tokens, some with a prefix in common, and every way of sampling.
fn request(fixture: &Fixture, index: u32, events: UnboundedSender<Event>) -> Request {
    let chat = &fixture.tokens;
    let length = 1 + (index * 37 % 150) as usize;
    let shift = if index.is_multiple_of(2) { 0 } else { index as usize };
    let prompt: Vec<u32> = chat.iter().cycle().skip(shift).take(length).copied().collect();
    let mut sampling = SamplingParameters { temperature: 0.9, seed: index.into(), ..SamplingParameters::default() };
    match index % 6 {
        0 => sampling.temperature = 0.0,
        1 => (sampling.top_k, sampling.top_p) = (40, 0.9),
        2 => (sampling.repetition_penalty, sampling.presence_penalty) = (1.2, 0.5),
        3 => sampling.logit_bias = vec![(index, 4.0), (198, -3.0)],
        _ => sampling.min_p = 0.02,
    }
    Request {
        sampling,
        max_tokens: 3 + index * 13 % 80,
        logprobs: index.is_multiple_of(7).then_some(2),
        constraint: (index % 8 == 5).then(odd_tokens),
        ..Request::new(prompt, events)
    }
}

/// Nothing but odd tokens.
fn odd_tokens() -> Constraints {
    Constraints(Arc::new(|| {
        Box::new(|_, mask: &mut [u32]| {
            mask.fill(0xaaaa_aaaa);
            Ok(Allowed::Masked)
        })
    }))
}

fn assert_the_same_in_any_batch(kv_type: KvType, policy: impl Fn(&hesper::gpu::Gpu) -> Policy) {
    let fixture = Fixture::demo();
    let Some(policy) = device::gpu().map(|gpu| policy(&gpu)) else { return };
    let options = Options { context_tokens: Some(CONTEXT), chunk_rows: 16, kv_type, ..Options::alone(policy) };
    let Some(alone) = Engine::start(&fixture, options) else { return };
    let expected = alone.answers(&fixture);
    alone.end();
    assert!(expected.iter().any(|(tokens, _)| tokens.len() > 70));
    for (index, (tokens, _)) in expected.iter().enumerate().filter(|(index, _)| index % 8 == 5) {
        assert!(tokens.iter().all(|token| token.id % 2 == 1), "{index}: the mask holds");
    }
    let all = Options { sequences: REQUESTS, chunk_rows: 64, ..options };
    // So few blocks that sequences lose theirs to others.
    let few = Options { sequences: 8, chunk_rows: 32, cache_tokens: Some(96), ..options };
    for (what, options) in [("all at once", all), ("too few blocks", few)] {
        let Some(engine) = Engine::start(&fixture, options) else { return };
        let cold = engine.answers(&fixture);
        let stats = engine.handle.stats();
        let mean = stats.batch_sum.get() as f64 / stats.steps.get() as f64;
        assert!(mean > 1.5, "{what}: steps worked on {mean} sequences");
        assert_eq!(stats.preemptions.get() > 0, options.sequences == few.sequences, "{what}");
        for (index, expected) in expected.iter().enumerate() {
            assert_eq!(cold[index], *expected, "{what}: request {index} with a cold cache");
        }
        // Once is enough with each kind of cache: this is the slowest of all tests.
        if options.sequences == REQUESTS {
            let hits = stats.prefix_hit_tokens.get();
            let warm = engine.answers(&fixture);
            assert!(stats.prefix_hit_tokens.get() > hits, "{what}: the second time prompts are found");
            for (index, expected) in expected.iter().enumerate() {
                assert_eq!(warm[index], *expected, "{what}: request {index} with a warm cache");
            }
        }
        engine.end();
    }
}

/// Which on a CPU driver otherwise stand in chains.
#[test]
fn the_same_in_any_batch_with_products_apart() {
    assert_the_same_in_any_batch(KvType::F16, |gpu| Policy { side_by_side: 0, ..device::policy(gpu) });
}

#[test]
fn a_request_gives_the_same_alone_and_in_any_batch() {
    assert_the_same_in_any_batch(KvType::F16, device::policy);
}

/// What is chosen for GPUs holds to the same, on whatever device there is.
#[test]
fn the_geometry_of_gpus_gives_the_same_in_any_batch() {
    assert_the_same_in_any_batch(KvType::F16, |_| Policy::GPU);
}

/// Sequences that grow beyond where a GPU attends in splits, and short ones among them, for which such steps are made too.
#[test]
fn the_geometry_of_gpus_gives_the_same_behind_many_tokens() {
    let fixture = Fixture::demo();
    let request = |index: u32, events| {
        let length = if index % 4 == 3 { 20 } else { 480 + 9 * index };
        let prompt = fixture.tokens.iter().cycle().skip(index as usize).take(length as usize).copied().collect();
        let sampling = SamplingParameters { temperature: 0.9, seed: index.into(), ..SamplingParameters::default() };
        Request { sampling, max_tokens: 40, logprobs: (index == 1).then_some(2), ..Request::new(prompt, events) }
    };
    let options = Options { context_tokens: Some(640), chunk_rows: 16, ..Options::alone(Policy::GPU) };
    let Some(alone) = Engine::start(&fixture, options) else { return };
    let expected = alone.answers_to(8, request);
    alone.end();
    let Some(together) = Engine::start(&fixture, Options { sequences: 8, chunk_rows: 64, ..options }) else { return };
    for (index, (actual, expected)) in together.answers_to(8, request).iter().zip(&expected).enumerate() {
        assert!(actual == expected, "request {index}: {actual:?} instead of {expected:?}");
    }
    together.end();
}

#[test]
fn a_request_gives_the_same_in_any_batch_with_a_quantized_cache() {
    assert_the_same_in_any_batch(KvType::Q8_0, device::policy);
}
