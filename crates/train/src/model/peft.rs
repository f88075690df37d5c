//! An adapter as PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`, beside which
//! we put the base model's `config.json` and the hashes of its weights. A folder of ours loads in
//! PEFT; one of PEFT's loads here, merged into its base: W + s B A, whose rows DoRA gives their
//! magnitudes. What its config asks for beyond LoRA and DoRA is refused by the name of its key.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use artifact::bail_user;
use artifact::error::{open_input, user};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::adapter::{Layout, Lora, Matrix, Member, Target, peft_name};
use super::fields::Fields;
use super::folder::{self, Dtype, Elsewhere, Saved, Shard};
use super::weights::{Part, Projection, Role, Spec, specs};
use super::{Attached, Decoder, ModelConfig};
use crate::ops::{Backend, Cpu};
use crate::shared::weights_hash;

/// The file that makes a folder an adapter's.
pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Hash of each file of the base model's weights, which the adapter is worth nothing without.
const BASE: &str = "base_weights.json";

/// Keys that do not change what W + s B A is. Those about which modules have an adapter are among
/// them: the tensors that are there say it too.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
];

/// Keys that are read, or checked by [`read_lora`].
const READ: &[&str] = &[
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "task_type",
    "use_dora",
    "use_rslora",
];

/// Whose weights an adapter stands beside.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// The model's folder, which PEFT calls `base_model_name_or_path`.
    pub folder: PathBuf,
    /// blake3 of each file of its weights.
    pub weights: Map<String, Value>,
    /// How the adapter began, as PEFT names it (`init_lora_weights`); null where we began it.
    pub began: Value,
}

impl Base {
    /// A model folder with the hashes of its weights.
    ///
    /// # Errors
    /// If the folder is not there.
    pub fn new(folder: &Path, weights: Map<String, Value>) -> Result<Self> {
        // Absolute, so that the adapter finds it from wherever it is loaded.
        let folder = std::path::absolute(folder)
            .with_context(|| format!("cannot find {}", folder.display()))?;
        Ok(Self { folder, weights, began: Value::Null })
    }
}

/// Whether a folder holds an adapter and not a whole model.
#[must_use]
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).exists()
}

/// The folder whose tokenizer and settings go with a model: an adapter's base where the adapter's
/// folder, as PEFT writes it, has no tokenizer.
///
/// # Errors
/// As [`base_folder`].
pub fn tokenizer_folder(dir: &Path) -> Result<PathBuf> {
    if is_adapter(dir) && !dir.join("tokenizer.json").exists() {
        return base_folder(dir);
    }
    Ok(dir.to_owned())
}

/// The folder of an adapter's base model.
///
/// # Errors
/// A user error if the config cannot be read or names no folder with a whole model.
pub fn base_folder(dir: &Path) -> Result<PathBuf> {
    let (path, map) = read_config(dir)?;
    let Some(name) = map.get("base_model_name_or_path").and_then(Value::as_str) else {
        bail_user!(
            "{}: base_model_name_or_path is missing; merge the adapter into its base model with \
             `isogloss merge {} --base MODEL`",
            path.display(),
            dir.display()
        );
    };
    let candidates = [PathBuf::from(name), dir.join(name)];
    match candidates.into_iter().find(|folder| folder.join("config.json").exists()) {
        Some(folder) if is_adapter(&folder) => bail_user!(
            "{}: the base model {name} is an adapter itself; merge it first, with `isogloss merge`",
            path.display()
        ),
        Some(folder) => Ok(folder),
        None => bail_user!(
            "{}: the base model {name} (base_model_name_or_path) is not a model folder here; merge \
             the adapter into it with `isogloss merge {} --base MODEL`, where MODEL may be \
             hf://owner/name",
            path.display(),
            dir.display()
        ),
    }
}

fn read_config(dir: &Path) -> Result<(PathBuf, Map<String, Value>)> {
    let path = dir.join(CONFIG);
    let map = serde_json::from_reader(std::io::BufReader::new(open_input(&path)?))
        .map_err(|error| user(format!("{}: not a JSON object: {error}", path.display())))?;
    Ok((path, map))
}

/// Rank and scale, after all else is found to be what plain LoRA has. The targets stay empty.
fn read_lora(path: &Path, map: &Map<String, Value>) -> Result<Lora> {
    let fields = Fields::new(map, path);
    let is_plain = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    };
    let set: Map<String, Value> =
        map.iter().filter(|(_, v)| !is_plain(v)).map(|(k, v)| (k.clone(), v.clone())).collect();
    Fields::new(&set, path).refuse_others(&[WITHOUT_EFFECT, READ].concat(), "an adapter")?;
    let one_of = |key: &str, allowed: &[Value]| match fields.get(key) {
        Some(value) if !allowed.contains(value) => Err(fields.wrong(
            key,
            &allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "),
            value,
        )),
        _ => Ok(()),
    };
    one_of("peft_type", &[json!("LORA")])?;
    one_of("task_type", &[json!("CAUSAL_LM")])?;
    one_of("bias", &[json!("none")])?;
    // Others (PiSSA, OLoRA, …) change the base's weights too.
    let plain = ["gaussian", "eva", "orthogonal"].map(Value::from);
    one_of("init_lora_weights", &[&[json!(true), json!(false)][..], &plain].concat())?;
    Ok(Lora {
        rank: fields.size("r", Some(8))?,
        alpha: fields.number("lora_alpha", Some(8.0))?,
        rslora: fields.flag("use_rslora", false)?,
        dropout: 0.0,
        dora: fields.flag("use_dora", false)?,
        targets: Vec::new(),
    })
}

/// What the adapter of a folder is, as its training would go on.
///
/// # Errors
/// A user error if a file is missing or broken, or the config asks for what is neither LoRA nor DoRA.
pub fn settings(dir: &Path) -> Result<Lora> {
    let (path, map) = read_config(dir)?;
    let lora = read_lora(&path, &map)?;
    let shard = Shard::open(dir.join(WEIGHTS))?;
    let file = shard.parse()?;
    let has = |target: &Target| {
        let end = format!("{}.lora_A.weight", target.name());
        file.names().iter().any(|name| name.ends_with(&end))
    };
    let targets = Target::ALL.into_iter().filter(has).collect();
    let dropout = match map.get("lora_dropout") {
        None | Some(Value::Null) => 0.0,
        Some(value) => match value.as_f64().filter(|share| (0.0..1.0).contains(share)) {
            Some(share) => share,
            None => bail_user!(
                "{}: lora_dropout: expected a number from 0 to below 1, found {value}",
                path.display()
            ),
        },
    };
    Ok(Lora { targets, dropout, ..lora })
}

/// An adapter as read.
pub struct Merging {
    dir: PathBuf,
    lora: Lora,
    /// Shape and values of each tensor.
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Merging {
    /// Reads an adapter's folder and checks that it is beside this base model.
    ///
    /// # Errors
    /// A user error if a file is missing or broken, the config asks for what is not plain LoRA, or
    /// the adapter is of another model.
    pub fn open(dir: &Path, base: &Path, config: &ModelConfig) -> Result<Self> {
        let (path, map) = read_config(dir)?;
        let lora = read_lora(&path, &map)?;
        check_base(dir, base)?;
        let shard = Shard::open(dir.join(WEIGHTS))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in shard.parse()?.tensors() {
            let values = folder::values(&name, &shard.path, &view)?;
            // PEFT has written both names.
            let name = match name.strip_suffix("_vector.weight") {
                Some(module) => format!("{module}_vector"),
                None => name,
            };
            tensors.insert(name, (view.shape().to_vec(), values));
        }
        let merging = Self { dir: dir.to_owned(), lora, tensors };
        merging.check(config)?;
        Ok(merging)
    }

    /// The tensors that a module has.
    fn members(&self) -> impl Iterator<Item = Member> {
        let magnitude = self.lora.dora.then_some(Member::Magnitude);
        [Member::A, Member::B].into_iter().chain(magnitude)
    }

    /// Every tensor belongs to a module of the model, has its shape, and the module has all of them.
    fn check(&self, config: &ModelConfig) -> Result<()> {
        let (specs, rank) = (specs(config), self.lora.rank);
        let path = self.dir.join(WEIGHTS);
        let mut known = BTreeMap::new();
        let layers = specs.layers.iter();
        let maps = layers
            .flat_map(|layer| Projection::ALL.map(|projection| &layer.linear(projection).weight));
        for part in maps.flat_map(|spec| &spec.parts) {
            let module = part.name.trim_end_matches(".weight");
            let (outputs, inputs) = (part.shape[0], part.shape[1]);
            for member in self.members() {
                let shape = match member {
                    Member::A => vec![rank, inputs],
                    Member::B => vec![outputs, rank],
                    Member::Magnitude => vec![outputs],
                };
                known.insert(peft_name(module, member), (module, shape));
            }
        }
        for (name, (shape, _)) in &self.tensors {
            let Some((module, wanted)) = known.get(name) else {
                bail_user!(
                    "{}: the tensor {name} has no place beside a {} model's {}; is it an adapter \
                     for another model, or more than its config says (use_dora: {})?",
                    path.display(),
                    config.family.model_type,
                    Target::ALL.map(Target::name).join(", "),
                    self.lora.dora
                );
            };
            if shape != wanted {
                bail_user!(
                    "{}: the tensor {name} has the shape {shape:?}, where rank {rank} and the base \
                     model ask for {wanted:?}; the adapter is for another model",
                    path.display()
                );
            }
            let mut others = self.members().map(|member| peft_name(module, member));
            if let Some(other) = others.find(|other| !self.tensors.contains_key(other)) {
                bail_user!("{}: {name} is there, but {other} is missing", path.display());
            }
        }
        if self.tensors.is_empty() {
            bail_user!("{}: there is no tensor in it", path.display());
        }
        Ok(())
    }

    /// Whether a part of this tensor has an adapter.
    pub(super) fn adapts(&self, spec: &Spec) -> bool {
        spec.parts.iter().any(|part| {
            self.tensors.contains_key(&peft_name(part.name.trim_end_matches(".weight"), Member::A))
        })
    }

    /// Adds s B A to those parts of a tensor that have an adapter, and gives their rows the magnitudes
    /// that it has for them.
    pub(super) fn add(&self, spec: &Spec, values: &mut [f32]) {
        let (rank, scale) = (self.lora.rank, self.lora.scale());
        for part in &spec.parts {
            let module = part.name.trim_end_matches(".weight");
            let own = |member| Some(&self.tensors.get(&peft_name(module, member))?.1);
            let Some((a, b)) = own(Member::A).zip(own(Member::B)) else { continue };
            let (inputs, magnitudes) = (part.shape[1], own(Member::Magnitude));
            let rows = values[part.range.clone()].par_chunks_mut(inputs).zip(b.par_chunks(rank));
            rows.enumerate().for_each(|(number, (row, b))| {
                for (i, value) in row.iter_mut().enumerate() {
                    let product = b.iter().zip(a[i..].iter().step_by(inputs));
                    *value += scale * product.map(|(b, a)| b * a).sum::<f32>();
                }
                if let Some(magnitudes) = magnitudes {
                    let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                    // A row of zeros has no direction.
                    let factor =
                        if norm > 0.0 { f64::from(magnitudes[number]) / norm } else { 0.0 };
                    row.iter_mut().for_each(|value| *value *= factor as f32);
                }
            });
        }
    }
}

/// The base's weights are those that an adapter of ours was trained beside.
fn check_base(dir: &Path, base: &Path) -> Result<()> {
    let path = dir.join(BASE);
    if !path.exists() {
        return Ok(());
    }
    let hashes: Map<String, Value> = serde_json::from_reader(open_input(&path)?)
        .map_err(|error| user(format!("{}: not a JSON object: {error}", path.display())))?;
    for (name, hash) in &hashes {
        let file = base.join(name);
        let found = if file.exists() { weights_hash(&file)? } else { "missing".to_owned() };
        let hash = hash.as_str().unwrap_or("not named");
        if hash != found {
            bail_user!(
                "{}: the adapter was trained beside other weights: {} was {hash} then (blake3), and \
                 is {found} now",
                dir.display(),
                file.display()
            );
        }
    }
    Ok(())
}

/// Writes an adapter's folder.
pub(super) fn save<B: Backend + Clone>(
    model: &Decoder<B>,
    attached: &Attached<B::Tensor>,
    dir: &Path,
    dtype: Dtype,
    elsewhere: &Elsewhere,
) -> Result<()> {
    let Attached { layout, tensors, base, .. } = attached;
    let Lora { rank, alpha, rslora, dropout, dora, targets } = &layout.lora;
    folder::write_json(&dir.join("config.json"), &model.config.to_json())?;
    let whole = (alpha.fract() == 0.0).then_some(*alpha as i64);
    let mut config = json!({
        "base_model_name_or_path": base.folder,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": if base.began.is_null() { &json!(true) } else { &base.began },
        "lora_alpha": whole.map_or(json!(alpha), |whole| json!(whole)),
        "lora_dropout": dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "revision": null,
        "target_modules": targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
        "task_type": "CAUSAL_LM",
        "use_rslora": rslora,
    });
    if *dora {
        config["use_dora"] = json!(true);
    }
    folder::write_json(&dir.join(CONFIG), &config)?;
    if !base.weights.is_empty() {
        folder::write_json(&dir.join(BASE), &json!(base.weights))?;
    }
    let own = |tensor| model.backend.values(tensor, model.backend.len(tensor));
    let values = tensors.all().into_iter().enumerate();
    let values = values.map(|(index, tensor)| Ok(elsewhere(index)?.unwrap_or_else(|| own(tensor))));
    let mut values = values.collect::<Result<Vec<_>>>()?.into_iter();
    let values = tensors.map(|_| values.next().unwrap_or_default());
    let matrices = layout.matrices(&values).into_iter().map(|Matrix { name, shape, values }| {
        let range = 0..values.len();
        let role = if shape.len() == 1 { Role::Magnitude } else { Role::Matrix };
        (Part { name, shape, role, range, number: 0 }, values)
    });
    let matrices: Vec<(Part, Vec<f32>)> = matrices.collect();
    let views = matrices.iter().map(|(part, tensor)| {
        // A magnitude in bf16 would be off by more than a training moves it.
        let dtype = if part.role == Role::Magnitude { Dtype::F32 } else { dtype };
        (&part.name, Saved { backend: &Cpu, tensor, len: tensor.len(), part, dtype, from: None })
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = dir.join(WEIGHTS);
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    folder::make_readable(&path)
}

impl<B: Backend + Clone> Decoder<B> {
    /// Puts the adapter of a folder, unmerged, beside the weights, to be trained on.
    ///
    /// # Errors
    /// A user error as for [`Merging::open`], and if a module's tensors are missing.
    pub fn attach_from(&mut self, dir: &Path, lora: Lora, mut base: Base) -> Result<()> {
        base.began = read_config(dir)?.1.remove("init_lora_weights").unwrap_or_default();
        let mut read = Merging::open(dir, &base.folder, &self.config)?;
        let layout = Layout::new(lora, &self.specs);
        let values = layout.assemble(|module, member, _| {
            let name = peft_name(&module.name, member);
            match read.tensors.remove(&name) {
                Some((_, values)) => Ok(values),
                None => bail_user!("{}: the tensor {name} is missing", dir.display()),
            }
        })?;
        self.attach_values(layout, &values, base);
        Ok(())
    }
}
