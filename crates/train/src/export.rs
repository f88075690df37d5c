//! The trained model as a Hugging Face folder: weights and config from the engine, the tokenizer's files
//! as they came, and a `generation_config.json` that names every token an answer ends with.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{config::Objective, encoder::Encoder, tokenizer::read_json};

/// Files of a tokenizer, as transformers knows them.
pub(crate) const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Completes `folder`, which holds weights and config, with the tokenizer's and generation's files.
pub fn complete(folder: &Path, encoder: &Encoder, objective: Objective) -> Result<()> {
    let from = encoder.tokenizer.folder();
    for name in TOKENIZER_FILES {
        let file = from.join(name);
        if file.exists() {
            fs::copy(&file, folder.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    let mut stop_ids = encoder.tokenizer.stop_ids().to_vec();
    if objective == Objective::Sft {
        stop_ids = encoder.stop_ids()?;
        if encoder.template.is_default() {
            write(&folder.join("chat_template.jinja"), encoder.template.source())?;
        }
    }
    let mut generation = match read_json(&from.join("generation_config.json"))? {
        Some(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    generation.insert("eos_token_id".to_owned(), json!(stop_ids));
    for (key, name) in [("bos_token_id", "bos_token"), ("pad_token_id", "pad_token")] {
        if let (false, Some(id)) = (generation.contains_key(key), encoder.tokenizer.named_id(name))
        {
            generation.insert(key.to_owned(), json!(id));
        }
    }
    write(&folder.join("generation_config.json"), &format!("{:#}\n", Value::Object(generation)))
}

/// Copies a folder's files.
pub fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
