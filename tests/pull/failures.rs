//! Servers that fail: what is passing is got over, what is not is said, and nothing wrong is ever called a model.

use super::server::{Content, Reply, Request, Server};
use super::{Models, assert_content, assert_holds, fail, succeed};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BYTES: u64 = 40 << 20;

fn content() -> Content {
    static CONTENT: OnceLock<Content> = OnceLock::new();
    CONTENT.get_or_init(|| Content::new(BYTES, 1)).clone()
}

/// A server of the content whose replies `change` makes worse.
fn server(change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let content = content();
    Server::start(move |request| change(request, Reply::file(request, &content).with("etag", "\"one\"")))
}

/// Whether a request is for more than the first byte, by which a download begins.
fn is_piece(request: &Request) -> bool {
    request.range().is_some_and(|(_, last)| last > 0)
}

#[test]
fn passing_faults_are_got_over() {
    type Fault = fn(&Request, Reply) -> Reply;
    // Each third request fails, so none fails more often than it is tried again.
    let faults: [(&str, Fault); 7] = [
        ("truncated", |_, reply| Reply { cut: Some(3_000_000), ..reply }),
        ("cut at once", |_, reply| Reply { cut: Some(0), ..reply }),
        ("silent", |_, reply| Reply { stall: Some(1_000_000), ..reply }),
        ("500", |_, _| Reply::text(500, "")),
        ("502", |_, _| Reply::text(502, "")),
        ("503", |_, _| Reply::text(503, "").with("retry-after", "0")),
        ("429", |_, _| Reply::text(429, "").with("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")),
    ];
    for (name, fault) in faults {
        let models = Models::new();
        let server = server(move |request, reply| if request.number % 3 == 1 { fault(request, reply) } else { reply });
        let mut command = models.pull(&server.url("/m.gguf"));
        command.env("HESPER_STALL_SECONDS", "1");
        let (_, notes) = succeed(command);
        assert_holds(&notes, &["try 1 of 3"]);
        models.assert_pulled("m", &content());
        println!("{name}: whole after {} requests", server.count());
    }
}

#[test]
fn lasting_faults_are_said_and_what_has_come_is_kept() {
    type Fault = fn(&Request, Reply) -> Reply;
    let faults: [(Fault, &[&str]); 5] = [
        (|_, reply| Reply { cut: Some(1000), ..reply }, &["the connection broke"]),
        (|_, reply| Reply { stall: Some(1000), ..reply }, &["no byte came for 1 s"]),
        (|_, _| Reply::text(500, ""), &["the server answers 500"]),
        (|_, _| Reply::text(503, "").with("retry-after", "86400"), &["answers 503", "asks to wait 86400 s"]),
        (|_, _| Reply::text(403, ""), &["answers 403", "HESPER_TOKEN"]),
    ];
    for (fault, parts) in faults {
        let models = Models::new();
        let failing = server(move |request, reply| {
            let second_half = request.range().is_some_and(|(first, _)| first >= BYTES / 2);
            if second_half { fault(request, reply) } else { reply }
        });
        let mut command = models.pull(&failing.url("/m.gguf"));
        command.env("HESPER_STALL_SECONDS", "1");
        assert_holds(&fail(command), parts);
        assert_eq!(models.files(), ["m.gguf.journal", "m.gguf.partial"], "{parts:?}");
    }
}

#[test]
fn retry_after_is_honoured() {
    let models = Models::new();
    let server = server(|request, reply| match request.number {
        2 => Reply::text(429, "").with("retry-after", "2"),
        _ => reply,
    });
    let start = Instant::now();
    succeed(models.pull(&server.url("/m.gguf")));
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn broken_promises_end_the_download() {
    type Fault = fn(&Request, Reply) -> Reply;
    let faults: [(Fault, &[&str]); 6] = [
        (|_, reply| Reply { excess: true, ..reply }.with("content-length", "99999999"), &["more bytes than it said"]),
        (|_, reply| reply.with("content-range", "bytes 1-2/41943040"), &["the server answers with others"]),
        (|_, reply| reply.with("content-range", "nonsense"), &["the server answers with others"]),
        (|_, reply| reply.with("content-encoding", "gzip"), &["encoded as \"gzip\""]),
        (|_, reply| reply.with("content-range", "bytes 0-9/41943041"), &["changed"]),
        (|_, reply| reply.with("etag", "\"another\""), &["changed"]),
    ];
    for (fault, parts) in faults {
        let models = Models::new();
        let server = server(move |request, reply| if is_piece(request) { fault(request, reply) } else { reply });
        assert_holds(&fail(models.pull(&server.url("/m.gguf"))), parts);
        assert!(!models.path("m.gguf").exists());
    }
}

#[test]
fn what_is_no_model_is_refused() {
    let page = Server::start(|_| Reply::text(200, "<html>Please log in</html>"));
    let ranges = Content::new(BYTES, 3);
    let empty = Server::start(|_| Reply::text(200, ""));
    let short = Server::start(|_| Reply::text(200, "GG"));
    let unsatisfiable = Server::start(|_| Reply::text(416, "").with("content-range", "bytes */0"));
    let endless = Server::start(move |request| {
        Reply::file(request, &ranges).with("content-range", &format!("bytes 0-0/{}", 1u64 << 60))
    });
    for (server, parts) in [
        (&page, &["m.gguf", "not a GGUF file", "<htm"][..]),
        (&empty, &["the file is empty"]),
        (&short, &["not a GGUF file"]),
        (&unsatisfiable, &["answers 416"]),
        (&endless, &["free, but", "1152921504.61 GB more are needed", "--models"]),
    ] {
        let models = Models::new();
        assert_holds(&fail(models.pull(&server.url("/m.gguf"))), parts);
        assert_eq!(models.files(), Vec::<String>::new());
    }
}

#[test]
fn digests_are_checked() {
    let (models, content) = (Models::new(), content());
    let (server, digest) = (Server::of(&content), content.sha256());
    let mut wrong = models.pull(&server.url("/m.gguf"));
    wrong.args(["--sha256", &"0".repeat(64)]);
    assert_holds(&fail(wrong), &["m.gguf", digest, &"0".repeat(64), "is removed"]);
    assert_eq!(models.files(), Vec::<String>::new());
    let mut right = models.pull(&server.url("/m.gguf"));
    right.args(["--sha256", digest]);
    assert_holds(&succeed(right).0, &[digest, "as stated by the source"]);
    models.assert_pulled("m", &content);
    let mut malformed = models.pull(&server.url("/m.gguf"));
    malformed.args(["--sha256", "12"]);
    assert_holds(&fail(malformed), &["--sha256", "64"]);
}

#[test]
fn redirects_end_and_take_no_token_elsewhere() {
    let models = Models::new();
    let other = Server::of(&content());
    let target = other.url("/files/m.gguf?signature=hidden");
    let first = Server::start(move |request| match request.path.as_str() {
        "/m.gguf" => Reply::redirect("/again"),
        "/again" => Reply::redirect(&target),
        "/circle.gguf" => Reply::redirect("/circle2"),
        "/circle2" => Reply::redirect("/circle.gguf"),
        "/nowhere.gguf" => Reply::text(302, ""),
        "/file.gguf" => Reply::redirect("file:///etc/passwd"),
        path => Reply::redirect(&format!("{path}x")),
    });
    let mut command = models.pull(&first.url("/m.gguf"));
    command.env("HESPER_TOKEN", "secret-token");
    let (printed, notes) = succeed(command);
    models.assert_pulled("m", &content());
    let authorization = |server: &Server| -> Vec<Option<String>> {
        let requests = server.requests.lock().expect("no test panics with it");
        requests.iter().map(|request| request.header("authorization").map(str::to_owned)).collect()
    };
    assert!(authorization(&first).iter().all(|value| value.as_deref() == Some("Bearer secret-token")));
    assert!(authorization(&other).len() > 1 && authorization(&other).iter().all(Option::is_none));
    let record = std::fs::read_to_string(models.path("m.hesper.json")).expect("a record");
    for hidden in ["secret-token", "hidden"] {
        assert!(!printed.contains(hidden) && !notes.contains(hidden) && !record.contains(hidden));
    }
    for (path, parts) in [
        ("/circle.gguf", &["in a circle"][..]),
        ("/nowhere.gguf", &["redirects to nowhere"]),
        ("/file.gguf", &["which is not HTTP"]),
        ("/long.gguf", &["10 redirects"]),
    ] {
        assert_holds(&fail(models.pull(&first.url(path))), parts);
    }
}

#[test]
fn refusals_name_what_would_help() {
    let models = Models::new();
    let server = Server::start(|request| Reply::text(request.path[1..4].parse().expect("a status"), ""));
    for (path, token, parts) in [
        ("/401.gguf", None, &["401", "private or gated", "HESPER_TOKEN"][..]),
        ("/403.gguf", Some("t"), &["403", "may not read it"]),
        ("/404.gguf", None, &["404", "check the name"]),
        ("/418.gguf", None, &["418"]),
    ] {
        let mut command = models.pull(&server.url(path));
        command.envs(token.map(|token| ("HESPER_TOKEN", token)));
        assert_holds(&fail(command), parts);
    }
    let mut open = models.pull("http://example.invalid/m.gguf");
    open.env("HESPER_TOKEN", "t");
    assert_holds(&fail(open), &["without encryption"]);
}

#[test]
fn a_machine_without_a_network_learns_it_at_once() {
    let models = Models::new();
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    for (source, host) in [(format!("http://{closed}/m.gguf"), "127.0.0.1"), ("hf://a/b".to_owned(), "hub.invalid")] {
        let mut command = models.pull(&source);
        command.env("HESPER_HF_ENDPOINT", "https://hub.invalid").env("HESPER_RETRY_SECONDS", "60");
        assert_holds(&fail(command), &[host, "cannot be reached", "check the network"]);
    }
    assert_eq!(models.files(), Vec::<String>::new());
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole_again() {
    let models = Models::new();
    let (content, attempts) = (content(), AtomicU64::new(0));
    let file = content.clone();
    let server = Server::start(move |request| {
        let whole = Request { headers: Vec::new(), ..request.clone() };
        let reply = Reply::file(&whole, &file);
        match request.range() {
            None if attempts.fetch_add(1, Ordering::Relaxed) == 0 => Reply { cut: Some(BYTES / 2), ..reply },
            _ => reply,
        }
    });
    let (_, notes) = succeed(models.pull(&server.url("/m.gguf")));
    assert_holds(&notes, &["starts anew: the server cannot send a part of a file"]);
    models.assert_pulled("m", &content);
}

#[test]
fn a_file_that_changes_starts_anew() {
    let models = Models::new();
    let (old, new) = (content(), Content::new(BYTES, 2));
    let newer = new.clone();
    let server = Server::start(move |request| match request.number {
        0..3 => Reply::file(request, &old).with("etag", "\"old\""),
        _ => Reply::file(request, &newer).with("etag", "\"new\""),
    });
    let (_, notes) = succeed(models.pull(&server.url("/m.gguf")));
    assert_holds(&notes, &["changed", "starts anew"]);
    assert_content(&models.path("m.gguf"), &new);
    // And when it is pulled again later: unchanged, then changed.
    let count = server.count();
    assert_holds(&succeed(models.pull(&server.url("/m.gguf"))).0, &["there and unchanged"]);
    assert_eq!(server.count(), count + 1, "one question");
    let third = Content::new(BYTES / 2, 4);
    let file = third.clone();
    let moved = Server::start(move |request| Reply::file(request, &file).with("etag", "\"third\""));
    assert_holds(&fail(models.pull(&moved.url("/m.gguf"))), &["m is there already", "--name", "hesper rm m"]);
}
