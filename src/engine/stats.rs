//! What an engine counts, for whoever watches it. Written by the engine's thread, read at any time.

pub use crate::kernels::BLOCK_TOKENS;
use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the histogram of rows in a step; the last bin has none.
pub const BATCH_BOUNDS: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }
}

/// Counters grow from the engine's start; gauges are of this moment.
#[derive(Debug, Default)]
pub struct Stats {
    /// Gauge: sequences that may be worked on at once; 0 until the engine has said it.
    pub sequences: Figure,
    /// Gauge: blocks of the cache, each of `BLOCK_TOKENS` tokens.
    pub blocks: Figure,
    /// Gauge: blocks that sequences hold. What only the prefix cache remembers is not among them.
    pub blocks_held: Figure,
    /// Gauge: blocks that only the prefix cache remembers.
    pub blocks_cached: Figure,
    /// Counter: tokens of prompts that were looked up in the prefix cache, and those that it had.
    pub prefix_tokens: Figure,
    pub prefix_hit_tokens: Figure,
    /// Counter: tokens of prompts evaluated, tokens sampled.
    pub prompt_tokens: Figure,
    pub sampled_tokens: Figure,
    /// Counter: tokens that were drafted to be verified together, and those that were what the model says.
    pub drafted_tokens: Figure,
    pub accepted_tokens: Figure,
    /// Counter: sequences that lost their blocks to others, to be evaluated again.
    pub preemptions: Figure,
    /// Counter: sequences, of all requests, in the steps so far: `batch_sum` / `steps` is the mean batch.
    pub steps: Figure,
    pub batch_sum: Figure,
    /// Counter: steps by their sequences, see [`BATCH_BOUNDS`].
    pub batch: [Figure; BATCH_BOUNDS.len() + 1],
    /// Gauge: bytes of device memory that the model takes.
    pub device_bytes: Figure,
}

impl Stats {
    /// Counts a step that worked on so many sequences.
    pub fn count_step(&self, sequences: u32) {
        self.steps.add(1);
        self.batch_sum.add(sequences.into());
        let bin = BATCH_BOUNDS.iter().position(|&bound| sequences <= bound).unwrap_or(BATCH_BOUNDS.len());
        self.batch[bin].add(1);
    }
}
