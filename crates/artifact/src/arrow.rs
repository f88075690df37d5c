//! The one place where arrow2 stands: it streams our own Parquet artifacts row group by row group
//! into the trainer, and out as an Arrow IPC stream.
//!
//! arrow2 is no longer maintained and has an open advisory (see `deny.toml`), so nothing from
//! outside comes near it: what a user brings is read by polars and written anew first.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context as _, Result};
use arrow2::{
    array::{Array, BinaryArray, Float64Array, Int64Array, ListArray, StructArray, Utf8Array},
    chunk::Chunk,
    datatypes::{DataType, Schema},
    io::{
        ipc::write::{StreamWriter, WriteOptions},
        parquet::read::{self, FileReader, schema::parquet_to_arrow_schema},
    },
};

use crate::{Example, Message, MixtureRow, bail_user, error::open_input};

type Columns = Chunk<Box<dyn Array>>;

/// The file's columns, typed by the Parquet schema alone: the Arrow schema that polars embeds
/// names view types that arrow2 does not know.
fn open(path: &Path) -> Result<(Schema, FileReader<File>)> {
    let mut file = open_input(path)?;
    let metadata = read::read_metadata(&mut file).map_err(|error| {
        crate::error::user(format!("{}: not a complete Parquet file ({error})", path.display()))
    })?;
    let schema = Schema::from(parquet_to_arrow_schema(metadata.schema().fields()));
    let reader = FileReader::new(file, metadata.row_groups, schema.clone(), None, None, None);
    Ok((schema, reader))
}

/// Streams a Parquet artifact as an Arrow IPC stream.
pub fn stream_ipc(path: &Path, out: impl Write) -> Result<()> {
    let (schema, reader) = open(path)?;
    let mut writer = StreamWriter::new(out, WriteOptions { compression: None });
    writer.start(&schema, None).context("cannot write the Arrow stream")?;
    for chunk in reader {
        let chunk = chunk.with_context(|| format!("cannot read {}", path.display()))?;
        writer.write(&chunk, None).context("cannot write the Arrow stream")?;
    }
    writer.finish().context("cannot write the Arrow stream")
}

/// Streams a `mixture` (or `examples`: then `mixture_id` is empty and `position` counts the rows)
/// row group by row group.
pub fn mixture_rows(path: &Path) -> Result<impl Iterator<Item = Result<Vec<MixtureRow>>> + use<>> {
    let (schema, reader) = open(path)?;
    for name in ["example_id", "item_id", "task", "split", "lang", "messages"] {
        if !schema.fields.iter().any(|field| field.name == name) {
            bail_user!(
                "{}: column `{name}` is missing (`isogloss schema mixture` lists the columns)",
                path.display()
            );
        }
    }
    let path = path.to_owned();
    let mut before = 0;
    Ok(reader.map(move |chunk| {
        let chunk = chunk.with_context(|| format!("cannot read {}", path.display()))?;
        let rows = Group { schema: &schema, chunk: &chunk, path: &path }.rows(before)?;
        before += chunk.len() as i64;
        Ok(rows)
    }))
}

/// One row group on its way to rows.
struct Group<'a> {
    schema: &'a Schema,
    chunk: &'a Columns,
    path: &'a Path,
}

impl<'a> Group<'a> {
    fn array(&self, name: &str) -> Option<&'a dyn Array> {
        let index = self.schema.fields.iter().position(|field| field.name == name)?;
        self.chunk.arrays().get(index).map(AsRef::as_ref)
    }

    fn text(&self, name: &'static str) -> Result<impl Fn(usize) -> Option<String> + use<'a>> {
        let array = self.array(name);
        match array.map(strings) {
            Some(None) => bail_user!("{}: column `{name}` is not text", self.path.display()),
            Some(Some(strings)) => Ok(Some(strings)),
            None => Ok(None),
        }
        .map(|strings| {
            move |row: usize| strings.as_ref().and_then(|get| get(row)).map(str::to_owned)
        })
    }

    fn integer(&self, name: &str) -> Option<&'a Int64Array> {
        self.array(name)?.as_any().downcast_ref()
    }

    fn rows(&self, before: i64) -> Result<Vec<MixtureRow>> {
        let (example_id, item_id, source) =
            (self.text("example_id")?, self.text("item_id")?, self.text("source")?);
        let (task, split, lang) = (self.text("task")?, self.text("split")?, self.text("lang")?);
        let (declared, detected) = (self.text("lang_declared")?, self.text("lang_detected")?);
        let (rule, script) = (self.text("lang_rule")?, self.text("script")?);
        let (reference, meta, mixture_id) =
            (self.text("reference")?, self.text("meta")?, self.text("mixture_id")?);
        let (position, repeat) = (self.integer("position"), self.integer("repeat"));
        let confidence = self
            .array("lang_confidence")
            .and_then(|array| array.as_any().downcast_ref::<Float64Array>());
        let messages = self.messages()?;
        Ok(messages
            .into_iter()
            .enumerate()
            .map(|(row, messages)| MixtureRow {
                mixture_id: mixture_id(row).unwrap_or_default(),
                position: position.map_or(before + row as i64, |array| array.value(row)),
                repeat: repeat.map_or(0, |array| array.value(row)),
                example: Example {
                    example_id: example_id(row).unwrap_or_default(),
                    item_id: item_id(row).unwrap_or_default(),
                    source: source(row).unwrap_or_default(),
                    task: task(row).unwrap_or_default(),
                    split: split(row).unwrap_or_default(),
                    lang: lang(row).unwrap_or_default(),
                    lang_declared: declared(row),
                    lang_detected: detected(row),
                    lang_confidence: confidence
                        .filter(|array| array.is_valid(row))
                        .map(|array| array.value(row)),
                    lang_rule: rule(row).unwrap_or_default(),
                    script: script(row),
                    messages,
                    reference: reference(row),
                    meta: meta(row),
                },
            })
            .collect())
    }

    fn messages(&self) -> Result<Vec<Vec<Message>>> {
        let shape = || {
            crate::error::user(format!(
                "{}: column `messages` is not a list of struct role, content",
                self.path.display()
            ))
        };
        let list = self.array("messages").ok_or_else(shape)?;
        let (offsets, values): (Vec<usize>, _) =
            if let Some(list) = list.as_any().downcast_ref::<ListArray<i32>>() {
                (list.offsets().iter().map(|&offset| offset as usize).collect(), list.values())
            } else if let Some(list) = list.as_any().downcast_ref::<ListArray<i64>>() {
                (list.offsets().iter().map(|&offset| offset as usize).collect(), list.values())
            } else {
                return Err(shape());
            };
        let turns = values.as_any().downcast_ref::<StructArray>().ok_or_else(shape)?;
        let field = |name: &str| {
            let index = turns.fields().iter().position(|field| field.name == name)?;
            strings(turns.values()[index].as_ref())
        };
        let (role, content) =
            (field("role").ok_or_else(shape)?, field("content").ok_or_else(shape)?);
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        Ok(offsets
            .windows(2)
            .map(|pair| {
                (pair[0]..pair[1])
                    .map(|turn| Message { role: text(role(turn)), content: text(content(turn)) })
                    .collect()
            })
            .collect())
    }
}

type Strings<'a> = Box<dyn Fn(usize) -> Option<&'a str> + 'a>;

/// A text column, however Parquet laid it out.
fn strings(array: &dyn Array) -> Option<Strings<'_>> {
    let any = array.as_any();
    match array.data_type() {
        DataType::Utf8 => {
            let array = any.downcast_ref::<Utf8Array<i32>>()?;
            Some(Box::new(move |row| array.get(row)))
        }
        DataType::LargeUtf8 => {
            let array = any.downcast_ref::<Utf8Array<i64>>()?;
            Some(Box::new(move |row| array.get(row)))
        }
        DataType::Binary => {
            let array = any.downcast_ref::<BinaryArray<i32>>()?;
            Some(Box::new(move |row| std::str::from_utf8(array.get(row)?).ok()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        example::{examples_to_frame, frame_to_examples, mixture_to_frame, sample},
        parquet,
        schema::{EXAMPLES, MIXTURE},
    };
    use polars::prelude::*;

    fn mixture() -> Vec<MixtureRow> {
        sample(300)
            .into_iter()
            .enumerate()
            .map(|(row, example)| MixtureRow {
                mixture_id: "m".into(),
                position: row as i64,
                repeat: (row % 2) as i64,
                example,
            })
            .collect()
    }

    #[test]
    fn a_mixture_streams_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mixture.parquet");
        let rows = mixture();
        parquet::write(&path, &MIXTURE, &mut mixture_to_frame(&rows).unwrap()).unwrap();
        let read: Vec<MixtureRow> =
            mixture_rows(&path).unwrap().flat_map(|group| group.unwrap()).collect();
        assert_eq!(read, rows);
    }

    #[test]
    fn examples_stream_as_a_mixture_in_file_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("examples.parquet");
        let rows = sample(20);
        parquet::write(&path, &EXAMPLES, &mut examples_to_frame(&rows).unwrap()).unwrap();
        let read: Vec<MixtureRow> =
            mixture_rows(&path).unwrap().flat_map(|group| group.unwrap()).collect();
        assert_eq!(
            read.iter().map(|row| row.position).collect::<Vec<_>>(),
            (0..20).collect::<Vec<_>>()
        );
        assert_eq!(read.into_iter().map(|row| row.example).collect::<Vec<_>>(), rows);
    }

    #[test]
    fn the_ipc_stream_holds_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("examples.parquet");
        let rows = sample(40);
        parquet::write(&path, &EXAMPLES, &mut examples_to_frame(&rows).unwrap()).unwrap();
        let mut bytes = Vec::new();
        stream_ipc(&path, &mut bytes).unwrap();
        let df = IpcStreamReader::new(std::io::Cursor::new(bytes)).finish().unwrap();
        assert_eq!(frame_to_examples(&df).unwrap(), rows);
    }
}
