//! Makes a model run every kernel that it will use, to see whether they work: on an executor that compares, a driver that
//! computes wrongly is found here.

use super::request::SamplingParameters;
use super::runner::{Options, Planned, Runner};
use crate::gguf::Gguf;
use crate::model::ModelError;
use crate::model::excerpt::excerpt;
use crate::plan::{Executor, ExecutorError};

/// A prompt for prefill plans of both sizes, the larger without output: see [`super::schedule::next_chunk`].
const PROMPT_TOKENS: u32 = 11;
const CHUNK_ROWS: u32 = 8;
const CONTEXT_TOKENS: u32 = 64;
const ANSWER_TOKENS: u32 = 3;

/// Loads an excerpt of the model on `executor` and has it answer. `options` are those of the whole model.
///
/// # Errors
/// Whatever the executor reports; [`ExecutorError::Wrong`] from one that compares.
pub fn self_test(gguf: &Gguf, options: &Options, executor: Box<dyn Executor + Send>) -> Result<(), ModelError> {
    let small = excerpt(gguf)?;
    let context = options.context_tokens.unwrap_or(CONTEXT_TOKENS).min(CONTEXT_TOKENS);
    let planned = Planned::new(&small, &Options { context_tokens: Some(context), chunk_rows: CHUNK_ROWS, ..*options })?;
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
        runner.begin(&prompt, &sampling, 1);
        runner.prefill(&prompt, 0, true, &|| false)?;
        for _ in 1..ANSWER_TOKENS {
            runner.submit_decode()?;
        }
        runner.wait()?;
    }
    Ok(())
}
