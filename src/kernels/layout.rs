//! The memory layout of a repacked matrix: where its planes start (`shaders/lib/quant.glsl` says what they hold).

use crate::gguf::blocks::BlockFormat;
use crate::plan::Tensor;

/// How a matrix's rows and columns are dealt to words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Tiles of 32 rows; a lane loads 16 bytes of its own row.
    Lanes,
    /// Tiles of 8 or 16 rows; a word holds one column of several, and lanes load it together.
    Woven { tile_rows: u32 },
}

impl Arrangement {
    pub fn tile_rows(self) -> u32 {
        match self {
            Arrangement::Lanes => 32,
            Arrangement::Woven { tile_rows } => tile_rows,
        }
    }

    /// Tiles that lie side by side in memory: those of a workgroup, 32 rows, which then reads one stream from one end to the
    /// other, so that a CPU's prefetching keeps up (docs/performance.md).
    pub fn strip(self) -> u32 {
        match self {
            Arrangement::Lanes => 1,
            Arrangement::Woven { tile_rows } => 32 / tile_rows,
        }
    }

    /// Whether a matrix may begin at this row of a stack.
    pub fn divides(self, first_row: u32) -> bool {
        self == Arrangement::Lanes || first_row.is_multiple_of(self.tile_rows())
    }
}

/// Columns of a block.
pub const BLOCK_COLS: u32 = 32;

/// How many units of each plane one block of 32 columns of one row takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// Words of low bits.
    pub quant_words: u32,
    /// Bits above the fourth, a word for each.
    pub high_words: u32,
    /// Halves of scales; one half is stored in a word that two blocks share.
    pub scale_halves: u32,
    /// Words of super-block scales for eight blocks.
    pub super_words: u32,
}

impl Units {
    pub fn of(format: BlockFormat) -> Units {
        let (quant_words, high_words, scale_halves, super_words) = match format {
            BlockFormat::F32 => (32, 0, 0, 0),
            BlockFormat::F16 | BlockFormat::BF16 => (16, 0, 0, 0),
            BlockFormat::Q8_0 => (8, 0, 1, 0),
            BlockFormat::Q4_0 => (4, 0, 1, 0),
            BlockFormat::Q4_1 => (4, 0, 2, 0),
            BlockFormat::Q5_0 => (4, 1, 1, 0),
            BlockFormat::Q5_1 => (4, 1, 2, 0),
            BlockFormat::Q4_K => (4, 0, 1, 1),
            BlockFormat::Q5_K => (4, 1, 1, 1),
            BlockFormat::Q6_K => (4, 2, 1, 1),
        };
        Units { quant_words, high_words, scale_halves, super_words }
    }
}

/// A repacked matrix's shape and planes. Offsets are in 32-bit words from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub format: BlockFormat,
    pub arrangement: Arrangement,
    pub cols: u32,
    pub tiles: u32,
    pub high: u32,
    pub scales: u32,
    pub supers: u32,
    pub bytes: u64,
}

/// A matrix whose planes cannot be addressed.
#[derive(Debug, thiserror::Error)]
#[error("a {format} matrix of {tiles} tiles of rows and {cols} columns is too large, or its columns no multiple of {multiple}", format = .format.name())]
pub struct Unaddressable {
    format: BlockFormat,
    tiles: u32,
    cols: u32,
    multiple: u32,
}

impl Layout {
    /// A matrix of `tiles` tiles of rows. `cols` must be a multiple of the format's block, and of 4.
    pub fn new(format: BlockFormat, arrangement: Arrangement, tiles: u32, cols: u32) -> Result<Layout, Unaddressable> {
        let multiple = (format.block_elements() as u32).max(4);
        let unaddressable = || Unaddressable { format, tiles, cols, multiple };
        if cols == 0 || tiles == 0 || !cols.is_multiple_of(multiple) {
            return Err(unaddressable());
        }
        let units = Units::of(format);
        let lanes =
            u64::from(tiles).next_multiple_of(u64::from(arrangement.strip())) * u64::from(arrangement.tile_rows());
        let blocks = u64::from(cols.div_ceil(BLOCK_COLS));
        let lane_blocks = lanes.checked_mul(blocks).ok_or_else(unaddressable)?;
        let mut words = 0u64;
        let mut plane = |words_long: Option<u64>| -> Result<u32, Unaddressable> {
            let start = words;
            words = words_long.and_then(|long| start.checked_add(long)).ok_or_else(unaddressable)?.next_multiple_of(4);
            u32::try_from(start).map_err(|_| unaddressable())
        };
        plane(lane_blocks.checked_mul(u64::from(units.quant_words)))?;
        let high = plane(lane_blocks.checked_mul(u64::from(units.high_words)))?;
        let scale_words = (blocks * u64::from(units.scale_halves)).div_ceil(2);
        let scales = plane(lanes.checked_mul(scale_words))?;
        let supers = plane(Some(lanes * (blocks / 8) * u64::from(units.super_words)))?;
        // The repacking kernel addresses the scales in halves.
        u32::try_from(words.checked_mul(2).ok_or_else(unaddressable)?).map_err(|_| unaddressable())?;
        Ok(Layout { format, arrangement, cols, tiles, high, scales, supers, bytes: words * 4 })
    }

    /// Blocks of columns in a row.
    pub fn blocks(&self) -> u32 {
        self.cols.div_ceil(BLOCK_COLS)
    }
}

/// A repacked matrix in device memory.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub tensor: Tensor,
    pub layout: Layout,
    /// Rows that mean something; the last tile may be padded. For interleaved tiles: of one of the two matrices.
    pub rows: u32,
}
