//! What each dispatch of a plan takes on the device: each alone, between two timestamps.

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

/// Timestamps around every dispatch of a plan.
pub(super) struct Stopwatch {
    raw: Arc<Raw>,
    pool: vk::QueryPool,
    count: u32,
    tick_us: f64,
    mask: u64,
}

impl Stopwatch {
    /// For a plan of `dispatches` dispatches, on a queue of `family`, which must have timestamps.
    pub fn new(raw: Arc<Raw>, family: u32, dispatches: usize) -> Result<Stopwatch, ExecutorError> {
        let fail = |reason: String| ExecutorError::Device(format!("no timestamps: {reason}"));
        let bits = timestamp_bits(&raw, family);
        if bits == 0 {
            return Err(fail("this device's queue has none".to_owned()));
        }
        let physical = raw.device.physical_device();
        let tick_us = f64::from(physical.properties().timestamp_period) / 1e3;
        let count = u32::try_from(dispatches + 1).map_err(|_| fail("too many dispatches".to_owned()))?;
        let info = vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(count);
        // SAFETY: the queue has timestamps.
        let pool = unsafe { raw.ash.create_query_pool(&info, None) }.map_err(|code| fail(describe(code)))?;
        Ok(Stopwatch { raw, pool, count, tick_us, mask: u64::MAX >> (64 - bits.min(64)) })
    }

    /// Records the dispatches one at a time, each behind a barrier.
    pub fn record(&self, ash: &ash::Device, buffer: vk::CommandBuffer, layout: vk::PipelineLayout, commands: &[Ready]) {
        let stamp = |index| {
            // SAFETY: the pool holds one query more than there are dispatches, and outlives the recording.
            unsafe { ash.cmd_write_timestamp(buffer, vk::PipelineStageFlags::BOTTOM_OF_PIPE, self.pool, index) };
        };
        // SAFETY: the pool has `count` queries.
        unsafe { ash.cmd_reset_query_pool(buffer, self.pool, 0, self.count) };
        record::compute_barrier(ash, buffer);
        stamp(0);
        let dispatches = commands.iter().filter(|command| matches!(command, Ready::Dispatch { .. }));
        for (dispatch, index) in dispatches.zip(1..) {
            record::commands(ash, buffer, layout, std::slice::from_ref(dispatch));
            record::compute_barrier(ash, buffer);
            stamp(index);
        }
    }

    /// Microseconds of each dispatch, once the recording has run.
    pub fn times_us(&self) -> Result<Vec<f64>, ExecutorError> {
        let mut stamps = vec![0u64; self.count as usize];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
        // SAFETY: the recording has run, so that every query has a value.
        unsafe { self.raw.ash.get_query_pool_results(self.pool, 0, &mut stamps, flags) }
            .map_err(|code| ExecutorError::Device(format!("no timestamps: {}", describe(code))))?;
        let ticks = |pair: &[u64]| pair[1].wrapping_sub(pair[0]) & self.mask;
        Ok(stamps.windows(2).map(|pair| ticks(pair) as f64 * self.tick_us).collect())
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
