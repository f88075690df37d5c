//! What an ingest is told: sources, the experiment's languages, and how strict to be. Every type is serde with unknown keys
//! refused, and schemars, so that a pipeline file is checked and described from these types alone.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use language::Accuracy;
use schemars::JsonSchema;
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

/// The settings of an ingest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where rows come from, in the order in which duplicates are looked for: the first one stays.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// The experiment's languages: the detector chooses among them, English and a row's own. None: every language it knows.
    pub languages: Vec<String>,
    /// Whether the language of rows is detected. A source may say otherwise.
    pub detect: bool,
    /// How languages are identified: `accurate`, or `fast`, which cannot tell Swahili and a few words.
    pub detector: Accuracy,
    /// Which side of a conversation its language is detected on. A source may say otherwise.
    pub detect_on: DetectOn,
    /// Which duplicates are removed. A source may say otherwise.
    pub dedup: Dedup,
    /// A row of more bytes than this is rejected; it is never held whole.
    pub max_row_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            sources: Vec::new(),
            languages: Vec::new(),
            detect: true,
            detector: Accuracy::Accurate,
            detect_on: DetectOn::Prompt,
            dedup: Dedup::Near,
            max_row_bytes: 16 << 20,
        }
    }
}

/// The text that a row's language is detected on. Prompt and answer may be in different languages on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DetectOn {
    /// What the user says (and raw text).
    #[default]
    Prompt,
    /// What the assistant says.
    Answer,
    /// Everything.
    All,
}

/// Which duplicates within a language, task and split are removed; the first in input order stays.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Dedup {
    /// None.
    Off,
    /// The same conversation up to letter case and white space.
    Exact,
    /// Also at least 0.8 of the shingles shared and all numbers equal; test rows only where they are exact duplicates.
    #[default]
    Near,
}

/// One source of rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// A file, a folder (every data file below it) or a pattern with `*`, `?`, `[..]`, `{a,b}` and `**`; or a list of them.
    /// `${NAME}` is an environment variable. Relative paths start at the pipeline file.
    pub path: Paths,
    /// The name in the `source` column; by default the file's, or the folder's where there are several files.
    pub name: Option<String>,
    /// How the files are laid out; by default seen from their names and contents.
    pub format: Option<OrTable<Format>>,
    /// A character encoding, for example `windows-1251`; by default UTF-8, or UTF-16 by its byte-order mark.
    pub encoding: Option<String>,
    /// How a row holds its conversation; by default seen from its keys.
    pub schema: Schema,
    /// Which column or key holds what.
    pub map: Map,
    /// For wide files: the column of each language, `{ column = "language" }`; by default every column whose name is one
    /// (`id` is the row's id, unless Indonesian is among the experiment's languages).
    pub columns: BTreeMap<String, String>,
    /// Line-parallel files: further columns of a file of lines, each from a file with as many lines.
    pub parallel: BTreeMap<String, Paths>,
    /// Further columns from the row of another file that has the same value in a key.
    pub join: Vec<Join>,
    /// The rows' language: a tag, `{ from_path = "regex with one group" }` or `{ column = … }`.
    pub lang: Option<OrTable<Origin>>,
    /// What content a row is: `"line"` (its number in the file), a column, or `{ hash_of = column }`.
    pub item_id: Option<OrTable<ItemId>>,
    /// The name space of the item ids; by default the source's name. Sources that share content share it.
    pub items: Option<String>,
    /// The task: a name, `{ from_path = … }` or `{ column = … }`.
    pub task: Option<OrTable<Origin>>,
    /// The split (train, validation, test): a name, `{ from_path = … }` or `{ column = … }`.
    pub split: Option<OrTable<Origin>>,
    /// What of a text is kept: a regex with one group.
    pub extract: Extract,
    /// Overrides the ingest's `detect`.
    pub detect: Option<bool>,
    /// Overrides the ingest's `detect_on`.
    pub detect_on: Option<DetectOn>,
    /// Overrides the ingest's `dedup`.
    pub dedup: Option<Dedup>,
}

/// The layout of a file, in full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Format {
    /// The kind of file.
    pub kind: Kind,
    /// CSV, TSV: whether the first record names the columns (default true).
    pub header: Option<bool>,
    /// CSV, TSV: whether cells may stand in double quotes (default true).
    pub quoting: Option<bool>,
    /// CSV, TSV: the character between cells.
    pub delimiter: Option<char>,
}

/// The kind of a file, each also compressed by gzip or zstd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// By name and content.
    #[default]
    Auto,
    /// One JSON object a line.
    Jsonl,
    /// A JSON array of objects, or JSON lines under that name.
    Json,
    /// Comma-separated values.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// Parquet.
    Parquet,
    /// Plain text, one item a line; its column is called `text`.
    Lines,
}

/// How a row holds a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schema {
    /// By the row's keys.
    #[default]
    Auto,
    /// `instruction`, `input`, `output`, `system`, `history`; or `instruction` with `instances`.
    Alpaca,
    /// `conversations`: a list of `from`, `value`.
    Sharegpt,
    /// `messages`: a list of `role`, `content`.
    Messages,
    /// `prompt` or `question`, and `completion`, `response`, `answer` or `chosen`.
    PromptCompletion,
    /// A line is a prompt.
    Lines,
    /// A column a language: a row becomes one example in each.
    Wide,
    /// As `map` says, and nothing else.
    Map,
}

/// Column names (in JSON also a path such as `turns.0`) or, in files of cells, numbers from 1.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Map {
    /// What the user says.
    pub prompt: Option<Column>,
    /// What the assistant answers.
    pub completion: Option<Column>,
    /// The system message.
    pub system: Option<Column>,
    /// What a generation is scored against; by default the last answer.
    pub reference: Option<Column>,
    /// A list of messages.
    pub messages: Option<Column>,
    /// Raw text, for language modelling.
    pub text: Option<Column>,
    /// The language tag.
    pub lang: Option<Column>,
    /// The id of the content, the same in every language.
    pub item_id: Option<Column>,
    /// The id of the row, unique within a language.
    pub example_id: Option<Column>,
    /// The task.
    pub task: Option<Column>,
    /// The split.
    pub split: Option<Column>,
}

/// Texts of which a part is kept: the first group of a regular expression. A row that does not match is rejected.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Extract {
    /// From the reference: `"#### (.+)"` is the final number of a GSM8K answer.
    pub reference: Option<String>,
    /// From the last answer.
    pub completion: Option<String>,
}

/// Columns from another file. It is held in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The other file.
    pub path: String,
    /// This source's column.
    pub on: Column,
    /// The other file's column; by default the same name.
    #[serde(default)]
    pub key: Option<Column>,
    /// The other file's layout.
    #[serde(default)]
    pub format: Option<OrTable<Format>>,
}

/// A value that is the same for all rows of a file, or stands in a column.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Origin {
    /// The first group of this regular expression, searched in the file's path.
    pub from_path: Option<String>,
    /// The column it stands in.
    pub column: Option<Column>,
}

/// Where the id of a row's content is from.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ItemId {
    /// The column it stands in.
    pub column: Option<Column>,
    /// The hash of this column's text, white space aside: the same text is the same content.
    pub hash_of: Option<Column>,
}

/// A column by name, or by number from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Column {
    /// From 1.
    Number(usize),
    /// The name or JSON path.
    Name(String),
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Column::Number(number) => write!(f, "{number}"),
            Column::Name(name) => write!(f, "`{name}`"),
        }
    }
}

/// One path or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Paths {
    /// One.
    One(String),
    /// Several, in this order.
    Many(Vec<String>),
}

impl Default for Paths {
    fn default() -> Self {
        Paths::Many(Vec::new())
    }
}

impl Paths {
    /// The paths, as written.
    pub fn list(&self) -> &[String] {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Many(paths) => paths,
        }
    }
}

/// A setting in short (a string) or in full (a table). Unlike serde's untagged enums it says which key of the table is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OrTable<T> {
    /// In short.
    Text(String),
    /// In full.
    Table(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrTable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrMap<T> {
            type Value = OrTable<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a table")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OrTable::Text(text.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OrTable::Table)
            }
        }
        deserializer.deserialize_any(TextOrMap(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_schema_has_every_key_and_refuses_others() {
        let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
        for key in ["source", "languages", "detect", "dedup", "max_row_bytes"] {
            assert!(schema["properties"].get(key).is_some(), "{key}");
        }
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn settings_survive_serialisation() {
        let text = r#"{"source":[{"path":["a","b"],"map":{"prompt":1,"reference":"r"},"lang":{"from_path":"(..)"},"format":"tsv"}]}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        let again: Config = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
        assert_eq!(format!("{config:?}"), format!("{again:?}"));
        let source = &config.sources[0];
        assert_eq!(source.map.prompt, Some(Column::Number(1)));
        assert_eq!(source.format, Some(OrTable::Text("tsv".into())));
    }
}
