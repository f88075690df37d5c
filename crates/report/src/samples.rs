//! A few generations beside the scores: per task and language, from the runs of the largest n, the
//! lowest and the highest scored by the task's headline metric.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use artifact::context::Context;

use crate::Samples;
use crate::read::{Row, Scores};
use crate::source::Source;

/// Prompts are shown from their end, at most this many characters: few-shot examples stand before.
const PROMPT: usize = 700;
const GENERATION: usize = 1500;

/// One generation with its score.
pub(crate) struct Sample {
    pub task: String,
    pub lang: String,
    pub n: i64,
    pub metric: String,
    pub value: f64,
    pub item: String,
    pub run: String,
    pub prompt: String,
    pub generation: String,
    pub reference: String,
}

/// Picks the rows, then finds their generations; what is not found is noted and left out.
pub(crate) fn collect(
    config: &Samples,
    scores: &Scores,
    metrics: &BTreeMap<String, String>,
    ctx: &Context,
) -> Result<Vec<Sample>> {
    let picked = pick(scores, metrics, config.per_language);
    let mut wanted: HashMap<[&str; 3], Vec<usize>> = HashMap::new();
    for (at, row) in picked.iter().enumerate() {
        wanted.entry(key(scores, row)).or_default().push(at);
    }
    let mut found: Vec<Option<Sample>> = picked.iter().map(|_| None).collect();
    let no_map = BTreeMap::new();
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
            for &at in wanted.get(&key).into_iter().flatten() {
                found[at] = Some(Sample {
                    prompt: tail(prompt.get(row).unwrap_or_default(), PROMPT),
                    generation: head(generation.get(row).unwrap_or_default(), GENERATION),
                    reference: head(reference.get(row).unwrap_or_default(), GENERATION),
                    ..blank(scores, &picked[at])
                });
            }
        }
    }
    if found.iter().any(Option::is_none) {
        let missing = found.iter().filter(|one| one.is_none()).count();
        ctx.warn(format!(
            "samples: {missing} of {} picked answers are not in the generations given",
            found.len()
        ));
    }
    Ok(found.into_iter().flatten().collect())
}

fn key<'a>(scores: &'a Scores, row: &Row) -> [&'a str; 3] {
    let id = match (row.example, row.item) {
        (Some(example), _) => scores.examples.name(example),
        (None, Some(item)) => scores.items.name(item),
        (None, None) => "",
    };
    [&scores.replicates[row.replicate as usize].run, id, scores.langs.name(row.lang)]
}

fn blank(scores: &Scores, row: &Row) -> Sample {
    Sample {
        task: scores.tasks.name(row.task).into(),
        lang: scores.langs.name(row.lang).into(),
        n: row.n,
        metric: scores.metrics.name(row.metric).into(),
        value: row.value,
        item: row.item.map_or(String::new(), |item| scores.items.name(item).into()),
        run: scores.replicates[row.replicate as usize].run.clone(),
        prompt: String::new(),
        generation: String::new(),
        reference: String::new(),
    }
}

/// By task and language: the lowest scored half and the highest scored half of `count`, from the
/// largest n.
fn pick(scores: &Scores, metrics: &BTreeMap<String, String>, count: usize) -> Vec<Row> {
    let mut groups: BTreeMap<(u32, &str), Vec<&Row>> = BTreeMap::new();
    for row in &scores.rows {
        let headline = metrics
            .get(scores.tasks.name(row.task))
            .is_some_and(|metric| metric == scores.metrics.name(row.metric));
        if headline && row.item.is_some() {
            groups.entry((row.task, scores.langs.name(row.lang))).or_default().push(row);
        }
    }
    let mut picked = Vec::new();
    for (_, mut rows) in groups {
        let largest = rows.iter().map(|row| row.n).max();
        rows.retain(|row| Some(row.n) == largest);
        let order = |row: &&Row| (key(scores, row), row.design);
        rows.sort_by(|a, b| a.value.total_cmp(&b.value).then_with(|| order(a).cmp(&order(b))));
        let low = count.div_ceil(2).min(rows.len());
        let high = (count / 2).min(rows.len() - low);
        picked.extend(rows[..low].iter().chain(&rows[rows.len() - high..]).map(|row| **row));
    }
    picked
}

fn head(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.to_string(),
    }
}

fn tail(text: &str, limit: usize) -> String {
    let length = text.chars().count();
    if length <= limit {
        text.to_string()
    } else {
        format!("… {}", text.chars().skip(length - limit).collect::<String>())
    }
}
