//! Schemas of `POST /v1/chat/completions`.

use super::{neutral, shared::Usage};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A chat, and how to answer it.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatCompletionRequest {
    /// The conversation so far.
    #[schema(min_items = 1)]
    pub messages: Vec<Message>,
    /// Functions that the model may call.
    #[schema(max_items = 128)]
    pub tools: Option<Vec<Tool>>,
    /// Whether functions are called.
    pub tool_choice: Option<ToolChoice>,
    /// Whether an answer may hold several calls.
    pub parallel_tool_calls: Option<bool>,
    /// Keep the completion.
    pub store: Option<bool>,
    /// How much the model thinks before it answers.
    pub reasoning_effort: Option<Effort>,
    pub reasoning: Option<Reasoning>,
    /// Whether the model thinks before it answers.
    pub enable_thinking: Option<bool>,
    /// Most tokens of reasoning; -1: no limit.
    #[schema(minimum = -1, maximum = 4294967295_i64)]
    pub thinking_budget: Option<i64>,
    /// Another name of `thinking_budget`.
    #[schema(minimum = -1, maximum = 4294967295_i64)]
    pub thinking_budget_tokens: Option<i64>,
    /// Another name of `thinking_budget`.
    #[schema(minimum = -1, maximum = 4294967295_i64)]
    pub thinking_token_budget: Option<i64>,
    /// Whether the reasoning is part of the answer.
    pub include_reasoning: Option<bool>,
    /// `none` leaves the reasoning in the answer's text.
    pub reasoning_format: Option<ReasoningFormat>,
    /// Whether an answer holds the log-probabilities of its tokens.
    pub logprobs: Option<bool>,
    /// Alternatives to each token, with `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// More variables for the model's chat template.
    #[schema(value_type = Option<Object>, examples(json!({"enable_thinking": false})))]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    #[schema(schema_with = neutral::absent)]
    pub audio: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub web_search_options: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub functions: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub chat_template: Option<Value>,
    #[schema(schema_with = neutral::no)]
    pub echo: Option<Value>,
    #[schema(schema_with = neutral::no)]
    pub continue_final_message: Option<Value>,
    #[schema(schema_with = neutral::yes)]
    pub add_generation_prompt: Option<Value>,
    #[schema(schema_with = neutral::automatic_or_none)]
    pub function_call: Option<Value>,
    #[schema(schema_with = neutral::text_only)]
    pub modalities: Option<Value>,
    #[schema(schema_with = neutral::medium)]
    pub verbosity: Option<Value>,
}

/// A message, by its role.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Message {
    Prompt(PromptMessage),
    Assistant(AssistantMessage),
    AssistantCalls(AssistantCallsMessage),
    Tool(ToolMessage),
}

/// What a user says, or how the model is to behave.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptMessage {
    pub role: PromptRole,
    pub content: Content,
    #[schema(examples("ann"))]
    pub name: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum PromptRole {
    User,
    System,
    Developer,
}

/// What the model said.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssistantMessage {
    pub role: AssistantRole,
    pub content: Content,
    #[schema(examples("bot"))]
    pub name: Option<String>,
    /// What it thought before it said it.
    #[schema(examples("Norway's capital is Oslo."))]
    pub reasoning_content: Option<String>,
    #[schema(schema_with = neutral::empty_array)]
    pub tool_calls: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub refusal: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub audio: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub function_call: Option<Value>,
    #[schema(schema_with = neutral::empty_array)]
    pub annotations: Option<Value>,
}

/// The functions that the model called.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssistantCallsMessage {
    pub role: AssistantRole,
    #[schema(min_items = 1)]
    pub tool_calls: Vec<ToolCall>,
    pub content: Option<Content>,
    #[schema(examples("bot"))]
    pub name: Option<String>,
    #[schema(examples("The user asks for the time."))]
    pub reasoning_content: Option<String>,
    #[schema(schema_with = neutral::absent)]
    pub refusal: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub audio: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub function_call: Option<Value>,
    #[schema(schema_with = neutral::empty_array)]
    pub annotations: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum AssistantRole {
    Assistant,
}

/// What a called function answered.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolMessage {
    pub role: ToolRole,
    pub content: Content,
    /// Of the call that this answers.
    #[schema(examples("call_1"))]
    pub tool_call_id: String,
    #[schema(examples("get_time"))]
    pub name: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ToolRole {
    Tool,
}

/// A string, or text parts that form one, a line each.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Content {
    Text(#[schema(inline)] Text),
    Parts(#[schema(inline)] TextParts),
}

#[derive(ToSchema)]
#[schema(examples("What is the capital of Norway?"))]
pub struct Text(pub String);

#[derive(ToSchema)]
#[schema(min_items = 1)]
pub struct TextParts(pub Vec<TextPart>);

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextPart {
    #[schema(rename = "type")]
    pub kind: TextKind,
    #[schema(examples("Hello"))]
    pub text: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum TextKind {
    Text,
}

/// A function that the model may call.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    #[schema(rename = "type")]
    pub kind: FunctionKind,
    pub function: Function,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum FunctionKind {
    Function,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Function {
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", examples("get_time"))]
    pub name: String,
    #[schema(examples("The time in a city."))]
    pub description: Option<String>,
    /// JSON schema of the arguments.
    #[schema(value_type = Option<Object>, examples(json!({"type": "object", "properties": {"city": {"type": "string"}}})))]
    pub parameters: Option<Map<String, Value>>,
    /// Whether the schema is held.
    pub strict: Option<bool>,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    Mode(ToolChoiceMode),
    Function(NamedTool),
}

/// `required` needs tools.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ToolChoiceMode {
    Auto,
    None,
    Required,
}

/// The function that is called; one of the tools.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedTool {
    #[schema(rename = "type")]
    pub kind: FunctionKind,
    pub function: NamedFunction,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedFunction {
    #[schema(examples("get_time"))]
    pub name: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ReasoningFormat {
    Auto,
    Deepseek,
    None,
}

/// How much the model thinks, as OpenRouter's clients say it.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reasoning {
    pub effort: Option<Effort>,
    /// Most tokens of reasoning; -1: no limit.
    #[schema(minimum = -1, maximum = 4294967295_i64)]
    pub max_tokens: Option<i64>,
    /// Leave the reasoning out of the answer.
    pub exclude: Option<bool>,
    pub enabled: Option<bool>,
}

/// A call of a function.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    #[schema(examples("call_1"))]
    pub id: String,
    #[schema(rename = "type")]
    pub kind: Option<FunctionKind>,
    /// What clients send back that put the deltas of a stream together.
    #[schema(minimum = 0, maximum = 4294967295_i64)]
    pub index: Option<i64>,
    pub function: CalledFunction,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CalledFunction {
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", examples("get_time"))]
    pub name: String,
    /// JSON, as the model wrote it.
    #[schema(examples("{\"city\": \"Oslo\"}"))]
    pub arguments: String,
}

/// An answer that is not streamed.
#[derive(ToSchema)]
pub struct ChatCompletion {
    pub id: String,
    #[schema(examples("chat.completion"))]
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    #[schema(min_items = 1)]
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
    /// Names the build, model and device, which an answer depends on besides its request.
    pub system_fingerprint: String,
}

#[derive(ToSchema)]
pub struct ChatChoice {
    pub index: u32,
    pub message: AnswerMessage,
    #[schema(required)]
    pub logprobs: Option<ChatLogprobs>,
    #[schema(required)]
    pub finish_reason: Option<FinishReason>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
}

#[derive(ToSchema)]
pub struct AnswerMessage {
    pub role: AssistantRole,
    /// Null beside tool calls without text.
    #[schema(required)]
    pub content: Option<String>,
    /// What the model thought, where it shows that.
    pub reasoning_content: Option<String>,
    #[schema(required)]
    pub refusal: Option<String>,
    pub tool_calls: Option<Vec<ToolCall>>,
}

#[derive(ToSchema)]
pub struct ChatLogprobs {
    #[schema(required)]
    pub content: Option<Vec<ChatTokenLogprob>>,
    #[schema(required)]
    pub refusal: Option<Vec<ChatTokenLogprob>>,
}

#[derive(ToSchema)]
pub struct ChatTokenLogprob {
    pub token: String,
    pub logprob: f64,
    pub bytes: Vec<u8>,
    pub top_logprobs: Vec<TopLogprob>,
}

#[derive(ToSchema)]
pub struct TopLogprob {
    pub token: String,
    pub logprob: f64,
    pub bytes: Vec<u8>,
}

/// The data of one event of a streamed answer. The last event's data is `[DONE]`.
#[derive(ToSchema)]
pub struct ChatCompletionChunk {
    pub id: String,
    #[schema(examples("chat.completion.chunk"))]
    pub object: String,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
    /// Empty in the chunk that holds the usage.
    pub choices: Vec<ChunkChoice>,
    /// With `stream_options.include_usage`: null but in the last chunk.
    pub usage: Option<Usage>,
}

#[derive(ToSchema)]
pub struct ChunkChoice {
    pub index: u32,
    pub delta: Delta,
    #[schema(required)]
    pub logprobs: Option<ChatLogprobs>,
    /// Null but in an answer's last chunk.
    #[schema(required)]
    pub finish_reason: Option<FinishReason>,
}

/// What an answer grows by.
#[derive(ToSchema)]
pub struct Delta {
    pub role: Option<AssistantRole>,
    pub content: Option<String>,
    pub reasoning_content: Option<String>,
    pub refusal: Option<String>,
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

/// A part of a call: its id and name come first, then its arguments piece by piece.
#[derive(ToSchema)]
pub struct ToolCallDelta {
    /// Which call the part belongs to.
    pub index: u32,
    pub id: Option<String>,
    #[schema(rename = "type")]
    pub kind: Option<FunctionKind>,
    pub function: FunctionDelta,
}

#[derive(ToSchema)]
pub struct FunctionDelta {
    pub name: Option<String>,
    pub arguments: Option<String>,
}
