//! What several endpoints share: the fields of a generation, its usage, the error object.

use super::{chat::Content, neutral};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use utoipa::{
    ToSchema,
    openapi::{
        Object, RefOr, Schema, Type,
        schema::{ObjectBuilder, SchemaType},
    },
};

/// Fields that chat and completions share. They are merged into the schemas of both requests.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationFields {
    /// Id of a served model, as `/v1/models` lists it. Without it, the one that is served.
    #[schema(examples("demo"))]
    pub model: Option<String>,
    /// Randomness: 0 takes the most probable token every time.
    #[schema(minimum = 0, maximum = 2, default = 1.0)]
    pub temperature: Option<f64>,
    /// Sample from the most probable tokens that together have this probability.
    #[schema(exclusive_minimum = 0, maximum = 1, default = 1.0)]
    pub top_p: Option<f64>,
    /// Sample from this many of the most probable tokens; 0 and -1 mean all.
    #[schema(minimum = -1, maximum = 2147483647, default = 0)]
    pub top_k: Option<i64>,
    /// Leave out tokens less probable than this share of the most probable one's probability.
    #[schema(minimum = 0, maximum = 1, default = 0.0)]
    pub min_p: Option<f64>,
    /// Divides the logits of tokens that the text already has; 1 changes nothing.
    #[schema(minimum = 0.01, maximum = 100, default = 1.0)]
    pub repetition_penalty: Option<f64>,
    /// Another name of `repetition_penalty`.
    #[schema(minimum = 0.01, maximum = 100)]
    pub repeat_penalty: Option<f64>,
    /// Lowers the logits of tokens that the answer already has.
    #[schema(minimum = -2, maximum = 2, default = 0.0)]
    pub presence_penalty: Option<f64>,
    /// Lowers the logits of tokens by how often the answer has them.
    #[schema(minimum = -2, maximum = 2, default = 0.0)]
    pub frequency_penalty: Option<f64>,
    /// Added to logits, by token id; ids are below the size of the model's vocabulary.
    #[schema(schema_with = logit_bias)]
    pub logit_bias: Option<HashMap<String, f64>>,
    /// The same seed gives the same tokens. Drawn anew when absent.
    #[schema(minimum = -9223372036854775808_i64, maximum = 9223372036854775807_i64)]
    pub seed: Option<i64>,
    /// Answers to each prompt.
    #[schema(minimum = 1, maximum = 128, default = 1)]
    pub n: Option<i64>,
    /// Most tokens of an answer, reasoning counted.
    #[schema(minimum = 1, maximum = 4294967295_i64)]
    pub max_completion_tokens: Option<i64>,
    /// The old name of `max_completion_tokens`; give one of them.
    #[schema(minimum = 1, maximum = 4294967295_i64)]
    pub max_tokens: Option<i64>,
    /// Texts at which an answer ends; they are not part of it.
    pub stop: Option<Stop>,
    /// Token ids at which an answer ends.
    #[schema(max_items = 64)]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Do not end at the model's own end of text.
    pub ignore_eos: Option<bool>,
    /// Answer with server-sent events.
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Whether the prompt is looked up in the prefix cache. It changes the time, not the tokens.
    pub cache_prompt: Option<bool>,
    /// What goes of a prompt that is too long for the context; without it, such a prompt is refused.
    pub truncate: Option<Truncation>,
    /// Accepted; it cannot change the answer.
    #[schema(examples("someone"))]
    pub user: Option<String>,
    /// Accepted; it cannot change the answer.
    #[schema(examples("auto"))]
    pub service_tier: Option<String>,
    /// Accepted; it cannot change the answer.
    #[schema(examples("someone"))]
    pub safety_identifier: Option<String>,
    /// Accepted; it cannot change the answer.
    #[schema(examples("key"))]
    pub prompt_cache_key: Option<String>,
    /// Accepted; it cannot change the answer.
    #[schema(examples("24h"))]
    pub prompt_cache_retention: Option<String>,
    /// Strings by which to find what is stored.
    #[schema(schema_with = metadata)]
    pub metadata: Option<Map<String, Value>>,
    /// A text that the answer may resemble. It cannot change the answer, which comes sooner where they agree.
    pub prediction: Option<Prediction>,
    #[schema(schema_with = neutral::zero)]
    pub mirostat: Option<Value>,
    #[schema(schema_with = neutral::zero)]
    pub xtc_probability: Option<Value>,
    #[schema(schema_with = neutral::zero)]
    pub dry_multiplier: Option<Value>,
    #[schema(schema_with = neutral::zero)]
    pub dynatemp_range: Option<Value>,
    #[schema(schema_with = neutral::zero)]
    pub min_tokens: Option<Value>,
    #[schema(schema_with = neutral::zero)]
    pub n_keep: Option<Value>,
    #[schema(schema_with = neutral::zero)]
    pub min_keep: Option<Value>,
    #[schema(schema_with = neutral::one)]
    pub typical_p: Option<Value>,
    #[schema(schema_with = neutral::one)]
    pub length_penalty: Option<Value>,
    #[schema(schema_with = neutral::no)]
    pub use_beam_search: Option<Value>,
    #[schema(schema_with = neutral::no)]
    pub early_stopping: Option<Value>,
    #[schema(schema_with = neutral::no)]
    pub include_stop_str_in_output: Option<Value>,
    #[schema(schema_with = neutral::yes)]
    pub skip_special_tokens: Option<Value>,
    #[schema(schema_with = neutral::yes)]
    pub spaces_between_special_tokens: Option<Value>,
    #[schema(schema_with = neutral::empty_array)]
    pub bad_words: Option<Value>,
    #[schema(schema_with = neutral::negative_or_zero)]
    pub top_n_sigma: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub samplers: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub truncate_prompt_tokens: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub lora: Option<Value>,
}

pub fn metadata() -> Object {
    let mut metadata = required_metadata();
    metadata.schema_type = SchemaType::from_iter([Type::Object, Type::Null]);
    metadata
}

pub fn required_metadata() -> Object {
    let value = ObjectBuilder::new().schema_type(Type::String).max_length(Some(512));
    let name = ObjectBuilder::new().schema_type(Type::String).max_length(Some(64));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(RefOr::T(Schema::Object(value.build()))))
        .property_names(Some(name))
        .max_properties(Some(16))
        .description(Some("Strings by which to find what is stored."))
        .examples([json!({"purpose": "test"})])
        .build()
}

fn logit_bias() -> Object {
    let bias = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(-100)).maximum(Some(100));
    let token = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,9}$"));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .additional_properties(Some(RefOr::T(Schema::Object(bias.build()))))
        .property_names(Some(token))
        .description(Some("Added to the logits of tokens, by token id; ids are below the size of the vocabulary."))
        .examples([json!({"5": -1.5})])
        .build()
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Truncation {
    Middle,
    Left,
}

/// Texts at which an answer ends.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Stop {
    One(#[schema(inline)] StopText),
    Several(#[schema(inline)] StopTexts),
}

#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 1024, examples("\n"))]
pub struct StopText(pub String);

#[derive(ToSchema)]
#[schema(max_items = 16, examples("END"))]
pub struct StopTexts(pub Vec<String>);

/// OpenAI's predicted outputs: tokens of this text are tried several at once.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    #[schema(rename = "type")]
    pub kind: PredictionKind,
    pub content: Content,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum PredictionKind {
    Content,
}

/// What a stream holds besides the answer. Only with `stream`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// A last chunk, without choices, holds the usage.
    pub include_usage: Option<bool>,
    #[schema(schema_with = neutral::no)]
    pub include_obfuscation: Option<Value>,
}

/// Tokens read and made.
#[derive(ToSchema)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
    pub prompt_tokens_details: PromptTokensDetails,
    pub completion_tokens_details: CompletionTokensDetails,
}

#[derive(ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens of the prompt whose keys and values were already in the cache.
    pub cached_tokens: u64,
}

#[derive(ToSchema)]
pub struct CompletionTokensDetails {
    pub reasoning_tokens: u64,
}

/// Every error: all four keys are always there.
#[derive(ToSchema)]
pub struct Error {
    pub error: ErrorObject,
}

#[derive(ToSchema)]
pub struct ErrorObject {
    /// What is wrong, and what to do.
    pub message: String,
    #[schema(rename = "type", examples("invalid_request_error"))]
    pub kind: String,
    /// Path of the field that is wrong, for instance `messages[0].content`.
    #[schema(required)]
    pub param: Option<String>,
    #[schema(required)]
    pub code: Option<String>,
}
