//! Checkpoints of a running training: `checkpoint/step-N/` holds weights, AdamW's moments, the metrics so
//! far and what the run is made of; `checkpoint/best-N/` the best weights so far. With `keep`, the last of
//! them stay when training has ended, each with the tokenizer's files, so that it is a model folder.
//!
//! A folder is written beside, synced and renamed, and the one before it goes only then. A kill at
//! any moment leaves a whole checkpoint, and going on from it gives the same bits.

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use artifact::{
    bail_user,
    error::user,
    store::{sync_below, sync_folder},
};
use half::bf16;
use safetensors::{
    SafeTensors,
    tensor::{TensorView, View},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::Objective,
    disk::explain_full_disk,
    encoder::Encoder,
    export,
    metrics::{self, Row},
    model::Dtype,
    ops::{Backend, moments::Values},
    optimizer::{AdamW, Moment, Named, Saved},
    parallel::{Connect, Team},
};

/// What a run is made of; a checkpoint serves only the run it is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The recipe.
    pub recipe: Value,
    /// The base model: its config, and where its weights come from.
    pub base: Value,
    /// Hash of the training data as encoded.
    pub train: String,
    /// Hash of the validation data as encoded.
    pub validation: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    identity: Identity,
}

/// A checkpoint as read.
pub struct Checkpoint {
    /// Optimiser steps done.
    pub step: u64,
    /// Where the weights are, those of the whole model or of its adapter.
    pub folder: PathBuf,
    /// Metrics so far.
    pub metrics: Vec<Row>,
    moments: Vec<Named<'static>>,
}

impl Checkpoint {
    /// Puts AdamW where it was; what is another optimiser's goes to `elsewhere`.
    pub fn restore<B: Backend + Clone>(
        &self,
        backend: &B,
        optimizer: &mut AdamW<B>,
        elsewhere: impl FnMut(Moment, &Values) -> Result<()>,
    ) -> Result<()> {
        optimizer.restore(backend, self.step, &self.moments, elsewhere)
    }
}

/// Where a run stands.
pub struct Snapshot<'a, B: Connect> {
    /// What the run is made of.
    pub identity: &'a Identity,
    /// Weights, moments and steps done.
    pub team: &'a Team<B>,
    /// Metrics so far.
    pub rows: &'a [Row],
    /// The tokenizer whose files make the checkpoint a model folder, and what it is trained for.
    pub tokenizer: Option<(&'a Encoder, Objective)>,
}

/// The folder of a run's checkpoints.
pub struct Checkpoints {
    root: PathBuf,
}

const STATE: &str = "state.json";
const MOMENTS: &str = "moments.safetensors";
const METRICS: &str = "metrics.parquet";

impl Checkpoints {
    /// Checkpoints of the run that writes to `out`.
    pub fn of(out: &Path) -> Self {
        Self { root: out.join("checkpoint") }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the best weights, those of `step`, are.
    pub fn best(&self, step: u64) -> PathBuf {
        self.root.join(format!("best-{step}"))
    }

    /// Writes a checkpoint, then takes away all but the last `keep`, and best weights other than `best`.
    pub fn save<B: Connect>(
        &self,
        now: &Snapshot<'_, B>,
        keep: usize,
        best: Option<u64>,
    ) -> Result<()> {
        let (step, moments) = now.team.state()?;
        self.whole(&format!("step-{step}"), |folder| {
            now.team.save(folder, now.team.model().exact_dtype())?;
            write_states(&folder.join(MOMENTS), &moments)?;
            metrics::write(now.rows, &folder.join(METRICS))?;
            let state = State { step, identity: now.identity.clone() };
            fs::write(folder.join(STATE), serde_json::to_vec_pretty(&state)?)?;
            match now.tokenizer {
                Some((encoder, objective)) => export::complete(folder, encoder, objective),
                None => Ok(()),
            }
        })?;
        self.prune(keep, best)
    }

    /// Takes away all but the last `keep` checkpoints and the best weights.
    fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        let kept =
            steps[steps.len().saturating_sub(keep)..].iter().map(|step| format!("step-{step}"));
        let needed: Vec<String> = kept.chain(best.map(|step| format!("best-{step}"))).collect();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !needed.contains(&name) && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// Keeps the weights of `step` as the best so far.
    pub fn save_best<B: Connect>(&self, step: u64, team: &Team<B>, dtype: Dtype) -> Result<()> {
        self.whole(&format!("best-{step}"), |folder| team.save(folder, dtype))
    }

    /// The last checkpoint, if there is one. One of another run is a `UserError` that says what differs.
    pub fn last(&self, identity: &Identity) -> Result<Option<Checkpoint>> {
        let Some(folder) = self.last_folder()? else { return Ok(None) };
        let state_path = folder.join(STATE);
        let state: State = serde_json::from_slice(&fs::read(&state_path)?).map_err(|error| {
            user(format!("{}: not a checkpoint's state: {error}", state_path.display()))
        })?;
        // Numbers go through text once on both sides, so that what was written alike is alike.
        let identity: Identity = serde_json::from_slice(&serde_json::to_vec(identity)?)?;
        let differences = differences(&state.identity, &identity);
        if !differences.is_empty() {
            bail_user!(
                "{}: this checkpoint is of another run and cannot be resumed: {}; put back what it had, or remove the \
                 folder to start anew",
                folder.display(),
                differences.join("; ")
            );
        }
        Ok(Some(Checkpoint {
            step: state.step,
            metrics: metrics::read(&folder.join(METRICS))?,
            moments: read_states(&folder.join(MOMENTS))?,
            folder,
        }))
    }

    /// Takes away what an ended training no longer needs: all but the checkpoints that are kept.
    pub fn finish(&self, keep: usize) -> Result<()> {
        if keep > 0 && self.root.exists() {
            return self.prune(keep, None);
        }
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.root.display()))
            }
            _ => Ok(()),
        }
    }

    /// The folder of the last checkpoint, if there is one.
    pub fn last_folder(&self) -> Result<Option<PathBuf>> {
        Ok(self.steps()?.last().map(|step| self.root.join(format!("step-{step}"))))
    }

    /// Steps of the checkpoints there are, sorted.
    fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = Vec::new();
        if self.root.exists() {
            for entry in fs::read_dir(&self.root)
                .with_context(|| format!("cannot list {}", self.root.display()))?
            {
                let name = entry?.file_name().to_string_lossy().into_owned();
                steps.extend(name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()));
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Fills a folder that appears under `name` whole or not at all.
    fn whole(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let partial = self.root.join(format!(".{name}"));
        let target = self.root.join(name);
        let written = (|| {
            clear_folder(&partial)?;
            fs::create_dir_all(&partial)?;
            fill(&partial)?;
            sync_below(&partial)?;
            clear_folder(&target)?;
            fs::rename(&partial, &target)?;
            sync_folder(&self.root)
        })();
        written.map_err(|error| {
            let _ = fs::remove_dir_all(&partial);
            explain_full_disk(error, &target)
        })
    }
}

fn clear_folder(folder: &Path) -> io::Result<()> {
    if folder.exists() { fs::remove_dir_all(folder) } else { Ok(()) }
}

/// What differs between the run of a checkpoint and this one, in words.
fn differences(was: &Identity, is: &Identity) -> Vec<String> {
    let mut found = Vec::new();
    for (name, was, is) in [("", &was.recipe, &is.recipe), ("model ", &was.base, &is.base)] {
        let keys = |value: &Value| {
            value.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect::<Vec<_>>()
        };
        let mut all = [keys(was), keys(is)].concat();
        all.sort_unstable();
        all.dedup();
        for key in all.iter().filter(|key| was[key.as_str()] != is[key.as_str()]) {
            found.push(format!("{name}{key} was {}, is {}", was[key.as_str()], is[key.as_str()]));
        }
    }
    if was.train != is.train {
        found.push("the training data, its tokenizer or its chat template changed".to_owned());
    }
    if was.validation != is.validation {
        found.push("the validation data changed".to_owned());
    }
    found
}

/// A part of the optimiser's state as safetensors takes it, turned to bytes one tensor at a time.
struct Stored<'a>(&'a Saved<'a>, [usize; 1]);

impl<'a> Stored<'a> {
    fn new(values: &'a Saved<'a>) -> Self {
        let len = match values {
            Saved::F32(values) => values.len(),
            Saved::Bf16(values) => values.len(),
            Saved::Bytes(values) => values.len(),
        };
        Self(values, [len])
    }
}

impl View for Stored<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.0 {
            Saved::F32(_) => safetensors::Dtype::F32,
            Saved::Bf16(_) => safetensors::Dtype::BF16,
            Saved::Bytes(_) => safetensors::Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.0 {
            Saved::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Saved::Bf16(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Saved::Bytes(values) => Cow::Borrowed(&values[..]),
        }
    }

    fn data_len(&self) -> usize {
        let size = match self.0 {
            Saved::F32(_) => 4,
            Saved::Bf16(_) => 2,
            Saved::Bytes(_) => 1,
        };
        self.1[0] * size
    }
}

fn write_states(path: &Path, states: &[Named<'_>]) -> Result<()> {
    let views = states.iter().map(|(name, values)| (name, Stored::new(values)));
    safetensors::serialize_to_file(views, None, path)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read_states(path: &Path) -> Result<Vec<Named<'static>>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| {
        user(format!("{}: not a whole safetensors file: {error}", path.display()))
    })?;
    let values = |name: &str, view: TensorView| {
        let bytes = view.data();
        Ok(match view.dtype() {
            safetensors::Dtype::F32 => {
                let four = bytes.as_chunks().0.iter();
                Saved::F32(four.map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            safetensors::Dtype::BF16 => {
                let two = bytes.as_chunks().0.iter();
                Saved::Bf16(two.map(|bytes| bf16::from_le_bytes(*bytes)).collect())
            }
            safetensors::Dtype::U8 => Saved::Bytes(Cow::Owned(bytes.to_vec())),
            other => bail_user!(
                "{}: {name} is of type {other:?}, which no optimiser's state has",
                path.display()
            ),
        })
    };
    let tensors = tensors.tensors().into_iter();
    tensors.map(|(name, view)| values(&name, view).map(|values| (name, values))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::error::is_user;
    use serde_json::json;

    fn identity(learning_rate: f64, train: &str) -> Identity {
        Identity {
            recipe: json!({"learning_rate": learning_rate, "seed": 1}),
            base: json!({}),
            train: train.into(),
            validation: None,
        }
    }

    #[test]
    fn a_difference_names_the_key_with_both_values() {
        let found = differences(&identity(1e-3, "a"), &identity(1e-4, "b"));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], "learning_rate was 0.001, is 0.0001");
        assert!(found[1].contains("training data"));
        assert!(differences(&identity(1.0, "a"), &identity(1.0, "a")).is_empty());
    }

    #[test]
    fn states_come_back_bit_for_bit_in_their_own_form() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let floats = vec![1.5f32, -0.0, f32::MIN_POSITIVE / 3.0, f32::MAX];
        let halves = vec![bf16::from_bits(0x8000), bf16::from_bits(1), bf16::MAX];
        let states = vec![
            ("a".to_owned(), Saved::F32(Cow::Owned(floats.clone()))),
            ("b".to_owned(), Saved::Bf16(Cow::Owned(halves.clone()))),
            ("c".to_owned(), Saved::Bytes(Cow::Owned(vec![0, 255, 7]))),
        ];
        write_states(&path, &states).unwrap();
        let mut back = read_states(&path).unwrap();
        back.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(back, states);
        let Saved::F32(found) = &back[0].1 else { panic!("{:?}", back[0]) };
        assert_eq!(found[1].to_bits(), floats[1].to_bits(), "the sign of zero stays");
        let Saved::Bf16(found) = &back[1].1 else { panic!("{:?}", back[1]) };
        assert_eq!(found[0].to_bits(), halves[0].to_bits());
    }

    #[test]
    fn a_full_disk_is_the_users_and_keeps_the_last_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(folder.path());
        checkpoints.whole("step-1", |folder| Ok(fs::write(folder.join("a"), "1")?)).unwrap();
        // /dev/full answers every write with ENOSPC.
        let error = checkpoints
            .whole("step-2", |_| fs::write("/dev/full", "x").context("weights"))
            .unwrap_err();
        assert!(is_user(&error) && error.to_string().contains("disk is full"), "{error:#}");
        assert_eq!(checkpoints.last_folder().unwrap(), Some(checkpoints.root.join("step-1")));
        assert_eq!(
            fs::read_dir(checkpoints.root()).unwrap().count(),
            1,
            "nothing half written is left"
        );
    }

    #[test]
    fn a_folder_that_was_not_finished_is_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(folder.path());
        assert_eq!(checkpoints.last_folder().unwrap(), None);
        fs::create_dir_all(checkpoints.root.join(".step-9")).unwrap();
        fs::create_dir_all(checkpoints.root.join("best-9")).unwrap();
        assert_eq!(checkpoints.last_folder().unwrap(), None);
        fs::create_dir_all(checkpoints.root.join("step-9")).unwrap();
        fs::create_dir_all(checkpoints.root.join("step-10")).unwrap();
        assert_eq!(checkpoints.last_folder().unwrap(), Some(checkpoints.root.join("step-10")));
    }

    #[test]
    fn the_last_ones_and_the_best_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(folder.path());
        for name in ["step-2", "step-4", "step-10", ".step-12", "best-2", "best-4"] {
            fs::create_dir_all(checkpoints.root.join(name)).unwrap();
        }
        let found = || {
            let entries = fs::read_dir(&checkpoints.root).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        checkpoints.prune(2, Some(2)).unwrap();
        assert_eq!(found(), ["best-2", "step-10", "step-4"]);
        checkpoints.finish(1).unwrap();
        assert_eq!(found(), ["step-10"]);
        checkpoints.finish(0).unwrap();
        assert!(!checkpoints.root.exists());
    }
}
