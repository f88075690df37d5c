//! What the subcommands of stages share: settings files, inputs that may be an output folder or a
//! stream, and outputs that appear whole in a folder or go to stdout as a stream.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use artifact::schema::{EXAMPLES, Schema};
use artifact::store::is_in_an_output;
use artifact::{Context, arrow, parquet, publish};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::console;
use crate::remote::{data_file, data_files};

/// Stands for stdin or stdout.
const STREAM: &str = "-";

/// The settings of `--config`, or the defaults.
pub fn settings<T: DeserializeOwned + Default>(config: Option<&Path>) -> Result<T> {
    config.map_or_else(|| Ok(T::default()), artifact::config::load_toml)
}

/// Takes a flag's value where the flag was given.
pub fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}

/// Reads `ours=theirs` of a `--map`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((ours, theirs)) if !ours.is_empty() && !theirs.is_empty() => {
            Ok((ours.trim().to_owned(), theirs.trim().to_owned()))
        }
        _ => Err(format!("`{text}` should be ours=theirs, such as prompt=question")),
    }
}

/// The file that a path names: an output folder of ours stands for its main table. Prompts are examples under another name.
pub fn table(path: &Path, schemas: &[&Schema]) -> PathBuf {
    let names = schemas.iter().map(|schema| schema.artifact);
    let prompts = schemas.iter().any(|schema| schema.artifact == EXAMPLES.artifact);
    let names = names.chain(prompts.then_some("prompts"));
    names
        .map(|name| path.join(format!("{name}.parquet")))
        .find(|file| file.exists())
        .unwrap_or_else(|| path.to_owned())
}

/// The same for several paths, those on the Hub among them.
pub fn tables(paths: &[PathBuf], schema: &Schema, ctx: &Context) -> Result<Vec<PathBuf>> {
    Ok(data_files(paths, ctx)?.iter().map(|path| table(path, &[schema])).collect())
}

/// The file of prompts or examples that a path names, which may be on the Hub.
pub fn prompts(path: &Path, ctx: &Context) -> Result<PathBuf> {
    Ok(table(&data_file(path, ctx)?, &[&EXAMPLES]))
}

/// A folder for the time of one command.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new empty folder among the system's temporary ones.
    pub fn new() -> Result<Scratch> {
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        let path = std::env::temp_dir().join(format!("isogloss-{}-{stamp}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's cleaning of temporary folders.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A Parquet input; a stream from stdin is spooled to a file, for stages that read twice.
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// What messages call it.
    pub name: PathBuf,
    _spooled: Option<Scratch>,
}

impl Input {
    /// Opens a file, here or on the Hub, an output folder of ours, or `-`; it holds one of these artifacts.
    pub fn open(path: &Path, schemas: &[&'static Schema], ctx: &Context) -> Result<Input> {
        if path != Path::new(STREAM) {
            let path = table(&data_file(path, ctx)?, schemas);
            return Ok(Input { name: path.clone(), path, _spooled: None });
        }
        let scratch = Scratch::new()?;
        let spooled = scratch.path().join("stdin.parquet");
        let mut frame = parquet::read(path, None)?;
        let mut problem = None;
        for schema in schemas {
            match schema.check(&frame, Path::new("stdin")) {
                Ok(()) => {
                    parquet::write(&spooled, schema, &mut frame)?;
                    let name = PathBuf::from("stdin");
                    return Ok(Input { path: spooled, name, _spooled: Some(scratch) });
                }
                Err(error) => problem = Some(error),
            }
        }
        Err(problem.unwrap_or_else(|| anyhow!("no schema to read stdin by")))
    }

    /// Opens an input of a stage that streams it through `artifact::arrow`, which reads what isogloss wrote and nothing
    /// else: any other file is read by polars and written anew.
    pub fn own(path: &Path, schemas: &[&'static Schema], ctx: &Context) -> Result<Input> {
        let input = Input::open(path, schemas, ctx)?;
        if input._spooled.is_some() || is_in_an_output(&input.path)? {
            return Ok(input);
        }
        let scratch = Scratch::new()?;
        let (spooled, name) = (scratch.path().join("rows.parquet"), input.path.clone());
        let mut problem = None;
        for schema in schemas {
            match rewrite(&input.path, &spooled, schema) {
                Ok(()) => return Ok(Input { path: spooled, name, _spooled: Some(scratch) }),
                Err(error) => problem = Some(error),
            }
        }
        Err(problem.unwrap_or_else(|| anyhow!("no schema to read {} by", path.display())))
    }

    /// Opens several files of examples.
    pub fn examples(paths: &[PathBuf], ctx: &Context) -> Result<Vec<Input>> {
        paths.iter().map(|path| Input::open(path, &[&EXAMPLES], ctx)).collect()
    }
}

/// Copies a table row group by row group, checked and with the schema's types.
fn rewrite(from: &Path, to: &Path, schema: &'static Schema) -> Result<()> {
    let mut writer = parquet::Writer::create(to, schema)?;
    for group in parquet::row_groups(from, Some(schema))? {
        writer.write(&group?)?;
    }
    writer.finish()
}

/// The paths of opened inputs.
pub fn paths(inputs: &[Input]) -> Vec<PathBuf> {
    inputs.iter().map(|input| input.path.clone()).collect()
}

/// Where a stage writes.
pub struct Output<'a> {
    /// A folder, or `-`.
    pub out: &'a Path,
    /// Name of the stage.
    pub stage: &'static str,
    /// The table that goes to stdout where `out` is `-`.
    pub main: Option<&'static str>,
    /// Whether to go on from an interrupted run's checkpoint.
    pub resume: bool,
}

/// Runs a stage into its output and prints what it said.
pub fn publish<T: Serialize + Display>(
    output: &Output<'_>,
    ctx: &Context,
    work: impl FnOnce(&Path) -> Result<T>,
) -> Result<()> {
    if output.out == Path::new(STREAM) {
        let Some(main) = output.main else {
            artifact::bail_user!(
                "{} writes a folder, which cannot go to stdout; give --out DIR",
                output.stage
            );
        };
        let scratch = Scratch::new()?;
        ctx.log(work(scratch.path())?.to_string().trim_end());
        return arrow::stream_ipc(&scratch.path().join(main), std::io::stdout().lock());
    }
    let summary = publish::folder(output.out, output.stage, output.resume, ctx, |folder| {
        let summary = work(folder)?;
        let value = serde_json::to_value(&summary)?;
        Ok((summary, value))
    })?;
    console::print(summary.to_string().trim_end())?;
    ctx.log(format!("written: {}", output.out.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_with_its_owner() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        std::fs::write(path.join("a"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_pair_needs_both_names() {
        assert_eq!(pair("prompt=question"), Ok(("prompt".into(), "question".into())));
        assert!(pair("prompt").is_err() && pair("prompt=").is_err());
    }

    #[test]
    fn an_output_folder_stands_for_its_main_table() {
        let scratch = Scratch::new().unwrap();
        let examples = scratch.path().join("examples.parquet");
        assert_eq!(table(scratch.path(), &[&EXAMPLES]), scratch.path());
        std::fs::write(&examples, "").unwrap();
        assert_eq!(table(scratch.path(), &[&EXAMPLES]), examples);
        assert_eq!(table(&examples, &[&EXAMPLES]), examples);
    }
}
