//! Score files in, score rows out, with names replaced by numbers. Rows that cannot count (no
//! score, no n) are counted and noted; a score that stands there twice is an error, for nobody can
//! know which one is meant.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::bail_user;
use artifact::config::nearest;
use artifact::context::Context;

use crate::ReportConfig;
use crate::source::{Numbers, Source, Text};

/// The columns that the report understands.
const COLUMNS: [&str; 19] = [
    "lang",
    "n",
    "value",
    "task",
    "metric",
    "item_id",
    "example_id",
    "run_id",
    "model",
    "setting",
    "train_langs",
    "english",
    "budget",
    "sampler",
    "data_seed",
    "train_seed",
    "split",
    "signature",
    "detail",
];

/// The metric whose `detail` names the language of an answer that is not in the one asked for.
const LANGUAGE_FIDELITY: &str = "language_fidelity";
/// The metric that is made from it: answers in English that were to be in another language.
pub(crate) const ANSWERS_IN_ENGLISH: &str = "answers_in_english";

/// Everything read.
#[derive(Default)]
pub(crate) struct Scores {
    pub rows: Vec<Row>,
    /// Rows of the input that count; `rows` holds those made from them too.
    pub count: usize,
    pub tasks: Names,
    pub metrics: Names,
    pub langs: Names,
    pub items: Names,
    pub examples: Names,
    pub designs: Vec<Design>,
    pub replicates: Vec<Replicate>,
    /// By metric.
    pub signatures: BTreeMap<String, Vec<String>>,
    pub files: Vec<InputFile>,
    pub notes: Vec<String>,
}

/// One score. The `u32`s are places in the lists of [`Scores`].
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub task: u32,
    pub metric: u32,
    pub design: u32,
    pub n: i64,
    pub lang: u32,
    pub replicate: u32,
    /// `None` in an aggregate.
    pub item: Option<u32>,
    pub example: Option<u32>,
    pub value: f64,
    /// What the input itself says of its language.
    pub split: Option<Group>,
}

/// Which side of the design a language stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Group {
    English,
    Seen,
    Unseen,
    /// Neither `train_langs` nor `split` tells.
    Unknown,
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Group::English => "english",
            Group::Seen => "seen",
            Group::Unseen => "unseen",
            Group::Unknown => "unknown",
        }
    }

    fn parse(name: &str) -> Option<Group> {
        [Group::English, Group::Seen, Group::Unseen].into_iter().find(|group| group.name() == name)
    }
}

/// The factors that set one series apart from another, besides n.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Design {
    pub model: String,
    pub setting: String,
    pub train_langs: String,
    pub budget: String,
    pub sampler: String,
    pub english: Option<i64>,
}

/// One repetition of a design point: its seeds, and its run where that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Replicate {
    pub data_seed: Option<i64>,
    pub train_seed: Option<i64>,
    pub run: String,
}

/// Where rows came from, for the page's footer.
pub(crate) struct InputFile {
    pub name: String,
    pub rows: usize,
    /// blake3; `None` for standard input.
    pub hash: Option<String>,
}

/// Names in the order of their first appearance.
#[derive(Default)]
pub(crate) struct Names {
    ids: HashMap<String, u32>,
    pub list: Vec<String>,
}

impl Names {
    fn id(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = self.list.len() as u32;
        self.ids.insert(name.to_string(), id);
        self.list.push(name.to_string());
        id
    }

    pub fn name(&self, id: u32) -> &str {
        &self.list[id as usize]
    }

    pub fn get(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }
}

impl Scores {
    /// Distinct trained and scored checkpoints, as far as the input tells them apart.
    pub fn runs(&self) -> usize {
        self.rows.iter().map(|row| (row.design, row.n, row.replicate)).collect::<HashSet<_>>().len()
    }
}

/// Reads every file in turn.
///
/// # Errors
/// User errors: see [`crate::run`].
pub(crate) fn read(paths: &[PathBuf], config: &ReportConfig, ctx: &Context) -> Result<Scores> {
    if let Some(name) = config.map.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
        let hint = nearest(name, COLUMNS)
            .map(|near| format!(", did you mean `{near}`?"))
            .unwrap_or_default();
        bail_user!("map: `{name}` is not a column of scores{hint} Known: {}", COLUMNS.join(", "));
    }
    if paths.is_empty() {
        bail_user!("no score files given: name at least one scores.parquet or CSV file");
    }
    let mut reader = Reader::default();
    for path in paths {
        ctx.check()?;
        reader.file(path, &config.map)?;
    }
    reader.finish()
}

/// The columns of one file.
struct Columns {
    lang: Text,
    n: Numbers<i64>,
    value: Numbers<f64>,
    task: Text,
    metric: Text,
    item: Text,
    example: Text,
    run: Text,
    model: Text,
    setting: Text,
    train_langs: Text,
    budget: Text,
    sampler: Text,
    english: Numbers<i64>,
    data_seed: Numbers<i64>,
    train_seed: Numbers<i64>,
    split: Text,
    signature: Text,
    detail: Text,
}

impl Columns {
    fn load(source: &Source) -> Result<Self> {
        Ok(Columns {
            lang: source.required_text("lang")?,
            n: source.required_integers("n")?,
            value: source.required_numbers("value")?,
            task: source.text("task")?,
            metric: source.text("metric")?,
            item: source.text("item_id")?,
            example: source.text("example_id")?,
            run: source.text("run_id")?,
            model: source.text("model")?,
            setting: source.text("setting")?,
            train_langs: source.text("train_langs")?,
            budget: source.text("budget")?,
            sampler: source.text("sampler")?,
            english: source.integers("english")?,
            data_seed: source.integers("data_seed")?,
            train_seed: source.integers("train_seed")?,
            split: source.text("split")?,
            signature: source.text("signature")?,
            detail: source.text("detail")?,
        })
    }

    fn design(&self, row: usize) -> Design {
        Design {
            model: self.model.at(row),
            setting: self.setting.at(row),
            train_langs: self.train_langs.at(row),
            budget: self.budget.at(row),
            sampler: self.sampler.at(row),
            english: self.english.get(row),
        }
    }

    fn replicate(&self, row: usize) -> Replicate {
        Replicate {
            data_seed: self.data_seed.get(row),
            train_seed: self.train_seed.get(row),
            run: self.run.at(row),
        }
    }
}

/// What may be scored once only: task, metric, design, n, language, replicate, example.
type Key = (u32, u32, u32, i64, u32, u32, Option<u32>);

#[derive(Default)]
struct Reader {
    scores: Scores,
    designs: HashMap<Design, u32>,
    replicates: HashMap<Replicate, u32>,
    scored: HashSet<Key>,
    /// Rows left out and the files they are in, by reason.
    left_out: BTreeMap<&'static str, (u64, usize)>,
}

/// Why a row is left out.
const NO_SCORE: &str = "no score (the metric does not apply to them; `detail` says why)";
const NO_N: &str =
    "no n (examples per language in training; `isogloss generate --factor n=N` gives it)";

impl Reader {
    fn file(&mut self, path: &Path, map: &BTreeMap<String, String>) -> Result<()> {
        let source = Source::open(path, map)?;
        let columns = Columns::load(&source)?;
        let (mut unscored, mut without_n) = (0u64, 0u64);
        for row in 0..source.rows() {
            match (columns.n.get(row), columns.value.get(row).filter(|value| value.is_finite())) {
                (None, _) => without_n += 1,
                (_, None) => unscored += 1,
                (Some(n), Some(value)) => self.row(&columns, row, n, value, path)?,
            }
        }
        let name = path
            .file_name()
            .map_or_else(|| "standard input".into(), |name| name.to_string_lossy().into_owned());
        for (rows, reason) in [(unscored, NO_SCORE), (without_n, NO_N)] {
            if rows > 0 {
                let total = self.left_out.entry(reason).or_default();
                *total = (total.0 + rows, total.1 + 1);
            }
        }
        let hash =
            if path == Path::new("-") { None } else { Some(artifact::hash::hash_file(path)?) };
        self.scores.files.push(InputFile { name, rows: source.rows(), hash });
        Ok(())
    }

    fn row(
        &mut self,
        columns: &Columns,
        row: usize,
        n: i64,
        value: f64,
        path: &Path,
    ) -> Result<()> {
        let Some(lang) = columns.lang.get(row) else {
            bail_user!("{}: row {}: no language", path.display(), row + 1)
        };
        let metric = columns.metric.get(row).unwrap_or("score");
        if let Some(signature) = columns.signature.get(row) {
            self.sign(metric, signature);
        }
        let scores = &mut self.scores;
        let item = columns.item.get(row).or(columns.example.get(row));
        let made = Row {
            task: scores.tasks.id(columns.task.get(row).unwrap_or("all")),
            metric: scores.metrics.id(metric),
            design: place(columns.design(row), &mut self.designs, &mut scores.designs),
            n,
            lang: scores.langs.id(lang),
            replicate: place(columns.replicate(row), &mut self.replicates, &mut scores.replicates),
            item: item.map(|name| scores.items.id(name)),
            example: columns.example.get(row).map(|name| scores.examples.id(name)),
            value,
            split: columns.split.get(row).and_then(Group::parse),
        };
        let key = (
            made.task,
            made.metric,
            made.design,
            n,
            made.lang,
            made.replicate,
            made.example.or(made.item),
        );
        if !self.scored.insert(key) {
            return Err(self.twice(&made, path, row));
        }
        self.scores.rows.push(made);
        self.scores.count += 1;
        if metric == LANGUAGE_FIDELITY
            && !language::same_language(lang, "en")
            && columns.detail.is_there()
        {
            // `contradicted: en`
            let detected = columns.detail.get(row).and_then(|detail| detail.rsplit(": ").next());
            let english =
                value == 0.0 && detected.is_some_and(|tag| language::same_language(tag, "en"));
            let metric = self.scores.metrics.id(ANSWERS_IN_ENGLISH);
            self.scores.rows.push(Row { metric, value: f64::from(u8::from(english)), ..made });
        }
        Ok(())
    }

    fn sign(&mut self, metric: &str, signature: &str) {
        match self.scores.signatures.get_mut(metric) {
            Some(known) if known.iter().any(|one| one == signature) => {}
            Some(known) => known.push(signature.to_string()),
            None => {
                self.scores.signatures.insert(metric.to_string(), vec![signature.to_string()]);
            }
        }
    }

    fn twice(&self, row: &Row, path: &Path, number: usize) -> anyhow::Error {
        let scores = &self.scores;
        let run = &scores.replicates[row.replicate as usize].run;
        let run = if run.is_empty() {
            "the same design point".to_string()
        } else {
            format!("run {run:?}")
        };
        let item = row
            .item
            .map_or("no item".to_string(), |item| format!("item {:?}", scores.items.name(item)));
        artifact::error::user(format!(
            "{}: row {}: {run}, n = {}, language {:?}, {item}, metric {:?} is scored a second time; keep one row of each, or tell the \
             runs apart by `run_id`, `data_seed` or `train_seed`",
            path.display(),
            number + 1,
            row.n,
            scores.langs.name(row.lang),
            scores.metrics.name(row.metric)
        ))
    }

    fn finish(mut self) -> Result<Scores> {
        let scores = &mut self.scores;
        for (reason, (rows, files)) in &self.left_out {
            let rows = artifact::text::count(*rows);
            let of_files = if *files > 1 { format!(" of {files} files") } else { String::new() };
            scores.notes.push(format!("{rows} rows{of_files} have {reason} and are left out"));
        }
        if scores.rows.is_empty() {
            let files: Vec<_> = scores.files.iter().map(|file| file.name.as_str()).collect();
            let left_out: Vec<_> = scores.notes.iter().map(|note| format!("\n  {note}")).collect();
            bail_user!(
                "no scores in {}: there is nothing to report on{}",
                files.join(", "),
                left_out.concat()
            );
        }
        for (metric, signatures) in &scores.signatures {
            if signatures.len() > 1 {
                scores.notes.push(format!(
                    "{metric} comes in several signatures, which do not compare: {}",
                    signatures.join("; ")
                ));
            }
        }
        Ok(self.scores)
    }
}

fn place<T: Clone + Eq + Hash>(value: T, ids: &mut HashMap<T, u32>, list: &mut Vec<T>) -> u32 {
    *ids.entry(value).or_insert_with_key(|value| {
        list.push(value.clone());
        (list.len() - 1) as u32
    })
}
