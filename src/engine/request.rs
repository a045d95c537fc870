//! What the engine is asked and what it answers. This is the whole surface between `api` and `engine`: tokens in,
//! tokens out. Text, templates, stop strings and JSON are none of its business.

pub use crate::plan::DeviceLabel;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;

/// How the next token is chosen from the logits. The order is: logit bias, repetition, presence and frequency
/// penalties, temperature, then top-k, top-p and min-p, each on what the one before left.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParameters {
    /// 0 is greedy: the highest logit after bias and penalties, the lowest id among equals.
    pub temperature: f32,
    /// Keep the `top_k` most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than `min_p` × the most probable; 0 drops none.
    pub min_p: f32,
    /// Logits of tokens seen in prompt or answer are divided (if positive) or multiplied by this; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token that the answer already holds.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for every time that the answer already holds it.
    pub frequency_penalty: f32,
    /// Added to the logits of these token ids. At most [`MAX_LOGIT_BIAS`] entries.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same request: same tokens.
    pub seed: u64,
}

/// Most entries of [`SamplingParameters::logit_bias`]: the step buffer holds this many for each row.
pub const MAX_LOGIT_BIAS: usize = 1024;

impl SamplingParameters {
    /// Whether tokens are counted for penalties.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

impl Default for SamplingParameters {
    fn default() -> Self {
        SamplingParameters {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// One prompt and what to make of it.
#[derive(Debug)]
pub struct Request {
    /// The prompt. Never empty, every id below the vocabulary's size, and shorter than the context.
    pub tokens: Vec<u32>,
    pub sampling: SamplingParameters,
    /// Answers to sample from the one prompt evaluation, 1..=128. Answer `i` uses `seed + i`.
    pub choices: u32,
    /// Tokens after which an answer ends with [`FinishReason::Length`].
    pub max_tokens: u32,
    /// Ids that end an answer with [`FinishReason::Stop`]; such a token is not sent.
    pub stop_tokens: Vec<u32>,
    /// `Some(k)`: report each token's log-probability and the `k` (0..=20) most probable alternatives.
    pub logprobs: Option<u8>,
    /// Restricts what may be sampled, in each choice on its own.
    pub constraint: Option<Constraints>,
    /// Whose request it is: a key's name or an address. The device is shared out evenly among clients that wait.
    pub client: Arc<str>,
    /// When it is given up with [`Event::TimedOut`], wherever it stands.
    pub deadline: Option<Instant>,
    /// Whether keys and values that earlier requests have left may be used.
    pub reuse_prefix: bool,
    /// Whether tokens may be drafted, to be verified several at once. That makes an answer come sooner and never changes it.
    /// Nothing is drafted for a request with penalties or a constraint, since what they do depends on each token before.
    pub speculate: bool,
    /// Tokens that the answer may resemble, beside its prompt: drafts are also made of them.
    pub prediction: Vec<u32>,
    /// Answers that the client's side has ended, by a stop string say: their generation stops within one token.
    pub ended: Arc<Ended>,
    /// Where the answer goes. Dropping the receiver cancels the request within one token.
    pub events: mpsc::UnboundedSender<Event>,
}

impl Request {
    /// One answer, as long as the context allows, sampled with the default parameters.
    pub fn new(tokens: Vec<u32>, events: mpsc::UnboundedSender<Event>) -> Request {
        Request {
            tokens,
            sampling: SamplingParameters::default(),
            choices: 1,
            max_tokens: u32::MAX,
            stop_tokens: Vec::new(),
            logprobs: None,
            constraint: None,
            client: "".into(),
            deadline: None,
            reuse_prefix: true,
            speculate: true,
            prediction: Vec::new(),
            ended: Arc::new(Ended::none_of(1)),
            events,
        }
    }
}

/// What may be sampled next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every token.
    Any,
    /// The tokens whose bits are set in the mask; at least one is.
    Masked,
}

/// The restrictions of one answer. Called before each token with the one sampled last, `None` before the first; fills the
/// mask, in which token t is bit t % 32 of word t / 32, all zero before. Where the answer may end, the mask allows a stop
/// token. An error fails the request.
pub type Constraint = Box<dyn FnMut(Option<u32>, &mut [u32]) -> Result<Allowed, String> + Send>;

/// Makes the constraint of each choice.
#[derive(Clone)]
pub struct Constraints(pub Arc<dyn Fn() -> Constraint + Send + Sync>);

impl fmt::Debug for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraints")
    }
}

/// Which answers of a request are ended from outside the engine.
#[derive(Debug)]
pub struct Ended(Vec<AtomicBool>);

impl Ended {
    /// None of `choices` answers is.
    pub fn none_of(choices: u32) -> Ended {
        Ended((0..choices).map(|_| AtomicBool::new(false)).collect())
    }

    pub fn end(&self, choice: u32) {
        if let Some(ended) = self.0.get(choice as usize) {
            ended.store(true, Ordering::Release);
        }
    }

    pub fn is_ended(&self, choice: u32) -> bool {
        self.0.get(choice as usize).is_some_and(|ended| ended.load(Ordering::Acquire))
    }
}

/// A message from the engine to the task that owns a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request left the queue; `cached_tokens` of its prompt need no evaluation. Sent once, first.
    Started { cached_tokens: u32 },
    /// Answer `choice` grew by one token.
    Token { choice: u32, token: Token },
    /// Answer `choice` is complete.
    Finished { choice: u32, reason: FinishReason },
    /// The deadline passed; nothing follows.
    TimedOut,
    /// The request cannot be completed; nothing follows.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of probabilities under the model's own distribution (softmax of the raw logits).
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    pub chosen: f32,
    /// Token id and log-probability, most probable first.
    pub top: Vec<(u32, f32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was sampled, or the answer was [ended](Ended) from outside.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
}

/// What clients may know of the model that an engine serves.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// Short name, never a path.
    pub id: String,
    /// Unix time in seconds when it was loaded.
    pub created_s: u64,
    pub context_tokens: u32,
    pub vocabulary: u32,
    pub device: DeviceLabel,
}
