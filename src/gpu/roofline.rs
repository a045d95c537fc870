//! The roofline of a device: how fast it copies, reads and multiplies, and what handing a dispatch to it costs, measured
//! with kernels that do nothing else.

use super::Gpu;
use crate::kernels::{copy, fma, read};
use crate::plan::profile::Roofline;
use crate::plan::{Command, Dispatch, Executor, ExecutorError, Plan, Region, Tensor};

/// Bytes that are read, and as many that are written: several times the largest cache of a CPU, and of a GPU, which also
/// reads so fast that less would be over too soon to be timed.
const SOFTWARE_BYTES: u64 = 128 << 20;
const GPU_BYTES: u64 = 512 << 20;
/// Results of all lanes of a GPU must have room.
const BYTES_MIN: u64 = 16 << 20;
/// Copied at once: more would need more workgroups than every device takes.
const COPY_BYTES_MAX: u64 = 128 << 20;

/// Lanes of a workgroup, where there is no reason for another number.
const LANES: u32 = 256;

/// The best of so many runs counts.
const RUNS: usize = 5;

/// Multiply-adds are measured for at least so long.
const FMA_US: f64 = 5000.0;
/// Chains of a lane in `shaders/fma.comp`.
const CHAINS: u64 = 12;
const STEPS_MAX: u32 = 1 << 24;

/// Dispatches that do nothing, of one plan.
const IDLE_DISPATCHES: usize = 200;

/// Units of 16 bytes that a workgroup of `read` takes.
const READ_UNITS: u32 = 1 << 14;

/// Measures a device that holds no region yet, and leaves it so.
pub fn measure(gpu: &mut Gpu) -> Result<Roofline, ExecutorError> {
    let (software, lanes) = (gpu.info().software, gpu.info().subgroup_size.max(1));
    let most = gpu.info().device_local_bytes() / 8;
    let bytes = if software { SOFTWARE_BYTES } else { GPU_BYTES };
    // A power of two, so that every division below leaves nothing.
    let bytes = 1 << bytes.min(most).min(gpu.largest_region_bytes()).max(BYTES_MIN).ilog2();
    let (from, to) = (Region::Weights(0), Region::Arena);
    gpu.allocate(from, bytes)?;
    gpu.allocate(to, bytes)?;
    let roofline = Probe { gpu, x: Tensor::new(from, 0, bytes), y: Tensor::new(to, 0, bytes), software }.run(lanes);
    gpu.forget()?;
    roofline
}

struct Probe<'a> {
    gpu: &'a mut Gpu,
    x: Tensor,
    y: Tensor,
    software: bool,
}

impl Probe<'_> {
    fn run(&mut self, lanes: u32) -> Result<Roofline, ExecutorError> {
        let copy_bytes = self.x.bytes.min(COPY_BYTES_MAX);
        let units = (copy_bytes / 16) as u32;
        let copy = copy::dispatch(
            &copy::COPY,
            copy::Spec { local_size: LANES },
            copy::Args { x: &self.x, y: &mut self.y.clone(), units },
            [units / LANES, 1, 1],
        );
        let copy_us = self.best_us(copy)?;
        let read = read::dispatch(
            &read::READ,
            read::Spec { local_size: if self.software { lanes } else { LANES }, broadcast: self.software },
            read::Args { x: &self.x, y: &mut self.y.clone(), units: READ_UNITS },
            [(self.x.bytes / 16) as u32 / READ_UNITS, 1, 1],
        );
        let read_us = self.best_us(read)?;
        let mut fma_gflop_s = Vec::new();
        for subgroups in [1, 2, 4, 8] {
            let lanes = lanes * subgroups;
            if lanes <= LANES {
                fma_gflop_s.push((lanes, self.fma_gflop_s(lanes)?));
            }
        }
        Ok(Roofline {
            copy_gb_s: 2.0 * copy_bytes as f64 / 1e3 / copy_us,
            read_gb_s: self.x.bytes as f64 / 1e3 / read_us,
            fma_gflop_s,
            dispatch_us: self.dispatch_us()?,
        })
    }

    /// The least time of a dispatch.
    fn best_us(&mut self, dispatch: Dispatch) -> Result<f64, ExecutorError> {
        let plan = plan(vec![Command::Barrier, Command::Dispatch(dispatch)]);
        let times = (0..RUNS).map(|_| self.gpu.time_dispatches(&plan).map(|times| times.times_us[0]));
        // A clock may be so coarse that nothing is left; no rate is infinite.
        Ok(times.collect::<Result<Vec<_>, _>>()?.into_iter().fold(f64::INFINITY, f64::min).max(1e-3))
    }

    /// 10⁹ floating-point operations a second of workgroups of `lanes` lanes.
    fn fma_gflop_s(&mut self, lanes: u32) -> Result<f64, ExecutorError> {
        let groups = if self.software { 64 } else { 16_384 };
        let all = u64::from(groups) * u64::from(lanes);
        let mut y = self.y.part(0, all * 4);
        let mut steps = 256;
        loop {
            let args = fma::Args { y: &mut y, steps, factor: 0.5, addend: 1.0 };
            let time_us =
                self.best_us(fma::dispatch(&fma::FMA, fma::Spec { local_size: lanes }, args, [groups, 1, 1]))?;
            if time_us >= FMA_US || steps >= STEPS_MAX {
                return Ok((2 * CHAINS * u64::from(steps) * all) as f64 / 1e3 / time_us);
            }
            steps *= 4;
        }
    }

    /// What a dispatch that copies one unit takes, of many that wait for each other.
    fn dispatch_us(&mut self) -> Result<f64, ExecutorError> {
        let (x, mut y) = (self.x.part(0, 16), self.y.part(0, 16));
        let local_size = self.gpu.info().subgroup_size.max(1);
        let idle = copy::dispatch(
            &copy::COPY,
            copy::Spec { local_size },
            copy::Args { x: &x, y: &mut y, units: 1 },
            [1, 1, 1],
        );
        let commands = vec![Command::Dispatch(idle); IDLE_DISPATCHES];
        let mut times = self.gpu.time_dispatches(&plan(commands))?.times_us;
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

fn plan(commands: Vec<Command>) -> Plan {
    Plan { name: "roofline".to_owned(), commands, arena_bytes: 0 }
}
