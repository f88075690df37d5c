//! One TOML table that holds a stage's own settings and a few of the pipeline's beside them, such as
//! `[train] epochs = 2, seeds = [1, 2]`. serde cannot both flatten a struct and refuse unknown keys,
//! so the added keys are caught while the table streams into the stage's type, which sees the rest
//! at its place in the file and refuses what it does not know.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor,
    value::MapAccessDeserializer,
};
use serde::{Deserialize, Deserializer};

/// The pipeline's fields that may stand in a stage's table.
pub trait Added: DeserializeOwned + JsonSchema {
    /// Their names, as written in the file.
    const FIELDS: &'static [&'static str];
}

/// A stage's settings `T` (reached by dereferencing) with the pipeline's settings `A` in the same table.
#[derive(Clone, Debug, Default)]
pub struct With<A, T> {
    /// What the pipeline adds.
    pub added: A,
    /// The stage's own settings.
    pub stage: T,
}

impl<A, T> Deref for With<A, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.stage
    }
}

impl<A, T> DerefMut for With<A, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.stage
    }
}

impl<'de, A: Added, T: Deserialize<'de>> Deserialize<'de> for With<A, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WithVisitor(PhantomData))
    }
}

struct WithVisitor<A, T>(PhantomData<(A, T)>);

impl<'de, A: Added, T: Deserialize<'de>> Visitor<'de> for WithVisitor<A, T> {
    type Value = With<A, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of settings")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<With<A, T>, M::Error> {
        let mut caught = toml::Table::new();
        let rest = Rest { map, fields: A::FIELDS, caught: &mut caught };
        let stage = T::deserialize(MapAccessDeserializer::new(rest))?;
        let added = caught.try_into().map_err(|e: toml::de::Error| Error::custom(e.message()))?;
        Ok(With { added, stage })
    }
}

/// The entries of a table without those whose keys are in `fields`, which are put aside.
struct Rest<'a, M> {
    map: M,
    fields: &'static [&'static str],
    caught: &'a mut toml::Table,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Rest<'_, M> {
    type Error = M::Error;

    fn next_key_seed<K>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error>
    where
        K: DeserializeSeed<'de>,
    {
        let mut seed = Some(seed);
        while let Some(key) =
            self.map.next_key_seed(KeySeed { seed: &mut seed, fields: self.fields })?
        {
            match key {
                Key::Stage(key) => return Ok(Some(key)),
                Key::Added(key) => self.caught.insert(key, self.map.next_value()?),
            };
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}

enum Key<K> {
    Added(String),
    Stage(K),
}

/// Reads a key, so that an unknown one is refused while its place in the file is known.
struct KeySeed<'a, K> {
    seed: &'a mut Option<K>,
    fields: &'static [&'static str],
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<'_, K> {
    type Value = Key<K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for KeySeed<'_, K> {
    type Value = Key<K::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        if self.fields.contains(&key) {
            return Ok(Key::Added(key.to_owned()));
        }
        let seed = self.seed.take().ok_or_else(|| E::custom("a key after the last one"))?;
        seed.deserialize(key.into_deserializer()).map(Key::Stage)
    }
}

impl<A: Added, T: JsonSchema> JsonSchema for With<A, T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}With{}", T::schema_name(), A::schema_name()).into()
    }

    /// The stage's schema, and the added properties among its own.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        let mut added = A::json_schema(generator);
        if let Some(properties) = added.get_mut("properties").and_then(|p| p.as_object_mut()) {
            let own =
                schema.ensure_object().entry("properties").or_insert_with(|| serde_json::json!({}));
            if let Some(own) = own.as_object_mut() {
                own.append(properties);
            }
        }
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, JsonSchema, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Stage {
        epochs: u32,
    }

    #[derive(Debug, Deserialize, JsonSchema, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Seeds {
        seeds: Vec<u64>,
    }

    impl Added for Seeds {
        const FIELDS: &'static [&'static str] = &["seeds"];
    }

    #[test]
    fn one_table_fills_both_halves() {
        let table: With<Seeds, Stage> = toml::from_str("epochs = 3\nseeds = [1, 2]").unwrap();
        assert_eq!((table.epochs, table.added.seeds), (3, vec![1, 2]));
    }

    #[test]
    fn an_unknown_key_is_refused_at_its_place_with_the_known_ones() {
        let text = "seeds = [1]\nepohcs = 3";
        let error = toml::from_str::<With<Seeds, Stage>>(text).unwrap_err();
        assert!(error.message().starts_with("unknown field `epohcs`"), "{error}");
        assert!(error.message().contains("`epochs`"), "{error}");
        assert_eq!(error.span(), Some(12..18), "the key itself is pointed at");
    }

    #[test]
    fn the_schema_lists_the_properties_of_both_halves() {
        let schema = schemars::schema_for!(With<Seeds, Stage>);
        let properties = schema.get("properties").unwrap().as_object().unwrap();
        assert!(properties.contains_key("epochs") && properties.contains_key("seeds"));
    }
}
