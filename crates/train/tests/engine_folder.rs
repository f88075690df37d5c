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

/// A fixture cut into two shards with an index, and the tensors that went into the first.
fn sharded(name: &str) -> (TempDir, Vec<String>) {
    let folder = copied(name);
    let all = tensors(folder.path());
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (first, second): (HashMap<_, _>, HashMap<_, _>) =
        all.into_iter().partition(|(name, _)| name.contains("layers.0"));
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", &first), ("b.safetensors", &second)] {
        write(&folder.path().join(file), part);
        map.extend(part.keys().map(|name| (name.clone(), file.into())));
    }
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string())
        .unwrap();
    (folder, first.into_keys().collect())
}

#[test]
fn an_index_that_contradicts_itself_or_its_shards_is_refused_by_the_tensors_name() {
    let (folder, first) = sharded("gemma3");
    assert!(Model::load(folder.path()).is_ok());
    let path = folder.path().join("model.safetensors.index.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let (name, entry) = (&first[0], format!("\"{}\":\"a.safetensors\"", first[0]));
    assert!(good.contains(&entry));
    let changes = [
        (format!("{entry},\"{name}\":\"b.safetensors\""), "named twice"),
        (format!("\"{name}\":\"b.safetensors\""), "does not have it"),
        (format!("\"{name}\":\"c.safetensors\""), "no such file"),
        (format!("\"{name}\":\"../a.safetensors\""), "no such file"),
        (format!("{entry},\"more\":\"a.safetensors\""), "does not have it"),
        (format!("\"{name}\":7"), "expected a string"),
    ];
    for (change, reason) in changes {
        std::fs::write(&path, good.replace(&entry, &change)).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(reason) && message.contains("index.json"), "{message}");
        let named = ["\"more\"", ":7"].iter().any(|part| change.contains(part));
        assert!(named || message.contains(&name[..]), "{message}");
    }
    let mut without: Value = serde_json::from_str(&good).unwrap();
    without["weight_map"].as_object_mut().unwrap().remove(&name[..]);
    std::fs::write(&path, without.to_string()).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains(&name[..]) && message.contains("does not name it"), "{message}");
}

#[test]
fn a_shard_that_is_cut_off_or_gone_is_named() {
    let (folder, _) = sharded("cohere2");
    let shard = folder.path().join("b.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("b.safetensors") && message.contains("cut off"), "{message}");
    std::fs::remove_file(&shard).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("b.safetensors") && message.contains("no such file"), "{message}");
}

#[test]
fn old_weights_are_refused_with_what_to_do() {
    let folder = copied("llama");
    let old = folder.path().join("pytorch_model.bin");
    std::fs::rename(folder.path().join("model.safetensors"), old).unwrap();
    assert!(refusal(folder.path()).contains("save it as safetensors"));
}

#[test]
fn a_config_that_disagrees_with_the_weights_names_the_tensor_and_both_shapes() {
    let cases: [(&str, &str, Value, &str); 5] = [
        ("llama", "vocab_size", json!(62), "model.embed_tokens.weight has the shape [61, 16]"),
        ("gemma2", "head_dim", json!(8), "q_proj.weight has the shape [24, 16]"),
        ("qwen3", "num_hidden_layers", json!(4), "model.layers.3."),
        ("cohere", "use_qk_norm", json!(true), "self_attn.k_norm.weight, which"),
        ("cohere_qk_norm", "tie_word_embeddings", json!(true), "lm_head.weight differs"),
    ];
    for (name, key, value, message) in cases {
        let folder = copied(name);
        let path = folder.path().join("config.json");
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value;
        config.as_object_mut().unwrap().remove("layer_types");
        std::fs::write(&path, config.to_string()).unwrap();
        let found = refusal(folder.path());
        assert!(found.contains(message), "{found}");
    }
}

#[test]
fn published_configs_give_the_facts_that_transformers_finds() {
    let path = fixture("configs.jsonl");
    let mut count = 0;
    for line in std::fs::read_to_string(&path).unwrap().lines() {
        let expected: Value = serde_json::from_str(line).unwrap();
        let (name, text) = (&expected["name"], expected["config"].to_string());
        let config = ModelConfig::parse(&text, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let specs = train::model::weights::specs(&config);
        let parameters: usize = specs.all().iter().map(|spec| spec.elements()).sum();
        assert_eq!(json!(parameters), expected["parameters"], "{name}");
        for (l, layer) in config.layers.iter().enumerate() {
            // A window as wide as the context is none.
            let window = expected["windows"][l].as_u64().map(|window| window as usize);
            let window = window.filter(|&window| window < config.max_position_embeddings);
            assert_eq!(layer.window, window, "{name}, layer {l}");
            let theta = layer.rope.map(|rope| f64::from(config.ropes[rope].theta));
            assert_eq!(theta, expected["thetas"][l].as_f64(), "{name}, layer {l}");
        }
        let scale = expected["score_scale"].as_f64().unwrap();
        assert!((f64::from(config.score_scale) / scale - 1.0).abs() < 1e-6, "{name}");
        let again = ModelConfig::parse(&config.to_json().to_string(), &path).unwrap();
        assert_eq!(again.to_json(), config.to_json(), "{name}");
        count += 1;
    }
    assert!(count >= 18, "{count}");
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
    config_refusal("gemma2", "hidden_activation", json!("gelu"));
    config_refusal("gemma2", "hidden_act", json!("silu"));
    config_refusal("llama", "mlp_bias", json!(true));
    config_refusal("llama", "attention_dropout", json!(0.1));
    config_refusal("llama", "sliding_window", json!(4096));
    config_refusal("llama", "is_causal", json!(false));
    config_refusal("llama", "quantization_config", json!({"bits": 4}));
    config_refusal("mistral", "layer_types", json!(vec!["full_attention"; 3]));
    config_refusal("mistral", "attention_bias", json!(true));
    config_refusal("qwen2", "attention_bias", json!(false));
    config_refusal("qwen2", "use_sliding_window", json!(true));
    config_refusal("qwen2", "layer_types", json!(["full_attention", "sliding_attention", "x"]));
    config_refusal("qwen2", "layer_types", json!(vec!["full_attention"; 2]));
    config_refusal("qwen2", "layer_types", json!(vec!["sliding_attention"; 3]));
    config_refusal("cohere2", "use_parallel_block", json!(false));
    config_refusal("cohere2", "sliding_window", json!(null));
    config_refusal("gemma3", "attn_logit_softcapping", json!(50.0));
    config_refusal("gemma3", "use_bidirectional_attention", json!(true));
}

#[test]
fn ropes_that_the_engine_does_not_know_are_refused_by_the_name_of_their_key() {
    let rope = |fields: Value| config_refusal("llama", "rope_parameters", fields);
    rope(json!({"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0}));
    rope(json!({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}));
    let extra = rope(json!({"rope_type": "default", "rope_theta": 1e4, "factor": 4.0}));
    assert!(extra.contains("rope_parameters.factor"), "{extra}");
    let missing = rope(json!({"rope_type": "linear", "rope_theta": 1e4}));
    assert!(missing.contains("rope_parameters.factor is missing"), "{missing}");
    let order = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0});
    assert!(rope(order).contains("high_freq_factor"));
    config_refusal("llama", "rope_scaling", json!({"rope_type": "linear", "factor": 8.0}));
    config_refusal("llama", "rope_theta", json!(1e6));
    let nested = json!({"full_attention": {"rope_type": "default"}, "chunked_attention": {}});
    config_refusal("gemma3", "rope_parameters", nested);
}

#[test]
fn a_model_wrapped_in_one_for_images_is_refused_with_what_to_do() {
    let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": {"hidden_size": 2560}, "vision_config": {}});
    let error = ModelConfig::parse(&config.to_string(), Path::new("config.json")).unwrap_err();
    assert!(is_user(&error));
    let message = error.to_string();
    let named =
        message.contains("Gemma3ForConditionalGeneration") && message.contains("text model");
    assert!(named, "{message}");
}

#[test]
fn values_that_cannot_be_are_refused_by_the_name_of_their_key() {
    config_refusal("llama", "hidden_size", json!(null));
    config_refusal("llama", "hidden_size", json!("wide"));
    config_refusal("llama", "num_hidden_layers", json!(0));
    config_refusal("llama", "num_hidden_layers", json!(1_000_000_000_000_u64));
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
