//! The typed dispatches around a step: `begin` takes it, `sample` goes from logits to the next token of each sequence,
//! `finish` ends a step that samples nothing.

use super::{begin, finish, policy, sample};
use crate::plan::{Dispatch, Tensor};

/// Takes the next step from the rings, for plans of `row_count` rows and `output_count` outputs. See
/// `shaders/begin.comp` for the shapes of the tensors.
pub struct Begin<'a> {
    pub row_ring: &'a Tensor,
    pub output_ring: &'a Tensor,
    pub next: &'a Tensor,
    /// Rows, and outputs, of one step in the rings.
    pub row_stride: u32,
    pub output_stride: u32,
    pub row_count: u32,
    pub output_count: u32,
}

impl Begin<'_> {
    pub fn dispatch(&self, clock: &mut Tensor, rows: &mut Tensor, outputs: &mut Tensor) -> Dispatch {
        let args = begin::Args {
            row_ring: self.row_ring,
            output_ring: self.output_ring,
            next: self.next,
            clock,
            rows,
            outputs,
            row_stride: self.row_stride,
            output_stride: self.output_stride,
            row_count: self.row_count,
            output_count: self.output_count,
        };
        let traffic = 32 * u64::from(self.row_count) + 8 * u64::from(self.output_count);
        begin::dispatch(&begin::BEGIN, begin::Spec { local_size: 32 }, args, [1, 1, 1]).traffic(traffic)
    }
}

/// Tells the host that the running step, of which `after` is written last, is done.
pub fn finish(after: &Tensor, clock: &Tensor, ring: &mut Tensor, ring_stride: u32) -> Dispatch {
    let args = finish::Args { after, clock, ring, ring_stride };
    finish::dispatch(&finish::FINISH, finish::Spec { local_size: 1 }, args, [1, 1, 1]).traffic(8)
}

/// Chooses the next token of `output_count` rows. See `shaders/sample.comp` for the shapes of the tensors.
pub struct Sample<'a> {
    pub logits: &'a Tensor,
    pub outputs: &'a Tensor,
    pub rows: &'a Tensor,
    pub sampling: &'a Tensor,
    pub biases: &'a Tensor,
    pub masks: &'a Tensor,
    pub clock: &'a Tensor,
    pub output_count: u32,
    /// Below 2²⁰.
    pub vocabulary: u32,
    /// Floats from one row of logits to the next.
    pub logits_stride: u32,
    /// Entries of one step in the ring.
    pub ring_stride: u32,
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
            masks: self.masks,
            clock: self.clock,
            counts: advanced.counts,
            scratch,
            next: advanced.next,
            ring: advanced.ring,
            vocabulary: self.vocabulary,
            logits_stride: self.logits_stride,
            ring_stride: self.ring_stride,
        };
        let traffic = u64::from(self.output_count) * u64::from(self.vocabulary) * 4;
        let (local_size, tile_rows) = policy.sample_lanes(self.vocabulary, self.logits_stride);
        let spec = sample::Spec { local_size, tile_rows };
        sample::dispatch(&sample::SAMPLE, spec, args, [self.output_count, 1, 1]).traffic(traffic)
    }
}
