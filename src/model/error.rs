//! Why a file cannot be served.

use crate::gguf;
use crate::plan::ExecutorError;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    File(#[from] gguf::Error),
    #[error("{file}: architecture {found:?} is not supported; supported are {supported}")]
    Architecture { file: String, found: String, supported: String },
    /// The file's keys and tensors contradict each other, or ask for something that is not built.
    #[error("{file}: {problem}")]
    Unusable { file: String, problem: String },
    #[error(transparent)]
    Device(#[from] ExecutorError),
    #[error("{0}")]
    Budget(String),
}
