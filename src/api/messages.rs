//! The messages of a chat, checked and brought into the one form that chat templates take.

use super::{
    error::ApiError,
    fields::{Fields, Unknown, kind, shown},
    tool_fields::check_name,
};
use serde_json::{Map, Value, json};

/// Checks the array at `messages`. Text parts are joined, a line each.
pub fn parse(items: Vec<Value>, unknown: &mut Unknown) -> Result<Vec<Value>, ApiError> {
    if items.is_empty() {
        return Err(ApiError::field("messages", "`messages` is empty; send at least one message"));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| message(Fields::of(item, format!("messages[{index}]"))?, unknown))
        .collect()
}

fn message(mut fields: Fields, unknown: &mut Unknown) -> Result<Value, ApiError> {
    let role = fields.choice("role", &["system", "developer", "user", "assistant", "tool"])?;
    let role = fields.require("role", role)?;
    let mut message = Map::new();
    message.insert("role".into(), json!(role));
    let content = content(&mut fields, unknown)?;
    if let Some(name) = fields.string("name")? {
        message.insert("name".into(), json!(name));
    }
    let content = match role {
        "assistant" => {
            let calls = assistant(&mut fields, &mut message, unknown)?;
            // A call needs no text beside it; templates may test or concatenate the content, so it is never null.
            if calls { content.or_else(|| Some(String::new())) } else { content }
        }
        "tool" => {
            let id = fields.string("tool_call_id")?;
            message.insert("tool_call_id".into(), json!(fields.require("tool_call_id", id)?));
            content
        }
        _ => content,
    };
    message.insert("content".into(), json!(fields.require("content", content)?));
    fields.finish(unknown)?;
    Ok(Value::Object(message))
}

/// The fields that only the assistant's messages have. Says whether there are tool calls.
fn assistant(fields: &mut Fields, message: &mut Map<String, Value>, unknown: &mut Unknown) -> Result<bool, ApiError> {
    for name in ["refusal", "audio", "function_call"] {
        fields.neutral(name, &[])?;
    }
    fields.neutral("annotations", &[json!([])])?;
    if let Some(text) = fields.string("reasoning_content")? {
        message.insert("reasoning_content".into(), json!(text));
    }
    let Some(items) = fields.array("tool_calls")?.filter(|items| !items.is_empty()) else { return Ok(false) };
    let path = fields.path("tool_calls");
    let calls = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| tool_call(Fields::of(item, format!("{path}[{index}]"))?, unknown))
        .collect::<Result<Vec<Value>, ApiError>>()?;
    message.insert("tool_calls".into(), Value::Array(calls));
    Ok(true)
}

fn tool_call(mut fields: Fields, unknown: &mut Unknown) -> Result<Value, ApiError> {
    let id = fields.string("id")?;
    let id = fields.require("id", id)?;
    let kind = fields.choice("type", &["function"])?.unwrap_or("function");
    // Clients that put streamed deltas together send this back.
    fields.integer("index", 0..=i64::from(u32::MAX))?;
    let function = fields.object("function")?;
    let mut function = fields.require("function", function)?;
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    check_name(&name, &function.path("name"))?;
    let arguments = function.string("arguments")?;
    let arguments = function.require("arguments", arguments)?;
    function.finish(unknown)?;
    fields.finish(unknown)?;
    Ok(json!({"id": id, "type": kind, "function": {"name": name, "arguments": arguments}}))
}

/// A message's content: a string, or text parts that form one.
pub fn content(fields: &mut Fields, unknown: &mut Unknown) -> Result<Option<String>, ApiError> {
    let path = fields.path("content");
    let parts = match fields.value("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(other) => {
            let message = format!("`{path}` must be a string or an array of parts, not {}", kind(&other));
            return Err(ApiError::field(path, message).code("invalid_type"));
        }
    };
    if parts.is_empty() {
        return Err(ApiError::field(path.clone(), format!("`{path}` is an empty array; send at least one part")));
    }
    let texts = parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| text_part(Fields::of(part, format!("{path}[{index}]"))?, unknown))
        .collect::<Result<Vec<String>, ApiError>>()?;
    Ok(Some(texts.join("\n")))
}

fn text_part(mut fields: Fields, unknown: &mut Unknown) -> Result<String, ApiError> {
    let kind = fields.string("type")?;
    let kind = fields.require("type", kind)?;
    if kind != "text" {
        let path = fields.path("type");
        let message = format!("`{path}` is {:?}, but this model takes text only", shown(&kind));
        return Err(ApiError::unsupported(path, message));
    }
    let text = fields.string("text")?;
    let text = fields.require("text", text)?;
    fields.finish(unknown)?;
    Ok(text)
}
