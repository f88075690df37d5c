//! Bad rows become rejects that say why; bad files and settings are user errors that name what is wrong.

mod common;

use common::{Bench, gzip, sentence, zstd};

const SOURCE: &str = "detect = false\n[[source]]\npath = \"x.jsonl\"\nlang = \"en\"\n";

fn rows(count: usize) -> String {
    (0..count)
        .map(|i| format!("{{\"prompt\":\"{}\",\"completion\":\"ok {i}\"}}\n", sentence(i)))
        .collect()
}

#[test]
fn bad_rows_are_rejected_with_file_line_reason_and_text() {
    let bench = Bench::new();
    let long = "x".repeat(3000);
    let content = [
        b"{\"prompt\":\"a good row\"}\n".as_slice(),
        b"{\"prompt\": \"cut of\n",
        b"\n",
        b"[1, 2]\n",
        b"{\"premise\":\"no conversation here\"}\n",
        b"{\"prompt\":\"caf\xe9 cr\xe8me\"}\n",
        b"{\"prompt\":\"   \"}\n",
        b"{\"prompt\":{\"deep\":1}}\n",
        format!("{{\"prompt\":\"{long}\"}}\n").as_bytes(),
        b"{\"prompt\":\"another good row without an end of line\"}",
    ]
    .concat();
    bench.file("x.jsonl", content);
    let ran = bench.run(&format!("max_row_bytes = 2500\n{SOURCE}"));
    assert_eq!(ran.examples.len(), 2);
    let found: Vec<(i64, &str)> =
        ran.rejects.iter().map(|r| (r.line, r.reason.split(':').next().unwrap())).collect();
    let expected = [
        (2, "invalid JSON"),
        (4, "invalid JSON"),
        (5, "no known schema"),
        (6, "invalid UTF-8"),
        (7, "empty"),
        (8, "wrong type"),
        (9, "too long"),
    ];
    assert_eq!(found, expected);
    assert!(ran.rejects.iter().all(|r| r.file.ends_with("x.jsonl")));
    assert_eq!(ran.rejects[0].raw, "{\"prompt\": \"cut of");
    assert!(ran.rejects[2].reason.contains("premise"), "{}", ran.rejects[2].reason);
    assert!(ran.rejects[3].raw.contains("caf\u{fffd}"), "{}", ran.rejects[3].raw);
    assert!(ran.rejects[3].reason.contains("windows-1252"), "{}", ran.rejects[3].reason);
    assert!(ran.rejects[6].reason.contains("3013 bytes"), "{}", ran.rejects[6].reason);
    assert_eq!(ran.summary.rejects["invalid JSON"], 2);
}

#[test]
fn a_row_of_a_hundred_megabytes_is_rejected_and_the_rows_after_it_are_taken() {
    let bench = Bench::new();
    for (name, before, after) in [("x.jsonl", "", "\n"), ("x.json", "[", ",")] {
        let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
        let mut write =
            |text: &str| std::io::Write::write_all(&mut packed, text.as_bytes()).unwrap();
        write(&format!("{before}{{\"prompt\":\"before\"}}{after}{{\"prompt\":\""));
        let megabyte = "y".repeat(1 << 20);
        (0..100).for_each(|_| write(&megabyte));
        write(&format!(
            "\"}}{after}{{\"prompt\":\"after\"}}{}",
            if before == "[" { "]" } else { "\n" }
        ));
        bench.file(name, packed.finish().unwrap());
        let ran = bench.run(&SOURCE.replace("x.jsonl", name));
        let prompts: Vec<&str> =
            ran.examples.iter().map(|e| e.messages[0].content.as_str()).collect();
        assert_eq!(prompts, ["before", "after"], "{name}");
        assert_eq!(ran.rejects.len(), 1);
        assert!(ran.rejects[0].reason.starts_with("too long: 104857"), "{}", ran.rejects[0].reason);
        assert!(ran.rejects[0].raw.len() <= 4096);
    }
}

#[test]
fn a_quote_left_open_does_not_swallow_memory() {
    let bench = Bench::new();
    let body: String = (0..20_000).map(|i| format!("q{i},a{i}\n")).collect();
    bench.file("x.csv", format!("prompt,completion\nfirst,one\n\"open,two\n{body}"));
    let ran = bench.run(&format!("max_row_bytes = 50000\n{}", SOURCE.replace("x.jsonl", "x.csv")));
    assert_eq!(ran.examples.len(), 1);
    assert_eq!((ran.rejects.len(), ran.rejects[0].line), (1, 3));
    assert!(ran.rejects[0].reason.starts_with("too long"), "{}", ran.rejects[0].reason);
}

#[test]
fn files_that_are_cut_empty_missing_or_locked_are_named() {
    let bench = Bench::new();
    let text = rows(3000);
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    for (bytes, said) in [
        (Vec::new(), "empty"),
        (b"\n\n".to_vec(), "no row"),
        (cut(gzip(text.as_bytes())), "cut off"),
        (cut(zstd(text.as_bytes())), "cut off"),
    ] {
        bench.file("x.jsonl", bytes);
        let message = bench.fault(SOURCE);
        assert!(message.contains("x.jsonl") && message.contains(said), "{said}: {message}");
    }
    let missing = bench.fault(&SOURCE.replace("x.jsonl", "none.jsonl"));
    assert!(missing.contains("none.jsonl"), "{missing}");
    bench.file("cut.json", "[{\"prompt\":\"a\"},{\"prompt\":\"b\"");
    assert!(bench.fault(&SOURCE.replace("x.jsonl", "cut.json")).contains("JSON array"));
    bench.file("one.json", "{\n \"data\": []\n}\n");
    assert!(bench.fault(&SOURCE.replace("x.jsonl", "one.json")).contains("JSON lines"));
}

#[test]
fn a_parquet_file_cut_in_half_is_named() {
    let bench = Bench::new();
    bench.file("x.jsonl", rows(500));
    bench.run(SOURCE);
    let whole = std::fs::read(bench.path("out/examples.parquet")).unwrap();
    bench.file("half.parquet", &whole[..whole.len() / 2]);
    let message = bench.fault(&SOURCE.replace("x.jsonl", "half.parquet"));
    assert!(message.contains("half.parquet") && message.contains("cut off"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.file("locked/x.jsonl", rows(2));
    let folder = bench.path("locked");
    let set =
        |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o000);
    let denied = std::fs::read_dir(&folder).is_err();
    let result = bench.try_run("[[source]]\npath = \"locked\"\nlang = \"en\"");
    set(0o755);
    if !denied {
        return println!("skipped: this user may read every folder");
    }
    let Err(error) = result else { panic!("no error") };
    assert!(
        artifact::error::is_user(&error) && format!("{error:#}").contains("denied"),
        "{error:#}"
    );
}

#[test]
fn a_missing_column_names_the_file_and_the_nearest_column() {
    let bench = Bench::new();
    bench.file("x.csv", "question,answer\na,b\n");
    let message = bench.fault("[[source]]\npath = \"x.csv\"\nmap = { prompt = \"qestion\" }");
    assert!(message.contains("x.csv") && message.contains("did you mean `question`"), "{message}");
    bench.file("x.jsonl", "{\"question\":\"a\"}\n{\"question\":\"b\"}\n");
    let message = bench.fault("[[source]]\npath = \"x.jsonl\"\nmap = { prompt = \"qestion\" }");
    assert!(
        message.contains("x.jsonl, line 1") && message.contains("there is question"),
        "{message}"
    );
}

#[test]
fn settings_that_cannot_be_right_say_what_would_be() {
    let bench = Bench::new();
    bench.file("x.jsonl", rows(2));
    for (toml, said) in [
        ("", "no source"),
        ("[[source]]\npath = \"x.jsonl\"\nlang = \"Swahilli\"", "swahili"),
        (
            "[[source]]\npath = \"x.jsonl\"\nlang = { from_path = \"nothing_(..)\" }",
            "does not match",
        ),
        ("[[source]]\npath = \"x.jsonl\"\nlang = { from_path = \"x\" }", "one group"),
        ("[[source]]\npath = \"x.jsonl\"\nsplit = \"trian\"", "train, validation or test"),
        ("[[source]]\npath = \"x.jsonl\"\nformat = \"jsonlines\"", "jsonl"),
        (
            "[[source]]\npath = \"x.jsonl\"\nformat = { kind = \"tsv\", heder = false }",
            "did you mean `header`",
        ),
        ("[[source]]\npath = \"x.jsonl\"\nitems_id = \"x\"", "did you mean `item_id`"),
        ("[[source]]\npath = \"x.jsonl\"\nencoding = \"latin-99\"", "windows-1251"),
        ("[[source]]\npath = \"x.jsonl\"\nmap = { prompt = 0 }", "from 1"),
        ("[[source]]\npath = \"x.jsonl\"\nlang = \"en\"\nmap = { lang = \"l\" }", "one is enough"),
        ("[[source]]\npath = \"${ISOGLOSS_NOT_SET}/x.jsonl\"", "ISOGLOSS_NOT_SET"),
        ("languages = [\"zz\"]\n[[source]]\npath = \"x.jsonl\"", "zz"),
    ] {
        let message = bench.fault(toml);
        assert!(message.contains(said), "{toml}\n{message}");
    }
}

#[test]
fn duplicate_ids_are_rejected_and_name_the_row_that_stays() {
    let bench = Bench::new();
    bench.file(
        "x.jsonl",
        "{\"id\":\"a\",\"lang\":\"en\",\"prompt\":\"one\"}\n{\"id\":\"a\",\"lang\":\"es\",\"prompt\":\"uno\"}\n{\"id\":\"a\",\"lang\":\"en\",\"prompt\":\"two\"}\n",
    );
    let ran = bench.run("detect = false\n[[source]]\npath = \"x.jsonl\"");
    let ids: Vec<&str> = ran.examples.iter().map(|e| e.example_id.as_str()).collect();
    assert_eq!(ids, ["x/a@en", "x/a@es"], "the same id in another language is the same item");
    assert_eq!(ran.examples[0].item_id, ran.examples[1].item_id);
    assert_eq!(
        (ran.rejects[0].line, ran.rejects[0].reason.as_str()),
        (3, "duplicate id: of x/a@en")
    );
    assert_eq!(ran.rejects[0].raw, "two");
}

#[test]
fn unknown_and_contradicted_languages_are_put_aside() {
    let bench = Bench::new();
    let spanish = "¿Cuántas manzanas quedan en la cesta después de que los niños se hayan comido tres de ellas?";
    let english =
        "How many apples are left in the basket after the children have eaten three of them?";
    let rows = [
        ("es", spanish),
        ("en", spanish),
        ("en", english),
        ("Klingonish", english),
        ("en", "Сколько яблок осталось в корзине после обеда?"),
    ];
    let lines: String = rows
        .iter()
        .map(|(lang, text)| format!("{}\n", serde_json::json!({"lang": lang, "prompt": text})))
        .collect();
    bench.file("x.jsonl", lines);
    let ran = bench.run("languages = [\"en\", \"es\", \"fr\"]\n[[source]]\npath = \"x.jsonl\"");
    assert_eq!(
        ran.examples.iter().map(|e| (e.lang.as_str(), e.lang_rule.as_str())).collect::<Vec<_>>(),
        [("es", "agreed"), ("en", "agreed")]
    );
    let reasons: Vec<&str> =
        ran.rejects.iter().map(|r| r.reason.split(':').next().unwrap()).collect();
    assert_eq!(reasons, ["language contradicted", "unknown language", "script mismatch"]);
    let found: Vec<_> = ran
        .summary
        .disagreements
        .iter()
        .map(|d| (d.declared.as_str(), d.detected.as_str(), d.quarantined))
        .collect();
    assert_eq!(found, [("en", "Cyrl", 1), ("en", "es", 1)]);
}

#[test]
fn a_file_in_a_legacy_encoding_is_read_once_its_encoding_is_said() {
    let bench = Bench::new();
    bench.file("ru.txt", b"\xcf\xf0\xe8\xe2\xe5\xf2, \xec\xe8\xf0\n\xc2\xf1\xe5 \xeb\xfe\xe4\xe8 \xf0\xee\xe6\xe4\xe0\xfe\xf2\xf1\xff \xf1\xe2\xee\xe1\xee\xe4\xed\xfb\xec\xe8\n");
    let message = bench.fault("[[source]]\npath = \"ru.txt\"\nlang = \"ru\"");
    assert!(message.contains("windows-1251"), "{message}");
    let ran = bench.run("detect = false\n[[source]]\npath = \"ru.txt\"\nlang = \"ru\"\nencoding = \"windows-1251\"\nschema = \"lines\"");
    assert_eq!(ran.examples[0].messages[0].content, "Привет, мир");
}
