//! How a model writes tool calls: told from its chat template, and written down as a grammar where calls are demanded.
//! It knows nothing of the API's types.

use super::grammar::GrammarError;
use super::schema;
use super::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};
use std::fmt::Write;

/// The ways of writing a call that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>` among text: Hermes, Qwen.
    Tagged,
    /// `{"name": …, "parameters": {…}}` as the whole answer, perhaps behind `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` behind text: Mistral.
    MistralArray,
    /// `[TOOL_CALLS]name[ARGS]{…}` behind text: Mistral since 2025.
    MistralNamed,
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub name: String,
    /// JSON schema of its arguments; `None` for one that takes none.
    pub parameters: Option<Json>,
    /// Every call's arguments satisfy the schema.
    pub strict: bool,
}

/// What an answer may be besides calls.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolOutput {
    /// Nothing: at least one call comes.
    Calls,
    /// Any text, also before the first call.
    Text,
    /// JSON that satisfies a schema, in place of calls.
    Json(Json),
}

impl ToolFormat {
    /// The format that a chat template asks for; `None` where it knows none of these.
    pub(crate) fn of_template(source: &str) -> Option<ToolFormat> {
        let has = |text: &str| source.contains(text);
        // Templates that put XML or Python between the same tags are not read.
        match () {
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Some(ToolFormat::MistralNamed),
            () if has("[TOOL_CALLS]") => Some(ToolFormat::MistralArray),
            () if has("<tool_call>") && !has("<function=") && !has("<arg_key>") => Some(ToolFormat::Tagged),
            () if has("\"parameters\": ") && has("<|start_header_id|>") => Some(ToolFormat::Llama),
            () => None,
        }
    }

    /// The text at which calls are looked for.
    pub(crate) fn marker(self) -> &'static str {
        match self {
            ToolFormat::Tagged => "<tool_call>",
            ToolFormat::Llama => "<|python_tag|>",
            ToolFormat::MistralArray | ToolFormat::MistralNamed => "[TOOL_CALLS]",
        }
    }

    /// The texts that matter to the format, even where they are control tokens, which answers hide otherwise.
    pub(crate) fn marks(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Tagged => &["<tool_call>", "</tool_call>"],
            ToolFormat::Llama => &["<|python_tag|>"],
            ToolFormat::MistralArray => &["[TOOL_CALLS]"],
            ToolFormat::MistralNamed => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
        }
    }

    /// Whether ids of calls must be 9 letters and digits, as Mistral's templates insist.
    pub fn short_ids(self) -> bool {
        matches!(self, ToolFormat::MistralArray | ToolFormat::MistralNamed)
    }

    /// A Lark grammar of answers that call `functions` or are what `output` says. At most one call unless `parallel`.
    ///
    /// # Errors
    /// A schema that is refused.
    pub(crate) fn grammar(
        self,
        functions: &[Function],
        output: &ToolOutput,
        parallel: bool,
        tokenizer: &Tokenizer,
    ) -> Result<String, GrammarError> {
        let marker = mark(self.marker(), tokenizer);
        let call = match self {
            ToolFormat::Tagged => format!("\"\\n\" any \"\\n\" {}", mark("</tool_call>", tokenizer)),
            ToolFormat::MistralArray if parallel => "\"[\" any (\", \" any)* \"]\"".to_owned(),
            ToolFormat::MistralArray => "\"[\" any \"]\"".to_owned(),
            ToolFormat::Llama | ToolFormat::MistralNamed => "any".to_owned(),
        };
        let more = match self {
            ToolFormat::Tagged if parallel => format!("(\"\\n\" {marker} call)*"),
            ToolFormat::MistralNamed if parallel => format!("({marker} call)*"),
            _ => String::new(),
        };
        let calls = if self == ToolFormat::Llama { "call".to_owned() } else { format!("{marker} call {more}") };
        let start = match (output, self) {
            (ToolOutput::Calls, _) => calls,
            (ToolOutput::Json(_), _) if !self.is_told_from_json(tokenizer) => {
                let why = "this model writes calls as JSON too, so they cannot be told from JSON that is demanded";
                return Err(GrammarError(why.to_owned()));
            }
            (ToolOutput::Json(schema), _) => {
                let schema = schema::prepare(schema)?;
                format!("{calls} | json\njson: %json {schema}")
            }
            // Text that does not begin as a call does.
            (ToolOutput::Text, ToolFormat::Llama) => "call | PLAIN\nPLAIN: /[^{\\s](.|\\n)*/".to_owned(),
            (ToolOutput::Text, _) if tokenizer.control_id(self.marker()).is_some() => {
                format!("TEXT? ({calls})?\nTEXT: /(.|\\n)+/")
            }
            // The text before a call ends with the marker; text alone does not hold it.
            (ToolOutput::Text, _) => {
                let marker = self.marker();
                format!(
                    "begun call {more} | PLAIN?\nbegun[suffix=\"{marker}\"]: /(.|\\n)*/\n\
                     PLAIN: /(.|\\n)+/ & ~/(.|\\n)*{}(.|\\n)*/",
                    super::gbnf::escape_regex(marker)
                )
            }
        };
        let names: Vec<String> = (0..functions.len()).map(|index| format!("f{index}")).collect();
        let mut grammar = format!("start: {start}\ncall: {call}\nany: {}\n", names.join(" | "));
        for (name, function) in names.iter().zip(functions) {
            let (head, tail) = self.around_arguments(&function.name, tokenizer);
            let schema = arguments_schema(function.parameters.as_ref())?;
            let _ = writeln!(grammar, "{name}: {head} {name}_arguments {tail}\n{name}_arguments: %json {schema}");
        }
        Ok(grammar)
    }

    /// Whether the first byte tells a call from a JSON text.
    fn is_told_from_json(self, tokenizer: &Tokenizer) -> bool {
        self == ToolFormat::Tagged || (self.short_ids() && tokenizer.control_id(self.marker()).is_some())
    }

    /// What stands before and after the arguments of a call of `name`, as Lark.
    fn around_arguments(self, name: &str, tokenizer: &Tokenizer) -> (String, &'static str) {
        let object = |key: &str| json!(format!("{{\"name\": {}, \"{key}\": ", json!(name))).to_string();
        match self {
            ToolFormat::Tagged | ToolFormat::MistralArray => (object("arguments"), "\"}\""),
            ToolFormat::Llama => (object("parameters"), "\"}\""),
            ToolFormat::MistralNamed => (format!("{} {}", json!(name), mark("[ARGS]", tokenizer)), ""),
        }
    }
}

/// A text in a Lark grammar: a control token by its id, since the text of those is never matched.
pub(crate) fn mark(text: &str, tokenizer: &Tokenizer) -> String {
    match tokenizer.control_id(text) {
        Some(id) => format!("<[{id}]>"),
        None => json!(text).to_string(),
    }
}

/// The schema of a function's arguments, which are always an object.
fn arguments_schema(parameters: Option<&Json>) -> Result<Json, GrammarError> {
    let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let mut schema = parameters.cloned().unwrap_or(none);
    if let Some(map) = schema.as_object_mut() {
        map.entry("type").or_insert_with(|| json!("object"));
    }
    schema::prepare(&schema)
}

/// What a model is told of tools whose own template does not.
pub(crate) fn instruction(tools: &[Json]) -> String {
    let mut text = String::from("You can call functions. They are described here, one JSON object a line:\n<tools>\n");
    for tool in tools {
        let _ = writeln!(text, "{tool}");
    }
    text.push_str(
        "</tools>\nTo call one, write a JSON object with its name and arguments between tags, and nothing after it:\n\
         <tool_call>\n{\"name\": \"NAME\", \"arguments\": {\"ARGUMENT\": \"VALUE\"}}\n</tool_call>\n\
         The results come back between <tool_response> and </tool_response>.",
    );
    text
}

/// The messages of a chat for a template that knows no tools: the instruction in the system message, calls and results as
/// text.
pub(crate) fn as_plain_chat(messages: &[Json], tools: &[Json]) -> Vec<Json> {
    let mut plain: Vec<Json> = Vec::with_capacity(messages.len() + 1);
    let text = |message: &Json| message["content"].as_str().unwrap_or_default().to_owned();
    for message in messages {
        match message["role"].as_str() {
            Some("tool") => {
                let result = format!("<tool_response>\n{}\n</tool_response>", text(message));
                match plain.last_mut().filter(|last| last["role"] == "user" && last["results"] == true) {
                    Some(last) => last["content"] = json!(format!("{}\n{result}", text(last))),
                    None => plain.push(json!({"role": "user", "content": result, "results": true})),
                }
            }
            Some("assistant") if message["tool_calls"].is_array() => {
                let mut content = text(message);
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let function = &call["function"];
                    let name = &function["name"];
                    let arguments = function["arguments"].as_str().unwrap_or("{}");
                    let line = if content.is_empty() { "" } else { "\n" };
                    let call =
                        format!("{line}<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>");
                    content.push_str(&call);
                }
                plain.push(json!({"role": "assistant", "content": content}));
            }
            _ => plain.push(message.clone()),
        }
    }
    for message in &mut plain {
        if let Some(message) = message.as_object_mut() {
            message.remove("results");
        }
    }
    if !tools.is_empty() {
        let instruction = instruction(tools);
        match plain.first_mut().filter(|first| matches!(first["role"].as_str(), Some("system" | "developer"))) {
            Some(system) => system["content"] = json!(format!("{}\n\n{instruction}", text(system))),
            None => plain.insert(0, json!({"role": "system", "content": instruction})),
        }
    }
    plain
}
