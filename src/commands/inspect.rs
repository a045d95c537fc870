//! `hesper inspect`: what a file holds.

use super::flags::ModelsFlag;
use anyhow::Result;
use hesper::gguf::{Gguf, inspect as listing};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// List a model file's metadata and tensors
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper inspect model.gguf\n  hesper inspect model.gguf | grep rope")]
pub struct Flags {
    /// A model: a GGUF file (of a split model, the first), or a name of `hesper list`.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    models: ModelsFlag,
}

pub fn inspect(flags: &Flags) -> Result<ExitCode> {
    let gguf = Gguf::open(flags.models.resolve(&flags.model)?)?;
    let mut out = BufWriter::new(io::stdout().lock());
    listing::print(&gguf, &mut out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
