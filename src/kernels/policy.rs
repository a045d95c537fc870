//! Tuning: pure functions from a device's nature and a shape to a kernel's geometry. Every constant names the device and
//! the date of its measurement.

use super::layout::{Arrangement, Layout};

/// Lanes of a repack workgroup; it is bound by memory everywhere, any small multiple of a subgroup does.
pub const REPACK_LOCAL_SIZE: u32 = 64;

/// On a CPU driver every workgroup of a few lanes does the whole norm again; up to this many weights that costs less than
/// handing one more dispatch to threads. On lavapipe (Mesa 26.2.6, 2 cores of an AMD EPYC, Zen 5, 2026-11) a model of 256
/// columns and at most 524,288 weights a matrix decodes 1.17 times as fast with its norms fused, one of 1024 columns and
/// 4 to 6 million 0.88 times (docs/performance.md).
const FUSED_NORM_WEIGHTS_MAX: u64 = 1 << 20;

/// What the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A CPU driver: few threads, wide vectors, cheap uniform loads, dear barriers.
    pub software: bool,
    /// Lanes of a subgroup.
    pub subgroup_size: u32,
}

/// Geometry of `mat_mul`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub const SOFTWARE: Policy = Policy { software: true, subgroup_size: 8 };
    /// The GPUs of Apple and NVIDIA.
    pub const GPU: Policy = Policy { software: false, subgroup_size: 32 };

    /// How weights are arranged. Woven loads are broadcasts only where a tile's lanes are a whole subgroup.
    pub fn arrangement(&self) -> Arrangement {
        match (self.software, self.subgroup_size) {
            (true, tile_rows @ (8 | 16)) => Arrangement::Woven { tile_rows },
            _ => Arrangement::Lanes,
        }
    }

    /// Whether mat_mul normalizes its input itself, for this many tokens and this many weights of a matrix.
    pub fn fuses_norm(&self, tokens: u32, weights: u64) -> bool {
        tokens <= 2 && (!self.software || weights <= FUSED_NORM_WEIGHTS_MAX)
    }

    /// The same for the norm before the head, where a GPU has very many workgroups.
    pub fn fuses_final_norm(&self, tokens: u32, weights: u64) -> bool {
        self.software && self.fuses_norm(tokens, weights)
    }

    pub fn mat_mul(&self, layout: &Layout, tokens: u32, gate_up: bool) -> MatMulShape {
        let wide = if self.software { self.mat_mul_software(tokens) } else { self.mat_mul_gpu(layout, tokens) };
        // Gate and up tiles alternate: a lane needs both.
        MatMulShape { rows: if gate_up { wide.rows.max(2) } else { wide.rows.min(layout.tiles) }, ..wide }
    }

    /// Lanes of the one workgroup that samples an output. On lavapipe (Mesa 26.2.6, 2 cores, 2026-11) 8 to 256 lie within
    /// a quarter of each other; on a GPU it is a guess: many, since one workgroup must hide the latency of its loads.
    pub fn sample_lanes(&self) -> u32 {
        if self.software { 32 } else { 512 }
    }

    fn mat_mul_software(&self, tokens: u32) -> MatMulShape {
        MatMulShape { rows: 4, tokens: tokens.next_power_of_two().min(4), parts: 1 }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_driver_fuses_norms_before_small_matrices_only() {
        let (small, large) = (256 * 1536, 1024 * 6144);
        for tokens in [1, 2] {
            assert!(Policy::SOFTWARE.fuses_norm(tokens, small) && !Policy::SOFTWARE.fuses_norm(tokens, large));
            assert!(
                Policy::SOFTWARE.fuses_final_norm(tokens, small) && !Policy::SOFTWARE.fuses_final_norm(tokens, large)
            );
            assert!(Policy::GPU.fuses_norm(tokens, large) && !Policy::GPU.fuses_final_norm(tokens, small));
        }
        assert!(!Policy::SOFTWARE.fuses_norm(3, small) && !Policy::GPU.fuses_norm(3, small));
    }
}
