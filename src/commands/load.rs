//! From a path and flags to a model on a device, and what is printed on the way.

use super::budget;
use super::flags::{DeviceFlags, Sharing};
use anyhow::{Context, Result, bail};
use hesper::engine::runner::{Options, Planned, Runner};
use hesper::engine::self_test::self_test;
use hesper::gguf::Gguf;
use hesper::gpu::{self, DeviceInfo, Gpu};
use hesper::kernels::policy::Policy;
use hesper::reference::{Checked, checked};
use hesper::text::Text;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Opens a model file and its tokenizer.
pub fn open(path: &Path) -> Result<(Gguf, Text)> {
    let gguf = Gguf::open(path)?;
    let text = text(&gguf)?;
    Ok((gguf, text))
}

pub fn text(gguf: &Gguf) -> Result<Text> {
    Text::from_gguf(gguf).with_context(|| format!("{}: its tokenizer cannot be used", gguf.file()))
}

/// Opens the device and says on `out`, as the first line, which it is and why.
pub fn device(flags: &DeviceFlags, out: &mut impl Write) -> Result<Gpu> {
    let (gpu, choice) = gpu::open(&flags.device, flags.allow_software)?;
    writeln!(out, "Device {}: {}; {}", choice.index, gpu.label(), choice.reason)?;
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
    let default_bytes = || budget::default_bytes(device, budget::available_bytes());
    let options = Options {
        context_tokens: sharing.context_tokens,
        sequences: sharing.sequences,
        cache_tokens: sharing.cache_tokens,
        kv_type: sharing.kv_type,
        budget_bytes: flags.memory_budget.unwrap_or_else(default_bytes),
        chunk_rows: flags.chunk,
        draft_max: sharing.draft_max,
        policy: Policy { software: device.software, subgroup_size: device.subgroup_size },
    };
    let planned = Planned::new(gguf, &options)?;
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

/// Has the device run every kernel that the model uses and holds the results against those of the CPU.
fn check_kernels(planned: &Planned, gguf: &Gguf, gpu: Gpu, out: &mut impl Write) -> Result<Gpu> {
    let start = Instant::now();
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
    let checked = Checked::new(gpu);
    self_test(gguf, &options, Box::new(checked.clone()))?;
    let (mut gpu, seen) =
        checked.into_device().context("the self-test keeps the device: this is a defect of Hesper")?;
    gpu.forget()?;
    let used: BTreeSet<_> = planned.plans().flat_map(|plan| checked::kinds(&plan).collect::<Vec<_>>()).collect();
    let left_out = used.difference(&seen).count();
    let rest = if left_out > 0 { format!(", {left_out} could not be tried") } else { String::new() };
    writeln!(
        out,
        "Self-test: {} kernels compute what the CPU does{rest} ({:.2} s)",
        seen.len(),
        start.elapsed().as_secs_f64()
    )?;
    Ok(gpu)
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

/// Brings the weights to the device, with a progress bar where a terminal shows it, and says on `out` how fast it went.
/// Before that the kernels are checked, unless `flags` say otherwise. `progress` is told of every step.
pub fn load(
    planned: Planned,
    gguf: &Gguf,
    mut gpu: Gpu,
    flags: &DeviceFlags,
    out: &mut impl Write,
    progress: impl Fn(Step),
) -> Result<Runner> {
    if !flags.skip_self_test {
        progress(Step::CheckKernels);
        gpu = check_kernels(&planned, gguf, gpu, out)?;
    }
    let total_bytes: u64 = gguf.tensors().iter().map(|tensor| tensor.bytes as u64).sum();
    progress(Step::Read { total_bytes });
    let style = "{msg} {bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
    let bar = ProgressBar::new(total_bytes).with_message("Loading").with_style(ProgressStyle::with_template(style)?);
    let start = Instant::now();
    let (mut done_bytes, mut seconds) = (0, 0.0);
    let runner = planned.load(gguf, Box::new(gpu), &mut |bytes| {
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
    let runner = runner?;
    let gigabytes = done_bytes as f64 / 1e9;
    writeln!(
        out,
        "Loaded {gigabytes:.3} GB in {seconds:.2} s ({:.2} GB/s), ready after {:.2} s",
        gigabytes / f64::max(seconds, 1e-9),
        start.elapsed().as_secs_f64()
    )?;
    Ok(runner)
}
