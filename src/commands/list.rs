//! `hesper list`: the models of the folder.

use super::flags::ModelsFlag;
use anyhow::Result;
use clap::builder::BoolishValueParser;
use hesper::pull::{Entry, State, gigabytes};
use serde_json::json;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// List the models that can be given by name
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper list\n  hesper list --json\n  HESPER_MODELS=/models hesper list")]
pub struct Flags {
    #[command(flatten)]
    models: ModelsFlag,
    /// Print JSON.
    #[arg(long, env = "HESPER_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

pub fn list(flags: &Flags) -> Result<ExitCode> {
    let store = flags.models.store()?;
    let entries = store.list()?;
    let mut out = BufWriter::new(io::stdout().lock());
    if flags.json {
        let models: Vec<serde_json::Value> = entries.iter().map(as_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&models)?)?;
    } else if entries.is_empty() {
        writeln!(out, "{} holds no model; `hesper pull hf://OWNER/REPOSITORY` gets one", store.folder().display())?;
    } else {
        let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0).max("name".len());
        writeln!(out, "{:width$}  {:>9}  {:29}  source", "name", "size", "pulled")?;
        for entry in &entries {
            let pulled = entry.record.as_ref().map_or("", |record| record.pulled.as_str());
            writeln!(out, "{:width$}  {:>9}  {pulled:29}  {}", entry.name, gigabytes(bytes(entry)), origin(entry))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn bytes(entry: &Entry) -> u64 {
    match entry.state {
        State::Partial { done_bytes, .. } => done_bytes,
        _ => entry.bytes,
    }
}

/// Where a model came from, or what lacks.
fn origin(entry: &Entry) -> String {
    match &entry.state {
        State::Complete => entry.record.as_ref().map_or("put there as a file", |record| &record.source).to_owned(),
        State::Partial { source: Some(source), .. } => format!("incomplete; `hesper pull {source}` gets the rest"),
        State::Partial { source: None, .. } => "incomplete; pull it again".to_owned(),
        State::PartsMissing { count } => format!("incomplete: {} of {count} parts", entry.files.len()),
    }
}

fn as_json(entry: &Entry) -> serde_json::Value {
    let source = match (&entry.state, &entry.record) {
        (State::Partial { source, .. }, _) => source.clone(),
        (_, record) => record.as_ref().map(|record| record.source.clone()),
    };
    json!({
        "name": entry.name,
        "bytes": bytes(entry),
        "complete": entry.state == State::Complete,
        "source": source,
        "pulled": entry.record.as_ref().map(|record| &record.pulled),
        "files": entry.files,
        "sha256": entry.record.as_ref().map(|record| record.files.iter().map(|file| &file.sha256).collect::<Vec<_>>()),
    })
}
