//! Makes a model run every kernel that it will use, to see whether they work: on an executor that compares, a driver that
//! computes wrongly is found here.

use super::request::SamplingParameters;
use super::runner::{Options, Planned, Runner, StepRows};
use super::solo::Solo;
use crate::gguf::Gguf;
use crate::kernels::attention::SPLIT_TOKENS;
use crate::kernels::{BLOCK_TOKENS, Row};
use crate::model::ModelError;
use crate::model::dims::Dims;
use crate::model::excerpt::excerpt;
use crate::plan::{Executor, ExecutorError};

/// A prompt for prefill plans of both sizes, the larger without output: see [`super::schedule::next_chunk`].
const PROMPT_TOKENS: u32 = 11;
const CHUNK_ROWS: u32 = 8;
/// A GPU attends to what lies behind two splits and more in splits.
const CONTEXT_TOKENS: u32 = 2 * SPLIT_TOKENS + 2 * BLOCK_TOKENS;
const ANSWER_TOKENS: u32 = 3;
/// As many as the kernels of the largest decode plans are made for: see [`crate::kernels::policy`].
const SEQUENCES: u32 = 8;

/// Loads an excerpt of the model on `executor` and has it answer. `options` are those of the whole model.
///
/// # Errors
/// Whatever the executor reports; [`ExecutorError::Wrong`] from one that compares.
pub fn self_test(gguf: &Gguf, options: &Options, executor: Box<dyn Executor + Send>) -> Result<(), ModelError> {
    let policy = options.policy.for_products(Dims::read(gguf)?.1.largest_product());
    // In a chain a layer's last products stand before the next one's first.
    let small = excerpt(gguf, if policy.side_by_side > 0 { 2 } else { 1 })?;
    let context = options.context_tokens.unwrap_or(CONTEXT_TOKENS).min(CONTEXT_TOKENS);
    let sequences = options.sequences.min(SEQUENCES);
    // One sequence of full length, or a block for each.
    let cache_tokens = Some(context.max(sequences * BLOCK_TOKENS));
    let context_tokens = Some(context);
    let options = Options { context_tokens, chunk_rows: CHUNK_ROWS, sequences, cache_tokens, policy, ..*options };
    let planned = Planned::new(&small, &options)?;
    let mut runner = planned.load(&small, executor, &mut |_| {})?;
    Ok(answer(&mut runner)?)
}

/// Answers a prompt in each of the ways of choosing a token.
fn answer(runner: &mut Runner) -> Result<(), ExecutorError> {
    let vocabulary = runner.model().dims.vocabulary;
    let room = runner.context_tokens().saturating_sub(ANSWER_TOKENS).max(1);
    let prompt: Vec<u32> = (0..PROMPT_TOKENS.min(room)).map(|index| (index * 7 + 1) % vocabulary).collect();
    let greedy = SamplingParameters { temperature: 0.0, ..SamplingParameters::default() };
    let sampled = SamplingParameters { temperature: 0.8, top_k: 40, top_p: 0.95, ..SamplingParameters::default() };
    let penalized =
        SamplingParameters { repetition_penalty: 1.1, presence_penalty: 0.1, min_p: 0.01, ..sampled.clone() };
    for sampling in [greedy, sampled, penalized] {
        let mut solo = Solo::begin(runner, &prompt, &sampling, 1);
        solo.prefill(&prompt, 0, true)?;
        for _ in 1..ANSWER_TOKENS {
            solo.submit_decode()?;
        }
        runner.wait()?;
    }
    far_behind(runner)?;
    let rows = CHUNK_ROWS.min(runner.context_tokens());
    for count in (1..=SEQUENCES.ilog2()).map(|power| 1 << power) {
        chunk(runner, rows, count)?;
        side_by_side(runner, count)?;
    }
    Ok(())
}

/// Evaluates a chunk of so many tokens with so many outputs, as where prompts end together or a draft is verified.
fn chunk(runner: &mut Runner, rows: u32, outputs: u32) -> Result<(), ExecutorError> {
    if outputs > rows.min(runner.model().sizes.sampled_rows()) {
        return Ok(());
    }
    runner.begin(0, &[], &[], &SamplingParameters::default(), 1);
    let plan_rows = rows.next_power_of_two();
    let rows = (0..rows).map(|position| Row { token: 1, position, sequence: 0, live: 1 }).collect();
    runner.submit(&StepRows { rows, outputs: (0..outputs).collect(), plan_rows })?;
    runner.wait()
}

/// Decodes behind as many tokens as there is room for, where the device has a plan of its own for that. They all lie in one
/// block of the cache, so that there are few to evaluate.
fn far_behind(runner: &mut Runner) -> Result<(), ExecutorError> {
    let table = (runner.context_tokens() - 1) / BLOCK_TOKENS;
    let row = Row { token: 1, position: table * BLOCK_TOKENS, sequence: 0, live: 1 };
    if runner.model().decode_key(1, row.position).splits == 1 {
        return Ok(());
    }
    Solo::begin(runner, &[], &SamplingParameters::default(), 1).prefill(&[1; BLOCK_TOKENS as usize], 0, false)?;
    runner.put_blocks(0, 0, &vec![0; table as usize]);
    runner.submit(&StepRows { rows: vec![row], outputs: vec![0], plan_rows: 1 })?;
    runner.wait()
}

/// Decodes so many sequences in one step, one of them restricted to a few tokens.
fn side_by_side(runner: &mut Runner, count: u32) -> Result<(), ExecutorError> {
    if runner.model().sizes.sequences < count {
        return Ok(());
    }
    let mut mask = vec![0; runner.mask_words()];
    mask[0] = 0b1010;
    let sampling = SamplingParameters::default();
    for slot in 0..count {
        runner.begin(slot, &[], &[], &sampling, 1);
        runner.put_blocks(slot, 0, &[slot]);
    }
    runner.restrict(1, &sampling, 1, Some(&mask));
    let rows = (0..count).map(|sequence| Row { token: 1, position: 0, sequence, live: 1 }).collect();
    runner.submit(&StepRows { rows, outputs: (0..count).collect(), plan_rows: count })?;
    runner.wait()
}
