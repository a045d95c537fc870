//! Schemas of what `/v1/responses` answers.

use super::{
    chat::{AssistantRole, ChatTokenLogprob},
    responses::{CallKind, ItemStatus, MessageKind, ReasoningKind, ReasoningPartKind},
    shared::CompletionTokensDetails,
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A response. Besides these it repeats fields of its request.
#[derive(ToSchema)]
pub struct Response {
    pub id: String,
    #[schema(examples("response"))]
    pub object: String,
    /// Seconds since 1970.
    pub created_at: u64,
    pub status: ResponseStatus,
    #[schema(required)]
    pub completed_at: Option<u64>,
    #[schema(required)]
    pub error: Option<ResponseError>,
    #[schema(required)]
    pub incomplete_details: Option<IncompleteDetails>,
    pub model: String,
    pub output: Vec<OutputItem>,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    #[schema(required)]
    pub usage: Option<ResponseUsage>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

#[derive(ToSchema)]
pub struct ResponseError {
    pub code: String,
    pub message: String,
}

#[derive(ToSchema)]
pub struct IncompleteDetails {
    #[schema(examples("max_output_tokens"))]
    pub reason: String,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum OutputItem {
    Message(OutputMessage),
    Call(OutputCall),
    Reasoning(OutputReasoning),
}

#[derive(ToSchema)]
pub struct OutputMessage {
    pub id: String,
    #[schema(rename = "type")]
    pub kind: MessageKind,
    pub status: ItemStatus,
    pub role: AssistantRole,
    pub content: Vec<OutputText>,
}

#[derive(ToSchema)]
pub struct OutputText {
    #[schema(rename = "type", examples("output_text"))]
    pub kind: String,
    pub text: String,
    pub annotations: Vec<Value>,
    pub logprobs: Vec<ChatTokenLogprob>,
}

#[derive(ToSchema)]
pub struct OutputCall {
    pub id: String,
    #[schema(rename = "type")]
    pub kind: CallKind,
    pub status: ItemStatus,
    pub call_id: String,
    pub name: String,
    pub arguments: String,
}

#[derive(ToSchema)]
pub struct OutputReasoning {
    pub id: String,
    #[schema(rename = "type")]
    pub kind: ReasoningKind,
    pub status: ItemStatus,
    pub summary: Vec<Value>,
    pub content: Vec<ReasoningText>,
}

#[derive(ToSchema)]
pub struct ReasoningText {
    #[schema(rename = "type")]
    pub kind: ReasoningPartKind,
    pub text: String,
}

#[derive(ToSchema)]
pub struct ResponseUsage {
    pub input_tokens: u64,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: u64,
    pub output_tokens_details: CompletionTokensDetails,
    pub total_tokens: u64,
}

#[derive(ToSchema)]
pub struct InputTokensDetails {
    /// Tokens of the prompt whose keys and values were already in the cache.
    pub cached_tokens: u64,
    pub cache_write_tokens: u64,
}
