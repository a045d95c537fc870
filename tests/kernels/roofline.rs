//! Cases of `read`, `fma` and `meet`, which measure a device.

use crate::harness::{Case, Compare, Random};
use hesper::kernels::{fma, meet, read};

pub fn cases() -> Vec<Case> {
    let reads = [(4, true, 64, 3), (8, true, 16, 1), (8, false, 384, 5), (32, false, 512, 2)];
    let multiplies = [(1, 1, 16), (8, 3, 48)];
    let reads = reads.map(|(lanes, broadcast, units, groups)| reads_units(lanes, broadcast, units, groups));
    reads
        .into_iter()
        .chain(multiplies.map(|(lanes, groups, steps)| multiplies_and_adds(lanes, groups, steps)))
        .chain([meets_itself(8, 5)])
        .collect()
}

fn reads_units(lanes: u32, broadcast: bool, units: u32, groups: u32) -> Case {
    let mut case = Case::new(format!("read {groups}×{units} units, {lanes} lanes, broadcast {broadcast}"));
    let mut random = Random::new(u64::from(units));
    let words: Vec<u32> = (0..groups * units * 4).map(|_| random.next() as u32).collect();
    let x = case.input(&words);
    let mut y = case.output("y", u64::from(groups * lanes) * 4, Compare::Exact);
    let spec = read::Spec { local_size: lanes, broadcast };
    case.dispatch(read::dispatch(&read::READ, spec, read::Args { x: &x, y: &mut y, units }, [groups, 1, 1]));
    case
}

fn multiplies_and_adds(lanes: u32, groups: u32, steps: u32) -> Case {
    let mut case = Case::new(format!("fma {groups}×{lanes} lanes, {steps} steps"));
    let mut y = case.output("y", u64::from(groups * lanes) * 4, Compare::F32 { absolute: 1e-4, relative: 1e-5 });
    // The chains end far from where they start and from each other.
    let args = fma::Args { y: &mut y, steps, factor: 0.9, addend: 1.0 };
    case.dispatch(fma::dispatch(&fma::FMA, fma::Spec { local_size: lanes }, args, [groups, 1, 1]));
    case
}

/// One workgroup, since not every device runs several side by side.
fn meets_itself(lanes: u32, rounds: u32) -> Case {
    let mut case = Case::new(format!("meet {rounds} rounds, {lanes} lanes"));
    let mut arrived = case.in_out("arrived", &vec![0u32; rounds as usize * 16], Compare::Exact);
    let mut y = case.output("y", 4, Compare::Exact);
    let args = meet::Args { arrived: &mut arrived, y: &mut y, rounds };
    case.dispatch(meet::dispatch(&meet::MEET, meet::Spec { local_size: lanes }, args, [1, 1, 1]));
    case
}
