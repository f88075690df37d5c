//! The stage as a whole: prompts from examples, scores from generations of several makes, and what is said about bad input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::polars::prelude::*;
use artifact::schema::{EXAMPLES, SCORES};
use artifact::{Context, Example, Message, error, example, parquet};
use eval::{Config, Metric, PromptConfig, prompts, run};

fn metric(name: &str) -> Metric {
    Metric::named(name).expect("a metric")
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

fn math_example(lang: &str, split: &str, item: usize) -> Example {
    Example {
        example_id: format!("{lang}-{split}-{item}"),
        item_id: format!("{split}-{item}"),
        source: "made".into(),
        task: "math".into(),
        split: split.into(),
        lang: lang.into(),
        lang_rule: "agreed".into(),
        messages: vec![
            message("user", &format!("{lang} {split} {item}?")),
            message("assistant", &format!("The answer is {item}.")),
        ],
        reference: Some(item.to_string()),
        ..Example::default()
    }
}

/// Examples in two languages with parallel items, in a file with an extra column.
fn examples(folder: &Path, train: usize, test: usize) -> PathBuf {
    let mut rows = Vec::new();
    for lang in ["en", "es"] {
        rows.extend((0..train).map(|item| math_example(lang, "train", item)));
        rows.extend((0..test).map(|item| math_example(lang, "test", item)));
    }
    let mut df = example::examples_to_frame(&rows).expect("frame");
    let notes: Vec<String> = (0..rows.len()).map(|row| format!("note {row}")).collect();
    df.with_column(Column::new("note".into(), notes)).expect("extra column");
    let path = folder.join("examples.parquet");
    parquet::write(&path, &EXAMPLES, &mut df).expect("written");
    path
}

fn asked(folder: &Path) -> Vec<Example> {
    example::frame_to_examples(
        &parquet::read(&folder.join("prompts.parquet"), Some(&EXAMPLES)).expect("read"),
    )
    .expect("rows")
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// (example, metric) → value.
fn scores(folder: &Path) -> BTreeMap<(String, String), Option<f64>> {
    let df = parquet::read(&folder.join("scores.parquet"), Some(&SCORES)).expect("read");
    let text = |name: &str| df.column(name).expect("column").str().expect("text").clone();
    let (ids, metrics) = (text("example_id"), text("metric"));
    let values = df.column("value").expect("value").f64().expect("float").clone();
    (0..df.height())
        .map(|row| {
            (
                (
                    ids.get(row).expect("id").to_owned(),
                    metrics.get(row).expect("metric").to_owned(),
                ),
                values.get(row),
            )
        })
        .collect()
}

fn key(id: &str, metric: &str) -> (String, String) {
    (id.to_owned(), metric.to_owned())
}

fn user_error(result: anyhow::Result<impl Sized>) -> String {
    let fault = result.err().expect("an error");
    assert!(error::is_user(&fault), "not a user error: {fault:#}");
    format!("{fault:#}")
}

#[test]
fn prompts_end_with_the_question_after_the_worked_examples() {
    let folder = tempfile::tempdir().expect("folder");
    let path = examples(folder.path(), 20, 5);
    let config = PromptConfig { shots: Some(3), ..PromptConfig::default() };
    let summary = prompts(&config, std::slice::from_ref(&path), folder.path(), &Context::quiet())
        .expect("prompts");
    assert_eq!(
        summary.prompts.iter().map(|p| (p.prompts, p.shots)).collect::<Vec<_>>(),
        [(5, 3), (5, 3)]
    );
    for row in asked(folder.path()) {
        let roles: Vec<&str> = row.messages.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant", "user", "assistant", "user"]);
        assert_eq!(
            row.messages[6].content,
            format!("{} test {}?", row.lang, row.item_id.trim_start_matches("test-"))
        );
        assert!(
            row.messages[..6]
                .iter()
                .step_by(2)
                .all(|m| m.content.starts_with(&format!("{} train", row.lang)))
        );
        assert!(row.reference.is_some());
    }
    let df = parquet::read(&folder.path().join("prompts.parquet"), None).expect("read");
    assert!(df.column("note").is_ok(), "extra columns are carried along");
}

#[test]
fn a_draw_takes_parallel_items_together_and_depends_on_the_seed() {
    let folder = tempfile::tempdir().expect("folder");
    let path = examples(folder.path(), 20, 40);
    let mut drawn = Vec::new();
    for seed in [1, 1, 2] {
        let config =
            PromptConfig { shots: Some(2), max_items: Some(10), seed, ..PromptConfig::default() };
        prompts(&config, std::slice::from_ref(&path), folder.path(), &Context::quiet())
            .expect("prompts");
        let rows = asked(folder.path());
        let items = |lang: &str| {
            rows.iter().filter(|r| r.lang == lang).map(|r| r.item_id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(items("en").len(), 10);
        assert_eq!(items("en"), items("es"));
        drawn.push(items("en"));
    }
    assert_eq!(drawn[0], drawn[1]);
    assert_ne!(drawn[0], drawn[2]);
}

#[test]
fn a_test_item_is_never_a_worked_example_in_any_language() {
    let folder = tempfile::tempdir().expect("folder");
    // the Spanish train rows are translations of the English test items
    let mut rows: Vec<Example> = (0..10).map(|item| math_example("en", "test", item)).collect();
    rows.extend((0..12).map(|item| Example {
        item_id: format!("test-{item}"),
        ..math_example("es", "train", item)
    }));
    rows.push(math_example("es", "test", 99));
    let path = folder.path().join("examples.parquet");
    parquet::write(&path, &EXAMPLES, &mut example::examples_to_frame(&rows).expect("frame"))
        .expect("written");
    let ask = |shots| {
        let config = PromptConfig {
            shots: Some(shots),
            languages: vec!["Spanish".into()],
            ..PromptConfig::default()
        };
        prompts(&config, std::slice::from_ref(&path), folder.path(), &Context::quiet())
    };
    ask(2).expect("the two that are no test items");
    let row = &asked(folder.path())[0];
    let shown: Vec<&str> =
        row.messages.iter().filter(|m| m.role == "assistant").map(|m| m.content.as_str()).collect();
    assert_eq!(shown.len(), 2);
    assert!(shown.iter().all(|s| s.contains("10.") || s.contains("11.")), "{shown:?}");
    let text = user_error(ask(3));
    assert!(
        text.contains("math") && text.contains("es") && text.contains('3') && text.contains('2'),
        "{text}"
    );
}

#[test]
fn one_text_with_all_worked_examples_and_a_system_message_are_a_tasks_choice() {
    let folder = tempfile::tempdir().expect("folder");
    let path = examples(folder.path(), 5, 1);
    let task = "name = \"math\"\nmetrics = [\"exact_match\"]\nsystem = \"Think.\"\nprompt = \"{{ question }} {{ prompt }}\"\n\
                shots = { count = 2, layout = \"text\", lang = \"en\" }\n[strings.question]\nen = \"Question:\"\nes = \"Pregunta:\"\n";
    let config = PromptConfig {
        tasks: vec![write(folder.path(), "math.toml", task)],
        ..PromptConfig::default()
    };
    prompts(&config, &[path], folder.path(), &Context::quiet()).expect("prompts");
    let rows = asked(folder.path());
    let spanish = rows.iter().find(|r| r.lang == "es").expect("a Spanish prompt");
    assert_eq!(spanish.messages[0], message("system", "Think."));
    let text = &spanish.messages[1].content;
    assert!(
        text.starts_with("Question: en train") && text.ends_with("\n\nPregunta: es test 0?"),
        "{text}"
    );
    assert_eq!(text.matches("The answer is").count(), 2);
}

#[test]
fn json_lines_with_three_columns_are_scored() {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(
        folder.path(),
        "theirs.jsonl",
        "{\"language\":\"eng_Latn\",\"output\":\"9 * 2 = 18. The answer is 18.\",\"gold\":18,\"n\":100}\n\
         {\"language\":\"Spanish\",\"output\":\"La niña tiene muchas frutas y la respuesta es 17.\",\"gold\":\"18\",\"n\":100}\n\n\
         {\"language\":\"es\",\"output\":\"\",\"gold\":\"18\",\"n\":100}\n",
    );
    let map = [("lang", "language"), ("generation", "output"), ("reference", "gold")]
        .map(|(a, b)| (a.to_owned(), b.to_owned()));
    let config = Config { task: Some("math".into()), map: map.into(), ..Config::default() };
    let summary = run(&config, &[path], folder.path(), &Context::quiet()).expect("scores");
    let scores = scores(folder.path());
    assert_eq!(scores.len(), 3 * 4, "one row per answer and metric");
    assert_eq!(scores[&key("theirs:row-000001", "exact_match")], Some(1.0));
    assert_eq!(scores[&key("theirs:row-000002", "exact_match")], Some(0.0));
    assert_eq!(scores[&key("theirs:row-000002", "extracted")], Some(1.0));
    assert_eq!(scores[&key("theirs:row-000002", "language_fidelity")], Some(1.0));
    assert_eq!(
        scores[&key("theirs:row-000003", "exact_match")],
        Some(0.0),
        "an empty answer is wrong, not an error"
    );
    assert_eq!(scores[&key("theirs:row-000003", "language_fidelity")], Some(0.0));
    let df = parquet::read(&folder.path().join("scores.parquet"), Some(&SCORES)).expect("read");
    assert_eq!(
        df.column("n").expect("factor carried").i64().expect("an integer").get(5),
        Some(100)
    );
    assert_eq!(df.column("lang").expect("lang").str().expect("text").get(0), Some("en"));
    assert_eq!(df.column("run_id").expect("run").str().expect("text").get(0), Some("theirs"));
    let spanish = summary
        .means()
        .into_iter()
        .find(|m| m.lang == "es" && m.metric == Metric::Extracted)
        .expect("a mean");
    assert_eq!((spanish.mean, spanish.answers), (Some(0.5), 2));
    assert!(summary.to_string().contains("exact_match"), "{summary}");
}

#[test]
fn parquet_and_csv_of_the_same_answers_score_alike() {
    let folder = tempfile::tempdir().expect("folder");
    let mut df = df!(
        "run_id" => ["a", "a"], "example_id" => ["1", "2"], "item_id" => ["1", "2"], "lang" => ["ja", "en"],
        "task" => ["summarization", "summarization"], "generation" => ["猫が、座った。", "a cat \"sat\""], "reference" => ["猫が座る", "the cat sat"],
        "prompt" => ["p", "p"], "model" => ["m", "m"], "n" => [5i64, 5], "weight" => [0.5, 0.25], "mixture_id" => ["x", "x"],
    )
    .expect("frame");
    let path = folder.path().join("made.parquet");
    parquet::write(&path, &artifact::schema::GENERATIONS, &mut df).expect("written");
    let csv = "run_id,example_id,item_id,lang,task,generation,reference,prompt,model,n\n\
               a,1,1,ja,summarization,猫が、座った。,猫が座る,p,m,5\na,2,2,en,summarization,\"a cat \"\"sat\"\"\",the cat sat,p,m,5\n";
    let config = Config { metrics: vec![metric("rouge_l"), Metric::Chrf], ..Config::default() };
    run(&config, &[path], folder.path(), &Context::quiet()).expect("parquet");
    let ours = scores(folder.path());
    let frame = parquet::read(&folder.path().join("scores.parquet"), Some(&SCORES)).expect("read");
    assert!(
        frame.column("weight").is_ok() && frame.column("prompt").is_err(),
        "factors are carried, prompts are not"
    );
    let mixtures = frame.column("mixture_id").expect("column").str().expect("text");
    assert_eq!(mixtures.get(0), Some("x"), "and so is the mixture");
    run(&config, &[write(folder.path(), "made.csv", csv)], folder.path(), &Context::quiet())
        .expect("csv");
    assert_eq!(ours, scores(folder.path()));
    // characters 猫 が 座 of 4 and 5
    let (precision, recall) = (3.0 / 5.0, 3.0 / 4.0);
    assert_eq!(ours[&key("1", "rouge_l")], Some(2.0 * precision * recall / (precision + recall)));
}

#[test]
fn scores_are_the_same_bytes_whatever_the_number_of_threads() {
    let folder = tempfile::tempdir().expect("folder");
    let lines: Vec<String> = (0..500)
        .map(|i| format!("{{\"lang\":\"{}\",\"task\":\"instruction\",\"generation\":\"some answer {i} of words\",\"reference\":\"some {i} other answer\"}}", ["en", "fr"][i % 2]))
        .collect();
    let path = write(folder.path(), "g.jsonl", &lines.join("\n"));
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
        pool.install(|| {
            run(&Config::default(), std::slice::from_ref(&path), folder.path(), &Context::quiet())
        })
        .expect("scores");
        std::fs::read(folder.path().join("scores.parquet")).expect("file")
    };
    assert!(bytes(1) == bytes(2));
}

#[test]
fn rows_of_two_files_pair_by_number_and_stay_apart_by_run() {
    let folder = tempfile::tempdir().expect("folder");
    let row =
        |n: &str| format!("{{\"lang\":\"en\",\"generation\":\"a\",\"reference\":\"a\"{n}}}\n");
    let files = [
        write(folder.path(), "before.jsonl", &row("")),
        write(folder.path(), "after.jsonl", &row(",\"n\":\"100\",\"note\":\"x\"")),
    ];
    let config = Config { metrics: vec![Metric::Chrf], ..Config::default() };
    run(&config, &files, folder.path(), &Context::quiet()).expect("scores");
    let df = parquet::read(&folder.path().join("scores.parquet"), Some(&SCORES)).expect("read");
    let column = |name: &str| -> Vec<Option<String>> {
        df.column(name)
            .expect("column")
            .str()
            .expect("text")
            .iter()
            .map(|v| v.map(str::to_owned))
            .collect()
    };
    let some = |texts: [&str; 2]| texts.map(|text| Some(text.to_owned())).to_vec();
    assert_eq!(column("run_id"), some(["before", "after"]));
    assert_eq!(column("item_id"), some(["row-000001", "row-000001"]));
    assert_eq!(column("example_id"), some(["before:row-000001", "after:row-000001"]));
    assert_eq!(
        column("note"),
        [None, Some("x".to_owned())],
        "a column of one file is null for the other"
    );
    assert_eq!(df.column("n").expect("n").i64().expect("integers").get(1), Some(100));
}

#[test]
fn an_answer_without_a_reference_has_no_value_and_is_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let text = "{\"lang\":\"en\",\"generation\":\"a\",\"reference\":\"a\"}\n{\"lang\":\"en\",\"generation\":\"a\",\"reference\":null}\n";
    let config = Config { metrics: vec![Metric::Chrf], ..Config::default() };
    let summary =
        run(&config, &[write(folder.path(), "g.jsonl", text)], folder.path(), &Context::quiet())
            .expect("scores");
    assert_eq!(scores(folder.path())[&key("g:row-000002", "chrf")], None);
    assert_eq!((summary.means()[0].answers, summary.means()[0].without_value), (1, 1));
}

#[test]
fn bad_input_is_named_with_what_would_be_right() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    let try_run = |name: &str, text: &str, config: &Config| {
        user_error(run(config, &[write(out, name, text)], out, &Context::quiet()))
    };
    let chrf = Config { metrics: vec![Metric::Chrf], ..Config::default() };
    let row = "{\"lang\":\"en\",\"generation\":\"a\",\"reference\":\"a\"}\n";

    let text = try_run("a.jsonl", "{\"lang\":\"en\",\"generations\":\"x\"}\n", &chrf);
    assert!(
        text.contains("a.jsonl") && text.contains("`generation`") && text.contains("`generations`"),
        "{text}"
    );
    let text = try_run("b.jsonl", &format!("{row}not json\n"), &chrf);
    assert!(text.contains("b.jsonl:2"), "{text}");
    let text = try_run("c.jsonl", &row.replace("\"en\"", "\"enlgish\""), &chrf);
    assert!(text.contains("row 1") && text.contains("did you mean \"english\""), "{text}");
    let text = try_run("d.jsonl", row, &Config::default());
    assert!(text.contains("names no task") && text.contains("summarization"), "{text}");
    let text = try_run("e.jsonl", row, &Config { task: Some("maths".into()), ..Config::default() });
    assert!(text.contains("did you mean `math`"), "{text}");
    let text = try_run("f.jsonl", "{\"lang\":\"en\",\"generation\":\"a\"}\n", &chrf);
    assert!(text.contains("`reference`") && text.contains("chrf"), "{text}");
    let text = try_run("g.jsonl", "", &chrf);
    assert!(text.contains("no generations") && text.contains("g.jsonl"), "{text}");
    let text = try_run("h.csv", "lang,generation,reference,n\nen,a,a,many\n", &chrf);
    assert!(text.contains("h.csv") && text.contains("`n`") && text.contains("many"), "{text}");
    let text = try_run(
        "i.jsonl",
        row,
        &Config { map: [("reference".to_owned(), "gold".to_owned())].into(), ..chrf.clone() },
    );
    assert!(text.contains("`gold`") && text.contains("`map`"), "{text}");
    let text = try_run("j.txt", row, &chrf);
    assert!(text.contains("j.txt") && text.contains(".jsonl"), "{text}");
    let text = try_run("k.parquet", "not parquet at all", &chrf);
    assert!(text.contains("k.parquet"), "{text}");
    let other = out.join("other");
    std::fs::create_dir(&other).expect("folder");
    let twins = [write(out, "l.jsonl", row), write(&other, "l.jsonl", row)];
    let text = user_error(run(&chrf, &twins, out, &Context::quiet()));
    assert!(text.contains("other/l.jsonl") && text.contains("`run_id`"), "{text}");
    let missing = user_error(run(&chrf, &[out.join("missing.jsonl")], out, &Context::quiet()));
    assert!(missing.contains("missing.jsonl"), "{missing}");
    let stdin =
        user_error(prompts(&PromptConfig::default(), &["-".into()], out, &Context::quiet()));
    assert!(stdin.contains('-'), "{stdin}");
}

#[test]
fn ctrl_c_stops_scoring() {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(
        folder.path(),
        "g.jsonl",
        "{\"lang\":\"en\",\"generation\":\"a\",\"reference\":\"a\"}\n",
    );
    let ctx = Context::quiet();
    ctx.cancel();
    let config = Config { metrics: vec![Metric::Chrf], ..Config::default() };
    let stopped = run(&config, &[path], folder.path(), &ctx).expect_err("stopped");
    assert!(error::is_interrupted(&stopped));
}
