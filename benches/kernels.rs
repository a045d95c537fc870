//! Times every kernel on the shapes that `tests/kernels` checks, products and choices of a token on shapes of real models:
//!
//! ```sh
//! cargo bench --bench kernels -- mat_mul_q4_0        # those whose name holds it; nothing: all of them
//! cargo test --bench kernels -- norm/                # each once, to see that it runs
//! ```
//!
//! HESPER_DEVICE names the device. The small shapes are of all arrangements and geometries, whatever suits the device; they
//! show what a dispatch costs. A time is one of many submissions behind each other, each of one dispatch with a barrier
//! before it. Rates are of the bytes that the
//! kernel must move, and where a real shape is named, of its weights.

// The tables stand beside tests, which are not compiled here.
#[path = "../tests/kernels/attention.rs"]
#[allow(dead_code, unused_imports)]
mod attention;
#[path = "../tests/kernels/cases.rs"]
mod cases;
#[path = "../tests/kernels/chain.rs"]
mod chain;
#[path = "../tests/kernels/copy.rs"]
mod copy;
#[path = "../tests/device/mod.rs"]
mod device;
#[path = "../tests/kernels/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../tests/kernels/matrix.rs"]
#[allow(dead_code, unused_imports)]
mod matrix;
#[path = "../tests/kernels/norm.rs"]
mod norm;
#[path = "../tests/kernels/roofline.rs"]
mod roofline;
#[path = "../tests/kernels/sampling.rs"]
mod sampling;

use criterion::{Criterion, Throughput};
use harness::Case;
use hesper::gpu::Gpu;
use hesper::kernels::{self, KERNELS};
use hesper::plan::{Command, Dispatch, Executor, Plan, Prepared, Region, Tensor};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Where a case's tensors lie: memory of the device, as a model's.
const REGION: Region = Region::Weights(0);
const STAGING_BYTES: usize = 16 << 20;
/// Submissions in flight.
const FLIGHTS: u64 = 64;

/// A case to time, made when it is its turn.
struct Entry {
    name: String,
    /// What it must move; of products of real shapes, the weights.
    bytes: u64,
    make: Box<dyn Fn() -> Rc<Case>>,
}

/// What there is to time, by kernel.
fn entries(gpu: &Gpu) -> BTreeMap<String, Vec<Entry>> {
    let mut entries: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for case in cases::cases().into_iter().map(Rc::new) {
        for kernel in KERNELS.iter().filter(|kernel| case.uses(kernel.name)) {
            let (name, bytes, case) = (case.name.clone(), timed(&case, kernel.name).work.bytes, case.clone());
            let entry = Entry { name, bytes, make: Box::new(move || case.clone()) };
            entries.entry(kernel.name.to_owned()).or_default().push(entry);
        }
    }
    for shape in matrix::real_shapes(device::policy(gpu)) {
        let (kernel, name, bytes) = (shape.kernel(), shape.name(), shape.weight_bytes());
        let make = Box::new(move || Rc::new(matrix::product(&shape)));
        entries.entry(kernel).or_default().push(Entry { name, bytes, make });
    }
    let policy = device::policy(gpu);
    for (name, how, deviation) in sampling::real_choices() {
        let (named, bytes) = (name.clone(), 4 * 151_936);
        let make = Box::new(move || Rc::new(sampling::real_choice(&named, how, deviation, policy)));
        entries.entry("sample".to_owned()).or_default().push(Entry { name, bytes, make });
    }
    for kernel in KERNELS {
        assert!(entries.contains_key(kernel.name), "{} has nothing to be timed with", kernel.name);
    }
    entries
}

/// Runs a plan and waits.
fn run(gpu: &mut Gpu, prepared: Prepared) {
    gpu.submit(prepared).expect("it is submitted");
    let ticket = gpu.fence().expect("a fence");
    gpu.wait(ticket).expect("it ends");
}

fn prepare(gpu: &mut Gpu, dispatch: Dispatch) -> Prepared {
    let plan = Plan {
        name: dispatch.kernel.name.to_owned(),
        commands: vec![Command::Barrier, Command::Dispatch(dispatch)],
        arena_bytes: 0,
    };
    gpu.prepare(&plan).expect("a valid plan")
}

fn on_device(dispatch: &Dispatch) -> Dispatch {
    let mut dispatch = dispatch.clone();
    dispatch.stages.iter_mut().for_each(|stage| *stage = on_device(stage));
    dispatch
        .operands
        .iter_mut()
        .filter(|operand| operand.region != Region::Stages)
        .for_each(|operand| operand.region = REGION);
    dispatch
}

/// Brings a case to the device, runs it whole, and gives the largest of its dispatches of a kernel, made ready.
fn set_up(gpu: &mut Gpu, case: &Case, kernel: &str) -> Prepared {
    gpu.forget().expect("nothing runs");
    let bytes = case.initial_bytes();
    gpu.allocate(REGION, bytes.len() as u64).expect("device memory");
    gpu.allocate(Region::Staging, STAGING_BYTES as u64).expect("device memory");
    for (piece, offset) in bytes.chunks(STAGING_BYTES).zip((0u64..).step_by(STAGING_BYTES)) {
        gpu.write(Region::Staging, 0, piece);
        let x = Tensor::new(Region::Staging, 0, piece.len() as u64);
        let mut y = Tensor::new(REGION, offset, piece.len() as u64);
        // Regions are whole units of 16 bytes.
        let units = (piece.len() / 16) as u32;
        let args = kernels::copy::Args { x: &x, y: &mut y, units };
        let spec = kernels::copy::Spec { local_size: 64 };
        let copied =
            prepare(gpu, kernels::copy::dispatch(&kernels::copy::COPY, spec, args, [units.div_ceil(64), 1, 1]));
        run(gpu, copied);
        gpu.release(copied);
    }
    for dispatch in case.dispatches() {
        let prepared = prepare(gpu, on_device(dispatch));
        run(gpu, prepared);
    }
    prepare(gpu, on_device(timed(case, kernel)))
}

fn timed<'a>(case: &'a Case, kernel: &str) -> &'a Dispatch {
    let of_kernel = case.dispatches().iter().filter(|dispatch| dispatch.kernel.name == kernel);
    of_kernel.max_by_key(|dispatch| dispatch.work.bytes).expect("the case uses the kernel")
}

fn submissions(gpu: &mut Gpu, prepared: Prepared, count: u64) -> Duration {
    let start = Instant::now();
    let mut left = count;
    while left > 0 {
        for _ in 1..left.min(FLIGHTS) {
            gpu.submit(prepared).expect("it is submitted");
        }
        run(gpu, prepared);
        left -= left.min(FLIGHTS);
    }
    start.elapsed()
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let Some(mut gpu) = device::gpu() else { return };
    for (kernel, entries) in entries(&gpu) {
        let mut group = criterion.benchmark_group(&kernel);
        for entry in entries {
            let mut ready = None;
            group.throughput(Throughput::Bytes(entry.bytes));
            // Not called where the command line's filter leaves this one out, and often where it does not.
            group.bench_function(entry.name.as_str(), |bencher| {
                let prepared = *ready.get_or_insert_with(|| set_up(&mut gpu, &(entry.make)(), &kernel));
                bencher.iter_custom(|count| submissions(&mut gpu, prepared, count));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
