//! `isogloss schema`: the columns of every artifact, and the JSON Schema of a pipeline file.

use anyhow::Result;
use artifact::bail_user;
use artifact::config::nearest;
use artifact::schema::{ALL, Schema};
use artifact::text::TextTable;
use clap::Args as ClapArgs;

use crate::console::print;
use crate::pipeline::Pipeline;

/// Prints the columns of an artifact with their types and meanings, or of all; for `pipeline` the
/// JSON Schema of a pipeline file.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss schema scores
  isogloss schema pipeline > pipeline.schema.json    for an editor's completion")]
pub struct Args {
    /// examples, rejects, mixture, mixtures, metrics, generations, scores, transfer, leaks or pipeline
    #[arg(value_name = "ARTIFACT")]
    artifact: Option<String>,
}

const PIPELINE: &str = "pipeline";

/// Does what `isogloss schema` was asked for.
pub fn run(args: Args) -> Result<()> {
    let Some(name) = args.artifact else {
        let all: Vec<String> = ALL.iter().map(|schema| describe(schema)).collect();
        return print(all.join("\n").trim_end());
    };
    if name == PIPELINE {
        return print(serde_json::to_string_pretty(&schemars::schema_for!(Pipeline))?);
    }
    let known = || ALL.iter().map(|schema| schema.artifact).chain([PIPELINE]);
    match ALL.iter().find(|schema| schema.artifact == name) {
        Some(schema) => print(describe(schema).trim_end()),
        None => {
            let near =
                nearest(&name, known()).map_or(String::new(), |near| format!(", is it {near}?"));
            bail_user!(
                "there is no artifact {name}{near}; known: {}",
                known().collect::<Vec<_>>().join(", ")
            )
        }
    }
}

fn describe(schema: &Schema) -> String {
    let mut table = TextTable::new(&["column", "type", "null", "meaning"]);
    for column in schema.columns {
        let null = if column.nullable { "yes" } else { "" };
        table.row(
            [column.name, column.kind.name(), null, column.meaning].map(str::to_owned).to_vec(),
        );
    }
    format!("{} {}: {}\n{table}", schema.artifact, schema.version_text(), schema.meaning)
}
