//! What saves memory changes no bit: every recompute level, and gradients that the optimiser takes
//! piece by piece, for every kind of block that families have.

use std::path::Path;

use train::model::adapter::{Lora, Target};
use train::model::{Base, Batch, Decoder, Gradients, Model, Recompute};
use train::ops::{Backend, Cpu, Reference};
use train::optimizer::AdamW;

/// Tensors by name.
type Named = Vec<(String, Vec<f32>)>;

/// Sequential with a bias, with normed heads, and tied; parallel with and without normed heads;
/// sandwich with windows; models of two layers and more.
const FAMILIES: [&str; 8] =
    ["llama", "llama_tied", "qwen2", "qwen3", "cohere", "cohere_qk_norm", "gemma2", "gemma3"];

fn model<B: Backend + Clone>(backend: B, family: &str) -> Decoder<B> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine").join(family);
    Decoder::load_on(backend, &folder).unwrap()
}

fn batch(vocabulary: usize) -> Batch {
    let id = |i: usize| (i * 37 + 11) % vocabulary;
    let target = |i: usize| if i.is_multiple_of(3) { -1 } else { id(i + 5) as i32 };
    Batch {
        tokens: (0..23).map(|i| id(i) as u32).collect(),
        targets: (0..23).map(target).collect(),
        documents: vec![0, 14, 23],
    }
}

/// Losses, and all gradients after two batches.
fn step<B: Backend + Clone>(
    model: &mut Decoder<B>,
    recompute: Recompute,
) -> (Vec<Vec<f32>>, Named) {
    model.set_recompute(recompute);
    let mut gradients = Gradients::zeros(model);
    let large = batch(model.config().vocab_size);
    let small = Batch {
        tokens: large.tokens[..9].to_vec(),
        targets: large.targets[..9].to_vec(),
        documents: vec![0, 4, 9],
    };
    let losses = [large, small]
        .map(|batch| model.forward_backward(&batch, 0.1, &mut gradients).unwrap())
        .to_vec();
    (losses, gradients.named())
}

/// An adapter beside all maps of a layer.
fn with_adapter<B: Backend + Clone>(
    mut model: Decoder<B>,
    (dora, dropout): (bool, f64),
) -> Decoder<B> {
    let lora = Lora { dora, dropout, ..Lora::new(2, 4.0, Target::ALL.to_vec()) };
    model.attach(lora, Base::default(), 3);
    // B begins at zero, and with it the gradient of A: one step away from there.
    let mut gradients = Gradients::zeros(&model);
    model.forward_backward(&batch(model.config().vocab_size), 0.1, &mut gradients).unwrap();
    AdamW::new(&model).step(&mut model, &gradients, 0.1);
    model
}

fn check_levels<B: Backend + Clone>(name: &str, model: impl Fn() -> Decoder<B>) {
    let kept = step(&mut model(), Recompute::None);
    assert!(kept.1.iter().any(|(_, values)| values.iter().any(|value| *value != 0.0)));
    for recompute in [Recompute::Internals, Recompute::Block] {
        assert_eq!(step(&mut model(), recompute), kept, "{name}, {}", recompute.name());
    }
}

#[test]
fn losses_and_gradients_are_the_same_bits_at_every_recompute_level() {
    for family in FAMILIES {
        check_levels(family, || model(Cpu, family));
        for kind in [(false, 0.2), (true, 0.0), (true, 0.2)] {
            check_levels(family, || with_adapter(model(Cpu, family), kind));
        }
    }
    check_levels("llama", || model(Reference, "llama"));
}

/// All weights after three steps, each of one pass.
fn tuned<B: Backend + Clone>(
    mut model: Decoder<B>,
    recompute: Recompute,
    by_piece: bool,
) -> (Vec<Vec<f32>>, Named) {
    model.set_recompute(recompute);
    let (backend, batch) = (model.backend().clone(), batch(model.config().vocab_size));
    let mut optimizer = AdamW::new(&model);
    optimizer.weight_decay = 0.1;
    let mut losses = Vec::new();
    let mut gradients =
        if by_piece { Gradients::by_piece(&model) } else { Gradients::zeros(&model) };
    for _ in 0..3 {
        losses.push(if by_piece {
            optimizer.begin();
            let mut take = |piece, weights: Vec<&mut _>, gradients: &[&mut _]| {
                optimizer.step_piece(&backend, piece, (weights, gradients), 1e-2);
            };
            model.forward_backward_by_piece(&batch, 0.1, &mut gradients, &mut take).unwrap()
        } else {
            gradients.clear();
            let losses = model.forward_backward(&batch, 0.1, &mut gradients).unwrap();
            optimizer.step(&mut model, &gradients, 1e-2);
            losses
        });
    }
    let copy: Model = model.copy_to(Cpu);
    let values = copy.parameters().into_iter();
    (losses, values.map(|(name, values)| (name.to_owned(), values.to_vec())).collect())
}

#[test]
fn an_optimiser_in_the_backward_pass_moves_the_weights_by_the_same_bits() {
    for family in FAMILIES {
        let whole = tuned(model(Cpu, family), Recompute::None, false);
        assert!(whole.0[2] != whole.0[0], "{family}: the weights moved");
        for recompute in [Recompute::None, Recompute::Block] {
            assert_eq!(tuned(model(Cpu, family), recompute, true), whole, "{family}");
        }
    }
    let whole = tuned(model(Reference, "llama"), Recompute::None, false);
    assert_eq!(tuned(model(Reference, "llama"), Recompute::Internals, true), whole);
}

#[test]
fn weights_stay_as_they_are_where_a_loss_is_no_number() {
    let mut model = model(Cpu, "llama");
    let poisoned =
        model.parameters_mut().into_iter().find(|(name, _)| name.ends_with("norm.weight"));
    poisoned.unwrap().1[0] = f32::NAN;
    let mut gradients = Gradients::by_piece(&model);
    let mut take = |_, _: Vec<&mut Vec<f32>>, _: &[&mut Vec<f32>]| panic!("nothing is to be taken");
    let batch = batch(model.config().vocab_size);
    let losses = model.forward_backward_by_piece(&batch, 0.1, &mut gradients, &mut take).unwrap();
    assert!(losses.iter().any(|loss| loss.is_nan()));
}
