//! Errors by whose they are: the user's (exit status 2) or anyone else's (1).
//!
//! A [`UserError`] names the file, the row or key, what was found and what would be right. It keeps
//! its standing under any number of `anyhow` contexts, because [`is_user`] looks through the chain.

use std::{fmt, fs::File, io, path::Path};

use anyhow::{Context as _, Result};

/// A fault in what the user gave: a file, a setting, an argument.
#[derive(Debug)]
pub struct UserError(pub String);

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// Raised by [`crate::Context::check`] after Ctrl-C.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A [`UserError`] as an [`anyhow::Error`].
pub fn user(message: impl Into<String>) -> anyhow::Error {
    UserError(message.into()).into()
}

/// Returns a [`UserError`] built from a format string.
#[macro_export]
macro_rules! bail_user {
    ($($arg:tt)*) => { return Err($crate::error::user(format!($($arg)*))) };
}

/// Whether any link of the chain is a [`UserError`], or it is a full disk, which the user can mend as well.
pub fn is_user(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<UserError>()) || is_disk_full(error)
}

/// Whether an error says that the disk is full, itself or in the words of a library that wraps it.
pub fn is_disk_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind == Some(io::ErrorKind::StorageFull)
            || cause.to_string().contains("No space left on device")
    })
}

/// Whether the chain ends in Ctrl-C.
pub fn is_interrupted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Interrupted>())
}

/// Opens a file that the user named. What stands in the way is the user's to mend.
pub fn open_input(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| input_error(path, &error))?;
    let kind = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if kind.is_dir() {
        bail_user!("{} is a folder, where a file is needed", path.display());
    }
    Ok(file)
}

/// The [`UserError`] for an input that cannot be opened or listed.
pub fn input_error(path: &Path, error: &io::Error) -> anyhow::Error {
    let path = path.display();
    user(match error.kind() {
        io::ErrorKind::NotFound => format!("{path}: no such file or folder"),
        io::ErrorKind::PermissionDenied => format!("{path}: permission to read it is denied"),
        _ => format!("{path}: cannot be read: {error}"),
    })
}

/// The [`UserError`] for an output folder that cannot be made or written beside.
pub fn output_error(out: &Path, error: &io::Error) -> anyhow::Error {
    let out = out.display();
    user(match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!(
                "{out}: cannot be written, permission is denied ({error}); choose another --out"
            )
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            format!("{out}: cannot be written, a file stands where its folder should be")
        }
        _ => format!("{out}: cannot be written: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_error_is_found_under_contexts() {
        let error = user("bad row").context("reading").context("ingest");
        assert!(is_user(&error));
        assert!(!is_user(&anyhow::anyhow!("disk on fire").context("ingest")));
    }

    #[test]
    fn a_full_disk_is_the_users() {
        // /dev/full answers every write with ENOSPC.
        let full = std::fs::write("/dev/full", "x").context("cannot write out/a").unwrap_err();
        assert!(is_user(&full) && is_disk_full(&full));
        let wrapped = anyhow::anyhow!("IO error: No space left on device (os error 28)");
        assert!(is_user(&wrapped));
        let other = std::fs::write("no/such/folder/x", "x").context("out").unwrap_err();
        assert!(!is_user(&other));
    }

    #[test]
    fn a_missing_input_is_the_users() {
        let error = open_input(Path::new("no/such/file.jsonl")).unwrap_err();
        assert!(is_user(&error));
        assert!(error.to_string().contains("no/such/file.jsonl"));
        let folder = open_input(Path::new(".")).unwrap_err();
        assert!(folder.to_string().contains("is a folder"), "{folder}");
    }
}
