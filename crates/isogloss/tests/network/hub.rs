//! Models and data named by `hf://…`, on the command line and in a pipeline, from a Hub on loopback.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use crate::common::{Answer, Place};
use loopback::{Answer as Response, Server};

/// Repositories by their address, such as `models/own/tiny`: commit, and files by name.
type Repos = Arc<Mutex<BTreeMap<&'static str, (String, BTreeMap<String, Vec<u8>>)>>>;

/// What a file's content is called.
fn tag(body: &[u8]) -> String {
    format!("tag-{}-{}", body.len(), body.iter().map(|&byte| u64::from(byte)).sum::<u64>())
}

/// A Hub of these repositories.
fn hub(repos: Repos) -> Server {
    Server::start(move |request, _| {
        let repos = repos.lock().expect("repositories");
        let path = request.path.split('?').next().unwrap_or_default();
        for (address, (commit, files)) in repos.iter() {
            if path.starts_with(&format!("/api/{address}/revision/")) {
                let file = |(name, body): (&String, &Vec<u8>)| {
                    let (tag, size) = (tag(body), body.len());
                    format!(r#"{{"rfilename":"{name}","blobId":"{tag}","size":{size}}}"#)
                };
                let files = files.iter().map(file).collect::<Vec<_>>().join(",");
                let list = format!(r#"{{"sha":"{commit}","siblings":[{files}]}}"#);
                return Response::json(200, list);
            }
            let folder = address.strip_prefix("models/").unwrap_or(address);
            let name = path.strip_prefix(&format!("/{folder}/resolve/{commit}/"));
            if let Some(body) = name.and_then(|name| files.get(name)) {
                return Response::body(200, "x/y", body.clone());
            }
        }
        Response::text(404, "").with("x-error-code", "RepoNotFound")
    })
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).expect("a file"))
        })
        .collect()
}

#[test]
fn a_study_on_the_hubs_model_and_data_is_done_once_and_again_when_they_change() {
    let place = Place::with_study();
    // A model to put on the Hub, and data beside it.
    place.run("run study.toml --only synth").ok();
    place.run("run study.toml --from ingest").ok();
    let trained =
        place.run("path study.toml train --run tiny.math.en-es.additive.n8.d1.t0").ok().out;
    let model = files(&place.path(trained.trim()).join("model"));
    let raw = files(&place.path("runs/synth").join(&place.outputs("synth")[0]));
    let data = raw.into_iter().filter(|(name, _)| name.ends_with(".jsonl"));
    let data = data.map(|(name, body)| (format!("data/{name}"), body)).collect();
    let repos: Repos = Arc::default();
    repos.lock().unwrap().insert("models/own/tiny", ("c1".into(), model));
    repos.lock().unwrap().insert("datasets/own/rows", ("d1".into(), data));
    let server = hub(repos.clone());
    let run = |line: &str, offline: &str| {
        let mut command = place.command(line);
        command.env("HF_ENDPOINT", server.url()).env("HF_HOME", place.path("hf"));
        command.env("HF_HUB_OFFLINE", offline).env_remove("HF_HUB_CACHE").env("HF_TOKEN", "hf_x");
        Answer::from(command.output().expect("it runs"))
    };

    place.edit("[synth]\ntasks = [\"math\"]\ntrain = 60\nvalidation = 8\ntest = 6\nseed = 1\n", "[[source]]\npath = \"hf://datasets/own/rows/data/*.jsonl\"\nmap = { lang = \"lang\", item_id = \"item_id\", example_id = \"id\", task = \"task\", split = \"split\" }\n");
    place.edit("init = { hidden_size = 32, num_hidden_layers = 1, num_attention_heads = 2, max_position_embeddings = 512 }", "path = \"hf://own/tiny\"");
    place.edit("[tokenizer]\nvocab_size = 400\n", "");
    let first = run("run study.toml --jobs 2", "0").ok();
    assert!(first.out.contains("report: "), "{}", first.out);
    assert!(place.path("hf/hub/models--own--tiny/refs/main").exists());
    assert!(place.path("hf/hub/datasets--own--rows/snapshots/d1/data").is_dir());

    // Neither a new commit of the same files nor the lack of a network makes anything stale.
    repos.lock().unwrap().get_mut("models/own/tiny").unwrap().0 = "c2".into();
    let status = run("status study.toml", "0").ok().out;
    assert!(status.contains("everything is in the store"), "{status}");
    assert!(run("run study.toml", "0").ok().out.starts_with("nothing to do"));
    let alone = run("run study.toml", "1").ok();
    assert!(alone.out.starts_with("nothing to do"), "{}", alone.out);

    // Other weights do.
    let mut weights = repos.lock().unwrap()["models/own/tiny"].1["model.safetensors"].clone();
    *weights.last_mut().unwrap() ^= 1;
    repos.lock().unwrap().get_mut("models/own/tiny").unwrap().0 = "c3".into();
    let mut guard = repos.lock().unwrap();
    guard.get_mut("models/own/tiny").unwrap().1.insert("model.safetensors".into(), weights);
    drop(guard);
    let status = run("status study.toml", "0").ok().out;
    assert!(status.contains("input base/model.safetensors"), "{status}");

    // The same addresses on the command line.
    run("ingest hf://datasets/own/rows/data --task math --out e", "0").ok();
    run("generate --model hf://own/tiny --data e --out g --max-new-tokens 2", "0").ok();
    assert!(place.path("g/generations.parquet").exists());
    // Data of ours on the Hub, for every stage that reads them.
    let mut ours = files(&place.path("e"));
    ours.extend(files(&place.path("g")));
    repos.lock().unwrap().insert("datasets/own/tables", ("t1".into(), ours));
    let (tables, steps) = ("hf://datasets/own/tables", "--steps 1 --batch-size 4 --device cpu");
    run(
        &format!("train --model hf://own/tiny --data {tables}/examples.parquet {steps} --out t"),
        "0",
    )
    .ok();
    let line = "generate --model hf://own/tiny --max-new-tokens 2 --data";
    run(&format!("{line} {tables}/examples.parquet --out g0"), "0").ok();
    assert!(
        files(&place.path("g0"))["generations.parquet"]
            == files(&place.path("g"))["generations.parquet"]
    );
    run(&format!("eval {tables}/generations.parquet --out s"), "0").ok();
    repos.lock().unwrap().insert("datasets/own/scores", ("s1".into(), files(&place.path("s"))));
    // It is read, and found to hold nothing that a report could be on: these answers name no n.
    let line = "report hf://datasets/own/scores/scores.parquet --draws 100 --out r";
    let message = run(line, "0").user_error();
    assert!(message.contains("rows have no n"), "{message}");
    let message =
        run(&format!("generate --model hf://own/tiny --data {tables} --out h"), "0").user_error();
    assert!(message.contains("files, where one is needed"), "{message}");
    // Two that need the same files at once.
    let start = |out: &str| {
        let line =
            format!("generate --model hf://own/tiny --data e --out {out} --max-new-tokens 2");
        let mut command = place.command(&line);
        command.env("HF_ENDPOINT", server.url()).env("HF_HOME", place.path("hf2"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    };
    for mut child in [start("g1"), start("g2")] {
        assert!(child.wait().expect("it ends").success());
    }
    assert!(
        files(&place.path("g1"))["generations.parquet"]
            == files(&place.path("g2"))["generations.parquet"]
    );
    let message = run("generate --model hf://own/gone --data e --out h", "0").user_error();
    assert!(message.contains("no model own/gone") && !message.contains("hf_x"), "{message}");
    let message = run("train --model hf://datasets/own/rows --data e --out h", "0").user_error();
    assert!(message.contains("these are data"), "{message}");
    let message = run("ingest hf://datasets/own/rows/none.csv --lang es --out h", "0").user_error();
    assert!(message.contains("none.csv"), "{message}");
    assert!(!place.path("h").exists());
}

#[test]
fn every_command_that_reads_a_table_takes_it_from_the_hub() {
    let place = Place::new();
    place.write("shape.toml", "hidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\n");
    place.write(
        "design.toml",
        "tasks = [\"math\"]\nlanguages = [\"en\"]\nenglish = 8\nn = [0]\nleakage = { ngram = 0 }\n",
    );
    for line in [
        "synth --languages en --tasks math --train 20 --validation 4 --test 4 --out raw",
        "ingest raw --dedup off --out e",
        "tokenizer --data e --vocab-size 400 --out tok",
        "train --init shape.toml --tokenizer tok --data e --steps 1 --batch-size 2 --out t",
        "prompts e --shots 0 --out p",
        "generate --model t/model --data p --max-new-tokens 2 --factor n=0 --out g",
        "eval g --out s",
    ] {
        place.run(line).ok();
    }
    let repos: Repos = Arc::default();
    let mut tables = BTreeMap::new();
    for folder in ["e", "p", "g", "s"] {
        tables.extend(files(&place.path(folder)));
    }
    repos.lock().unwrap().insert("datasets/own/tables", ("t1".into(), tables));
    repos.lock().unwrap().insert("models/own/tiny", ("c1".into(), files(&place.path("t/model"))));
    let server = hub(repos);
    let run = |line: &str| {
        let mut command = place.command(&line.replace("HUB", "hf://datasets/own/tables"));
        command.env("HF_ENDPOINT", server.url()).env("HF_HOME", place.path("hf"));
        // A proxy is for other machines than this one.
        command.env("http_proxy", "http://127.0.0.1:9");
        Answer::from(command.output().expect("it runs")).ok()
    };
    let train = "train --model hf://own/tiny --steps 1 --batch-size 2 --device cpu --data";
    run(&format!("{train} HUB/examples.parquet --validation HUB/examples.parquet --out t1"));
    place.run("train --model t/model --steps 1 --batch-size 2 --device cpu --data e --out t2").ok();
    assert!(
        files(&place.path("t1/model"))["model.safetensors"]
            == files(&place.path("t2/model"))["model.safetensors"]
    );
    run("tokenizer --data HUB/examples.parquet --vocab-size 400 --out tok1");
    assert!(
        files(&place.path("tok"))["tokenizer.json"] == files(&place.path("tok1"))["tokenizer.json"]
    );
    run("mix HUB/examples.parquet --design design.toml --tokenizer hf://own/tiny --out m1");
    assert!(place.path("m1/mixtures.parquet").exists());
    run("prompts HUB/examples.parquet --shots 0 --out p1");
    assert!(
        files(&place.path("p"))["prompts.parquet"] == files(&place.path("p1"))["prompts.parquet"]
    );
    run("eval HUB/generations.parquet --prompts HUB/prompts.parquet --out s1");
    assert!(
        files(&place.path("s"))["scores.parquet"] == files(&place.path("s1"))["scores.parquet"]
    );
    let page = |options: &str| {
        run(&format!("report HUB/scores.parquet {options} --draws 100 --out r1"));
        std::fs::read_to_string(place.path("r1/index.html")).expect("a page").len()
    };
    assert!(page("--samples HUB/generations.parquet") > page(""), "samples are shown");
    let look = run("inspect HUB/examples.parquet --model hf://own/tiny --rows 1").out;
    assert!(look.contains("examples, ") && look.contains("[["), "{look}");
    let line = "judge HUB/generations.parquet --prompts HUB/prompts.parquet --model m --cache c";
    let plan = run(&format!("{line} --base-url http://127.0.0.1:9 --dry-run")).out;
    assert!(plan.contains("to ask"), "{plan}");
}
