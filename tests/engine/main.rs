//! The engine itself, without a driver: tiny models on the CPU reference, behind the queue that the server uses.

mod answers;
mod batching;
mod choices;
mod clients;
mod device;
mod faults;
mod harness;
mod sampling;
mod self_test;
mod speculation;
#[path = "../models/synthetic.rs"]
#[allow(dead_code)] // shared with the models' tests
mod synthetic;
