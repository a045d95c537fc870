//! `hesper serve`: the OpenAI API over HTTP.

mod catalog;
mod library;
mod network;
mod signals;

use super::flags::{DeviceFlags, ModelsFlag, SharingFlags};
use anyhow::Result;
use catalog::{KeepAlive, Source, keep_alive};
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser, PathBufValueParser};
use hesper::api::{self, Settings, State};
use hesper::gpu;
use hesper::pull::model_name;
use hesper::store::{Limits, Store};
use library::{ENGINE_END, Library, Shared};
use network::NetworkFlags;
pub use network::path_prefix;
use signals::{Signal, Signals, end_at_once};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Serve models over HTTP, with OpenAI's API
///
/// With --model it serves that one. Else it serves all of --models, each loaded by its first request and unloaded when
/// its memory is needed or nobody has asked for it for --keep-alive; a models.toml there may say more (docs/operation.md).
///
/// Ctrl-C or SIGTERM finish the answers under way and exit 0; a second one ends at once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper serve -m model.gguf\n  \
                        hesper serve -m model.gguf --host 0.0.0.0 --port 80 --api-key \"$KEY\"\n  \
                        hesper serve --models ~/models --keep-alive 10m --memory-budget 12G\n  \
                        hesper serve -m model.gguf --api-keys keys.txt --tls-cert cert.pem --tls-key key.pem\n  \
                        hesper serve -m model.gguf --data /var/lib/hesper\n  \
                        hesper serve -m model.gguf --device radeon --ctx 8192 --kv-type q8_0 --memory-budget 6G\n  \
                        HESPER_MODEL=model.gguf HESPER_ALLOW_SOFTWARE=1 hesper serve")]
pub struct Flags {
    /// A model: a GGUF file (of a split model, the first), a name of `hesper list`, or the source it was pulled from.
    #[arg(short, long, env = "HESPER_MODEL", value_name = "MODEL", required_unless_present = "models")]
    model: Option<PathBuf>,
    #[command(flatten)]
    models: ModelsFlag,
    /// How long a model of --models stays loaded after its last request: 30s, 5m, 2h, 0, or -1 for as long as there is room.
    #[arg(long, env = "HESPER_KEEP_ALIVE", default_value = "5m", value_name = "TIME", value_parser = keep_alive,
          allow_hyphen_values = true)]
    keep_alive: KeepAlive,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    device: DeviceFlags,
    #[command(flatten)]
    sharing: SharingFlags,
    /// Requests that may wait for a model; further ones are refused with status 429.
    #[arg(long, env = "HESPER_MAX_QUEUE", default_value = "64", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_queue: u32,
    /// Name of the model in the API [default: the file's name].
    #[arg(long, env = "HESPER_ALIAS", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    alias: Option<String>,
    /// Folder that keeps stored completions and responses; without it they are kept in memory until the server ends.
    #[arg(long, env = "HESPER_DATA", value_name = "FOLDER", value_parser = PathBufValueParser::new())]
    data: Option<PathBuf>,
    /// Ignore unknown fields of requests, with a warning header, instead of refusing them.
    #[arg(long, env = "HESPER_LENIENT", value_parser = BoolishValueParser::new())]
    lenient: bool,
    /// Leave out the chat page at / and the API's description at /docs.
    #[arg(long, env = "HESPER_NO_PAGE", value_parser = BoolishValueParser::new())]
    no_page: bool,
    /// How long answers under way may take to finish after Ctrl-C or SIGTERM.
    #[arg(long, env = "HESPER_DRAIN_SECONDS", default_value = "30", value_name = "SECONDS")]
    drain_seconds: u32,
    /// Log the bodies of requests, with all that people ask; they are never logged without this.
    #[arg(long, env = "HESPER_LOG_PROMPTS", value_parser = BoolishValueParser::new())]
    log_prompts: bool,
    /// OpenTelemetry collector that gets a trace of every request over HTTP, as http://127.0.0.1:4318 [default:
    /// $OTEL_EXPORTER_OTLP_ENDPOINT, else none].
    #[arg(long, env = "HESPER_OTLP_ENDPOINT", value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    otlp_endpoint: Option<String>,
}

impl Flags {
    pub fn otlp_endpoint(&self) -> Option<&str> {
        self.otlp_endpoint.as_deref()
    }

    fn settings(&self) -> Settings {
        Settings {
            lenient: self.lenient,
            page: !self.no_page,
            log_prompts: self.log_prompts,
            drain_limit: Duration::from_secs(self.drain_seconds.into()),
            load_waiters: self.max_queue as usize,
            ..self.network.settings(Settings::default())
        }
    }

    /// The name that clients use: never a path.
    fn model_id(&self, path: &Path) -> String {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        self.alias.clone().unwrap_or_else(|| model_name(&file).unwrap_or(&file).to_owned())
    }

    fn sources(&self) -> Result<Vec<Source>> {
        match &self.model {
            Some(model) => {
                let path = self.models.resolve(model)?;
                Ok(vec![Source::new(self.model_id(&path), path)])
            }
            None => catalog::read(self.models.store()?.folder()),
        }
    }
}

pub fn serve(flags: &Flags) -> Result<ExitCode> {
    super::vectors::widen(&flags.device);
    gpu::start_again_on_abort();
    let single = flags.model.is_some();
    let sources = flags.sources()?;
    let store = flags.data.as_deref().map(open_store).transpose()?;
    let (listener, address) = flags.network.listen()?;
    let (failed, failures) = mpsc::unbounded_channel();
    let settings = library::Settings {
        device: flags.device.clone(),
        sharing: flags.sharing.sharing(),
        keep_alive: flags.keep_alive,
        max_queue: flags.max_queue as usize,
        // Without its only model a server is of no use.
        failed: single.then(|| failed.clone()),
    };
    // Before anything slow is done.
    let credentials = flags.network.credentials()?;
    let library = Arc::new(Library::open(sources, settings)?);
    if !address.ip().is_loopback() && flags.network.is_open() {
        eprintln!("warning: whoever reaches {address} may use this server; --api-key or --api-keys restrict it");
    }
    let loader = Arc::new(Shared(library.clone()));
    let state = State::with_models(flags.settings(), library.entries(single), loader);
    credentials.give(&state);
    if let Some(store) = store {
        state.keep_in(store);
    }
    let server = Server { listener, address, state, library, failures, _failed: failed };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(server.until_stopped(&flags.network))?;
    Ok(ExitCode::SUCCESS)
}

/// The store in `folder`. On some damage the database panics, which the store answers with an error like any other: the
/// panic's own words would only hide it. Nothing else runs yet.
fn open_store(folder: &Path) -> Result<Store> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let store = Store::open(folder, Limits::FILE);
    panic::set_hook(hook);
    Ok(store?)
}

/// All that runs until a signal comes.
struct Server {
    listener: TcpListener,
    address: SocketAddr,
    state: State,
    library: Arc<Library>,
    failures: mpsc::UnboundedReceiver<anyhow::Error>,
    /// Keeps the channel open where no failure ends the server.
    _failed: mpsc::UnboundedSender<anyhow::Error>,
}

impl Server {
    /// Serves until a signal comes or something fails for good, which is an error.
    async fn until_stopped(mut self, network: &NetworkFlags) -> Result<()> {
        let mut signals = Signals::new()?;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let (started, url, reloaded) = (self.state.clone(), network.url(self.address), self.state.clone());
        let announcing = tokio::spawn(async move {
            started.started().await;
            // Nobody may be reading any more, which is no reason to end.
            let _ = writeln!(io::stdout(), "Listening on {url}");
        });
        let drain = self.state.settings().drain_limit;
        let mut failure = None;
        let shutdown = async {
            loop {
                tokio::select! {
                    signal = signals.next() => match signal {
                        Signal::Reload => network.reload(&reloaded),
                        Signal::End(name) => {
                            let seconds = drain.as_secs();
                            eprintln!("{name}: finishing what runs, for at most {seconds} s; a second signal ends at once");
                            tokio::spawn(end_at_once(signals));
                            return;
                        }
                    },
                    error = self.failures.recv() => {
                        failure = error;
                        return;
                    }
                }
            }
        };
        let cut = api::serve(listener, self.state, shutdown).await;
        announcing.abort();
        if let Some(error) = failure {
            return Err(error);
        }
        if cut > 0 {
            eprintln!("warning: {cut} connections did not finish within {} s and were cut", drain.as_secs());
        }
        self.library.stop();
        let library = self.library.clone();
        if timeout(ENGINE_END, tokio::task::spawn_blocking(move || library.join())).await.is_err() {
            eprintln!("warning: the device is still busy; it is left as it is");
            std::process::exit(0);
        }
        Ok(())
    }
}
