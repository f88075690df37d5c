//! A row as named values, whatever it came from: a JSON object, the cells of a record, a line of a data frame.
//! Values stay borrowed, and JSON stays text, until someone asks for them.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use polars::prelude::{AnyValue, DataFrame};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::Column;
use crate::rejects::{Reason, Refusal};

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// A cell.
    Text(Cow<'a, str>),
    /// JSON text of any kind.
    Json(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// The value as text: a cell, a JSON string, number or truth value; `None` for null. A list or object is refused.
    pub(crate) fn text(&self) -> Result<Option<Cow<'_, str>>, Refusal> {
        let json = match self {
            Value::Text(text) => return Ok(Some(Cow::Borrowed(text.as_ref()))),
            Value::Json(json) => json.as_ref(),
        };
        match json.as_bytes().first() {
            Some(b'"') => match json[1..json.len() - 1].contains('\\') {
                false => Ok(Some(Cow::Borrowed(&json[1..json.len() - 1]))),
                true => serde_json::from_str(json)
                    .map(|text: String| Some(Cow::Owned(text)))
                    .map_err(|error| {
                        Refusal::new(
                            Reason::InvalidJson,
                            format!("a string cannot be read: {error}"),
                        )
                    }),
            },
            Some(b'[') => Err(Refusal::new(Reason::WrongType, "is a list, where a text is needed")),
            Some(b'{') => {
                Err(Refusal::new(Reason::WrongType, "is an object, where a text is needed"))
            }
            Some(b'n') | None => Ok(None),
            Some(_) => Ok(Some(Cow::Borrowed(json))),
        }
    }

    /// The value as JSON text.
    pub(crate) fn json(&self) -> Cow<'_, str> {
        match self {
            Value::Json(json) => Cow::Borrowed(json.as_ref()),
            Value::Text(text) => Cow::Owned(serde_json::Value::from(text.as_ref()).to_string()),
        }
    }

    fn into_owned(self) -> Value<'static> {
        match self {
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Json(json) => Value::Json(Cow::Owned(json.into_owned())),
        }
    }
}

/// The named values of a row that outlive what it was read from.
pub(crate) type Kept = Vec<(String, Value<'static>)>;

/// The named values of a row, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Clone, Debug)]
struct Entry<'a> {
    name: Cow<'a, str>,
    value: Value<'a>,
    used: Cell<bool>,
}

impl<'a> Fields<'a> {
    /// The fields of a JSON object.
    pub(crate) fn from_json(text: &'a str) -> Result<Fields<'a>, Refusal> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    fields.push(name, Value::Json(Cow::Borrowed(value.get())));
                }
                Ok(fields)
            }
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let fields = deserializer
            .deserialize_map(Object)
            .and_then(|fields| deserializer.end().map(|()| fields));
        fields.map_err(|error| Refusal::new(Reason::InvalidJson, error.to_string()))
    }

    /// One line of a data frame.
    pub(crate) fn from_frame(frame: &'a DataFrame, row: usize) -> Fields<'a> {
        let mut fields = Fields::default();
        for column in frame.columns() {
            let value = match column.get(row) {
                Ok(AnyValue::String(text)) => Value::Text(Cow::Borrowed(text)),
                Ok(AnyValue::StringOwned(text)) => Value::Text(Cow::Owned(text.to_string())),
                Ok(other) => Value::Json(Cow::Owned(json_of(&other).to_string())),
                Err(_) => continue,
            };
            fields.push(Cow::Borrowed(column.name().as_str()), value);
        }
        fields
    }

    pub(crate) fn push(&mut self, name: Cow<'a, str>, value: Value<'a>) {
        self.entries.push(Entry { name, value, used: Cell::new(false) });
    }

    /// Adds another row's values under names that are not here yet.
    pub(crate) fn join(&mut self, other: &'a Kept) {
        for (name, value) in other {
            if !self.has(name) {
                self.push(Cow::Borrowed(name), value.clone());
            }
        }
    }

    /// The fields that nobody asked for, for keeping: of a joined row, all but its key.
    pub(crate) fn into_rest(self) -> Kept {
        let rest = self.entries.into_iter().filter(|entry| !entry.used.get());
        rest.map(|entry| (entry.name.into_owned(), entry.value.into_owned())).collect()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_ref())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// The value of a name that a schema knows. Of a name that stands twice the last counts, as everywhere in JSON.
    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        let entry = self.entries.iter().rev().find(|entry| entry.name == name)?;
        entry.used.set(true);
        Some(&entry.value)
    }

    /// The text of a name that a schema knows; `None` where it is absent, null or empty.
    pub(crate) fn text(&self, name: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
        let text = self
            .get(name)
            .map_or(Ok(None), |value| value.text().map_err(|error| error.about(name)))?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// The value of a column that the user named: by number, by name, or along a JSON path.
    pub(crate) fn find(&self, column: &Column) -> Result<Cow<'_, Value<'a>>, Refusal> {
        let found = match column {
            Column::Number(number) => {
                let entry = number.checked_sub(1).and_then(|index| self.entries.get(index));
                entry.map(|entry| {
                    entry.used.set(true);
                    Cow::Borrowed(&entry.value)
                })
            }
            Column::Name(name) => {
                self.get(name).map(Cow::Borrowed).or_else(|| self.path(name).map(Cow::Owned))
            }
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            let there = if names.is_empty() { "nothing".to_string() } else { names.join(", ") };
            Refusal::new(Reason::MissingField, format!("no column {column}; there is {there}"))
        })
    }

    /// The text of a column that the user named; `None` where it is null.
    pub(crate) fn find_text(&self, column: &Column) -> Result<Option<Cow<'_, str>>, Refusal> {
        let about = |error: Refusal| error.about(&column.to_string().replace('`', ""));
        Ok(match self.find(column)? {
            Cow::Borrowed(value) => value.text().map_err(about)?,
            Cow::Owned(value) => {
                value.text().map_err(about)?.map(|text| Cow::Owned(text.into_owned()))
            }
        })
    }

    /// A value inside JSON: `turns.0`, `answer.text`.
    fn path(&self, path: &str) -> Option<Value<'static>> {
        let (name, rest) = path.split_once('.')?;
        let mut value: serde_json::Value = serde_json::from_str(&self.get(name)?.json()).ok()?;
        for step in rest.split('.') {
            value = match step.parse::<usize>() {
                Ok(index) => value.get_mut(index)?.take(),
                Err(_) => value.get_mut(step)?.take(),
            };
        }
        Some(Value::Json(Cow::Owned(value.to_string())))
    }

    /// The values that nobody asked for, as one JSON object; `None` where there are none.
    pub(crate) fn unused(&self) -> Option<String> {
        let mut object = String::new();
        for entry in self.entries.iter().filter(|entry| !entry.used.get() && !entry.name.is_empty())
        {
            object.push(if object.is_empty() { '{' } else { ',' });
            object.push_str(&serde_json::Value::from(entry.name.as_ref()).to_string());
            object.push(':');
            object.push_str(&entry.value.json());
        }
        (!object.is_empty()).then(|| object + "}")
    }
}

/// A key of a JSON object, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_string())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A cell of a data frame as JSON.
fn json_of(value: &AnyValue) -> serde_json::Value {
    match value {
        AnyValue::Null => serde_json::Value::Null,
        AnyValue::Boolean(truth) => (*truth).into(),
        AnyValue::String(text) => (*text).into(),
        AnyValue::StringOwned(text) => text.as_str().into(),
        AnyValue::List(series) => series.iter().map(|value| json_of(&value)).collect(),
        AnyValue::Struct(..) | AnyValue::StructOwned(..) => struct_json(value),
        AnyValue::Float32(number) => f64::from(*number).into(),
        AnyValue::Float64(number) => (*number).into(),
        other => match other.extract::<i64>() {
            Some(number) if other.is_integer() => number.into(),
            _ => other.to_string().into(),
        },
    }
}

fn struct_json(value: &AnyValue) -> serde_json::Value {
    let AnyValue::StructOwned(payload) = value.clone().into_static() else {
        return serde_json::Value::Null;
    };
    let (values, fields) = payload.as_ref();
    fields
        .iter()
        .zip(values)
        .map(|(field, value)| (field.name.to_string(), json_of(value)))
        .collect()
}

/// The cells of one record.
pub(crate) fn cells(record: &str, delimiter: u8, quoting: bool) -> Vec<Cow<'_, str>> {
    let mut cells = Vec::new();
    let bytes = record.as_bytes();
    let mut start = 0;
    loop {
        if quoting && bytes.get(start) == Some(&b'"') {
            let (cell, end) = quoted_cell(record, start, delimiter);
            cells.push(cell);
            start = end;
        } else {
            let end =
                memchr::memchr(delimiter, &bytes[start..]).map_or(bytes.len(), |at| start + at);
            cells.push(Cow::Borrowed(&record[start..end]));
            start = end;
        }
        if start == bytes.len() {
            return cells;
        }
        start += 1;
    }
}

/// The cell that opens with a quote at `start`, and where it ends. Text after the closing quote belongs to it.
fn quoted_cell(record: &str, start: usize, delimiter: u8) -> (Cow<'_, str>, usize) {
    let bytes = record.as_bytes();
    let mut cell = String::new();
    let mut from = start + 1;
    while let Some(quote) = memchr::memchr(b'"', &bytes[from..]).map(|at| from + at) {
        cell.push_str(&record[from..quote]);
        if bytes.get(quote + 1) != Some(&b'"') {
            let rest = quote + 1;
            let end = memchr::memchr(delimiter, &bytes[rest..]).map_or(bytes.len(), |at| rest + at);
            cell.push_str(&record[rest..end]);
            return (Cow::Owned(cell), end);
        }
        cell.push('"');
        from = quote + 2;
    }
    cell.push_str(&record[from..]);
    (Cow::Owned(cell), bytes.len())
}
