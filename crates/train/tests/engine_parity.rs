//! The engine against PyTorch, for every family: logits, losses, every gradient, twenty steps of
//! AdamW and greedy generation of tiny models that transformers wrote. `make_fixtures.py` beside
//! the fixtures made the files. With `ISOGLOSS_PARITY=FOLDER` the models of that folder are taken
//! instead (`make parity` makes larger ones, with rows of text and 200 prompts), and each saves its
//! model once more into `export`. Every comparison prints a line of its largest difference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype as Kind, SafeTensors};
use train::model::{Batch, Decoder, Dtype, Gradients, KvCache, Model};
use train::ops::{Backend, Reference};
use train::optimizer::AdamW;

/// The models to compare.
fn folders() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine");
    let at = live().unwrap_or(fixtures);
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&at)
        .unwrap_or_else(|error| panic!("{}: {error}", at.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.safetensors").exists())
        .collect();
    folders.sort();
    assert!(folders.len() >= 13, "{}: {} models", at.display(), folders.len());
    folders
}

fn live() -> Option<PathBuf> {
    std::env::var_os("ISOGLOSS_PARITY").map(PathBuf::from)
}

fn name(folder: &Path) -> std::borrow::Cow<'_, str> {
    folder.file_name().unwrap().to_string_lossy()
}

/// What PyTorch computed, by name; whole numbers as floats.
struct Expected(BTreeMap<String, Vec<f32>>);

impl Expected {
    fn load(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let values = |view: &safetensors::tensor::TensorView| match view.dtype() {
            Kind::F32 => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Kind::I32 => {
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

    /// The prompts, and the answers to them.
    fn generations(&self) -> Vec<(Vec<u32>, Vec<u32>)> {
        let (lengths, answers) = (self.ids("prompt_lengths"), self.ids("answers"));
        let (mut prompts, width) = (&self.ids("prompts")[..], answers.len() / lengths.len());
        let pairs = lengths.iter().zip(answers.chunks(width)).map(|(&len, answer)| {
            let (prompt, rest) = prompts.split_at(len as usize);
            prompts = rest;
            (prompt.to_vec(), answer.to_vec())
        });
        pairs.collect()
    }
}

fn counted(batch: &Batch) -> f32 {
    batch.targets.iter().filter(|&&t| t >= 0).count() as f32
}

/// The largest difference, of the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    // A difference that is no number counts as the largest.
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    worst.fold(0f32, |m, x| if x <= m { m } else { x }) / largest
}

/// Runs a comparison over all models, prints what it gave and holds it to the tolerance.
fn compare(check: &str, tolerance: f32, one: impl Fn(&Path, &Expected) -> f32) {
    let mut worse = Vec::new();
    for folder in folders() {
        let found = one(&folder, &Expected::load(&folder));
        println!("parity\t{}\t{check}\t{found:.1e}\t{tolerance:.0e}", name(&folder));
        if found.is_nan() || found > tolerance {
            worse.push(format!("{}: {found:e}", name(&folder)));
        }
    }
    assert!(worse.is_empty(), "{check}: more than {tolerance:e} in {worse:?}");
}

/// Losses and gradients by name.
fn losses_and_gradients<B: Backend + Clone>(
    backend: B,
    folder: &Path,
    expected: &Expected,
) -> (Vec<f32>, Vec<(String, Vec<f32>)>) {
    let mut model = Decoder::load_on(backend, folder).unwrap();
    let (mut gradients, batch) = (Gradients::zeros(&model), expected.batch());
    let losses = model.forward_backward(&batch, 1.0 / counted(&batch), &mut gradients).unwrap();
    assert_eq!(model.losses(&batch).unwrap(), losses);
    (losses, gradients.named())
}

/// The worst of all gradients, each in terms of its own largest value. Where PyTorch's is rounding
/// noise about zero (the bias of keys moves no softmax) the layer's largest gradient is the measure.
fn worst_gradient(found: &[(String, Vec<f32>)], expected: &Expected) -> f32 {
    let wanted = |name: &str| expected.get(&format!("gradient.{name}"));
    let kept = expected.0.keys().filter(|key| key.starts_with("gradient."));
    assert_eq!(found.len(), kept.count());
    let largest = |values: &[f32]| values.iter().fold(0f32, |m, x| m.max(x.abs()));
    let overall = found.iter().fold(0f32, |m, (name, _)| m.max(largest(wanted(name))));
    let differences = found.iter().map(|(name, values)| {
        let own = largest(wanted(name));
        difference(values, wanted(name)) * (own / own.max(1e-5 * overall))
    });
    differences.fold(0.0, f32::max)
}

#[test]
fn losses_agree_with_pytorch() {
    compare("losses", 1e-4, |folder, expected| {
        let (losses, _) = losses_and_gradients(train::ops::Cpu, folder, expected);
        difference(&losses, expected.get("losses"))
    });
}

#[test]
fn every_gradient_agrees_with_pytorch() {
    compare("gradients", 1e-4, |folder, expected| {
        let (_, gradients) = losses_and_gradients(train::ops::Cpu, folder, expected);
        worst_gradient(&gradients, expected)
    });
}

#[test]
fn the_same_models_over_the_plain_operations_agree_too() {
    compare("plain operations", 1e-4, |folder, expected| {
        let (losses, gradients) = losses_and_gradients(Reference, folder, expected);
        difference(&losses, expected.get("losses")).max(worst_gradient(&gradients, expected))
    });
}

#[test]
fn logits_agree_with_pytorch_after_prefill_and_after_each_decoded_token() {
    compare("logits", 1e-4, |folder, expected| {
        let mut model = Model::load(folder).unwrap();
        let vocab = model.config().vocab_size;
        let (tokens, documents) = (expected.ids("tokens"), expected.documents());
        let largest = expected.get("logits").iter().fold(0f32, |m, x| m.max(x.abs()));
        let (mut worst, mut cache) = (0f32, KvCache::new(&model, 5, 128));
        let mut judge = |found: &[f32], row: usize| {
            let wanted = &expected.get("logits")[row * vocab..(row + 1) * vocab];
            let own = wanted.iter().fold(0f32, |m, x| m.max(x.abs()));
            worst = worst.max(difference(found, wanted) * own / largest);
        };
        for (slot, ends) in documents.windows(2).enumerate() {
            let document = &tokens[ends[0] as usize..ends[1] as usize];
            for prompt in [document.len(), document.len().div_ceil(2)] {
                let mut logits = model.prefill(&mut cache, &[(slot, &document[..prompt])]).unwrap();
                for (position, &token) in document.iter().enumerate().skip(prompt) {
                    judge(logits.row(0), ends[0] as usize + position - 1);
                    logits = model.decode(&mut cache, &[(slot, token)]).unwrap();
                }
                judge(logits.row(0), ends[1] as usize - 1);
            }
        }
        worst
    });
}

#[test]
fn twenty_steps_of_adamw_follow_pytorch() {
    compare("20 steps", 1e-3, |folder, expected| {
        let mut model = Model::load(folder).unwrap();
        let (mut gradients, mut optimizer) = (Gradients::zeros(&model), AdamW::new(&model));
        (optimizer.beta2, optimizer.weight_decay) = (0.99, 0.1);
        let (tokens, targets) = (expected.ids("steps.tokens"), expected.get("steps.targets"));
        let (documents, rate) = (expected.documents(), expected.get("steps.rate")[0]);
        let (rows, mut curve) = (*documents.last().unwrap() as usize, Vec::new());
        for (tokens, targets) in tokens.chunks(rows).zip(targets.chunks(rows)) {
            let targets = targets.iter().map(|&t| t as i32).collect();
            let batch = Batch { tokens: tokens.to_vec(), targets, documents: documents.clone() };
            gradients.clear();
            let scale = 1.0 / counted(&batch);
            let losses = model.forward_backward(&batch, scale, &mut gradients).unwrap();
            curve.push(losses.iter().sum::<f32>() * scale);
            optimizer.step(&mut model, &gradients, rate);
        }
        assert_eq!(curve.len(), 20);
        let mut worst = difference(&curve, expected.get("steps.losses"));
        for (parameter, values) in model.parameters() {
            let wanted = expected.get(&format!("trained.{parameter}"));
            let (mut squares, mut wave) = (0f64, 0f64);
            for (i, &value) in values.iter().enumerate() {
                squares += f64::from(value).powi(2);
                wave += f64::from(value) * (i as f64).cos();
            }
            worst = worst.max(difference(&[squares.sqrt() as f32, wave as f32], wanted));
        }
        worst
    });
}

#[test]
fn greedy_generation_gives_the_ids_of_transformers() {
    compare("greedy", 0.0, |folder, expected| {
        let mut model = Model::load(folder).unwrap();
        let (mut wrong, generations) = (0, expected.generations());
        for some in generations.chunks(8) {
            let mut cache = KvCache::new(&model, some.len(), 128);
            let sequences: Vec<(usize, &[u32])> =
                some.iter().map(|(prompt, _)| &prompt[..]).enumerate().collect();
            let mut logits = model.prefill(&mut cache, &sequences).unwrap();
            let mut answers = vec![Vec::new(); some.len()];
            for _ in 0..some[0].1.len() {
                for (slot, answer) in answers.iter_mut().enumerate() {
                    let row = logits.row(slot);
                    let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
                    answer.push(best as u32);
                }
                let next: Vec<(usize, u32)> =
                    answers.iter().map(|answer| *answer.last().unwrap()).enumerate().collect();
                logits = model.decode(&mut cache, &next).unwrap();
            }
            wrong +=
                some.iter().zip(&answers).filter(|((_, wanted), found)| wanted != *found).count();
        }
        // The share of prompts with another answer.
        wrong as f32 / generations.len() as f32
    });
}

#[test]
fn what_is_saved_computes_the_same() {
    compare("saved", 0.0, |folder, expected| {
        let mut model = Model::load(folder).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let export = live().map_or(temporary.path().to_owned(), |_| folder.join("export"));
        std::fs::create_dir_all(&export).unwrap();
        model.save(&export, Dtype::F32).unwrap();
        let batch = expected.batch();
        let again = Model::load(&export).unwrap().losses(&batch).unwrap();
        difference(&again, &model.losses(&batch).unwrap())
    });
}
