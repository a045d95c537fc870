//! The items of a response's input: checked, translated into a chat's messages, and brought into the form in which they
//! are listed.

use crate::api::{
    dialect::Messages,
    error::ApiError,
    fields::{Fields, Unknown, kind, shown},
    identifiers::identifier,
};
use serde_json::{Value, json};

/// What `input` says.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub messages: Messages,
    /// As `/v1/responses/{id}/input_items` lists them.
    pub items: Vec<Value>,
}

impl Input {
    /// Reads the field `input`; its messages follow those of `before`.
    pub fn read(value: Value, before: Messages, unknown: &mut Unknown) -> Result<Input, ApiError> {
        let mut input = Input { messages: before, items: Vec::new() };
        match value {
            Value::String(text) => input.message("user", text, None),
            Value::Array(items) if items.is_empty() => {
                return Err(ApiError::field("input", "`input` is an empty array; send at least one item"));
            }
            Value::Array(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    input.item(Fields::sent_back(item, format!("input[{index}]"))?, unknown)?;
                }
            }
            other => {
                let message = format!("`input` must be a string or an array of items, not {}", kind(&other));
                return Err(ApiError::field("input", message).code("invalid_type"));
            }
        }
        Ok(input)
    }

    fn item(&mut self, mut fields: Fields, unknown: &mut Unknown) -> Result<(), ApiError> {
        let kind = fields.string("type")?;
        let id = fields.string("id")?;
        fields.choice("status", &["in_progress", "completed", "incomplete"])?;
        match kind.as_deref().unwrap_or("message") {
            "message" => self.message_item(&mut fields, id, unknown)?,
            "function_call" => {
                let mut text = |name: &str| {
                    let value = fields.string(name)?;
                    fields.require(name, value)
                };
                let (call_id, name, arguments) = (text("call_id")?, text("name")?, text("arguments")?);
                // What only calls of hosted tools have.
                fields.neutral("caller", &[json!({"type": "direct"})])?;
                fields.neutral("namespace", &[])?;
                fields.neutral("async", &[json!(false)])?;
                self.messages.call(&call_id, &name, &arguments);
                self.items.push(function_call(id, &call_id, &name, &arguments, "completed"));
            }
            "function_call_output" => {
                let call_id = fields.string("call_id")?;
                let call_id = fields.require("call_id", call_id)?;
                let output = texts(&mut fields, "output", &["input_text"], unknown)?;
                let id = id.unwrap_or_else(|| identifier("fco_"));
                self.items.push(json!({
                    "id": id, "type": "function_call_output", "status": "completed", "call_id": call_id, "output": output,
                }));
                self.messages.tool_result(&call_id, output);
            }
            "reasoning" => {
                // Its text comes in `content`; what other servers have encrypted or summed up is not read.
                fields.string("encrypted_content")?;
                let summary = texts(&mut fields, "summary", &["summary_text"], unknown)?;
                let has_content = fields.has("content");
                let content = if has_content {
                    texts(&mut fields, "content", &["reasoning_text"], unknown)?
                } else {
                    String::new()
                };
                let text = if has_content { &content } else { &summary };
                if !text.is_empty() {
                    self.messages.think(text);
                }
                self.items.push(reasoning(id, &content, "completed"));
            }
            other => {
                let path = fields.path("type");
                let message = format!("`{path}` {:?} is not taken here", shown(other));
                return Err(ApiError::unsupported(path, message));
            }
        }
        fields.finish(unknown)
    }

    fn message_item(&mut self, fields: &mut Fields, id: Option<String>, unknown: &mut Unknown) -> Result<(), ApiError> {
        let role = fields.choice("role", &["user", "assistant", "system", "developer"])?;
        let role = fields.require("role", role)?;
        fields.choice("phase", &["commentary", "final_answer"])?;
        let kinds: &[&str] = if role == "assistant" { &["output_text", "input_text"] } else { &["input_text"] };
        let text = texts(fields, "content", kinds, unknown)?;
        self.message(role, text, id);
        Ok(())
    }

    fn message(&mut self, role: &str, text: String, id: Option<String>) {
        if role == "assistant" {
            self.items.push(message(id, &text, "completed"));
            self.messages.say(role, &text);
            return;
        }
        let id = id.unwrap_or_else(|| identifier("msg_"));
        let content = json!([{"type": "input_text", "text": text}]);
        self.items.push(json!({"id": id, "type": "message", "status": "completed", "role": role, "content": content}));
        self.messages.push(role, text);
    }
}

/// An assistant's message as an item.
pub fn message(id: Option<String>, text: &str, status: &str) -> Value {
    let id = id.unwrap_or_else(|| identifier("msg_"));
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": [text_part(text, Vec::new())]})
}

/// A part of an assistant's message.
pub fn text_part(text: &str, logprobs: Vec<Value>) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

pub fn function_call(id: Option<String>, call_id: &str, name: &str, arguments: &str, status: &str) -> Value {
    let id = id.unwrap_or_else(|| identifier("fc_"));
    json!({
        "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments,
    })
}

pub fn reasoning(id: Option<String>, text: &str, status: &str) -> Value {
    let id = id.unwrap_or_else(|| identifier("rs_"));
    let content = if text.is_empty() { json!([]) } else { json!([{"type": "reasoning_text", "text": text}]) };
    json!({"id": id, "type": "reasoning", "status": status, "summary": [], "content": content})
}

/// The text of a field that is a string or parts of one of `kinds`, a line each.
fn texts(fields: &mut Fields, name: &str, kinds: &[&str], unknown: &mut Unknown) -> Result<String, ApiError> {
    let path = fields.path(name);
    let value = fields.value(name);
    let parts = match fields.require(name, value)? {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => {
            let message = format!("`{path}` must be a string or an array of parts, not {}", kind(&other));
            return Err(ApiError::field(path, message).code("invalid_type"));
        }
    };
    let read = |(index, part): (usize, Value)| {
        let mut part = Fields::sent_back(part, format!("{path}[{index}]"))?;
        let kind = part.string("type")?;
        let kind = part.require("type", kind)?;
        if !kinds.contains(&kind.as_str()) {
            let path = part.path("type");
            let message = format!("`{path}` {:?} is not taken here; {kinds:?} is", shown(&kind));
            return Err(ApiError::unsupported(path, message));
        }
        let text = part.string("text")?;
        let text = part.require("text", text)?;
        // What an answer had beside its text, when it is sent back.
        for name in ["annotations", "logprobs"] {
            part.array(name)?;
        }
        part.finish(unknown)?;
        Ok(text)
    };
    let texts = parts.into_iter().enumerate().map(read).collect::<Result<Vec<String>, ApiError>>()?;
    Ok(texts.join("\n"))
}
