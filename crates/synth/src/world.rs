//! What all languages share (`templates/world.toml`): kinds of words, and for each task its schemas with slots, numbers and
//! arithmetic. In: the file's text. Out: schemas whose valid draws of numbers are enumerated, so that items can be counted.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use artifact::{bail_user, config::from_toml};
use serde::Deserialize;

/// The study's languages, in its order: training languages first, then those only tested.
pub const LANGUAGES: [&str; 8] = ["en", "es", "fr", "ja", "zh-Hans", "ar", "ko", "pt"];
/// The tasks that have a prompt and an answer.
pub const TASKS: [&str; 3] = ["math", "summarization", "instruction"];
/// The sections of plain sentences.
pub const TEXTS: [&str; 2] = ["text", "arithmetic"];
/// Every number in a template lies in this range: no singular, no dual, two digits at most.
pub const NUMBERS: std::ops::RangeInclusive<i64> = 3..=99;

const FILE: &str = "templates/world.toml";

/// All kinds and schemas.
pub struct World {
    /// Kind of word -> the keys of its words.
    pub kinds: BTreeMap<String, Vec<String>>,
    /// In the order of task and name.
    pub schemas: Vec<Schema>,
}

/// One kind of item.
#[derive(Debug)]
pub struct Schema {
    /// The section of the file: a task, or text or arithmetic.
    pub task: String,
    /// Its name within the task.
    pub name: String,
    /// In the order of their names.
    pub slots: Vec<Slot>,
    /// Names of the numbers: drawn ones first, then derived ones, then the results of the steps.
    pub numbers: Vec<String>,
    /// How many of `numbers` are drawn, and how many are given in the prompt (drawn or derived).
    pub drawn: usize,
    pub given: usize,
    pub steps: Vec<Step>,
    /// Every draw that stands, flattened: `numbers.len()` values each.
    values: Vec<u8>,
}

/// A place for a word.
#[derive(Debug)]
pub struct Slot {
    pub name: String,
    pub kind: String,
    /// The words it draws from.
    pub keys: Vec<String>,
    /// How many slots of the same kind come before it and have taken a word each.
    pub taken: usize,
}

/// `result = left operation right`, each an index into the schema's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub result: usize,
    pub left: usize,
    pub operation: Operation,
    pub right: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Operation {
    /// The sign in a schema's steps, and the sign that a reader sees.
    const SIGNS: [(Self, &'static str, &'static str); 4] = [
        (Self::Add, "+", "+"),
        (Self::Subtract, "-", "-"),
        (Self::Multiply, "*", "×"),
        (Self::Divide, "/", "÷"),
    ];

    pub fn sign(self) -> &'static str {
        Self::SIGNS
            .iter()
            .find(|(operation, ..)| *operation == self)
            .map_or("?", |(_, _, sign)| sign)
    }

    /// None where the result is not a whole number.
    fn apply(self, left: i64, right: i64) -> Option<i64> {
        match self {
            Self::Add => Some(left + right),
            Self::Subtract => Some(left - right),
            Self::Multiply => Some(left * right),
            Self::Divide => (right != 0 && left % right == 0).then(|| left / right),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorldFile {
    kinds: BTreeMap<String, Vec<String>>,
    math: BTreeMap<String, SchemaFile>,
    summarization: BTreeMap<String, SchemaFile>,
    instruction: BTreeMap<String, SchemaFile>,
    text: BTreeMap<String, SchemaFile>,
    arithmetic: BTreeMap<String, SchemaFile>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SchemaFile {
    slots: BTreeMap<String, String>,
    numbers: BTreeMap<String, String>,
    derive: Vec<String>,
    steps: Vec<String>,
}

impl World {
    /// The world that the program carries.
    pub fn load() -> Result<Self> {
        Self::parse(include_str!("../templates/world.toml"))
    }

    /// # Errors
    /// Names the schema and what does not fit: an unknown kind, a step that cannot be read, numbers that never fit.
    pub fn parse(text: &str) -> Result<Self> {
        let file: WorldFile = from_toml(text, Path::new(FILE))?;
        let kinds = file
            .kinds
            .keys()
            .map(|kind| Ok((kind.clone(), words(&file.kinds, kind, 0)?)))
            .collect::<Result<_>>()?;
        let sections = [
            ("math", file.math),
            ("summarization", file.summarization),
            ("instruction", file.instruction),
            ("text", file.text),
            ("arithmetic", file.arithmetic),
        ];
        let mut schemas = Vec::new();
        for (task, section) in sections {
            for (name, schema) in section {
                schemas.push(Schema::new(task, name, schema, &kinds)?);
            }
        }
        Ok(Self { kinds, schemas })
    }

    /// The schemas of one task.
    pub fn task<'a>(&'a self, task: &'a str) -> impl Iterator<Item = &'a Schema> {
        self.schemas.iter().filter(move |schema| schema.task == task)
    }
}

/// The words of a kind; `@other` stands for the words of another kind.
fn words(kinds: &BTreeMap<String, Vec<String>>, kind: &str, depth: usize) -> Result<Vec<String>> {
    let Some(entries) = kinds.get(kind).filter(|_| depth < 8) else {
        bail_user!("{FILE}: kind '@{kind}' is not there, or holds itself");
    };
    let mut all = Vec::new();
    for entry in entries {
        match entry.strip_prefix('@') {
            Some(other) => all.extend(words(kinds, other, depth + 1)?),
            None => all.push(entry.clone()),
        }
    }
    Ok(all)
}

impl Schema {
    fn new(
        task: &str,
        name: String,
        file: SchemaFile,
        kinds: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self> {
        let at = format!("{FILE}: {task}.{name}");
        let slots = slots(&file.slots, kinds, &at)?;
        let mut numbers: Vec<String> = file.numbers.keys().cloned().collect();
        let ranges = file
            .numbers
            .values()
            .map(|range| parse_range(range, &at))
            .collect::<Result<Vec<_>>>()?;
        let drawn = numbers.len();
        let derived = parse_steps(&file.derive, &mut numbers, &at)?;
        let given = numbers.len();
        let steps = parse_steps(&file.steps, &mut numbers, &at)?;
        let all_steps: Vec<Step> = derived.iter().chain(&steps).copied().collect();
        let mut values = Vec::new();
        enumerate(&ranges, &mut Vec::new(), &mut |draw| {
            values.extend(evaluate(draw, &all_steps).unwrap_or_default())
        });
        if values.is_empty() && !numbers.is_empty() {
            bail_user!(
                "{at}: no draw of its numbers keeps every result a whole number from 3 to 99"
            );
        }
        Ok(Self { task: task.into(), name, slots, numbers, drawn, given, steps, values })
    }

    /// How the schema is named in messages.
    pub fn title(&self) -> String {
        format!("{}.{}", self.task, self.name)
    }

    /// How many different items it has.
    pub fn size(&self) -> u64 {
        self.slots.iter().map(|slot| (slot.keys.len() - slot.taken) as u64).product::<u64>()
            * self.draws()
    }

    fn draws(&self) -> u64 {
        if self.numbers.is_empty() { 1 } else { (self.values.len() / self.numbers.len()) as u64 }
    }

    /// The words and numbers of the item `index` < [`Schema::size`].
    pub fn decode(&self, index: u64) -> (Vec<&str>, &[u8]) {
        let draw = (index % self.draws()) as usize * self.numbers.len();
        let mut rest = index / self.draws();
        let mut words: Vec<&str> = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let free = slot.keys.len() - slot.taken;
            let mut candidates =
                slot.keys.iter().map(String::as_str).filter(|key| !words.contains(key));
            words.push(candidates.nth((rest % free as u64) as usize).unwrap_or_default());
            rest /= free as u64;
        }
        (words, &self.values[draw..draw + self.numbers.len()])
    }

    /// The largest value of a number.
    pub fn largest(&self, number: usize) -> u8 {
        self.values.chunks(self.numbers.len()).map(|draw| draw[number]).max().unwrap_or(0)
    }
}

fn slots(
    file: &BTreeMap<String, String>,
    kinds: &BTreeMap<String, Vec<String>>,
    at: &str,
) -> Result<Vec<Slot>> {
    let mut slots: Vec<Slot> = Vec::new();
    for (name, kind) in file {
        let Some(keys) = kinds.get(kind) else {
            bail_user!("{at}: slot '{name}' names kind '{kind}', which is not there");
        };
        let taken = slots.iter().filter(|slot| slot.kind == *kind).count();
        if keys.len() <= taken {
            bail_user!("{at}: kind '{kind}' has {} words, too few for its slots", keys.len());
        }
        if let Some(other) = slots
            .iter()
            .find(|slot| slot.kind != *kind && slot.keys.iter().any(|key| keys.contains(key)))
        {
            bail_user!(
                "{at}: slots '{}' and '{name}' have different kinds that share a word",
                other.name
            );
        }
        slots.push(Slot { name: name.clone(), kind: kind.clone(), keys: keys.clone(), taken });
    }
    Ok(slots)
}

/// `"3..20"`, both ends included.
pub fn parse_range(text: &str, at: &str) -> Result<(i64, i64)> {
    let range = text
        .split_once("..")
        .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    match range {
        Some((low, high)) if low <= high && NUMBERS.contains(&low) && NUMBERS.contains(&high) => {
            Ok((low, high))
        }
        _ => bail_user!("{at}: range '{text}' should read like \"3..20\", within 3..99"),
    }
}

/// `"c = a + b"`, where a and b are known and c is new.
fn parse_steps(lines: &[String], numbers: &mut Vec<String>, at: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for line in lines {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let find = |name: &str| numbers.iter().position(|number| number == name);
        let step = match parts[..] {
            [result, "=", left, sign, right] if find(result).is_none() => {
                let operation = Operation::SIGNS.iter().find(|(_, written, _)| *written == sign);
                find(left)
                    .zip(operation)
                    .zip(find(right))
                    .map(|((left, (operation, ..)), right)| (result, left, *operation, right))
            }
            _ => None,
        };
        let Some((name, left, operation, right)) = step else {
            bail_user!(
                "{at}: step '{line}' should read like \"c = a + b\", with a and b known and c new"
            );
        };
        steps.push(Step { result: numbers.len(), left, operation, right });
        numbers.push(name.into());
    }
    Ok(steps)
}

/// Every combination of the ranges, the last range fastest.
fn enumerate(ranges: &[(i64, i64)], draw: &mut Vec<i64>, visit: &mut impl FnMut(&[i64])) {
    let Some(&(low, high)) = ranges.get(draw.len()) else {
        return visit(draw);
    };
    for value in low..=high {
        draw.push(value);
        enumerate(ranges, draw, visit);
        draw.pop();
    }
}

/// The draw with the results of the steps, or none if a result does not fit.
fn evaluate(draw: &[i64], steps: &[Step]) -> Option<Vec<u8>> {
    let mut numbers = draw.to_vec();
    for step in steps {
        let value = step.operation.apply(numbers[step.left], numbers[step.right])?;
        numbers.push(Some(value).filter(|value| NUMBERS.contains(value))?);
    }
    numbers.into_iter().map(|number| u8::try_from(number).ok()).collect()
}
