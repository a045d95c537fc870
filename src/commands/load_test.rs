//! `hesper load`: requests to a server that speaks OpenAI's API, and figures of how it answered. (How a model is loaded
//! is in `load`.)

use super::load_report::{Conditions, Format, Measured, Report};
use anyhow::{Result, bail};
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use hesper::load::{Arrival, Batch, Client, Dataset, Schedule, Settings, Summary, run};
use indicatif::{ProgressBar, ProgressStyle};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Rounds of a comparison unless asked otherwise: the fewest that have a median.
const COMPARISON_ROUNDS: u32 = 3;
/// Servers that one comparison may have.
const SERVERS_MAX: usize = 8;

/// Measure a server that speaks OpenAI's chat completions
///
/// Sends requests and reports: answers a second (QPS), output tokens a second, the success rate, and mean, P50, P95, P99
/// and maximum of the latency, of the time to the first token and of the time between tokens, in milliseconds. Any server
/// with /v1/chat/completions will do: Hesper, llama-server, Ollama, vLLM.
///
/// QPS and tokens per second count answers that came whole, over the time from the first request to the end of the last.
/// Percentiles are exact, by nearest rank, over those answers. Tokens are the server's own count (`usage`); of a server
/// that does not tell, chunks with content are counted, and the report says so. The time between tokens is that between
/// chunks with content. Requests ask for temperature 0. Before anything is measured each server is asked for one token.
///
/// Ctrl-C prints what there is and exits 130. The exit code is 1 when a server gave no whole answer at all.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper load --url http://127.0.0.1:8080 --concurrency 4 --requests 100\n  \
                        hesper load --url http://127.0.0.1:11434 --model qwen3:0.6b --dataset prompts.jsonl -o json\n  \
                        hesper load --url http://127.0.0.1:8080 --rate 2 --requests 120 --max-tokens 128\n  \
                        hesper load --compare native=http://127.0.0.1:8080 container=http://127.0.0.1:8081 --rounds 5")]
pub struct Flags {
    /// The server, with or without /v1, as http://127.0.0.1:8080; NAME=URL gives it a name in the report.
    #[arg(long, env = "HESPER_URL", value_name = "URL", value_parser = target,
          required_unless_present = "compare", conflicts_with = "compare")]
    url: Option<Target>,
    /// Two servers or more, URL or NAME=URL each, asked by turns; the report divides medians by those of the first.
    #[arg(long, env = "HESPER_COMPARE", value_name = "URL", value_parser = target, num_args = 2..=SERVERS_MAX,
          value_delimiter = ',')]
    compare: Vec<Target>,
    /// The model to ask for [default: the first that the server lists].
    #[arg(long, env = "HESPER_MODEL", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
    /// Requests under way at any time.
    #[arg(long, env = "HESPER_CONCURRENCY", default_value = "1", value_name = "N", conflicts_with = "rate",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// Send so many requests a second, evenly, however many are under way.
    #[arg(long, env = "HESPER_RATE", value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Requests to send: to each server, in each round.
    #[arg(long, env = "HESPER_REQUESTS", default_value = "32", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// How often the same requests are sent; figures are medians of rounds [default: 1, in a comparison 3].
    #[arg(long, env = "HESPER_ROUNDS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Requests to each server before the measurement, which do not count.
    #[arg(long, env = "HESPER_WARMUP", default_value = "1", value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    warmup: u32,
    /// Prompts: lines of JSON with `messages`, `prompt` or ShareGPT's `conversations` [default: 12 built-in questions].
    #[arg(long, env = "HESPER_DATASET", value_name = "FILE", conflicts_with = "prompt_words")]
    dataset: Option<PathBuf>,
    /// Lengthen the built-in questions to about so many words each.
    #[arg(long, env = "HESPER_PROMPT_WORDS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prompt_words: Option<u32>,
    /// Tokens that an answer may have.
    #[arg(long, env = "HESPER_MAX_TOKENS", default_value = "64", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Ask for answers in one piece: there is no time to the first token then, nor between tokens.
    #[arg(long, env = "HESPER_NO_STREAM", value_parser = BoolishValueParser::new())]
    no_stream: bool,
    /// The key that the servers want.
    #[arg(long, env = "HESPER_API_KEY", hide_env_values = true, value_name = "KEY",
          value_parser = NonEmptyStringValueParser::new())]
    api_key: Option<String>,
    /// How long a request may take, to its answer's last byte.
    #[arg(long, env = "HESPER_TIMEOUT", default_value = "120", value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// How the results are printed.
    #[arg(short = 'o', long, env = "HESPER_OUTPUT", default_value = "md", value_enum)]
    output: Format,
}

/// A server and what the report calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    name: String,
    url: String,
}

/// Reads URL or NAME=URL. What is behind the first `=` is the address only if what is before it cannot begin one.
fn target(text: &str) -> Result<Target, String> {
    let (name, url) = match text.split_once('=') {
        Some((name, url)) if !name.contains([':', '/']) => (name, url),
        _ => (text, text),
    };
    match name.is_empty() || url.is_empty() {
        true => Err("give a server as http://127.0.0.1:8080, or with a name before it as NAME=URL".to_owned()),
        false => Ok(Target { name: name.to_owned(), url: url.to_owned() }),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let wrong = "give requests a second as a number from 0.001 to 10000";
    text.parse().ok().filter(|rate| (0.001..=10_000.0).contains(rate)).ok_or_else(|| wrong.to_owned())
}

impl Flags {
    fn targets(&self) -> Vec<Target> {
        self.url.iter().chain(&self.compare).cloned().collect()
    }

    fn arrival(&self) -> Arrival {
        self.rate.map_or(Arrival::Concurrency(self.concurrency as usize), Arrival::PerSecond)
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.compare.is_empty() { 1 } else { COMPARISON_ROUNDS })
    }

    fn dataset(&self) -> Result<Dataset> {
        match &self.dataset {
            Some(path) => Ok(Dataset::read(path)?),
            None => Ok(Dataset::built_in(self.prompt_words.map(|words| words as usize))),
        }
    }

    fn settings(&self, target: &Target) -> Settings {
        Settings {
            url: target.url.clone(),
            model: self.model.clone(),
            api_key: self.api_key.clone(),
            max_tokens: self.max_tokens,
            stream: !self.no_stream,
            timeout: Duration::from_secs(self.timeout.into()),
        }
    }

    fn conditions(&self, dataset: &Dataset) -> Conditions {
        Conditions {
            time: SystemTime::now(),
            prompts: format!("{} ({})", dataset.source, dataset.len()),
            arrival: self.arrival(),
            requests: self.requests,
            rounds: self.rounds(),
            warmup: self.warmup,
            max_tokens: self.max_tokens,
            stream: !self.no_stream,
            timeout_s: self.timeout,
        }
    }
}

pub fn load(flags: &Flags) -> Result<ExitCode> {
    let targets = flags.targets();
    for (index, target) in targets.iter().enumerate() {
        if targets[..index].iter().any(|other| other.name == target.name) {
            bail!("two servers are called {:?}; give each a name of its own as NAME=URL", target.name);
        }
    }
    let dataset = Arc::new(flags.dataset()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(flags, &targets, &dataset))?;
    report.print(flags.output, &mut io::stdout())?;
    Ok(match () {
        () if report.interrupted => ExitCode::from(130),
        () if report.servers.iter().any(|server| server.answers() == 0) => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    })
}

/// A server that has been asked once.
struct Connected {
    client: Arc<Client>,
    measured: Measured,
}

async fn measure(flags: &Flags, targets: &[Target], dataset: &Arc<Dataset>) -> Result<Report> {
    let mut servers = Vec::new();
    for target in targets {
        let client = Arc::new(Client::connect(flags.settings(target), dataset.messages(0)).await?);
        let measured = Measured {
            name: target.name.clone(),
            url: client.url().to_string(),
            model: client.model().to_owned(),
            refuses_usage: client.refuses_usage(),
            rounds: Vec::new(),
        };
        servers.push(Connected { client, measured });
    }
    // Rounds ask the same, so that their medians are of equal work.
    let schedule = |requests: u32| Schedule { requests: requests as usize, first: 0, arrival: flags.arrival() };
    for server in &servers {
        run::run(&server.client, dataset, schedule(flags.warmup), std::future::pending(), || ()).await;
    }
    let stop = interrupt();
    let bar = progress_bar(u64::from(flags.requests) * u64::from(flags.rounds()) * servers.len() as u64)?;
    let conditions = flags.conditions(dataset);
    let count = servers.len();
    let mut interrupted = false;
    'rounds: for round in 0..flags.rounds() {
        for turn in 0..count {
            // Each round begins with another server, so that none is always the first to find a warm machine.
            let server = &mut servers[(turn + round as usize) % count];
            bar.set_message(server.measured.name.clone());
            let stopped = stopped(stop.clone());
            let batch: Batch =
                run::run(&server.client, dataset, schedule(flags.requests), stopped, || bar.inc(1)).await;
            server.measured.rounds.push(Summary::of(&batch));
            interrupted = *stop.borrow();
            if interrupted {
                break 'rounds;
            }
        }
    }
    bar.finish_and_clear();
    let servers = servers.into_iter().map(|server| server.measured).collect();
    Ok(Report { conditions, servers, interrupted })
}

/// Becomes true at the first Ctrl-C.
fn interrupt() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        match tokio::signal::ctrl_c().await {
            Ok(()) => drop(sender.send_replace(true)),
            // Without signals there is nothing to wait for, and the measurement goes on.
            Err(_) => sender.closed().await,
        }
    });
    receiver
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn progress_bar(requests: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} requests")?;
    Ok(ProgressBar::new(requests).with_style(style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_names() {
        let named = |name: &str, url: &str| Ok(Target { name: name.to_owned(), url: url.to_owned() });
        assert_eq!(target("a=http://h:1"), named("a", "http://h:1"));
        assert_eq!(target("http://h:1/?a=b"), named("http://h:1/?a=b", "http://h:1/?a=b"));
        for wrong in ["", "=http://h", "a="] {
            target(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn rates_are_positive_and_bounded() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "nan", "inf", "x", "1e9"] {
            rate(wrong).expect_err(wrong);
        }
    }
}
