//! Training from end to end: the same bits through interruptions and on any number of threads, big
//! batches in parts, packing, the best weights, divergence, and a folder that loads again.

mod trainer_common;

use std::path::Path;

use artifact::{
    Context,
    error::{is_interrupted, is_user},
};
use train::{
    BaseModel, Shared,
    encoder::Encoder,
    model::{Model, ModelConfig},
};
use trainer_common::{Bench, base, config, fixture, metrics, sums, write_examples};

const QUICK: &str = "batch_size = 8\nlearning_rate = 5e-3\nvalidate_every = 4\n";

fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model/model.safetensors")).unwrap()
}

/// Largest difference of two trained models' weights.
fn distance(one: &Path, other: &Path) -> f32 {
    let load = |out: &Path| Model::load(&out.join("model")).unwrap();
    let (one, other) = (load(one), load(other));
    let pairs =
        one.parameters().into_iter().zip(other.parameters()).map(|((_, one), (_, other))| {
            one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
        });
    pairs.fold(0.0, f32::max)
}

#[test]
fn rows_of_a_task_that_is_not_trained_do_not_change_the_validation() {
    let bench = Bench::new(&sums(8), 4);
    let settings = "steps = 2\nbatch_size = 4";
    let alone = bench.run("alone", settings).unwrap();
    let mut rows = sums(30).split_off(8);
    for (place, row) in rows.iter_mut().enumerate() {
        row.split = "validation".into();
        row.task = if place < 4 { "math" } else { "logic" }.into();
    }
    write_examples(&bench.data.validation.as_ref().unwrap().path, &rows);
    let beside = bench.run("beside", settings).unwrap();
    assert!(alone.validation_loss.is_some());
    assert_eq!(beside.validation_loss, alone.validation_loss);
}

#[test]
fn training_lowers_the_loss_in_every_language() {
    let bench = Bench::new(&sums(40), 8);
    let summary = bench.run("out", &format!("{QUICK}steps = 12")).unwrap();
    let rows = metrics(&bench.out("out"));
    let first = rows.iter().find(|row| row.validation).unwrap();
    let last = rows.iter().rfind(|row| row.validation).unwrap();
    assert_eq!((first.step, last.step), (0, 12));
    for ((name, before), (_, after)) in first.by_language.iter().zip(&last.by_language) {
        assert!(*after < before * 0.9, "{name}: {before} to {after}");
    }
    assert_eq!(rows.iter().filter(|row| !row.validation).count(), 12);
    assert_eq!(summary.steps, 12);
    assert_eq!(summary.tokens, rows.last().unwrap().tokens);
    assert!(!bench.out("out").join("checkpoint").exists());
}

#[test]
fn a_new_models_first_loss_is_near_that_of_a_uniform_guess() {
    let bench = Bench::new(&sums(16), 8);
    bench.run("out", "steps = 1").unwrap();
    let loss = metrics(&bench.out("out"))[0].loss;
    let vocabulary = ModelConfig::load(&bench.out("out").join("model")).unwrap().vocab_size as f64;
    assert!((loss - vocabulary.ln()).abs() < 0.5, "{loss} against ln {vocabulary}");
}

/// Trains until the checkpoint of `step` fails to be written, as a killed run's would.
fn crash(bench: &Bench, name: &str, settings: &str, step: u64) {
    let folder = bench.out(name).join("checkpoint");
    std::fs::create_dir_all(&folder).unwrap();
    let in_the_way = folder.join(format!(".step-{step}"));
    std::fs::write(&in_the_way, "").unwrap();
    let error = bench.run(name, settings).unwrap_err();
    assert!(format!("{error:#}").contains(&format!("step-{step}")), "{error:#}");
    std::fs::remove_file(in_the_way).unwrap();
}

#[test]
fn an_interrupted_run_ends_with_the_same_bits() {
    let bench = Bench::new(&sums(44), 6);
    // Packed, in the middle of an epoch, between two validations, past the best weights.
    let settings = format!(
        "{QUICK}save_every = 3\nsteps = 14\npacking = true\nsequence_length = 64\nschedule = \"cosine\"\nwarmup_steps = 2"
    );
    bench.run("whole", &settings).unwrap();
    let ctx = Context::quiet();
    ctx.cancel();
    let (shared, out) = (Shared::default(), bench.out("parts"));
    let stopped =
        train::run(&config(&settings), &base(), &bench.data, &shared, &out, &ctx).unwrap_err();
    assert!(is_interrupted(&stopped), "{stopped:#}");
    crash(&bench, "parts", &settings, 6);
    crash(&bench, "parts", &settings, 12);
    let mut kept: Vec<String> = std::fs::read_dir(bench.out("parts").join("checkpoint"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert!(
        kept.contains(&"step-9".to_owned()) && kept.len() <= 3,
        "the last whole one, and best weights: {kept:?}"
    );
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    one_thread.install(|| bench.run("parts", &settings)).unwrap();
    assert!(weights(&bench.out("whole")) == weights(&bench.out("parts")));
    assert_eq!(metrics(&bench.out("whole")), metrics(&bench.out("parts")));
}

#[test]
fn threads_do_not_change_a_bit() {
    let bench = Bench::new(&sums(24), 4);
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            bench.run(&threads.to_string(), "steps = 5\nbatch_size = 6\nlearning_rate = 5e-3")
        })
        .unwrap();
    }
    assert!(weights(&bench.out("1")) == weights(&bench.out("2")));
    assert!(weights(&bench.out("1")) == weights(&bench.out("3")));
    assert_eq!(metrics(&bench.out("1")), metrics(&bench.out("2")));
}

#[test]
fn accumulation_is_the_big_batch() {
    // Answers differ in length, so a mean of the parts' means would be another loss.
    let bench = Bench::new(&sums(24), 0);
    let settings = |parts| format!("{QUICK}steps = 12\ngradient_accumulation = {parts}");
    bench.run("whole", &settings(1)).unwrap();
    bench.run("parts", &settings(3)).unwrap();
    let (whole, parts) = (metrics(&bench.out("whole")), metrics(&bench.out("parts")));
    for (whole, parts) in whole.iter().zip(&parts) {
        assert!((whole.loss / parts.loss - 1.0).abs() < 1e-4, "{} {}", whole.loss, parts.loss);
        let ratio = whole.grad_norm.unwrap() / parts.grad_norm.unwrap();
        assert!((ratio - 1.0).abs() < 1e-3, "{ratio}");
    }
    assert!(distance(&bench.out("whole"), &bench.out("parts")) < 1e-3);
}

#[test]
fn packing_changes_neither_loss_nor_gradient() {
    // All documents fit one step either way: packed together, or each run on its own.
    let bench = Bench::new(&sums(20), 0);
    let settings = "steps = 3\nlearning_rate = 5e-3\nsequence_length = 100\nbatch_size = 20\n";
    bench.run("packed", &format!("{settings}packing = true")).unwrap();
    bench.run("apart", &format!("{settings}packing = false\ngradient_accumulation = 20")).unwrap();
    for (packed, apart) in metrics(&bench.out("packed")).iter().zip(&metrics(&bench.out("apart"))) {
        assert_eq!(packed.tokens, apart.tokens, "no padding is run in either");
        assert!((packed.loss / apart.loss - 1.0).abs() < 1e-4);
        assert!((packed.grad_norm.unwrap() / apart.grad_norm.unwrap() - 1.0).abs() < 1e-3);
    }
    assert!(distance(&bench.out("packed"), &bench.out("apart")) < 1e-3);
}

#[test]
fn the_best_weights_are_kept_and_not_the_last() {
    let bench = Bench::new(&sums(16), 8);
    // A rate that overfits, then wanders.
    let settings = "steps = 30\nbatch_size = 16\nlearning_rate = 3e-2\nvalidate_every = 2\n";
    let summary = bench.run("best", settings).unwrap();
    let rows = metrics(&bench.out("best"));
    let lowest = rows
        .iter()
        .filter(|row| row.validation && row.step > 0)
        .map(|row| row.loss)
        .fold(f64::MAX, f64::min);
    assert_eq!(summary.validation_loss, Some(lowest));
    assert!(summary.kept_step < 30, "the last step is the best: the test shows nothing");
    // Validation of the saved weights gives the loss it was kept for.
    let kept = BaseModel::Weights(bench.out("best").join("model"));
    let again = bench.run_from(&kept, "again", "steps = 1\nlearning_rate = 0.0\nbatch_size = 16");
    assert_eq!(again.unwrap().validation_loss, Some(lowest));
    let last = bench.run("last", &format!("{settings}keep_best = false")).unwrap();
    assert_eq!(last.kept_step, 30);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_what_differs() {
    let bench = Bench::new(&sums(24), 0);
    let settings = "steps = 6\nbatch_size = 8\nsave_every = 2\n";
    crash(&bench, "out", &format!("{settings}learning_rate = 1e-3"), 4);
    let error = bench.run("out", &format!("{settings}learning_rate = 2e-3")).unwrap_err();
    let text = error.to_string();
    assert!(is_user(&error) && text.contains("learning_rate was 0.001, is 0.002"), "{text}");
    let other = Bench::new(&sums(25), 0);
    std::fs::rename(bench.out("out").join("checkpoint"), other.out("out").join("checkpoint"))
        .unwrap();
    let error = other.run("out", &format!("{settings}learning_rate = 1e-3")).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("training data"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_stops_and_the_last_checkpoint_stays() {
    let bench = Bench::new(&sums(24), 0);
    let settings = "steps = 40\nbatch_size = 8\nlearning_rate = 1e36\nclip = 0.0\nwarmup_steps = 0\nsave_every = 1";
    let error = bench.run("out", settings).unwrap_err();
    let text = error.to_string();
    assert!(is_user(&error), "{text}");
    assert!(text.contains("at step ") && text.contains("1e36") && text.contains("sum-0"), "{text}");
    assert!(bench.out("out").join("checkpoint/step-1").exists(), "{text}");
    assert!(!bench.out("out").join("model").exists());
}

#[test]
fn a_last_step_that_breaks_the_weights_is_not_kept() {
    // The rate is beyond what 32 bits hold, and no step comes after it that would notice.
    for (validation, told) in [(0, "no longer finite"), (4, "the validation loss is NaN")] {
        let bench = Bench::new(&sums(8), validation);
        let error = bench.run("out", "steps = 1\nlearning_rate = 1e39").unwrap_err().to_string();
        assert!(error.contains("diverged at step 1") && error.contains(told), "{error}");
        assert!(!bench.out("out").join("model").exists());
    }
}

#[test]
fn base_weights_that_hold_nan_are_told_by_the_first_loss() {
    let bench = Bench::new(&sums(8), 0);
    bench.run("good", "steps = 1").unwrap();
    let folder = bench.out("good").join("model");
    let mut model = Model::load(&folder).unwrap();
    for (_, values) in model.parameters_mut() {
        values[0] = f32::NAN;
    }
    model.save(&folder, train::model::Dtype::F32).unwrap();
    let base = BaseModel::Weights(folder);
    let error = bench.run_from(&base, "bad", "steps = 2").unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("diverged at step 1"), "{error}");
}

#[test]
fn the_result_is_a_whole_model_folder() {
    let bench = Bench::new(&sums(12), 0);
    bench.run("out", "steps = 1\ndtype = \"bf16\"").unwrap();
    let folder = bench.out("out").join("model");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let encoder = Encoder::load(&folder).unwrap();
    assert_eq!(encoder.stop_ids().unwrap(), [0, 2], "end of text and end of turn");
    let loaded = Model::load(&folder).unwrap();
    assert!(loaded.config().vocab_size >= encoder.tokenizer.size());
    assert!(loaded.config().vocab_size.is_multiple_of(64));
}

#[test]
fn language_modelling_packs_text_of_any_length() {
    let mut rows = sums(20);
    for row in &mut rows {
        row.messages = vec![trainer_common::message(
            "text",
            &row.messages[0].content.repeat(1 + row.example_id.len() % 3),
        )];
    }
    let bench = Bench::new(&rows, 0);
    let summary =
        bench.run("out", "preset = \"pretrain\"\nsequence_length = 32\nbatch_size = 4\nlearning_rate = 1e-2\nepochs = 6").unwrap();
    let rows = metrics(&bench.out("out"));
    assert!(summary.loss.unwrap() < rows[0].loss * 0.8);
    assert_eq!(rows[0].learning_rate.map(|rate| rate <= 1e-2), Some(true));
}

#[test]
fn a_sequence_longer_than_the_context_is_refused_before_any_step() {
    let bench = Bench::new(&sums(4), 0);
    let error = bench.run("out", "sequence_length = 500").unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("max_position_embeddings"), "{error}");
}

#[test]
fn a_template_that_cannot_say_how_an_answer_ends_is_refused_before_any_step() {
    // It takes the rows, and nothing else.
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("tokenizer").join(name), folder.path().join(name)).unwrap();
    }
    let template = "{% if messages[0].content != 'Add.' %}{{ raise_exception('sums alone') }}{% endif %}\
                    {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let mut rows = sums(8);
    for row in &mut rows {
        row.messages.insert(0, trainer_common::message("system", "Add."));
    }
    let bench = Bench::new(&rows, 0);
    let BaseModel::Random { init, seed, .. } = base() else { unreachable!() };
    let base = BaseModel::Random { init, tokenizer: folder.path().to_owned(), seed };
    let error = bench.run_from(&base, "out", "steps = 1").unwrap_err();
    assert!(is_user(&error) && format!("{error:#}").contains("sums alone"), "{error:#}");
    assert!(!bench.out("out").join("metrics.parquet").exists());
}

#[test]
fn a_model_smaller_than_its_tokenizer_is_refused_before_any_step() {
    let bench = Bench::new(&sums(4), 0);
    let BaseModel::Random { mut init, tokenizer, seed } = base() else { unreachable!() };
    init.vocab_size = Some(64);
    let small = BaseModel::Random { init, tokenizer, seed };
    let error = bench.run_from(&small, "out", "").unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("embedding has 64 rows"), "{error}");
    let missing = BaseModel::Weights(fixture("no-such-model"));
    assert!(is_user(&bench.run_from(&missing, "out", "").unwrap_err()));
}

#[test]
fn a_new_model_may_be_of_any_family() {
    let bench = Bench::new(&sums(8), 0);
    let families = ["llama", "mistral", "qwen2", "qwen3", "cohere", "cohere2", "gemma2", "gemma3"];
    for family in families {
        let BaseModel::Random { mut init, tokenizer, seed } = base() else { unreachable!() };
        init.model_type = family.to_owned();
        let base = BaseModel::Random { init, tokenizer, seed };
        let summary = bench.run_from(&base, family, "steps = 2").unwrap();
        // The first loss of small random weights is near that of a uniform guess.
        let folder = bench.out(family).join("model");
        let loaded = Model::load(&folder).unwrap();
        let uniform = (loaded.config().vocab_size as f64).ln();
        assert!((summary.loss.unwrap() - uniform).abs() < 0.5, "{family}: {:?}", summary.loss);
        assert_eq!(loaded.config().head_dim, 8, "{family}: 32 channels, 4 heads");
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
        assert!(config.contains(&format!("\"{}", family)), "{config}");
    }
}

#[test]
fn a_family_that_is_none_names_the_nearest() {
    let bench = Bench::new(&sums(4), 0);
    let BaseModel::Random { mut init, tokenizer, seed } = base() else { unreachable!() };
    init.model_type = "quen3".to_owned();
    let base = BaseModel::Random { init, tokenizer, seed };
    let error = bench.run_from(&base, "out", "").unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("(\"qwen3\"?)"), "{error}");
}
