//! OpenAI's newer dialect: `/v1/responses` and what is below it.
//! <https://platform.openai.com/docs/api-reference/responses>
//!
//! A request is translated into a chat's ([`request`], [`items`]), an answer's blocks into items ([`object`]) and events
//! ([`events`]). Responses are stored unless `store` is false; a stored one keeps the chat up to its end, so that a
//! request may go on from it after the responses before it are gone.

mod events;
pub mod items;
mod object;
pub mod request;

use super::{
    Service, State,
    answer::Finish,
    blocks::{Block, Blocks},
    caller::KeyName,
    dialect::{Messages, Ready, ready},
    error::ApiError,
    fields::{Unknown, shown},
    generate::Generation,
    guard::{read_json, warn},
    identifiers::{identifier, now_s},
    loading::service_of,
    query::{self, Pairs},
    stored::not_found,
    stream::{self, Protocol},
};
use crate::store::{Head, Kind, Record};
use axum::{
    Json,
    body::Body,
    extract::{self, Path},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use object::{Object, Status};
use request::{NAMES, Translated};
use serde_json::{Map, Value, json};

const EVENTS: Protocol = Protocol { end: None, failure: |error| (Some("error"), error.body()), ping: None };

/// A response on its way.
struct Work {
    generation: Generation,
    object: Object,
    keep: Option<Keep>,
}

/// What is kept of a request beside the response.
struct Keep {
    state: State,
    owner: KeyName,
    messages: Messages,
    items: Vec<Value>,
}

pub async fn create(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_json(&state, &headers, body).await?;
    let service = service_of(&state, &body).await?;
    let before = before(&state, &owner, &body).await?;
    let (asked, unknown) = (service.clone(), state.unknown());
    let (ready, translated, unknown) = state.prepare(move || prepare(&asked, body, before, unknown)).await?;
    let generation = Generation::submit(&service, &ready.job, ready.tokens, 0)?;
    let object = Object {
        id: identifier("resp_"),
        created_s: now_s(),
        model: service.model.id.clone(),
        text: service.text.clone(),
        logprobs: translated.logprobs,
        repeated: translated.repeated,
        metadata: translated.metadata,
        ids: Vec::new(),
    };
    let keep = translated.store.then(|| Keep {
        state: state.clone(),
        owner,
        messages: translated.input.messages,
        items: translated.input.items,
    });
    let work = Work { generation, object, keep };
    let response = if ready.job.parameters.stream {
        stream::respond(state.settings(), EVENTS, |sink| events::send(sink, work))
    } else {
        Json(collect(work).await?).into_response()
    };
    Ok(warn(&unknown, response))
}

/// The messages that `previous_response_id` stands for.
async fn before(state: &State, owner: &KeyName, body: &Value) -> Result<Messages, ApiError> {
    // A value of another type is refused where all fields are read.
    let Some(id) = body.get("previous_response_id").and_then(Value::as_str) else { return Ok(Messages::default()) };
    let missing = || {
        let message = format!("`previous_response_id` {:?} is no stored response of this key's", shown(id));
        ApiError::field("previous_response_id", message).code("previous_response_not_found")
    };
    let mut record = find(state, owner, id.to_owned()).await?.ok_or_else(missing)?;
    Ok(Messages(array(&mut record.body["messages"])))
}

fn array(value: &mut Value) -> Vec<Value> {
    value.as_array_mut().map(std::mem::take).unwrap_or_default()
}

fn prepare(
    service: &Service,
    body: Value,
    before: Messages,
    mut unknown: Unknown,
) -> Result<(Ready, Translated, Unknown), ApiError> {
    let mut translated = request::translate(body, before, &mut unknown)?;
    let chat = std::mem::take(&mut translated.chat);
    let ready = ready(service, chat, &mut unknown, &NAMES)?;
    Ok((ready, translated, unknown))
}

async fn collect(mut work: Work) -> Result<Value, ApiError> {
    let (mut blocks, mut finish) = (Blocks::default(), Finish::Stop);
    while let Some(update) = work.generation.next().await? {
        finish = update.finish.unwrap_or(finish);
        blocks.push(update.piece);
    }
    for block in &blocks.all {
        work.object.begin(block);
    }
    work.ended(&blocks.all, finish).await
}

impl Work {
    /// The response at its end, once it is kept if it is to be.
    async fn ended(&mut self, blocks: &[Block], finish: Finish) -> Result<Value, ApiError> {
        let response = self.object.to_json(blocks, &Status::Ended(finish, self.generation.usage));
        if let Some(Keep { state, owner, mut messages, items }) = self.keep.take() {
            messages.answer(blocks);
            let head = Head {
                kind: Kind::Response,
                id: self.object.id.clone(),
                owner: owner.0.to_string(),
                model: self.object.model.clone(),
                metadata: Map::new(),
                bytes: 0,
            };
            let body = json!({"response": response, "items": items, "messages": messages.0});
            state.stored(move |store| store.put(head, &body)).await?;
        }
        Ok(response)
    }
}

async fn find(state: &State, owner: &KeyName, id: String) -> Result<Option<Record>, ApiError> {
    let owner = owner.clone();
    state.stored(move |store| store.get(Kind::Response, &owner.0, &id)).await
}

pub async fn one(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut unknown = state.unknown();
    let mut fields = query::fields(pairs)?;
    for name in ["stream", "include_obfuscation"] {
        fields.neutral(name, &[json!("false")])?;
    }
    fields.finish(&mut unknown)?;
    let mut record = find(&state, &owner, id.clone()).await?.ok_or_else(|| not_found("response", &id))?;
    Ok(warn(&unknown, Json(record.body["response"].take()).into_response()))
}

pub async fn delete(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let named = id.clone();
    if !state.stored(move |store| store.delete(Kind::Response, &owner.0, &named)).await? {
        return Err(not_found("response", &id));
    }
    Ok(Json(json!({"id": id, "object": "response", "deleted": true})))
}

/// Only what runs in the background can be cancelled so; here nothing does.
pub async fn cancel(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    find(&state, &owner, id.clone()).await?.ok_or_else(|| not_found("response", &id))?;
    let message = "only a response that runs in the background can be cancelled; to end another, close its connection";
    Err(ApiError::field("id", message).code("not_in_background"))
}

pub async fn input_items(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut unknown = state.unknown();
    let mut fields = query::fields(pairs)?;
    let query = query::page(&mut fields, true)?;
    fields.finish(&mut unknown)?;
    let mut record = find(&state, &owner, id.clone()).await?.ok_or_else(|| not_found("response", &id))?;
    Ok(warn(&unknown, Json(query::part(array(&mut record.body["items"]), &query)?).into_response()))
}
