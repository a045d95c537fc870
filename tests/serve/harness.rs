//! A server process on a port of its own, and plain requests to it.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const MODEL: &str = "models/hesper-demo-Q8_0.gguf";
pub const PATIENCE: Duration = Duration::from_secs(120);

/// False, said aloud, only where HESPER_SKIP_GPU=1 asks for it.
pub fn with_device() -> bool {
    let skip = std::env::var("HESPER_SKIP_GPU").is_ok_and(|value| value == "1");
    if skip {
        eprintln!("SKIPPED: HESPER_SKIP_GPU=1, so nothing was run on a Vulkan device");
    }
    !skip
}

pub fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Killed when the test ends.
pub struct Server {
    child: Child,
    /// `HOST:PORT`.
    pub address: String,
    /// The standard error output so far.
    said: Arc<Mutex<String>>,
    reading: Vec<JoinHandle<()>>,
}

impl Server {
    /// `hesper serve` with these arguments, once it listens. Device and port are added.
    pub fn start(arguments: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hesper"));
        command.arg("serve").args(arguments).args(["--port", "0", "--allow-software"]);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // The loader and the validation layer talk on the outputs that are read here.
        command.env_remove("VK_LOADER_DEBUG").env_remove("VK_INSTANCE_LAYERS");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HESPER_")) {
            if name != "HESPER_DEVICE" && name != "HESPER_VULKAN_LIBRARY" {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().expect("it starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (told, mut stderr) = (said.clone(), child.stderr.take().expect("a pipe"));
        let hearing = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut bytes) {
                told.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = stdout.find_map(|line| Some(line.ok()?.strip_prefix("Listening on ")?.to_owned()));
        let line = line.unwrap_or_else(|| panic!("it ended before it listened: {}", said.lock().unwrap()));
        let address = line.split_once("://").expect("an address").1.to_owned();
        let reading = std::thread::spawn(move || stdout.for_each(drop));
        Server { child, address, said, reading: vec![hearing, reading] }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// What it said on the standard error output so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said `part`.
    pub fn until_it_says(&self, part: &str) {
        let begin = Instant::now();
        while !self.said().contains(part) {
            assert!(begin.elapsed() < PATIENCE, "it never says {part:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end; gives its exit code and all that it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("its state") {
                self.reading.drain(..).for_each(|thread| thread.join().expect("its output"));
                return (status.code(), self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end: {}", self.said());
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        ask(&self.address, "POST", path, &body.to_string())
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        ask(&self.address, "GET", path, "")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has usually ended, which is no concern here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on a connection of its own: the status and the body, which must be whole.
pub fn ask(address: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let response = whole(TcpStream::connect(address).expect("it listens"), method, path, body);
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {response:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    assert_eq!(length, Some(body.len()), "a truncated answer: {response}");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body:?}")))
}

/// All that comes back.
pub fn whole(mut stream: TcpStream, method: &str, path: &str, body: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it answers");
    String::from_utf8(bytes).expect("text")
}
