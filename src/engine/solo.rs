//! Sequences stepped by hand, without an engine: for measurements, self-tests and tests.

use super::request::SamplingParameters;
use super::runner::{Runner, StepNumber, StepRows};
use super::schedule;
use crate::kernels::{Row, SAMPLED_LAST};
use crate::plan::ExecutorError;

/// A sequence in a slot, with blocks of the cache that no other slot has. What it has in the cache stays for the next one.
pub struct Solo<'r> {
    pub runner: &'r mut Runner,
    slot: u32,
    /// Where the token that is sampled next will stand.
    position: u32,
    last: Option<StepNumber>,
}

impl Solo<'_> {
    /// Makes slot 0 ready for an answer to `prompt`. Nothing may be in flight that uses it.
    pub fn begin<'r>(runner: &'r mut Runner, prompt: &[u32], sampling: &SamplingParameters, seed: u64) -> Solo<'r> {
        Solo::begin_in(0, runner, prompt, sampling, seed)
    }

    /// The same in any slot, for which the cache must have blocks.
    pub fn begin_in<'r>(
        slot: u32,
        runner: &'r mut Runner,
        prompt: &[u32],
        sampling: &SamplingParameters,
        seed: u64,
    ) -> Solo<'r> {
        runner.begin(slot, prompt, &[], sampling, seed);
        let count = runner.model().sizes.blocks_a_sequence();
        runner.put_blocks(slot, 0, &(slot * count..(slot + 1) * count).collect::<Vec<u32>>());
        Solo { runner, slot, position: 0, last: None }
    }

    /// Evaluates `tokens`, which stand at `first_position` and behind, in chunks, and waits. With `sample`, the token after
    /// the last one is sampled and [`Solo::submit_decode`] goes on from there.
    pub fn prefill(&mut self, tokens: &[u32], first_position: u32, sample: bool) -> Result<(), ExecutorError> {
        for step in self.chunks(tokens, first_position, sample) {
            self.last = Some(self.runner.submit(&step)?);
            // Steps in flight are bounded.
            self.runner.wait()?;
        }
        self.position = first_position + tokens.len() as u32;
        Ok(())
    }

    /// The steps of [`Solo::prefill`].
    pub fn chunks(&self, tokens: &[u32], first_position: u32, sample: bool) -> Vec<StepRows> {
        let (mut steps, mut done) = (Vec::new(), 0);
        while done < tokens.len() {
            let left = (tokens.len() - done) as u32;
            // A single token without an output is no decoding.
            let shares = schedule::share(&[left.max(2)], self.runner.model().sizes.prefill_rows());
            let end = done + shares.tokens[0].min(left) as usize;
            let row = |(position, &token)| Row { token, position, sequence: self.slot, live: 1 };
            let rows: Vec<Row> = (first_position + done as u32..).zip(&tokens[done..end]).map(row).collect();
            let outputs = if sample && end == tokens.len() { vec![rows.len() as u32 - 1] } else { Vec::new() };
            steps.push(StepRows { rows, outputs, plan_rows: shares.rows });
            done = end;
        }
        steps
    }

    /// Starts the evaluation of the token sampled last, and the sampling of the next.
    pub fn submit_decode(&mut self) -> Result<StepNumber, ExecutorError> {
        let rows = vec![Row { token: SAMPLED_LAST, position: self.position, sequence: self.slot, live: 1 }];
        let step = self.runner.submit(&StepRows { rows, outputs: vec![0], plan_rows: 1 })?;
        self.position += 1;
        self.last = Some(step);
        Ok(step)
    }

    /// The token that the step submitted last has sampled, once it is done.
    pub fn last_token(&mut self) -> Result<Option<u32>, ExecutorError> {
        self.runner.wait()?;
        Ok(self.last.and_then(|step| self.runner.sampled(step, 0)))
    }
}
