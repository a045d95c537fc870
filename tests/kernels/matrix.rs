//! Cases of `repack`, `mat_mul` and `embed`, for every weight format: a file's random blocks are repacked, then used.

use crate::harness::{Case, Compare, Random};
use hesper::gguf::blocks::BlockFormat;
use hesper::kernels::layout::{Layout, Matrix};
use hesper::kernels::matrix::{self, Epilogue, MatMul, Norm, Placement};
use hesper::kernels::{Row, policy::Policy};
use hesper::plan::{Executor, Region};
use hesper::reference::Reference;

/// Random blocks with scales that are small finite numbers.
pub fn random_rows(format: BlockFormat, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let bytes = rows * format.row_bytes(cols).expect("whole blocks");
    let mut file: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
    let scales: &[usize] = match format {
        BlockFormat::F32 => {
            return bytemuck::cast_slice(&random.floats(rows * cols)).to_vec();
        }
        BlockFormat::F16 => {
            let halves: Vec<half::f16> = random.floats(rows * cols).into_iter().map(half::f16::from_f32).collect();
            return bytemuck::cast_slice(&halves).to_vec();
        }
        BlockFormat::BF16 => {
            let halves: Vec<half::bf16> = random.floats(rows * cols).into_iter().map(half::bf16::from_f32).collect();
            return bytemuck::cast_slice(&halves).to_vec();
        }
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4_K | BlockFormat::Q5_K => &[0, 2],
        BlockFormat::Q6_K => &[208],
        _ => &[0],
    };
    for block in file.chunks_exact_mut(format.block_bytes()) {
        for &at in scales {
            let divisor = if format.block_elements() == 256 { 2048.0 } else { 64.0 };
            let scale = half::f16::from_f32(random.float() / divisor);
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    file
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in BlockFormat::ALL {
        let block = format.block_elements();
        let cols = if block == 1 { 40 } else { block * 3 };
        for software in [true, false] {
            for tokens in [1, 2, 3, 9] {
                cases.push(product(&Shape { format, rows: 70, cols, tokens, software, kind: Kind::Norm }));
            }
            cases.push(product(&Shape { format, rows: 33, cols, tokens: 2, software, kind: Kind::ScaledAdd }));
            cases.push(product(&Shape { format, rows: 31, cols, tokens: 1, software, kind: Kind::BiasGate }));
            cases.push(product(&Shape { format, rows: 200, cols, tokens: 5, software, kind: Kind::Plain }));
            cases.push(gate_up(format, 72, cols, 3, software));
        }
        cases.push(embedding(format, 67, cols));
    }
    cases
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Norm,
    ScaledAdd,
    BiasGate,
}

#[derive(Debug)]
struct Shape {
    format: BlockFormat,
    rows: usize,
    cols: usize,
    tokens: usize,
    software: bool,
    kind: Kind,
}

const CLOSE: Compare = Compare::F32 { absolute: 3e-5, relative: 3e-5 };

/// Repacks a random matrix whose rows start at `first_row` of a larger one, within the case.
fn repacked(case: &mut Case, format: BlockFormat, rows: usize, cols: usize, random: &mut Random) -> Matrix {
    let tiles = rows.div_ceil(32) as u32;
    let layout = Layout::new(format, tiles, cols as u32).expect("a small matrix");
    let file = case.input(&random_rows(format, rows, cols, random));
    let mut tensor = case.in_out("weight", &vec![0u32; layout.bytes as usize / 4], Compare::Exact);
    let placement = Placement { first_row: 0, first_tile: 0, tile_step: 1 };
    case.dispatch(matrix::repack(&file, rows as u32, &mut tensor, &layout, placement));
    Matrix { tensor, layout, rows: rows as u32 }
}

fn product(shape: &Shape) -> Case {
    let &Shape { format, rows, cols, tokens, software, kind } = shape;
    let mut case = Case::new(format!("mat_mul {shape:?}"));
    let mut random = Random::new((rows * 7 + tokens) as u64);
    let weight = repacked(&mut case, format, rows, cols, &mut random);
    let (x_stride, y_stride) = (cols + 8, rows + 5);
    let x = case.input(&random.floats(tokens * x_stride));
    let gain = case.input(&random.floats(cols));
    let scale = case.input(&random.floats(tokens));
    let bias = case.input(&random.floats(rows));
    let other = case.input(&random.floats(tokens * y_stride));
    let zeros = vec![0f32; tokens * y_stride];
    let mut y = case.in_out("y", &zeros, CLOSE);
    let (norm, bias, epilogue) = match kind {
        Kind::Plain => (Norm::None, None, Epilogue::Store),
        Kind::Norm => (Norm::Fused { gain: &gain, eps: 1e-5 }, None, Epilogue::Store),
        Kind::ScaledAdd => (Norm::Scaled(&scale), None, Epilogue::Add(&other)),
        Kind::BiasGate => (Norm::None, Some(&bias), Epilogue::Gate(&other)),
    };
    let product = MatMul {
        x: &x,
        weight: &weight,
        norm,
        bias,
        epilogue,
        tokens: tokens as u32,
        x_stride: x_stride as u32,
        y_stride: y_stride as u32,
    };
    case.dispatch(product.dispatch(&mut y, &Policy { software, subgroup_size: 0 }));
    case
}

/// Two matrices with interleaved tiles and the gated epilogue.
fn gate_up(format: BlockFormat, rows: usize, cols: usize, tokens: usize, software: bool) -> Case {
    let mut case = Case::new(format!("gate and up {format:?} {rows}×{cols}, {tokens} tokens, software {software}"));
    let mut random = Random::new(rows as u64);
    let layout = Layout::new(format, 2 * rows.div_ceil(32) as u32, cols as u32).expect("a small matrix");
    let files = [0, 1].map(|_| case.input(&random_rows(format, rows, cols, &mut random)));
    let mut tensor = case.in_out("weight", &vec![0u32; layout.bytes as usize / 4], Compare::Exact);
    for (first_tile, file) in files.iter().enumerate() {
        let placement = Placement { first_row: 0, first_tile: first_tile as u32, tile_step: 2 };
        case.dispatch(matrix::repack(file, rows as u32, &mut tensor, &layout, placement));
    }
    let weight = Matrix { tensor, layout, rows: rows as u32 };
    let x = case.input(&random.floats(tokens * cols));
    let mut y = case.output("y", (tokens * rows * 4) as u64, CLOSE);
    let product = MatMul {
        x: &x,
        weight: &weight,
        norm: Norm::None,
        bias: None,
        epilogue: Epilogue::GateUp,
        tokens: tokens as u32,
        x_stride: cols as u32,
        y_stride: rows as u32,
    };
    case.dispatch(product.dispatch(&mut y, &Policy { software, subgroup_size: 0 }));
    case
}

fn embedding(format: BlockFormat, rows: usize, cols: usize) -> Case {
    let mut case = Case::new(format!("embed {format:?} {rows}×{cols}"));
    let weight = repacked(&mut case, format, rows, cols, &mut Random::new(cols as u64));
    let tokens = [0, 31, 32, rows as u32 - 1, rows as u32, u32::MAX, 5];
    let live = [1, 1, 1, 1, 1, 1, 0];
    let rows: Vec<Row> = tokens.iter().zip(live).map(|(&token, live)| Row { token, live, ..Row::default() }).collect();
    let count = rows.len() as u32;
    let rows = case.input(&rows);
    let close = Compare::F32 { absolute: 1e-6, relative: 1e-6 };
    let mut y = case.output("y", u64::from(count) * cols as u64 * 4, close);
    case.dispatch(matrix::embed(&rows, &weight, &mut y, count));
    case
}

/// The twins' reading of repacked blocks is checked against the formats' own definition, which in turn is checked against
/// llama.cpp's bytes.
#[test]
fn a_repacked_matrix_holds_the_files_values() {
    for format in BlockFormat::ALL {
        let (rows, cols) = (67usize, if format.block_elements() == 1 { 40 } else { format.block_elements() * 2 });
        let mut case = Case::new("values");
        let file = random_rows(format, rows, cols, &mut Random::new(9));
        let weight = repacked(&mut case, format, rows, cols, &mut Random::new(9));
        let tokens: Vec<Row> = (0..rows as u32).map(|token| Row { token, live: 1, ..Row::default() }).collect();
        let tokens = case.input(&tokens);
        let mut y = case.output("y", (rows * cols * 4) as u64, Compare::Exact);
        case.dispatch(matrix::embed(&tokens, &weight, &mut y, rows as u32));
        let mut twin = Reference::default();
        twin.allocate(Region::Step, case.region_bytes()).expect("host memory");
        let bytes = case.run(&mut twin);
        let actual: &[f32] = bytemuck::cast_slice(&bytes[y.offset_bytes as usize..y.end_bytes() as usize]);
        let mut expected = vec![0f32; rows * cols];
        format.dequantize(&file, &mut expected);
        for (at, (a, e)) in actual.iter().zip(&expected).enumerate() {
            assert!((a - e).abs() <= 1e-6 * e.abs().max(1.0), "{format:?} [{at}]: {a} instead of {e}");
        }
    }
}
