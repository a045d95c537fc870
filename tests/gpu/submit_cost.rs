//! What a submission costs the host. The bound is loose: it catches a synchronous call creeping in, not a slow machine.

use crate::device::gpu;
use crate::harness::{count, plan};
use hesper::plan::{Executor, Region, Tensor};
use std::time::{Duration, Instant};

const DISPATCHES: u32 = 24;
const REPLAYS: u32 = 1000;

#[test]
fn a_submission_costs_the_host_little() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Arena, 16).expect("memory");
    gpu.allocate(Region::Output, 16).expect("memory");
    let dispatch = count(Tensor::new(Region::Arena, 0, 4), Tensor::new(Region::Output, 0, 8));
    let prepared = gpu.prepare(&plan(vec![dispatch; DISPATCHES as usize])).expect("a valid plan");

    let start = Instant::now();
    for turn in 1..=REPLAYS {
        gpu.submit(prepared).expect("it is submitted");
        while gpu.load_u32(Region::Output, 0) != DISPATCHES * turn {
            std::thread::yield_now();
        }
    }
    let polled = start.elapsed() / REPLAYS;

    // The fastest of several batches: others use this machine as well.
    let (mut submit, mut fence) = (Duration::MAX, Duration::MAX);
    for _ in 0..REPLAYS / 20 {
        let start = Instant::now();
        (0..20).for_each(|_| gpu.submit(prepared).expect("it is submitted"));
        submit = submit.min(start.elapsed() / 20);
        let start = Instant::now();
        let ticket = gpu.fence().expect("a fence");
        fence = fence.min(start.elapsed());
        gpu.wait(ticket).expect("it ends");
    }

    let start = Instant::now();
    for _ in 0..REPLAYS {
        gpu.submit(prepared).expect("it is submitted");
        let ticket = gpu.fence().expect("a fence");
        gpu.wait(ticket).expect("it ends");
    }
    let waited = start.elapsed() / REPLAYS;
    println!("{}: {DISPATCHES} dispatches, a barrier before each", gpu.label());
    println!("submit {submit:?}, fence {fence:?}; a whole replay: polled {polled:?}, waited for {waited:?}");
    assert!(submit < Duration::from_micros(200), "a submission takes {submit:?}");
}
