//! The optimiser's forms against PyTorch's AdamW and states of nearest codes in bitsandbytes' maps, on
//! the same gradients (`fixtures/optimizer/make_fixtures.py` made the file), and training with each of them: a curve
//! close to that with everything in f32, the same bits through an interruption, exact exports.

#[path = "trainer_common/mod.rs"]
mod trainer_common;

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use safetensors::{Dtype, SafeTensors};
use train::metrics::Row;
use train::ops::moments::Values;
use train::ops::{AdamWStep, Backend, Cpu, Form, Kind, Moments, Reference, Update};
use trainer_common::{Bench, metrics, sums};

const COUNT: usize = 4096 + 100;

/// What the fixture holds, whole numbers as floats.
fn expected() -> BTreeMap<String, Vec<f32>> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizer/expected.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let values = |view: &safetensors::tensor::TensorView| match view.dtype() {
        Dtype::I32 => {
            view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect()
        }
        _ => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    };
    let all = SafeTensors::deserialize(&bytes).unwrap().tensors();
    all.iter().map(|(name, view)| (name.clone(), values(view))).collect()
}

/// As the script draws them.
fn drawn(step: i64) -> Vec<f32> {
    let value = |index: i64| {
        let bits = ((index * 2_654_435_761 + step * 40503 * (index % 7 + 1)) >> 5) & 0xffff;
        let value = bits as f32 / 32768.0 - 1.0;
        if step == 0 { value } else { value / (1_i64 << (2 * (index % 5))) as f32 }
    };
    (0..COUNT as i64).map(value).collect()
}

/// Weights and moments after some steps.
fn run<B: Backend>(ops: &B, form: Form, narrow: bool, steps: i64) -> (Vec<f32>, Moments) {
    let kind = if narrow { Kind::Narrow } else { Kind::Weight };
    let mut weights = ops.tensor(kind, drawn(0));
    let mut moments = ops.moments(form.of(COUNT), COUNT, false);
    for step in 1..=steps {
        let settings = AdamWStep {
            step: step as u64,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            gradient_factor: 1.0,
            narrow,
            seed: 3,
        };
        let (parameter, gradient) = (&mut weights, &ops.tensor(Kind::Gradient, drawn(step)));
        let moments = &mut moments;
        let update = Update { parameter, gradient, moments, decays: true, number: 0, first: 0 };
        ops.adamw(&settings, vec![update]);
    }
    (ops.values(&weights, COUNT), ops.read_moments(&moments).into_owned())
}

/// ‖a − b‖ over how far b came from the beginning.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let norm = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    norm(a, b) / norm(b, &drawn(0))
}

#[test]
fn thirty_steps_follow_pytorch_and_nearest_codes() {
    let expected = expected();
    let exact = &expected["weights.f32"];
    assert!(apart(&run(&Cpu, Form::F32, false, 30).0, exact) < 1e-5);
    assert!(apart(&run(&Reference, Form::F32, false, 30).0, exact) < 1e-5);
    assert!(apart(&run(&Cpu, Form::Bf16, false, 30).0, exact) < 2e-2);
    let coded = run(&Cpu, Form::Int8, false, 30).0;
    // A value in the very middle of two codes may go either way, and on from there.
    let off = apart(&coded, &expected["weights.int8"]);
    assert!(off < 1e-2, "{off}");
    let (ours, theirs) = (apart(&coded, exact), apart(&expected["weights.bitsandbytes"], exact));
    assert!(ours < theirs, "{ours} from exact, bitsandbytes {theirs}");
}

#[test]
fn codes_are_the_nearest_and_scales_the_largest() {
    let expected = expected();
    let (_, moments) = run(&Cpu, Form::Int8, false, 1);
    for (values, name) in [(&moments.first, "first"), (&moments.second, "second")] {
        let Values::Int8 { codes, scales } = values else { panic!("{values:?}") };
        for (scale, expected) in scales.iter().zip(&expected[&format!("{name}.scales")]) {
            assert!((scale / expected - 1.0).abs() < 1e-5, "{scale}, expected {expected}");
        }
        let expected = &expected[&format!("{name}.codes")];
        assert_eq!((codes.len(), scales.len()), (expected.len(), COUNT.div_ceil(256)));
        // A value in the very middle of two goes either way.
        let off = codes.iter().zip(expected).map(|(&code, e)| (f32::from(code) - e).abs());
        let off: Vec<f32> = off.filter(|&off| off > 0.0).collect();
        assert!(off.len() <= 4 && off.iter().all(|&off| off == 1.0), "{name}: {off:?}");
    }
}

#[test]
fn a_byte_stands_for_the_values_of_bitsandbytes_maps() {
    let expected = expected();
    for (which, name) in ["first", "second"].into_iter().enumerate() {
        let mut moments = Moments::zeros(Form::Int8, 256);
        let codes: Vec<u8> = (0..=255).collect();
        *moments.get_mut(which) = Values::Int8 { codes: codes.clone(), scales: vec![1.0] };
        let wide = moments.get(which).widened(which);
        for (value, expected) in wide.iter().zip(&expected[&format!("map.{name}")]) {
            assert!(
                (value - expected).abs() <= 1e-6 * expected.abs(),
                "{value}, expected {expected}"
            );
        }
        assert_eq!(wide.len(), 256);
    }
}

const QUICK: &str =
    "batch_size = 8\nlearning_rate = 5e-3\nvalidate_every = 10\nsteps = 40\nkeep_best = false\n";

/// Training losses of a run with these settings, after its own last validation loss.
fn curve(bench: &Bench, name: &str, settings: &str) -> (Vec<f64>, f64) {
    bench.run(name, &format!("{QUICK}{settings}")).unwrap();
    let rows = metrics(&bench.out(name));
    let of = |row: &Row| row.loss;
    let trained = rows.iter().filter(|row| !row.validation).map(of).collect();
    (trained, rows.iter().rfind(|row| row.validation).map(of).unwrap())
}

#[test]
fn every_policy_learns_as_f32_does() {
    let bench = Bench::new(&sums(44), 6);
    let (exact, validation) = curve(&bench, "f32", "");
    let fallen = exact[0] - exact[exact.len() - 1];
    assert!(fallen > 1.0, "there is something to learn: {fallen}");
    for (name, settings, bound) in [
        ("bf16", "optimizer_states = \"bf16\"", 0.03),
        ("int8", "optimizer_states = \"int8\"", 0.05),
        ("narrow", "master_weights = false", 0.05),
        ("least", "master_weights = false\noptimizer_states = \"int8\"", 0.07),
    ] {
        let (found, last) = curve(&bench, name, settings);
        let worst = found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < bound * fallen, "{name}: {worst} off, after a fall of {fallen}");
        assert!((last - validation).abs() < bound * fallen, "{name}: {last} against {validation}");
        assert!(worst > 0.0, "{name} is not the same thing");
    }
}

#[test]
fn offload_changes_no_bit_and_no_key() {
    let bench = Bench::new(&sums(24), 4);
    let settings = "batch_size = 6\nsteps = 4\noptimizer_states = \"int8\"\n";
    bench.run("here", settings).unwrap();
    bench.run("away", &format!("{settings}optimizer_offload = true")).unwrap();
    let weights =
        |name: &str| std::fs::read(bench.out(name).join("model/model.safetensors")).unwrap();
    assert!(weights("here") == weights("away"));
    assert_eq!(metrics(&bench.out("here")), metrics(&bench.out("away")));
}

#[test]
fn every_policy_goes_on_from_a_checkpoint_and_on_any_threads_with_the_same_bits() {
    let bench = Bench::new(&sums(24), 4);
    let weights =
        |name: &str| std::fs::read(bench.out(name).join("model/model.safetensors")).unwrap();
    for (name, policy) in [
        ("bf16", "optimizer_states = \"bf16\""),
        ("least", "master_weights = false\noptimizer_states = \"int8\""),
    ] {
        let settings =
            format!("batch_size = 6\nlearning_rate = 5e-3\nsave_every = 3\nsteps = 8\n{policy}");
        bench.run(name, &settings).unwrap();
        let parts = format!("{name}-parts");
        let folder = bench.out(&parts).join("checkpoint");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(".step-6"), "").unwrap();
        bench.run(&parts, &settings).unwrap_err();
        std::fs::remove_file(folder.join(".step-6")).unwrap();
        let moments = std::fs::read(folder.join("step-3/moments.safetensors")).unwrap();
        let dtypes: Vec<Dtype> = SafeTensors::deserialize(&moments)
            .unwrap()
            .tensors()
            .iter()
            .map(|t| t.1.dtype())
            .collect();
        let own = if name == "bf16" { Dtype::BF16 } else { Dtype::U8 };
        assert!(dtypes.contains(&own), "states stand in a checkpoint in their own form");
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        one_thread.install(|| bench.run(&parts, &settings)).unwrap();
        assert!(weights(name) == weights(&parts), "{name}");
        assert_eq!(metrics(&bench.out(name)), metrics(&bench.out(&parts)));
    }
}

#[test]
fn a_checkpoint_with_other_states_is_refused_with_what_differs() {
    let bench = Bench::new(&sums(24), 0);
    let settings = "batch_size = 6\nsteps = 4\nsave_every = 2\nkeep = 2\n";
    bench.run("out", &format!("{settings}optimizer_states = \"bf16\"")).unwrap();
    let error = bench.run("out", &format!("{settings}optimizer_states = \"int8\"")).unwrap_err();
    let text = error.to_string();
    assert!(artifact::error::is_user(&error) && text.contains("optimizer_states"), "{text}");
    assert!(text.contains("bf16") && text.contains("int8"), "{text}");
}

#[test]
fn weights_in_bf16_alone_are_saved_exactly_and_in_either_type() {
    let bench = Bench::new(&sums(24), 0);
    let settings = "batch_size = 6\nsteps = 4\nlearning_rate = 5e-3\nmaster_weights = false\n";
    bench.run("bf16", settings).unwrap();
    bench.run("f32", &format!("{settings}dtype = \"f32\"")).unwrap();
    let read = |name: &str| std::fs::read(bench.out(name).join("model/model.safetensors")).unwrap();
    let (narrow, wide) = (read("bf16"), read("f32"));
    let (narrow, wide) =
        (SafeTensors::deserialize(&narrow).unwrap(), SafeTensors::deserialize(&wide).unwrap());
    for (name, narrow) in narrow.tensors() {
        assert_eq!(narrow.dtype(), Dtype::BF16, "{name}: the default is exact and half the size");
        let wide = wide.tensor(&name).unwrap();
        for (narrow, wide) in narrow.data().as_chunks().0.iter().zip(wide.data().as_chunks().0) {
            assert_eq!(bf16::from_le_bytes(*narrow).to_f32(), f32::from_le_bytes(*wide), "{name}");
        }
    }
}
