//! Which files of a model's repository are needed: configuration, tokenizer, template and safetensors weights, and nothing
//! of the other formats that stand beside them. Names in, chosen names out.

use anyhow::Result;
use artifact::bail_user;

/// Whether a file says how text becomes tokens.
pub fn is_tokenizer_file(name: &str) -> bool {
    !name.contains('/')
        && (name.starts_with("tokenizer")
            || name.starts_with("chat_template")
            || name == "special_tokens_map.json")
}

/// The files of a model among all files of its repository `repo`, in order.
///
/// # Errors
/// A user error where there is no config.json, or no safetensors, or not all of them.
pub fn model_files<'a>(repo: &str, names: &[&'a str]) -> Result<Vec<&'a str>> {
    let has = |name: &str| names.contains(&name);
    if !has("config.json") && !has("adapter_config.json") {
        bail_user!("{repo} is not a model that can be loaded: it has no config.json");
    }
    let mut chosen: Vec<&str> = weights(repo, names)?;
    let settings = ["config.json", "generation_config.json", "adapter_config.json"];
    chosen.extend(
        names.iter().filter(|name| settings.contains(name) || is_tokenizer_file(name)).copied(),
    );
    chosen.sort_unstable();
    Ok(chosen)
}

/// The weights: those of an index with all its shards, else the one file, else whatever safetensors there are.
fn weights<'a>(repo: &str, names: &[&'a str]) -> Result<Vec<&'a str>> {
    let top = || names.iter().copied().filter(|name| !name.contains('/'));
    let one = |wanted: &str| top().find(|name| *name == wanted);
    if let Some(index) = one("model.safetensors.index.json") {
        let shards: Vec<&str> = top().filter(|name| shard(name).is_some()).collect();
        let expected = shards.iter().filter_map(|name| shard(name)).map(|(_, of)| of).max();
        if expected != Some(shards.len()) {
            let of = expected.map_or(String::new(), |expected| format!(" of {expected}"));
            bail_user!("{repo}: its weights are not whole: there are {}{of} shards", shards.len());
        }
        return Ok(shards.into_iter().chain([index]).collect());
    }
    if let Some(whole) = one("model.safetensors").or_else(|| one("adapter_model.safetensors")) {
        return Ok(vec![whole]);
    }
    // `consolidated` holds the same weights under the names of the maker's own code.
    let others: Vec<&str> = top()
        .filter(|name| name.ends_with(".safetensors") && !name.starts_with("consolidated"))
        .collect();
    if others.is_empty() {
        let found =
            top().find(|name| [".bin", ".pth", ".gguf"].iter().any(|end| name.ends_with(end)));
        let found = found.map_or(String::new(), |name| format!(", but {name}; convert it first"));
        bail_user!("{repo} has no weights as safetensors{found}");
    }
    Ok(others)
}

/// The number and the count of `model-00001-of-00004.safetensors`.
fn shard(name: &str) -> Option<(usize, usize)> {
    let middle = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
    let (number, count) = middle.split_once("-of-")?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_needs_is_taken_and_nothing_else() {
        // The files of meta-llama/Llama-3.1-8B, and what else stands in repositories of its kind.
        let names = [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "config.json",
            "generation_config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.safetensors",
            "original/consolidated.00.pth",
            "original/tokenizer.model",
            "pytorch_model.bin",
            "model.gguf",
            "special_tokens_map.json",
            "chat_template.jinja",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        let chosen = model_files("a/b", &names).unwrap();
        let expected = [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(chosen, expected);
        let single = ["config.json", "model.safetensors", "other.safetensors"];
        assert_eq!(model_files("a/b", &single).unwrap(), ["config.json", "model.safetensors"]);
        let adapter = ["adapter_config.json", "adapter_model.safetensors", "README.md"];
        assert_eq!(model_files("a/b", &adapter).unwrap(), &adapter[..2]);
    }

    #[test]
    fn a_repository_without_whole_weights_is_refused_with_what_it_has() {
        for (names, word) in [
            (&["model.safetensors"][..], "config.json"),
            (&["config.json", "pytorch_model.bin"], "pytorch_model.bin"),
            (&["config.json"], "no weights"),
            (
                &[
                    "config.json",
                    "model.safetensors.index.json",
                    "model-00001-of-00003.safetensors",
                ],
                "1 of 3",
            ),
        ] {
            let error = model_files("a/b", names).unwrap_err();
            assert!(
                artifact::error::is_user(&error) && error.to_string().contains(word),
                "{error}"
            );
        }
    }
}
