//! Every kernel against its twin on a table of ragged shapes, with canaries around every buffer.

mod attention;
mod cases;
mod chain;
mod copy;
#[path = "../device/mod.rs"]
mod device;
mod harness;
mod matrix;
mod norm;
mod roofline;
mod sampling;
mod tuning;

use cases::cases;
use harness::Case;
use hesper::kernels::policy::Policy;
use hesper::{kernels::KERNELS, plan::Executor, plan::Region, reference};

#[test]
fn every_kernel_has_a_twin_and_a_case() {
    let cases = cases();
    for kernel in KERNELS {
        assert!(reference::twin(kernel.family).is_some(), "{} has no twin", kernel.name);
        assert!(cases.iter().any(|case| case.uses(kernel.name)), "{} has no case", kernel.name);
    }
}

#[test]
fn every_product_has_a_real_shape_to_be_timed_with() {
    let shapes = [Policy::SOFTWARE, Policy::GPU].map(matrix::real_shapes).concat();
    for kernel in KERNELS.iter().filter(|kernel| kernel.family == "mat_mul") {
        let shape = shapes.iter().find(|shape| shape.kernel() == kernel.name);
        assert!(shape.is_some_and(|shape| shape.name().starts_with("3072×1024, ")), "{} has none", kernel.name);
    }
    assert!(shapes.iter().all(|shape| KERNELS.iter().any(|kernel| kernel.name == shape.kernel())));
}

#[test]
fn kernels_equal_their_twins() {
    let Some(mut gpu) = device::gpu() else { return };
    let mut cases = cases();
    let (lanes, all) = (gpu.info().subgroup_size, cases.len());
    cases.retain(|case| case.lanes().is_none_or(|needed| needed == lanes));
    println!("{} of {all} cases; the others need subgroups of another size than this device's {lanes}", cases.len());
    let failures = failures(&mut gpu, &cases);
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Where the device and the twins differ.
fn failures(gpu: &mut hesper::gpu::Gpu, cases: &[Case]) -> Vec<String> {
    let bytes = cases.iter().map(Case::region_bytes).max().unwrap_or(0);
    let mut twin = reference::Reference::default();
    twin.allocate(Region::Step, bytes).expect("host memory");
    gpu.allocate(Region::Step, bytes).expect("device memory");
    let difference = |case: &Case| {
        let expected = case.run(&mut twin);
        case.difference(&expected, &case.run(gpu))
    };
    cases.iter().filter_map(difference).collect()
}
