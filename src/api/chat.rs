//! `POST /v1/chat/completions`.

use super::{
    Service, State,
    answer::{Call, Finish, Piece, TokenLogprobs},
    chat_request::ChatRequest,
    error::ApiError,
    fields::Unknown,
    generate::{Generation, Job, Update, Usage, check_length},
    guard::{read_json, warn},
    identifiers::{identifier, now_s},
    identity::KeyName,
    loading::service_of,
    logprobs,
    stored::{Keep, repeated},
    stream,
    stream::{Broken, CHUNKS, Sink},
};
use crate::text::Chat;
use axum::{
    Json,
    body::Body,
    extract,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// What every part of one answer to a client repeats.
struct Envelope {
    service: Arc<Service>,
    id: String,
    created_s: u64,
    logprobs: bool,
    include_usage: bool,
}

pub async fn handle(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_json(&state, &headers, body).await?;
    let service = service_of(&state, &body).await?;
    let (shared, asked) = (state.clone(), service.clone());
    let Prepared { job, tokens, keep, unknown } = state.prepare(move || prepare(&shared, &asked, owner, body)).await?;
    let generation = Generation::submit(&service, &job, tokens, 0)?;
    let envelope = Envelope {
        service,
        id: identifier("chatcmpl-"),
        created_s: now_s(),
        logprobs: job.logprobs.is_some(),
        include_usage: job.parameters.include_usage,
    };
    let response = if job.parameters.stream {
        let choices = job.parameters.choices;
        stream::respond(state.settings(), CHUNKS, |sink| send(sink, envelope, generation, choices, keep))
    } else {
        Json(collect(envelope, generation, job.parameters.choices, keep).await?).into_response()
    };
    Ok(warn(&unknown, response))
}

/// A checked request, ready for the queue.
struct Prepared {
    job: Job,
    tokens: Vec<u32>,
    keep: Option<Keep>,
    unknown: Unknown,
}

fn prepare(state: &State, service: &Service, owner: KeyName, body: Value) -> Result<Prepared, ApiError> {
    let mut unknown = state.unknown();
    let repeated = repeated(&body);
    let request = ChatRequest::parse(body, service.model.vocabulary, &mut unknown)?;
    let keep = Keep::of(state, owner, &request, repeated);
    let (job, tokens) = prompt(service, &request)?;
    Ok(Prepared { job, tokens, keep, unknown })
}

/// What to make of a request, and its prompt's tokens: fewer than the context holds.
pub fn prompt(service: &Service, request: &ChatRequest) -> Result<(Job, Vec<u32>), ApiError> {
    let chat =
        Chat { tools: &request.tools, variables: Some(&request.template_arguments), ..Chat::new(&request.messages) };
    let prompt = service
        .text
        .render_chat(&chat)
        .map_err(|error| ApiError::field("messages", error.to_string()).code("chat_template"))?;
    let tokens = service.text.encode_chat(&prompt);
    check_length(tokens.len(), service.model.context_tokens, "messages")?;
    let parameters = request.parameters.clone();
    let job = Job { parameters, logprobs: request.logprobs, tools: !request.tools.is_empty() };
    Ok((job, tokens))
}

/// All of one choice of an answer that is not streamed.
#[derive(Default)]
struct Whole {
    text: String,
    calls: Vec<Call>,
    logprobs: Vec<TokenLogprobs>,
    finish: Option<Finish>,
}

impl Whole {
    fn add(&mut self, update: Update) {
        self.text.push_str(&update.piece.text);
        self.calls.extend(update.piece.calls);
        self.logprobs.extend(update.piece.logprobs);
        self.finish = update.finish.or(self.finish);
    }

    fn to_json(&self, index: usize, envelope: &Envelope) -> Value {
        let content = if self.text.is_empty() && !self.calls.is_empty() { Value::Null } else { json!(self.text) };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !self.calls.is_empty() {
            let call = |call: &Call| {
                json!({
                    "id": identifier("call_"),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                })
            };
            message["tool_calls"] = self.calls.iter().map(call).collect();
        }
        let logprobs = envelope.logprobs.then(|| logprobs::chat(&envelope.service.text, &self.logprobs));
        let finish = self.finish.map(Finish::name);
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
    }
}

async fn collect(
    envelope: Envelope,
    mut generation: Generation,
    choices: u32,
    keep: Option<Keep>,
) -> Result<Value, ApiError> {
    let mut wholes: Vec<Whole> = (0..choices).map(|_| Whole::default()).collect();
    while let Some(update) = generation.next().await? {
        wholes[update.choice as usize].add(update);
    }
    let completion = envelope.completion(&wholes, generation.usage);
    if let Some(keep) = keep {
        keep.keep(&completion).await?;
    }
    Ok(completion)
}

impl Envelope {
    fn completion(&self, choices: &[Whole], usage: Usage) -> Value {
        let choices: Vec<Value> = choices.iter().enumerate().map(|(index, whole)| whole.to_json(index, self)).collect();
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created_s,
            "model": self.service.model.id,
            "choices": choices,
            "usage": usage.to_json(),
            "system_fingerprint": self.service.fingerprint,
        })
    }

    fn chunk(&self, choices: Value, usage: Option<Usage>) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created_s,
            "model": self.service.model.id,
            "system_fingerprint": self.service.fingerprint,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage.map_or(Value::Null, Usage::to_json);
        }
        chunk
    }

    fn choice(&self, index: u32, delta: Value, logprobs: Option<Value>, finish: Option<Finish>) -> Value {
        let finish = finish.map(Finish::name);
        let choice = json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        self.chunk(json!([choice]), None)
    }

    /// The chunks that tell of an update: text, then calls, then the answer's end.
    fn update(&self, update: &Update) -> Vec<Value> {
        let Update { choice, piece, finish, .. } = update;
        let mut logprobs =
            (self.logprobs && !piece.logprobs.is_empty()).then(|| logprobs::chat(&self.service.text, &piece.logprobs));
        let mut chunks = Vec::new();
        for delta in deltas(piece) {
            chunks.push(self.choice(*choice, delta, logprobs.take(), None));
        }
        if finish.is_some() {
            chunks.push(self.choice(*choice, json!({}), logprobs.take(), *finish));
        } else if logprobs.is_some() {
            chunks.push(self.choice(*choice, json!({}), logprobs, None));
        }
        chunks
    }
}

/// A call comes in two parts: who is called, then with what. Clients join arguments that share an index.
fn deltas(piece: &Piece) -> Vec<Value> {
    let text = (!piece.text.is_empty()).then(|| json!({"content": piece.text}));
    let calls = piece.calls.iter().flat_map(|call| {
        let begin = json!({
            "index": call.index,
            "id": identifier("call_"),
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        });
        let arguments = json!({"index": call.index, "function": {"arguments": call.arguments}});
        [json!({"tool_calls": [begin]}), json!({"tool_calls": [arguments]})]
    });
    text.into_iter().chain(calls).collect()
}

async fn send(
    sink: Sink,
    envelope: Envelope,
    mut generation: Generation,
    choices: u32,
    keep: Option<Keep>,
) -> Result<Sink, Broken> {
    let mut wholes: Vec<Whole> = (0..choices).map(|_| Whole::default()).collect();
    for index in 0..choices {
        let role = json!({"role": "assistant", "content": "", "refusal": null});
        sink.send(&envelope.choice(index, role, None, None)).await?;
    }
    while let Some(update) = generation.next().await? {
        for chunk in envelope.update(&update) {
            sink.send(&chunk).await?;
        }
        if keep.is_some() {
            wholes[update.choice as usize].add(update);
        }
    }
    if let Some(keep) = keep {
        keep.keep(&envelope.completion(&wholes, generation.usage)).await?;
    }
    if envelope.include_usage {
        sink.send(&envelope.chunk(json!([]), Some(generation.usage))).await?;
    }
    Ok(sink)
}
