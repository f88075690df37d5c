//! Adapters over a base in 4 bits: a packed map is, bit for bit, a plain one of the values that its
//! codes stand for. That those are bitsandbytes' is tested in `ops::nf4`, and that training over them
//! is that of bitsandbytes and PEFT in `engine_lora.rs`.

use std::path::Path;

use train::model::adapter::{Lora, Target};
use train::model::{Base, Batch, Decoder, Gradients, KvCache, Model, Recompute};
use train::ops::{Backend, Cpu, Kind, Nf4, Reference};

const FORMS: [Nf4; 2] = [Nf4 { double_quant: false }, Nf4 { double_quant: true }];

fn packed<B: Backend + Clone>(backend: B, name: &str, form: Nf4) -> Decoder<B> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine");
    Decoder::load_as(backend, form, &fixtures.join(name)).unwrap()
}

fn batch(vocabulary: usize) -> Batch {
    let targets = |i: usize| if i.is_multiple_of(3) { -1 } else { ((i * 11) % vocabulary) as i32 };
    Batch {
        tokens: (0..20).map(|i| ((i * 7 + 3) % vocabulary) as u32).collect(),
        targets: (0..20).map(targets).collect(),
        documents: vec![0, 12, 20],
    }
}

/// Losses, gradients by name, and losses again.
type Outcome = (Vec<f32>, Vec<(String, Vec<f32>)>, Vec<f32>);

/// Of an adapter beside the weights.
fn pass<B: Backend + Clone>(
    mut model: Decoder<B>,
    (dora, recompute): (bool, Recompute),
) -> Outcome {
    let targets = vec![Target::QProj, Target::OProj, Target::UpProj, Target::DownProj];
    let lora = Lora { dora, ..Lora::new(3, 6.0, targets) };
    model.attach(lora, Base::default(), 5);
    model.set_recompute(recompute);
    let batch = batch(model.config().vocab_size);
    let mut gradients = Gradients::zeros(&model);
    let losses = model.forward_backward(&batch, 0.1, &mut gradients).unwrap();
    let after = model.losses(&batch).unwrap();
    (losses, gradients.named(), after)
}

fn check_on<B: Backend + Clone>(backend: B) {
    // A gated feed-forward by itself, norms on what is added, and a parallel block.
    for name in ["llama", "gemma2", "cohere"] {
        for form in FORMS {
            let model = || packed(backend.clone(), name, form);
            let plain = model().copy_as(backend.clone(), Kind::Frozen);
            let dora = name == "gemma2";
            let expected = pass(plain, (dora, Recompute::None));
            assert!(expected.1.iter().any(|(_, values)| values.iter().any(|&x| x != 0.0)));
            for level in Recompute::ALL {
                assert!(pass(model(), (dora, level)) == expected, "{name}, {form:?}, {level:?}");
            }
        }
    }
}

#[test]
fn passes_over_packed_maps_are_those_over_the_values_that_they_stand_for() {
    check_on(Cpu);
    check_on(Reference);
}

#[test]
fn only_the_layers_maps_are_packed() {
    let stored = packed(Cpu, "qwen2", FORMS[0]).copy_as(Cpu, Kind::Frozen);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine");
    let exact = Model::load(&fixtures.join("qwen2")).unwrap();
    for ((name, found), (_, values)) in stored.parameters().into_iter().zip(exact.parameters()) {
        let is_map = name.contains(".layers.") && name.ends_with("_proj.weight");
        assert_eq!(found != values, is_map, "{name}");
        // Half of the widest step between two codes, times the largest value of the block.
        let largest = |block: &[f32]| block.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        for (found, values) in found.chunks(64).zip(values.chunks(64)) {
            let bound = 0.16 * largest(values);
            assert!(found.iter().zip(values).all(|(f, v)| (f - v).abs() <= bound), "{name}");
        }
    }
}

#[test]
fn a_model_that_is_copied_or_drawn_packed_is_the_one_that_is_packed_afterwards() {
    for form in FORMS {
        let config = packed(Cpu, "llama", form).config().clone();
        let drawn = Decoder::random_as(Cpu, form, config.clone(), 3);
        let copied = Model::random(config, 3).copy_as(Reference, form).copy_to(Cpu);
        let values = |model: &Model| {
            let plain = model.copy_as(Cpu, Kind::Frozen);
            plain
                .parameters()
                .into_iter()
                .flat_map(|(_, values)| values.to_vec())
                .collect::<Vec<_>>()
        };
        assert!(values(&drawn) == values(&copied));
        assert!(values(&drawn) != values(&Model::random(drawn.config().clone(), 3)));
    }
}

#[test]
fn answers_are_not_asked_of_packed_weights() {
    let mut model = packed(Cpu, "llama", FORMS[0]);
    let mut cache = KvCache::new(&model, 1, 8);
    let answer = model.prefill(&mut cache, &[(0, &[1, 2])]);
    let error = answer.map(|_| ()).expect_err("it must be refused");
    assert!(error.to_string().contains("packed"), "{error}");
}
