//! Measures which geometry a device multiplies fastest with, and keeps what came of it in the folder of compiled kernels. The
//! geometries that are tried are [`crate::kernels::tuning`]'s.

use super::Gpu;
use super::kept;
use crate::kernels::layout::{Layout, Matrix};
use crate::kernels::matrix::{Epilogue, MatMul, Norm};
use crate::kernels::policy::{MatMulShape, Policy};
use crate::kernels::tuning::{CLASSES, Family, Product, Tuning, candidates, parts};
use crate::plan::{Command, Executor, ExecutorError, Plan, Region, Tensor};
use std::path::PathBuf;

/// Bytes of weights that products take turns in: more than a GPU's caches hold, since a model's layers do not stay there.
const WEIGHTS_BYTES: u64 = 256 << 20;
/// Bytes of a matrix; larger ones lose rows.
const MATRIX_BYTES_MAX: u64 = 16 << 20;
/// Matrices of a kind in one measurement.
const MATRICES_MAX: u32 = 4;
/// Tokens that the geometry of a class is measured with; the last class is that of prompts.
const TOKENS: [u32; CLASSES.len()] = [1, 2, 4, 32];
/// The best of so many runs counts.
const RUNS: usize = 5;

/// The geometries for a model's products on a device that holds no region yet: those that were kept, unless `again`, and for
/// other families measured now and kept. Also says how many families were measured. The device is left as it was.
pub fn tune(
    gpu: &mut Gpu,
    policy: &Policy,
    products: &[Product],
    again: bool,
) -> Result<(Tuning, usize), ExecutorError> {
    let mut tuning = read(gpu, policy);
    let mut wanted: Vec<Family> = Vec::new();
    for family in products.iter().map(Product::family) {
        if (again || tuning.get(family).is_none()) && !wanted.contains(&family) {
            wanted.push(family);
        }
    }
    if wanted.is_empty() {
        return Ok((tuning, 0));
    }
    let measured = measure(gpu, policy, products, &wanted, &mut tuning);
    gpu.forget()?;
    measured?;
    write(gpu, &tuning);
    Ok((tuning, wanted.len()))
}

fn file(gpu: &Gpu) -> Option<(PathBuf, String)> {
    let (folder, identity) = gpu.kept()?;
    Some((identity.path(folder, "tuning", "json"), identity.text()))
}

fn read(gpu: &Gpu, policy: &Policy) -> Tuning {
    let Some((path, identity)) = file(gpu) else { return Tuning::NONE };
    let found = match kept::read(&path) {
        Ok(None) => return Tuning::NONE,
        Ok(Some(bytes)) => Tuning::read(&bytes, &identity, policy),
        Err(error) => Err(error.to_string()),
    };
    found.unwrap_or_else(|reason| {
        tracing::info!(path = %path.display(), reason, "measured geometries are not used, and measured again");
        Tuning::NONE
    })
}

fn write(gpu: &Gpu, tuning: &Tuning) {
    let Some((path, identity)) = file(gpu) else { return };
    if let Err(error) = kept::write(&path, tuning.write(&identity).as_bytes()) {
        tracing::warn!(path = %path.display(), %error, "measured geometries cannot be kept, the next start measures again");
    }
}

fn measure(
    gpu: &mut Gpu,
    policy: &Policy,
    products: &[Product],
    wanted: &[Family],
    tuning: &mut Tuning,
) -> Result<(), ExecutorError> {
    let pieces: Vec<Product> = products.iter().map(piece).collect();
    let (mut most, mut all) = (0, 0);
    for &Product { layout, count, .. } in &pieces {
        most = most.max(layout.bytes);
        all += layout.bytes.next_multiple_of(256) * u64::from(count);
    }
    let bytes =
        all.min(WEIGHTS_BYTES).min(gpu.info().device_local_bytes() / 8).min(gpu.largest_region_bytes()).max(most);
    gpu.allocate(Region::Weights(0), bytes)?;
    let floats = |extent: fn(&Product) -> u32| {
        u64::from(TOKENS[CLASSES.len() - 1]) * 4 * u64::from(pieces.iter().map(extent).max().unwrap_or(0))
    };
    let (x_bytes, y_bytes) = (floats(|product| product.layout.cols).next_multiple_of(256), floats(outputs));
    gpu.allocate(Region::Arena, x_bytes + y_bytes)?;
    let mut probe = Probe {
        gpu,
        policy: *policy,
        weights: Tensor::new(Region::Weights(0), 0, bytes),
        x: Tensor::new(Region::Arena, 0, x_bytes),
        y: Tensor::new(Region::Arena, x_bytes, y_bytes),
    };
    for &family in wanted {
        let of_family: Vec<_> = pieces.iter().filter(|product| product.family() == family).copied().collect();
        let shapes = probe.shapes(family, &of_family)?;
        tracing::debug!(format = family.format.name(), family.gate_up, ?shapes, "measured");
        tuning.set(family, shapes);
    }
    Ok(())
}

/// A product with so few rows that several matrices fit memory, in whole strips and pairs of gate and up, and with so few
/// matrices.
fn piece(product: &Product) -> Product {
    let Layout { format, arrangement, cols, tiles, bytes, .. } = product.layout;
    let step = 2 * arrangement.strip();
    let fitting = u64::from(tiles) * MATRIX_BYTES_MAX / bytes.max(1) / u64::from(step) * u64::from(step);
    let tiles = tiles.min(u32::try_from(fitting).unwrap_or(u32::MAX).max(step));
    let layout = Layout::new(format, arrangement, tiles, cols).expect("a part of a matrix that was placed");
    Product { layout, count: product.count.min(MATRICES_MAX), ..*product }
}

/// Rows of y.
fn outputs(product: &Product) -> u32 {
    product.layout.tiles * product.layout.arrangement.tile_rows() / if product.gate_up { 2 } else { 1 }
}

struct Probe<'a> {
    gpu: &'a mut Gpu,
    policy: Policy,
    weights: Tensor,
    x: Tensor,
    y: Tensor,
}

impl Probe<'_> {
    /// The fastest geometries: first the number of parts that is best for one token, then all with it.
    fn shapes(&mut self, family: Family, products: &[Product]) -> Result<[MatMulShape; CLASSES.len()], ExecutorError> {
        let arrangement = self.policy.arrangement();
        let of_class = |class, parts| candidates(arrangement, family.gate_up, class, parts);
        let single: Vec<_> = parts(arrangement).iter().flat_map(|&parts| of_class(0, parts)).collect();
        let mut shapes = [self.fastest(family, products, 0, &single)?; CLASSES.len()];
        for class in 1..CLASSES.len() {
            shapes[class] = self.fastest(family, products, class, &of_class(class, shapes[0].parts))?;
        }
        Ok(shapes)
    }

    fn fastest(
        &mut self,
        family: Family,
        products: &[Product],
        class: usize,
        shapes: &[MatMulShape],
    ) -> Result<MatMulShape, ExecutorError> {
        let (mut best, mut refused) = (None, None);
        for &shape in shapes {
            self.policy.tuning.set(family, [shape; CLASSES.len()]);
            match self.best_us(&self.plan(products, TOKENS[class])) {
                Ok(time_us) if best.is_none_or(|(least_us, _)| time_us < least_us) => best = Some((time_us, shape)),
                Ok(_) => {}
                // A driver may have too few registers for as many lanes; another geometry needs fewer.
                Err(error @ ExecutorError::Pipeline { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (best, refused) {
            (Some((_, shape)), _) => Ok(shape),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(shapes[0]),
        }
    }

    /// The least time of a plan.
    fn best_us(&mut self, plan: &Plan) -> Result<f64, ExecutorError> {
        let mut least_us = f64::INFINITY;
        for _ in 0..RUNS {
            least_us = least_us.min(self.gpu.time(std::slice::from_ref(plan))?.times_us[0]);
        }
        Ok(least_us)
    }

    /// All products, one behind the other as in a model, with matrices that take turns in memory.
    fn plan(&self, products: &[Product], tokens: u32) -> Plan {
        let mut commands = Vec::new();
        let mut at = 0;
        for product in products {
            for _ in 0..product.count {
                let bytes = product.layout.bytes;
                if at + bytes > self.weights.bytes {
                    at = 0;
                }
                let matrix =
                    Matrix { tensor: self.weights.part(at, bytes), layout: product.layout, rows: outputs(product) };
                at = (at + bytes).next_multiple_of(256);
                let product = MatMul {
                    x: &self.x,
                    weight: &matrix,
                    norm: Norm::None,
                    bias: None,
                    epilogue: if product.gate_up { Epilogue::GateUp } else { Epilogue::Store },
                    tokens,
                    x_stride: product.layout.cols,
                    y_stride: outputs(product),
                };
                let dispatch = product.dispatch(&mut self.y.clone(), None, &self.policy);
                commands.extend([Command::Barrier, Command::Dispatch(dispatch)]);
            }
        }
        Plan { name: "tuning".to_owned(), commands, arena_bytes: self.x.bytes + self.y.bytes }
    }
}
