//! The engine against PyTorch: logits, losses, every gradient, twenty steps of AdamW and greedy
//! generation of tiny models that transformers wrote. `fixtures/engine/make_fixtures.py` made the
//! files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use train::model::{Batch, Decoder, Gradients, KvCache, Model};
use train::ops::{Backend, Reference};
use train::optimizer::AdamW;

const MODELS: [&str; 3] = ["llama", "llama_tied", "qwen2"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine").join(name)
}

/// What PyTorch computed, by name; whole numbers as floats.
struct Expected(BTreeMap<String, Vec<f32>>);

impl Expected {
    fn load(name: &str) -> Self {
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let values = |view: &safetensors::tensor::TensorView| match view.dtype() {
            Dtype::F32 => {
                view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::I32 => {
                view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect()
            }
            other => panic!("{other:?}"),
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        Self(tensors.iter().map(|(name, view)| (name.clone(), values(view))).collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is not in the fixture"))
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.get(name).iter().map(|&id| id as u32).collect()
    }

    fn documents(&self) -> Vec<u32> {
        let ends = self.get("lengths").iter().scan(0, |end, &len| {
            *end += len as u32;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn batch(&self) -> Batch {
        let targets = self.get("targets").iter().map(|&t| t as i32).collect();
        Batch { tokens: self.ids("tokens"), targets, documents: self.documents() }
    }
}

fn counted(batch: &Batch) -> f32 {
    batch.targets.iter().filter(|&&t| t >= 0).count() as f32
}

/// The largest difference is at most `tolerance` of the largest expected value.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let difference = found.iter().zip(expected).fold(0f32, |m, (f, e)| m.max((f - e).abs()));
    assert!(difference <= tolerance * largest, "{what}: {difference:e} of {largest:e}");
}

fn losses_and_gradients_agree<B: Backend + Clone>(backend: B) {
    for name in MODELS {
        let expected = Expected::load(name);
        let mut model = Decoder::load_on(backend.clone(), &folder(name)).unwrap();
        let mut gradients = Gradients::zeros(&model);
        let batch = expected.batch();
        let losses = model.forward_backward(&batch, 1.0 / counted(&batch), &mut gradients).unwrap();
        assert_close(&format!("{name} losses"), &losses, expected.get("losses"), 1e-4);
        assert_eq!(model.losses(&batch).unwrap(), losses);
        let found = gradients.named();
        assert_eq!(
            found.len(),
            expected.0.keys().filter(|key| key.starts_with("gradient.")).count()
        );
        for (parameter, values) in found {
            let wanted = expected.get(&format!("gradient.{parameter}"));
            assert_close(&format!("{name} gradient of {parameter}"), &values, wanted, 1e-4);
        }
    }
}

#[test]
fn losses_and_every_gradient_agree_with_pytorch() {
    losses_and_gradients_agree(train::ops::Cpu);
}

#[test]
fn the_same_model_over_the_plain_operations_agrees_too() {
    losses_and_gradients_agree(Reference);
}

#[test]
fn logits_agree_with_pytorch_after_prefill_and_after_each_decoded_token() {
    for name in MODELS {
        let expected = Expected::load(name);
        let mut model = Model::load(&folder(name)).unwrap();
        let vocab = model.config().vocab_size;
        let (tokens, documents) = (expected.ids("tokens"), expected.documents());
        let mut cache = KvCache::new(&model, 4, 32);
        for (slot, ends) in documents.windows(2).enumerate() {
            let document = &tokens[ends[0] as usize..ends[1] as usize];
            for prompt in [document.len(), document.len().div_ceil(2)] {
                let mut logits = model.prefill(&mut cache, &[(slot, &document[..prompt])]).unwrap();
                for (position, &token) in document.iter().enumerate().skip(prompt) {
                    let row = ends[0] as usize + position - 1;
                    let wanted = &expected.get("logits")[row * vocab..(row + 1) * vocab];
                    assert_close(
                        &format!("{name} logits of row {row}"),
                        logits.row(0),
                        wanted,
                        1e-4,
                    );
                    logits = model.decode(&mut cache, &[(slot, token)]).unwrap();
                }
                let row = ends[1] as usize - 1;
                let wanted = &expected.get("logits")[row * vocab..(row + 1) * vocab];
                assert_close(&format!("{name} logits of row {row}"), logits.row(0), wanted, 1e-4);
            }
        }
    }
}

#[test]
fn twenty_steps_of_adamw_follow_pytorch() {
    for name in MODELS {
        let expected = Expected::load(name);
        let mut model = Model::load(&folder(name)).unwrap();
        let mut gradients = Gradients::zeros(&model);
        let mut optimizer = AdamW::new(&model);
        (optimizer.beta2, optimizer.weight_decay) = (0.99, 0.1);
        let (tokens, targets) = (expected.ids("steps.tokens"), expected.get("steps.targets"));
        let documents = expected.documents();
        let rows = *documents.last().unwrap() as usize;
        let mut curve = Vec::new();
        for (tokens, targets) in tokens.chunks(rows).zip(targets.chunks(rows)) {
            let targets = targets.iter().map(|&t| t as i32).collect();
            let batch = Batch { tokens: tokens.to_vec(), targets, documents: documents.clone() };
            gradients.clear();
            let losses =
                model.forward_backward(&batch, 1.0 / counted(&batch), &mut gradients).unwrap();
            curve.push(losses.iter().sum::<f32>() / counted(&batch));
            optimizer.step(&mut model, &gradients, 3e-3);
        }
        assert_eq!(curve.len(), 20);
        assert_close(&format!("{name} loss curve"), &curve, expected.get("steps.losses"), 1e-3);
        for (parameter, values) in model.parameters() {
            let wanted = expected.get(&format!("trained.{parameter}"));
            assert_close(&format!("{name} {parameter} after training"), values, wanted, 1e-3);
        }
    }
}

#[test]
fn greedy_generation_gives_the_ids_of_transformers() {
    for name in MODELS {
        let expected = Expected::load(name);
        let mut model = Model::load(&folder(name)).unwrap();
        let mut cache = KvCache::new(&model, 3, 32);
        let prompts: Vec<Vec<u32>> = (0..3).map(|i| expected.ids(&format!("prompt.{i}"))).collect();
        let sequences: Vec<(usize, &[u32])> = prompts.iter().map(|p| &p[..]).enumerate().collect();
        let mut logits = model.prefill(&mut cache, &sequences).unwrap();
        let mut answers = vec![Vec::new(); 3];
        for _ in 0..16 {
            for (slot, answer) in answers.iter_mut().enumerate() {
                let row = logits.row(slot);
                answer.push((0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32);
            }
            let next: Vec<(usize, u32)> =
                answers.iter().map(|answer| *answer.last().unwrap()).enumerate().collect();
            logits = model.decode(&mut cache, &next).unwrap();
        }
        for (slot, answer) in answers.iter().enumerate() {
            assert_eq!(*answer, expected.ids(&format!("answer.{slot}")), "{name}, prompt {slot}");
        }
    }
}
