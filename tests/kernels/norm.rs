//! Cases of `norm`.

use crate::harness::{Case, Compare, Random};
use hesper::kernels::{NO_ROW, norm};

pub fn cases() -> Vec<Case> {
    let shapes = [(4, 1), (40, 3), (224, 2), (320, 5), (1024, 1)];
    shapes.iter().flat_map(|&(cols, rows)| [case(cols, rows, 0), case(cols, rows, 7)]).collect()
}

/// `parts`: partial sums of squares that are there already, if any.
fn case(cols: usize, rows: usize, parts: usize) -> Case {
    let mut case = Case::new(format!("norm {rows}×{cols}, {parts} parts"));
    let mut random = Random::new(cols as u64);
    let x = case.input(&random.floats(rows * cols));
    let gain = case.input(&random.floats(cols));
    let squares: Vec<f32> = random.floats(rows * parts.max(1)).iter().map(|value| value * value).collect();
    let squares = case.input(&squares);
    let mut chosen: Vec<u32> = (0..rows as u32).rev().collect();
    chosen.push(NO_ROW);
    let select = case.input(&chosen);
    let close = Compare::F32 { absolute: 1e-6, relative: 1e-5 };
    let mut y = case.output("y", (chosen.len() * cols * 4) as u64, close);
    let mut scale = case.output("scale", (chosen.len() * 4) as u64, close);
    case.dispatch(norm::dispatch(
        &norm::NORM,
        norm::Spec { local_size: 32, ahead: parts > 0 },
        norm::Args {
            x: &x,
            gain: &gain,
            select: &select,
            squares: &squares,
            y: &mut y,
            scale: &mut scale,
            cols: cols as u32,
            square_count: parts as u32,
            eps: 1e-6,
        },
        [chosen.len() as u32, 1, 1],
    ));
    case
}
