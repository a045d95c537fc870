//! Lowering: an architecture, dimensions, placed weights and a plan key become a plan. The only function that turns
//! models into work.

use super::architecture::Architecture;
use super::dims::Dims;
use super::memory::{Sizes, State};
use super::weights::{GateUp, Layer, Weights};
use crate::kernels::attention::{self, Geometry, Operands, Query, Shares};
use crate::kernels::layout::Matrix;
use crate::kernels::matrix::{self, Ahead, Epilogue, MatMul, Norm};
use crate::kernels::policy::Policy;
use crate::kernels::sampling::{Advanced, Begin, Sample, finish};
use crate::kernels::{Row, chains, norm};
use crate::plan::{Builder, Plan, Tensor};
use std::fmt;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// `rows` tokens, each of another sequence; all are sampled.
    Decode,
    /// `rows` tokens of any sequences, those of one sequence side by side; the step's `outputs` are sampled.
    Prefill,
    /// As prefill, but the logits of the outputs are only left for the host.
    Logits,
}

/// Names a plan of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlanKey {
    pub mode: Mode,
    pub rows: u32,
    pub outputs: u32,
    /// Splits of a sequence that attention takes side by side; 1: one workgroup walks over them all. Either gives the same
    /// bits. Other plans than those for decoding have 1.
    pub splits: u32,
}

impl PlanKey {
    /// The plan for sequences that are short, or of any length on a device that has enough to do with them as they are.
    pub fn decode(rows: u32) -> PlanKey {
        PlanKey { mode: Mode::Decode, rows, outputs: rows, splits: 1 }
    }
}

impl fmt::Display for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::Decode => "decode",
            Mode::Prefill => "prefill",
            Mode::Logits => "logits",
        };
        write!(f, "{mode} rows={} outputs={}", self.rows, self.outputs)?;
        if self.splits > 1 { write!(f, " splits={}", self.splits) } else { Ok(()) }
    }
}

/// A model as far as plans are concerned.
pub struct Model {
    pub architecture: &'static Architecture,
    pub dims: Dims,
    pub sizes: Sizes,
    pub weights: Weights,
    pub state: State,
    pub policy: Policy,
}

impl Model {
    /// How attention is worked on, the same way in every plan.
    fn attention_geometry(&self) -> Geometry {
        let shape = self.dims.attention(self.architecture, false, self.sizes.kv_type);
        Geometry::new(&self.policy, &shape, self.sizes.positions())
    }

    /// The plan that decodes a token of each of `rows` sequences, whose last one is at `position` at most.
    pub fn decode_key(&self, rows: u32, position: u32) -> PlanKey {
        let geometry = self.attention_geometry();
        let from = geometry.split_from();
        // Where only steps that run past the end of a context would get so far, there is no such plan.
        let deep = position >= from && self.sizes.context_tokens > from;
        let splits = if deep { geometry.splits(self.sizes.positions()) } else { 1 };
        PlanKey { splits, ..PlanKey::decode(rows) }
    }

    /// The plan that `key` names.
    pub fn lower(&self, key: PlanKey) -> Plan {
        let mut lowering = Lowering { model: self, key, builder: Builder::default() };
        let (rows, outputs) = lowering.begin();
        let gains = self.weights.layers.iter().skip(1).map(|layer| &layer.attention_norm);
        let mut x = lowering.embed(&rows);
        for (index, (layer, next)) in
            self.weights.layers.iter().zip(gains.chain([&self.weights.final_norm])).enumerate()
        {
            x = lowering.layer(index, layer, x, next, &rows);
        }
        // The head is large where layers are small.
        if self.policy.side_by_side == 1 {
            lowering.chain();
        }
        match (key.outputs, key.mode) {
            (0, _) => lowering.finish(&x.x),
            (_, Mode::Logits) => lowering.head(&x, &outputs),
            (_, Mode::Decode | Mode::Prefill) => {
                lowering.head(&x, &outputs);
                lowering.sample(&rows, &outputs);
            }
        }
        if self.policy.side_by_side > 1 {
            lowering.chain();
        }
        lowering.builder.finish(key.to_string())
    }
}

/// What stands before a norm, or behind it.
enum Input {
    Plain { x: Tensor, gain: Tensor },
    Normed { x: Tensor, scale: Tensor },
    Summed(Summed),
}

impl Input {
    /// x as mat_mul takes it, and what it still needs.
    fn operands(&self, eps: f32) -> (&Tensor, Norm<'_>) {
        match self {
            Input::Plain { x, gain } => (x, Norm::Fused { gain, eps }),
            Input::Normed { x, scale } => (x, Norm::Scaled(scale)),
            Input::Summed(Summed { x, squares, count }) => (x, Norm::Summed { squares, count: *count, eps }),
        }
    }
}

/// Rows × gain, and their partial sums of squares.
#[derive(Clone)]
struct Summed {
    x: Tensor,
    squares: Tensor,
    count: u32,
}

impl Summed {
    fn ahead<'a>(&'a mut self, gain: &'a Tensor) -> Ahead<'a> {
        Ahead { gain, normed: &mut self.x, squares: &mut self.squares }
    }
}

/// The rows that layers add to, and the same as the next norm wants them if what made them has seen to that.
struct Residual {
    x: Tensor,
    ahead: Option<Summed>,
}

struct Lowering<'a> {
    model: &'a Model,
    key: PlanKey,
    builder: Builder,
}

impl Lowering<'_> {
    /// A scratch tensor of `[rows][cols]` floats.
    fn floats(&mut self, rows: u32, cols: u32) -> Tensor {
        self.builder.scratch(u64::from(rows) * u64::from(cols) * 4)
    }

    /// Makes chains of the products so far.
    fn chain(&mut self) {
        self.builder.replace(|dispatches| chains::chained(dispatches, &self.model.policy));
    }

    /// Takes the step: its rows, and which of them are outputs.
    fn begin(&mut self) -> (Tensor, Tensor) {
        let (state, sizes) = (&self.model.state, &self.model.sizes);
        let every = self.key.mode == Mode::Decode;
        let begin = Begin {
            row_ring: &state.row_ring,
            output_ring: &state.output_ring,
            next: &state.next,
            row_stride: sizes.prefill_rows(),
            output_stride: sizes.outputs(),
            row_count: self.key.rows,
            output_count: if every { 0 } else { self.key.outputs },
        };
        let mut rows = self.builder.scratch(u64::from(self.key.rows) * size_of::<Row>() as u64);
        let mut outputs = self.builder.scratch(u64::from(self.key.outputs.max(1)) * 4);
        let mut clock = state.clock.clone();
        self.builder.push(begin.dispatch(&mut clock, &mut rows, &mut outputs).named("begin"));
        (rows, if every { state.every_row.clone() } else { outputs })
    }

    fn finish(&mut self, after: &Tensor) {
        let state = &self.model.state;
        let finish = finish(after, &state.clock, &mut state.ring.clone(), self.model.sizes.outputs());
        self.builder.push(finish.named("finish"));
    }

    fn embed(&mut self, rows: &Tensor) -> Residual {
        let model = self.model;
        let mut x = self.floats(self.key.rows, model.dims.width);
        let mut ahead = self.summed(model.dims.width, 1);
        let gain = model.weights.layers.first().map_or(&model.weights.final_norm, |layer| &layer.attention_norm);
        let both = ahead.as_mut().map(|summed| summed.ahead(gain));
        let embed = matrix::embed(rows, &model.weights.embedding, &mut x, both, self.key.rows);
        self.builder.push(embed.named("embed"));
        Residual { x, ahead }
    }

    /// Room for rows that are prepared for the next norm, where the device does so.
    fn summed(&mut self, cols: u32, count: u32) -> Option<Summed> {
        let rows = self.key.rows;
        self.model.policy.sums_ahead().then(|| Summed {
            x: self.floats(rows, cols),
            squares: self.floats(rows, count),
            count,
        })
    }

    /// `next`: the gains of the norm behind this layer.
    fn layer(&mut self, index: usize, layer: &Layer, x: Residual, next: &Tensor, rows: &Tensor) -> Residual {
        let dims = &self.model.dims;
        let attended = self.attention(index, layer, &x, rows);
        let bias = layer.output_bias.as_ref();
        let label = format!("layer {index} output");
        let x = self.add(label, &layer.output, &attended, bias, &x.x, &layer.feed_forward_norm);
        let label = |part: &str| format!("layer {index} {part}");
        let input = self.input(label("feed forward norm"), &x, &layer.feed_forward_norm);
        let gated = match &layer.gate_up {
            GateUp::Interleaved(both) => {
                self.side_by_side(label("gate up"), &[(both, 0)], &input, None, &Epilogue::GateUp)
            }
            GateUp::Separate { gate, up } => {
                let gate = self.side_by_side(label("gate"), &[(gate, 0)], &input, None, &Epilogue::Store);
                self.side_by_side(label("up"), &[(up, 0)], &input, None, &Epilogue::Gate(&gate))
            }
        };
        debug_assert_eq!(gated.bytes, u64::from(self.key.rows * dims.feed_forward) * 4);
        self.add(format!("layer {index} down"), &layer.down, &gated, None, &x.x, next)
    }

    fn attention(&mut self, index: usize, layer: &Layer, x: &Residual, rows: &Tensor) -> Tensor {
        let parts: Vec<_> = layer.query_key_value.iter().map(|part| (&part.matrix, part.first_output)).collect();
        let bias = layer.query_key_value_bias.as_ref();
        let input = self.input(format!("layer {index} attention norm"), x, &layer.attention_norm);
        let qkv = self.side_by_side(format!("layer {index} qkv"), &parts, &input, bias, &Epilogue::Store);

        let model = self.model;
        let shape = model.dims.attention(model.architecture, layer.query_key_norm.is_some(), model.sizes.kv_type);
        let count = self.key.rows;
        let geometry = model.attention_geometry();
        let state = &self.model.state;
        let (mut keys, mut values) = (state.keys[index].clone(), state.values[index].clone());
        let (cols, stride) = (shape.q_cols(), shape.qkv_cols());
        let (mut stored, mut attended) = (self.floats(count, cols), self.floats(count, cols));
        let splits = self.key.splits;
        if splits > 1 {
            let tensor = self.builder.scratch(Shares::bytes(&shape, splits, count));
            let mut shares = Shares { tensor, splits };
            let operands = operands(model, layer, rows, &qkv, [&mut keys, &mut values]);
            let attend = attention::attend_split(&shape, &geometry, operands, &qkv, stride, &mut shares, count);
            self.builder.push(attend.named(format!("layer {index} attend")));
            let merge = attention::merge(&shape, &geometry, rows, &shares, &mut attended, count);
            self.builder.push(merge.named(format!("layer {index} merge")));
            return attended;
        }
        let query = if self.key.mode == Mode::Decode {
            Query::Projected { qkv: &qkv, stride }
        } else {
            let operands = operands(model, layer, rows, &qkv, [&mut keys, &mut values]);
            let store = attention::rope_store(&shape, &geometry, operands, &qkv, stride, &mut stored, count);
            self.builder.push(store.named(format!("layer {index} rope store")));
            Query::Stored { q: &stored }
        };
        let operands = operands(model, layer, rows, &qkv, [&mut keys, &mut values]);
        let attend = attention::attend(&shape, &geometry, operands, query, &mut attended, cols, count);
        self.builder.push(attend.named(format!("layer {index} attend")));
        attended
    }

    /// weight · x + bias + other, rows back to back, which goes through a norm of these gains next.
    fn add(
        &mut self,
        label: String,
        weight: &Matrix,
        x: &Tensor,
        bias: Option<&Tensor>,
        other: &Tensor,
        gain: &Tensor,
    ) -> Residual {
        let mut y = self.floats(self.key.rows, weight.rows);
        let mut ahead = self.summed(weight.rows, Ahead::parts(weight));
        let product = MatMul {
            x,
            weight,
            norm: Norm::None,
            bias,
            epilogue: Epilogue::Add(other),
            tokens: self.key.rows,
            x_stride: weight.layout.cols,
            y_stride: weight.rows,
        };
        let both = ahead.as_mut().map(|summed| summed.ahead(gain));
        self.builder.push(product.dispatch(&mut y, both, &self.model.policy).named(label));
        Residual { x: y, ahead }
    }

    fn sums_in_product(&self) -> bool {
        self.model.policy.sums_in_product(self.key.rows)
    }

    /// x as the products behind a norm take it.
    fn input(&mut self, label: String, residual: &Residual, gain: &Tensor) -> Input {
        let x = &residual.x;
        if let Some(ahead) = residual.ahead.as_ref().filter(|_| self.sums_in_product()) {
            return Input::Summed(ahead.clone());
        }
        if self.model.policy.fuses_norm(self.key.rows) {
            return Input::Plain { x: x.clone(), gain: gain.clone() };
        }
        let (x, scale) = self.norm(label, residual, gain, &self.model.state.every_row, self.key.rows);
        Input::Normed { x, scale }
    }

    /// Products with matrices whose outputs stand side by side in a row, each from a first one on.
    fn side_by_side(
        &mut self,
        label: String,
        parts: &[(&Matrix, u32)],
        input: &Input,
        bias: Option<&Tensor>,
        epilogue: &Epilogue<'_>,
    ) -> Tensor {
        let dims = &self.model.dims;
        let count = self.key.rows;
        let y_stride: u32 = parts.iter().map(|(matrix, _)| matrix.rows).sum();
        let y = self.floats(count, y_stride);
        for &(weight, first_output) in parts {
            let offset = u64::from(first_output) * 4;
            let mut target = y.part(offset, y.bytes - offset);
            let bias = bias.map(|bias| bias.part(offset, u64::from(weight.rows) * 4));
            let (x, norm) = input.operands(dims.norm_eps);
            let product = MatMul {
                x,
                weight,
                norm,
                bias: bias.as_ref(),
                epilogue: *epilogue,
                tokens: count,
                x_stride: dims.width,
                y_stride,
            };
            self.builder.push(product.dispatch(&mut target, None, &self.model.policy).named(label.clone()));
        }
        y
    }

    /// x × gain of the selected rows, and the 1/rms that is still missing.
    fn norm(&mut self, label: String, x: &Residual, gain: &Tensor, select: &Tensor, outputs: u32) -> (Tensor, Tensor) {
        let dims = &self.model.dims;
        let (mut y, mut scale) = (self.floats(outputs, dims.width), self.floats(outputs, 1));
        let (squares, square_count) = x.ahead.as_ref().map_or((&x.x, 0), |ahead| (&ahead.squares, ahead.count));
        let args = norm::Args {
            x: &x.x,
            gain,
            select,
            squares,
            y: &mut y,
            scale: &mut scale,
            cols: dims.width,
            square_count,
            eps: dims.norm_eps,
        };
        let (outputs_wide, width) = (u64::from(outputs), u64::from(dims.width));
        let (traffic, flops) = (8 * outputs_wide * (width + 1) + 4 * width, 3 * outputs_wide * width);
        let dispatch =
            norm::dispatch(&norm::NORM, norm::Spec { local_size: 32, ahead: x.ahead.is_some() }, args, [outputs, 1, 1]);
        self.builder.push(dispatch.traffic(traffic).flops(flops).named(label));
        (y, scale)
    }

    /// Logits of the output rows.
    fn head(&mut self, x: &Residual, outputs: &Tensor) {
        let model = self.model;
        let normed = match &x.ahead {
            // Every row is an output.
            Some(ahead) if self.key.mode == Mode::Decode && self.sums_in_product() => Input::Summed(ahead.clone()),
            _ => {
                let gain = &model.weights.final_norm;
                let (x, scale) = self.norm("final norm".into(), x, gain, outputs, self.key.outputs);
                Input::Normed { x, scale }
            }
        };
        let (x, norm) = normed.operands(model.dims.norm_eps);
        let mut logits = model.state.logits.clone();
        let product = MatMul {
            x,
            weight: &model.weights.head,
            norm,
            bias: None,
            epilogue: Epilogue::Store,
            tokens: self.key.outputs,
            x_stride: model.dims.width,
            y_stride: model.dims.vocabulary,
        };
        self.builder.push(product.dispatch(&mut logits, None, &model.policy).named("head"));
    }

    fn sample(&mut self, rows: &Tensor, outputs: &Tensor) {
        let state = &self.model.state;
        let sample = Sample {
            logits: &state.logits,
            outputs,
            rows,
            sampling: &state.sampling,
            biases: &state.biases,
            masks: &state.masks,
            clock: &state.clock,
            output_count: self.key.outputs,
            vocabulary: self.model.dims.vocabulary,
            logits_stride: self.model.dims.vocabulary,
            ring_stride: self.model.sizes.outputs(),
        };
        let (mut counts, mut next, mut ring) = (state.counts.clone(), state.next.clone(), state.ring.clone());
        let advanced = Advanced { counts: &mut counts, next: &mut next, ring: &mut ring };
        let mut scratch = self.builder.scratch(sample.scratch_bytes());
        self.builder.push(sample.dispatch(&mut scratch, advanced, &self.model.policy).named("sample"));
    }
}

/// What attention works on; `any` stands in for gains that the family has not.
fn operands<'a>(
    model: &'a Model,
    layer: &'a Layer,
    rows: &'a Tensor,
    any: &'a Tensor,
    [keys, values]: [&'a mut Tensor; 2],
) -> Operands<'a> {
    let (q_gain, k_gain) = layer.query_key_norm.as_ref().map_or((any, any), |(query, key)| (query, key));
    Operands {
        rows,
        blocks: &model.state.blocks,
        max_blocks: model.sizes.blocks_a_sequence(),
        rope: &model.weights.rope,
        q_gain,
        k_gain,
        keys,
        values,
    }
}
