//! Runs a command for what it prints, within a time and a size: a tool that hangs must not hang the report on it.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(8);
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Why there is no answer, and what was printed all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub output: String,
}

/// What a command printed on its standard output.
pub type Run = Result<String, Failure>;

/// Runs a program without input; it is killed after some seconds.
pub fn run(program: &str, arguments: &[&str]) -> Run {
    run_within(TIMEOUT, program, arguments)
}

fn run_within(limit: Duration, program: &str, arguments: &[&str]) -> Run {
    let failure = |reason: String, output: String| Failure { reason: format!("{program}: {reason}"), output };
    let mut command = Command::new(program);
    // Homebrew would otherwise update itself, and ask the network, before it answers.
    command.args(arguments).env("HOMEBREW_NO_AUTO_UPDATE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failure(error.to_string(), String::new()))?;
    let stdout = child.stdout.take().expect("it is piped");
    let (sender, receiver) = mpsc::channel();
    // A thread of its own: what the command starts may hold the pipe open after its end.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    let end = Instant::now() + limit;
    let output = receiver.recv_timeout(limit);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => break None,
        }
    };
    let (Some(status), Ok(output)) = (status, output) else {
        // It may have ended just now, which is no concern here.
        let _ = child.kill();
        let _ = child.wait();
        return Err(failure(format!("no answer within {} s", limit.as_secs()), String::new()));
    };
    if status.success() { Ok(output) } else { Err(failure(status.to_string(), output)) }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn output_failure_and_absence_are_told_apart() {
        assert_eq!(run("echo", &["a b"]), Ok("a b\n".to_owned()));
        let failure = run("sh", &["-c", "echo some; exit 3"]).expect_err("it fails");
        assert!(failure.output == "some\n" && failure.reason.contains('3'), "{failure:?}");
        let failure = run("/nonexistent/program", &[]).expect_err("it is not there");
        assert!(failure.reason.contains("/nonexistent/program"), "{failure:?}");
    }

    #[test]
    fn what_hangs_is_killed() {
        let failure = run_within(Duration::ZERO, "sleep", &["600"]).expect_err("it takes too long");
        assert!(failure.reason.contains("no answer"), "{failure:?}");
    }
}
