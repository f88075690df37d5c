//! `isogloss run`: a pipeline file from beginning to end, or the part of it that is asked for.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ::eval::judge::{self, Estimate, URL_VARIABLE};
use ::mix::{Planned, mixtures_table};
use ::train::device::Device;
use anyhow::{Context as _, Result};
use artifact::error::is_interrupted;
use artifact::store::{Store, Stored};
use artifact::text::TextTable;
use artifact::{Context, bail_user, hash};
use clap::Args as ClapArgs;

use super::files::Scratch;
use super::status::OfPipeline;
use super::worker;
use crate::console::print;
use crate::pipeline::load;
use crate::plan::{Plan, Stage};
use crate::runner::{Runner, Selection};
use crate::stages;
use crate::status::{Overview, State, states};

/// Runs a pipeline file: every step that the store does not hold yet.
///
/// A step is done again when its settings or the content of its inputs changed, and only then. An
/// interrupted or killed run goes on where it stood; training goes on from its last checkpoint.
#[derive(ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    of: OfPipeline,

    /// Does this stage alone; what it needs must be in the store.
    #[arg(long, value_name = "STAGE", conflicts_with = "from")]
    only: Option<Stage>,

    /// Does this stage and those after it; what it needs must be in the store.
    #[arg(long, value_name = "STAGE")]
    from: Option<Stage>,

    /// Training runs side by side, each with its share of the threads. Results do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,

    /// Lists the runs with their token counts, what memory training takes, and what is in the store; does nothing.
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: plans the memory of training for a card of this size that need not be there (141GB, 80GiB).
    #[arg(long, value_name = "SIZE", requires = "dry_run", value_parser = super::train::card_memory)]
    memory: Option<u64>,

    /// Where models run: auto, cpu or cuda.
    #[arg(long, value_name = "DEVICE", value_parser = super::train::device)]
    device: Option<Device>,

    /// Processes that share each training: one a card, or with a part of the threads each.
    #[arg(long, value_name = "N")]
    ranks: Option<usize>,
}

const EXAMPLES: &str = "\
Examples:
  isogloss run pipelines/quickstart.toml --jobs 2
  isogloss run study.toml --dry-run            what would be done, and how much data that is
  isogloss run study.toml --only eval          after changing [eval]: scores alone, nothing before them
  isogloss run study.toml --from eval          the same, and the report";

/// Does what `isogloss run` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    if worker::serves_another(ctx)? {
        return Ok(());
    }
    let ranks = worker::ranks(ctx)?;
    let mut pipeline = load(&args.of.pipeline)?;
    pipeline.train.ranks = args.ranks.or(pipeline.train.ranks);
    pipeline.check_side_by_side()?;
    if let Some(device) = args.device {
        pipeline.set_device(device);
    }
    let plan = Plan::new(pipeline)?;
    let store = Store::open(&args.of.store)?;
    let runner = Runner::new(&plan, &store).on(ranks);
    if args.dry_run {
        return dry_run(&runner, args.memory, ctx);
    }
    if plan.pipeline.judge.is_some() && !plan.pipeline.judges() {
        ctx.warn(format!(
            "no endpoint for the judge: give [judge] base_url, or set {URL_VARIABLE}; the report has the other metrics alone"
        ));
    }
    let selection = match (args.only, args.from) {
        (Some(stage), _) => Selection::Only(stage),
        (_, Some(stage)) => Selection::From(stage),
        _ => Selection::All,
    };
    let outcome =
        runner.run(selection, args.jobs.into(), ctx).map_err(|error| {
            match is_interrupted(&error) {
                true => {
                    error.context("what was finished is kept, the same command goes on from there")
                }
                false => error,
            }
        })?;
    if let Some(report) = &outcome.report {
        print(format!("{report}\n"))?;
    }
    match outcome.done {
        0 => print(format!("nothing to do: all {} steps are in the store", outcome.steps))?,
        done if done == outcome.steps => print(format!("all {done} steps done"))?,
        done => {
            print(format!("{done} of {} steps done, the others were in the store", outcome.steps))?
        }
    }
    where_to_look(&runner)
}

/// Says where the report is, and the exported model.
fn where_to_look(runner: &Runner<'_>) -> Result<()> {
    runner.find_all()?;
    let output = |stage| match runner.plan.find(stage, None) {
        Some(step) => runner.find(step),
        None => Ok(None),
    };
    if let Some(report) = output(Stage::Report)? {
        let link = link_report(runner, &report)?;
        print(format!("report: {}", link.join("index.html").display()))?;
    }
    let Some(export) = &runner.plan.pipeline.export else { return Ok(()) };
    if let Some(step) = runner.plan.find(Stage::Train, Some(0))
        && let Some(trained) = runner.find(step)?
    {
        copy_model(&trained.path.join("model"), &export.model)?;
        print(format!("model: {}", export.model.display()))?;
    }
    Ok(())
}

/// `<store>/reports/<pipeline>` always leads to the pipeline's latest report.
fn link_report(runner: &Runner<'_>, report: &Stored) -> Result<PathBuf> {
    let folder = runner.store.root().join("reports");
    let link = folder.join(&runner.plan.pipeline.name);
    let key = report.path.file_name().context("a report without a key")?;
    let target = Path::new("..").join(Stage::Report.name()).join(key);
    if std::fs::read_link(&link).is_ok_and(|now| now == target) {
        return Ok(link);
    }
    let context = || format!("cannot link {}", link.display());
    std::fs::create_dir_all(&folder).with_context(context)?;
    // A link cannot be changed in place; a new one is renamed over it.
    let fresh = folder.join(format!(".{}.{}", runner.plan.pipeline.name, std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    symlink(target, &fresh).with_context(context)?;
    std::fs::rename(&fresh, &link).with_context(context)?;
    Ok(link)
}

/// Copies the model's folder to `to`, whole or not at all, unless it is there already.
fn copy_model(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("cannot copy the model to {}", to.display());
    if to.is_dir() && hash::hash_dir(to)? == hash::hash_dir(from)? {
        return Ok(());
    }
    if to.exists() && !to.join("config.json").exists() {
        bail_user!(
            "export.model: {} exists and is not a model folder; name another one",
            to.display()
        );
    }
    let parent = to.parent().context("export.model has no parent folder")?;
    let name = to.file_name().context("export.model has no name")?.to_string_lossy();
    let fresh = parent.join(format!(".{name}.partial"));
    let old = parent.join(format!(".{name}.old"));
    for leftover in [&fresh, &old] {
        let _ = std::fs::remove_dir_all(leftover);
    }
    for file in hash::files_below(from)? {
        let target = fresh.join(file.strip_prefix(from)?);
        std::fs::create_dir_all(target.parent().unwrap_or(&fresh)).with_context(context)?;
        std::fs::copy(&file, &target).with_context(context)?;
    }
    if to.exists() {
        std::fs::rename(to, &old).with_context(context)?;
    }
    std::fs::rename(&fresh, to).with_context(context)?;
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

/// Says what would be done. Examples that are not in the store are made in a temporary one, for the
/// token counts.
fn dry_run(runner: &Runner<'_>, card: Option<u64>, ctx: &Context) -> Result<()> {
    let plan = runner.plan;
    runner.fetch_sources(ctx)?;
    let states = states(runner)?;
    let mixtures = planned(runner, ctx)?;
    if !mixtures.is_empty() {
        print(format!("{}\n", mixtures_table(&mixtures).to_string().trim_end()))?;
    }
    let stages = match plan.pipeline.judges() {
        true => &[Stage::Train, Stage::Generate, Stage::Eval, Stage::Judge][..],
        false => &[Stage::Train, Stage::Generate, Stage::Eval][..],
    };
    let header: Vec<&str> =
        std::iter::once("run").chain(stages.iter().map(|stage| stage.name())).collect();
    let mut table = TextTable::new(&header);
    for (index, run) in plan.runs.iter().enumerate() {
        let state = |&stage: &Stage| {
            plan.find(stage, Some(index)).map_or("–", |step| states[step].word()).to_owned()
        };
        table.row(std::iter::once(run.id.clone()).chain(stages.iter().map(state)).collect());
    }
    print(table)?;
    memory_of_training(plan, card, ctx)?;
    if let Some(estimate) = to_judge(runner, &states, ctx)? {
        print(format!("judge, of the runs that have answers: {estimate}"))?;
    }
    print(Overview { plan, states: &states }.to_string().trim_end())
}

/// What training each of the local base models takes at most.
fn memory_of_training(plan: &Plan, card: Option<u64>, ctx: &Context) -> Result<()> {
    let config = plan.pipeline.train_config(0);
    for model in &plan.pipeline.models {
        let Some(folder) = model.path.as_ref().filter(|path| path.join("config.json").exists())
        else {
            continue;
        };
        let asked = plan.pipeline.side_by_side().min(plan.runs.len().max(1));
        let memory = ::train::memory::bound(&config, folder, asked, (card, ctx))?;
        let runs = match memory.runs {
            _ if asked == 1 || memory.driver == 0 => String::new(),
            runs if runs == asked => format!(", {runs} runs side by side,"),
            runs => format!(", {runs} of {asked} runs side by side, as many as fit,"),
        };
        print(format!("training {}{runs} takes at most\n{memory}\n", model.name))?;
    }
    Ok(())
}

/// What the judge would be asked about answers that are there.
fn to_judge(runner: &Runner<'_>, states: &[State], ctx: &Context) -> Result<Option<Estimate>> {
    let mut sum: Option<Estimate> = None;
    for step in runner.plan.of_stage(Stage::Judge) {
        if states[step] == State::Cached {
            continue;
        }
        let Some((inputs, _)) = runner.resolve(step)? else { continue };
        let baseline = stages::baseline_of(runner.plan, &runner.plan.steps[step])?;
        let config = runner.plan.pipeline.judge_config(baseline);
        let (own, against) = (inputs.all("generations"), inputs.all("baseline"));
        sum.get_or_insert_default().add(&judge::estimate(&config, own, against, ctx)?);
    }
    Ok(sum)
}

/// Rows and tokens of every mixture.
fn planned(runner: &Runner<'_>, ctx: &Context) -> Result<Vec<Planned>> {
    let plan = runner.plan;
    let (Some(step), Some(design)) = (plan.find(Stage::Mix, None), &plan.pipeline.mix) else {
        return Ok(Vec::new());
    };
    let scratch = Scratch::new()?;
    let temporary = Store::open(scratch.path())?;
    let elsewhere = Runner::new(plan, &temporary);
    let resolved = match runner.resolve(step)? {
        Some(here) => Some(here),
        None => {
            (0..step).try_for_each(|before| elsewhere.make(before, ctx).map(drop))?;
            elsewhere.resolve(step)?
        }
    };
    let (inputs, _) = resolved.context("the mix step is not ready")?;
    ::mix::plan(design, inputs.all("examples"), inputs.get("tokenizer"), ctx)
}
