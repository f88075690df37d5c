//! Runs on several ranks, each a process: the loss curve of one process, the same bits again, checkpoints that go on
//! with another number of ranks, and ranks that die.

mod trainer_common;

use std::fs;
use std::process::Command;

use anyhow::Result;
use artifact::{Context, error::is_user};
use train::parallel::{Ranks, World, serve};
use train::trainer::Summary;
use train::{BaseModel, Shared};
use trainer_common::{Bench, base, config, metrics, sums};

/// What this test's program is when it is started as another rank.
#[test]
fn a_process_with_a_rank_serves_it() {
    if let Some(world) = World::from_env().unwrap() {
        serve(&world, &Context::quiet()).unwrap();
    }
}

fn shared() -> Shared {
    Shared::default().on(launched())
}

fn launched() -> Ranks {
    let launch = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", "a_process_with_a_rank_serves_it"]);
        Ok(command)
    };
    Ranks::started_by(launch)
}

fn run_with(
    shared: &Shared,
    bench: &Bench,
    base: &BaseModel,
    name: &str,
    settings: &str,
) -> Result<Summary> {
    let (out, ctx) = (bench.out(name), Context::quiet());
    train::run(&config(settings), base, &bench.data, shared, &out, &ctx)
}

fn run(bench: &Bench, name: &str, ranks: usize, settings: &str) -> Result<Summary> {
    run_with(&shared(), bench, &base(), name, &format!("ranks = {ranks}\n{settings}"))
}

/// The loss curves, by language too, agree within the rounding of f32 sums.
fn assert_same_curve(bench: &Bench, one: &str, other: &str) {
    let (one, other) = (metrics(&bench.out(one)), metrics(&bench.out(other)));
    assert_eq!(one.len(), other.len());
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-5;
    for (one, other) in one.iter().zip(&other) {
        assert_eq!((one.step, one.validation), (other.step, other.validation));
        assert_eq!((one.tokens, one.documents), (other.tokens, other.documents));
        assert!(close(one.loss, other.loss), "{} {}", one.loss, other.loss);
        for ((language, loss), (same, as_much)) in one.by_language.iter().zip(&other.by_language) {
            assert!(language == same && close(*loss, *as_much), "{language} {loss} {as_much}");
        }
        if let (Some(norm), Some(as_much)) = (one.grad_norm, other.grad_norm) {
            assert!((norm / as_much - 1.0).abs() < 1e-4, "{norm} {as_much}");
        }
    }
}

fn bytes(bench: &Bench, name: &str, file: &str) -> Vec<u8> {
    fs::read(bench.out(name).join(file)).unwrap()
}

const WEIGHTS: &str = "model/model.safetensors";
const SETTINGS: &str =
    "steps = 8\nbatch_size = 7\nlearning_rate = 5e-3\nvalidate_every = 4\nweight_decay = 0.1\n";

#[test]
fn two_and_three_ranks_learn_as_one_does_and_repeat_bit_for_bit() {
    let bench = Bench::new(&sums(24), 5);
    run(&bench, "one", 1, SETTINGS).unwrap();
    for ranks in [2, 3] {
        let name = format!("on-{ranks}");
        let summary = run(&bench, &name, ranks, SETTINGS).unwrap();
        assert_eq!(summary.ranks, Some(ranks));
        assert_same_curve(&bench, "one", &name);
    }
    run(&bench, "again", 3, SETTINGS).unwrap();
    assert!(bytes(&bench, "on-3", WEIGHTS) == bytes(&bench, "again", WEIGHTS));
    assert_eq!(metrics(&bench.out("on-3")), metrics(&bench.out("again")));
}

#[test]
fn the_ranks_serve_one_run_after_the_other_and_adapters_too() {
    let (bench, shared) = (Bench::new(&sums(24), 4), shared());
    run_with(&shared, &bench, &base(), "base", "ranks = 2\nsteps = 2\nbatch_size = 8").unwrap();
    let base = BaseModel::Weights(bench.out("base").join("model"));
    let lora = "\n[lora]\nrank = 4\nalpha = 8\ntargets = [\"q_proj\", \"v_proj\", \"down_proj\"]";
    let dora = "\ndora = true\ndropout = 0.2";
    for (name, more) in [("lora", ""), ("dora", dora), ("nf4", "\nquantize = \"nf4\"")] {
        for ranks in [1, 2] {
            let settings = format!("ranks = {ranks}\n{SETTINGS}{lora}{more}");
            run_with(&shared, &bench, &base, &format!("{name}-{ranks}"), &settings).unwrap();
        }
        // What is dropped goes by the row of the step, whichever rank has it.
        assert_same_curve(&bench, &format!("{name}-1"), &format!("{name}-2"));
        let adapter = bench.out(&format!("{name}-2")).join("model/adapter_model.safetensors");
        assert!(adapter.exists());
    }
}

#[test]
fn a_checkpoint_goes_on_with_as_many_ranks_bit_for_bit_and_with_others_on_the_same_curve() {
    let bench = Bench::new(&sums(24), 4);
    let settings = format!("{SETTINGS}save_every = 3\n");
    run(&bench, "whole", 2, &settings).unwrap();
    // A file in the way of the checkpoint at step 6 ends the run there, with that of step 3.
    for (name, ranks) in [("same", 2), ("fewer", 1), ("more", 3)] {
        let in_the_way = bench.out(name).join("checkpoint/.step-6");
        fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
        fs::write(&in_the_way, "").unwrap();
        run(&bench, name, 2, &settings).unwrap_err();
        fs::remove_file(in_the_way).unwrap();
        assert!(bench.out(name).join("checkpoint/step-3").exists());
        run(&bench, name, ranks, &settings).unwrap();
        assert_same_curve(&bench, "whole", name);
    }
    assert!(bytes(&bench, "whole", WEIGHTS) == bytes(&bench, "same", WEIGHTS));
}

#[test]
fn ranks_that_train_beside_weights_which_other_runs_share_have_the_masks_of_one_and_repeat() {
    let bench = Bench::new(&sums(24), 4);
    run(&bench, "base", 1, "steps = 2\nbatch_size = 8").unwrap();
    let base = BaseModel::Weights(bench.out("base").join("model"));
    let shared = || Shared::for_sweep().on(launched());
    let lora =
        "\n[lora]\nrank = 4\nalpha = 8\ndropout = 0.2\ntargets = [\"q_proj\", \"down_proj\"]";
    for name in ["first", "second"] {
        let settings = format!("ranks = 2\n{SETTINGS}{lora}");
        let both = shared();
        run_with(&both, &bench, &base, name, &settings).unwrap();
        run_with(&both, &bench, &base, &format!("{name}-alone"), &format!("{SETTINGS}{lora}"))
            .unwrap();
    }
    let adapter = |name| bytes(&bench, name, "model/adapter_model.safetensors");
    assert!(adapter("first") == adapter("second"));
    assert!(adapter("first-alone") == adapter("second-alone"));
    // Masks go by the row of the whole step, whoever has it.
    assert_same_curve(&bench, "first", "first-alone");
}

#[test]
fn several_ranks_stop_early_and_at_divergence_as_one_does() {
    let (bench, shared) = (Bench::new(&sums(24), 5), shared());
    let settings = "steps = 40\nbatch_size = 6\nlearning_rate = 0.3\nclip = 1e9\nvalidate_every = 2\npatience = 2";
    let of = |ranks: usize| {
        let settings = format!("ranks = {ranks}\n{settings}");
        run_with(&shared, &bench, &base(), &format!("patient-{ranks}"), &settings).unwrap()
    };
    let (alone, both) = (of(1), of(2));
    assert!(alone.stopped_early && both.stopped_early);
    assert_eq!((alone.steps, alone.kept_step), (both.steps, both.kept_step));
    let settings =
        "ranks = 2\nsteps = 20\nbatch_size = 6\nlearning_rate = 1e30\nclip = 0\nwarmup_steps = 0";
    let error = run_with(&shared, &bench, &base(), "diverges", settings).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("diverged at step"), "{error:#}");
    // The ranks are there for the next run.
    let settings = format!("ranks = 2\n{SETTINGS}");
    run_with(&shared, &bench, &base(), "next", &settings).unwrap();
    assert!(
        bench.out("next").join("tensorboard").read_dir().unwrap().count() == 1,
        "rank 0's alone"
    );
}
