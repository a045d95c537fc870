//! Query strings, read as strictly as bodies, and the lists that they ask for.

use super::{error::ApiError, fields::Fields};
use crate::store::{Page, Query, Record};
use serde_json::{Map, Number, Value, json};

/// Pairs of a query string, as axum reads them.
pub type Pairs = axum::extract::Query<Vec<(String, String)>>;

/// Entries of a list where the client names no number, and the most that it may ask for.
const LIMIT: usize = 20;
const LIMIT_MAX: i64 = 100;

/// The pairs as the fields of an object: `limit` is a number, and `metadata[k]=v` an entry of the object `metadata`.
pub fn fields(pairs: Pairs) -> Result<Fields, ApiError> {
    let mut map = Map::new();
    let mut metadata = Map::new();
    for (name, value) in pairs.0 {
        let twice = |name: &str| ApiError::field(name, format!("`{name}` is given twice; give each field once"));
        let key = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']'));
        let (target, key) = match key {
            Some(key) => (&mut metadata, key.to_owned()),
            None => (&mut map, name.clone()),
        };
        let number = (name == "limit").then(|| value.parse::<i64>().ok()).flatten();
        let value = number.map_or(Value::String(value), |number| Value::Number(Number::from(number)));
        if target.insert(key, value).is_some() {
            return Err(twice(&name));
        }
    }
    if !metadata.is_empty() {
        map.insert("metadata".into(), Value::Object(metadata));
    }
    Fields::of(Value::Object(map), "")
}

/// `after`, `limit` and `order`, as OpenAI's lists take them.
pub fn page(fields: &mut Fields, descending: bool) -> Result<Query, ApiError> {
    let order = fields.choice("order", &["asc", "desc"])?;
    Ok(Query {
        after: fields.string("after")?,
        limit: fields.integer("limit", 1..=LIMIT_MAX)?.map_or(LIMIT, |limit| limit as usize),
        descending: order.map_or(descending, |order| order == "desc"),
        ..Query::default()
    })
}

/// The part of `items` that is asked for; items have an `id`.
pub fn part(items: Vec<Value>, query: &Query) -> Result<Value, ApiError> {
    let mut items = items;
    if query.descending {
        items.reverse();
    }
    if let Some(after) = &query.after {
        let at = items.iter().position(|item| item["id"] == **after).ok_or_else(no_such_after)?;
        items.drain(..=at);
    }
    let has_more = items.len() > query.limit;
    items.truncate(query.limit);
    Ok(list(items, has_more))
}

/// A page of the store's as a list; `show` makes an entry of a record.
pub fn records(page: Option<Page>, show: impl Fn(Record) -> Value) -> Result<Value, ApiError> {
    let page = page.ok_or_else(no_such_after)?;
    Ok(list(page.records.into_iter().map(show).collect(), page.has_more))
}

fn no_such_after() -> ApiError {
    ApiError::field("after", "`after` is not the id of an entry of this list").code("not_found")
}

fn list(data: Vec<Value>, has_more: bool) -> Value {
    let id = |item: Option<&Value>| item.map(|item| item["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})
}
