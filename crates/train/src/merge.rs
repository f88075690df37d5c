//! An adapter's folder and its base model's in, a whole model out: W + s B A in place of W, with the
//! tokenizer's files, as `merge_and_unload` of PEFT gives it.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result};
use artifact::{bail_user, text::count};
use serde::Serialize;

use crate::{
    export::TOKENIZER_FILES,
    model::{Dtype, Model, peft},
    ops::{Cpu, Kind},
};

/// What was merged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Merged {
    /// Weights of the model.
    pub parameters: u64,
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a model of {} parameters, the adapter merged into it", count(self.parameters))
    }
}

/// Merges the adapter in a folder into `base`, or into the model that it names itself, and writes the
/// files of a Hugging Face folder into `out`. Faults of either folder are `UserError`s.
pub fn merge(adapter: &Path, base: Option<&Path>, dtype: Dtype, out: &Path) -> Result<Merged> {
    if !peft::is_adapter(adapter) {
        bail_user!("{}: no adapter: {} is not there", adapter.display(), peft::CONFIG);
    }
    let base = match base {
        Some(base) => base.to_owned(),
        None => peft::base_folder(adapter)?,
    };
    let model = Model::load_merged(Cpu, Kind::Frozen, &base, Some(adapter))?;
    model.save(out, dtype)?;
    let own = adapter.join("tokenizer.json").exists();
    let from = if own { adapter } else { &base };
    for name in TOKENIZER_FILES.iter().chain(&["generation_config.json"]) {
        let file = from.join(name);
        if file.exists() {
            fs::copy(&file, out.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(Merged { parameters: model.parameter_count() as u64 })
}
