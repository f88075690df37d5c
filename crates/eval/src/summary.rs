//! The means that a scoring run ends with: one table of task and metric by language, over all runs in the input. For chrF and BLEU
//! the score of the corpus stands below the mean of its answers.
//!
//! Answers without a value (no reference, language not verifiable) are not in the mean; they are counted beside it.

use std::collections::BTreeMap;
use std::fmt;

use artifact::text::count;
use serde::Serialize;

use crate::means_table::MeansTable;
use crate::metric::{Counts, Metric, fidelity};
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
    counts: Option<Counts>,
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
    /// The corpus score, for a metric that has one (chrF, BLEU): that of the summed counts, which is not the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<f64>,
    /// LCPR, beside WPR where LPR is scored, too: their harmonic mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub combined: Option<f64>,
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
                        cell.add(score.value.counts.as_ref());
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
            mean: cell.mean(),
            corpus: cell.corpus(),
            combined: self.combined(task, *metric, lang),
            answers: cell.scored,
            without_value: cell.unscored,
        };
        self.cells
            .iter()
            .flat_map(|(key, cells)| cells.iter().map(move |(lang, cell)| row(key, lang, cell)))
            .collect()
    }

    /// LCPR of a task in a language, for the row of WPR.
    fn combined(&self, task: &str, metric: Metric, lang: &str) -> Option<f64> {
        let mean = |metric| self.cells.get(&(task.to_owned(), metric))?.get(lang)?.mean();
        let word_pass = mean(metric).filter(|_| metric == Metric::WordPass)?;
        Some(fidelity::combined(mean(Metric::LinePass)?, word_pass))
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

impl Cell {
    fn add(&mut self, counts: Option<&Counts>) {
        match (&mut self.counts, counts) {
            (Some(sum), Some(counts)) => sum.add(counts),
            (sum, counts) => *sum = sum.or(counts.copied()),
        }
    }

    fn mean(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.sum / self.scored as f64)
    }

    fn corpus(&self) -> Option<f64> {
        self.counts.as_ref().map(Counts::corpus)
    }
}

impl Serialize for Summary {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.means().serialize(serializer)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = MeansTable::new(self.cells.values().flat_map(BTreeMap::keys));
        for ((task, metric), cells) in &self.cells {
            let total = |pick: fn(&Cell) -> u64| cells.values().map(pick).sum();
            let answers = [total(|cell| cell.scored), total(|cell| cell.unscored)];
            let mut add = |name: &str, score: &dyn Fn(&str, &Cell) -> Option<f64>| {
                let score = |lang: &str| cells.get(lang).and_then(|cell| score(lang, cell));
                table.row([task, name], score, answers);
            };
            add(metric.name(), &|_, cell| cell.mean());
            if cells.values().any(|cell| cell.counts.is_some()) {
                add(&format!("{}, corpus", metric.name()), &|_, cell| cell.corpus());
            }
            let combined = |lang: &str, _: &Cell| self.combined(task, *metric, lang);
            if cells.iter().any(|(lang, cell)| combined(lang, cell).is_some()) {
                add("line and word pass (LCPR)", &combined);
            }
        }
        write!(f, "{table}")
    }
}
