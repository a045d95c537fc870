//! `POST /v1/completions`.

use super::{
    Service, State,
    answer::{Finish, Reading, TokenLogprobs},
    completion_request::{CompletionRequest, Prompt},
    error::ApiError,
    fields::Unknown,
    generate::{Generation, Job, Usage, check_length},
    guard::{read_json, warn},
    identifiers::{identifier, now_s},
    loading::service_of,
    logprobs, prepare, stream,
    stream::{Broken, CHUNKS, Sink},
    truncate::{self, Cut},
};
use axum::{
    Json,
    body::Body,
    extract,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc};

/// A request on its way: prompts are answered one after another.
struct Work {
    service: Arc<Service>,
    job: Job,
    /// Prompts that are not yet queued.
    waiting: VecDeque<ReadyPrompt>,
    /// Index of the first choice of the prompt at work.
    first_choice: u32,
    usage: Usage,
    id: String,
    created_s: u64,
}

struct ReadyPrompt {
    tokens: Vec<u32>,
    /// What `echo` puts before each answer; empty without it.
    echo: String,
}

pub async fn handle(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_json(&state, &headers, body).await?;
    let service = service_of(&state, &body).await?;
    let unknown = state.unknown();
    let (mut work, unknown) = state.prepare(move || prepare(service, body, unknown)).await?;
    let Some(first) = work.waiting.pop_front() else {
        return Err(ApiError::internal("no prompt was prepared"));
    };
    let generation = Generation::submit(&work.service, &work.job, first.tokens, 0)?;
    let response = if work.job.parameters.stream {
        stream::respond(state.settings(), CHUNKS, |sink| send(sink, work, generation, first.echo))
    } else {
        Json(collect(work, generation, first.echo).await?).into_response()
    };
    Ok(warn(&unknown, response))
}

fn prepare(service: Arc<Service>, body: Value, mut unknown: Unknown) -> Result<(Work, Unknown), ApiError> {
    let request = CompletionRequest::parse(body, service.model.vocabulary, &mut unknown)?;
    let mut waiting = VecDeque::with_capacity(request.prompts.len());
    for prompt in request.prompts {
        let (mut tokens, mut text) = match prompt {
            Prompt::Text(text) => (service.text.encode_prompt(&text, true), text),
            Prompt::Tokens(tokens) => {
                let text = if request.echo { service.text.decode(&tokens, true) } else { String::new() };
                (tokens, text)
            }
        };
        if let Some(truncate) = request.parameters.truncate {
            let room = truncate::room(service.model.context_tokens, request.parameters.max_tokens);
            let cut = Cut { messages: 0, tokens: truncate.tokens(&mut tokens, room) };
            if let Some(warning) = cut.warning() {
                unknown.warnings.push(warning);
                text = if request.echo { service.text.decode(&tokens, true) } else { String::new() };
            }
        }
        check_length(tokens.len(), service.model.context_tokens, "prompt")?;
        waiting.push_back(ReadyPrompt { tokens, echo: if request.echo { text } else { String::new() } });
    }
    let constraint = prepare::plain_constraint(&service.text, request.output.as_ref(), &request.parameters)?;
    let (parameters, logprobs) = (request.parameters, request.logprobs);
    let job = Job { parameters, logprobs, reading: Reading::default(), constraint };
    let work = Work {
        service,
        job,
        waiting,
        first_choice: 0,
        usage: Usage::default(),
        id: identifier("cmpl-"),
        created_s: now_s(),
    };
    Ok((work, unknown))
}

impl Work {
    /// Counts a finished prompt and queues the next, with what to echo before its answers.
    async fn next_prompt(&mut self, done: Usage) -> Result<Option<(Generation, String)>, ApiError> {
        self.usage.add(done);
        self.first_choice += self.job.parameters.choices;
        let Some(prompt) = self.waiting.pop_front() else { return Ok(None) };
        let offset = self.first_choice.into();
        let generation = Generation::submit_next(&self.service, &self.job, prompt.tokens, offset).await?;
        Ok(Some((generation, prompt.echo)))
    }

    fn envelope(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created_s,
            "model": self.service.model.id,
            "system_fingerprint": self.service.fingerprint,
            "choices": choices,
        })
    }

    fn choice(&self, index: u32, text: &str, logprobs: &[TokenLogprobs], echo: &str, finish: Option<Finish>) -> Value {
        let offset = echo.chars().count();
        let logprobs = (self.job.logprobs.is_some() && !logprobs.is_empty())
            .then(|| logprobs::completion(&self.service.text, logprobs, offset));
        let index = self.first_choice + index;
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish.map(Finish::name)})
    }

    fn chunk(&self, choices: Value, usage: Option<Usage>) -> Value {
        let mut chunk = self.envelope(choices);
        if self.job.parameters.include_usage {
            chunk["usage"] = usage.map_or(Value::Null, Usage::to_json);
        }
        chunk
    }
}

#[derive(Default)]
struct Whole {
    text: String,
    logprobs: Vec<TokenLogprobs>,
    finish: Option<Finish>,
}

async fn collect(mut work: Work, generation: Generation, echo: String) -> Result<Value, ApiError> {
    let mut choices = Vec::new();
    let mut at_work = Some((generation, echo));
    while let Some((mut generation, echo)) = at_work {
        let count = work.job.parameters.choices;
        let mut wholes: Vec<Whole> = (0..count).map(|_| Whole { text: echo.clone(), ..Whole::default() }).collect();
        while let Some(update) = generation.next().await? {
            let whole = &mut wholes[update.choice as usize];
            whole.text.push_str(&update.piece.text);
            whole.logprobs.extend(update.piece.logprobs);
            whole.finish = update.finish.or(whole.finish);
        }
        for (index, whole) in (0..).zip(&wholes) {
            choices.push(work.choice(index, &whole.text, &whole.logprobs, &echo, whole.finish));
        }
        at_work = work.next_prompt(generation.usage).await?;
    }
    let mut answer = work.envelope(Value::Array(choices));
    answer["usage"] = work.usage.to_json();
    Ok(answer)
}

async fn send(sink: Sink, mut work: Work, generation: Generation, echo: String) -> Result<Sink, Broken> {
    let mut at_work = Some((generation, echo));
    while let Some((mut generation, echo)) = at_work {
        if !echo.is_empty() {
            for index in 0..work.job.parameters.choices {
                let choice = work.choice(index, &echo, &[], "", None);
                sink.send(&work.chunk(json!([choice]), None)).await?;
            }
        }
        while let Some(update) = generation.next().await? {
            let piece = &update.piece;
            let choice = work.choice(update.choice, &piece.text, &piece.logprobs, &echo, update.finish);
            sink.send(&work.chunk(json!([choice]), None)).await?;
        }
        at_work = work.next_prompt(generation.usage).await?;
    }
    if work.job.parameters.include_usage {
        sink.send(&work.chunk(json!([]), Some(work.usage))).await?;
    }
    Ok(sink)
}
