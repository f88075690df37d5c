//! What stands behind a score: for every cell (task, series, n, language) a few of its answers,
//! with their prompts, references and scores by every metric. Chosen by the task's headline metric:
//! in turn the largest loss against the baseline, the lowest score, the largest gain, the highest.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use artifact::context::Context;

use crate::Samples;
use crate::analyse::{Analysis, Curve};
use crate::arrange;
use crate::read::{Row, Scores};
use crate::source::Source;

/// Prompts are shown from their end, at most this many characters: few-shot examples stand before.
const PROMPT: usize = 600;
const GENERATION: usize = 1200;

/// One cell with its chosen answers.
pub(crate) struct Cell {
    /// Place of the headline curve in the analysis.
    pub curve: usize,
    pub n: i64,
    pub lang: String,
    pub items: usize,
    pub answers: usize,
    /// Items whose mean over the runs rose, fell and stayed against the baseline; `None` at it.
    pub moved: Option<[usize; 3]>,
    pub runs: Vec<String>,
    pub examples: Vec<Example>,
}

/// One answer.
pub(crate) struct Example {
    pub item: String,
    pub run: String,
    pub value: f64,
    /// The item's mean at the baseline, over its runs.
    pub before: Option<f64>,
    /// By metric, in the order of their names.
    pub scores: BTreeMap<String, f64>,
    pub texts: Option<Texts>,
}

/// What was asked, answered and right. Cut to what a reader needs, and so that nothing in it acts.
pub(crate) struct Texts {
    pub prompt: String,
    pub generation: String,
    pub reference: String,
}

/// Chooses the answers, then finds their texts; what is not found is warned of and left out.
///
/// # Errors
/// A user error where a generations file cannot be read or lacks a column.
pub(crate) fn collect(
    config: Option<&Samples>,
    scores: &Scores,
    analysis: &Analysis,
    ctx: &Context,
) -> Result<Vec<Cell>> {
    let (mut cells, chosen) =
        choose(scores, analysis, config.map_or(Samples::PER_CELL, |samples| samples.per_cell));
    all_metrics(scores, &chosen, &mut cells);
    if let Some(config) = config {
        find_texts(config, scores, &chosen, &mut cells, ctx)?;
    }
    Ok(cells)
}

/// Where an example stands: its cell and its place there.
type Place = (usize, usize);

/// A score with its curve and its rank in an order that does not depend on the order of the input.
struct Scored<'a> {
    curve: usize,
    item: u32,
    row: &'a Row,
}

fn choose<'a>(
    scores: &'a Scores,
    analysis: &Analysis,
    count: usize,
) -> (Vec<Cell>, Vec<(Place, &'a Row)>) {
    let mut scored = headline_rows(scores, analysis);
    let (items, langs, replicates) = (
        arrange::ranks(&scores.items.list),
        arrange::ranks(&scores.langs.list),
        arrange::ranks(&scores.replicates),
    );
    let order = |one: &Scored| {
        let row = one.row;
        (
            one.curve,
            row.n,
            langs[row.lang as usize],
            items[one.item as usize],
            replicates[row.replicate as usize],
        )
    };
    scored.sort_by_cached_key(|one| (order(one), key(scores, one.row)));
    let mut baseline: HashMap<(usize, u32, u32), (f64, usize)> = HashMap::new();
    for one in scored.iter().filter(|one| one.row.n == analysis.baseline) {
        let (sum, count) = baseline.entry((one.curve, one.row.lang, one.item)).or_default();
        *sum += one.row.value;
        *count += 1;
    }
    let before = |one: &Scored| {
        let at_baseline = one.row.n == analysis.baseline;
        let found = baseline.get(&(one.curve, one.row.lang, one.item)).filter(|_| !at_baseline);
        found.map(|(sum, count)| sum / *count as f64)
    };
    let (mut cells, mut chosen) = (Vec::new(), Vec::new());
    for rows in
        scored.chunk_by(|a, b| (a.curve, a.row.n, a.row.lang) == (b.curve, b.row.n, b.row.lang))
    {
        let mut cell = summary(scores, rows, before);
        for one in pick(rows, before, count) {
            chosen.push(((cells.len(), cell.examples.len()), one.row));
            cell.examples.push(Example {
                item: scores.items.name(one.item).into(),
                run: scores.replicates[one.row.replicate as usize].run.clone(),
                value: one.row.value,
                before: before(one),
                scores: BTreeMap::new(),
                texts: None,
            });
        }
        cells.push(cell);
    }
    (cells, chosen)
}

/// The rows of every task's headline metric that have an item, with their curves.
fn headline_rows<'a>(scores: &'a Scores, analysis: &Analysis) -> Vec<Scored<'a>> {
    let (series, of_design) = arrange::series(scores);
    let curve_of = |task: u32, metric: u32, series_at: usize| {
        let fits = |curve: &Curve| {
            curve.headline
                && curve.task == scores.tasks.name(task)
                && curve.metric == scores.metrics.name(metric)
                && curve.series == series[series_at]
        };
        analysis.curves.iter().position(fits)
    };
    let mut known: HashMap<(u32, u32, usize), Option<usize>> = HashMap::new();
    let scored = |row: &'a Row| {
        let at = (row.task, row.metric, of_design[row.design as usize]);
        let curve = (*known.entry(at).or_insert_with(|| curve_of(at.0, at.1, at.2)))?;
        Some(Scored { curve, item: row.item?, row })
    };
    scores.rows.iter().filter_map(scored).collect()
}

fn summary(scores: &Scores, rows: &[Scored], before: impl Fn(&Scored) -> Option<f64>) -> Cell {
    let by_item = || rows.chunk_by(|a, b| a.item == b.item);
    let moves = by_item().filter_map(|rows| {
        let mean = rows.iter().map(|one| one.row.value).sum::<f64>() / rows.len() as f64;
        Some((mean - before(&rows[0])?).partial_cmp(&0.0)? as i8)
    });
    let moves: Vec<i8> = moves.collect();
    let count = |wanted: i8| moves.iter().filter(|one| **one == wanted).count();
    let runs: HashSet<u32> = rows.iter().map(|one| one.row.replicate).collect();
    let mut runs: Vec<String> =
        runs.into_iter().map(|at| scores.replicates[at as usize].run.clone()).collect();
    runs.sort();
    runs.retain(|run| !run.is_empty());
    Cell {
        curve: rows[0].curve,
        n: rows[0].row.n,
        lang: scores.langs.name(rows[0].row.lang).into(),
        items: by_item().count(),
        answers: rows.len(),
        moved: (!moves.is_empty()).then(|| [count(1), count(-1), count(0)]),
        runs,
        examples: Vec::new(),
    }
}

/// In turn the largest loss, the lowest, the largest gain and the highest of the items not yet
/// taken.
fn pick<'a, 'b>(
    rows: &'b [Scored<'a>],
    before: impl Fn(&Scored) -> Option<f64>,
    count: usize,
) -> Vec<&'b Scored<'a>> {
    let change = |one: &Scored| before(one).map_or(0.0, |before| one.row.value - before);
    let mut by_change: Vec<&Scored> = rows.iter().collect();
    by_change.sort_by(|a, b| change(a).total_cmp(&change(b)));
    let mut by_value: Vec<&Scored> = rows.iter().collect();
    by_value.sort_by(|a, b| a.row.value.total_cmp(&b.row.value));
    let (falls, rises) = (
        by_change.iter().copied().filter(|one| change(one) < 0.0),
        by_change.iter().rev().copied().filter(|one| change(one) > 0.0),
    );
    let (low, high) = (by_value.iter().copied(), by_value.iter().rev().copied());
    let mut lists: [Box<dyn Iterator<Item = &Scored>>; 4] =
        [Box::new(falls), Box::new(low), Box::new(rises), Box::new(high)];
    let (mut picked, mut taken) = (Vec::new(), HashSet::new());
    let mut empty = 0;
    while picked.len() < count && empty < lists.len() {
        empty = 0;
        for list in &mut lists {
            match list.find(|one| !taken.contains(&one.item)) {
                Some(one) if picked.len() < count => {
                    taken.insert(one.item);
                    picked.push(one);
                }
                Some(_) => {}
                None => empty += 1,
            }
        }
    }
    picked
}

/// What the scores and the generations both know of an answer.
fn key<'a>(scores: &'a Scores, row: &Row) -> [&'a str; 3] {
    let id = match (row.example, row.item) {
        (Some(example), _) => scores.examples.name(example),
        (None, Some(item)) => scores.items.name(item),
        (None, None) => "",
    };
    [&scores.replicates[row.replicate as usize].run, id, scores.langs.name(row.lang)]
}

/// Every metric's score of the chosen answers.
fn all_metrics(scores: &Scores, chosen: &[(Place, &Row)], cells: &mut [Cell]) {
    let answer =
        |row: &Row| (row.task, row.design, row.n, row.lang, row.replicate, row.item, row.example);
    let wanted: HashMap<_, Place> =
        chosen.iter().map(|(place, row)| (answer(row), *place)).collect();
    for row in &scores.rows {
        if let Some(&(cell, example)) = wanted.get(&answer(row)) {
            let metric = scores.metrics.name(row.metric).to_string();
            cells[cell].examples[example].scores.insert(metric, row.value);
        }
    }
}

fn find_texts(
    config: &Samples,
    scores: &Scores,
    chosen: &[(Place, &Row)],
    cells: &mut [Cell],
    ctx: &Context,
) -> Result<()> {
    let mut wanted: HashMap<[&str; 3], Vec<Place>> = HashMap::new();
    for (place, row) in chosen {
        wanted.entry(key(scores, row)).or_default().push(*place);
    }
    let no_map = BTreeMap::new();
    let mut found = 0;
    for path in &config.generations {
        ctx.check()?;
        let source = Source::open(path, &no_map)?;
        let (generation, lang) =
            (source.required_text("generation")?, source.required_text("lang")?);
        let [run, item, example, prompt, reference] =
            ["run_id", "item_id", "example_id", "prompt", "reference"]
                .map(|name| source.text(name));
        let (run, item, example, prompt, reference) = (run?, item?, example?, prompt?, reference?);
        for row in 0..source.rows() {
            let id = example.get(row).or(item.get(row)).unwrap_or_default();
            let key = [run.get(row).unwrap_or_default(), id, lang.get(row).unwrap_or_default()];
            for &(cell, place) in wanted.get(&key).into_iter().flatten() {
                let one = &mut cells[cell].examples[place].texts;
                found += usize::from(one.is_none());
                *one = Some(Texts {
                    prompt: tail(prompt.get(row).unwrap_or_default(), PROMPT),
                    generation: head(generation.get(row).unwrap_or_default(), GENERATION),
                    reference: head(reference.get(row).unwrap_or_default(), GENERATION),
                });
            }
        }
    }
    if found < chosen.len() && !config.generations.is_empty() {
        ctx.warn(format!(
            "samples: {} of {} chosen answers are not in the generations given",
            chosen.len() - found,
            chosen.len()
        ));
    }
    Ok(())
}

fn head(text: &str, limit: usize) -> String {
    let shown = crate::words::visible(match text.char_indices().nth(limit) {
        Some((at, _)) => &text[..at],
        None => text,
    });
    cut_note(text, limit).map_or(shown.to_string(), |note| format!("{shown} … {note}"))
}

fn tail(text: &str, limit: usize) -> String {
    let from = text.char_indices().rev().nth(limit.saturating_sub(1)).map_or(0, |(at, _)| at);
    let shown = crate::words::visible(&text[from..]);
    cut_note(text, limit).map_or(shown.to_string(), |note| format!("{note} … {shown}"))
}

/// What is said where a text was cut.
fn cut_note(text: &str, limit: usize) -> Option<String> {
    let length = text.chars().count();
    (length > limit)
        .then(|| format!("[{} more characters]", artifact::text::count((length - limit) as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_where_it_is_said() {
        assert_eq!(head("日本語です", 3), "日本語 … [2 more characters]");
        assert_eq!(tail("日本語です", 3), "[2 more characters] … 語です");
        assert_eq!((head("ab", 2), tail("ab", 2)), ("ab".into(), "ab".into()));
        assert_eq!(
            head(&"x".repeat(1 << 20), GENERATION).len(),
            GENERATION + " … [1,047,376 more characters]".len()
        );
    }
}
