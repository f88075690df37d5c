//! A repository at one commit: its files by name and content, and where they lie in the cache. Read from the Hub's answer or,
//! offline, from what the cache holds.

use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::bail_user;
use artifact::error::user;
use hf_hub::Cache;
use serde_json::Value;

use crate::address::{Address, Kind};
use crate::choose::model_files;

/// One file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path in the repository.
    pub name: String,
    /// Its content: SHA-256 of a large file, git's blob id of any other; `None` where neither Hub nor cache says.
    pub content: Option<String>,
    /// Bytes, where known.
    pub size: Option<u64>,
}

/// A repository at one commit, or some files of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What was asked for.
    pub address: Address,
    /// The commit that the revision stands for.
    pub commit: String,
    /// Where the files lie once they are fetched.
    pub folder: PathBuf,
    /// The files, by name.
    pub files: Vec<File>,
}

impl Snapshot {
    /// From the Hub's answer about a repository (`/api/models/owner/name/revision/main?blobs=true`).
    pub(crate) fn from_answer(address: &Address, cache: &Path, answer: &Value) -> Result<Snapshot> {
        let wrong = || {
            let place = format!("the answer about {address}");
            user(format!(
                "{place} is not the Hub's: it has no commit and files; is HF_ENDPOINT right?"
            ))
        };
        let commit = answer["sha"].as_str().filter(|sha| is_plain(sha)).ok_or_else(wrong)?;
        let siblings = answer["siblings"].as_array().ok_or_else(wrong)?;
        let file = |sibling: &Value| {
            let large = &sibling["lfs"];
            let content = large["sha256"].as_str().or(sibling["blobId"].as_str());
            let size = large["size"].as_u64().or(sibling["size"].as_u64());
            Some(File {
                // A name that leads out of its folder is no file of ours.
                name: sibling["rfilename"].as_str().filter(|name| is_inside(name))?.to_owned(),
                content: content.filter(|content| is_plain(content)).map(str::to_owned),
                size,
            })
        };
        Ok(Snapshot::new(address, cache, commit, siblings.iter().filter_map(file).collect()))
    }

    /// From what the cache holds.
    ///
    /// # Errors
    /// A user error where it holds nothing; `why` the Hub was not asked stands in it.
    pub(crate) fn from_cache(address: &Address, cache: &Path, why: &str) -> Result<Snapshot> {
        let root = cache.join(address.repository().folder_name());
        let commit = match address.is_commit() {
            true => Some(address.revision.clone()),
            false => std::fs::read_to_string(root.join("refs").join(&address.revision)).ok(),
        };
        let commit =
            commit.map(|commit| commit.trim().to_owned()).filter(|commit| is_plain(commit));
        let mut files = Vec::new();
        if let Some(commit) = &commit {
            list(&root.join("snapshots").join(commit), "", &mut files);
        }
        match commit {
            Some(commit) if !files.is_empty() => Ok(Snapshot::new(address, cache, &commit, files)),
            _ => bail_user!("{address} is not in the Hub's cache {}, and {why}", cache.display()),
        }
    }

    fn new(address: &Address, cache: &Path, commit: &str, mut files: Vec<File>) -> Snapshot {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files.dedup_by(|a, b| a.name == b.name);
        let folder = Cache::new(cache.to_owned()).repo(address.repository()).pointer_path(commit);
        Snapshot { address: address.clone(), commit: commit.to_owned(), folder, files }
    }

    /// These files alone.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Snapshot {
        let files = self.files.iter().filter(|file| wanted(&file.name)).cloned().collect();
        Snapshot { files, ..self.clone() }
    }

    /// The files of a model that are needed to load it.
    ///
    /// # Errors
    /// A user error where it cannot be loaded.
    pub(crate) fn model(&self) -> Result<Snapshot> {
        let names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        let needed = model_files(&self.address.to_string(), &names)?;
        Ok(self.only(|name| needed.contains(&name)))
    }

    /// The files that an address of data means.
    ///
    /// # Errors
    /// A user error where there are none.
    pub(crate) fn data(&self, wanted: impl Fn(&str) -> bool) -> Result<Snapshot> {
        let chosen = self.only(wanted);
        if chosen.files.is_empty() {
            let some: Vec<&str> =
                self.files.iter().map(|file| file.name.as_str()).take(8).collect();
            let rest = if self.files.len() > some.len() { ", …" } else { "" };
            let kind = if self.address.kind == Kind::Dataset { "" } else { " (a model)" };
            bail_user!(
                "{}{kind} has no data file {}; it has {}{rest}",
                self.address,
                self.address.path,
                some.join(", ")
            );
        }
        Ok(chosen)
    }

    /// Where a file lies once it is fetched.
    pub fn path(&self, file: &File) -> PathBuf {
        self.folder.join(&file.name)
    }

    /// What a file is, for a store's key: its content or, where that is not known, its commit.
    pub fn identity(&self, file: &File) -> String {
        file.content.clone().unwrap_or_else(|| format!("{}:{}", self.commit, file.name))
    }
}

/// Whether a text can be the name of one file: a hash, a commit.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Whether a path stays below the folder that it is joined to.
fn is_inside(name: &str) -> bool {
    !name.contains(['\\', '\0']) && name.split('/').all(|part| !["", ".", ".."].contains(&part))
}

/// The files below a snapshot's folder. A link's target is called by its content.
fn list(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = format!("{prefix}{}", name.to_string_lossy());
        if path.is_dir() {
            list(&path, &format!("{name}/"), files);
        } else if let Ok(found) = std::fs::metadata(&path) {
            // A link whose target is gone is not there.
            let target = std::fs::read_link(&path).ok();
            let target = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
            let content = target.filter(|name| is_plain(name)).map(str::to_owned);
            files.push(File { name, content, size: Some(found.len()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_lead_out_of_the_cache_are_left_out() {
        let address = Address::parse("hf://a/b").unwrap();
        let names = ["../../x", "/etc/passwd", "a/../b", "a//b", "", "a\\b", "fine/one.json"];
        let siblings: Vec<Value> = names.iter().map(|name| json!({"rfilename": name})).collect();
        let answer = json!({"sha": "c0ffee", "siblings": siblings});
        let snapshot = Snapshot::from_answer(&address, Path::new("/cache"), &answer).unwrap();
        assert_eq!(snapshot.files.len(), 1);
        assert_eq!(
            snapshot.path(&snapshot.files[0]),
            Path::new("/cache/models--a--b/snapshots/c0ffee/fine/one.json")
        );
        for sha in ["../x", ""] {
            let answer = json!({"sha": sha, "siblings": []});
            assert!(Snapshot::from_answer(&address, Path::new("/cache"), &answer).is_err());
        }
    }

    #[test]
    fn a_file_is_known_by_its_content_and_else_by_its_commit() {
        let address = Address::parse("hf://a/b").unwrap();
        let answer = json!({"sha": "c0ffee", "siblings": [
            {"rfilename": "a", "blobId": "aa", "size": 3},
            {"rfilename": "b", "blobId": "bb", "size": 130, "lfs": {"sha256": "5a", "size": 4096}},
            {"rfilename": "c"},
        ]});
        let snapshot = Snapshot::from_answer(&address, Path::new("/cache"), &answer).unwrap();
        let found: Vec<_> =
            snapshot.files.iter().map(|file| (snapshot.identity(file), file.size)).collect();
        let expected =
            [("aa".to_owned(), Some(3)), ("5a".into(), Some(4096)), ("c0ffee:c".into(), None)];
        assert_eq!(found, expected);
    }
}
