//! Cases of `copy`.

use crate::harness::{Case, Compare, Random};
use hesper::kernels::copy;

pub fn cases() -> Vec<Case> {
    [1u32, 63, 64, 65, 1000].map(case).into()
}

fn case(units: u32) -> Case {
    let mut case = Case::new(format!("copy {units}"));
    let x = case.input(&Random::new(u64::from(units)).floats(units as usize * 4));
    let mut y = case.output("y", u64::from(units) * 16, Compare::Exact);
    let args = copy::Args { x: &x, y: &mut y, units };
    case.dispatch(copy::dispatch(&copy::COPY, copy::Spec { local_size: 64 }, args, [units.div_ceil(64), 1, 1]));
    case
}
