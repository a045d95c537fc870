//! A load generator for servers that speak OpenAI's chat completions: prompts, one client, a schedule of requests, and
//! the statistics of what came back. It measures any such server from outside and knows nothing of Hesper's own parts.

pub mod answer;
pub mod client;
pub mod dataset;
pub mod run;
pub mod sse;
pub mod statistics;

pub use client::{Client, Settings};
pub use dataset::Dataset;
pub use run::{Arrival, Batch, Schedule};
pub use statistics::{Figures, Summary};
