//! Rows in; per task, curves of points of cells out. A cell is one metric, series, n and language;
//! it holds its items' scores seed by seed. A series is a design without its n: model, setting,
//! languages, and whatever else was varied at the same n.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::statistics::{Sample, SeedScores};
use anyhow::{Context as _, Result};
use artifact::bail_user;
use artifact::config::nearest;

use crate::ReportConfig;
use crate::read::{Design, Group, Replicate, Row, Scores};
use crate::scale::Scale;

/// Everything, arranged.
pub(crate) struct Arranged {
    pub tasks: Vec<Task>,
    pub notes: Vec<String>,
}

/// One task: the cells that share its test items, and the curves that they make up.
pub(crate) struct Task {
    pub name: String,
    /// The cells' scores, over the items that they share: the clusters that are resampled.
    pub sample: Sample,
    /// What each cell of the sample is.
    pub cells: Vec<Cell>,
    pub curves: Vec<Curve>,
    /// Points whose languages were not scored in the same runs.
    pub uneven: usize,
}

/// One metric of one series, along n.
pub(crate) struct Curve {
    pub metric: String,
    /// Place of the metric in the report; 0 is the task's headline.
    pub metric_rank: usize,
    pub series: Series,
    pub scale: Scale,
    pub points: Vec<Point>,
}

/// The cells of a curve at one n, by language: English, the seen ones in the design's order, the
/// others.
pub(crate) struct Point {
    pub n: i64,
    pub cells: Vec<usize>,
}

/// What a curve is a curve of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    pub model: String,
    pub setting: String,
    pub train_langs: String,
    /// Further factors that were varied at the same n, such as `substitution` or `1000 English`;
    /// mostly empty.
    pub variant: String,
}

impl Series {
    /// The training languages other than English, in the design's order.
    pub fn others(&self) -> Vec<String> {
        self.train_langs
            .split([',', ' ', '+'])
            .filter(|lang| !lang.is_empty() && !language::same_language(lang, "en"))
            .map(String::from)
            .collect()
    }
}

/// One language at one point.
pub(crate) struct Cell {
    pub lang: String,
    pub group: Group,
    /// The names of the runs, seed by seed; empty where the input does not name them.
    pub runs: Vec<String>,
    /// Distinct items; 0 in an aggregate.
    pub items: usize,
}

/// A row with everything that orders it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    task: u32,
    metric: usize,
    series: usize,
    n: i64,
    lang: (Group, usize, u32),
    replicate: usize,
    item: Option<u32>,
}

/// Arranges the rows of the wanted metrics.
///
/// # Errors
/// A user error where a metric of the settings is not in the input, or a cell mixes items with an
/// aggregate.
pub(crate) fn arrange(scores: &Scores, config: &ReportConfig) -> Result<Arranged> {
    let mut notes = scores.notes.clone();
    let metrics = wanted_metrics(scores, config)?;
    let (series, of_design) = series(scores);
    let groups = groups(scores, &mut notes);
    let (items, replicates, langs) =
        (ranks(&scores.items.list), ranks(&scores.replicates), ranks(&scores.langs.list));
    let mut rows: Vec<(Key, f64)> = Vec::with_capacity(scores.rows.len());
    for row in &scores.rows {
        let Some(metric) = metrics.iter().position(|&metric| metric == row.metric) else {
            continue;
        };
        let (group, place) = groups[&(row.design, row.lang)];
        let key = Key {
            task: row.task,
            metric,
            series: of_design[row.design as usize],
            n: row.n,
            lang: (
                group,
                if group == Group::Seen { place } else { langs[row.lang as usize] as usize },
                row.lang,
            ),
            replicate: replicates[row.replicate as usize] as usize,
            item: row.item.map(|item| items[item as usize]),
        };
        rows.push((key, row.value));
    }
    let mut runs = vec![""; scores.replicates.len()];
    for (replicate, &rank) in scores.replicates.iter().zip(&replicates) {
        runs[rank as usize] = &replicate.run;
    }
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    note_repeated_seeds(scores, &of_design, &mut notes);
    let tasks = rows
        .chunk_by(|a, b| a.0.task == b.0.task)
        .map(|rows| task(rows, scores, &metrics, &series, &runs))
        .collect::<Result<Vec<Task>>>()?;
    let uneven: usize = tasks.iter().map(|task| task.uneven).sum();
    if uneven > 0 {
        notes.push(format!(
            "at {uneven} points the languages were not all scored in the same runs: what a run has in common is paired by order there"
        ));
    }
    Ok(Arranged { tasks, notes })
}

/// The settings' metrics, or all, as numbers of the input.
fn wanted_metrics(scores: &Scores, config: &ReportConfig) -> Result<Vec<u32>> {
    if config.metrics.is_empty() {
        return Ok((0..scores.metrics.list.len() as u32).collect());
    }
    let known = || scores.metrics.list.iter().map(String::as_str);
    let find = |name: &String| match scores.metrics.get(name) {
        Some(metric) => Ok(metric),
        None => {
            let near = nearest(name, known())
                .map(|near| format!(", did you mean {near:?}?"))
                .unwrap_or_default();
            bail_user!(
                "metrics: the scores have no metric {name:?}{near} There are: {}",
                known().collect::<Vec<_>>().join(", ")
            )
        }
    };
    config.metrics.iter().map(find).collect()
}

/// The rank of each value among all: an order that does not depend on the order of the rows.
pub(crate) fn ranks<T: Ord>(values: &[T]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by_key(|&at| &values[at as usize]);
    let mut ranks = vec![0; values.len()];
    for (rank, at) in order.into_iter().enumerate() {
        ranks[at as usize] = rank as u32;
    }
    ranks
}

/// The series, in the order of the report, and the series of every design.
pub(crate) fn series(scores: &Scores) -> (Vec<Series>, Vec<usize>) {
    let points: BTreeSet<(u32, i64)> = scores.rows.iter().map(|row| (row.design, row.n)).collect();
    let design = |at: u32| &scores.designs[at as usize];
    let base = |d: &Design| [d.model.clone(), d.setting.clone(), d.train_langs.clone()];
    // A factor sets series apart where it takes two values at one n; English that follows n under a
    // fixed total does not.
    let varied = |key: &dyn Fn(&Design) -> String, within: &dyn Fn(&Design) -> Vec<String>| {
        let mut values: BTreeMap<(Vec<String>, i64), BTreeSet<String>> = BTreeMap::new();
        for &(at, n) in &points {
            values.entry((within(design(at)), n)).or_default().insert(key(design(at)));
        }
        values.values().any(|values| values.len() > 1)
    };
    let budget = varied(&|d| d.budget.clone(), &|d| base(d).to_vec());
    let sampler = varied(&|d| d.sampler.clone(), &|d| base(d).to_vec());
    let within =
        |d: &Design| base(d).into_iter().chain([d.budget.clone(), d.sampler.clone()]).collect();
    let english = varied(&|d| d.english.map_or(String::new(), |e| e.to_string()), &within);
    let of = |d: &Design| {
        let parts = [
            budget.then(|| d.budget.clone()),
            sampler.then(|| d.sampler.clone()),
            english.then(|| d.english.map_or(String::new(), |count| format!("{count} English"))),
        ];
        let variant = parts
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        Series {
            model: d.model.clone(),
            setting: d.setting.clone(),
            train_langs: d.train_langs.clone(),
            variant,
        }
    };
    let mut list: Vec<Series> = scores.designs.iter().map(of).collect();
    let of_design = list.clone();
    let order = |s: &Series| {
        (
            s.model.clone(),
            s.setting.starts_with("multi"),
            Reverse(s.train_langs.matches(',').count()),
            s.clone(),
        )
    };
    list.sort_by_cached_key(order);
    list.dedup();
    let places = of_design
        .iter()
        .map(|s| list.iter().position(|one| one == s).unwrap_or_default())
        .collect();
    (list, places)
}

/// The group of each language in each design, with its place among the seen ones. `train_langs`
/// decides; where it is absent the input's own `split` does, and where the two disagree there is a
/// note.
fn groups(scores: &Scores, notes: &mut Vec<String>) -> HashMap<(u32, u32), (Group, usize)> {
    let mut groups = HashMap::new();
    let mut disagreements = BTreeSet::new();
    for row in &scores.rows {
        let found: (Group, usize) =
            *groups.entry((row.design, row.lang)).or_insert_with(|| group(scores, row));
        if row.split.is_some_and(|split| split != found.0) {
            disagreements.insert((row.design, row.lang, row.split));
        }
    }
    if let Some(&(design, lang, Some(split))) = disagreements.first() {
        let (langs, said) = (&scores.designs[design as usize].train_langs, split.name());
        let lang_name = scores.langs.name(lang);
        let derived = groups[&(design, lang)].0.name();
        notes.push(format!(
            "the input calls {lang_name} {said}, but beside train_langs {langs:?} it is {derived}; train_langs decides ({} such cases)",
            disagreements.len()
        ));
    }
    groups
}

fn group(scores: &Scores, row: &Row) -> (Group, usize) {
    let lang = scores.langs.name(row.lang);
    if language::same_language(lang, "en") {
        return (Group::English, 0);
    }
    let train_langs = &scores.designs[row.design as usize].train_langs;
    if train_langs.is_empty() {
        return (row.split.unwrap_or(Group::Unknown), 0);
    }
    let place = train_langs
        .split([',', ' ', '+'])
        .filter(|one| !one.is_empty())
        .position(|one| language::same_language(lang, one));
    place.map_or((Group::Unseen, 0), |place| (Group::Seen, place))
}

/// Two runs with the same seeds at the same point differ in something that the columns do not say.
fn note_repeated_seeds(scores: &Scores, of_design: &[usize], notes: &mut Vec<String>) {
    let mut runs: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for row in &scores.rows {
        let Replicate { data_seed, train_seed, run } = &scores.replicates[row.replicate as usize];
        if data_seed.is_some() || train_seed.is_some() {
            let point = (row.task, of_design[row.design as usize], row.n, data_seed, train_seed);
            runs.entry(point).or_default().insert(run);
        }
    }
    if let Some(runs) = runs.values().find(|runs| runs.len() > 1) {
        let names = runs.iter().copied().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "runs {names} have the same factors and seeds; they are taken for repetitions"
        ));
    }
}

/// The rows of one task, in order.
fn task(
    rows: &[(Key, f64)],
    scores: &Scores,
    metrics: &[u32],
    series: &[Series],
    runs: &[&str],
) -> Result<Task> {
    let mut universe: Vec<u32> = rows.iter().filter_map(|(key, _)| key.item).collect();
    universe.sort_unstable();
    universe.dedup();
    let name = scores.tasks.name(rows[0].0.task).to_string();
    let sample = Sample::new(universe.len());
    let mut builder = CellBuilder { universe: &universe, runs, sample, task: &name };
    let (mut cells, mut curves, mut uneven) = (Vec::<Cell>::new(), Vec::new(), 0);
    let scales = scales(rows, scores, metrics);
    for rows in rows.chunk_by(|a, b| (a.0.metric, a.0.series) == (b.0.metric, b.0.series)) {
        let first = rows[0].0;
        let scale = scales[&first.metric];
        let mut points = Vec::new();
        for rows in rows.chunk_by(|a, b| a.0.n == b.0.n) {
            let start = cells.len();
            for rows in rows.chunk_by(|a, b| a.0.lang == b.0.lang) {
                let (group, _, lang) = rows[0].0.lang;
                cells.push(builder.cell(rows, scores.langs.name(lang), group, scale)?);
            }
            let point: Vec<usize> = (start..cells.len()).collect();
            uneven += usize::from(point.iter().any(|&one| cells[one].runs != cells[start].runs));
            points.push(Point { n: rows[0].0.n, cells: point });
        }
        let metric = scores.metrics.name(metrics[first.metric]).to_string();
        curves.push(Curve {
            metric,
            metric_rank: first.metric,
            series: series[first.series].clone(),
            scale,
            points,
        });
    }
    let headline = curves.iter().map(|curve| curve.metric_rank).min().unwrap_or(0);
    for curve in &mut curves {
        curve.metric_rank -= headline;
    }
    let sample = builder.sample;
    Ok(Task { sample, cells, curves, name, uneven })
}

/// The scale of each metric, by all of the task's scores.
fn scales(rows: &[(Key, f64)], scores: &Scores, metrics: &[u32]) -> BTreeMap<usize, Scale> {
    let of_metric = rows.chunk_by(|a, b| a.0.metric == b.0.metric);
    let scale = |rows: &[(Key, f64)]| {
        let name = scores.metrics.name(metrics[rows[0].0.metric]);
        (rows[0].0.metric, Scale::of(name, rows.iter().map(|row| row.1)))
    };
    of_metric.map(scale).collect()
}

/// Makes the cells of a task.
struct CellBuilder<'a> {
    universe: &'a [u32],
    /// Names of the runs, by rank.
    runs: &'a [&'a str],
    sample: Sample,
    task: &'a str,
}

impl CellBuilder<'_> {
    fn cell(
        &mut self,
        rows: &[(Key, f64)],
        lang: &str,
        group: Group,
        scale: Scale,
    ) -> Result<Cell> {
        let binary =
            rows.iter().all(|&(key, value)| key.item.is_some() && (value == 0.0 || value == 1.0));
        let seeds: Vec<_> = rows
            .chunk_by(|a, b| a.0.replicate == b.0.replicate)
            .map(|rows| self.seed(rows, lang))
            .collect::<Result<_>>()?;
        let of_seeds = rows.chunk_by(|a, b| a.0.replicate == b.0.replicate);
        let runs = of_seeds.map(|rows| self.runs[rows[0].0.replicate].to_string()).collect();
        let mut items: Vec<_> = rows.iter().filter_map(|(key, _)| key.item).collect();
        items.sort_unstable();
        items.dedup();
        let cell = ::statistics::Cell { seeds, range: scale.range, binary };
        self.sample.cell(cell).with_context(|| self.name(lang))?;
        Ok(Cell { lang: lang.to_string(), group, runs, items: items.len() })
    }

    fn name(&self, lang: &str) -> String {
        format!("task {:?}, language {lang:?}", self.task)
    }

    fn seed(&mut self, rows: &[(Key, f64)], lang: &str) -> Result<SeedScores> {
        if let [(Key { item: None, .. }, value)] = rows {
            return Ok(SeedScores::Aggregate(*value));
        }
        let (mut items, mut counts, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for rows in rows.chunk_by(|a, b| a.0.item == b.0.item) {
            let Some(item) = rows[0].0.item else {
                bail_user!(
                    "{}: some scores have an item and one of the same run has none",
                    self.name(lang)
                )
            };
            items.push(self.universe.partition_point(|&one| one < item) as u32);
            counts.push(rows.len() as u32);
            sums.push(rows.iter().map(|(_, value)| value).sum());
        }
        let coverage = self.sample.coverage(items, counts).with_context(|| self.name(lang))?;
        Ok(SeedScores::Items { coverage, sums })
    }
}
