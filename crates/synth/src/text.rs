//! Lines of text for language modelling, for one language: sentences, arithmetic facts, and the same sentence, word or question
//! in two languages. See the crate's documentation for what is left out on purpose.

use std::collections::HashSet;

use anyhow::{Result, bail};
use artifact::{bail_user, example::Message};

use crate::{
    Config, Row,
    draw::{self, Item, Split, Stream},
    language::{Catalog, Language},
    world::{Schema, World},
};

/// The kinds of lines and their shares in percent.
const SHARES: [(Kind, usize); 5] = [
    (Kind::Sentence, 15),
    (Kind::SentencePair, 25),
    (Kind::QuestionPair, 35),
    (Kind::WordPair, 5),
    (Kind::Arithmetic, 20),
];
/// Arithmetic facts in a row of text, one below the other: alone they are too short to be a fifth of the tokens.
const FACTS: usize = 5;
/// How often a line that is already there is drawn anew before the generator gives up.
const ATTEMPTS: usize = 1000;

#[derive(Clone, Copy)]
enum Kind {
    Sentence,
    SentencePair,
    QuestionPair,
    WordPair,
    Arithmetic,
}

/// One line of text.
struct Line {
    id: String,
    item_id: String,
    content: String,
}

/// `config.text` different lines in `language`. A pair begins with this language; half of the pairs go to the configuration's
/// first language, as most parallel text goes through English, and half to any other one.
pub fn rows<'a>(
    world: &World,
    catalog: &Catalog,
    language: &'a Language,
    config: &Config,
) -> Result<Vec<Row<'a>>> {
    let tags = config.languages.iter().filter(|tag| **tag != language.tag);
    let others = tags.filter_map(|tag| catalog.get(tag)).collect();
    let writer = Writer { world, catalog, language, others, config };
    let mut stream = Stream::new(&format!("text {}", language.tag), config.seed);
    let mut seen = HashSet::new();
    let mut rows = Vec::with_capacity(config.text);
    while rows.len() < config.text {
        let mut draws = (0..ATTEMPTS).map(|_| writer.line(&mut stream));
        let is_new = |line: &Result<Line>| {
            line.as_ref().map_or(true, |line| seen.insert(line.content.clone()))
        };
        let Some(line) = draws.find(is_new) else {
            bail_user!(
                "synth: text in {} has few more than {} different lines, but {} are asked for",
                language.tag,
                rows.len(),
                config.text
            );
        };
        let Line { id, item_id, content } = line?;
        let messages = vec![Message { role: "text".into(), content }];
        let split = Split::Text.name();
        let (lang, task) = (language.tag.as_str(), "text");
        rows.push(Row { id, item_id, lang, task, split, messages, reference: None });
    }
    Ok(rows)
}

struct Writer<'a> {
    world: &'a World,
    catalog: &'a Catalog,
    language: &'a Language,
    /// In the configuration's order.
    others: Vec<&'a Language>,
    config: &'a Config,
}

impl<'a> Writer<'a> {
    fn line(&self, stream: &mut Stream) -> Result<Line> {
        let mut point = stream.below(100);
        let kind = SHARES
            .iter()
            .find(|(_, share)| point.checked_sub(*share).map(|rest| point = rest).is_none());
        match kind.map_or(Kind::Sentence, |(kind, _)| *kind) {
            Kind::Sentence => self.alone(&self.draw("text", stream)?),
            Kind::Arithmetic => self.facts(stream),
            _ if self.others.is_empty() => self.alone(&self.draw("text", stream)?),
            Kind::SentencePair => self.pair(&self.draw("text", stream)?, stream),
            Kind::QuestionPair => self.pair(&self.draw("math", stream)?, stream),
            Kind::WordPair => Ok(self.word_pair(stream)),
        }
    }

    /// An item of the part that is kept for text.
    fn draw(&self, task: &str, stream: &mut Stream) -> Result<Item<'a>> {
        let schemas: Vec<&Schema> =
            self.world.schemas.iter().filter(|schema| schema.task == task).collect();
        let Some(schema) = schemas.get(stream.below(schemas.len())) else {
            bail!("there is no schema for {task}");
        };
        let turn = stream.below(draw::region(schema, Split::Text).1 as usize) as u64;
        Ok(draw::item(schema, Split::Text, turn, self.config.seed))
    }

    fn partner(&self, stream: &mut Stream) -> &'a Language {
        let pivot = stream.below(2) == 0;
        self.others[if pivot { 0 } else { stream.below(self.others.len()) }]
    }

    fn alone(&self, item: &Item) -> Result<Line> {
        let item_id = item.id();
        let content = self.language.sentence(item, self.catalog)?;
        Ok(Line { id: format!("{item_id}.{}", self.language.tag), item_id, content })
    }

    fn facts(&self, stream: &mut Stream) -> Result<Line> {
        let items = (0..FACTS).map(|_| self.draw("arithmetic", stream));
        let items = items.collect::<Result<Vec<_>>>()?;
        let facts = items.iter().map(|item| self.language.sentence(item, self.catalog));
        let content = facts.collect::<Result<Vec<_>>>()?.join("\n");
        let names: Vec<String> =
            items.iter().map(|item| format!("{}-{}", item.schema.name, item.index)).collect();
        let item_id = format!("arithmetic-{}", names.join("+"));
        Ok(Line { id: format!("{item_id}.{}", self.language.tag), item_id, content })
    }

    fn pair(&self, item: &Item, stream: &mut Stream) -> Result<Line> {
        let other = self.partner(stream);
        let here = self.language.sentence(item, self.catalog)?;
        let there = other.sentence(item, self.catalog)?;
        Ok(self.side_by_side(item.id(), &here, other, &there))
    }

    fn word_pair(&self, stream: &mut Stream) -> Line {
        let kinds = ["noun", "colour", "adjective", "city", "person", "weekday", "place"];
        let keys: Vec<&String> =
            kinds.iter().filter_map(|kind| self.world.kinds.get(*kind)).flatten().collect();
        let (key, other) = (keys[stream.below(keys.len())], self.partner(stream));
        let (here, there) = (self.language.word(key).cell(0), other.word(key).cell(0));
        self.side_by_side(format!("word-{key}"), here, other, there)
    }

    /// `English: …` over `Español: …`.
    fn side_by_side(&self, item_id: String, here: &str, other: &Language, there: &str) -> Line {
        Line {
            id: format!("{item_id}.{}.{}", self.language.tag, other.tag),
            item_id,
            content: format!("{}: {here}\n{}: {there}", self.language.name, other.name),
        }
    }
}
