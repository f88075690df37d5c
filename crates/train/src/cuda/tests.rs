//! The suite at small sizes on the emulated device, once as an Ampere card, once as a Hopper one; and
//! what launch code decides on the host.

use std::sync::Arc;

use super::driver::{Arguments, Driver as _, Grid, Stream, TensorShape};
use super::emulator::Emulator;
use super::gemm::{Kernel, Layout, Product, Target};
use super::suite::{self, Size};
use super::{Cuda, attention, gemm};
use crate::model::ModelConfig;
use crate::ops::*;

/// An Ampere and a Hopper card; none where the host has no C++ compiler.
fn devices() -> Vec<Cuda> {
    [(8, 0), (9, 0)]
        .into_iter()
        .filter_map(|capability| Emulator::new(capability).map(|e| Cuda::new(Arc::new(e))))
        .collect()
}

/// A config with head sizes and windows of the kind that families have.
pub(super) fn tiny(text: &str) -> ModelConfig {
    ModelConfig::parse(text, std::path::Path::new("config.json")).expect("a config")
}

pub(super) const QWEN3: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 96,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": true, "initializer_range": 0.2, "hidden_act": "silu"}"#;

/// Runs some cases of the suite on both; every comparison must hold.
fn hold(cases: &[&str]) {
    hold_on(devices(), cases);
}

fn hold_on(devices: Vec<Cuda>, cases: &[&str]) {
    let wanted: Vec<String> = cases.iter().map(|&name| name.to_owned()).collect();
    for ops in devices {
        let mut count = 0;
        let mut failed = Vec::new();
        suite::run(&ops, Size::Small, 1, &wanted, &mut |outcome| {
            count += 1;
            if !outcome.passed() {
                failed.push(format!("{outcome:?}"));
            }
        })
        .expect("cases of these names");
        let capability = ops.driver.facts().capability;
        assert!(failed.is_empty(), "as {capability:?}:\n{}", failed.join("\n"));
        assert!(count >= cases.len());
    }
}

#[test]
fn products_agree_with_the_processors_in_every_layout_by_every_kernel() {
    hold(&["products"]);
}

#[test]
fn thin_gated_and_decoding_products_agree_with_the_processors() {
    hold(&["thin-products", "gated-products", "decoding-products"]);
}

#[test]
fn attention_agrees_with_the_processors_for_every_head_size_window_and_cap() {
    hold(&["attention"]);
}

#[test]
fn cached_attention_agrees_with_attention_over_the_whole_sequence() {
    hold(&["cached-attention"]);
}

#[test]
fn what_is_done_by_row_agrees_with_the_processors() {
    hold(&["norms", "head-norms", "ropes", "gates", "embeddings", "4-bit-weights", "fills"]);
}

#[test]
fn loss_optimiser_and_sampling_agree_with_the_processors() {
    hold(&["head-and-loss", "optimiser", "sampling"]);
}

#[test]
fn a_step_of_every_family_agrees_with_the_processors_engine() {
    // The kernels by themselves are held on both; the families only put them together.
    hold_on(devices().into_iter().take(1).collect(), &["families"]);
}

#[test]
fn adapters_agree_with_the_processors_engine() {
    hold(&["adapters", "magnitudes"]);
}

#[test]
fn steps_and_decoding_repeat_bit_for_bit() {
    hold(&["repeats", "decoding", "recorded-steps"]);
}

#[test]
fn recorded_training_passes_give_the_bits_of_plain_ones() {
    hold(&["recorded-training"]);
}

#[test]
fn a_resumed_training_ends_with_the_same_bits() {
    hold(&["trainer"]);
}

#[test]
fn the_suite_names_its_cases_and_fails_where_values_do() {
    let Some(ops) = devices().pop() else { return };
    let unknown = suite::run(&ops, Size::Small, 1, &["norm".to_owned()], &mut |_| {});
    assert!(unknown.expect_err("no such case").to_string().contains("head-norms"));
}

#[test]
fn a_head_size_that_the_kernels_do_not_have_is_refused() {
    for ops in devices() {
        let shape = AttentionShape::plain(Heads { queries: 1, key_values: 1, size: 320 });
        let qkv = ops.tensor(Kind::Activation, vec![0.5; 4 * 960]);
        let mut out = ops.zeros(Kind::Activation, 4 * 320);
        let mut sums = ops.zeros(Kind::Statistic, 4);
        ops.attention(&mut out, &mut sums, &qkv, &ops.index(&[0, 4]), shape);
        let fault = ops.check().expect_err("refused");
        assert!(fault.to_string().contains("320"), "{fault}");
        ops.check().expect("the fault is told once");
    }
}

#[test]
fn a_number_is_rounded_as_the_tensors_it_meets_are() {
    for ops in devices() {
        // The scale of embeddings 3072 wide, as transformers has it in bf16.
        assert_eq!(ops.rounded(Kind::Activation, 3072_f32.sqrt()), 55.5);
        assert_eq!(ops.rounded(Kind::Statistic, 3072_f32.sqrt()), 3072_f32.sqrt());
    }
}

#[test]
fn copies_beside_the_kernels_wait_for_the_events_that_they_are_told_to() {
    for ops in devices() {
        let driver = &*ops.driver;
        let host = driver.allocate_host(32).expect("memory");
        let (a, b) = (driver.allocate(16).expect("memory"), driver.allocate(16).expect("memory"));
        driver.copy_in(a, &[7; 16]).expect("copied");
        let [stored, loaded] = [(); 2].map(|()| driver.event().expect("an event"));
        driver.copy_on(Stream::Store, host + 16, a, 16).expect("copied");
        driver.record(stored, Stream::Store).expect("recorded");
        driver.wait(Stream::Load, stored).expect("waits");
        driver.copy_on(Stream::Load, b, host + 16, 16).expect("copied");
        driver.record(loaded, Stream::Load).expect("recorded");
        driver.wait(Stream::Compute, loaded).expect("waits");
        let mut found = [0; 16];
        driver.copy_out(&mut found, b).expect("copied");
        assert_eq!(found, [7; 16]);
        driver.drop_event(stored);
        driver.drop_event(loaded);
        driver.synchronize().expect("no fault");
        driver.free_host(host);
    }
}

#[test]
fn work_lists_cover_every_row_once_and_begin_with_the_most_work() {
    let documents = [0, 5, 300, 301];
    for (rows, of_keys) in [(64, false), (128, true)] {
        let tiles = attention::tiles(&documents, rows, None, of_keys);
        let mut seen = vec![0; 301];
        for tile in &tiles {
            let last = (tile.row as usize + rows).min(tile.end as usize);
            seen[tile.row as usize..last].iter_mut().for_each(|n| *n += 1);
        }
        assert!(seen.iter().all(|&n| n == 1));
        let longest = if of_keys { 5 } else { 5 + 4 * 64 };
        assert_eq!(tiles[0].row, longest);
    }
}

#[test]
fn small_products_are_split_and_odd_ones_go_to_the_plain_kernel() {
    let product = |m, n, k| Product {
        m,
        n,
        k,
        layout: Layout::Nt,
        a: 0,
        b: 0,
        target: Target::Bf16(0),
        bias: 0,
        residual: 0,
        rows_apart: false,
    };
    assert_eq!(gemm::choose(&product(8192, 8192, 8192), true, 132).columns, 256);
    assert!(gemm::choose(&product(128, 128, 8192), true, 132).splits > 8);
    assert_eq!(gemm::choose(&product(128, 130, 64), true, 132).kernel, Kernel::Plain);
    let decode =
        |m| gemm::choose(&Product { rows_apart: true, ..product(m, 4096, 4096) }, true, 132);
    assert_eq!(decode(1), decode(64));
}

#[test]
fn every_part_of_the_benchmark_measures_what_it_says() {
    let Some(device) = Emulator::new((9, 0)) else { return };
    let driver: Arc<dyn super::driver::Driver> = Arc::new(device);
    let mut rows = Vec::new();
    super::bench::run(
        &driver,
        None,
        super::bench::Plan::tiny(),
        &[],
        &mut |row| rows.push(row),
        &mut |part, error| panic!("{part}: {error:#}"),
    )
    .expect("all parts");
    for part in super::bench::sections() {
        assert!(rows.iter().any(|row| row.section == part), "{part}");
    }
    for row in rows {
        assert!(row.seconds > 0.0 && row.runs > 0 && row.flops + row.bytes > 0.0, "{row:?}");
    }
}

/// Whether it was refused, and for this.
fn is_refused<T>(result: anyhow::Result<T>, why: &str) -> bool {
    result.is_err_and(|error| format!("{error:#}").contains(why))
}

#[test]
fn the_emulation_refuses_what_a_card_refuses() {
    let Some(device) = Emulator::new((8, 0)) else { return };
    let at = device.allocate(64).expect("memory");
    let fill = |grid| {
        let arguments = Arguments::new().with(at).with(16_i64).with(1.0_f32);
        device.launch("fill_f32", grid, arguments)
    };
    let one = Grid::line(1, 32);
    fill(one).expect("it runs");
    fill(Grid::line(0, 32)).expect("nothing is to be done");
    assert!(is_refused(fill(Grid { blocks: [1, 65_536, 1], ..one }), "over Grid"));
    assert!(is_refused(fill(Grid { threads: 2048, ..one }), "over Grid"));
    assert!(is_refused(fill(Grid { shared: 100 << 10, ..one }), "102400 bytes"));
    // The count is a 64-bit number.
    let arguments = Arguments::new().with(at).with(16_i32).with(1.0_f32);
    assert!(is_refused(device.launch("fill_f32", one, arguments), "other arguments"));
    let few = Arguments::new().with(at);
    assert!(is_refused(device.launch("fill_f32", one, few), "other arguments"));
    let arguments = (0..5).fold(Arguments::new(), |all, _| all.with(at));
    let arguments = arguments.with(1.0_f32).with(0.0_f32).with(at);
    assert!(is_refused(
        device.launch("cross_entropy", Grid::line(1, 1024), arguments),
        "more threads than it is compiled for"
    ));

    let shape =
        TensorShape { base: at, rank: 2, sizes: [8, 4, 1], strides: [16, 0], boxes: [64, 4, 1] };
    device.tensor_map(&shape).expect("a box may be wider than its tensor");
    for wrong in [
        TensorShape { base: at + 8, ..shape },
        TensorShape { strides: [24, 0], ..shape },
        TensorShape { sizes: [8, 0, 1], ..shape },
        TensorShape { boxes: [64, 257, 1], ..shape },
        TensorShape { boxes: [32, 4, 1], ..shape },
    ] {
        assert!(device.tensor_map(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_hopper_kernel_with_fewer_registers_than_it_shares_out_is_refused() {
    let check = |kernel, registers| {
        super::kernels::file_of(kernel).and_then(|file| file.check_registers(kernel, registers))
    };
    check("gemm_nt_128x64", 168).expect("its budget");
    assert!(is_refused(check("gemm_nt_128x64", 160), "160 registers"));
    check("fill_f32", 10).expect("it shares nothing out");
}
