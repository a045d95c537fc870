//! Values made from JSON schemas, for tests: some that fit and some that do not. It knows the part of JSON Schema that
//! the document uses.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// An OpenAPI document.
pub struct Document(pub Value);

/// An object, and which of its properties was chosen.
pub type Chosen = (String, Value);

/// The names of the types that a schema allows; empty: any.
fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn is_required(schema: &Value, name: &str) -> bool {
    items(&schema["required"]).iter().any(|required| required == name)
}

/// `number` as an integer if the schema is one.
fn number(schema: &Value, number: f64) -> Value {
    if types(schema).contains(&"integer") { json!(number as i128 as i64) } else { json!(number) }
}

/// Gives copies of a tool names of their own, since two of the same are refused.
fn distinct(mut value: Value, index: usize) -> Value {
    for pointer in ["/function/name", "/name"] {
        if let Some(name) = value.pointer_mut(pointer) {
            *name = json!(format!("name_{index}"));
        }
    }
    value
}

impl Document {
    pub fn named(&self, name: &str) -> &Value {
        &self.0["components"]["schemas"][name]
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.resolve(self.0.pointer(&reference[1..]).expect("what is referred to exists")),
            None => schema,
        }
    }

    /// The alternatives of a schema; itself if it has none.
    fn alternatives<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolve(schema);
        match items(&schema["oneOf"]) {
            [] => vec![schema],
            items => items.iter().flat_map(|item| self.alternatives(item)).collect(),
        }
    }

    /// Paths of all properties, as `messages[].content`.
    pub fn paths(&self, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        for schema in self.alternatives(schema) {
            if schema["items"].is_object() {
                self.paths(&schema["items"], &format!("{path}[]"), found);
            }
            for (name, property) in properties(schema) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                self.paths(property, &path, found);
                found.insert(path);
            }
        }
    }

    pub fn fits(&self, schema: &Value, value: &Value) -> bool {
        self.alternatives(schema).into_iter().any(|schema| self.fits_one(schema, value))
    }

    fn fits_one(&self, schema: &Value, value: &Value) -> bool {
        let equal = |other: &Value| other == value || other.is_number() && other.as_f64() == value.as_f64();
        if schema["enum"].is_array() {
            return items(&schema["enum"]).iter().any(equal);
        }
        let types = types(schema);
        let allows = |name: &str| types.is_empty() || types.contains(&name);
        let limit = |name: &str| schema[name].as_f64();
        match value {
            Value::Null => allows("null"),
            Value::Bool(_) => allows("boolean"),
            Value::Number(_) => {
                let number = value.as_f64().unwrap_or(f64::NAN);
                (allows("number") || allows("integer") && number.fract() == 0.0)
                    && limit("minimum").is_none_or(|low| number >= low)
                    && limit("maximum").is_none_or(|high| number <= high)
                    && limit("exclusiveMinimum").is_none_or(|low| number > low)
            }
            Value::String(text) => {
                let length = text.chars().count() as f64;
                allows("string")
                    && limit("minLength").is_none_or(|low| length >= low)
                    && limit("maxLength").is_none_or(|high| length <= high)
                    // A sample that is to break a pattern has this character.
                    && (schema["pattern"].is_null() || !text.contains('\u{1}'))
            }
            Value::Array(values) => {
                let length = values.len() as f64;
                allows("array")
                    && limit("minItems").is_none_or(|low| length >= low)
                    && limit("maxItems").is_none_or(|high| length <= high)
                    && (schema["items"].is_null() || values.iter().all(|value| self.fits(&schema["items"], value)))
            }
            Value::Object(map) => allows("object") && self.fits_object(schema, map),
        }
    }

    fn fits_object(&self, schema: &Value, map: &Map<String, Value>) -> bool {
        let known = |name: &str, value: &Value| match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => false,
            (Value::Null, other @ Value::Object(_)) => self.fits(other, value),
            (Value::Null, _) => true,
            (property, _) => self.fits(property, value),
        };
        items(&schema["required"]).iter().all(|name| map.contains_key(name.as_str().unwrap_or("")))
            && map.iter().all(|(name, value)| known(name, value))
    }

    /// Values that fit: examples, edges, alternatives. The first is the plainest.
    pub fn good(&self, schema: &Value) -> Vec<Value> {
        self.alternatives(schema).into_iter().flat_map(|schema| self.good_one(schema)).collect()
    }

    fn good_one(&self, schema: &Value) -> Vec<Value> {
        if schema["enum"].is_array() {
            return items(&schema["enum"]).to_vec();
        }
        let mut values = items(&schema["examples"]).to_vec();
        for name in types(schema) {
            match name {
                "null" => values.push(Value::Null),
                "boolean" => values.extend([json!(true), json!(false)]),
                "integer" | "number" => {
                    let low = schema["exclusiveMinimum"].as_f64().map(|low| json!(low + 0.001));
                    values.extend(low);
                    values
                        .extend([&schema["minimum"], &schema["maximum"]].into_iter().filter(|v| !v.is_null()).cloned());
                    if values.is_empty() {
                        values.push(json!(1));
                    }
                }
                "string" => {
                    let length = |limit: &str| schema[limit].as_u64().map(|length| json!("x".repeat(length as usize)));
                    values.extend(length("minLength").into_iter().chain(length("maxLength")));
                    assert!(!values.is_empty(), "a string needs an example: {schema}");
                }
                "array" => self.good_arrays(schema, &mut values),
                "object" => values.extend(self.good_objects(schema).into_iter().map(|(_, object)| object)),
                other => panic!("no samples of type {other}"),
            }
        }
        values
    }

    fn good_arrays(&self, schema: &Value, values: &mut Vec<Value>) {
        let example = values.first().and_then(|first| first.get(0)).cloned();
        if example.is_none() {
            values.extend(self.good(&schema["items"]).into_iter().map(|item| json!([item])));
        }
        let Some(item) = example.or_else(|| values.first().and_then(|first| first.get(0)).cloned()) else {
            // Items of any kind.
            return values.push(json!([]));
        };
        for length in [&schema["minItems"], &schema["maxItems"]].into_iter().filter_map(Value::as_u64) {
            values.push((0..length as usize).map(|index| distinct(item.clone(), index)).collect());
        }
    }

    /// The least object that fits, and one for each further value of each property.
    pub fn good_objects(&self, schema: &Value) -> Vec<Chosen> {
        if schema["properties"].is_null() {
            return if items(&schema["examples"]).is_empty() { vec![(String::new(), json!({}))] } else { Vec::new() };
        }
        let least = self.least(schema);
        let mut objects = vec![(String::new(), Value::Object(least.clone()))];
        for (name, property) in properties(schema) {
            for value in self.good(property) {
                objects.push((name.clone(), with(&least, name, value)));
            }
        }
        objects
    }

    fn least(&self, schema: &Value) -> Map<String, Value> {
        let plainest = |(name, property): (&String, &Value)| {
            let value = self.good(property).into_iter().next().expect("a value");
            is_required(schema, name).then(|| (name.clone(), value))
        };
        properties(schema).filter_map(plainest).collect()
    }

    /// Values that do not fit, each wrong in one place.
    fn bad(&self, schema: &Value) -> Vec<Value> {
        let mut values = vec![json!(true), json!(0.5), json!("\u{1}nonsense"), json!([true]), json!({"nonsense": 1})];
        for one in self.alternatives(schema) {
            for (edge, step) in [("minimum", -1.0), ("maximum", 1.0), ("exclusiveMinimum", 0.0)] {
                values.extend(one[edge].as_f64().map(|edge| beyond(one, edge, step)));
            }
            if let Some(length) = one["maxLength"].as_u64() {
                values.push(json!("x".repeat(length as usize + 1)));
            }
            if one["minLength"].as_u64().is_some_and(|length| length > 0) {
                values.push(json!(""));
            }
            if one["items"].is_object() {
                values.push(json!([]));
                values.extend(self.bad(&one["items"]).into_iter().map(|item| json!([item])));
                let longest = self
                    .good(one)
                    .into_iter()
                    .find(|value| one["maxItems"].as_u64() == Some(items(value).len() as u64));
                values.extend(longest.map(|value| {
                    let more = items(&value).len();
                    items(&value).iter().cloned().chain([distinct(value[0].clone(), more)]).collect()
                }));
            }
            values.extend(self.bad_objects(one).into_iter().map(|(_, object)| object));
        }
        values.extend(self.strangers(schema));
        values.retain(|value| !self.fits(schema, value));
        values
    }

    /// Objects of each alternative with a property that only another has.
    fn strangers(&self, schema: &Value) -> Vec<Value> {
        let objects = || self.alternatives(schema).into_iter().filter(|one| one["properties"].is_object());
        let mut values = Vec::new();
        for one in objects() {
            let least = self.least(one);
            for (name, property) in objects().flat_map(properties) {
                if one["properties"][name].is_null() {
                    values.push(with(&least, name, self.good(property).swap_remove(0)));
                }
            }
        }
        values
    }

    /// Objects without a required property, with an unknown one, or with a property that does not fit.
    pub fn bad_objects(&self, schema: &Value) -> Vec<Chosen> {
        if schema["properties"].is_null() {
            return Vec::new();
        }
        let least = self.least(schema);
        let mut objects = Vec::new();
        for (name, property) in properties(schema) {
            if is_required(schema, name) {
                let mut without = least.clone();
                without.shift_remove(name);
                objects.push((name.clone(), Value::Object(without)));
            }
            objects.extend(self.bad(property).into_iter().map(|value| (name.clone(), with(&least, name, value))));
        }
        if schema["additionalProperties"] == false {
            objects.push(("nonsense".to_owned(), with(&least, "nonsense", json!(1))));
        }
        objects
    }
}

/// A number beyond an edge; 64-bit edges are passed as far as a float can tell.
fn beyond(schema: &Value, edge: f64, step: f64) -> Value {
    let passed = edge + step;
    if passed == edge && step != 0.0 { json!(edge * 2.0) } else { number(schema, passed) }
}

fn with(object: &Map<String, Value>, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    object.insert(name.to_owned(), value);
    Value::Object(object)
}
