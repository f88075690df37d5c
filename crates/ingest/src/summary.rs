//! What an ingest did, as numbers and as the table that is printed at its end.

use std::collections::BTreeMap;
use std::fmt;

use artifact::Example;
use artifact::text::{TextTable, count};
use serde::Serialize;

use crate::rejects::{Reason, Reject};

/// Rows shown of a long table.
const SHOWN: usize = 40;

/// What became of the input.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Examples written.
    pub rows: u64,
    /// Examples by language, script, task, split and source.
    pub strata: Vec<Stratum>,
    /// Examples by the case in which their language was settled.
    pub rules: BTreeMap<String, u64>,
    /// Rows whose declared and detected language differ, those in quarantine included.
    pub disagreements: Vec<Disagreement>,
    /// Rows that were not taken, duplicates aside, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Rows that repeat an earlier one up to case and white space.
    pub duplicates: u64,
    /// Rows that nearly repeat an earlier one.
    pub near_duplicates: u64,
}

/// How many examples share these values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are the columns' of examples")]
pub struct Stratum {
    pub lang: String,
    pub script: String,
    pub task: String,
    pub split: String,
    pub source: String,
    pub rows: u64,
}

/// How often a tag and the detector differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// The tag.
    pub declared: String,
    /// The language found, or the script where that is what contradicts.
    pub detected: String,
    /// Rows kept, because the detector was not sure.
    pub doubtful: u64,
    /// Rows put aside.
    pub quarantined: u64,
}

impl Summary {
    /// Examples of a language.
    pub fn of_language(&self, lang: &str) -> u64 {
        self.strata.iter().filter(|stratum| stratum.lang == lang).map(|stratum| stratum.rows).sum()
    }
}

/// Counts while rows are taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    strata: BTreeMap<[String; 5], u64>,
    rules: BTreeMap<String, u64>,
    disagreements: BTreeMap<(String, String), (u64, u64)>,
    rejects: BTreeMap<Reason, u64>,
    /// Rows met and taken by source, and the first refusal of each.
    pub sources: BTreeMap<String, Met>,
}

/// What was met of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Met {
    pub taken: u64,
    pub refused: u64,
    pub first: Option<Reject>,
}

impl Counts {
    pub(crate) fn take(&mut self, example: &Example) {
        self.stratum(example, 1);
        self.rule(&example.lang_rule, 1);
        if example.lang_rule == "doubtful" {
            self.disagreement(example);
        }
        match self.sources.get_mut(&example.source) {
            Some(met) => met.taken += 1,
            None => self.sources.entry(example.source.clone()).or_default().taken += 1,
        }
    }

    /// Counts a row whose tag and detected language differ.
    pub(crate) fn disagreement(&mut self, example: &Example) {
        let declared = example.lang_declared.clone().unwrap_or_default();
        let found = if example.lang_rule == "script-mismatch" {
            &example.script
        } else {
            &example.lang_detected
        };
        let counts =
            self.disagreements.entry((declared, found.clone().unwrap_or_default())).or_default();
        let doubtful = example.lang_rule == "doubtful";
        counts.0 += u64::from(doubtful);
        counts.1 += u64::from(!doubtful);
    }

    pub(crate) fn reject(&mut self, reject: &Reject) {
        *self.rejects.entry(reject.refusal.reason).or_default() += 1;
        let met = self.sources.entry(reject.source.clone()).or_default();
        met.refused += 1;
        met.first.get_or_insert_with(|| reject.clone());
    }

    /// Takes back the count of a row that turned out to repeat another.
    pub(crate) fn untake(&mut self, example: &Example) {
        self.stratum(example, -1);
        self.rule(&example.lang_rule, -1);
    }

    pub(crate) fn merge(&mut self, other: Counts) {
        for (key, rows) in other.strata {
            *self.strata.entry(key).or_default() += rows;
        }
        for (rule, rows) in other.rules {
            *self.rules.entry(rule).or_default() += rows;
        }
        for (pair, (doubtful, quarantined)) in other.disagreements {
            let counts = self.disagreements.entry(pair).or_default();
            counts.0 += doubtful;
            counts.1 += quarantined;
        }
        for (reason, rows) in other.rejects {
            *self.rejects.entry(reason).or_default() += rows;
        }
        for (source, met) in other.sources {
            let own = self.sources.entry(source).or_default();
            own.taken += met.taken;
            own.refused += met.refused;
            own.first = own.first.take().or(met.first);
        }
    }

    pub(crate) fn summary(self) -> Summary {
        let mut rejects = self.rejects;
        let duplicates = rejects.remove(&Reason::Duplicate).unwrap_or_default();
        let near_duplicates = rejects.remove(&Reason::NearDuplicate).unwrap_or_default();
        let strata = self.strata.into_iter().filter(|(_, rows)| *rows > 0);
        let strata = strata.map(|([lang, script, task, split, source], rows)| Stratum {
            lang,
            script,
            task,
            split,
            source,
            rows,
        });
        let disagreements = self.disagreements.into_iter();
        let disagreements = disagreements.map(|((declared, detected), (doubtful, quarantined))| {
            Disagreement { declared, detected, doubtful, quarantined }
        });
        let strata: Vec<Stratum> = strata.collect();
        Summary {
            rows: strata.iter().map(|stratum| stratum.rows).sum(),
            strata,
            rules: self.rules.into_iter().filter(|(_, rows)| *rows > 0).collect(),
            disagreements: disagreements.collect(),
            rejects: rejects
                .into_iter()
                .map(|(reason, rows)| (reason.as_str().to_string(), rows))
                .collect(),
            duplicates,
            near_duplicates,
        }
    }

    fn stratum(&mut self, example: &Example, by: i64) {
        let script = example.script.clone().unwrap_or_default();
        let [lang, task, split, source] =
            [&example.lang, &example.task, &example.split, &example.source].map(String::clone);
        let rows = self.strata.entry([lang, script, task, split, source]).or_default();
        *rows = rows.saturating_add_signed(by);
    }

    fn rule(&mut self, rule: &str, by: i64) {
        match self.rules.get_mut(rule) {
            Some(rows) => *rows = rows.saturating_add_signed(by),
            None => *self.rules.entry(rule.to_string()).or_default() = by.max(0) as u64,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(&["language", "script", "task", "split", "source", "rows"]);
        table.right(&[5]);
        for s in self.strata.iter().take(SHOWN) {
            let cells = [&s.lang, &s.script, &s.task, &s.split, &s.source].map(String::clone);
            table.row(cells.into_iter().chain([count(s.rows)]).collect());
        }
        write!(f, "{table}")?;
        more(f, self.strata.len())?;
        writeln!(f, "{} examples", count(self.rows))?;
        let rules: Vec<String> =
            self.rules.iter().map(|(rule, rows)| format!("{rule} {}", count(*rows))).collect();
        writeln!(f, "language: {}", rules.join(", "))?;
        if !self.disagreements.is_empty() {
            let mut table = TextTable::new(&["declared", "detected", "tag kept", "quarantined"]);
            table.right(&[2, 3]);
            let mut rows: Vec<&Disagreement> = self.disagreements.iter().collect();
            rows.sort_by_key(|d| std::cmp::Reverse(d.doubtful + d.quarantined));
            for d in rows.into_iter().take(SHOWN) {
                table.row(vec![
                    d.declared.clone(),
                    d.detected.clone(),
                    count(d.doubtful),
                    count(d.quarantined),
                ]);
            }
            write!(f, "\n{table}")?;
            more(f, self.disagreements.len())?;
        }
        if self.duplicates + self.near_duplicates > 0 {
            writeln!(
                f,
                "\nremoved: {} duplicates, {} near duplicates",
                count(self.duplicates),
                count(self.near_duplicates)
            )?;
        }
        if !self.rejects.is_empty() {
            let mut table = TextTable::new(&["rejected because", "rows"]);
            table.right(&[1]);
            for (reason, rows) in &self.rejects {
                table.row(vec![reason.clone(), count(*rows)]);
            }
            write!(f, "\n{table}")?;
        }
        Ok(())
    }
}

fn more(f: &mut fmt::Formatter<'_>, rows: usize) -> fmt::Result {
    if rows > SHOWN { writeln!(f, "… and {} more", rows - SHOWN) } else { Ok(()) }
}
