//! Generations of other tools are read as they are: batch APIs, inference servers, lm-evaluation-harness, packed and nested files.

use std::io::Write;
use std::path::{Path, PathBuf};

use artifact::polars::prelude::*;
use artifact::schema::{EXAMPLES, SCORES};
use artifact::{Context, Example, Message, error, example, parquet};
use eval::{Config, Metric, run};

fn write(path: PathBuf, bytes: &[u8]) -> PathBuf {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, bytes).expect("written");
    path
}

fn config(map: &[(&str, &str)]) -> Config {
    Config {
        metrics: vec![Metric::ExactMatch],
        map: map.iter().map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).to_owned())).collect(),
        ..Config::default()
    }
}

/// (run, item, language, value) of each score.
fn scores(
    config: &Config,
    files: &[PathBuf],
    out: &Path,
) -> Vec<(String, String, String, Option<f64>)> {
    run(config, files, out, &Context::quiet()).expect("scores");
    let df = parquet::read(&out.join("scores.parquet"), Some(&SCORES)).expect("read");
    let text = |name: &str| df.column(name).expect("column").str().expect("text").clone();
    let (runs, items, langs) = (text("run_id"), text("item_id"), text("lang"));
    let values = df.column("value").expect("value").f64().expect("numbers");
    let at = |column: &StringChunked, row: usize| column.get(row).unwrap_or_default().to_owned();
    (0..df.height())
        .map(|row| (at(&runs, row), at(&items, row), at(&langs, row), values.get(row)))
        .collect()
}

fn fault(config: &Config, file: PathBuf, out: &Path) -> String {
    let error = run(config, &[file], out, &Context::quiet()).expect_err("a fault");
    assert!(error::is_user(&error), "{error:#}");
    format!("{error:#}")
}

fn row(run: &str, item: &str, lang: &str, value: f64) -> (String, String, String, Option<f64>) {
    (run.to_owned(), item.to_owned(), lang.to_owned(), Some(value))
}

fn example(lang: &str, item: usize) -> Example {
    let message = |role: &str, content: String| Message { role: role.into(), content };
    Example {
        example_id: format!("{lang}-{item}"),
        item_id: format!("item-{item}"),
        source: "made".into(),
        task: "math".into(),
        split: "test".into(),
        lang: lang.into(),
        lang_rule: "agreed".into(),
        messages: vec![message("user", "?".into()), message("assistant", format!("It is {item}."))],
        reference: Some(item.to_string()),
        ..Example::default()
    }
}

fn prompts(folder: &Path) -> PathBuf {
    let rows: Vec<Example> =
        [("en", 17), ("de", 17), ("de", 18)].map(|(l, i)| example(l, i)).to_vec();
    let path = folder.join("prompts.parquet");
    let mut df = example::examples_to_frame(&rows).expect("frame");
    parquet::write(&path, &EXAMPLES, &mut df).expect("written");
    path
}

const BATCH: &str = r#"{"id":"b1","custom_id":"de-17","response":{"status_code":200,"body":{"choices":[{"message":{"role":"assistant","content":"Die Antwort ist 17."}}]}},"error":null}
{"id":"b2","custom_id":"en-17","response":{"status_code":200,"body":{"choices":[{"message":{"content":[{"type":"text","text":"The answer"},{"type":"text","text":" is 3."}]}}]}},"error":null}
{"id":"b3","custom_id":"de-18","response":null,"error":{"code":"server_error"}}
"#;
const ANSWER: &str = "response.body.choices[0].message.content";

#[test]
fn a_batch_apis_output_is_joined_with_what_was_asked() {
    let folder = tempfile::tempdir().expect("folder");
    let file = write(folder.path().join("batch_output.jsonl"), BATCH.as_bytes());
    let mut config = config(&[("example_id", "custom_id"), ("generation", ANSWER)]);
    config.prompts = Some(prompts(folder.path()));
    let scores = scores(&config, &[file], folder.path());
    let run = "batch_output";
    // the request that failed has no answer, which counts as an empty one
    assert_eq!(
        scores,
        [
            row(run, "item-17", "de", 1.0),
            row(run, "item-17", "en", 0.0),
            row(run, "item-18", "de", 0.0)
        ]
    );

    let stray = BATCH.replace("en-17", "fr-17");
    let text =
        fault(&config, write(folder.path().join("stray.jsonl"), stray.as_bytes()), folder.path());
    assert!(text.contains("stray.jsonl: row 2") && text.contains("\"fr-17\""), "{text}");
    config.map.remove("example_id");
    let text =
        fault(&config, write(folder.path().join("b.jsonl"), BATCH.as_bytes()), folder.path());
    assert!(text.contains("example_id=custom_id"), "{text}");
}

#[test]
fn packed_files_and_arrays_score_as_plain_lines_do() {
    let folder = tempfile::tempdir().expect("folder");
    let lines = "{\"outputs\":[{\"text\":\"So 18.\"}],\"gold\":18}\n{\"outputs\":[{\"text\":\"So 1.\"}],\"gold\":18}\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).expect("packed");
    let array = format!("[{}]", lines.trim().replace('\n', ","));
    let files = [
        ("vllm.jsonl", lines.as_bytes().to_vec()),
        ("vllm.jsonl.gz", gzip.finish().expect("packed")),
        ("vllm.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).expect("packed")),
        ("vllm.json", array.into_bytes()),
    ];
    let mut config = config(&[("generation", "outputs[0].text"), ("reference", "gold")]);
    config.lang = Some("English".into());
    for (name, bytes) in files {
        let scores = scores(&config, &[write(folder.path().join(name), &bytes)], folder.path());
        let expected = [row("vllm", "row-000001", "en", 1.0), row("vllm", "row-000002", "en", 0.0)];
        assert_eq!(scores, expected, "{name}");
    }
    let broken = write(folder.path().join("broken.jsonl.gz"), b"not gzip");
    assert!(fault(&config, broken, folder.path()).contains("broken.jsonl.gz"));
}

#[test]
fn lm_evaluation_harness_samples_are_recognised() {
    let folder = tempfile::tempdir().expect("folder");
    let line = |id: usize, filter: &str, answer: &str| {
        format!(
            "{{\"doc_id\":{id},\"doc\":{{\"question\":\"?\"}},\"target\":\"18\",\"arguments\":{{}},\"resps\":[[\"{answer}\"]],\
             \"filtered_resps\":[\"x\"],\"filter\":\"{filter}\",\"exact_match\":0.0}}\n"
        )
    };
    let text = |answer: &str| {
        line(0, "strict-match", answer)
            + &line(1, "strict-match", "7")
            + &line(0, "flexible-extract", answer)
            + &line(1, "flexible-extract", "7")
    };
    let model = folder.path().join("out/org__model");
    let files = [
        write(
            model.join("samples_mgsm_direct_bn_2026-11-20T12-00-00.1.jsonl"),
            text("উত্তর হল ১৮।").as_bytes(),
        ),
        write(
            model.join("samples_mgsm_direct_de_2026-11-20T12-00-00.1.jsonl"),
            text("Die Antwort ist 18,00.").as_bytes(),
        ),
    ];
    let found = scores(&config(&[]), &files, folder.path());
    let run = "org__model";
    assert_eq!(
        found,
        [
            row(run, "0", "bn", 1.0),
            row(run, "1", "bn", 0.0),
            row(run, "0", "de", 1.0),
            row(run, "1", "de", 0.0)
        ]
    );
    // what a filter made of the answers is there for who asks for it
    let filtered = config(&[("generation", "filtered_resps[0]")]);
    assert_eq!(scores(&filtered, &files[..1], folder.path())[0], row(run, "0", "bn", 0.0));

    let likelihoods = line(0, "none", "x").replace("[[\"x\"]]", "[[[\"-1.5\",\"False\"]]]");
    let file = write(model.join("samples_xcopa_et.jsonl"), likelihoods.as_bytes());
    let text = fault(&config(&[]), file, folder.path());
    assert!(text.contains("samples_xcopa_et.jsonl:1") && text.contains("likelihoods"), "{text}");
    let nameless = write(model.join("samples_gsm8k_cot.jsonl"), line(0, "none", "18").as_bytes());
    let text = fault(&config(&[]), nameless, folder.path());
    assert!(text.contains("`lang`"), "{text}");
}

#[test]
fn parquet_may_hold_numbers_as_references_and_answers_deep_inside() {
    let folder = tempfile::tempdir().expect("folder");
    let mut df =
        example::examples_to_frame(&[example("en", 17), example("de", 18)]).expect("frame");
    df.with_column(Column::new("reference".into(), [17i64, 19])).expect("a column of numbers");
    let path = folder.path().join("theirs.parquet");
    ParquetWriter::new(std::fs::File::create(&path).expect("file"))
        .finish(&mut df)
        .expect("written");
    let scores = scores(&config(&[("generation", "messages[-1].content")]), &[path], folder.path());
    assert_eq!(scores, [row("theirs", "item-17", "en", 1.0), row("theirs", "item-18", "de", 0.0)]);
}

#[test]
fn a_path_that_leads_nowhere_and_a_list_for_a_text_are_named() {
    let folder = tempfile::tempdir().expect("folder");
    let file = || write(folder.path().join("batch.jsonl"), BATCH.as_bytes());
    let text =
        fault(&config(&[("generation", "response.body.choises[0].text")]), file(), folder.path());
    assert!(
        text.contains("batch.jsonl")
            && text.contains("`response.body` has the keys choices; is it `choices`?"),
        "{text}"
    );
    let text = fault(&config(&[("generation", "response.body.choices")]), file(), folder.path());
    assert!(
        text.contains("batch.jsonl:1") && text.contains("is a list") && text.contains("choices[0]"),
        "{text}"
    );
    let list = write(
        folder.path().join("list.jsonl"),
        b"{\"lang\":\"en\",\"generation\":[\"a\",\"b\"],\"reference\":1}\n",
    );
    let text = fault(&config(&[]), list, folder.path());
    assert!(text.contains("list.jsonl:1: `generation` is a list"), "{text}");
}
