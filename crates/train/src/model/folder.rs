//! A model as a Hugging Face folder: `config.json` and `model.safetensors`, or shards with
//! `model.safetensors.index.json`. Files are mapped, not read; every tensor's name, shape and type
//! is checked before it is taken, and a message names the tensor that differs.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use artifact::bail_user;
use artifact::error::{open_input, user};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, View};
use serde_json::Value;

use super::weights::{Part, Spec, specs};
use super::{Decoder, Model, ModelConfig};
use crate::ops::{Backend, Cpu};

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

    /// Writes `config.json` and `model.safetensors` into an existing folder, as `transformers`
    /// reads them.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, dir: &Path, dtype: Dtype) -> Result<()> {
        let mut config = self.config().to_json();
        let name = match dtype {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
        };
        if let Some(fields) = config.as_object_mut() {
            fields.shift_remove("dtype");
            fields.insert("torch_dtype".into(), name.into());
        }
        let path = dir.join("config.json");
        let text = serde_json::to_string_pretty(&config).context("config as JSON")? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;

        let shapes =
            self.specs.all().into_iter().flat_map(|spec| &spec.parts).map(|part| &part.shape);
        let tensors = self.parameters().into_iter().zip(shapes);
        let tensors = tensors.map(|((name, values), shape)| (name, Saved { values, shape, dtype }));
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = dir.join(SINGLE);
        safetensors::serialize_to_file(tensors, Some(metadata), &path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        make_readable(&path)
    }
}

/// The crate writes through a temporary file that only its owner may read; a model folder is to be
/// shared as its other files are.
fn make_readable(path: &Path) -> Result<()> {
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

/// A tensor on its way into a file.
struct Saved<'a> {
    values: &'a [f32],
    shape: &'a [usize],
    dtype: Dtype,
}

impl View for Saved<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::Bf16 => safetensors::Dtype::BF16,
        }
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        match self.dtype {
            Dtype::F32 => self.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::Bf16 => {
                self.values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()
            }
        }
    }
    fn data_len(&self) -> usize {
        self.values.len() * if self.dtype == Dtype::F32 { 4 } else { 2 }
    }
}

impl<B: Backend + Clone> Decoder<B> {
    /// Reads a model from a Hugging Face folder. Values of type f32, f16 and bf16 are taken.
    ///
    /// # Errors
    /// A user error if the folder has no weights, a file is cut off or is not safetensors, or a
    /// tensor is missing, superfluous, of another shape or type, or in two shards. It names the
    /// file and the tensor.
    pub fn load_on(backend: B, dir: &Path) -> Result<Self> {
        let config = ModelConfig::load(dir)?;
        let maps = shards(dir)?.into_iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
        let files = maps.iter().map(Shard::parse).collect::<Result<Vec<_>>>()?;
        let mut found: BTreeMap<String, (&Path, TensorView)> = BTreeMap::new();
        for (shard, file) in maps.iter().zip(&files) {
            for (name, view) in file.tensors() {
                if let Some((other, _)) = found.insert(name.clone(), (&shard.path, view)) {
                    bail_user!(
                        "{}: the tensor {name} is also in {}",
                        shard.path.display(),
                        other.display()
                    );
                }
            }
        }
        check_names(&config, &found, dir)?;
        Self::build(backend, config, |spec| read(spec, &found))
    }
}

/// The files with weights, in order.
fn shards(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join(INDEX);
    if dir.join(SINGLE).exists() {
        return Ok(vec![dir.join(SINGLE)]);
    }
    if !index.exists() {
        bail_user!("{}: neither {SINGLE} nor {INDEX} is there", dir.display());
    }
    let text = std::io::read_to_string(open_input(&index)?)
        .map_err(|err| user(format!("{}: cannot be read as text: {err}", index.display())))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|err| user(format!("{}: not JSON: {err}", index.display())))?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        bail_user!("{}: the object weight_map is missing", index.display());
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str().filter(|name| !name.contains(['/', '\\'])) {
            Some(name) => names.insert(name),
            None => bail_user!(
                "{}: {tensor}: expected the name of a file, found {file}",
                index.display()
            ),
        };
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// A mapped file.
struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let file = open_input(&path)?;
        // SAFETY: the map is read only while a model is loaded; if another process shortens the
        // file meanwhile, that process breaks the promise which every reader of mapped files relies
        // on.
        let map = unsafe { Mmap::map(&file) }
            .with_context(|| format!("cannot map {}", path.display()))?;
        Ok(Self { path, map })
    }

    fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map).map_err(|err| {
            user(format!(
                "{}: not a whole safetensors file ({err}); is it cut off?",
                self.path.display()
            ))
        })
    }
}

/// Every tensor that the config asks for is there, and no other.
fn check_names(
    config: &ModelConfig,
    found: &BTreeMap<String, (&Path, TensorView)>,
    dir: &Path,
) -> Result<()> {
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
    for (name, (path, view)) in found {
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

/// One of our tensors out of the checkpoint's parts.
fn read(spec: &Spec, found: &BTreeMap<String, (&Path, TensorView)>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; spec.elements()];
    for part in &spec.parts {
        let Some((path, view)) = found.get(&part.name) else {
            bail_user!("the tensor {} is missing from the weights", part.name);
        };
        read_part(&mut values[part.range.clone()], part, path, view)?;
    }
    Ok(values)
}

/// Little-endian bytes to values.
type Convert = fn(&[u8], &mut [f32]);

/// Values that one task converts.
const BLOCK: usize = 1 << 16;

fn read_part(values: &mut [f32], part: &Part, path: &Path, view: &TensorView) -> Result<()> {
    if view.shape() != part.shape {
        bail_user!(
            "{}: the tensor {} has the shape {:?}, and config.json asks for {:?}",
            path.display(),
            part.name,
            view.shape(),
            part.shape
        );
    }
    let (size, convert): (usize, Convert) = match view.dtype() {
        safetensors::Dtype::F32 => (4, from_f32),
        safetensors::Dtype::F16 => (2, from_f16),
        safetensors::Dtype::BF16 => (2, from_bf16),
        other => bail_user!(
            "{}: the tensor {} is of type {other:?}; F32, F16 and BF16 are supported",
            path.display(),
            part.name
        ),
    };
    let blocks = values.par_chunks_mut(BLOCK).zip(view.data().par_chunks(BLOCK * size));
    blocks.for_each(|(values, bytes)| convert(bytes, values));
    Ok(())
}

fn from_f32(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

fn from_bf16(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = bf16::from_le_bytes(*bytes).to_f32();
    }
}

fn from_f16(bytes: &[u8], values: &mut [f32]) {
    let halves: Vec<f16> =
        bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
    halves.convert_to_f32_slice(values);
}
