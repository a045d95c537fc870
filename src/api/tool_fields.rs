//! The functions that a model may call, and whether it must: `tools`, `tool_choice`, `parallel_tool_calls`.

use super::{
    error::ApiError,
    fields::{Fields, Unknown, shown, wrong_type},
};
use crate::text::Function;
use serde_json::Value;

const MAX_TOOLS: usize = 128;
const MAX_TOOL_NAME: usize = 64;

/// Whether functions are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// No function may be called; the model is not told of any.
    Never,
    /// The model chooses.
    #[default]
    Auto,
    /// The answer is a call of some function.
    Required,
    /// The answer is a call of this function, an index into [`Tools::functions`].
    Function(usize),
}

/// The functions of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// As chat templates take them, in the client's order; empty when there are none or none may be called.
    pub described: Vec<Value>,
    /// The same functions, as grammars take them.
    pub functions: Vec<Function>,
    pub choice: ToolChoice,
    /// An answer may hold several calls.
    pub parallel: bool,
}

impl Default for Tools {
    fn default() -> Self {
        Tools { described: Vec::new(), functions: Vec::new(), choice: ToolChoice::Auto, parallel: true }
    }
}

impl Tools {
    /// Whether calls are looked for in the answers.
    pub fn may_be_called(&self) -> bool {
        !self.functions.is_empty() && self.choice != ToolChoice::Never
    }

    /// Takes the fields.
    ///
    /// # Errors
    /// Malformed tools, and a choice of a function that is not among them.
    pub fn take(fields: &mut Fields, unknown: &mut Unknown) -> Result<Tools, ApiError> {
        let items = fields.array("tools")?.unwrap_or_default();
        if items.len() > MAX_TOOLS {
            return Err(ApiError::field("tools", format!("`tools` may hold {MAX_TOOLS} tools, not {}", items.len())));
        }
        let mut tools = Tools::default();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("tools[{index}]");
            let (described, function) = tool(item, &path, unknown)?;
            if tools.functions.iter().any(|other| other.name == function.name) {
                let message = format!("`{path}.function.name` is the name of an earlier tool");
                return Err(ApiError::field(format!("{path}.function.name"), message));
            }
            tools.described.push(described);
            tools.functions.push(function);
        }
        tools.choice = tool_choice(fields, &tools.functions, unknown)?;
        tools.parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        if tools.choice == ToolChoice::Never {
            tools.described.clear();
        }
        Ok(tools)
    }
}

/// A tool as the template takes it, its keys in the client's order, and as a grammar does.
fn tool(item: Value, path: &str, unknown: &mut Unknown) -> Result<(Value, Function), ApiError> {
    let mut rendered = item.clone();
    let mut fields = Fields::of(item, path)?;
    let kind = fields.string("type")?;
    let kind = fields.require("type", kind)?;
    if kind != "function" {
        let path = fields.path("type");
        let message = format!("`{path}` {:?} is not supported; only \"function\" is", shown(&kind));
        return Err(ApiError::unsupported(path, message));
    }
    let function = fields.object("function")?;
    let mut function = fields.require("function", function)?;
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    check_name(&name, &function.path("name"))?;
    function.string("description")?;
    let parameters = function.map("parameters")?.map(Value::Object);
    let strict = function.boolean("strict")?.unwrap_or(false);
    function.finish(unknown)?;
    fields.finish(unknown)?;
    if let Some(function) = rendered["function"].as_object_mut() {
        // It is an instruction to the server; a null is the same as absent, which templates cannot know.
        function.shift_remove("strict");
        function.retain(|_, value| !value.is_null());
    }
    Ok((rendered, Function { name, parameters, strict }))
}

/// Names of functions: letters, digits, `_` and `-`, at most 64.
pub fn check_name(name: &str, path: &str) -> Result<(), ApiError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > MAX_TOOL_NAME || !name.bytes().all(allowed) {
        let message =
            format!("`{path}` must be 1 to {MAX_TOOL_NAME} letters, digits, `_` or `-`, not {:?}", shown(name));
        return Err(ApiError::field(path, message));
    }
    Ok(())
}

fn tool_choice(fields: &mut Fields, functions: &[Function], unknown: &mut Unknown) -> Result<ToolChoice, ApiError> {
    let choice = match fields.value("tool_choice") {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(text)) => text,
        Some(named @ Value::Object(_)) => return named_choice(named, functions, unknown),
        Some(other) => return Err(wrong_type("tool_choice", "a string or an object", &other)),
    };
    match choice.as_str() {
        "none" => Ok(ToolChoice::Never),
        "auto" => Ok(ToolChoice::Auto),
        "required" if functions.is_empty() => {
            Err(ApiError::field("tool_choice", "`tool_choice` is \"required\", but there are no `tools`"))
        }
        "required" => Ok(ToolChoice::Required),
        other => {
            let message = format!(
                "`tool_choice` must be \"auto\", \"none\", \"required\" or an object that names a function, not {:?}",
                shown(other)
            );
            Err(ApiError::field("tool_choice", message))
        }
    }
}

/// `{"type": "function", "function": {"name": …}}`
fn named_choice(choice: Value, functions: &[Function], unknown: &mut Unknown) -> Result<ToolChoice, ApiError> {
    let mut fields = Fields::of(choice, "tool_choice")?;
    let kind = fields.choice("type", &["function"])?;
    fields.require("type", kind)?;
    let function = fields.object("function")?;
    let mut function = fields.require("function", function)?;
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    function.finish(unknown)?;
    fields.finish(unknown)?;
    functions.iter().position(|function| function.name == name).map(ToolChoice::Function).ok_or_else(|| {
        let message = format!("`tool_choice.function.name` is {:?}, which is not among the `tools`", shown(&name));
        ApiError::field("tool_choice.function.name", message)
    })
}
