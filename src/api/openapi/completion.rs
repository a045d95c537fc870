//! Schemas of `POST /v1/completions`.

use super::{neutral, shared::Usage};
use serde_json::Value;
use std::collections::HashMap;
use utoipa::ToSchema;

/// Texts to go on from, without a chat template.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    pub prompt: Prompt,
    /// Repeat the prompt before the answer. Not together with `logprobs`.
    pub echo: Option<bool>,
    /// Log-probabilities of the tokens, with this many alternatives.
    #[schema(minimum = 0, maximum = 5)]
    pub logprobs: Option<i64>,
    /// Must be equal to `n`.
    #[schema(minimum = 1, maximum = 128, examples(1))]
    pub best_of: Option<i64>,
    #[schema(schema_with = neutral::empty_text)]
    pub suffix: Option<Value>,
    #[schema(schema_with = neutral::no)]
    pub store: Option<Value>,
}

/// A text, texts, token ids, or arrays of token ids. Prompts × `n` are at most 128.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    Text(#[schema(inline)] PromptText),
    Texts(#[schema(inline)] PromptTexts),
    Tokens(#[schema(inline)] PromptTokens),
    TokenArrays(#[schema(inline)] PromptTokenArrays),
}

#[derive(ToSchema)]
#[schema(examples("Once upon a time"))]
pub struct PromptText(pub String);

#[derive(ToSchema)]
#[schema(min_items = 1, max_items = 128, examples("One"))]
pub struct PromptTexts(pub Vec<String>);

#[derive(ToSchema)]
#[schema(min_items = 1)]
pub struct PromptTokens(pub Vec<u32>);

#[derive(ToSchema)]
#[schema(min_items = 1, max_items = 128)]
pub struct PromptTokenArrays(pub Vec<Vec<u32>>);

/// An answer that is not streamed. The chunks of a stream have this form too, with usage only in the last and only
/// with `stream_options.include_usage`.
#[derive(ToSchema)]
pub struct Completion {
    pub id: String,
    #[schema(examples("text_completion"))]
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    /// Names the build, model and device, which an answer depends on besides its request.
    pub system_fingerprint: String,
    pub choices: Vec<CompletionChoice>,
    pub usage: Option<Usage>,
}

#[derive(ToSchema)]
pub struct CompletionChoice {
    pub index: u32,
    pub text: String,
    #[schema(required)]
    pub logprobs: Option<CompletionLogprobs>,
    #[schema(required)]
    pub finish_reason: Option<CompletionFinishReason>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum CompletionFinishReason {
    Stop,
    Length,
}

/// Parallel arrays, an entry for each token.
#[derive(ToSchema)]
pub struct CompletionLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f64>,
    pub top_logprobs: Vec<HashMap<String, f64>>,
    /// Where each token begins in the choice's text, in characters.
    pub text_offset: Vec<u64>,
}
