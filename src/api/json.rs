//! Bytes to a JSON value, more strictly than `serde_json` alone: a key may appear once in an object, and a body may
//! hold a bounded number of values, so that a few megabytes of `[[],[],…` cannot become hundreds in memory.

use super::error::ApiError;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Most values (numbers, strings, arrays, …) in one body.
pub const MAX_VALUES: usize = 400_000;

/// Parses one JSON document. Errors are 400s; a duplicate key is named by its path.
pub fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| bad(format!("the body is not UTF-8: byte {} is not valid", error.valid_up_to())))?;
    if text.trim_ascii().is_empty() {
        return Err(bad("the body is empty; send a JSON object".into()));
    }
    let mut notes = Notes { values: 0, duplicate: None };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Unique(&mut notes).deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match (parsed, notes.duplicate) {
        (Ok(value), _) => Ok(value),
        (Err(_), Some(path)) => {
            Err(ApiError::field(path.clone(), format!("`{path}` is given twice; give each field once")))
        }
        (Err(error), None) => Err(bad(format!("the body is not valid JSON: {error}"))),
    }
}

fn bad(message: String) -> ApiError {
    ApiError::new(axum::http::StatusCode::BAD_REQUEST, message).code("invalid_json")
}

/// The path of field `name` of the object at `path`.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() || name.starts_with('[') { format!("{path}{name}") } else { format!("{path}.{name}") }
}

struct Notes {
    values: usize,
    /// Path of a key given twice; put together from the inside out while the error is on its way up.
    duplicate: Option<String>,
}

impl Notes {
    fn inside<T, E>(&mut self, result: Result<T, E>, segment: impl FnOnce() -> String) -> Result<T, E> {
        if result.is_err()
            && let Some(path) = self.duplicate.take()
        {
            self.duplicate = Some(join(&segment(), &path));
        }
        result
    }
}

struct Unique<'n>(&'n mut Notes);

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.values += 1;
        if self.0.values > MAX_VALUES {
            return Err(D::Error::custom(format!("it holds more than {MAX_VALUES} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            let item = items.next_element_seed(Unique(self.0));
            match self.0.inside(item, || format!("[{}]", array.len()))? {
                Some(item) => array.push(item),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                let error = A::Error::custom("duplicate key");
                self.0.duplicate = Some(key);
                return Err(error);
            }
            let value = entries.next_value_seed(Unique(self.0));
            let value = self.0.inside(value, || key.clone())?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_named_by_their_path() {
        for (body, path) in [
            (r#"{"a": 1, "a": 2}"#, "a"),
            (r#"{"messages": [{}, {"content": [{"x": 1, "x": 1}]}]}"#, "messages[1].content[0].x"),
            (r#"[{"b": {"c": 0, "c": 0}}]"#, "[0].b.c"),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().param.as_deref(), Some(path));
        }
    }

    #[test]
    fn values_are_bounded_and_documents_are_whole() {
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(parse(many.as_bytes()).unwrap_err().message.contains("more than"));
        assert!(parse("[".repeat(100_000).as_bytes()).is_err(), "deep nesting is refused, not followed");
        for bad in ["", " ", "{} {}", "{", "nul", "{\"a\": 1e999}", "\u{feff}{}"] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.code, Some("invalid_json"), "{bad:?}");
        }
        assert!(parse(b"{\"a\": \"\xff\"}").unwrap_err().message.contains("byte 7"));
        let text = r#"{"z": [1, -2, 3.5, null, true, "é\n"], "a": {"b": 18446744073709551615}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }
}
