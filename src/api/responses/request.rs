//! The body of `POST /v1/responses`, checked field by field and translated into a chat's.

use super::items::Input;
use crate::api::{
    dialect::{ChatBody, Messages},
    error::ApiError,
    fields::{Fields, Unknown, shown},
    parameters,
};
use serde_json::{Map, Value, json};

/// What a chat calls a field, and what this dialect does.
pub const NAMES: [(&str, &str); 9] = [
    ("].function.", "]."),
    ("tool_choice.function.name", "tool_choice.name"),
    ("messages", "input"),
    ("max_tokens", "max_output_tokens"),
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
];

/// Fields that mean here what they mean in a chat.
const SAME: [&str; 23] = [
    "model",
    "stream",
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    // Extensions.
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "repeat_penalty",
    "ignore_eos",
    "stop_token_ids",
    "logit_bias",
    "stop",
    "cache_prompt",
    "chat_template_kwargs",
];

pub struct Translated {
    pub chat: ChatBody,
    pub input: Input,
    pub store: bool,
    /// Whether log-probabilities are asked for.
    pub logprobs: bool,
    pub metadata: Map<String, Value>,
    /// Fields of the request as the response repeats them.
    pub repeated: Map<String, Value>,
}

/// The chat request that means the same. `before` are the messages that `previous_response_id` stands for.
pub fn translate(body: Value, before: Messages, unknown: &mut Unknown) -> Result<Translated, ApiError> {
    let repeated = repeated(&body);
    let mut fields = Fields::of(body, "")?;
    let mut chat = ChatBody::default();
    not_implemented(&mut fields)?;
    fields.string("previous_response_id")?;
    let store = fields.boolean("store")?.unwrap_or(true);
    let metadata = parameters::metadata(&mut fields)?;
    let instructions = fields.string("instructions")?;
    let value = fields.value("input");
    let input = Input::read(fields.require("input", value)?, before, unknown)?;
    let system = instructions.map(|text| json!({"role": "system", "content": text}));
    chat.set("messages", Value::Array(system.into_iter().chain(input.messages.0.iter().cloned()).collect()));
    chat.take(&mut fields, &SAME);
    chat.set("max_tokens", fields.value("max_output_tokens"));
    let logprobs = logprobs(&mut fields, &mut chat)?;
    text(&mut fields, &mut chat, unknown)?;
    reasoning(&mut fields, &mut chat, unknown)?;
    tools(&mut fields, &mut chat, unknown)?;
    tool_choice(&mut fields, &mut chat, unknown)?;
    if let Some(mut options) = fields.object("stream_options")? {
        options.neutral("include_obfuscation", &[json!(false)])?;
        options.finish(unknown)?;
    }
    let truncation = fields.choice("truncation", &["auto", "disabled"])?;
    chat.set("truncate", (truncation == Some("auto")).then(|| json!("middle")));
    fields.finish(unknown)?;
    Ok(Translated { chat, input, store, logprobs, metadata, repeated })
}

/// What the response says of its request, by default where the request is silent.
fn repeated(body: &Value) -> Map<String, Value> {
    let defaults = [
        ("background", json!(false)),
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("max_tool_calls", Value::Null),
        ("parallel_tool_calls", json!(true)),
        ("previous_response_id", Value::Null),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("service_tier", json!("default")),
        ("store", json!(true)),
        ("temperature", json!(1.0)),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_logprobs", json!(0)),
        ("top_p", json!(1.0)),
        ("truncation", json!("disabled")),
        ("user", Value::Null),
    ];
    let given = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
    defaults.into_iter().map(|(name, default)| (name.to_owned(), given(name).unwrap_or(default))).collect()
}

fn not_implemented(fields: &mut Fields) -> Result<(), ApiError> {
    fields.neutral("background", &[json!(false)])?;
    for name in ["conversation", "prompt", "context_management", "moderation", "max_tool_calls"] {
        fields.neutral(name, &[])?;
    }
    Ok(())
}

fn logprobs(fields: &mut Fields, chat: &mut ChatBody) -> Result<bool, ApiError> {
    let mut wanted = false;
    for (index, item) in fields.array("include")?.unwrap_or_default().into_iter().enumerate() {
        match item.as_str() {
            Some("message.output_text.logprobs") => wanted = true,
            // Reasoning is given in plain text, so there is nothing to be encrypted.
            Some("reasoning.encrypted_content") => {}
            _ => {
                let path = format!("include[{index}]");
                let message = format!("`{path}` asks for what this server does not have");
                return Err(ApiError::unsupported(path, message));
            }
        }
    }
    let top = fields.value("top_logprobs");
    wanted |= top.as_ref().is_some_and(|top| *top != json!(0));
    chat.set("top_logprobs", top);
    chat.set("logprobs", wanted.then(|| json!(true)));
    Ok(wanted)
}

fn text(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let Some(mut text) = fields.object("text")? else { return Ok(()) };
    chat.set("verbosity", text.value("verbosity"));
    if let Some(mut format) = text.object("format")? {
        let kind = format.choice("type", &["text", "json_object", "json_schema"])?;
        let kind = format.require("type", kind)?;
        let mut schema = Map::new();
        if kind == "json_schema" {
            for name in ["name", "description", "schema", "strict"] {
                if let Some(value) = format.value(name) {
                    schema.insert(name.to_owned(), value);
                }
            }
            chat.set("response_format", json!({"type": kind, "json_schema": schema}));
        } else {
            chat.set("response_format", json!({"type": kind}));
        }
        format.finish(unknown)?;
    }
    text.finish(unknown)
}

fn reasoning(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let Some(mut reasoning) = fields.object("reasoning")? else { return Ok(()) };
    chat.set("reasoning_effort", reasoning.value("effort"));
    // There are no summaries: the reasoning itself is in the answer.
    for name in ["summary", "generate_summary"] {
        reasoning.neutral(name, &[json!("auto")])?;
    }
    reasoning.finish(unknown)
}

fn tools(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let Some(items) = fields.array("tools")? else { return Ok(()) };
    let tool = |(index, item): (usize, Value)| {
        let mut tool = Fields::of(item, format!("tools[{index}]"))?;
        let kind = tool.string("type")?;
        let kind = tool.require("type", kind)?;
        if kind != "function" {
            let path = tool.path("type");
            let message = format!("`{path}` {:?} is not supported; only \"function\" is", shown(&kind));
            return Err(ApiError::unsupported(path, message));
        }
        let mut function = Map::new();
        for name in ["name", "description", "parameters", "strict"] {
            if let Some(value) = tool.value(name) {
                function.insert(name.to_owned(), value);
            }
        }
        tool.finish(unknown)?;
        Ok(json!({"type": "function", "function": function}))
    };
    let tools = items.into_iter().enumerate().map(tool).collect::<Result<Vec<Value>, ApiError>>()?;
    chat.set("tools", Value::Array(tools));
    Ok(())
}

fn tool_choice(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let choice = match fields.value("tool_choice") {
        Some(choice @ Value::Object(_)) => choice,
        other => {
            chat.set("tool_choice", other);
            return Ok(());
        }
    };
    let mut choice = Fields::of(choice, "tool_choice")?;
    let kind = choice.string("type")?;
    let kind = choice.require("type", kind)?;
    if kind != "function" {
        let message = format!("`tool_choice.type` {:?} is not supported; only \"function\" is", shown(&kind));
        return Err(ApiError::unsupported("tool_choice.type", message));
    }
    let name = choice.string("name")?;
    let name = choice.require("name", name)?;
    choice.finish(unknown)?;
    chat.set("tool_choice", json!({"type": "function", "function": {"name": name}}));
    Ok(())
}
