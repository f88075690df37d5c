//! A sentence with places for words and numbers. In: `"{who} has {a thing}."`, its schema and its language; out: the parsed
//! [`Template`], with every name resolved, so that saying an item cannot fail on a template. The notation:
//!
//! `{thing}` first column of a word · `{thing.other}` a column · `{@hour.other}` a fixed word · `{a}` a number · `{a.word}` in
//! words · `{a thing}` counted, in the form that goes with the number · `{s1}` first equation · `{thing:un|una}` by gender ·
//! `{noun@foreign}` the word in another language · `[de |d']` by the neighbouring sound, consonant first.

use std::collections::BTreeSet;

use anyhow::Result;
use artifact::bail_user;

use crate::{
    draw::Item,
    language::{Catalog, Language, Word},
    world::Schema,
};

/// A parsed sentence.
#[derive(Debug)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Word(Source, usize),
    Number(Figure),
    NumberWord(usize),
    Counted(Figure, Source),
    Gender(Source, Vec<String>),
    Foreign { slot: usize, language: usize },
}

/// Where a word comes from: a slot, or always the same key.
#[derive(Clone, Debug)]
enum Source {
    Slot(usize),
    Fixed(String),
}

/// A number of the schema, or an equation that ends in one.
#[derive(Clone, Copy, Debug)]
enum Figure {
    Number(usize),
    Equation(usize),
}

impl Template {
    /// # Errors
    /// A user error that names the place, what stands there and what is known.
    pub fn parse(text: &str, schema: &Schema, language: &Language, at: &str) -> Result<Self> {
        let parser = Parser { schema, language, at };
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(open);
            let close = after
                .find('}')
                .filter(|close| after.starts_with('{') && !after[1..*close].contains('{'));
            let Some(close) = close else {
                bail_user!("{at}: a brace without its partner in \"{text}\"");
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(parser.piece(&after[1..close])?);
            rest = &after[close + 1..];
        }
        pieces.push(Piece::Text(rest.into()));
        Ok(Self { pieces })
    }

    /// The slots and given numbers that it shows; an item is recognisable if all are there.
    pub fn shows(&self) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let (mut slots, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for piece in &self.pieces {
            let (figure, source) = match piece {
                Piece::Word(source, _) => (None, Some(source)),
                Piece::Number(figure) => (Some(figure), None),
                Piece::Counted(figure, source) => (Some(figure), Some(source)),
                _ => (None, None),
            };
            if let Some(Figure::Number(number)) = figure {
                numbers.insert(*number);
            }
            if let Some(Source::Slot(slot)) = source {
                slots.insert(*slot);
            }
            if let Piece::Foreign { slot, language } = piece {
                slots.extend([*slot, *language]);
            }
        }
        (slots, numbers)
    }

    /// The sentence for an item. `item` has the schema that the template was parsed with.
    pub fn render(&self, item: &Item, language: &Language, catalog: &Catalog) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Word(source, column) => {
                    out.push_str(word(source, item, language).cell(*column))
                }
                Piece::Number(figure) => out.push_str(&figure.text(item)),
                Piece::NumberWord(number) => out.push_str(language.numeral(item.numbers[*number])),
                Piece::Counted(figure, source) => {
                    out.push_str(&language.counted(
                        figure.value(item),
                        &figure.text(item),
                        word(source, item, language),
                    ));
                }
                Piece::Gender(source, forms) => {
                    let gender = language.gender(word(source, item, language)).unwrap_or(0);
                    out.push_str(forms.get(gender).map_or("", String::as_str));
                }
                Piece::Foreign { slot, language: of } => {
                    let foreign = catalog.get(language.other_tag(item, *of)).unwrap_or(language);
                    out.push_str(foreign.word(item.words[*slot]).cell(0));
                }
            }
        }
        language.finish(&out)
    }
}

fn word<'a>(source: &Source, item: &Item, language: &'a Language) -> &'a Word {
    match source {
        Source::Slot(slot) if item.schema.slots[*slot].kind == "language" => {
            language.word(language.other_tag(item, *slot))
        }
        Source::Slot(slot) => language.word(item.words[*slot]),
        Source::Fixed(key) => language.word(key),
    }
}

impl Figure {
    fn value(self, item: &Item) -> u8 {
        match self {
            Self::Number(number) => item.numbers[number],
            Self::Equation(step) => item.numbers[item.schema.steps[step].result],
        }
    }

    fn text(self, item: &Item) -> String {
        match self {
            Self::Number(number) => item.numbers[number].to_string(),
            Self::Equation(step) => {
                let step = item.schema.steps[step];
                let number = |at: usize| item.numbers[at];
                format!(
                    "{} {} {} = {}",
                    number(step.left),
                    step.operation.sign(),
                    number(step.right),
                    number(step.result)
                )
            }
        }
    }
}

/// Resolves the names between braces.
struct Parser<'a> {
    schema: &'a Schema,
    language: &'a Language,
    at: &'a str,
}

impl Parser<'_> {
    fn piece(&self, inner: &str) -> Result<Piece> {
        if let Some((name, forms)) = inner.split_once(':') {
            return self.gender(name, forms);
        }
        if let Some((figure, name)) = inner.split_once(' ') {
            let Some(figure) = self.figure(figure) else {
                return self.unknown(inner);
            };
            let source = self.source(name)?;
            return Ok(Piece::Counted(figure, source));
        }
        if let Some((noun, of)) = inner.split_once('@').filter(|(noun, _)| !noun.is_empty()) {
            return match (self.slot(noun), self.slot(of)) {
                (Some(slot), Some(language)) if self.schema.slots[language].kind == "language" => {
                    Ok(Piece::Foreign { slot, language })
                }
                _ => self.unknown(inner),
            };
        }
        if let Some(figure) = self.figure(inner) {
            return Ok(Piece::Number(figure));
        }
        let (name, column) = inner.split_once('.').unwrap_or((inner, ""));
        if let (Some(Figure::Number(number)), "word") = (self.figure(name), column) {
            return self.number_word(number);
        }
        let source = self.source(name)?;
        let column = self.column(&source, column)?;
        Ok(Piece::Word(source, column))
    }

    fn gender(&self, name: &str, forms: &str) -> Result<Piece> {
        let source = self.source(name)?;
        let forms: Vec<String> = forms.split('|').map(String::from).collect();
        let genders = self.language.genders.len();
        if forms.len() != genders {
            bail_user!(
                "{}: {{{name}:…}} has {} forms, but the language has {genders} genders",
                self.at,
                forms.len()
            );
        }
        for key in self.keys(&source) {
            if self.language.gender(self.language.word(&key)).is_none() {
                bail_user!(
                    "{}: {{{name}:…}} needs a gender, and '{key}' has none of {}",
                    self.at,
                    self.language.genders.join(", ")
                );
            }
        }
        Ok(Piece::Gender(source, forms))
    }

    fn number_word(&self, number: usize) -> Result<Piece> {
        let (largest, known) = (self.schema.largest(number) as usize, self.language.numerals.len());
        if largest >= known {
            bail_user!(
                "{}: {{{}.word}} can be {largest}, but there are numerals for 0 to {}",
                self.at,
                self.schema.numbers[number],
                known - 1
            );
        }
        Ok(Piece::NumberWord(number))
    }

    fn figure(&self, name: &str) -> Option<Figure> {
        let equation = name.strip_prefix('s').and_then(|digits| digits.parse::<usize>().ok());
        let equation = equation.filter(|step| (1..=self.schema.steps.len()).contains(step));
        let number =
            || self.schema.numbers.iter().position(|number| number == name).map(Figure::Number);
        equation.map(|step| Figure::Equation(step - 1)).or_else(number)
    }

    fn slot(&self, name: &str) -> Option<usize> {
        self.schema.slots.iter().position(|slot| slot.name == name)
    }

    fn source(&self, name: &str) -> Result<Source> {
        let fixed = name.strip_prefix('@').filter(|key| self.language.words.contains_key(*key));
        match (fixed, self.slot(name)) {
            (Some(key), _) => Ok(Source::Fixed(key.into())),
            (None, Some(slot)) => Ok(Source::Slot(slot)),
            (None, None) => self.unknown(name),
        }
    }

    fn keys(&self, source: &Source) -> Vec<String> {
        match source {
            Source::Slot(slot) => self.schema.slots[*slot].keys.clone(),
            Source::Fixed(key) => vec![key.clone()],
        }
    }

    /// The column's place, the same for every word that the source can be.
    fn column(&self, source: &Source, column: &str) -> Result<usize> {
        let mut place = None;
        for key in self.keys(source) {
            let columns = &self.language.word(&key).columns;
            let here = if column.is_empty() {
                Some(0)
            } else {
                columns.iter().position(|name| name == column)
            };
            if here.is_none() || place.is_some_and(|place| Some(place) != here) {
                bail_user!(
                    "{}: '{key}' has no form '{column}'; its forms are {}",
                    self.at,
                    columns.join(", ")
                );
            }
            place = here;
        }
        Ok(place.unwrap_or(0))
    }

    fn unknown<T>(&self, inner: &str) -> Result<T> {
        let slots = self.schema.slots.iter().map(|slot| slot.name.as_str());
        let known: Vec<&str> =
            slots.chain(self.schema.numbers.iter().map(String::as_str)).collect();
        bail_user!(
            "{}: {{{inner}}} is not known; {} has {}, and {} equations",
            self.at,
            self.schema.title(),
            known.join(", "),
            self.schema.steps.len()
        )
    }
}
