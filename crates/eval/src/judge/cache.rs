//! Replies on disk, each under the hash of the request it answers: a rerun pays nothing, whatever has changed around it.
//!
//! An entry is one JSON file with the request (which never holds the key or the address) and the reply, written beside and
//! renamed, so that a kill leaves it whole or not at all and two processes may share a folder. What cannot be read back
//! counts as not there. Replies are kept as they came, malformed ones too; verdicts are read from them anew each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use artifact::bail_user;
use artifact::hash::hash_bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a judge said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The text.
    pub content: String,
    /// Why it ended: `stop`, or `length` where it was cut.
    pub finish_reason: Option<String>,
    /// The model as the endpoint named it.
    pub model: Option<String>,
    /// Tokens sent, where the endpoint counts them.
    pub prompt_tokens: Option<u64>,
    /// Tokens that came back.
    pub completion_tokens: Option<u64>,
}

/// One file.
#[derive(Serialize, Deserialize)]
struct Entry {
    request: Value,
    reply: Reply,
}

/// One request: its body, and the hash that is its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// blake3 of the body.
    pub key: String,
    /// The JSON that is sent.
    pub body: String,
}

impl Request {
    /// A request with this body.
    pub fn new(body: &Value) -> Request {
        let body = body.to_string();
        Request { key: hash_bytes(body.as_bytes()), body }
    }
}

/// The folder of replies.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Tells the partial files of one process apart, whichever cache they belong to.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

impl Cache {
    /// The cache in this folder; by default `isogloss/judge` in the user's cache folder.
    ///
    /// # Errors
    /// A user error where the folder cannot be made.
    pub fn open(folder: Option<&Path>) -> Result<Cache> {
        let root = match folder {
            Some(folder) => folder.to_owned(),
            None => default_folder()?,
        };
        if let Err(error) = fs::create_dir_all(&root) {
            bail_user!(
                "the judge's replies cannot be kept in {}: {error}; name another folder by `cache`",
                root.display()
            );
        }
        Ok(Cache { root })
    }

    fn file(&self, key: &str) -> PathBuf {
        self.root.join(&key[..2]).join(format!("{}.json", &key[2..]))
    }

    /// The reply to a request, if there is one.
    pub fn get(&self, request: &Request) -> Option<Reply> {
        let bytes = fs::read(self.file(&request.key)).ok()?;
        Some(serde_json::from_slice::<Entry>(&bytes).ok()?.reply)
    }

    /// Keeps a reply.
    ///
    /// # Errors
    /// Where the file cannot be written: a reply that is lost is paid twice.
    pub fn put(&self, request: &Request, reply: &Reply) -> Result<()> {
        let file = self.file(&request.key);
        let context = || format!("cannot keep the judge's reply in {}", file.display());
        let request = serde_json::from_str(&request.body).with_context(context)?;
        let bytes = serde_json::to_vec(&Entry { request, reply: reply.clone() })?;
        let folder = file.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).with_context(context)?;
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let partial = folder.join(format!(".{}-{number}.partial", std::process::id()));
        fs::write(&partial, bytes)
            .and_then(|()| fs::rename(&partial, &file))
            .inspect_err(|_| drop(fs::remove_file(&partial)))
            .with_context(context)
    }
}

/// `$XDG_CACHE_HOME/isogloss/judge`, or that in `~/.cache`.
fn default_folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let caches = match (variable("XDG_CACHE_HOME"), variable("HOME")) {
        (Some(caches), _) => PathBuf::from(caches),
        (None, Some(home)) => Path::new(&home).join(".cache"),
        (None, None) => bail_user!(
            "neither HOME nor XDG_CACHE_HOME is set: name a folder for the judge's replies by `cache`"
        ),
    };
    Ok(caches.join("isogloss").join("judge"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(content: &str) -> Reply {
        Reply {
            content: content.to_owned(),
            finish_reason: Some("stop".into()),
            model: None,
            prompt_tokens: Some(3),
            completion_tokens: None,
        }
    }

    #[test]
    fn a_reply_comes_back_for_its_request_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let request = Request::new(&json!({"model": "m", "messages": []}));
        let other = Request::new(&json!({"model": "n", "messages": []}));
        assert_eq!(cache.get(&request), None);
        cache.put(&request, &reply("[[4]]")).unwrap();
        assert_eq!(cache.get(&request), Some(reply("[[4]]")));
        assert_eq!(cache.get(&other), None);
    }

    #[test]
    fn an_entry_that_was_cut_counts_as_not_there_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let request = Request::new(&json!({"model": "m"}));
        cache.put(&request, &reply("one")).unwrap();
        let file = cache.file(&request.key);
        let bytes = fs::read(&file).unwrap();
        for length in [0, 1, bytes.len() - 1] {
            fs::write(&file, &bytes[..length]).unwrap();
            assert_eq!(cache.get(&request), None, "{length} bytes");
        }
        cache.put(&request, &reply("two")).unwrap();
        assert_eq!(cache.get(&request), Some(reply("two")));
    }

    #[test]
    fn many_writers_of_one_entry_leave_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        let request = Request::new(&json!({"model": "m"}));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = Cache::open(Some(folder.path())).unwrap();
                    for _ in 0..50 {
                        cache.put(&request, &reply(&"x".repeat(5000))).unwrap();
                        assert_eq!(cache.get(&request).unwrap().content.len(), 5000);
                    }
                });
            }
        });
        let cache = Cache::open(Some(folder.path())).unwrap();
        assert_eq!(cache.get(&request).unwrap().content.len(), 5000);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_the_users_error() {
        let error = Cache::open(Some(Path::new("/dev/null/x"))).unwrap_err();
        assert!(artifact::error::is_user(&error) && error.to_string().contains("/dev/null/x"));
    }
}
