//! From drawn row numbers to tables: one more pass over the examples gathers the chosen rows with
//! all their columns, each is tokenised once, and every mixture takes its rows from there.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use artifact::{
    Context, bail_user,
    error::{open_input, user},
    example::messages_of,
    polars::frame::builder::DataFrameBuilder,
    polars::prelude::{
        ChunkFull, Column, DataFrame, DataType, IdxCa, IdxSize, IntoColumn, IntoSeries, NamedFrom,
        Series, StringChunked, StructChunked,
    },
};
use polars_arrow::array::builder::ShareStrategy;
use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::{
    draw::Taken,
    pool::{Inputs, Pool, Row},
    summary::Planned,
};

/// The chosen rows with all their columns.
pub(crate) struct Chosen {
    /// Numbers of the rows over all inputs, ascending; row i of `frame` is number i of these.
    numbers: Vec<usize>,
    frame: DataFrame,
}

impl Chosen {
    /// Gathers these rows of the pool, given by index.
    pub fn gather(
        rows: impl Iterator<Item = usize>,
        pool: &Pool,
        inputs: &Inputs,
        context: &Context,
    ) -> Result<Chosen> {
        let mut numbers: Vec<usize> = rows.map(|row| pool.rows[row].number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut parts = Vec::new();
        inputs.stream("gather", context, |path, first, _, df| {
            let start = numbers.partition_point(|&number| number < first);
            let end = numbers.partition_point(|&number| number < first + df.height());
            if start < end {
                let offsets = numbers[start..end].iter().map(|number| (number - first) as IdxSize);
                let part = df.take(&IdxCa::from_vec("".into(), offsets.collect()))?;
                parts.push((path.to_owned(), own(&part)));
            }
            Ok(())
        })?;
        Ok(Chosen { frame: stack(parts)?, numbers })
    }

    /// These rows of the pool, in the order given.
    pub fn take(&self, rows: &[usize], pool: &Pool) -> Result<DataFrame> {
        let place = |&row: &usize| match self.numbers.binary_search(&pool.rows[row].number) {
            Ok(place) => Ok(place as IdxSize),
            Err(_) => bail!("the row {} was drawn but not gathered", pool.rows[row].example_id),
        };
        let places: Vec<IdxSize> = rows.iter().map(place).collect::<Result<_>>()?;
        Ok(self.frame.take(&IdxCa::from_vec("".into(), places))?)
    }

    /// Tokens of the messages of every chosen row, by index in the pool, without those of a chat template.
    pub fn count_tokens(
        &self,
        tokenizer: &Tokenizer,
        pool: &Pool,
        context: &Context,
    ) -> Result<Vec<u64>> {
        let conversations = messages_of(self.frame.column("messages")?)?;
        let bar = context.bar("count tokens", "rows", Some(conversations.len() as u64));
        let counts = conversations.par_iter().map(|messages| {
            context.check()?;
            let mut tokens = 0;
            for message in messages {
                let encoded = tokenizer.encode_fast(message.content.as_str(), false);
                tokens +=
                    encoded.map_err(|error| anyhow!("the tokenizer failed: {error}"))?.len() as u64;
            }
            bar.inc(1);
            Ok(tokens)
        });
        let counts: Vec<u64> = counts.collect::<Result<_>>()?;
        bar.finish();
        let of_row =
            |row: &Row| self.numbers.binary_search(&row.number).map_or(0, |place| counts[place]);
        Ok(pool.rows.iter().map(of_row).collect())
    }
}

/// A copy that holds its own texts: after `take` they are views that keep all of the row group alive.
fn own(part: &DataFrame) -> DataFrame {
    let mut copy = DataFrameBuilder::new(part.schema().clone());
    copy.extend(part, ShareStrategy::Never);
    copy.freeze()
}

/// The parts below each other. Files may differ in their extra columns; what one lacks is null.
fn stack(parts: Vec<(PathBuf, DataFrame)>) -> Result<DataFrame> {
    let mut columns: Vec<(String, DataType)> = Vec::new();
    for (path, part) in &parts {
        for column in part.columns() {
            match columns.iter_mut().find(|(name, _)| name == column.name()) {
                None => columns.push((column.name().to_string(), column.dtype().clone())),
                Some((_, known)) if *known == DataType::Null => *known = column.dtype().clone(),
                Some((_, known))
                    if known == column.dtype() || *column.dtype() == DataType::Null => {}
                Some((name, known)) => bail_user!(
                    "{}: column `{name}` holds {}, where the files before it hold {known}; give the column one type",
                    path.display(),
                    column.dtype(),
                ),
            }
        }
    }
    let mut whole: Option<DataFrame> = None;
    for (_, part) in parts {
        let aligned = columns.iter().map(|(name, dtype)| match part.column(name) {
            Ok(column) if column.dtype() == dtype => column.clone(),
            _ => Column::full_null(name.as_str().into(), part.height(), dtype),
        });
        let part = DataFrame::new(part.height(), aligned.collect())?;
        match &mut whole {
            Some(whole) => {
                whole.vstack_mut(&part)?;
            }
            None => whole = Some(part),
        }
    }
    Ok(whole.unwrap_or_else(|| artifact::schema::EXAMPLES.empty()))
}

/// A `mixture` table: the rows in training order.
pub(crate) fn mixture_frame(
    mixture_id: &str,
    taken: &[Taken],
    chosen: &Chosen,
    pool: &Pool,
) -> Result<DataFrame> {
    let rows: Vec<usize> = taken.iter().map(|taken| taken.row).collect();
    let examples = chosen.take(&rows, pool)?;
    let mut columns: Vec<Column> = vec![
        Series::new("mixture_id".into(), vec![mixture_id; rows.len()]).into(),
        Series::new("position".into(), (0..rows.len() as i64).collect::<Vec<_>>()).into(),
        Series::new(
            "repeat".into(),
            taken.iter().map(|taken| taken.repeat as i64).collect::<Vec<_>>(),
        )
        .into(),
    ];
    let own = ["mixture_id", "position", "repeat"];
    columns.extend(
        examples.columns().iter().filter(|column| !own.contains(&column.name().as_str())).cloned(),
    );
    Ok(DataFrame::new(rows.len(), columns)?)
}

/// The validation rows: whatever split they were held out of, they validate now.
pub(crate) fn validation_frame(mut rows: DataFrame) -> Result<DataFrame> {
    let split = StringChunked::full("split".into(), "validation", rows.height());
    rows.with_column(split.into_column())?;
    Ok(rows)
}

/// The `mixtures` index: factors, and rows and tokens as realised.
pub(crate) fn index_frame(planned: &[Planned]) -> Result<DataFrame> {
    let mut index: Option<DataFrame> = None;
    for mixture in planned {
        let id: Column = Series::new("mixture_id".into(), [mixture.mixture_id.as_str()]).into();
        let mut row = DataFrame::new(1, vec![id])?;
        mixture.factors.add_to(&mut row)?;
        row.with_column(Series::new("rows".into(), [mixture.rows as i64]).into())?;
        row.with_column(
            Series::new("tokens".into(), [mixture.tokens.map(|tokens| tokens as i64)]).into(),
        )?;
        row.with_column(realised(mixture)?)?;
        match &mut index {
            Some(index) => {
                index.vstack_mut(&row)?;
            }
            None => index = Some(row),
        }
    }
    index.ok_or_else(|| anyhow!("the design has no mixtures"))
}

/// One mixture's list of struct `task`, `lang`, `rows`, `tokens`.
fn realised(mixture: &Planned) -> Result<Column> {
    let cells = &mixture.cells;
    let fields = [
        Series::new("task".into(), cells.iter().map(|cell| cell.task.as_str()).collect::<Vec<_>>()),
        Series::new("lang".into(), cells.iter().map(|cell| cell.lang.as_str()).collect::<Vec<_>>()),
        Series::new("rows".into(), cells.iter().map(|cell| cell.rows as i64).collect::<Vec<_>>()),
        Series::new(
            "tokens".into(),
            cells.iter().map(|cell| cell.tokens.map(|tokens| tokens as i64)).collect::<Vec<_>>(),
        ),
    ];
    let cells =
        StructChunked::from_series("realised".into(), cells.len(), fields.iter())?.into_series();
    Ok(cells.implode()?.into_series().into_column())
}

/// A Hugging Face `tokenizer.json`, or the folder that holds one.
pub(crate) fn load_tokenizer(path: &Path) -> Result<Tokenizer> {
    let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    open_input(&path)?;
    let fault = |error| user(format!("{}: not a Hugging Face tokenizer ({error})", path.display()));
    let mut tokenizer = Tokenizer::from_file(&path).map_err(fault)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(fault)?;
    Ok(tokenizer)
}
