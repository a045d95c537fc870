//! The memory beside the weights: the step, the ring of sampled tokens, the logits and the cache, all sized once from the
//! longest sequence; and the budget that everything must fit.

use super::ModelError;
use super::dims::Dims;
use crate::kernels::attention::{KvType, Shape, Unsupported};
use crate::kernels::{BLOCK_TOKENS, Bias, MAX_BIAS, RING_STEPS, Row, Sampling};
use crate::plan::{Region, Tensor};
use std::fmt;

/// Bytes after which the cache begins a new allocation; see the weights' constant of the same kind.
const REGION_BYTES: u64 = 1 << 30;
/// Alignment of tensors inside a region.
const ALIGN_BYTES: u64 = 256;
/// Rows of a plan that leaves the logits of all of them to the host.
pub const LOGITS_ROWS: u32 = 8;

/// What the memory is sized by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Sequences that may be alive at once.
    pub sequences: u32,
    /// Longest sequence, prompt and answer together.
    pub context_tokens: u32,
    /// Most rows of a prefill plan, unless the sequences need more.
    pub chunk_rows: u32,
    /// Blocks of the cache, shared by all sequences: at least [`Sizes::blocks_a_sequence`].
    pub cache_blocks: u32,
    /// How it holds keys and values.
    pub kv_type: KvType,
    /// Most tokens that are drafted for a sequence, to be verified in one step; 0: none.
    pub draft_max: u32,
}

impl Sizes {
    /// Blocks of the cache for one sequence. One more than the context needs: decode submissions in flight may run a few
    /// tokens past a sequence's end before the host sees it.
    pub fn blocks_a_sequence(&self) -> u32 {
        self.context_tokens.div_ceil(BLOCK_TOKENS) + 1
    }

    /// Rows of the largest decode plan.
    pub fn decode_rows(&self) -> u32 {
        self.sequences.next_power_of_two()
    }

    /// Rows of the largest prefill plan: prompts get at least as many as the sequences that decode beside them.
    pub fn prefill_rows(&self) -> u32 {
        self.chunk_rows.max(if self.sequences > 1 { 2 * self.decode_rows() } else { 1 })
    }

    /// Most rows of a step that verifies drafts, all of them outputs: as many as one draft and the token before it; 0
    /// where none are made.
    pub fn draft_rows(&self) -> u32 {
        if self.draft_max == 0 { 0 } else { (self.draft_max + 1).next_power_of_two().min(self.chunk_rows) }
    }

    /// Most outputs of a plan that samples: a power of two.
    pub fn sampled_rows(&self) -> u32 {
        self.decode_rows().max(self.draft_rows())
    }

    /// Most outputs of a plan: those that are sampled, and a few where the logits of every token are wanted. A row of logits
    /// is as long as the vocabulary.
    pub fn outputs(&self) -> u32 {
        self.sampled_rows().max(self.chunk_rows.min(LOGITS_ROWS))
    }

    /// Positions that kernels may be asked for.
    pub fn positions(&self) -> u32 {
        self.blocks_a_sequence() * BLOCK_TOKENS
    }
}

/// Every tensor beside the weights.
#[derive(Debug)]
pub struct State {
    /// [`Row`]`[RING_STEPS][prefill_rows]`: the rows of the steps that the host has written.
    pub row_ring: Tensor,
    /// u32`[RING_STEPS][outputs]`: which of those rows have an output.
    pub output_ring: Tensor,
    /// Row indices 0, 1, 2, …: the list of a plan of which every row is an output.
    pub every_row: Tensor,
    /// [`Row`] for each sequence: what was sampled last.
    pub next: Tensor,
    /// See `CLOCK_NEXT`.
    pub clock: Tensor,
    /// [`Sampling`] for each sequence.
    pub sampling: Tensor,
    /// [`Bias`]`[sequence][MAX_BIAS]`.
    pub biases: Tensor,
    /// A bit for each token, u32`[sequence][vocabulary / 32]`, rounded up.
    pub masks: Tensor,
    /// u32`[sequence][vocabulary]`: see `IN_PROMPT`.
    pub counts: Tensor,
    /// Block table, u32`[sequence][blocks_a_sequence]`.
    pub blocks: Tensor,
    /// The tokens sampled, u32`[RING_STEPS][outputs]`.
    pub ring: Tensor,
    /// Raw logits of the last plan, f32`[outputs][vocabulary]`.
    pub logits: Tensor,
    /// For each layer.
    pub keys: Vec<Tensor>,
    pub values: Vec<Tensor>,
    /// Regions to allocate beside weights, arena and staging.
    pub region_bytes: Vec<(Region, u64)>,
}

impl State {
    /// `shape` is that of the model's attention; an error when the kernels cannot do it, or address a cache of this size.
    pub fn place(dims: &Dims, shape: &Shape, sizes: &Sizes) -> Result<State, Unsupported> {
        shape.check(sizes.cache_blocks)?;
        let mut step = Bump::new(Region::Step);
        let sequences = u64::from(sizes.sequences);
        let rows = |count: u64| count * size_of::<Row>() as u64;
        let words = |count: u64| count * 4;
        let (rows_max, outputs) = (u64::from(sizes.prefill_rows()), u64::from(sizes.outputs()));
        let steps = u64::from(RING_STEPS);
        let mut cache = Vec::new();
        let layer_bytes = shape.cache_bytes(sizes.cache_blocks);
        let mut place_cache = || (0..dims.layers).map(|_| place_in(&mut cache, layer_bytes)).collect::<Vec<_>>();
        let (keys, values) = (place_cache(), place_cache());
        let ring_bytes = words(steps * outputs);
        let logits_bytes = words(outputs * u64::from(dims.vocabulary));
        let mut state = State {
            row_ring: step.take(rows(steps * rows_max)),
            output_ring: step.take(words(steps * outputs)),
            every_row: step.take(words(rows_max.max(outputs))),
            next: step.take(rows(sequences)),
            clock: step.take(words(2)),
            sampling: step.take(sequences * size_of::<Sampling>() as u64),
            biases: step.take(sequences * u64::from(MAX_BIAS) * size_of::<Bias>() as u64),
            masks: step.take(words(sequences * u64::from(dims.vocabulary.div_ceil(32)))),
            // Not at the region's end: a CPU driver may look at the entry behind a table's last (see `mat_mul.comp`).
            blocks: step.take(words(sequences * u64::from(sizes.blocks_a_sequence()))),
            counts: step.take(words(sequences * u64::from(dims.vocabulary))),
            ring: Tensor::new(Region::Output, 0, ring_bytes),
            logits: Tensor::new(Region::Logits, 0, logits_bytes),
            keys,
            values,
            region_bytes: Vec::new(),
        };
        state.region_bytes =
            vec![(Region::Step, step.bytes), (Region::Output, ring_bytes), (Region::Logits, logits_bytes)];
        state.region_bytes.extend((0..).map(Region::Cache).zip(cache));
        Ok(state)
    }

    pub fn cache_bytes(&self) -> u64 {
        self.bytes_of(|region| matches!(region, Region::Cache(_)))
    }

    /// Everything that is not the cache.
    pub fn other_bytes(&self) -> u64 {
        self.bytes_of(|region| !matches!(region, Region::Cache(_)))
    }

    /// What the host sees: the step and the ring of tokens.
    pub fn mapped_bytes(&self) -> u64 {
        self.bytes_of(|region| matches!(region, Region::Step | Region::Output))
    }

    fn bytes_of(&self, wanted: impl Fn(&Region) -> bool) -> u64 {
        self.region_bytes.iter().filter(|(region, _)| wanted(region)).map(|(_, bytes)| bytes).sum()
    }
}

struct Bump {
    region: Region,
    bytes: u64,
}

impl Bump {
    fn new(region: Region) -> Bump {
        Bump { region, bytes: 0 }
    }

    fn take(&mut self, bytes: u64) -> Tensor {
        let tensor = Tensor::new(self.region, self.bytes, bytes);
        self.bytes = tensor.end_bytes().next_multiple_of(ALIGN_BYTES);
        tensor
    }
}

fn place_in(cache: &mut Vec<u64>, bytes: u64) -> Tensor {
    if cache.last().is_none_or(|used| used + bytes > REGION_BYTES) {
        cache.push(0);
    }
    let part = cache.len() - 1;
    let tensor = Tensor::new(Region::Cache(part as u16), cache[part], bytes);
    cache[part] = tensor.end_bytes().next_multiple_of(ALIGN_BYTES);
    tensor
}

/// What a model will take of the device, known before anything is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    pub weights_bytes: u64,
    pub cache_bytes: u64,
    pub kv_type: KvType,
    pub arena_bytes: u64,
    /// Step, ring, logits, stages of all plans and, while the model is loaded, staging.
    pub other_bytes: u64,
    /// Part of `other_bytes`: what takes room in a virtual machine's window for mapped memory, whatever the model's size.
    pub mapped_bytes: u64,
    pub budget_bytes: u64,
}

impl MemoryPlan {
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.cache_bytes + self.arena_bytes + self.other_bytes
    }

    /// What of the budget is not planned for.
    pub fn left_bytes(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.total_bytes())
    }

    /// An error with figures when the total exceeds the budget.
    pub fn check(&self) -> Result<(), ModelError> {
        if self.total_bytes() <= self.budget_bytes {
            return Ok(());
        }
        let halve = if self.kv_type == KvType::F16 { ", halve the KV cache with --kv-type q8_0" } else { "" };
        Err(ModelError::Budget(format!(
            "the model does not fit: it needs {self}. Give it more with --memory-budget, shorten the context with --ctx\
             {halve}, or take a smaller or more strongly quantized model"
        )))
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        write!(
            f,
            "weights {:.1} / KV {:.1} ({}) / arena {:.1} / other {:.1} / total {:.1} of {:.1} MiB, {:.1} of it mapped",
            mib(self.weights_bytes),
            mib(self.cache_bytes),
            self.kv_type,
            mib(self.arena_bytes),
            mib(self.other_bytes),
            mib(self.total_bytes()),
            mib(self.budget_bytes),
            mib(self.mapped_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::families;

    #[test]
    fn a_cache_that_the_kernels_cannot_address_is_refused() {
        let dims = Dims {
            layers: 1,
            width: 64,
            heads: 128,
            kv_heads: 128,
            head_dim: 256,
            rotary: 256,
            feed_forward: 64,
            vocabulary: 100,
            context_tokens: 1 << 20,
            norm_eps: 1e-6,
            rope_base: 1e4,
            rope_factor: 1.0,
        };
        let shape = dims.attention(families::ALL[0], false, KvType::F16);
        let sizes = Sizes {
            sequences: 1,
            context_tokens: 32,
            chunk_rows: 4,
            cache_blocks: 2,
            kv_type: KvType::F16,
            draft_max: 0,
        };
        let place = |cache_blocks| State::place(&dims, &shape, &Sizes { cache_blocks, ..sizes });
        // 64 KiB a token: 2048 blocks of 32 tokens are 4 GiB.
        assert_eq!(place(2048).expect("it fits").keys[0].bytes, 1 << 32);
        assert_eq!(place(2049).err(), Some(Unsupported::Cache { blocks: 2049 }));
    }
}
