//! The optimiser on the emulated device against the processor's: the same bits, in every form, with
//! and without masters, on the card and streamed through it.

use std::sync::Arc;

use half::bf16;

use super::Cuda;
use super::emulator::Emulator;
use super::memory::Use;
use crate::model::{Decoder, Dtype, Model, ModelConfig};
use crate::ops::moments::SMALL;
use crate::ops::testing::{bits, random};
use crate::ops::*;

/// Slots through which some tensors pass in several pieces.
const SLOT: usize = 12 << 10;

fn device() -> Option<Cuda> {
    Emulator::new((9, 0)).map(|emulator| Cuda::with_slots(Arc::new(emulator), SLOT))
}

/// Lengths of some tensors: none, odd, just coded, more than a block of the kernel.
const LENGTHS: [usize; 5] = [0, 77, SMALL, 9_003, 4_500];

/// Parameters and moments after some steps, over parts of the tensors as `cuts` has them.
fn run<B: Backend>(
    ops: &B,
    (form, narrow, offload): (Form, bool, bool),
    steps: u64,
    cuts: &[usize],
) -> Vec<(Vec<u32>, Moments)> {
    let kind = if narrow { Kind::Narrow } else { Kind::Weight };
    let tensors = (1..).zip(LENGTHS);
    let mut weights: Vec<_> =
        tensors.clone().map(|(seed, len)| ops.tensor(kind, random(seed, len))).collect();
    let mut moments: Vec<_> =
        LENGTHS.iter().map(|&len| ops.moments(form.of(len), len, offload)).collect();
    for step in 1..=steps {
        let gradients: Vec<_> = tensors
            .clone()
            .map(|(seed, len)| ops.tensor(Kind::Gradient, random(100 * step + seed, len)))
            .collect();
        let settings = AdamWStep {
            step,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            gradient_factor: 0.7,
            narrow,
            seed: 0x1234_5678_9abc,
        };
        let all = weights.iter_mut().zip(&gradients).zip(&mut moments).enumerate();
        let mut updates = all.map(|(number, ((parameter, gradient), moments))| Update {
            parameter,
            gradient,
            moments,
            decays: number % 2 == 0,
            number: number as u32,
            first: 0,
        });
        for &count in cuts {
            ops.adamw(&settings, updates.by_ref().take(count).collect());
        }
    }
    ops.check().expect("no fault");
    let read = |(weight, moments)| {
        let values = ops.values(weight, ops.len(weight));
        (bits(&values), ops.read_moments(moments).into_owned())
    };
    weights.iter().zip(&moments).map(read).collect()
}

#[test]
fn the_card_and_the_processor_give_the_same_bits_in_every_form() {
    let Some(ops) = device() else { return };
    for (form, narrow, offload, cuts) in [
        (Form::F32, false, false, &[5][..]),
        (Form::Bf16, true, false, &[5]),
        (Form::Int8, false, false, &[5]),
        (Form::F32, true, true, &[2, 1, 2]),
        (Form::Bf16, false, true, &[5]),
        (Form::Int8, true, true, &[2, 1, 2]),
    ] {
        let expected = run(&Cpu, (form, narrow, false), 2, &[5]);
        let found = run(&ops, (form, narrow, offload), 2, cuts);
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            let what = format!("{form:?}, narrow {narrow}, offload {offload}, {i}");
            assert!(f.0 == e.0, "weights: {what}");
            assert!(f.1 == e.1, "moments: {what}");
        }
    }
}

#[test]
fn offloaded_moments_are_written_and_read_where_they_are() {
    let Some(ops) = device() else { return };
    for form in [Form::F32, Form::Bf16, Form::Int8] {
        let len = 4_500;
        let expected = run(&Cpu, (form, true, false), 1, &[5]).swap_remove(3).1;
        let mut moments = ops.moments(form, 9_003, true);
        ops.write_moments(&mut moments, expected.clone());
        assert!(*ops.read_moments(&moments) == expected);
        ops.check().expect("no fault");
        ops.write_moments(&mut moments, Moments::zeros(form, len));
        assert!(ops.check().is_err(), "another length is refused");
    }
}

#[test]
fn squares_are_summed_for_each_of_many_tensors() {
    let Some(ops) = device() else { return };
    let values: Vec<_> = (1..).zip([3, 0, 70_001, 65_536]).map(|(s, len)| random(s, len)).collect();
    let tensors: Vec<_> =
        values.iter().map(|values| ops.tensor(Kind::Gradient, values.clone())).collect();
    let found = ops.squares(&tensors.iter().collect::<Vec<_>>());
    ops.check().expect("no fault");
    for (found, values) in found.iter().zip(&values) {
        let expected: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((found - expected).abs() <= 1e-5 * expected, "{found}, expected {expected}");
    }
    assert_eq!(found.len(), 4);
}

#[test]
fn a_weight_that_stands_otherwise_than_the_step_takes_it_to_is_refused() {
    let Some(ops) = device() else { return };
    let mut weight = ops.tensor(Kind::Frozen, vec![1.0; 8]);
    let gradient = ops.tensor(Kind::Gradient, vec![1.0; 8]);
    let mut moments = ops.moments(Form::F32, 8, false);
    let step = AdamWStep {
        step: 1,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.0,
        gradient_factor: 1.0,
        narrow: false,
        seed: 0,
    };
    let (parameter, gradient, moments) = (&mut weight, &gradient, &mut moments);
    ops.adamw(
        &step,
        vec![Update { parameter, gradient, moments, decays: false, number: 0, first: 0 }],
    );
    assert!(ops.check().is_err());
}

#[test]
fn weights_that_stay_or_stand_in_bf16_alone_have_no_masters() {
    let Some(ops) = device() else { return };
    let text = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "hidden_act": "silu"}"#;
    let config = ModelConfig::parse(text, std::path::Path::new("config.json")).expect("a config");
    let model = Model::random(config, 3);
    let folder = tempfile::tempdir().expect("a folder");
    for dtype in [Dtype::F32, Dtype::Bf16] {
        model.save(folder.path(), dtype).expect("saved");
        let masters = |kind| {
            let loaded = Decoder::load_as(ops.clone(), kind, folder.path()).expect("loaded");
            ops.check().expect("no fault");
            (ops.pool().usage(Use::Masters).now, loaded.parameter_count())
        };
        assert_eq!(masters(Kind::Frozen).0, 0);
        assert_eq!(masters(Kind::Narrow).0, 0);
        let (bytes, count) = masters(Kind::Weight);
        assert_eq!(bytes, 4 * count, "what is trained exactly has one");
    }
}

#[test]
fn stored_bf16_reaches_the_card_and_its_master_as_it_is() {
    let Some(ops) = device() else { return };
    let values: Vec<bf16> = random(1, 700).into_iter().map(bf16::from_f32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let (a, b) = bytes.split_at(300);
    let parts = [a, b].map(|bytes| Stored { kind: StoredKind::Bf16, bytes });
    let expected: Vec<f32> = values.iter().map(|x| x.to_f32()).collect();
    for kind in [Kind::Weight, Kind::Narrow, Kind::Frozen] {
        let tensor = ops.load(kind, &parts);
        assert_eq!(ops.values(&tensor, 700), expected);
        ops.check().expect("no fault");
    }
}
