//! Questions to an engine thread over a tiny model, and what the same model says when it is stepped by hand.

use crate::device::{Control, Device};
use crate::synthetic::{Formats, Shape, Synthetic, TINY};
use hesper::engine::pace::SILENCE;
use hesper::engine::queue::{Handle, Refused, queue};
use hesper::engine::request::{Ended, Event, FinishReason, Request, SamplingParameters, Token};
use hesper::engine::runner::{Options, Planned, Runner};
use hesper::engine::schedule;
use hesper::engine::solo::Solo;
use hesper::engine::worker;
use hesper::gguf::{BlockFormat, Gguf};
use hesper::kernels::policy::Policy;
use hesper::plan::ExecutorError;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, UnboundedReceiver, error::TryRecvError};

/// Nothing here takes long; what takes this long hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const CONTEXT: u32 = 64;
pub const CHUNK_ROWS: u32 = 8;
pub const CAPACITY: usize = 2;

/// Its embedding is its head too: it repeats itself. As small as can be, since the reference is slow.
pub const REPETITIVE: Shape = Shape { width: 32, heads: 2, kv_heads: 1, feed_forward: 32, ..TINY };
/// A head of its own, so that many tokens are about equally probable.
pub const FLAT: Shape = Shape { tied: false, ..REPETITIVE };

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub shape: Shape,
    pub context_tokens: u32,
    pub sequences: u32,
    pub cache_tokens: Option<u32>,
    pub chunk_rows: u32,
    pub silence: Duration,
    /// Requests that may wait.
    pub capacity: usize,
    pub draft_max: u32,
}

impl Setup {
    pub fn of(shape: Shape) -> Setup {
        Setup {
            shape,
            context_tokens: CONTEXT,
            sequences: 1,
            cache_tokens: None,
            chunk_rows: CHUNK_ROWS,
            silence: SILENCE,
            capacity: CAPACITY,
            draft_max: 0,
        }
    }

    /// The model, ready on a device of its own.
    pub fn load(&self) -> (Runner, Arc<Control>) {
        let model = Synthetic::new(self.shape, Formats::All(BlockFormat::Q8_0));
        let gguf = Gguf::parse(&model.name, model.gguf()).unwrap_or_else(|error| panic!("{error}"));
        let options = Options {
            context_tokens: Some(self.context_tokens),
            sequences: self.sequences,
            cache_tokens: self.cache_tokens,
            chunk_rows: self.chunk_rows,
            draft_max: self.draft_max,
            ..Options::alone(Policy::SOFTWARE)
        };
        let planned = Planned::new(&gguf, &options).unwrap_or_else(|error| panic!("{error}"));
        let control = Arc::new(Control::default());
        let device = Box::new(Device::new(control.clone()));
        let runner = planned.load(&gguf, device, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
        control.reset();
        (runner, control)
    }

    pub fn start(&self) -> Engine {
        let (runner, device) = self.load();
        let (handle, inbox) = queue(self.capacity);
        let silence = self.silence;
        Engine { handle, device, thread: thread::spawn(move || worker::run(runner, inbox, silence)) }
    }
}

/// An engine at work.
pub struct Engine {
    pub handle: Handle,
    pub device: Arc<Control>,
    thread: JoinHandle<Result<(), ExecutorError>>,
}

impl Engine {
    pub fn of(shape: Shape) -> Engine {
        Setup::of(shape).start()
    }

    pub fn ask(&self, question: &Question) -> Asked {
        question.submit(&self.handle).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Every choice's answer.
    pub fn answers(&self, question: &Question) -> Vec<Answer> {
        self.ask(question).answers()
    }

    /// The one answer to a question with one choice.
    pub fn answer(&self, question: &Question) -> Answer {
        let mut answers = self.answers(question);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Gives the handle back and waits for the thread's end.
    pub fn end(self) -> Result<(), ExecutorError> {
        let Engine { handle, thread, .. } = self;
        drop(handle);
        until("the engine's thread ends", || thread.is_finished());
        thread.join().expect("the engine does not panic")
    }
}

pub fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Clone, Debug)]
pub struct Question {
    pub prompt: Vec<u32>,
    pub sampling: SamplingParameters,
    pub choices: u32,
    pub max_tokens: u32,
    pub stop_tokens: Vec<u32>,
    pub logprobs: Option<u8>,
}

impl Question {
    /// The most probable answer to a prompt of so many tokens.
    pub fn greedy(prompt_tokens: u32) -> Question {
        Question {
            prompt: prompt(prompt_tokens),
            sampling: SamplingParameters { temperature: 0.0, ..SamplingParameters::default() },
            choices: 1,
            max_tokens: 12,
            stop_tokens: Vec::new(),
            logprobs: None,
        }
    }

    /// An answer drawn at temperature 1.
    pub fn sampled(prompt_tokens: u32, seed: u64) -> Question {
        let sampling = SamplingParameters { seed, ..SamplingParameters::default() };
        Question { sampling, ..Question::greedy(prompt_tokens) }
    }

    pub fn max_tokens(self, max_tokens: u32) -> Question {
        Question { max_tokens, ..self }
    }

    pub fn choices(self, choices: u32) -> Question {
        Question { choices, ..self }
    }

    pub fn submit(&self, handle: &Handle) -> Result<Asked, Refused> {
        self.submit_with(handle, |_| ())
    }

    /// As [`Question::submit`], with a word to the request before it goes.
    pub fn submit_with(&self, handle: &Handle, change: impl FnOnce(&mut Request)) -> Result<Asked, Refused> {
        let (sender, events) = mpsc::unbounded_channel();
        let ended = Arc::new(Ended::none_of(self.choices));
        let mut request = Request {
            sampling: self.sampling.clone(),
            choices: self.choices,
            max_tokens: self.max_tokens,
            stop_tokens: self.stop_tokens.clone(),
            logprobs: self.logprobs,
            ended: ended.clone(),
            ..Request::new(self.prompt.clone(), sender)
        };
        change(&mut request);
        handle.submit(request)?;
        Ok(Asked { events, ended })
    }

    /// The submissions that its prompt takes.
    pub fn chunks(&self) -> u32 {
        let (mut remaining, mut chunks) = (self.prompt.len() as u32, 0);
        while remaining > 0 {
            remaining -= schedule::share(&[remaining], CHUNK_ROWS).tokens[0];
            chunks += 1;
        }
        chunks
    }
}

/// Any tokens, no two neighbours equal.
pub fn prompt(tokens: u32) -> Vec<u32> {
    (0..tokens).map(|index| (index * 29 + index / 7 + 3) % TINY.vocabulary).collect()
}

/// A request on its way. Dropping it is what a client does that goes away.
#[derive(Debug)]
pub struct Asked {
    events: UnboundedReceiver<Event>,
    pub ended: Arc<Ended>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub tokens: Vec<Token>,
    pub reason: FinishReason,
}

impl Answer {
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

impl Asked {
    /// The next event, or `None` when the engine is done with the request.
    pub fn next(&mut self) -> Option<Event> {
        let start = Instant::now();
        loop {
            match self.events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => thread::sleep(Duration::from_micros(200)),
            }
            assert!(start.elapsed() < PATIENCE, "the engine says nothing");
        }
    }

    /// Takes events until `count` tokens have come.
    pub fn take_tokens(&mut self, count: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        while ids.len() < count {
            match self.next() {
                Some(Event::Token { token, .. }) => ids.push(token.id),
                Some(Event::Started { .. }) => {}
                other => panic!("{other:?} after {} of {count} tokens", ids.len()),
            }
        }
        ids
    }

    /// Takes every event; when the last came.
    pub fn end(mut self) -> Instant {
        while self.next().is_some() {}
        Instant::now()
    }

    /// Everything from the first event to the last, which must come in the order that is promised.
    pub fn answers(mut self) -> Vec<Answer> {
        assert!(matches!(self.next(), Some(Event::Started { .. })));
        let mut answers: Vec<(Vec<Token>, Option<FinishReason>)> = Vec::new();
        while let Some(event) = self.next() {
            let choice = match event {
                Event::Token { choice, .. } | Event::Finished { choice, .. } => choice as usize,
                other => panic!("{other:?} amid the answers"),
            };
            answers.resize(answers.len().max(choice + 1), (Vec::new(), None));
            let (tokens, end) = &mut answers[choice];
            assert_eq!(*end, None, "nothing comes behind an answer's end");
            match event {
                Event::Token { token, .. } => tokens.push(token),
                Event::Finished { reason, .. } => *end = Some(reason),
                _ => {}
            }
        }
        let whole = |(tokens, reason): (_, Option<_>)| Answer { tokens, reason: reason.expect("an answer has an end") };
        answers.into_iter().map(whole).collect()
    }
}

/// What a model gives when it is stepped by hand: tokens, and the logits that each was chosen from.
pub fn by_hand(runner: &mut Runner, question: &Question, count: u32) -> Vec<(u32, Vec<f32>)> {
    let mut solo = Solo::begin(runner, &question.prompt, &question.sampling, question.sampling.seed);
    solo.prefill(&question.prompt, 0, true).unwrap_or_else(|error| panic!("{error}"));
    let mut answer = Vec::new();
    for _ in 0..count {
        if !answer.is_empty() {
            solo.submit_decode().unwrap_or_else(|error| panic!("{error}"));
        }
        let token = solo.last_token().unwrap_or_else(|error| panic!("{error}")).expect("the token was sampled");
        let logits = solo.runner.last_logits(0).unwrap_or_else(|error| panic!("{error}"));
        answer.push((token, logits));
    }
    answer
}

/// The greedy answer, found with nothing but the logits of prompts: no sampling, no decoding.
pub fn from_logits_alone(runner: &mut Runner, prompt: &[u32], count: u32) -> Vec<u32> {
    let vocabulary = runner.model().dims.vocabulary as usize;
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let mut last = Vec::new();
        let collected = runner.logits(&tokens, &mut |rows| last = rows[rows.len() - vocabulary..].to_vec());
        collected.unwrap_or_else(|error| panic!("{error}"));
        let greatest = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        tokens.push(last.iter().position(|logit| *logit == greatest).expect("a greatest logit") as u32);
    }
    tokens.split_off(prompt.len())
}
