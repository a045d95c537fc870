//! Schemas of `POST /v1/messages` and `/v1/messages/count_tokens`.

use super::{chat::AssistantRole, neutral, output::JsonSchemaKind};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The prompt of a message: what counting its tokens needs.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CountTokensRequest {
    /// Id of a served model, as `/v1/models` lists it. Without it, the one that is served.
    #[schema(examples("demo"))]
    pub model: Option<String>,
    /// The turns so far; the last is the user's.
    #[schema(min_items = 1)]
    pub messages: Vec<Turn>,
    /// How the model is to behave.
    pub system: Option<Texts>,
    #[schema(max_items = 128)]
    pub tools: Option<Vec<AnthropicTool>>,
    pub tool_choice: Option<AnthropicToolChoice>,
    pub thinking: Option<Thinking>,
    pub output_config: Option<OutputConfig>,
    pub cache_control: Option<CacheControl>,
    #[schema(schema_with = neutral::absent)]
    pub container: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub context_management: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub diagnostics: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub inference_geo: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub mcp_servers: Option<Value>,
    #[schema(schema_with = neutral::standard)]
    pub speed: Option<Value>,
}

/// A prompt, and how to answer it. The fields of `CountTokensRequest` are merged into it.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessagesRequest {
    /// Most tokens of the answer, thinking counted.
    #[schema(minimum = 1, maximum = 4294967295_i64, examples(64))]
    pub max_tokens: i64,
    /// Answer with server-sent events.
    pub stream: Option<bool>,
    #[schema(minimum = 0, maximum = 2, default = 1.0)]
    pub temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1, default = 1.0)]
    pub top_p: Option<f64>,
    #[schema(minimum = -1, maximum = 2147483647, default = 0)]
    pub top_k: Option<i64>,
    /// Texts at which the answer ends; they are not part of it.
    #[schema(max_items = 16, examples("END"))]
    pub stop_sequences: Option<Vec<String>>,
    /// Accepted; it cannot change the answer.
    pub service_tier: Option<AnthropicTier>,
    pub metadata: Option<AnthropicMetadata>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum AnthropicTier {
    Auto,
    StandardOnly,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnthropicMetadata {
    #[schema(examples("someone"))]
    pub user_id: Option<String>,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum Turn {
    User(UserTurn),
    Assistant(AssistantTurn),
    System(SystemTurn),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserTurn {
    pub role: UserTurnRole,
    pub content: UserContent,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum UserTurnRole {
    User,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssistantTurn {
    pub role: AssistantRole,
    pub content: AssistantContent,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemTurn {
    pub role: SystemTurnRole,
    pub content: Texts,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum SystemTurnRole {
    System,
}

#[derive(ToSchema)]
#[schema(examples("What is the capital of Norway?"))]
pub struct PlainText(pub String);

#[derive(ToSchema)]
#[serde(untagged)]
pub enum UserContent {
    Text(#[schema(inline)] PlainText),
    Blocks(#[schema(inline)] UserBlocks),
}

#[derive(ToSchema)]
#[schema(min_items = 1)]
pub struct UserBlocks(pub Vec<UserBlock>);

#[derive(ToSchema)]
#[serde(untagged)]
pub enum UserBlock {
    Text(TextBlock),
    ToolResult(ToolResultBlock),
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum AssistantContent {
    Text(#[schema(inline)] PlainText),
    Blocks(#[schema(inline)] AssistantBlocks),
}

#[derive(ToSchema)]
#[schema(min_items = 1)]
pub struct AssistantBlocks(pub Vec<AssistantBlock>);

#[derive(ToSchema)]
#[serde(untagged)]
pub enum AssistantBlock {
    Text(TextBlock),
    Thinking(ThinkingBlock),
    ToolUse(ToolUseBlock),
}

/// A string, or text blocks that form one, a line each.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Texts {
    Text(#[schema(inline)] PlainText),
    Blocks(#[schema(inline)] TextBlocks),
}

#[derive(ToSchema)]
#[schema(min_items = 1)]
pub struct TextBlocks(pub Vec<TextBlock>);

#[derive(ToSchema)]
pub struct TextBlock {
    #[schema(rename = "type")]
    pub kind: TextBlockKind,
    #[schema(examples("Hello"))]
    pub text: String,
    pub cache_control: Option<CacheControl>,
    #[schema(schema_with = neutral::empty_array)]
    pub citations: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum TextBlockKind {
    Text,
}

/// What a tool answered.
#[derive(ToSchema)]
pub struct ToolResultBlock {
    #[schema(rename = "type")]
    pub kind: ToolResultKind,
    /// Of the `tool_use` that this answers.
    #[schema(examples("toolu_1"))]
    pub tool_use_id: String,
    pub content: Option<Texts>,
    pub is_error: Option<bool>,
    pub cache_control: Option<CacheControl>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ToolResultKind {
    ToolResult,
}

/// What the model thought.
#[derive(ToSchema)]
pub struct ThinkingBlock {
    #[schema(rename = "type")]
    pub kind: ThinkingBlockKind,
    #[schema(examples("Norway's capital is Oslo."))]
    pub thinking: String,
    /// Not read.
    #[schema(examples(""))]
    pub signature: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ThinkingBlockKind {
    Thinking,
}

/// A call of a tool.
#[derive(ToSchema)]
pub struct ToolUseBlock {
    #[schema(rename = "type")]
    pub kind: ToolUseKind,
    #[schema(examples("toolu_1"))]
    pub id: String,
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", examples("get_time"))]
    pub name: String,
    #[schema(value_type = Object, examples(json!({"city": "Oslo"})))]
    pub input: Map<String, Value>,
    pub cache_control: Option<CacheControl>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ToolUseKind {
    ToolUse,
}

/// Accepted; what is cached is the server's to decide.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheControl {
    #[schema(rename = "type")]
    pub kind: CacheControlKind,
    pub ttl: Option<CacheControlTtl>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum CacheControlKind {
    Ephemeral,
}

#[derive(ToSchema)]
pub enum CacheControlTtl {
    #[schema(rename = "5m")]
    Minutes,
    #[schema(rename = "1h")]
    Hour,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnthropicTool {
    #[schema(rename = "type")]
    pub kind: Option<CustomKind>,
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", examples("get_time"))]
    pub name: String,
    #[schema(examples("The time in a city."))]
    pub description: Option<String>,
    /// JSON schema of the input.
    #[schema(value_type = Object, examples(json!({"type": "object", "properties": {"city": {"type": "string"}}})))]
    pub input_schema: Map<String, Value>,
    /// Whether the schema is held.
    pub strict: Option<bool>,
    pub cache_control: Option<CacheControl>,
    /// Accepted; it cannot change what is sent.
    pub eager_input_streaming: Option<bool>,
    #[schema(schema_with = neutral::no)]
    pub defer_loading: Option<Value>,
    #[schema(schema_with = neutral::direct)]
    pub allowed_callers: Option<Value>,
    #[schema(schema_with = neutral::empty_array)]
    pub input_examples: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum CustomKind {
    Custom,
}

/// Whether tools are used.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum AnthropicToolChoice {
    Any(AnyToolChoice),
    Tool(NamedToolChoice),
    None(NoToolChoice),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnyToolChoice {
    #[schema(rename = "type")]
    pub kind: AnyToolKind,
    /// Use one tool at most.
    pub disable_parallel_tool_use: Option<bool>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum AnyToolKind {
    Auto,
    Any,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedToolChoice {
    #[schema(rename = "type")]
    pub kind: NamedToolKind,
    #[schema(examples("get_time"))]
    pub name: String,
    pub disable_parallel_tool_use: Option<bool>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum NamedToolKind {
    Tool,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoToolChoice {
    #[schema(rename = "type")]
    pub kind: NoToolKind,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum NoToolKind {
    None,
}

/// Whether the model thinks before it answers.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Thinking {
    Disabled(ThinkingDisabled),
    Enabled(ThinkingEnabled),
    Adaptive(ThinkingAdaptive),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ThinkingDisabled {
    #[schema(rename = "type")]
    pub kind: ThinkingDisabledKind,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ThinkingDisabledKind {
    Disabled,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ThinkingEnabled {
    #[schema(rename = "type")]
    pub kind: ThinkingEnabledKind,
    /// Most tokens of thinking.
    #[schema(minimum = 1, maximum = 4294967295_i64)]
    pub budget_tokens: i64,
    #[schema(schema_with = neutral::summarized)]
    pub display: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ThinkingEnabledKind {
    Enabled,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ThinkingAdaptive {
    #[schema(rename = "type")]
    pub kind: ThinkingAdaptiveKind,
    #[schema(schema_with = neutral::summarized)]
    pub display: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ThinkingAdaptiveKind {
    Adaptive,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    pub effort: Option<super::chat::Effort>,
    pub format: Option<OutputConfigFormat>,
}

/// JSON of a schema.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputConfigFormat {
    #[schema(rename = "type")]
    pub kind: JsonSchemaKind,
    #[schema(value_type = Object, examples(json!({"type": "object"})))]
    pub schema: Map<String, Value>,
}

/// An answer that is not streamed.
#[derive(ToSchema)]
pub struct AnthropicMessage {
    pub id: String,
    #[schema(rename = "type", examples("message"))]
    pub kind: String,
    pub role: AssistantRole,
    pub model: String,
    pub content: Vec<AssistantBlock>,
    #[schema(required)]
    pub stop_reason: Option<StopReason>,
    #[schema(required)]
    pub stop_sequence: Option<String>,
    pub usage: AnthropicUsage,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum StopReason {
    EndTurn,
    MaxTokens,
    StopSequence,
    ToolUse,
}

#[derive(ToSchema)]
pub struct AnthropicUsage {
    /// Without those that were in the cache.
    pub input_tokens: u64,
    pub cache_creation_input_tokens: u64,
    pub cache_read_input_tokens: u64,
    pub output_tokens: u64,
}

#[derive(ToSchema)]
pub struct TokenCount {
    pub input_tokens: u64,
}

/// Every error at these paths.
#[derive(ToSchema)]
pub struct AnthropicError {
    #[schema(rename = "type", examples("error"))]
    pub kind: String,
    pub error: AnthropicErrorObject,
    pub request_id: Option<String>,
}

#[derive(ToSchema)]
pub struct AnthropicErrorObject {
    #[schema(rename = "type", examples("invalid_request_error"))]
    pub kind: String,
    pub message: String,
}
