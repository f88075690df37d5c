//! Model folders: what is written is read back, every layout that is supported is read alike, and
//! what is wrong with a folder is said by the name of the file, key or tensor, as the user's error.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use artifact::error::is_user;
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as Kind, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;
use train::model::{Dtype, Model, ModelConfig};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine").join(name)
}

/// A copy of a fixture's model.
fn copied(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// What a test does to the tensor of a name.
type Change = fn(&mut HashMap<String, Raw>, &str);

/// A tensor's type, shape and bytes.
type Raw = (Kind, Vec<usize>, Vec<u8>);

fn tensors(folder: &Path) -> HashMap<String, Raw> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let raw = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, raw(view))).collect()
}

fn write(path: &Path, tensors: &HashMap<String, Raw>) {
    let views = tensors.iter().map(|(name, (kind, shape, bytes))| {
        (name.clone(), TensorView::new(*kind, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// The message of a user's error.
#[track_caller]
fn refusal(folder: &Path) -> String {
    let error = Model::load(folder).err().expect("the folder must be refused");
    assert!(is_user(&error), "{error:#}");
    error.to_string()
}

/// The message when one key of a fixture's config is changed; null takes it out.
#[track_caller]
fn config_refusal(name: &str, key: &str, value: Value) -> String {
    let text = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config[key] = value;
    let error = ModelConfig::parse(&config.to_string(), Path::new("config.json"))
        .expect_err("must be refused");
    assert!(is_user(&error), "{error:#}");
    let message = error.to_string();
    assert!(message.contains("config.json") && message.contains(key), "{message}");
    message
}

#[test]
fn a_saved_model_is_read_back_bit_for_bit_with_its_config() {
    for name in ["llama", "llama_tied", "qwen2"] {
        let model = Model::load(&fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), Dtype::F32).unwrap();
        let again = Model::load(folder.path()).unwrap();
        assert_eq!(model.parameters(), again.parameters());
        let [mut before, after] = [model.config().to_json(), again.config().to_json()];
        assert_eq!(after["torch_dtype"], "float32");
        before.as_object_mut().unwrap().remove("dtype");
        before["torch_dtype"] = "float32".into();
        assert_eq!(before, after);
        assert_eq!(
            after["bos_token_id"], 1,
            "a field that does not concern the decoder is carried along"
        );
    }
}

#[test]
fn bf16_is_rounded_to_nearest_and_read_back() {
    let model = Model::load(&fixture("llama")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path(), Dtype::Bf16).unwrap();
    let again = Model::load(folder.path()).unwrap();
    assert_eq!(again.config().field("torch_dtype").unwrap(), "bfloat16");
    for ((name, exact), (_, rounded)) in model.parameters().iter().zip(again.parameters()) {
        for (exact, rounded) in exact.iter().zip(rounded) {
            assert_eq!(bf16::from_f32(*exact).to_f32(), *rounded, "{name}");
        }
    }
    let size = |folder: &Path| std::fs::metadata(folder.join("model.safetensors")).unwrap().len();
    assert!(size(folder.path()) < size(&fixture("llama")) * 2 / 3);
}

#[test]
fn halves_and_shards_are_read() {
    let folder = copied("qwen2");
    let mut all = tensors(folder.path());
    for (kind, shape, bytes) in all.values_mut() {
        let _ = shape;
        let values = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        *bytes = values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect();
        *kind = Kind::F16;
    }
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (first, second): (HashMap<_, _>, HashMap<_, _>) =
        all.into_iter().partition(|(name, _)| name.contains("layers.0"));
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", &first), ("b.safetensors", &second)] {
        write(&folder.path().join(file), part);
        map.extend(part.keys().map(|name| (name.clone(), file.into())));
    }
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let (found, exact) =
        (Model::load(folder.path()).unwrap(), Model::load(&fixture("qwen2")).unwrap());
    for ((name, found), (_, exact)) in found.parameters().iter().zip(exact.parameters()) {
        for (found, exact) in found.iter().zip(exact) {
            assert_eq!(*found, f16::from_f32(*exact).to_f32(), "{name}");
        }
    }

    std::fs::remove_file(folder.path().join("b.safetensors")).unwrap();
    assert!(refusal(folder.path()).contains("b.safetensors"));
    write(&folder.path().join("b.safetensors"), &first);
    assert!(refusal(folder.path()).contains("is also in"));
    std::fs::write(&index, "{}").unwrap();
    assert!(refusal(folder.path()).contains("weight_map"));
}

#[test]
fn a_folder_without_weights_or_config_says_what_is_missing() {
    let folder = copied("llama");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(refusal(folder.path()).contains("model.safetensors"));
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(refusal(folder.path()).contains("config.json"));
}

#[test]
fn a_cut_off_file_is_refused_wherever_it_is_cut() {
    let folder = copied("llama");
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains("model.safetensors") && message.contains("cut off"), "{message}");
    }
}

#[test]
fn missing_superfluous_misshapen_and_mistyped_tensors_are_named() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let changes: [(&str, Change); 4] = [
        ("missing", |all, name| {
            all.remove(name);
        }),
        ("no place", |all, name| {
            let raw = all[name].clone();
            all.insert(format!("{name}.extra"), raw);
        }),
        ("shape [24, 16]", |all, name| all.get_mut(name).unwrap().1.reverse()),
        ("type I32", |all, name| all.get_mut(name).unwrap().0 = Kind::I32),
    ];
    for (reason, change) in changes {
        let folder = copied("llama");
        let mut all = tensors(folder.path());
        change(&mut all, name);
        write(&folder.path().join("model.safetensors"), &all);
        let message = refusal(folder.path());
        assert!(message.contains(name) && message.contains(reason), "{message}");
    }
}

#[test]
fn a_tied_model_takes_a_head_that_is_the_embedding_and_no_other() {
    let folder = copied("qwen2");
    let mut all = tensors(folder.path());
    all.insert("lm_head.weight".into(), all["model.embed_tokens.weight"].clone());
    write(&folder.path().join("model.safetensors"), &all);
    assert!(Model::load(folder.path()).is_ok());
    all.get_mut("lm_head.weight").unwrap().2[0] ^= 1;
    write(&folder.path().join("model.safetensors"), &all);
    assert!(refusal(folder.path()).contains("tie_word_embeddings"));
}

#[test]
fn what_the_engine_does_not_do_is_refused_by_the_name_of_its_key() {
    let unknown = config_refusal("llama", "architectures", json!(["MambaForCausalLM"]).clone());
    assert!(
        unknown.contains("MambaForCausalLM") && unknown.contains("Qwen2ForCausalLM"),
        "{unknown}"
    );
    config_refusal("llama", "model_type", json!("gpt2"));
    config_refusal("llama", "hidden_act", json!("gelu"));
    config_refusal("llama", "mlp_bias", json!(true));
    config_refusal("llama", "attention_dropout", json!(0.1));
    config_refusal("llama", "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}));
    config_refusal(
        "llama",
        "rope_parameters",
        json!({"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0}),
    );
    config_refusal("llama", "quantization_config", json!({"bits": 4}));
    config_refusal("qwen2", "use_sliding_window", json!(true));
    config_refusal("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]));
    config_refusal("qwen2", "attention_bias", json!(false));
}

#[test]
fn values_that_cannot_be_are_refused_by_the_name_of_their_key() {
    config_refusal("llama", "hidden_size", json!(null));
    config_refusal("llama", "hidden_size", json!("wide"));
    config_refusal("llama", "num_hidden_layers", json!(0));
    config_refusal("llama", "num_key_value_heads", json!(3));
    config_refusal("llama", "rms_norm_eps", json!(-1));
    config_refusal("llama", "tie_word_embeddings", json!("yes"));
    config_refusal("qwen2", "num_attention_heads", json!(5));
    let error = ModelConfig::parse("[1, 2]", Path::new("config.json")).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("config.json"));
}

#[test]
fn both_spellings_of_the_rotary_base_are_read() {
    let text = std::fs::read_to_string(fixture("llama").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let theta = |config: &Value| {
        ModelConfig::parse(&config.to_string(), Path::new("config.json")).unwrap().ropes[0].theta
    };
    assert_eq!(theta(&config), 500_000.0);
    config.as_object_mut().unwrap().remove("rope_parameters");
    assert_eq!(theta(&config), 10_000.0);
    config["rope_theta"] = json!(1e6);
    config["rope_scaling"] = json!(null);
    assert_eq!(theta(&config), 1e6);
}
