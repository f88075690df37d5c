//! The means that a scoring run ends with: one table of task and metric by language, over all runs in the input.
//!
//! Answers without a value (no reference, language not verifiable) are not in the mean; they are counted beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use artifact::text::{TextTable, count};
use serde::Serialize;

use crate::metric::Metric;
use crate::score::{Ids, Score};

/// Means by task, metric and language.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    cells: BTreeMap<(String, Metric), BTreeMap<String, Cell>>,
}

/// The scores of one metric in one language.
#[derive(Clone, Debug, Default)]
struct Cell {
    sum: f64,
    scored: u64,
    unscored: u64,
    /// A reason that is the data's fault, how often, and the first answer it befell.
    faults: BTreeMap<String, (u64, String)>,
}

/// One line of the summary as data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// Task.
    pub task: String,
    /// Metric.
    pub metric: Metric,
    /// Language.
    pub lang: String,
    /// Mean over the answers that have a value.
    pub mean: Option<f64>,
    /// Answers that have a value.
    pub answers: u64,
    /// Answers that have none.
    pub without_value: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, ids: &[Ids], scores: &[Vec<Score>]) {
        for (id, scores) in ids.iter().zip(scores) {
            for score in scores {
                let cell = self
                    .cells
                    .entry((id.task.clone(), score.metric))
                    .or_default()
                    .entry(id.lang.clone())
                    .or_default();
                match score.value.value {
                    Some(value) => {
                        cell.sum += value;
                        cell.scored += 1;
                    }
                    None => {
                        cell.unscored += 1;
                        if score.metric.needs_reference() {
                            let reason = score.value.detail.clone().unwrap_or_default();
                            cell.faults
                                .entry(reason)
                                .or_insert_with(|| (0, id.example_id.clone()))
                                .0 += 1;
                        }
                    }
                }
            }
        }
    }

    /// The means in order of task, metric and language.
    pub fn means(&self) -> Vec<Mean> {
        let row = |(task, metric): &(String, Metric), lang: &String, cell: &Cell| Mean {
            task: task.clone(),
            metric: *metric,
            lang: lang.clone(),
            mean: (cell.scored > 0).then(|| cell.sum / cell.scored as f64),
            answers: cell.scored,
            without_value: cell.unscored,
        };
        self.cells
            .iter()
            .flat_map(|(key, cells)| cells.iter().map(move |(lang, cell)| row(key, lang, cell)))
            .collect()
    }

    /// What is wrong with the data, one line for each task, metric and reason.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for ((task, metric), cells) in &self.cells {
            for (lang, cell) in cells {
                for (reason, (times, first)) in &cell.faults {
                    let answers = cell.scored + cell.unscored;
                    lines.push(format!(
                        "{task}, {lang}: {} of {} answers have no {}: {reason} (the first is example {first})",
                        count(*times),
                        count(answers),
                        metric.name()
                    ));
                }
            }
        }
        lines
    }
}

impl Serialize for Summary {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.means().serialize(serializer)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let langs: BTreeSet<&str> =
            self.cells.values().flat_map(BTreeMap::keys).map(String::as_str).collect();
        let header: Vec<&str> = ["task", "metric"]
            .into_iter()
            .chain(langs.iter().copied())
            .chain(["answers", "no value"])
            .collect();
        let mut table = TextTable::new(&header);
        table.right(&(2..header.len()).collect::<Vec<_>>());
        for ((task, metric), cells) in &self.cells {
            let mean = |lang: &&str| match cells.get(*lang) {
                Some(cell) if cell.scored > 0 => format!("{:.3}", cell.sum / cell.scored as f64),
                _ => "–".to_owned(),
            };
            let total = |pick: fn(&Cell) -> u64| count(cells.values().map(pick).sum());
            let mut row = vec![task.clone(), metric.name().to_owned()];
            row.extend(langs.iter().map(mean));
            row.extend([total(|cell| cell.scored), total(|cell| cell.unscored)]);
            table.row(row);
        }
        write!(f, "{table}")
    }
}
