//! Schemas of what the server says of itself, its models and what it keeps.

use super::{chat::ChatCompletion, shared};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The models that are served.
#[derive(ToSchema)]
pub struct ModelList {
    #[schema(examples("list"))]
    pub object: String,
    pub data: Vec<Model>,
}

#[derive(ToSchema)]
pub struct Model {
    /// The name that requests give in `model`.
    pub id: String,
    #[schema(examples("model"))]
    pub object: String,
    /// When it was loaded, or its file made, in seconds since 1970.
    pub created: u64,
    pub owned_by: String,
    /// Tokens that prompt and answer may have together; known once it is loaded.
    pub context_length: Option<u32>,
    /// Other names that requests may give.
    pub aliases: Vec<String>,
    pub status: ModelStatus,
}

#[derive(ToSchema)]
pub struct ModelStatus {
    #[schema(examples("loaded"))]
    pub value: String,
    pub progress: Option<Progress>,
    /// Why it could not be loaded.
    pub error: Option<String>,
}

/// How far a load has come.
#[derive(ToSchema)]
pub struct Progress {
    pub phase: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// A served model's id or alias.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelName {
    #[schema(examples("demo"))]
    pub model: String,
}

/// How the server is. Without a loaded model only a part is known.
#[derive(ToSchema)]
pub struct Health {
    /// `ok` if a request sent now would be queued; else `loading`, `restarting`, `draining` or `stopped`.
    #[schema(examples("ok"))]
    pub status: String,
    pub progress: Option<Progress>,
    pub device: Option<Device>,
    /// The model, where there is one.
    pub model: Option<HealthModel>,
    /// The models, where there are several.
    pub models: Option<Vec<ModelCondition>>,
    pub queue: Option<Queue>,
}

#[derive(ToSchema)]
pub struct ModelCondition {
    pub id: String,
    pub status: String,
}

/// What computes.
#[derive(ToSchema)]
pub struct Device {
    pub name: String,
    pub driver: String,
    /// Whether it is a CPU.
    pub software: bool,
}

#[derive(ToSchema)]
pub struct HealthModel {
    pub id: String,
    pub context_tokens: u32,
    /// Number of token ids.
    pub vocabulary: u32,
}

#[derive(ToSchema)]
pub struct Queue {
    pub waiting: u64,
    pub running: u64,
}

#[derive(ToSchema)]
pub struct Version {
    #[schema(examples("hesper"))]
    pub name: String,
    pub version: String,
}

/// What is gone.
#[derive(ToSchema)]
pub struct Deleted {
    pub id: String,
    pub object: String,
    pub deleted: bool,
}

/// Strings in place of those that a stored completion has.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetadataRequest {
    #[schema(schema_with = shared::required_metadata, required)]
    pub metadata: Map<String, Value>,
}

#[derive(ToSchema)]
pub struct ChatCompletionList {
    #[schema(examples("list"))]
    pub object: String,
    pub data: Vec<ChatCompletion>,
    #[schema(required)]
    pub first_id: Option<String>,
    #[schema(required)]
    pub last_id: Option<String>,
    pub has_more: bool,
}

#[derive(ToSchema)]
pub struct MessageList {
    #[schema(examples("list"))]
    pub object: String,
    pub data: Vec<StoredMessage>,
    #[schema(required)]
    pub first_id: Option<String>,
    #[schema(required)]
    pub last_id: Option<String>,
    pub has_more: bool,
}

#[derive(ToSchema)]
pub struct StoredMessage {
    pub id: String,
    pub role: String,
    #[schema(required)]
    pub content: Option<String>,
}

#[derive(ToSchema)]
pub struct InputItemList {
    #[schema(examples("list"))]
    pub object: String,
    pub data: Vec<InputItemOfList>,
    #[schema(required)]
    pub first_id: Option<String>,
    #[schema(required)]
    pub last_id: Option<String>,
    pub has_more: bool,
}

/// An item of `InputItem`'s kinds.
#[derive(ToSchema)]
pub struct InputItemOfList {
    pub id: String,
    #[schema(rename = "type")]
    pub kind: String,
    pub status: String,
}
