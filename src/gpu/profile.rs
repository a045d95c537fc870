//! Where a plan's time goes on the device: each dispatch alone, between two timestamps.

use super::queue::{Raw, describe};
use super::record::{self, Ready};
use crate::plan::ExecutorError;
use ash::vk;
use std::sync::Arc;

/// What one dispatch took.
#[derive(Clone, Debug, PartialEq)]
pub struct DispatchTime {
    pub kernel: &'static str,
    pub label: String,
    /// On the device, the least of all repeats.
    pub time_us: f64,
    /// Bytes that it must move, as the plan states them.
    pub traffic_bytes: u64,
}

/// Sums by kernel, slowest first, as a table: dispatches, µs, share of the whole, GB/s.
pub fn table(times: &[DispatchTime]) -> String {
    let mut kernels: Vec<(&str, usize, f64, u64)> = Vec::new();
    for time in times {
        match kernels.iter_mut().find(|(kernel, ..)| *kernel == time.kernel) {
            Some((_, count, total_us, bytes)) => {
                *count += 1;
                *total_us += time.time_us;
                *bytes += time.traffic_bytes;
            }
            None => kernels.push((time.kernel, 1, time.time_us, time.traffic_bytes)),
        }
    }
    kernels.sort_by(|a, b| b.2.total_cmp(&a.2));
    let whole_us: f64 = kernels.iter().map(|(_, _, total_us, _)| total_us).sum();
    let mut text = format!("{:<24} {:>10} {:>12} {:>7} {:>8}\n", "kernel", "dispatches", "µs", "share", "GB/s");
    for (kernel, count, total_us, bytes) in kernels {
        let share = 100.0 * total_us / whole_us.max(f64::MIN_POSITIVE);
        let rate = bytes as f64 / 1e3 / total_us.max(f64::MIN_POSITIVE);
        text += &format!("{kernel:<24} {count:>10} {total_us:>12.1} {share:>6.1}% {rate:>8.2}\n");
    }
    text
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
    /// For a plan of `dispatches` dispatches, on a queue of `family`.
    pub fn new(raw: Arc<Raw>, family: u32, dispatches: usize) -> Result<Stopwatch, ExecutorError> {
        let fail = |reason: String| ExecutorError::Device(format!("no timestamps: {reason}"));
        let physical = raw.device.physical_device();
        let bits = physical.queue_family_properties()[family as usize].timestamp_valid_bits.unwrap_or(0);
        if bits == 0 {
            return Err(fail("this device's queue has none".to_owned()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_sums_by_kernel_and_sorts_by_time() {
        let time =
            |kernel, time_us, traffic_bytes| DispatchTime { kernel, label: String::new(), time_us, traffic_bytes };
        let text = table(&[time("norm", 5.0, 1000), time("mat_mul", 90.0, 9_000_000), time("norm", 5.0, 1000)]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["mat_mul", "1", "90.0", "90.0%", "100.00"]);
        assert_eq!(lines[2], ["norm", "2", "10.0", "10.0%", "0.20"]);
    }
}
