//! Which tensors a model has, where each goes in device memory, and the jobs that bring it there. Pure: nothing is
//! allocated or read, so the memory can be planned before the first byte.

use super::ModelError;
use super::architecture::{Architecture, Presence};
use super::dims::Dims;
use super::rope;
use crate::gguf::blocks::BlockFormat;
use crate::gguf::{Gguf, TensorInfo};
use crate::kernels::layout::{Arrangement, Layout, Matrix};
use crate::kernels::matrix::Placement;
use crate::kernels::policy::Policy;
use crate::kernels::tuning::Product;
use crate::plan::{Region, Tensor};
use std::collections::BTreeSet;

/// Bytes after which a new allocation is begun; every Vulkan 1.1 device allows 2³⁰ (`maxMemoryAllocationSize`).
const REGION_BYTES: u64 = 1 << 30;
/// Alignment of tensors inside a region.
const ALIGN_BYTES: u64 = 256;

pub struct Weights {
    pub embedding: Matrix,
    /// The embedding itself where the file ties them.
    pub head: Matrix,
    pub final_norm: Tensor,
    /// See [`rope::table`].
    pub rope: Tensor,
    pub layers: Vec<Layer>,
    /// Bytes of each [`Region::Weights`].
    pub region_bytes: Vec<u64>,
    pub jobs: Vec<Job>,
}

pub struct Layer {
    pub attention_norm: Tensor,
    /// Together they give a row of queries, keys and values.
    pub query_key_value: Vec<Projection>,
    pub query_key_value_bias: Option<Tensor>,
    pub query_key_norm: Option<(Tensor, Tensor)>,
    pub output: Matrix,
    pub output_bias: Option<Tensor>,
    pub feed_forward_norm: Tensor,
    pub gate_up: GateUp,
    pub down: Matrix,
}

/// A matrix that gives the outputs from `first_output` on.
pub struct Projection {
    pub matrix: Matrix,
    pub first_output: u32,
}

pub enum GateUp {
    /// Tiles of gate and up alternate.
    Interleaved(Matrix),
    /// The file has them in different formats.
    Separate { gate: Matrix, up: Matrix },
}

/// Something to bring to device memory.
pub enum Job {
    Matrix {
        name: String,
        weight: Tensor,
        layout: Layout,
        placement: Placement,
    },
    /// A vector, as 32-bit floats.
    Vector {
        name: String,
        weight: Tensor,
    },
    /// The table of rotary angles.
    Rope {
        weight: Tensor,
        positions: u32,
        factors: Option<String>,
    },
}

impl Weights {
    /// `positions`: the longest sequence to prepare for.
    pub fn place(
        architecture: &Architecture,
        dims: &Dims,
        gguf: &Gguf,
        positions: u32,
        policy: &Policy,
    ) -> Result<Weights, ModelError> {
        let mut placer = Placer { gguf, policy, region_bytes: Vec::new(), jobs: Vec::new(), used: BTreeSet::new() };
        let embedding = placer.matrix("token_embd.weight", dims.vocabulary, dims.width)?;
        let head = match gguf.opt_tensor("output.weight") {
            Some(_) => placer.matrix("output.weight", dims.vocabulary, dims.width)?,
            None => embedding.clone(),
        };
        let final_norm = placer.vector("output_norm.weight", dims.width)?;
        let rope = placer.rope(architecture, dims, positions)?;
        let layers = (0..dims.layers)
            .map(|index| placer.layer(architecture, dims, &format!("blk.{index}")))
            .collect::<Result<_, _>>()?;
        placer.refuse_leftovers()?;
        let Placer { region_bytes, jobs, .. } = placer;
        Ok(Weights { embedding, head, final_norm, rope, layers, region_bytes, jobs })
    }

    pub fn bytes(&self) -> u64 {
        self.region_bytes.iter().sum()
    }

    /// The matrices that a token is multiplied with, those of one shape together.
    pub fn products(&self) -> Vec<Product> {
        let of_layer = |layer: &Layer| {
            let mut matrices: Vec<_> = layer.query_key_value.iter().map(|part| (part.matrix.layout, false)).collect();
            matrices.extend([(layer.output.layout, false), (layer.down.layout, false)]);
            match &layer.gate_up {
                GateUp::Interleaved(both) => matrices.push((both.layout, true)),
                GateUp::Separate { gate, up } => matrices.extend([(gate.layout, false), (up.layout, false)]),
            }
            matrices
        };
        let mut products: Vec<Product> = Vec::new();
        for (layout, gate_up) in self.layers.iter().flat_map(of_layer).chain([(self.head.layout, false)]) {
            match products.iter_mut().find(|product| product.layout == layout && product.gate_up == gate_up) {
                Some(product) => product.count += 1,
                None => products.push(Product { layout, gate_up, count: 1 }),
            }
        }
        products
    }
}

struct Placer<'a> {
    gguf: &'a Gguf,
    policy: &'a Policy,
    region_bytes: Vec<u64>,
    jobs: Vec<Job>,
    used: BTreeSet<String>,
}

impl Placer<'_> {
    fn unusable(&self, problem: String) -> ModelError {
        ModelError::Unusable { file: self.gguf.file().to_owned(), problem }
    }

    fn allocate(&mut self, bytes: u64) -> Tensor {
        let fits = |used: &u64| used + bytes <= REGION_BYTES;
        if !self.region_bytes.last().is_some_and(fits) {
            self.region_bytes.push(0);
        }
        let part = self.region_bytes.len() - 1;
        let offset = self.region_bytes[part];
        self.region_bytes[part] = (offset + bytes).next_multiple_of(ALIGN_BYTES);
        Tensor::new(Region::Weights(part as u16), offset, bytes)
    }

    /// A tensor of exactly this shape, marked as used.
    fn tensor(&mut self, name: &str, rows: u32, cols: u32) -> Result<TensorInfo, ModelError> {
        let info = self.gguf.tensor(name)?.clone();
        if (info.rows, info.cols) != (rows as usize, cols as usize) {
            return Err(self.unusable(format!(
                "tensor {name:?} has {} rows of {} values, but the model's dimensions ask for {rows} rows of {cols}",
                info.rows, info.cols
            )));
        }
        self.used.insert(name.to_owned());
        Ok(info)
    }

    /// The layout of `matrices` matrices of `rows` rows each, whose tiles alternate.
    fn layout(
        &self,
        name: &str,
        format: BlockFormat,
        arrangement: Arrangement,
        [matrices, rows, cols]: [u32; 3],
    ) -> Result<Layout, ModelError> {
        let tiles = matrices * rows.div_ceil(arrangement.tile_rows());
        Layout::new(format, arrangement, tiles, cols)
            .map_err(|error| self.unusable(format!("tensor {name:?}: {error}")))
    }

    fn matrix(&mut self, name: &str, rows: u32, cols: u32) -> Result<Matrix, ModelError> {
        self.stacked(&[(name.to_owned(), rows)], cols)
    }

    /// Matrices of one format, the rows of one below those of the other.
    fn stacked(&mut self, parts: &[(String, u32)], cols: u32) -> Result<Matrix, ModelError> {
        let rows: u32 = parts.iter().map(|(_, rows)| rows).sum();
        let mut placed: Option<(Tensor, Layout)> = None;
        let mut first_row = 0;
        // Where a part would begin amid a tile, woven tiles do not suit.
        let above = parts.split_last().map_or(&[][..], |(_, above)| above);
        let arrangement = match self.policy.arrangement() {
            woven if above.iter().all(|(_, rows)| woven.divides(*rows)) => woven,
            _ => Arrangement::Lanes,
        };
        for (name, part_rows) in parts {
            let info = self.tensor(name, *part_rows, cols)?;
            let (weight, layout) = match &placed {
                Some(placed) => placed.clone(),
                None => {
                    let layout = self.layout(name, info.kind, arrangement, [1, rows, cols])?;
                    let weight = self.allocate(layout.bytes);
                    placed.insert((weight, layout)).clone()
                }
            };
            let placement = Placement { first_row, first_tile: 0, tile_step: 1 };
            self.jobs.push(Job::Matrix { name: name.clone(), weight, layout, placement });
            first_row += part_rows;
        }
        let (tensor, layout) = placed.ok_or_else(|| self.unusable("a matrix of no parts".into()))?;
        Ok(Matrix { tensor, layout, rows })
    }

    fn vector(&mut self, name: &str, count: u32) -> Result<Tensor, ModelError> {
        let weight = self.allocate(u64::from(count) * 4);
        self.vector_at(name, count, weight.clone())?;
        Ok(weight)
    }

    fn vector_at(&mut self, name: &str, count: u32, weight: Tensor) -> Result<(), ModelError> {
        self.tensor(name, 1, count)?;
        self.jobs.push(Job::Vector { name: name.to_owned(), weight });
        Ok(())
    }

    /// Whether a tensor that belongs to the family as `presence` says is there.
    fn has(&self, presence: Presence, name: &str) -> bool {
        match presence {
            Presence::Never => false,
            Presence::Always => true,
            Presence::Optional => self.gguf.opt_tensor(name).is_some(),
        }
    }

    fn rope(&mut self, architecture: &Architecture, dims: &Dims, positions: u32) -> Result<Tensor, ModelError> {
        let name = "rope_freqs.weight";
        let factors = self.has(architecture.frequency_factors, name).then(|| name.to_owned());
        if factors.is_some() {
            self.tensor(name, 1, dims.rotary / 2)?;
        }
        let weight = self.allocate(rope::table_bytes(dims, positions));
        self.jobs.push(Job::Rope { weight: weight.clone(), positions, factors });
        Ok(weight)
    }

    fn layer(&mut self, architecture: &Architecture, dims: &Dims, prefix: &str) -> Result<Layer, ModelError> {
        let name = |suffix: &str| format!("{prefix}.{suffix}");
        let (queries, keys) = (dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim);
        let query_key_norm = if self.has(architecture.query_key_norm, &name("attn_q_norm.weight")) {
            let query = self.vector(&name("attn_q_norm.weight"), dims.head_dim)?;
            Some((query, self.vector(&name("attn_k_norm.weight"), dims.head_dim)?))
        } else {
            None
        };
        let output_bias = if self.has(architecture.output_bias, &name("attn_output.bias")) {
            Some(self.vector(&name("attn_output.bias"), dims.width)?)
        } else {
            None
        };
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), dims.width)?,
            query_key_value: self.query_key_value(dims, prefix)?,
            query_key_value_bias: self.query_key_value_bias(architecture, dims, prefix, [queries, keys, keys])?,
            query_key_norm,
            output: self.matrix(&name("attn_output.weight"), dims.width, queries)?,
            output_bias,
            feed_forward_norm: self.vector(&name("ffn_norm.weight"), dims.width)?,
            gate_up: self.gate_up(dims, prefix)?,
            down: self.matrix(&name("ffn_down.weight"), dims.width, dims.feed_forward)?,
        })
    }

    /// Neighbours of one format become one matrix.
    fn query_key_value(&mut self, dims: &Dims, prefix: &str) -> Result<Vec<Projection>, ModelError> {
        let (queries, keys) = (dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim);
        let mut groups: Vec<(BlockFormat, Vec<(String, u32)>)> = Vec::new();
        for (suffix, rows) in [("attn_q.weight", queries), ("attn_k.weight", keys), ("attn_v.weight", keys)] {
            let name = format!("{prefix}.{suffix}");
            let format = self.gguf.tensor(&name)?.kind;
            match groups.last_mut() {
                Some((last, parts)) if *last == format => parts.push((name, rows)),
                _ => groups.push((format, vec![(name, rows)])),
            }
        }
        let mut first_output = 0;
        groups
            .into_iter()
            .map(|(_, parts)| {
                let matrix = self.stacked(&parts, dims.width)?;
                let projection = Projection { first_output, matrix };
                first_output += projection.matrix.rows;
                Ok(projection)
            })
            .collect()
    }

    fn query_key_value_bias(
        &mut self,
        architecture: &Architecture,
        dims: &Dims,
        prefix: &str,
        counts: [u32; 3],
    ) -> Result<Option<Tensor>, ModelError> {
        let names = ["attn_q.bias", "attn_k.bias", "attn_v.bias"].map(|suffix| format!("{prefix}.{suffix}"));
        if !self.has(architecture.query_key_value_bias, &names[0]) {
            return Ok(None);
        }
        let all = self.allocate(u64::from((dims.heads + 2 * dims.kv_heads) * dims.head_dim) * 4);
        let mut offset = 0;
        for (name, count) in names.iter().zip(counts) {
            self.vector_at(name, count, all.part(offset, u64::from(count) * 4))?;
            offset += u64::from(count) * 4;
        }
        Ok(Some(all))
    }

    fn gate_up(&mut self, dims: &Dims, prefix: &str) -> Result<GateUp, ModelError> {
        let names = [format!("{prefix}.ffn_gate.weight"), format!("{prefix}.ffn_up.weight")];
        let (rows, cols) = (dims.feed_forward, dims.width);
        let infos = [self.tensor(&names[0], rows, cols)?, self.tensor(&names[1], rows, cols)?];
        if infos[0].kind != infos[1].kind {
            let [gate, up] = &names;
            return Ok(GateUp::Separate { gate: self.matrix(gate, rows, cols)?, up: self.matrix(up, rows, cols)? });
        }
        let layout = self.layout(&names[0], infos[0].kind, self.policy.arrangement(), [2, rows, cols])?;
        let tensor = self.allocate(layout.bytes);
        for (first_tile, name) in (0..).zip(names) {
            let placement = Placement { first_row: 0, first_tile, tile_step: 2 };
            self.jobs.push(Job::Matrix { name, weight: tensor.clone(), layout, placement });
        }
        Ok(GateUp::Interleaved(Matrix { tensor, layout, rows }))
    }

    /// A tensor that no kernel reads would change what the model is.
    fn refuse_leftovers(&self) -> Result<(), ModelError> {
        match self.gguf.tensors().iter().find(|info| !self.used.contains(&info.name)) {
            Some(info) => Err(self.unusable(format!(
                "tensor {:?} is not known for this architecture; the model may need something that is not built",
                info.name
            ))),
            None => Ok(()),
        }
    }
}
