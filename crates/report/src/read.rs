//! Score files in, score rows out, with names replaced by numbers. Rows that cannot count (no
//! score, no n, no language) are left out, counted and noted; so is a score that stands there twice
//! with two values, for nobody can know which one is meant. A metric that scores one language in two
//! signatures is kept apart as two metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    /// All of them, and those of each metric.
    pub signature_names: Names,
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
    /// How the metric was made: a place in `signatures`; `None` where the input does not say.
    pub signature: Option<u32>,
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

impl Scores {
    /// A metric that scores one language of a task in two signatures is two metrics: the one with the
    /// most rows keeps the name. (Signatures that differ from language to language are one metric.)
    fn split_by_signature(&mut self) {
        let mut seen: BTreeMap<(u32, u32, u32), BTreeSet<Option<u32>>> = BTreeMap::new();
        let mut sizes: BTreeMap<(u32, Option<u32>), usize> = BTreeMap::new();
        for row in &self.rows {
            seen.entry((row.metric, row.task, row.lang)).or_default().insert(row.signature);
            *sizes.entry((row.metric, row.signature)).or_default() += 1;
        }
        let mixed: BTreeSet<u32> =
            seen.iter().filter(|(_, all)| all.len() > 1).map(|(key, _)| key.0).collect();
        for metric in mixed {
            let name = self.metrics.name(metric).to_string();
            let mut of_metric: Vec<(Option<u32>, usize)> = sizes
                .iter()
                .filter(|((of, _), _)| *of == metric)
                .map(|((_, signature), size)| (*signature, *size))
                .collect();
            let signed = |signature: Option<u32>| {
                signature
                    .map_or("unsigned".to_string(), |one| self.signature_names.name(one).into())
            };
            of_metric
                .sort_by_key(|&(signature, size)| (std::cmp::Reverse(size), signed(signature)));
            let names: Vec<String> = of_metric.iter().map(|one| signed(one.0)).collect();
            self.notes.push(format!(
                "{name} comes in several signatures, which do not compare and are kept apart as metrics of their own: {}",
                names.join("; ")
            ));
            for ((signature, _), signed) in of_metric.iter().zip(&names).skip(1) {
                let apart = self.metrics.id(&format!("{name} [{signed}]"));
                self.rows
                    .iter_mut()
                    .filter(|row| row.metric == metric && row.signature == *signature)
                    .for_each(|row| row.metric = apart);
            }
        }
    }

    fn note_unknown_languages(&mut self) {
        let unknown: Vec<&str> = self
            .langs
            .list
            .iter()
            .map(String::as_str)
            .filter(|lang| language::normalise(lang).is_none())
            .collect();
        if !unknown.is_empty() {
            self.notes.push(format!(
                "no known language: {}; taken by name, without a script, so they stand in no comparison of scripts",
                unknown.join(", ")
            ));
        }
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
    /// The row that scores it.
    scored: HashMap<Key, usize>,
    /// Rows that say the same once more.
    repeated: u64,
    /// Rows that another contradicts, and the first of them as it is named.
    contradicted: BTreeSet<usize>,
    first_contradicted: Option<String>,
    /// Rows left out and the files they are in, by reason.
    left_out: BTreeMap<&'static str, (u64, usize)>,
}

/// Why a row is left out.
const NO_SCORE: &str = "no score (the metric does not apply to them; `detail` says why)";
const NO_LANGUAGE: &str = "no language";
const NO_N: &str =
    "no n (examples per language in training; `isogloss generate --factor n=N` gives it)";

impl Reader {
    fn file(&mut self, path: &Path, map: &BTreeMap<String, String>) -> Result<()> {
        let source = Source::open(path, map)?;
        let columns = Columns::load(&source)?;
        let (mut unscored, mut without_n, mut without_language) = (0u64, 0u64, 0u64);
        for row in 0..source.rows() {
            let value = columns.value.get(row).filter(|value| value.is_finite());
            match (columns.lang.get(row), columns.n.get(row), value) {
                (None, ..) => without_language += 1,
                (_, None, _) => without_n += 1,
                (.., None) => unscored += 1,
                (Some(lang), Some(n), Some(value)) => self.row(&columns, row, lang, n, value),
            }
        }
        let name = path
            .file_name()
            .map_or_else(|| "standard input".into(), |name| name.to_string_lossy().into_owned());
        let reasons = [(unscored, NO_SCORE), (without_n, NO_N), (without_language, NO_LANGUAGE)];
        for (rows, reason) in reasons {
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

    fn row(&mut self, columns: &Columns, row: usize, lang: &str, n: i64, value: f64) {
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
            signature: columns.signature.get(row).map(|name| scores.signature_names.id(name)),
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
        let next = self.scores.rows.len();
        if let Some(&known) = self.scored.get(&key) {
            if self.scores.rows[known].value == value {
                self.repeated += 1;
            } else if self.contradicted.insert(known) && self.first_contradicted.is_none() {
                self.first_contradicted = Some(self.named(&made, value, known));
            }
            return;
        }
        self.scored.insert(key, next);
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

    /// A score that stands there with two values, as a note names it.
    fn named(&self, row: &Row, value: f64, known: usize) -> String {
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
        format!(
            "{run}, n = {}, language {:?}, {item}, metric {:?} has {} and {value}",
            row.n,
            scores.langs.name(row.lang),
            scores.metrics.name(row.metric),
            scores.rows[known].value
        )
    }

    /// Takes out what nobody can know the meaning of.
    fn settle(&mut self) {
        let count = |n: u64| artifact::text::count(n);
        if let Some(first) = &self.first_contradicted {
            self.scores.notes.push(format!(
                "{} scores stand there with two values and are left out: are these two runs under one id? Tell runs apart by `run_id`, `data_seed` or `train_seed` (the first: {first})",
                count(self.contradicted.len() as u64)
            ));
            let mut at = 0;
            let contradicted = &self.contradicted;
            self.scores.rows.retain(|_| {
                at += 1;
                !contradicted.contains(&(at - 1))
            });
        }
        if self.repeated > 0 {
            self.scores
                .notes
                .push(format!("{} rows repeat another row and count once", count(self.repeated)));
        }
    }

    fn finish(mut self) -> Result<Scores> {
        self.settle();
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
        scores.split_by_signature();
        scores.note_unknown_languages();
        Ok(self.scores)
    }
}

fn place<T: Clone + Eq + Hash>(value: T, ids: &mut HashMap<T, u32>, list: &mut Vec<T>) -> u32 {
    *ids.entry(value).or_insert_with_key(|value| {
        list.push(value.clone());
        (list.len() - 1) as u32
    })
}
