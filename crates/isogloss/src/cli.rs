//! The command line: the subcommands with their help, the settings that all share, and the way to each. One file a
//! subcommand stands in `commands/`, holding its arguments and what it does.

use anyhow::{Context as _, Result};
use artifact::context::Context;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{commands, console};

/// Measures where a skill taught in some languages arrives: mixtures of training data in, transfer tables out.
///
/// Every stage is a command that works on plain files; `run` works on a pipeline file and a store that keeps what was
/// made. Results go to stdout, logs and progress to stderr. Exit status: 0 done, 2 the input, settings or arguments
/// are at fault, 1 anything else.
#[derive(Parser)]
#[command(version, max_term_width = 100, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Threads to compute with [default: one a core]. Results do not depend on it.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,

    /// No log lines and no progress; results, warnings and errors remain.
    #[arg(long, short, global = true)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  isogloss run pipelines/quickstart.toml            the whole study in small, from data to report
  isogloss status pipelines/quickstart.toml         what is done, what is stale and why
  isogloss ingest 'data/*.jsonl' --lang es --out d  one stage, on plain files
  isogloss inspect d/examples.parquet               a look at what came out";

#[derive(Subcommand)]
enum Command {
    Synth(commands::synth::Args),
    Ingest(commands::ingest::Args),
    Tokenizer(commands::tokenizer::Args),
    Mix(commands::mix::Args),
    Train(commands::train::Args),
    Worker(commands::worker::Args),
    Merge(commands::merge::Args),
    Prompts(commands::prompts::Args),
    Generate(commands::generate::Args),
    Eval(commands::eval::Args),
    Judge(commands::judge::Args),
    Report(commands::report::Args),
    Run(commands::run::Args),
    Status(commands::status::Args),
    Path(commands::path::Args),
    Schema(commands::schema::Args),
    Inspect(commands::inspect::Args),
}

impl Cli {
    /// Reads the arguments. Ends the process with help or, where they are at fault, with a message.
    pub fn of_arguments() -> Cli {
        let matches = Cli::numbered().get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The command line, in which `-1` is a value, to be refused by what it is given to, and no flag.
    fn numbered() -> clap::Command {
        let takes_minus = |arg: Arg| match arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        };
        Cli::command().mut_subcommands(|command| command.mut_args(takes_minus))
    }
}

/// Does what the command line asks.
pub fn run(cli: Cli) -> Result<()> {
    if let Some(threads) = cli.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads as usize)
            .build_global()
            .context("cannot start the threads")?;
    }
    let ctx = if cli.quiet { Context::quiet() } else { Context::terminal() };
    console::stop_on_interrupt(&ctx)?;
    match cli.command {
        Command::Synth(args) => commands::synth::run(args, &ctx),
        Command::Ingest(args) => commands::ingest::run(args, &ctx),
        Command::Tokenizer(args) => commands::tokenizer::run(args, &ctx),
        Command::Mix(args) => commands::mix::run(args, &ctx),
        Command::Train(args) => commands::train::run(args, &ctx),
        Command::Worker(args) => commands::worker::run(args, &ctx),
        Command::Merge(args) => commands::merge::run(args, &ctx),
        Command::Prompts(args) => commands::prompts::run(args, &ctx),
        Command::Generate(args) => commands::generate::run(args, &ctx),
        Command::Eval(args) => commands::eval::run(args, &ctx),
        Command::Judge(args) => commands::judge::run(args, &ctx),
        Command::Report(args) => commands::report::run(args, &ctx),
        Command::Run(args) => commands::run::run(args, &ctx),
        Command::Status(args) => commands::status::run(args),
        Command::Path(args) => commands::path::run(args),
        Command::Schema(args) => commands::schema::run(args),
        Command::Inspect(args) => commands::inspect::run(args, &ctx),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::numbered().debug_assert();
    }
}
