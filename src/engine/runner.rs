//! A loaded model on an executor: evaluates prompts, advances sequences, reads logits. One owner, one thread.

use super::request::{MAX_LOGIT_BIAS, SamplingParameters};
use super::schedule;
use crate::gguf::Gguf;
pub use crate::kernels::attention::KvType;
use crate::kernels::{BLOCK_TOKENS, Bias, IN_PROMPT, NO_ROW, NOT_SAMPLED, RING_STEPS, Row, Sampling, policy::Policy};
use crate::model::ModelError;
use crate::model::dims::Dims;
use crate::model::load;
use crate::model::lower::{Mode, Model, PlanKey};
use crate::model::memory::{LOGITS_ROWS, MemoryPlan, Sizes, State};
use crate::model::weights::Weights;
use crate::plan::profile::stretches;
use crate::plan::{Executor, ExecutorError, Plan, PlanTimes, Prepared, Region, Tensor};
use bytemuck::NoUninit;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// What a model is loaded for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest sequence; `None`: the model's own, at most [`CONTEXT_TOKENS_DEFAULT`].
    pub context_tokens: Option<u32>,
    /// Sequences that may be answered at once, 1..=[`SEQUENCES_MAX`].
    pub sequences: u32,
    /// Tokens that the cache holds, of all sequences together, at least the longest sequence's; `None`: those of
    /// [`CACHE_CONTEXTS_DEFAULT`] longest sequences, or of [`SHARE_TOKENS_DEFAULT`] for each if they are more, or as many as the
    /// budget allows.
    pub cache_tokens: Option<u32>,
    /// How the cache holds keys and values.
    pub kv_type: KvType,
    /// Bytes of device memory that may be used.
    pub budget_bytes: u64,
    /// Most rows of a prefill plan, a power of two.
    pub chunk_rows: u32,
    /// Most tokens drafted for a sequence and verified in one step, below [`DRAFT_MAX`]; 0: none.
    pub draft_max: u32,
    /// What the kernels' geometry depends on.
    pub policy: Policy,
}

impl Options {
    /// One sequence, with all the memory that there is.
    pub fn alone(policy: Policy) -> Options {
        Options {
            context_tokens: None,
            sequences: 1,
            cache_tokens: None,
            kv_type: KvType::F16,
            budget_bytes: u64::MAX,
            chunk_rows: 64,
            draft_max: 0,
            policy,
        }
    }
}

/// The longest sequence unless asked for more: a cache for a model's whole context is rarely wanted and often huge.
pub const CONTEXT_TOKENS_DEFAULT: u32 = 4096;

/// Most sequences at once: the largest decode plan.
pub const SEQUENCES_MAX: u32 = 32;

/// Most tokens of a draft.
pub const DRAFT_MAX: u32 = 31;

/// Sequences of full length that the cache is sized for unless asked otherwise. Most are far shorter.
pub const CACHE_CONTEXTS_DEFAULT: u32 = 4;

/// And tokens of each sequence, if it may have them: where sequences are short many of them are of full length.
pub const SHARE_TOKENS_DEFAULT: u32 = 1024;

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
        let sequences = options.sequences.clamp(1, SEQUENCES_MAX);
        let (kv_type, draft_max) = (options.kv_type, options.draft_max.min(DRAFT_MAX));
        let least =
            Sizes { sequences, context_tokens, chunk_rows: options.chunk_rows, cache_blocks: 0, kv_type, draft_max };
        let policy = options.policy.for_products(dims.largest_product());
        let weights = Weights::place(architecture, &dims, gguf, least.positions(), &policy)?;
        let shape = dims.attention(architecture, false, kv_type);
        let state = State::place(&dims, &shape, &least).map_err(|error| unusable(gguf, &error.to_string()))?;
        let slot_bytes = load::slot_bytes(&weights);
        let mut model = Model { architecture, dims, sizes: least, weights, state, policy };
        let (mut arena_bytes, mut stages_bytes) = (0, 0);
        for plan in model.keys().map(|key| model.lower(key)) {
            arena_bytes = plan.arena_bytes.max(arena_bytes);
            stages_bytes += plan.stages_bytes();
        }
        let small_bytes = stages_bytes + load::staging_bytes(slot_bytes);
        let mut memory = MemoryPlan {
            weights_bytes: model.weights.bytes(),
            cache_bytes: 0,
            kv_type,
            arena_bytes,
            other_bytes: model.state.other_bytes() + small_bytes,
            mapped_bytes: model.state.mapped_bytes() + small_bytes,
            budget_bytes: options.budget_bytes,
        };
        let block_bytes = 2 * shape.block_bytes() * u64::from(model.dims.layers);
        model.sizes.cache_blocks = cache_blocks(&least, options, memory.left_bytes() / block_bytes.max(1));
        model.state = State::place(&model.dims, &shape, &model.sizes).map_err(|error| {
            unusable(gguf, &format!("{error}; shorten the context with --ctx, or give --cache-tokens less"))
        })?;
        memory.cache_bytes = model.state.cache_bytes();
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
        let start = Instant::now();
        for (region, bytes) in (0..).map(Region::Weights).zip(&model.weights.region_bytes) {
            executor.allocate(region, *bytes)?;
        }
        for &(region, bytes) in &model.state.region_bytes {
            executor.allocate(region, bytes)?;
        }
        executor.allocate(Region::Arena, memory.arena_bytes)?;
        executor.allocate(Region::Staging, load::staging_bytes(slot_bytes))?;
        tracing::debug!(time_ms = start.elapsed().as_millis(), "allocated");
        load::load(&model.weights, &model.dims, gguf, executor.as_mut(), progress)?;
        // A virtual machine's window for mapped memory may be small, and the driver needs room in it too.
        executor.free(Region::Staging)?;
        tracing::debug!(time_ms = start.elapsed().as_millis(), "weights loaded");
        let mut plans = HashMap::new();
        for key in model.keys() {
            plans.insert(key, executor.prepare(&model.lower(key))?);
        }
        executor.keep();
        tracing::debug!(time_ms = start.elapsed().as_millis(), plans = plans.len(), "plans recorded");
        let mut runner = Runner { executor, model, plans, submitted: 0 };
        runner.write_constants();
        Ok(runner)
    }
}

fn unusable(gguf: &Gguf, problem: &str) -> ModelError {
    ModelError::Unusable { file: gguf.file().to_owned(), problem: problem.to_owned() }
}

fn context_tokens(gguf: &Gguf, dims: &Dims, options: &Options) -> Result<u32, ModelError> {
    let context = options.context_tokens.unwrap_or(dims.context_tokens.min(CONTEXT_TOKENS_DEFAULT));
    if context < 2 || context > dims.context_tokens {
        let problem =
            format!("a context of {context} tokens was asked for; the model takes 2 to {}", dims.context_tokens);
        return Err(unusable(gguf, &problem));
    }
    Ok(context)
}

/// Blocks of the cache: those asked for, else those of a few sequences of full length or as many as there is memory for.
/// Never less than one sequence needs, and never more than all sequences could use.
fn cache_blocks(sizes: &Sizes, options: &Options, blocks_left: u64) -> u32 {
    let one = sizes.blocks_a_sequence();
    match options.cache_tokens {
        // The spare block of each sequence is not the user's to count.
        Some(tokens) => tokens.div_ceil(BLOCK_TOKENS).saturating_add(sizes.sequences).max(one),
        None => {
            let contexts = one.saturating_mul(sizes.sequences.min(CACHE_CONTEXTS_DEFAULT));
            let shares = one.min(SHARE_TOKENS_DEFAULT.div_ceil(BLOCK_TOKENS)).saturating_mul(sizes.sequences);
            contexts.max(shares).min(u32::try_from(blocks_left).unwrap_or(u32::MAX)).max(one)
        }
    }
}

impl Model {
    /// The plans that a server uses.
    fn keys(&self) -> impl Iterator<Item = PlanKey> {
        let (rows_max, outputs_max) = (self.sizes.prefill_rows(), self.sizes.sampled_rows());
        let prefill = schedule::chunk_sizes(rows_max).flat_map(move |rows| {
            let key = move |outputs| PlanKey { mode: Mode::Prefill, rows, outputs, splits: 1 };
            schedule::output_sizes(rows, outputs_max).map(key)
        });
        let decode = schedule::decode_sizes(self.sizes.decode_rows()).flat_map(|rows| {
            let deep = self.decode_key(rows, self.sizes.positions() - 1);
            std::iter::once(PlanKey::decode(rows)).chain(Some(deep).filter(|key| key.splits > 1))
        });
        decode.chain(prefill)
    }
}

/// What a step evaluates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepRows {
    /// Those of one sequence side by side, in order; a sequence is named by its slot. Positions are known also where tokens
    /// are not: they choose the plan.
    pub rows: Vec<Row>,
    /// Indices of the rows whose successors are sampled.
    pub outputs: Vec<u32>,
    /// Rows of the plan for prompts that takes them, as [`schedule::share`] says.
    pub plan_rows: u32,
}

impl StepRows {
    /// One token of each of several sequences, all of them outputs: the plan for it does less.
    fn is_decode(&self) -> bool {
        let differ = |two: &[Row]| two[0].sequence != two[1].sequence;
        self.outputs.len() == self.rows.len() && self.rows.windows(2).all(differ)
    }
}

/// A submitted step's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepNumber(u64);

/// A loaded model.
pub struct Runner {
    executor: Box<dyn Executor + Send>,
    model: Model,
    plans: HashMap<PlanKey, Prepared>,
    submitted: u64,
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
        let every_row = state.every_row.clone();
        let numbers: Vec<u32> = (0..(every_row.bytes / 4) as u32).collect();
        self.put(&every_row, 0, &numbers);
    }

    /// Runs every kernel of every plan once, on rows that are dead. Some drivers compile a kernel only then, and no request
    /// should wait for that.
    pub fn rehearse(&mut self) -> Result<(), ExecutorError> {
        let start = Instant::now();
        let (mut seen, keys) = (BTreeSet::new(), self.model.keys().collect::<Vec<_>>());
        for key in keys {
            let plan = self.model.lower(key);
            let fresh = plan.dispatches().filter(|d| seen.insert((d.kernel.name, d.specialization.clone()))).count();
            if fresh > 0 {
                self.submit_as(key, &StepRows { plan_rows: key.rows, ..StepRows::default() })?;
                self.wait()?;
                tracing::debug!(plan = %key, fresh, time_ms = start.elapsed().as_millis(), "rehearsed");
            }
        }
        Ok(())
    }

    /// Makes a slot ready for a sequence: how its tokens are sampled, those it has already (`answer`: behind the prompt).
    /// Nothing that is in flight may use the slot; and likewise below.
    pub fn begin(&mut self, slot: u32, prompt: &[u32], answer: &[u32], sampling: &SamplingParameters, seed: u64) {
        debug_assert!(sampling.logit_bias.len() <= MAX_LOGIT_BIAS);
        let counted = sampling.has_penalties();
        let slot_of = |tensor: &Tensor| tensor.bytes as usize / self.model.sizes.sequences as usize;
        let state = &self.model.state;
        let (biases, counts) = (state.biases.clone(), state.counts.clone());
        let (biases_at, counts_at) =
            (slot_of(&biases) / size_of::<Bias>() * slot as usize, slot_of(&counts) / 4 * slot as usize);
        self.put_sampling(slot, sampling, seed, false);
        let entries: Vec<Bias> = sampling.logit_bias.iter().map(|&(token, value)| Bias { token, value }).collect();
        self.put(&biases, biases_at, &entries);
        if counted {
            let mut seen = vec![0u32; self.model.dims.vocabulary as usize];
            prompt.iter().for_each(|&token| seen[token as usize] = IN_PROMPT);
            answer.iter().for_each(|&token| seen[token as usize] += 1);
            self.put(&counts, counts_at, &seen);
        }
    }

    fn put_sampling(&mut self, slot: u32, sampling: &SamplingParameters, seed: u64, masked: bool) {
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
            counted: u32::from(sampling.has_penalties()),
            masked: u32::from(masked),
        };
        let records = self.model.state.sampling.clone();
        self.put(&records, slot as usize, &[record]);
    }

    /// From the next step on the slot's sequence may sample what `mask` allows, or anything.
    pub fn restrict(&mut self, slot: u32, sampling: &SamplingParameters, seed: u64, mask: Option<&[u32]>) {
        if let Some(mask) = mask {
            let masks = self.model.state.masks.clone();
            self.put(&masks, slot as usize * self.mask_words(), mask);
        }
        self.put_sampling(slot, sampling, seed, mask.is_some());
    }

    /// Words of a mask.
    pub fn mask_words(&self) -> usize {
        self.model.dims.vocabulary.div_ceil(32) as usize
    }

    /// Gives a slot's sequence blocks of the cache, from its `first`-th on. Those before may be in use.
    pub fn put_blocks(&mut self, slot: u32, first: usize, blocks: &[u32]) {
        let there = self.model.sizes.cache_blocks;
        assert!(
            blocks.iter().all(|&block| block < there),
            "blocks {blocks:?} of a cache of {there}: kernels would write elsewhere"
        );
        let table = self.model.state.blocks.clone();
        let at = slot as usize * self.model.sizes.blocks_a_sequence() as usize + first;
        self.put(&table, at, blocks);
    }

    /// Starts a step behind those that were submitted before. Fewer than `RING_STEPS` may be in flight.
    ///
    /// # Panics
    /// When there is no plan for it: a defect of the caller.
    pub fn submit(&mut self, step: &StepRows) -> Result<StepNumber, ExecutorError> {
        self.submit_as(self.key(step), step)
    }

    /// The plan for a step.
    fn key(&self, step: &StepRows) -> PlanKey {
        if step.is_decode() {
            let position = step.rows.iter().map(|row| row.position).max().unwrap_or(0);
            self.model.decode_key((step.rows.len() as u32).next_power_of_two(), position)
        } else {
            let rows = step.plan_rows.max(schedule::CHUNK_ROWS_MIN);
            let outputs_max = self.model.sizes.sampled_rows();
            let outputs = schedule::outputs_for(step.outputs.len() as u32, rows, outputs_max);
            PlanKey { mode: Mode::Prefill, rows, outputs, splits: 1 }
        }
    }

    fn submit_as(&mut self, key: PlanKey, step: &StepRows) -> Result<StepNumber, ExecutorError> {
        let prepared = *self.plans.get(&key).unwrap_or_else(|| panic!("there is no plan {key}"));
        self.write_step(key, step);
        self.executor.submit(prepared)?;
        self.submitted += 1;
        Ok(StepNumber(self.submitted - 1))
    }

    /// Runs the [`stretches`] of a step's plan, waits, and says what each took. What it leaves in the cache and samples is
    /// worth nothing. Nothing may be in flight.
    pub fn profile(&mut self, step: &StepRows) -> Result<(Plan, PlanTimes), ExecutorError> {
        let key = self.key(step);
        self.write_step(key, step);
        let plan = self.model.lower(key);
        let times = self.executor.time(&stretches(&plan))?;
        self.submitted += 1;
        Ok((plan, times))
    }

    /// As [`Executor::submissions`].
    pub fn submissions(&self) -> Option<u64> {
        self.executor.submissions()
    }

    /// Puts a step into the rings, for the plan that is submitted next.
    fn write_step(&mut self, key: PlanKey, step: &StepRows) {
        let (state, sizes) = (&self.model.state, self.model.sizes);
        let at = (self.submitted % u64::from(RING_STEPS)) as usize;
        let (row_ring, output_ring, ring) = (state.row_ring.clone(), state.output_ring.clone(), state.ring.clone());
        let mut rows = step.rows.clone();
        rows.resize(key.rows as usize, Row::default());
        self.put(&row_ring, at * sizes.prefill_rows() as usize, &rows);
        let outputs_max = sizes.outputs() as usize;
        if key.mode != Mode::Decode {
            let mut outputs = step.outputs.clone();
            outputs.resize(key.outputs as usize, NO_ROW);
            self.put(&output_ring, at * outputs_max, &outputs);
        }
        self.put(&ring, at * outputs_max, &vec![NOT_SAMPLED; outputs_max]);
    }

    /// The token that a step has sampled for its output of this index, if the device has come so far. A step without
    /// outputs gives some token at index 0 when it is done.
    pub fn sampled(&self, step: StepNumber, output: usize) -> Option<u32> {
        debug_assert!(self.submitted - step.0 <= u64::from(RING_STEPS), "its entry is another step's by now");
        let at = (step.0 % u64::from(RING_STEPS)) * u64::from(self.model.sizes.outputs()) + output as u64;
        let ring = &self.model.state.ring;
        let entry = self.executor.load_u32(ring.region, ring.offset_bytes + at * 4);
        (entry != NOT_SAMPLED).then_some(entry)
    }

    /// Everything that a step samples is there.
    pub fn is_done(&self, step: StepNumber, outputs: usize) -> bool {
        (0..outputs.max(1)).all(|output| self.sampled(step, output).is_some())
    }

    /// Waits for everything in flight.
    pub fn wait(&mut self) -> Result<(), ExecutorError> {
        let ticket = self.executor.fence()?;
        self.executor.wait(ticket)
    }

    /// The raw logits of an output of the step submitted last. Waits for everything in flight.
    pub fn last_logits(&mut self, output: usize) -> Result<Vec<f32>, ExecutorError> {
        self.read_logits(output, 1)
    }

    fn read_logits(&mut self, first: usize, outputs: usize) -> Result<Vec<f32>, ExecutorError> {
        let vocabulary = self.model.dims.vocabulary as usize;
        let mut logits = vec![0f32; outputs * vocabulary];
        let tensor = &self.model.state.logits;
        let offset = tensor.offset_bytes + (first * vocabulary * 4) as u64;
        self.executor.read(tensor.region, offset, bytemuck::cast_slice_mut(&mut logits))?;
        Ok(logits)
    }

    /// The logits after every token of a sequence of its own, `[tokens][vocabulary]`, which takes slot 0 and the cache's
    /// first blocks.
    pub fn logits(&mut self, tokens: &[u32], on_rows: &mut dyn FnMut(&[f32])) -> Result<(), ExecutorError> {
        let chunk_rows = self.model.sizes.chunk_rows.min(LOGITS_ROWS);
        let key = PlanKey { mode: Mode::Logits, rows: chunk_rows, outputs: chunk_rows, splits: 1 };
        if !self.plans.contains_key(&key) {
            let prepared = self.executor.prepare(&self.model.lower(key))?;
            self.plans.insert(key, prepared);
        }
        let blocks: Vec<u32> = (0..self.model.sizes.blocks_a_sequence()).collect();
        self.put_blocks(0, 0, &blocks);
        for (chunk, first) in tokens.chunks(chunk_rows as usize).zip((0..).step_by(chunk_rows as usize)) {
            let row = |(position, &token)| Row { token, position, sequence: 0, live: 1 };
            let rows: Vec<Row> = (first..).zip(chunk).map(row).collect();
            let outputs = (0..chunk.len() as u32).collect();
            self.submit_as(key, &StepRows { rows, outputs, plan_rows: chunk_rows })?;
            self.wait()?;
            on_rows(&self.read_logits(0, chunk.len())?);
        }
        Ok(())
    }

    /// Most tokens of prompt and answer together.
    pub fn context_tokens(&self) -> u32 {
        self.model.sizes.context_tokens
    }
}
