//! `hesper devices` and `hesper doctor`: what this machine offers.

use anyhow::Result;
use clap::builder::BoolishValueParser;
use hesper::gpu::{Surroundings, Vulkan, choose, device, doctor as examination};
use std::io::{self, Write};
use std::process::ExitCode;

/// List the Vulkan devices of this machine
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper devices")]
pub struct DevicesFlags {}

/// Look at everything between Hesper and a GPU, and say what to do where it is broken
///
/// Exits 0 when a device is usable and 1 when none is.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper doctor\n  hesper doctor --allow-software && echo usable")]
pub struct DoctorFlags {
    /// A software device counts as usable.
    #[arg(long, env = "HESPER_ALLOW_SOFTWARE", value_parser = BoolishValueParser::new())]
    allow_software: bool,
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
    let report = examination::examine();
    write!(io::stdout(), "{report}")?;
    let software = || {
        let surroundings = Surroundings::detect();
        Vulkan::open().is_ok_and(|vulkan| choose(vulkan.devices(), "auto", true, &surroundings).is_ok())
    };
    let usable = report.usable || (flags.allow_software && software());
    writeln!(io::stdout(), "\n{}", if usable { "A device is usable." } else { "No device is usable." })?;
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
