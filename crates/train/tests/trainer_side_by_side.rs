//! Runs that train adapters side by side, over one base: each gives the bits that it gives alone, whatever the others
//! do, end early or go on from a checkpoint.

mod trainer_common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use artifact::Context;
use train::model::adapter::{Lora, Target};
use train::model::{Base, Batch, Decoder, Gradients, Meeting, Model, ModelConfig};
use train::ops::{Backend, Cpu, Gathering, Nf4, Reference};
use train::{BaseModel, Shared, TrainData};
use trainer_common::{Bench, config, metrics, sums, write_mixture};

const LORA: &str =
    "\n[lora]\nrank = 4\ntargets = [\"q_proj\", \"v_proj\", \"up_proj\", \"down_proj\"]";

/// What a run wrote that the clock has no part in.
fn written(out: &Path) -> (Vec<u8>, Vec<train::metrics::Row>) {
    (fs::read(out.join("model/adapter_model.safetensors")).unwrap(), metrics(out))
}

#[test]
fn three_runs_of_different_lengths_one_that_stops_early_and_one_that_goes_on_are_each_as_alone() {
    let bench = Bench::new(&sums(30), 6);
    bench.run("base", "steps = 2\nbatch_size = 8").unwrap();
    let base = BaseModel::Weights(bench.out("base").join("model"));
    let whole = "steps = 9\nbatch_size = 8\nlearning_rate = 5e-3\nvalidate_every = 3";
    let early = "steps = 40\nbatch_size = 4\nlearning_rate = 0.2\nvalidate_every = 1\npatience = 3\nmax_loss_rise = 0";
    let resumed = "steps = 6\nbatch_size = 5\nlearning_rate = 2e-3\nsave_every = 2\ngradient_accumulation = 2\nseed = 3";
    let runs = [("whole", 30, whole), ("early", 21, early), ("resumed", 14, resumed)];
    let data = |rows: usize| {
        let train = bench.folder.path().join(format!("{rows}.parquet"));
        write_mixture(&train, &sums(rows));
        TrainData { train: train.into(), ..bench.data.clone() }
    };
    let train = |shared: &Shared, (name, rows, settings): (&str, usize, &str), kind: &str| {
        let (settings, out) =
            (config(&format!("{settings}{LORA}")), bench.out(&format!("{name}-{kind}")));
        train::run(&settings, &base, &data(rows), shared, &out, &Context::quiet())
    };
    let alone = runs.map(|run| train(&Shared::default(), run, "alone").unwrap());
    assert!(alone[1].stopped_early && !alone[0].stopped_early);
    // Broken off at step 4, by a checkpoint that cannot be written.
    let in_the_way = bench.out("resumed-together").join("checkpoint/.step-4");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    train(&Shared::default(), runs[2], "together").unwrap_err();
    fs::remove_file(in_the_way).unwrap();

    let shared = Shared::for_sweep().side_by_side(3);
    let together = std::thread::scope(|scope| {
        let (train, shared) = (&train, &shared);
        let start = |run| scope.spawn(move || train(shared, run, "together").unwrap());
        runs.map(start).map(|run| run.join().unwrap())
    });
    for (((name, ..), together), alone) in runs.into_iter().zip(together).zip(alone) {
        assert_eq!(together.steps, alone.steps, "{name}");
        let of = |kind: &str| written(&bench.out(&format!("{name}-{kind}")));
        assert!(of("together") == of("alone"), "{name}");
    }
}

#[test]
fn runs_of_a_sweep_begin_with_one_validation_of_their_base_where_it_is_the_same() {
    let bench = Bench::new(&sums(20), 6);
    bench.run("base", "steps = 1\nbatch_size = 8").unwrap();
    let base = BaseModel::Weights(bench.out("base").join("model"));
    let sweep = Shared::for_sweep();
    let run = |name: &str, seed: u32, more: &str, shared: &Shared| {
        let text =
            format!("steps = 4\nbatch_size = 4\nlearning_rate = 0.02\nseed = {seed}\n{more}{LORA}");
        let (settings, out) = (config(&text), bench.out(name));
        train::run(&settings, &base, &bench.data, shared, &out, &Context::quiet()).unwrap();
    };
    // The third sees other tokens of the same validation rows.
    for (seed, more) in [(1, ""), (2, ""), (3, "sequence_length = 20\n")] {
        let [shared, alone] = ["shared", "alone"].map(|kind| format!("{kind}-{seed}"));
        run(&shared, seed, more, &sweep);
        run(&alone, seed, more, &Shared::default());
        assert!(written(&bench.out(&shared)) == written(&bench.out(&alone)), "seed {seed}");
    }
}

#[test]
fn a_run_that_fails_leaves_the_others_to_go_on() {
    let bench = Bench::new(&sums(20), 0);
    bench.run("base", "steps = 1\nbatch_size = 8").unwrap();
    let base = BaseModel::Weights(bench.out("base").join("model"));
    let shared = Shared::for_sweep().side_by_side(2);
    let text = format!("steps = 8\nbatch_size = 4\nsave_every = 2\nlearning_rate = 1e-3{LORA}");
    let run = |name: &str, shared: &Shared| {
        train::run(&config(&text), &base, &bench.data, shared, &bench.out(name), &Context::quiet())
    };
    // A checkpoint that cannot be written breaks it off at step 4.
    let in_the_way = bench.out("bad").join("checkpoint/.step-4");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    let (good, bad) = std::thread::scope(|scope| {
        let bad = scope.spawn(|| run("bad", &shared));
        (run("good", &shared), bad.join().unwrap())
    });
    bad.unwrap_err();
    good.unwrap();
    run("alone", &Shared::default()).unwrap();
    assert!(written(&bench.out("good")) == written(&bench.out("alone")));
}

fn random_base() -> Model {
    let text = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40,
        "vocab_size": 50, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "hidden_act": "silu"}"#;
    Model::random(ModelConfig::parse(text, Path::new("config.json")).unwrap(), 3)
}

/// Documents of these lengths; every third token is not counted.
fn batch(lengths: &[usize], seed: usize) -> Batch {
    let rows: usize = lengths.iter().sum();
    let ends = lengths.iter().scan(0, |end, len| {
        *end += *len as u32;
        Some(*end)
    });
    Batch {
        tokens: (0..rows).map(|i| ((i * 7 + seed) % 50) as u32).collect(),
        targets: (0..rows)
            .map(|i| if (i + seed).is_multiple_of(3) { -1 } else { ((i * 11 + seed) % 50) as i32 })
            .collect(),
        documents: std::iter::once(0).chain(ends).collect(),
    }
}

/// One pass of each of some runs: losses, and gradients by name.
type Found = (Vec<f32>, Vec<(String, Vec<f32>)>);

fn pass<B: Backend + Clone>(
    mut model: Decoder<B>,
    (run, dora): (usize, bool),
    batch: &Batch,
) -> Found {
    let targets = vec![Target::QProj, Target::VProj, Target::OProj, Target::UpProj];
    let dropout = if dora { 0.2 } else { 0.0 };
    let lora = Lora { dora, dropout, ..Lora::new(3, 6.0, targets) };
    model.attach(lora, Base::default(), run as u64);
    let mut gradients = Gradients::zeros(&model);
    // Twice, so that what was lent has come back; then a pass without a gradient.
    model.forward_backward(batch, 0.1 * (run + 1) as f32, &mut gradients).unwrap();
    model.forward_backward(batch, 0.1, &mut gradients).unwrap();
    let losses = model.losses(batch).unwrap();
    (losses, gradients.named())
}

fn check_on<B: Backend + Clone + Send>(backend: B, gathering: Option<Gathering>, dora: bool) {
    for base in [random_base(), random_base().copy_as(Cpu, Nf4 { double_quant: true })] {
        check_over(&backend, &base, gathering, dora);
    }
}

fn check_over<B: Backend + Clone + Send>(
    backend: &B,
    base: &Model,
    gathering: Option<Gathering>,
    dora: bool,
) {
    // One row, one document, many, none that counts.
    let mut batches = vec![batch(&[1], 1), batch(&[30], 2), batch(&[5, 9, 40, 2], 3)];
    batches.push(Batch { targets: vec![-1; 6], ..batch(&[6], 4) });
    let alone: Vec<Found> = (0..batches.len())
        .map(|run| pass(base.copy_to(backend.clone()), (run, dora), &batches[run]))
        .collect();
    let meeting = Arc::new(gathering.map_or_else(Meeting::default, Meeting::gathering));
    // All are seated before the first pass, so that each waits for all.
    let models: Vec<Decoder<B>> = batches
        .iter()
        .map(|_| meeting.join(|| Ok(base.copy_to(backend.clone()))).unwrap())
        .collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = models
            .into_iter()
            .enumerate()
            .map(|(run, model)| {
                scope.spawn({
                    let batch = &batches[run];
                    move || pass(model, (run, dora), batch)
                })
            })
            .collect();
        for (run, thread) in threads.into_iter().enumerate() {
            assert!(thread.join().unwrap() == alone[run], "run {run}");
        }
    });
}

#[test]
fn one_pass_for_several_runs_gives_each_the_losses_and_gradients_that_it_has_alone() {
    for dora in [false, true] {
        check_on(Cpu, Some(Gathering::ALL), dora);
        check_on(Reference, None, dora);
    }
}

#[test]
fn it_does_not_matter_who_passes_with_whom_nor_how_many_passes_are_under_way() {
    for (at_once, enough) in [(1, 1), (1, 35), (2, 1), (3, 7)] {
        check_on(Cpu, Some(Gathering { at_once, enough }), at_once == 1);
    }
    check_on(Cpu, None, true);
}
