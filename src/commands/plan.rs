//! `hesper plan`: the work of a token, as a list.

use super::flags::{KvTypeFlag, ModelFlag};
use anyhow::{Result, bail};
use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use hesper::engine::runner::{Options, Planned, SEQUENCES_MAX};
use hesper::gguf::Gguf;
use hesper::kernels::policy::Policy;
use hesper::model::lower::{Mode, PlanKey};
use hesper::plan::{Command, Plan};
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// Show the dispatches, barriers and bytes of a token, or of a piece of a prompt; needs no device
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper plan -m model.gguf\n  hesper plan -m model.gguf --kv-type q8_0\n  \
                        hesper plan -m model.gguf --depth 2048\n  \
                        hesper plan -m model.gguf --mode prefill --rows 64 | tail -n 4")]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlag,
    /// What is evaluated: the next token of a sequence, or tokens of a prompt.
    #[arg(long, env = "HESPER_MODE", default_value = "decode", value_enum)]
    mode: ModeFlag,
    /// Tokens evaluated at once, of a prompt, or of so many sequences: a power of two.
    #[arg(long, env = "HESPER_ROWS", value_name = "N", value_parser = rows)]
    rows: Option<u32>,
    /// Tokens in the cache before the one that is decoded: behind many, a GPU attends to pieces of them side by side.
    #[arg(long, env = "HESPER_DEPTH", value_name = "N", default_value = "0")]
    depth: u32,
    /// Plan for a software device instead of a GPU.
    #[arg(long, env = "HESPER_SOFTWARE", value_parser = BoolishValueParser::new())]
    software: bool,
    #[command(flatten)]
    kv_type: KvTypeFlag,
}

fn rows(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "2" => Ok(2),
        other => super::flags::chunk(other),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeFlag {
    Decode,
    Prefill,
}

pub fn plan(flags: &Flags) -> Result<ExitCode> {
    let rows = match (flags.mode, flags.rows) {
        (ModeFlag::Decode, Some(rows)) if rows > SEQUENCES_MAX => {
            bail!("--rows: decoding has a token of at most {SEQUENCES_MAX} sequences in a step")
        }
        (ModeFlag::Decode, rows) => rows.unwrap_or(1),
        (ModeFlag::Prefill, rows) => rows.unwrap_or(64),
    };
    let gguf = Gguf::open(flags.model.path()?)?;
    let policy = if flags.software { Policy::SOFTWARE } else { Policy::GPU };
    let sequences = if flags.mode == ModeFlag::Decode { rows } else { 1 };
    let options = Options {
        sequences,
        cache_tokens: Some(0),
        kv_type: flags.kv_type.kv_type(),
        chunk_rows: rows.max(4),
        ..Options::alone(policy)
    };
    let model = Planned::new(&gguf, &options)?.model;
    let context_tokens = model.sizes.context_tokens;
    if flags.depth >= context_tokens {
        bail!("--depth: a token stands behind at most {} others in a context of {context_tokens}", context_tokens - 1)
    }
    let plan = model.lower(match flags.mode {
        ModeFlag::Decode => model.decode_key(rows, flags.depth),
        ModeFlag::Prefill => PlanKey { mode: Mode::Prefill, rows, outputs: 1, splits: 1 },
    });
    let mut out = BufWriter::new(io::stdout().lock());
    write!(out, "{plan}{}", summary(&plan, rows))?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    dispatches: u64,
    barriers: u64,
    bytes: u64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>5} dispatches {:>5} barriers {:>14} bytes", self.dispatches, self.barriers, self.bytes)
    }
}

/// Costs by layer, equal neighbours in one line, then of all.
fn summary(plan: &Plan, rows: u32) -> String {
    let (layers, others) = costs(plan);
    let mut text = String::from("\n");
    let mut first = 0;
    for run in layers.chunk_by(|a, b| a == b) {
        let name = match run.len() {
            1 => format!("layer {first}"),
            count => format!("each of layers {first} to {}", first + count - 1),
        };
        text += &format!("{name:<24}{}\n", run[0]);
        first += run.len();
    }
    text += &format!("{:<24}{others}\n", "beside layers");
    let sum = |part: fn(&Cost) -> u64| layers.iter().chain([&others]).map(part).sum::<u64>();
    let all = Cost { dispatches: sum(|c| c.dispatches), barriers: sum(|c| c.barriers), bytes: sum(|c| c.bytes) };
    text += &format!("{:<24}{all}\n", "all");
    text + &format!("{:<24}{:>45} bytes\n", "a token", all.bytes / u64::from(rows.max(1)))
}

/// Of each layer, by the labels of its dispatches, and of the rest. A barrier counts to the dispatch behind it.
fn costs(plan: &Plan) -> (Vec<Cost>, Cost) {
    let (mut layers, mut others, mut barriers) = (Vec::new(), Cost::default(), 0);
    for command in &plan.commands {
        let Command::Dispatch(dispatch) = command else {
            barriers += 1;
            continue;
        };
        let mut words = dispatch.label.split(' ');
        let layer = words.next().filter(|word| *word == "layer").and_then(|_| words.next()?.parse::<usize>().ok());
        let cost = match layer {
            Some(layer) => {
                layers.resize(layers.len().max(layer + 1), Cost::default());
                &mut layers[layer]
            }
            None => &mut others,
        };
        cost.dispatches += 1;
        cost.barriers += std::mem::take(&mut barriers);
        cost.bytes += dispatch.work.bytes;
    }
    others.barriers += barriers;
    (layers, others)
}
