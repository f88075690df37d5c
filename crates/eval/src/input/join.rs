//! What answers lack, from the prompts or examples that were asked: a batch API's output knows only the id of the request.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::example::messages_of;
use artifact::polars::prelude::*;
use artifact::schema::EXAMPLES;
use artifact::{bail_user, parquet};

const COLUMNS: [&str; 5] = ["item_id", "lang", "task", "reference", "prompt"];

/// The rows that were asked, by their `example_id`.
pub struct Asked {
    path: PathBuf,
    rows: HashMap<String, [Option<String>; COLUMNS.len()]>,
}

impl Asked {
    /// Reads prompts or examples.
    pub fn read(path: &Path) -> Result<Asked> {
        let mut rows = HashMap::new();
        for df in parquet::row_groups(path, Some(&EXAMPLES))? {
            let df = df?;
            let ids = df.column("example_id")?.str()?.clone();
            let columns = COLUMNS[..4]
                .iter()
                .map(|name| Ok(df.column(name)?.str()?.clone()))
                .collect::<Result<Vec<StringChunked>>>()?;
            let asked = messages_of(df.column("messages")?)?;
            for ((at, id), messages) in ids.iter().enumerate().zip(asked) {
                // What a judge is shown as the question: without the worked examples before it.
                let question = messages.into_iter().rfind(|message| message.role == "user");
                let question = question.map(|message| message.content);
                let value = |column: usize| match columns.get(column) {
                    Some(column) => column.get(at).map(str::to_owned),
                    None => question.clone(),
                };
                rows.insert(id.unwrap_or_default().to_owned(), std::array::from_fn(value));
            }
        }
        Ok(Asked { path: path.to_owned(), rows })
    }

    /// Fills what the rows of `df` (from `path`, the first its row `first`) do not say themselves.
    pub fn fill(&self, df: &mut DataFrame, path: &Path, first: usize) -> Result<()> {
        let Ok(ids) = df.column("example_id").cloned() else {
            bail_user!(
                "{}: to be joined with {} its rows need an `example_id` (another name is given by `map`, such as example_id=custom_id)",
                path.display(),
                self.path.display()
            );
        };
        let ids = ids.cast(&DataType::String)?;
        let mut asked = Vec::with_capacity(df.height());
        for (at, id) in ids.str()?.iter().enumerate() {
            match id.and_then(|id| self.rows.get(id)) {
                Some(row) => asked.push(row),
                None => bail_user!(
                    "{}: row {}: {} has no example_id {:?}",
                    path.display(),
                    first + at + 1,
                    self.path.display(),
                    id.unwrap_or("null")
                ),
            }
        }
        for (column, name) in COLUMNS.iter().enumerate() {
            let own = match df.column(name) {
                Ok(own) => own.cast(&DataType::String)?,
                Err(_) => Column::full_null((*name).into(), df.height(), &DataType::String),
            };
            let filled =
                own.str()?.iter().zip(&asked).map(|(own, row)| own.or(row[column].as_deref()));
            df.with_column(StringChunked::from_iter_options((*name).into(), filled).into_column())?;
        }
        Ok(())
    }
}
