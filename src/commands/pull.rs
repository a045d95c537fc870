//! `hesper pull`: a model into the folder of models.

use super::flags::{ModelsFlag, between};
use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use hesper::pull::{self, Endpoints, Observer, Options, Pulled, Source, Url, gigabytes};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const HUGGING_FACE: &str = "https://huggingface.co";
/// What a shell gives for a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Download a model into the folder of models
///
/// What is interrupted, by Ctrl-C or otherwise, resumes when the same command is given again. Split models come whole.
/// Digests are checked where the source states them.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper pull hf://Qwen/Qwen3-0.6B-GGUF\n  \
                        hesper pull hf://bartowski/Llama-3.2-3B-Instruct-GGUF:Q5_K_M\n  \
                        hesper pull hf://OWNER/REPOSITORY/FOLDER/FILE-00001-of-00003.gguf\n  \
                        hesper pull ollama://qwen3:0.6b\n  \
                        HESPER_TOKEN=me:secret hesper pull oci://ghcr.io/me/model:v1\n  \
                        hesper pull https://example.com/model.gguf --sha256 DIGEST --name mine\n  \
                        hesper pull ./model.gguf\n\n\
                        Then: hesper serve -m NAME")]
pub struct Flags {
    /// hf://OWNER/REPOSITORY[:QUANT], hf://OWNER/REPOSITORY/FILE.gguf, ollama://[NAMESPACE/]NAME[:TAG],
    /// oci://REGISTRY/REPOSITORY[:TAG|@DIGEST], an http(s):// address, or a file.
    source: String,
    /// Name of the model in the folder [default: the file's].
    #[arg(long, env = "HESPER_NAME", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    #[command(flatten)]
    models: ModelsFlag,
    /// Sent to the source's host alone: a token, or USER:PASSWORD for a registry. For hf:// HF_TOKEN does, too.
    #[arg(long, env = "HESPER_TOKEN", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    token: Option<String>,
    /// SHA-256 that the file must have, in hexadecimal.
    #[arg(long, env = "HESPER_SHA256", value_name = "DIGEST")]
    sha256: Option<String>,
    /// Ranges of a file that are downloaded at the same time.
    #[arg(long, env = "HESPER_CONNECTIONS", default_value = "4", value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// How long a server may be silent before its connection is given up.
    #[arg(long, env = "HESPER_STALL_SECONDS", default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    stall_seconds: f32,
    /// How often in a row a request is tried again.
    #[arg(long, env = "HESPER_RETRIES", default_value = "5", value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: u32,
    /// Pause before the first of these; each further one is twice as long, 30 s at most.
    #[arg(long, env = "HESPER_RETRY_SECONDS", default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    retry_seconds: f32,
    /// Hugging Face hub, or a mirror of it [default: HF_ENDPOINT, or https://huggingface.co].
    #[arg(long, env = "HESPER_HF_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    hf_endpoint: Option<Url>,
    /// Registry of ollama:// sources that name no host.
    #[arg(long, env = "HESPER_OLLAMA_ENDPOINT", default_value = "https://registry.ollama.ai", value_name = "URL",
          value_parser = endpoint)]
    ollama_endpoint: Url,
    /// Registry to ask instead of the one that an oci:// source names.
    #[arg(long, env = "HESPER_OCI_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    oci_endpoint: Option<Url>,
}

fn seconds(text: &str) -> Result<f32, String> {
    between(text, 0.01, 3600.0)
}

fn endpoint(text: &str) -> Result<Url, String> {
    const WRONG: &str = "give the address of a server, as https://example.com";
    let url: Url = text.parse().map_err(|error| format!("{error}; {WRONG}"))?;
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(_)) if url.username().is_empty() && url.query().is_none() => Ok(url),
        _ => Err(WRONG.to_owned()),
    }
}

impl Flags {
    fn options(&self, source: &Source) -> Result<Options> {
        let is_hub = matches!(source, Source::HuggingFace { .. });
        let variable = |name| std::env::var(name).ok().filter(|value| is_hub && !value.is_empty());
        let hugging_face = match &self.hf_endpoint {
            Some(url) => url.clone(),
            None => endpoint(&variable("HF_ENDPOINT").unwrap_or_else(|| HUGGING_FACE.to_owned()))
                .map_err(|problem| anyhow::anyhow!("HF_ENDPOINT: {problem}"))?,
        };
        Ok(Options {
            connections: self.connections.into(),
            stall: Duration::from_secs_f32(self.stall_seconds),
            retries: self.retries,
            backoff: Duration::from_secs_f32(self.retry_seconds),
            token: self.token.clone().or_else(|| variable("HF_TOKEN")),
            sha256: self.sha256.clone(),
            endpoints: Endpoints { hugging_face, ollama: self.ollama_endpoint.clone(), oci: self.oci_endpoint.clone() },
        })
    }
}

pub fn pull(flags: &Flags) -> Result<ExitCode> {
    let source: Source = flags.source.parse()?;
    let (store, options) = (flags.models.store()?, flags.options(&source)?);
    let bar = Arc::new(Bar::new()?);
    let start = Instant::now();
    // Two at least: one may wait for the disk.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let observer: Arc<dyn Observer> = bar.clone();
        Ok::<_, anyhow::Error>(tokio::select! {
            pulled = pull::pull(&source, flags.name.as_deref(), &store, &options, observer) => Some(pulled?),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        })
    });
    // A name that is being looked up cannot be given up, so it is not waited for.
    runtime.shutdown_background();
    bar.bar.finish_and_clear();
    match outcome? {
        Some(pulled) => {
            report(&pulled, start.elapsed())?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let here = gigabytes(bar.bar.position());
            eprintln!("interrupted: {here} are here and are kept; the same command gets the rest");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

fn report(pulled: &Pulled, time: Duration) -> Result<()> {
    let mut out = io::stdout().lock();
    let name = &pulled.name;
    let bytes: u64 = pulled.record.files.iter().map(|file| file.bytes).sum();
    if pulled.is_new {
        let seconds = time.as_secs_f64();
        let rate = pulled.moved_bytes as f64 / 1e6 / seconds.max(1e-3);
        let moved = match pulled.moved_bytes {
            moved if moved < bytes => format!("{} of them now, ", gigabytes(moved)),
            _ => String::new(),
        };
        writeln!(out, "Pulled {name}: {}, {moved}in {seconds:.1} s ({rate:.0} MB/s)", gigabytes(bytes))?;
    } else {
        writeln!(out, "{name} is there and unchanged: {}, pulled {}", gigabytes(bytes), pulled.record.pulled)?;
    }
    for file in &pulled.record.files {
        let origin = if file.stated { "as stated by the source" } else { "computed here; the source states none" };
        writeln!(out, "  {} SHA-256 {} ({origin})", file.file, file.sha256)?;
    }
    writeln!(out, "Use it with: hesper serve -m {name}")?;
    Ok(())
}

/// A line of progress where a terminal shows it, and notes on the standard error output anywhere.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Result<Bar> {
        let style = "{bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(style)?;
        Ok(Bar { bar: ProgressBar::no_length().with_style(style) })
    }
}

impl Observer for Bar {
    fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    fn begin(&self, total_bytes: Option<u64>, done_bytes: u64) {
        if let Some(total) = total_bytes {
            self.bar.set_length(total);
        }
        if done_bytes > 0 {
            self.note(&format!("resuming: {} are here", gigabytes(done_bytes)));
        }
        self.bar.set_position(done_bytes);
        self.bar.reset_eta();
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }
}
