//! Adapters against PEFT: losses, the gradients of every A and B, twenty steps of AdamW, merging, and
//! the folder. `fixtures/lora/make_fixtures.py` made the files. With `ISOGLOSS_PARITY_LORA=FOLDER` the
//! adapters of that folder are taken instead, and each is saved once more into `export` and merged
//! into `merged`, for PEFT and transformers to load (`fixtures/lora/parity.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::error::is_user;
use safetensors::{Dtype as Kind, SafeTensors};
use serde_json::{Value, json};
use train::model::adapter::{Lora, Target};
use train::model::{Base, Batch, Decoder, Dtype, Gradients, KvCache, Model, ModelConfig, Stand};
use train::ops::{Backend, Cpu, Kind as Use, Nf4, Reference};
use train::optimizer::AdamW;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn live() -> Option<PathBuf> {
    std::env::var_os("ISOGLOSS_PARITY_LORA").map(PathBuf::from)
}

/// The adapters to compare.
fn folders() -> Vec<PathBuf> {
    let at = live().unwrap_or_else(|| fixtures().join("lora"));
    let entries = std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> =
        entries.filter(|path| path.join("expected.safetensors").exists()).collect();
    folders.sort();
    assert!(folders.len() >= 4, "{}", at.display());
    folders
}

fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let values = |view: &safetensors::tensor::TensorView| match view.dtype() {
        Kind::F32 => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Kind::I32 => {
            view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect()
        }
        other => panic!("{other:?}"),
    };
    let all = SafeTensors::deserialize(&bytes).unwrap().tensors();
    all.iter().map(|(name, view)| (name.clone(), (view.shape().to_vec(), values(view)))).collect()
}

/// The seed that the fixtures' masks are drawn by.
const SEED: u64 = (3 << 32) | 5;

/// What PEFT computed, by name.
struct Expected(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Expected {
    fn load(folder: &Path) -> Self {
        Self(tensors(&folder.join("expected.safetensors")))
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("{name} is not in the fixture")).1
    }

    fn batch_of(&self, tokens: &[f32], targets: &[f32]) -> Batch {
        let ends = self.get("lengths").iter().scan(0, |end, &len| {
            *end += len as u32;
            Some(*end)
        });
        Batch {
            tokens: tokens.iter().map(|&id| id as u32).collect(),
            targets: targets.iter().map(|&id| id as i32).collect(),
            documents: std::iter::once(0).chain(ends).collect(),
        }
    }

    fn batch(&self) -> Batch {
        self.batch_of(self.get("tokens"), self.get("targets"))
    }
}

fn lora_of(folder: &Path) -> Lora {
    let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<String> = serde_json::from_value(config["target_modules"].clone()).unwrap();
    Lora {
        rank: config["r"].as_u64().unwrap() as usize,
        alpha: config["lora_alpha"].as_f64().unwrap(),
        rslora: config["use_rslora"].as_bool().unwrap(),
        dropout: config["lora_dropout"].as_f64().unwrap(),
        dora: config["use_dora"].as_bool().unwrap_or(false),
        targets: Target::ALL.into_iter().filter(|one| names.contains(&one.name().into())).collect(),
    }
}

/// How the base stands under the fixture's adapter.
fn stand_of(folder: &Path) -> Stand {
    let name = folder.file_name().unwrap().to_string_lossy();
    match name.contains("-nf4") {
        true => Nf4 { double_quant: name.ends_with("-double") }.into(),
        false => Use::Weight.into(),
    }
}

/// The base with the fixture's adapter beside it, not merged.
fn attached<B: Backend + Clone>(backend: B, folder: &Path) -> Decoder<B> {
    let base = train::model::peft::base_folder(folder).unwrap();
    let mut model = Decoder::load_as(backend, stand_of(folder), &base).unwrap();
    let of = Base::new(&base, serde_json::Map::new()).unwrap();
    model.attach_from(folder, lora_of(folder), of).unwrap();
    model
}

fn counted(batch: &Batch) -> f32 {
    batch.targets.iter().filter(|&&t| t >= 0).count() as f32
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()))
}

/// Fails where a value differs by more than the tolerance, relative to the largest expected one.
#[track_caller]
fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    let worst = worst.fold(0f32, |m, x| if x <= m { m } else { x }) / largest(expected);
    println!("lora\t{what}\t{worst:.1e}\t{tolerance:.0e}");
    assert!(worst <= tolerance, "{what}: {worst:e}");
}

/// Fails where the difference's norm is above the tolerance, relative to the expected one's. AdamW moves
/// a value by the learning rate even where its gradient is nothing but rounding, so that single
/// values say little after some steps.
#[track_caller]
fn assert_near_as_a_whole(found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    };
    let off = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let off = off / norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE);
    println!("lora\t{what}\t{off:.1e}\t{tolerance:.0e}");
    assert!(off <= tolerance, "{what}: {off:e}");
}

fn check_gradients<B: Backend + Clone>(backend: B, folder: &Path) {
    let expected = Expected::load(folder);
    let (mut model, batch) = (attached(backend, folder), expected.batch());
    let mut gradients = Gradients::zeros(&model);
    model.begin_step(SEED, 0, 0);
    let losses = model.forward_backward(&batch, 1.0 / counted(&batch), &mut gradients).unwrap();
    assert_near(&losses, expected.get("losses"), 1e-4, &format!("{} losses", folder.display()));
    // Nothing is dropped without a gradient.
    let drops = lora_of(folder).dropout > 0.0;
    assert_eq!(model.losses(&batch).unwrap() == losses, !drops);
    let found = gradients.named();
    let wanted = expected.0.keys().filter(|key| key.starts_with("gradient."));
    assert_eq!(found.len(), wanted.count());
    for (name, values) in found {
        let what = format!("{} gradient {name}", folder.display());
        assert_near(&values, expected.get(&format!("gradient.{name}")), 1e-4, &what);
    }
}

#[test]
fn losses_and_the_gradients_of_every_matrix_agree_with_peft() {
    for folder in folders() {
        check_gradients(Cpu, &folder);
        check_gradients(Reference, &folder);
    }
}

#[test]
fn the_gradients_are_those_of_the_merged_matrix_put_through_the_other_factor() {
    let is_plain = |folder: &PathBuf| {
        let Lora { dropout, dora, .. } = lora_of(folder);
        dropout == 0.0 && !dora && stand_of(folder).packed.is_none()
    };
    // W' = W + s B A, so dA = s Bᵀ dW' and dB = s dW' Aᵀ.
    for folder in folders().into_iter().filter(is_plain) {
        let (expected, scale) = (Expected::load(&folder), lora_of(&folder).scale());
        let batch = expected.batch();
        let of = |model: &mut Model| {
            let mut gradients = Gradients::zeros(model);
            model.forward_backward(&batch, 1.0 / counted(&batch), &mut gradients).unwrap();
            gradients.named().into_iter().collect::<BTreeMap<_, _>>()
        };
        let dense = of(&mut Model::load(&folder).unwrap());
        let thin = of(&mut attached(Cpu, &folder));
        let matrices = tensors(&folder.join("adapter_model.safetensors"));
        for (name, (shape, a)) in &matrices {
            let Some(module) = name.strip_suffix(".lora_A.weight") else { continue };
            let b_name = format!("{module}.lora_B.weight");
            let ([rank, inputs], (b_shape, b)) = ([shape[0], shape[1]], &matrices[&b_name]);
            let weight = module.strip_prefix("base_model.model.").unwrap();
            let (outputs, dw) = (b_shape[0], &dense[&format!("{weight}.weight")]);
            let (mut da, mut db) = (vec![0.0; a.len()], vec![0.0; b.len()]);
            for (o, dw) in dw.chunks(inputs).enumerate() {
                for r in 0..rank {
                    for (i, dw) in dw.iter().enumerate() {
                        da[r * inputs + i] += scale * b[o * rank + r] * dw;
                        db[o * rank + r] += scale * dw * a[r * inputs + i];
                    }
                }
            }
            assert_eq!(db.len(), outputs * rank);
            assert_near(&thin[name], &da, 1e-4, name);
            assert_near(&thin[&b_name], &db, 1e-4, &b_name);
        }
    }
}

#[test]
fn twenty_steps_follow_peft_and_leave_the_base_as_it_is() {
    for folder in folders() {
        let expected = Expected::load(&folder);
        let mut model = attached(Cpu, &folder);
        let before = model.copy_as(Cpu, Use::Frozen);
        let (mut gradients, mut optimizer) = (Gradients::zeros(&model), AdamW::new(&model));
        (optimizer.beta2, optimizer.weight_decay) = (0.99, 0.1);
        let (tokens, targets) = (expected.get("steps.tokens"), expected.get("steps.targets"));
        let (rows, rate) = (expected.get("tokens").len(), expected.get("steps.rate")[0]);
        let mut curve = Vec::new();
        for ((tokens, targets), step) in tokens.chunks(rows).zip(targets.chunks(rows)).zip(0..) {
            model.begin_step(SEED, step, 0);
            let batch = expected.batch_of(tokens, targets);
            gradients.clear();
            let scale = 1.0 / counted(&batch);
            let losses = model.forward_backward(&batch, scale, &mut gradients).unwrap();
            curve.push(losses.iter().sum::<f32>() * scale);
            optimizer.step(&mut model, &gradients, rate);
        }
        let what = folder.display().to_string();
        assert_eq!(curve.len(), 20);
        assert_near(&curve, expected.get("steps.losses"), 1e-3, &format!("{what} 20 steps"));
        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), Dtype::F32).unwrap();
        for (name, (shape, values)) in tensors(&out.path().join("adapter_model.safetensors")) {
            let (wanted_shape, wanted) = &expected.0[&format!("trained.{name}")];
            assert_eq!(&shape, wanted_shape);
            assert_near_as_a_whole(&values, wanted, 1e-3, &format!("{what} trained {name}"));
        }
        assert!(model.copy_as(Cpu, Use::Frozen).parameters() == before.parameters());
    }
}

#[test]
fn a_folder_of_peft_is_merged_when_it_is_loaded_and_gives_its_logits() {
    for folder in folders() {
        let expected = Expected::load(&folder);
        let mut model = Model::load(&folder).unwrap();
        let (batch, vocab) = (expected.batch(), model.config().vocab_size);
        let (mut cache, mut found) = (KvCache::new(&model, 1, 64), Vec::new());
        let (mut wanted, logits) = (Vec::new(), expected.get("logits"));
        for ends in batch.documents.windows(2) {
            let tokens = &batch.tokens[ends[0] as usize..ends[1] as usize];
            found.extend(model.prefill(&mut cache, &[(0, tokens)]).unwrap().row(0).to_vec());
            wanted.extend(&logits[(ends[1] as usize - 1) * vocab..ends[1] as usize * vocab]);
        }
        assert_near(&found, &wanted, 1e-4, &format!("{} logits", folder.display()));
    }
}

#[test]
fn what_is_saved_has_pefts_names_and_is_read_back_bit_for_bit() {
    for folder in folders() {
        let temporary = tempfile::tempdir().unwrap();
        let under =
            |name: &str| live().map_or_else(|| temporary.path().join(name), |_| folder.join(name));
        let [export, merged] = ["export", "merged"].map(under);
        [&export, &merged].iter().for_each(|out| std::fs::create_dir_all(out).unwrap());
        attached(Cpu, &folder).save(&export, Dtype::F32).unwrap();
        let file = "adapter_model.safetensors";
        assert_eq!(tensors(&export.join(file)), tensors(&folder.join(file)));
        train::merge(&export, None, Dtype::F32, &merged).unwrap();
        assert!(!merged.join("adapter_config.json").exists());
        let [merged, direct] = [&merged, &folder].map(|folder| Model::load(folder).unwrap());
        assert_eq!(merged.parameters(), direct.parameters());
        assert_eq!(ModelConfig::load(&export).unwrap().hidden_size, direct.config().hidden_size);
    }
}

#[test]
fn an_adapter_begins_as_nothing_and_each_module_by_itself() {
    let base = fixtures().join("engine/llama");
    let begin = |targets: &[Target]| {
        let mut model = Model::load(&base).unwrap();
        let targets = targets.to_vec();
        let lora = Lora::new(4, 8.0, targets);
        model.attach(lora, Base::new(&base, serde_json::Map::new()).unwrap(), 7);
        model
    };
    let (mut all, mut plain) = (begin(&Target::ALL), Model::load(&base).unwrap());
    let batch = Expected::load(&fixtures().join("lora/llama")).batch();
    assert_eq!(all.losses(&batch).unwrap(), plain.losses(&batch).unwrap());
    let saved = |model: &Model| {
        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), Dtype::F32).unwrap();
        tensors(&out.path().join("adapter_model.safetensors"))
    };
    let (all, one) = (saved(&all), saved(&begin(&[Target::VProj])));
    assert!(one.len() < all.len() && one.iter().all(|(name, values)| all[name] == *values));
    for (name, (shape, values)) in &all {
        if name.contains("lora_B") {
            assert!(values.iter().all(|&value| value == 0.0), "{name}");
            continue;
        }
        // PEFT: kaiming_uniform_ with a = √5, which is uniform within ±1/√inputs; its deviation is
        // the bound over √3.
        let bound = 1.0 / (shape[1] as f32).sqrt();
        assert!(largest(values) <= bound && largest(values) > 0.9 * bound, "{name}");
        let squares = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((squares.sqrt() / bound * 3f32.sqrt() - 1.0).abs() < 0.25, "{name}");
    }
}

#[test]
fn magnitudes_begin_as_the_norms_of_the_rows_as_they_stand_and_change_nothing() {
    let base = fixtures().join("engine/qwen2");
    let batch = Expected::load(&fixtures().join("lora/qwen2")).batch();
    for stand in [Stand::from(Use::Frozen), Stand::from(Nf4 { double_quant: true })] {
        let load = || Decoder::load_as(Cpu, stand, &base).unwrap();
        let (mut plain, mut model) = (load(), load());
        let lora = Lora { dora: true, ..Lora::new(4, 8.0, Target::ALL.to_vec()) };
        model.attach(lora, Base::new(&base, serde_json::Map::new()).unwrap(), 7);
        let what = format!("{stand:?}");
        assert_near(&model.losses(&batch).unwrap(), &plain.losses(&batch).unwrap(), 1e-5, &what);
        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), Dtype::Bf16).unwrap();
        let bytes = std::fs::read(out.path().join("adapter_model.safetensors")).unwrap();
        let saved = SafeTensors::deserialize(&bytes).unwrap();
        let name = "base_model.model.model.layers.1.self_attn.k_proj.lora_magnitude_vector";
        let found = saved.tensor(name).unwrap();
        assert_eq!(found.dtype(), Kind::F32, "in bf16 it would be off by more than it moves");
        let found = found.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        let whole = Model::load(&base).unwrap();
        let parameters = whole.parameters();
        let of = |(name, _): &&(&str, &[f32])| *name == "model.layers.1.self_attn.k_proj.weight";
        let (_, weight) = parameters.iter().find(of).unwrap();
        let rows = weight.chunks(whole.config().hidden_size);
        let norms = rows.map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt());
        // In 4 bits a row is another one, a little.
        let tolerance = if stand.packed.is_some() { 0.1 } else { 1e-5 };
        let (found, norms): (Vec<f32>, Vec<f32>) = (found.collect(), norms.collect());
        assert_near(&found, &norms, tolerance, &what);
    }
}

/// A copy of the llama fixture's adapter, whose config is changed, and the message that it is refused with.
#[track_caller]
fn refusal(change: impl FnOnce(&Path, &mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let from = fixtures().join("lora/llama");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = json!(fixtures().join("engine/llama"));
    change(folder.path(), &mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    let error = Model::load(folder.path()).err().expect("the folder must be refused");
    assert!(is_user(&error), "{error:#}");
    error.to_string()
}

#[test]
fn what_is_neither_lora_nor_dora_is_refused_by_the_name_of_its_key() {
    for (key, value) in [
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"q_proj": 2})),
        ("alpha_pattern", json!({"q_proj": 2})),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("peft_type", json!("LOHA")),
        ("task_type", json!("SEQ_CLS")),
        ("init_lora_weights", json!("pissa")),
        ("trainable_token_indices", json!([1])),
        ("a_key_of_tomorrow", json!(1)),
        ("r", json!(0)),
        ("lora_alpha", json!("much")),
    ] {
        let message = refusal(|_, config| config[key] = value);
        assert!(message.contains(key) && message.contains("adapter_config.json"), "{message}");
    }
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let other = refusal(|_, config| {
        config["base_model_name_or_path"] = json!(fixtures().join("engine/mistral"));
    });
    assert!(other.contains("another model") && other.contains("shape"), "{other}");
    let rank = refusal(|_, config| config["r"] = json!(5));
    assert!(rank.contains("rank 5"), "{rank}");
    let nowhere = refusal(|_, config| config["base_model_name_or_path"] = json!("some/where"));
    assert!(nowhere.contains("some/where") && nowhere.contains("isogloss merge"), "{nowhere}");
    let retrained = refusal(|folder, _| {
        let hashes = json!({"model.safetensors": "0".repeat(64)});
        std::fs::write(folder.join("base_weights.json"), hashes.to_string()).unwrap();
    });
    assert!(retrained.contains("other weights") && retrained.contains("model.safetensors"));
    let half = refusal(|folder, _| {
        let path = folder.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(half.contains("cut off"), "{half}");
}
