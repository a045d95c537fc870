//! What the executor must not accept.

use crate::device::gpu;
use crate::harness::{Scale, plan, scale};
use hesper::gpu::Gpu;
use hesper::plan::{Dispatch, Executor, ExecutorError, Region, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn prepared_error(gpu: &mut Gpu, dispatch: Dispatch) -> String {
    match gpu.prepare(&plan(vec![dispatch])) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn dispatches_outside_regions_and_limits_are_refused() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Arena, 1024).expect("memory");
    let valid = || scale(Tensor::new(Region::Arena, 0, 64), Tensor::new(Region::Arena, 512, 64), Scale::default());
    let prepared = gpu.prepare(&plan(vec![valid()])).expect("a valid plan");
    gpu.release(prepared);

    let refuse = |gpu: &mut Gpu, text: &str, change: &dyn Fn(&mut Dispatch)| {
        let mut dispatch = valid();
        change(&mut dispatch);
        let error = prepared_error(gpu, dispatch);
        assert!(error.contains(text) && error.contains("dispatch 0 (scale test)"), "{text}: {error}");
    };
    refuse(&mut gpu, "y = arena+976[64] lies outside its region of 1024 bytes", &|d| d.operands[1].offset_bytes = 976);
    refuse(&mut gpu, "lies outside its region", &|d| d.operands[0].bytes = 1025);
    refuse(&mut gpu, "lies outside its region", &|d| d.operands[0].offset_bytes = u64::MAX - 15);
    refuse(&mut gpu, "is not aligned to 16 bytes", &|d| d.operands[0].offset_bytes = 8);
    refuse(&mut gpu, "was not allocated", &|d| d.operands[0].region = Region::Weights(7));
    refuse(&mut gpu, "was not allocated", &|d| d.operands[0].region = Region::Virtual(0));
    refuse(&mut gpu, "1 operands instead of 2", &|d| d.operands.truncate(1));
    refuse(&mut gpu, "3 specialization constants instead of 4", &|d| d.specialization.truncate(3));
    refuse(&mut gpu, "20 bytes of push constants; 24 are declared", &|d| d.push.truncate(20));
    refuse(&mut gpu, "workgroups", &|d| d.groups = [0, 1, 1]);
    refuse(&mut gpu, "workgroups", &|d| d.groups = [1, u32::MAX, 1]);
}

#[test]
fn regions_are_made_once_and_within_the_limits() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Step, 0).expect("an empty region is a small one");
    let error = gpu.allocate(Region::Step, 16).expect_err("it is there already");
    assert!(error.to_string().contains("allocated already"), "{error}");
    gpu.allocate(Region::Virtual(0), 16).expect_err("virtual regions have no memory");
    let too_large = gpu.largest_region_bytes().saturating_add(1);
    for bytes in [too_large, u64::MAX] {
        let error = gpu.allocate(Region::Weights(0), bytes).expect_err("it is too large");
        assert!(matches!(error, ExecutorError::OutOfMemory { .. }), "{error}");
    }
    gpu.allocate(Region::Weights(0), 16).expect("a failure leaves no trace");
}

#[test]
fn host_access_outside_mapped_regions_panics() {
    let Some(mut gpu) = gpu() else { return };
    gpu.allocate(Region::Step, 64).expect("memory");
    gpu.allocate(Region::Arena, 64).expect("memory");
    let mut panics = |action: &dyn Fn(&mut Gpu)| {
        let payload = catch_unwind(AssertUnwindSafe(|| action(&mut gpu))).expect_err("it must panic");
        payload.downcast_ref::<String>().cloned().unwrap_or_default()
    };
    assert!(panics(&|gpu| gpu.write(Region::Step, 63, &[1, 2])).contains("outside"));
    assert!(panics(&|gpu| gpu.write(Region::Step, u64::MAX, &[1])).contains("outside"));
    assert!(panics(&|gpu| gpu.write(Region::Arena, 0, &[1])).contains("not mapped"));
    assert!(panics(&|gpu| gpu.write(Region::Output, 0, &[1])).contains("not allocated"));
    assert!(panics(&|gpu| assert_eq!(gpu.load_u32(Region::Step, 2), 0)).contains("offset of a word"));
    assert!(panics(&|gpu| assert_eq!(gpu.load_u32(Region::Step, 64), 0)).contains("outside"));
    assert!(panics(&|gpu| drop(gpu.read(Region::Arena, 60, &mut [0; 8]))).contains("outside"));
}
