//! What a source can say: mapping, ids, line-parallel and wide files, joins, extraction, duplicates, the same for any threads.

mod common;

use artifact::Context;
use common::{Bench, config, make, read, sentence};

#[test]
fn line_parallel_files_share_ids_and_take_answers_from_a_join() {
    let bench = Bench::new();
    bench.file("es-en/train.es", "Ana tiene dos manzanas.\n\nHay nueve.\n");
    bench.file("es-en/train.en", "Ana has two apples.\n\nThere are nine.\n");
    bench.file("en/train.txt", "{\"question\":\"Ana has  two apples.\",\"answer\":\"It is two.\\n#### 2\"}\n{\"question\":\"There are nine.\",\"answer\":\"#### 9\"}\n");
    let ran = bench.run(
        r######"
        detect = false
        [[source]]
        name = "gsm8k-train"
        path = "en/train.txt"
        lang = "en"
        item_id = { hash_of = "question" }
        extract = { reference = "#### (.+)" }
        [[source]]
        name = "translated"
        path = "es-en/train.es"
        schema = "map"
        map = { prompt = "text", completion = "answer" }
        parallel = { english = "es-en/train.en" }
        join = [{ path = "en/train.txt", on = "english", key = "question" }]
        lang = "es"
        item_id = { hash_of = "english" }
        items = "gsm8k-train"
        extract = { reference = "#### (.+)" }
        "######,
    );
    let found: Vec<(&str, &str, Option<&str>)> = ran
        .examples
        .iter()
        .map(|e| (e.lang.as_str(), e.messages[0].content.as_str(), e.reference.as_deref()))
        .collect();
    assert_eq!(found[2], ("es", "Ana tiene dos manzanas.", Some("2")));
    assert_eq!(found[3], ("es", "Hay nueve.", Some("9")));
    assert_eq!(ran.examples[2].messages[1].content, "It is two.\n#### 2");
    assert_eq!(
        ran.examples[0].item_id, ran.examples[2].item_id,
        "white space aside it is the same question"
    );
    assert_eq!(ran.examples[3].example_id, "translated/train.es:3@es", "blank lines are counted");
}

#[test]
fn parallel_files_of_different_length_are_refused() {
    let bench = Bench::new();
    bench.file("a.txt", "one\ntwo\n");
    bench.file("b.txt", "eins\n");
    let message = bench.fault("[[source]]\npath = \"a.txt\"\nparallel = { german = \"b.txt\" }");
    assert!(
        message.contains("b.txt has 1 lines and") && message.contains("a.txt has more"),
        "{message}"
    );
}

#[test]
fn wide_files_give_one_example_for_each_language() {
    let bench = Bench::new();
    bench.file("w.csv", ",indonesian,english,toba_batak\n0,Dekat dengan hotel,Near the hotel,Jonok tu hotel\n1,Bagus,Good,\n");
    let ran = bench.run("detect = false\n[[source]]\npath = \"w.csv\"\nschema = \"wide\"");
    let found: Vec<(&str, &str)> =
        ran.examples.iter().map(|e| (e.lang.as_str(), e.item_id.as_str())).collect();
    assert_eq!(
        found,
        [("id", "w/w.csv:1"), ("en", "w/w.csv:1"), ("id", "w/w.csv:2"), ("en", "w/w.csv:2")]
    );
    let ran = bench.run("detect = false\n[[source]]\npath = \"w.csv\"\ncolumns = { toba_batak = \"bbc\", english = \"en\" }\nitem_id = \"line\"");
    let found: Vec<(&str, &str)> =
        ran.examples.iter().map(|e| (e.lang.as_str(), e.item_id.as_str())).collect();
    assert_eq!(found, [("en", "w/1"), ("bbc", "w/1"), ("en", "w/2")]);
}

#[test]
fn a_wide_file_is_recognised_and_its_id_is_no_language() {
    let bench = Bench::new();
    bench.file("w.csv", "id,en,es,topic\n7,Good,Bueno,taste\n");
    let found = |settings: &str| -> Vec<(String, String, Option<String>)> {
        let ran = bench.run(&format!("detect = false\n{settings}[[source]]\npath = \"w.csv\""));
        ran.examples.into_iter().map(|e| (e.lang, e.item_id, e.meta)).collect()
    };
    let meta = Some(r#"{"topic":"taste"}"#.to_string());
    let row = |lang: &str| (lang.to_string(), "w/7".to_string(), meta.clone());
    assert_eq!(found(""), [row("en"), row("es")]);
    assert_eq!(found("languages = [\"id\"]\n"), [row("id"), row("en"), row("es")]);
}

#[test]
fn an_answer_column_without_a_question_column_is_refused() {
    let bench = Bench::new();
    bench.file("a.jsonl", "{\"prompt\":\"p\",\"gold\":\"g\"}\n");
    let message = bench.fault("[[source]]\npath = \"a.jsonl\"\nmap = { completion = \"gold\" }");
    assert!(message.contains("`map.completion` needs `map.prompt`"), "{message}");
}

#[test]
fn a_folder_that_we_wrote_is_read_without_its_manifest() {
    let bench = Bench::new();
    bench.file("raw/a.jsonl", "{\"prompt\":\"p\",\"completion\":\"c\"}\n");
    let ours = r#"{"stage":"synth","key":"","parts":[],"files":{},"summary":null,"seconds":0,"tool_version":"0","created":"","host":""}"#;
    bench.file("raw/manifest.json", ours);
    let ran = bench.run("detect = false\n[[source]]\npath = \"raw\"");
    assert_eq!(ran.examples.len(), 1);
    // The same name with someone's rows in it is data.
    bench.file("raw/manifest.json", "{\"prompt\":\"q\",\"completion\":\"c\"}\n");
    let ran = bench.run("detect = false\n[[source]]\npath = \"raw\"");
    assert_eq!(ran.examples.len(), 2);
}

#[test]
fn columns_are_found_by_path_and_the_rest_is_kept_as_meta() {
    let bench = Bench::new();
    bench.file("q.jsonl", "{\"question_id\":81,\"category\":\"writing\",\"turns\":[\"Schreibe.\",\"Nochmal.\"],\"a\\\"b\":null}\n");
    let ran = bench.run("detect = false\n[[source]]\npath = \"q.jsonl\"\nmap = { prompt = \"turns.0\", item_id = \"question_id\", task = \"category\" }\nlang = \"de\"");
    let only = &ran.examples[0];
    assert_eq!(
        (only.messages[0].content.as_str(), only.item_id.as_str(), only.task.as_str()),
        ("Schreibe.", "q/81", "writing")
    );
    assert_eq!(only.meta.as_deref(), Some(r#"{"a\"b":null}"#));
}

#[test]
fn rows_can_say_their_task_split_and_language() {
    let bench = Bench::new();
    bench.file("a.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"task\":\"math\",\"split\":\"dev\",\"lang\":\"spa\",\"item_id\":\"i\",\"reference\":\"4\"}\n");
    let ran = bench.run("detect = false\n[[source]]\npath = \"a.jsonl\"");
    let only = &ran.examples[0];
    assert_eq!(
        (only.task.as_str(), only.split.as_str(), only.lang.as_str(), only.item_id.as_str()),
        ("math", "validation", "es", "a/i")
    );
    assert_eq!(only.reference.as_deref(), Some("4"));
    assert_eq!(only.meta, None);
}

#[test]
fn detection_can_look_at_the_answer() {
    let bench = Bench::new();
    let answer =
        "Nous avons mangé toutes les pommes qui restaient dans le panier de la grand-mère.";
    bench.file("a.jsonl", format!("{}\n", serde_json::json!({"lang": "fr", "prompt": "Translate this sentence into French, please: we have eaten all of the apples.", "completion": answer})));
    let toml = |on: &str| {
        format!(
            "languages = [\"en\", \"fr\"]\ndetect_on = \"{on}\"\n[[source]]\npath = \"a.jsonl\""
        )
    };
    assert_eq!(bench.run(&toml("answer")).examples[0].lang_rule, "agreed");
    assert!(bench.fault(&toml("prompt")).contains("language contradicted"));
}

#[test]
fn duplicates_within_a_language_are_removed_and_counted() {
    let bench = Bench::new();
    let base = "The old lighthouse keeper walks down to the harbour every single morning with his grey dog and counts 12 boats";
    let lines: Vec<(&str, String)> = vec![
        ("en", base.into()),
        ("en", base.to_uppercase().replace(' ', "  ")),
        ("es", base.into()),
        ("en", format!("{base} again")),
        ("en", base.replace("12", "13")),
        ("en", sentence(3)),
    ];
    let text: String = lines
        .iter()
        .map(|(lang, text)| format!("{}\n", serde_json::json!({"lang": lang, "prompt": text})))
        .collect();
    bench.file("a.jsonl", text);
    let toml = |dedup: &str, split: &str| {
        format!(
            "detect = false\ndedup = \"{dedup}\"\n[[source]]\npath = \"a.jsonl\"\nsplit = \"{split}\""
        )
    };
    let near = bench.run(&toml("near", "train"));
    assert_eq!(
        (near.summary.duplicates, near.summary.near_duplicates, near.examples.len()),
        (1, 1, 4)
    );
    let reasons: Vec<(i64, &str)> =
        near.rejects.iter().map(|r| (r.line, r.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [(2, "duplicate: of a/a.jsonl:1@en"), (4, "near duplicate: of a/a.jsonl:1@en")]
    );
    assert_eq!(near.summary.of_language("en"), 3);
    let exact = bench.run(&toml("exact", "train"));
    assert_eq!((exact.summary.duplicates, exact.summary.near_duplicates), (1, 0));
    assert_eq!(
        bench.run(&toml("near", "test")).summary.near_duplicates,
        0,
        "a test set keeps its items"
    );
    assert_eq!(bench.run(&toml("off", "train")).examples.len(), 6);
}

#[test]
fn the_output_is_the_same_for_any_number_of_threads() {
    let bench = Bench::new();
    let rows: String = (0..12_000)
        .map(|i| match i % 50 {
            7 => "not json\n".to_string(),
            9 => format!("{}\n", serde_json::json!({"prompt": sentence(1), "completion": "again"})),
            _ => format!(
                "{}\n",
                serde_json::json!({"prompt": sentence(i), "completion": sentence(i + 1)})
            ),
        })
        .collect();
    bench.file("a.jsonl", rows);
    let config =
        config("languages = [\"en\", \"es\"]\n[[source]]\npath = \"a.jsonl\"\nlang = \"en\"")
            .unwrap();
    let run = |threads: usize| {
        let out = make(&bench.path(&format!("out{threads}")));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let summary = pool
            .install(|| ingest::run(&config, bench.folder.path(), &out, &Context::quiet()))
            .unwrap();
        let bytes = ["examples.parquet", "rejects.parquet"]
            .map(|name| std::fs::read(out.join(name)).unwrap());
        (read(&out, summary).summary, bytes)
    };
    let one = run(1);
    assert!(one.0.duplicates >= 200 && one.0.rejects["invalid JSON"] == 240, "{}", one.0);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn an_interrupted_ingest_stops_and_says_so() {
    let bench = Bench::new();
    bench.file("a.jsonl", "{\"prompt\":\"x\"}\n");
    let ctx = Context::quiet();
    ctx.cancel();
    let error = ingest::run(
        &config("[[source]]\npath = \"a.jsonl\"").unwrap(),
        bench.folder.path(),
        &make(&bench.path("out")),
        &ctx,
    )
    .unwrap_err();
    assert!(artifact::error::is_interrupted(&error), "{error:#}");
}

#[test]
fn every_file_that_decides_the_output_is_listed() {
    let bench = Bench::new();
    for name in ["a.txt", "b.txt", "key.jsonl", "c.jsonl"] {
        bench.file(name, "{}");
    }
    let config = config("[[source]]\npath = \"a.txt\"\nparallel = { x = \"b.txt\" }\njoin = [{ path = \"key.jsonl\", on = \"x\" }]\n[[source]]\npath = \"c.jsonl\"").unwrap();
    let files = ingest::files(&config, bench.folder.path()).unwrap();
    let names: Vec<(usize, String)> = files
        .iter()
        .map(|(source, path)| (*source, path.file_name().unwrap().to_string_lossy().into_owned()))
        .collect();
    assert_eq!(
        names,
        [(0, "a.txt".into()), (0, "b.txt".into()), (0, "key.jsonl".into()), (1, "c.jsonl".into())]
    );
}

#[test]
fn the_summary_is_a_table_for_people() {
    let bench = Bench::new();
    bench.file("a.jsonl", "{\"prompt\":\"x\"}\nbroken\n");
    let text = bench
        .run("detect = false\n[[source]]\npath = \"a.jsonl\"\nlang = \"zh\"\ntask = \"math\"")
        .summary
        .to_string();
    for part in [
        "language",
        "zh-Hans",
        "Hans",
        "math",
        "train",
        "1 examples",
        "not-checked 1",
        "invalid JSON",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}
