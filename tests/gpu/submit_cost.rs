//! What a submission costs the host. The bound is loose: it catches a synchronous call creeping in, not a slow machine.

use crate::device::gpu;
use crate::harness::{count, plan};
use hesper::plan::{Executor, Region, Tensor};
use std::time::{Duration, Instant};

const REPLAYS: u32 = 2000;

#[test]
fn a_submission_costs_the_host_little() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Arena, 16).expect("memory");
    gpu.allocate(Region::Output, 16).expect("memory");
    let dispatch = count(Tensor::new(Region::Arena, 0, 4), Tensor::new(Region::Output, 0, 8));
    let prepared = gpu.prepare(&plan(vec![dispatch; 24])).expect("a valid plan");
    let (mut submitting, mut fencing, start) = (Duration::ZERO, Duration::ZERO, Instant::now());
    for turn in 1..=REPLAYS {
        let before = Instant::now();
        gpu.submit(prepared).expect("it is submitted");
        submitting += before.elapsed();
        while gpu.load_u32(Region::Output, 0) != 24 * turn {
            std::thread::yield_now();
        }
    }
    let polled = start.elapsed();
    let start = Instant::now();
    for _ in 0..REPLAYS {
        gpu.submit(prepared).expect("it is submitted");
        let before = Instant::now();
        let ticket = gpu.fence().expect("a fence");
        fencing += before.elapsed();
        gpu.wait(ticket).expect("it ends");
    }
    let waited = start.elapsed();
    let each = |total: Duration| total.as_secs_f64() * 1e6 / f64::from(REPLAYS);
    println!("24 dispatches and barriers on {}, µs each:", gpu.label());
    println!("submit {:.2}, fence {:.2}", each(submitting), each(fencing));
    println!("a replay polled {:.1}, waited for {:.1}", each(polled), each(waited));
    assert!(each(submitting) < 500.0, "a submission takes {:.0} µs", each(submitting));
}
