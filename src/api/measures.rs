//! What is counted and timed of a model's requests, from the server's start to its end, loaded or not.

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seconds of a first token, a whole answer, or a wait: from a warm cache to a long prompt on a CPU.
const SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];
/// Seconds between tokens.
const TOKEN_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0];

/// How a request ended. A completions request counts once for each of its prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    /// The client went away.
    Cancelled,
    /// The engine could not complete it.
    Failed,
    /// It found no place in the queue, or the server restarting its device or shutting down.
    Refused,
    /// Its deadline passed.
    TimedOut,
}

/// Counts of requests by how they ended.
#[derive(Debug, Default)]
pub struct Outcomes([AtomicU64; 5]);

impl Outcomes {
    pub const NAMES: [&str; 5] = ["completed", "cancelled", "failed", "refused", "timed_out"];

    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// In the order of [`Outcomes::NAMES`].
    pub fn counts(&self) -> [u64; 5] {
        std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed))
    }
}

/// Times are in seconds.
#[derive(Debug)]
pub struct Measures {
    pub outcomes: Outcomes,
    pub prompt_tokens: Counter,
    pub cached_tokens: Counter,
    pub generation_tokens: Counter,
    pub first_token: Histogram,
    pub inter_token: Histogram,
    pub duration: Histogram,
    pub queue: Histogram,
}

impl Default for Measures {
    fn default() -> Self {
        Measures {
            outcomes: Outcomes::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            first_token: Histogram::new(SECONDS),
            inter_token: Histogram::new(TOKEN_SECONDS),
            duration: Histogram::new(SECONDS),
            queue: Histogram::new(SECONDS),
        }
    }
}
