//! The program as its users meet it: exit codes, the text of errors, what goes where.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MODEL: &str = "models/hesper-demo-Q8_0.gguf";
const NO_DRIVER: (&str, &str) = ("VK_DRIVER_FILES", "/nonexistent.json");

/// The program, with no variable of its own set but the device that tests run on.
fn hesper(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hesper"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    // The loader and the validation layer talk on the outputs that these tests read; the same calls are validated elsewhere.
    command.env_remove("VK_LOADER_DEBUG").env_remove("VK_INSTANCE_LAYERS");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HESPER_") && name != "HESPER_DEVICE" && name != "HESPER_VULKAN_LIBRARY" {
            command.env_remove(name);
        }
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Runs a command that must succeed, and gives what it printed.
fn succeed(mut command: Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must fail with exit code 1 and one paragraph, and gives that.
fn fail(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the program starts");
    let stderr = text(&stderr);
    assert_eq!(status.code(), Some(1), "{command:?}: {stderr}");
    let paragraph = stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("{command:?}: {stderr}"));
    assert_eq!(paragraph.trim_end().lines().count(), 1, "{command:?}: one paragraph is wanted, not {stderr}");
    paragraph.to_owned()
}

fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// False, said aloud, only where HESPER_SKIP_GPU=1 asks for it.
fn with_device() -> bool {
    let skip = std::env::var("HESPER_SKIP_GPU").is_ok_and(|value| value == "1");
    if skip {
        eprintln!("SKIPPED: HESPER_SKIP_GPU=1, so nothing was run on a Vulkan device");
    }
    !skip
}

/// A file of these bytes.
fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file can be written");
    path.to_str().expect("a plain path").to_owned()
}

/// The manifest of Mesa's software driver.
fn lavapipe() -> PathBuf {
    let folder = Path::new("/usr/share/vulkan/icd.d");
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths = entries.map(|entry| entry.expect("a folder's entry").path());
    paths
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lvp_icd")))
        .expect("lavapipe is needed: apt install mesa-vulkan-drivers (HESPER_SKIP_GPU=1 skips this test)")
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_driver_the_error_names_the_package() {
    for arguments in [&["serve", "-m", MODEL, "--port", "0"][..], &["devices"], &["run", "-m", MODEL, "Hello"]] {
        let mut command = hesper(arguments);
        command.env(NO_DRIVER.0, NO_DRIVER.1).env_remove("HESPER_DEVICE").env_remove("HESPER_VULKAN_LIBRARY");
        let paragraph = fail(command);
        assert_holds(&paragraph, &["no driver", "nstall"]);
    }
    let mut doctor = hesper(&["doctor"]);
    let output = doctor.env(NO_DRIVER.0, NO_DRIVER.1).env_remove("HESPER_VULKAN_LIBRARY").output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&text(&output.stdout), &["VK_DRIVER_FILES", "No device is usable."]);
}

#[cfg(target_os = "linux")]
#[test]
fn software_must_be_asked_for() {
    if !with_device() {
        return;
    }
    let on_lavapipe = |arguments: &[&str]| {
        let mut command = hesper(arguments);
        command.env("VK_DRIVER_FILES", lavapipe()).env_remove("HESPER_DEVICE").env_remove("HESPER_VULKAN_LIBRARY");
        command
    };
    let paragraph = fail(on_lavapipe(&["serve", "-m", MODEL, "--port", "0"]));
    assert_holds(&paragraph, &["software", "llvmpipe", "--allow-software"]);
    let doctor = on_lavapipe(&["doctor"]).output().expect("it starts");
    assert_eq!(doctor.status.code(), Some(1), "{}", text(&doctor.stdout));
    assert_holds(&succeed(on_lavapipe(&["doctor", "--allow-software"])), &["A device is usable."]);
    assert_holds(&succeed(on_lavapipe(&["devices"])), &["llvmpipe", "--allow-software"]);
}

#[test]
fn files_that_cannot_be_served_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL)).expect("the demo model");
    let truncated = file(folder.path(), "truncated.gguf", &whole[..whole.len() / 2]);
    let picture = file(folder.path(), "picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    let header = br#"{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let safetensors = file(folder.path(), "model.safetensors", &safetensors);
    let empty = file(folder.path(), "empty.gguf", b"");
    let missing = folder.path().join("missing.gguf").to_str().expect("a plain path").to_owned();
    let cases = [
        (&missing, &["cannot open", "check the path"][..]),
        (&truncated, &["damaged or incomplete", "download it again"]),
        (&picture, &["not a GGUF file", "give the path of a model in the GGUF format"]),
        (&safetensors, &["not a GGUF file", "give the path of a model in the GGUF format"]),
        (&empty, &["damaged or incomplete", "download it again"]),
    ];
    for (path, parts) in cases {
        let paragraph = fail(hesper(&["serve", "-m", path, "--port", "0"]));
        assert_holds(&paragraph, &[path.as_str()]);
        assert_holds(&paragraph, parts);
        assert_eq!(fail(hesper(&["inspect", path])), paragraph);
    }
}

#[test]
fn a_budget_too_small_is_refused_with_figures() {
    if !with_device() {
        return;
    }
    let mut command = hesper(&["serve", "-m", MODEL, "--port", "0", "--allow-software", "--memory-budget", "4M"]);
    let output = command.output().expect("it starts");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_holds(&stderr, &["error: the model does not fit", "4.0 MiB", "--memory-budget", "--ctx", "--kv-type q8_0"]);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(text(&output.stdout).starts_with("Device "), "the device comes first");
}

#[test]
fn a_port_in_use_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let paragraph = fail(hesper(&["serve", "-m", MODEL, "--port", &port, "--allow-software"]));
    assert_holds(&paragraph, &[&port, "another program uses that port", "--port"]);
}

#[test]
fn wrong_usage_exits_2() {
    for arguments in [
        &["serve"][..],
        &["serve", "-m", MODEL, "--port", "70000"],
        &["serve", "-m", MODEL, "--memory-budget", "much"],
        &["serve", "-m", MODEL, "--no-such-flag"],
        &["run", "-m", MODEL, "--temperature", "nan", "Hello"],
        &["run", "-m", MODEL, "--raw"],
        &["bench", "-m", MODEL, "-o", "xml"],
        &["logits", "-m", MODEL, "-o", "x"],
        &["dance"],
    ] {
        let output = hesper(arguments).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
    }
    let mut command = hesper(&["serve", "-m", MODEL]);
    let output = command.env("HESPER_PORT", "x").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2), "the environment is read");
}

#[test]
fn files_are_looked_into_without_a_device() {
    let deviceless = |arguments: &[&str]| {
        let mut command = hesper(arguments);
        command.env(NO_DRIVER.0, NO_DRIVER.1);
        succeed(command)
    };
    assert_holds(&deviceless(&["inspect", MODEL]), &["general.architecture", "token_embd.weight", "Q8_0"]);
    let plan = deviceless(&["plan", "-m", MODEL]);
    let layers = plan.lines().find(|line| line.starts_with("each of layers 0 to 3")).expect("equal layers");
    let numbers: Vec<u64> = layers.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [_, _, dispatches, barriers, bytes] = numbers[..] else { panic!("{layers}") };
    assert!((1..=8).contains(&dispatches) && (1..=8).contains(&barriers) && bytes > 500_000, "{layers}");
    assert_holds(&deviceless(&["plan", "-m", MODEL, "--mode", "prefill", "--rows", "16"]), &["prefill rows=16"]);
    assert!(plan.contains(" attend  ") && !plan.contains("attend_q8_0"), "{plan}");
    let quantized = ["plan", "-m", MODEL, "--mode", "prefill", "--rows", "16", "--kv-type", "q8_0"];
    assert_holds(&deviceless(&quantized), &[" rope_store_q8_0 ", " attend_q8_0 "]);
    let words = "Hello <|im_end|>";
    assert_holds(&deviceless(&["tokenize", "-m", MODEL, words]), &["-> \"Hello\"", "-> \"<|im_end|>\""]);
    let special: Vec<u32> = ids(&deviceless(&["tokenize", "-m", MODEL, "--ids", words]));
    let plain: Vec<u32> = ids(&deviceless(&["tokenize", "-m", MODEL, "--ids", "--no-special", words]));
    assert!(plain.len() > special.len(), "{plain:?} {special:?}");
}

fn ids(list: &str) -> Vec<u32> {
    serde_json::from_str(list).expect("a list of ids")
}

/// Questions of the demo model and their answers.
fn questions(count: usize) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/questions.jsonl");
    let lines = std::fs::read_to_string(path).expect("the questions");
    let parse = |line: &str| {
        let question: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let string = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
        (string(&question["messages"][0]["content"]), string(&question["expect"]))
    };
    lines.lines().take(count).map(parse).collect()
}

#[test]
fn run_answers_and_chats() {
    if !with_device() {
        return;
    }
    let [(first, answer), (second, next_answer)] = &questions(2)[..] else { panic!("two questions") };
    let greedy = ["run", "-m", MODEL, "--allow-software", "--temperature", "0"];
    let mut once = hesper(&greedy);
    once.arg(first);
    assert_eq!(succeed(once).trim_end(), answer);
    let mut short = hesper(&greedy);
    short.args(["--raw", "--max-tokens", "1", first]);
    assert!(succeed(short).len() < 20, "one token is short");

    let mut chat = hesper(&greedy).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = format!("{first}\n\n{second}\n/exit\n{first}\n");
    chat.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("it reads");
    let output = chat.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let printed = text(&output.stdout);
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert_eq!(printed.lines().next(), Some(answer.as_str()));
    assert_eq!(printed.lines().nth(1), Some(next_answer.as_str()));
}

#[test]
fn logits_are_rows_of_floats() {
    if !with_device() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let rows_of = |chunk: &str| {
        let path = folder.path().join(chunk);
        let out = path.to_str().expect("a plain path");
        let arguments =
            ["logits", "-m", MODEL, "--tokens", "7,8,9,10,11", "-o", out, "--allow-software", "--chunk", chunk];
        let printed = succeed(hesper(&arguments));
        assert_eq!(printed, "5 2048\n");
        let bytes = std::fs::read(&path).expect("the file");
        let words = bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        words.collect::<Vec<f32>>()
    };
    let (whole, pieces) = (rows_of("64"), rows_of("4"));
    assert_eq!((whole.len(), pieces.len()), (5 * 2048, 5 * 2048));
    let difference = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let error: f64 = whole.iter().zip(&pieces).map(difference).sum();
    let scale: f64 = whole.iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!(scale > 1.0 && error / scale < 1e-6, "{error} of {scale}");
    let mut beyond = hesper(&["logits", "-m", MODEL, "--tokens", "2048", "-o", "x", "--allow-software"]);
    assert_holds(&text(&beyond.output().expect("it starts").stderr), &["--tokens holds 2048"]);
}

#[test]
fn bench_reports_each_test() {
    if !with_device() {
        return;
    }
    let arguments = ["bench", "-m", MODEL, "-p", "8", "-n", "4", "-r", "2", "-d", "0,3", "--allow-software", "-o"];
    let mut json = hesper(&arguments);
    json.args(["json", "--kv-type", "q8_0", "--copy", "24"]);
    let printed = succeed(json);
    let tests: Vec<serde_json::Value> = serde_json::from_str(&printed).expect("JSON");
    let numbers = |name: &str| tests.iter().map(|test| test[name].as_u64().expect("a number")).collect::<Vec<_>>();
    assert_eq!(numbers("n_prompt"), [8, 0, 8, 0, 48, 48]);
    assert_eq!(numbers("n_gen"), [0, 4, 0, 4, 24, 24]);
    assert_eq!(numbers("n_depth"), [0, 0, 3, 3, 0, 0]);
    let speculate: Vec<_> = tests[3..].iter().map(|test| test["speculate"].as_str()).collect();
    assert_eq!(speculate, [Some("off"), Some("off"), Some("ngram")]);
    assert_eq!(tests[4]["n_drafted"], 0);
    for test in &tests {
        assert_eq!(test["samples_ns"].as_array().map(Vec::len), Some(2));
        assert_eq!((&test["type_k"], &test["type_v"]), (&"q8_0".into(), &"q8_0".into()));
        assert!(test["avg_ts"].as_f64().is_some_and(|rate| rate > 0.1), "{test}");
    }
    let mut table = hesper(&arguments);
    table.arg("md");
    assert_holds(&succeed(table), &["t/s |", " pp8 |", " tg4 @ d3 |", " ± "]);
}

#[test]
fn sequences_side_by_side_share_their_steps() {
    assert_holds(
        &text(&hesper(&["bench", "-m", MODEL, "--parallel", "33"]).output().expect("it starts").stderr),
        &["1..=32"],
    );
    if !with_device() {
        return;
    }
    let mut jsonl = hesper(&["bench", "-m", MODEL, "-p", "0", "-n", "4", "-d", "5", "-r", "1", "--allow-software"]);
    jsonl.args(["--parallel", "1,4", "--profile", "-o", "jsonl"]);
    let printed = succeed(jsonl);
    let tests: Vec<serde_json::Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [one, four] = tests.as_slice() else { panic!("two tests, not {printed}") };
    assert_eq!([&one["n_parallel"], &four["n_parallel"]], [1, 4]);
    assert_eq!([&one["profile"]["submissions"], &four["profile"]["submissions"]], [1.0, 0.25]);
    // Every token counts: the rate is of all of them.
    let (seconds, rate) = (four["avg_ns"].as_f64().expect("a time") / 1e9, four["avg_ts"].as_f64().expect("a rate"));
    assert!((rate * seconds / 16.0 - 1.0).abs() < 1e-3, "{four}");
    assert_eq!([&one["profile"]["tokens"], &four["profile"]["tokens"]], [4, 16]);
}

#[test]
fn a_profile_accounts_for_every_dispatch_of_a_token() {
    let refused = fail(hesper(&["bench", "-m", MODEL, "--profile", "-o", "csv"]));
    assert_holds(&refused, &["--profile", "md, json or jsonl"]);
    if !with_device() {
        return;
    }
    let arguments =
        ["bench", "-m", MODEL, "-p", "8", "-n", "4", "-r", "2", "-d", "40", "--allow-software", "--profile", "-o"];
    let mut json = hesper(&arguments);
    json.arg("jsonl");
    let printed = succeed(json);
    let profiles: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["profile"].take())
        .collect();
    let [prompt, generation] = profiles.as_slice() else { panic!("two tests, not {printed}") };
    for profile in [prompt, generation] {
        let number = |value: &serde_json::Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {profile}"));
        let kernels = profile["kernels"].as_array().expect("kernels");
        let sum = |name: &str| kernels.iter().map(|kernel| number(&kernel[name])).sum::<f64>();
        // Every dispatch and every microsecond stands in one line.
        assert!((sum("dispatches") - number(&profile["dispatches"])).abs() < 1e-3, "{profile}");
        assert!((sum("us") / number(&profile["kernels_us"]) - 1.0).abs() < 1e-3, "{profile}");
        assert!(number(&profile["roofline_us"]) > 0.0 && number(&profile["measured_us"]) > 0.0, "{profile}");
        assert!(number(&profile["process_cpu_us"]) >= number(&profile["thread_cpu_us"]), "{profile}");
        assert!(number(&profile["thread_cpu_us"]) > 0.0, "{profile}");
        for name in ["copy_gb_per_s", "read_gb_per_s", "dispatch_us"] {
            assert!(number(&profile["roofline"][name]) > 0.0, "{name} in {profile}");
        }
        for kernel in kernels {
            // The shortest may be lost in what the clock itself takes.
            let is_product = kernel["kernel"].as_str().is_some_and(|name| name.starts_with("mat_mul"));
            assert!(number(&kernel["bytes"]) > 0.0 && number(&kernel["us"]) >= 0.0, "{kernel}");
            assert!(!is_product || number(&kernel["roofline_share"]) > 0.0, "{kernel}");
        }
    }
    // A decoded token is one submission of the plan that `hesper plan` prints.
    assert_eq!(generation["submissions"], 1.0);
    let plan = succeed(hesper(&["plan", "-m", MODEL, "--software"]));
    let all: Vec<&str> =
        plan.lines().find(|line| line.starts_with("all ")).expect("a sum").split_whitespace().collect();
    if printed.contains("llvmpipe") {
        assert_eq!(
            [&all[1], &all[3]].map(|count| count.parse::<f64>().ok()),
            ["dispatches", "barriers"].map(|name| generation[name].as_f64())
        );
    }
    // Products read each weight once a token, and once a chunk of a prompt.
    let bytes = |profile: &serde_json::Value| -> f64 {
        let kernels = profile["kernels"].as_array().expect("kernels");
        let is_product = |kernel: &str| kernel.starts_with("mat_mul") || kernel.starts_with("chain");
        let products = kernels.iter().filter(|kernel| kernel["kernel"].as_str().is_some_and(is_product));
        products.map(|kernel| kernel["bytes"].as_f64().expect("bytes")).sum()
    };
    assert!(bytes(prompt) < bytes(generation) / 4.0, "{printed}");
    // On a CPU driver a layer's products are one dispatch.
    let chain = "| output, gate up, down, qkv | chain_q8_0";
    let product = if printed.contains("llvmpipe") { chain } else { "| gate up | mat_mul_q8_0" };
    let mut table = hesper(&arguments);
    table.arg("md");
    let table = succeed(table);
    assert_holds(&table, &["pp8 @ d40, a token", "tg4 @ d40, a token", "| of roofline |", product, "Roofline: "]);
    assert_holds(&table, &["| all |", "1 submissions; CPU time ", " of the process."]);
}

/// A server on a port of its own, killed when the test ends.
struct Server {
    child: Child,
    stdout: std::io::Lines<BufReader<std::process::ChildStdout>>,
    address: String,
    /// What it printed before it was ready.
    lines: Vec<String>,
}

impl Server {
    fn start() -> Server {
        let mut command = hesper(&["serve", "-m", MODEL, "--port", "0", "--allow-software", "--alias", "demo"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut server = Server { child, stdout, address: String::new(), lines: Vec::new() };
        server.until_it_listens();
        server
    }

    fn until_it_listens(&mut self) {
        self.lines.clear();
        for line in &mut self.stdout {
            let line = line.expect("text");
            if let Some(address) = line.strip_prefix("Listening on http://") {
                self.address = address.to_owned();
                return;
            }
            self.lines.push(line);
        }
        panic!("it ended before it listened: {:?}", self.lines);
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Sends a request and gives the whole response.
    fn ask(address: &str, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a limit can be set");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("it answers");
        response
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has usually ended, which is no concern here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
#[test]
fn a_server_says_what_it_does_and_finishes_what_runs() {
    if !with_device() {
        return;
    }
    let mut server = Server::start();
    let [device, memory, tested, loaded] = &server.lines[..] else { panic!("{:?}", server.lines) };
    assert!(device.starts_with("Device ") && memory.starts_with("Memory: weights"), "{:?}", server.lines);
    assert!(tested.starts_with("Self-test: ") && !tested.contains("could not be tried"), "{tested}");
    assert!(loaded.starts_with("Loaded ") && loaded.contains("GB/s"), "{loaded}");
    assert_holds(&Server::ask(&server.address, "GET", "/v1/models", ""), &["200 OK", "\"demo\""]);

    // Without its ends of text the model goes on for as long as it may.
    let ends = succeed(hesper(&["tokenize", "-m", MODEL, "--ids", "<|im_end|><|endoftext|>"]));
    let bias: Vec<String> = ids(&ends).iter().map(|id| format!("\"{id}\": -100")).collect();
    let body = format!("{{\"prompt\": \"a b\", \"max_tokens\": 300, \"logit_bias\": {{{}}}}}", bias.join(", "));
    let address = server.address.clone();
    let answer = std::thread::spawn(move || Server::ask(&address, "POST", "/v1/completions", &body));
    let start = Instant::now();
    while !Server::ask(&server.address, "GET", "/health", "").contains("\"running\":1") {
        assert!(start.elapsed() < Duration::from_secs(60) && !answer.is_finished(), "the request does not run");
    }
    server.signal("-TERM");
    let answer = answer.join().expect("the request is answered");
    assert_holds(&answer, &["200 OK", "\"completion_tokens\":300", "\"finish_reason\":\"length\""]);
    assert_eq!(server.child.wait().expect("it ends").code(), Some(0));
}

/// As Venus does when its far side is gone: the driver aborts the process, and has lost its state.
#[cfg(unix)]
#[test]
fn a_server_that_its_driver_aborts_starts_again_once() {
    use std::os::unix::process::ExitStatusExt;
    if !with_device() {
        return;
    }
    let mut server = Server::start();
    server.signal("-ABRT");
    server.until_it_listens();
    assert_holds(&Server::ask(&server.address, "GET", "/health", ""), &["200 OK"]);
    server.signal("-ABRT");
    assert_eq!(server.child.wait().expect("it ends").signal(), Some(6));
    let mut said = String::new();
    server.child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_holds(&said, &["starting again, once", "aborted again", "hesper doctor"]);
}
