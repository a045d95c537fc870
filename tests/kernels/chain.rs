//! Cases of `chain`: what stands behind attention in a layer, whose products each read what the one before has written.

use crate::harness::{Case, Compare, Random};
use crate::matrix::repacked;
use hesper::gguf::blocks::BlockFormat;
use hesper::kernels::chains::chained;
use hesper::kernels::layout::Matrix;
use hesper::kernels::matrix::{Ahead, Epilogue, MatMul, Norm};
use hesper::kernels::policy::Policy;
use hesper::plan::{Dispatch, Tensor};

/// Rounding goes through three products.
const CLOSE: Compare = Compare::F32 { absolute: 2e-3, relative: 1e-3 };

pub fn cases() -> Vec<Case> {
    let lanes = [8, 16];
    let formats = BlockFormat::ALL.into_iter().flat_map(|format| lanes.map(|lanes| (format, lanes)));
    // One workgroup waits for nobody, so that this runs on every device.
    formats.map(|(format, lanes)| feed_forward(format, lanes, 1, 2)).collect()
}

/// y = x + output, gate and up and down of it, for so many tokens, in so many workgroups that wait for each other; 0: in
/// dispatches of their own.
pub fn feed_forward(format: BlockFormat, lanes: u32, side_by_side: u32, tokens: u32) -> Case {
    let policy = Policy { side_by_side, ..Policy::of(true, lanes) };
    let width = match format.block_elements() {
        1 => 200,
        32 => 96,
        elements => elements,
    };
    let mut case = Case::new(format!("chain {format:?}, {lanes} lanes, {side_by_side} groups, {tokens} tokens"));
    let mut random = Random::new(u64::from(lanes));
    let [output, down] = [1, 2].map(|seed| repacked(&mut case, &policy, format, width, width, seed));
    let both = repacked(&mut case, &policy, format, 2 * width.next_multiple_of(lanes as usize), width, 3);
    let both = Matrix { rows: both.rows / 2, ..both };
    let floats = |case: &mut Case, random: &mut Random, cols: usize| case.input(&random.floats(tokens as usize * cols));
    let (x, residual) = (floats(&mut case, &mut random, width), floats(&mut case, &mut random, width));
    let gain = case.input(&random.floats(width));
    let out = |case: &mut Case, name, cols: u32| case.output(name, u64::from(tokens * cols) * 4, CLOSE);
    let wide = width as u32;
    let mut attended = out(&mut case, "attended", wide);
    let mut normed = out(&mut case, "normed", wide);
    let mut squares = out(&mut case, "squares", Ahead::parts(&output));
    let mut gated = out(&mut case, "gated", both.rows);
    let mut y = out(&mut case, "y", wide);

    let product = |x, weight, norm, epilogue, x_stride: u32, y: &mut Tensor, ahead: Option<Ahead<'_>>| -> Dispatch {
        let weight: &Matrix = weight;
        let y_stride = weight.rows;
        let product = MatMul { x, weight, norm, bias: None, epilogue, tokens, x_stride, y_stride };
        product.dispatch(y, ahead, &policy)
    };
    let ahead = Ahead { gain: &gain, normed: &mut normed, squares: &mut squares };
    let add = Epilogue::Add(&residual);
    let first = product(&x, &output, Norm::None, add, wide, &mut attended, Some(ahead));
    let summed = Norm::Summed { squares: &squares, count: Ahead::parts(&output), eps: 1e-5 };
    let second = product(&normed, &both, summed, Epilogue::GateUp, wide, &mut gated, None);
    // Gated rows may be longer than the matrix is wide; what is behind is not read.
    let add = Epilogue::Add(&attended);
    let third = product(&gated, &down, Norm::None, add, both.rows, &mut y, None);
    chained(vec![first, second, third], &policy).into_iter().for_each(|dispatch| case.dispatch(dispatch));
    case
}
