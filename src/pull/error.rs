//! What can go wrong between a reference and a model on the disk, said so that its user knows what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a model could not be pulled, listed, found or removed. No text holds a token or the query of an address, which
/// may be a signature.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{text:?} is not a model's source: {problem}; give hf://OWNER/REPOSITORY[:QUANT], \
         hf://OWNER/REPOSITORY/FILE.gguf, ollama://NAME[:TAG], oci://REGISTRY/REPOSITORY:TAG, an http(s):// address or \
         a file"
    )]
    Reference { text: String, problem: String },
    #[error("{}: {source}; {advice}", path.display())]
    File { path: PathBuf, source: io::Error, advice: &'static str },
    /// No connection to the host: its name is unknown, nothing answers, or its certificate is not trusted.
    #[error("{host} cannot be reached: {cause}; check the network, or the proxy in HTTPS_PROXY")]
    Unreachable { host: String, cause: String },
    /// The connection ended or stayed silent in the middle.
    #[error("{url}: {problem}")]
    Broken { url: String, problem: String },
    /// An answer that is no success.
    #[error("{url}: the server answers {status}{}", wait.map(|wait| format!(" and asks to wait {} s", wait.as_secs())).unwrap_or_default())]
    Status { url: String, status: u16, wait: Option<Duration>, challenge: Option<String> },
    /// An answer that breaks a promise of this or an earlier one. Trying again would not help.
    #[error("{url}: {problem}")]
    Answer { url: String, problem: String },
    /// The file is another one than when the download began.
    #[error("{url}: the file changed while it was downloaded; pull it again")]
    Changed { url: String },
    #[error("{what}; {advice}")]
    Refused { what: String, advice: String },
    #[error(
        "{file}: its SHA-256 is {found}, but the source states {wanted}; what was downloaded is removed: pull it again, \
         and if that ends the same, the file at the source is damaged"
    )]
    Digest { file: String, wanted: String, found: String },
    #[error("{file}: this is not a GGUF file: it begins with \"{begin}\"; give the source of a model in that format")]
    Magic { file: String, begin: String },
    #[error(
        "{} has {} free, but {} more are needed; make room, or choose another folder with --models",
        folder.display(), gigabytes(*free_bytes), gigabytes(*needed_bytes)
    )]
    Space { folder: PathBuf, free_bytes: u64, needed_bytes: u64 },
    #[error("{name}: another process is pulling or removing this model; wait for it to end")]
    Locked { name: String },
    #[error(
        "{name} is there already, {origin}; give the new one another name with --name, or remove it with `hesper rm {name}`"
    )]
    Taken { name: String, origin: String },
    #[error("there is no file and no model named {text:?}; {there}; {advice}")]
    Unknown { text: String, there: String, advice: String },
    #[error("{name:?} cannot be a model's name: {problem}; give one with --name, of letters, digits and . _ + -")]
    Name { name: String, problem: &'static str },
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Broken { .. } => true,
            Error::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// How long the server asked to wait before the next request.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Error::Status { wait, .. } => *wait,
            _ => None,
        }
    }

    pub(super) fn file(path: impl Into<PathBuf>, advice: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull => {
                Error::File { path, source, advice: "make room; the same command then resumes" }
            }
            _ => Error::File { path, source, advice },
        }
    }
}

/// Bytes as a person reads them, in powers of 1000 as disks are sold: `4.20 GB`.
pub fn gigabytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
