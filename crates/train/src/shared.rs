//! What the training runs of one process share, so that a sweep over mixtures does its common work once: the
//! tokenizer, the rows encoded with it, and the base weights.
//!
//! Nothing here changes a result: each run gives the bits that it gives alone.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use anyhow::{Context as _, Result};
use artifact::hash::{files_below, hash_bytes, hash_file};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::{
    checkpoint::Identity,
    config::Objective,
    cuda::Cuda,
    encoder::Encoder,
    encodings::Rows,
    export::TOKENIZER_FILES,
    model::{
        Meeting, Model, Stand,
        adapter::Lora,
        peft::{base_folder, is_adapter},
    },
    ops::{Backend, Cpu, Kind, Nf4},
    parallel::Ranks,
};

/// What runs share. One is made for a process and given to each of its runs.
#[derive(Default)]
pub struct Shared {
    /// Whether loaded weights are kept for the next run; a single run has no use for a second copy.
    keeps_weights: bool,
    /// How many runs at most that train adapters over the same weights do so side by side, if any do.
    meet: usize,
    /// Where those on the processor meet, and those on a card.
    pub(crate) on_cpu: Meetings<Cpu>,
    pub(crate) on_card: Meetings<Cuda>,
    encoders: Mutex<BTreeMap<PathBuf, Arc<SharedEncoder>>>,
    rows: Mutex<BTreeMap<(String, Objective, usize), Arc<Rows>>>,
    bases: Mutex<BTreeMap<PathBuf, Arc<Base>>>,
    untouched: Mutex<BTreeMap<String, Arc<Untouched>>>,
    /// The processes that runs are shared out to.
    pub(crate) ranks: Ranks,
}

/// The losses of a validation by a base model beside which nothing has been trained yet, once a run has computed them.
pub(crate) type Untouched = Mutex<Option<Vec<f32>>>;

/// Where runs meet that are under way.
pub(crate) struct Meetings<B: Backend>(Mutex<MeetingPlaces<B>>);

/// By base model, shape of the adapter and how the weights are packed.
type MeetingPlaces<B> = BTreeMap<(PathBuf, String), Weak<Meeting<B>>>;

impl<B: Backend> Default for Meetings<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// An encoder and what it was made from.
pub struct SharedEncoder {
    /// Tokenizer and template.
    pub encoder: Encoder,
    /// blake3 over the files that decide how it encodes.
    identity: String,
}

/// Base weights, as found on the disk.
struct Base {
    /// Names, sizes and times of its files, by which a change is noticed.
    stamps: Vec<String>,
    /// Hash of each file of weights.
    identity: Map<String, Value>,
    /// The weights, where they are kept, once somebody asked for them; also packed.
    models: Mutex<BTreeMap<Option<Nf4>, Model>>,
}

impl Shared {
    /// For several runs in one process: base weights stay in memory once they are loaded.
    pub fn for_sweep() -> Self {
        Self { keeps_weights: true, ..Self::default() }
    }

    /// Runs that train adapters of one shape over the same weights, and are under way at the same time in
    /// threads of their own, `most` of them at once, have one pass do for them all.
    #[must_use]
    pub fn side_by_side(self, most: usize) -> Self {
        Self { meet: most, ..self }
    }

    /// How many runs at most are side by side.
    pub(crate) fn most_side_by_side(&self) -> usize {
        self.meet
    }

    /// Where a run meets others over the same weights, if it is to.
    pub(crate) fn meeting<B: Backend + Clone>(
        &self,
        meetings: &Meetings<B>,
        folder: &Path,
        shape: (&Lora, Option<Nf4>),
    ) -> Option<Arc<Meeting<B>>> {
        if self.meet == 0 {
            return None;
        }
        let mut all = meetings.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = all.entry((folder.to_owned(), json!(shape).to_string())).or_default();
        let meeting = place.upgrade().unwrap_or_default();
        *place = Arc::downgrade(&meeting);
        Some(meeting)
    }

    /// Where the losses are kept that all runs of such an adapter begin with: what they are trained on and their seeds
    /// do not matter yet. None where there is but one run.
    pub(crate) fn untouched(
        &self,
        Identity { recipe, base, validation, .. }: &Identity,
        on_card: bool,
    ) -> Option<Arc<Untouched>> {
        let mut recipe = recipe.clone();
        recipe.as_object_mut()?.shift_remove("seed");
        let key = json!([recipe, base, validation, on_card]).to_string();
        let mut all = self.untouched.lock().unwrap_or_else(PoisonError::into_inner);
        self.keeps_weights.then(|| Arc::clone(all.entry(key).or_default()))
    }

    /// With other ranks that come to be in this way.
    #[must_use]
    pub fn on(self, ranks: Ranks) -> Self {
        Self { ranks, ..self }
    }

    /// Tokenizer and template of a folder.
    pub fn encoder(&self, folder: &Path) -> Result<Arc<SharedEncoder>> {
        let identity = encoder_identity(folder)?;
        let mut encoders = self.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = encoders.get(folder).filter(|known| known.identity == identity) {
            return Ok(Arc::clone(known));
        }
        let loaded = Arc::new(SharedEncoder { encoder: Encoder::load(folder)?, identity });
        encoders.insert(folder.to_owned(), Arc::clone(&loaded));
        Ok(loaded)
    }

    /// Rows that were encoded in this way.
    pub fn rows(
        &self,
        encoder: &SharedEncoder,
        objective: Objective,
        sequence_length: usize,
    ) -> Arc<Rows> {
        let key = (encoder.identity.clone(), objective, sequence_length);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rows.entry(key).or_default())
    }

    /// The hash of each file of a model folder's weights.
    pub fn weights_identity(&self, folder: &Path) -> Result<Map<String, Value>> {
        Ok(self.base(folder)?.identity.clone())
    }

    /// A model of a folder's weights; `stand` says what they are for, see [`Model::load_as`]. Those that stay, beside
    /// an adapter, are one copy for all runs.
    pub fn model(&self, stand: impl Into<Stand>, folder: &Path) -> Result<Model> {
        let stand = stand.into();
        if !self.keeps_weights {
            return Model::load_as(Cpu, stand, folder);
        }
        let base = self.base(folder)?;
        // Held while the weights are read, so that runs that start together read them once.
        let mut kept = base.models.lock().unwrap_or_else(PoisonError::into_inner);
        let model = match kept.entry(stand.packed) {
            Entry::Occupied(model) => model.into_mut(),
            Entry::Vacant(empty) => {
                let exact = Stand::from(Kind::Weight);
                empty.insert(Model::load_as(Cpu, stand.packed.map_or(exact, Stand::from), folder)?)
            }
        };
        let stays = stand.kind == Kind::Frozen;
        Ok(if stays { model.share() } else { model.copy_as(Cpu, stand) })
    }

    fn base(&self, folder: &Path) -> Result<Arc<Base>> {
        let files = weight_files(folder)?;
        let stamps: Vec<String> = files.iter().map(|file| stamp(file)).collect::<Result<_>>()?;
        // Held while the files are hashed, so that runs that start together do it once.
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = bases.get(folder).filter(|known| known.stamps == stamps) {
            return Ok(Arc::clone(known));
        }
        let hashes: Vec<String> =
            files.par_iter().map(|file| weights_hash(file)).collect::<Result<_>>()?;
        let mut identity = Map::new();
        for (file, hash) in files.iter().zip(hashes) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            identity.insert(name, json!(hash));
        }
        let loaded = Arc::new(Base { stamps, identity, models: Mutex::default() });
        bases.insert(folder.to_owned(), Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// blake3 of a file of weights, which many steps of a process ask for: read once, as long as nothing shows that it was
/// written again.
pub fn weights_hash(file: &Path) -> Result<String> {
    static KNOWN: Mutex<BTreeMap<String, Arc<Mutex<Option<String>>>>> = Mutex::new(BTreeMap::new());
    let of_file = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(stamp(file)?).or_default())
    };
    // Held while the file is read, so that steps that start together read it once.
    let mut known = of_file.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(hash) = &*known {
        return Ok(hash.clone());
    }
    let hash = hash_file(file)?;
    // One written a moment ago may be written again without a sign of it.
    let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
    *known = (age > Duration::from_secs(5)).then(|| hash.clone());
    Ok(hash)
}

/// Files that say how text becomes tokens and which tokens end an answer.
fn encoder_identity(folder: &Path) -> Result<String> {
    let mut parts = String::new();
    for name in TOKENIZER_FILES.iter().chain(&["config.json", "generation_config.json"]) {
        let file = folder.join(name);
        if file.is_file() {
            parts += &format!("{name} {}\n", hash_file(&file)?);
        }
    }
    Ok(hash_bytes(parts.as_bytes()))
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        artifact::bail_user!("{}: no such model folder", folder.display());
    }
    let is_weights =
        |file: &PathBuf| file.extension().is_some_and(|extension| extension == "safetensors");
    let mut files: Vec<PathBuf> = files_below(folder)?.into_iter().filter(is_weights).collect();
    if is_adapter(folder) {
        // It is merged into its base when it is read.
        files.extend(weight_files(&base_folder(folder)?)?);
    }
    Ok(files)
}

fn stamp(file: &Path) -> Result<String> {
    let found = file.metadata().with_context(|| format!("cannot read {}", file.display()))?;
    Ok(format!("{} {} {:?}", file.display(), found.len(), found.modified().ok()))
}
