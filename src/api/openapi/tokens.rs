//! Schemas of tokens, templates and what is at work, in llama-server's shapes.

use serde_json::{Map, Value};
use utoipa::ToSchema;

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeRequest {
    /// Id of a served model. Without it, the one that is served.
    #[schema(examples("demo"))]
    pub model: Option<String>,
    #[schema(examples("Hello"))]
    pub content: String,
    /// Add the tokens that open a prompt.
    pub add_special: Option<bool>,
    /// Read the names of special tokens as these tokens; on unless it is false.
    pub parse_special: Option<bool>,
    /// Answer with each token's text too.
    pub with_pieces: Option<bool>,
}

/// Ids, or with `with_pieces` ids and texts.
#[derive(ToSchema)]
pub struct Tokens {
    pub tokens: Vec<AnyToken>,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum AnyToken {
    Id(u32),
    Piece(TokenPiece),
}

#[derive(ToSchema)]
pub struct TokenPiece {
    pub id: u32,
    pub piece: Piece,
}

/// Text; bytes where a token is none by itself.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetokenizeRequest {
    /// Id of a served model. Without it, the one that is served.
    #[schema(examples("demo"))]
    pub model: Option<String>,
    /// Below the size of the model's vocabulary.
    pub tokens: Vec<u32>,
}

#[derive(ToSchema)]
pub struct PlainContent {
    pub content: String,
}

#[derive(ToSchema)]
pub struct RenderedPrompt {
    pub prompt: String,
}

#[derive(ToSchema)]
pub struct Properties {
    pub default_generation_settings: GenerationSettings,
    /// Requests that are answered at once.
    pub total_slots: u64,
    pub model_alias: String,
    /// The model's own, in Jinja.
    #[schema(required)]
    pub chat_template: Option<String>,
    pub bos_token: String,
    pub eos_token: String,
    #[schema(value_type = Object)]
    pub modalities: Map<String, Value>,
    pub build_info: String,
}

#[derive(ToSchema)]
pub struct GenerationSettings {
    /// Tokens that prompt and answer may have together.
    pub n_ctx: u32,
    #[schema(value_type = Object)]
    pub params: Map<String, Value>,
}

/// A prompt and its answers, without what they say.
#[derive(ToSchema)]
pub struct Slot {
    pub id: u64,
    pub model: String,
    /// The name of the client's key, or its address.
    pub client: String,
    /// `waiting`, `evaluating` or `generating`.
    pub state: String,
    pub choices: u32,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    /// Seconds since the request came.
    pub age_s: f64,
}
