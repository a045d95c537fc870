//! Typed dispatches of `rope_store`, `attend` and `merge`, and the sizes of the cache they share.

pub use super::cache::{CacheLayout, KvType};
use super::policy::Policy;
use super::{BLOCK_TOKENS, Row, attend, merge as merging, rope_store};
use crate::plan::{Dispatch, Tensor, Work};

/// Lanes of a rope_store workgroup: a head has at most 128 pairs, and most have 64.
const ROPE_STORE_LOCAL_SIZE: u32 = 32;

/// Lanes of a merge workgroup, each with four dimensions of a head: most heads have 128.
const MERGE_LOCAL_SIZE: u32 = 32;

/// What the attention of a layer looks like; the same for all layers of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Heads of q; a multiple of `kv_heads`.
    pub heads: u32,
    pub kv_heads: u32,
    /// Dimensions of a head: a multiple of 8, at most 256.
    pub head_dim: u32,
    /// How many of them rotate: even, at most `head_dim`.
    pub rotary: u32,
    /// Dimensions i and i + rotary/2 rotate together; otherwise 2i and 2i + 1.
    pub neox: bool,
    /// q and k are normalized per head first, with this epsilon.
    pub qk_norm_eps: Option<f32>,
    pub kv_type: KvType,
}

/// A shape that the kernels cannot do.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Unsupported {
    #[error("{heads} heads cannot be shared out to {kv_heads} kv heads")]
    Heads { heads: u32, kv_heads: u32 },
    #[error("a head of {0} dimensions: attention needs a multiple of 8 up to 256")]
    HeadDim(u32),
    #[error("a head of {0} dimensions: a cache in q8_0 needs a multiple of 32; take --kv-type f16")]
    Quantized(u32),
    #[error("{rotary} rotating dimensions of {head_dim}: they must be even and no more than the head has")]
    Rotary { rotary: u32, head_dim: u32 },
    #[error("a cache of {blocks} blocks: one layer's keys would exceed 4 GiB")]
    Cache { blocks: u32 },
}

impl Shape {
    /// Whether the kernels do this shape, with a cache of `blocks` blocks.
    pub fn check(&self, blocks: u32) -> Result<(), Unsupported> {
        let Shape { heads, kv_heads, head_dim, rotary, .. } = *self;
        if heads == 0 || kv_heads == 0 || heads > 4096 || !heads.is_multiple_of(kv_heads) {
            return Err(Unsupported::Heads { heads, kv_heads });
        }
        if head_dim == 0 || head_dim > 256 || !head_dim.is_multiple_of(8) {
            return Err(Unsupported::HeadDim(head_dim));
        }
        if self.kv_type == KvType::Q8_0 && !head_dim.is_multiple_of(KvType::GROUP) {
            return Err(Unsupported::Quantized(head_dim));
        }
        if rotary > head_dim || !rotary.is_multiple_of(2) {
            return Err(Unsupported::Rotary { rotary, head_dim });
        }
        // The shaders index halves in 32 bits with sign.
        if u64::from(blocks) * self.block_bytes() > 1 << 32 {
            return Err(Unsupported::Cache { blocks });
        }
        Ok(())
    }

    /// Bytes of one block of a layer's keys, and likewise of its values.
    pub fn block_bytes(&self) -> u64 {
        u64::from(self.kv_heads) * self.kv_type.head_bytes(self.head_dim) * u64::from(BLOCK_TOKENS)
    }

    /// Bytes of a layer's keys in a cache of `blocks` blocks, and likewise of its values.
    pub fn cache_bytes(&self, blocks: u32) -> u64 {
        u64::from(blocks) * self.block_bytes()
    }

    /// Blocks of a cache whose keys of a layer are these.
    fn blocks_of(&self, keys: &Tensor) -> u32 {
        u32::try_from(keys.bytes / self.block_bytes()).expect("the shape was checked with these blocks")
    }

    /// Floats of a row of q, and of y.
    pub fn q_cols(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Floats of a row of qkv.
    pub fn qkv_cols(&self) -> u32 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Traffic of one row that goes from its q, k and v to the cache and to q or y.
    fn row_bytes(&self) -> u64 {
        4 * u64::from(self.qkv_cols()) + 4 * u64::from(self.q_cols()) + self.token_bytes()
    }

    /// Floats of the shares of all heads that a split of a row leaves: see `shaders/merge.comp`.
    fn share_cols(&self) -> u32 {
        self.heads * (4 + self.head_dim)
    }

    /// Bytes of shares for each token of a sequence.
    fn share_bytes_a_token(&self, geometry: &Geometry) -> u64 {
        4 * u64::from(self.share_cols()) / u64::from(geometry.split_tokens)
    }

    /// Operations that normalize and rotate one row's q and k.
    fn row_flops(&self) -> u64 {
        let normalized = if self.qk_norm_eps.is_some() { 3 * self.head_dim } else { 0 };
        u64::from(self.heads + self.kv_heads) * u64::from(normalized + 3 * self.rotary)
    }

    /// Bytes of one token's keys and values.
    fn token_bytes(&self) -> u64 {
        2 * self.block_bytes() / u64::from(BLOCK_TOKENS)
    }
}

/// What both kernels work on.
pub struct Operands<'a> {
    /// `Row`s of the step.
    pub rows: &'a Tensor,
    /// The block tables: [sequence][max_blocks] of block numbers.
    pub blocks: &'a Tensor,
    pub max_blocks: u32,
    /// (cos, sin): [position][rotary / 2]; any tensor where nothing rotates.
    pub rope: &'a Tensor,
    /// [head_dim]; any tensor where q and k are not normalized.
    pub q_gain: &'a Tensor,
    pub k_gain: &'a Tensor,
    /// The layer's keys and values.
    pub keys: &'a mut Tensor,
    pub values: &'a mut Tensor,
}

/// Where [`attend`] finds q.
pub enum Query<'a> {
    /// In rows of q, k and v as the projection leaves them, `stride` floats apart; normalizes, rotates and stores itself.
    /// Each row must belong to another sequence. For decoding.
    Projected { qkv: &'a Tensor, stride: u32 },
    /// In rows of q as [`rope_store`] leaves them; the cache holds the rows' own keys and values. For several tokens of a
    /// sequence.
    Stored { q: &'a Tensor },
}

/// What [`attend_split`] leaves for [`merge`].
pub struct Shares {
    /// Floats, `[rows][splits][heads][4 + head_dim]`.
    pub tensor: Tensor,
    /// As many as the longest sequence has.
    pub splits: u32,
}

impl Shares {
    /// Bytes for `count` rows.
    pub fn bytes(shape: &Shape, splits: u32, count: u32) -> u64 {
        4 * u64::from(count) * u64::from(splits) * u64::from(shape.share_cols())
    }
}

/// Tokens of a split on a GPU, but for very long contexts: several chunks, so that what a share costs is little beside its
/// tokens, and few enough that 4096 tokens are work for many cores. A guess, not measured on a GPU.
pub const SPLIT_TOKENS: u32 = 256;

/// Most splits of a sequence: what their shares take of the arena is bounded. A guess likewise.
const SPLITS_MAX: u32 = 64;

/// Geometry of `attend`. Bits of a result depend on `local_size`, `chunk`, `split_tokens` and `woven` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub local_size: u32,
    /// Heads of one workgroup, which share a kv head.
    pub part: u32,
    /// Tokens between two rescalings of the sums: a multiple of `local_size`, and that itself if `woven`.
    pub chunk: u32,
    /// For CPU drivers, which run a workgroup of 4, 8 or 16 lanes as one subgroup.
    pub woven: bool,
    /// Rows of one workgroup; decoding takes 1.
    pub rows: u32,
    /// Tokens whose sums are taken for themselves, counted from position 0, before they are added to those of the tokens
    /// before: a multiple of `chunk`. Without meaning if `woven`.
    pub split_tokens: u32,
}

impl Geometry {
    /// CPU drivers: as many queries as their vector registers have sums for. Lavapipe of Mesa 26.2.6 on 2 cores of an AMD
    /// EPYC (Zen 5), 16 heads of 128 dimensions and 8 kv heads, 64 rows behind 1024 tokens, 2026-11-21: 2, 4 and 8 rows of 2
    /// heads take 7.2, 8.1 and 7.8 ms with vectors of 8 lanes, 4.3, 4.7 and 5.5 ms with 16; with a cache in Q8_0 7.8, 9.9 and
    /// 9.2, and 5.7, 7.5 and 6.0 ms. GPUs: not measured.
    ///
    /// `positions`: those of the longest sequence. A CPU driver has them all in one split.
    pub fn new(policy: &Policy, shape: &Shape, positions: u32) -> Geometry {
        let group = shape.heads / shape.kv_heads;
        let part = group.div_ceil(group.div_ceil(8));
        let woven = policy.software && matches!(policy.subgroup_size, 4 | 8 | 16);
        let queries = if woven { 4 } else { 2 };
        let local_size = match (woven, policy.software) {
            (true, _) => policy.subgroup_size,
            (false, true) => 8,
            (false, false) => 64,
        };
        let chunk = if woven { local_size } else { 64 };
        let split_tokens = match policy.software {
            true => positions.next_power_of_two().max(chunk),
            false => positions.div_ceil(SPLITS_MAX).next_power_of_two().max(SPLIT_TOKENS),
        };
        Geometry { local_size, part, chunk, woven, rows: (queries / part).clamp(1, 8), split_tokens }
    }

    /// Splits of a sequence of so many positions.
    pub fn splits(&self, positions: u32) -> u32 {
        positions.div_ceil(self.split_tokens)
    }

    /// From which position on it pays to take a row's splits side by side: merging them is one more dispatch and barrier a
    /// layer. A guess, not measured on a GPU.
    pub fn split_from(&self) -> u32 {
        self.split_tokens.saturating_mul(2)
    }

    /// The order that its kernels give the cache.
    fn cache(&self, shape: &Shape) -> CacheLayout {
        CacheLayout { kv_type: shape.kv_type, woven: self.woven }
    }

    /// Shared memory of a workgroup: what `attend.comp` declares.
    #[cfg(test)]
    fn shared_bytes(&self, kv_type: KvType, head_dim: u32) -> u32 {
        let queries = self.rows * self.part;
        let fresh = if kv_type == KvType::Q8_0 { 8 * head_dim } else { 0 };
        if self.woven {
            return fresh;
        }
        4 * queries * head_dim
            + 2 * self.rows * kv_type.head_bytes(head_dim) as u32
            + fresh
            + 8 * queries * self.chunk
            + 4 * queries * self.local_size
            + 72 * self.local_size.max(head_dim / 8)
            + 4 * queries * head_dim
    }
}

/// Normalizes and rotates q of `count` rows into `q`, and stores their k and v in the cache. Rows of qkv are `stride`
/// floats apart, a multiple of 4; those of q `shape.q_cols()`. A row that is not live writes nothing.
pub fn rope_store(
    shape: &Shape,
    geometry: &Geometry,
    operands: Operands<'_>,
    qkv: &Tensor,
    stride: u32,
    q: &mut Tensor,
    count: u32,
) -> Dispatch {
    let spec = rope_store::Spec {
        local_size: ROPE_STORE_LOCAL_SIZE,
        head_dim: shape.head_dim,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        rotary: shape.rotary,
        neox: shape.neox,
        qk_norm: shape.qk_norm_eps.is_some(),
    };
    let cache_blocks = shape.blocks_of(operands.keys);
    let args = rope_store::Args {
        qkv,
        q_gain: operands.q_gain,
        k_gain: operands.k_gain,
        rope: operands.rope,
        rows: operands.rows,
        blocks: operands.blocks,
        q,
        keys: operands.keys,
        values: operands.values,
        stride,
        max_blocks: operands.max_blocks,
        cache_blocks,
        eps: shape.qk_norm_eps.unwrap_or(0.0),
    };
    rope_store::dispatch(geometry.cache(shape).kernels().store, spec, args, [count, shape.heads + shape.kv_heads, 1])
        .traffic(u64::from(count) * shape.row_bytes())
        .flops(u64::from(count) * shape.row_flops())
}

/// y[r] = attention of row r over the positions 0..=position of its sequence, for `count` rows `y_stride` floats apart (a
/// multiple of 4). A row that is not live becomes zeros.
pub fn attend(
    shape: &Shape,
    geometry: &Geometry,
    operands: Operands<'_>,
    query: Query<'_>,
    y: &mut Tensor,
    y_stride: u32,
    count: u32,
) -> Dispatch {
    let (x, x_stride, fused) = match query {
        Query::Projected { qkv, stride } => (qkv, stride, true),
        Query::Stored { q } => (q, shape.q_cols(), false),
    };
    let spec = attend::Spec {
        local_size: geometry.local_size,
        head_dim: shape.head_dim,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        rotary: shape.rotary,
        neox: shape.neox,
        qk_norm: shape.qk_norm_eps.is_some(),
        part: geometry.part,
        chunk: geometry.chunk,
        fused,
        run_rows: if fused { 1 } else { geometry.rows },
    };
    let cache_blocks = shape.blocks_of(operands.keys);
    let args = attend::Args {
        x,
        q_gain: operands.q_gain,
        k_gain: operands.k_gain,
        rope: operands.rope,
        step_rows: operands.rows,
        blocks: operands.blocks,
        keys: operands.keys,
        values: operands.values,
        attended: y,
        x_stride,
        y_stride,
        max_blocks: operands.max_blocks,
        cache_blocks,
        count,
        score_scale: 1.0 / (shape.head_dim as f32).sqrt(),
        eps: shape.qk_norm_eps.unwrap_or(0.0),
        split_tokens: geometry.split_tokens,
    };
    let parts = (shape.heads / shape.kv_heads).div_ceil(geometry.part);
    let (row_bytes, row_flops) =
        if fused { (shape.row_bytes(), shape.row_flops()) } else { (8 * u64::from(shape.q_cols()), 0) };
    let work = Work {
        bytes: u64::from(count) * row_bytes,
        flops: u64::from(count) * row_flops,
        bytes_a_token: shape.token_bytes(),
        flops_a_pair: 4 * u64::from(shape.q_cols()),
    };
    let groups = [count.div_ceil(spec.run_rows), shape.kv_heads * parts, 1];
    Dispatch { work, ..attend::dispatch(geometry.cache(shape).kernels().attend, spec, args, groups) }
}

/// As [`attend`] of projected rows, `stride` floats apart, but each split of a row by itself. [`merge`] makes y of the shares.
///
/// # Panics
/// With a `woven` geometry, which has no such kernel.
pub fn attend_split(
    shape: &Shape,
    geometry: &Geometry,
    operands: Operands<'_>,
    qkv: &Tensor,
    stride: u32,
    shares: &mut Shares,
    count: u32,
) -> Dispatch {
    let kernel = geometry.cache(shape).kernels().split.expect("only workgroups that meet at barriers have splits");
    let (query, row_cols) = (Query::Projected { qkv, stride }, shares.splits * shape.share_cols());
    // A variant of the same family, which has the same operands and constants.
    let whole = attend(shape, geometry, operands, query, &mut shares.tensor, row_cols, count);
    let work = Work { bytes_a_token: whole.work.bytes_a_token + shape.share_bytes_a_token(geometry), ..whole.work };
    Dispatch { kernel, groups: [whole.groups[0], whole.groups[1], shares.splits], work, ..whole }
}

/// y[r] = what [`attend`] makes of row r, bit for bit, from the shares of its splits; rows lie back to back.
pub fn merge(
    shape: &Shape,
    geometry: &Geometry,
    rows: &Tensor,
    shares: &Shares,
    y: &mut Tensor,
    count: u32,
) -> Dispatch {
    let spec = merging::Spec { local_size: MERGE_LOCAL_SIZE, head_dim: shape.head_dim, heads: shape.heads };
    let args =
        merging::Args { shares: &shares.tensor, rows, y, splits: shares.splits, split_tokens: geometry.split_tokens };
    let bytes = u64::from(count) * (4 * u64::from(shape.q_cols()) + size_of::<Row>() as u64);
    let work = Work { bytes, bytes_a_token: shape.share_bytes_a_token(geometry), ..Work::default() };
    Dispatch { work, ..merging::dispatch(&merging::MERGE, spec, args, [count, shape.heads, 1]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        rotary: 128,
        neox: true,
        qk_norm_eps: None,
        kv_type: KvType::F16,
    };

    #[test]
    fn every_geometry_fits_the_least_shared_memory() {
        for (software, subgroup_size) in [(false, 32), (true, 0), (true, 4), (true, 8), (true, 16)] {
            for (head_dim, group) in (8..=256).step_by(8).flat_map(|dim| (1..=64).map(move |group| (dim, group))) {
                let shape = Shape { heads: group, kv_heads: 1, head_dim, rotary: head_dim, ..SHAPE };
                let geometry = Geometry::new(&Policy::of(software, subgroup_size), &shape, 4096);
                for kv_type in [KvType::F16, KvType::Q8_0] {
                    let bytes = geometry.shared_bytes(kv_type, head_dim);
                    assert!(bytes <= 32 << 10, "{geometry:?} with {head_dim} dimensions in {kv_type}");
                }
                let least = if geometry.woven { geometry.local_size } else { geometry.local_size.max(32) };
                assert!(geometry.chunk.is_multiple_of(least), "{geometry:?}");
            }
        }
    }

    #[test]
    fn splits_are_whole_chunks_and_not_too_many() {
        let split = |policy, positions| {
            let geometry = Geometry::new(policy, &SHAPE, positions);
            assert!(geometry.split_tokens.is_multiple_of(geometry.chunk), "{geometry:?}");
            (geometry.split_tokens, geometry.splits(positions))
        };
        let gpu = [1, 256, 257, 4128, 16_384, 16_416, 131_104].map(|positions| split(&Policy::GPU, positions));
        assert_eq!(gpu, [(256, 1), (256, 1), (256, 2), (256, 17), (256, 64), (512, 33), (4096, 33)]);
        assert!([1, 4128, 131_104].iter().all(|&positions| split(&Policy::SOFTWARE, positions).1 == 1));
    }

    #[test]
    fn shapes_that_the_shaders_cannot_do_are_refused() {
        let shape = SHAPE;
        assert_eq!(shape.check(65_536), Ok(()));
        assert_eq!(shape.check(65_537), Err(Unsupported::Cache { blocks: 65_537 }));
        let heads = Shape { kv_heads: 7, ..shape }.check(1);
        assert_eq!(heads, Err(Unsupported::Heads { heads: 16, kv_heads: 7 }));
        assert_eq!(Shape { head_dim: 100, rotary: 64, ..shape }.check(1), Err(Unsupported::HeadDim(100)));
        let quantized = Shape { kv_type: KvType::Q8_0, ..shape };
        // 34 bytes for 32 values.
        assert_eq!((shape.block_bytes(), quantized.block_bytes()), (65_536, 34_816));
        assert_eq!(quantized.check(123_361), Ok(()));
        assert_eq!(quantized.check(123_362), Err(Unsupported::Cache { blocks: 123_362 }));
        assert_eq!(Shape { head_dim: 40, rotary: 40, ..quantized }.check(1), Err(Unsupported::Quantized(40)));
        assert_eq!(Shape { rotary: 63, ..shape }.check(1), Err(Unsupported::Rotary { rotary: 63, head_dim: 128 }));
    }
}
