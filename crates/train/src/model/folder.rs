//! A model as a Hugging Face folder: `config.json` and `model.safetensors`, or shards with
//! `model.safetensors.index.json`. Files are mapped, not read; every tensor's name, shape and type
//! is checked before it is taken, and a message names the tensor that differs.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use artifact::bail_user;
use artifact::error::{open_input, user};
use half::bf16;
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, View};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::peft::{self, Merging};
use super::weights::{Part, Spec, specs};
use super::{Decoder, Model, ModelConfig, Stand};
use crate::ops::{Backend, Cpu, Kind, Stored, StoredKind};

/// Type of the values in a saved model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// As they are computed.
    F32,
    /// Rounded to the nearest, half the size.
    Bf16,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Tensors that old checkpoints carry and that follow from the config.
const DERIVED: &str = "rotary_emb.inv_freq";

impl Model {
    /// Reads a model onto the processor; see [`Decoder::load_on`].
    ///
    /// # Errors
    /// As [`Decoder::load_on`].
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_on(Cpu, dir)
    }
}

impl<B: Backend + Clone> Decoder<B> {
    /// Writes `config.json` and `model.safetensors` into an existing folder, as `transformers`
    /// reads them; with an adapter, that alone, as PEFT reads it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, dir: &Path, dtype: Dtype) -> Result<()> {
        self.save_with(dir, dtype, &|_| Ok(None))
    }

    /// The same where `elsewhere` knows the exact values of some of the tensors that are trained, by their number.
    ///
    /// # Errors
    /// As [`Decoder::save`], and the first that `elsewhere` returns.
    pub(crate) fn save_with(&self, dir: &Path, dtype: Dtype, elsewhere: &Elsewhere) -> Result<()> {
        if let Some(attached) = &self.adapter {
            return peft::save(self, attached, dir, dtype, elsewhere);
        }
        let mut config = self.config().to_json();
        let name = match dtype {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
        };
        if let Some(fields) = config.as_object_mut() {
            fields.shift_remove("dtype");
            fields.insert("torch_dtype".into(), name.into());
        }
        write_json(&dir.join("config.json"), &config)?;
        let fetched = Fetched { elsewhere, last: RefCell::default(), fault: RefCell::default() };
        let tensors = self.specs.all().into_iter().zip(self.weights.all()).enumerate();
        let (backend, fetched) = (&self.backend, &fetched);
        let tensors = tensors.flat_map(|(index, (spec, tensor))| {
            spec.parts.iter().map(move |part| {
                let len = spec.elements();
                let from = Some((fetched, index));
                (part.name.as_str(), Saved { backend, tensor, len, part, dtype, from })
            })
        });
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = dir.join(SINGLE);
        safetensors::serialize_to_file(tensors, Some(metadata), &path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(fault) = fetched.fault.take() {
            return Err(fault);
        }
        make_readable(&path)
    }
}

/// Gives the exact values of a tensor that is trained, where they are not the model's own.
pub(crate) type Elsewhere<'a> = dyn Fn(usize) -> Result<Option<Vec<f32>>> + 'a;

/// Tensors from elsewhere, each asked for once: a tensor of ours is several of a file's.
pub(super) struct Fetched<'a> {
    elsewhere: &'a Elsewhere<'a>,
    last: RefCell<Option<(usize, Rc<Vec<f32>>)>>,
    fault: RefCell<Option<anyhow::Error>>,
}

impl Fetched<'_> {
    fn get(&self, index: usize) -> Option<Rc<Vec<f32>>> {
        if self.fault.borrow().is_some() {
            return None;
        }
        if let Some((last, values)) = &*self.last.borrow()
            && *last == index
        {
            return Some(Rc::clone(values));
        }
        match (self.elsewhere)(index) {
            Ok(values) => {
                let values = Rc::new(values?);
                *self.last.borrow_mut() = Some((index, Rc::clone(&values)));
                Some(values)
            }
            Err(fault) => {
                *self.fault.borrow_mut() = Some(fault);
                None
            }
        }
    }
}

/// Writes a file of settings.
pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("settings as JSON")? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The crate writes through a temporary file that only its owner may read; a model folder is to be
/// shared as its other files are.
pub(super) fn make_readable(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let like = path.with_file_name("config.json");
        let mode = std::fs::metadata(&like).map(|found| found.permissions().mode());
        let mode = mode.with_context(|| format!("cannot read {}", like.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot share {}", path.display()))?;
    }
    Ok(())
}

/// A tensor on its way into a file; its values leave the backend's memory when they are written.
pub(super) struct Saved<'a, B: Backend> {
    pub backend: &'a B,
    pub tensor: &'a B::Tensor,
    /// Values of the whole tensor, of which this is a part.
    pub len: usize,
    pub part: &'a Part,
    pub dtype: Dtype,
    /// Who else may have the values, and the tensor's number there.
    pub from: Option<(&'a Fetched<'a>, usize)>,
}

impl<B: Backend> View for Saved<'_, B> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::Bf16 => safetensors::Dtype::BF16,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.part.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let fetched = self.from.and_then(|(fetched, index)| fetched.get(index));
        let values = match &fetched {
            Some(values) => Cow::Borrowed(&values[..]),
            None => self.backend.view(self.tensor, self.len),
        };
        let values = &values[self.part.range.clone()];
        match self.dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        }
    }
    fn data_len(&self) -> usize {
        self.part.range.len() * if self.dtype == Dtype::F32 { 4 } else { 2 }
    }
}

impl<B: Backend + Clone> Decoder<B> {
    /// Reads a model from a Hugging Face folder, to be trained; see [`Decoder::load_as`].
    ///
    /// # Errors
    /// As [`Decoder::load_as`].
    pub fn load_on(backend: B, dir: &Path) -> Result<Self> {
        Self::load_as(backend, Kind::Weight, dir)
    }

    /// Reads a model from a Hugging Face folder. Values of type f32, f16 and bf16 are taken. The
    /// folder of an adapter gives its base model with the adapter merged into it. `stand` says what
    /// the weights are for, [`Kind::Weight`], [`Kind::Narrow`] or [`Kind::Frozen`], or that the layers'
    /// maps are to be packed, each as it is read.
    ///
    /// # Errors
    /// A user error if the folder has no weights, a file is cut off or is not safetensors, or a
    /// tensor is missing, superfluous, of another shape or type, or in two shards. It names the
    /// file and the tensor.
    pub fn load_as(backend: B, stand: impl Into<Stand>, dir: &Path) -> Result<Self> {
        if peft::is_adapter(dir) {
            return Self::load_merged(backend, stand, &peft::base_folder(dir)?, Some(dir));
        }
        Self::load_merged(backend, stand, dir, None)
    }

    /// Reads a model from a folder and merges the adapter of another one into it.
    ///
    /// # Errors
    /// As [`Decoder::load_as`], and if the adapter is of another model.
    pub fn load_merged(
        backend: B,
        stand: impl Into<Stand>,
        dir: &Path,
        adapter: Option<&Path>,
    ) -> Result<Self> {
        let stand = stand.into();
        let config = ModelConfig::load(dir)?;
        let adapter = adapter.map(|adapter| Merging::open(adapter, dir, &config)).transpose()?;
        let index = Index::find(dir)?;
        let maps = index.files().into_iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
        let files = maps.iter().map(Shard::parse).collect::<Result<Vec<_>>>()?;
        let mut found = Found::new();
        for (shard, file) in maps.iter().zip(&files) {
            for (name, view) in file.tensors() {
                if let Some((other, _)) = found.insert(name.clone(), (shard, view)) {
                    bail_user!(
                        "{}: the tensor {name} is also in {}",
                        shard.path.display(),
                        other.path.display()
                    );
                }
            }
        }
        index.check(&found)?;
        check_names(&config, &found, dir)?;
        Self::build(backend, config, stand, |backend, spec| {
            read(backend, stand, spec, &found, adapter.as_ref())
        })
    }
}

/// The tensors of all files by name.
type Found<'a> = BTreeMap<String, (&'a Shard, TensorView<'a>)>;

/// Which files there are, and which tensors each should have.
struct Index {
    /// The index itself, or the only file.
    path: PathBuf,
    /// Tensor and file; none where there is no index.
    pairs: Option<Pairs>,
}

/// The entries of a JSON object, which may name a key twice.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensor names and file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: Pairs,
}

impl Index {
    fn find(dir: &Path) -> Result<Self> {
        let (single, path) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() {
            return Ok(Self { path: single, pairs: None });
        }
        if !path.exists() {
            let old = dir.join("pytorch_model.bin").exists()
                || dir.join("pytorch_model.bin.index.json").exists();
            let hint =
                if old { "; pytorch_model.bin is not read, save it as safetensors" } else { "" };
            bail_user!("{}: neither {SINGLE} nor {INDEX} is there{hint}", dir.display());
        }
        let text = std::io::read_to_string(open_input(&path)?)
            .map_err(|err| user(format!("{}: cannot be read as text: {err}", path.display())))?;
        let IndexFile { weight_map } = serde_json::from_str(&text)
            .map_err(|err| user(format!("{}: not an index of shards: {err}", path.display())))?;
        let index = Self { path, pairs: Some(weight_map) };
        let mut files: BTreeMap<&str, &str> = BTreeMap::new();
        for (tensor, file) in index.pairs() {
            if let Some(other) = files.insert(tensor, file) {
                bail_user!(
                    "{}: the tensor {tensor} is named twice, in {other} and in {file}",
                    index.path.display()
                );
            }
            if file.contains(['/', '\\']) || !dir.join(file).is_file() {
                bail_user!(
                    "{}: the tensor {tensor} should be in {file}, but there is no such file beside it",
                    index.path.display()
                );
            }
        }
        Ok(index)
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().flat_map(|pairs| &pairs.0).map(|(tensor, file)| (&tensor[..], &file[..]))
    }

    /// The files, in order.
    fn files(&self) -> Vec<PathBuf> {
        match &self.pairs {
            None => vec![self.path.clone()],
            Some(_) => {
                let names: BTreeSet<&str> = self.pairs().map(|(_, file)| file).collect();
                names.into_iter().map(|name| self.path.with_file_name(name)).collect()
            }
        }
    }

    /// The files hold what the index says, and nothing else.
    fn check(&self, found: &Found) -> Result<()> {
        if self.pairs.is_none() {
            return Ok(());
        }
        let mut named = BTreeSet::new();
        for (tensor, file) in self.pairs() {
            let path = self.path.with_file_name(file);
            if found.get(tensor).is_none_or(|(shard, _)| shard.path != path) {
                bail_user!(
                    "{}: the tensor {tensor} should be in {file}, which does not have it",
                    self.path.display()
                );
            }
            named.insert(tensor);
        }
        if let Some((tensor, (shard, _))) =
            found.iter().find(|(name, _)| !named.contains(&name[..]))
        {
            bail_user!(
                "{}: the tensor {tensor} is there, but {INDEX} does not name it",
                shard.path.display()
            );
        }
        Ok(())
    }
}

/// A mapped file.
pub(super) struct Shard {
    pub path: PathBuf,
    map: Mmap,
}

impl Shard {
    pub fn open(path: PathBuf) -> Result<Self> {
        let file = open_input(&path)?;
        // SAFETY: the map is read only while a model is loaded; if another process shortens the
        // file meanwhile, that process breaks the promise which every reader of mapped files relies
        // on.
        let map = unsafe { Mmap::map(&file) }
            .with_context(|| format!("cannot map {}", path.display()))?;
        Ok(Self { path, map })
    }

    pub fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map).map_err(|err| {
            user(format!(
                "{}: not a whole safetensors file ({err}); is it cut off?",
                self.path.display()
            ))
        })
    }

    /// Lets go of the pages of a tensor that has been read, so that a large model does not stand in
    /// memory twice.
    fn release(&self, view: &TensorView) {
        #[cfg(unix)]
        {
            let start = view.data().as_ptr().addr() - self.map.as_ptr().addr();
            // SAFETY: the map is of a file and never written to: pages that are let go come back
            // from the file with the same bytes.
            let advised = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    view.data().len(),
                )
            };
            // Advice that is not taken costs memory, not correctness.
            drop(advised);
        }
    }
}

/// Every tensor that the config asks for is there, and no other.
fn check_names(config: &ModelConfig, found: &Found, dir: &Path) -> Result<()> {
    let specs = specs(config);
    let wanted: BTreeSet<&str> = specs
        .all()
        .into_iter()
        .flat_map(|spec| &spec.parts)
        .map(|part| part.name.as_str())
        .collect();
    if let Some(name) = wanted.iter().find(|name| !found.contains_key(**name)) {
        bail_user!(
            "{}: the tensor {name}, which config.json asks for, is missing from the weights",
            dir.display()
        );
    }
    for (name, (Shard { path, .. }, view)) in found {
        let tied_head = config.tie_word_embeddings && name == "lm_head.weight";
        if tied_head
            && found
                .get("model.embed_tokens.weight")
                .is_some_and(|(_, table)| table.data() != view.data())
        {
            bail_user!(
                "{}: lm_head.weight differs from model.embed_tokens.weight, but config.json says tie_word_embeddings",
                path.display()
            );
        }
        if !wanted.contains(name.as_str()) && !tied_head && !name.ends_with(DERIVED) {
            bail_user!(
                "{}: the tensor {name} has no place in the model of config.json",
                path.display()
            );
        }
    }
    Ok(())
}

/// One of our tensors out of the checkpoint's parts, and what an adapter adds to it.
fn read<B: Backend>(
    backend: &B,
    stand: Stand,
    spec: &Spec,
    found: &Found,
    adapter: Option<&Merging>,
) -> Result<B::Tensor> {
    let views = spec.parts.iter().map(|part| match found.get(&part.name) {
        Some(found) => Ok((part, found)),
        None => bail_user!("the tensor {} is missing from the weights", part.name),
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let parts = views.iter().map(|(part, (shard, view))| stored(part, &shard.path, view));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let tensor = match adapter.filter(|adapter| adapter.adapts(spec)) {
        None => stand.load(backend, spec, &parts),
        Some(adapter) => {
            let mut values = Cpu.load(Kind::Weight, &parts);
            adapter.add(spec, &mut values);
            stand.tensor(backend, spec, values)
        }
    };
    for (_, (shard, view)) in views {
        shard.release(view);
    }
    Ok(tensor)
}

/// The values of a tensor of a file.
pub(super) fn values(name: &str, path: &Path, view: &TensorView) -> Result<Vec<f32>> {
    let stored = Stored { kind: stored_kind(name, path, view)?, bytes: view.data() };
    Ok(Cpu.load(Kind::Weight, &[stored]))
}

/// A tensor of a file, which has to be of the config's shape and of a known type.
fn stored<'a>(part: &Part, path: &Path, view: &TensorView<'a>) -> Result<Stored<'a>> {
    if view.shape() != part.shape {
        bail_user!(
            "{}: the tensor {} has the shape {:?}, and config.json asks for {:?}",
            path.display(),
            part.name,
            view.shape(),
            part.shape
        );
    }
    Ok(Stored { kind: stored_kind(&part.name, path, view)?, bytes: view.data() })
}

fn stored_kind(name: &str, path: &Path, view: &TensorView) -> Result<StoredKind> {
    Ok(match view.dtype() {
        safetensors::Dtype::F32 => StoredKind::F32,
        safetensors::Dtype::F16 => StoredKind::F16,
        safetensors::Dtype::BF16 => StoredKind::Bf16,
        other => bail_user!(
            "{}: the tensor {name} is of type {other:?}; F32, F16 and BF16 are supported",
            path.display()
        ),
    })
}
