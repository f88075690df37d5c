//! `isogloss train` and `isogloss inspect` as a user meets them: what is wrong with data, template or settings is said by name
//! before a step is taken, with status 2 and nothing left behind.

#[expect(dead_code, reason = "the pipeline's tests use the rest of it")]
mod common;
#[path = "common/sums.rs"]
mod sums;

use common::Place;

const TRAIN: &str = "train --init shape.toml --tokenizer tok --batch-size 4 --learning-rate 1e-3";

fn place() -> Place {
    sums::place(12)
}

/// Fails by the user's fault before a step, says these words, and leaves no output.
#[track_caller]
fn refused(place: &Place, line: &str, words: &[&str]) {
    let message = place.run(&format!("{line} --out out")).user_error();
    for word in words {
        assert!(message.contains(word), "no {word:?} in:\n{message}");
    }
    assert!(!place.path("out").exists() && !place.path(".out.partial").exists());
}

/// Examples of one conversation a line, as `data2`.
fn ingest(place: &Place, lines: &[&str]) {
    place.write("rows.jsonl", &lines.join("\n"));
    place.run("ingest rows.jsonl --lang en --task math --split train --out data2").ok();
}

#[test]
fn a_template_that_fails_names_folder_and_message() {
    let place = place();
    place.write(
        "tok/chat_template.jinja",
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('nobody answers here') }}{% endif %}{% endfor %}",
    );
    let words = ["tok: the chat template", "message 1 (assistant)", "nobody answers here"];
    refused(&place, &format!("{TRAIN} --data data"), &words);
    place.write("tok/chat_template.jinja", "{% for m in messages %}");
    refused(&place, &format!("{TRAIN} --data data"), &["chat_template.jinja", "does not parse"]);
}

#[test]
fn a_template_without_an_end_token_is_refused() {
    let place = place();
    place.write(
        "tok/chat_template.jinja",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    );
    refused(
        &place,
        &format!("{TRAIN} --data data"),
        &["tok: the chat template", "no end-of-turn token"],
    );
}

#[test]
fn data_without_anything_to_learn_from_is_refused_with_the_reasons() {
    let place = place();
    ingest(
        &place,
        &[
            r#"{"messages": [{"role": "user", "content": "Two and two?"}]}"#,
            r#"{"messages": [{"role": "user", "content": "One and one?"}]}"#,
        ],
    );
    let words = ["no row of the train split", "of 2 rows 2 left out without an answer"];
    refused(&place, &format!("{TRAIN} --data data2"), &words);
    let long = "and ".repeat(400);
    let row = format!(
        r#"{{"messages": [{{"role": "user", "content": "{long}"}}, {{"role": "assistant", "content": "no"}}]}}"#
    );
    ingest(&place, &[&row]);
    let words = ["no answer begins within 256 tokens", "of 1 rows 1 left out as too long"];
    refused(&place, &format!("{TRAIN} --data data2"), &words);
}

#[test]
fn four_bits_are_for_the_base_of_an_adapter() {
    let line = format!("{TRAIN} --data data --quantize nf4");
    refused(&place(), &line, &["--quantize", "--lora-rank"]);
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let place = place();
    place.write(
        "shape.toml",
        "hidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nvocab_size = 64\n",
    );
    refused(&place, &format!("{TRAIN} --data data"), &["400 ids", "64 rows"]);
}

#[test]
fn a_sequence_length_beyond_the_context_is_refused_and_a_long_row_is_cut_and_counted() {
    let place = place();
    let line = format!("{TRAIN} --data data --sequence-length 512");
    refused(&place, &line, &["sequence_length is 512", "context is 256"]);
    let long = "and ".repeat(400);
    let row = |answer: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "Count"}}, {{"role": "assistant", "content": "{answer}"}}]}}"#
        )
    };
    ingest(&place, &[&row(&long), &row("one")]);
    let answer = place.run(&format!("{TRAIN} --data data2 --steps 1 --out out")).ok();
    assert!(answer.err.contains("1 of 2 rows are longer than 256 tokens"), "{}", answer.err);
    assert!(answer.out.contains("of 2 rows 1 cut"), "{}", answer.out);
    let shown = place.run("inspect out/metrics.parquet --rows 1").ok().out;
    assert!(shown.contains("truncated: 1"), "{shown}");
}

#[test]
fn a_run_larger_than_the_machine_is_refused_before_it_begins() {
    let place = place();
    // 88 TB, which no machine has.
    place.write(
        "shape.toml",
        "hidden_size = 65536\nintermediate_size = 262144\nnum_hidden_layers = 80\nnum_attention_heads = 512\n",
    );
    let line = format!("{TRAIN} --data data --device cpu");
    refused(&place, &line, &["the run needs", "the system has", "optimiser states"]);
}

#[test]
fn settings_that_cannot_be_are_named() {
    let place = place();
    for (text, word) in [
        ("patience = 2\nvalidate_every = 0", "validate_every"),
        ("keep = 0", "keep"),
        ("max_loss_rise = -1", "max_loss_rise"),
        ("save_evry = 3", "save_every"),
    ] {
        place.write("bad.toml", text);
        refused(&place, &format!("{TRAIN} --data data --config bad.toml"), &[word]);
    }
}

#[test]
fn a_checkpoint_of_other_settings_names_the_key_with_both_values() {
    let place = place();
    // A learning rate that breaks the weights leaves the checkpoint of the step before.
    place.write(
        "wild.toml",
        "learning_rate = 1e36\nclip = 0.0\nsave_every = 1\nsteps = 40\nbatch_size = 4\n",
    );
    let train = "train --init shape.toml --tokenizer tok --data data --out out --config wild.toml";
    let message = place.run(train).user_error();
    assert!(message.contains("diverged") && message.contains("last good checkpoint"), "{message}");
    let resumed = place.run(&format!("{train} --resume --learning-rate 1e-3")).user_error();
    assert!(resumed.contains("learning_rate was 1e+36, is 0.001"), "{resumed}");
    let resumed = place.run(&format!("{train} --resume --seed 7")).user_error();
    assert!(resumed.contains("seed was 0, is 7"), "{resumed}");
}

#[test]
fn a_dry_run_tells_what_the_steps_would_be_made_of_and_writes_nothing() {
    let place = place();
    let line = format!("{TRAIN} --data data --epochs 2 --dry-run");
    let said = place.run(&line).ok().out;
    assert!(said.contains("12 steps, 6 an epoch; 8 validation documents"), "{said}");
    for lang in ["en", "es"] {
        assert!(said.lines().any(|line| line.contains(lang) && line.contains("12")), "{said}");
    }
    for row in ["weights", "optimiser states", "activations", "recompute none"] {
        assert!(said.contains(row), "{said}");
    }
    let message = place.run(&format!("{line} --memory lots")).user_error();
    assert!(message.contains("141GB"), "{message}");
    let names = || std::fs::read_dir(place.path(".")).expect("a folder").count();
    let before = names();
    place.run(&line).ok();
    assert_eq!(names(), before);
}

#[test]
fn what_training_leaves_is_what_was_asked_for() {
    let place = place();
    let line = format!("{TRAIN} --data data --steps 6 --save-every 2 --keep 2 --out out");
    place.run(&line).ok();
    for name in [
        "model/model.safetensors",
        "checkpoint/step-4/tokenizer.json",
        "checkpoint/step-6/moments.safetensors",
    ] {
        assert!(place.path("out").join(name).exists(), "{name}");
    }
    assert!(!place.path("out/checkpoint/step-2").exists());
    let events = std::fs::read_dir(place.path("out/tensorboard")).expect("event files");
    assert_eq!(events.count(), 1);
}

#[test]
fn inspect_shows_the_mask_and_spelled_out_special_tokens_stay_text() {
    let place = place();
    ingest(
        &place,
        &[
            r#"{"messages": [{"role": "user", "content": "say <|im_end|>"}, {"role": "assistant", "content": "no"}]}"#,
        ],
    );
    let shown = place.run("inspect data2 --model tok --rows 1").ok().out;
    assert!(!shown.contains('\u{1b}'), "no colours but on a terminal: {shown}");
    assert!(shown.contains("[[n·o·<|im_end|>]]"), "the end of turn counts: {shown}");
    assert!(shown.contains("<·|·im·_·en·d·|·>·<|im_end|>"), "spelled out and as a token: {shown}");
}
