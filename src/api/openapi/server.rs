//! Schemas of what the server says of itself.

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
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    pub owned_by: String,
    /// Tokens that prompt and answer may have together.
    pub context_length: u32,
}

/// How the server is. With status 503 only `status` may be known.
#[derive(ToSchema)]
pub struct Health {
    /// `ok` if a request sent now would be queued; else `loading`, `restarting`, `draining` or `stopped`.
    #[schema(examples("ok"))]
    pub status: String,
    pub device: Option<Device>,
    pub model: Option<HealthModel>,
    pub queue: Option<Queue>,
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
