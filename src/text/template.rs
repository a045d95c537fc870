//! Chat templates: the model's own Jinja template turns messages into a prompt, with the filters, functions and
//! whitespace rules that Hugging Face's `transformers` gives it. Rendering is bounded in steps, depth and output; a
//! string that a template builds for itself is not, so a template is trusted as far as the file it came with. Messages
//! are data, never template.

use super::json::tojson;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Instructions of a template's run; a chat of a thousand messages takes about a hundred thousand.
const FUEL: u64 = 10_000_000;
const RECURSION_MAX: usize = 200;
const PROMPT_BYTES_MAX: usize = 64 << 20;

/// Why a chat did not become a prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error(
        "the model file has no chat template (metadata key tokenizer.chat_template); \
         send a finished prompt to /v1/completions instead, or use a chat model's file"
    )]
    Missing,
    #[error("the model's chat template cannot be read: {0}")]
    Syntax(String),
    /// The template refused the chat with `raise_exception`: the client's mistake.
    #[error("the model's chat template refuses this chat: {0}")]
    Refused(String),
    #[error("the model's chat template failed on this chat: {0}")]
    Failed(String),
}

/// What a template is given.
#[derive(Clone, Copy, Debug)]
pub struct Chat<'a> {
    /// Messages as the OpenAI API has them: `role`, `content` (string, null or text parts), `tool_calls`,
    /// `tool_call_id`. They reach the template with text parts joined, and arguments of calls as objects.
    pub messages: &'a [Json],
    /// Tools as the OpenAI API has them; empty for none.
    pub tools: &'a [Json],
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables for the template, such as `enable_thinking`.
    pub variables: Option<&'a Map<String, Json>>,
    /// What `strftime_now` calls now, in UTC.
    pub now: SystemTime,
}

impl<'a> Chat<'a> {
    /// A chat without tools that asks for an answer now.
    pub fn new(messages: &'a [Json]) -> Chat<'a> {
        Chat { messages, tools: &[], add_generation_prompt: true, variables: None, now: SystemTime::now() }
    }
}

const CHAT: &str = "chat_template";
const TOOL_USE: &str = "chat_template.tool_use";

/// The chat templates of a model file.
#[derive(Debug)]
pub struct ChatTemplate {
    /// As the file has it.
    source: String,
    environment: Environment<'static>,
    has_tool_use: bool,
    knows_developer: bool,
    bos_token: String,
    eos_token: String,
}

/// Carries the text of `raise_exception` through the template engine's own error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// `tool_use` is the template to use instead where tools are given. The tokens are the texts of the beginning and
    /// end tokens, empty where the model has none.
    pub fn new(
        source: &str,
        tool_use: Option<&str>,
        bos_token: &str,
        eos_token: &str,
    ) -> Result<ChatTemplate, TemplateError> {
        let mut environment = environment()?;
        for (name, source) in [(CHAT, Some(source)), (TOOL_USE, tool_use)] {
            if let Some(source) = source {
                let source = without_generation_marks(source);
                environment
                    .add_template_owned(name, source)
                    .map_err(|error| TemplateError::Syntax(describe(&error)))?;
            }
        }
        Ok(ChatTemplate {
            source: source.to_owned(),
            environment,
            has_tool_use: tool_use.is_some(),
            knows_developer: source.contains("developer"),
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The template's text, as the file has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a chat.
    pub fn render(&self, chat: &Chat) -> Result<String, TemplateError> {
        let name = if self.has_tool_use && !chat.tools.is_empty() { TOOL_USE } else { CHAT };
        let template = self.environment.get_template(name).map_err(|error| failure(&error))?;
        let messages: Vec<Json> = chat.messages.iter().map(|message| self.prepare(message)).collect();
        let now_s = chat.now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, value) in chat.variables.into_iter().flatten() {
            variables.insert(name, Value::from(Serde(value)));
        }
        let tools = if chat.tools.is_empty() { Value::from(()) } else { Value::from(Serde(chat.tools)) };
        variables.extend([
            ("messages", Value::from(Serde(&messages))),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(chat.add_generation_prompt)),
            ("bos_token", Value::from(self.bos_token.as_str())),
            ("eos_token", Value::from(self.eos_token.as_str())),
            ("strftime_now", Value::from_function(move |state: &State, format: &str| date(state, now_s, format))),
        ]);
        let mut prompt = Bounded(Vec::new());
        template.render_captured_to(Value::from_pairs(variables), &mut prompt).map_err(|error| failure(&error))?;
        String::from_utf8(prompt.0).map_err(|error| TemplateError::Failed(error.to_string()))
    }

    /// Messages in the shape that templates are written for.
    fn prepare(&self, message: &Json) -> Json {
        let mut message = message.clone();
        if message.get("role") == Some(&json!("developer")) && !self.knows_developer {
            message["role"] = json!("system");
        }
        if let Some(text) = message.get("content").and_then(joined_text) {
            message["content"] = Json::String(text);
        }
        for call in message.get_mut("tool_calls").and_then(Json::as_array_mut).into_iter().flatten() {
            if let Some(arguments) = call.pointer_mut("/function/arguments") {
                let parsed = arguments.as_str().and_then(|text| serde_json::from_str::<Map<String, Json>>(text).ok());
                if let Some(object) = parsed {
                    *arguments = Json::Object(object);
                }
            }
        }
        message
    }
}

/// The text of content parts, a line each, if all of them are text.
fn joined_text(content: &Json) -> Option<String> {
    let text = |part: &'_ Json| match (part.get("type").and_then(Json::as_str), part.get("text")) {
        (Some("text"), Some(Json::String(text))) => Some(text.clone()),
        _ => None,
    };
    Some(content.as_array()?.iter().map(text).collect::<Option<Vec<String>>>()?.join("\n"))
}

fn environment() -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| TemplateError::Syntax(describe(&error)))?;
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    // Strings and dictionaries are sequences to Python's Jinja: they have a length and can be indexed.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
    });
    Ok(environment)
}

fn date(state: &State, now_s: f64, format: &str) -> Result<String, Error> {
    let arguments = Kwargs::from_iter([("format", Value::from(format))]);
    minijinja_contrib::filters::datetimeformat(state, Value::from(now_s), arguments)
}

/// Collects what a template writes, up to a limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > PROMPT_BYTES_MAX {
            return Err(io::Error::other(format!("the prompt exceeds {PROMPT_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(error: &Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref::<Raised>() {
            return TemplateError::Refused(message.clone());
        }
        cause = inner.source();
    }
    TemplateError::Failed(describe(error))
}

/// The error and its causes in one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Templates may mark the assistant's words for training with `{% generation %}`, a tag of `transformers` alone. It
/// writes nothing, so a condition that always holds takes its place and keeps its whitespace control.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let name = tag.trim_start_matches(['-', '+']).trim_start();
        let end = |word: &str| {
            name.strip_prefix(word).filter(|rest| rest.trim_start().trim_start_matches(['-', '+']).starts_with("%}"))
        };
        let replaced = [("generation", "if true"), ("endgeneration", "endif")]
            .into_iter()
            .find_map(|(word, instead)| end(word).map(|after| (instead, after)));
        rest = match replaced {
            Some((instead, after)) => {
                out.push_str(&tag[..tag.len() - name.len()]);
                out.push_str(instead);
                after
            }
            None => tag,
        };
    }
    out + rest
}
