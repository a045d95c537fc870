//! The body of `POST /v1/chat/completions`, checked field by field.

use super::{
    error::ApiError,
    fields::{Fields, Unknown, shown},
    messages,
    parameters::Parameters,
};
use serde_json::{Map, Value, json};

const MAX_TOOLS: usize = 128;
const MAX_TOOL_NAME: usize = 64;

/// A chat request whose every field is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// As chat templates take them: `role`, `content` (a string or null), and what belongs to the role.
    pub messages: Vec<Value>,
    /// As chat templates take them; empty when there are none or `tool_choice` is `none`.
    pub tools: Vec<Value>,
    /// More variables for the template.
    pub template_arguments: Map<String, Value>,
    /// `Some(k)`: log-probabilities with `k` alternatives.
    pub logprobs: Option<u8>,
    /// Keep the completion.
    pub store: bool,
    pub parameters: Parameters,
}

impl ChatRequest {
    pub fn parse(body: Value, vocabulary: u32, unknown: &mut Unknown) -> Result<ChatRequest, ApiError> {
        let mut fields = Fields::of(body, "")?;
        let parameters = Parameters::take(&mut fields, vocabulary, unknown)?;
        not_implemented(&mut fields)?;
        response_format(&mut fields, unknown)?;
        let messages = fields.array("messages")?;
        let messages = messages::parse(fields.require("messages", messages)?, unknown)?;
        let tools = tools(&mut fields, unknown)?;
        let tools = if tool_choice(&mut fields, &tools)? { tools } else { Vec::new() };
        let template_arguments = fields.map("chat_template_kwargs")?.unwrap_or_default();
        let logprobs = logprobs(&mut fields)?;
        let store = fields.boolean("store")?.unwrap_or(false);
        fields.finish(unknown)?;
        Ok(ChatRequest { messages, tools, template_arguments, logprobs, store, parameters })
    }
}

fn not_implemented(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["audio", "web_search_options", "reasoning_effort", "functions", "chat_template"] {
        fields.neutral(name, &[])?;
    }
    for name in ["echo", "continue_final_message"] {
        fields.neutral(name, &[json!(false)])?;
    }
    fields.neutral("add_generation_prompt", &[json!(true)])?;
    fields.neutral("function_call", &[json!("none"), json!("auto")])?;
    fields.neutral("modalities", &[json!(["text"])])?;
    fields.neutral("verbosity", &[json!("medium")])?;
    fields.neutral("parallel_tool_calls", &[json!(true)])
}

fn response_format(fields: &mut Fields, unknown: &mut Unknown) -> Result<(), ApiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(()) };
    let kind = format.choice("type", &["text", "json_object", "json_schema"])?;
    match format.require("type", kind)? {
        "text" => format.finish(unknown),
        kind => Err(ApiError::unsupported(
            "response_format",
            format!("`response_format` of type {kind:?} is not supported yet; only \"text\" is"),
        )),
    }
}

fn logprobs(fields: &mut Fields) -> Result<Option<u8>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=20)?;
    if top.is_some_and(|top| top > 0) && !wanted {
        return Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
    }
    Ok(wanted.then_some(top.unwrap_or(0) as u8))
}

fn tools(fields: &mut Fields, unknown: &mut Unknown) -> Result<Vec<Value>, ApiError> {
    let items = fields.array("tools")?.unwrap_or_default();
    if items.len() > MAX_TOOLS {
        return Err(ApiError::field("tools", format!("`tools` may hold {MAX_TOOLS} tools, not {}", items.len())));
    }
    let mut tools: Vec<Value> = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let path = format!("tools[{index}]");
        let tool = tool(item, &path, unknown)?;
        if tools.iter().any(|other| other["function"]["name"] == tool["function"]["name"]) {
            let message = format!("`{path}.function.name` is the name of an earlier tool");
            return Err(ApiError::field(format!("{path}.function.name"), message));
        }
        tools.push(tool);
    }
    Ok(tools)
}

/// A tool as the template takes it: its keys in the client's order.
fn tool(item: Value, path: &str, unknown: &mut Unknown) -> Result<Value, ApiError> {
    let mut rendered = item.clone();
    let mut fields = Fields::of(item, path)?;
    let kind = fields.string("type")?;
    let kind = fields.require("type", kind)?;
    if kind != "function" {
        let path = fields.path("type");
        let message = format!("`{path}` {:?} is not supported; only \"function\" is", shown(&kind));
        return Err(ApiError::unsupported(path, message));
    }
    let function = fields.object("function")?;
    let mut function = fields.require("function", function)?;
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    check_name(&name, &function.path("name"))?;
    function.string("description")?;
    function.map("parameters")?;
    function.neutral("strict", &[json!(false)])?;
    function.finish(unknown)?;
    fields.finish(unknown)?;
    if let Some(function) = rendered["function"].as_object_mut() {
        // It is an instruction to the server; a null is the same as absent, which templates cannot know.
        function.shift_remove("strict");
        function.retain(|_, value| !value.is_null());
    }
    Ok(rendered)
}

/// Names of functions: letters, digits, `_` and `-`, at most 64.
pub fn check_name(name: &str, path: &str) -> Result<(), ApiError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > MAX_TOOL_NAME || !name.bytes().all(allowed) {
        let message =
            format!("`{path}` must be 1 to {MAX_TOOL_NAME} letters, digits, `_` or `-`, not {:?}", shown(name));
        return Err(ApiError::field(path, message));
    }
    Ok(())
}

/// Whether tools may be called.
fn tool_choice(fields: &mut Fields, tools: &[Value]) -> Result<bool, ApiError> {
    let choice = match fields.value("tool_choice") {
        None => return Ok(true),
        Some(Value::String(text)) => text,
        Some(Value::Object(_)) => {
            let message = "`tool_choice` naming a function is not supported yet; \"auto\" and \"none\" are";
            return Err(ApiError::unsupported("tool_choice", message));
        }
        Some(other) => return Err(super::fields::wrong_type("tool_choice", "a string or an object", &other)),
    };
    match choice.as_str() {
        "none" => Ok(false),
        "auto" => Ok(true),
        "required" if tools.is_empty() => {
            Err(ApiError::field("tool_choice", "`tool_choice` is \"required\", but there are no `tools`"))
        }
        "required" => {
            let message = "`tool_choice` \"required\" is not supported yet; \"auto\" and \"none\" are";
            Err(ApiError::unsupported("tool_choice", message))
        }
        other => {
            let message = format!("`tool_choice` must be \"auto\" or \"none\", not {:?}", shown(other));
            Err(ApiError::field("tool_choice", message))
        }
    }
}
