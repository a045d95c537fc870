//! The GPU executor on the driver at hand. Without one these tests fail: HESPER_SKIP_GPU=1 is the only way around them.

#[path = "../device/mod.rs"]
mod device;
mod devices;
mod harness;
mod refusals;
mod running;
mod submit_cost;
