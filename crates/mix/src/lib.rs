//! Mixtures by design: a short TOML of factors (languages, n per language, budget rule, seeds …)
//! becomes a grid of training mixtures that differ by the factors and by nothing else.
//!
//! [`run`] reads `examples.parquet` files and writes
//! - `mixtures/<mixture_id>/mixture.parquet`: one mixture, in training order, with all columns of the examples,
//! - `mixtures.parquet`: the index, with factors and with rows and tokens as realised,
//! - `validation.parquet`: validation rows of all tasks and languages, the same for every mixture,
//! - `leaks.parquet`: training and validation rows that overlap a test item and were left out.
//!
//! The steps: the grid checks the design and lists its points ([`expand`]); the pool indexes what there is; the leakage
//! guard, the validation rows and the shortage check settle what may be drawn; draws go by keyed
//! hash; the output gathers the chosen rows. Memory grows with the identifiers and the chosen rows,
//! not with the examples' texts.
//!
//! English-only points (n = 0) of several language sets are nominally one experiment. Each set keeps
//! its own, so that its curve is complete; with `content = "independent"` they hold the same rows in the same order.

mod design;
mod draw;
mod grid;
mod leakage;
mod output;
mod pool;
mod shortage;
mod summary;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use artifact::{
    Context, parquet,
    schema::{EXAMPLES, LEAKS, MIXTURE, MIXTURES},
    text::count,
};

pub use design::{
    Also, Budget, Content, Design, LanguageCounts, Leakage, OnShortage, Preset, Sampler, Setting,
    Validation,
};
pub use grid::{Cell, Point};
pub use shortage::Shortage;
pub use summary::{LeakCount, Planned, Realised, Summary, ValidationRows, mixtures_table};

use draw::Taken;
use grid::Grid;
use leakage::{Guard, Leak};
use output::Chosen;
use pool::{Inputs, Pool};

/// The points of a design, in order: grid, task, language set, n, seed. Reads nothing.
pub fn expand(design: &Design) -> Result<Vec<Point>> {
    Ok(Grid::new(design)?.points)
}

/// What [`run`] would realise, without writing anything; for a dry run.
pub fn plan(
    design: &Design,
    examples: &[PathBuf],
    tokenizer: Option<&Path>,
    context: &Context,
) -> Result<Vec<Planned>> {
    let tokenizer = tokenizer.map(output::load_tokenizer).transpose()?;
    let drawn = Drawn::new(design, examples, context)?;
    let tokens = match tokenizer {
        Some(tokenizer) => {
            Some(drawn.gather(context)?.count_tokens(&tokenizer, &drawn.pool, context)?)
        }
        None => None,
    };
    Ok(drawn.planned(tokens.as_deref()))
}

/// Draws all mixtures of the design and writes them below `out`, which exists.
///
/// `examples` are `examples.parquet` files, the test rows that must not leak among them; `-` reads
/// an Arrow IPC stream from stdin. `tokenizer` is a Hugging Face `tokenizer.json` or its folder;
/// without one tokens are null.
pub fn run(
    design: &Design,
    examples: &[PathBuf],
    tokenizer: Option<&Path>,
    out: &Path,
    context: &Context,
) -> Result<Summary> {
    let tokenizer = tokenizer.map(output::load_tokenizer).transpose()?;
    let drawn = Drawn::new(design, examples, context)?;
    let pool = &drawn.pool;
    let chosen = drawn.gather(context)?;
    let tokens =
        tokenizer.map(|tokenizer| chosen.count_tokens(&tokenizer, pool, context)).transpose()?;
    let planned = drawn.planned(tokens.as_deref());

    let bar = context.bar("write", "mixtures", Some(planned.len() as u64));
    for (point, taken) in drawn.grid.points.iter().zip(&drawn.mixtures) {
        context.check()?;
        let folder = out.join("mixtures").join(&point.mixture_id);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let mut frame = output::mixture_frame(&point.mixture_id, taken, &chosen, pool)?;
        parquet::write(&folder.join("mixture.parquet"), &MIXTURE, &mut frame)?;
        bar.inc(1);
    }
    bar.finish();
    let validation: Vec<usize> =
        drawn.validation.iter().flat_map(|cell| cell.rows.iter().copied()).collect();
    let mut validation = output::validation_frame(chosen.take(&validation, pool)?)?;
    parquet::write(&out.join("validation.parquet"), &EXAMPLES, &mut validation)?;
    parquet::write(
        &out.join("leaks.parquet"),
        &LEAKS,
        &mut leakage::leaks_to_frame(&drawn.leaks, pool)?,
    )?;
    parquet::write(&out.join("mixtures.parquet"), &MIXTURES, &mut output::index_frame(&planned)?)?;
    Ok(drawn.summary(planned))
}

/// A design drawn from its examples, as row numbers.
struct Drawn {
    grid: Grid,
    inputs: Inputs,
    pool: Pool,
    test_rows: u64,
    leaks: Vec<Leak>,
    validation: Vec<draw::Validation>,
    short: Vec<Shortage>,
    /// One for each point of the grid: rows in training order.
    mixtures: Vec<Vec<Taken>>,
}

impl Drawn {
    fn new(design: &Design, examples: &[PathBuf], context: &Context) -> Result<Drawn> {
        let grid = Grid::new(design)?;
        let inputs = Inputs::open(examples)?;
        let mut guard = Guard::new(grid.leakage);
        let mut pool = Pool::index(&inputs, &grid, &mut guard, context)?;
        let leaks = guard.apply(&mut pool, &inputs, context)?;
        let validation = draw::validation(&pool, &grid);
        pool.hold_out(
            &validation.iter().flat_map(|cell| cell.rows.iter().copied()).collect::<Vec<_>>(),
        );
        let cells = draw::cells(&pool, &grid);
        let short = shortage::check(&pool, &grid, &cells)?;
        let mixtures = draw::mixtures(&pool, &grid, &cells);
        let drawn = Drawn {
            test_rows: guard.test_rows(),
            inputs,
            leaks,
            validation,
            short,
            mixtures,
            pool,
            grid,
        };
        drawn.warn(guard.is_on(), context);
        Ok(drawn)
    }

    /// Gathers every row that a mixture or the validation holds.
    fn gather(&self, context: &Context) -> Result<Chosen> {
        let training = self.mixtures.iter().flatten().map(|taken| taken.row);
        let validation = self.validation.iter().flat_map(|cell| cell.rows.iter().copied());
        Chosen::gather(training.chain(validation), &self.pool, &self.inputs, context)
    }

    fn planned(&self, tokens: Option<&[u64]>) -> Vec<Planned> {
        let mixtures = self.grid.points.iter().zip(&self.mixtures);
        mixtures.map(|(point, taken)| Planned::new(point, taken, &self.pool, tokens)).collect()
    }

    fn warn(&self, guarded: bool, context: &Context) {
        if guarded && self.test_rows == 0 {
            context.warn("the examples hold no row with split = \"test\", so the leakage guard has nothing to compare with");
        }
        for cell in &self.short {
            let what = if self.grid.on_shortage == OnShortage::Cap {
                "take what there is"
            } else {
                "repeat rows"
            };
            let Shortage { task, lang, have, want } = cell;
            context.warn(format!(
                "{task} in {lang}: {} rows of the {} asked for; larger mixtures {what}",
                count(*have),
                count(*want)
            ));
        }
        for cell in self
            .validation
            .iter()
            .filter(|cell| (cell.rows.len() as u64) < self.grid.validation_rows)
        {
            context.warn(format!(
                "validation has {} rows of {} in {}, of the {} asked for",
                count(cell.rows.len() as u64),
                cell.task,
                cell.lang,
                count(self.grid.validation_rows)
            ));
        }
    }

    fn summary(&self, mixtures: Vec<Planned>) -> Summary {
        Summary {
            mixtures,
            validation: self.validation.iter().map(Into::into).collect(),
            test_rows: self.test_rows,
            leaks: summary::count_leaks(&self.leaks, &self.pool),
            short: self.short.clone(),
        }
    }
}
