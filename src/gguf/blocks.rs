//! Block formats: how ggml packs weights. Sizes, names, and the exact values that a block stands for. It knows nothing
//! of tensors, files or devices. A block is `block_elements` consecutive values of a row in `block_bytes` bytes;
//! numbers are little-endian. Source of the layouts: ggml's `ggml-common.h`.

use half::{bf16, f16};

/// The weight formats that are supported, by their number in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(non_camel_case_types)]
pub enum BlockFormat {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    BF16 = 30,
}

use BlockFormat::*;

impl BlockFormat {
    pub const ALL: [BlockFormat; 11] = [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K];

    /// The format with this number in a GGUF file.
    pub fn from_id(id: u32) -> Option<BlockFormat> {
        BlockFormat::ALL.into_iter().find(|format| format.id() == id)
    }

    pub fn id(self) -> u32 {
        self as u32
    }

    /// As ggml writes it: `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            F32 => "F32",
            F16 => "F16",
            BF16 => "BF16",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q4_K => "Q4_K",
            Q5_K => "Q5_K",
            Q6_K => "Q6_K",
        }
    }

    /// The suffix of kernel variants: `q4_k`.
    pub fn variant(self) -> &'static str {
        match self {
            F32 => "f32",
            F16 => "f16",
            BF16 => "bf16",
            Q4_0 => "q4_0",
            Q4_1 => "q4_1",
            Q5_0 => "q5_0",
            Q5_1 => "q5_1",
            Q8_0 => "q8_0",
            Q4_K => "q4_k",
            Q5_K => "q5_k",
            Q6_K => "q6_k",
        }
    }

    /// Values in a block.
    pub const fn block_elements(self) -> usize {
        match self {
            F32 | F16 | BF16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => 32,
            Q4_K | Q5_K | Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            F32 => 4,
            F16 | BF16 => 2,
            Q4_0 => 2 + 16,
            Q4_1 => 2 + 2 + 16,
            Q5_0 => 2 + 4 + 16,
            Q5_1 => 2 + 2 + 4 + 16,
            Q8_0 => 2 + 32,
            Q4_K => 2 + 2 + 12 + 128,
            Q5_K => 2 + 2 + 12 + 32 + 128,
            Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of `cols` values; none when `cols` is not a whole number of blocks or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_elements()) {
            return None;
        }
        (cols / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Writes the values that `bytes` stand for to `out`: any number of whole blocks, so any number of rows. The
    /// result is bit for bit ggml's: every product is exact in f32, so only the last addition rounds.
    ///
    /// # Panics
    /// When `bytes` is not exactly the blocks of `out.len()` values.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "{} bytes for {} values", self.name(), out.len());
        let unpack = match self {
            F32 => |block: &[u8], out: &mut [f32]| out[0] = f32::from_bits(u32_at(block, 0)),
            F16 => |block: &[u8], out: &mut [f32]| out[0] = f16_at(block, 0),
            BF16 => |block: &[u8], out: &mut [f32]| out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
            Q4_0 => unpack_q4_0,
            Q4_1 => unpack_q4_1,
            Q5_0 => unpack_q5_0,
            Q5_1 => unpack_q5_1,
            Q8_0 => unpack_q8_0,
            Q4_K => unpack_q4_k,
            Q5_K => unpack_q5_k,
            Q6_K => unpack_q6_k,
        };
        for (block, out) in bytes.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block_elements())) {
            unpack(block, out);
        }
    }
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Scale, 16 bytes: low nibbles are values 0..16, high nibbles 16..32, each less 8.
fn unpack_q4_0(block: &[u8], out: &mut [f32]) {
    let scale = f16_at(block, 0);
    for (i, quants) in block[2..].iter().enumerate() {
        out[i] = f32::from((quants & 15) as i8 - 8) * scale;
        out[i + 16] = f32::from((quants >> 4) as i8 - 8) * scale;
    }
}

/// Scale, minimum, 16 bytes of nibbles as in Q4_0.
fn unpack_q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    for (i, quants) in block[4..].iter().enumerate() {
        out[i] = f32::from(quants & 15) * scale + minimum;
        out[i + 16] = f32::from(quants >> 4) * scale + minimum;
    }
}

/// The fifth bits of values `i` and `i + 16`, in place.
fn fifth_bits(bits: u32, i: usize) -> (u8, u8) {
    (((bits >> i) & 1) as u8 * 16, ((bits >> (i + 16)) & 1) as u8 * 16)
}

/// Scale, 32 fifth bits, 16 bytes of nibbles as in Q4_0; each value less 16.
fn unpack_q5_0(block: &[u8], out: &mut [f32]) {
    let (scale, bits) = (f16_at(block, 0), u32_at(block, 2));
    for (i, quants) in block[6..].iter().enumerate() {
        let (low, high) = fifth_bits(bits, i);
        out[i] = f32::from((quants & 15 | low) as i8 - 16) * scale;
        out[i + 16] = f32::from((quants >> 4 | high) as i8 - 16) * scale;
    }
}

/// Scale, minimum, 32 fifth bits, 16 bytes of nibbles as in Q4_0.
fn unpack_q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum, bits) = (f16_at(block, 0), f16_at(block, 2), u32_at(block, 4));
    for (i, quants) in block[8..].iter().enumerate() {
        let (low, high) = fifth_bits(bits, i);
        out[i] = f32::from(quants & 15 | low) * scale + minimum;
        out[i + 16] = f32::from(quants >> 4 | high) * scale + minimum;
    }
}

/// Scale, 32 signed bytes.
fn unpack_q8_0(block: &[u8], out: &mut [f32]) {
    let scale = f16_at(block, 0);
    for (out, quant) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*quant as i8) * scale;
    }
}

/// The 6-bit scale and minimum of sub-block `i` (0..8) from the 12 bytes that Q4_K and Q5_K pack them in: the first
/// four of each in the low six bits of a byte, the last four in nibbles plus the two bits left over above.
fn k_scale_minimum(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, minimum) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let nibbles = packed[i + 4];
        ((nibbles & 15) | (packed[i - 4] >> 6) << 4, (nibbles >> 4) | (packed[i] >> 6) << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// Scale of scales, scale of minimums, 12 bytes of scales and minimums, 128 bytes: each 32 bytes hold two sub-blocks
/// of 32 values, low nibbles first.
fn unpack_q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_minimum) = k_scale_minimum(&block[4..16], i);
        let (sub_scale, sub_minimum) = (scale * sub_scale, minimum * sub_minimum);
        let quants = &block[16 + i / 2 * 32..][..32];
        for (out, quants) in out.iter_mut().zip(quants) {
            let quant = quants >> (i % 2 * 4) & 15;
            *out = sub_scale * f32::from(quant) - sub_minimum;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `i` of byte `j` belongs to value `j` of sub-block `i`.
fn unpack_q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_minimum) = k_scale_minimum(&block[4..16], i);
        let (sub_scale, sub_minimum) = (scale * sub_scale, minimum * sub_minimum);
        let quants = &block[48 + i / 2 * 32..][..32];
        for ((out, quants), fifth) in out.iter_mut().zip(quants).zip(&block[16..48]) {
            let quant = quants >> (i % 2 * 4) & 15 | (fifth >> i & 1) << 4;
            *out = sub_scale * f32::from(quant) - sub_minimum;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales of 16 values, scale of scales. Each half of
/// the block has 64 bytes of nibbles and 32 of pairs for four runs of 32 values: runs 0 and 1 in the low nibbles of
/// the first and second 32 bytes, runs 2 and 3 in the high ones; run `r` in bits `2r` of the pairs. Values less 32.
fn unpack_q6_k(block: &[u8], out: &mut [f32]) {
    let scale = f16_at(block, 208);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (half, run) = (i / 4, i % 4);
        let nibbles = &block[half * 64 + run % 2 * 32..][..32];
        let pairs = &block[128 + half * 32..][..32];
        for (j, out) in out.iter_mut().enumerate() {
            let low = nibbles[j] >> (run / 2 * 4) & 15;
            let quant = (low | (pairs[j] >> (run * 2) & 3) << 4) as i8 - 32;
            let sub_scale = block[192 + i * 2 + j / 16] as i8;
            *out = scale * f32::from(sub_scale) * f32::from(quant);
        }
    }
}
