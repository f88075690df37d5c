//! Output folders of single stages: `--out DIR` appears whole or not at all.
//!
//! The stage works in a hidden folder beside the target, which takes the target's name at the end.
//! A failed run takes its folder away, unless it holds a checkpoint to go on from.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    Context, bail_user,
    error::output_error,
    store::{MANIFEST, Manifest, sync_below, sync_folder},
};

/// Where the work for `out` happens.
pub fn partial(out: &Path) -> PathBuf {
    beside(out, "partial")
}

fn beside(out: &Path, ending: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{ending}"))
}

/// Whether an unfinished run with a checkpoint stands beside `out`.
pub fn can_resume(out: &Path) -> bool {
    partial(out).join("checkpoint").exists()
}

/// Runs `work` on a fresh folder (or, with `resume`, the one an interrupted run left), then puts it
/// in the place of `out` with a manifest. An existing folder is replaced only if it is empty or an
/// earlier output of isogloss. `work` returns its result and a summary for the manifest.
pub fn folder<T>(
    out: &Path,
    stage: &'static str,
    resume: bool,
    context: &Context,
    work: impl FnOnce(&Path) -> Result<(T, Value)>,
) -> Result<T> {
    if out.file_name().is_none() {
        bail_user!("{} cannot be an output folder; name a new one", out.display());
    }
    refuse_foreign(out)?;
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| output_error(out, &error))?;
    }
    let lock_path = beside(out, "lock");
    let lock = File::create(&lock_path).map_err(|error| output_error(out, &error))?;
    if lock.try_lock().is_err() {
        bail_user!(
            "another isogloss is writing {}; wait for it or choose another --out",
            out.display()
        );
    }
    let result = locked(out, stage, resume, context, work);
    let _ = fs::remove_file(lock_path);
    result
}

fn locked<T>(
    out: &Path,
    stage: &'static str,
    resume: bool,
    context: &Context,
    work: impl FnOnce(&Path) -> Result<(T, Value)>,
) -> Result<T> {
    let partial = partial(out);
    if partial.exists() && !resume {
        if can_resume(out) {
            context.warn(format!(
                "{} held the checkpoint of an interrupted run; without --resume it is thrown away",
                partial.display()
            ));
        }
        fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot clear {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let started = Instant::now();
    let made = work(&partial).and_then(|(result, summary)| {
        let seconds = started.elapsed().as_secs_f64();
        Manifest::describe(stage, String::new(), Vec::new(), &partial, summary, seconds)?
            .write(&partial)?;
        sync_below(&partial)?;
        Ok(result)
    });
    let result = match made {
        Ok(result) => result,
        Err(error) => {
            if partial.join("checkpoint").exists() {
                context.log(format!(
                    "a checkpoint is kept in {}; go on with --resume",
                    partial.display()
                ));
            } else {
                let _ = fs::remove_dir_all(&partial);
            }
            return Err(error);
        }
    };
    let old = beside(out, "old");
    if out.exists() {
        let _ = fs::remove_dir_all(&old);
        fs::rename(out, &old).with_context(|| format!("cannot replace {}", out.display()))?;
    }
    fs::rename(&partial, out).with_context(|| format!("cannot write {}", out.display()))?;
    let _ = fs::remove_dir_all(&old);
    out.parent().map_or(Ok(()), sync_folder)?;
    Ok(result)
}

/// An existing folder may be replaced only if it is empty or ours.
fn refuse_foreign(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    if !out.is_dir() {
        bail_user!("{} is a file, where --out names a folder", out.display());
    }
    let mut entries =
        fs::read_dir(out).with_context(|| format!("cannot list {}", out.display()))?;
    if entries.next().is_some() && !out.join(MANIFEST).exists() {
        bail_user!(
            "{} is not empty and not an output of isogloss; choose another folder or empty it",
            out.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::is_user;

    fn run(out: &Path, text: &str) -> Result<()> {
        folder(out, "ingest", false, &Context::quiet(), |work| {
            fs::write(work.join("a.txt"), text)?;
            Ok(((), Value::Null))
        })
    }

    #[test]
    fn an_output_is_replaced_whole_and_a_failure_keeps_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("new/out");
        run(&out, "one").unwrap();
        run(&out, "two").unwrap();
        assert_eq!(fs::read_to_string(out.join("a.txt")).unwrap(), "two");
        let failed: Result<()> =
            folder(&out, "ingest", false, &Context::quiet(), |_| anyhow::bail!("no"));
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(out.join("a.txt")).unwrap(), "two");
        let left: Vec<_> = fs::read_dir(out.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside the output: {left:?}");
    }

    #[test]
    fn a_foreign_folder_and_a_file_are_not_touched() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("precious.txt"), "x").unwrap();
        assert!(is_user(&run(root.path(), "one").unwrap_err()));
        assert!(is_user(&run(&root.path().join("precious.txt"), "one").unwrap_err()));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_the_users_to_mend() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        for out in [file.join("out"), file.join("deep/out"), PathBuf::from("/proc/none/out")] {
            let error = run(&out, "a").unwrap_err();
            let said = format!("{error:#}");
            assert!(is_user(&error) && said.contains(&out.display().to_string()), "{said}");
        }
    }

    #[test]
    fn two_at_once_do_not_mix() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        folder(&out, "ingest", false, &Context::quiet(), |work| {
            let second = run(&out, "second").unwrap_err();
            assert!(second.to_string().contains("another isogloss"), "{second}");
            fs::write(work.join("a.txt"), "first")?;
            Ok(((), Value::Null))
        })
        .unwrap();
        assert_eq!(fs::read_to_string(out.join("a.txt")).unwrap(), "first");
    }
}
