//! `/openapi.json` against the router, and the pages for people.

use crate::harness::{engine, get, say, send, state};
use axum::{
    body::Body,
    http::{Method, Request},
};
use hesper::api::{Settings, State};
use serde_json::Value;
use std::collections::BTreeSet;

fn with(settings: Settings) -> State {
    state(settings, engine(1, say("ok")))
}

/// `GET /path` for every operation of the document.
async fn documented(state: &State) -> BTreeSet<String> {
    let answer = get(state, "/openapi.json").await;
    assert_eq!((answer.status.as_u16(), answer.headers["content-type"].to_str().unwrap()), (200, "application/json"));
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    assert_eq!(operations.map(|operation| operation["tags"][0].as_str().unwrap()).collect::<BTreeSet<_>>(), tags);
    let paths = document["paths"].as_object().expect("paths");
    let methods = |(path, item): (&String, &Value)| {
        let names: Vec<String> = item.as_object().unwrap().keys().cloned().collect();
        names.into_iter().map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(methods).collect()
}

/// The same, from the source of the router: every `.route("/path", get(…).post(…))`.
fn routed() -> BTreeSet<String> {
    let source = include_str!("../../src/api/mod.rs");
    let mut found = BTreeSet::new();
    for route in source.split(".route(\"").skip(1) {
        let (path, rest) = route.split_once('"').expect("a path ends");
        let handlers = rest.split(".route(").next().unwrap().lines().next().unwrap();
        for method in ["get", "post", "delete", "put", "patch"] {
            let called = |before: char| handlers.contains(&format!("{before}{method}("));
            if called(' ') || called('.') {
                found.insert(format!("{} {}", method.to_uppercase(), path.replace("{*", "{")));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_route_is_documented() {
    let state = with(Settings::default());
    let mut routed = routed();
    assert!(routed.len() > 20, "{routed:?}");
    routed.insert("GET /openapi.json".to_owned());
    assert_eq!(documented(&state).await, routed);
}

#[tokio::test]
async fn every_documented_operation_is_there() {
    let state = with(Settings::default());
    for operation in documented(&state).await {
        let (method, path) = operation.split_once(' ').unwrap();
        let request =
            Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path.replace(['{', '}'], ""));
        let answer = send(&state, request.body(Body::empty()).unwrap()).await;
        assert!(answer.status != 405 && !answer.body.contains("unknown_url"), "{operation}: {}", answer.body);
    }
}

/// All that `page` names of this server's.
fn named(page: &str) -> Vec<String> {
    let quoted = |name: &str| {
        page.split(&format!("{name}=\""))
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    [quoted("src"), quoted("href")].concat().into_iter().filter(|name| !name.starts_with('#')).collect()
}

#[tokio::test]
async fn pages_need_no_key_and_name_only_what_is_served() {
    let keyed = Settings { api_keys: vec!["secret".into()], ..Settings::default() };
    let state = with(keyed);
    assert_eq!(get(&state, "/v1/models").await.status, 401);
    for page in ["/", "/docs"] {
        let answer = get(&state, page).await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers["content-type"].to_str().unwrap()),
            (200, "text/html; charset=utf-8")
        );
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!answer.body.contains("style=") && !answer.body.contains("onclick"), "the policy forbids it");
        let names = named(&answer.body);
        assert!(names.len() > 5, "{names:?}");
        for name in names {
            assert!(!name.contains("//"), "{page} names another host: {name}");
            let answer = get(&state, &format!("/{}", name.trim_start_matches("./"))).await;
            assert_eq!(answer.status, 200, "{page} names {name}");
        }
    }
    let answer = get(&state, "/page/chat.js").await;
    let request = Request::get("/page/chat.js").header("if-none-match", answer.headers["etag"].clone());
    let again = send(&state, request.body(Body::empty()).unwrap()).await;
    assert_eq!((again.status.as_u16(), again.body.as_str()), (304, ""));
}

#[tokio::test]
async fn pages_may_be_left_out() {
    let state = with(Settings { page: false, ..Settings::default() });
    for page in ["/", "/docs", "/page/chat.js"] {
        let answer = get(&state, page).await;
        assert_eq!((answer.status.as_u16(), answer.error_param()), (404, None), "{page}");
    }
    assert_eq!(get(&state, "/openapi.json").await.status, 200);
}

#[tokio::test]
async fn pages_stand_below_the_prefix_too() {
    let state = with(Settings { path_prefix: "/llm".into(), ..Settings::default() });
    let answer = get(&state, "/llm").await;
    assert_eq!((answer.status.as_u16(), answer.headers["location"].to_str().unwrap()), (308, "/llm/"));
    for page in ["/llm/", "/llm/docs", "/llm/page/chat.js", "/llm/openapi.json"] {
        assert_eq!(get(&state, page).await.status, 200, "{page}");
    }
    assert_eq!(get(&state, "/").await.status, 404);
}
