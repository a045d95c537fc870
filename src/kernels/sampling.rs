//! The typed dispatch of `sample`: from logits to the next token of each sequence.

use super::{policy, sample};
use crate::plan::{Dispatch, Tensor};

/// Chooses the next token of `output_count` rows. See `shaders/sample.comp` for the shapes of the tensors.
pub struct Sample<'a> {
    pub logits: &'a Tensor,
    pub outputs: &'a Tensor,
    pub rows: &'a Tensor,
    pub sampling: &'a Tensor,
    pub biases: &'a Tensor,
    pub output_count: u32,
    /// Below 2²⁰.
    pub vocabulary: u32,
    /// Floats from one row of logits to the next.
    pub logits_stride: u32,
}

/// What it advances.
pub struct Advanced<'a> {
    pub counts: &'a mut Tensor,
    /// May be the memory of [`Sample::rows`] if row i belongs to sequence i.
    pub next: &'a mut Tensor,
    pub ring: &'a mut Tensor,
}

impl Sample<'_> {
    /// Bytes of the scratch that a dispatch needs.
    pub fn scratch_bytes(&self) -> u64 {
        u64::from(self.output_count) * u64::from(self.vocabulary) * 8
    }

    /// # Panics
    /// When a shape does not fit: a defect in the code that lays out the plan.
    pub fn dispatch(&self, scratch: &mut Tensor, advanced: Advanced<'_>, policy: &policy::Policy) -> Dispatch {
        assert!(self.vocabulary > 0 && self.vocabulary < 1 << 20, "a vocabulary of {} tokens", self.vocabulary);
        assert!(self.logits_stride >= self.vocabulary, "rows of logits overlap");
        assert!(scratch.bytes >= self.scratch_bytes(), "scratch of {} bytes", scratch.bytes);
        let args = sample::Args {
            logits: self.logits,
            outputs: self.outputs,
            rows: self.rows,
            sampling: self.sampling,
            biases: self.biases,
            counts: advanced.counts,
            scratch,
            next: advanced.next,
            ring: advanced.ring,
            vocabulary: self.vocabulary,
            logits_stride: self.logits_stride,
        };
        let traffic = u64::from(self.output_count) * u64::from(self.vocabulary) * 4;
        let spec = sample::Spec { local_size: policy.sample_lanes() };
        sample::dispatch(&sample::SAMPLE, spec, args, [self.output_count, 1, 1]).traffic(traffic)
    }
}
