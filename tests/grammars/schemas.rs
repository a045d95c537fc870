//! JSON schemas: whatever random tokens write under one is valid by another implementation.

use crate::walk::{PIECES, TEXT, allows, rules, texts};
use hesper::text::{Grammar, Text};
use serde_json::{Value, json};
use std::fs::read_to_string;

/// A schema a line, written for every keyword that is supported.
const SCHEMAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/grammars/schemas.jsonl");

fn schemas() -> Vec<Value> {
    read_to_string(SCHEMAS).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Walks under each schema; how many came to their end.
fn all_valid(text: &Text, walks: usize) -> usize {
    let mut finished = 0;
    for schema in schemas() {
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let written = texts(text, &Grammar::Json(schema.clone()), walks, 300);
        assert!(!written.is_empty(), "no walk came to its end under {schema}");
        finished += written.len();
        for text in written {
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} by {schema}"));
            if let Err(error) = validator.validate(&value) {
                panic!("{error}: {text} by {schema}");
            }
        }
    }
    finished
}

#[test]
fn what_is_written_is_valid() {
    let count = schemas().len();
    assert!(count >= 200, "{count} schemas");
    let finished = all_valid(&TEXT, 4);
    assert!(finished >= count * 3, "{finished} of {} walks came to their end", count * 4);
}

#[test]
fn what_is_written_in_sentence_pieces_is_valid() {
    assert!(all_valid(&PIECES, 1) >= schemas().len());
}

#[test]
fn values_are_allowed_in_the_ways_in_which_models_write_them() {
    let schema = json!({"type": "object", "required": ["name", "tags"], "additionalProperties": false, "properties": {
        "name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "integer"}}, "extra": {"type": "null"}}});
    let grammar = Grammar::Json(schema);
    for text in [
        r#"{"name":"x","tags":[1,2]}"#,
        r#"{"name": "Zürich \"quoted\" \n 🦤", "tags": [1, 2], "extra": null}"#,
        "{\n  \"name\": \"x\",\n  \"tags\": [\n    1,\n    2\n  ]\n}",
        "{\r\n\t\"name\": \"\", \"tags\": []}",
    ] {
        assert!(allows(&TEXT, &grammar, text), "{text}");
    }
    for text in [
        r#"{"name":"x"}"#,
        r#"{"name":"x","tags":[1.5]}"#,
        r#"{"name":"x","tags":[],"other":1}"#,
        r#"{"name":"x","tags":[]} "#,
        r#" {"name":"x","tags":[]}"#,
        "{}",
        "",
        "{\n\n\n\"name\":\"x\",\"tags\":[]}",
    ] {
        assert!(!allows(&TEXT, &grammar, text), "{text}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for (schema, says) in [
        (json!({"type": "integer", "not": {"const": 3}}), "not"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "array", "contains": {"type": "integer"}}), "contains"),
        (json!({"if": {"type": "integer"}, "then": {"minimum": 1}}), "if"),
        (json!({"type": "object", "dependentRequired": {"a": ["b"]}}), "dependentRequired"),
        (json!({"type": "object", "propertyNames": {"maxLength": 3}}), "propertyNames"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 0}]}), "oneOf"),
        (json!({"type": "string", "format": "made-up"}), "format"),
        (json!({"type": "string", "pattern": "(?=look)ahead"}), "look"),
        (json!({"type": "string", "pattern": "(["}), "unclosed"),
        (json!({"type": "nonsense"}), "nonsense"),
        (json!({"type": "integer", "minimum": "low"}), "minimum"),
        (json!({"$ref": "#/$defs/missing"}), "missing"),
        (json!({"$ref": "https://example.com/schema.json"}), "example.com"),
        (json!({"type": "integer", "minimum": 5, "maximum": 4}), "minimum"),
        (json!({"allOf": [{"type": "string"}, {"type": "integer"}]}), "nsatisfiable"),
        (json!({"type": "object", "x-guidance": {"lenient": true}}), "x-guidance"),
        (json!(["an", "array"]), "object"),
        (json!({"enum": []}), "nsatisfiable"),
        (json!({"type": "integer", "multipleOf": 123_456_789}), "multipleOf"),
        (json!({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}), "multipleOf"),
        (json!({"type": "number", "multipleOf": 1e-9}), "multipleOf"),
        (json!({"type": "string", "pattern": "x".repeat(300_000)}), "bytes"),
    ] {
        let error = rules(&TEXT, &Grammar::Json(schema.clone())).err();
        let message = error.unwrap_or_else(|| panic!("{schema} is taken")).to_string();
        assert!(message.contains(says) && message.len() < 2500, "{schema}: {message}");
    }
}

#[test]
fn schemas_that_explode_are_refused_in_time() {
    let mut nested = json!({"type": "integer"});
    for _ in 0..120 {
        nested = json!({"type": "array", "items": nested, "minItems": 2, "maxItems": 9});
    }
    let wide: serde_json::Map<String, Value> =
        (0..3000).map(|i| (format!("p{i}"), json!({"type": "number"}))).collect();
    let both: Vec<Value> = (0..14)
        .map(|i| json!({"anyOf": [{"properties": {format!("a{i}"): {"type": "integer"}}}, {"required": [format!("b{i}")]}]}))
        .collect();
    for schema in [
        nested,
        json!({"type": "object", "properties": wide}),
        json!({"type": "object", "allOf": both}),
        json!({"type": "array", "minItems": 4_000_000_000u64}),
        json!({"type": "string", "minLength": 4_000_000_000u64}),
        json!({"type": "string", "pattern": "^(a{1,1000}){1,1000}$"}),
        json!({"type": "integer", "multipleOf": 99_997, "minimum": 1000, "maximum": 1_000_000_000}),
        json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    ] {
        let begin = std::time::Instant::now();
        let outcome = rules(&TEXT, &Grammar::Json(schema.clone())).map(drop);
        let (took, shown) = (begin.elapsed(), schema.to_string().chars().take(80).collect::<String>());
        println!("{took:?} {shown} {outcome:?}");
        assert!(took.as_secs() < 20, "{took:?} for {shown}");
    }
}
