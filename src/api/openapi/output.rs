//! Schemas of what the text of an answer must be.

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Fields that demand something of an answer's text; at most one of them. They are merged into the schemas of requests.
#[derive(ToSchema)]
pub struct OutputFields {
    pub response_format: Option<ResponseFormat>,
    /// As `response_format` of type `json_schema`.
    pub json_schema: Option<JsonSchema>,
    /// As `response_format` of type `json_schema`.
    pub guided_json: Option<JsonSchema>,
    /// A grammar, in Lark's or llama.cpp's notation (GBNF).
    #[schema(examples("root ::= \"yes\" | \"no\""))]
    pub grammar: Option<String>,
    /// Another name of `grammar`.
    #[schema(examples("root ::= \"yes\" | \"no\""))]
    pub guided_grammar: Option<String>,
    /// A regular expression that the whole text matches.
    #[schema(examples("yes|no"))]
    pub guided_regex: Option<String>,
    /// Texts of which the answer is one.
    #[schema(examples("yes"))]
    pub guided_choice: Option<Vec<String>>,
    pub structured_outputs: Option<StructuredOutputs>,
}

/// The form of an answer's text.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ResponseFormat {
    Text(TextFormat),
    Object(JsonObjectFormat),
    Schema(JsonSchemaFormat),
    Regex(RegexFormat),
    Grammar(GrammarFormat),
    Value(ValueFormat),
}

/// Any text.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextFormat {
    #[schema(rename = "type")]
    pub kind: TextFormatKind,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum TextFormatKind {
    Text,
}

/// A JSON object, of the schema if there is one.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonObjectFormat {
    #[schema(rename = "type")]
    pub kind: JsonObjectKind,
    pub schema: Option<JsonSchema>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum JsonObjectKind {
    JsonObject,
}

/// JSON of a schema.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSchemaFormat {
    #[schema(rename = "type")]
    pub kind: JsonSchemaKind,
    pub json_schema: NamedSchema,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum JsonSchemaKind {
    JsonSchema,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedSchema {
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", examples("city"))]
    pub name: Option<String>,
    #[schema(examples("A city's name."))]
    pub description: Option<String>,
    pub schema: JsonSchema,
    /// Whatever it says: the schema is held.
    pub strict: Option<bool>,
}

/// A JSON schema: an object, or the text of one.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum JsonSchema {
    Object(#[schema(inline)] SchemaObject),
    Text(#[schema(inline)] SchemaText),
}

#[derive(ToSchema)]
#[schema(value_type = Object, examples(json!({"type": "object", "properties": {"city": {"type": "string"}}})))]
pub struct SchemaObject(pub Map<String, Value>);

#[derive(ToSchema)]
#[schema(examples("{\"type\": \"object\"}"))]
pub struct SchemaText(pub String);

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexFormat {
    #[schema(rename = "type")]
    pub kind: RegexKind,
    #[schema(examples("yes|no"))]
    pub pattern: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum RegexKind {
    Regex,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrammarFormat {
    #[schema(rename = "type")]
    pub kind: GrammarKind,
    #[schema(examples("start: \"yes\" | \"no\""))]
    pub grammar: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum GrammarKind {
    Grammar,
    Lark,
}

/// A regular expression or a grammar under the name that both may have.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValueFormat {
    #[schema(rename = "type")]
    pub kind: ValueKind,
    #[schema(examples("yes|no"))]
    pub value: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ValueKind {
    Regex,
    Grammar,
    Lark,
}

/// One demand, as vLLM's clients send it.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum StructuredOutputs {
    Json(StructuredJson),
    JsonObject(StructuredJsonObject),
    Regex(StructuredRegex),
    Choice(StructuredChoice),
    Grammar(StructuredGrammar),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredJson {
    pub json: JsonSchema,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredJsonObject {
    #[schema(schema_with = super::neutral::only_true)]
    pub json_object: bool,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredRegex {
    #[schema(examples("yes|no"))]
    pub regex: String,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredChoice {
    #[schema(examples("yes"))]
    pub choice: Vec<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredGrammar {
    #[schema(examples("root ::= \"yes\" | \"no\""))]
    pub grammar: String,
}
