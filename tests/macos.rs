//! `scripts/macos` on Macs that are not there: its commands are stubs which log how they were called and answer from files.
//! What it would do on each kind of Mac, and what it says where something is in the way. No Mac has run it yet.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the script may use of this system: what every Mac has. No podman and no brew, which this system may have.
const TOOLS: [&str; 15] = [
    "bash", "awk", "basename", "cat", "cut", "dirname", "env", "grep", "head", "mkdir", "python3", "sed", "sleep",
    "tail", "tr",
];

/// Every stub: it logs its call, and answers what the folder of answers has for its name and arguments: for the longest
/// beginning of them that has an answer. An answer's first line is the exit code.
const STUB: &str = r#"#!/bin/bash
name=${0##*/}
case $0 in */scripts/*) name=scripts/$name ;; esac
call="$name${*:+ $*}"
printf '%s\n' "$call" >>"$STUBS/log"
key=$call
while :; do
  file="$STUBS/answers/${key//\//:}"
  if [ -e "$file" ]; then
    { read -r code; cat; } <"$file"
    exit "$code"
  fi
  case $key in *' '*) key=${key% *} ;; *) exit 0 ;; esac
done
"#;

struct Mac {
    folder: tempfile::TempDir,
    environment: BTreeMap<&'static str, String>,
}

struct Outcome {
    code: i32,
    text: String,
    /// Calls that change something, in order.
    changes: Vec<String>,
}

impl Outcome {
    fn holds(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.text.contains(part), "{part:?} is not in: {}", self.text);
        }
    }

    fn succeeds(&self, changes: &[&str]) {
        assert_eq!(self.code, 0, "{}", self.text);
        assert_eq!(self.changes, changes, "{}", self.text);
    }

    /// One error that says this, after these changes.
    fn fails(&self, parts: &[&str], changes: &[&str]) {
        assert_eq!(self.code, 1, "{}", self.text);
        assert_eq!(self.text.matches("error: ").count(), 1, "{}", self.text);
        let error = self.text.split("error: ").last().unwrap_or_default();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in the error of: {}", self.text);
        }
        assert_eq!(self.changes, changes, "{}", self.text);
    }
}

/// Python itself where its name on the path is a version manager's, which needs more than a link.
fn real(tool: &Path) -> PathBuf {
    if !tool.ends_with("python3") {
        return tool.to_owned();
    }
    let output = Command::new(tool).args(["-c", "import sys; print(sys.executable)"]).output().expect("Python starts");
    PathBuf::from(String::from_utf8(output.stdout).expect("UTF-8").trim())
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port().to_string()
}

impl Mac {
    /// An Apple Silicon Mac of 32 GiB with everything in place: Podman 6, krunkit, a running machine, the image.
    fn new() -> Mac {
        let folder = tempfile::tempdir().expect("a folder");
        let mac = Mac { folder, environment: BTreeMap::new() };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for part in ["bin", "tools", "answers", "hesper/scripts/lib", "hesper/models"] {
            fs::create_dir_all(mac.path(part)).expect("a folder");
        }
        for file in ["scripts/macos", "scripts/lib/common.sh", "scripts/lib/macos.sh", "models/questions.jsonl"] {
            fs::copy(root.join(file), mac.path("hesper").join(file)).expect("the file is there");
        }
        fs::write(mac.path("hesper/models/hesper-demo-Q8_0.gguf"), "").expect("a file");
        let path = std::env::var_os("PATH").expect("a path");
        for tool in TOOLS {
            let mut places = std::env::split_paths(&path).map(|folder| folder.join(tool));
            let found = places.find(|path| path.exists()).unwrap_or_else(|| panic!("{tool} is needed"));
            symlink(real(&found), mac.path("tools").join(tool)).expect("a link");
        }
        for name in ["uname", "sw_vers", "sysctl", "brew", "podman", "krunkit", "curl"] {
            mac.stub(&format!("bin/{name}"));
        }
        mac.stub("hesper/scripts/image");
        mac.stub("hesper/scripts/compare");
        for (call, answer) in [
            ("uname -s", "Darwin"),
            ("sysctl -n machdep.cpu.brand_string", "Apple M3 Max"),
            ("sysctl -n hw.optional.arm64", "1"),
            ("sysctl -n hw.memsize", "34359738368"),
            ("sw_vers -productVersion", "26.1"),
            ("brew --version", "Homebrew 6.0.4"),
            ("brew list --versions", "libkrun 1.19.8"),
            ("podman --version", "podman version 6.0.1"),
            ("podman machine list", "podman-machine-default* libkrun true"),
            ("podman machine inspect", "8192"),
            ("podman container inspect", "true"),
            ("podman logs", "Device Virtio-GPU Venus (Apple M3 Max)"),
            ("krunkit --version", "krunkit 1.3.2"),
        ] {
            mac.answer(call, 0, answer);
        }
        mac.answer("curl --silent --show-error", 0, &mac.reply(&mac.expected()));
        mac
    }

    fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    fn stub(&self, path: &str) {
        fs::write(self.path(path), STUB).expect("a file");
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).expect("its owner may");
    }

    fn answer(&self, call: &str, code: i32, text: &str) {
        let file = self.path("answers").join(call.replace('/', ":"));
        fs::write(file, format!("{code}\n{text}\n")).expect("a file");
    }

    fn without(self, tools: &[&str]) -> Mac {
        for tool in tools {
            fs::remove_file(self.path("bin").join(tool)).expect("a stub");
        }
        self
    }

    fn expected(&self) -> String {
        let questions = fs::read_to_string(self.path("hesper/models/questions.jsonl")).expect("the questions");
        let first = questions.lines().next().expect("a question");
        let question: serde_json::Value = serde_json::from_str(first).expect("JSON");
        question["expect"].as_str().expect("an answer").to_owned()
    }

    fn reply(&self, answer: &str) -> String {
        serde_json::json!({"choices": [{"message": {"content": answer}}]}).to_string()
    }

    /// Runs the script, on a port where nothing of this system answers.
    fn run(&self, arguments: &[&str]) -> Outcome {
        let port = free_port();
        let port = if arguments.contains(&"--port") { &[][..] } else { &["--port", &port] };
        let log = self.path("log");
        fs::write(&log, "").expect("a file");
        let mut command = Command::new(self.path("tools/bash"));
        command.arg(self.path("hesper/scripts/macos")).args(port).args(arguments).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::join_paths([self.path("bin"), self.path("tools")]).expect("plain paths"));
        command.env("HOME", self.folder.path()).env("STUBS", self.folder.path()).envs(&self.environment);
        let output = command.output().expect("bash starts");
        let calls = fs::read_to_string(&log).expect("the log");
        let asks = [
            "uname",
            "sysctl",
            "sw_vers",
            "brew --version",
            "brew list",
            "brew info",
            "podman --version",
            "podman info",
            "podman machine list",
            "podman machine inspect",
            "podman image exists",
            "podman container inspect",
            "podman logs",
            "podman rm --force --ignore",
            "krunkit",
            "curl",
        ];
        let changes = calls.lines().filter(|call| !asks.iter().any(|ask| call.starts_with(ask)));
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8")).concat();
        let port = port.last().map_or(String::new(), |port| format!("127.0.0.1:{port}:"));
        let folder = self.folder.path().display().to_string();
        let plain = |call: &str| match port.as_str() {
            "" => call.replace(&folder, "~"),
            port => call.replace(&folder, "~").replace(port, "127.0.0.1:8080:"),
        };
        Outcome { code: output.status.code().expect("it ended"), changes: changes.map(plain).collect(), text }
    }
}

const RUN: &str = "scripts/image run --models ~/hesper/models --name hesper-macos --detach --publish 127.0.0.1:8080:8080 -- \
                   serve -m /models/hesper-demo-Q8_0.gguf";
const STOP: &str = "podman stop hesper-macos";
const COMPARE: &str =
    "scripts/compare --model ~/hesper/models/hesper-demo-Q8_0.gguf --out ~/hesper/.cache/compare/macos";

#[test]
fn where_everything_is_in_place_it_serves_asks_and_compares() {
    let mac = Mac::new();
    let outcome = mac.run(&[]);
    outcome.succeeds(&[RUN, STOP, COMPARE]);
    // 8 GiB count as 9 of the 62.
    outcome.holds(&["Apple M3 Max, macOS 26.1, 32768 MiB", "With 8192 MiB for the machine, 32768 MiB of GPU memory"]);
    outcome.holds(&["Device Virtio-GPU Venus (Apple M3 Max)", &format!("Answer: {}", mac.expected())]);
    let port = free_port();
    let served = mac.run(&["--serve", "--port", &port]);
    served.succeeds(&[&RUN.replace("8080:8080", &format!("{port}:8080"))]);
    served.holds(&[&format!("stays on http://127.0.0.1:{port}")]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port().to_string();
    mac.run(&["--port", &port]).fails(&[&format!("port {port} is in use"), "--port"], &[]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut mac = Mac::new().without(&["podman", "krunkit"]);
    mac.environment.insert("HESPER_IMAGE", "ghcr.io/someone/hesper-krun:0.1.0".to_owned());
    let outcome = mac.run(&["--dry-run"]);
    outcome.succeeds(&[]);
    outcome.holds(&["would run: brew install podman", "would run: brew install krunkit"]);
    outcome.holds(&["would run: podman machine init --memory 8192 hesper", "would run: podman machine start hesper"]);
    outcome.holds(&["would run: podman pull ghcr.io/someone/hesper-krun:0.1.0", "scripts/image run --models"]);
    outcome.holds(&["would ask http://127.0.0.1:", "scripts/compare --model"]);
    Mac::new().run(&["--dry-run", "--serve"]).succeeds(&[]);
}

#[test]
fn macs_that_cannot_are_told_so() {
    let mac = Mac::new();
    mac.answer("uname -s", 0, "Linux");
    mac.run(&[]).fails(&["this is Linux", "--device /dev/dri"], &[]);
    let mac = Mac::new();
    mac.answer("sysctl -n hw.optional.arm64", 1, "");
    mac.answer("sysctl -n machdep.cpu.brand_string", 0, "Intel(R) Core(TM) i9");
    mac.run(&[]).fails(&["Intel(R) Core(TM) i9 is no Apple Silicon", "natively: scripts/demo"], &[]);
    let mac = Mac::new();
    mac.answer("sw_vers -productVersion", 0, "13.7.1");
    mac.run(&[]).fails(&["macOS 13.7.1 is too old", "macOS 14"], &[]);
}

#[test]
fn tools_are_installed_where_they_are_missing() {
    let mac = Mac::new().without(&["podman", "krunkit", "brew"]);
    mac.run(&[]).fails(&["missing: podman krunkit", "https://brew.sh"], &[]);

    // The stub of brew installs nothing, so podman stays missing, which must not pass.
    let mac = Mac::new().without(&["podman", "krunkit"]);
    let outcome = mac.run(&[]);
    assert_eq!(outcome.changes[..2], ["brew install podman", "brew install krunkit"], "{}", outcome.text);
    assert_ne!(outcome.code, 0, "{}", outcome.text);

    let mac = Mac::new().without(&["krunkit"]);
    mac.answer("brew info --formula krunkit", 1, "");
    mac.run(&[]).succeeds(&[
        "brew tap libkrun/krun",
        "brew trust libkrun/krun",
        "brew install krunkit",
        RUN,
        STOP,
        COMPARE,
    ]);
    mac.answer("brew --version", 0, "Homebrew 5.0.3");
    mac.run(&[]).succeeds(&["brew tap libkrun/krun", "brew install krunkit", RUN, STOP, COMPARE]);
    mac.answer("brew install krunkit", 1, "");
    mac.run(&[]).fails(&["brew install krunkit failed"], &["brew tap libkrun/krun", "brew install krunkit"]);

    let mac = Mac::new();
    mac.answer("brew list --versions", 1, "libkrun-efi 1.16.0");
    let outcome = mac.run(&[]);
    outcome.succeeds(&[RUN, STOP, COMPARE]);
    outcome.holds(&["warning: libkrun 1.16.0 can lose a fence", "brew upgrade libkrun krunkit"]);
}

#[test]
fn a_machine_is_made_where_there_is_none_of_the_right_kind() {
    let made = ["podman machine init --memory 8192 hesper", "podman machine start hesper", RUN, STOP, COMPARE];
    let mac = Mac::new();
    mac.answer("podman machine list", 0, "");
    mac.run(&[]).succeeds(&made);
    mac.answer("podman machine list", 0, "podman-machine-default* applehv false");
    mac.run(&[]).succeeds(&made);
    mac.run(&["--machine", "podman-machine-default"]).fails(&["has no GPU", "its kind cannot be changed"], &[]);

    // Only one may run.
    mac.answer("podman machine list", 0, "podman-machine-default* applehv true");
    let init = "podman machine init --memory 8192 hesper";
    mac.run(&[]).fails(&["podman machine stop podman-machine-default", "--stop-others"], &[init]);
    let stopped = [&[init, "podman machine stop podman-machine-default"], &made[1..]].concat();
    mac.run(&["--stop-others"]).succeeds(&stopped);

    // Podman 5 lists other kinds only when asked to.
    mac.answer("podman --version", 0, "podman version 5.7.1");
    mac.answer("podman machine list", 0, "");
    mac.answer("podman machine list --all-providers", 0, "vm libkrun false");
    mac.run(&[]).succeeds(&["podman machine start vm", RUN, STOP, COMPARE]);
    mac.answer("podman machine start", 125, "");
    mac.run(&[]).fails(&["does not start", "krunkit"], &["podman machine start vm"]);
}

#[test]
fn memory_is_checked_and_explained() {
    let mac = Mac::new();
    mac.answer("podman machine inspect", 0, "2048");
    let outcome = mac.run(&[]);
    outcome.fails(&["podman-machine-default has 2048 MiB", "scripts/macos --resize --memory 8192"], &[]);
    let resized = [
        "podman machine stop podman-machine-default",
        "podman machine set --memory 16384 podman-machine-default",
        "podman machine start podman-machine-default",
        RUN,
        STOP,
        COMPARE,
    ];
    let outcome = mac.run(&["--resize", "--memory", "16384"]);
    outcome.succeeds(&resized);
    outcome.holds(&["With 16384 MiB for the machine, 32768 MiB"]);
    mac.run(&["--resize", "--memory", "1024"]).fails(&["give from 4096 to 61440 MiB"], &[]);

    let mac = Mac::new();
    mac.answer("sysctl -n hw.memsize", 0, "137438953472");
    mac.answer("podman machine inspect", 0, "98304");
    mac.run(&[]).fails(&["has 98304 MiB"], &[]);
    mac.answer("podman machine inspect", 0, "8192");
    mac.run(&["--dry-run"]).holds(&["With 8192 MiB for the machine, 54272 MiB of GPU memory"]);

    let mac = Mac::new();
    mac.answer("sysctl -n hw.memsize", 0, "8589934592");
    mac.answer("podman machine list", 0, "");
    mac.run(&["--dry-run"]).holds(&["podman machine init --memory 4096 hesper", "8192 MiB of GPU memory"]);
}

#[test]
fn an_image_is_pulled_or_built() {
    let mut mac = Mac::new();
    mac.answer("podman image exists", 1, "");
    mac.run(&[]).succeeds(&["scripts/image build --krun", RUN, STOP, COMPARE]);
    let image = "ghcr.io/someone/hesper-krun:0.1.0";
    mac.environment.insert("HESPER_IMAGE", image.to_owned());
    let pull = format!("podman pull {image}");
    mac.run(&[]).succeeds(&[&pull, RUN, STOP, COMPARE]);
    mac.answer("podman pull", 125, "");
    let outcome = mac.run(&[]);
    outcome.succeeds(&[&pull, "scripts/image build --krun", RUN, STOP, COMPARE]);
    outcome.holds(&["it cannot be pulled", "building localhost/hesper-krun:latest"]);
    mac.answer("scripts/image build", 1, "");
    mac.run(&[]).fails(&["cannot be built", "HESPER_IMAGE"], &[&pull, "scripts/image build --krun"]);
}

#[test]
fn a_container_that_fails_is_shown_to_the_doctor() {
    const DOCTOR: &str = "scripts/image run -- doctor";
    let mac = Mac::new();
    mac.answer("scripts/image run -- doctor", 1, "warn  vulkan  stock Mesa in a krunkit guest");
    mac.answer("podman logs --tail", 0, "the Vulkan driver refused to start");
    mac.answer("podman container inspect", 0, "false");
    mac.answer("curl --silent --fail", 7, "");
    let outcome = mac.run(&[]);
    outcome.fails(&["ended before it was ready", "names what to mend first"], &[RUN, DOCTOR]);
    outcome.holds(&["the Vulkan driver refused to start", "stock Mesa in a krunkit guest"]);

    let mut mac = Mac::new();
    mac.environment.insert("HESPER_WAIT_SECONDS", "0".to_owned());
    mac.answer("curl --silent --fail", 7, "");
    mac.run(&[]).fails(&["not ready after 0 s"], &[RUN, DOCTOR]);

    let mac = Mac::new();
    mac.answer("scripts/image run --models", 125, "");
    mac.run(&[]).fails(&["the container does not start"], &[RUN, DOCTOR]);

    let mac = Mac::new();
    mac.answer("curl --silent --show-error", 0, &mac.reply("garbage"));
    mac.run(&[]).fails(&["the driver computes wrongly"], &[RUN, DOCTOR]);

    let mac = Mac::new();
    mac.answer("scripts/compare", 1, "");
    mac.run(&[]).fails(&["the comparison failed", "scripts/compare --model"], &[RUN, STOP, COMPARE]);
}

#[test]
fn wrong_usage_exits_2_and_wrong_models_1() {
    let mac = Mac::new();
    for arguments in [&["--no-such"][..], &["--model"], &["--memory", "8G"], &["--port", "0"]] {
        let outcome = mac.run(arguments);
        assert_eq!((outcome.code, outcome.changes.len()), (2, 0), "{arguments:?}: {}", outcome.text);
    }
    mac.run(&["--model", "/nonexistent.gguf"]).fails(&["there is no model /nonexistent.gguf"], &[]);
    mac.run(&["--model", "/bin/sh"]).fails(&["outside the folders that a podman machine sees"], &[]);
    let help = mac.run(&["--help"]);
    help.succeeds(&[]);
    help.holds(&["--dry-run", "HESPER_IMAGE"]);
}
