//! The CPU reference: one plain twin per kernel, and an executor that runs any plan with them. It exists to be read and
//! compared with; it is never chosen to serve.

mod attention;
mod cache;
pub mod checked;
mod matrix;
mod memory;
mod norm;
mod roofline;
pub mod sample;
mod step;

pub use checked::Checked;
pub use memory::Memory;

use crate::kernels;
use crate::plan::{Command, Dispatch, Executor, ExecutorError, Plan, Prepared, Region, Ticket};

/// What one kernel does, on the CPU.
type Twin = fn(&Dispatch, &mut Memory);

/// The twin of a shader, by its name.
pub fn twin(family: &str) -> Option<Twin> {
    let (_, twin) = TWINS.iter().find(|(name, _)| *name == family)?;
    Some(*twin)
}

const TWINS: &[(&str, Twin)] = &[
    ("attend", |dispatch, memory| attention::attend(dispatch.kernel, &kernels::attend::resolve(dispatch), memory)),
    ("begin", |dispatch, memory| step::begin(&kernels::begin::resolve(dispatch), memory)),
    ("chain", |dispatch, memory| {
        for stage in &dispatch.stages {
            twin(stage.kernel.family).expect("stages have twins as all kernels do")(stage, memory);
        }
    }),
    ("copy", |dispatch, memory| {
        let args = kernels::copy::resolve(dispatch);
        let bytes = memory.view::<u8>(&args.x)[..args.units as usize * 16].to_vec();
        memory.view_mut::<u8>(&args.y)[..bytes.len()].copy_from_slice(&bytes);
    }),
    ("embed", |dispatch, memory| matrix::embed(dispatch.kernel, &kernels::embed::resolve(dispatch), memory)),
    ("finish", |dispatch, memory| step::finish(&kernels::finish::resolve(dispatch), memory)),
    ("fma", |dispatch, memory| roofline::fma(&kernels::fma::resolve(dispatch), memory)),
    ("mat_mul", |dispatch, memory| matrix::mat_mul(dispatch.kernel, &kernels::mat_mul::resolve(dispatch), memory)),
    ("meet", |dispatch, memory| roofline::meet(&kernels::meet::resolve(dispatch), memory)),
    ("merge", |dispatch, memory| attention::merge(&kernels::merge::resolve(dispatch), memory)),
    ("norm", |dispatch, memory| norm::run(&kernels::norm::resolve(dispatch), memory)),
    ("read", |dispatch, memory| roofline::read(&kernels::read::resolve(dispatch), memory)),
    ("repack", |dispatch, memory| matrix::repack(dispatch.kernel, &kernels::repack::resolve(dispatch), memory)),
    ("sample", |dispatch, memory| sample::run(&kernels::sample::resolve(dispatch), memory)),
    ("rope_store", |dispatch, memory| {
        attention::rope_store(dispatch.kernel, &kernels::rope_store::resolve(dispatch), memory)
    }),
];

/// Runs plans one dispatch after another, at once, on the calling thread.
#[derive(Default)]
pub struct Reference {
    memory: Memory,
    plans: Vec<Option<Vec<Dispatch>>>,
}

impl Executor for Reference {
    fn allocate(&mut self, region: Region, bytes: u64) -> Result<(), ExecutorError> {
        self.memory.allocate(region, bytes)
    }

    fn free(&mut self, region: Region) -> Result<(), ExecutorError> {
        self.memory.free(region);
        Ok(())
    }

    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError> {
        let dispatches: Vec<Dispatch> = plan.dispatches().cloned().collect();
        for dispatch in &dispatches {
            if twin(dispatch.kernel.family).is_none() {
                let reason = "it has no twin".to_owned();
                return Err(ExecutorError::Pipeline { kernel: dispatch.kernel.name, reason });
            }
        }
        debug_assert!(plan.commands.iter().all(|command| matches!(command, Command::Barrier | Command::Dispatch(_))));
        self.plans.push(Some(dispatches));
        Ok(Prepared(self.plans.len() - 1))
    }

    fn release(&mut self, prepared: Prepared) {
        self.plans[prepared.0] = None;
    }

    fn submit(&mut self, prepared: Prepared) -> Result<(), ExecutorError> {
        let dispatches = self.plans[prepared.0].as_ref().expect("the plan was not released");
        for dispatch in dispatches {
            let run = twin(dispatch.kernel.family).expect("prepare has checked");
            run(dispatch, &mut self.memory);
        }
        Ok(())
    }

    fn fence(&mut self) -> Result<Ticket, ExecutorError> {
        Ok(Ticket(0))
    }

    fn wait(&mut self, _: Ticket) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn write(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]) {
        self.memory.write_bytes(region, offset_bytes, bytes);
    }

    fn load_u32(&self, region: Region, offset_bytes: u64) -> u32 {
        self.memory.load_u32(region, offset_bytes)
    }

    fn read(&mut self, region: Region, offset_bytes: u64, out: &mut [u8]) -> Result<(), ExecutorError> {
        self.memory.read_bytes(region, offset_bytes, out);
        Ok(())
    }
}
