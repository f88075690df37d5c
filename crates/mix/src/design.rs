//! The design file: a few factors in TOML, from which [`crate::grid`] makes every mixture.
//!
//! All keys have defaults or come from a preset; a key that is given always wins over the preset.
//! The presets are the three grids of arXiv 2504.16677. `[[also]]` adds further grids to a design.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor},
};

/// What to train on: the factors of an experiment, which expand to a grid of mixtures.
///
/// A list is crossed with every other list. Each combination is one mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Design {
    /// A grid of the study to start from; any other key given here replaces the preset's value.
    pub preset: Option<Preset>,
    /// `single-task`: one mixture per task. `multi-task`: one mixture over all tasks. Or a list of both.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany<Setting>")]
    pub setting: Vec<Setting>,
    /// Tasks, by the names in the examples' `task` column.
    pub tasks: Vec<String>,
    /// The seen languages, English among them if it is trained on (any spelling: `zh`, `zh-CN`, `Chinese`).
    #[serde(alias = "seen")]
    pub languages: Vec<String>,
    /// Several sets of seen languages, in place of `languages`; each is one level of the factor.
    pub language_sets: Vec<Vec<String>>,
    /// English examples per task. With `budget = "substitution"` it is the total per task.
    pub english: Option<u64>,
    /// Examples per seen language other than English, and per task: a number or a list.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany<u64>")]
    pub n: Vec<u64>,
    /// What happens to English as `n` grows (default `additive`).
    pub budget: Option<Budget>,
    /// For `budget = "explicit"`: named points, each with rows by task and language, as in
    /// `[counts.half]` with `math = { en = 100, es = 50 }`.
    pub counts: BTreeMap<String, BTreeMap<String, LanguageCounts>>,
    /// How the rows of a stratum (task × language × source) are chosen.
    pub sampler: Sampler,
    /// Data seeds: each draws every mixture anew.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany<u64>")]
    pub seeds: Vec<u64>,
    /// Whether the languages get the same items (translations of each other) or items of their own.
    pub content: Content,
    /// Sources to draw from, by the names in the examples' `source` column; empty: all of them.
    pub sources: Vec<String>,
    /// What to do where there are fewer rows than asked for.
    pub on_shortage: OnShortage,
    /// What keeps test items out of training and validation.
    pub leakage: Leakage,
    /// Validation rows, the same for every mixture and seed of the design.
    pub validation: Validation,
    /// Further grids, such as a multi-task one beside single tasks. Each takes every key of the design
    /// and replaces those that it names; the design's mixtures are those of all its grids.
    pub also: Vec<Also>,
}

impl Default for Design {
    fn default() -> Self {
        Self {
            preset: None,
            setting: Vec::new(),
            tasks: Vec::new(),
            languages: Vec::new(),
            language_sets: Vec::new(),
            english: None,
            n: Vec::new(),
            budget: None,
            counts: BTreeMap::new(),
            sampler: Sampler::default(),
            seeds: vec![1],
            content: Content::default(),
            sources: Vec::new(),
            on_shortage: OnShortage::default(),
            leakage: Leakage::default(),
            validation: Validation::default(),
            also: Vec::new(),
        }
    }
}

/// A further grid of a design. A key that is not named here is the design's own; what no factor
/// tells apart (`content`, `sources`, `on_shortage`, `leakage`, `validation`) holds for all grids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Also {
    /// `single-task`, `multi-task`, or a list of both.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany<Setting>")]
    pub setting: Vec<Setting>,
    /// Tasks.
    pub tasks: Vec<String>,
    /// The seen languages, in place of the design's `languages` or `language_sets`.
    #[serde(alias = "seen")]
    pub languages: Vec<String>,
    /// Several sets of seen languages, in place of the design's `languages` or `language_sets`.
    pub language_sets: Vec<Vec<String>>,
    /// English examples per task.
    pub english: Option<u64>,
    /// Examples per seen language other than English, and per task: a number or a list.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany<u64>")]
    pub n: Vec<u64>,
    /// What happens to English as `n` grows. Keys that have no meaning with it are not taken over.
    pub budget: Option<Budget>,
    /// For `budget = "explicit"`: points, in place of the design's.
    pub counts: BTreeMap<String, BTreeMap<String, LanguageCounts>>,
    /// Data seeds.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany<u64>")]
    pub seeds: Vec<u64>,
}

impl Also {
    /// The design of this grid alone, where `base` is the design without gaps.
    fn on(&self, base: &Design) -> Design {
        let budget = self.budget.or(base.budget);
        let explicit = budget == Some(Budget::Explicit);
        let own_languages = !self.languages.is_empty() || !self.language_sets.is_empty();
        let counts = if self.counts.is_empty() && explicit { &base.counts } else { &self.counts };
        Design {
            preset: None,
            setting: given_or(&self.setting, &base.setting, !explicit),
            tasks: given_or(&self.tasks, &base.tasks, true),
            languages: given_or(&self.languages, &base.languages, !own_languages),
            language_sets: given_or(
                &self.language_sets,
                &base.language_sets,
                !own_languages && !explicit,
            ),
            english: self.english.or(base.english.filter(|_| !explicit)),
            n: given_or(&self.n, &base.n, !explicit),
            budget,
            counts: counts.clone(),
            seeds: given_or(&self.seeds, &base.seeds, true),
            also: Vec::new(),
            ..base.clone()
        }
    }
}

/// What is given, or else the design's if that has a meaning here.
fn given_or<T: Clone>(given: &[T], base: &[T], has_meaning: bool) -> Vec<T> {
    if given.is_empty() && has_meaning { base.to_vec() } else { given.to_vec() }
}

/// One mixture per task, or one over all tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// One mixture per task.
    SingleTask,
    /// One mixture over all tasks.
    MultiTask,
}

impl Setting {
    /// The value of the `setting` column.
    pub fn name(self) -> &'static str {
        match self {
            Setting::SingleTask => "single-task",
            Setting::MultiTask => "multi-task",
        }
    }
}

/// How the size of a mixture follows `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// English stays; each other language adds `n` rows (the study's rule).
    #[default]
    Additive,
    /// The total stays at `english`; the other languages take their rows from English.
    Substitution,
    /// The rows stand in `counts`.
    Explicit,
}

impl Budget {
    /// The value of the `budget` column.
    pub fn name(self) -> &'static str {
        match self {
            Budget::Additive => "additive",
            Budget::Substitution => "substitution",
            Budget::Explicit => "explicit",
        }
    }
}

/// How rows are chosen within a stratum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Every row is as likely as any other.
    #[default]
    Uniform,
}

impl Sampler {
    /// The value of the `sampler` column.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Uniform => "uniform",
        }
    }
}

/// Whether parallel content is drawn together or apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Every language draws on its own, by `example_id`. Translations meet only by chance.
    #[default]
    Independent,
    /// Every language gets the same items, by `item_id`: n examples in each are translations of
    /// each other, and English holds the same items first. Only items that all languages of the design have count.
    Parallel,
}

/// What to do where there are fewer rows than asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnShortage {
    /// Stop before any work and list what is short.
    #[default]
    Error,
    /// Pass over the rows again; the `repeat` column counts the passes.
    Repeat,
    /// Take what there is.
    Cap,
}

/// What keeps test items out of training and validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Leakage {
    /// Drop every row that shares its `item_id` with a test row, in any language.
    pub item_id: bool,
    /// Drop every row that shares this many words in a row with a test row, in any language
    /// (13 is GPT-3's; 0 turns it off, as template-generated data needs).
    pub ngram: usize,
}

impl Default for Leakage {
    fn default() -> Self {
        Self { item_id: true, ngram: 13 }
    }
}

/// Validation rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Rows per language (the seen ones and English) and per task. They come from the split
    /// `validation`; where a task has none in a language, from training rows, which are then
    /// kept out of every mixture.
    pub per_language: u64,
}

impl Default for Validation {
    fn default() -> Self {
        Self { per_language: 50 }
    }
}

/// Rows by language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct LanguageCounts(pub BTreeMap<String, u64>);

/// The study's grids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// One task at a time: 10,000 English examples and n = 0 … 5,000 each of es, fr, ja, zh-Hans.
    StudySingleTask,
    /// All tasks at once: 5,000 English examples a task and n = 0 … 7,000 per language and task.
    StudyMultiTask,
    /// Latin against other scripts: the single-task grid for {en, es, fr} and {en, ja, zh-Hans}.
    StudyScript,
}

impl Preset {
    fn design(self) -> Design {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let single = Design {
            setting: vec![Setting::SingleTask],
            tasks: list(&["summarization", "instruction", "math"]),
            languages: list(&["en", "es", "fr", "ja", "zh-Hans"]),
            english: Some(10_000),
            n: vec![0, 100, 200, 400, 800, 1000, 2000, 5000],
            budget: Some(Budget::Additive),
            ..Design::default()
        };
        match self {
            Preset::StudySingleTask => single,
            Preset::StudyMultiTask => Design {
                setting: vec![Setting::MultiTask],
                english: Some(5_000),
                n: [0, 100].into_iter().chain((500..=7000).step_by(500)).collect(),
                ..single
            },
            Preset::StudyScript => Design {
                languages: Vec::new(),
                language_sets: vec![list(&["en", "es", "fr"]), list(&["en", "ja", "zh-Hans"])],
                ..single
            },
        }
    }
}

impl Design {
    /// The design with its preset's values where none is given.
    pub fn with_preset(&self) -> Design {
        let Some(preset) = self.preset else { return self.clone() };
        let base = preset.design();
        let mut design = self.clone();
        fill(&mut design.setting, base.setting);
        fill(&mut design.tasks, base.tasks);
        if design.budget != Some(Budget::Explicit) {
            if design.languages.is_empty() && design.language_sets.is_empty() {
                design.languages = base.languages;
                design.language_sets = base.language_sets;
            }
            fill(&mut design.n, base.n);
            design.english = design.english.or(base.english);
            design.budget = design.budget.or(base.budget);
        }
        design
    }

    /// The design of each grid: its own, then those of `also`.
    pub(crate) fn grids(&self) -> Vec<Design> {
        let base = self.with_preset();
        let also = base.also.iter().map(|also| also.on(&base));
        std::iter::once(base.clone()).chain(also).collect()
    }
}

fn fill<T>(given: &mut Vec<T>, preset: Vec<T>) {
    if given.is_empty() {
        *given = preset;
    }
}

/// The shape of a key that takes a value or a list; for the JSON Schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// Reads `3` as `[3]`. Unlike an untagged enum it keeps serde's message about what is wrong inside.
fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
) -> Result<Vec<T>, D::Error> {
    struct OneOrManyVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value or a list of values")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(value.into_deserializer())?])
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(value.into_deserializer())?])
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(value.into_deserializer())?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(value) = values.next_element()? {
                list.push(value);
            }
            Ok(list)
        }
    }

    input.deserialize_any(OneOrManyVisitor(PhantomData))
}

/// By hand, so that a point without a name says how it should look.
impl<'de> Deserialize<'de> for LanguageCounts {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct CountsVisitor;

        impl<'de> Visitor<'de> for CountsVisitor {
            type Value = LanguageCounts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("rows by language below a point's name and a task: counts.half.math = { en = 100, es = 50 }")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut entries: A,
            ) -> Result<LanguageCounts, A::Error> {
                let mut counts = BTreeMap::new();
                while let Some((lang, rows)) = entries.next_entry()? {
                    counts.insert(lang, rows);
                }
                Ok(LanguageCounts(counts))
            }
        }

        input.deserialize_map(CountsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use artifact::{config::from_toml, error::is_user};

    use super::*;

    fn parse(text: &str) -> anyhow::Result<Design> {
        from_toml(text, Path::new("design.toml"))
    }

    #[test]
    fn a_single_value_stands_for_a_list_of_one() {
        let design =
            parse("setting = \"multi-task\"\nn = 100\nseeds = 7\nseen = [\"en\"]").unwrap();
        assert_eq!(design.setting, [Setting::MultiTask]);
        assert_eq!(
            (design.n, design.seeds, design.languages),
            (vec![100], vec![7], vec!["en".to_owned()])
        );
    }

    #[test]
    fn mistakes_name_the_line_and_what_would_be_right() {
        for (text, line, words) in [
            ("n = [0]\nlangauges = []", 2, "languages"),
            ("n = -5", 1, "-5"),
            ("n = [10, -5]", 1, "-5"),
            ("english = \"many\"", 1, "many"),
            ("setting = \"both\"", 1, "multi-task"),
            ("setting = [\"single\"]", 1, "single-task"),
            ("\n[leakage]\nngrams = 3", 3, "ngram"),
            ("[counts]\nmath = { en = 100 }", 2, "counts.half.math"),
            ("[[also]]\nsettings = \"multi-task\"", 2, "setting"),
            ("[[also]]\nn = 1\nleakage = { ngram = 3 }", 3, "key `leakage`; known: setting, tasks"),
            (
                "[[also]]\n[also.validation]\nper_language = 3",
                2,
                "key `validation`; known: setting",
            ),
        ] {
            let error = parse(text).unwrap_err();
            let message = error.to_string();
            assert!(is_user(&error));
            assert!(
                message.starts_with(&format!("design.toml:{line}: ")) && message.contains(words),
                "{message}"
            );
        }
    }

    #[test]
    fn presets_are_the_grids_of_the_study() {
        let single = parse("preset = \"study-single-task\"").unwrap().with_preset();
        assert_eq!(single.n, [0, 100, 200, 400, 800, 1000, 2000, 5000]);
        assert_eq!(single.english, Some(10_000));
        let multi = parse("preset = \"study-multi-task\"").unwrap().with_preset();
        assert_eq!(multi.english, Some(5_000));
        assert_eq!(
            (multi.n.len(), multi.n[..4].to_vec(), multi.n[15]),
            (16, vec![0, 100, 500, 1000], 7000)
        );
        let script = parse("preset = \"study-script\"").unwrap().with_preset();
        assert_eq!(script.language_sets, [["en", "es", "fr"], ["en", "ja", "zh-Hans"]]);
    }

    #[test]
    fn a_given_key_wins_over_the_preset() {
        let text =
            "preset = \"study-script\"\nlanguages = [\"en\", \"ko\"]\nn = 10\ntasks = [\"math\"]";
        let design = parse(text).unwrap().with_preset();
        assert_eq!(
            (design.languages, design.language_sets.len()),
            (vec!["en".to_owned(), "ko".to_owned()], 0)
        );
        assert_eq!((design.n, design.english), (vec![10], Some(10_000)));
    }

    #[test]
    fn a_further_grid_takes_what_it_does_not_name_from_the_design_and_its_preset() {
        let text = "preset = \"study-script\"\nseeds = [1, 2]\n\
                    [[also]]\nsetting = \"multi-task\"\nlanguages = [\"en\", \"ko\"]\nn = 5";
        let [base, also] = &parse(text).unwrap().grids()[..] else { panic!("two grids") };
        assert_eq!((base.language_sets.len(), base.n.len()), (2, 8));
        assert_eq!(also.setting, [Setting::MultiTask]);
        assert_eq!(
            (&also.tasks, also.english, &also.seeds),
            (&base.tasks, Some(10_000), &base.seeds)
        );
        assert_eq!((also.languages.len(), also.language_sets.len(), also.n.len()), (2, 0, 1));
    }

    #[test]
    fn a_further_grid_leaves_out_what_has_no_meaning_with_its_budget() {
        let counted = "tasks = [\"math\"]\nlanguages = [\"en\", \"es\"]\nenglish = 10\nn = 5\n";
        let counts = "counts.half.math = { en = 2, es = 1 }\n";
        let text = format!("{counted}[[also]]\nbudget = \"explicit\"\n{counts}");
        let explicit = &parse(&text).unwrap().grids()[1];
        assert_eq!((explicit.english, explicit.n.len(), explicit.counts.len()), (None, 0, 1));
        let text =
            format!("budget = \"explicit\"\n{counts}[[also]]\nbudget = \"additive\"\n{counted}");
        let additive = &parse(&text).unwrap().grids()[1];
        assert_eq!((additive.english, additive.n.len(), additive.counts.len()), (Some(10), 1, 0));
    }

    #[test]
    fn the_json_schema_describes_every_key() {
        let schema = serde_json::to_value(schemars::schema_for!(Design)).unwrap();
        let keys = schema["properties"].as_object().unwrap();
        assert!(keys.values().all(|key| key["description"].is_string()), "{schema:#}");
        let also = schema["$defs"]["Also"]["properties"].as_object().unwrap();
        assert!(also.values().all(|key| key["description"].is_string()), "{also:?}");
        assert!(also.keys().all(|key| keys.contains_key(key)), "each is a key of the design");
        assert!(keys["n"].to_string().contains("OneOrMany"), "a number or a list: {}", keys["n"]);
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn a_design_survives_json() {
        let text = "preset = \"study-script\"\n[counts.a]\nmath = { en = 1 }\n[[also]]\nn = 3";
        let design = parse(text).unwrap();
        let json = serde_json::to_string(&design).unwrap();
        assert_eq!(serde_json::from_str::<Design>(&json).unwrap(), design);
    }
}
