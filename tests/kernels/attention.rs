//! Cases of `rope_store` and `attend`: ragged heads, lengths around the edges of blocks and chunks, shuffled blocks.

use crate::device;
use crate::harness::{Case, Compare, Random};
use half::f16;
use hesper::kernels::attention::{self, Geometry, KvType, Operands, Query, Shape};
use hesper::kernels::{BLOCK_TOKENS, Row};
use hesper::plan::{Executor, Region, Tensor};

const MAX_BLOCKS: usize = 11;

pub fn shapes() -> Vec<Shape> {
    let qwen3 = Shape {
        heads: 4,
        kv_heads: 2,
        head_dim: 128,
        rotary: 128,
        neox: true,
        qk_norm_eps: Some(1e-6),
        kv_type: KvType::F16,
    };
    let llama = Shape { neox: false, qk_norm_eps: None, ..qwen3 };
    vec![
        qwen3,
        Shape { heads: 7, kv_heads: 1, head_dim: 64, rotary: 64, ..llama },
        Shape { heads: 5, kv_heads: 5, head_dim: 40, rotary: 40, ..llama },
        Shape { heads: 6, kv_heads: 2, head_dim: 96, rotary: 48, qk_norm_eps: None, ..qwen3 },
        Shape { heads: 3, kv_heads: 1, head_dim: 80, rotary: 80, neox: false, ..qwen3 },
        Shape { heads: 16, kv_heads: 1, head_dim: 256, rotary: 64, ..qwen3 },
        Shape { heads: 11, kv_heads: 1, head_dim: 8, rotary: 0, ..qwen3 },
        Shape { kv_type: KvType::Q8_0, ..qwen3 },
        Shape { heads: 3, kv_heads: 3, head_dim: 32, rotary: 32, kv_type: KvType::Q8_0, ..llama },
        Shape { heads: 6, kv_heads: 2, head_dim: 96, rotary: 48, qk_norm_eps: None, kv_type: KvType::Q8_0, ..qwen3 },
    ]
}

/// The pairs worth a case: for CPU drivers, and with barriers. LLVM 15, of Debian 12, takes long to compile many heads and
/// rows at once, so only the first shape of a type has two of each; the models' tests run what is served.
fn pairs() -> Vec<(Shape, Geometry)> {
    let chosen = |(index, shape): (usize, Shape)| {
        let several = if shape.head_dim == 128 { 2 } else { 1 };
        // Four lanes are one subgroup on every device that this project knows of.
        let woven = Geometry { local_size: 4, part: several, rows: several, chunk: 4, woven: true };
        let meeting = Geometry { local_size: [64, 32, 16][index % 3], chunk: 64, woven: false, ..woven };
        [(shape, woven), (shape, meeting)]
    };
    shapes().into_iter().enumerate().flat_map(chosen).collect()
}

pub fn cases() -> Vec<Case> {
    pairs().iter().flat_map(|(shape, geometry)| [decode(shape, geometry), prefill(shape, geometry)]).collect()
}

/// The geometry that the device at hand is served with equals the twin too.
#[test]
fn the_served_geometry_equals_its_twin() {
    let Some(mut gpu) = device::gpu() else { return };
    let policy = device::policy(&gpu);
    let made =
        |shape: &Shape| [decode(shape, &Geometry::new(&policy, shape)), prefill(shape, &Geometry::new(&policy, shape))];
    let cases: Vec<Case> = shapes().iter().flat_map(made).collect();
    let failures = crate::failures(&mut gpu, &cases);
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// One row each of several sequences; the fourth is not live.
fn decode(shape: &Shape, geometry: &Geometry) -> Case {
    let positions = [0, 1, 31, 40, 32, 129, 300];
    let rows: Vec<Row> = (0u32..)
        .zip(positions)
        .map(|(sequence, position)| Row { token: 0, position, sequence, live: u32::from(sequence != 3) })
        .collect();
    let mut case = Case::new(format!("decode {shape:?} {geometry:?}"));
    let mut world = World::new(&mut case, shape, geometry, &rows, positions.map(|position| position as usize).to_vec());
    let stride = shape.qkv_cols() + 4;
    let qkv = case.input(&world.random.floats(rows.len() * stride as usize));
    let y_stride = shape.q_cols() + 8;
    let mut y = y_like(&mut case, rows.len(), y_stride);
    let query = Query::Projected { qkv: &qkv, stride };
    case.dispatch(attention::attend(shape, geometry, world.operands(), query, &mut y, y_stride, rows.len() as u32));
    case
}

/// Consecutive rows of two sequences, one that starts and one that goes on; the last row is not live.
fn prefill(shape: &Shape, geometry: &Geometry) -> Case {
    let row = |position, sequence, live| Row { token: 0, position, sequence, live };
    let mut rows: Vec<Row> = (0..5).map(|position| row(position, 1, 1)).collect();
    rows.extend((126..131).map(|position| row(position, 0, 1)));
    rows.push(row(131, 0, 0));
    let mut case = Case::new(format!("prefill {shape:?} {geometry:?}"));
    let mut world = World::new(&mut case, shape, geometry, &rows, vec![126, 0]);
    let stride = shape.qkv_cols();
    let qkv = case.input(&world.random.floats(rows.len() * stride as usize));
    let close = Compare::F32 { absolute: 2e-6, relative: 1e-5 };
    let count = rows.len() as u32;
    let zeros = vec![0f32; rows.len() * shape.q_cols() as usize];
    let mut q = case.in_out("q", &zeros, close);
    let mut y = y_like(&mut case, rows.len(), shape.q_cols());
    case.dispatch(attention::rope_store(shape, geometry, world.operands(), &qkv, stride, &mut q, count));
    let query = Query::Stored { q: &q };
    case.dispatch(attention::attend(shape, geometry, world.operands(), query, &mut y, shape.q_cols(), count));
    case
}

fn y_like(case: &mut Case, rows: usize, stride: u32) -> Tensor {
    let padding = vec![f32::MAX; rows * stride as usize];
    case.in_out("y", &padding, Compare::F32 { absolute: 1e-5, relative: 1e-5 })
}

/// Step, tables and a cache whose sequences have `lengths` tokens so far; whatever else it holds is NaN.
struct World {
    random: Random,
    rows: Tensor,
    table: Vec<u32>,
    blocks: Tensor,
    rope: Tensor,
    q_gain: Tensor,
    k_gain: Tensor,
    keys: Tensor,
    values: Tensor,
}

impl World {
    fn new(case: &mut Case, shape: &Shape, geometry: &Geometry, rows: &[Row], lengths: Vec<usize>) -> World {
        let mut random = Random::new(u64::from(shape.head_dim * 31 + shape.heads));
        let count = lengths.len() * MAX_BLOCKS;
        let mut blocks: Vec<u32> = (0..count as u32).collect();
        for at in (1..count).rev() {
            blocks.swap(at, random.below(at as u32 + 1) as usize);
        }
        let dim = shape.head_dim as usize;
        // As halves, which are all of a cache in F16 and the scales of another, this is not a number.
        let mut keys = vec![0xffu8; shape.cache_bytes(count as u32) as usize];
        let mut values = keys.clone();
        for (sequence, &length) in lengths.iter().enumerate() {
            for token in 0..length {
                let block = blocks[sequence * MAX_BLOCKS + token / BLOCK_TOKENS as usize] as usize;
                for kv_head in 0..shape.kv_heads as usize {
                    let head_bytes = shape.block_bytes() as usize / shape.kv_heads as usize;
                    let head = (kv_head * count + block) * head_bytes..;
                    let (keys, values) = (&mut keys[head.clone()][..head_bytes], &mut values[head][..head_bytes]);
                    put_token(shape, geometry.woven, &mut random, token % 32, [keys, values]);
                }
            }
        }
        let positions = MAX_BLOCKS * BLOCK_TOKENS as usize;
        let turns: Vec<f32> = (0..positions * shape.rotary.max(2) as usize / 2)
            .flat_map(|_| {
                let (sin, cos) = (3.2 * random.float()).sin_cos();
                [cos, sin]
            })
            .collect();
        let round = match shape.kv_type {
            KvType::F16 => Compare::F16 { absolute: 1e-6, relative: 1e-3 },
            KvType::Q8_0 => Compare::Quantized { head_dim: dim },
        };
        World {
            rows: case.input(rows),
            blocks: case.input(&blocks),
            table: blocks,
            rope: case.input(&turns),
            q_gain: case.input(&random.floats(dim)),
            k_gain: case.input(&random.floats(dim)),
            keys: case.in_out("keys", &keys, round),
            values: case.in_out("values", &values, round),
            random,
        }
    }

    fn operands(&mut self) -> Operands<'_> {
        Operands {
            rows: &self.rows,
            blocks: &self.blocks,
            max_blocks: MAX_BLOCKS as u32,
            rope: &self.rope,
            q_gain: &self.q_gain,
            k_gain: &self.k_gain,
            keys: &mut self.keys,
            values: &mut self.values,
        }
    }
}

/// Some key and value of a token in a block of a head.
fn put_token(shape: &Shape, woven: bool, random: &mut Random, token: usize, [keys, values]: [&mut [u8]; 2]) {
    let dim = shape.head_dim as usize;
    let (tokens, dims) = match (woven, shape.kv_type) {
        (false, _) => (32, 8),
        (true, KvType::F16) => (16, 1),
        (true, KvType::Q8_0) => (16, 4),
    };
    let key_at = |d: usize| (token / tokens * dim + d / dims * dims) * tokens + token % tokens * dims + d % dims;
    let value_at = |d: usize| token * dim + d;
    let half = |bytes: &mut [u8], at: usize, value: f32| {
        bytes[2 * at..2 * at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
    };
    match shape.kv_type {
        KvType::F16 => {
            for d in 0..dim {
                half(keys, key_at(d), 3.0 * random.float());
                half(values, value_at(d), random.float());
            }
        }
        KvType::Q8_0 => {
            for d in 0..dim {
                keys[key_at(d)] = (1 + random.below(255) as u8) ^ 0x80;
                values[value_at(d)] = (1 + random.below(255) as u8) ^ 0x80;
            }
            for group in 0..dim / 32 {
                half(keys, 16 * dim + group * 32 + token, 3.0 / 127.0 * random.float());
                half(values, 16 * dim + token * (dim / 32) + group, random.float() / 127.0);
            }
        }
    }
}

/// One way to evaluate a prompt.
struct Way {
    y: Tensor,
    keys: Tensor,
    values: Tensor,
    /// The prompt's blocks.
    table: Vec<u32>,
}

const PROMPT: usize = 140;

/// The prompt at once, and token by token beside another sequence, in other blocks of another cache.
fn both_ways(shape: &Shape, geometry: &Geometry) -> (Case, Way, Way) {
    let mut case = Case::new(format!("{shape:?} {geometry:?}"));
    let row = |position, sequence| Row { token: 0, position, sequence, live: 1 };
    let rows: Vec<Row> = (0..PROMPT as u32).map(|position| row(position, 0)).collect();
    let mut world = World::new(&mut case, shape, geometry, &rows, vec![0]);
    let stride = shape.qkv_cols() as usize;
    let floats = world.random.floats(PROMPT * stride);
    let qkv = case.input(&floats);
    let zeros = vec![0f32; PROMPT * shape.q_cols() as usize];
    let mut q = case.in_out("q", &zeros, Compare::Exact);
    let mut y = case.in_out("y", &zeros, Compare::Exact);
    let count = PROMPT as u32;
    case.dispatch(attention::rope_store(shape, geometry, world.operands(), &qkv, stride as u32, &mut q, count));
    let query = Query::Stored { q: &q };
    case.dispatch(attention::attend(shape, geometry, world.operands(), query, &mut y, shape.q_cols(), count));
    let whole = Way { y, keys: world.keys.clone(), values: world.values.clone(), table: world.table.clone() };

    let rows: Vec<Row> = (0..PROMPT as u32).flat_map(|position| [row(position, 1), row(position, 0)]).collect();
    let mut beside = World::new(&mut case, shape, geometry, &rows, vec![0, 0]);
    (beside.rope, beside.q_gain, beside.k_gain) = (world.rope, world.q_gain, world.k_gain);
    let other = world.random.floats(PROMPT * stride);
    let pairs: Vec<f32> =
        floats.chunks(stride).zip(other.chunks(stride)).flat_map(|(row, other)| [row, other].concat()).collect();
    let qkv = case.input(&pairs);
    let y = case.in_out("y", &[zeros.clone(), zeros].concat(), Compare::Exact);
    let (all_rows, row_bytes) = (beside.rows.clone(), u64::from(shape.q_cols()) * 4);
    for position in 0..PROMPT as u64 {
        beside.rows = all_rows.part(position * 32, 32);
        let qkv = qkv.part(position * 8 * stride as u64, 8 * stride as u64);
        let query = Query::Projected { qkv: &qkv, stride: stride as u32 };
        let mut y = y.part(position * 2 * row_bytes, 2 * row_bytes);
        case.dispatch(attention::attend(shape, geometry, beside.operands(), query, &mut y, shape.q_cols(), 2));
    }
    let table = beside.table.split_off(MAX_BLOCKS);
    (case, whole, Way { y, keys: beside.keys, values: beside.values, table })
}

/// With the geometries of the case table, and as the device at hand is served.
#[test]
fn prefill_and_decode_give_the_same_bits() {
    let Some(mut gpu) = device::gpu() else { return };
    let policy = device::policy(&gpu);
    let served = shapes().into_iter().map(|shape| (shape, Geometry::new(&policy, &shape)));
    // A woven workgroup is served as one whole subgroup only. With half of one, LLVM 15 rounds a quantized cache's scores of
    // several rows and of one row differently.
    let whole = |geometry: &Geometry| !geometry.woven || geometry.local_size == policy.subgroup_size;
    let pairs = pairs().into_iter().filter(|(_, geometry)| whole(geometry)).chain(served);
    let ways: Vec<_> = pairs.map(|(shape, geometry)| (shape, both_ways(&shape, &geometry))).collect();
    let region_bytes = ways.iter().map(|(_, (case, ..))| case.region_bytes()).max().unwrap_or(0);
    gpu.allocate(Region::Step, region_bytes).expect("device memory");
    for (shape, (case, whole, single)) in ways {
        let bytes = case.run(&mut gpu);
        let view = |tensor: &Tensor| &bytes[tensor.offset_bytes as usize..tensor.end_bytes() as usize];
        let row_bytes = shape.q_cols() as usize * 4;
        for (position, whole) in view(&whole.y).chunks(row_bytes).enumerate() {
            let single = &view(&single.y)[position * 2 * row_bytes..][..row_bytes];
            assert!(whole.iter().any(|&byte| byte != 0), "{}: position {position} is empty", case.name);
            assert!(whole == single, "{}: y differs at position {position}", case.name);
        }
        let head_bytes = shape.block_bytes() as usize / shape.kv_heads as usize;
        let blocks = whole.table.iter().zip(&single.table).take(PROMPT.div_ceil(32));
        for ((a, b), kv_head) in blocks.flat_map(|blocks| (0..shape.kv_heads as usize).map(move |head| (blocks, head)))
        {
            let part = |tensor: &Tensor, blocks: usize, block: u32| -> Vec<u8> {
                view(tensor)[(kv_head * blocks + block as usize) * head_bytes..][..head_bytes].to_vec()
            };
            let same =
                |whole: &Tensor, single: &Tensor| part(whole, MAX_BLOCKS, *a) == part(single, 2 * MAX_BLOCKS, *b);
            assert!(same(&whole.keys, &single.keys), "{}: keys differ", case.name);
            assert!(same(&whole.values, &single.values), "{}: values differ", case.name);
        }
    }
}
