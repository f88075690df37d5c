//! `isogloss status`: what is in the store, what is stale and why.

use std::path::PathBuf;

use anyhow::Result;
use artifact::store::Store;
use clap::Args as ClapArgs;

use crate::console::print;
use crate::pipeline::load;
use crate::plan::Plan;
use crate::runner::Runner;
use crate::status::{Overview, states};

/// A pipeline and its store.
#[derive(ClapArgs)]
pub struct OfPipeline {
    /// The pipeline file.
    #[arg(value_name = "PIPELINE.toml")]
    pub pipeline: PathBuf,

    /// Where outputs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub store: PathBuf,
}

/// Shows what is in the store, what is stale and why, and what was interrupted.
///
/// For a stale step it names the setting or input that changed, with the old and the new value.
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  isogloss status pipelines/quickstart.toml")]
pub struct Args {
    #[command(flatten)]
    of: OfPipeline,
}

/// Does what `isogloss status` was asked for.
pub fn run(args: Args) -> Result<()> {
    let plan = Plan::new(load(&args.of.pipeline)?)?;
    let store = Store::open(&args.of.store)?;
    let states = states(&Runner::new(&plan, &store))?;
    print(Overview { plan: &plan, states: &states }.to_string().trim_end())
}
