//! Typed dispatches of the kernels that touch weights: `mat_mul`, `embed`, `repack`.

use super::layout::{Arrangement, BLOCK_COLS, Layout, Matrix};
use super::{embed, mat_mul, policy, repack};
use crate::plan::{Dispatch, Kernel, Tensor};

/// The variant of a family for a matrix's format and arrangement.
fn variant(family: &[&'static Kernel], layout: &Layout) -> &'static Kernel {
    let woven = if layout.arrangement == Arrangement::Lanes { "" } else { "_woven" };
    let suffix = format!("_{}{woven}", layout.format.variant());
    let matches = |kernel: &&&'static Kernel| kernel.name.strip_prefix(kernel.family) == Some(suffix.as_str());
    family.iter().find(matches).unwrap_or_else(|| panic!("shaders/variants lacks {suffix}"))
}

/// What x still needs before it is multiplied.
pub enum Norm<'a> {
    None,
    /// Root-mean-square normalization with these gains, done by mat_mul itself.
    Fused {
        gain: &'a Tensor,
        eps: f32,
    },
    /// [`super::norm`] has multiplied x by its gains and left 1/rms of each row here.
    Scaled(&'a Tensor),
    /// What made x has multiplied it by its gains and left so many partial sums of squares for each row ([`Ahead`]).
    Summed {
        squares: &'a Tensor,
        count: u32,
        eps: f32,
    },
}

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    Store,
    /// y += other.
    Add(&'a Tensor),
    /// y = silu(other) × sum.
    Gate(&'a Tensor),
    /// The matrix alternates tiles of gate and up: y = silu(gate) × up.
    GateUp,
}

/// What a kernel prepares for the norm that its result goes through next: the result × `gain`, and its sum of squares in
/// parts. Only where a tile's lanes are one subgroup: [`policy::Policy::sums_ahead`].
pub struct Ahead<'a> {
    pub gain: &'a Tensor,
    /// As large as the result.
    pub normed: &'a mut Tensor,
    /// \[tokens\]\[[`Ahead::parts`]\] floats.
    pub squares: &'a mut Tensor,
}

impl Ahead<'_> {
    /// Partial sums of a row that a product with this matrix leaves. [`embed`] leaves one.
    pub fn parts(matrix: &Matrix) -> u32 {
        matrix.layout.tiles
    }
}

/// y = epilogue(weight · norm(x) + bias) for `tokens` rows of x.
pub struct MatMul<'a> {
    pub x: &'a Tensor,
    pub weight: &'a Matrix,
    pub norm: Norm<'a>,
    pub bias: Option<&'a Tensor>,
    pub epilogue: Epilogue<'a>,
    pub tokens: u32,
    /// Floats from one row of x, y (and the epilogue's other) to the next.
    pub x_stride: u32,
    pub y_stride: u32,
}

impl MatMul<'_> {
    /// `ahead`: with [`Norm::None`] only.
    pub fn dispatch(&self, y: &mut Tensor, ahead: Option<Ahead<'_>>, policy: &policy::Policy) -> Dispatch {
        let layout = &self.weight.layout;
        let kernel = variant(mat_mul::FAMILY, layout);
        let (norm, gain, scale, square_count, eps) = match self.norm {
            Norm::None => (0, self.x, self.x, 0, 0.0),
            Norm::Fused { gain, eps } => (1, gain, self.x, 0, eps),
            Norm::Scaled(scale) => (2, self.x, scale, 0, 0.0),
            Norm::Summed { squares, count, eps } => (3, self.x, squares, count, eps),
        };
        let sums_ahead = ahead.is_some();
        let mut unused = [y.clone(), y.clone()];
        let [unused_normed, unused_squares] = &mut unused;
        let Ahead { gain, normed, squares } =
            ahead.unwrap_or(Ahead { gain, normed: unused_normed, squares: unused_squares });
        let (epilogue, other) = match self.epilogue {
            Epilogue::Store => (0, self.x),
            Epilogue::Add(other) => (1, other),
            Epilogue::Gate(other) => (2, other),
            Epilogue::GateUp => (3, self.x),
        };
        let shape = policy.mat_mul(layout, self.tokens, epilogue == 3);
        let groups = [self.tokens.div_ceil(shape.tokens), layout.tiles.div_ceil(shape.rows), 1];
        let products = u64::from(self.weight.rows) * if epilogue == 3 { 2 } else { 1 };
        let flops = 2 * u64::from(self.tokens) * u64::from(layout.cols) * products;
        let others = [self.bias.map(|_| self.weight.rows), (norm == 1).then_some(layout.cols)];
        let others: u64 = others.into_iter().flatten().map(u64::from).sum();
        let rows_moved = u64::from(self.weight.rows) * if matches!(epilogue, 1 | 2) { 2 } else { 1 };
        let traffic = layout.bytes + 4 * others + 4 * u64::from(self.tokens) * (u64::from(layout.cols) + rows_moved);
        let spec = mat_mul::Spec {
            local_size: layout.arrangement.tile_rows() * shape.parts,
            rows: shape.rows,
            tokens: shape.tokens,
            norm,
            epilogue,
            bias: self.bias.is_some(),
            ragged: ![layout.cols, self.x_stride].iter().all(|extent| extent.is_multiple_of(BLOCK_COLS)),
            tile_rows: layout.arrangement.tile_rows(),
            ahead: sums_ahead,
        };
        let args = mat_mul::Args {
            x: self.x,
            gain,
            scale,
            weight: &self.weight.tensor,
            bias: self.bias.unwrap_or(self.x),
            other,
            y,
            normed,
            squares,
            cols: layout.cols,
            rows: self.weight.rows,
            tokens: self.tokens,
            x_stride: self.x_stride,
            y_stride: self.y_stride,
            tiles: layout.tiles,
            high: layout.high,
            scales: layout.scales,
            supers: layout.supers,
            square_count,
            eps,
        };
        mat_mul::dispatch(kernel, spec, args, groups).traffic(traffic).flops(flops)
    }
}

/// y[r] = the embedding of `rows[r]`'s token, for the first `count` rows.
pub fn embed(rows: &Tensor, weight: &Matrix, y: &mut Tensor, ahead: Option<Ahead<'_>>, count: u32) -> Dispatch {
    let layout = &weight.layout;
    let tile_rows = layout.arrangement.tile_rows();
    let spec =
        embed::Spec { local_size: if ahead.is_some() { tile_rows } else { 32 }, ahead: ahead.is_some(), tile_rows };
    let mut unused = [y.clone(), y.clone()];
    let [unused_normed, unused_squares] = &mut unused;
    let Ahead { gain, normed, squares } =
        ahead.unwrap_or(Ahead { gain: rows, normed: unused_normed, squares: unused_squares });
    let args = embed::Args {
        rows,
        weight: &weight.tensor,
        gain,
        y,
        normed,
        squares,
        cols: layout.cols,
        vocabulary: weight.rows,
        high: layout.high,
        scales: layout.scales,
        supers: layout.supers,
    };
    let traffic = u64::from(count)
        * (layout.bytes / u64::from(layout.tiles * layout.arrangement.tile_rows()) + 4 * u64::from(layout.cols));
    embed::dispatch(variant(embed::FAMILY, layout), spec, args, [count, 1, 1])
        .traffic(traffic)
        .flops(u64::from(count) * u64::from(layout.cols))
}

/// Where a file's rows go in a repacked matrix: row i becomes row l = first_row + i, in tile
/// (l / tile_rows) × tile_step + first_tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub first_row: u32,
    pub first_tile: u32,
    pub tile_step: u32,
}

/// Repacks `rows` rows of `file`, as the GGUF file holds them, into `weight`. In a woven matrix the placement's first row
/// is the first of a tile.
pub fn repack(file: &Tensor, rows: u32, weight: &mut Tensor, layout: &Layout, placement: Placement) -> Dispatch {
    let args = repack::Args {
        file,
        weight,
        rows,
        cols: layout.cols,
        first_row: placement.first_row,
        first_tile: placement.first_tile,
        tile_step: placement.tile_step,
        high: layout.high,
        scales: layout.scales,
        supers: layout.supers,
    };
    let tile_rows = layout.arrangement.tile_rows();
    let lanes = rows * layout.blocks();
    let groups = [lanes.div_ceil(policy::REPACK_LOCAL_SIZE), 1, 1];
    let spec = repack::Spec { local_size: policy::REPACK_LOCAL_SIZE, tile_rows };
    repack::dispatch(variant(repack::FAMILY, layout), spec, args, groups).traffic(2 * file.bytes)
}
