//! Reads the fields of a JSON object one by one, strictly: a wrong type, a value out of range and a field that nobody
//! asked for are each a 400 that names the field's path. `null` is the same as leaving a field out.

use super::{error::ApiError, json::join};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// What to do about a field that is not known.
#[derive(Debug, Default)]
pub struct Unknown {
    /// Remember it instead of refusing it.
    pub lenient: bool,
    /// Paths of the fields that were ignored.
    pub ignored: Vec<String>,
    /// What the client is to be told of besides.
    pub warnings: Vec<String>,
}

/// Most ignored fields that are remembered.
const MAX_IGNORED: usize = 16;

/// An object of the request, of which fields are taken until none is left.
pub struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// `path` is where the object lies in the body; empty for the body itself.
    pub fn of(value: Value, path: impl Into<String>) -> Result<Fields, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Fields { path, map }),
            other if path.is_empty() => Err(ApiError::new(
                axum::http::StatusCode::BAD_REQUEST,
                format!("the body must be a JSON object, not {}", kind(&other)),
            )),
            other => Err(wrong_type(&path, "an object", &other)),
        }
    }

    /// An object of an answer that comes back. Clients write it from types of their own, all of whose fields it then has:
    /// those that are null are as good as absent, also where they are not known.
    pub fn sent_back(value: Value, path: impl Into<String>) -> Result<Fields, ApiError> {
        let mut fields = Fields::of(value, path)?;
        fields.map.retain(|_, value| !value.is_null());
        Ok(fields)
    }

    /// The path of one of this object's fields.
    pub fn path(&self, name: &str) -> String {
        join(&self.path, name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field as it is; `None` when it is absent or null.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        asked::note(&self.path(name));
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub fn require<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| {
            let path = self.path(name);
            ApiError::field(path.clone(), format!("`{path}` is required")).code("missing_required_parameter")
        })
    }

    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "a boolean", |value| value.as_bool())
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(&self.path(name), "an array", &other)),
        }
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        self.value(name).map(|value| Fields::of(value, self.path(name))).transpose()
    }

    pub fn map(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        Ok(self.object(name)?.map(|fields| fields.map))
    }

    /// An integer in `range`. `2.0` counts as one, as JSON has no integers of its own.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(number) = self.typed(name, "an integer", as_integer)? else { return Ok(None) };
        match i64::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(out_of_range(&self.path(name), number, range.start(), range.end())),
        }
    }

    /// A number in `range`.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(number) = self.typed(name, "a number", |value| value.as_f64())? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number));
        }
        Err(out_of_range(&self.path(name), number, range.start(), range.end()))
    }

    /// One of a few strings.
    pub fn choice(&mut self, name: &str, choices: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        let path = self.path(name);
        choices.iter().find(|choice| **choice == text).copied().map(Some).ok_or_else(|| {
            ApiError::field(path.clone(), format!("`{path}` must be one of {choices:?}, not {}", shown(&text)))
        })
    }

    /// A field that this server knows but does not implement: only the value that changes nothing is accepted.
    pub fn neutral(&mut self, name: &str, neutral: &[Value]) -> Result<(), ApiError> {
        let Some(value) = self.value(name) else { return Ok(()) };
        if neutral.iter().any(|neutral| equal(neutral, &value)) {
            return Ok(());
        }
        let path = self.path(name);
        let advice = match neutral {
            [] => "leave it out".to_owned(),
            values => format!("leave it out or send {}", values[0]),
        };
        Err(ApiError::unsupported(path.clone(), format!("`{path}` is not supported yet; {advice}")))
    }

    /// Every field has been taken, or the first that was not is refused.
    pub fn finish(self, unknown: &mut Unknown) -> Result<(), ApiError> {
        for name in self.map.keys() {
            let path = join(&self.path, &shown(name));
            if !unknown.lenient {
                let message = format!("unknown field `{path}`; this server refuses what it would otherwise ignore");
                return Err(ApiError::field(path, message).code("unknown_parameter"));
            }
            if unknown.ignored.len() < MAX_IGNORED {
                unknown.ignored.push(path);
            }
        }
        Ok(())
    }

    fn typed<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| wrong_type(&self.path(name), expected, &value))
    }
}

/// The integer that a number is, however it is written: JSON has no integers of its own.
pub fn as_integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    if let Some(number) = number.as_i128() {
        return Some(number);
    }
    number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e18).map(|number| number as i128)
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

pub fn wrong_type(path: &str, expected: &str, value: &Value) -> ApiError {
    ApiError::field(path, format!("`{path}` must be {expected}, not {}", kind(value))).code("invalid_type")
}

fn out_of_range(
    path: &str,
    number: impl std::fmt::Display,
    low: impl std::fmt::Display,
    high: impl std::fmt::Display,
) -> ApiError {
    ApiError::field(path, format!("`{path}` must be between {low} and {high}, not {number}")).code("out_of_range")
}

/// The name of a value's type, with its article.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A client's text as an error repeats it: at most 64 characters.
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(64) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Which fields parsers ask for, so that the OpenAPI document can be held against them.
#[cfg(test)]
pub mod asked {
    use std::{cell::RefCell, collections::BTreeSet};

    thread_local! {
        static PATHS: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn note(path: &str) {
        PATHS.with_borrow_mut(|paths| paths.insert(path.to_owned()));
    }

    /// The paths that this thread's parsers asked for since the last call.
    pub fn take() -> BTreeSet<String> {
        PATHS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn integers_may_be_written_as_floats_but_not_cut() {
        let mut fields = Fields::of(json!({"a": 2.0, "b": 2.5, "c": 1e30, "d": 18446744073709551615u64}), "").unwrap();
        assert_eq!(fields.integer("a", 0..=5).unwrap(), Some(2));
        assert_eq!(fields.integer("b", 0..=5).unwrap_err().code, Some("invalid_type"));
        assert_eq!(fields.integer("c", 0..=5).unwrap_err().code, Some("invalid_type"));
        assert_eq!(fields.integer("d", 0..=5).unwrap_err().code, Some("out_of_range"));
        assert_eq!(fields.integer("e", 0..=5).unwrap(), None);
    }

    #[test]
    fn unknown_fields_are_refused_or_remembered_by_path() {
        let fields = || Fields::of(json!({"x": 1}), "messages[0]").unwrap();
        let error = fields().finish(&mut Unknown::default()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].x"));
        let mut lenient = Unknown { lenient: true, ..Unknown::default() };
        fields().finish(&mut lenient).unwrap();
        assert_eq!(lenient.ignored, ["messages[0].x"]);
    }

    #[test]
    fn neutral_values_compare_as_numbers() {
        let mut fields = Fields::of(json!({"typical_p": 1, "mirostat": 2}), "").unwrap();
        fields.neutral("typical_p", &[json!(1.0)]).unwrap();
        assert!(fields.neutral("mirostat", &[json!(0)]).unwrap_err().message.contains("send 0"));
    }
}
