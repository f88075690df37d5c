//! The content-addressed store: `<root>/<stage>/<key>/` holds a stage's output and its manifest.
//!
//! | enters the key | stays out |
//! |---|---|
//! | stage name and its semantic version | threads, jobs, batch size of a generation, device |
//! | the resolved config, canonical, semantic fields only | paths, log level |
//! | (role, content hash) of each input, sorted | time, host, tool version (recorded) |
//!
//! An output appears whole or not at all. Work happens in `<key>.work`, which outlives a kill so
//! that training goes on from its checkpoint; the files are fsynced, the folder renamed, and the
//! manifest written last as the mark of completion. A lock per key makes a second process wait and
//! then find the work done.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Context, error::input_error, hash};

/// The file that marks an output as complete.
pub const MANIFEST: &str = "manifest.json";

/// One part of a key, in clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `stage`, `config.epochs`, `input.mixture`.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// A part that differs between two keys; `None` where one of them lacks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The part's name.
    pub name: String,
    /// Value in the older key.
    pub old: Option<String>,
    /// Value in the newer key.
    pub new: Option<String>,
}

/// What decides a stage's output.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Stage name; the folder in the store.
    pub stage: &'static str,
    /// Raised when the stage's output changes for the same config and inputs.
    pub version: u32,
    /// Semantic settings only.
    pub config: Value,
    /// (role, content hash) of each input.
    pub inputs: Vec<(String, String)>,
}

impl Recipe {
    /// The key's parts in clear, sorted by name.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![Part {
            name: "stage".into(),
            value: format!("{} version {}", self.stage, self.version),
        }];
        flatten("config", &self.config, &mut parts);
        let mut inputs = self.inputs.clone();
        inputs.sort();
        // Several inputs may share a role (raw files): number them, so that no part hides another.
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (role, value) in inputs {
            let nth = seen.entry(role.clone()).or_insert(0);
            *nth += 1;
            let number = if *nth > 1 { format!("#{nth}") } else { String::new() };
            parts.push(Part { name: format!("input.{role}{number}"), value });
        }
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        parts
    }

    /// blake3 over the parts, 32 hex digits.
    pub fn key(&self) -> String {
        let mut text = String::new();
        for part in self.parts() {
            text +=
                &format!("{}:{}{}:{}", part.name.len(), part.name, part.value.len(), part.value);
        }
        hash::hash_bytes(text.as_bytes())[..32].to_owned()
    }

    /// What differs from an older key to a newer one.
    pub fn differences(old: &[Part], new: &[Part]) -> Vec<Difference> {
        let by_name = |parts: &[Part]| -> BTreeMap<String, String> {
            parts.iter().map(|part| (part.name.clone(), part.value.clone())).collect()
        };
        let (old, new) = (by_name(old), by_name(new));
        let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        names
            .into_iter()
            .filter(|name| old.get(*name) != new.get(*name))
            .map(|name| Difference {
                name: name.clone(),
                old: old.get(name).cloned(),
                new: new.get(name).cloned(),
            })
            .collect()
    }
}

fn flatten(name: &str, value: &Value, parts: &mut Vec<Part>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                flatten(&format!("{name}.{field}"), value, parts);
            }
        }
        Value::Null => {}
        Value::String(text) => parts.push(Part { name: name.into(), value: text.clone() }),
        other => parts.push(Part { name: name.into(), value: other.to_string() }),
    }
}

/// A file of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// blake3 of the content.
    pub hash: String,
    /// Size.
    pub bytes: u64,
}

/// What stands beside every output: how it came about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Stage name.
    pub stage: String,
    /// The key; empty for an output made outside a store.
    pub key: String,
    /// The key's parts in clear.
    pub parts: Vec<Part>,
    /// Files by relative path.
    pub files: BTreeMap<String, FileEntry>,
    /// What the stage says of itself: rows, realised counts.
    pub summary: Value,
    /// Wall time.
    pub seconds: f64,
    /// Version of isogloss.
    pub tool_version: String,
    /// When it was completed, RFC 3339, UTC.
    pub created: String,
    /// Where: operating system and architecture.
    pub host: String,
}

impl Manifest {
    /// Describes the files below `folder`.
    pub fn describe(
        stage: &str,
        key: String,
        parts: Vec<Part>,
        folder: &Path,
        summary: Value,
        seconds: f64,
    ) -> Result<Self> {
        let mut files = BTreeMap::new();
        for path in hash::files_below(folder)? {
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            if name == MANIFEST {
                continue;
            }
            let bytes = fs::metadata(&path).map_err(|error| input_error(&path, &error))?.len();
            files.insert(name, FileEntry { hash: hash::hash_file(&path)?, bytes });
        }
        Ok(Self {
            stage: stage.to_owned(),
            key,
            parts,
            files,
            summary,
            seconds,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            host: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        })
    }

    /// Reads the manifest of a complete output; `None` where there is none that holds.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = fs::read(folder.join(MANIFEST)).ok()?;
        let manifest: Self = serde_json::from_slice(&text).ok()?;
        let whole = manifest.files.iter().all(|(name, entry)| {
            fs::metadata(folder.join(name)).is_ok_and(|found| found.len() == entry.bytes)
        });
        whole.then_some(manifest)
    }

    /// Writes the mark of completion.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomic(&folder.join(MANIFEST), &serde_json::to_vec_pretty(self)?)
    }
}

/// Whether the file stands, unchanged, in a complete output of isogloss.
pub fn is_in_an_output(path: &Path) -> Result<bool> {
    let path =
        std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    // A mixture stands two folders below its manifest.
    for folder in path.ancestors().skip(1).take(3) {
        let Some(manifest) = Manifest::read(folder) else { continue };
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy();
        if let Some(entry) = manifest.files.get(name.as_ref()) {
            return Ok(hash::hash_file(&path)? == entry.hash);
        }
    }
    Ok(false)
}

/// Writes a small file so that it is there whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let context = || format!("cannot write {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let mut file = File::create(&beside).with_context(context)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        let _ = fs::remove_file(&beside);
        return Err(error).with_context(context);
    }
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes a folder's entries durable.
pub fn sync_folder(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot sync {}", path.display()))
}

/// Makes every file below a folder durable.
pub fn sync_below(path: &Path) -> Result<()> {
    for file in hash::files_below(path)? {
        File::open(&file)
            .and_then(|open| open.sync_all())
            .with_context(|| format!("cannot sync {}", file.display()))?;
        if let Some(folder) = file.parent() {
            sync_folder(folder)?;
        }
    }
    sync_folder(path)
}

/// An output in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its folder.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Whether it was there already.
    pub cached: bool,
}

impl Stored {
    /// The content hash of one of its files.
    pub fn content(&self, file: &str) -> Result<String> {
        let entry = self.manifest.files.get(file);
        let entry = entry.with_context(|| format!("{} has no file {file}", self.path.display()))?;
        Ok(entry.hash.clone())
    }
}

/// The store of a set of pipelines.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens a store, and makes its folder where there is none.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .with_context(|| format!("cannot make the store {}", root.display()))?;
        Ok(Self { root: root.to_owned() })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self, stage: &str, key: &str) -> PathBuf {
        self.root.join(stage).join(key)
    }

    /// Where a stage works until its output is published.
    pub fn work_folder(&self, recipe: &Recipe) -> PathBuf {
        self.root.join(recipe.stage).join(format!("{}.work", recipe.key()))
    }

    /// The complete output of this recipe, if it is there.
    pub fn find(&self, recipe: &Recipe) -> Result<Option<Stored>> {
        let path = self.folder(recipe.stage, &recipe.key());
        let manifest = Manifest::read(&path).filter(|found| found.parts == recipe.parts());
        Ok(manifest.map(|manifest| Stored { path, manifest, cached: true }))
    }

    /// Returns the output of `recipe`, made by `work` if it is not there. `work` gets a folder to
    /// write into — empty, or with the `checkpoint` an earlier, killed run left — and returns the
    /// summary for the manifest.
    pub fn produce(
        &self,
        recipe: &Recipe,
        context: &Context,
        work: impl FnOnce(&Path) -> Result<Value>,
    ) -> Result<Stored> {
        if let Some(stored) = self.find(recipe)? {
            return Ok(stored);
        }
        let key = recipe.key();
        let lock_name = format!("{}-{key}", recipe.stage);
        let _lock = lock(&self.root.join(".locks"), &lock_name, context, || {
            format!("waiting for another process that is making {} {}", recipe.stage, &key[..8])
        })?;
        if let Some(stored) = self.find(recipe)? {
            return Ok(stored);
        }
        let path = self.folder(recipe.stage, &key);
        let folder = self.work_folder(recipe);
        prepare_work_folder(&path, &folder)?;
        let started = Instant::now();
        let summary = work(&folder).inspect_err(|_| {
            // What cannot be gone on from only takes room, which may be what was missing.
            if !folder.join("checkpoint").exists() {
                let _ = fs::remove_dir_all(&folder);
            }
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let manifest =
            Manifest::describe(recipe.stage, key, recipe.parts(), &folder, summary, seconds)?;
        sync_below(&folder)?;
        fs::rename(&folder, &path)
            .with_context(|| format!("cannot move {} into place", folder.display()))?;
        path.parent().map_or(Ok(()), sync_folder)?;
        manifest.write(&path)?;
        Ok(Stored { path, manifest, cached: false })
    }

    fn record_file(&self, pipeline: &str, step: &str) -> PathBuf {
        let safe = |text: &str| text.replace(['/', '\\'], "_");
        self.root.join("pipelines").join(safe(pipeline)).join(safe(step))
    }

    /// Notes which output a pipeline's step used last, so that `status` can say what changed.
    pub fn record(&self, pipeline: &str, step: &str, stored: &Stored) -> Result<()> {
        let file = self.record_file(pipeline, step);
        let line = format!("{}/{}", stored.manifest.stage, stored.manifest.key);
        if fs::read_to_string(&file).is_ok_and(|old| old == line) {
            return Ok(());
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        write_atomic(&file, line.as_bytes())
    }

    /// The manifest of the output that this step used last.
    pub fn last(&self, pipeline: &str, step: &str) -> Result<Option<Manifest>> {
        let Ok(line) = fs::read_to_string(self.record_file(pipeline, step)) else {
            return Ok(None);
        };
        Ok(Manifest::read(&self.root.join(line)))
    }
}

/// Makes the work folder ready: what an earlier run left is thrown away, except a checkpoint.
fn prepare_work_folder(path: &Path, folder: &Path) -> Result<()> {
    let context = || format!("cannot prepare {}", folder.display());
    // A folder in its final place without a valid manifest is not an output.
    if path.exists() {
        fs::remove_dir_all(path).with_context(context)?;
    }
    if folder.exists() && !folder.join("checkpoint").exists() {
        fs::remove_dir_all(folder).with_context(context)?;
    }
    fs::create_dir_all(folder).with_context(context)
}

/// Takes an exclusive lock `<folder>/<name>`, waiting for its holder; `message` is shown once
/// where there is one. Given back when the file is dropped, also by a kill.
fn lock(
    folder: &Path,
    name: &str,
    context: &Context,
    message: impl Fn() -> String,
) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(name);
    let file = File::create(&path).with_context(|| format!("cannot lock {}", path.display()))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                if !told {
                    context.log(message());
                    told = true;
                }
                context.check()?;
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recipe(epochs: u32, input: &str) -> Recipe {
        Recipe {
            stage: "train",
            version: 1,
            config: json!({"epochs": epochs, "schedule": {"kind": "linear"}, "unset": null}),
            inputs: vec![("mixture".into(), input.into()), ("base".into(), "b".into())],
        }
    }

    fn write(folder: &Path, text: &str) -> Result<Value> {
        fs::write(folder.join("out.txt"), text)?;
        Ok(json!({"rows": 1}))
    }

    #[test]
    fn the_key_follows_config_and_inputs_and_not_their_order() {
        let first = recipe(2, "m");
        let mut swapped = first.clone();
        swapped.inputs.reverse();
        assert_eq!(first.key(), swapped.key());
        assert_ne!(first.key(), recipe(3, "m").key());
        assert_ne!(first.key(), recipe(2, "n").key());
        let mut newer = first.clone();
        newer.version = 2;
        assert_ne!(first.key(), newer.key());
    }

    #[test]
    fn differences_name_the_setting_with_old_and_new_value() {
        let found = Recipe::differences(&recipe(2, "m").parts(), &recipe(3, "m").parts());
        let expected = Difference {
            name: "config.epochs".into(),
            old: Some("2".into()),
            new: Some("3".into()),
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn work_is_done_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let context = Context::quiet();
        let made = store.produce(&recipe(1, "m"), &context, |folder| write(folder, "a")).unwrap();
        assert!(!made.cached);
        let again = store.produce(&recipe(1, "m"), &context, |_| panic!("done already")).unwrap();
        assert!(again.cached);
        assert_eq!(again.content("out.txt").unwrap(), hash::hash_bytes(b"a"));
        assert_eq!(again.manifest.summary["rows"], 1);
    }

    #[test]
    fn a_failed_run_leaves_nothing_that_counts_as_done() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let context = Context::quiet();
        let failed = store.produce(&recipe(1, "m"), &context, |folder| {
            write(folder, "half")?;
            anyhow::bail!("killed")
        });
        assert!(failed.is_err());
        assert!(!store.work_folder(&recipe(1, "m")).exists(), "half an output takes no room");
        assert!(store.find(&recipe(1, "m")).unwrap().is_none());
        let made = store
            .produce(&recipe(1, "m"), &context, |folder| {
                assert!(!folder.join("out.txt").exists(), "the next run starts empty");
                write(folder, "whole")
            })
            .unwrap();
        assert_eq!(made.content("out.txt").unwrap(), hash::hash_bytes(b"whole"));
    }

    #[test]
    fn a_checkpoint_outlives_a_failed_run() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let context = Context::quiet();
        let _ = store.produce(&recipe(1, "m"), &context, |folder| {
            fs::create_dir(folder.join("checkpoint"))?;
            anyhow::bail!("killed")
        });
        store
            .produce(&recipe(1, "m"), &context, |folder| {
                assert!(folder.join("checkpoint").exists());
                fs::remove_dir(folder.join("checkpoint"))?;
                write(folder, "a")
            })
            .unwrap();
    }

    #[test]
    fn a_damaged_output_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let made =
            store.produce(&recipe(1, "m"), &Context::quiet(), |folder| write(folder, "a")).unwrap();
        fs::write(made.path.join("out.txt"), "longer").unwrap();
        assert!(store.find(&recipe(1, "m")).unwrap().is_none());
        fs::remove_file(made.path.join(MANIFEST)).unwrap();
        let again =
            store.produce(&recipe(1, "m"), &Context::quiet(), |folder| write(folder, "a")).unwrap();
        assert!(!again.cached);
    }

    #[test]
    fn two_workers_on_one_key_do_the_work_once() {
        let root = tempfile::tempdir().unwrap();
        let runs = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let store = Store::open(root.path()).unwrap();
                    let made = store.produce(&recipe(1, "m"), &Context::quiet(), |folder| {
                        runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(50));
                        write(folder, "a")
                    });
                    assert_eq!(made.unwrap().content("out.txt").unwrap(), hash::hash_bytes(b"a"));
                });
            }
        });
        assert_eq!(runs.into_inner(), 1);
    }

    #[test]
    fn a_step_remembers_its_last_output() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        assert!(store.last("quick", "train/a").unwrap().is_none());
        let made =
            store.produce(&recipe(1, "m"), &Context::quiet(), |folder| write(folder, "a")).unwrap();
        store.record("quick", "train/a", &made).unwrap();
        let last = store.last("quick", "train/a").unwrap().unwrap();
        assert_eq!(last.key, recipe(1, "m").key());
    }
}
