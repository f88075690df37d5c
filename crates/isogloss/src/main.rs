//! `isogloss`: the command line and the pipeline runner. Every stage is a subcommand that works on plain files
//! (`commands/`); `run` works on a pipeline file (`pipeline/`), which `plan.rs` expands to steps, `stages.rs` says what
//! each step reads and does, and `runner.rs` does those that the store does not hold yet.

mod cli;
mod commands;
mod console;
mod pipeline;
mod plan;
mod remote;
mod runner;
mod schedule;
mod stages;
mod status;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::Cli::of_arguments()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console::fail(&error),
    }
}
