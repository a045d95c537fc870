//! `hesper rm`: models out of the folder.

use super::flags::ModelsFlag;
use anyhow::Result;
use hesper::pull::gigabytes;
use std::io::{self, Write};
use std::process::ExitCode;

/// Remove models, or what is left of an interrupted download, from the folder of models
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper rm Qwen3-0.6B-Q8_0\n  hesper rm ollama://qwen3:0.6b other-model")]
pub struct Flags {
    #[command(flatten)]
    models: ModelsFlag,
    /// Names of `hesper list`, or the sources that they were pulled from.
    #[arg(required = true, value_name = "MODEL")]
    names: Vec<String>,
}

pub fn rm(flags: &Flags) -> Result<ExitCode> {
    let store = flags.models.store()?;
    for text in &flags.names {
        let (name, bytes) = store.remove(text)?;
        writeln!(io::stdout(), "Removed {name} ({})", gigabytes(bytes))?;
    }
    Ok(ExitCode::SUCCESS)
}
