//! A full disk, told apart from other failures to write.

use std::path::Path;

use artifact::error::{is_disk_full, user};

/// Says what could not be written. A full disk is the user's to mend, so it becomes a `UserError`.
pub fn explain_full_disk(error: anyhow::Error, path: &Path) -> anyhow::Error {
    if is_disk_full(&error) {
        let path = path.display();
        return user(format!(
            "{path}: cannot be written, the disk is full; make room and run again"
        ));
    }
    error.context(format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use artifact::error::is_user;

    #[test]
    fn a_full_disk_is_found_under_contexts_and_in_a_librarys_words() {
        // /dev/full answers every write with ENOSPC.
        let full = std::fs::write("/dev/full", "x").context("weights").unwrap_err();
        let wrapped = anyhow::anyhow!("IO error: No space left on device (os error 28)");
        for error in [full, wrapped] {
            let error = explain_full_disk(error, Path::new("out/model"));
            assert!(is_user(&error) && error.to_string().contains("out/model"), "{error:#}");
        }
        let missing = std::fs::write("no/such/folder/x", "x").unwrap_err().into();
        assert!(!is_user(&explain_full_disk(missing, Path::new("out"))));
    }
}
