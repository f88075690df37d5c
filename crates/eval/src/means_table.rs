//! The table that scoring and judging end with: one row for each task and metric, one column for each language, and how many
//! answers have a value.

use std::collections::BTreeSet;
use std::fmt;

use artifact::text::{TextTable, count};

/// Rows of means under the languages that occur.
pub(crate) struct MeansTable<'a> {
    langs: BTreeSet<&'a str>,
    table: TextTable,
}

impl<'a> MeansTable<'a> {
    /// No rows yet, under these languages in order.
    pub(crate) fn new(langs: impl Iterator<Item = &'a String>) -> Self {
        let langs: BTreeSet<&str> = langs.map(String::as_str).collect();
        let mut header = vec!["task", "metric"];
        header.extend(&langs);
        header.extend(["answers", "no value"]);
        let mut table = TextTable::new(&header);
        table.right(&(2..header.len()).collect::<Vec<_>>());
        Self { langs, table }
    }

    /// One more row; `score` tells a language's, where it has one. `answers`: those with a value, and those without.
    pub(crate) fn row(
        &mut self,
        [task, metric]: [&str; 2],
        score: impl Fn(&str) -> Option<f64>,
        answers: [u64; 2],
    ) {
        let mut row = vec![task.to_owned(), metric.to_owned()];
        let cell =
            |score: Option<f64>| score.map_or("–".to_owned(), |score| format!("{score:.3}"));
        row.extend(self.langs.iter().map(|lang| cell(score(lang))));
        row.extend(answers.map(count));
        self.table.row(row);
    }
}

impl fmt::Display for MeansTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}
