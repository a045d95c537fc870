//! `hesper pull`, `list` and `rm` as their users meet them, against servers that work and that fail in every way.

mod failures;
mod hub;
mod interruptions;
mod registries;
mod server;
mod sources;
#[cfg(target_os = "linux")]
mod tls;

use server::Content;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder of models of a test's own.
struct Models {
    folder: tempfile::TempDir,
}

impl Models {
    fn new() -> Models {
        Models { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Names of all files there, in order.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The program with this folder, no variable of its own, no proxy, and little patience.
    fn hesper(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hesper"));
        command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_uppercase();
            if upper.starts_with("HESPER_") || upper.starts_with("HF_") || upper.ends_with("_PROXY") {
                command.env_remove(name);
            }
        }
        command.env("HESPER_MODELS", self.folder.path()).env("HESPER_STALL_SECONDS", "20");
        command.env("HESPER_RETRY_SECONDS", "0.01").env("HESPER_RETRIES", "3");
        command
    }

    fn pull(&self, source: &str) -> Command {
        self.hesper(&["pull", source])
    }

    /// Whether the folder holds exactly the model `name` with this content, and its record.
    fn assert_pulled(&self, name: &str, content: &Content) {
        assert_eq!(self.files(), [format!("{name}.gguf"), format!("{name}.hesper.json")]);
        assert_content(&self.path(&format!("{name}.gguf")), content);
    }
}

fn assert_content(path: &Path, content: &Content) {
    let mut file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(file.metadata().expect("a size").len(), content.bytes, "{}", path.display());
    let mut found = Vec::new();
    content
        .each(0..content.bytes, |bytes| {
            found.resize(bytes.len(), 0);
            std::io::Read::read_exact(&mut file, &mut found)?;
            assert!(found == bytes, "{} has other bytes", path.display());
            Ok(())
        })
        .expect("it is read");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Runs a command that must succeed; what it printed on both outputs.
fn succeed(mut command: Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    assert!(status.success(), "{command:?}: {status}\n{}", text(&stderr));
    (text(&stdout), text(&stderr))
}

/// Runs a command that must fail with exit code 1; the paragraph it ends with.
fn fail(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the program starts");
    let stderr = text(&stderr);
    assert_eq!(status.code(), Some(1), "{command:?}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    let [paragraph] = errors[..] else { panic!("{command:?}: {stderr}") };
    assert_eq!(stderr.lines().last().and_then(|line| line.strip_prefix("error: ")), Some(paragraph), "{stderr}");
    paragraph.to_owned()
}

fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}
