//! Workgroups that wait for each other, on the driver at hand: in a process of its own, since tests beside it would take the
//! threads' cores.

#[path = "kernels/chain.rs"]
#[allow(dead_code)] // shared with the kernels' tests
mod chain;
#[path = "device/mod.rs"]
mod device;
#[path = "kernels/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "kernels/matrix.rs"]
#[allow(dead_code)]
mod matrix;

use hesper::gguf::blocks::BlockFormat;
use hesper::plan::{Executor, Region};

/// One behind another in one dispatch or each in its own, by any number of workgroups: a token's bits may not depend on it.
#[test]
fn a_chain_gives_the_bits_of_its_products() {
    let Some(mut gpu) = device::gpu() else { return };
    gpu.look_side_by_side().expect("a small kernel runs");
    let (lanes, side_by_side) = (gpu.info().subgroup_size, gpu.info().side_by_side);
    if !matches!(lanes, 8 | 16) {
        println!("nothing to compare: no weights are woven for subgroups of {lanes} lanes");
        return;
    }
    // Only where they were seen to may workgroups wait for each other.
    println!("with 1 workgroup, and with {side_by_side} that wait for each other");
    for format in [BlockFormat::Q4_0, BlockFormat::F16] {
        for tokens in [1, 4] {
            let groups = [1, side_by_side].into_iter().filter(|groups| *groups > 0);
            let apart = chain::feed_forward(format, lanes, 0, tokens);
            gpu.allocate(Region::Step, apart.region_bytes()).expect("device memory");
            let expected = apart.run(&mut gpu);
            for groups in groups {
                let chain = chain::feed_forward(format, lanes, groups, tokens);
                assert_eq!(chain.dispatches().len() + 2, apart.dispatches().len(), "three products are one dispatch");
                // Twice, since the counts of those that wait must be as before; the other way of computing says nothing then.
                for _ in 0..2 {
                    assert!(chain.run(&mut gpu) == expected, "{}", chain.name);
                }
            }
            gpu.forget().expect("nothing runs");
        }
    }
}
