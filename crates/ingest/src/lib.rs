//! Ingest: instruction data of any of the usual layouts and schemas in, `examples.parquet` and `rejects.parquet` out.
//!
//! Two passes in fixed memory. The first reads files in blocks of rows, takes the blocks apart on all cores and puts rows and
//! their hashes aside in files, in input order; then duplicates are found; the second writes the rows that stay.
//!
//! ```text
//! input → split → batch → fields → conversation → rows (ids, language) → spill ⇄ near → examples.parquet
//! ```

mod batch;
mod config;
mod conversation;
mod fields;
mod input;
mod near;
mod paths;
mod pipeline;
mod plan;
mod rejects;
mod rows;
mod spill;
mod split;
mod summary;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use artifact::Context;

pub use config::{
    Column, Config, Dedup, DetectOn, Extract, Format, ItemId, Join, Kind, Map, OrTable, Origin,
    Paths, Schema, Source,
};
pub use paths::selects;
pub use summary::{Disagreement, Stratum, Summary};

/// Reads the sources and writes `examples.parquet` and `rejects.parquet` into the folder `out`.
///
/// Relative paths of the sources start at `base`.
///
/// # Errors
/// A user error that names the source or file where settings or files are at fault; rows at fault are rejects.
pub fn run(config: &Config, base: &Path, out: &Path, ctx: &Context) -> Result<Summary> {
    let scratch = out.join(".ingest");
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot write {}", scratch.display()))?;
    let summary = plan::Plan::new(config, base, &scratch)
        .and_then(|plan| pipeline::run(&plan, out, &scratch, ctx));
    // The rows set aside are of no use, whether or not all went well.
    let cleared = std::fs::remove_dir_all(&scratch)
        .with_context(|| format!("cannot remove {}", scratch.display()));
    summary.and_then(|summary| cleared.map(|()| summary))
}

/// Every file that the sources name, with its source's index: a source's own, then its parallel and joined ones.
///
/// # Errors
/// A user error for a path that is not there.
pub fn files(config: &Config, base: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut files = Vec::new();
    for (index, (source, own)) in config.sources.iter().zip(plan::found(config, base)?).enumerate()
    {
        let all = own.into_iter().chain(plan::companions(source, base)?);
        files.extend(all.map(|path| (index, path)));
    }
    Ok(files)
}
