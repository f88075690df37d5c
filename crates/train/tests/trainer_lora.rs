//! Runs that train an adapter: what they write, that an interruption changes nothing, and what they refuse.

mod trainer_common;

use std::fs;
use std::path::Path;

use artifact::error::is_user;
use train::BaseModel;
use train::model::Model;
use trainer_common::{Bench, base, metrics, sums};

const SETTINGS: &str = "batch_size = 8\nlearning_rate = 5e-3\nkeep_best = false\nsteps = 6\n";
const LORA: &str =
    "\n[lora]\nrank = 4\nalpha = 8\ntargets = [\"q_proj\", \"v_proj\", \"down_proj\"]";

/// A base model with weights: a short full training.
fn trained_base(bench: &Bench) -> BaseModel {
    bench.run("base", "steps = 2\nbatch_size = 8").unwrap();
    BaseModel::Weights(bench.out("base").join("model"))
}

fn bytes(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model/adapter_model.safetensors")).unwrap()
}

#[test]
fn an_adapter_is_trained_goes_on_after_an_interruption_and_answers() {
    // Rank 4 beside q (32 to 32), v (32 to 16) and down (48 to 32), in two layers.
    let values = 2 * 4 * (64 + 48 + 80);
    check_interrupted("", values);
    // And a magnitude for each output.
    check_interrupted("\ndora = true\ndropout = 0.2", values + 2 * (32 + 16 + 32));
    // Over a base in 4 bits; it is merged into the base as it is.
    check_interrupted("\nquantize = \"nf4\"", values);
}

fn check_interrupted(more: &str, trained: u64) {
    let bench = Bench::new(&sums(24), 4);
    let base = trained_base(&bench);
    let settings = format!("{SETTINGS}save_every = 2{LORA}{more}");
    let summary = bench.run_from(&base, "whole", &settings).unwrap();
    assert_eq!(summary.trained, Some(trained));
    let out = bench.out("whole");
    let rows = metrics(&out);
    let first = rows.iter().find(|row| !row.validation).unwrap().loss;
    assert!(summary.loss.unwrap() < first, "it learns");
    let model = out.join("model");
    assert!(!model.join("model.safetensors").exists() && model.join("tokenizer.json").exists());
    // Stopped at step 4, in the middle, by a checkpoint that cannot be written.
    let in_the_way = bench.out("parts").join("checkpoint/.step-4");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    bench.run_from(&base, "parts", &settings).unwrap_err();
    fs::remove_file(in_the_way).unwrap();
    bench.run_from(&base, "parts", &settings).unwrap();
    assert!(bytes(&out) == bytes(&bench.out("parts")));
    assert_eq!(rows, metrics(&bench.out("parts")));
    // Loaded, it is another model than its base.
    let BaseModel::Weights(folder) = &base else { unreachable!("the base has weights") };
    let (tuned, plain) = (Model::load(&model).unwrap(), Model::load(folder).unwrap());
    let differ = tuned.parameters().iter().zip(plain.parameters()).filter(|(a, b)| *a != b).count();
    assert_eq!(differ, 6, "three maps in two layers");
}

#[test]
fn the_base_of_an_adapter_is_whole_and_stays_the_same() {
    let bench = Bench::new(&sums(24), 0);
    let random = bench.run_from(&base(), "random", &format!("{SETTINGS}{LORA}")).unwrap_err();
    assert!(is_user(&random) && random.to_string().contains("base model with weights"), "{random}");
    let whole = trained_base(&bench);
    bench.run_from(&whole, "one", &format!("{SETTINGS}{LORA}")).unwrap();
    // Other weights in the base's place.
    bench.run("base", "steps = 3\nbatch_size = 8").unwrap();
    let error = Model::load(&bench.out("one").join("model")).err().expect("must be refused");
    assert!(is_user(&error) && error.to_string().contains("other weights"), "{error:#}");
}

#[test]
fn an_adapters_training_goes_on_from_its_folder() {
    let bench = Bench::new(&sums(24), 4);
    let base = trained_base(&bench);
    for (kind, more) in [("lora", ""), ("dora", "\ndora = true\nrslora = true\ndropout = 0.1")] {
        let settings = format!("{SETTINGS}validate_every = 3{LORA}{more}");
        bench.run_from(&base, kind, &settings).unwrap();
        let folder = bench.out(kind).join("model");
        // As PEFT writes it: with a path of its own to the base, and no tokenizer.
        for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        let adapter = BaseModel::Weights(folder.clone());
        let (name, settings) =
            (format!("{kind}-on"), format!("{SETTINGS}validate_every = 3\n[lora]"));
        bench.run_from(&adapter, &name, &settings).unwrap();
        let validation = |name: &str| -> Vec<f64> {
            let rows = metrics(&bench.out(name));
            rows.iter().filter(|row| row.validation).map(|row| row.loss).collect()
        };
        let (before, after) = (validation(kind), validation(&name));
        assert_eq!(before.last(), after.first(), "it begins where the other ended");
        assert!(after.last() < after.first(), "{after:?}");
        let config = |folder: &Path| {
            let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let (one, other) = (config(&folder), config(&bench.out(&name).join("model")));
        assert_eq!(one, other, "the same kind of adapter of the same base");
        assert_eq!(one["use_dora"] == true, kind == "dora");
        let settings = format!("{SETTINGS}\n[lora]\nrank = 2");
        let error = bench.run_from(&adapter, "other", &settings).unwrap_err();
        let message = error.to_string();
        let names_both = message.contains("rank is 2") && message.contains("isogloss merge");
        assert!(is_user(&error) && names_both, "{message}");
    }
}

#[test]
fn full_tuning_from_an_adapters_folder_is_that_of_the_merged_model() {
    let bench = Bench::new(&sums(24), 0);
    let base = trained_base(&bench);
    bench.run_from(&base, "one", &format!("{SETTINGS}{LORA}")).unwrap();
    let (adapter, merged) = (bench.out("one").join("model"), bench.out("merged"));
    train::merge(&adapter, None, train::model::Dtype::F32, &merged).unwrap();
    // As PEFT writes it: without a tokenizer, which is then the base's.
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        fs::remove_file(adapter.join(name)).unwrap();
    }
    for (name, folder) in [("direct", &adapter), ("by-merge", &merged)] {
        bench.run_from(&BaseModel::Weights(folder.clone()), name, SETTINGS).unwrap();
    }
    let weights = |name: &str| fs::read(bench.out(name).join("model/model.safetensors")).unwrap();
    assert!(weights("direct") == weights("by-merge"));
    assert!(bench.out("direct").join("model/tokenizer.json").exists());
}
