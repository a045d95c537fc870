//! Twins of `shaders/rope_store.comp`, `shaders/attend.comp` and `shaders/merge.comp`. The cache is told of in
//! [`super::cache`].

use super::{Memory, cache::Cache, norm::inverse_rms};
use crate::kernels::attention::CacheLayout;
use crate::kernels::{Row, attend, merge, rope_store};
use crate::plan::{Kernel, Tensor};

/// What one head is and how it rotates.
struct Heads {
    head_dim: usize,
    heads: usize,
    kv_heads: usize,
    rotary: usize,
    neox: bool,
    qk_norm_eps: Option<f32>,
}

/// A head normalized, then rotated. Su et al., "RoFormer", 2021; pairs as in the GPT-NeoX code or adjacent.
fn ready(heads: &Heads, head: &[f32], gain: &[f32], turns: &[[f32; 2]]) -> Vec<f32> {
    let scale = heads.qk_norm_eps.map(|eps| inverse_rms(head, eps));
    let normalized: Vec<f32> = match scale {
        Some(scale) => head.iter().zip(gain).map(|(x, gain)| x * scale * gain).collect(),
        None => head.to_vec(),
    };
    let mut rotated = normalized.clone();
    for (pair, &[cos, sin]) in turns.iter().enumerate() {
        let (a, b) = if heads.neox { (pair, pair + heads.rotary / 2) } else { (2 * pair, 2 * pair + 1) };
        let [x, y, cos, sin] = [normalized[a], normalized[b], cos, sin].map(f64::from);
        rotated[a] = (x * cos - y * sin) as f32;
        rotated[b] = (x * sin + y * cos) as f32;
    }
    rotated
}

/// A row of qkv made ready: q, k and v, each [head][head_dim].
struct Ready {
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

/// Tensors of the norm and the rotation.
struct Tables<'a> {
    q_gain: &'a Tensor,
    k_gain: &'a Tensor,
    rope: &'a Tensor,
}

fn ready_row(heads: &Heads, memory: &Memory, qkv: &[f32], position: usize, tables: &Tables<'_>) -> Ready {
    let dim = heads.head_dim;
    let gain = |tensor| if heads.qk_norm_eps.is_some() { &memory.view::<f32>(tensor)[..dim] } else { &[] };
    let half = heads.rotary / 2;
    let turns = if half == 0 { &[] } else { &memory.view::<[f32; 2]>(tables.rope)[position * half..][..half] };
    let all: Vec<&[f32]> = qkv.chunks_exact(dim).take(heads.heads + 2 * heads.kv_heads).collect();
    let (q, kv) = all.split_at(heads.heads);
    let (k, v) = kv.split_at(heads.kv_heads);
    Ready {
        q: q.iter().map(|head| ready(heads, head, gain(tables.q_gain), turns)).collect(),
        k: k.iter().map(|head| ready(heads, head, gain(tables.k_gain), turns)).collect(),
        v: v.iter().map(|head| head.to_vec()).collect(),
    }
}

/// What some tokens make of an attention.
#[derive(Clone)]
struct Share {
    /// The highest score.
    highest: f64,
    /// Σ exp(score - highest).
    total: f64,
    /// Σ exp(score - highest) × v.
    sums: Vec<f64>,
}

impl Share {
    /// In two passes over the tokens; score = q·k × scale.
    fn new<'a>(q: &[f32], tokens: impl Iterator<Item = &'a [Vec<f64>; 2]> + Clone, scale: f64) -> Share {
        let dot = |key: &[f64]| -> f64 { q.iter().zip(key).map(|(&q, k)| f64::from(q) * k).sum() };
        let scores: Vec<f64> = tokens.clone().map(|[key, _]| dot(key) * scale).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
        let weighted =
            |dim: usize| tokens.clone().zip(&weights).map(|([_, value], weight)| weight * value[dim]).sum::<f64>();
        Share { highest, total: weights.iter().sum(), sums: (0..q.len()).map(weighted).collect() }
    }

    /// Of the tokens of both.
    fn with(&self, other: &Share) -> Share {
        let highest = self.highest.max(other.highest);
        let [a, b] = [self, other].map(|share| (share.highest - highest).exp());
        let sums = self.sums.iter().zip(&other.sums).map(|(x, y)| x * a + y * b).collect();
        Share { highest, total: self.total * a + other.total * b, sums }
    }

    /// softmax(scores)·v.
    fn attention(&self) -> Vec<f32> {
        self.sums.iter().map(|sum| (sum / self.total) as f32).collect()
    }

    /// As it stands in memory.
    fn words(&self) -> Vec<f32> {
        [self.highest, self.total, 0.0, 0.0].iter().chain(&self.sums).map(|&value| value as f32).collect()
    }

    fn from_words(words: &[f32]) -> Share {
        let wide = |word: &f32| f64::from(*word);
        Share { highest: wide(&words[0]), total: wide(&words[1]), sums: words[4..].iter().map(wide).collect() }
    }
}

/// How many splits a row at `position` has.
fn splits(position: usize, split_tokens: usize) -> usize {
    position.div_ceil(split_tokens).max(1)
}

pub(super) fn rope_store(kernel: &Kernel, args: &rope_store::Resolved, memory: &mut Memory) {
    let spec = &args.spec;
    let heads = Heads {
        head_dim: spec.head_dim as usize,
        heads: spec.heads as usize,
        kv_heads: spec.kv_heads as usize,
        rotary: spec.rotary as usize,
        neox: spec.neox,
        qk_norm_eps: spec.qk_norm.then_some(args.eps),
    };
    let cache = Cache {
        layout: CacheLayout::of(kernel),
        head_dim: heads.head_dim,
        cache_blocks: args.cache_blocks as usize,
        blocks: &args.blocks,
        max_blocks: args.max_blocks as usize,
        keys: &args.keys,
        values: &args.values,
    };
    let tables = Tables { q_gain: &args.q_gain, k_gain: &args.k_gain, rope: &args.rope };
    for index in 0..args.groups[0] as usize {
        let row = memory.view::<Row>(&args.rows)[index];
        if row.live == 0 {
            continue;
        }
        let qkv = &memory.view::<f32>(&args.qkv)[index * args.stride as usize..];
        let ready = ready_row(&heads, memory, qkv, row.position as usize, &tables);
        for (kv_head, (k, v)) in ready.k.iter().zip(&ready.v).enumerate() {
            cache.store(memory, &row, kv_head, k, v);
        }
        let q = ready.q.concat();
        memory.view_mut::<f32>(&args.q)[index * q.len()..][..q.len()].copy_from_slice(&q);
    }
}

pub(super) fn attend(kernel: &Kernel, args: &attend::Resolved, memory: &mut Memory) {
    let spec = &args.spec;
    let heads = Heads {
        head_dim: spec.head_dim as usize,
        heads: spec.heads as usize,
        kv_heads: spec.kv_heads as usize,
        rotary: spec.rotary as usize,
        neox: spec.neox,
        qk_norm_eps: spec.qk_norm.then_some(args.eps),
    };
    let cache = Cache {
        layout: CacheLayout::of(kernel),
        head_dim: heads.head_dim,
        cache_blocks: args.cache_blocks as usize,
        blocks: &args.blocks,
        max_blocks: args.max_blocks as usize,
        keys: &args.keys,
        values: &args.values,
    };
    let tables = Tables { q_gain: &args.q_gain, k_gain: &args.k_gain, rope: &args.rope };
    let (group, dim) = (heads.heads / heads.kv_heads, heads.head_dim);
    let (y_stride, split_tokens) = (args.y_stride as usize, args.split_tokens as usize);
    let leaves_shares = CacheLayout::leaves_shares(kernel);
    for index in 0..args.count as usize {
        let row = memory.view::<Row>(&args.step_rows)[index];
        let (y_cols, position) = (heads.heads * dim, row.position as usize);
        if row.live == 0 {
            if !leaves_shares {
                memory.view_mut::<f32>(&args.attended)[index * y_stride..][..y_cols].fill(0.0);
            }
            continue;
        }
        let x = &memory.view::<f32>(&args.x)[index * args.x_stride as usize..];
        let q = if spec.fused {
            let ready = ready_row(&heads, memory, x, position, &tables);
            for (kv_head, (k, v)) in ready.k.iter().zip(&ready.v).enumerate() {
                cache.store(memory, &row, kv_head, k, v);
            }
            ready.q
        } else {
            x[..y_cols].chunks_exact(dim).map(<[f32]>::to_vec).collect()
        };
        for kv_head in 0..heads.kv_heads {
            let load = |token| cache.load(memory, row.sequence as usize, token, kv_head);
            let tokens: Vec<_> = (0..=position).map(load).collect();
            let (before, own) = tokens.split_at(position);
            for head in kv_head * group..(kv_head + 1) * group {
                let y = memory.view_mut::<f32>(&args.attended);
                if !leaves_shares {
                    let out = Share::new(&q[head], tokens.iter(), f64::from(args.score_scale)).attention();
                    y[index * y_stride + head * dim..][..dim].copy_from_slice(&out);
                    continue;
                }
                for split in 0..splits(position, split_tokens) {
                    let own = if split == 0 { own } else { &[] };
                    let some = before.iter().skip(split * split_tokens).take(split_tokens).chain(own);
                    let words = Share::new(&q[head], some, f64::from(args.score_scale)).words();
                    let at = index * y_stride + (split * heads.heads + head) * words.len();
                    y[at..at + words.len()].copy_from_slice(&words);
                }
            }
        }
    }
}

pub(super) fn merge(args: &merge::Resolved, memory: &mut Memory) {
    let (dim, heads) = (args.spec.head_dim as usize, args.spec.heads as usize);
    for index in 0..args.groups[0] as usize {
        let row = memory.view::<Row>(&args.rows)[index];
        for head in 0..heads {
            let shares = memory.view::<f32>(&args.shares);
            let share = |split| {
                let at = ((index * args.splits as usize + split) * heads + head) * (4 + dim);
                Share::from_words(&shares[at..at + 4 + dim])
            };
            let count = if row.live == 0 { 0 } else { splits(row.position as usize, args.split_tokens as usize) };
            let whole = (0..count).map(share).reduce(|before, next| before.with(&next));
            let out = whole.map_or_else(|| vec![0.0; dim], |share| share.attention());
            memory.view_mut::<f32>(&args.y)[(index * heads + head) * dim..][..dim].copy_from_slice(&out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::{self, Geometry, KvType, Operands, Query, Shape, Shares};
    use crate::plan::Region;
    use half::f16;

    const REGION: Region = Region::Step;
    const DIM: usize = 32;
    const SHAPE: Shape = Shape {
        heads: 4,
        kv_heads: 2,
        head_dim: DIM as u32,
        rotary: 8,
        neox: true,
        qk_norm_eps: Some(1e-5),
        kv_type: KvType::F16,
    };
    const LENGTH: usize = 70;
    const BLOCKS: [u32; 3] = [4, 0, 2];

    /// Places tensors one behind another.
    fn place(memory_bytes: &mut u64, bytes: u64) -> Tensor {
        let tensor = Tensor::new(REGION, *memory_bytes, bytes);
        *memory_bytes = (*memory_bytes + bytes).next_multiple_of(16);
        tensor
    }

    fn wave(seed: usize, count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    /// Attention as the papers write it, over whole arrays: rotation as a product of complex numbers, softmax without a
    /// maximum, no cache.
    fn naive(kv_type: KvType, qkv: &[Vec<f32>], gains: &[Vec<f32>; 2], head: usize) -> Vec<Vec<f64>> {
        let kv_head = head / 2;
        let take =
            |row: &[f32], at: usize| -> Vec<f64> { row[at * DIM..][..DIM].iter().map(|&x| f64::from(x)).collect() };
        let turn = |position: usize, x: Vec<f64>, gain: &[f32]| -> Vec<f64> {
            let rms = (x.iter().map(|x| x * x).sum::<f64>() / DIM as f64 + 1e-5).sqrt();
            let mut x: Vec<f64> = x.iter().zip(gain).map(|(x, gain)| x / rms * f64::from(*gain)).collect();
            for pair in 0..4 {
                let angle = position as f64 / 10f64.powi(pair as i32);
                let (re, im) = (x[pair], x[pair + 4]);
                x[pair] = (re.hypot(im)) * (im.atan2(re) + angle).cos();
                x[pair + 4] = (re.hypot(im)) * (im.atan2(re) + angle).sin();
            }
            x
        };
        let half = |x: f64| f16::from_f64(x).to_f64();
        let rounded = |x: Vec<f64>| -> Vec<f64> {
            // A head is one group.
            let largest = x.iter().fold(0f64, |largest, x| largest.max(x.abs()));
            let round = |x: f64| match kv_type {
                KvType::F16 => half(x),
                KvType::Q8_0 => (x / largest * 127.0).round() * half(largest / 127.0),
            };
            x.into_iter().map(round).collect()
        };
        let q: Vec<_> = qkv.iter().enumerate().map(|(i, row)| turn(i, take(row, head), &gains[0])).collect();
        let k: Vec<_> =
            qkv.iter().enumerate().map(|(i, row)| rounded(turn(i, take(row, 4 + kv_head), &gains[1]))).collect();
        let v: Vec<_> = qkv.iter().map(|row| rounded(take(row, 6 + kv_head))).collect();
        (0..qkv.len())
            .map(|i| {
                let score =
                    |j: usize| (q[i].iter().zip(&k[j]).map(|(a, b)| a * b).sum::<f64>() / (DIM as f64).sqrt()).exp();
                let total: f64 = (0..=i).map(score).sum();
                (0..DIM).map(|dim| (0..=i).map(|j| score(j) * v[j][dim]).sum::<f64>() / total).collect()
            })
            .collect()
    }

    struct World {
        shape: Shape,
        memory: Memory,
        tensors: Vec<Tensor>,
        qkv: Vec<Vec<f32>>,
        gains: [Vec<f32>; 2],
    }

    /// rows, blocks, rope, q_gain, k_gain, keys, values, qkv, q, y
    fn world(kv_type: KvType) -> World {
        let shape = Shape { kv_type, ..SHAPE };
        let cols = SHAPE.qkv_cols() as usize;
        let qkv: Vec<Vec<f32>> = (0..LENGTH).map(|row| wave(row, cols)).collect();
        let gains = [wave(1000, DIM), wave(1001, DIM)];
        let turns: Vec<f32> = (0..LENGTH)
            .flat_map(|position| (0..4).map(move |pair| position as f64 / 10f64.powi(pair)))
            .flat_map(|angle| [angle.cos() as f32, angle.sin() as f32])
            .collect();
        let rows: Vec<Row> =
            (0..LENGTH as u32).map(|position| Row { token: 0, position, sequence: 0, live: 1 }).collect();
        let mut end = 0;
        let cache = shape.cache_bytes(5);
        let y = LENGTH as u64 * u64::from(SHAPE.q_cols()) * 4;
        let sizes = [
            16 * LENGTH as u64,
            12,
            turns.len() as u64 * 4,
            4 * DIM as u64,
            4 * DIM as u64,
            cache,
            cache,
            (LENGTH * cols * 4) as u64,
            y,
            y,
        ];
        let tensors: Vec<Tensor> = sizes.iter().map(|&bytes| place(&mut end, bytes)).collect();
        let mut memory = Memory::default();
        memory.allocate(REGION, end).expect("host memory");
        memory.view_mut::<Row>(&tensors[0]).copy_from_slice(&rows);
        memory.view_mut::<u32>(&tensors[1]).copy_from_slice(&BLOCKS);
        for (tensor, values) in [(2, &turns), (3, &gains[0]), (4, &gains[1]), (7, &qkv.concat())] {
            memory.view_mut::<f32>(&tensors[tensor]).copy_from_slice(values);
        }
        World { shape, memory, tensors, qkv, gains }
    }

    fn check(world: &World) {
        let y = world.memory.view::<f32>(&world.tensors[9]);
        for head in 0..4 {
            let expected = naive(world.shape.kv_type, &world.qkv, &world.gains, head);
            for (row, expected) in expected.iter().enumerate() {
                for (dim, expected) in expected.iter().enumerate() {
                    let got = f64::from(y[(row * 4 + head) * DIM + dim]);
                    assert!((got - expected).abs() < 2e-4, "row {row} head {head} dim {dim}: {got} not {expected}");
                }
            }
        }
    }

    /// Runs `dispatches` made from the world's operands.
    fn run(
        world: &mut World,
        dispatch: impl FnOnce(Operands<'_>, &Tensor, &Tensor, &mut Tensor) -> crate::plan::Dispatch,
    ) {
        let [rows, blocks, rope, q_gain, k_gain, keys, values, qkv, q, y] = &mut world.tensors[..] else { panic!() };
        let operands = Operands { rows, blocks, max_blocks: 3, rope, q_gain, k_gain, keys, values };
        let dispatch = dispatch(operands, qkv, q, y);
        let twin = super::super::twin(dispatch.kernel.family).expect("it has a twin");
        twin(&dispatch, &mut world.memory);
    }

    /// Every type of cache in every order.
    fn caches() -> impl Iterator<Item = (KvType, Geometry)> {
        let geometry = Geometry { local_size: 8, part: 2, chunk: 32, woven: false, rows: 1, split_tokens: 32 };
        let both = [geometry, Geometry { woven: true, ..geometry }];
        [KvType::F16, KvType::Q8_0].into_iter().flat_map(move |kv_type| both.map(|geometry| (kv_type, geometry)))
    }

    #[test]
    fn decoding_row_by_row_equals_naive_attention() {
        for (kv_type, geometry) in caches() {
            let mut world = world(kv_type);
            let shape = world.shape;
            run(&mut world, |operands, qkv, _, y| {
                let query = Query::Projected { qkv, stride: shape.qkv_cols() };
                attention::attend(&shape, &geometry, operands, query, y, shape.q_cols(), LENGTH as u32)
            });
            check(&world);
        }
    }

    #[test]
    fn decoding_in_splits_equals_naive_attention() {
        for (kv_type, geometry) in caches().filter(|(_, geometry)| !geometry.woven) {
            let mut world = world(kv_type);
            let (shape, count, splits) = (world.shape, LENGTH as u32, geometry.splits(LENGTH as u32));
            assert_eq!(splits, 3);
            let bytes = Shares::bytes(&shape, splits, count);
            world.memory.allocate(Region::Arena, bytes).expect("host memory");
            let mut shares = Shares { tensor: Tensor::new(Region::Arena, 0, bytes), splits };
            run(&mut world, |operands, qkv, _, _| {
                attention::attend_split(&shape, &geometry, operands, qkv, shape.qkv_cols(), &mut shares, count)
            });
            run(&mut world, |operands, _, _, y| attention::merge(&shape, &geometry, operands.rows, &shares, y, count));
            check(&world);
        }
    }

    #[test]
    fn prefilling_equals_naive_attention() {
        for (kv_type, geometry) in caches() {
            let mut world = world(kv_type);
            let (shape, count) = (world.shape, LENGTH as u32);
            run(&mut world, |operands, qkv, q, _| {
                attention::rope_store(&shape, &geometry, operands, qkv, shape.qkv_cols(), &mut q.clone(), count)
            });
            run(&mut world, |operands, _, q, y| {
                attention::attend(&shape, &geometry, operands, Query::Stored { q }, y, shape.q_cols(), count)
            });
            check(&world);
        }
    }
}
