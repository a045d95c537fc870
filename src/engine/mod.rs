//! The engine: one thread that owns the device and turns requests into tokens. It knows nothing of text or HTTP.

pub mod batch;
pub mod blocks;
pub mod draft;
pub mod logprobs;
pub mod pace;
pub mod queue;
pub mod request;
pub mod runner;
pub mod schedule;
pub mod self_test;
mod sequence;
pub mod solo;
pub mod stats;
mod waiting;
pub mod worker;
