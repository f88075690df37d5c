//! What a run does about memory: settings that save it change no bit, what cannot go together is
//! refused, and a plan needs no weights and no card.

mod trainer_common;

use artifact::Context;
use artifact::error::is_user;
use train::cuda::memory::Use;
use train::model::Recompute;
use train::{BaseModel, Shared};
use trainer_common::{Bench, base, config, metrics, sums};

/// A batch within one pass, without clipping.
const QUICK: &str = "steps = 5\nbatch_size = 6\nlearning_rate = 5e-3\nclip = 0\nweight_decay = 0.1\nvalidate_every = 2\n";

fn weights(bench: &Bench, name: &str) -> Vec<u8> {
    std::fs::read(bench.out(name).join("model/model.safetensors")).unwrap()
}

/// A model whose heads a card takes.
fn base_for_a_card() -> BaseModel {
    let BaseModel::Random { mut init, tokenizer, seed } = base() else { unreachable!() };
    (init.num_attention_heads, init.num_key_value_heads) = (2, Some(1));
    BaseModel::Random { init, tokenizer, seed }
}

fn plan(
    bench: &Bench,
    base: &BaseModel,
    settings: &str,
    card: u64,
) -> anyhow::Result<train::trainer::Planned> {
    let (shared, ctx) = (Shared::default(), Context::quiet());
    train::plan(&config(settings), base, &bench.data, &shared, (Some(card), &ctx))
}

#[test]
fn what_saves_memory_changes_no_bit_of_a_run() {
    let bench = Bench::new(&sums(24), 4);
    bench.run("plain", QUICK).unwrap();
    for (name, settings) in [
        ("internals", "recompute = \"internals\""),
        ("block", "recompute = \"block\""),
        ("in-backward", "optimizer_in_backward = true"),
        ("both", "optimizer_in_backward = true\nrecompute = \"block\""),
    ] {
        bench.run(name, &format!("{QUICK}{settings}")).unwrap();
        assert!(weights(&bench, name) == weights(&bench, "plain"), "{name}");
        assert_eq!(metrics(&bench.out(name)), metrics(&bench.out("plain")), "{name}");
    }
}

#[test]
fn a_batch_of_several_passes_cannot_be_optimised_in_the_backward_pass() {
    let bench = Bench::new(&sums(900), 0);
    let settings = "steps = 1\nbatch_size = 900\nclip = 0\noptimizer_in_backward = true";
    let error = bench.run("out", settings).unwrap_err();
    assert!(is_user(&error), "{error:#}");
    for what in ["passes", "gradient_accumulation = 1", "batch_size"] {
        assert!(error.to_string().contains(what), "{error:#}");
    }
}

#[test]
fn a_card_that_is_not_there_is_planned_for_without_weights() {
    let bench = Bench::new(&sums(24), 4);
    bench.run_from(&base_for_a_card(), "made", "steps = 1").unwrap();
    let folder = bench.out("made").join("model");
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let planned = plan(&bench, &BaseModel::Weights(folder), QUICK, 2_000_000_000).unwrap();
    let memory = &planned.memory;
    let of = |purpose| memory.parts.iter().find(|part| part.0 == purpose).map_or(0, |part| part.1);
    assert!(memory.fits());
    assert_eq!(memory.recompute, Recompute::None);
    // bf16, f32 and f32 twice, of which each moment of a tensor begins at a multiple of 256 bytes.
    assert_eq!(of(Use::Masters), 2 * of(Use::Weights));
    assert_eq!(of(Use::Gradients), 2 * of(Use::Weights));
    let states = 2 * of(Use::Gradients);
    assert!((states..states + states / 50).contains(&of(Use::States)), "{memory}");
    let table = planned.to_string();
    for row in ["weights", "optimiser states", "activations", "in all", "free"] {
        assert!(table.contains(row), "{table}");
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_what_would() {
    let bench = Bench::new(&sums(200), 0);
    let settings = "steps = 2\nbatch_size = 100\nsequence_length = 64\npacking = true";
    // What is made again grows with what is missing; of these passes no recordings are made, which would need more
    // of the driver's memory the more is made again.
    let in_backward = format!("{settings}\nclip = 0\noptimizer_in_backward = true");
    let whole = plan(&bench, &base_for_a_card(), &in_backward, 4_000_000_000).unwrap().memory;
    let smaller = plan(&bench, &base_for_a_card(), &in_backward, whole.needed() - 1).unwrap();
    assert!(smaller.memory.recompute > Recompute::None && smaller.memory.fits());
    let block = format!("{settings}\nrecompute = \"block\"");
    let least = plan(&bench, &base_for_a_card(), &block, 4_000_000_000).unwrap().memory.needed();
    let error = plan(&bench, &base_for_a_card(), &block, least - 1).unwrap_err();
    assert!(is_user(&error), "{error:#}");
    for what in ["missing", "saves", "gradient_accumulation = 2", "fits: "] {
        assert!(error.to_string().contains(what), "{error:#}");
    }
    let text = error.to_string();
    let fits: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("fits: ")).collect();
    assert!(fits.contains(&"gradient_accumulation = 2"), "one change is enough: {text}");
    let both = |way: &&&str| way.contains("lora") && way.contains("master_weights");
    assert!(!fits.iter().any(|way| both(&way)), "an adapter's base has no masters: {text}");
    let error = plan(&bench, &base_for_a_card(), settings, (512 << 20) + 1000).unwrap_err();
    assert!(error.to_string().contains("larger card"), "{error:#}");
}
