//! `isogloss path`: the folder of an artifact in the store, for scripts.

use anyhow::Result;
use artifact::bail_user;
use artifact::config::nearest;
use artifact::store::Store;
use clap::Args as ClapArgs;

use super::status::OfPipeline;
use crate::console::print;
use crate::pipeline::load;
use crate::plan::{Plan, Stage};
use crate::runner::Runner;

/// Prints the folder of a stage's output; of a stage with several runs, one folder a line.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss path pipelines/quickstart.toml report
  isogloss path pipelines/quickstart.toml train --run base.math.en-es.additive.n100.d1.t1")]
pub struct Args {
    #[command(flatten)]
    of: OfPipeline,

    /// The stage.
    stage: Stage,

    /// The run, of a stage that is done for each; `isogloss run --dry-run` lists them.
    #[arg(long, value_name = "RUN_ID")]
    run: Option<String>,
}

/// Does what `isogloss path` was asked for.
pub fn run(args: Args) -> Result<()> {
    let plan = Plan::new(load(&args.of.pipeline)?)?;
    let store = Store::open(&args.of.store)?;
    let runner = Runner::new(&plan, &store);
    runner.find_all()?;
    for step in steps(&plan, &args)? {
        let Some(stored) = runner.find(step)? else {
            bail_user!(
                "the output of {} is not in the store {} for the present settings and inputs; \
                 `isogloss run {}` makes it",
                plan.steps[step].name,
                args.of.store.display(),
                args.of.pipeline.display()
            );
        };
        print(stored.path.display())?;
    }
    Ok(())
}

fn steps(plan: &Plan, args: &Args) -> Result<Vec<usize>> {
    let steps = plan.of_stage(args.stage);
    let stage = args.stage.name();
    if steps.is_empty() {
        bail_user!("the pipeline {} has no stage {stage}", plan.pipeline.name);
    }
    let Some(id) = &args.run else { return Ok(steps) };
    let Some(run) = plan.runs.iter().position(|run| run.id == *id) else {
        let ids = plan.runs.iter().map(|run| run.id.as_str());
        let near = nearest(id, ids).map_or(String::new(), |near| format!("; did you mean {near}?"));
        bail_user!("the pipeline {} has no run {id}{near}", plan.pipeline.name);
    };
    match plan.find(args.stage, Some(run)) {
        Some(step) => Ok(vec![step]),
        None => bail_user!("{stage} is not done for each run; leave --run out"),
    }
}
