//! What there is to draw from: the training and validation rows of the design's tasks, by their
//! identifiers alone. The examples stream by, row group by row group; their texts are not kept.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use artifact::{
    Context, Example, bail_user,
    example::frame_to_examples,
    parquet::{self, row_groups},
    polars::prelude::DataFrame,
    schema::EXAMPLES,
    text::count,
};

use crate::{grid::Grid, leakage::Guard};

/// Rows per batch where the input is in memory already.
const BATCH: usize = 1 << 16;

/// The examples' files, which are read several times over.
pub(crate) struct Inputs {
    paths: Vec<PathBuf>,
    /// Standard input comes only once, so it is kept.
    stdin: Option<DataFrame>,
}

impl Inputs {
    pub fn open(paths: &[PathBuf]) -> Result<Inputs> {
        if paths.is_empty() {
            bail_user!("no examples are given; name at least one examples.parquet");
        }
        let from_stdin = paths.iter().any(|path| path == Path::new("-"));
        let stdin =
            if from_stdin { Some(parquet::read(Path::new("-"), Some(&EXAMPLES))?) } else { None };
        Ok(Inputs { paths: paths.to_vec(), stdin })
    }

    /// Calls `take(path, number of the first row over all files, its number in the file, rows)` for each row group.
    pub fn stream(
        &self,
        label: &str,
        context: &Context,
        mut take: impl FnMut(&Path, usize, usize, DataFrame) -> Result<()>,
    ) -> Result<()> {
        let bar = context.bar(label, "rows", None);
        let mut number = 0;
        for path in &self.paths {
            let mut row = 0;
            let mut batch = |df: DataFrame| {
                context.check()?;
                let height = df.height();
                take(path, number, row, df)?;
                number += height;
                row += height;
                bar.inc(height as u64);
                anyhow::Ok(())
            };
            match &self.stdin {
                Some(df) if path == Path::new("-") => {
                    for start in (0..df.height()).step_by(BATCH) {
                        batch(df.slice(start as i64, BATCH))?;
                    }
                }
                _ => row_groups(path, Some(&EXAMPLES))?.try_for_each(|df| batch(df?))?,
            }
        }
        bar.finish();
        Ok(())
    }
}

/// Whether a row may be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Overlaps a test item.
    Leaked,
    /// Its item serves for validation.
    HeldOut,
}

/// The identifiers of a row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Number of the row over all input files; rows are sorted by it.
    pub number: usize,
    pub example_id: String,
    pub item_id: String,
    pub source: Arc<str>,
    pub task: Arc<str>,
    pub lang: Arc<str>,
    /// From the split `validation`, rather than `train`.
    pub validation: bool,
    pub state: State,
}

/// The training and validation rows of the design's tasks, in all languages.
#[derive(Default)]
pub(crate) struct Pool {
    pub rows: Vec<Row>,
    /// What the examples hold in the split `train`, by task and language, whatever the design asks.
    pub held: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Pool {
    /// Reads the identifiers of all rows, and shows the test rows to the guard.
    pub fn index(
        inputs: &Inputs,
        grid: &Grid,
        guard: &mut Guard,
        context: &Context,
    ) -> Result<Pool> {
        let mut pool = Pool::default();
        let mut names = HashSet::new();
        inputs.stream("index", context, |path, first, row, df| {
            let examples = frame_to_examples(&df)?;
            for (offset, example) in examples.iter().enumerate() {
                check_row(example, path, row + offset)?;
                if example.split != "test" {
                    pool.take(example, first + offset, grid, &mut names);
                }
            }
            guard.learn(&examples);
            Ok(())
        })?;
        if pool.held.is_empty() {
            let files = inputs
                .paths
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ");
            bail_user!("{files}: no row has split = \"train\", so there is nothing to train on");
        }
        pool.check_ids()?;
        Ok(pool)
    }

    fn take(
        &mut self,
        example: &Example,
        number: usize,
        grid: &Grid,
        names: &mut HashSet<Arc<str>>,
    ) {
        let validation = example.split == "validation";
        if !validation {
            let by_lang = self.held.entry(example.task.clone()).or_default();
            *by_lang.entry(example.lang.clone()).or_default() += 1;
        }
        let wanted = grid.tasks.contains(&example.task)
            && (grid.sources.is_empty() || grid.sources.contains(&example.source));
        if wanted {
            let mut name = |text: &str| match names.get(text) {
                Some(name) => Arc::clone(name),
                None => {
                    let name: Arc<str> = text.into();
                    names.insert(Arc::clone(&name));
                    name
                }
            };
            self.rows.push(Row {
                number,
                example_id: example.example_id.clone(),
                item_id: example.item_id.clone(),
                source: name(&example.source),
                task: name(&example.task),
                lang: name(&example.lang),
                validation,
                state: State::Free,
            });
        }
    }

    /// Draws go by `example_id`: if two rows share one, they would depend on the row order.
    fn check_ids(&self) -> Result<()> {
        let mut ids: Vec<&str> = self.rows.iter().map(|row| row.example_id.as_str()).collect();
        ids.sort_unstable();
        let repeated = ids.windows(2).filter(|pair| pair[0] == pair[1]).count();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => bail_user!(
                "the example_id `{}` stands in more than one row ({} such rows in all); every row needs its own. \
                 Was one examples file given twice?",
                pair[0],
                count(repeated as u64),
            ),
            None => Ok(()),
        }
    }

    /// Indices of the free rows of one split, by task and language.
    pub fn free(&self, validation: bool) -> BTreeMap<(&str, &str), Vec<usize>> {
        let mut cells: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        for (index, row) in self.rows.iter().enumerate() {
            if row.state == State::Free && row.validation == validation {
                cells.entry((&row.task, &row.lang)).or_default().push(index);
            }
        }
        cells
    }

    /// How many training rows of a cell are in this state.
    pub fn count(&self, task: &str, lang: &str, state: State) -> u64 {
        let here = |row: &&Row| {
            &*row.task == task && &*row.lang == lang && row.state == state && !row.validation
        };
        self.rows.iter().filter(here).count() as u64
    }

    /// Takes every training row whose item serves for validation out of the pool.
    pub fn hold_out(&mut self, validation: &[usize]) {
        let items: HashSet<String> =
            validation.iter().map(|&index| self.rows[index].item_id.clone()).collect();
        for row in self.rows.iter_mut().filter(|row| row.state == State::Free && !row.validation) {
            if items.contains(&row.item_id) {
                row.state = State::HeldOut;
            }
        }
    }
}

fn check_row(example: &Example, path: &Path, row: usize) -> Result<()> {
    let place = || format!("{}: row {}", path.display(), row + 1);
    for (name, value) in [
        ("example_id", &example.example_id),
        ("item_id", &example.item_id),
        ("lang", &example.lang),
    ] {
        if value.is_empty() {
            bail_user!("{}: `{name}` is empty", place());
        }
    }
    if !["train", "validation", "test"].contains(&example.split.as_str()) {
        bail_user!(
            "{}: `split` is `{}`, where train, validation or test is needed",
            place(),
            example.split
        );
    }
    Ok(())
}
