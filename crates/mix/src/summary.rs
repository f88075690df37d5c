//! What was drawn, for a person (`Display`) and for the manifest (`Serialize`).

use std::{collections::BTreeMap, fmt};

use artifact::{
    Factors,
    text::{TextTable, count},
};
use serde::Serialize;

use crate::{
    draw::{Taken, Validation},
    grid::{Cell, Point},
    leakage::{Leak, Reason},
    pool::Pool,
    shortage::Shortage,
};

/// A mixture as realised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Planned {
    /// Id, and name of its folder below `mixtures/`.
    pub mixture_id: String,
    /// The levels of the factors.
    pub factors: Factors,
    /// Rows in all, repeats included.
    pub rows: u64,
    /// Tokens in all; `None` without a tokenizer.
    pub tokens: Option<u64>,
    /// Rows and tokens by task and language, in the design's order.
    pub cells: Vec<Realised>,
}

/// Rows and tokens of one task in one language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Realised {
    /// Task.
    pub task: String,
    /// Language.
    pub lang: String,
    /// Rows, repeats included.
    pub rows: u64,
    /// Tokens of the messages; `None` without a tokenizer.
    pub tokens: Option<u64>,
}

impl Planned {
    pub(crate) fn new(
        point: &Point,
        taken: &[Taken],
        pool: &Pool,
        tokens: Option<&[u64]>,
    ) -> Planned {
        let mut sums: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
        for taken in taken {
            let row = &pool.rows[taken.row];
            let (rows, sum) = sums.entry((&row.task, &row.lang)).or_default();
            *rows += 1;
            *sum += tokens.map_or(0, |tokens| tokens[taken.row]);
        }
        let realised = |cell: &Cell| {
            let (rows, sum) =
                sums.get(&(cell.task.as_str(), cell.lang.as_str())).copied().unwrap_or_default();
            Realised {
                task: cell.task.clone(),
                lang: cell.lang.clone(),
                rows,
                tokens: tokens.map(|_| sum),
            }
        };
        let cells: Vec<Realised> = point.cells.iter().map(realised).collect();
        Planned {
            mixture_id: point.mixture_id.clone(),
            factors: point.factors.clone(),
            rows: cells.iter().map(|cell| cell.rows).sum(),
            tokens: cells.iter().map(|cell| cell.tokens).sum(),
            cells,
        }
    }
}

/// Rows that the leakage guard took out, by language and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeakCount {
    /// Language of the rows.
    pub lang: String,
    /// `item-id`, `n-gram` or `n-gram of a translation`.
    pub reason: &'static str,
    /// Rows.
    pub rows: u64,
}

pub(crate) fn count_leaks(leaks: &[Leak], pool: &Pool) -> Vec<LeakCount> {
    let mut counts: BTreeMap<(&str, Reason), u64> = BTreeMap::new();
    for leak in leaks {
        *counts.entry((&pool.rows[leak.row].lang, leak.reason)).or_default() += 1;
    }
    let leak_count = |((lang, reason), rows): ((&str, Reason), u64)| LeakCount {
        lang: lang.to_owned(),
        reason: reason.name(),
        rows,
    };
    counts.into_iter().map(leak_count).collect()
}

/// Validation rows of one task in one language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValidationRows {
    /// Task.
    pub task: String,
    /// Language.
    pub lang: String,
    /// Rows.
    pub rows: u64,
    /// Whether they come from the split `train`, and so are in no mixture.
    pub held_out: bool,
}

impl From<&Validation> for ValidationRows {
    fn from(cell: &Validation) -> Self {
        let Validation { task, lang, rows, held_out } = cell;
        Self {
            task: task.clone(),
            lang: lang.clone(),
            rows: rows.len() as u64,
            held_out: *held_out,
        }
    }
}

/// What the stage did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The mixtures, in the order of the design.
    pub mixtures: Vec<Planned>,
    /// The validation rows.
    pub validation: Vec<ValidationRows>,
    /// Test rows that the guard compared with.
    pub test_rows: u64,
    /// What the guard took out.
    pub leaks: Vec<LeakCount>,
    /// Cells that have fewer rows than asked for; they are repeated or capped as the design says.
    pub short: Vec<Shortage>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", mixtures_table(&self.mixtures))?;
        if !self.validation.is_empty() {
            writeln!(f, "{}", validation_line(&self.validation))?;
        }
        let leaked: u64 = self.leaks.iter().map(|leak| leak.rows).sum();
        writeln!(
            f,
            "leakage: {} rows left out, compared with {} test rows",
            count(leaked),
            count(self.test_rows)
        )?;
        if !self.leaks.is_empty() {
            let mut table = TextTable::new(&["language", "reason", "rows left out"]);
            table.right(&[2]);
            for leak in &self.leaks {
                table.row(vec![leak.lang.clone(), leak.reason.to_owned(), count(leak.rows)]);
            }
            write!(f, "{table}")?;
        }
        Ok(())
    }
}

/// Mixtures with rows, and tokens where they are known, by language.
pub fn mixtures_table(mixtures: &[Planned]) -> TextTable {
    let mut languages: Vec<&str> = Vec::new();
    for cell in mixtures.iter().flat_map(|mixture| &mixture.cells) {
        if !languages.contains(&cell.lang.as_str()) {
            languages.push(&cell.lang);
        }
    }
    let with_tokens = |rows: u64, tokens: Option<u64>| match tokens {
        Some(tokens) if rows > 0 => format!("{} ({} tok)", count(rows), count(tokens)),
        _ => count(rows),
    };
    let mut table = TextTable::new(&[&["mixture", "rows"], &languages[..]].concat());
    table.right(&(1..languages.len() + 2).collect::<Vec<_>>());
    for mixture in mixtures {
        let mut cells = vec![mixture.mixture_id.clone(), with_tokens(mixture.rows, mixture.tokens)];
        cells.extend(languages.iter().map(|lang| {
            let here: Vec<&Realised> =
                mixture.cells.iter().filter(|cell| cell.lang == *lang).collect();
            if here.is_empty() {
                return "–".to_owned();
            }
            with_tokens(
                here.iter().map(|cell| cell.rows).sum(),
                here.iter().map(|cell| cell.tokens).sum(),
            )
        }));
        table.row(cells);
    }
    table
}

fn validation_line(cells: &[ValidationRows]) -> String {
    let total: u64 = cells.iter().map(|cell| cell.rows).sum();
    let held_out: u64 = cells.iter().filter(|cell| cell.held_out).map(|cell| cell.rows).sum();
    let mut line = format!("validation: {} rows", count(total));
    if held_out > 0 {
        line += &format!(", {} of them held out from the training rows", count(held_out));
    }
    line
}
