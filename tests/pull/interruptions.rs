//! Downloads that are killed, stopped and taken up again.

use super::server::{Content, Reply, Server};
use super::{Models, assert_holds, fail, succeed, text};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bytes that the journal lists; 0 where there is none.
fn listed_bytes(models: &Models, name: &str) -> u64 {
    let journal = std::fs::read_to_string(models.path(&format!("{name}.gguf.journal"))).unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let line = |line: &str| {
        let mut numbers = line.split(' ');
        let (start, end): (Option<u64>, Option<u64>) = (number(numbers.next()), number(numbers.next()));
        Some(end? - start?)
    };
    // The last line may be torn.
    let whole = &journal[..journal.rfind('\n').map_or(0, |at| at + 1)];
    whole.lines().skip(1).filter_map(line).sum()
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits until the journal lists `bytes`; false when the process ended before.
fn wait_for(models: &Models, name: &str, bytes: u64, child: &mut Child) -> bool {
    let start = Instant::now();
    while listed_bytes(models, name) < bytes {
        if child.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "no progress");
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// 64 MB, or as many bytes as HESPER_TEST_PULL_BYTES says, interrupted 20 times by SIGKILL. Run with 1000000000 for the
/// whole.
#[test]
fn twenty_kills_cost_little_and_break_nothing() {
    let bytes = std::env::var("HESPER_TEST_PULL_BYTES").map_or(64_000_000, |bytes| bytes.parse().expect("a number"));
    let (models, content) = (Models::new(), Content::new(bytes, 5));
    let digest = content.sha256().to_owned();
    let file = content.clone();
    // Slow enough that a process can be killed in the middle of a twentieth.
    let rate = bytes.min(200_000_000) / 4;
    let server =
        Server::start(move |request| Reply { rate: Some(rate), ..Reply::file(request, &file).with("etag", "\"one\"") });
    let start = Instant::now();
    let pull = || {
        let mut command = models.pull(&server.url("/m.gguf"));
        command.args(["--sha256", &digest]);
        command
    };
    for kill in 1..=20 {
        let mut child = spawn(pull());
        assert!(wait_for(&models, "m", bytes * kill / 22, &mut child), "kill {kill}: it ended before");
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        assert!(!models.path("m.gguf").exists());
    }
    let (printed, notes) = succeed(pull());
    assert_holds(&notes, &["resuming: "]);
    assert_holds(&printed, &["of them now", &digest]);
    models.assert_pulled("m", &content);
    let sent = server.sent_bytes.load(Ordering::Relaxed);
    println!(
        "{bytes} bytes, 20 times killed: {:.1} s, the server sent {:.2} times the file in {} requests",
        start.elapsed().as_secs_f64(),
        sent as f64 / bytes as f64,
        server.count()
    );
    // Each kill loses at most what the connections had not listed yet and what lay in the sockets.
    let lost = 20 * 4 * (6 << 20);
    assert!(sent < bytes + lost.min(bytes * 2), "{sent} bytes were sent for {bytes}");
}

#[cfg(unix)]
#[test]
fn signals_keep_what_has_come() {
    let (models, content) = (Models::new(), Content::new(16 << 20, 6));
    let file = content.clone();
    let server = Server::start(move |request| Reply {
        rate: Some(2 << 20),
        ..Reply::file(request, &file).with("etag", "\"one\"")
    });
    for (signal, number) in [("-INT", 1), ("-TERM", 2)] {
        let mut child = spawn(models.pull(&server.url("/m.gguf")));
        // No digest is stated, so a line of the journal waits for more bytes and for the disk.
        let sent = server.sent_bytes.load(Ordering::Relaxed);
        while server.sent_bytes.load(Ordering::Relaxed) < sent + (2 << 20) {
            assert!(child.try_wait().expect("it can be asked").is_none(), "it ended before");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(130), "signal {number}");
        assert_holds(&text(&output.stderr), &["interrupted", "are kept; the same command gets the rest"]);
        assert!(models.path("m.gguf.partial").exists());
    }
}

#[test]
fn an_interrupted_model_is_listed_resumed_and_removed() {
    let (models, content) = (Models::new(), Content::new(48 << 20, 7));
    let (file, digest) = (content.clone(), content.sha256().to_owned());
    let server = Server::start(move |request| Reply {
        rate: Some(12 << 20),
        ..Reply::file(request, &file).with("etag", "\"one\"")
    });
    let url = server.url("/m.gguf");
    let pull = || {
        let mut command = models.pull(&url);
        command.args(["--sha256", &digest]);
        command
    };
    let mut child = spawn(pull());
    assert!(wait_for(&models, "m", 10 << 20, &mut child));
    // While it runs, nobody else may touch it.
    assert_holds(&fail(pull()), &["m:", "another process"]);
    assert_holds(&fail(models.hesper(&["rm", "m"])), &["m:", "another process"]);
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");

    assert_holds(&succeed(models.hesper(&["list"])).0, &["m ", "incomplete", &format!("hesper pull {url}")]);
    let used = fail(models.hesper(&["inspect", "m"]));
    assert_holds(&used, &["interrupted after", &format!("`hesper pull {url}` gets the rest")]);

    // Another file of that length at the same address is not mixed with it.
    let journal = std::fs::read_to_string(models.path("m.gguf.journal")).expect("a journal");
    std::fs::write(models.path("m.gguf.journal"), journal.replace(&digest, &"1".repeat(64))).expect("it is written");
    let (_, notes) = succeed(pull());
    assert_holds(&notes, &["m.gguf starts anew: the file at the source has changed"]);
    models.assert_pulled("m", &content);

    // A journal that is damaged, or a partial file of another length, counts for nothing.
    std::fs::remove_file(models.path("m.gguf")).expect("it is there");
    std::fs::write(models.path("m.gguf.partial"), "GGUF").expect("it is written");
    std::fs::write(models.path("m.gguf.journal"), "garbage\n").expect("it is written");
    assert_holds(&succeed(pull()).1, &["m.gguf starts anew: what it holds is not recorded"]);
    models.assert_pulled("m", &content);
    assert_holds(&succeed(models.hesper(&["rm", &url])).0, &["Removed m (50.3 MB)"]);
    assert_eq!(models.files(), Vec::<String>::new());
}
