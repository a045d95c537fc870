//! `hesper inspect`: what a file holds.

use anyhow::Result;
use hesper::gguf::{Gguf, inspect as listing};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// List a model file's metadata and tensors
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper inspect model.gguf\n  hesper inspect model.gguf | grep rope")]
pub struct Flags {
    /// A model in the GGUF format; of a split model, the first file.
    file: PathBuf,
}

pub fn inspect(flags: &Flags) -> Result<ExitCode> {
    let gguf = Gguf::open(&flags.file)?;
    let mut out = BufWriter::new(io::stdout().lock());
    listing::print(&gguf, &mut out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
