//! What judging ends with: means by task, metric and language; what was asked, what it cost, and what went wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use artifact::text::{count, shorten};
use serde::Serialize;

use super::Price;
use super::cache::Reply;
use crate::means_table::MeansTable;

/// Reasons that are kept apart; more are counted together.
const REASONS: usize = 50;
/// Reasons that are shown.
const SHOWN: usize = 3;

/// What was judged.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The judge.
    pub model: String,
    /// The models that the endpoint says answered.
    pub served: BTreeSet<String>,
    /// Different requests in all.
    pub requests: u64,
    /// Those of them that were asked now; the replies to the others were there already.
    pub asked: u64,
    /// Those that got no reply.
    pub failed: u64,
    /// Replies without a clear verdict, each time that a score needed one.
    pub malformed: u64,
    /// Tokens sent for the replies that were not there already.
    pub prompt_tokens: u64,
    /// Tokens that came back.
    pub completion_tokens: u64,
    /// Replies of which the endpoint did not count the tokens.
    pub uncounted: u64,
    /// What they cost, where prices are known.
    pub cost: Option<f64>,
    /// Pairs of answers with a verdict in both orders.
    pub pairs: u64,
    /// Pairs whose verdict changed with the order.
    pub flips: u64,
    /// Verdicts for the answer that was shown first, of twice as many as there are pairs.
    pub first_preferred: u64,
    /// By task and metric, then language.
    #[serde(serialize_with = "as_means")]
    cells: BTreeMap<(String, String), BTreeMap<String, Cell>>,
    /// Why answers have no value: how often, and the first of them.
    reasons: BTreeMap<String, (u64, String)>,
}

/// The scores of one metric in one language.
#[derive(Clone, Debug, Default)]
struct Cell {
    sum: f64,
    scored: u64,
    unscored: u64,
}

fn as_means<S: serde::Serializer>(
    cells: &BTreeMap<(String, String), BTreeMap<String, Cell>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(cells.iter().flat_map(|((task, metric), by_lang)| {
        by_lang.iter().map(move |(lang, cell)| {
            let mean = (cell.scored > 0).then(|| cell.sum / cell.scored as f64);
            serde_json::json!({
                "task": task, "metric": metric, "lang": lang, "mean": mean,
                "answers": cell.scored, "without_value": cell.unscored,
            })
        })
    }))
}

impl Summary {
    /// Of this judge and so many requests, before any was asked.
    pub(super) fn new(model: &str, requests: u64) -> Summary {
        Summary { model: model.to_owned(), requests, ..Summary::default() }
    }

    /// Counts one score.
    pub(super) fn score(&mut self, task: &str, metric: &str, lang: &str, value: Option<f64>) {
        let key = (task.to_owned(), metric.to_owned());
        let cell = self.cells.entry(key).or_default().entry(lang.to_owned()).or_default();
        match value {
            Some(value) => {
                cell.sum += value;
                cell.scored += 1;
            }
            None => cell.unscored += 1,
        }
    }

    /// Notes why an answer has no value.
    pub(super) fn without_value(&mut self, reason: &str, example_id: &str) {
        let known = self.reasons.len() < REASONS || self.reasons.contains_key(reason);
        let reason = if known { reason } else { "other reasons" };
        let first = || (0, example_id.to_owned());
        self.reasons.entry(reason.to_owned()).or_insert_with(first).0 += 1;
    }

    /// Counts a reply that was asked for now.
    pub(super) fn paid(&mut self, reply: &Reply, price: Option<Price>) {
        self.uncounted +=
            u64::from(reply.prompt_tokens.is_none() || reply.completion_tokens.is_none());
        self.prompt_tokens += reply.prompt_tokens.unwrap_or(0);
        self.completion_tokens += reply.completion_tokens.unwrap_or(0);
        self.cost = price.map(|price| price.of(self.prompt_tokens, self.completion_tokens));
    }

    /// Tokens and cost so far, for the progress bar.
    pub(super) fn note(&self) -> String {
        let tokens = count(self.prompt_tokens + self.completion_tokens);
        let cost = self.cost.map_or(String::new(), |cost| format!(", cost {cost:.4}"));
        let failed =
            if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        format!("{tokens} tokens{cost}{failed}")
    }

    /// The mean of a metric over all answers of a task in a language.
    pub fn mean(&self, task: &str, metric: &str, lang: &str) -> Option<f64> {
        let cell = self.cells.get(&(task.to_owned(), metric.to_owned()))?.get(lang)?;
        (cell.scored > 0).then(|| cell.sum / cell.scored as f64)
    }

    fn table(&self) -> MeansTable<'_> {
        let mut table = MeansTable::new(self.cells.values().flat_map(BTreeMap::keys));
        for ((task, metric), cells) in &self.cells {
            let total = |pick: fn(&Cell) -> u64| cells.values().map(pick).sum();
            let answers = [total(|cell| cell.scored), total(|cell| cell.unscored)];
            table.row([task, metric], |lang| self.mean(task, metric, lang), answers);
        }
        table
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table())?;
        writeln!(
            f,
            "judge {}: {} requests, {} of them answered from the cache; {} failed, {} malformed",
            self.model,
            count(self.requests),
            count(self.requests.saturating_sub(self.asked)),
            count(self.failed),
            count(self.malformed),
        )?;
        if self.asked > 0 {
            let cost = self.cost.map_or(String::new(), |cost| format!("; cost {cost:.4}"));
            let uncounted = match self.uncounted {
                0 => String::new(),
                replies => format!("; {} replies came without a count", count(replies)),
            };
            writeln!(
                f,
                "tokens: {} sent, {} back{uncounted}{cost}",
                count(self.prompt_tokens),
                count(self.completion_tokens),
            )?;
        }
        if self.pairs > 0 {
            let share = |part: u64, of: u64| 100.0 * part as f64 / of as f64;
            writeln!(
                f,
                "pairs: {}; the verdict changed with the order in {} ({:.1} %), and {:.1} % of all verdicts were for \
                 the answer shown first",
                count(self.pairs),
                count(self.flips),
                share(self.flips, self.pairs),
                share(self.first_preferred, 2 * self.pairs),
            )?;
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, (times, _))| std::cmp::Reverse(*times));
        for (reason, (times, first)) in reasons.iter().take(SHOWN) {
            let reason = shorten(reason, 160);
            writeln!(f, "no value: {} × {reason} (the first is example {first})", count(*times))?;
        }
        if reasons.len() > SHOWN {
            writeln!(
                f,
                "no value: {} more reasons, in the column `detail`",
                reasons.len() - SHOWN
            )?;
        }
        Ok(())
    }
}

/// What judging would ask for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Different requests.
    pub requests: u64,
    /// Those whose replies are there already.
    pub cached: u64,
    /// About how many tokens the others send.
    pub prompt_tokens: u64,
    /// About how many come back, or at most; `None` where nothing says.
    pub completion_tokens: Option<u64>,
    /// Whether that is the most that may come back, rather than what earlier replies had.
    pub at_most: bool,
    /// About what that costs, where prices are known.
    pub cost: Option<f64>,
}

impl Estimate {
    /// Adds what another run would ask for.
    pub fn add(&mut self, other: &Estimate) {
        let first = self.requests == 0;
        let sum = |own: Option<u64>, other: Option<u64>| Some(own? + other?);
        let of_both = sum(self.completion_tokens, other.completion_tokens);
        self.completion_tokens = if first { other.completion_tokens } else { of_both };
        self.cost = match (first, self.cost, other.cost) {
            (true, _, cost) => cost,
            (false, own, other) => own.zip(other).map(|(own, other)| own + other),
        };
        self.requests += other.requests;
        self.cached += other.cached;
        self.prompt_tokens += other.prompt_tokens;
        self.at_most |= other.at_most;
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to_ask = self.requests - self.cached;
        writeln!(
            f,
            "{} requests: {} in the cache, {} to ask",
            count(self.requests),
            count(self.cached),
            count(to_ask),
        )?;
        if to_ask == 0 {
            return Ok(());
        }
        let about = if self.at_most { "at most" } else { "about" };
        let back = match self.completion_tokens {
            Some(tokens) => format!("{about} {} back", count(tokens)),
            None => "an unknown number back".to_owned(),
        };
        writeln!(f, "tokens: about {} to send, {back}", count(self.prompt_tokens))?;
        match self.cost {
            Some(cost) => writeln!(f, "cost: {about} {cost:.2}"),
            None => writeln!(f, "cost: not known; give the endpoint's `price`"),
        }
    }
}
