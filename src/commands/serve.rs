//! `hesper serve`: the OpenAI API over HTTP.

use super::flags::{ContextFlag, DeviceFlags, ModelFlag};
use super::load;
use anyhow::{Context, Result, anyhow, bail};
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use hesper::api::{self, Settings, State};
use hesper::engine::pace::SILENCE;
use hesper::engine::queue::{Handle, Inbox, queue};
use hesper::engine::request::ServedModel;
use hesper::engine::runner::{Planned, Runner};
use hesper::engine::worker;
use hesper::gguf::Gguf;
use hesper::gpu::{self, Gpu};
use hesper::plan::{DeviceLabel, ExecutorError};
use hesper::pull::model_name;
use hesper::text::Text;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long the engine may take, once nobody waits for it, to finish what the device does and give it back.
const ENGINE_END: Duration = Duration::from_secs(20);

/// Serve a model over HTTP, with OpenAI's API
///
/// Ctrl-C or SIGTERM finish the answers under way and exit 0; a second one ends at once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper serve -m model.gguf\n  \
                        hesper serve -m model.gguf --host 0.0.0.0 --port 80 --api-key \"$KEY\"\n  \
                        hesper serve -m model.gguf --device radeon --ctx 8192 --memory-budget 6G\n  \
                        HESPER_MODEL=model.gguf HESPER_ALLOW_SOFTWARE=1 hesper serve")]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlag,
    /// Address to listen on; 0.0.0.0 is every one of this machine.
    #[arg(long, env = "HESPER_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes any free one.
    #[arg(long, env = "HESPER_PORT", default_value = "8080")]
    port: u16,
    #[command(flatten)]
    device: DeviceFlags,
    #[command(flatten)]
    context: ContextFlag,
    /// A key that requests must bring; may be given several times, in the environment with commas between.
    #[arg(long, env = "HESPER_API_KEY", hide_env_values = true, value_name = "KEY", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    api_key: Vec<String>,
    /// Requests that may wait; further ones are refused with status 429.
    #[arg(long, env = "HESPER_MAX_QUEUE", default_value = "64", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_queue: u32,
    /// Name of the model in the API [default: the file's name].
    #[arg(long, env = "HESPER_ALIAS", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    alias: Option<String>,
    /// Ignore unknown fields of requests, with a warning header, instead of refusing them.
    #[arg(long, env = "HESPER_LENIENT", value_parser = BoolishValueParser::new())]
    lenient: bool,
    /// Leave out the chat page at / and the API's description at /docs.
    #[arg(long, env = "HESPER_NO_PAGE", value_parser = BoolishValueParser::new())]
    no_page: bool,
    /// How long answers under way may take to finish after Ctrl-C or SIGTERM.
    #[arg(long, env = "HESPER_DRAIN_SECONDS", default_value = "30", value_name = "SECONDS")]
    drain_seconds: u32,
}

impl Flags {
    fn settings(&self) -> Settings {
        Settings {
            api_keys: self.api_key.clone(),
            lenient: self.lenient,
            page: !self.no_page,
            drain_limit: Duration::from_secs(self.drain_seconds.into()),
            ..Settings::default()
        }
    }

    /// The name that clients use: never a path.
    fn model_id(&self, path: &Path) -> String {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        self.alias.clone().unwrap_or_else(|| model_name(&file).unwrap_or(&file).to_owned())
    }
}

pub fn serve(flags: &Flags) -> Result<ExitCode> {
    gpu::start_again_on_abort();
    let path = flags.model.path()?;
    let (gguf, text) = load::open(&path)?;
    let (listener, address) = listen(&flags.host, flags.port)?;
    let mut out = io::stdout();
    let gpu = load::device(&flags.device, &mut out)?;
    let planned = load::plan(&gguf, &gpu, &flags.device, flags.context.ctx, &mut out)?;
    load::check_vocabulary(&gguf, &text, &planned)?;
    if !address.ip().is_loopback() && flags.api_key.is_empty() {
        eprintln!("warning: whoever reaches {address} may use this server; --api-key restricts it");
    }
    let state = State::new(flags.settings());
    let (handle, inbox) = queue(flags.max_queue as usize);
    let stop = Arc::new(AtomicBool::new(false));
    let engine = Engine {
        gguf,
        planned,
        gpu,
        inbox,
        ready: Ready { state: state.clone(), handle, text, id: flags.model_id(&path), address },
        stop: stop.clone(),
        again: Again { model: flags.model.clone(), device: flags.device.clone(), context: flags.context.clone() },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(until_stopped(listener, state, engine, stop))?;
    Ok(ExitCode::SUCCESS)
}

fn listen(host: &str, port: u16) -> Result<(TcpListener, SocketAddr)> {
    let advice = |error: &io::Error| match error.kind() {
        ErrorKind::AddrInUse => "another program uses that port: stop it, or take another port with --port",
        ErrorKind::PermissionDenied => "ports below 1024 need a privilege: take a higher one with --port",
        _ => "give an address of this machine with --host, as 127.0.0.1 or 0.0.0.0",
    };
    let bind = || {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|error| anyhow!("cannot listen on {host} port {port}: {error}; {}", advice(&error)))
}

/// Everything that the engine's thread takes with it.
struct Engine {
    gguf: Gguf,
    planned: Planned,
    gpu: Gpu,
    inbox: Inbox,
    ready: Ready,
    stop: Arc<AtomicBool>,
    again: Again,
}

/// What it takes to start a lost device again.
struct Again {
    model: ModelFlag,
    device: DeviceFlags,
    context: ContextFlag,
}

impl Again {
    /// A runner on the `device` that failed: what clients were told of it, and that it is no CPU, must stay true.
    fn runner(&self, failure: &ExecutorError, device: &DeviceLabel, stop: &AtomicBool) -> Result<Runner> {
        eprintln!("error: {failure}");
        eprintln!("Starting the device again; a second failure ends the server");
        let start = || {
            let gguf = Gguf::open(self.model.path()?)?;
            let mut out = io::stdout();
            let gpu = load::device(&self.device, &mut out)?;
            if gpu.label() != *device {
                bail!("{device} is gone");
            }
            let planned = load::plan(&gguf, &gpu, &self.device, self.context.ctx, &mut out)?;
            load::load(planned, &gguf, gpu, &self.device, &mut out, || unwind_if(stop))
        };
        start().with_context(|| format!("the device failed ({failure}) and cannot be started again"))
    }
}

/// Unwinds through the loader, which has no other way out, and so gives the device back in order.
fn unwind_if(stop: &AtomicBool) {
    if stop.load(Ordering::Acquire) {
        panic::resume_unwind(Box::new(Stopped));
    }
}

/// What makes a server that answers "loading" one that answers.
struct Ready {
    state: State,
    handle: Handle,
    text: Text,
    id: String,
    address: SocketAddr,
}

impl Engine {
    /// Starts the thread; what comes of it is sent when it ends, without an error also when it was told to stop.
    fn start(self) -> Result<oneshot::Receiver<Result<()>>> {
        let (sender, ended) = oneshot::channel();
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| self.load_and_work()));
            let outcome = outcome.unwrap_or_else(|reason| match reason.is::<Stopped>() {
                true => Ok(()),
                false => Err(anyhow!("the engine ended unexpectedly: this is a defect of Hesper")),
            });
            // Nobody listens only when the process is ending anyway.
            let _ = sender.send(outcome);
        })?;
        Ok(ended)
    }

    fn load_and_work(self) -> Result<()> {
        let Engine { gguf, planned, gpu, inbox, ready, stop, again } = self;
        let device = gpu.label();
        let runner = load::load(planned, &gguf, gpu, &again.device, &mut io::stdout(), || unwind_if(&stop))?;
        drop(gguf);
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let model = ServedModel {
            id: ready.id,
            created_s: created.as_secs(),
            context_tokens: runner.context_tokens(),
            vocabulary: runner.model().dims.vocabulary,
            device: device.clone(),
        };
        ready.state.ready(ready.handle, ready.text, model);
        // The thread must not keep alive what it waits for the end of.
        drop(ready.state);
        writeln!(io::stdout(), "Listening on http://{}", ready.address)?;
        worker::run_restarting(runner, inbox, SILENCE, |failure| again.runner(failure, &device, &stop))
    }
}

/// Why loading was given up.
struct Stopped;

/// Serves until a signal comes or the engine ends by itself, which is an error.
async fn until_stopped(listener: TcpListener, state: State, engine: Engine, stop: Arc<AtomicBool>) -> Result<()> {
    let mut signals = Signals::new()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut ended = engine.start()?;
    let drain = state.settings().drain_limit;
    let mut failure = None;
    let shutdown = async {
        tokio::select! {
            name = signals.next() => {
                eprintln!("{name}: finishing what runs, for at most {} s; a second signal ends at once", drain.as_secs());
                tokio::spawn(end_at_once(signals));
            }
            outcome = &mut ended => failure = Some(outcome),
        }
    };
    let cut = api::serve(listener, state, shutdown).await;
    if let Some(outcome) = failure {
        outcome??;
        // It ends without an error only when it is told to, and it was not.
        return Err(anyhow!("the engine stopped by itself: this is a defect of Hesper"));
    }
    if cut > 0 {
        eprintln!("warning: {cut} connections did not finish within {} s and were cut", drain.as_secs());
    }
    stop.store(true, Ordering::Release);
    match timeout(ENGINE_END, ended).await {
        Ok(outcome) => outcome?,
        Err(_) => {
            eprintln!("warning: the device is still busy; it is left as it is");
            std::process::exit(0);
        }
    }
}

async fn end_at_once(mut signals: Signals) {
    let name = signals.next().await;
    eprintln!("{name} again: ending at once");
    std::process::exit(130);
}

/// Ctrl-C and, where there is such a thing, SIGTERM.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = "signals cannot be received";
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).context(failed)?,
            terminate: signal(SignalKind::terminate()).context(failed)?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Signals> {
        Ok(Signals {})
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
