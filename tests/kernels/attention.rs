//! Cases of `rope_store` and `attend`: ragged heads, lengths around the edges of blocks and chunks, shuffled blocks.

use crate::device;
use crate::harness::{Case, Compare, Random};
use half::f16;
use hesper::kernels::attention::{self, Geometry, KvType, Operands, Query, Shape, Shares};
use hesper::kernels::{BLOCK_TOKENS, Row};
use hesper::plan::{Executor, Region, Tensor};

const MAX_BLOCKS: usize = 11;
const POSITIONS: u32 = MAX_BLOCKS as u32 * BLOCK_TOKENS;

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
        let woven = Geometry { local_size: 4, part: several, rows: several, chunk: 4, woven: true, split_tokens: 512 };
        // Splits of one chunk and of several.
        let (local_size, chunk) = [(64, 64), (32, 32), (16, 64)][index % 3];
        let part = if shape.heads == 3 && shape.kv_heads == 1 { 2 } else { several }; // The last part of a group is short.
        let meeting = Geometry { local_size, part, chunk, woven: false, split_tokens: 64, ..woven };
        [(shape, woven), (shape, meeting)]
    };
    shapes().into_iter().enumerate().flat_map(chosen).collect()
}

pub fn cases() -> Vec<Case> {
    pairs().iter().flat_map(|(shape, geometry)| of(shape, geometry)).collect()
}

/// All cases of a shape.
fn of(shape: &Shape, geometry: &Geometry) -> Vec<Case> {
    let mut cases = vec![decode(shape, geometry, 1), prefill(shape, geometry)];
    if !geometry.woven {
        cases.push(decode(shape, geometry, geometry.splits(POSITIONS)));
    }
    cases
}

/// The geometry that the device at hand is served with equals the twin too.
#[test]
fn the_served_geometry_equals_its_twin() {
    let Some(mut gpu) = device::gpu() else { return };
    let policy = device::policy(&gpu);
    let made = |shape: &Shape| of(shape, &Geometry::new(&policy, shape, POSITIONS));
    let cases: Vec<Case> = shapes().iter().flat_map(made).collect();
    let failures = crate::failures(&mut gpu, &cases);
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// One row each of several sequences, at the borders of blocks and splits among others; the fourth is not live.
fn decode(shape: &Shape, geometry: &Geometry, splits: u32) -> Case {
    let positions = [0, 1, 31, 40, 32, 64, 65, 129, 300];
    let rows: Vec<Row> = (0u32..)
        .zip(positions)
        .map(|(sequence, position)| Row { token: 0, position, sequence, live: u32::from(sequence != 3) })
        .collect();
    let mut case = Case::new(format!("decode in {splits} {shape:?} {geometry:?}"));
    let mut world = World::new(&mut case, shape, geometry, &rows, positions.map(|position| position as usize).to_vec());
    let stride = shape.qkv_cols() + 4;
    let qkv = case.input(&world.random.floats(rows.len() * stride as usize));
    let count = rows.len() as u32;
    if splits > 1 {
        let compare = Compare::F32 { absolute: 1e-4, relative: 1e-5 };
        let mut shares = shares_like(&mut case, shape, splits, count, compare);
        let mut y = y_like(&mut case, rows.len(), shape.q_cols());
        case.dispatch(attention::attend_split(shape, geometry, world.operands(), &qkv, stride, &mut shares, count));
        case.dispatch(attention::merge(shape, geometry, &world.rows, &shares, &mut y, count));
    } else {
        let y_stride = shape.q_cols() + 8;
        let mut y = y_like(&mut case, rows.len(), y_stride);
        let query = Query::Projected { qkv: &qkv, stride };
        case.dispatch(attention::attend(shape, geometry, world.operands(), query, &mut y, y_stride, count));
    }
    case
}

/// Room for shares. It is not a number: of a row's splits, those behind its position are not touched.
fn shares_like(case: &mut Case, shape: &Shape, splits: u32, rows: u32, compare: Compare) -> Shares {
    let floats = Shares::bytes(shape, splits, rows) as usize / 4;
    Shares { tensor: case.in_out("shares", &vec![f32::NAN; floats], compare), splits }
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

/// The prompt at once, then in other blocks of other caches token by token beside another sequence: walking over the splits
/// of each, and, where the geometry has any, taking them side by side.
fn every_way(shape: &Shape, geometry: &Geometry) -> (Case, Vec<Way>) {
    let mut case = Case::new(format!("{shape:?} {geometry:?}"));
    let rows: Vec<Row> = (0..PROMPT as u32).map(|position| row(position, 0)).collect();
    let mut world = World::new(&mut case, shape, geometry, &rows, vec![0]);
    let stride = shape.qkv_cols();
    let floats = world.random.floats(PROMPT * stride as usize);
    let qkv = case.input(&floats);
    let zeros = vec![0f32; PROMPT * shape.q_cols() as usize];
    let mut q = case.in_out("q", &zeros, Compare::Exact);
    let mut y = case.in_out("y", &zeros, Compare::Exact);
    let count = PROMPT as u32;
    case.dispatch(attention::rope_store(shape, geometry, world.operands(), &qkv, stride, &mut q, count));
    let query = Query::Stored { q: &q };
    case.dispatch(attention::attend(shape, geometry, world.operands(), query, &mut y, shape.q_cols(), count));
    let mut ways = vec![Way { y, keys: world.keys.clone(), values: world.values.clone(), table: world.table.clone() }];

    let pairs: Vec<f32> = floats
        .chunks(stride as usize)
        .flat_map(|row| [row.to_vec(), world.random.floats(stride as usize)].concat())
        .collect();
    let pairs = case.input(&pairs);
    ways.push(token_by_token(&mut case, shape, geometry, &world, &pairs, 1));
    if !geometry.woven {
        ways.push(token_by_token(&mut case, shape, geometry, &world, &pairs, geometry.splits(POSITIONS).max(2)));
    }
    (case, ways)
}

fn row(position: u32, sequence: u32) -> Row {
    Row { token: 0, position, sequence, live: 1 }
}

/// `pairs`: a row of the prompt, then one of the other sequence, for each position. The tables are those of `world`.
fn token_by_token(
    case: &mut Case,
    shape: &Shape,
    geometry: &Geometry,
    world: &World,
    pairs: &Tensor,
    splits: u32,
) -> Way {
    let rows: Vec<Row> = (0..PROMPT as u32).flat_map(|position| [row(position, 1), row(position, 0)]).collect();
    let mut beside = World::new(case, shape, geometry, &rows, vec![0, 0]);
    (beside.rope, beside.q_gain, beside.k_gain) = (world.rope.clone(), world.q_gain.clone(), world.k_gain.clone());
    let (stride, cols) = (shape.qkv_cols(), shape.q_cols());
    let y = case.in_out("y", &vec![0f32; 2 * PROMPT * cols as usize], Compare::Exact);
    let mut shares = (splits > 1).then(|| shares_like(case, shape, splits, 2, Compare::Exact));
    let (all_rows, row_bytes) = (beside.rows.clone(), u64::from(cols) * 4);
    for position in 0..PROMPT as u64 {
        beside.rows = all_rows.part(position * 32, 32);
        let qkv = pairs.part(position * 8 * u64::from(stride), 8 * u64::from(stride));
        let mut y = y.part(position * 2 * row_bytes, 2 * row_bytes);
        if let Some(shares) = &mut shares {
            case.dispatch(attention::attend_split(shape, geometry, beside.operands(), &qkv, stride, shares, 2));
            case.dispatch(attention::merge(shape, geometry, &beside.rows, shares, &mut y, 2));
        } else {
            let query = Query::Projected { qkv: &qkv, stride };
            case.dispatch(attention::attend(shape, geometry, beside.operands(), query, &mut y, cols, 2));
        }
    }
    Way { y, keys: beside.keys, values: beside.values, table: beside.table.split_off(MAX_BLOCKS) }
}

/// With the geometries of the case table and as the device at hand is served.
#[test]
fn prefill_and_decode_give_the_same_bits() {
    let Some(mut gpu) = device::gpu() else { return };
    let policy = device::policy(&gpu);
    let served = shapes().into_iter().map(|shape| (shape, Geometry::new(&policy, &shape, POSITIONS)));
    // A woven workgroup is served as one whole subgroup only. With half of one, LLVM 15 rounds a quantized cache's scores of
    // several rows and of one row differently.
    let whole = |geometry: &Geometry| !geometry.woven || geometry.local_size == policy.subgroup_size;
    let pairs = pairs().into_iter().filter(|(_, geometry)| whole(geometry)).chain(served);
    let ways: Vec<_> = pairs.map(|(shape, geometry)| (shape, every_way(&shape, &geometry))).collect();
    let region_bytes = ways.iter().map(|(_, (case, _))| case.region_bytes()).max().unwrap_or(0);
    gpu.allocate(Region::Step, region_bytes).expect("device memory");
    for (shape, (case, ways)) in ways {
        let bytes = case.run(&mut gpu);
        for single in &ways[1..] {
            assert_same(&shape, &case.name, &bytes, &ways[0], single);
        }
    }
}

/// `single`: what [`token_by_token`] leaves.
fn assert_same(shape: &Shape, name: &str, bytes: &[u8], whole: &Way, single: &Way) {
    let view = |tensor: &Tensor| &bytes[tensor.offset_bytes as usize..tensor.end_bytes() as usize];
    let row_bytes = shape.q_cols() as usize * 4;
    for (position, whole) in view(&whole.y).chunks(row_bytes).enumerate() {
        let single = &view(&single.y)[position * 2 * row_bytes..][..row_bytes];
        assert!(whole.iter().any(|&byte| byte != 0), "{name}: position {position} is empty");
        assert!(whole == single, "{name}: y differs at position {position}");
    }
    let head_bytes = (shape.block_bytes() / u64::from(shape.kv_heads)) as usize;
    let part = |tensor: &Tensor, kv_head: usize, block: u32| -> Vec<u8> {
        let blocks = (tensor.bytes / shape.block_bytes()) as usize;
        view(tensor)[(kv_head * blocks + block as usize) * head_bytes..][..head_bytes].to_vec()
    };
    for (a, b) in whole.table.iter().zip(&single.table).take(PROMPT.div_ceil(32)) {
        for kv_head in 0..shape.kv_heads as usize {
            let same = |whole: &Tensor, single: &Tensor| part(whole, kv_head, *a) == part(single, kv_head, *b);
            assert!(same(&whole.keys, &single.keys), "{name}: keys differ");
            assert!(same(&whole.values, &single.values), "{name}: values differ");
        }
    }
}
