//! The endpoints: what each is for, takes and answers.

use super::{
    Parts, anthropic,
    chat::{ChatCompletion, ChatCompletionChunk, ChatCompletionRequest},
    completion::{Completion, CompletionRequest},
    json_body, json_response,
    output::OutputFields,
    response::Response,
    responses,
    server::{
        ChatCompletionList, Deleted, Health, InputItemList, MessageList, MetadataRequest, Model, ModelList, ModelName,
        Version,
    },
    shared::{Error, GenerationFields},
    text_response,
    tokens::{DetokenizeRequest, PlainContent, Properties, RenderedPrompt, Slot, TokenizeRequest, Tokens},
};
use utoipa::{
    ToSchema,
    openapi::{
        Content, HttpMethod, Object, Ref, Required, Type,
        path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn, ParameterStyle},
        schema::{ArrayBuilder, ObjectBuilder},
        security::SecurityRequirement,
    },
};

/// What any request with a body for a model may be answered with.
const GENERATION_ERRORS: &[u16] = &[400, 401, 404, 408, 413, 415, 429, 503, 504, 507];
const BODY_ERRORS: &[u16] = &[400, 401, 404, 408, 413, 415, 503, 507];
const STREAM: &str = "text/event-stream";

const CHUNKS: &str = "The answer. With `stream`, events whose data are chunks, then `[DONE]`; an error on the way is an \
                      event whose data is an `Error`.";
const EVENTS: &str = "The answer. With `stream`, named events; an error on the way is an event named `error`.";

pub fn add_all(parts: &mut Parts) {
    generation(parts);
    responses(parts);
    anthropic(parts);
    stored(parts);
    tokens(parts);
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

fn path_id(description: &str) -> Parameter {
    ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(text()))
        .description(Some(description))
        .build()
}

fn query(name: &str, schema: Object, description: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .schema(Some(schema))
        .description(Some(description))
}

/// The parameters of every list.
fn page() -> Vec<Parameter> {
    let limit = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(100));
    let order = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["asc", "desc"]));
    vec![
        query("after", text(), "The id of the entry before the first.").build(),
        query("limit", limit.build(), "Most entries; 20 if absent.").build(),
        query("order", order.build(), "By the time of creation.").build(),
    ]
}

fn streamed<T: ToSchema>(parts: &mut Parts, description: &str) -> utoipa::openapi::ResponseBuilder {
    let answer = parts.schema::<T>();
    json_response(description, answer).content(STREAM, Content::new(Some(event())))
}

/// One server-sent event.
fn event() -> Object {
    ObjectBuilder::new()
        .property("data", text())
        .property("event", text())
        .required("data")
        .description(Some("An event. Its data are JSON, but for the last event `[DONE]` of chats and completions."))
        .build()
}

fn generation(parts: &mut Parts) {
    let request = parts.schema::<ChatCompletionRequest>();
    parts.merge::<ChatCompletionRequest, GenerationFields>(|_| true);
    parts.merge::<ChatCompletionRequest, OutputFields>(|_| true);
    parts.schema::<ChatCompletionChunk>();
    let chat = operation("createChatCompletion", "Generation", "Answer a chat")
        .request_body(json_body(request))
        .response("200", streamed::<ChatCompletion>(parts, CHUNKS));
    let chat = parts.errors::<Error>(chat, GENERATION_ERRORS);
    parts.add(HttpMethod::Post, "/v1/chat/completions", chat);

    let request = parts.schema::<CompletionRequest>();
    parts.merge::<CompletionRequest, GenerationFields>(|_| true);
    parts.merge::<CompletionRequest, OutputFields>(|_| true);
    let completion = operation("createCompletion", "Generation", "Go on from a text")
        .request_body(json_body(request))
        .response("200", streamed::<Completion>(parts, CHUNKS));
    let completion = parts.errors::<Error>(completion, GENERATION_ERRORS);
    parts.add(HttpMethod::Post, "/v1/completions", completion);
}

fn responses(parts: &mut Parts) {
    let request = parts.schema::<responses::ResponsesRequest>();
    parts.merge::<responses::ResponsesRequest, GenerationFields>(|name| responses::SHARED.contains(&name));
    parts.allow_nulls::<responses::InputMessage>();
    parts.allow_nulls::<responses::InputAnswer>();
    parts.allow_nulls::<responses::InputCall>();
    parts.allow_nulls::<responses::InputCallOutput>();
    parts.allow_nulls::<responses::InputReasoning>();
    parts.allow_nulls::<responses::InputPart>();
    parts.allow_nulls::<responses::AnswerPart>();
    parts.allow_nulls::<responses::SummaryPart>();
    parts.allow_nulls::<responses::ReasoningPart>();
    let create = operation("createResponse", "Responses", "Answer input items")
        .request_body(json_body(request))
        .response("200", streamed::<Response>(parts, EVENTS));
    let create = parts.errors::<Error>(create, GENERATION_ERRORS);
    parts.add(HttpMethod::Post, "/v1/responses", create);

    let response = parts.schema::<Response>();
    let no = || ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([false])).build();
    let one = operation("retrieveResponse", "Responses", "Get a stored response")
        .parameter(path_id("A response's id."))
        .parameter(query("stream", no(), "Known, not implemented: leave it out.").build())
        .parameter(query("include_obfuscation", no(), "Known, not implemented: leave it out.").build())
        .response("200", json_response("The response.", response));
    let one = parts.errors::<Error>(one, &[400, 401, 404]);
    parts.add(HttpMethod::Get, "/v1/responses/{id}", one);
    let deleted = parts.schema::<Deleted>();
    let delete = operation("deleteResponse", "Responses", "Delete a stored response")
        .parameter(path_id("A response's id."))
        .response("200", json_response("It is gone.", deleted));
    let delete = parts.errors::<Error>(delete, &[400, 401, 404]);
    parts.add(HttpMethod::Delete, "/v1/responses/{id}", delete);
    let cancel = operation("cancelResponse", "Responses", "Cancel a response that runs in the background; none does")
        .parameter(path_id("A response's id."));
    let cancel = parts.errors::<Error>(cancel, &[400, 401, 404]);
    parts.add(HttpMethod::Post, "/v1/responses/{id}/cancel", cancel);
    let list = parts.schema::<InputItemList>();
    let items = operation("listInputItems", "Responses", "List the input of a stored response")
        .parameter(path_id("A response's id."))
        .parameters(Some(page()))
        .response("200", json_response("The items.", list));
    let items = parts.errors::<Error>(items, &[400, 401, 404]);
    parts.add(HttpMethod::Get, "/v1/responses/{id}/input_items", items);
}

fn anthropic(parts: &mut Parts) {
    let count = parts.schema::<anthropic::CountTokensRequest>();
    let request = parts.schema::<anthropic::MessagesRequest>();
    parts.merge::<anthropic::MessagesRequest, anthropic::CountTokensRequest>(|_| true);
    parts.allow_nulls::<anthropic::TextBlock>();
    parts.allow_nulls::<anthropic::ToolResultBlock>();
    parts.allow_nulls::<anthropic::ThinkingBlock>();
    parts.allow_nulls::<anthropic::ToolUseBlock>();
    let create = operation("createMessage", "Messages (Anthropic)", "Answer a conversation")
        .request_body(json_body(request))
        .response("200", streamed::<anthropic::AnthropicMessage>(parts, EVENTS));
    let create = parts.errors::<anthropic::AnthropicError>(create, GENERATION_ERRORS);
    parts.add(HttpMethod::Post, "/v1/messages", create);
    let tokens = parts.schema::<anthropic::TokenCount>();
    let counting = operation("countTokens", "Messages (Anthropic)", "Count the tokens of a prompt")
        .request_body(json_body(count))
        .response("200", json_response("Their number.", tokens));
    let counting = parts.errors::<anthropic::AnthropicError>(counting, BODY_ERRORS);
    parts.add(HttpMethod::Post, "/v1/messages/count_tokens", counting);
}

fn stored(parts: &mut Parts) {
    const TAG: &str = "Stored completions";
    const ID: &str = "A completion's id.";
    let list = parts.schema::<ChatCompletionList>();
    let metadata =
        query("metadata", super::shared::metadata(), "Only those with these strings, as `metadata[name]=text`.")
            .style(Some(ParameterStyle::DeepObject))
            .explode(Some(true));
    let all = operation("listChatCompletions", TAG, "List stored completions")
        .parameters(Some(page()))
        .parameter(query("model", text(), "Only those of this model.").build())
        .parameter(metadata.build())
        .response("200", json_response("The completions.", list));
    let all = parts.errors::<Error>(all, &[400, 401]);
    parts.add(HttpMethod::Get, "/v1/chat/completions", all);

    let completion = parts.schema::<ChatCompletion>();
    let one = operation("retrieveChatCompletion", TAG, "Get a stored completion")
        .parameter(path_id(ID))
        .response("200", json_response("The completion.", completion.clone()));
    let one = parts.errors::<Error>(one, &[400, 401, 404]);
    parts.add(HttpMethod::Get, "/v1/chat/completions/{id}", one);
    let request = parts.schema::<MetadataRequest>();
    let update = operation("updateChatCompletion", TAG, "Replace a stored completion's metadata")
        .parameter(path_id(ID))
        .request_body(json_body(request))
        .response("200", json_response("The completion.", completion));
    let update = parts.errors::<Error>(update, &[400, 401, 404, 408, 413, 415]);
    parts.add(HttpMethod::Post, "/v1/chat/completions/{id}", update);
    let deleted = parts.schema::<Deleted>();
    let delete = operation("deleteChatCompletion", TAG, "Delete a stored completion")
        .parameter(path_id(ID))
        .response("200", json_response("It is gone.", deleted));
    let delete = parts.errors::<Error>(delete, &[400, 401, 404]);
    parts.add(HttpMethod::Delete, "/v1/chat/completions/{id}", delete);
    let list = parts.schema::<MessageList>();
    let messages = operation("listChatCompletionMessages", TAG, "List the messages that a stored completion answers")
        .parameter(path_id(ID))
        .parameters(Some(page()))
        .response("200", json_response("The messages.", list));
    let messages = parts.errors::<Error>(messages, &[400, 401, 404]);
    parts.add(HttpMethod::Get, "/v1/chat/completions/{id}/messages", messages);
}

fn tokens(parts: &mut Parts) {
    const TAG: &str = "Tokens and templates";
    let (request, answer) = (parts.schema::<TokenizeRequest>(), parts.schema::<Tokens>());
    let tokenize = operation("tokenize", TAG, "Cut a text into tokens")
        .request_body(json_body(request))
        .response("200", json_response("The tokens.", answer));
    let tokenize = parts.errors::<Error>(tokenize, BODY_ERRORS);
    parts.add(HttpMethod::Post, "/tokenize", tokenize);
    let (request, answer) = (parts.schema::<DetokenizeRequest>(), parts.schema::<PlainContent>());
    let detokenize = operation("detokenize", TAG, "Put tokens together")
        .request_body(json_body(request))
        .response("200", json_response("The text.", answer));
    let detokenize = parts.errors::<Error>(detokenize, BODY_ERRORS);
    parts.add(HttpMethod::Post, "/detokenize", detokenize);
    let answer = parts.schema::<RenderedPrompt>();
    let template = operation("applyTemplate", TAG, "Show the prompt that a chat would be answered from")
        .request_body(json_body(Ref::from_schema_name(ChatCompletionRequest::name())))
        .response("200", json_response("The prompt.", answer));
    let template = parts.errors::<Error>(template, BODY_ERRORS);
    parts.add(HttpMethod::Post, "/apply-template", template);
    let answer = parts.schema::<Properties>();
    let props = operation("props", TAG, "Show what holds for a model")
        .parameter(query("model", text(), "A model's id or alias; without it, the one that is served.").build())
        .response("200", json_response("The model's properties.", answer));
    let props = parts.errors::<Error>(props, &[400, 401, 404, 429, 503, 507]);
    parts.add(HttpMethod::Get, "/props", props);
    let slot = parts.schema::<Slot>();
    let list = ArrayBuilder::new().items(slot).build();
    let slots = operation("slots", "Server", "List the requests that are at work now")
        .response("200", json_response("The requests.", list));
    let slots = parts.errors::<Error>(slots, &[400, 401]);
    parts.add(HttpMethod::Get, "/slots", slots);
}

fn models(parts: &mut Parts) {
    let list = parts.schema::<ModelList>();
    let all = operation("listModels", "Models", "List the models that are served")
        .response("200", json_response("The models.", list));
    let all = parts.errors::<Error>(all, &[401, 503]);
    parts.add(HttpMethod::Get, "/v1/models", all);

    let model = parts.schema::<Model>();
    let one = operation("retrieveModel", "Models", "Describe a model")
        .parameter(path_id("A model's id or alias."))
        .response("200", json_response("The model.", model.clone()));
    let one = parts.errors::<Error>(one, &[400, 401, 404, 503]);
    parts.add(HttpMethod::Get, "/v1/models/{id}", one);

    let name = parts.schema::<ModelName>();
    let load = operation("loadModel", "Models", "Load a model; answers when it is loaded")
        .request_body(json_body(name.clone()))
        .response("200", json_response("The model.", model.clone()));
    let load = parts.errors::<Error>(load, GENERATION_ERRORS);
    parts.add(HttpMethod::Post, "/v1/models/load", load);
    let unload = operation("unloadModel", "Models", "Free the memory of a model that nobody uses")
        .request_body(json_body(name))
        .response("200", json_response("The model.", model));
    let unload = parts.errors::<Error>(unload, &[400, 401, 404, 408, 409, 413, 415]);
    parts.add(HttpMethod::Post, "/v1/models/unload", unload);
}

fn server(parts: &mut Parts) {
    let health = parts.schema::<Health>();
    let ready = operation("health", "Server", "Tell whether requests are answered")
        .response("200", json_response("A request sent now would be queued.", health.clone()))
        .response("503", json_response("It would not: the model is loading, or the server restarts or ends.", health));
    parts.add(HttpMethod::Get, "/health", open(ready));

    let metrics = operation("metrics", "Server", "Metrics in Prometheus' text format")
        .response("200", text_response("The metrics.", "text/plain"));
    parts.add(HttpMethod::Get, "/metrics", open(metrics));

    let version = parts.schema::<Version>();
    let version =
        operation("version", "Server", "Name the build").response("200", json_response("The build.", version));
    parts.add(HttpMethod::Get, "/version", open(version));

    let document = json_response("The document.", ObjectBuilder::new().schema_type(Type::Object).build());
    let document = operation("openapi", "Server", "This document").response("200", document);
    parts.add(HttpMethod::Get, "/openapi.json", open(document));
}
