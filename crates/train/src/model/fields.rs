//! Typed access to the fields of a config.json, with messages that name the file and the key.

use std::path::Path;

use anyhow::Result;
use artifact::bail_user;
use artifact::error::user;
use serde_json::{Map, Value};

/// The fields of one object of a file.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
    /// What stands before a key in messages, `rope_parameters.` for one.
    prefix: String,
}

impl<'a> Fields<'a> {
    pub fn new(map: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self { map, path, prefix: String::new() }
    }

    /// The file.
    pub fn at(&self) -> std::path::Display<'a> {
        self.path.display()
    }

    /// A key as messages name it.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| (&key[..], value))
    }

    /// A field's value; null counts as none.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a field is there and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// An object inside this one.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { map, path: self.path, prefix: format!("{}{key}.", self.prefix) }))
            }
            Some(value) => Err(self.wrong(key, "an object", value)),
        }
    }

    /// A positive whole number.
    pub fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => bail_user!("{}: the field {} is missing", self.at(), self.name(key)),
            (Some(value), _) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n > 0 => Ok(n),
                _ => Err(self.wrong(key, "a positive whole number", value)),
            },
        }
    }

    /// A positive number, which has to be there if it has no default.
    pub fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => bail_user!("{}: the field {} is missing", self.at(), self.name(key)),
            (Some(value), _) => match value.as_f64() {
                Some(n) if n > 0.0 && (n as f32).is_finite() => Ok(n),
                _ => Err(self.wrong(key, "a positive number", value)),
            },
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.wrong(key, "true or false", value)),
        }
    }

    /// The user's error of a value that is not what it has to be.
    pub fn wrong(&self, key: &str, expected: &str, found: &Value) -> anyhow::Error {
        user(format!("{}: {}: expected {expected}, found {found}", self.at(), self.name(key)))
    }

    /// Refuses keys that are not `known`, unless their value is null.
    pub fn refuse_others(&self, known: &[&str], of: &str) -> Result<()> {
        match self.iter().find(|(key, value)| !value.is_null() && !known.contains(key)) {
            None => Ok(()),
            Some((key, value)) => bail_user!(
                "{}: the field {} (= {value}) is not supported in {of}",
                self.at(),
                self.name(key)
            ),
        }
    }
}

/// Whether two JSON values are the same; 1 and 1.0 are.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b)
}
