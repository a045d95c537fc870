//! From a checked request to its answers: the queue, the events, the count of tokens.

use super::{
    Service,
    answer::{Answer, Finish, Piece, Reading},
    caller,
    clock::Clock,
    error::ApiError,
    fields::shown,
    measures::Outcome,
    parameters::Parameters,
    slots,
};
use crate::engine::{
    queue::Refused,
    request::{Allowed, Constraints, Ended, Event, FinishReason, Request},
};
use crate::text::AnswerRules;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::mpsc::{self, UnboundedReceiver};

/// Between attempts to queue the next prompt of a request that has several.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// What to make of each prompt of a request.
#[derive(Clone, Debug)]
pub struct Job {
    pub parameters: Parameters,
    /// `Some(k)`: log-probabilities with `k` alternatives.
    pub logprobs: Option<u8>,
    /// How the answers are to be read.
    pub reading: Reading,
    /// What they may be; `None`: anything.
    pub constraint: Option<Constrained>,
}

/// What answers may be, and the field of the request that asked for it.
#[derive(Clone, Debug)]
pub struct Constrained {
    pub rules: AnswerRules,
    pub field: String,
}

/// Where a constraint leaves its error, for which the engine has no name.
type Failure = Arc<OnceLock<String>>;

impl Constrained {
    fn constraints(&self, failure: &Failure) -> Constraints {
        let (rules, failure) = (self.rules.clone(), failure.clone());
        Constraints(Arc::new(move || {
            let (mut state, failure) = (rules.begin(), failure.clone());
            Box::new(move |last, mask| match state.allowed(last, mask) {
                Ok(true) => Ok(Allowed::Masked),
                Ok(false) => Ok(Allowed::Any),
                Err(error) => Err(failure.get_or_init(|| error.to_string()).clone()),
            })
        }))
    }
}

/// Tokens read and made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Of the completion tokens, those of reasoning with its tags.
    pub reasoning_tokens: u64,
    /// Of the prompt tokens, those that needed no evaluation.
    pub cached_tokens: u64,
}

impl Usage {
    pub fn add(&mut self, other: Usage) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.cached_tokens += other.cached_tokens;
    }

    pub fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        })
    }
}

/// Answer `choice` grew, and ended if there is a `finish`.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub choice: u32,
    pub piece: Piece,
    pub finish: Option<Finish>,
    /// The stop string that ended it, as an index into the request's.
    pub stopped_at: Option<usize>,
}

/// A request in the queue or at work. Dropping it cancels what remains.
pub struct Generation {
    service: Arc<Service>,
    outcome: Outcome,
    events: UnboundedReceiver<Event>,
    /// Tells the engine of answers that a stop string has ended.
    ended: Arc<Ended>,
    /// The field that asked for a constraint, and where that leaves its error.
    constrained: Option<(String, Failure)>,
    /// `None` once complete.
    answers: Vec<Option<Answer>>,
    pub usage: Usage,
    clock: Clock,
    /// Shows it among the requests at work.
    slot: slots::Entry,
}

/// Refuses a prompt that leaves no room for an answer. `param` is the field that it came from.
pub fn check_length(tokens: usize, context: u32, param: &str) -> Result<(), ApiError> {
    if tokens == 0 {
        return Err(ApiError::field(param, format!("`{param}` holds no token; there is nothing to continue")));
    }
    if tokens >= context as usize {
        let message = format!(
            "the prompt has {tokens} tokens, but the context holds {context} and an answer needs at least 1; shorten it"
        );
        return Err(ApiError::field(param, message).code("context_length_exceeded"));
    }
    Ok(())
}

/// The tokens of what the answer may resemble, as many as an answer can have.
fn prediction(service: &Service, parameters: &Parameters) -> Vec<u32> {
    let text = parameters.prediction.as_deref().unwrap_or_default();
    let mut tokens = service.text.encode(text, false);
    tokens.truncate(service.model.context_tokens as usize);
    tokens
}

impl Generation {
    /// Queues a prompt of a checked length, or says at once why it cannot. `offset` is added to the seed.
    pub fn submit(service: &Arc<Service>, job: &Job, tokens: Vec<u32>, offset: u64) -> Result<Generation, Refused> {
        Generation::queue(service, job, tokens, offset)
            .inspect_err(|_| service.measures.outcomes.count(Outcome::Refused))
    }

    fn queue(service: &Arc<Service>, job: &Job, tokens: Vec<u32>, offset: u64) -> Result<Generation, Refused> {
        let parameters = &job.parameters;
        let room = service.model.context_tokens.saturating_sub(tokens.len() as u32);
        let mut sampling = parameters.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(offset);
        let mut stop_tokens = parameters.stop_token_ids.clone();
        if !parameters.ignore_eos {
            stop_tokens.extend(service.text.stop_tokens());
        }
        let usage = Usage { prompt_tokens: tokens.len() as u64, ..Usage::default() };
        let (sender, events) = mpsc::unbounded_channel();
        let failure = Failure::default();
        let ended = Arc::new(Ended::none_of(parameters.choices));
        service.engine.submit(Request {
            sampling,
            choices: parameters.choices,
            ended: ended.clone(),
            max_tokens: parameters.max_tokens.unwrap_or(room).min(room),
            stop_tokens,
            logprobs: job.logprobs,
            constraint: job.constraint.as_ref().map(|constrained| constrained.constraints(&failure)),
            client: caller::client(),
            reuse_prefix: parameters.reuse_prefix,
            prediction: prediction(service, parameters),
            deadline: caller::deadline(),
            ..Request::new(tokens, sender)
        })?;
        let answer = |_| Some(Answer::new(&service.text, &parameters.stop, &job.reading));
        let answers = (0..parameters.choices).map(answer).collect();
        // What is dropped before its end was cancelled.
        let outcome = Outcome::Cancelled;
        let constrained = job.constraint.as_ref().map(|constrained| (constrained.field.clone(), failure));
        let clock = Clock::start(service, parameters.choices);
        let slot = service.slots.enter(usage.prompt_tokens, parameters.choices);
        let service = service.clone();
        Ok(Generation { service, outcome, events, ended, constrained, answers, usage, clock, slot })
    }

    /// As [`Generation::submit`], for a request of which a part is answered: it waits for its place.
    pub async fn submit_next(
        service: &Arc<Service>,
        job: &Job,
        tokens: Vec<u32>,
        offset: u64,
    ) -> Result<Generation, ApiError> {
        loop {
            match Generation::queue(service, job, tokens.clone(), offset) {
                Err(Refused::Full { .. } | Refused::Restarting { .. }) => tokio::time::sleep(QUEUE_PAUSE).await,
                other => return Ok(other.inspect_err(|_| service.measures.outcomes.count(Outcome::Refused))?),
            }
        }
    }

    /// What comes next; `None` when all answers are complete.
    pub async fn next(&mut self) -> Result<Option<Update>, ApiError> {
        while self.answers.iter().any(Option::is_some) {
            let Some(event) = self.events.recv().await else {
                self.outcome = Outcome::Failed;
                return Err(Refused::Stopped.into());
            };
            let update = match event {
                Event::Started { cached_tokens } => {
                    self.slot.started(cached_tokens.into());
                    self.usage.cached_tokens = cached_tokens.into();
                    self.clock.started();
                    None
                }
                Event::Token { choice, token } => self.token(choice, token),
                Event::Finished { choice, reason } => self.finished(choice, reason),
                Event::TimedOut => {
                    self.outcome = Outcome::TimedOut;
                    return Err(caller::timed_out());
                }
                Event::Failed(message) => {
                    self.outcome = Outcome::Failed;
                    let too_complex = self.constrained.as_ref().and_then(|(field, error)| Some((field, error.get()?)));
                    return Err(match too_complex {
                        Some((field, error)) => ungoverned(field, error),
                        None => failed(&message),
                    });
                }
            };
            if update.is_some() {
                return Ok(update);
            }
        }
        // Every answer ended, perhaps at a stop string that the engine does not know of.
        self.events.close();
        self.outcome = Outcome::Completed;
        Ok(None)
    }

    fn token(&mut self, choice: u32, token: crate::engine::request::Token) -> Option<Update> {
        let slot = self.answers.get_mut(choice as usize)?;
        let answer = slot.as_mut()?;
        self.usage.completion_tokens += 1;
        let reasoned = answer.is_reasoning();
        self.clock.token(choice);
        self.slot.token();
        let (piece, stopped) = answer.push(token);
        self.usage.reasoning_tokens += u64::from(reasoned || answer.is_reasoning());
        let finish = stopped.then(|| answer.reason(FinishReason::Stop));
        let stopped_at = answer.stopped_at;
        if let Some(finish) = finish {
            self.clock.finished(finish.name());
        }
        if stopped {
            self.ended.end(choice);
            *slot = None;
        }
        (stopped || !piece.is_empty()).then_some(Update { choice, piece, finish, stopped_at })
    }

    fn finished(&mut self, choice: u32, reason: FinishReason) -> Option<Update> {
        let mut answer = self.answers.get_mut(choice as usize)?.take()?;
        let (piece, finish) = answer.finish(reason);
        self.clock.finished(finish.name());
        Some(Update { choice, piece, finish: Some(finish), stopped_at: answer.stopped_at })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.service.measures.outcomes.count(self.outcome);
        self.clock.end(self.outcome, self.usage);
    }
}

/// A grammar that cannot be followed at the place where the answer stands: the client's, not the engine's fault.
fn ungoverned(field: &str, error: &str) -> ApiError {
    let message = format!("`{field}` could not be followed to the end of the answer: {}", shown(error));
    ApiError::field(field, message).code("grammar_too_complex")
}

fn failed(message: &str) -> ApiError {
    tracing::error!(message, "the engine could not complete a request");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("the engine failed: {}", shown(message)))
        .code("engine_failed")
}
