//! The body of `POST /v1/chat/completions`, checked field by field.

use super::{
    error::ApiError,
    fields::{Fields, Unknown},
    messages,
    output_format::OutputFormat,
    parameters::Parameters,
    reasoning_fields::ReasoningOptions,
    tool_fields::Tools,
};
use serde_json::{Map, Value, json};

/// A chat request whose every field is checked. Other endpoints that answer chats make one of these.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// As chat templates take them: `role`, `content` (a string or null), and what belongs to the role.
    pub messages: Vec<Value>,
    /// The functions that may be called.
    pub tools: Tools,
    /// What the answer's text must be.
    pub output: Option<OutputFormat>,
    pub reasoning: ReasoningOptions,
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
        let output = OutputFormat::take(&mut fields, unknown)?;
        let messages = fields.array("messages")?;
        let messages = messages::parse(fields.require("messages", messages)?, unknown)?;
        let tools = Tools::take(&mut fields, unknown)?;
        let mut template_arguments = fields.map("chat_template_kwargs")?.unwrap_or_default();
        let reasoning = ReasoningOptions::take(&mut fields, &mut template_arguments, unknown)?;
        let logprobs = logprobs(&mut fields)?;
        let store = fields.boolean("store")?.unwrap_or(false);
        fields.finish(unknown)?;
        Ok(ChatRequest { messages, tools, output, reasoning, template_arguments, logprobs, store, parameters })
    }
}

fn not_implemented(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["audio", "web_search_options", "functions", "chat_template"] {
        fields.neutral(name, &[])?;
    }
    for name in ["echo", "continue_final_message"] {
        fields.neutral(name, &[json!(false)])?;
    }
    fields.neutral("add_generation_prompt", &[json!(true)])?;
    fields.neutral("function_call", &[json!("none"), json!("auto")])?;
    fields.neutral("modalities", &[json!(["text"])])?;
    fields.neutral("verbosity", &[json!("medium")])
}

fn logprobs(fields: &mut Fields) -> Result<Option<u8>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=20)?;
    if top.is_some_and(|top| top > 0) && !wanted {
        return Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
    }
    Ok(wanted.then_some(top.unwrap_or(0) as u8))
}
