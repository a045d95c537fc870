//! The body of `POST /v1/completions`, checked field by field.

use super::{
    error::ApiError,
    fields::{Fields, Unknown, kind, wrong_type},
    output_format::OutputFormat,
    parameters::{Parameters, token_ids},
};
use serde_json::{Value, json};

/// Most answers to one request: prompts × `n`.
pub const MAX_ANSWERS: usize = 128;

/// What OpenAI gives when `max_tokens` is absent.
const DEFAULT_MAX_TOKENS: u32 = 16;

#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    Text(String),
    /// Token ids, all below the vocabulary's size.
    Tokens(Vec<u32>),
}

/// A completion request whose every field is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// Repeat the prompt before the answer.
    pub echo: bool,
    /// `Some(k)`: log-probabilities with `k` (0..=5) alternatives.
    pub logprobs: Option<u8>,
    /// What the answers' text must be.
    pub output: Option<OutputFormat>,
    pub parameters: Parameters,
}

impl CompletionRequest {
    pub fn parse(body: Value, vocabulary: u32, unknown: &mut Unknown) -> Result<CompletionRequest, ApiError> {
        let mut fields = Fields::of(body, "")?;
        let mut parameters = Parameters::take(&mut fields, vocabulary, unknown)?;
        parameters.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
        let prompt = fields.value("prompt");
        let prompts = prompts(fields.require("prompt", prompt)?, vocabulary)?;
        if prompts.len() * parameters.choices as usize > MAX_ANSWERS {
            let message = format!("{} prompts × `n` are more than {MAX_ANSWERS} answers; split them", prompts.len());
            return Err(ApiError::field("prompt", message));
        }
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = fields.integer("logprobs", 0..=5)?.map(|top| top as u8);
        if echo && logprobs.is_some() {
            let message = "`echo` together with `logprobs` is not supported yet; leave one of them out";
            return Err(ApiError::unsupported("echo", message));
        }
        fields.neutral("suffix", &[json!("")])?;
        fields.neutral("store", &[json!(false)])?;
        if let Some(best_of) = fields.integer("best_of", 1..=128)?
            && best_of != i64::from(parameters.choices)
        {
            let message = "`best_of` other than `n` is not supported yet; leave it out";
            return Err(ApiError::unsupported("best_of", message));
        }
        let output = OutputFormat::take(&mut fields, unknown)?;
        fields.finish(unknown)?;
        Ok(CompletionRequest { prompts, echo, logprobs, output, parameters })
    }
}

/// A string, strings, token ids, or arrays of token ids.
fn prompts(value: Value, vocabulary: u32) -> Result<Vec<Prompt>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong_type("prompt", "a string, strings, token ids or arrays of token ids", &other)),
    };
    let empty = |path: &str| ApiError::field("prompt", format!("`{path}` is empty; there is nothing to continue"));
    match items.first() {
        None => Err(empty("prompt")),
        Some(Value::Number(_)) => Ok(vec![Prompt::Tokens(token_ids(&items, "prompt", vocabulary)?)]),
        Some(_) if items.len() > MAX_ANSWERS => {
            let message = format!("`prompt` may hold {MAX_ANSWERS} prompts, not {}", items.len());
            Err(ApiError::field("prompt", message))
        }
        Some(_) => {
            let read = |(index, item): (usize, Value)| {
                let path = format!("prompt[{index}]");
                match item {
                    Value::String(text) => Ok(Prompt::Text(text)),
                    Value::Array(ids) if ids.is_empty() => Err(empty(&path)),
                    Value::Array(ids) => Ok(Prompt::Tokens(token_ids(&ids, &path, vocabulary)?)),
                    other => {
                        let message = format!("`{path}` must be a string or token ids, not {}", kind(&other));
                        Err(ApiError::field(path, message).code("invalid_type"))
                    }
                }
            };
            items.into_iter().enumerate().map(read).collect()
        }
    }
}
