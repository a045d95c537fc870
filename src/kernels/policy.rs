//! Tuning: pure functions from a device's nature and a shape to a kernel's geometry. Every constant names the device and
//! the date of its measurement.

use super::layout::{Arrangement, Layout};
use super::tuning::{Family, Tuning};
use serde::{Deserialize, Serialize};

/// Lanes of a repack workgroup; it is bound by memory everywhere, any small multiple of a subgroup does.
pub const REPACK_LOCAL_SIZE: u32 = 64;

/// Elements of a product that one workgroup does. It takes longer over them than two by as much as they take, 25 µs for these in
/// Q8_0, and a dispatch takes 30 (lavapipe, Mesa 26.2.6, 2 cores, 2026-11-29; more cores were not measured).
const ALONE_ELEMENTS: u64 = 1 << 19;

/// What the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A CPU driver: few threads, wide vectors, cheap uniform loads, dear barriers.
    pub software: bool,
    /// Lanes of a subgroup.
    pub subgroup_size: u32,
    /// How many workgroups of a subgroup do products one behind another in one dispatch ([`super::chains`]): 1 waits for nobody,
    /// and suits small products ([`Policy::for_products`]); more must run side by side and may wait for each other at little cost; 0: products have dispatches of their own.
    pub side_by_side: u32,
    /// What was measured, which goes before the tables here.
    pub tuning: Tuning,
}

/// Geometry of `mat_mul`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatMulShape {
    /// Rows, and so tiles, of one lane.
    pub rows: u32,
    /// Tokens of one lane.
    pub tokens: u32,
    /// Parts of a workgroup that share the columns.
    pub parts: u32,
}

impl Policy {
    /// Mesa's lavapipe as it is by default.
    pub const SOFTWARE: Policy = Policy::of(true, 8);
    /// The GPUs of Apple and NVIDIA.
    pub const GPU: Policy = Policy::of(false, 32);

    /// Of a device that was not measured.
    pub const fn of(software: bool, subgroup_size: u32) -> Policy {
        Policy { software, subgroup_size, side_by_side: software as u32, tuning: Tuning::NONE }
    }

    /// How weights are arranged. Woven loads are broadcasts only where a tile's lanes are a whole subgroup.
    pub fn arrangement(&self) -> Arrangement {
        match (self.software, self.subgroup_size) {
            (true, tile_rows @ (8 | 16)) => Arrangement::Woven { tile_rows },
            _ => Arrangement::Lanes,
        }
    }

    /// Whether what makes a row also prepares it for the norm that comes next ([`super::matrix::Ahead`]), so that the norm
    /// is no dispatch of its own. On a CPU driver each costs about 30 µs (lavapipe, Mesa 26.2.6, 2 cores, 2026-11).
    pub fn sums_ahead(&self) -> bool {
        self.arrangement() != Arrangement::Lanes
    }

    /// Whether products add up the partial sums of squares of their rows themselves, and there is no norm at all. For many
    /// tokens every workgroup would do so again for each of them: prefill of the demo model runs at 9400 t/s so, at
    /// 11200 t/s with norms. Small products are then one chain, which no norm parts: 4 sequences of the demo model decode 6000
    /// t/s so, 3000 with norms; rows of 1024 columns gain nothing (same device and date).
    pub fn sums_in_product(&self, tokens: u32) -> bool {
        self.sums_ahead() && tokens <= if self.side_by_side == 1 { 4 } else { 2 }
    }

    /// The same for a model whose layers have products of so many elements at most: one workgroup does none that are large.
    pub fn for_products(self, elements: u64) -> Policy {
        let large = elements > ALONE_ELEMENTS;
        Policy { side_by_side: if large && self.side_by_side == 1 { 0 } else { self.side_by_side }, ..self }
    }

    /// Whether mat_mul normalizes its input itself, for this many tokens.
    /// A CPU driver's few lanes would each do the whole norm again in every workgroup.
    pub fn fuses_norm(&self, tokens: u32) -> bool {
        !self.software && tokens <= 2
    }

    pub fn mat_mul(&self, layout: &Layout, tokens: u32, gate_up: bool) -> MatMulShape {
        let wide = match self.tuning.shape(Family { format: layout.format, gate_up }, tokens) {
            Some(shape) => MatMulShape { parts: shape.parts.min(layout.blocks()), ..shape },
            None if self.software => self.mat_mul_software(layout, tokens),
            None => self.mat_mul_gpu(layout, tokens),
        };
        // Gate and up tiles alternate: a lane needs both.
        MatMulShape { rows: if gate_up { wide.rows.max(2) } else { wide.rows.min(layout.tiles) }, ..wide }
    }

    /// Lanes of the one workgroup that samples an output, and how many of them load logits as one vector. On a GPU the
    /// number is a guess: many, since one workgroup must hide the latency of its loads.
    pub fn sample_lanes(&self, vocabulary: u32, logits_stride: u32) -> (u32, u32) {
        let whole = |lanes: u32| [vocabulary, logits_stride].iter().all(|extent| extent.is_multiple_of(4 * lanes));
        match self.arrangement() {
            Arrangement::Woven { tile_rows } if whole(tile_rows) => (tile_rows, tile_rows),
            _ if self.software => (32, 1),
            _ => (512, 1),
        }
    }

    fn mat_mul_software(&self, layout: &Layout, tokens: u32) -> MatMulShape {
        // As many sums as registers hold beside what takes the elements apart: CPUs with vectors of 16 floats have 32 of them
        // (lavapipe, Mesa 26.2.6, 16 lanes, 2 cores, 2026-11: docs/performance.md). Those with vectors of 8 have 16; none was
        // at hand to measure. One token has four sums at least, since a sum waits for its own multiply-adds.
        let (rows, tokens_max) = match layout.arrangement {
            Arrangement::Lanes => (4, 4),
            Arrangement::Woven { tile_rows } if tokens == 1 => (4, tile_rows / 2),
            Arrangement::Woven { tile_rows } => (layout.arrangement.strip(), tile_rows / 2),
        };
        MatMulShape { rows, tokens: tokens.next_power_of_two().min(tokens_max), parts: 1 }
    }

    fn mat_mul_gpu(&self, layout: &Layout, tokens: u32) -> MatMulShape {
        // The same for any number of tokens, so that a token's sums are taken in one order; never more than there are blocks.
        let parts = layout.blocks().min(4);
        match tokens {
            1 => MatMulShape { rows: 1, tokens: 1, parts },
            2..=4 => MatMulShape { rows: 2, tokens: 4, parts },
            _ => MatMulShape { rows: 2, tokens: 8, parts },
        }
    }
}
