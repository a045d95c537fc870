//! From a path and flags to a model on a device, and what is printed on the way.

use super::budget;
use super::flags::{DeviceFlags, Sharing, Tune};
use anyhow::{Context, Result, anyhow, bail};
use hesper::engine::runner::{Options, Planned, Runner};
use hesper::engine::self_test::self_test;
use hesper::gguf::Gguf;
use hesper::gpu::{self, DeviceInfo, Gpu};
use hesper::kernels::policy::Policy;
use hesper::plan::ExecutorError;
use hesper::reference::{Checked, checked};
use hesper::text::Text;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Instant;

/// Opens a model file and its tokenizer.
pub fn open(path: &Path) -> Result<(Gguf, Text)> {
    let start = Instant::now();
    let gguf = Gguf::open(path)?;
    tracing::debug!(time_ms = start.elapsed().as_millis(), "opened the file");
    let text = text(&gguf)?;
    tracing::debug!(time_ms = start.elapsed().as_millis(), "opened the tokenizer");
    Ok((gguf, text))
}

pub fn text(gguf: &Gguf) -> Result<Text> {
    Text::from_gguf(gguf).with_context(|| format!("{}: its tokenizer cannot be used", gguf.file()))
}

/// Opens the device and says on `out`, as the first line, which it is and why.
pub fn device(flags: &DeviceFlags, out: &mut impl Write) -> Result<Gpu> {
    let start = Instant::now();
    let (mut gpu, choice) = gpu::open(&flags.device, flags.allow_software)?;
    if let Some(folder) = flags.kernel_cache() {
        gpu.keep_pipelines_in(&folder)?;
    }
    tracing::debug!(time_ms = start.elapsed().as_millis(), "opened the device");
    writeln!(out, "Device {}: {}; {}", choice.index, gpu.label(), choice.reason)?;
    if flags.own_cores {
        gpu.look_side_by_side()?;
        match gpu.info().side_by_side {
            0 => writeln!(
                out,
                "Cores: --own-cores changes nothing here: it needs lavapipe of Mesa 26 or later in this process with as many \
                 threads as the process has cores, and cores that are idle while it starts"
            )?,
            threads => writeln!(out, "Cores: each of the driver's {threads} threads has one of its own")?,
        }
    }
    Ok(gpu)
}

/// Places the model in the device's memory, of which nothing is taken yet, and says how much it will be.
pub fn plan(
    gguf: &Gguf,
    device: &DeviceInfo,
    flags: &DeviceFlags,
    sharing: &Sharing,
    out: &mut impl Write,
) -> Result<Planned> {
    let policy = Policy::of(device.software, device.subgroup_size);
    let default_bytes = || budget::default_bytes(device, budget::available_bytes());
    let options = Options {
        context_tokens: sharing.context_tokens,
        sequences: sharing.sequences,
        cache_tokens: sharing.cache_tokens,
        kv_type: sharing.kv_type,
        budget_bytes: flags.memory_budget.unwrap_or_else(default_bytes),
        chunk_rows: flags.chunk,
        draft_max: sharing.draft_max,
        policy: Policy { side_by_side: policy.side_by_side.max(device.side_by_side), ..policy },
    };
    let start = Instant::now();
    let planned = Planned::new(gguf, &options)?;
    tracing::debug!(time_ms = start.elapsed().as_millis(), "placed the model");
    writeln!(out, "Memory: {}", planned.memory)?;
    Ok(planned)
}

/// Refuses a file whose tokenizer knows tokens that its embedding has no row for.
pub fn check_vocabulary(gguf: &Gguf, text: &Text, planned: &Planned) -> Result<()> {
    let (tokens, rows) = (text.vocabulary_size(), planned.model.dims.vocabulary);
    if tokens > rows as usize {
        bail!(
            "{}: the tokenizer has {tokens} tokens and the embedding {rows} rows; the file is not a complete model, \
             convert it again",
            gguf.file()
        );
    }
    Ok(())
}

/// What is needed to have a device run every kernel that a model uses, and hold the results against those of the CPU.
struct Check {
    gpu: Gpu,
    options: Options,
    used: BTreeSet<checked::Kind>,
}

impl Check {
    fn new(planned: &Planned, gpu: Gpu) -> Check {
        let options = Options {
            context_tokens: Some(planned.model.sizes.context_tokens),
            sequences: planned.model.sizes.sequences,
            cache_tokens: None,
            kv_type: planned.memory.kv_type,
            budget_bytes: planned.memory.budget_bytes,
            chunk_rows: planned.model.sizes.chunk_rows,
            draft_max: planned.model.sizes.draft_max,
            policy: planned.model.policy,
        };
        let used = planned.plans().flat_map(|plan| checked::kinds(&plan).collect::<Vec<_>>()).collect();
        Check { gpu, options, used }
    }

    /// Gives the line to print.
    fn run(self, gguf: &Gguf) -> Result<String> {
        let start = Instant::now();
        let checked = Checked::new(self.gpu);
        self_test(gguf, &self.options, Box::new(checked.clone()))?;
        let (_, seen) = checked.into_device().context("the self-test keeps the device: this is a defect of Hesper")?;
        let left_out = self.used.difference(&seen).count();
        let rest = if left_out > 0 { format!(", {left_out} could not be tried") } else { String::new() };
        let seconds = start.elapsed().as_secs_f64();
        Ok(format!("Self-test: {} kernels compute what the CPU does{rest} ({seconds:.2} s)", seen.len()))
    }
}

/// What loading comes to do next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    CheckKernels,
    Read {
        total_bytes: u64,
    },
    /// So many bytes more were read.
    Bytes(u64),
    PrepareKernels,
}

/// Loads a model, and says on `out` how long it took; `progress` is told of every step. Unless `flags` say otherwise the
/// kernels are checked meanwhile, by another thread on the same device opened once more. A CPU driver compiles a kernel when
/// it runs first; what one queue has compiled the other finds in the driver's cache on disk. (Lavapipe of Mesa 26.2 compiles
/// in one thread of a process at a time, so that both together take no less.)
pub fn load(
    mut planned: Planned,
    gguf: &Gguf,
    mut gpu: Gpu,
    flags: &DeviceFlags,
    out: &mut impl Write,
    progress: impl Fn(Step),
) -> Result<Runner> {
    let start = Instant::now();
    tune(&mut planned, &mut gpu, flags, out)?;
    let (runner, speed, checked) = thread::scope(|scope| {
        let check = match flags.skip_self_test {
            true => None,
            false => {
                let check = Check::new(&planned, gpu.another()?);
                let thread = thread::Builder::new().name("self-test".to_owned());
                Some(thread.spawn_scoped(scope, move || check.run(gguf))?)
            }
        };
        let loaded = weights(planned, gguf, gpu, &progress);
        if check.is_some() {
            progress(Step::CheckKernels);
        }
        // Before a failure to load, since a kernel that is wrong may be its reason.
        let checked = check.map(|check| check.join().map_err(|_| anyhow!("the self-test ended unexpectedly"))?);
        let checked = checked.transpose()?;
        let (runner, speed) = loaded?;
        anyhow::Ok((runner, speed, checked))
    })?;
    if let Some(line) = checked {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{speed}, ready after {:.2} s", start.elapsed().as_secs_f64())?;
    Ok(runner)
}

/// Takes geometries that were measured on this device, or measures them. With `auto` not on CPU drivers, where the tables were
/// measured and compiling takes longest, and not where nothing can be kept.
fn tune(planned: &mut Planned, gpu: &mut Gpu, flags: &DeviceFlags, out: &mut impl Write) -> Result<()> {
    let wanted = match flags.tune {
        Tune::Auto => !gpu.info().software && flags.kernel_cache().is_some(),
        Tune::Measure => true,
        Tune::Off => false,
    };
    if !wanted {
        return Ok(());
    }
    let start = Instant::now();
    let products = planned.model.weights.products();
    let policy = &mut planned.model.policy;
    let (tuning, measured) = match gpu::tune(gpu, policy, &products, flags.tune == Tune::Measure) {
        // What it measures on is no part of the model's memory, which may well fit without.
        Err(error @ ExecutorError::OutOfMemory { .. }) if flags.tune == Tune::Auto => {
            writeln!(out, "Tuning: nothing was measured, the tables are used: {error}")?;
            return Ok(());
        }
        tuned => tuned?,
    };
    policy.tuning = tuning;
    if measured > 0 {
        let seconds = start.elapsed().as_secs_f64();
        writeln!(out, "Tuning: measured geometries for {measured} kinds of products ({seconds:.2} s)")?;
    }
    Ok(())
}

/// Brings the weights to the device, with a progress bar where a terminal shows it, and runs every kernel once. Also says
/// how fast the weights came.
fn weights(planned: Planned, gguf: &Gguf, gpu: Gpu, progress: &impl Fn(Step)) -> Result<(Runner, String)> {
    let total_bytes: u64 = gguf.tensors().iter().map(|tensor| tensor.bytes as u64).sum();
    progress(Step::Read { total_bytes });
    let style = "{msg} {bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
    let bar = ProgressBar::new(total_bytes).with_message("Loading").with_style(ProgressStyle::with_template(style)?);
    let start = Instant::now();
    let (mut done_bytes, mut seconds) = (0, 0.0);
    let loaded = planned.load(gguf, Box::new(gpu), &mut |bytes| {
        progress(Step::Bytes(bytes));
        done_bytes += bytes;
        seconds = start.elapsed().as_secs_f64();
        bar.set_position(done_bytes);
        if done_bytes == total_bytes {
            // Compiling kernels is next, and has no bar.
            bar.set_message("Loaded; preparing kernels");
            progress(Step::PrepareKernels);
        }
    });
    bar.finish_and_clear();
    let mut runner = loaded?;
    runner.rehearse()?;
    let gigabytes = done_bytes as f64 / 1e9;
    let speed = format!("Loaded {gigabytes:.3} GB in {seconds:.2} s ({:.2} GB/s)", gigabytes / f64::max(seconds, 1e-9));
    Ok((runner, speed))
}
