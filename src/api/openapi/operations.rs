//! The endpoints: what each is for, takes and answers.

use super::{
    Parts,
    chat::{ChatCompletion, ChatCompletionChunk, ChatCompletionRequest},
    completion::{Completion, CompletionRequest},
    json_body, json_response,
    server::{Health, Model, ModelList, Version},
    text_response,
};
use utoipa::openapi::{
    Content, HttpMethod, Object, Required, Type,
    path::{OperationBuilder, ParameterBuilder, ParameterIn},
    schema::ObjectBuilder,
    security::SecurityRequirement,
};

/// What any request with a body for a model may be answered with.
const GENERATION_ERRORS: &[u16] = &[400, 401, 404, 408, 413, 415, 429, 503, 504];

const STREAM: &str = "text/event-stream";

pub fn add_all(parts: &mut Parts) {
    generation(parts);
    models(parts);
    server(parts);
}

fn operation(id: &str, tag: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(id)).tag(tag).summary(Some(summary))
}

/// For those that need no key.
fn open(operation: OperationBuilder) -> OperationBuilder {
    operation.securities(Some([SecurityRequirement::default()]))
}

fn text() -> Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

fn generation(parts: &mut Parts) {
    let request = parts.generation::<ChatCompletionRequest>();
    let answer = parts.schema::<ChatCompletion>();
    parts.schema::<ChatCompletionChunk>();
    let response = json_response("The answer. With `stream`, events whose data are `ChatCompletionChunk`s, then `[DONE]`; an error on the way is an event whose data is an `Error`.", answer)
        .content(STREAM, Content::new(Some(text())));
    let chat = operation("createChatCompletion", "Generation", "Answer a chat")
        .request_body(json_body(request))
        .response("200", response);
    let chat = parts.errors(chat, GENERATION_ERRORS);
    parts.add(HttpMethod::Post, "/v1/chat/completions", chat);

    let request = parts.generation::<CompletionRequest>();
    let answer = parts.schema::<Completion>();
    let response = json_response("The texts. With `stream`, events whose data are `Completion`s, then `[DONE]`; an error on the way is an event whose data is an `Error`.", answer)
        .content(STREAM, Content::new(Some(text())));
    let completion = operation("createCompletion", "Generation", "Go on from a text")
        .request_body(json_body(request))
        .response("200", response);
    let completion = parts.errors(completion, GENERATION_ERRORS);
    parts.add(HttpMethod::Post, "/v1/completions", completion);
}

fn models(parts: &mut Parts) {
    let list = parts.schema::<ModelList>();
    let all = operation("listModels", "Models", "List the models that are served")
        .response("200", json_response("The models.", list));
    let all = parts.errors(all, &[401, 503]);
    parts.add(HttpMethod::Get, "/v1/models", all);

    let model = parts.schema::<Model>();
    let id = ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(text()))
        .description(Some("A model's id."));
    let one = operation("retrieveModel", "Models", "Describe a model")
        .parameter(id)
        .response("200", json_response("The model.", model));
    let one = parts.errors(one, &[401, 404, 503]);
    parts.add(HttpMethod::Get, "/v1/models/{id}", one);
}

fn server(parts: &mut Parts) {
    let health = parts.schema::<Health>();
    let operation_health = operation("health", "Server", "Tell whether requests are answered")
        .response("200", json_response("A request sent now would be queued.", health.clone()))
        .response("503", json_response("It would not: the model is loading, or the server restarts or ends.", health));
    parts.add(HttpMethod::Get, "/health", open(operation_health));

    let metrics = operation("metrics", "Server", "Metrics in Prometheus' text format")
        .response("200", text_response("The metrics.", "text/plain"));
    parts.add(HttpMethod::Get, "/metrics", open(metrics));

    let version = parts.schema::<Version>();
    let version =
        operation("version", "Server", "Name the build").response("200", json_response("The build.", version));
    parts.add(HttpMethod::Get, "/version", open(version));

    let document = operation("openapi", "Server", "This document")
        .response("200", json_response("The document.", ObjectBuilder::new().build()));
    parts.add(HttpMethod::Get, "/openapi.json", open(document));
}
