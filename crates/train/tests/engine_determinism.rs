//! The engine's results do not depend on what must not matter: the number of threads in training,
//! the composition of a batch in generation, and whether the operations are the fast or the plain
//! ones.

use std::path::Path;

use train::model::{Batch, Decoder, Dtype, Gradients, KvCache, Logits, Model, ModelConfig};
use train::ops::Reference;
use train::optimizer::AdamW;

fn config() -> ModelConfig {
    let json = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 301, "hidden_size": 60,
        "intermediate_size": 116, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "initializer_range": 0.2}"#;
    ModelConfig::parse(json, Path::new("config.json")).unwrap()
}

/// Documents of unequal length, the first quarter of each not counted.
fn batch(seed: u32) -> Batch {
    let mut batch = Batch { documents: vec![0], ..Batch::default() };
    for (document, len) in [70u32, 1, 150, 33, 5].into_iter().enumerate() {
        for i in 0..len {
            let id = |i: u32| (i * 37 + document as u32 * 101 + seed * 13) % 301;
            batch.tokens.push(id(i));
            batch.targets.push(if i < len / 4 { -1 } else { id(i + 1) as i32 });
        }
        batch.documents.push(batch.tokens.len() as u32);
    }
    batch
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Losses, gradient norm and all weights after three steps from a seed.
fn three_steps() -> (Vec<u32>, u64, Vec<Vec<u32>>) {
    let mut model = Model::random(config(), 7);
    let (mut gradients, mut optimizer) = (Gradients::zeros(&model), AdamW::new(&model));
    let mut losses = Vec::new();
    for step in 0..3 {
        gradients.clear();
        losses.extend(bits(&model.forward_backward(&batch(step), 0.01, &mut gradients).unwrap()));
        optimizer.step(&mut model, &gradients, 1e-2);
    }
    (
        losses,
        gradients.global_norm().to_bits(),
        model.parameters().iter().map(|(_, values)| bits(values)).collect(),
    )
}

#[test]
fn training_gives_the_same_bits_on_one_two_and_five_threads() {
    let on = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(three_steps)
    };
    let one = on(1);
    assert!(one.0.iter().any(|&loss| loss != 0));
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

#[test]
fn gradients_of_two_batches_add_up() {
    let mut model = Model::random(config(), 7);
    let gradients = |model: &mut Model, batches: &[(u32, f32)]| {
        let mut gradients = Gradients::zeros(model);
        for &(seed, scale) in batches {
            model.forward_backward(&batch(seed), scale, &mut gradients).unwrap();
        }
        gradients.named()
    };
    let both = gradients(&mut model, &[(0, 0.5), (1, 0.25)]);
    let (first, second) = (gradients(&mut model, &[(0, 1.0)]), gradients(&mut model, &[(1, 1.0)]));
    for ((name, both), ((_, first), (_, second))) in both.iter().zip(first.iter().zip(&second)) {
        let largest = both.iter().fold(0f32, |m, x| m.max(x.abs()));
        for ((sum, a), b) in both.iter().zip(first).zip(second) {
            assert!((sum - (0.5 * a + 0.25 * b)).abs() <= 1e-5 * largest, "{name}");
        }
    }
}

#[test]
fn fast_and_plain_operations_train_alike() {
    let mut fast = Model::random(config(), 3);
    let mut plain = fast.copy_to(Reference);
    let (mut fast_gradients, mut plain_gradients) =
        (Gradients::zeros(&fast), Gradients::zeros(&plain));
    let (mut fast_adamw, mut plain_adamw) = (AdamW::new(&fast), AdamW::new(&plain));
    for step in 0..2 {
        let fast_losses = fast.forward_backward(&batch(step), 0.01, &mut fast_gradients).unwrap();
        let plain_losses =
            plain.forward_backward(&batch(step), 0.01, &mut plain_gradients).unwrap();
        for (f, p) in fast_losses.iter().zip(&plain_losses) {
            assert!((f - p).abs() <= 1e-4 * p.abs().max(1.0), "step {step}: {f} and {p}");
        }
        fast_adamw.step(&mut fast, &fast_gradients, 1e-3);
        plain_adamw.step(&mut plain, &plain_gradients, 1e-3);
    }
    let difference = (fast_gradients.global_norm() / plain_gradients.global_norm() - 1.0).abs();
    assert!(difference < 1e-4, "{difference:e}");
}

fn prompt(slot: usize) -> Vec<u32> {
    (0..[40, 1, 17, 90, 3][slot]).map(|i| ((i * 53 + slot * 29) % 301) as u32).collect()
}

/// Logits of each slot after its prompt and six forced tokens, with the slots of `group` in one
/// cache.
fn generated(model: &mut Model, group: &[usize]) -> Vec<(usize, Vec<Vec<u32>>)> {
    let mut cache = KvCache::new(model, 5, 128);
    let prompts: Vec<(usize, Vec<u32>)> = group.iter().map(|&slot| (slot, prompt(slot))).collect();
    let sequences: Vec<(usize, &[u32])> =
        prompts.iter().map(|(slot, prompt)| (*slot, &prompt[..])).collect();
    let mut rows: Vec<(usize, Vec<Vec<u32>>)> =
        group.iter().map(|&slot| (slot, Vec::new())).collect();
    let mut keep = |logits: &Logits| {
        for (i, (_, rows)) in rows.iter_mut().enumerate() {
            rows.push(bits(logits.row(i)));
        }
    };
    keep(&model.prefill(&mut cache, &sequences).unwrap());
    for step in 0..6 {
        let tokens: Vec<(usize, u32)> =
            group.iter().map(|&slot| (slot, (step * 31 + slot as u32 * 7) % 301)).collect();
        keep(&model.decode(&mut cache, &tokens).unwrap());
    }
    rows
}

#[test]
fn a_slot_generates_the_same_bits_alone_and_in_any_company_and_on_any_threads() {
    let mut model = Model::random(config(), 11);
    let on = |threads: usize, model: &mut Model, group: &[usize]| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| generated(model, group))
    };
    let all = on(2, &mut model, &[0, 1, 2, 3, 4]);
    assert_eq!(all, on(1, &mut model, &[0, 1, 2, 3, 4]));
    for group in [&[0][..], &[3], &[1, 4], &[4, 2, 0]] {
        for (slot, rows) in on(1, &mut model, group) {
            assert_eq!(rows, all[slot].1, "slot {slot} in {group:?}");
        }
    }
}

#[test]
fn decoding_gives_the_losses_of_the_full_forward_pass() {
    let mut model = Model::random(config(), 5);
    let tokens: Vec<u32> = (0..120).map(|i| (i * i * 7 + i * 3) % 301).collect();
    let targets: Vec<i32> = tokens[1..].iter().map(|&id| id as i32).chain([-1]).collect();
    let losses =
        model.losses(&Batch { tokens: tokens.clone(), targets, documents: vec![0, 120] }).unwrap();
    let mut cache = KvCache::new(&model, 1, 120);
    let mut logits = model.prefill(&mut cache, &[(0, &tokens[..20])]).unwrap();
    for position in 19..119 {
        let row = logits.row(0);
        let log_sum = row.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        let loss = log_sum - f64::from(row[tokens[position + 1] as usize]);
        assert!(
            (loss - f64::from(losses[position])).abs() < 1e-4 * loss.abs().max(1.0),
            "position {position}"
        );
        logits = model.decode(&mut cache, &[(0, tokens[position + 1])]).unwrap();
    }
}

#[test]
fn a_refilled_slot_forgets_what_was_there() {
    let mut model = Model::random(config(), 11);
    let mut cache = KvCache::new(&model, 1, 128);
    model.prefill(&mut cache, &[(0, &prompt(3))]).unwrap();
    model.prefill(&mut cache, &[(0, &prompt(2))]).unwrap();
    assert_eq!(cache.len(0), 17);
    let found = model.decode(&mut cache, &[(0, 14)]).unwrap();
    let alone = generated(&mut model, &[2]);
    assert_eq!(bits(found.row(0)), alone[0].1[1]);
}

#[test]
fn impossible_requests_are_errors() {
    let mut model = Model::random(config(), 1);
    let mut cache = KvCache::new(&model, 2, 8);
    assert!(model.prefill(&mut cache, &[(0, &[])]).is_err(), "an empty prompt");
    assert!(model.prefill(&mut cache, &[(2, &[1])]).is_err(), "no such slot");
    assert!(model.prefill(&mut cache, &[(0, &[301])]).is_err(), "outside of the vocabulary");
    assert!(model.prefill(&mut cache, &[(0, &[1; 9])]).is_err(), "longer than the slot");
    assert!(model.decode(&mut cache, &[(0, 1)]).is_err(), "no prompt yet");
    model.prefill(&mut cache, &[(0, &[1; 8])]).unwrap();
    assert!(model.decode(&mut cache, &[(0, 1)]).is_err(), "the slot is full");
    let good = batch(0);
    let mut gradients = Gradients::zeros(&model);
    for bad in [
        Batch::default(),
        Batch { tokens: vec![301; good.tokens.len()], ..good.clone() },
        Batch { targets: vec![301; good.targets.len()], ..good.clone() },
        Batch { targets: vec![-1], ..good.clone() },
        Batch { documents: vec![0, 5], ..good.clone() },
        Batch { documents: vec![0, 9, 9, good.tokens.len() as u32], ..good.clone() },
        Batch { documents: vec![0, good.tokens.len() as u32], ..good.clone() },
    ] {
        assert!(model.forward_backward(&bad, 1.0, &mut gradients).is_err(), "{bad:?}");
    }
}

#[test]
fn a_seed_fixes_random_weights_and_they_have_the_documented_spread() {
    let (one, again, other) =
        (Model::random(config(), 1), Model::random(config(), 1), Model::random(config(), 2));
    for (((name, a), (_, b)), (_, c)) in
        one.parameters().iter().zip(again.parameters()).zip(other.parameters())
    {
        assert_eq!(bits(a), bits(b), "{name}");
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        let deviation = (a.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / a.len() as f32).sqrt();
        let expected = match *name {
            name if name.ends_with("norm.weight") => 0.0,
            name if name.ends_with("bias") => 0.0,
            name if name.contains("o_proj") || name.contains("down_proj") => 0.2 / 6f32.sqrt(),
            _ => 0.2,
        };
        // Five times the standard error of a standard deviation.
        let tolerance = 5.0 * expected / (2.0 * a.len() as f32).sqrt();
        assert!(
            (deviation - expected).abs() <= tolerance,
            "{name}: {deviation}, expected {expected}"
        );
        assert_eq!(expected == 0.0, bits(a) == bits(c), "{name}");
    }
    let decoder: &Decoder<train::ops::Cpu> = &one;
    let folder = tempfile::tempdir().unwrap();
    decoder.save(folder.path(), Dtype::F32).unwrap();
    let loaded = Model::load(folder.path()).unwrap();
    assert_eq!(one.parameters(), loaded.parameters());
}
