//! Whether workgroups may wait for each other. Vulkan promises none that it goes on while another waits for it, but a CPU
//! driver that gives each of its threads an equal share of a dispatch does let them: so it is tried, and timed.

use super::Gpu;
use super::cores;
use crate::kernels::chains::LINE_BYTES;
use crate::kernels::{fma, meet};
use crate::plan::{Command, Executor, ExecutorError, Plan, Region, Tensor};

/// More than any CPU driver has threads.
const GROUPS_MAX: u32 = 128;
const ROUNDS: u32 = 64;
/// Some 10 ms of multiply-adds.
const BUSY_STEPS: u32 = 4 << 20;
/// Until they have cores of their own, Linux may leave threads on one for milliseconds.
const TRIES: usize = 20;
/// And may leave them there for all of those, one time in eight on an idle machine: longer work moves them apart.
const ATTEMPTS: usize = 8;
/// The first major version of Mesa that was seen to leave out the branches that no lane takes: those of a chain's other stages
/// would read from nowhere.
const MESA_MIN: u32 = 26;
/// What a meeting may cost at most. Lavapipe's take 0.15 µs, its dispatches 4 to 40 (Mesa 26.2.6, 2 cores, 2026-11-29). Threads
/// that have to share a core wait for milliseconds.
const MEETING_US_MAX: f64 = 2.0;

impl Gpu {
    /// Gives the threads of a CPU driver a core each where it can, and finds out whether workgroups, one for each, may wait for
    /// each other then: how many says [`super::DeviceInfo::side_by_side`]. Only lavapipe from Mesa 26 on is tried. The device holds no region yet, and holds none after.
    ///
    /// # Errors
    /// When the device fails.
    pub fn look_side_by_side(&mut self) -> Result<(), ExecutorError> {
        if self.info.mesa_major() < Some(MESA_MIN) {
            return Ok(());
        }
        self.allocate(
            Region::Step,
            u64::from(ROUNDS) * LINE_BYTES + 4 * u64::from(GROUPS_MAX * self.info.subgroup_size.max(1)),
        )?;
        let found = self.look();
        self.forget()?;
        self.info.side_by_side = found?;
        Ok(())
    }

    fn look(&mut self) -> Result<u32, ExecutorError> {
        for _ in 1..ATTEMPTS {
            let found = self.most_side_by_side()?;
            if found > 0 {
                return Ok(found);
            }
            self.keep_busy(2)?;
        }
        self.most_side_by_side()
    }

    fn most_side_by_side(&mut self) -> Result<u32, ExecutorError> {
        // As many as there are threads, or some would have nothing to do.
        let (mut most, mut too_many) = (1, GROUPS_MAX + 1);
        while too_many - most > 1 {
            let groups = if too_many > GROUPS_MAX { (2 * most).min(GROUPS_MAX) } else { most.midpoint(too_many) };
            match self.meeting_us(groups)? {
                Some(_) => most = groups,
                None => too_many = groups,
            }
            if most == GROUPS_MAX {
                break;
            }
        }
        let apart = most > 1 && cores::spread(most, || self.keep_busy(most))?;
        let quick = apart && self.meeting_us(most)?.is_some_and(|time_us| time_us <= MEETING_US_MAX);
        Ok(if quick { most } else { 0 })
    }

    /// Gives each of so many workgroups as much to do as the others.
    fn keep_busy(&mut self, groups: u32) -> Result<(), ExecutorError> {
        let local_size = self.info.subgroup_size.max(1);
        let mut y = Tensor::new(Region::Step, 0, 4 * u64::from(groups * local_size));
        let args = fma::Args { y: &mut y, steps: BUSY_STEPS, factor: 0.5, addend: 1.0 };
        let dispatch = fma::dispatch(&fma::FMA, fma::Spec { local_size }, args, [groups, 1, 1]);
        let commands = vec![Command::Barrier, Command::Dispatch(dispatch)];
        let plan = Plan { name: "keep busy".to_owned(), commands, arena_bytes: 0 };
        self.time(&[plan.clone(), plan]).map(|_| ())
    }

    /// What meeting once takes so many workgroups at best; `None`: they never all met.
    fn meeting_us(&mut self, groups: u32) -> Result<Option<f64>, ExecutorError> {
        let mut arrived = Tensor::new(Region::Step, 0, u64::from(ROUNDS) * LINE_BYTES);
        let mut y = Tensor::new(Region::Step, arrived.bytes, 4 * u64::from(groups));
        let spec = meet::Spec { local_size: self.info.subgroup_size.max(1) };
        let mut best_us: Option<f64> = None;
        for _ in 0..TRIES {
            let args = meet::Args { arrived: &mut arrived, y: &mut y, rounds: ROUNDS };
            let dispatch = meet::dispatch(&meet::MEET, spec, args, [groups, 1, 1]);
            let commands = vec![Command::Barrier, Command::Dispatch(dispatch)];
            if best_us.is_some_and(|time_us| time_us <= MEETING_US_MAX * f64::from(ROUNDS)) {
                break;
            }
            self.write(Region::Step, 0, &vec![0; arrived.end_bytes() as usize]);
            let plan = Plan { name: "side by side".to_owned(), commands, arena_bytes: 0 };
            let time_us = self.time(std::slice::from_ref(&plan))?.times_us[0];
            let mut found = vec![0; y.bytes as usize];
            self.read(y.region, y.offset_bytes, &mut found)?;
            if found.chunks_exact(4).all(|rounds| rounds == ROUNDS.to_le_bytes()) {
                best_us = Some(best_us.map_or(time_us, |best| best.min(time_us)));
            }
        }
        Ok(best_us.map(|time_us| time_us / f64::from(ROUNDS)))
    }
}
