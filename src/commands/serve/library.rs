//! Brings models onto the device: a thread for each that is loaded, which opens the file and the device, checks that the
//! model fits, loads it, and answers until nobody asks any more.

use super::super::budget;
use super::super::flags::{DeviceFlags, Sharing};
use super::super::load::{self, Step};
use super::catalog::{KeepAlive, Source};
use anyhow::{Context, Result, anyhow, bail};
use hesper::api::registry::{Entry, LoadError, Loaded, Loader, Progress};
use hesper::engine::pace::SILENCE;
use hesper::engine::queue::queue;
use hesper::engine::request::ServedModel;
use hesper::engine::runner::{KvType, Planned, Runner};
use hesper::engine::worker;
use hesper::gguf::Gguf;
use hesper::gpu::{self, DeviceInfo, Gpu};
use hesper::model::ModelError;
use hesper::plan::{DeviceLabel, ExecutorError};
use hesper::text::Text;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as threads};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// How models are loaded.
pub struct Settings {
    pub device: DeviceFlags,
    pub sharing: Sharing,
    pub keep_alive: KeepAlive,
    /// Requests that may wait for one model.
    pub max_queue: usize,
    /// Says what fails for good, where that ends the server.
    pub failed: Option<mpsc::UnboundedSender<anyhow::Error>>,
}

/// The models of a server and the device that they share.
pub struct Library {
    sources: Vec<Source>,
    settings: Settings,
    device: DeviceInfo,
    /// What was opened to see whether the server can start at all.
    first: Mutex<Option<Opened>>,
    /// Files whose kernels this process has checked already, with the time of their last change and the cache's type.
    checked: Mutex<BTreeSet<(PathBuf, SystemTime, KvType)>>,
    stop: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// A model that fits, of which nothing is loaded.
struct Opened {
    gguf: Gguf,
    text: Text,
    gpu: Gpu,
    planned: Planned,
}

/// Why a thread unwinds from inside the loader.
struct Stopped;

impl Library {
    /// Opens the device, says which, and settles the budget that all models share. Of a single model all is checked that
    /// can be before it is loaded.
    pub fn open(sources: Vec<Source>, mut settings: Settings) -> Result<Library> {
        let single = match &sources[..] {
            [source] if settings.failed.is_some() => Some(load::open(&source.file)?),
            _ => None,
        };
        let gpu = load::device(&settings.device, &mut io::stdout())?;
        let device = gpu.info().clone();
        let default_bytes = || budget::default_bytes(&device, budget::available_bytes());
        settings.device.memory_budget = Some(settings.device.memory_budget.unwrap_or_else(default_bytes));
        let mut library = Library {
            sources,
            settings,
            device,
            first: Mutex::default(),
            checked: Mutex::default(),
            stop: AtomicBool::new(false),
            threads: Mutex::default(),
        };
        if let Some((gguf, text)) = single {
            let planned = library.plan(&library.sources[0], &gguf, &text, gpu.info(), true)?;
            library.first = Mutex::new(Some(Opened { gguf, text, gpu, planned }));
        }
        Ok(library)
    }

    /// The models as clients see them. `pinned`: all of them.
    pub fn entries(&self, pinned: bool) -> Vec<Entry> {
        let keep_alive = |source: &Source| match source.keep_alive.unwrap_or(self.settings.keep_alive) {
            KeepAlive::For(time) => Some(time),
            KeepAlive::Forever => None,
        };
        let entry = |source: &Source| Entry {
            id: source.name.clone(),
            aliases: source.aliases.clone(),
            created_s: modified(&source.file).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            keep_alive: keep_alive(source),
            pinned: pinned || source.pinned,
        };
        self.sources.iter().map(entry).collect()
    }

    fn source(&self, id: &str) -> Result<&Source> {
        self.sources.iter().find(|source| source.name == id).with_context(|| format!("there is no model {id:?}"))
    }

    /// `device` as it was opened for this model: a device opened again has other threads.
    fn plan(&self, source: &Source, gguf: &Gguf, text: &Text, device: &DeviceInfo, aloud: bool) -> Result<Planned> {
        let shared = self.settings.sharing;
        let sharing = Sharing {
            context_tokens: source.ctx.or(shared.context_tokens),
            sequences: source.parallel.unwrap_or(shared.sequences),
            cache_tokens: source.cache_tokens.or(shared.cache_tokens),
            kv_type: source.kv_type.unwrap_or(shared.kv_type),
            draft_max: shared.draft_max,
        };
        let planned = match aloud {
            true => load::plan(gguf, device, &self.settings.device, &sharing, &mut Said)?,
            false => load::plan(gguf, device, &self.settings.device, &sharing, &mut io::sink())?,
        };
        load::check_vocabulary(gguf, text, &planned)?;
        Ok(planned)
    }

    /// On the device that clients were told of: that, and that it is no CPU, must stay true.
    fn open_model(&self, source: &Source) -> Result<Opened> {
        if let Some(opened) = self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(opened);
        }
        let (gguf, text) = load::open(&source.file)?;
        let gpu = load::device(&self.settings.device, &mut io::sink())?;
        if gpu.label() != self.device.label() {
            bail!("{} is gone", self.device.label());
        }
        if self.sources.len() > 1 {
            writeln!(Said, "Model {}", source.name)?;
        }
        let planned = self.plan(source, &gguf, &text, gpu.info(), true)?;
        Ok(Opened { gguf, text, gpu, planned })
    }

    /// Loads what was opened. A file's kernels are checked once.
    fn load_opened(&self, source: &Source, opened: Opened, progress: &Progress) -> Result<(Runner, Text)> {
        let Opened { gguf, text, gpu, planned } = opened;
        let key = (source.file.clone(), modified(&source.file), planned.memory.kv_type);
        let mut flags = self.settings.device.clone();
        flags.skip_self_test |= self.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(&key);
        let step = |step: Step| {
            match step {
                Step::CheckKernels => progress.phase("checking kernels", 0),
                Step::Read { total_bytes } => progress.phase("loading weights", total_bytes),
                Step::Bytes(bytes) => progress.add(bytes),
                Step::PrepareKernels => progress.phase("preparing kernels", 0),
            }
            // The loader has no other way out; so the device is given back in order.
            if self.stop.load(Ordering::Acquire) || progress.is_cancelled() {
                panic::resume_unwind(Box::new(Stopped));
            }
        };
        let runner = load::load(planned, &gguf, gpu, &flags, &mut Said, step)?;
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        Ok((runner, text))
    }

    fn load_source(&self, source: &Source, progress: &Progress) -> Result<(Runner, Text, u64)> {
        progress.phase("opening", 0);
        let opened = self.open_model(source)?;
        let bytes = opened.planned.memory.total_bytes();
        let (runner, text) = self.load_opened(source, opened, progress)?;
        Ok((runner, text, bytes))
    }

    /// A runner on the device that failed, once more.
    fn again(&self, source: &Source, failure: &ExecutorError) -> Result<Runner> {
        eprintln!("error: {failure}");
        eprintln!("Starting the device again; a second failure ends the {}", self.what_ends());
        let loaded = self.load_source(source, &Progress::default());
        let why = || format!("the device failed ({failure}) and cannot be started again");
        Ok(loaded.with_context(why)?.0)
    }

    fn what_ends(&self) -> &'static str {
        if self.settings.failed.is_some() { "server" } else { "model" }
    }

    /// An engine's thread, from the model's file to the last request.
    fn work(&self, source: &Source, progress: &Progress, told: &threads::Sender<Result<Loaded>>) -> Result<()> {
        let (runner, text, bytes) = self.load_source(source, progress)?;
        let (handle, inbox) = queue(self.settings.max_queue);
        handle.stats().device_bytes.set(bytes);
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let model = ServedModel {
            id: source.name.clone(),
            created_s: created.as_secs(),
            context_tokens: runner.context_tokens(),
            vocabulary: runner.model().dims.vocabulary,
            device: self.device.label(),
        };
        let (ends_with_thread, ended) = oneshot::channel();
        if told.send(Ok(Loaded { engine: handle, text, model, ended })).is_err() {
            // Whoever asked for it is gone with the server.
            return Ok(());
        }
        let worked = worker::run_restarting(runner, inbox, SILENCE, |failure| self.again(source, failure));
        drop(ends_with_thread);
        worked
    }

    /// Ends the loads under way. Engines end when nobody holds their handles any more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Waits for every thread; blocks.
    pub fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // What it panicked with is in the log.
            let _ = thread.join();
        }
    }
}

/// The standard output, whose reader may be gone: that is no reason not to serve.
struct Said;

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stdout().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stdout().flush();
        Ok(())
    }
}

/// When a file was last changed; of one that is not there, never.
fn modified(file: &Path) -> SystemTime {
    fs::metadata(file).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What a library's caller is told of an error: whose fault it was, and the whole chain of causes.
fn load_error(error: &anyhow::Error) -> LoadError {
    let text = crate::paragraph(error);
    let budget = |cause: &ModelError| matches!(cause, ModelError::Budget(_));
    let device = |cause: &ModelError| matches!(cause, ModelError::Device(_));
    let model_error = |test: &dyn Fn(&ModelError) -> bool| {
        error.chain().any(|cause| cause.downcast_ref::<ModelError>().is_some_and(test))
    };
    let of_device = error.chain().any(|cause| cause.is::<ExecutorError>() || cause.is::<gpu::Error>());
    if model_error(&budget) {
        LoadError::TooLarge(text)
    } else if of_device || model_error(&device) {
        LoadError::Device(text)
    } else {
        LoadError::File(text)
    }
}

/// A [`Library`] that its own threads can hold.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<Library>);

impl Loader for Shared {
    fn budget_bytes(&self) -> u64 {
        self.0.settings.device.memory_budget.unwrap_or(0)
    }

    fn device(&self) -> DeviceLabel {
        self.0.device.label()
    }

    fn need_bytes(&self, id: &str) -> Result<u64, LoadError> {
        let library = &self.0;
        if let Some(opened) = library.first.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(opened.planned.memory.total_bytes());
        }
        let need = || {
            let source = library.source(id)?;
            let (gguf, text) = load::open(&source.file)?;
            Ok(library.plan(source, &gguf, &text, &library.device, false)?.memory.total_bytes())
        };
        need().map_err(|error| load_error(&error))
    }

    fn load(&self, id: &str, progress: &Arc<Progress>) -> Result<Loaded, LoadError> {
        let (sender, told) = threads::channel();
        let (library, id, progress) = (self.0.clone(), id.to_owned(), progress.clone());
        let work = move || {
            let worked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
                let source = library.source(&id)?;
                library.work(source, &progress, &sender)
            }));
            let worked = worked.unwrap_or_else(|reason| match reason.is::<Stopped>() {
                // The sender is dropped, which says so.
                true => Ok(()),
                false => Err(anyhow!("the engine ended unexpectedly: this is a defect of Hesper")),
            });
            let Err(error) = worked else { return };
            match &library.settings.failed {
                // The server may be ending anyway.
                Some(failed) => drop(failed.send(error)),
                None => {
                    let text = crate::paragraph(&error);
                    // Before the model was loaded it is told as that, afterwards only here.
                    if sender.send(Err(error)).is_err() {
                        tracing::error!(model = id, error = text, "a model's engine ended");
                    }
                }
            }
        };
        let spawned = std::thread::Builder::new().name("engine".to_owned()).spawn(work);
        let thread = spawned.map_err(|error| LoadError::Device(format!("no thread can be started: {error}")))?;
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        drop(threads);
        match told.recv() {
            Ok(outcome) => outcome.map_err(|error| load_error(&error)),
            Err(_) => Err(LoadError::Cancelled),
        }
    }
}

/// Long enough for what the device does to finish and be given back.
pub const ENGINE_END: Duration = Duration::from_secs(20);
