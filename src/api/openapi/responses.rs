//! Schemas of what `/v1/responses` takes.

use super::{
    chat::{Effort, FunctionKind},
    neutral,
    output::{JsonObjectKind, JsonSchema, JsonSchemaKind, TextFormat},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Fields of `GenerationFields` that mean the same here. They are merged into the schema.
pub const SHARED: &[&str] = &[
    "model",
    "stream",
    "temperature",
    "top_p",
    "user",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "repeat_penalty",
    "ignore_eos",
    "stop_token_ids",
    "logit_bias",
    "stop",
    "cache_prompt",
    "metadata",
];

/// Input items, and how to answer them.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponsesRequest {
    pub input: ResponseInput,
    /// How the model is to behave.
    #[schema(examples("Be brief."))]
    pub instructions: Option<String>,
    /// Go on from this stored response.
    #[schema(examples("resp_1"))]
    pub previous_response_id: Option<String>,
    /// Keep the response; it is kept unless this is false.
    pub store: Option<bool>,
    /// Most tokens of the answer, reasoning counted.
    #[schema(minimum = 1, maximum = 4294967295_i64)]
    pub max_output_tokens: Option<i64>,
    /// What else the answer holds.
    pub include: Option<Vec<Include>>,
    /// Alternatives to each token in the log-probabilities.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    pub text: Option<TextOptions>,
    pub reasoning: Option<ResponseReasoning>,
    #[schema(max_items = 128)]
    pub tools: Option<Vec<ResponseTool>>,
    pub tool_choice: Option<ResponseToolChoice>,
    /// Whether an answer may hold several calls.
    pub parallel_tool_calls: Option<bool>,
    /// More variables for the model's chat template.
    #[schema(value_type = Option<Object>, examples(json!({"enable_thinking": false})))]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    pub stream_options: Option<ResponseStreamOptions>,
    /// Whether a prompt that is too long for the context is cut in its middle; `disabled`: it is refused.
    pub truncation: Option<ResponseTruncation>,
    #[schema(schema_with = neutral::no)]
    pub background: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub conversation: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub prompt: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub context_management: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub moderation: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub max_tool_calls: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ResponseTruncation {
    Auto,
    Disabled,
}

#[derive(ToSchema)]
pub enum Include {
    #[schema(rename = "message.output_text.logprobs")]
    Logprobs,
    /// There is none: reasoning is given in plain text.
    #[schema(rename = "reasoning.encrypted_content")]
    EncryptedReasoning,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseStreamOptions {
    #[schema(schema_with = neutral::no)]
    pub include_obfuscation: Option<Value>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextOptions {
    pub format: Option<ResponseTextFormat>,
    #[schema(schema_with = neutral::medium)]
    pub verbosity: Option<Value>,
}

/// The form of the answer's text.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ResponseTextFormat {
    Text(TextFormat),
    Object(ResponseObjectFormat),
    Schema(ResponseSchemaFormat),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseObjectFormat {
    #[schema(rename = "type")]
    pub kind: JsonObjectKind,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseSchemaFormat {
    #[schema(rename = "type")]
    pub kind: JsonSchemaKind,
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", examples("city"))]
    pub name: Option<String>,
    #[schema(examples("A city's name."))]
    pub description: Option<String>,
    pub schema: JsonSchema,
    /// Whatever it says: the schema is held.
    pub strict: Option<bool>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseReasoning {
    pub effort: Option<Effort>,
    #[schema(schema_with = neutral::automatic)]
    pub summary: Option<Value>,
    #[schema(schema_with = neutral::automatic)]
    pub generate_summary: Option<Value>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseTool {
    #[schema(rename = "type")]
    pub kind: FunctionKind,
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
pub enum ResponseToolChoice {
    Mode(super::chat::ToolChoiceMode),
    Function(ResponseNamedTool),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseNamedTool {
    #[schema(rename = "type")]
    pub kind: FunctionKind,
    #[schema(examples("get_time"))]
    pub name: String,
}

/// A text of the user's, or items.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ResponseInput {
    Text(#[schema(inline)] InputPlain),
    Items(#[schema(inline)] InputItems),
}

#[derive(ToSchema)]
#[schema(examples("What is the capital of Norway?"))]
pub struct InputPlain(pub String);

#[derive(ToSchema)]
#[schema(min_items = 1)]
pub struct InputItems(pub Vec<InputItem>);

#[derive(ToSchema)]
#[serde(untagged)]
pub enum InputItem {
    Message(InputMessage),
    Answer(InputAnswer),
    Call(InputCall),
    Output(InputCallOutput),
    Reasoning(InputReasoning),
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum MessageKind {
    Message,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Phase {
    Commentary,
    FinalAnswer,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum InputRole {
    User,
    System,
    Developer,
}

#[derive(ToSchema)]
pub struct InputMessage {
    #[schema(rename = "type")]
    pub kind: Option<MessageKind>,
    #[schema(examples("msg_1"))]
    pub id: Option<String>,
    pub status: Option<ItemStatus>,
    pub role: InputRole,
    pub content: InputContent,
    pub phase: Option<Phase>,
}

#[derive(ToSchema)]
pub struct InputAnswer {
    #[schema(rename = "type")]
    pub kind: Option<MessageKind>,
    #[schema(examples("msg_1"))]
    pub id: Option<String>,
    pub status: Option<ItemStatus>,
    pub role: super::chat::AssistantRole,
    pub content: AnswerContent,
    pub phase: Option<Phase>,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum InputContent {
    Text(#[schema(inline)] InputPlain),
    Parts(Vec<InputPart>),
}

#[derive(ToSchema)]
pub struct InputPart {
    #[schema(rename = "type")]
    pub kind: InputPartKind,
    #[schema(examples("Hello"))]
    pub text: String,
    /// Not read.
    pub annotations: Option<Vec<Value>>,
    /// Not read.
    pub logprobs: Option<Vec<Value>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum InputPartKind {
    InputText,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum AnswerContent {
    Text(#[schema(inline)] InputPlain),
    Parts(Vec<AnswerPart>),
}

#[derive(ToSchema)]
pub struct AnswerPart {
    #[schema(rename = "type")]
    pub kind: AnswerPartKind,
    #[schema(examples("Oslo."))]
    pub text: String,
    /// Not read.
    pub annotations: Option<Vec<Value>>,
    /// Not read.
    pub logprobs: Option<Vec<Value>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum AnswerPartKind {
    OutputText,
    InputText,
}

/// A call of a function.
#[derive(ToSchema)]
pub struct InputCall {
    #[schema(rename = "type")]
    pub kind: CallKind,
    #[schema(examples("fc_1"))]
    pub id: Option<String>,
    pub status: Option<ItemStatus>,
    #[schema(examples("call_1"))]
    pub call_id: String,
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", examples("get_time"))]
    pub name: String,
    #[schema(examples("{\"city\": \"Oslo\"}"))]
    pub arguments: String,
    #[schema(schema_with = neutral::direct_caller)]
    pub caller: Option<Value>,
    #[schema(schema_with = neutral::absent)]
    pub namespace: Option<Value>,
    #[schema(rename = "async", schema_with = neutral::no)]
    pub asynchronous: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum CallKind {
    FunctionCall,
}

/// What a called function answered.
#[derive(ToSchema)]
pub struct InputCallOutput {
    #[schema(rename = "type")]
    pub kind: CallOutputKind,
    #[schema(examples("fco_1"))]
    pub id: Option<String>,
    pub status: Option<ItemStatus>,
    #[schema(examples("call_1"))]
    pub call_id: String,
    pub output: InputContent,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum CallOutputKind {
    FunctionCallOutput,
}

/// What the model thought: `content`, or a summary in its place.
#[derive(ToSchema)]
pub struct InputReasoning {
    #[schema(rename = "type")]
    pub kind: ReasoningKind,
    #[schema(examples("rs_1"))]
    pub id: Option<String>,
    pub status: Option<ItemStatus>,
    pub summary: SummaryContent,
    pub content: Option<ReasoningContent>,
    /// Not read.
    #[schema(examples("text"))]
    pub encrypted_content: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ReasoningKind {
    Reasoning,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum SummaryContent {
    Text(#[schema(inline)] InputPlain),
    Parts(Vec<SummaryPart>),
}

#[derive(ToSchema)]
pub struct SummaryPart {
    #[schema(rename = "type")]
    pub kind: SummaryPartKind,
    #[schema(examples("It thought of Norway."))]
    pub text: String,
    /// Not read.
    pub annotations: Option<Vec<Value>>,
    /// Not read.
    pub logprobs: Option<Vec<Value>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum SummaryPartKind {
    SummaryText,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum ReasoningContent {
    Text(#[schema(inline)] InputPlain),
    Parts(Vec<ReasoningPart>),
}

#[derive(ToSchema)]
pub struct ReasoningPart {
    #[schema(rename = "type")]
    pub kind: ReasoningPartKind,
    #[schema(examples("Norway's capital is Oslo."))]
    pub text: String,
    /// Not read.
    pub annotations: Option<Vec<Value>>,
    /// Not read.
    pub logprobs: Option<Vec<Value>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ReasoningPartKind {
    ReasoningText,
}
