//! Schemas of fields that other servers have and this one only knows: the value that changes nothing, or null.

use serde_json::{Value, json};
use utoipa::openapi::{
    Object, Type,
    schema::{ObjectBuilder, SchemaType},
};

/// One of `values` or null.
fn only(values: &[Value]) -> Object {
    let shown: Vec<String> = values.iter().map(Value::to_string).collect();
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .enum_values(Some(values.iter().cloned().chain([Value::Null])))
        .description(Some(format!(
            "Known, not implemented: only {} is accepted, which changes nothing.",
            shown.join(", ")
        )))
        .build()
}

pub fn absent() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Null))
        .description(Some("Known, not implemented: leave it out."))
        .build()
}

pub fn zero() -> Object {
    only(&[json!(0)])
}

pub fn one() -> Object {
    only(&[json!(1)])
}

pub fn negative_or_zero() -> Object {
    only(&[json!(-1), json!(0)])
}

pub fn no() -> Object {
    only(&[json!(false)])
}

pub fn yes() -> Object {
    only(&[json!(true)])
}

pub fn empty_array() -> Object {
    only(&[json!([])])
}

pub fn empty_text() -> Object {
    only(&[json!("")])
}

pub fn text_only() -> Object {
    only(&[json!(["text"])])
}

pub fn medium() -> Object {
    only(&[json!("medium")])
}

pub fn automatic_or_none() -> Object {
    only(&[json!("none"), json!("auto")])
}

/// True, and not null.
pub fn only_true() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Boolean)).enum_values(Some([json!(true)])).build()
}

pub fn standard() -> Object {
    only(&[json!("standard")])
}

pub fn summarized() -> Object {
    only(&[json!("summarized")])
}

pub fn direct_caller() -> Object {
    only(&[json!({"type": "direct"})])
}

pub fn direct() -> Object {
    only(&[json!(["direct"])])
}

pub fn automatic() -> Object {
    only(&[json!("auto")])
}
