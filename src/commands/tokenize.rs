//! `hesper tokenize`: text to token ids.

use super::flags::ModelFlag;
use super::load;
use anyhow::{Context, Result};
use clap::builder::BoolishValueParser;
use hesper::gguf::Gguf;
use std::io::{self, BufWriter, Read, Write};
use std::process::ExitCode;

/// Show the tokens of a text, one a line, as `id -> "text"`
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper tokenize -m model.gguf \"Hello world\"\n  \
                        hesper tokenize -m model.gguf --ids - < prompt.txt")]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlag,
    /// The text; - reads the standard input.
    text: String,
    /// Texts of special tokens are plain text, and no beginning or end token is added.
    #[arg(long, env = "HESPER_NO_SPECIAL", value_parser = BoolishValueParser::new())]
    no_special: bool,
    /// Print only the ids, as [1, 2, 3].
    #[arg(long, env = "HESPER_IDS", value_parser = BoolishValueParser::new())]
    ids: bool,
}

pub fn tokenize(flags: &Flags) -> Result<ExitCode> {
    let text = load::text(&Gguf::open(flags.model.path()?)?)?;
    let mut input = flags.text.clone();
    if input == "-" {
        input.clear();
        io::stdin().read_to_string(&mut input).context("the standard input cannot be read as UTF-8 text")?;
    }
    let ids = if flags.no_special { text.encode(&input, false) } else { text.encode_prompt(&input, true) };
    let mut out = BufWriter::new(io::stdout().lock());
    if flags.ids {
        writeln!(out, "{ids:?}")?;
    } else {
        for id in ids {
            writeln!(out, "{id:>6} -> {:?}", text.token_text(id))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
