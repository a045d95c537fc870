//! Cases of `repack`, `mat_mul` and `embed`, for every weight format: a file's random blocks are repacked, then used.

use crate::harness::{Case, Compare, Random};
use hesper::gguf::blocks::BlockFormat;
use hesper::kernels::Row;
use hesper::kernels::layout::{Arrangement, Layout, Matrix};
use hesper::kernels::matrix::{self, Ahead, Epilogue, MatMul, Norm, Placement};
use hesper::kernels::policy::{MatMulShape, Policy};
use hesper::kernels::tuning::{CLASSES, Family, candidates};
use hesper::plan::{Executor, Region};
use hesper::reference::Reference;

/// Random blocks with scales that are small finite numbers, some of them 0, beside minimums that are not.
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
        if random.next().is_multiple_of(5) {
            block[scales[0]..scales[0] + 2].fill(0);
        }
    }
    file
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in BlockFormat::ALL {
        let block = format.block_elements();
        let cols = if block == 1 { 40 } else { block * 3 };
        for policy in policies(format) {
            for tokens in [1, 9] {
                cases.push(product(&Shape { format, rows: 200, cols, tokens, policy, kind: Kind::Norm }));
            }
            cases.push(product(&Shape { format, rows: 33, cols, tokens: 2, policy, kind: Kind::ScaledAdd }));
            cases.push(product(&Shape { format, rows: 31, cols, tokens: 1, policy, kind: Kind::BiasGate }));
            cases.push(gate_up(format, 72, cols, 3, policy));
            if policy.sums_ahead() {
                cases.push(product(&Shape { format, rows: 60, cols, tokens: 3, policy, kind: Kind::AddAhead }));
                cases.push(product(&Shape { format, rows: 40, cols, tokens: 2, policy, kind: Kind::Summed }));
            }
        }
        for policy in policies(format) {
            cases.push(embedding(format, 67, cols, &policy));
        }
    }
    cases
}

/// CPU drivers whose loads are woven, one whose are not, and a GPU.
const POLICIES: [Policy; 4] = [Policy::of(true, 8), Policy::of(true, 16), Policy::of(true, 4), Policy::of(false, 32)];

/// The policies worth a case, since each is a pipeline to compile: that of lanes on a CPU differs from a GPU's in numbers
/// only, which one format shows.
fn policies(format: BlockFormat) -> Vec<Policy> {
    POLICIES.into_iter().filter(|policy| policy.subgroup_size != 4 || format == BlockFormat::Q4_0).collect()
}

/// One product with every geometry that may be measured, of those with so many parts, for one token and for many.
pub fn tuned(parts: u32) -> Vec<(Shape, Case)> {
    let (format, gate_up) = (BlockFormat::Q4_0, false);
    let family = Family { format, gate_up };
    let of_class = |class: usize| {
        let shapes = candidates(Policy::GPU.arrangement(), gate_up, class, parts);
        shapes.into_iter().map(move |shape| (class, shape))
    };
    let case = |(class, shape): (usize, MatMulShape)| {
        let mut policy = Policy::GPU;
        policy.tuning.set(family, [shape; CLASSES.len()]);
        let tokens = if class == 0 { 1 } else { 11 };
        let shape = Shape { format, rows: 133, cols: 9 * 32, tokens, policy, kind: Kind::ScaledAdd };
        (shape.clone(), product(&shape))
    };
    of_class(0).chain(of_class(CLASSES.len() - 1)).map(case).collect()
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Norm,
    ScaledAdd,
    BiasGate,
    AddAhead,
    Summed,
}

/// Products of the shapes that models of 0.6 to 1 billion parameters have, for one token and for a chunk of a prompt: what
/// is worth timing. Each is made when it is asked for, since the largest take gigabytes.
pub fn real_shapes(policy: Policy) -> Vec<Shape> {
    let matrices = [(3072, 1024), (8192, 2048), (151_936, 1024)];
    let kinds = BlockFormat::ALL.into_iter().flat_map(|format| matrices.map(|matrix| (format, matrix)));
    // Nobody keeps a vocabulary in 32 bits.
    let kept = kinds.filter(|&(format, (rows, _))| format != BlockFormat::F32 || rows < 10_000);
    kept.flat_map(|(format, (rows, cols))| {
        [1, 64].map(|tokens| Shape { format, rows, cols, tokens, policy, kind: Kind::ScaledAdd })
    })
    .collect()
}

#[derive(Clone, Debug)]
pub struct Shape {
    format: BlockFormat,
    rows: usize,
    cols: usize,
    pub tokens: usize,
    policy: Policy,
    kind: Kind,
}

impl Shape {
    /// The variant of mat_mul that multiplies it.
    pub fn kernel(&self) -> String {
        let woven = if self.policy.arrangement() == Arrangement::Lanes { "" } else { "_woven" };
        format!("mat_mul_{}{woven}", self.format.variant())
    }

    /// Bytes of the repacked matrix.
    #[allow(dead_code)] // the benches ask
    pub fn weight_bytes(&self) -> u64 {
        layout(self.format, self.policy.arrangement(), 1, self.rows, self.cols).bytes
    }

    /// As `3072×1024, 1 tokens`.
    pub fn name(&self) -> String {
        format!("{}×{}, {} tokens", self.rows, self.cols, self.tokens)
    }
}

/// Partial sums of squares of a row.
const PARTS: usize = 5;

const CLOSE: Compare = Compare::F32 { absolute: 3e-5, relative: 3e-5 };

/// Repacks a random matrix in two pieces, the second stacked on the first, within the case.
pub fn repacked(case: &mut Case, policy: &Policy, format: BlockFormat, rows: usize, cols: usize, seed: u64) -> Matrix {
    let arrangement = policy.arrangement();
    let layout = layout(format, arrangement, 1, rows, cols);
    let random = &mut Random::new(seed);
    let mut tensor = case.in_out("weight", &vec![0u32; layout.bytes as usize / 4], Compare::Exact);
    // Woven matrices are stacked at whole tiles only.
    let first = if arrangement == Arrangement::Lanes { 17 } else { 16 };
    for (first_row, rows) in [(0, first), (first, rows - first)] {
        let file = case.input(&random_rows(format, rows, cols, random));
        let placement = Placement { first_row: first_row as u32, first_tile: 0, tile_step: 1 };
        case.dispatch(matrix::repack(&file, rows as u32, &mut tensor, &layout, placement));
    }
    Matrix { tensor, layout, rows: rows as u32 }
}

/// The layout of so many matrices of so many rows with tiles by turns.
fn layout(format: BlockFormat, arrangement: Arrangement, matrices: usize, rows: usize, cols: usize) -> Layout {
    let tiles = matrices * rows.div_ceil(arrangement.tile_rows() as usize);
    Layout::new(format, arrangement, tiles as u32, cols as u32).expect("a small matrix")
}

pub fn product(shape: &Shape) -> Case {
    let &Shape { format, rows, cols, tokens, ref policy, kind } = shape;
    let mut case = Case::new(format!("mat_mul {shape:?}"));
    let mut random = Random::new((rows * 7 + tokens) as u64);
    let weight = repacked(&mut case, policy, format, rows, cols, rows as u64);
    let (x_stride, y_stride) = (cols + 8, rows + 5);
    let x = case.input(&random.floats(tokens * x_stride));
    let gain = case.input(&random.floats(cols));
    let scale = case.input(&random.floats(tokens));
    let bias = case.input(&random.floats(rows));
    let other = case.input(&random.floats(tokens * y_stride));
    let zeros = vec![0f32; tokens * y_stride];
    let mut y = case.in_out("y", &zeros, CLOSE);
    let squares: Vec<f32> = random.floats(tokens * PARTS).iter().map(|value| value * value).collect();
    let squares = case.input(&squares);
    let mut normed = case.in_out("normed", &zeros, CLOSE);
    let parts = vec![0f32; tokens * Ahead::parts(&weight) as usize];
    let mut sums = case.in_out("squares", &parts, CLOSE);
    let (norm, bias, epilogue) = match kind {
        Kind::Norm => (Norm::Fused { gain: &gain, eps: 1e-5 }, None, Epilogue::Store),
        Kind::ScaledAdd => (Norm::Scaled(&scale), None, Epilogue::Add(&other)),
        Kind::BiasGate => (Norm::None, Some(&bias), Epilogue::Gate(&other)),
        Kind::AddAhead => (Norm::None, None, Epilogue::Add(&other)),
        Kind::Summed => (Norm::Summed { squares: &squares, count: PARTS as u32, eps: 1e-5 }, None, Epilogue::Store),
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
    let gain = case.input(&random.floats(rows));
    let ahead = Ahead { gain: &gain, normed: &mut normed, squares: &mut sums };
    let ahead = matches!(kind, Kind::AddAhead).then_some(ahead);
    case.dispatch(product.dispatch(&mut y, ahead, policy));
    case
}

/// Two matrices with interleaved tiles and the gated epilogue.
fn gate_up(format: BlockFormat, rows: usize, cols: usize, tokens: usize, policy: Policy) -> Case {
    let mut case = Case::new(format!("gate and up {format:?} {rows}×{cols}, {tokens} tokens, {policy:?}"));
    let policy = &policy;
    let mut random = Random::new(rows as u64);
    let layout = layout(format, policy.arrangement(), 2, rows, cols);
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
    case.dispatch(product.dispatch(&mut y, None, policy));
    case
}

fn embedding(format: BlockFormat, rows: usize, cols: usize, policy: &Policy) -> Case {
    let mut case = Case::new(format!("embed {format:?} {rows}×{cols} {policy:?}"));
    let weight = repacked(&mut case, policy, format, rows, cols, cols as u64);
    let tokens = [0, 31, 32, rows as u32 - 1, rows as u32, u32::MAX, 5];
    let live = [1, 1, 1, 1, 1, 1, 0];
    let rows: Vec<Row> = tokens.iter().zip(live).map(|(&token, live)| Row { token, live, ..Row::default() }).collect();
    let count = rows.len() as u32;
    let rows = case.input(&rows);
    let close = Compare::F32 { absolute: 1e-6, relative: 1e-6 };
    let mut y = case.output("y", u64::from(count) * cols as u64 * 4, close);
    case.dispatch(matrix::embed(&rows, &weight, &mut y, None, count));
    if policy.sums_ahead() {
        let gain = case.input(&Random::new(3).floats(cols));
        let mut again = case.output("again", u64::from(count) * cols as u64 * 4, close);
        let mut normed = case.output("normed", u64::from(count) * cols as u64 * 4, close);
        let mut squares = case.output("squares", u64::from(count) * 4, CLOSE);
        let ahead = Ahead { gain: &gain, normed: &mut normed, squares: &mut squares };
        case.dispatch(matrix::embed(&rows, &weight, &mut again, Some(ahead), count));
    }
    case
}

/// The twins' reading of repacked blocks is checked against the formats' own definition, which in turn is checked against
/// llama.cpp's bytes.
#[test]
fn a_repacked_matrix_holds_the_files_values() {
    for (format, policy) in BlockFormat::ALL.iter().flat_map(|format| POLICIES.map(|policy| (*format, policy))) {
        let (rows, cols) = (67usize, if format.block_elements() == 1 { 40 } else { format.block_elements() * 2 });
        let mut case = Case::new("values");
        let weight = repacked(&mut case, &policy, format, rows, cols, 9);
        let tokens: Vec<Row> = (0..rows as u32).map(|token| Row { token, live: 1, ..Row::default() }).collect();
        let tokens = case.input(&tokens);
        let mut y = case.output("y", (rows * cols * 4) as u64, Compare::Exact);
        case.dispatch(matrix::embed(&tokens, &weight, &mut y, None, rows as u32));
        let mut twin = Reference::default();
        twin.allocate(Region::Step, case.region_bytes()).expect("host memory");
        let bytes = case.run(&mut twin);
        let actual: &[f32] = bytemuck::cast_slice(&bytes[y.offset_bytes as usize..y.end_bytes() as usize]);
        let random = &mut Random::new(9);
        let first = if policy.arrangement() == Arrangement::Lanes { 17 } else { 16 };
        let file = [first, rows - first].map(|rows| random_rows(format, rows, cols, random)).concat();
        let mut expected = vec![0f32; rows * cols];
        format.dequantize(&file, &mut expected);
        for (at, (a, e)) in actual.iter().zip(&expected).enumerate() {
            assert!((a - e).abs() <= 1e-6 * e.abs().max(1.0), "{format:?} [{at}]: {a} instead of {e}");
        }
    }
}
