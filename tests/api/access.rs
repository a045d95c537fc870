//! Who may ask, whom an answer is for, and how the server is reached: keys, proxies, browsers, a path prefix, TLS.

use crate::harness::{Answer, CHAT, COMPLETIONS, PATIENCE, engine, get, say, send, speak, state, text};
use axum::{
    body::Body,
    http::{Method, Request as HttpRequest},
};
use hesper::{
    api::{Settings, State, keys::Keys, serve, tls},
    engine::request::Request,
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::json;
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// A request with further headers.
async fn with(state: &State, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = HttpRequest::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = json!({"prompt": "One"}).to_string();
    send(state, request.body(Body::from(body)).unwrap()).await
}

/// A server whose engine tells of each request for whom it is and how long it may take.
fn telling(settings: Settings) -> (State, mpsc::Receiver<(String, Option<Duration>)>) {
    let (teller, told) = mpsc::channel();
    let tokens = text().encode("ok", true);
    let script = move |request: Request| {
        let rest = request.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        teller.send((request.client.to_string(), rest)).unwrap();
        speak(&request, &tokens, 0);
    };
    (state(settings, engine(8, script)), told)
}

#[tokio::test]
async fn a_key_names_the_client_and_can_be_replaced() {
    let (state, told) = telling(Settings { api_keys: vec!["plain".into()], ..Settings::default() });
    state.set_keys(Keys::parse("ann:alpha\nbob:beta").unwrap());
    for (header, value, name) in
        [("authorization", "Bearer alpha", "ann"), ("x-api-key", "beta", "bob"), ("x-api-key", " alpha", "ann")]
    {
        assert_eq!(with(&state, Method::POST, COMPLETIONS, &[(header, value)]).await.status, 200);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().0, name);
    }
    for headers in [
        &[("authorization", "Bearer plain")][..],
        &[("x-api-key", "alph")],
        &[],
        // The first that clients agree on is the one that counts.
        &[("authorization", "Bearer wrong"), ("x-api-key", "alpha")],
    ] {
        assert_eq!(with(&state, Method::POST, COMPLETIONS, headers).await.status, 401, "{headers:?}");
    }
    state.set_keys(Keys::parse("carl:gamma").unwrap());
    assert_eq!(with(&state, Method::POST, COMPLETIONS, &[("x-api-key", "alpha")]).await.status, 401);
    assert_eq!(with(&state, Method::POST, COMPLETIONS, &[("x-api-key", "gamma")]).await.status, 200);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().0, "carl");
}

#[tokio::test]
async fn without_keys_a_trusted_proxy_names_the_client() {
    let forwarded = [("x-forwarded-for", "6.6.6.6, 1.2.3.4")];
    for (trusted_proxies, client) in [(0, ""), (1, "1.2.3.4"), (2, "6.6.6.6")] {
        let (state, told) = telling(Settings { trusted_proxies, ..Settings::default() });
        assert_eq!(with(&state, Method::POST, COMPLETIONS, &forwarded).await.status, 200);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().0, client);
    }
}

#[tokio::test]
async fn the_servers_and_the_clients_time_limits_become_a_deadline() {
    let (state, told) = telling(Settings { request_limit: Some(Duration::from_secs(100)), ..Settings::default() });
    for (headers, range) in [
        (&[][..], 90.0..100.0),
        (&[("x-request-timeout", "20.5")][..], 15.0..20.5),
        (&[("x-request-timeout", "1e9")][..], 90.0..100.0),
    ] {
        assert_eq!(with(&state, Method::POST, COMPLETIONS, headers).await.status, 200);
        let rest = told.recv_timeout(PATIENCE).unwrap().1.expect("a deadline").as_secs_f64();
        assert!(range.contains(&rest), "{rest}");
    }
    let wrong = with(&state, Method::POST, COMPLETIONS, &[("x-request-timeout", "soon")]).await;
    assert_eq!((wrong.status.as_u16(), wrong.error_param().as_deref()), (400, Some("x-request-timeout")));
    assert!(wrong.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn only_listed_origins_may_read_answers() {
    let preflight = |origin: &'static str| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-stainless-os"),
        ]
    };
    // None are allowed unless asked for, and the request is answered as it is without a browser.
    let closed = state(Settings::default(), engine(4, say("ok")));
    let answer = with(&closed, Method::POST, COMPLETIONS, &[("origin", "https://a.example")]).await;
    assert_eq!((answer.status.as_u16(), answer.headers.get("access-control-allow-origin")), (200, None));
    assert_eq!(with(&closed, Method::OPTIONS, CHAT, &preflight("https://a.example")).await.status, 405);

    let settings = Settings {
        cors_origins: vec!["https://a.example".into()],
        api_keys: vec!["key".into()],
        ..Settings::default()
    };
    let open = state(settings, engine(4, say("ok")));
    // A browser sends no key before it knows that it may.
    let answer = with(&open, Method::OPTIONS, CHAT, &preflight("https://a.example")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://a.example");
    assert_eq!(answer.headers["access-control-allow-headers"], "authorization,x-stainless-os");
    let refused = with(&open, Method::OPTIONS, CHAT, &preflight("https://b.example")).await;
    assert_eq!(refused.headers.get("access-control-allow-origin"), None);
    for (origin, key, code) in [("https://a.example", "key", 200), ("https://a.example", "no", 401)] {
        let answer = with(&open, Method::POST, COMPLETIONS, &[("origin", origin), ("x-api-key", key)]).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["access-control-allow-origin"]),
            (code, &origin.parse().unwrap())
        );
        assert!(answer.headers["access-control-expose-headers"].to_str().unwrap().contains("x-request-id"));
    }
}

#[tokio::test]
async fn a_path_prefix_stands_before_everything() {
    let settings = Settings { path_prefix: "/hesper/a".into(), api_keys: vec!["key".into()], ..Settings::default() };
    let state = state(settings, engine(4, say("ok")));
    let key = [("x-api-key", "key")];
    assert_eq!(with(&state, Method::POST, "/hesper/a/v1/completions", &key).await.status, 200);
    for path in ["/hesper/a/health", "/hesper/a/metrics", "/hesper/a/version"] {
        assert_eq!(get(&state, path).await.status, 200, "{path}");
    }
    assert_eq!(get(&state, "/hesper/a/v1/models").await.status, 401);
    for path in ["/v1/models", "/health", "/hesper/v1/models", "/hesper/a/nothing"] {
        let answer = with(&state, Method::GET, path, &key).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].as_str()),
            (404, Some("unknown_url")),
            "{path}"
        );
    }
    assert_eq!(with(&state, Method::POST, "/hesper/a/health", &key).await.status, 405);
}

/// A certificate for `localhost`, and what trusts it.
fn certificate() -> (Arc<rustls::ServerConfig>, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config = tls::config(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (config, TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth())))
}

#[tokio::test]
async fn over_tls_everything_is_as_it_is_without() {
    let (config, connector) = certificate();
    let settings = Settings { read_limit: Duration::from_millis(300), ..Settings::default() };
    let (state, told) = telling(settings);
    state.set_tls(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(serve(listener, state.clone(), async { drop(stopped.await) }));
    let name = || ServerName::try_from("localhost").unwrap();
    let connect = async |connector: &TlsConnector| connector.connect(name(), TcpStream::connect(address).await?).await;

    // Streamed whole, over one connection, and it is the client's address that counts.
    let mut stream = connect(&connector).await.expect("a handshake");
    let body = r#"{"prompt": "a", "stream": true}"#;
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length:";
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().expect("it is closed as TLS closes");
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("[DONE]"), "{answer}");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().0, "127.0.0.1");

    // Plain HTTP, silence and slow headers are cut.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = connect(&connector).await.unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost:").await.unwrap();
    for bytes in [rest(&mut plain).await, rest(&mut silent).await, rest(&mut slow).await] {
        assert!(!String::from_utf8_lossy(&bytes).contains("200 OK"));
    }

    // A new certificate counts from the next connection on.
    let (other, trusting) = certificate();
    state.set_tls(other);
    assert!(connect(&connector).await.is_err(), "the old one is no longer shown");
    connect(&trusting).await.expect("the new one is");
    drop(stop);
    assert_eq!(timeout(PATIENCE, served).await.unwrap().unwrap(), 0);
}

async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that is reset has nothing more to say either.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it is cut");
    bytes
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_lines() {
    let settings = Settings { header_limit_bytes: 8192, header_lines: 20, ..Settings::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(serve(listener, state(settings, engine(4, say("ok"))), async { drop(stopped.await) }));
    let ask = async |headers: String| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may be cut while it is still sent.
        let _ = stream
            .write_all(format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").as_bytes())
            .await;
        String::from_utf8(rest(&mut stream).await).unwrap()
    };
    assert!(ask("x-a: 1\r\n".repeat(10)).await.starts_with("HTTP/1.1 200"));
    assert!(ask("x-a: 1\r\n".repeat(30)).await.starts_with("HTTP/1.1 431"));
    assert!(ask(format!("x-a: {}\r\n", "a".repeat(4000))).await.starts_with("HTTP/1.1 200"));
    assert!(ask(format!("x-a: {}\r\n", "a".repeat(20_000))).await.starts_with("HTTP/1.1 431"));
    drop(stop);
    timeout(PATIENCE, served).await.unwrap().unwrap();
}
