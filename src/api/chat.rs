//! `POST /v1/chat/completions`.

use super::{
    Service, State,
    answer::{Call, CallBegin, Finish, Piece, Whole},
    caller::KeyName,
    chat_request::ChatRequest,
    error::ApiError,
    fields::Unknown,
    generate::{Generation, Job, Update, Usage},
    guard::{read_json, warn},
    identifiers::{identifier, now_s},
    loading::service_of,
    logprobs, prepare,
    stored::{Keep, repeated},
    stream,
    stream::{Broken, CHUNKS, Sink},
};
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
    let (job, tokens) = prepare::prompt(service, request, &mut unknown)?;
    Ok(Prepared { job, tokens, keep, unknown })
}

fn choice(whole: &Whole, index: usize, envelope: &Envelope) -> Value {
    let content = if whole.text.is_empty() && !whole.calls.is_empty() { Value::Null } else { json!(whole.text) };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !whole.reasoning.is_empty() {
        message["reasoning_content"] = json!(whole.reasoning);
    }
    if !whole.calls.is_empty() {
        message["tool_calls"] = whole.calls.iter().map(Call::to_json).collect();
    }
    let logprobs = envelope.logprobs.then(|| logprobs::chat(&envelope.service.text, &whole.logprobs));
    let finish = whole.finish.map(Finish::name);
    json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
}

async fn collect(
    envelope: Envelope,
    mut generation: Generation,
    choices: u32,
    keep: Option<Keep>,
) -> Result<Value, ApiError> {
    let mut wholes: Vec<Whole> = (0..choices).map(|_| Whole::default()).collect();
    while let Some(update) = generation.next().await? {
        wholes[update.choice as usize].add(update.piece, update.finish);
    }
    let completion = envelope.completion(&wholes, generation.usage);
    if let Some(keep) = keep {
        keep.keep(&completion).await?;
    }
    Ok(completion)
}

impl Envelope {
    fn completion(&self, choices: &[Whole], usage: Usage) -> Value {
        let choices: Vec<Value> = choices.iter().enumerate().map(|(index, whole)| choice(whole, index, self)).collect();
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

/// Reasoning, text, then calls: who is called first, then with what, in as many parts as the model's tokens make.
fn deltas(piece: &Piece) -> Vec<Value> {
    let reasoning = (!piece.reasoning.is_empty()).then(|| json!({"reasoning_content": piece.reasoning}));
    let text = (!piece.text.is_empty()).then(|| json!({"content": piece.text}));
    let calls = piece.calls.iter().map(|call| {
        let (index, arguments) = (call.index, &call.arguments);
        let delta = match &call.begin {
            None => json!({"index": index, "function": {"arguments": arguments}}),
            Some(CallBegin { id, name }) => json!({
                "index": index,
                "id": id,
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }),
        };
        json!({"tool_calls": [delta]})
    });
    reasoning.into_iter().chain(text).chain(calls).collect()
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
            wholes[update.choice as usize].add(update.piece, update.finish);
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
