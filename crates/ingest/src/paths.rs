//! From what a source names (files, folders, patterns) to the sorted list of its files.
//! Patterns: `*` and `?` within a name, `[..]` one of some characters, `{a,b}` alternatives, `**` any folders.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::bail_user;
use artifact::error::{input_error, user};
use artifact::store::{MANIFEST, Manifest};
use regex::Regex;

use crate::config::Paths;

/// Names that are data where a folder is given; others (README, LICENSE) are left alone.
const DATA: &[&str] = &["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "txt"];

/// The files that `paths` name, each list entry's sorted. `any_name`: a folder's files count whatever their names.
///
/// # Errors
/// A user error where a path does not exist, may not be read, or holds no data file.
pub(crate) fn expand(paths: &Paths, base: &Path, any_name: bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for written in paths.list() {
        let text = artifact::config::expand_env(written)?;
        let path = base.join(&text);
        let before = files.len();
        if path.is_dir() {
            list(&path, &mut |file| {
                if any_name || is_data(file) {
                    files.push(file.to_path_buf());
                }
            })?;
        } else if !path.exists() && text.contains(['*', '?', '[', '{']) {
            matching(&path, &mut files)?;
        } else {
            // The message of a missing or locked file is the same as when it is opened.
            artifact::error::open_input(&path)?;
            files.push(path);
        }
        if files.len() == before {
            bail_user!("{}: no data file there", base.join(&text).display());
        }
        files[before..].sort();
    }
    if files.is_empty() {
        bail_user!("a source without `path`: name a file, a folder or a pattern");
    }
    Ok(files)
}

fn is_data(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
    let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    plain.rsplit_once('.').is_some_and(|(_, extension)| DATA.contains(&extension))
}

/// Whether it is the mark of completion in a folder that isogloss wrote, which is no data.
fn is_our_manifest(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == MANIFEST)
        && File::open(path)
            .is_ok_and(|file| serde_json::from_reader::<_, Manifest>(BufReader::new(file)).is_ok())
}

fn list(folder: &Path, each: &mut dyn FnMut(&Path)) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|error| input_error(folder, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| input_error(folder, &error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        match (hidden, path.is_dir()) {
            (true, _) => {}
            (false, true) => list(&path, each)?,
            (false, false) if is_our_manifest(&path) => {}
            (false, false) => each(&path),
        }
    }
    Ok(())
}

fn matching(pattern: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let text = pattern.to_string_lossy().replace('\\', "/");
    let fixed = text.find(['*', '?', '[', '{']).unwrap_or(text.len());
    let root = Path::new(&text[..text[..fixed].rfind('/').map_or(0, |slash| slash + 1)]);
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    let regex = glob_regex(&text)?;
    list(root, &mut |file| {
        let name = file.to_string_lossy();
        if regex.is_match(name.strip_prefix("./").unwrap_or(&name)) {
            files.push(file.to_path_buf());
        }
    })
}

/// The regular expression that a pattern stands for.
fn glob_regex(pattern: &str) -> Result<Regex> {
    let mut regex = String::from("^");
    let mut rest = pattern.strip_prefix("./").unwrap_or(pattern).chars().peekable();
    let mut braces = 0;
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                let folders = rest.next_if_eq(&'/').is_some();
                regex.push_str(if folders { "(?:.*/)?" } else { ".*" });
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '[' => {
                regex.push('[');
                regex.push_str(if rest.next_if_eq(&'!').is_some() { "^" } else { "" });
            }
            ']' => regex.push(']'),
            '-' => regex.push('-'),
            '{' => {
                braces += 1;
                regex.push_str("(?:");
            }
            '}' if braces > 0 => {
                braces -= 1;
                regex.push(')');
            }
            ',' if braces > 0 => regex.push('|'),
            other => regex.push_str(&regex::escape(&other.to_string())),
        }
    }
    regex.push('$');
    Regex::new(&regex).map_err(|_| user(format!("{pattern}: not a pattern of file names")))
}

/// Which files of a folder `path` means: the file itself, the data files below it, or what it is a pattern of. The names that
/// are asked about are relative to the same folder as `path`.
///
/// # Errors
/// A user error for a pattern that is none.
pub fn selects(path: &str) -> Result<impl Fn(&str) -> bool + use<>> {
    let pattern = match path.contains(['*', '?', '[', '{']) {
        true => Some(glob_regex(path)?),
        false => None,
    };
    let (file, folder) = (path.to_owned(), path.trim_end_matches('/').to_owned());
    Ok(move |name: &str| {
        let below = folder.is_empty()
            || name.strip_prefix(&folder).is_some_and(|rest| rest.starts_with('/'));
        let hidden = || name.split('/').any(|part| part.starts_with('.'));
        name == file
            || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
            || (below && is_data(Path::new(name)) && !hidden())
    })
}

/// What the file is called in ids: its path below `root`.
pub(crate) fn short_name(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// The deepest folder that holds all of the files.
pub(crate) fn common_folder<'a>(mut files: impl Iterator<Item = &'a Path>) -> PathBuf {
    let mut folder = files.next().and_then(Path::parent).unwrap_or(Path::new("")).to_path_buf();
    for file in files {
        while !file.starts_with(&folder) && folder.pop() {}
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_into_a_repository_means_a_file_a_folder_or_a_pattern() {
        let names = [
            "README.md",
            ".x/a.json",
            "a.jsonl",
            "d/a.jsonl",
            "d/e/b.parquet",
            "d/LICENSE",
            "dd/c.csv",
        ];
        for (path, means) in [
            ("", &["a.jsonl", "d/a.jsonl", "d/e/b.parquet", "dd/c.csv"][..]),
            ("d", &["d/a.jsonl", "d/e/b.parquet"]),
            ("d/", &["d/a.jsonl", "d/e/b.parquet"]),
            ("d/*.jsonl", &["d/a.jsonl"]),
            ("**/*.parquet", &["d/e/b.parquet"]),
            ("d/LICENSE", &["d/LICENSE"]),
            ("{a,b}.jsonl", &["a.jsonl"]),
            ("x", &[]),
        ] {
            let selects = selects(path).unwrap();
            let found: Vec<_> = names.into_iter().filter(|name| selects(name)).collect();
            assert_eq!(found, means, "{path}");
        }
    }

    fn names(files: &[PathBuf], root: &Path) -> Vec<String> {
        files.iter().map(|file| short_name(file, root)).collect()
    }

    #[test]
    fn files_folders_and_patterns_expand_sorted() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for name in [
            "b/es.jsonl",
            "b/en.jsonl.gz",
            "b/README.md",
            "b/.hidden.jsonl",
            "c/d/en.tsv",
            "a[1].csv",
        ] {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), "x").unwrap();
        }
        let expand =
            |path: &str| names(&expand(&Paths::One(path.into()), root, false).unwrap(), root);
        assert_eq!(
            expand("."),
            ["./a[1].csv", "./b/en.jsonl.gz", "./b/es.jsonl", "./c/d/en.tsv"]
                .map(|n| n.trim_start_matches("./"))
        );
        assert_eq!(expand("b/e?.jsonl*"), ["b/en.jsonl.gz", "b/es.jsonl"]);
        assert_eq!(expand("**/en.*"), ["b/en.jsonl.gz", "c/d/en.tsv"]);
        assert_eq!(expand("b/{en,es}.jsonl"), ["b/es.jsonl"]);
        assert_eq!(expand("b/e[a-o].jsonl.gz"), ["b/en.jsonl.gz"]);
        assert_eq!(expand("a[1].csv"), ["a[1].csv"], "a file that is there is no pattern");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        for path in ["missing.jsonl", "none-*.jsonl", "."] {
            let error = expand(&Paths::One(path.into()), root.path(), false).unwrap_err();
            assert!(artifact::error::is_user(&error), "{error}");
        }
    }

    #[test]
    fn the_common_folder_is_the_deepest() {
        let files = [Path::new("/d/es-en/train.es"), Path::new("/d/sw-en/train.sw")];
        assert_eq!(common_folder(files.into_iter()), Path::new("/d"));
    }
}
