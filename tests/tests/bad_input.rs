//! Bad input, as a user meets it: the message names what is wrong and where, the status is 2, and
//! nothing is left behind that looks like an output.

use std::{fs, io::Write as _};

use anyhow::Result;
use isogloss_tests::{Answer, Place};

const ROW: &str = r#"{"prompt": "Two and two?", "completion": "Four.", "lang": "en"}"#;

/// The command failed by the user's fault, said all of `words`, and left no `out` folder.
#[track_caller]
fn refused(place: &Place, answer: &Answer, words: &[&str]) {
    assert_eq!(answer.status, Some(2), "{answer:?}");
    for word in words {
        assert!(answer.stderr.contains(word), "no {word:?} in:\n{}", answer.stderr);
    }
    assert!(!answer.stderr.contains("panicked"), "{}", answer.stderr);
    assert!(!place.path("out").exists(), "an output was left: {answer:?}");
}

#[test]
fn an_input_that_is_not_there_is_named() -> Result<()> {
    let place = Place::new()?;
    let answer = place.run("ingest nowhere.jsonl --lang en --task t --out out")?;
    refused(&place, &answer, &["nowhere.jsonl"]);
    Ok(())
}

#[test]
fn an_empty_file_is_refused() -> Result<()> {
    let place = Place::new()?;
    place.write("empty.jsonl", "")?;
    let answer = place.run("ingest empty.jsonl --lang en --task t --out out")?;
    refused(&place, &answer, &["empty.jsonl", "empty"]);
    Ok(())
}

#[test]
fn a_missing_column_is_named_with_the_file() -> Result<()> {
    let place = Place::new()?;
    place.write("a.csv", "question,answer\nTwo and two?,Four\n")?;
    let words = "ingest a.csv --map prompt=qestion,reference=answer --lang en --task t --out out";
    let answer = place.run(words)?;
    refused(&place, &answer, &["a.csv", "qestion"]);
    Ok(())
}

#[test]
fn a_cut_gzip_is_refused() -> Result<()> {
    let place = Place::new()?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for row in 0..5000 {
        writeln!(gzip, "{{\"prompt\": \"{row} and {row}?\", \"completion\": \"{}\"}}", row * 2)?;
    }
    let bytes = gzip.finish()?;
    place.write("a.jsonl.gz", &bytes[..bytes.len() / 2])?;
    let answer = place.run("ingest a.jsonl.gz --lang en --task t --out out")?;
    refused(&place, &answer, &["a.jsonl.gz", "cut"]);
    Ok(())
}

#[test]
fn a_parquet_cut_in_half_is_refused_by_every_stage() -> Result<()> {
    let place = Place::new()?;
    place.write("a.jsonl", format!("{ROW}\n").repeat(1))?;
    let made = place.run("ingest a.jsonl --task t --out whole")?;
    assert_eq!(made.status, Some(0), "{made:?}");
    let bytes = fs::read(place.path("whole/examples.parquet"))?;
    place.write("cut.parquet", &bytes[..bytes.len() / 2])?;
    place.write("d.toml", "tasks = [\"t\"]\nlanguages = [\"en\"]\nenglish = 1\nn = 0\n")?;
    for words in [
        "ingest cut.parquet --lang en --task t --out out",
        "mix cut.parquet --design d.toml --out out",
        "eval cut.parquet --out out",
        "report cut.parquet --out out",
        "inspect cut.parquet",
    ] {
        refused(&place, &place.run(words)?, &["cut.parquet"]);
    }
    Ok(())
}

#[test]
fn an_unknown_key_names_line_and_nearest_key() -> Result<()> {
    let place = Place::new()?;
    place.write("p.toml", "name = \"x\"\n[train]\nlearning_rte = 1e-3\n")?;
    let answer = place.run("run p.toml")?;
    refused(&place, &answer, &["p.toml", "learning_rte", "learning_rate"]);
    Ok(())
}

#[test]
fn a_mistyped_value_names_its_line() -> Result<()> {
    let place = Place::new()?;
    place.write("p.toml", "name = \"x\"\n[train]\nsteps = \"many\"\n")?;
    refused(&place, &place.run("run p.toml")?, &["p.toml:3", "many"]);
    Ok(())
}

#[test]
fn scores_with_a_mistyped_value_are_refused_with_the_row() -> Result<()> {
    let place = Place::new()?;
    place.write("s.csv", "lang,task,metric,n,value\nen,math,m,0,0.5\nes,math,m,0,half\n")?;
    refused(&place, &place.run("report s.csv --out out")?, &["s.csv", "value", "half"]);
    Ok(())
}

#[test]
fn a_few_bad_rows_do_not_stop_an_ingest() -> Result<()> {
    let place = Place::new()?;
    let mut bytes = Vec::new();
    writeln!(bytes, "{ROW}")?;
    writeln!(bytes, "{{not json")?;
    bytes.extend(b"{\"prompt\": \"caf\xe9\", \"completion\": \"x\", \"lang\": \"fr\"}\n");
    writeln!(bytes, r#"{{"id": "a", "prompt": "One?", "completion": "1", "lang": "en"}}"#)?;
    writeln!(bytes, r#"{{"id": "a", "prompt": "Two?", "completion": "2", "lang": "en"}}"#)?;
    writeln!(bytes, "{{\"prompt\": \"{}\", \"completion\": \"x\"}}", "long ".repeat(20 << 20))?;
    place.write("a.jsonl", bytes)?;
    let answer = place.run("ingest a.jsonl --task t --out out")?;
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert!(answer.stdout.contains("2 examples"), "{answer:?}");
    let look = place.run("inspect out/rejects.parquet")?;
    for word in ["invalid UTF-8", "invalid JSON", "too long", "duplicate id"] {
        let found = look.stdout.contains(word) || answer.stdout.contains(word);
        assert!(found, "no {word:?} in:\n{}\n{}", look.stdout, answer.stdout);
    }
    Ok(())
}

#[test]
fn a_model_folder_without_a_tokenizer_is_refused() -> Result<()> {
    let place = Place::new()?;
    place.write("a.jsonl", format!("{ROW}\n"))?;
    place.run("ingest a.jsonl --task t --out data")?;
    place.write("m/config.json", "{}")?;
    let answer = place.run("train --model m --data data/examples.parquet --out out")?;
    refused(&place, &answer, &["tokenizer.json"]);
    Ok(())
}

#[test]
fn a_folder_that_is_not_ours_is_not_overwritten() -> Result<()> {
    let place = Place::new()?;
    place.write("a.jsonl", format!("{ROW}\n"))?;
    place.write("mine/precious.txt", "x")?;
    let answer = place.run("ingest a.jsonl --task t --out mine")?;
    refused(&place, &answer, &["mine", "not empty"]);
    assert!(place.path("mine/precious.txt").exists());
    Ok(())
}

/// A limit on file size stands in for a full disk: it needs no privileges, and the write fails the
/// same way in the middle of a file.
#[test]
fn a_disk_without_room_is_said_and_leaves_nothing() -> Result<()> {
    let place = Place::new()?;
    let mut rows = String::new();
    for row in 0..20_000 {
        let noise = row * 7_919 % 100_003;
        rows +=
            &format!("{{\"prompt\": \"{row}, {noise}?\", \"completion\": \"{}\"}}\n", noise * 31);
    }
    place.write("a.jsonl", rows)?;
    let script = "trap '' XFSZ; ulimit -f 16; \
                  exec \"$ISOGLOSS\" ingest a.jsonl --lang en --task t --out out";
    let answer = place.shell(script)?;
    assert!(matches!(answer.status, Some(1 | 2)), "{answer:?}");
    assert!(answer.stderr.contains("error:") && answer.stderr.contains("arge"), "{answer:?}");
    assert!(!place.path("out").exists());
    let left: Vec<_> =
        fs::read_dir(place.path(""))?.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["a.jsonl"], "nothing half written is left");
    Ok(())
}

/// For root every folder is readable, so the test has something to say only for other users.
#[test]
#[cfg(unix)]
fn a_folder_without_read_permission_is_named() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new()?;
    place.write("closed/a.jsonl", format!("{ROW}\n"))?;
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o000))?;
    let readable = fs::read_dir(place.path("closed")).is_ok();
    let answer = place.run("ingest closed --task t --lang en --out out")?;
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o755))?;
    if !readable {
        refused(&place, &answer, &["closed", "permission"]);
    }
    Ok(())
}
