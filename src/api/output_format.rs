//! What the text of an answer must be: `response_format`, and the fields of llama.cpp and vLLM that say the same.

use super::{
    error::ApiError,
    fields::{Fields, Unknown, wrong_type},
};
use crate::text::Grammar;
use serde_json::{Value, json};

/// A demand on an answer's text.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputFormat {
    pub grammar: Grammar,
    /// Path of the field that made it, for errors.
    pub field: String,
}

impl OutputFormat {
    /// Takes every field that may demand something; `None` where none does.
    ///
    /// # Errors
    /// Malformed fields, and two demands in one request.
    pub fn take(fields: &mut Fields, unknown: &mut Unknown) -> Result<Option<OutputFormat>, ApiError> {
        let mut found: Vec<OutputFormat> = Vec::new();
        found.extend(response_format(fields, unknown)?);
        let names = ["json_schema", "guided_json"];
        for name in names {
            if let Some(schema) = schema(fields, name)? {
                found.push(OutputFormat { grammar: Grammar::Json(schema), field: name.into() });
            }
        }
        for name in ["grammar", "guided_grammar"] {
            if let Some(text) = fields.string(name)?.filter(|text| !text.is_empty()) {
                found.push(OutputFormat { grammar: Grammar::of_text(text), field: name.into() });
            }
        }
        if let Some(regex) = fields.string("guided_regex")? {
            found.push(OutputFormat { grammar: Grammar::Regex(regex), field: "guided_regex".into() });
        }
        if let Some(grammar) = choice(fields, "guided_choice")? {
            found.push(OutputFormat { grammar, field: "guided_choice".into() });
        }
        found.extend(structured_outputs(fields, unknown)?);
        match &found[..] {
            [first, second, ..] => {
                let message =
                    format!("`{}` and `{}` both say what the answer must be; give one", first.field, second.field);
                Err(ApiError::field(second.field.clone(), message))
            }
            _ => Ok(found.pop()),
        }
    }
}

fn any_object() -> Value {
    json!({"type": "object"})
}

fn response_format(fields: &mut Fields, unknown: &mut Unknown) -> Result<Option<OutputFormat>, ApiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let kind = format.choice("type", &["text", "json_object", "json_schema", "regex", "grammar", "lark"])?;
    let kind = format.require("type", kind)?;
    let demand = match kind {
        "json_object" => {
            let schema = schema(&mut format, "schema")?;
            Some((Grammar::Json(schema.unwrap_or_else(any_object)), "response_format".into()))
        }
        "json_schema" => {
            let inner = format.object("json_schema")?;
            let mut inner = format.require("json_schema", inner)?;
            let name = inner.string("name")?;
            if let Some(name) = &name {
                super::tool_fields::check_name(name, &inner.path("name"))?;
            }
            inner.string("description")?;
            // Whether or not the client insists, what is asked for is what it gets.
            inner.boolean("strict")?;
            let schema = schema(&mut inner, "schema")?;
            let schema = inner.require("schema", schema)?;
            let path = inner.path("schema");
            inner.finish(unknown)?;
            Some((Grammar::Json(schema), path))
        }
        "regex" => {
            let name = if format.has("value") { "value" } else { "pattern" };
            let regex = format.string(name)?;
            Some((Grammar::Regex(format.require(name, regex)?), format.path(name)))
        }
        "grammar" | "lark" => {
            let name = if format.has("value") { "value" } else { "grammar" };
            let text = format.string(name)?;
            let text = format.require(name, text)?;
            let grammar = if kind == "lark" { Grammar::Lark(text) } else { Grammar::of_text(text) };
            Some((grammar, format.path(name)))
        }
        _ => None,
    };
    format.finish(unknown)?;
    Ok(demand.map(|(grammar, field)| OutputFormat { grammar, field }))
}

fn structured_outputs(fields: &mut Fields, unknown: &mut Unknown) -> Result<Option<OutputFormat>, ApiError> {
    let Some(mut inner) = fields.object("structured_outputs")? else { return Ok(None) };
    let mut found = Vec::new();
    if let Some(schema) = schema(&mut inner, "json")? {
        found.push((Grammar::Json(schema), "json"));
    }
    if inner.boolean("json_object")? == Some(true) {
        found.push((Grammar::Json(any_object()), "json_object"));
    }
    if let Some(regex) = inner.string("regex")? {
        found.push((Grammar::Regex(regex), "regex"));
    }
    if let Some(grammar) = choice(&mut inner, "choice")? {
        found.push((grammar, "choice"));
    }
    if let Some(text) = inner.string("grammar")? {
        found.push((Grammar::of_text(text), "grammar"));
    }
    let path = |name: &str| format!("structured_outputs.{name}");
    inner.finish(unknown)?;
    match &found[..] {
        [] => Err(ApiError::field(
            "structured_outputs",
            "`structured_outputs` demands nothing; give one of `json`, `json_object`, `regex`, `choice` and `grammar`",
        )),
        [(grammar, name)] => Ok(Some(OutputFormat { grammar: grammar.clone(), field: path(name) })),
        [_, (_, name), ..] => {
            Err(ApiError::field(path(name), "`structured_outputs` may hold one demand only".to_owned()))
        }
    }
}

/// A JSON schema: an object, or the text of one.
fn schema(fields: &mut Fields, name: &str) -> Result<Option<Value>, ApiError> {
    let path = fields.path(name);
    match fields.value(name) {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(Value::Object(map))),
        Some(Value::String(text)) => match super::json::parse(text.as_bytes()) {
            Ok(Value::Object(map)) => Ok(Some(Value::Object(map))),
            Ok(_) | Err(_) => {
                Err(ApiError::field(path.clone(), format!("`{path}` is a string, but not the text of a JSON object")))
            }
        },
        Some(other) => Err(wrong_type(&path, "a JSON schema", &other)),
    }
}

fn choice(fields: &mut Fields, name: &str) -> Result<Option<Grammar>, ApiError> {
    let Some(items) = fields.array(name)? else { return Ok(None) };
    let text = |(index, item): (usize, Value)| match item {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(&format!("{}[{index}]", fields.path(name)), "a string", &other)),
    };
    let texts: Vec<String> = items.into_iter().enumerate().map(text).collect::<Result<_, ApiError>>()?;
    Ok(Some(Grammar::Choice(texts)))
}
