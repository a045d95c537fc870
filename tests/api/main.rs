//! The HTTP interface over a scripted engine: requests in, JSON and events out, no device.

mod access;
mod answers;
mod anthropic;
mod constrained;
mod errors;
mod fields;
mod harness;
mod limits;
mod metrics;
mod mutated;
mod openapi;
mod python;
mod responses;
mod several;
mod sockets;
mod stored;
mod tokens;
mod truncated;
