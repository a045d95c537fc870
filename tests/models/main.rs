//! Whole models on the device at hand: logits against llama.cpp's, and the same tokens whichever way they are evaluated.

mod batching;
mod decoding;
#[path = "../device/mod.rs"]
mod device;
mod fixtures;
mod logits;
mod speculation;
mod synthetic;

use hesper::engine::runner::{KvType, Options, Planned, Runner};
use hesper::gguf::Gguf;
use hesper::kernels::policy::Policy;
use hesper::plan::Executor;

/// Loads a model onto an executor.
fn load(gguf: &Gguf, executor: Box<dyn Executor + Send>, chunk_rows: u32, policy: Policy, kv_type: KvType) -> Runner {
    let options = Options { context_tokens: Some(128), chunk_rows, kv_type, ..Options::alone(policy) };
    let planned = Planned::new(gguf, &options).unwrap_or_else(|error| panic!("{error}"));
    planned.load(gguf, executor, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
}

/// The logits after each of `tokens`.
fn every_row(runner: &mut Runner, tokens: &[u32]) -> Vec<Vec<f32>> {
    let vocabulary = runner.model().dims.vocabulary as usize;
    let mut logits = Vec::new();
    let collected = runner.logits(tokens, &mut |rows| logits.extend(rows.chunks(vocabulary).map(<[f32]>::to_vec)));
    collected.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(logits.len(), tokens.len());
    logits
}

/// Normalized mean squared error: Σ(a − e)² / Σe².
fn nmse(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let square = |value: f64| value * value;
    let pairs = actual.iter().zip(expected);
    let error: f64 = pairs.map(|(a, e)| square(f64::from(*a) - f64::from(*e))).sum();
    error / expected.iter().map(|e| square(f64::from(*e))).sum::<f64>()
}
