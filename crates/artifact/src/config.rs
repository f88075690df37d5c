//! Settings from TOML, with errors that help: the file and line, and for an unknown key the
//! nearest known one.

use std::path::Path;

use anyhow::Result;
use serde::de::DeserializeOwned;

use crate::{bail_user, error::user};

/// Reads a TOML file into `T`. `T` should carry `#[serde(deny_unknown_fields)]`.
pub fn load_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    use std::io::Read;
    let mut text = String::new();
    crate::error::open_input(path)?
        .read_to_string(&mut text)
        .map_err(|error| user(format!("{}: not a UTF-8 text: {error}", path.display())))?;
    from_toml(&text, path)
}

/// Parses TOML text; `path` is named in errors.
pub fn from_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let line =
            error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map_or(String::new(), |line| format!(":{line}"));
        user(format!("{}{place}: {}", path.display(), explain(error.message())))
    })
}

/// Adds the nearest known key to serde's message about an unknown one.
fn explain(message: &str) -> String {
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(word) = quoted.next().filter(|_| unknown) else { return in_plain_words(message) };
    let known: Vec<&str> = quoted.collect();
    let kind = if message.starts_with("unknown field") { "key" } else { "value" };
    match nearest(word, known.iter().copied()) {
        Some(near) => {
            format!("unknown {kind} `{word}`; did you mean `{near}`? Known: {}", known.join(", "))
        }
        None => format!("unknown {kind} `{word}`; known: {}", known.join(", ")),
    }
}

/// serde's message about a mistyped value, with what is wanted in words instead of Rust's types.
fn in_plain_words(message: &str) -> String {
    let Some((said, wanted)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let wanted = match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 up",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        other => other,
    };
    format!("{said}expected {wanted}")
}

/// The known word closest to `word`, if any is close enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score > 0.75)
        // Where two are as close, the first by name: a hint is the same every time.
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, candidate)| candidate)
}

/// Replaces `${NAME}` by the environment variable of that name.
pub fn expand_env(text: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else {
            bail_user!("`{text}`: a `${{` without its `}}`");
        };
        let name = &rest[start + 2..start + length];
        let Ok(value) = std::env::var(name) else {
            bail_user!(
                "`{text}` needs the environment variable {name}, which is not set; set it with: export {name}=…"
            );
        };
        out.push_str(&rest[..start]);
        out.push_str(&value);
        rest = &rest[start + length + 1..];
    }
    Ok(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        epochs: u32,
        #[serde(default, rename = "learning_rate")]
        _learning_rate: f32,
    }

    #[test]
    fn an_unknown_key_names_file_line_and_the_nearest_known_one() {
        let error =
            from_toml::<Settings>("epochs = 2\nlearning_rte = 1\n", Path::new("train.toml"))
                .unwrap_err();
        let text = error.to_string();
        assert!(crate::error::is_user(&error));
        assert!(text.starts_with("train.toml:2: "), "{text}");
        assert!(text.contains("did you mean `learning_rate`?"), "{text}");
    }

    #[test]
    fn a_wrong_type_names_the_line() {
        let error =
            from_toml::<Settings>("epochs = \"two\"\n", Path::new("train.toml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "train.toml:1: invalid type: string \"two\", expected a whole number from 0 up"
        );
        let fine: Settings = from_toml("epochs = 2", Path::new("t")).unwrap();
        assert_eq!(fine.epochs, 2);
    }

    #[test]
    fn variables_expand_and_a_missing_one_is_named() {
        // SAFETY-free: PATH is set wherever tests run.
        let path = std::env::var("PATH").unwrap();
        assert_eq!(expand_env("a/${PATH}/b").unwrap(), format!("a/{path}/b"));
        let error = expand_env("${ISOGLOSS_NOT_SET}/x").unwrap_err();
        assert!(error.to_string().contains("ISOGLOSS_NOT_SET"));
        assert!(expand_env("${PATH").is_err());
    }

    #[test]
    fn nearest_does_not_guess_wildly() {
        assert_eq!(nearest("prompts", ["prompt", "reference"]), Some("prompt"));
        assert_eq!(nearest("zzz", ["prompt", "reference"]), None);
    }
}
