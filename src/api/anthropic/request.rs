//! The body of `POST /v1/messages`, checked field by field and translated into a chat's.

use crate::api::{
    dialect::{ChatBody, Messages},
    error::ApiError,
    fields::{Fields, Unknown, kind, shown},
};
use serde_json::{Value, json};

/// What a chat calls a field, and what this dialect does.
pub const NAMES: [(&str, &str); 10] = [
    ("].function.", "]."),
    ("].parameters", "].input_schema"),
    ("thinking_budget", "thinking.budget_tokens"),
    ("enable_thinking", "thinking"),
    ("tool_choice.function.name", "tool_choice.name"),
    ("stop", "stop_sequences"),
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
    ("reasoning_effort", "output_config.effort"),
    ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
];

/// What the body is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Answer,
    /// To count the prompt's tokens: fields that are about the answer are not known.
    Count,
}

pub struct Translated {
    pub chat: ChatBody,
}

/// The chat request that means the same.
pub fn translate(body: Value, purpose: Purpose, unknown: &mut Unknown) -> Result<Translated, ApiError> {
    let mut fields = Fields::of(body, "")?;
    let mut chat = ChatBody::default();
    chat.take(&mut fields, &["model"]);
    if purpose == Purpose::Answer {
        answer(&mut fields, &mut chat, unknown)?;
    }
    for name in ["container", "context_management", "diagnostics", "inference_geo", "mcp_servers"] {
        fields.neutral(name, &[])?;
    }
    fields.neutral("speed", &[json!("standard")])?;
    cache_control(&mut fields, unknown)?;
    thinking(&mut fields, &mut chat, unknown)?;
    output_config(&mut fields, &mut chat, unknown)?;
    let mut turns = Turns(Messages::default());
    if let Some(system) = fields.value("system") {
        let parts = texts(system, "system", unknown)?;
        turns.0.push("system", parts.join("\n"));
    }
    let items = fields.array("messages")?;
    for (index, item) in fields.require("messages", items)?.into_iter().enumerate() {
        turns.add(Fields::of(item, format!("messages[{index}]"))?, unknown)?;
    }
    let Turns(Messages(messages)) = turns;
    if messages.last().is_some_and(|message| message["role"] == "assistant") {
        let message = "`messages` ends with the assistant's turn; to continue it (prefill) is not supported";
        return Err(ApiError::unsupported("messages", message));
    }
    chat.set("messages", Value::Array(messages));
    tools(&mut fields, &mut chat, unknown)?;
    tool_choice(&mut fields, &mut chat, unknown)?;
    fields.finish(unknown)?;
    Ok(Translated { chat })
}

/// Fields about the answer.
fn answer(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let max_tokens = fields.integer("max_tokens", 1..=i64::from(u32::MAX))?;
    chat.set("max_tokens", json!(fields.require("max_tokens", max_tokens)?));
    chat.take(fields, &["stream", "temperature", "top_p", "top_k"]);
    chat.set("stop", fields.array("stop_sequences")?.map(Value::Array));
    fields.choice("service_tier", &["auto", "standard_only"])?;
    if let Some(mut metadata) = fields.object("metadata")? {
        metadata.string("user_id")?;
        metadata.finish(unknown)?;
    }
    Ok(())
}

/// It says what may be kept for later requests, which this server decides by itself.
fn cache_control(fields: &mut Fields, unknown: &mut Unknown) -> Result<(), ApiError> {
    if let Some(mut control) = fields.object("cache_control")? {
        let kind = control.choice("type", &["ephemeral"])?;
        control.require("type", kind)?;
        control.choice("ttl", &["5m", "1h"])?;
        control.finish(unknown)?;
    }
    Ok(())
}

fn thinking(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let mut enabled = false;
    if let Some(mut thinking) = fields.object("thinking")? {
        let kind = thinking.choice("type", &["enabled", "disabled", "adaptive"])?;
        enabled = thinking.require("type", kind)? != "disabled";
        if kind == Some("enabled") {
            let budget = thinking.integer("budget_tokens", 1..=i64::from(u32::MAX))?;
            let budget = thinking.require("budget_tokens", budget)?;
            chat.set("thinking_budget", json!(budget));
        }
        if enabled {
            thinking.neutral("display", &[json!("summarized")])?;
        }
        thinking.finish(unknown)?;
    }
    chat.set("enable_thinking", json!(enabled));
    Ok(())
}

fn output_config(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let Some(mut config) = fields.object("output_config")? else { return Ok(()) };
    chat.set("reasoning_effort", config.value("effort"));
    if let Some(mut format) = config.object("format")? {
        let kind = format.choice("type", &["json_schema"])?;
        format.require("type", kind)?;
        let schema = format.map("schema")?;
        let schema = format.require("schema", schema)?;
        format.finish(unknown)?;
        let schema = json!({"name": "output", "schema": schema, "strict": true});
        chat.set("response_format", json!({"type": "json_schema", "json_schema": schema}));
    }
    config.finish(unknown)
}

fn tools(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let Some(items) = fields.array("tools")? else { return Ok(()) };
    let tool = |(index, item): (usize, Value)| {
        let mut tool = Fields::of(item, format!("tools[{index}]"))?;
        if let Some(kind) = tool.string("type")?.filter(|kind| kind != "custom") {
            let path = tool.path("type");
            let message = format!("`{path}` {:?} is not supported; only \"custom\" is", shown(&kind));
            return Err(ApiError::unsupported(path, message));
        }
        let name = tool.string("name")?;
        let mut function = json!({"name": tool.require("name", name)?});
        if let Some(description) = tool.string("description")? {
            function["description"] = json!(description);
        }
        let schema = tool.map("input_schema")?;
        function["parameters"] = Value::Object(tool.require("input_schema", schema)?);
        if let Some(strict) = tool.boolean("strict")? {
            function["strict"] = json!(strict);
        }
        cache_control(&mut tool, unknown)?;
        // When its input is sent changes nothing of what is sent.
        tool.boolean("eager_input_streaming")?;
        tool.neutral("defer_loading", &[json!(false)])?;
        tool.neutral("allowed_callers", &[json!(["direct"])])?;
        tool.neutral("input_examples", &[json!([])])?;
        tool.finish(unknown)?;
        Ok(json!({"type": "function", "function": function}))
    };
    let tools = items.into_iter().enumerate().map(tool).collect::<Result<Vec<Value>, ApiError>>()?;
    chat.set("tools", Value::Array(tools));
    Ok(())
}

fn tool_choice(fields: &mut Fields, chat: &mut ChatBody, unknown: &mut Unknown) -> Result<(), ApiError> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok(()) };
    let kind = choice.choice("type", &["auto", "any", "tool", "none"])?;
    let kind = choice.require("type", kind)?;
    let value = match kind {
        "any" => json!("required"),
        "tool" => {
            let name = choice.string("name")?;
            json!({"type": "function", "function": {"name": choice.require("name", name)?}})
        }
        other => json!(other),
    };
    if kind != "none" && choice.boolean("disable_parallel_tool_use")?.unwrap_or(false) {
        chat.set("parallel_tool_calls", json!(false));
    }
    choice.finish(unknown)?;
    chat.set("tool_choice", value);
    Ok(())
}

/// The chat's messages so far.
struct Turns(Messages);

impl Turns {
    fn add(&mut self, mut fields: Fields, unknown: &mut Unknown) -> Result<(), ApiError> {
        let role = fields.choice("role", &["user", "assistant", "system"])?;
        let role = fields.require("role", role)?;
        let path = fields.path("content");
        let content = fields.value("content");
        let content = fields.require("content", content)?;
        fields.finish(unknown)?;
        match role {
            "system" => {
                let parts = texts(content, &path, unknown)?;
                self.0.push("system", parts.join("\n"));
                Ok(())
            }
            "user" => self.user(blocks(content, &path)?, unknown),
            _ => self.assistant(blocks(content, &path)?, unknown),
        }
    }

    /// Results of tools are messages of their own; the text between them is the user's.
    fn user(&mut self, blocks: Vec<Fields>, unknown: &mut Unknown) -> Result<(), ApiError> {
        for mut block in blocks {
            let kind = block.string("type")?;
            match block.require("type", kind)?.as_str() {
                "text" => {
                    let text = text(block, unknown)?;
                    self.0.say("user", &text);
                }
                "tool_result" => {
                    let id = block.string("tool_use_id")?;
                    let id = block.require("tool_use_id", id)?;
                    let path = block.path("content");
                    let content =
                        block.value("content").map_or(Ok(Vec::new()), |value| texts(value, &path, unknown))?;
                    // The result's text is what tells the model of an error.
                    block.boolean("is_error")?;
                    cache_control(&mut block, unknown)?;
                    block.finish(unknown)?;
                    self.0.tool_result(&id, content.join("\n"));
                }
                other => return Err(not_taken(&block, other)),
            }
        }
        Ok(())
    }

    fn assistant(&mut self, blocks: Vec<Fields>, unknown: &mut Unknown) -> Result<(), ApiError> {
        for mut block in blocks {
            let kind = block.string("type")?;
            match block.require("type", kind)?.as_str() {
                "text" => {
                    let text = text(block, unknown)?;
                    self.0.say("assistant", &text);
                }
                "thinking" => {
                    let thinking = block.string("thinking")?;
                    let thinking = block.require("thinking", thinking)?;
                    block.string("signature")?;
                    block.finish(unknown)?;
                    self.0.think(&thinking);
                }
                "tool_use" => {
                    let (id, name) = (block.string("id")?, block.string("name")?);
                    let (id, name) = (block.require("id", id)?, block.require("name", name)?);
                    let input = block.map("input")?;
                    let arguments = Value::Object(block.require("input", input)?).to_string();
                    cache_control(&mut block, unknown)?;
                    block.finish(unknown)?;
                    self.0.call(&id, &name, &arguments);
                }
                other => return Err(not_taken(&block, other)),
            }
        }
        Ok(())
    }
}

fn not_taken(block: &Fields, kind: &str) -> ApiError {
    let path = block.path("type");
    ApiError::unsupported(path.clone(), format!("`{path}` {:?} is not taken here", shown(kind)))
}

/// The blocks of a message's content; a string is one of text.
fn blocks(content: Value, path: &str) -> Result<Vec<Fields>, ApiError> {
    let items = match content {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(items) if !items.is_empty() => items,
        Value::Array(_) => {
            return Err(ApiError::field(path, format!("`{path}` is an empty array; send at least one block")));
        }
        other => {
            let message = format!("`{path}` must be a string or an array of blocks, not {}", kind(&other));
            return Err(ApiError::field(path, message).code("invalid_type"));
        }
    };
    items.into_iter().enumerate().map(|(index, item)| Fields::sent_back(item, format!("{path}[{index}]"))).collect()
}

/// Content that may be text alone.
fn texts(content: Value, path: &str, unknown: &mut Unknown) -> Result<Vec<String>, ApiError> {
    let read = |mut block: Fields| {
        let kind = block.string("type")?;
        match block.require("type", kind)?.as_str() {
            "text" => text(block, unknown),
            other => Err(not_taken(&block, other)),
        }
    };
    blocks(content, path)?.into_iter().map(read).collect()
}

/// The rest of a text block.
fn text(mut block: Fields, unknown: &mut Unknown) -> Result<String, ApiError> {
    let text = block.string("text")?;
    let text = block.require("text", text)?;
    cache_control(&mut block, unknown)?;
    block.neutral("citations", &[json!([])])?;
    block.finish(unknown)?;
    Ok(text)
}
