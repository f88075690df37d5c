//! Checkpoints that stay, early stopping, explosions, and what the runs of a sweep share.

mod trainer_common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use artifact::{Context, error::is_user};
use train::{BaseModel, Shared, encoder::Encoder, model::Model, ops::Kind};
use trainer_common::{Bench, base, config, example, metrics, sums, write_mixture};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn kept_checkpoints_stay_as_model_folders_with_the_weights_of_their_step() {
    let bench = Bench::new(&sums(24), 4);
    let settings = "batch_size = 8\nlearning_rate = 5e-3\nvalidate_every = 2\nkeep_best = false\n";
    bench.run("out", &format!("{settings}steps = 9\nsave_every = 2\nkeep = 3")).unwrap();
    let folder = bench.out("out").join("checkpoint");
    assert_eq!(names(&folder), ["step-4", "step-6", "step-8"]);
    // What a run of so many steps ends with; a constant rate does not know how many there are.
    bench.run("six", &format!("{settings}steps = 6")).unwrap();
    let (kept, six) = (folder.join("step-6"), bench.out("six").join("model"));
    assert!(weights(&kept) == weights(&six));
    assert_eq!(Encoder::load(&kept).unwrap().stop_ids().unwrap(), [0, 2]);
    assert!(Model::load(&kept).is_ok() && kept.join("generation_config.json").exists());
    assert!(!bench.out("six").join("checkpoint").exists(), "nothing is kept unasked");
}

#[test]
fn how_many_checkpoints_are_kept_may_change_on_the_way() {
    let bench = Bench::new(&sums(24), 0);
    let settings = "steps = 6\nbatch_size = 8\nsave_every = 2\n";
    let in_the_way = bench.out("out").join("checkpoint/.step-4");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    bench.run("out", settings).unwrap_err();
    fs::remove_file(in_the_way).unwrap();
    bench.run("out", &format!("{settings}keep = 1")).unwrap();
    assert_eq!(names(&bench.out("out").join("checkpoint")), ["step-6"]);
}

#[test]
fn patience_ends_a_run_that_no_longer_gets_better_and_keeps_its_best_weights() {
    let bench = Bench::new(&sums(16), 8);
    // A rate that overfits, then wanders.
    let settings =
        "steps = 60\nbatch_size = 16\nlearning_rate = 3e-2\nvalidate_every = 2\npatience = 3\n";
    let summary = bench.run("out", settings).unwrap();
    assert!(summary.stopped_early && summary.steps < 60);
    assert_eq!(
        summary.steps,
        summary.kept_step + 6,
        "three validations, two steps apart, after the best"
    );
    assert!(summary.to_string().contains("stopped early"), "{summary}");
    let rows = metrics(&bench.out("out"));
    let losses = rows.iter().filter(|row| row.validation && row.step > 0).map(|row| row.loss);
    assert_eq!(summary.validation_loss, losses.min_by(f64::total_cmp));
    // Through an interruption in the middle of the wait the same bits come out.
    let stop = summary.kept_step + 3;
    let in_the_way = bench.out("parts").join(format!("checkpoint/.step-{stop}"));
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    let settings = format!("{settings}save_every = 1");
    bench.run("parts", &settings).unwrap_err();
    fs::remove_file(in_the_way).unwrap();
    let parts = bench.run("parts", &settings).unwrap();
    assert_eq!(parts.steps, summary.steps);
    assert!(weights(&bench.out("out").join("model")) == weights(&bench.out("parts").join("model")));
    assert_eq!(metrics(&bench.out("parts")), rows);
}

#[test]
fn patience_without_validation_data_is_refused() {
    let bench = Bench::new(&sums(8), 0);
    let error = bench.run("out", "steps = 2\npatience = 1").unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("patience"), "{error}");
}

#[test]
fn an_exploding_loss_stops_the_run_and_leaves_a_checkpoint_from_before() {
    let bench = Bench::new(&sums(40), 0);
    // Each step overshoots; the loss stays a number and climbs.
    let settings = "steps = 80\nbatch_size = 8\nlearning_rate = 0.9\nclip = 0.0\nsave_every = 1\nmax_loss_rise = 3.0";
    let error = bench.run("out", settings).unwrap_err();
    let text = error.to_string();
    assert!(is_user(&error) && text.contains("diverged at step"), "{text}");
    assert!(text.contains("last ten steps") && text.contains("max_loss_rise = 3"), "{text}");
    let kept = names(&bench.out("out").join("checkpoint"));
    let step: u64 = kept[0].strip_prefix("step-").unwrap().parse().unwrap();
    let stopped: u64 =
        text.split("at step ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    assert!(step + 1 < stopped, "{kept:?} against {stopped}");
    assert!(!bench.out("out").join("model").exists());
}

#[test]
fn losses_by_language_are_there_for_training_and_validation() {
    let bench = Bench::new(&sums(16), 8);
    let summary = bench.run("out", "steps = 2\nbatch_size = 16\nlearning_rate = 1e-3").unwrap();
    for row in metrics(&bench.out("out")) {
        let languages: Vec<&str> = row.by_language.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(languages, ["en", "es"], "step {} validation {}", row.step, row.validation);
    }
    assert_eq!(summary.loss_by_language.len(), 2);
}

#[test]
fn truncated_documents_are_counted_in_the_summary_and_the_metrics() {
    let mut rows = sums(7);
    rows.push(example("long", "en", "Hi", &"The answer is 42. ".repeat(60)));
    let bench = Bench::new(&rows, 0);
    let summary = bench.run("out", "steps = 2\nbatch_size = 8").unwrap();
    assert_eq!((summary.rows.rows, summary.rows.truncated), (8, 1));
    assert!(summary.to_string().contains("of 8 rows 1 cut"), "{summary}");
    for row in metrics(&bench.out("out")) {
        assert_eq!((row.documents, row.truncated), (Some(8), Some(1)));
    }
}

/// Two mixtures that share most of their rows.
fn mixtures(folder: &Path) -> [PathBuf; 2] {
    let all = sums(30);
    [("a.parquet", &all[..24]), ("b.parquet", &all[6..])].map(|(name, rows)| {
        let path = folder.join(name);
        write_mixture(&path, rows);
        path
    })
}

#[test]
fn runs_that_share_their_work_give_the_bits_of_runs_apart() {
    let bench = Bench::new(&sums(20), 4);
    bench.run("base", "steps = 1\nbatch_size = 4").unwrap();
    let tuned = BaseModel::Weights(bench.out("base").join("model"));
    let settings = config("steps = 3\nbatch_size = 8\nlearning_rate = 1e-3");
    let run = |base: &BaseModel, train: &Path, shared: &Shared, name: &str| {
        let data = train::TrainData { train: train.into(), ..bench.data.clone() };
        let out = bench.out(name);
        train::run(&settings, base, &data, shared, &out, &Context::quiet()).unwrap();
        (weights(&out.join("model")), metrics(&out))
    };
    let sweep = Shared::for_sweep();
    for (place, train) in mixtures(bench.folder.path()).iter().enumerate() {
        for (kind, base) in [("tuned", &tuned), ("new", &base())] {
            let together = run(base, train, &sweep, &format!("{kind}-together-{place}"));
            let apart = run(base, train, &Shared::default(), &format!("{kind}-apart-{place}"));
            assert!(together == apart, "{kind} {place}");
        }
    }
    let folder = bench.out("base").join("model");
    let encoder = sweep.encoder(&folder).unwrap();
    let known = sweep.rows(&encoder, train::config::Objective::Sft, 128);
    assert_eq!(known.len(), 30, "every row once: the validation repeats some of the second");
}

#[test]
fn weights_and_tokenizers_that_change_on_the_disk_are_read_anew() {
    let bench = Bench::new(&sums(8), 0);
    bench.run("base", "steps = 1\nbatch_size = 4").unwrap();
    let folder = bench.out("base").join("model");
    let sweep = Shared::for_sweep();
    let (before, encoder) =
        (sweep.model(Kind::Weight, &folder).unwrap(), sweep.encoder(&folder).unwrap());
    assert!(std::sync::Arc::ptr_eq(&encoder, &sweep.encoder(&folder).unwrap()));
    let mut changed = Model::load(&folder).unwrap();
    changed.parameters_mut()[0].1[0] += 1.0;
    changed.save(&folder, train::model::Dtype::Bf16).unwrap();
    fs::write(folder.join("chat_template.jinja"), "{{ messages | length }}").unwrap();
    let after = sweep.model(Kind::Weight, &folder).unwrap();
    assert_ne!(before.parameters()[0].1[0].to_bits(), after.parameters()[0].1[0].to_bits());
    let changed = sweep.encoder(&folder).unwrap();
    assert_eq!(changed.encoder.template.source(), "{{ messages | length }}");
}

#[test]
fn the_outline_tells_what_the_steps_would_be_made_of() {
    let bench = Bench::new(&sums(20), 4);
    let settings =
        "batch_size = 2\nepochs = 2\npacking = true\nsequence_length = 64\nlearning_rate = 1e-3";
    let (shared, ctx) = (Shared::default(), Context::quiet());
    let planned =
        train::plan(&config(settings), &base(), &bench.data, &shared, (None, &ctx)).unwrap();
    let outline = &planned.outline;
    let summary = bench.run("out", settings).unwrap();
    assert_eq!(outline.steps, summary.steps);
    assert_eq!(outline.steps, 2 * outline.steps_per_epoch);
    let tokens: u64 = outline.languages.iter().map(|(_, share)| share.tokens).sum();
    assert_eq!(2 * tokens, summary.tokens);
    assert_eq!(outline.validation_documents, 4);
    let names: Vec<&str> = outline.languages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["en", "es"]);
    assert!(outline.packed.is_some_and(|packed| packed > 0.5 && packed <= 1.0));
    assert!(!bench.out("plan").join("model").exists());
}
