//! `hesper run`: answers in the terminal.

use super::flags::{ContextFlag, DeviceFlags, KvTypeFlag, ModelFlag, Sharing, SpeculateFlags, between};
use super::load;
use anyhow::{Context, Result, anyhow, bail};
use clap::builder::BoolishValueParser;
use hesper::engine::pace::SILENCE;
use hesper::engine::queue::{Handle, queue};
use hesper::engine::request::{Event, FinishReason, Request, SamplingParameters};
use hesper::engine::worker;
use hesper::text::{Chat, Text};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tokio::sync::mpsc;

/// Answer a prompt in the terminal; without one, a chat that reads lines from the standard input
///
/// The answer alone goes to the standard output; the device and everything else go to the standard error output.
/// A chat ends with /exit or the end of the input.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper run -m model.gguf \"Why is the sky blue?\"\n  \
                        hesper run -m model.gguf --system \"Answer in French.\"\n  \
                        hesper run -m model.gguf --raw --temperature 0 --max-tokens 20 \"Once upon a time\"")]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlag,
    /// What to answer.
    prompt: Option<String>,
    /// Continue the prompt as it is, without the model's chat template.
    #[arg(long, env = "HESPER_RAW", requires = "prompt", conflicts_with = "system", value_parser = BoolishValueParser::new())]
    raw: bool,
    /// A system message before the conversation.
    #[arg(long, env = "HESPER_SYSTEM", value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer [default: what the context has room for].
    #[arg(long, env = "HESPER_MAX_TOKENS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    context: ContextFlag,
    #[command(flatten)]
    kv_type: KvTypeFlag,
    #[command(flatten)]
    speculate: SpeculateFlags,
    #[command(flatten)]
    device: DeviceFlags,
}

#[derive(clap::Args)]
struct SamplingFlags {
    /// 0 always takes the most probable token; higher is more varied.
    #[arg(long, env = "HESPER_TEMPERATURE", default_value = "0.8", value_parser = |s: &str| between(s, 0.0, 100.0))]
    temperature: f32,
    /// Sample from this many most probable tokens; 0 for all.
    #[arg(long, env = "HESPER_TOP_K", default_value = "40")]
    top_k: u32,
    /// Sample from the most probable tokens that together have this probability; 1 for all.
    #[arg(long, env = "HESPER_TOP_P", default_value = "0.95", value_parser = |s: &str| between(s, 0.0, 1.0))]
    top_p: f32,
    /// Leave out tokens less probable than this part of the most probable one; 0 for none.
    #[arg(long, env = "HESPER_MIN_P", default_value = "0.05", value_parser = |s: &str| between(s, 0.0, 1.0))]
    min_p: f32,
    /// The same seed gives the same answer again [default: another one every time].
    #[arg(long, env = "HESPER_SEED", value_name = "N")]
    seed: Option<u64>,
}

impl SamplingFlags {
    fn parameters(&self) -> SamplingParameters {
        SamplingParameters {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            // The standard library's source of randomness: keys of its hash tables.
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(())),
            ..SamplingParameters::default()
        }
    }
}

pub fn run(flags: &Flags) -> Result<ExitCode> {
    super::vectors::widen(&flags.device);
    let (gguf, text) = load::open(&flags.model.path()?)?;
    let mut session = Session {
        messages: flags.system.iter().map(|system| json!({"role": "system", "content": system})).collect(),
        text,
        flags,
        sampling: flags.sampling.parameters(),
        context_tokens: 0,
    };
    // A first message shows whether there is a template, before anything slow is done.
    if !flags.raw {
        session.chat_tokens(&json!({"role": "user", "content": flags.prompt.as_deref().unwrap_or("Hello")}))?;
    }
    let mut notes = io::stderr();
    let gpu = load::device(&flags.device, &mut notes)?;
    let alone = Sharing::alone(flags.context.ctx, flags.kv_type.kv_type());
    let sharing = Sharing { draft_max: flags.speculate.draft_max(), ..alone };
    let planned = load::plan(&gguf, gpu.info(), &flags.device, &sharing, &mut notes)?;
    load::check_vocabulary(&gguf, &session.text, &planned)?;
    let runner = load::load(planned, &gguf, gpu, &flags.device, &mut notes, |_| ())?;
    session.context_tokens = runner.context_tokens();
    let (handle, inbox) = queue(1);
    let engine =
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || worker::run(runner, inbox, SILENCE))?;
    let outcome = match &flags.prompt {
        Some(prompt) => session.one_answer(&handle, prompt),
        None => session.chat(&handle),
    };
    // Without a handle the engine's thread ends, and gives the device back.
    drop(handle);
    let ended = engine.join().map_err(|_| anyhow!("the engine ended unexpectedly"))?;
    outcome.and_then(|()| Ok(ended?))?;
    Ok(ExitCode::SUCCESS)
}

struct Session<'a> {
    messages: Vec<Value>,
    text: Text,
    flags: &'a Flags,
    sampling: SamplingParameters,
    context_tokens: u32,
}

impl Session<'_> {
    fn one_answer(&self, handle: &Handle, prompt: &str) -> Result<()> {
        let tokens = match self.flags.raw {
            true => self.text.encode_prompt(prompt, true),
            false => self.chat_tokens(&json!({"role": "user", "content": prompt}))?,
        };
        self.answer(handle, tokens)?;
        Ok(writeln!(io::stdout())?)
    }

    fn chat(&mut self, handle: &Handle) -> Result<()> {
        let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
        if interactive {
            eprintln!("A chat: end it with /exit.");
        }
        loop {
            if interactive {
                eprint!("> ");
            }
            let mut line = String::new();
            if io::stdin().read_line(&mut line).context("the standard input cannot be read as UTF-8 text")? == 0 {
                return Ok(());
            }
            match line.trim() {
                "" => continue,
                "/exit" => return Ok(()),
                line => {
                    let question = json!({"role": "user", "content": line});
                    let tokens = self.chat_tokens(&question)?;
                    let answer = self.answer(handle, tokens)?;
                    writeln!(io::stdout())?;
                    self.messages.extend([question, json!({"role": "assistant", "content": answer})]);
                }
            }
        }
    }

    /// The conversation so far and a message of the user, up to where the answer begins.
    fn chat_tokens(&self, message: &Value) -> Result<Vec<u32>> {
        let messages: Vec<Value> = self.messages.iter().chain([message]).cloned().collect();
        let rendered = self
            .text
            .render_chat(&Chat::new(&messages))
            .context("the chat cannot be put to this model; a prompt with --raw goes without a template")?;
        Ok(self.text.encode_chat(&rendered))
    }

    /// Streams the answer to the standard output, and gives it back whole.
    fn answer(&self, handle: &Handle, tokens: Vec<u32>) -> Result<String> {
        let room = self.context_tokens.saturating_sub(u32::try_from(tokens.len())?);
        if tokens.is_empty() {
            bail!("the prompt is empty; give some text");
        }
        if room == 0 {
            bail!(
                "the prompt has {} tokens with all that was said, and the context {}; raise it with --ctx, or begin \
                 a new chat",
                tokens.len(),
                self.context_tokens
            );
        }
        let (events, mut answer) = mpsc::unbounded_channel();
        handle.submit(Request {
            sampling: self.sampling.clone(),
            max_tokens: self.flags.max_tokens.unwrap_or(room),
            stop_tokens: self.text.stop_tokens(),
            ..Request::new(tokens, events)
        })?;
        self.stream(&mut answer)
    }

    fn stream(&self, answer: &mut mpsc::UnboundedReceiver<Event>) -> Result<String> {
        let (mut decoder, mut whole, mut out) = (self.text.decoder(), String::new(), io::stdout().lock());
        let mut write = |piece: String| -> Result<()> {
            out.write_all(piece.as_bytes())?;
            out.flush()?;
            whole.push_str(&piece);
            Ok(())
        };
        loop {
            match answer.blocking_recv() {
                Some(Event::Started { .. }) => {}
                Some(Event::Token { token, .. }) => write(decoder.push(token.id))?,
                Some(Event::Finished { reason, .. }) => {
                    write(decoder.finish())?;
                    if reason == FinishReason::Length && self.flags.max_tokens.is_none() {
                        eprintln!("\n(the context is full: --ctx makes room for more)");
                    }
                    return Ok(whole);
                }
                Some(Event::TimedOut) => bail!("the answer took too long"),
                Some(Event::Failed(problem)) => bail!("the answer cannot be completed: {problem}"),
                None => bail!("the engine stopped before the answer was complete"),
            }
        }
    }
}
