//! A sweep of adapters over one base, trained side by side and one by one: the same bytes, and what happens to one run
//! happens to it alone.

#[expect(dead_code, reason = "the pipeline's tests use the rest of it")]
mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Place, STUDY};

/// The sections that make adapters over a base of three mixtures.
const SWEEP: &str = r#"
[train]
steps = 6
batch_size = 4
learning_rate = 5e-3
validate_every = 3
save_every = 2
keep = 2
device = "cpu"
[train.lora]
rank = 4
"#;

/// A folder with a trained base and two pipelines of three runs over it: `apart.toml` and `together.toml`.
fn place() -> Place {
    let place = Place::with_study();
    for stage in ["synth", "ingest", "tokenizer", "mix", "train"] {
        place.run(&format!("run study.toml --only {stage}")).ok();
    }
    fs::rename(place.path("runs/train").join(&place.outputs("train")[0]), place.path("made"))
        .unwrap();
    let (before, after) = STUDY.split_once("[train]").unwrap();
    let (_, rest) = after.split_once("[prompts]").unwrap();
    let (data, _) = before.split_once("[[model]]").unwrap();
    let data =
        data.replace("[tokenizer]\nvocab_size = 400\n", "").replace("n = [0, 8]", "n = [0, 4, 8]");
    let model = "[[model]]\nname = \"tiny\"\npath = \"made/model\"\n";
    let sweep = format!("{data}{model}{SWEEP}[prompts]{rest}");
    place.write("together.toml", &sweep);
    place.write("apart.toml", &sweep.replace("[train]\n", "[train]\nside_by_side = 1\n"));
    place
}

/// Weights below a folder, those of checkpoints too, by their paths in it.
fn weights(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "safetensors") {
                let name = path.strip_prefix(folder).expect("below").to_owned();
                found.push((name, fs::read(&path).expect("readable")));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn adapters_side_by_side_are_those_of_one_by_one_and_a_run_that_breaks_off_harms_no_other() {
    let place = place();
    let prepare = |store: &str, pipeline: &str| {
        for stage in ["synth", "ingest", "mix"] {
            place.run(&format!("run {pipeline} --store {store} --only {stage}")).ok();
        }
    };
    prepare("one", "apart.toml");
    place.run("run apart.toml --store one --only train --jobs 2").ok();
    let expected = weights(&place.path("one/train"));
    // An adapter, the best weights and two checkpoints with their moments, of each of three runs.
    assert!(
        expected.len() >= 3 * 5,
        "{:?}",
        expected.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );

    // One of the runs cannot write its second checkpoint.
    let runs: Vec<PathBuf> = fs::read_dir(place.path("one/train"))
        .expect("a folder")
        .map(|entry| PathBuf::from(entry.expect("an entry").file_name()))
        .filter(|name| name.extension().is_none())
        .collect();
    assert_eq!(runs.len(), 3);
    let checkpoints =
        place.path("many/train").join(runs[0].with_extension("work")).join("checkpoint");
    prepare("many", "together.toml");
    fs::create_dir_all(&checkpoints).expect("made");
    fs::write(checkpoints.join(".step-4"), "").expect("written");
    let failed = place.run("run together.toml --store many --only train");
    assert_ne!(failed.status, 0);
    assert!(failed.err.contains("failed"), "{}", failed.err);
    let status = place.run("status together.toml --store many").ok().out;
    assert!(status.contains("goes on from step 2"), "{status}");
    let finished =
        runs.iter().filter(|run| place.path("many/train").join(run).join("manifest.json").exists());
    assert_eq!(finished.count(), 2, "{status}");

    fs::remove_file(checkpoints.join(".step-4")).expect("removed");
    let resumed = place.run("run together.toml --store many --only train").ok();
    assert!(resumed.err.contains("going on from step 2"), "{}", resumed.err);
    assert!(weights(&place.path("many/train")) == expected);
    // Nor does it matter to the store which way they were made.
    let again = place.run("run apart.toml --store many --only train").ok();
    assert!(again.out.contains("nothing to do"), "{}", again.out);
}
