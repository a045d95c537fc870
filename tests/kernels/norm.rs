//! Cases of `norm`.

use crate::harness::{Case, Compare, Random};
use hesper::kernels::{NO_ROW, norm};

pub fn cases() -> Vec<Case> {
    [(4, 1), (40, 3), (224, 2), (320, 5), (1024, 1)].map(|(cols, rows)| case(cols, rows)).into()
}

fn case(cols: usize, rows: usize) -> Case {
    let mut case = Case::new(format!("norm {rows}×{cols}"));
    let mut random = Random::new(cols as u64);
    let x = case.input(&random.floats(rows * cols));
    let gain = case.input(&random.floats(cols));
    let mut chosen: Vec<u32> = (0..rows as u32).rev().collect();
    chosen.push(NO_ROW);
    let select = case.input(&chosen);
    let close = Compare::F32 { absolute: 1e-6, relative: 1e-5 };
    let mut y = case.output("y", (chosen.len() * cols * 4) as u64, close);
    let mut scale = case.output("scale", (chosen.len() * 4) as u64, close);
    case.dispatch(norm::dispatch(
        &norm::NORM,
        norm::Spec { local_size: 32 },
        norm::Args { x: &x, gain: &gain, select: &select, y: &mut y, scale: &mut scale, cols: cols as u32, eps: 1e-6 },
        [chosen.len() as u32, 1, 1],
    ));
    case
}
