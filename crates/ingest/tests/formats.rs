//! Every layout, plain and compressed, gives the same rows; the traps of each layout.

mod common;

use artifact::parquet;
use artifact::polars::prelude::*;
use common::{Bench, gzip, zstd};

const ROWS: [(&str, &str); 4] = [
    ("How many apples, \"red\" ones,\nare left?", "three"),
    ("A line\u{2028}separator and a next\u{85}line", "stay inside"),
    ("tab\tand comma, too", "yes"),
    ("दो और दो कितने होते हैं?", "चार"),
];

fn jsonl(end: &str) -> String {
    ROWS.iter()
        .map(|(q, a)| format!("{}{end}", serde_json::json!({"question": q, "answer": a})))
        .collect()
}

fn csv_text(delimiter: u8) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    writer.write_record(["question", "answer"]).unwrap();
    ROWS.iter().for_each(|(q, a)| writer.write_record([q, a]).unwrap());
    writer.into_inner().unwrap()
}

fn parquet_bytes() -> Vec<u8> {
    let mut frame =
        df!("question" => ROWS.map(|row| row.0), "answer" => ROWS.map(|row| row.1)).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    bytes
}

#[track_caller]
fn check(bench: &Bench, name: &str) {
    let ran = bench.run(&format!("detect = false\n[[source]]\npath = {name:?}\nlang = \"en\""));
    let found: Vec<(&str, &str)> = ran
        .examples
        .iter()
        .map(|e| (e.messages[0].content.as_str(), e.messages[1].content.as_str()))
        .collect();
    assert_eq!(found, ROWS, "{name}");
    assert!(ran.rejects.is_empty(), "{name}");
    assert!(ran.examples.iter().all(|e| e.lang == "en"
        && e.lang_rule == "not-checked"
        && e.reference.as_deref() == Some(&e.messages[1].content)));
}

#[test]
fn every_layout_and_compression_gives_the_same_rows() {
    let bench = Bench::new();
    let array = serde_json::to_string_pretty(
        &ROWS.map(|(q, a)| serde_json::json!({"question": q, "answer": a})),
    )
    .unwrap();
    let utf16: Vec<u8> = jsonl("\n").encode_utf16().fold(vec![0xff, 0xfe], |mut bytes, unit| {
        bytes.extend(unit.to_le_bytes());
        bytes
    });
    let files: [(&str, Vec<u8>); 9] = [
        ("plain.jsonl", jsonl("\n").into()),
        ("crlf.jsonl", jsonl("\r\n").into()),
        ("bom.jsonl", [b"\xef\xbb\xbf", jsonl("\n").as_bytes()].concat()),
        ("utf16.jsonl", utf16),
        ("lines.json", jsonl("\n").trim_end().into()),
        ("array.json", array.into()),
        ("comma.csv", csv_text(b',')),
        ("tabs.tsv", csv_text(b'\t')),
        ("table.parquet", parquet_bytes()),
    ];
    for (name, bytes) in files {
        for (suffix, bytes) in [("", bytes.clone()), (".gz", gzip(&bytes)), (".zst", zstd(&bytes))]
        {
            let name = format!("{name}{suffix}");
            bench.file(&name, bytes);
            check(&bench, &name);
        }
    }
}

#[test]
fn compression_is_seen_from_the_content_not_the_name() {
    let bench = Bench::new();
    bench.file("a.jsonl", zstd(jsonl("\n").as_bytes()));
    check(&bench, "a.jsonl");
}

#[test]
fn unquoted_tsv_takes_quotes_as_text_and_numbers_its_columns() {
    let bench = Bench::new();
    bench.file("mgsm_en.tsv", "\"Hi\" she said. How many are 5\" long?\t18\nNext\t1,000\n");
    let ran = bench.run(
        "detect = false\n[[source]]\npath = \"mgsm_*.tsv\"\nformat = { kind = \"tsv\", header = false, quoting = false }\n\
         map = { prompt = 1, reference = 2 }\nlang = { from_path = \"mgsm_(..)\" }\nitem_id = \"line\"\ntask = \"math\"\nsplit = \"test\"",
    );
    let first = &ran.examples[0];
    assert_eq!(first.messages[0].content, "\"Hi\" she said. How many are 5\" long?");
    assert_eq!(
        (first.reference.as_deref(), first.item_id.as_str(), first.lang.as_str()),
        (Some("18"), "mgsm_en/1", "en")
    );
    assert_eq!(ran.examples[1].item_id, "mgsm_en/2");
    assert_eq!(ran.examples[1].example_id, "mgsm_en/mgsm_en.tsv:2@en");
}

/// The csv crate is the oracle for what a record is.
#[test]
fn records_are_cut_as_the_csv_crate_cuts_them() {
    let bench = Bench::new();
    let pieces = ["a", "\"", "\"\"", ",", "\n", "\r\n", "b c", "\"x\"", "é"];
    let mut state = 7u64;
    for case in 0..60 {
        let mut text = String::from("question,answer\n");
        for _ in 0..30 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        text.push_str("\nlast,row\n");
        let mut oracle = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
        // A lone carriage return ends a record for the csv crate and does not here: white space is left out.
        let squeeze = |text: &str| text.split_whitespace().collect::<String>();
        let wanted: Vec<(String, String)> = oracle
            .records()
            .map(Result::unwrap)
            .filter(|record| {
                record.len() == 2 && !record[0].trim().is_empty() && !record[1].trim().is_empty()
            })
            .map(|record| (squeeze(&record[0]), squeeze(&record[1])))
            .collect();
        bench.file("x.csv", &text);
        let ran = bench.try_run(
            "detect = false\ndedup = \"off\"\n[[source]]\npath = \"x.csv\"\nlang = \"en\"",
        );
        let found: Vec<(String, String)> = ran.map_or(Vec::new(), |ran| {
            ran.examples
                .iter()
                .map(|e| (squeeze(&e.messages[0].content), squeeze(&e.messages[1].content)))
                .collect()
        });
        assert_eq!(found, wanted, "case {case}: {text:?}");
    }
}

#[test]
fn parquet_lists_of_messages_and_other_types_are_read() {
    let bench = Bench::new();
    let messages = [artifact::Message { role: "user".into(), content: "hi".into() }];
    let column =
        artifact::example::messages_column("messages", [&messages[..]].into_iter()).unwrap();
    let mut frame = df!("id" => [7i64], "score" => [0.5f64], "ok" => [true]).unwrap();
    frame.with_column(column).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    bench.file("x.parquet", bytes);
    let ran = bench.run("detect = false\n[[source]]\npath = \"x.parquet\"\nlang = \"en\"");
    let only = &ran.examples[0];
    assert_eq!((only.messages[0].content.as_str(), only.item_id.as_str()), ("hi", "x/7"));
    assert_eq!(only.meta.as_deref(), Some(r#"{"score":0.5,"ok":true}"#));
}

#[test]
fn our_own_examples_can_be_ingested_again() {
    let bench = Bench::new();
    bench.file("a.jsonl", jsonl("\n"));
    let first = bench.run("detect = false\n[[source]]\npath = \"a.jsonl\"\nlang = \"en\"\ntask = \"qa\"\nsplit = \"test\"");
    std::fs::copy(bench.path("out/examples.parquet"), bench.path("again.parquet")).unwrap();
    let frame = parquet::read(&bench.path("again.parquet"), None).unwrap();
    assert_eq!(frame.height(), 4);
    let again = bench.run("detect = false\n[[source]]\npath = \"again.parquet\"");
    let key = |e: &artifact::Example| {
        (e.messages.clone(), e.task.clone(), e.split.clone(), e.lang.clone(), e.reference.clone())
    };
    assert_eq!(
        again.examples.iter().map(key).collect::<Vec<_>>(),
        first.examples.iter().map(key).collect::<Vec<_>>()
    );
}
