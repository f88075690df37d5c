//! How one language says things (`templates/<language>.toml`): its words with their forms, its sentences for every schema, its
//! rules for numbers and neighbouring sounds. In: the file; out: a checked [`Language`] that turns an item into text.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use artifact::{bail_user, config::from_toml};
use serde::Deserialize;

use crate::{
    draw::{Item, mix},
    template::Template,
    world::{LANGUAGES, NUMBERS, Schema, TASKS, World, parse_range},
};

const FILES: [(&str, &str); 8] = [
    ("en", include_str!("../templates/en.toml")),
    ("es", include_str!("../templates/es.toml")),
    ("fr", include_str!("../templates/fr.toml")),
    ("ja", include_str!("../templates/ja.toml")),
    ("zh-Hans", include_str!("../templates/zh-Hans.toml")),
    ("ar", include_str!("../templates/ar.toml")),
    ("ko", include_str!("../templates/ko.toml")),
    ("pt", include_str!("../templates/pt.toml")),
];

/// All languages.
pub struct Catalog {
    languages: Vec<Language>,
}

impl Catalog {
    /// The languages that the program carries, each checked against the world.
    pub fn load(world: &World) -> Result<Self> {
        let languages = FILES
            .iter()
            .map(|(tag, text)| Language::parse(tag, text, world))
            .collect::<Result<_>>()?;
        Ok(Self { languages })
    }

    pub fn get(&self, tag: &str) -> Option<&Language> {
        self.languages.iter().find(|language| language.tag == tag)
    }

    #[cfg(test)]
    pub fn languages(&self) -> &[Language] {
        &self.languages
    }
}

/// One language, checked: it has every word and every schema.
pub struct Language {
    pub tag: String,
    /// Its own name for itself.
    pub name: String,
    pub genders: Vec<String>,
    pub numerals: Vec<String>,
    /// By key.
    pub words: HashMap<String, Word>,
    spaced: bool,
    alternation: Option<Alternation>,
    counted: String,
    /// Which column a noun takes after the numbers from and to.
    plural: Vec<(String, i64, i64)>,
    final_answer: String,
    summary_requests: Vec<String>,
    schemas: HashMap<String, Sentences>,
}

/// A word with its forms.
#[derive(Debug)]
pub struct Word {
    pub columns: Arc<[String]>,
    cells: Vec<String>,
}

impl Word {
    pub fn cell(&self, column: usize) -> &str {
        self.cells.get(column).map_or("", String::as_str)
    }

    fn form(&self, column: &str) -> Option<&str> {
        self.columns.iter().position(|name| name == column).map(|column| self.cell(column))
    }
}

/// What decides between the two forms of `[consonant|vowel]`.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Alternation {
    /// The letter that follows: English a/an, French de/d'.
    NextVowel,
    /// Whether the syllable or digit before ends in a consonant: Korean 은/는.
    PreviousConsonant,
}

/// The sentences of one schema.
#[derive(Default)]
struct Sentences {
    prompt: Vec<Template>,
    answer: Vec<Template>,
    text: Vec<Template>,
}

/// An item as a conversation.
pub struct Conversation {
    pub prompt: String,
    pub answer: String,
    /// What a generation is scored against: the number of a word problem, else the answer.
    pub reference: String,
}

#[derive(Deserialize)]
struct LanguageFile {
    tag: String,
    name: String,
    spaced: bool,
    genders: Vec<String>,
    alternation: Option<Alternation>,
    counted: String,
    plural: BTreeMap<String, String>,
    answer: String,
    numerals: Vec<String>,
    columns: BTreeMap<String, Vec<String>>,
    math: BTreeMap<String, SentencesFile>,
    summarization: SummarizationFile,
    instruction: BTreeMap<String, SentencesFile>,
    text: BTreeMap<String, SentencesFile>,
    arithmetic: BTreeMap<String, SentencesFile>,
    #[serde(flatten)]
    words: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize)]
struct SummarizationFile {
    request: Vec<String>,
    #[serde(flatten)]
    schemas: BTreeMap<String, SentencesFile>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SentencesFile {
    prompt: Vec<String>,
    answer: Vec<String>,
    text: Vec<String>,
}

impl Language {
    /// # Errors
    /// Names the file and the schema, word or rule that is missing or does not fit.
    pub fn parse(tag: &str, text: &str, world: &World) -> Result<Self> {
        let path = format!("templates/{tag}.toml");
        let file: LanguageFile = from_toml(text, Path::new(&path))?;
        if file.tag != tag || !LANGUAGES.contains(&tag) {
            bail_user!("{path}: tag is '{}', but the file is for '{tag}'", file.tag);
        }
        if file.summarization.request.is_empty()
            || file.numerals.is_empty()
            || !file.answer.contains("{answer}")
        {
            bail_user!(
                "{path}: summarization.request and numerals must not be empty, and answer needs {{answer}}"
            );
        }
        let mut language = Self {
            tag: file.tag,
            name: file.name,
            genders: file.genders,
            numerals: file.numerals,
            words: words(&path, &file.columns, file.words)?,
            spaced: file.spaced,
            alternation: file.alternation,
            counted: file.counted,
            plural: plural(&path, &file.plural)?,
            final_answer: file.answer,
            summary_requests: file.summarization.request,
            schemas: HashMap::new(),
        };
        language.check_words(&path, world)?;
        let sections = [
            ("math", file.math),
            ("summarization", file.summarization.schemas),
            ("instruction", file.instruction),
            ("text", file.text),
            ("arithmetic", file.arithmetic),
        ];
        for (task, mut section) in sections {
            for schema in world.task(task) {
                let Some(sentences) = section.remove(&schema.name) else {
                    bail_user!("{path}: [{task}.{}] is missing", schema.name);
                };
                let sentences = language.sentences(&path, schema, &sentences)?;
                language.schemas.insert(schema.title(), sentences);
            }
            if let Some(name) = section.keys().next() {
                bail_user!("{path}: [{task}.{name}] is not a schema of templates/world.toml");
            }
        }
        Ok(language)
    }

    /// Every word of every kind is there.
    fn check_words(&self, path: &str, world: &World) -> Result<()> {
        for (kind, keys) in &world.kinds {
            if let Some(key) = keys.iter().find(|key| !self.words.contains_key(*key)) {
                bail_user!(
                    "{path}: the word '{key}' (a {kind} of templates/world.toml) is missing"
                );
            }
        }
        Ok(())
    }

    fn sentences(&self, path: &str, schema: &Schema, file: &SentencesFile) -> Result<Sentences> {
        let at = format!("{path}: [{}]", schema.title());
        let conversation = TASKS.contains(&schema.task.as_str());
        let parts = [
            ("prompt", &file.prompt, conversation),
            ("answer", &file.answer, conversation),
            ("text", &file.text, !conversation),
        ];
        if let Some((part, _, needed)) =
            parts.iter().find(|(_, list, needed)| list.is_empty() == *needed)
        {
            bail_user!("{at} {} {part}", if *needed { "needs a" } else { "must not have" });
        }
        let parse = |list: &[String]| {
            list.iter()
                .map(|text| Template::parse(text, schema, self, &at))
                .collect::<Result<Vec<_>>>()
        };
        let sentences = Sentences {
            prompt: parse(&file.prompt)?,
            answer: parse(&file.answer)?,
            text: parse(&file.text)?,
        };
        for (template, text) in sentences.prompt.iter().zip(&file.prompt) {
            let (slots, numbers) = template.shows();
            let given = numbers.iter().filter(|number| **number < schema.given).count();
            if slots.len() < schema.slots.len() || given < schema.drawn {
                bail_user!(
                    "{at} every slot and number must show in each prompt, or two items would read the same: \"{text}\""
                );
            }
        }
        Ok(sentences)
    }

    pub fn word(&self, key: &str) -> &Word {
        // `check_words` and the template parser have made sure of every key.
        &self.words[key]
    }

    /// The place of the word's gender in `genders`.
    pub fn gender(&self, word: &Word) -> Option<usize> {
        let gender = word.form("gender")?;
        self.genders.iter().position(|known| known == gender)
    }

    pub fn numeral(&self, number: u8) -> &str {
        self.numerals.get(usize::from(number)).map_or("", String::as_str)
    }

    /// A number (or an equation that ends in it) with its noun: "5 apples", "りんご5個", "5 تفاحات".
    pub fn counted(&self, number: u8, text: &str, noun: &Word) -> String {
        let form =
            self.plural.iter().find(|(_, low, high)| (*low..=*high).contains(&i64::from(number)));
        let form = form.and_then(|(column, ..)| noun.form(column)).unwrap_or(noun.cell(0));
        let counter = noun.form("counter").unwrap_or("");
        self.counted.replace("{n}", text).replace("{noun}", form).replace("{counter}", counter)
    }

    /// The tag in a slot of languages; a language that would meet itself gets the next one of the list.
    pub fn other_tag<'a>(&self, item: &Item<'a>, slot: usize) -> &'a str {
        let (keys, tag) = (&item.schema.slots[slot].keys, item.words[slot]);
        let at = keys.iter().position(|key| key == tag).unwrap_or(0);
        if tag == self.tag { &keys[(at + 1) % keys.len()] } else { tag }
    }

    /// The item as a prompt and its answer.
    pub fn conversation(&self, item: &Item, catalog: &Catalog) -> Result<Conversation> {
        let sentences =
            self.schemas.get(&item.schema.title()).context("every schema has been checked")?;
        let mut prompt = self.pick(&sentences.prompt, item, "prompt")?.render(item, self, catalog);
        let mut answer = self.pick(&sentences.answer, item, "answer")?.render(item, self, catalog);
        let mut reference = answer.clone();
        if item.schema.task == "summarization" {
            let request = self.pick(&self.summary_requests, item, "request")?;
            prompt = format!("{request}\n{prompt}");
        }
        if item.schema.task == "math" {
            reference = item.numbers.last().context("a word problem has numbers")?.to_string();
            let space = if self.spaced { " " } else { "" };
            answer =
                format!("{answer}{space}{}", self.final_answer.replace("{answer}", &reference));
        }
        Ok(Conversation { prompt, answer, reference })
    }

    /// The item as a plain sentence: a text, or the question of a word problem.
    pub fn sentence(&self, item: &Item, catalog: &Catalog) -> Result<String> {
        let sentences =
            self.schemas.get(&item.schema.title()).context("every schema has been checked")?;
        let list = if sentences.text.is_empty() { &sentences.prompt } else { &sentences.text };
        Ok(self.pick(list, item, "sentence")?.render(item, self, catalog))
    }

    /// One of the ways to say it, decided by the item, and by the item alone if all languages have as many ways.
    fn pick<'a, T>(&self, list: &'a [T], item: &Item, part: &str) -> Result<&'a T> {
        let draw = mix(item.index ^ mix(part.len() as u64 + 1));
        list.get((draw >> 32) as usize % list.len().max(1)).context("every schema has been checked")
    }

    /// Chooses between `[consonant|vowel]` forms and begins sentences with a capital.
    pub fn finish(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, forms, after)) = bracket(rest) {
            out.push_str(before);
            let (consonant, vowel) = forms;
            let take_vowel = match self.alternation {
                Some(Alternation::NextVowel) => {
                    after.trim_start().chars().next().is_some_and(is_vowel)
                }
                Some(Alternation::PreviousConsonant) => {
                    !out.chars().rev().find(|c| c.is_alphanumeric()).is_some_and(ends_in_consonant)
                }
                None => false,
            };
            out.push_str(if take_vowel { vowel } else { consonant });
            rest = after;
        }
        out.push_str(rest);
        capitalise(&out)
    }
}

/// The words by key, each with its table's columns.
fn words(
    path: &str,
    columns: &BTreeMap<String, Vec<String>>,
    tables: BTreeMap<String, BTreeMap<String, Vec<String>>>,
) -> Result<HashMap<String, Word>> {
    let mut words = HashMap::new();
    for (table, entries) in tables {
        let Some(columns) = columns.get(&table) else {
            bail_user!("{path}: [{table}] is neither a section nor a table named under [columns]");
        };
        let columns: Arc<[String]> = columns.as_slice().into();
        for (key, cells) in entries {
            if cells.len() != columns.len() || cells.iter().any(String::is_empty) {
                bail_user!(
                    "{path}: {table}.{key} has {} forms; [columns] asks for {}",
                    cells.len(),
                    columns.join(", ")
                );
            }
            if words.insert(key.clone(), Word { columns: columns.clone(), cells }).is_some() {
                bail_user!("{path}: the key '{key}' stands in two tables");
            }
        }
    }
    Ok(words)
}

/// Every number that can come has one form.
fn plural(path: &str, file: &BTreeMap<String, String>) -> Result<Vec<(String, i64, i64)>> {
    let mut rules = Vec::new();
    for (column, range) in file {
        let (low, high) = parse_range(range, &format!("{path}: plural.{column}"))?;
        rules.push((column.clone(), low, high));
    }
    let covered = |number: i64| {
        rules.iter().filter(|(_, low, high)| (*low..=*high).contains(&number)).count()
    };
    if let Some(number) = NUMBERS.clone().find(|number| !rules.is_empty() && covered(*number) != 1)
    {
        bail_user!(
            "{path}: plural gives {} forms for {number}; each number from 3 to 99 needs one",
            covered(number)
        );
    }
    Ok(rules)
}

/// The text before the first `[a|b]`, its two forms, and the text after.
fn bracket(text: &str) -> Option<(&str, (&str, &str), &str)> {
    let (before, rest) = text.split_once('[')?;
    let (forms, after) = rest.split_once(']')?;
    Some((before, forms.split_once('|')?, after))
}

fn is_vowel(letter: char) -> bool {
    "aeiouàâéèêëîïôöùûœæ".contains(letter.to_lowercase().next().unwrap_or(letter))
}

/// Whether the Korean reading of a syllable or digit ends in a consonant.
fn ends_in_consonant(letter: char) -> bool {
    match letter {
        '가'..='힣' => !(letter as u32 - '가' as u32).is_multiple_of(28),
        _ => "013678lmnr".contains(letter),
    }
}

/// A capital at the start of the text and after `.`, `?` or `!` with a space; `¿` and `¡` may stand between.
fn capitalise(text: &str) -> String {
    let (mut start, mut ended) = (true, false);
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '¿' | '¡' => out.push(letter),
            _ if letter.is_whitespace() => {
                start |= ended || letter == '\n';
                out.push(letter);
            }
            _ if start => {
                out.extend(letter.to_uppercase());
                start = false;
            }
            _ => out.push(letter),
        }
        ended = matches!(letter, '.' | '?' | '!');
    }
    out
}
