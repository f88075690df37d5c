//! Plans against what runs take on the emulated device, for small models in many settings; and the
//! plans of large ones against sums done by hand.

use proptest::prelude::*;

use super::passes::Most;
use super::*;
use crate::config::TrainConfig;
use crate::cuda::emulator::Emulator;
use crate::lora::{LoraConfig, Quantize};
use crate::model::{Base, Model};
use crate::ops::{Form, Kind};

const HEAD: &str = r#""vocab_size": 32, "hidden_size": 32, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "max_position_embeddings": 64, "rope_theta": 10000.0, "initializer_range": 0.2"#;

/// A tied model with normed heads, and a parallel one with a head of its own.
pub(super) fn models() -> [ModelConfig; 2] {
    [
        format!(
            r#"{{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", {HEAD},
            "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": true}}"#
        ),
        format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", {HEAD},
            "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": false}}"#
        ),
    ]
    .map(|text| ModelConfig::parse(&text, std::path::Path::new("config.json")).unwrap())
}

fn batch(lengths: &[usize]) -> Batch {
    let rows: usize = lengths.iter().sum();
    let mut batch = Batch { documents: vec![0], ..Batch::default() };
    batch.tokens = (0..rows).map(|i| ((i * 37 + 11) % 32) as u32).collect();
    batch.targets = (0..rows)
        .map(|i| if i.is_multiple_of(3) { -1 } else { ((i * 53 + 7) % 32) as i32 })
        .collect();
    let ends = lengths.iter().scan(0, |end, len| {
        *end += *len as u32;
        Some(*end)
    });
    batch.documents.extend(ends);
    batch
}

fn passes() -> Passes {
    let training = Most { rows: 12, counted: 8, documents: 4 };
    Passes::new(training, Some(Most { rows: 4, counted: 3, documents: 1 }), 12, 1)
}

fn recipe(change: impl FnOnce(&mut TrainConfig)) -> Recipe {
    let mut config = TrainConfig::default();
    change(&mut config);
    config.resolve().unwrap()
}

/// An adapter over a base in 4 bits.
fn packed(rank: usize) -> LoraConfig {
    LoraConfig { rank: Some(rank), quantize: Some(Quantize::Nf4), ..LoraConfig::default() }
}

fn settings() -> Vec<Recipe> {
    let level = |level| recipe(|config| config.recompute = Some(level));
    let mut all: Vec<Recipe> = Recompute::ALL.map(level).to_vec();
    all.push(recipe(|config| {
        config.lora = Some(LoraConfig { rank: Some(8), ..LoraConfig::default() })
    }));
    let dora =
        LoraConfig { rank: Some(8), dora: Some(true), dropout: Some(0.1), ..LoraConfig::default() };
    all.push(recipe(|config| config.lora = Some(dora)));
    all.push(recipe(|config| config.lora = Some(packed(8))));
    all.push(recipe(|config| {
        config.optimizer_in_backward = Some(true);
        config.clip = Some(0.0);
    }));
    all.push(recipe(|config| {
        (config.optimizer_in_backward, config.clip) = (Some(true), Some(0.0));
        (config.master_weights, config.optimizer_states) = (Some(false), Some(Form::Int8));
    }));
    all.push(recipe(|config| {
        (config.optimizer_offload, config.optimizer_states) = (Some(true), Some(Form::Bf16));
    }));
    all
}

#[test]
fn a_plan_is_what_a_run_takes_to_the_byte_and_its_steps_allocate_nothing() {
    let all = models();
    let runs = all.iter().cycle().zip(settings());
    for (number, (model, recipe)) in runs.enumerate() {
        // An Ampere and a Hopper card in turn.
        let capability = (8 + (number / 2 % 2) as u32, 0);
        let Some(emulator) = Emulator::new(capability) else { return };
        let (cuda, passes) = (Cuda::new(Arc::new(emulator)), passes());
        let place = Place::of(&cuda).unwrap();
        let plan = MemoryPlan::new(model, &recipe, &passes, &place).unwrap();
        cuda.pool().reserve(plan.total() as usize).unwrap();

        let mut decoder = Model::random(model.clone(), 7).copy_as(cuda.clone(), recipe.weights());
        if let Some(lora) = &recipe.lora {
            decoder.attach(lora.clone(), Base::default(), 1);
        }
        let recipe = Recipe { recompute: Some(plan.recompute), ..recipe };
        let mut engine = Engine::alone(decoder, &recipe).unwrap();
        engine.model.reserve(passes.room);
        run_through(&mut engine, &recipe, (&passes, 0)).unwrap();
        assert_eq!(of_card(&cuda), plan.parts, "{recipe:?}");
        assert_eq!(cuda.pool().top() as u64, plan.total());
        // Other batches within the room, longer documents and shorter ones.
        for lengths in [&[12][..], &[1, 2, 3, 6]] {
            one_step(&mut engine, &recipe, &[Some(batch(lengths)), Some(batch(&[4]))]).unwrap();
        }
        assert_eq!(cuda.pool().allocations(), 0, "{recipe:?}");
    }
}

#[test]
fn the_plan_of_runs_side_by_side_is_what_they_take_to_the_byte() {
    let lora =
        |dropout| LoraConfig { rank: Some(8), dropout: Some(dropout), ..LoraConfig::default() };
    for (number, model) in models().into_iter().enumerate() {
        let Some(emulator) = Emulator::new((8 + number as u32, 0)) else { return };
        let cuda = Cuda::new(Arc::new(emulator));
        let recipe = recipe(|config| config.lora = Some(lora(0.1 * number as f64)));
        let passes = passes().side_by_side(3);
        let place = Place::of(&cuda).unwrap();
        let plan = MemoryPlan::new(&model, &recipe, &passes, &place).unwrap();
        let alone = MemoryPlan::new(&model, &recipe, &self::passes(), &place).unwrap();
        // One base, three adapters.
        let base = 2 * model_parameters(&model);
        let of_adapter = part(&alone, Use::Weights) - base;
        assert_eq!(part(&plan, Use::Weights), base + 3 * of_adapter);
        assert_eq!(part(&plan, Use::States), 3 * part(&alone, Use::States));

        plan.reserve(&cuda).unwrap();
        let recipe = Recipe { recompute: Some(plan.recompute), ..recipe };
        let (meeting, base) = (Arc::new(Meeting::default()), Model::random(model.clone(), 7));
        let seated = (0..3).map(|_| meeting.join(|| Ok(base.copy_as(cuda.clone(), Kind::Frozen))));
        let models = seated.collect::<Result<Vec<_>>>().unwrap();
        side_by_side(models, |run, mut decoder| {
            decoder.attach(recipe.lora.clone().unwrap(), Base::default(), run as u64);
            let mut engine = Engine::alone(decoder, &recipe)?;
            engine.model.reserve(passes.room);
            run_through(&mut engine, &recipe, (&passes, run))?;
            // One run has less to do than the others, which go on without it.
            engine.model.reserve(passes.room);
            let others = [Some(batch(&[12])), Some(batch(&[1, 3]))];
            (0..=run).try_for_each(|_| one_step(&mut engine, &recipe, &others))
        })
        .unwrap();
        cuda.check().unwrap();
        assert_eq!(of_card(&cuda), plan.parts);
        assert_eq!((cuda.pool().top() as u64, cuda.pool().allocations()), (plan.total(), 0));
    }
}

/// A model of 0.5B as far as its widths go.
pub(super) fn wide() -> ModelConfig {
    let text = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896,
        "num_hidden_layers": 2, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151936, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": true, "hidden_act": "silu"}"#;
    ModelConfig::parse(text, Path::new("config.json")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 30, ..ProptestConfig::with_cases(12) })]
    #[test]
    fn no_batch_takes_more_than_the_plan(
        seed in 0_u64..1000,
        hopper in any::<bool>(),
        setting in 0_usize..4,
        sizes in prop::collection::vec(prop::collection::vec((1_usize..1500, 0_usize..4), 1..12), 2..5),
    ) {
        let recipe = recipe(|config| match setting {
            0 => {}
            1 => (config.optimizer_in_backward, config.clip) = (Some(true), Some(0.0)),
            dropout => config.lora = Some(LoraConfig {
                rank: Some(8), dropout: Some(0.1 * (dropout - 2) as f64), ..LoraConfig::default()
            }),
        });
        // Of each document all of its rows count, or some, or few, or none.
        let batches: Vec<Batch> = sizes.iter().map(|documents| {
            let mut all = batch(&documents.iter().map(|of| of.0).collect::<Vec<_>>());
            let of_row = documents.iter().flat_map(|&(rows, share)| (0..rows).map(move |_| share));
            for (row, (target, share)) in all.targets.iter_mut().zip(of_row).enumerate() {
                let counts = row == 0 || share > 0 && row.is_multiple_of([1, 1, 7, 50][share]);
                *target = if counts { (seed as usize % 100 + row) as i32 } else { -1 };
            }
            all
        }).collect();
        let most = batches.iter().fold(Most::default(), |most, batch| {
            let counted = batch.targets.iter().filter(|&&target| target >= 0).count();
            Most {
                rows: most.rows.max(batch.tokens.len()),
                counted: most.counted.max(counted),
                documents: most.documents.max(batch.documents.len() - 1),
            }
        });
        let longest = sizes.iter().flatten().map(|of| of.0).max().unwrap();
        let (model, passes) = (wide(), Passes::new(most, Some(most), longest, 1));
        let Place::Card { mut facts, .. } = Place::imagined(80_000_000_000) else { unreachable!() };
        facts.capability = (if hopper { 9 } else { 8 }, 0);
        let place = Place::Card { facts: facts.clone(), available: facts.memory, host: None };
        let plan = MemoryPlan::new(&model, &recipe, &passes, &place).unwrap();

        let cuda = Cuda::new(Arc::new(Counter::new(facts)));
        plan.reserve(&cuda).unwrap();
        let mut decoder = Decoder::zeros_as(cuda.clone(), recipe.weights(), model);
        if let Some(lora) = &recipe.lora {
            decoder.attach_zeros(lora.clone());
        }
        let recipe = Recipe { recompute: Some(plan.recompute), ..recipe };
        let mut engine = Engine::alone(decoder, &recipe).unwrap();
        engine.model.reserve(passes.room);
        for batch in batches.iter().chain(&batches).chain(&batches) {
            one_step(&mut engine, &recipe, &[Some(batch.clone()), Some(batches[0].clone())]).unwrap();
            prop_assert_eq!(cuda.pool().allocations(), 0);
            prop_assert!(cuda.pool().top() as u64 <= plan.total());
        }
        prop_assert_eq!(cuda.pool().generation(), 0, "recordings kept their memory");
        prop_assert_eq!(engine.model.refusal(), None);
    }
}

/// Parameters of a model.
fn model_parameters(model: &ModelConfig) -> u64 {
    Model::random(model.clone(), 7).parameter_count() as u64
}

/// A parallel model with normed heads, and one whose halves are normed before they are added, wide enough for a card.
fn other_blocks() -> [ModelConfig; 2] {
    ["cohere_qk_norm", "gemma2"].map(|name| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine").join(name);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        for key in ["hidden_size", "intermediate_size", "vocab_size"] {
            config[key] = 32.into();
        }
        config["num_attention_heads"] = 2.into();
        config["num_key_value_heads"] = 1.into();
        if config["head_dim"].is_number() {
            config["head_dim"] = 16.into();
        }
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            config[key] = 1.into();
        }
        ModelConfig::parse(&config.to_string(), &folder).unwrap()
    })
}

/// Losses and gradients' norms of two steps, and what is trained and all weights after them.
fn two_steps(
    cuda: &Cuda,
    model: &ModelConfig,
    recipe: &Recipe,
) -> (Vec<Vec<f32>>, Vec<f64>, Vec<Vec<f32>>) {
    let mut decoder = Model::random(model.clone(), 7).copy_as(cuda.clone(), recipe.weights());
    if let Some(lora) = &recipe.lora {
        decoder.attach(lora.clone(), Base::default(), 1);
    }
    let (mut engine, batch) = (Engine::alone(decoder, recipe).unwrap(), batch(&[8, 4]));
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (of_step, norm) = if recipe.optimizer_in_backward {
            engine.step_in_backward(&batch, 0.1, 1e-2).unwrap()
        } else {
            let (losses, squares) =
                engine.gradients((0, std::slice::from_ref(&batch)), 0.1).unwrap();
            engine.update(1.0, 1e-2).unwrap();
            (losses, squares.iter().map(|(_, sum)| sum).sum::<f64>().sqrt())
        };
        losses.push(of_step);
        norms.push(norm);
    }
    let copy: Model = engine.model.copy_as(crate::ops::Cpu, Kind::Frozen);
    let trained = (0..engine.shares.cuts.len()).map(|tensor| engine.weight(tensor).into_owned());
    let weights = copy.parameters().into_iter().map(|(_, values)| values.to_vec());
    (losses, norms, trained.chain(weights).collect())
}

#[test]
fn what_saves_memory_changes_no_bit_on_a_card() {
    let all = models().into_iter().chain(other_blocks());
    for (number, model) in all.enumerate() {
        let Some(emulator) = Emulator::new((8 + (number % 2) as u32, 0)) else { return };
        let cuda = Cuda::new(Arc::new(emulator));
        let same = |changed: Recipe, plain: Recipe| {
            let (of, expected) =
                (two_steps(&cuda, &model, &changed), two_steps(&cuda, &model, &plain));
            assert!(expected.0[0] != expected.0[1], "the weights moved");
            assert!(of == expected, "{changed:?}");
        };
        let level = |level| recipe(|config| config.recompute = Some(level));
        same(level(Recompute::Internals), level(Recompute::None));
        same(level(Recompute::Block), level(Recompute::None));
        let adapter = |level| {
            recipe(|config| {
                config.recompute = Some(level);
                config.lora = Some(LoraConfig { rank: Some(8), ..LoraConfig::default() });
            })
        };
        same(adapter(Recompute::Block), adapter(Recompute::None));
        let over_4_bits = |level| {
            recipe(|config| {
                (config.recompute, config.lora) = (Some(level), Some(packed(8)));
            })
        };
        same(over_4_bits(Recompute::Block), over_4_bits(Recompute::None));
        let in_backward = |is_set| {
            recipe(|config| {
                (config.optimizer_in_backward, config.clip) = (Some(is_set), Some(0.0));
            })
        };
        same(in_backward(true), in_backward(false));
    }
}

/// A published model's shape, and how many parameters transformers counts in it.
fn published(name: &str) -> (ModelConfig, u64) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine/configs.jsonl");
    let text = std::fs::read_to_string(file).unwrap();
    let mut rows =
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let row = rows.find(|row| row["name"] == name).unwrap();
    let config = ModelConfig::parse(&row["config"].to_string(), Path::new(name)).unwrap();
    (config, row["parameters"].as_u64().unwrap())
}

fn plan_of(model: &ModelConfig, recipe: &Recipe) -> MemoryPlan {
    let passes = Passes::at_most(model, recipe);
    MemoryPlan::new(model, recipe, &passes, &Place::imagined(141_000_000_000)).unwrap()
}

fn part(plan: &MemoryPlan, purpose: Use) -> u64 {
    plan.part(purpose)
}

#[test]
fn all_weights_of_an_8b_model_are_tuned_on_one_card_of_141_gb() {
    let (model, parameters) = published("aya-23-8B");
    let whole = plan_of(&model, &recipe(|_| {}));
    // bf16 weights, f32 masters, gradients and two moments: 18 bytes a parameter.
    let bytes = [(Use::Weights, 2), (Use::Masters, 4), (Use::Gradients, 4), (Use::States, 8)];
    for (purpose, each) in bytes {
        assert_eq!(part(&whole, purpose), each * parameters);
    }
    assert!(!whole.fits() && whole.recompute == Recompute::Block);
    let layered = plan_of(
        &model,
        &recipe(|config| {
            (config.optimizer_in_backward, config.clip) = (Some(true), Some(0.0));
            config.batch_size = Some(4);
        }),
    );
    assert!(layered.fits(), "{layered}");
    // The tied embedding's, one layer's of the 32 and the last norm's.
    let (c, v) = (4096, 256_000);
    let layer = (parameters - v * c - c) / 32;
    assert_eq!(part(&layered, Use::Gradients), 4 * (v * c + layer + c));
}

#[test]
fn an_adapter_over_4_bits_fits_where_one_over_16_does_not() {
    let ((model, parameters), card) = (published("aya-23-8B"), Place::imagined(24_000_000_000));
    let plan = |quantize| {
        let lora = LoraConfig { quantize, ..LoraConfig::default() };
        let recipe = recipe(|config| {
            (config.lora, config.batch_size, config.sequence_length) =
                (Some(lora), Some(1), Some(1024));
        });
        MemoryPlan::new(&model, &recipe, &Passes::at_most(&model, &recipe), &card).unwrap()
    };
    let (whole, packed) = (plan(None), plan(Some(Quantize::Nf4)));
    assert!(packed.fits(), "{packed}");
    assert_eq!(part(&whole, Use::Packed), 0);
    // All but the tied embedding and the norms, of which there is one a layer and the last.
    let (c, v) = (4096, 256_000);
    let maps = parameters - v * c - 33 * c;
    assert_eq!(part(&whole, Use::Weights) - part(&packed, Use::Weights), 2 * maps);
    // QLoRA, section 3: 4 bits, 8 / 64 and 32 / (64 · 256) of them for the scales.
    let bits = 4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0);
    let by_hand = maps as f64 * bits / 8.0;
    assert!((part(&packed, Use::Packed) as f64 / by_hand - 1.0).abs() < 1e-4, "{packed}");
    assert!(packed.total() + maps < whole.total(), "{packed}\n{whole}");
}

#[test]
fn a_35b_model_is_tuned_on_one_card_of_141_gb() {
    let (model, parameters) = published("aya-23-35B");
    let adapter = plan_of(
        &model,
        &recipe(|config| {
            config.lora = Some(LoraConfig::default());
            config.batch_size = Some(16);
        }),
    );
    assert!(adapter.fits(), "{adapter}");
    // The base in bf16 alone; of each of the 40 layers' seven maps A and B of rank 16, A's of maps with the
    // same input side by side and B's filled up with zeros to all outputs of those.
    let (c, f) = (8192, 22_528);
    let maps = [(c, 3 * c, 3), (c, c, 1), (c, 2 * f, 2), (f, c, 1)];
    let values: u64 =
        40 * 16 * maps.iter().map(|(inputs, outputs, maps)| maps * (inputs + outputs)).sum::<u64>();
    assert_eq!(part(&adapter, Use::Weights), 2 * parameters + 2 * values);
    assert_eq!(part(&adapter, Use::Masters), 4 * values);

    let full = |states, offload| {
        plan_of(
            &model,
            &recipe(|config| {
                (config.optimizer_in_backward, config.clip) = (Some(true), Some(0.0));
                config.master_weights = Some(false);
                config.batch_size = Some(2);
                (config.optimizer_states, config.optimizer_offload) = (Some(states), Some(offload));
            }),
        )
    };
    // Moments of a byte each with a scale for 256: 71 GB beside 70 GB of weights are too much for the card and
    // stand on the host.
    let on_card = full(Form::Int8, false);
    assert!(!on_card.fits());
    let offloaded = full(Form::Int8, true);
    assert!(offloaded.fits(), "{offloaded}");
    assert_eq!(part(&offloaded, Use::Weights), 2 * parameters);
    let by_hand = (2 * parameters + 8 * parameters / 256) as f64;
    assert!((offloaded.host as f64 / by_hand - 1.0).abs() < 1e-3, "{offloaded}");
}
