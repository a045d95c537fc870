//! `hesper logits`: what the model computes, for comparison with other programs.

use super::flags::{DeviceFlags, KvTypeFlag, ModelFlag, Sharing};
use super::load;
use anyhow::{Context, Result, bail};
use hesper::gguf::Gguf;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write the logits after every token of a sequence to a file
///
/// The file holds one row of vocabulary-many 32-bit little-endian floats for each token; "rows cols" is printed.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper logits -m model.gguf --tokens 1,2,3 -o out.f32")]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlag,
    /// Token ids, with commas between.
    #[arg(long, env = "HESPER_TOKENS", value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// The file to write.
    #[arg(short, long, env = "HESPER_OUT", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    kv_type: KvTypeFlag,
    #[command(flatten)]
    device: DeviceFlags,
}

pub fn logits(flags: &Flags) -> Result<ExitCode> {
    super::vectors::widen(&flags.device);
    let gguf = Gguf::open(flags.model.path()?)?;
    let mut notes = io::stderr();
    let gpu = load::device(&flags.device, &mut notes)?;
    let context_tokens = u32::try_from(flags.tokens.len()).context("too many tokens")?.max(2);
    let sharing = Sharing::alone(Some(context_tokens), flags.kv_type.kv_type());
    let planned = load::plan(&gguf, gpu.info(), &flags.device, &sharing, &mut notes)?;
    let vocabulary = planned.model.dims.vocabulary;
    if let Some(token) = flags.tokens.iter().find(|token| **token >= vocabulary) {
        bail!("--tokens holds {token}, but the model has {vocabulary} tokens, from 0 on");
    }
    let failed = || format!("cannot write {}; check the path and that there is room", flags.out.display());
    let mut file = BufWriter::new(File::create(&flags.out).with_context(failed)?);
    let mut runner = load::load(planned, &gguf, gpu, &flags.device, &mut notes, |_| ())?;
    let mut written = Ok(());
    runner.logits(&flags.tokens, &mut |rows| {
        if written.is_ok() {
            written = rows.iter().try_for_each(|logit| file.write_all(&logit.to_le_bytes()));
        }
    })?;
    written.and_then(|()| file.flush()).with_context(failed)?;
    writeln!(io::stdout(), "{} {vocabulary}", flags.tokens.len())?;
    Ok(ExitCode::SUCCESS)
}
