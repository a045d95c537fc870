//! `hesper devices` and `hesper doctor`: what this machine offers.

use anyhow::{Context, Result, anyhow};
use clap::builder::BoolishValueParser;
use hesper::gpu::doctor::{self as examination, Facts};
use hesper::gpu::{Surroundings, Vulkan, choose, device};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// List the Vulkan devices of this machine
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper devices")]
pub struct DevicesFlags {}

/// Look at everything between Hesper and a GPU, and say what to do where it is broken
///
/// Exits 0 when a device is usable and 1 when none is.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper doctor\n  hesper doctor --allow-software && echo usable\n  \
                        hesper doctor --json\n  hesper doctor --facts > facts.json\n  \
                        hesper doctor --from facts.json")]
pub struct DoctorFlags {
    /// A software device counts as usable.
    #[arg(long, env = "HESPER_ALLOW_SOFTWARE", value_parser = BoolishValueParser::new())]
    allow_software: bool,
    /// Print the report as JSON (docs/doctor.md describes it).
    #[arg(long, env = "HESPER_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// Print what is known of this machine, as JSON, without judging it: to be sent to whoever helps.
    #[arg(long, env = "HESPER_FACTS", value_parser = BoolishValueParser::new(), conflicts_with_all = ["from", "json"])]
    facts: bool,
    /// Judge the facts in this file, which --facts wrote on some machine, instead of this machine's.
    #[arg(long, env = "HESPER_FROM", value_name = "FILE")]
    from: Option<PathBuf>,
}

pub fn devices() -> Result<ExitCode> {
    let vulkan = Vulkan::open()?;
    // Says what is missing where the list is empty.
    if vulkan.devices().is_empty() {
        choose(vulkan.devices(), "auto", true, &Surroundings::detect())?;
    }
    write!(io::stdout(), "{}", device::table(vulkan.devices()))?;
    Ok(ExitCode::SUCCESS)
}

pub fn doctor(flags: &DoctorFlags) -> Result<ExitCode> {
    let facts = match &flags.from {
        Some(path) => recorded(path)?,
        None => examination::gather(),
    };
    if flags.facts {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&facts)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = examination::diagnose(&facts, flags.allow_software);
    if flags.json {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(io::stdout(), "{report}")?;
    }
    Ok(if report.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn recorded(path: &Path) -> Result<Facts> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot open {shown}; check the path"))?;
    Facts::parse(&bytes).map_err(|problem| anyhow!("{shown} cannot be judged: {problem}"))
}
