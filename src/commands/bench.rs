//! `hesper bench`: tokens per second, measured and reported as llama-bench does.

use super::bench_copy;
use super::bench_profile::{Host, Meter, Profiled, step_reach};
use super::bench_report::{Case, Copying, Report, Result as Measured};
use super::flags::{DeviceFlags, KvTypeFlag, ModelFlag, Sharing, SpeculateFlags};
use super::load;
use anyhow::{Result, anyhow, bail};
use clap::builder::BoolishValueParser;
use hesper::engine::pace::{Pace, SILENCE};
use hesper::engine::request::SamplingParameters;
use hesper::engine::runner::{Runner, SEQUENCES_MAX, StepRows};
use hesper::engine::solo::Solo;
use hesper::gguf::Gguf;
use hesper::gpu::measure_roofline;
use hesper::kernels::{BLOCK_TOKENS, Row, SAMPLED_LAST};
use hesper::plan::profile::{Profile, Roofline};
use std::collections::VecDeque;
use std::io;
use std::process::ExitCode;
use std::time::SystemTime;

pub use super::bench_report::Format;

/// Decode submissions ahead of the token that is waited for, as the server has.
const AHEAD: u32 = 2;
/// Tokens decoded to warm up.
const WARM_UP: u32 = 4;
/// Tokens of a generation that are profiled.
const PROFILED: u32 = 8;

/// Measure tokens per second
///
/// ppN evaluates a prompt of N random tokens in one go; tgN generates N tokens, one after another. Each is run once to
/// warm up, unless --no-warmup is given, and then as often as -r says. copyN generates N tokens behind a prompt of N random
/// tokens said twice, without and with drafts, by turns. With --parallel S each of S sequences generates N tokens, side by side;
/// the rate is of all of them together. Columns and fields are those of llama.cpp's llama-bench.
///
/// With --profile each test is run again, the same part of all layers together. Then every kernel's time, GB/s and GFLOP/s are held against
/// what the device copies, reads and multiplies at most, measured right before, and what a token costs the host is shown.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper bench -m model.gguf\n  \
                        hesper bench -m model.gguf -p 128,512 -n 32 -r 3 -o json\n  \
                        hesper bench -m model.gguf -p 0 -n 64 -d 0,1024 --kv-type q8_0\n  \
                        hesper bench -m model.gguf -p 0 -n 64 --parallel 1,4,16\n  \
                        hesper bench -m model.gguf -p 0 -n 0 --copy 256 --draft-max 7\n  \
                        hesper bench -m model.gguf -p 512 -n 32 -d 0,2048 -r 3 --profile")]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlag,
    /// Tokens of the prompt; several with commas between; 0 for no such test.
    #[arg(short = 'p', long, env = "HESPER_N_PROMPT", default_value = "512", value_name = "N", value_delimiter = ',')]
    n_prompt: Vec<u32>,
    /// Tokens to generate; several with commas between; 0 for no such test.
    #[arg(short = 'n', long, env = "HESPER_N_GEN", default_value = "128", value_name = "N", value_delimiter = ',')]
    n_gen: Vec<u32>,
    /// Tokens that are in the cache before; several with commas between.
    #[arg(short = 'd', long, env = "HESPER_N_DEPTH", default_value = "0", value_name = "N", value_delimiter = ',')]
    n_depth: Vec<u32>,
    /// Sequences that generate side by side; several with commas between.
    #[arg(long, env = "HESPER_PARALLEL", default_value = "1", value_name = "S", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=i64::from(SEQUENCES_MAX)))]
    parallel: Vec<u32>,
    /// Tokens to generate behind a prompt that says so many random tokens twice, without and with drafts; several with commas
    /// between; 0 for no such test.
    #[arg(long, env = "HESPER_COPY", default_value = "0", value_name = "N", value_delimiter = ',')]
    copy: Vec<u32>,
    /// How often each test is measured.
    #[arg(short = 'r', long, env = "HESPER_REPETITIONS", default_value = "5", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Measure at once, as a process's first answer comes, without a run that is not measured.
    #[arg(long, env = "HESPER_NO_WARMUP", value_parser = BoolishValueParser::new())]
    no_warmup: bool,
    /// How the results are printed.
    #[arg(short = 'o', long, env = "HESPER_OUTPUT", default_value = "md", value_enum)]
    output: Format,
    /// Show where the time goes: by kernel, on the device and on the host. Not with -o csv.
    #[arg(long, env = "HESPER_PROFILE", value_parser = BoolishValueParser::new())]
    profile: bool,
    #[command(flatten)]
    kv_type: KvTypeFlag,
    #[command(flatten)]
    speculate: SpeculateFlags,
    #[command(flatten)]
    device: DeviceFlags,
}

pub fn bench(flags: &Flags) -> Result<ExitCode> {
    super::vectors::widen(&flags.device);
    let cases = cases(flags);
    let copies: Vec<u32> = flags.copy.iter().copied().filter(|&count| count > 0).collect();
    let copy_cases = copies.iter().map(|&count| bench_copy::case(count, Copying::Plainly));
    let Some(context_tokens) = cases.iter().copied().chain(copy_cases).map(|case| case.context_tokens()).max() else {
        bail!("nothing is to be measured: give -p, -n or --copy a number above 0");
    };
    if flags.profile && flags.output == Format::Csv {
        bail!("a profile does not fit into one line: give -o md, json or jsonl with --profile");
    }
    let gguf = Gguf::open(flags.model.path()?)?;
    let mut notes = io::stderr();
    let mut gpu = load::device(&flags.device, &mut notes)?;
    let device = gpu.label();
    let roofline = if flags.profile { Some(measure_roofline(&mut gpu)?) } else { None };
    let alone = Sharing::alone(Some(context_tokens), flags.kv_type.kv_type());
    let draft_max = if copies.is_empty() { 0 } else { flags.speculate.draft_max() };
    let sequences = cases.iter().map(|case| case.parallel).max().unwrap_or(1);
    // Blocks for all sequences at once: see [`Solo`].
    let cache_tokens = Some(sequences.saturating_mul(context_tokens.next_multiple_of(BLOCK_TOKENS)));
    let sharing = Sharing { draft_max, sequences, cache_tokens, ..alone };
    let planned = load::plan(&gguf, gpu.info(), &flags.device, &sharing, &mut notes)?;
    let report = Report::new(&gguf, &device, flags.device.chunk, &planned.model);
    let runner = load::load(planned, &gguf, gpu, &flags.device, &mut notes, |_| ())?;
    let mut bench = Bench { tokens: random_tokens(context_tokens, runner.model().dims.vocabulary), runner };
    let (mut out, mut results) = (io::stdout(), Vec::new());
    report.begin(flags.output, &mut out)?;
    for (index, case) in cases.iter().enumerate() {
        let started = SystemTime::now();
        if !flags.no_warmup {
            bench.measure(&Case { generated: case.generated.min(WARM_UP), ..*case })?;
        }
        let mut host = Host::default();
        let measure = |_| bench.measure(case).map(|meter| host.add(&meter));
        let samples = (0..flags.repetitions).map(measure).collect::<Result<Vec<_>>>()?;
        let profile = match &roofline {
            Some(roofline) => Some(bench.profile(case, flags.repetitions, host, roofline.clone())?),
            None => None,
        };
        results.push(Measured { case: *case, started, samples, profile, drafts: (0, 0) });
        report.write(flags.output, index, &results[index], &mut out)?;
    }
    if !copies.is_empty() {
        bench_copy::measure(bench.runner, &bench.tokens, &copies, flags.repetitions, |result| {
            report.write(flags.output, results.len(), &result, &mut out)?;
            results.push(result);
            Ok(())
        })?;
    }
    report.end(flags.output, &results, &mut out)?;
    Ok(ExitCode::SUCCESS)
}

/// Prompts first, then generations, at each depth.
fn cases(flags: &Flags) -> Vec<Case> {
    let at_depth = |&depth: &u32| {
        let prompts = flags.n_prompt.iter().map(move |&prompt| Case { depth, prompt, ..Case::default() });
        let generation = move |generated| {
            flags.parallel.iter().map(move |&parallel| Case { depth, generated, parallel, ..Case::default() })
        };
        let generations = flags.n_gen.iter().flat_map(move |&generated| generation(generated));
        prompts.chain(generations).filter(|case| case.prompt + case.generated > 0)
    };
    flags.n_depth.iter().flat_map(at_depth).collect()
}

/// Any tokens will do; the same every time.
fn random_tokens(count: u32, vocabulary: u32) -> Vec<u32> {
    // Knuth's MMIX constants; the upper bits are the random ones.
    let step =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    let states = std::iter::successors(Some(1), step).skip(1).take(count as usize);
    states.map(|state| ((state >> 33) % u64::from(vocabulary)) as u32).collect()
}

struct Bench {
    tokens: Vec<u32>,
    runner: Runner,
}

impl Bench {
    fn measure(&mut self, case: &Case) -> Result<Meter> {
        let depth = case.depth as usize;
        if case.prompt == 0 {
            for slot in 0..case.parallel {
                let mut solo = deep(&mut self.runner, slot, &self.tokens[..depth])?;
                // One token, which is not measured, is there to start from.
                solo.prefill(&self.tokens[depth..=depth], case.depth, true)?;
            }
            return generate(&mut self.runner, case);
        }
        let mut solo = deep(&mut self.runner, 0, &self.tokens[..depth])?;
        let meter = Meter::start(solo.runner);
        solo.prefill(&self.tokens[depth..][..case.prompt as usize], case.depth, true)?;
        Ok(meter.stop(solo.runner))
    }

    /// Runs a case's steps part by part. Of `runs` runs the least time of each part of a step counts.
    fn profile(&mut self, case: &Case, runs: u32, host: Host, roofline: Roofline) -> Result<Profiled> {
        let start = case.depth + u32::from(case.prompt == 0);
        let (before, behind) = self.tokens.split_at(start as usize);
        for slot in 1..case.parallel {
            deep(&mut self.runner, slot, before)?;
        }
        let solo = deep(&mut self.runner, 0, before)?;
        let steps: Vec<StepRows> = if case.prompt > 0 {
            solo.chunks(&behind[..case.prompt as usize], case.depth, true)
        } else {
            let positions = (start..).zip(behind).take(case.generated.min(PROFILED) as usize);
            positions
                .map(|(position, &token)| decoding(case.parallel, Row { token, position, ..Row::default() }))
                .collect()
        };
        let mut first = steps.iter().map(|step| self.runner.profile(step)).collect::<Result<Vec<_>, _>>()?;
        for _ in 1..runs {
            for (step, (_, least)) in steps.iter().zip(&mut first) {
                let (_, again) = self.runner.profile(step)?;
                let both = least.times_us.iter_mut().zip(again.times_us);
                both.for_each(|(least, again)| *least = least.min(again));
            }
        }
        let clock = first.first().map(|(_, times)| times.clock).ok_or_else(|| anyhow!("nothing was profiled"))?;
        let mut profile = Profile::default();
        for (step, (plan, times)) in steps.iter().zip(&first) {
            profile.add(plan, &times.times_us, step_reach(step));
        }
        let tokens = steps.iter().map(|step| step.rows.len() as u64).sum();
        Ok(Profiled { profile, clock, runs, tokens, sample_tokens: case.tokens(), host, roofline })
    }
}

/// A greedy sequence in `slot` with `tokens` in the cache.
fn deep<'r>(runner: &'r mut Runner, slot: u32, tokens: &[u32]) -> Result<Solo<'r>> {
    let greedy = SamplingParameters { temperature: 0.0, ..SamplingParameters::default() };
    let mut solo = Solo::begin_in(slot, runner, &[], &greedy, 0);
    solo.prefill(tokens, 0, false)?;
    Ok(solo)
}

/// A step that decodes `row` in each of so many sequences.
fn decoding(parallel: u32, row: Row) -> StepRows {
    let rows = (0..parallel).map(|sequence| Row { sequence, live: 1, ..row }).collect();
    StepRows { rows, outputs: (0..parallel).collect(), plan_rows: parallel }
}

fn generate(runner: &mut Runner, case: &Case) -> Result<Meter> {
    let first = case.depth + 1;
    let step = |done| decoding(case.parallel, Row { token: SAMPLED_LAST, position: first + done, ..Row::default() });
    let (mut submitted, mut flights) = (0, VecDeque::new());
    let mut pace = Pace::new(SILENCE);
    let meter = Meter::start(runner);
    for done in 0..case.generated {
        while submitted < case.generated.min(done + 1 + AHEAD) {
            flights.push_back(runner.submit(&step(submitted))?);
            submitted += 1;
        }
        let Some(flight) = flights.pop_front() else { break };
        pace.wait(runner, || false, |runner| runner.is_done(flight, case.parallel as usize).then_some(()))?
            .ok_or_else(|| anyhow!("the device gave no token"))?;
    }
    let meter = meter.stop(runner);
    runner.wait()?;
    Ok(meter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_are_in_the_vocabulary_and_differ() {
        let tokens = random_tokens(1000, 100);
        assert!(tokens.len() == 1000 && tokens.iter().all(|token| *token < 100));
        let different: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert_eq!(different.len(), 100);
    }
}
