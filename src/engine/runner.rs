//! A loaded model on an executor: evaluates prompts, advances sequences, reads logits. One owner, one thread.

use super::request::{MAX_LOGIT_BIAS, SamplingParameters};
use super::schedule;
use crate::gguf::Gguf;
use crate::kernels::{Bias, IN_PROMPT, NOT_SAMPLED, RING_TOKENS, Row, Sampling, policy::Policy};
use crate::model::ModelError;
use crate::model::dims::Dims;
use crate::model::load;
use crate::model::lower::{Mode, Model, PlanKey};
use crate::model::memory::{LOGITS_ROWS, MemoryPlan, Sizes, State};
use crate::model::weights::Weights;
use crate::plan::{Executor, ExecutorError, Plan, Prepared, Region, Tensor};
use bytemuck::NoUninit;
use std::collections::HashMap;

/// What a model is loaded for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest sequence; `None`: the model's own, at most [`CONTEXT_TOKENS_DEFAULT`].
    pub context_tokens: Option<u32>,
    /// Bytes of device memory that may be used.
    pub budget_bytes: u64,
    /// Most rows of a prefill plan, a power of two.
    pub chunk_rows: u32,
    /// What the kernels' geometry depends on.
    pub policy: Policy,
}

/// The longest sequence unless asked for more: a cache for a model's whole context is rarely wanted and often huge.
pub const CONTEXT_TOKENS_DEFAULT: u32 = 4096;

/// A model whose memory is planned and whose file is not yet read.
pub struct Planned {
    pub model: Model,
    pub memory: MemoryPlan,
    slot_bytes: u64,
}

impl Planned {
    /// Reads the file's metadata, places everything and checks the budget.
    pub fn new(gguf: &Gguf, options: &Options) -> Result<Planned, ModelError> {
        let (architecture, dims) = Dims::read(gguf)?;
        let context_tokens = context_tokens(gguf, &dims, options)?;
        let sizes = Sizes { sequences: 1, context_tokens, chunk_rows: options.chunk_rows };
        let policy = options.policy;
        let weights = Weights::place(architecture, &dims, gguf, sizes.positions(), &policy)?;
        let shape = dims.attention(architecture, false);
        let state = State::place(&dims, &shape, &sizes).map_err(|error| ModelError::Unusable {
            file: gguf.file().to_owned(),
            problem: format!("{error}; shorten the context with --ctx"),
        })?;
        let slot_bytes = load::slot_bytes(&weights);
        let model = Model { architecture, dims, sizes, weights, state, policy };
        let arena_bytes = model.keys().map(|key| model.lower(key).arena_bytes).max().unwrap_or(0);
        let memory = MemoryPlan {
            weights_bytes: model.weights.bytes(),
            cache_bytes: model.state.cache_bytes(),
            arena_bytes,
            other_bytes: model.state.other_bytes() + load::staging_bytes(slot_bytes),
            mapped_bytes: model.state.mapped_bytes() + load::staging_bytes(slot_bytes),
            budget_bytes: options.budget_bytes,
        };
        memory.check()?;
        Ok(Planned { model, memory, slot_bytes })
    }

    /// Every plan that a server uses.
    pub fn plans(&self) -> impl Iterator<Item = Plan> {
        self.model.keys().map(|key| self.model.lower(key))
    }

    /// Allocates, loads the weights and prepares every plan. `progress` as in [`load::load`].
    pub fn load(
        self,
        gguf: &Gguf,
        mut executor: Box<dyn Executor + Send>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Runner, ModelError> {
        let Planned { model, memory, slot_bytes } = self;
        for (region, bytes) in (0..).map(Region::Weights).zip(&model.weights.region_bytes) {
            executor.allocate(region, *bytes)?;
        }
        for &(region, bytes) in &model.state.region_bytes {
            executor.allocate(region, bytes)?;
        }
        executor.allocate(Region::Arena, memory.arena_bytes)?;
        executor.allocate(Region::Staging, load::staging_bytes(slot_bytes))?;
        load::load(&model.weights, &model.dims, gguf, executor.as_mut(), progress)?;
        let mut plans = HashMap::new();
        for key in model.keys() {
            plans.insert(key, executor.prepare(&model.lower(key))?);
        }
        let mut runner = Runner { executor, model, plans };
        runner.write_constants();
        Ok(runner)
    }
}

fn context_tokens(gguf: &Gguf, dims: &Dims, options: &Options) -> Result<u32, ModelError> {
    let context = options.context_tokens.unwrap_or(dims.context_tokens.min(CONTEXT_TOKENS_DEFAULT));
    if context < 2 || context > dims.context_tokens {
        return Err(ModelError::Unusable {
            file: gguf.file().to_owned(),
            problem: format!(
                "a context of {context} tokens was asked for; the model takes 2 to {}",
                dims.context_tokens
            ),
        });
    }
    Ok(context)
}

impl Model {
    /// The plans that a server uses.
    fn keys(&self) -> impl Iterator<Item = PlanKey> {
        let prefill = schedule::chunk_sizes(self.sizes.chunk_rows)
            .flat_map(|rows| [0, 1].map(|outputs| PlanKey { mode: Mode::Prefill, rows, outputs }));
        std::iter::once(PlanKey::decode(1)).chain(prefill)
    }
}

// The host knows an entry of the ring from the one a lap before by 12 bits of its position.
const _: () = assert!(RING_TOKENS < 1 << 12);

/// A loaded model.
pub struct Runner {
    executor: Box<dyn Executor + Send>,
    model: Model,
    plans: HashMap<PlanKey, Prepared>,
}

impl Runner {
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The plan of one decoded token.
    pub fn decode_plan(&self) -> Plan {
        self.model.lower(PlanKey::decode(1))
    }

    fn put<T: NoUninit>(&mut self, tensor: &Tensor, first: usize, values: &[T]) {
        let offset = (first * size_of::<T>()) as u64;
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let part = tensor.part(offset, bytes.len() as u64);
        self.executor.write(part.region, part.offset_bytes, bytes);
    }

    /// What no request changes.
    fn write_constants(&mut self) {
        let state = &self.model.state;
        let (every_row, blocks) = (state.every_row.clone(), state.blocks.clone());
        let numbers: Vec<u32> = (0..(every_row.bytes / 4) as u32).collect();
        self.put(&every_row, 0, &numbers);
        // With one sequence the cache needs no allocator: the sequence owns every block.
        let numbers: Vec<u32> = (0..(blocks.bytes / 4) as u32).collect();
        self.put(&blocks, 0, &numbers);
    }

    /// Makes the sequence ready for an answer to `prompt`; nothing may be in flight.
    pub fn begin(&mut self, prompt: &[u32], sampling: &SamplingParameters, seed: u64) {
        debug_assert!(sampling.logit_bias.len() <= MAX_LOGIT_BIAS);
        let counted =
            sampling.repetition_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0;
        let record = Sampling {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed_low: seed as u32,
            seed_high: (seed >> 32) as u32,
            bias_count: sampling.logit_bias.len() as u32,
            counted: u32::from(counted),
            ..Sampling::default()
        };
        let state = &self.model.state;
        let (records, biases) = (state.sampling.clone(), state.biases.clone());
        let (counts, ring) = (state.counts.clone(), state.ring.clone());
        self.put(&records, 0, &[record]);
        let entries: Vec<Bias> = sampling.logit_bias.iter().map(|&(token, value)| Bias { token, value }).collect();
        self.put(&biases, 0, &entries);
        if counted {
            let mut seen = vec![0u32; self.model.dims.vocabulary as usize];
            prompt.iter().for_each(|&token| seen[token as usize] = IN_PROMPT);
            self.put(&counts, 0, &seen);
        }
        self.put(&ring, 0, &[NOT_SAMPLED; RING_TOKENS as usize]);
    }

    /// Evaluates `tokens`, which stand at `first_position` and behind, in chunks. With `sample`, the token after the last
    /// one is sampled and decode continues from there. Returns false if `cancelled` said so between two chunks.
    pub fn prefill(
        &mut self,
        tokens: &[u32],
        first_position: u32,
        sample: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<bool, ExecutorError> {
        let mut done = 0;
        while done < tokens.len() {
            if cancelled() {
                return Ok(false);
            }
            let chunk = schedule::next_chunk((tokens.len() - done) as u32, self.model.sizes.chunk_rows);
            let end = done + chunk.tokens as usize;
            let outputs = u32::from(sample && end == tokens.len());
            self.write_rows(&tokens[done..end], first_position + done as u32, chunk.rows, &[chunk.tokens - 1]);
            let key = PlanKey { mode: Mode::Prefill, rows: chunk.rows, outputs };
            self.executor.submit(self.plans[&key])?;
            // The rows are rewritten for the next chunk, so this one must be done.
            let ticket = self.executor.fence()?;
            self.executor.wait(ticket)?;
            done = end;
        }
        Ok(true)
    }

    fn write_rows(&mut self, tokens: &[u32], first_position: u32, rows: u32, outputs: &[u32]) {
        let mut records = vec![Row::default(); rows as usize];
        for (record, (position, &token)) in records.iter_mut().zip((first_position..).zip(tokens)) {
            *record = Row { token, position, sequence: 0, live: 1 };
        }
        let state = &self.model.state;
        let (prefill_rows, prefill_outputs) = (state.prefill_rows.clone(), state.prefill_outputs.clone());
        self.put(&prefill_rows, 0, &records);
        self.put(&prefill_outputs, 0, outputs);
    }

    /// Starts the evaluation of the token sampled last, and the sampling of the next.
    pub fn submit_decode(&mut self) -> Result<(), ExecutorError> {
        self.executor.submit(self.plans[&PlanKey::decode(1)])
    }

    /// The token sampled for `position`, if the device has come so far.
    pub fn sampled(&self, position: u32) -> Option<u32> {
        let offset = u64::from(position % RING_TOKENS) * 4;
        let ring = &self.model.state.ring;
        let entry = self.executor.load_u32(ring.region, ring.offset_bytes + offset);
        (entry != NOT_SAMPLED && entry >> 20 == position & 0xfff).then_some(entry & 0xf_ffff)
    }

    /// Waits for everything in flight.
    pub fn wait(&mut self) -> Result<(), ExecutorError> {
        let ticket = self.executor.fence()?;
        self.executor.wait(ticket)
    }

    /// The raw logits that the last token was sampled from. Waits for everything in flight.
    pub fn last_logits(&mut self) -> Result<Vec<f32>, ExecutorError> {
        self.read_logits(1)
    }

    fn read_logits(&mut self, outputs: u32) -> Result<Vec<f32>, ExecutorError> {
        let mut logits = vec![0f32; (outputs * self.model.dims.vocabulary) as usize];
        let tensor = &self.model.state.logits;
        self.executor.read(tensor.region, tensor.offset_bytes, bytemuck::cast_slice_mut(&mut logits))?;
        Ok(logits)
    }

    /// The logits after every token of a sequence of its own, `[tokens][vocabulary]`.
    pub fn logits(&mut self, tokens: &[u32], on_rows: &mut dyn FnMut(&[f32])) -> Result<(), ExecutorError> {
        let chunk_rows = self.model.sizes.chunk_rows.min(LOGITS_ROWS);
        let key = PlanKey { mode: Mode::Logits, rows: chunk_rows, outputs: chunk_rows };
        let plan = self.model.lower(key);
        let prepared = match self.plans.get(&key) {
            Some(prepared) => *prepared,
            None => self.executor.prepare(&plan)?,
        };
        self.plans.insert(key, prepared);
        let every: Vec<u32> = (0..chunk_rows).collect();
        for (chunk, first) in tokens.chunks(chunk_rows as usize).zip((0..).step_by(chunk_rows as usize)) {
            self.write_rows(chunk, first, chunk_rows, &every);
            self.executor.submit(prepared)?;
            self.wait()?;
            on_rows(&self.read_logits(chunk.len() as u32)?);
        }
        Ok(())
    }

    /// Most tokens of prompt and answer together.
    pub fn context_tokens(&self) -> u32 {
        self.model.sizes.context_tokens
    }
}
