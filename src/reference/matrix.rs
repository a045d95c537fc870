//! Twins of `mat_mul`, `embed` and `repack`, by way of a repacked matrix read element by element.

use super::Memory;
use super::norm::{inverse_rms, inverse_rms_of};
use crate::gguf::blocks::BlockFormat;
use crate::kernels::layout::{Arrangement, Layout, Units};
use crate::kernels::{embed, mat_mul, repack};
use crate::plan::Kernel;
use half::{bf16, f16};

/// The format and arrangement that a variant's name ends with.
pub(super) fn format_of(kernel: &Kernel, tile_rows: u32) -> (BlockFormat, Arrangement) {
    let suffix = &kernel.name[kernel.family.len() + 1..];
    let (suffix, arrangement) = match suffix.strip_suffix("_woven") {
        Some(suffix) => (suffix, Arrangement::Woven { tile_rows }),
        None => (suffix, Arrangement::Lanes),
    };
    let found = BlockFormat::ALL.into_iter().find(|format| format.variant() == suffix);
    (found.unwrap_or_else(|| panic!("{} names no weight format", kernel.name)), arrangement)
}

/// Where the bits of one element, or the scales of one block, lie in a repacked matrix.
struct Place {
    layout: Layout,
    units: Units,
    /// Rows of a tile, columns' blocks, and which of them.
    tile_rows: usize,
    tile: usize,
    lane: usize,
    block: usize,
}

impl Place {
    fn new(layout: Layout, tile: usize, lane: usize, block: usize) -> Place {
        let tile_rows = layout.arrangement.tile_rows() as usize;
        Place { layout, units: Units::of(layout.format), tile_rows, tile, lane, block }
    }

    fn woven(&self) -> bool {
        self.layout.arrangement != Arrangement::Lanes
    }

    /// The number of the tile's block among those of all tiles, in the order of memory: tiles of a strip take turns.
    fn tile_block(&self, tile_blocks: usize, block: usize) -> usize {
        let strip = self.layout.arrangement.strip() as usize;
        (self.tile / strip * tile_blocks + block) * strip + self.tile % strip
    }

    fn blocks(&self) -> usize {
        self.layout.blocks() as usize
    }

    /// The block's number among those of all tiles.
    fn at(&self) -> usize {
        self.tile_block(self.blocks(), self.block)
    }

    /// Word and shift of the low bits of element `e`.
    fn quant(&self, e: usize) -> (usize, usize) {
        let bits = self.units.quant_words as usize;
        if self.woven() && bits >= 16 {
            let element = (self.at() * 32 + e) * self.tile_rows + self.lane;
            return (element * bits / 32, element * bits % 32);
        }
        let (w, shift) = if bits > 4 { (e * bits / 32, e * bits % 32) } else { (e / 8, 8 * (e % 4) + 4 * (e % 8 / 4)) };
        if self.woven() {
            // Tiles of a strip take turns.
            let strip = self.layout.arrangement.strip() as usize;
            let vector = (self.at() / strip * bits + w) * strip + self.at() % strip;
            return (vector * self.tile_rows + self.lane, shift);
        }
        (self.at() * self.tile_rows * bits + (w / 4 * 32 + self.lane) * 4 + w % 4, shift)
    }

    /// Word and shift of the bits above the fourth.
    fn high(&self, e: usize) -> (usize, usize) {
        let bits = self.units.high_words as usize;
        let (w, shift) = (e * bits / 32, 8 * (e % 4) + e / 4 * bits % 8);
        let word = if self.woven() {
            (self.at() * bits + w) * self.tile_rows + self.lane
        } else {
            (self.at() * self.tile_rows + self.lane) * bits + w
        };
        (self.layout.high as usize + word, shift)
    }

    /// The half, counted from the matrix's first, of the block's scale; of the first of a pair.
    fn scale(&self) -> usize {
        let plane = self.layout.scales as usize * 2;
        if self.units.scale_halves == 2 {
            return plane + (self.at() * self.tile_rows + self.lane) * 2;
        }
        let pair = self.tile_block(self.blocks().div_ceil(2), self.block / 2);
        plane + (pair * self.tile_rows + self.lane) * 2 + self.block % 2
    }

    /// The first half of the super-block's scales, or the lower one of its only scale, a float.
    fn upper(&self) -> usize {
        let row = self.tile_block(self.blocks() / 8, self.block / 8) * self.tile_rows + self.lane;
        (self.layout.supers as usize + row) * 2
    }
}

fn mask(bits: u32) -> u32 {
    if bits == 32 { u32::MAX } else { (1 << bits) - 1 }
}

/// A repacked matrix as words.
struct Tiles<'a> {
    words: &'a [u32],
    layout: Layout,
}

impl<'a> Tiles<'a> {
    fn new(words: &'a [u32], (format, arrangement): (BlockFormat, Arrangement), tiles: u32, cols: u32) -> Tiles<'a> {
        let layout = Layout::new(format, arrangement, tiles, cols).expect("the dispatch was made from such a layout");
        Tiles { words, layout }
    }

    /// One element of a row of a tile.
    fn element(&self, tile: usize, lane: usize, col: usize) -> f32 {
        let place = Place::new(self.layout, tile, lane, col / 32);
        let e = col % 32;
        let (at, shift) = place.quant(e);
        let low = (self.words[at] >> shift) & mask(place.units.quant_words);
        let n = |offset: i32| {
            let high = match place.units.high_words {
                0 => 0,
                bits => {
                    let (at, shift) = place.high(e);
                    (self.words[at] >> shift) & mask(bits)
                }
            };
            ((low | high << 4) as i32 - offset) as f32
        };
        let half = |at: usize| (self.words[at / 2] >> (16 * (at % 2))) as u16;
        let float = |at: usize| f16::from_bits(half(at)).to_f32();
        let bytes = || half(place.scale()).to_le_bytes();
        match self.layout.format {
            BlockFormat::F32 => f32::from_bits(low),
            BlockFormat::F16 => f16::from_bits(low as u16).to_f32(),
            BlockFormat::BF16 => bf16::from_bits(low as u16).to_f32(),
            BlockFormat::Q8_0 => float(place.scale()) * n(128),
            BlockFormat::Q4_0 => float(place.scale()) * n(8),
            BlockFormat::Q5_0 => float(place.scale()) * n(16),
            BlockFormat::Q4_1 | BlockFormat::Q5_1 => float(place.scale()) * n(0) + float(place.scale() + 1),
            BlockFormat::Q4_K | BlockFormat::Q5_K => {
                let [factor, minimum] = bytes();
                float(place.upper()) * f32::from(factor) * n(0) - float(place.upper() + 1) * f32::from(minimum)
            }
            BlockFormat::Q6_K => {
                f32::from_bits(self.words[place.upper() / 2]) * f32::from(bytes()[e / 16] as i8) * n(32)
            }
        }
    }
}

fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}

pub(super) fn mat_mul(kernel: &Kernel, args: &mat_mul::Resolved, memory: &mut Memory) {
    let tiles = Tiles::new(memory.view(&args.weight), format_of(kernel, args.spec.tile_rows), args.tiles, args.cols);
    let (cols, rows) = (args.cols as usize, args.rows as usize);
    let gate_up = args.spec.epilogue == 3;
    let tile_rows = tiles.layout.arrangement.tile_rows() as usize;
    let mut out = vec![0f32; args.tokens as usize * rows];
    for token in 0..args.tokens as usize {
        let x = &memory.view::<f32>(&args.x)[token * args.x_stride as usize..][..cols];
        let (x, factor): (Vec<f64>, f32) = match args.spec.norm {
            1 => {
                let gain = memory.view::<f32>(&args.gain);
                let scaled = x.iter().zip(gain).map(|(x, gain)| f64::from(x * gain)).collect();
                (scaled, inverse_rms(x, args.eps))
            }
            norm => {
                let scale = memory.view::<f32>(&args.scale);
                let count = args.square_count as usize;
                let factor = match norm {
                    2 => scale[token],
                    3 => inverse_rms_of(&scale[token * count..][..count], cols, args.eps),
                    _ => 1.0,
                };
                (x.iter().map(|&x| f64::from(x)).collect(), factor)
            }
        };
        let product = |tile: usize, lane: usize| -> f32 {
            let sum: f64 = (0..cols).map(|col| f64::from(tiles.element(tile, lane, col)) * x[col]).sum();
            (sum * f64::from(factor)) as f32
        };
        for row in 0..rows {
            let (tile, lane) = (row / tile_rows, row % tile_rows);
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
        if args.spec.ahead {
            let normed = times(values, memory.view(&args.gain));
            memory.view_mut::<f32>(&args.normed)[token * args.y_stride as usize..][..rows].copy_from_slice(&normed);
            let squares: Vec<f32> = values.chunks(tile_rows).map(sum_of_squares).collect();
            let tiles = args.tiles as usize;
            memory.view_mut::<f32>(&args.squares)[token * tiles..][..tiles].copy_from_slice(&squares);
        }
    }
}

fn times(values: &[f32], gain: &[f32]) -> Vec<f32> {
    values.iter().zip(gain).map(|(value, gain)| value * gain).collect()
}

fn sum_of_squares(values: &[f32]) -> f32 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>() as f32
}

pub(super) fn embed(kernel: &Kernel, args: &embed::Resolved, memory: &mut Memory) {
    let cols = args.cols as usize;
    for row in 0..args.groups[0] as usize {
        let crate::kernels::Row { token, live, .. } = memory.view(&args.rows)[row];
        let values: Vec<f32> = if live == 0 || token >= args.vocabulary {
            vec![0.0; cols]
        } else {
            let format = format_of(kernel, args.spec.tile_rows);
            let tile_rows = format.1.tile_rows();
            let count = args.vocabulary.div_ceil(tile_rows);
            let tiles = Tiles::new(memory.view(&args.weight), format, count, args.cols);
            let (tile, lane) = ((token / tile_rows) as usize, (token % tile_rows) as usize);
            (0..cols).map(|col| tiles.element(tile, lane, col)).collect()
        };
        memory.view_mut::<f32>(&args.y)[row * cols..][..cols].copy_from_slice(&values);
        if args.spec.ahead {
            let normed = times(&values, memory.view(&args.gain));
            memory.view_mut::<f32>(&args.normed)[row * cols..][..cols].copy_from_slice(&normed);
            memory.view_mut::<f32>(&args.squares)[row] = sum_of_squares(&values);
        }
    }
}

pub(super) fn repack(kernel: &Kernel, args: &repack::Resolved, memory: &mut Memory) {
    let (format, arrangement) = format_of(kernel, args.spec.tile_rows);
    let (cols, rows, tile_rows) = (args.cols as usize, args.rows as usize, arrangement.tile_rows() as usize);
    let file = memory.view::<u8>(&args.file).to_vec();
    let row_bytes = format.row_bytes(cols).expect("the layout has whole blocks");
    // Where planes start is the dispatch's word, not the layout's: the kernel is told so too.
    let layout =
        Layout { high: args.high, scales: args.scales, supers: args.supers, ..plain(format, arrangement, args.cols) };
    for row in 0..rows {
        let target = args.first_row as usize + row;
        let tile = target / tile_rows * args.tile_step as usize + args.first_tile as usize;
        let words = memory.view_mut::<u32>(&args.weight);
        for block in 0..layout.blocks() as usize {
            repack_block(
                &file[row * row_bytes..][..row_bytes],
                &Place::new(layout, tile, target % tile_rows, block),
                words,
            );
        }
    }
}

/// A layout of the right columns; its planes are those of one tile.
fn plain(format: BlockFormat, arrangement: Arrangement, cols: u32) -> Layout {
    Layout::new(format, arrangement, 1, cols).expect("the dispatch was made from such a layout")
}

/// Reads a block by the format's definition (ggml-common.h) and puts each integer and scale where it belongs.
fn repack_block(row: &[u8], place: &Place, words: &mut [u32]) {
    let format = place.layout.format;
    for e in 0..32 {
        let col = place.block * 32 + e;
        let value = if col < place.layout.cols as usize { integer_in_file(format, row, col) } else { 0 };
        let mut put = |(at, shift): (usize, usize), bits: u32, value: u32| {
            words[at] = words[at] & !(mask(bits) << shift) | (value & mask(bits)) << shift;
        };
        put(place.quant(e), place.units.quant_words, value);
        if place.units.high_words > 0 {
            put(place.high(e), place.units.high_words, value >> 4);
        }
    }
    let from = place.block / (format.block_elements() / 32).max(1) * format.block_bytes();
    let halves: &mut [u16] = bytemuck::cast_slice_mut(words);
    let half = |at: usize| u16::from_le_bytes([row[at], row[at + 1]]);
    let sub = place.block % 8;
    match format {
        BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => {}
        BlockFormat::Q8_0 | BlockFormat::Q4_0 | BlockFormat::Q5_0 => halves[place.scale()] = half(from),
        BlockFormat::Q4_1 | BlockFormat::Q5_1 => {
            halves[place.scale()] = half(from);
            halves[place.scale() + 1] = half(from + 2);
        }
        BlockFormat::Q4_K | BlockFormat::Q5_K => {
            let s = &row[from + 4..from + 16];
            let (scale, minimum) = if sub < 4 {
                (s[sub] & 63, s[sub + 4] & 63)
            } else {
                (s[sub + 4] & 15 | (s[sub - 4] >> 6) << 4, s[sub + 4] >> 4 | (s[sub] >> 6) << 4)
            };
            halves[place.scale()] = u16::from_le_bytes([scale, minimum]);
            halves[place.upper()] = half(from);
            halves[place.upper() + 1] = half(from + 2);
        }
        BlockFormat::Q6_K => {
            halves[place.scale()] = half(from + 192 + sub * 2);
            words[place.upper() / 2] = f16::from_bits(half(from + 208)).to_f32().to_bits();
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
