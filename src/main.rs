//! The command line: flags, then one function per subcommand. It puts the library's parts together and knows nothing
//! else; every failure ends here as one paragraph on the standard error output.

mod commands;

use clap::{Parser, Subcommand};
use commands::logging::LogFlags;
use commands::{bench, devices, health, inspect, list, load_test, logits, plan, pull, rm, run, serve, tokenize};
use std::io;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "hesper",
    version,
    about = "Serves quantized language models from Vulkan compute shaders",
    after_help = "Every flag can also be set in the environment, as HESPER_ and its long name: \
                  HESPER_ALLOW_SOFTWARE=1 is --allow-software.\n\n\
                  Examples:\n  \
                  hesper pull hf://Qwen/Qwen3-0.6B-GGUF\n  \
                  hesper serve -m model.gguf\n  \
                  hesper run -m model.gguf \"Why is the sky blue?\"\n  \
                  hesper doctor"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogFlags,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Flags),
    Run(run::Flags),
    Bench(bench::Flags),
    Load(load_test::Flags),
    Pull(pull::Flags),
    List(list::Flags),
    Rm(rm::Flags),
    Devices(devices::DevicesFlags),
    Doctor(devices::DoctorFlags),
    Health(health::Flags),
    Plan(plan::Flags),
    Tokenize(tokenize::Flags),
    Logits(logits::Flags),
    Inspect(inspect::Flags),
}

fn main() -> ExitCode {
    // Before anything that might start a thread.
    set_driver_environment();
    let cli = Cli::parse();
    match execute(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", paragraph(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let otlp = match &cli.command {
        Command::Serve(flags) => flags.otlp_endpoint(),
        _ => None,
    };
    // What it has not sent yet it sends when it is dropped.
    let _logging = cli.log.start(otlp)?;
    match cli.command {
        Command::Serve(flags) => serve::serve(&flags),
        Command::Run(flags) => run::run(&flags),
        Command::Bench(flags) => bench::bench(&flags),
        Command::Load(flags) => load_test::load(&flags),
        Command::Pull(flags) => pull::pull(&flags),
        Command::List(flags) => list::list(&flags),
        Command::Rm(flags) => rm::rm(&flags),
        Command::Devices(_) => devices::devices(),
        Command::Doctor(flags) => devices::doctor(&flags),
        Command::Health(flags) => health::health(&flags),
        Command::Plan(flags) => plan::plan(&flags),
        Command::Tokenize(flags) => tokenize::tokenize(&flags),
        Command::Logits(flags) => logits::logits(&flags),
        Command::Inspect(flags) => inspect::inspect(&flags),
    }
}

/// Variables that drivers read when they are loaded; those that the user has set stay.
fn set_driver_environment() {
    // Venus allocates without waiting and ends the process where that fails; waiting costs time at load only.
    hesper::gpu::set_driver_environment(&[("VN_PERF", "no_async_mem_alloc")]);
}

/// The error and its causes in one line, without those that the text before already holds.
fn paragraph(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        _ if text.contains(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

/// Whoever read the output has seen enough, as `head` has.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_told_once() {
        let cause = io::Error::other("no such file");
        let error = anyhow::Error::new(cause).context("cannot open x: no such file; check the path").context("failed");
        assert_eq!(paragraph(&error), "failed: cannot open x: no such file; check the path");
    }

    #[test]
    fn every_flag_has_its_variable_and_every_command_examples() {
        let mut flags = 0;
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("hesper {name}")), "{name} --help has no example");
            for flag in command.get_arguments().filter(|flag| !flag.is_positional()) {
                let long = flag.get_long().unwrap_or_else(|| panic!("{name}: {} has no long name", flag.get_id()));
                let variable = format!("HESPER_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "{name} --{long}");
                assert!(flag.get_help().is_some(), "{name} --{long} is not explained");
                flags += 1;
            }
        }
        assert!(flags > 20, "only {flags} flags were seen");
    }
}
