//! Twins of `mat_mul`, `embed` and `repack`, by way of a repacked matrix read element by element.

use super::{Memory, norm::inverse_rms};
use crate::gguf::blocks::BlockFormat;
use crate::kernels::layout::{BLOCK_COLS, Layout, TILE_ROWS, Units};
use crate::kernels::{embed, mat_mul, repack};
use crate::plan::Kernel;
use half::{bf16, f16};

/// The format that a variant's name ends with.
pub(super) fn format_of(kernel: &Kernel) -> BlockFormat {
    let suffix = &kernel.name[kernel.family.len() + 1..];
    let found = BlockFormat::ALL.into_iter().find(|format| format.variant() == suffix);
    found.unwrap_or_else(|| panic!("{} names no weight format", kernel.name))
}

/// A repacked matrix as words, with what is needed to find an element.
struct Tiles<'a> {
    words: &'a [u32],
    layout: Layout,
    units: Units,
}

impl<'a> Tiles<'a> {
    fn new(words: &'a [u32], format: BlockFormat, tiles: u32, cols: u32) -> Tiles<'a> {
        let layout = Layout::new(format, tiles, cols).expect("the dispatch was made from such a layout");
        Tiles { words, layout, units: Units::of(format) }
    }

    fn half(&self, plane: u32, at: usize) -> u16 {
        let word = self.words[plane as usize + at / 2];
        if at.is_multiple_of(2) { word as u16 } else { (word >> 16) as u16 }
    }

    fn half_float(&self, plane: u32, at: usize) -> f32 {
        f16::from_bits(self.half(plane, at)).to_f32()
    }

    /// Where in the scales plane, in halves, a block's one half is.
    fn scale_at(&self, tile: usize, block: usize, lane: usize) -> usize {
        let pairs = self.layout.blocks().div_ceil(2) as usize;
        ((tile * pairs + block / 2) * 32 + lane) * 2 + block % 2
    }

    /// The unsigned integer of a quantized element, all bits together.
    fn integer(&self, lane_block: usize, tile_block: usize, lane: usize, e: usize) -> u32 {
        let chunks = self.units.quant_words as usize / 4;
        let word_of = |w: usize| self.words[((tile_block * chunks + w / 4) * 32 + lane) * 4 + w % 4];
        if self.units.quant_words == 8 {
            return (word_of(e / 4) >> (8 * (e % 4))) & 0xff;
        }
        let low = (word_of(e / 8) >> (8 * (e % 4) + 4 * ((e % 8) / 4))) & 0xf;
        let high_words = self.units.high_words as usize;
        let high = match high_words {
            0 => 0,
            bits => {
                let bit = e * bits;
                let word = self.words[self.layout.high as usize + lane_block * bits + bit / 32];
                (word >> (bit % 32)) & ((1 << bits) - 1)
            }
        };
        low | high << 4
    }

    /// One element of a row of a tile.
    fn element(&self, tile: usize, lane: usize, col: usize) -> f32 {
        let blocks = self.layout.blocks() as usize;
        let (block, e) = (col / 32, col % 32);
        let tile_block = tile * blocks + block;
        let lane_block = tile_block * 32 + lane;
        let super_block = (tile * (blocks / 8) + block / 8) * 32 + lane;
        let word = |per_word: usize| {
            let w = e / per_word;
            let chunks = self.units.quant_words as usize / 4;
            self.words[((tile_block * chunks + w / 4) * 32 + lane) * 4 + w % 4]
        };
        let n = |offset: i32| (self.integer(lane_block, tile_block, lane, e) as i32 - offset) as f32;
        let scale_at = self.scale_at(tile, block, lane);
        let scale = |at: usize| self.half_float(self.layout.scales, at);
        let bytes = || self.half(self.layout.scales, scale_at).to_le_bytes();
        let upper = |at: usize| self.half_float(self.layout.supers, at);
        match self.layout.format {
            BlockFormat::F32 => f32::from_bits(word(1)),
            BlockFormat::F16 => f16::from_bits((word(2) >> (16 * (e % 2))) as u16).to_f32(),
            BlockFormat::BF16 => bf16::from_bits((word(2) >> (16 * (e % 2))) as u16).to_f32(),
            BlockFormat::Q8_0 => scale(scale_at) * n(128),
            BlockFormat::Q4_0 => scale(scale_at) * n(8),
            BlockFormat::Q5_0 => scale(scale_at) * n(16),
            BlockFormat::Q4_1 | BlockFormat::Q5_1 => scale(lane_block * 2) * n(0) + scale(lane_block * 2 + 1),
            BlockFormat::Q4_K | BlockFormat::Q5_K => {
                let [factor, minimum] = bytes();
                upper(super_block * 2) * f32::from(factor) * n(0) - upper(super_block * 2 + 1) * f32::from(minimum)
            }
            BlockFormat::Q6_K => upper(super_block * 2) * f32::from(bytes()[e / 16] as i8) * n(32),
        }
    }
}

fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}

pub(super) fn mat_mul(kernel: &Kernel, args: &mat_mul::Resolved, memory: &mut Memory) {
    let tiles = Tiles::new(memory.view(&args.weight), format_of(kernel), args.tiles, args.cols);
    let (cols, rows) = (args.cols as usize, args.rows as usize);
    let gate_up = args.spec.epilogue == 3;
    let mut out = vec![0f32; args.tokens as usize * rows];
    for token in 0..args.tokens as usize {
        let x = &memory.view::<f32>(&args.x)[token * args.x_stride as usize..][..cols];
        let (x, factor): (Vec<f64>, f32) = match args.spec.norm {
            1 => {
                let gain = memory.view::<f32>(&args.gain);
                let scaled = x.iter().zip(gain).map(|(x, gain)| f64::from(x * gain)).collect();
                (scaled, inverse_rms(x, args.eps))
            }
            2 => (x.iter().map(|&x| f64::from(x)).collect(), memory.view::<f32>(&args.scale)[token]),
            _ => (x.iter().map(|&x| f64::from(x)).collect(), 1.0),
        };
        let product = |tile: usize, lane: usize| -> f32 {
            let sum: f64 = (0..cols).map(|col| f64::from(tiles.element(tile, lane, col)) * x[col]).sum();
            (sum * f64::from(factor)) as f32
        };
        for row in 0..rows {
            let (tile, lane) = (row / 32, row % 32);
            let bias = if args.spec.bias { memory.view::<f32>(&args.bias)[row] } else { 0.0 };
            let other = |at: usize| memory.view::<f32>(&args.other)[at];
            let at = token * args.y_stride as usize + row;
            out[token * rows + row] = if gate_up {
                silu(product(tile * 2, lane) + bias) * product(tile * 2 + 1, lane)
            } else {
                let sum = product(tile, lane) + bias;
                match args.spec.epilogue {
                    1 => sum + other(at),
                    2 => sum * silu(other(at)),
                    _ => sum,
                }
            };
        }
    }
    for (token, values) in out.chunks_exact(rows).enumerate() {
        memory.view_mut::<f32>(&args.y)[token * args.y_stride as usize..][..rows].copy_from_slice(values);
    }
}

pub(super) fn embed(kernel: &Kernel, args: &embed::Resolved, memory: &mut Memory) {
    let cols = args.cols as usize;
    for row in 0..args.groups[0] as usize {
        let crate::kernels::Row { token, live, .. } = memory.view(&args.rows)[row];
        let values: Vec<f32> = if live == 0 || token >= args.vocabulary {
            vec![0.0; cols]
        } else {
            let tiles = args.vocabulary.div_ceil(TILE_ROWS);
            let tiles = Tiles::new(memory.view(&args.weight), format_of(kernel), tiles, args.cols);
            (0..cols).map(|col| tiles.element(token as usize / 32, token as usize % 32, col)).collect()
        };
        memory.view_mut::<f32>(&args.y)[row * cols..][..cols].copy_from_slice(&values);
    }
}

pub(super) fn repack(kernel: &Kernel, args: &repack::Resolved, memory: &mut Memory) {
    let format = format_of(kernel);
    let (cols, rows) = (args.cols as usize, args.rows as usize);
    let file = memory.view::<u8>(&args.file).to_vec();
    let row_bytes = format.row_bytes(cols).expect("the layout has whole blocks");
    for row in 0..rows {
        let target = args.first_row as usize + row;
        let tile = target / 32 * args.tile_step as usize + args.first_tile as usize;
        let place = RowPlace { tile, lane: target % 32, blocks: cols.div_ceil(BLOCK_COLS as usize), args };
        let words = memory.view_mut::<u32>(&args.weight);
        repack_row(format, &file[row * row_bytes..][..row_bytes], &place, words);
    }
}

/// Where one row of a file goes.
struct RowPlace<'a> {
    tile: usize,
    lane: usize,
    blocks: usize,
    args: &'a repack::Resolved,
}

impl RowPlace<'_> {
    fn put_half(&self, words: &mut [u32], plane: u32, at: usize, half: u16) {
        let halves: &mut [u16] = bytemuck::cast_slice_mut(words);
        halves[plane as usize * 2 + at] = half;
    }

    fn put_element(&self, units: Units, words: &mut [u32], col: usize, value: u32) {
        let tile_block = self.tile * self.blocks + col / 32;
        let e = col % 32;
        let chunks = units.quant_words as usize / 4;
        let bits = units.quant_words as usize;
        let (w, shift) =
            if bits == 4 { (e / 8, 8 * (e % 4) + 4 * (e % 8 / 4)) } else { (e * bits / 32, e * bits % 32) };
        let mask = if bits == 32 { u32::MAX } else { (1 << bits) - 1 };
        let word = &mut words[((tile_block * chunks + w / 4) * 32 + self.lane) * 4 + w % 4];
        *word = *word & !(mask << shift) | (value & mask) << shift;
        let high_bits = units.high_words as usize;
        if high_bits > 0 {
            let bit = e * high_bits;
            let at = self.args.high as usize + (tile_block * 32 + self.lane) * high_bits + bit / 32;
            let mask = (1 << high_bits) - 1;
            words[at] = words[at] & !(mask << (bit % 32)) | (value >> 4) << (bit % 32);
        }
    }
}

/// Reads a row's blocks by the format's definition (ggml-common.h) and puts each integer and scale where it belongs.
fn repack_row(format: BlockFormat, bytes: &[u8], place: &RowPlace, words: &mut [u32]) {
    let units = Units::of(format);
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let block_bytes = format.block_bytes();
    let scales = place.args.scales;
    for col in 0..place.blocks * 32 {
        let value = if col >= place.args.cols as usize { 0 } else { integer_in_file(format, bytes, col) };
        place.put_element(units, words, col, value);
    }
    for block in 0..place.blocks {
        let at = (place.tile * place.blocks + block) * 32 + place.lane;
        let scale_at = ((place.tile * place.blocks.div_ceil(2) + block / 2) * 32 + place.lane) * 2 + block % 2;
        let from = block / (format.block_elements() / 32).max(1) * block_bytes;
        let super_at = (place.tile * (place.blocks / 8) + block / 8) * 32 + place.lane;
        let sub = block % 8;
        match format {
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => {}
            BlockFormat::Q8_0 | BlockFormat::Q4_0 | BlockFormat::Q5_0 => {
                place.put_half(words, scales, scale_at, half(from))
            }
            BlockFormat::Q4_1 | BlockFormat::Q5_1 => {
                place.put_half(words, scales, at * 2, half(from));
                place.put_half(words, scales, at * 2 + 1, half(from + 2));
            }
            BlockFormat::Q4_K | BlockFormat::Q5_K => {
                let s = &bytes[from + 4..from + 16];
                let (scale, minimum) = if sub < 4 {
                    (s[sub] & 63, s[sub + 4] & 63)
                } else {
                    (s[sub + 4] & 15 | (s[sub - 4] >> 6) << 4, s[sub + 4] >> 4 | (s[sub] >> 6) << 4)
                };
                place.put_half(words, scales, scale_at, u16::from_le_bytes([scale, minimum]));
                place.put_half(words, place.args.supers, super_at * 2, half(from));
                place.put_half(words, place.args.supers, super_at * 2 + 1, half(from + 2));
            }
            BlockFormat::Q6_K => {
                place.put_half(words, scales, scale_at, half(from + 192 + sub * 2));
                place.put_half(words, place.args.supers, super_at * 2, half(from + 208));
            }
        }
    }
}

/// The stored integer of one element, offset so that it is unsigned; for floats their bits.
fn integer_in_file(format: BlockFormat, row: &[u8], col: usize) -> u32 {
    let elements = format.block_elements();
    let block = &row[col / elements * format.block_bytes()..][..format.block_bytes()];
    let e = col % elements;
    let nibble = |start: usize| u32::from(block[start + e % 16] >> (4 * (e / 16)) & 15);
    let fifth = |start: usize| u32::from(block[start + e / 8] >> (e % 8) & 1) << 4;
    match format {
        BlockFormat::F32 => u32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        BlockFormat::F16 | BlockFormat::BF16 => u32::from(u16::from_le_bytes([block[0], block[1]])),
        BlockFormat::Q8_0 => u32::from(block[2 + e] ^ 0x80),
        BlockFormat::Q4_0 => nibble(2),
        BlockFormat::Q4_1 => nibble(4),
        BlockFormat::Q5_0 => nibble(6) | fifth(2),
        BlockFormat::Q5_1 => nibble(8) | fifth(4),
        BlockFormat::Q4_K | BlockFormat::Q5_K => {
            let start = if format == BlockFormat::Q4_K { 16 } else { 48 };
            let low = u32::from(block[start + e / 64 * 32 + e % 32] >> (4 * (e / 32 % 2)) & 15);
            let high = u32::from(block[16 + e % 32] >> (e / 32) & 1) << 4;
            if format == BlockFormat::Q4_K { low } else { low | high }
        }
        BlockFormat::Q6_K => {
            let (half, rest) = (e / 128, e % 128);
            let low = u32::from(block[half * 64 + rest % 64] >> (4 * (rest / 64)) & 15);
            let high = u32::from(block[128 + half * 32 + rest % 32] >> (2 * (rest / 32)) & 3);
            low | high << 4
        }
    }
}
