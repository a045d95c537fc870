//! What plans compute.

use crate::device::gpu;
use crate::harness::{Scale, count, plan, read_floats, run, scale, spin};
use hesper::plan::{Clock, Executor, ExecutorError, Region, Tensor};
use std::time::{Duration, Instant};

#[test]
fn dependent_dispatches_see_each_other_and_replays_agree() {
    let Some(mut gpu) = gpu() else { return };
    const COUNT: usize = 10_000;
    let bytes = 4 * COUNT as u64;
    gpu.allocate(Region::Step, bytes).expect("memory");
    gpu.allocate(Region::Arena, 2 * bytes).expect("memory");
    let input: Vec<f32> = (0..COUNT).map(|i| i as f32).collect();
    gpu.write(Region::Step, 0, bytemuck::cast_slice(&input));
    let x = Tensor::new(Region::Step, 0, bytes);
    let (y, z) = (Tensor::new(Region::Arena, 0, bytes), Tensor::new(Region::Arena, bytes, bytes));
    let first = Scale { factor: 3.0, bias: 1.0, ..Scale::default() };
    let second = Scale { factor: 2.0, workgroup: 64, ..Scale::default() };
    let plan = plan(vec![scale(x, y.clone(), first), scale(y, z, second)]);
    assert_eq!(plan.barriers(), 2);
    let prepared = gpu.prepare(&plan).expect("a valid plan");
    let expected: Vec<f32> = input.iter().map(|x| (x * 3.0 + 1.0) * 2.0).collect();
    for replay in 0..50 {
        gpu.submit(prepared).expect("it is submitted");
        assert_eq!(read_floats(&mut gpu, Region::Arena, bytes, COUNT), expected, "replay {replay}");
    }
    gpu.release(prepared);
}

#[test]
fn submissions_run_in_order_without_waiting() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Arena, 16).expect("memory");
    gpu.allocate(Region::Output, 64).expect("memory");
    let dispatch = count(Tensor::new(Region::Arena, 0, 4), Tensor::new(Region::Output, 16, 8));
    let prepared = gpu.prepare(&plan(vec![dispatch])).expect("a valid plan");
    let mut tickets = Vec::new();
    for _ in 0..40 {
        (0..25).for_each(|_| gpu.submit(prepared).expect("it is submitted"));
        tickets.push(gpu.fence().expect("a fence"));
    }
    assert!(tickets.is_sorted());
    gpu.wait(tickets[39]).expect("it ends");
    gpu.wait(tickets[0]).expect("what came before has ended as well");
    assert_eq!(gpu.load_u32(Region::Output, 16), 1000);
    assert_eq!(gpu.load_u32(Region::Output, 20), 7000);
    assert_eq!(gpu.load_u32(Region::Output, 0), 0);
}

#[test]
fn the_host_sees_a_word_without_a_fence() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Arena, 16).expect("memory");
    gpu.allocate(Region::Output, 16).expect("memory");
    let dispatch = count(Tensor::new(Region::Arena, 0, 4), Tensor::new(Region::Output, 0, 8));
    let prepared = gpu.prepare(&plan(vec![dispatch])).expect("a valid plan");
    for turn in 1..=100 {
        gpu.submit(prepared).expect("it is submitted");
        let start = Instant::now();
        while gpu.load_u32(Region::Output, 0) != turn {
            assert!(start.elapsed() < Duration::from_secs(10), "turn {turn} never showed");
            std::thread::yield_now();
        }
        assert_eq!(gpu.load_u32(Region::Output, 4), 7 * turn, "written before the word that was seen");
    }
}

#[test]
fn specialization_reaches_the_kernel_by_id() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Step, 1024).expect("memory");
    gpu.write(Region::Step, 0, bytemuck::cast_slice(&[1.0f32, 2.0, 3.0, 4.0]));
    let x = Tensor::new(Region::Step, 0, 16);
    for (negate, factor, offset, workgroup) in [(true, 0.5, -7, 1), (false, -2.0, 100, 4), (true, 1.0, 0, 128)] {
        let arguments = Scale { negate, factor, offset, workgroup, bias: 0.25 };
        run(&mut gpu, vec![scale(x.clone(), Tensor::new(Region::Step, 512, 16), arguments)]);
        let sign = if negate { -1.0 } else { 1.0 };
        let expected: Vec<f32> =
            [1.0, 2.0, 3.0, 4.0].iter().map(|x| sign * (x * factor + 0.25 + offset as f32)).collect();
        assert_eq!(read_floats(&mut gpu, Region::Step, 512, 4), expected);
    }
}

/// Every kind of region starts as it should, is reached by its address, and can be read back, in pieces where it is large.
/// What has no first content starts, in this debug build, as NaN.
#[test]
fn every_region_holds_what_was_written() {
    let Some(mut gpu) = gpu() else { return };
    const COUNT: usize = 300_000;
    let bytes = 4 * COUNT as u64;
    let regions = [
        Region::Staging,
        Region::Weights(0),
        Region::Weights(3),
        Region::Cache(0),
        Region::Cache(1),
        Region::Arena,
        Region::Output,
        Region::Step,
    ];
    for region in regions {
        gpu.allocate(region, bytes + 48).expect("memory");
        let first = first_word(region);
        assert!(read_floats(&mut gpu, region, 0, COUNT + 12).iter().all(|x| x.to_bits() == first), "{region:?}");
    }
    let input: Vec<f32> = (0..COUNT).map(|i| i as f32 * 0.5).collect();
    gpu.write(Region::Staging, 32, bytemuck::cast_slice(&input));
    let tensor = |region| Tensor::new(region, 32, bytes);
    let hop = |pair: &[Region]| {
        scale(tensor(pair[0]), tensor(pair[1]), Scale { bias: 1.0, workgroup: 128, ..Scale::default() })
    };
    run(&mut gpu, regions.windows(2).map(hop).collect());
    for (hops, region) in regions.iter().enumerate() {
        let expected: Vec<f32> = input.iter().map(|x| x + hops as f32).collect();
        assert_eq!(read_floats(&mut gpu, *region, 32, COUNT), expected, "{region:?}");
        let mut untouched = read_floats(&mut gpu, *region, 0, 8);
        untouched.extend(read_floats(&mut gpu, *region, 32 + bytes, 4));
        assert!(untouched.iter().all(|x| x.to_bits() == first_word(*region)), "around {region:?}: {untouched:?}");
    }
    let used = gpu.memory();
    assert!(used.device_bytes >= 5 * bytes && used.mapped_bytes >= 3 * bytes, "{used:?}");
    // Hosts map 16 or 64 KiB pages into guests.
    assert!(used.device_bytes.is_multiple_of(64 << 10) && used.mapped_bytes.is_multiple_of(64 << 10), "{used:?}");

    gpu.free(Region::Staging).expect("it is idle");
    let left = gpu.memory();
    assert!(left.mapped_bytes + bytes <= used.mapped_bytes && left.device_bytes == used.device_bytes, "{left:?}");
    gpu.allocate(Region::Staging, bytes).expect("its place is free again");
}

fn first_word(region: Region) -> u32 {
    if region.starts_as_zeros() { 0 } else { u32::MAX }
}

#[test]
fn plans_are_timed_by_either_clock_and_run_once() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Output, 64).expect("memory");
    let (counter, copy) = (Tensor::new(Region::Output, 0, 4), Tensor::new(Region::Output, 16, 8));
    let long = spin(Tensor::new(Region::Output, 48, 4), 1_000_000);
    let plans = [count(counter.clone(), copy.clone()), long, count(counter, copy)].map(|alone| plan(vec![alone]));
    for clock in [Clock::Timestamps, Clock::Waits] {
        let submitted = gpu.submissions().expect("it has a queue");
        let times = gpu.time_by(clock, &plans).expect("times");
        assert!(gpu.submissions().expect("it has a queue") > submitted);
        assert_eq!((times.clock, times.times_us.len()), (clock, 3));
        // A million dependent steps take a millisecond on anything.
        assert!(times.times_us[1] > 100.0 && times.times_us.iter().all(|time_us| *time_us < 1e7), "{times:?}");
    }
    assert_eq!(gpu.time(&plans).expect("times").times_us.len(), 3);
    let mut word = [0; 4];
    gpu.read(Region::Output, 0, &mut word).expect("it is readable");
    assert_eq!(u32::from_le_bytes(word), 6);
}

#[test]
fn a_wait_gives_up_after_its_limit_and_says_so() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Output, 16).expect("memory");
    let dispatch = spin(Tensor::new(Region::Output, 0, 4), 200_000_000);
    let prepared = gpu.prepare(&plan(vec![dispatch])).expect("a valid plan");
    gpu.set_timeout(Duration::ZERO);
    gpu.submit(prepared).expect("it is submitted");
    let ticket = gpu.fence().expect("a fence");
    let error = gpu.wait(ticket).expect_err("there was no time");
    assert!(matches!(error, ExecutorError::TimedOut { .. }), "{error}");
    // The work goes on meanwhile: let it end before the process does.
    while gpu.load_u32(Region::Output, 0) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(gpu);
}
