//! `hf://…` addresses: text in, the parts of an address out.

use std::fmt;

use anyhow::Result;
use artifact::bail_user;
use hf_hub::{Repo, RepoType};

/// What an address begins with.
pub const SCHEME: &str = "hf://";

/// Whether a path is an address of the Hub.
pub fn is_address(path: impl AsRef<std::path::Path>) -> bool {
    path.as_ref().to_str().is_some_and(|text| text.starts_with(SCHEME))
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A model.
    Model,
    /// Data.
    Dataset,
}

/// A repository at a revision, and what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Model or data.
    pub kind: Kind,
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag or a commit; `main` if none is given.
    pub revision: String,
    /// The rest: a file, a folder or a pattern; empty for the whole.
    pub path: String,
}

impl Address {
    /// Reads `hf://[models/]owner/name[@revision][/path]` and `hf://datasets/owner/name[@revision][/path]`, the form that
    /// huggingface_hub reads. A slash in a revision is written `%2F`, but for `refs/pr/1` and `refs/convert/parquet`.
    ///
    /// # Errors
    /// A user error that says what would be right.
    pub fn parse(text: &str) -> Result<Address> {
        let wrong = |what: &str| {
            artifact::error::user(format!(
                "{text}: {what}; an address is hf://owner/name[@revision] or hf://datasets/owner/name[@revision]/path"
            ))
        };
        let rest =
            text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with hf://"))?;
        let (kind, rest) = match rest.split_once('/') {
            Some(("datasets", rest)) => (Kind::Dataset, rest),
            Some(("models", rest)) => (Kind::Model, rest),
            Some((other @ ("spaces" | "buckets" | "kernels"), _)) => {
                return Err(wrong(&format!("{other} hold neither models nor data")));
            }
            _ => (Kind::Model, rest),
        };
        let (owner, rest) =
            rest.split_once('/').ok_or_else(|| wrong("the owner or the name is missing"))?;
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (revision, path) = match rest.strip_prefix('@') {
            None => ("main".to_owned(), rest),
            Some(rest) => revision(rest),
        };
        let is_name = |name: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && name.chars().all(known) && !name.starts_with('.')
        };
        if !is_name(owner) || !is_name(name) {
            return Err(wrong("the owner or the name is no name"));
        }
        let is_revision = |revision: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
            !revision.is_empty()
                && revision.chars().all(known)
                && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        };
        if !is_revision(&revision) {
            return Err(wrong("the revision is no name"));
        }
        let path = path.trim_matches('/').to_owned();
        if path.split('/').any(|part| part == "..") {
            return Err(wrong("the path leads out of the repository"));
        }
        Ok(Address { kind, repo: format!("{owner}/{name}"), revision, path })
    }

    /// A model's address, which names no file.
    ///
    /// # Errors
    /// A user error for data, and for a file of a model.
    pub fn of_model(text: &str) -> Result<Address> {
        let address = Address::parse(text)?;
        if address.kind != Kind::Model {
            bail_user!("{text}: these are data, where a model is needed");
        }
        if !address.path.is_empty() {
            bail_user!(
                "{text}: a model is taken whole; give hf://{}, with @ before a revision",
                address.repo
            );
        }
        Ok(address)
    }

    /// The name alone, without the owner.
    pub fn name(&self) -> &str {
        self.repo.split('/').next_back().unwrap_or(&self.repo)
    }

    /// Whether the revision is a commit, which never moves.
    pub(crate) fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// The same for hf-hub.
    pub(crate) fn repository(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.repo.clone(), kind, self.revision.clone())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        write!(f, "{SCHEME}{kind}{}@{}", self.repo, self.revision)
    }
}

/// Parts the revision from the path behind it.
fn revision(rest: &str) -> (String, &str) {
    let refs = rest.starts_with("refs/pr/") || rest.starts_with("refs/convert/");
    let slashes = if refs { 2 } else { 0 };
    let end = rest.match_indices('/').nth(slashes).map_or(rest.len(), |(at, _)| at);
    (rest[..end].replace("%2F", "/").replace("%2f", "/"), &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (Kind, String, String, String) {
        let address = Address::parse(text).unwrap();
        (address.kind, address.repo, address.revision, address.path)
    }

    #[test]
    fn an_address_is_read_as_the_hubs_own_tools_read_it() {
        use Kind::{Dataset, Model};
        for (text, kind, repo, revision, path) in [
            ("hf://Qwen/Qwen3-0.6B", Model, "Qwen/Qwen3-0.6B", "main", ""),
            ("hf://models/a/b@v1.0", Model, "a/b", "v1.0", ""),
            ("hf://a/b@refs/pr/7", Model, "a/b", "refs/pr/7", ""),
            ("hf://a/b@feature%2Fx", Model, "a/b", "feature/x", ""),
            ("hf://datasets/a/b/x/*.parquet", Dataset, "a/b", "main", "x/*.parquet"),
            (
                "hf://datasets/a/b@refs/convert/parquet/default/train/0.parquet",
                Dataset,
                "a/b",
                "refs/convert/parquet",
                "default/train/0.parquet",
            ),
            ("hf://datasets/a/b@main/x@y.jsonl", Dataset, "a/b", "main", "x@y.jsonl"),
            ("hf://datasets/a/b", Dataset, "a/b", "main", ""),
        ] {
            let expected = (kind, repo.to_owned(), revision.to_owned(), path.to_owned());
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_the_users_error() {
        for text in [
            "hf://",
            "hf://gpt2",
            "hf://a/",
            "hf:///b",
            "hf://a/b@",
            "hf://a/b@../../x",
            "hf://a/..",
            "hf://datasets/a/b/../../x",
            "hf://spaces/a/b",
            "hf://a b/c",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(
                artifact::error::is_user(&error) && error.to_string().contains(text),
                "{error}"
            );
        }
        assert!(Address::of_model("hf://datasets/a/b").unwrap_err().to_string().contains("data"));
        assert!(Address::of_model("hf://a/b/x.bin").unwrap_err().to_string().contains("whole"));
    }
}
