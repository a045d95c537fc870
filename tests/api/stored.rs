//! Stored chat completions.

use crate::harness::{Answer, CHAT, engine, get, post, redact, say, saying, send, state};
use axum::{body::Body, http::Request as HttpRequest};
use hesper::api::{Settings, State};
use hesper::store::{Limits, Store};
use serde_json::{Value, json};

fn chat(extra: Value) -> Value {
    let mut body = json!({"store": true, "messages": [{"role": "user", "content": "What is the capital of Norway?"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Stores a completion; answers it.
async fn stored(state: &State, extra: Value) -> Value {
    let answer = post(state, CHAT, &chat(extra)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

async fn delete(state: &State, path: &str) -> Answer {
    send(state, HttpRequest::delete(path).body(Body::empty()).unwrap()).await
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_stored_completion_is_found_changed_and_deleted() {
    let state = saying("Oslo.");
    let made = stored(&state, json!({"metadata": {"topic": "north"}, "temperature": 0, "seed": 7})).await;
    let path = format!("{CHAT}/{}", made["id"].as_str().unwrap());
    let mut found = get(&state, &path).await.json();
    insta::assert_json_snapshot!(redact(found.clone()));
    for name in ["metadata", "temperature", "seed"] {
        found.as_object_mut().unwrap().shift_remove(name);
    }
    assert_eq!(found, made, "the same answer again");

    let messages = get(&state, &format!("{path}/messages")).await.json();
    assert_eq!(messages["data"][0]["content"], "What is the capital of Norway?");
    assert_eq!(messages["data"][0]["id"], format!("{}-0", made["id"].as_str().unwrap()));
    assert_eq!(messages["has_more"], false);

    let changed = post(&state, &path, &json!({"metadata": {"topic": "south"}})).await;
    assert_eq!((changed.status.as_u16(), &changed.json()["metadata"]), (200, &json!({"topic": "south"})));
    assert_eq!(get(&state, &path).await.json()["metadata"], json!({"topic": "south"}));

    let deleted = delete(&state, &path).await;
    assert_eq!(deleted.json(), json!({"object": "chat.completion.deleted", "id": made["id"], "deleted": true}));
    for gone in [get(&state, &path).await, delete(&state, &path).await, get(&state, &format!("{path}/messages")).await]
    {
        assert_eq!(gone.status, 404);
        gone.error_param();
    }
}

#[tokio::test]
async fn streams_are_stored_too_and_others_are_not() {
    let state = saying("Oslo.");
    let answer = post(&state, CHAT, &chat(json!({"stream": true, "n": 2}))).await;
    let id = answer.chunks()[0]["id"].as_str().unwrap().to_owned();
    let found = get(&state, &format!("{CHAT}/{id}")).await.json();
    assert_eq!(found["object"], "chat.completion");
    for choice in found["choices"].as_array().unwrap() {
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("Oslo."), &json!("stop")));
    }
    assert_eq!(found["usage"]["completion_tokens"].as_u64().unwrap() % 2, 0);
    for store in [json!(false), json!(null)] {
        let made = stored(&state, json!({"store": store})).await;
        assert_eq!(get(&state, &format!("{CHAT}/{}", made["id"].as_str().unwrap())).await.status, 404);
    }
    assert_eq!(ids(&get(&state, CHAT).await.json()), [id]);
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let state = saying("Oslo.");
    let mut made = Vec::new();
    for number in 0..5 {
        let metadata = json!({"parity": (number % 2).to_string(), "all": "x y"});
        made.push(stored(&state, json!({"metadata": metadata})).await["id"].as_str().unwrap().to_owned());
    }
    let list = async |query: &str| {
        let answer = get(&state, &format!("{CHAT}?{query}")).await;
        assert_eq!(answer.status, 200, "{query} {}", answer.body);
        let list = answer.json();
        let of = |indices: &[usize]| indices.iter().map(|index| made[*index].clone()).collect::<Vec<String>>();
        let all = of(&[0, 1, 2, 3, 4]);
        let found: Vec<usize> =
            ids(&list).into_iter().map(|id| all.iter().position(|other| other == id).unwrap()).collect();
        assert_eq!(list["first_id"].as_str(), found.first().map(|index| all[*index].as_str()));
        (found, list["has_more"].as_bool().unwrap())
    };
    assert_eq!(list("").await, (vec![0, 1, 2, 3, 4], false));
    assert_eq!(list("limit=2&order=desc").await, (vec![4, 3], true));
    assert_eq!(list(&format!("after={}&limit=100", made[2])).await, (vec![3, 4], false));
    assert_eq!(list("metadata[parity]=1&metadata[all]=x%20y").await, (vec![1, 3], false));
    assert_eq!(list("metadata%5Bparity%5D=2").await, (vec![], false));
    assert_eq!(list("model=demo&limit=1").await, (vec![0], true));
    assert_eq!(list("model=other").await, (vec![], false));
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("order=up", "order"),
        ("after=chatcmpl-0", "after"),
        ("page=2", "page"),
        ("limit=1&limit=2", "limit"),
        ("metadata[a]=1&metadata[a]=2", "metadata[a]"),
    ] {
        let answer = get(&state, &format!("{CHAT}?{query}")).await;
        assert_eq!((answer.status.as_u16(), answer.error_param().as_deref()), (400, Some(param)), "{query}");
    }
}

#[tokio::test]
async fn metadata_is_bounded() {
    let state = saying("Oslo.");
    let many: serde_json::Map<String, Value> = (0..17).map(|number| (number.to_string(), json!("x"))).collect();
    for (metadata, param) in [
        (json!({"a": 1}), "metadata.a"),
        (json!({"a": "x".repeat(513)}), "metadata.a"),
        (json!(many), "metadata"),
        (json!([]), "metadata"),
    ] {
        let refused = post(&state, CHAT, &chat(json!({"metadata": metadata}))).await;
        assert_eq!((refused.status.as_u16(), refused.error_param().as_deref()), (400, Some(param)));
    }
    let made = stored(&state, json!({})).await;
    let path = format!("{CHAT}/{}", made["id"].as_str().unwrap());
    for (body, param) in
        [(json!({}), "metadata"), (json!({"metadata": {"a": 1}}), "metadata.a"), (json!({"x": 1, "metadata": {}}), "x")]
    {
        let refused = post(&state, &path, &body).await;
        assert_eq!((refused.status.as_u16(), refused.error_param().as_deref()), (400, Some(param)));
    }
}

/// One key's completions are not another's.
#[tokio::test]
async fn a_completion_is_found_with_its_own_key_alone() {
    let settings = Settings { api_keys: vec!["ann".into(), "bob".into()], ..Settings::default() };
    let state = state(settings, engine(8, say("Oslo.")));
    let as_key = async |key: &str, method: &str, path: &str, body: Value| {
        let request = HttpRequest::builder().method(method).uri(path).header("x-api-key", key);
        send(&state, request.body(Body::from(body.to_string())).unwrap()).await
    };
    let made = as_key("ann", "POST", CHAT, chat(json!({}))).await.json();
    let path = format!("{CHAT}/{}", made["id"].as_str().unwrap());
    assert_eq!(as_key("ann", "GET", &path, Value::Null).await.status, 200);
    for (method, body) in [("GET", Value::Null), ("DELETE", Value::Null), ("POST", json!({"metadata": {}}))] {
        assert_eq!(as_key("bob", method, &path, body).await.status, 404, "{method}");
    }
    assert!(ids(&as_key("bob", "GET", CHAT, Value::Null).await.json()).is_empty());
    assert_eq!(as_key("ann", "GET", CHAT, Value::Null).await.json()["first_id"], made["id"]);
}

#[tokio::test]
async fn a_store_in_a_folder_outlives_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = || {
        let state = state(Settings::default(), engine(8, say("Oslo.")));
        state.keep_in(Store::open(folder.path(), Limits::FILE).unwrap());
        state
    };
    let first = server();
    let made = stored(&first, json!({})).await;
    drop(first);
    let found = get(&server(), &format!("{CHAT}/{}", made["id"].as_str().unwrap())).await.json();
    assert_eq!(found["choices"], made["choices"]);
}
