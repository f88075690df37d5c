//! The command line without a pipeline: help, exit statuses, schemas, messages.

mod common;

use artifact::polars::prelude::{ParquetCompression, ParquetWriter};
use common::Place;

const COMMANDS: [&str; 16] = [
    "synth",
    "ingest",
    "tokenizer",
    "mix",
    "train",
    "worker",
    "prompts",
    "generate",
    "eval",
    "judge",
    "report",
    "run",
    "status",
    "path",
    "schema",
    "inspect",
];

#[test]
fn help_names_every_command_and_every_command_has_an_example() {
    let place = Place::new();
    let help = place.run("--help").ok().out;
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{command} is missing in:\n{help}");
        let own = place.run(&format!("{command} --help")).ok().out;
        assert!(own.contains(&format!("isogloss {command}")), "{command} shows no example:\n{own}");
    }
}

#[test]
fn wrong_arguments_are_the_users_error() {
    let place = Place::new();
    for line in [
        "",
        "runn x.toml",
        "run",
        "mix x --out y",
        "run x.toml --only nothing",
        "--threads 0 schema",
    ] {
        let answer = place.run(line);
        assert_eq!(answer.status, 2, "`{line}`: {}", answer.err);
    }
    assert!(place.run("runn x.toml").err.contains("run"), "the nearest command is named");
}

#[test]
fn a_missing_file_is_named() {
    let place = Place::new();
    for (line, name) in [
        ("run gone.toml", "gone.toml"),
        ("status gone.toml", "gone.toml"),
        ("ingest gone.jsonl --out o", "gone.jsonl"),
        ("eval gone.parquet --out o", "gone.parquet"),
        ("judge gone.parquet --model m --out o", "gone.parquet"),
        ("report gone.parquet --out o", "gone.parquet"),
        ("mix gone.parquet --design gone.toml --out o", "gone.toml"),
        ("inspect gone.parquet", "gone.parquet"),
    ] {
        let message = place.run(line).user_error();
        assert!(message.starts_with("error: ") && message.contains(name), "`{line}`: {message}");
        assert!(!place.path("o").exists(), "`{line}` leaves nothing");
    }
}

#[test]
fn schema_prints_columns_and_the_pipelines_json_schema() {
    let place = Place::new();
    let all = place.run("schema").ok().out;
    for artifact in
        ["examples", "mixture", "mixtures", "metrics", "generations", "scores", "transfer"]
    {
        assert!(all.contains(&format!("{artifact} 1.0: ")), "{artifact}");
    }
    let scores = place.run("schema scores").ok().out;
    assert!(scores.contains("metric") && !scores.contains("finish_reason"));
    let schema: serde_json::Value =
        serde_json::from_str(&place.run("schema pipeline").ok().out).expect("JSON");
    for section in [
        "name",
        "languages",
        "source",
        "synth",
        "mix",
        "model",
        "train",
        "generate",
        "eval",
        "judge",
        "report",
    ] {
        assert!(!schema["properties"][section].is_null(), "{section}");
    }
    assert!(place.run("schema score").user_error().contains("scores"));
}

#[test]
fn the_generators_files_are_read_back_and_languages_go_by_any_name() {
    let place = Place::new();
    place.run("synth --languages en,zh --tasks math --train 2 --out raw").ok();
    assert!(place.path("raw/math.zh-Hans.train.jsonl").exists());
    place.run("ingest raw --out examples").ok();
    assert!(place.path("examples/examples.parquet").exists());
}

#[test]
fn training_takes_a_table_that_another_tool_wrote() {
    let place = Place::new();
    place.run("synth --languages en --tasks math --train 20 --out raw").ok();
    place.run("ingest raw --out ours").ok();
    place.run("tokenizer --data ours --vocab-size 400 --out tok").ok();
    place.write("shape.toml", "hidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\n");
    let ours = place.path("ours/examples.parquet");
    let mut frame = artifact::parquet::read(&ours, None).expect("our own table");
    let theirs = std::fs::File::create(place.path("theirs.parquet")).expect("a file");
    // Snappy is what pyarrow, pandas and Spark write.
    ParquetWriter::new(theirs)
        .with_compression(ParquetCompression::Snappy)
        .finish(&mut frame)
        .expect("a table of theirs");
    let train = "train --init shape.toml --tokenizer tok --steps 1 --batch-size 2";
    place.run(&format!("{train} --data theirs.parquet --out from-theirs")).ok();
    place.run(&format!("{train} --data ours --out from-ours")).ok();
    let weights = |out: &str| {
        std::fs::read(place.path(out).join("model/model.safetensors")).expect("the weights")
    };
    assert_eq!(weights("from-theirs"), weights("from-ours"));
    // What is said about it names their file, wherever it was read from.
    let message = place
        .run(&format!("{train} --sequence-length 2 --data theirs.parquet --out none"))
        .user_error();
    assert!(message.contains("error: theirs.parquet: no row of the train split"), "{message}");
    assert!(message.lines().all(|line| line.contains(": theirs.parquet: ")), "{message}");
    place.write("cut.parquet", "PAR1 and no more");
    let message = place.run(&format!("{train} --data cut.parquet --out cut")).user_error();
    assert!(message.contains("cut.parquet: not a complete Parquet file"), "{message}");
}

#[test]
fn a_model_called_as_on_the_hub_is_told_its_address() {
    let place = Place::new();
    let message = place.run("train --model own/tiny --data d --out out").user_error();
    assert!(message.contains("own/tiny: no such folder here") && message.contains("hf://own/tiny"));
}

#[test]
fn a_negative_number_is_refused_by_the_option_that_it_is_given_to() {
    let place = Place::new();
    for option in ["--steps", "--seed", "--batch-size", "--learning-rate"] {
        let line = format!("train --model m --data d {option} -1 --out out");
        let message = place.run(&line).user_error();
        let name = option.trim_start_matches("--").replace('-', "_");
        // What is a whole number is refused as it is read, a rate among the settings.
        assert!(message.contains(option) || message.contains(&name), "{message}");
        assert!(message.contains("-1") && !message.contains("unexpected argument"), "{message}");
    }
}

#[test]
fn rows_are_shown_with_the_tokenizer_of_an_adapters_base() {
    let place = Place::new();
    place.run("synth --languages en --tasks math --train 20 --out raw").ok();
    place.run("ingest raw --out data").ok();
    place.run("tokenizer --data data --vocab-size 400 --out tok").ok();
    place.write("shape.toml", "hidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\n");
    let steps = "--data data --steps 1 --batch-size 2";
    place.run(&format!("train --init shape.toml --tokenizer tok {steps} --out base")).ok();
    place.run(&format!("train --model base/model --lora-rank 2 {steps} --out adapter")).ok();
    let shown = |model: &str| place.run(&format!("inspect data --rows 2 --model {model}")).ok().out;
    let by_base = shown("base/model");
    let message = place.run("generate --model base --data data --out g").user_error();
    assert!(message.contains("its model is base/model"), "{message}");
    assert!(by_base.contains("[["), "{by_base}");
    // PEFT's folders hold no tokenizer.
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let file = place.path("adapter/model").join(file);
        if file.exists() {
            std::fs::remove_file(file).expect("removed");
        }
    }
    assert_eq!(shown("adapter/model"), by_base);
    std::fs::remove_dir_all(place.path("base")).expect("removed");
    let message = place.run("inspect data --model adapter/model").user_error();
    assert!(message.contains("adapter_config.json: the base model"), "{message}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::new();
    let mut child = place.start("schema pipeline");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest() {
    let place = Place::with_study();
    for (from, to, near) in [
        ("english = 24", "englsh = 24", "`english`"),
        ("learning_rate = 1e-3", "learning_rte = 1e-3", "`learning_rate`"),
        ("max_new_tokens = 4", "max_tokens = 4", "`max_new_tokens`"),
        ("[report]", "[reports]", "`report`"),
    ] {
        let before = std::fs::read_to_string(place.path("study.toml")).expect("the study");
        place.edit(from, to);
        let text = std::fs::read_to_string(place.path("study.toml")).expect("the study");
        let line = text.lines().position(|line| line == to).expect("the line") + 1;
        let message = place.run("run study.toml").user_error();
        assert!(message.contains(&format!("study.toml:{line}: ")), "{message}");
        assert!(message.contains(&format!("did you mean {near}")), "{message}");
        place.write("study.toml", &before);
    }
}

#[test]
fn what_a_pipeline_cannot_mean_is_said_before_any_work() {
    for (from, to, words) in [
        ("init = {", "path = \"nowhere\"\ninit = {", "either `path`"),
        ("[tokenizer]\nvocab_size = 400", "", "no tokenizer"),
        ("steps = 5", "steps = 5\nseed = 1\nseeds = [1, 2]", "`seeds`"),
        ("steps = 5", "steps = 5\nepochs = 1", "epochs"),
        ("init = {", "path = \"gone\"\n#", "there is no folder"),
        ("name = \"tiny\"", "name = \"a/b\"", "short name"),
        ("[report]", "[export]\nmodel = \"out\"\n[report]", "one run"),
    ] {
        let place = Place::with_study();
        place.edit(from, to);
        let message = place.run("run study.toml").user_error();
        assert!(message.contains(words), "{to}: {message}");
        assert_eq!(place.outputs("synth").len(), 0, "nothing was done");
    }
}
