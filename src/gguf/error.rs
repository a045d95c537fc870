//! What can be wrong with a file, said so that its owner knows where and what to do.

use std::fmt;

/// Why a GGUF file, or one value of it, could not be read. Every text names the file and the place in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system would not open, measure or map the file.
    #[error("cannot open {file}: {source}; check the path and that you may read it")]
    Open { file: String, source: std::io::Error },
    /// The bytes are not a GGUF file this program reads.
    #[error("{file}: {place}: {problem}; {advice}")]
    Format { file: String, place: Place, problem: String, advice: &'static str },
    /// The file is one part of several and the others do not fit it.
    #[error("{file}: {problem}")]
    Split { file: String, problem: String },
    /// The metadata lacks a key that the caller cannot do without.
    #[error("{file}: key {key:?} is missing; the file is not a complete model, or was converted by too old a tool")]
    MissingKey { file: String, key: String },
    /// A key is there but its value is of another kind or out of range.
    #[error("{file}: key {key:?} is {found}, but {wanted} is needed; convert the model again")]
    WrongKind { file: String, key: String, found: String, wanted: &'static str },
    /// The file lacks a tensor that the caller cannot do without.
    #[error("{file}: tensor {tensor:?} is missing; the file is not a complete model")]
    MissingTensor { file: String, tensor: String },
}

/// Where in a file something is wrong. Bytes count from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Byte(u64),
    Key { key: String, byte: u64 },
    Tensor { name: String, byte: u64 },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Byte(byte) => write!(f, "byte {byte}"),
            Place::Key { key, byte } => write!(f, "key {} (byte {byte})", quoted(key)),
            Place::Tensor { name, byte } => write!(f, "tensor {} (byte {byte})", quoted(name)),
        }
    }
}

/// `text` in quotes, escaped, and cut after 80 characters: names from a hostile file must not fill a terminal.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

const DAMAGED: &str = "the file is damaged or incomplete: download it again";

/// A problem found while parsing bytes whose file name the parser does not know.
#[derive(Debug)]
pub(super) struct Fault {
    pub place: Place,
    problem: String,
    advice: &'static str,
}

impl Fault {
    /// Bytes that no correct tool writes.
    pub fn damaged(byte: usize, problem: impl Into<String>) -> Fault {
        Fault { place: Place::Byte(byte as u64), problem: problem.into(), advice: DAMAGED }
    }

    /// Correct bytes that this program does not read.
    pub fn unsupported(byte: usize, problem: impl Into<String>, advice: &'static str) -> Fault {
        Fault { place: Place::Byte(byte as u64), problem: problem.into(), advice }
    }

    /// The same problem, named after the metadata key in whose value it is.
    pub fn in_key(mut self, key: &str) -> Fault {
        self.place = Place::Key { key: key.to_owned(), byte: self.byte() };
        self
    }

    /// The same problem, named after the tensor in whose description it is.
    pub fn in_tensor(mut self, name: &str) -> Fault {
        self.place = Place::Tensor { name: name.to_owned(), byte: self.byte() };
        self
    }

    pub fn in_file(self, file: &str) -> Error {
        Error::Format { file: file.to_owned(), place: self.place, problem: self.problem, advice: self.advice }
    }

    fn byte(&self) -> u64 {
        match self.place {
            Place::Byte(byte) | Place::Key { byte, .. } | Place::Tensor { byte, .. } => byte,
        }
    }
}
