//! What plans take on the device: each between two timestamps.

use super::queue::{Raw, describe};
use super::record::{self, Ready};
use crate::plan::ExecutorError;
use ash::vk;
use std::sync::Arc;

/// Bits of a queue's timestamps; 0: it has none.
pub(super) fn timestamp_bits(raw: &Raw, family: u32) -> u32 {
    let families = raw.device.physical_device().queue_family_properties();
    families.get(family as usize).and_then(|family| family.timestamp_valid_bits).unwrap_or(0)
}

/// Intervals with nothing in them, the shortest of which is taken from every other.
const EMPTY_INTERVALS: usize = 3;

/// Timestamps around plans.
pub(super) struct Stopwatch {
    raw: Arc<Raw>,
    pool: vk::QueryPool,
    count: u32,
    tick_us: f64,
    mask: u64,
}

impl Stopwatch {
    /// For `plans` plans, on a queue of `family`, which must have timestamps.
    pub fn new(raw: Arc<Raw>, family: u32, plans: usize) -> Result<Stopwatch, ExecutorError> {
        let fail = |reason: String| ExecutorError::Device(format!("no timestamps: {reason}"));
        let bits = timestamp_bits(&raw, family);
        if bits == 0 {
            return Err(fail("this device's queue has none".to_owned()));
        }
        let physical = raw.device.physical_device();
        let tick_us = f64::from(physical.properties().timestamp_period) / 1e3;
        let count = u32::try_from(EMPTY_INTERVALS + plans + 1).map_err(|_| fail("too many plans".to_owned()))?;
        let info = vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(count);
        // SAFETY: the queue has timestamps.
        let pool = unsafe { raw.ash.create_query_pool(&info, None) }.map_err(|code| fail(describe(code)))?;
        Ok(Stopwatch { raw, pool, count, tick_us, mask: u64::MAX >> (64 - bits.min(64)) })
    }

    /// Records plans, each behind a barrier and before one.
    pub fn record(
        &self,
        ash: &ash::Device,
        buffer: vk::CommandBuffer,
        layout: vk::PipelineLayout,
        plans: &[Vec<Ready>],
    ) {
        let stamp = |index| {
            // SAFETY: the pool holds one query more than there are intervals, and outlives the recording.
            unsafe { ash.cmd_write_timestamp(buffer, vk::PipelineStageFlags::BOTTOM_OF_PIPE, self.pool, index) };
        };
        // SAFETY: the pool has `count` queries.
        unsafe { ash.cmd_reset_query_pool(buffer, self.pool, 0, self.count) };
        record::compute_barrier(ash, buffer);
        stamp(0);
        let nothing: [&[Ready]; EMPTY_INTERVALS] = [&[]; EMPTY_INTERVALS];
        for (commands, index) in nothing.into_iter().chain(plans.iter().map(Vec::as_slice)).zip(1..) {
            record::commands(ash, buffer, layout, commands);
            record::compute_barrier(ash, buffer);
            stamp(index);
        }
    }

    /// Microseconds of each plan, once the recording has run.
    pub fn times_us(&self) -> Result<Vec<f64>, ExecutorError> {
        let mut stamps = vec![0u64; self.count as usize];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
        // SAFETY: the recording has run, so that every query has a value.
        unsafe { self.raw.ash.get_query_pool_results(self.pool, 0, &mut stamps, flags) }
            .map_err(|code| ExecutorError::Device(format!("no timestamps: {}", describe(code))))?;
        let ticks = |pair: &[u64]| pair[1].wrapping_sub(pair[0]) & self.mask;
        let mut times_us = stamps.windows(2).map(|pair| ticks(pair) as f64 * self.tick_us);
        let nothing_us = times_us.by_ref().take(EMPTY_INTERVALS).fold(f64::INFINITY, f64::min);
        Ok(times_us.map(|time_us| (time_us - nothing_us).max(0.0)).collect())
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        if !self.raw.is_hung() {
            // SAFETY: whoever submitted the recording has waited for it.
            unsafe { self.raw.ash.destroy_query_pool(self.pool, None) };
        }
    }
}
