//! What the page's script is given, as JSON inside the page: the names that filters choose from, and
//! for every cell its chosen answers. Texts stand once and are referred to by number; the answers
//! enter in turn, one of each cell, until the budget of bytes is spent, and each cell says what it
//! leaves out.

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;

use crate::analyse::Analysis;
use crate::read::Scores;
use crate::samples::{Cell, Example};
use crate::words;

/// The page's data, with the cells' places for whoever links to them.
pub(crate) struct Drill {
    pub names: Names,
    /// JSON that may stand in a `script` element.
    pub json: String,
    places: HashMap<(usize, i64, String), usize>,
    /// The headline curve of every curve's task and series.
    headline: Vec<Option<usize>>,
}

/// What rows and figures are filtered by, each in an order that the input's does not change.
#[derive(Clone, Serialize)]
pub(crate) struct Names {
    pub tasks: Vec<String>,
    pub models: Vec<String>,
    pub tags: Vec<String>,
}

impl Names {
    fn new(analysis: &Analysis) -> Self {
        let mut names = Names { tasks: Vec::new(), models: Vec::new(), tags: Vec::new() };
        let mut add = |list: fn(&mut Names) -> &mut Vec<String>, name: &String| {
            if !name.is_empty() && !list(&mut names).contains(name) {
                list(&mut names).push(name.clone());
            }
        };
        for curve in &analysis.curves {
            add(|names| &mut names.tasks, &curve.task);
            add(|names| &mut names.models, &curve.series.model);
            for language in curve.points.iter().flat_map(|point| &point.languages) {
                add(|names| &mut names.tags, &language.lang);
            }
        }
        names.tags.sort();
        names
    }
}

#[derive(Serialize)]
struct Data<'a> {
    tasks: &'a [String],
    models: &'a [String],
    tags: &'a [String],
    langs: Vec<String>,
    directions: Vec<&'static str>,
    metrics: &'a [String],
    baseline: i64,
    texts: Vec<&'a str>,
    cells: Vec<JsonCell>,
}

#[derive(Serialize)]
struct JsonCell {
    task: usize,
    metric: usize,
    series: usize,
    lang: usize,
    n: i64,
    told: String,
    left: String,
    examples: Vec<JsonExample>,
}

#[derive(Serialize)]
struct JsonExample {
    score: String,
    before: Option<String>,
    scores: Vec<(usize, String)>,
    item: usize,
    run: Option<usize>,
    prompt: Option<usize>,
    generation: Option<usize>,
    reference: Option<usize>,
}

/// Strings by number, each once, with the bytes that they take.
#[derive(Default)]
struct Texts<'a> {
    known: HashMap<&'a str, usize>,
    list: Vec<&'a str>,
    bytes: usize,
}

impl<'a> Texts<'a> {
    fn add(&mut self, text: &'a str) -> usize {
        *self.known.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.bytes += text.len() + 4;
            self.list.len() - 1
        })
    }

    fn some(&mut self, text: &'a str) -> Option<usize> {
        (!text.is_empty()).then(|| self.add(text))
    }
}

/// Bytes that an answer takes beside its texts, about.
const FRAME: usize = 160;

impl Drill {
    /// The data of `cells`, the answers' texts within `budget` bytes.
    ///
    /// # Errors
    /// Where JSON cannot be written.
    pub fn new(
        analysis: &Analysis,
        scores: &Scores,
        cells: &[Cell],
        budget: usize,
    ) -> Result<Self> {
        let names = Names::new(analysis);
        let mut metrics: Vec<String> = scores.metrics.list.clone();
        metrics.sort();
        let mut texts = Texts::default();
        let series: Vec<String> =
            cells.iter().map(|cell| words::series(&analysis.curves[cell.curve].series)).collect();
        let place =
            |list: &[String], name: &str| list.iter().position(|one| one == name).unwrap_or(0);
        let mut made: Vec<JsonCell> = Vec::with_capacity(cells.len());
        for (cell, series) in cells.iter().zip(&series) {
            let curve = &analysis.curves[cell.curve];
            made.push(JsonCell {
                task: place(&names.tasks, &curve.task),
                metric: place(&metrics, &curve.metric),
                series: texts.add(series),
                lang: place(&names.tags, &cell.lang),
                n: cell.n,
                told: told(cell, analysis.baseline),
                left: String::new(),
                examples: Vec::new(),
            });
        }
        let most = cells.iter().map(|cell| cell.examples.len()).max().unwrap_or(0);
        let mut frames = 0;
        'full: for turn in 0..most {
            for (cell, made) in cells.iter().zip(&mut made) {
                let Some(example) = cell.examples.get(turn) else { continue };
                if texts.bytes + frames > budget {
                    break 'full;
                }
                let unit = analysis.curves[cell.curve].unit;
                frames += FRAME;
                made.examples.push(json_example(example, unit, &metrics, &mut texts));
            }
        }
        for (cell, made) in cells.iter().zip(&mut made) {
            made.left = left(cell, made.examples.len());
        }
        let data = Data {
            tasks: &names.tasks,
            models: &names.models,
            tags: &names.tags,
            langs: names.tags.iter().map(|tag| words::language(tag)).collect(),
            directions: names.tags.iter().map(|tag| words::direction(tag)).collect(),
            metrics: &metrics,
            baseline: analysis.baseline,
            texts: texts.list,
            cells: made,
        };
        let json = inert(&serde_json::to_string(&data)?);
        let places = cells.iter().enumerate();
        let places =
            places.map(|(at, cell)| ((cell.curve, cell.n, cell.lang.clone()), at)).collect();
        Ok(Drill { names, json, places, headline: headline(analysis) })
    }

    /// The number of the cell behind a language's score of any metric of a curve.
    pub fn cell(&self, curve: usize, n: i64, lang: &str) -> Option<usize> {
        let headline = (*self.headline.get(curve)?)?;
        self.places.get(&(headline, n, lang.to_string())).copied()
    }
}

fn headline(analysis: &Analysis) -> Vec<Option<usize>> {
    let of = |curve: &crate::analyse::Curve| {
        analysis
            .curves
            .iter()
            .position(|one| one.headline && one.task == curve.task && one.series == curve.series)
    };
    analysis.curves.iter().map(of).collect()
}

fn json_example<'a>(
    example: &'a Example,
    unit: words::Unit,
    metrics: &[String],
    texts: &mut Texts<'a>,
) -> JsonExample {
    let shown = |value: f64| unit.value(value).replace('-', "−");
    let score = |(name, value): (&String, &f64)| {
        let place = metrics.iter().position(|one| one == name).unwrap_or(0);
        (place, plain(*value))
    };
    let mut text = |of: fn(&crate::samples::Texts) -> &String| {
        example.texts.as_ref().and_then(|all| texts.some(of(all)))
    };
    let (prompt, reference) = (text(|all| &all.prompt), text(|all| &all.reference));
    // An empty answer is an answer.
    let generation = example.texts.as_ref().map(|all| texts.add(&all.generation));
    JsonExample {
        score: shown(example.value),
        before: example.before.map(shown),
        scores: example.scores.iter().map(score).collect(),
        item: texts.add(&example.item),
        run: texts.some(&example.run),
        prompt,
        generation,
        reference,
    }
}

/// A single answer's score as it stands in the scores, to four decimals.
pub(crate) fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').replace('-', "−")
}

fn plural(count: usize, one: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {one}{s}", artifact::text::count(count as u64))
}

fn told(cell: &Cell, baseline: i64) -> String {
    let mut text = format!("{}, {}.", plural(cell.items, "item"), plural(cell.answers, "answer"));
    if let Some([rose, fell, same]) = cell.moved {
        text += &format!(
            " Against n = {baseline}: {rose} higher, {fell} lower, {same} the same (means over runs, item by item)."
        );
    }
    text
}

/// What the cell does not show, and where it stands.
fn left(cell: &Cell, shown: usize) -> String {
    const RUNS: usize = 6;
    let rest = cell.answers - shown;
    let mut text = match (shown, rest) {
        (0, _) => "No answers are shown, to keep the page small".to_string(),
        (_, 0) => "These are all".to_string(),
        _ => format!("{} more are not shown", plural(rest, "answer")),
    };
    if !cell.runs.is_empty() {
        let named = cell.runs[..cell.runs.len().min(RUNS)].join(", ");
        let more = if cell.runs.len() > RUNS { " …" } else { "" };
        text += &format!("; all are in the scores and generations of {named}{more}");
    }
    text + "."
}

/// JSON in which nothing can end its element or begin markup.
fn inert(json: &str) -> String {
    json.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_inside_the_page_holds_no_markup_and_reads_back_as_it_was() {
        let text = "</script><!-- <img onerror=x> & \u{2028}";
        let json = inert(&serde_json::to_string(text).unwrap());
        assert!(!json.contains(['<', '>', '&', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn a_score_keeps_its_own_digits() {
        assert_eq!(
            (plain(1.0), plain(0.123_456), plain(-3.5)),
            ("1".into(), "0.1235".into(), "−3.5".into())
        );
    }
}
