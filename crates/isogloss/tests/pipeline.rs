//! A tiny study from data to report, and what happens when it is run again, changed, killed or shared.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Place;

#[test]
fn a_study_runs_once_and_then_only_what_changed() {
    let place = Place::with_study();
    let first = place.run("run study.toml --jobs 2").ok();
    let report = place.path("runs/reports/tiny/index.html");
    assert!(first.out.contains("report: runs/reports/tiny/index.html"), "{}", first.out);
    assert!(bytes(&report).starts_with(b"<!"), "a page");
    assert_eq!((place.outputs("train").len(), place.outputs("report").len()), (2, 1));

    let second = place.run("run study.toml").ok();
    assert!(
        second.out.starts_with("nothing to do: all 12 steps are in the store"),
        "{}",
        second.out
    );
    assert!(place.run("status study.toml").ok().out.contains("everything is in the store"));

    // Scores alone change with the eval section.
    let models = place.outputs("train");
    place.edit("[\"exact_match\", \"chrf\"]", "[\"chrf\"]");
    let status = place.run("status study.toml").ok().out;
    assert!(
        status.contains("setting metrics: [\"exact_match\",\"chrf\"] → [\"chrf\"]"),
        "{status}"
    );
    assert!(status.contains("3 of 12 steps to do"), "{status}");
    let only = place.run("run study.toml --only eval").ok();
    assert!(only.out.starts_with("all 2 steps done"), "{}", only.out);
    assert_eq!((place.outputs("eval").len(), place.outputs("report").len()), (4, 1));
    place.run("run study.toml").ok();
    assert_eq!((place.outputs("train"), place.outputs("report").len()), (models.clone(), 2));

    // A further n leaves the other points alone.
    place.edit("n = [0, 8]", "n = [0, 8, 16]");
    let status = place.run("status study.toml").ok().out;
    assert!(status.contains("setting n: [0,8] → [0,8,16]"), "{status}");
    place.run("run study.toml").ok();
    let now = place.outputs("train");
    assert_eq!(now.len(), 3);
    assert!(models.iter().all(|model| now.contains(model)));

    // Back to what was: nothing is made twice.
    place.edit("n = [0, 8, 16]", "n = [0, 8]");
    assert!(place.run("run study.toml").ok().out.starts_with("nothing to do"));
}

#[test]
fn single_tasks_and_all_tasks_at_once_are_one_study() {
    let place = Place::with_study();
    place.edit("tasks = [\"math\"]", "tasks = [\"math\", \"instruction\"]");
    let also = "validation = { per_language = 4 }\n\n[[mix.also]]\nsetting = \"multi-task\"\n\
                tasks = [\"math\", \"instruction\"]\nn = 8\n";
    place.edit("validation = { per_language = 4 }\n", also);
    let dry = place.run("run study.toml --dry-run").ok().out;
    let both = "tiny.math+instruction.en-es.additive.n8.d1.t0";
    assert!(dry.contains(&format!("{both}  waits")), "{dry}");
    place.run("run study.toml").ok();
    let look = |stage: &str, table: &str, run: &str| {
        let folder = place.run(&format!("path study.toml {stage} --run {run}")).ok().out;
        place.run(&format!("inspect {}/{table}.parquet --rows 1", folder.trim())).ok().out
    };
    let asked = look("generate", "generations", both);
    assert!(asked.contains("generations, 36 rows"), "2 tasks × 3 languages × 6 items: {asked}");
    let asked = look("generate", "generations", "tiny.math.en-es.additive.n8.d1.t0");
    assert!(asked.contains("generations, 18 rows") && !asked.contains("instruction"), "{asked}");
    let scored = look("eval", "scores", both);
    assert!(scored.contains("mixture_id: math+instruction.en-es.additive.n8.d1"), "{scored}");

    // A task that was not trained on is asked where the file says so.
    place.edit("[generate]", "[generate]\ntasks = [\"instruction\"]");
    place.run("run study.toml").ok();
    let asked = look("generate", "generations", "tiny.math.en-es.additive.n8.d1.t0");
    assert!(asked.contains("generations, 18 rows") && asked.contains("instruction"), "{asked}");
}

#[test]
fn a_study_needs_no_validation() {
    let place = Place::with_study();
    place.edit("per_language = 4", "per_language = 0");
    place.run("run study.toml --jobs 2").ok();
    assert_eq!(place.outputs("eval").len(), 2);
}

#[test]
fn jobs_and_threads_do_not_change_a_byte() {
    let (one, two) = (Place::with_study(), Place::with_study());
    one.run("run study.toml --threads 1").ok();
    two.run("run study.toml --threads 2 --jobs 2").ok();
    for stage in
        ["synth", "ingest", "tokenizer", "mix", "prompts", "train", "generate", "eval", "report"]
    {
        assert_eq!(one.outputs(stage), two.outputs(stage), "{stage} has the same keys");
        for key in one.outputs(stage) {
            let folder = format!("runs/{stage}/{key}");
            same_files(&one.path(&folder), &two.path(&folder));
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Manifests, metrics and TensorBoard's copy of them hold wall times; everything else must be equal.
fn same_files(a: &Path, b: &Path) {
    for entry in std::fs::read_dir(a).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        if ["manifest.json", "metrics.parquet", "tensorboard"].iter().any(|timed| name == *timed) {
            continue;
        }
        let other = b.join(name);
        if path.is_dir() {
            same_files(&path, &other);
        } else {
            assert!(bytes(&path) == bytes(&other), "{} differs", path.display());
        }
    }
}

#[test]
fn a_part_of_a_pipeline_needs_what_comes_before() {
    let place = Place::with_study();
    let message = place.run("run study.toml --only eval").user_error();
    assert!(message.contains("synth") && message.contains("not in the store"), "{message}");
    place.run("run study.toml --only synth").ok();
    assert_eq!((place.outputs("synth").len(), place.outputs("ingest").len()), (1, 0));
    place.run("run study.toml --only ingest").ok();
    let message = place.run("run study.toml --from train").user_error();
    assert!(message.contains("--from tokenizer"), "{message}");
}

#[test]
fn a_dry_run_counts_tokens_and_does_nothing() {
    let place = Place::with_study();
    let dry = place.run("run study.toml --dry-run").ok().out;
    assert!(dry.contains("tiny.math.en-es.additive.n8.d1.t0  waits"), "{dry}");
    assert!(dry.contains("tok)") && dry.contains("12 of 12 steps to do"), "{dry}");
    for stage in ["synth", "ingest", "mix"] {
        assert_eq!(place.outputs(stage).len(), 0, "{stage} was not made");
    }
}

#[test]
fn path_leads_to_the_artifacts() {
    let place = Place::with_study();
    assert!(place.run("path study.toml train").user_error().contains("isogloss run study.toml"));
    place.run("run study.toml").ok();
    let all = place.run("path study.toml train").ok().out;
    assert_eq!(all.lines().count(), 2);
    let one = place.run("path study.toml train --run tiny.math.en-es.additive.n8.d1.t0").ok().out;
    assert!(place.path(one.trim()).join("model/config.json").exists());
    assert!(
        place.run("path study.toml train --run tiny.math.n8").user_error().contains("did you mean")
    );
    let mixture = place.run("path study.toml mix").ok().out;
    let file = format!("{}/mixtures/math.en-es.additive.n8.d1/mixture.parquet", mixture.trim());
    let look = place.run(&format!("inspect {file} --rows 1 --model {}/model", one.trim())).ok().out;
    assert!(look.contains("mixture, 32 rows") && look.contains("[["), "{look}");
    let look = place.run(&format!("inspect {file} --rows 1")).ok().out;
    assert!(look.contains("messages: [user] "), "{look}");
}

#[test]
fn a_killed_training_goes_on_from_its_checkpoint() {
    let place = Place::with_study();
    place.edit("steps = 5", "steps = 40");
    place.edit("n = [0, 8]", "n = [8]");
    place.run("run study.toml --only synth").ok();
    let mut child = place.start("run study.toml");
    wait_for(|| checkpoint_step(&place).is_some_and(|step| step >= 3));
    child.kill().expect("killed");
    child.wait().expect("it ended");
    assert_eq!(place.outputs("train").len(), 0, "nothing that counts as done");
    let at = checkpoint_step(&place).expect("a checkpoint");
    let status = place.run("status study.toml").ok().out;
    assert!(
        status.contains("interrupted") && status.contains(&format!("goes on from step {at}")),
        "{status}"
    );

    // Going on gives the same model as a run that was never stopped.
    place.run("run study.toml").ok();
    let whole = Place::new();
    whole.write(
        "study.toml",
        &std::fs::read_to_string(place.path("study.toml")).expect("the study"),
    );
    whole.run("run study.toml --from synth").ok();
    let key = &place.outputs("train")[0];
    let model = format!("runs/train/{key}/model/model.safetensors");
    assert!(bytes(&place.path(&model)) == bytes(&whole.path(&model)));
}

/// The step of the only checkpoint that an unfinished training has.
fn checkpoint_step(place: &Place) -> Option<u64> {
    let work = std::fs::read_dir(place.path("runs/train"))
        .ok()?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().ends_with(".work"))?;
    let checkpoints = std::fs::read_dir(work.path().join("checkpoint")).ok()?.flatten();
    checkpoints
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
        .max()
}

#[track_caller]
fn wait_for(mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(600), "it did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_processes_on_one_store_share_the_work() {
    let place = Place::with_study();
    let (a, b) = (place.start("run study.toml"), place.start("run study.toml"));
    for child in [a, b] {
        common::Answer::from(child.wait_with_output().expect("it ends")).ok();
    }
    for (stage, count) in [("synth", 1), ("mix", 1), ("train", 2), ("generate", 2), ("report", 1)] {
        assert_eq!(place.outputs(stage).len(), count, "{stage}");
    }
}

#[test]
fn a_failed_run_does_not_stop_the_others() {
    let place = Place::with_study();
    // The second model's context has no room for its sequences, the first one's has.
    let small = "[[model]]\nname = \"short\"\ninit = { hidden_size = 32, num_hidden_layers = 1, \
                 num_attention_heads = 2, max_position_embeddings = 16 }\n\n[train]\nsequence_length = 64";
    place.edit("[train]", small);
    let message = place.run("run study.toml").user_error();
    assert!(
        message.contains("2 steps failed") && message.contains("max_position_embeddings"),
        "{message}"
    );
    assert_eq!((place.outputs("eval").len(), place.outputs("report").len()), (2, 0));
}

#[test]
fn a_pretraining_pipeline_ends_with_an_exported_model() {
    let place = Place::new();
    place.write(
        "base.toml",
        r#"
name = "base"
languages = { seen = ["en", "es"] }
synth = { train = 0, validation = 0, test = 0, text = 40 }
tokenizer = { vocab_size = 400 }
train = { preset = "pretrain", steps = 2, batch_size = 2, sequence_length = 32 }
export = { model = "models/small" }

[[model]]
init = { hidden_size = 32, num_hidden_layers = 1, num_attention_heads = 2 }
"#,
    );
    let first = place.run("run base.toml").ok().out;
    assert!(first.contains("models/small"), "{first}");
    let weights = place.path("models/small/model.safetensors");
    assert!(weights.exists() && place.path("models/small/tokenizer.json").exists());
    assert!(place.run("run base.toml").ok().out.starts_with("nothing to do: all 4 steps"));
    std::fs::remove_file(weights).expect("removed");
    place.run("run base.toml").ok();
    assert!(
        place.path("models/small/model.safetensors").exists(),
        "an incomplete copy is made good"
    );
}

#[test]
fn every_stage_works_alone_on_plain_files() {
    let place = Place::new();
    place.write("design.toml", "tasks = [\"math\"]\nlanguages = [\"en\", \"es\"]\nenglish = 24\nn = [8]\nleakage = { ngram = 0 }\n");
    place.write("shape.toml", "hidden_size = 32\nnum_hidden_layers = 1\nnum_attention_heads = 2\n");
    for line in [
        "synth --languages en,es --tasks math --train 60 --validation 8 --test 6 --out raw",
        "ingest raw/*.jsonl --map lang=lang,item_id=item_id,task=task,split=split --dedup off --out data",
        "tokenizer --data data --vocab-size 400 --out tok",
        "mix data --design design.toml --tokenizer tok --out mixes",
        "train --init shape.toml --tokenizer tok --data mixes/mixtures/math.en-es.additive.n8.d1 --steps 2 --batch-size 4 --out tuned",
        "prompts data --shots 0 --out asked",
        "generate --model tuned/model --data asked/prompts.parquet --max-new-tokens 4 --factor n=8 --factor train_langs=en,es --out answers",
        "eval answers --out scores",
        "report scores --out page",
    ] {
        place.run(line).ok();
    }
    assert!(place.path("page/index.html").exists());
    let plan = "generate --model tuned/model --data asked/prompts.parquet --dry-run --memory";
    let said = place.run(&format!("{plan} 2GB")).ok().out;
    for row in ["weights", "KV cache", " slots of ", "steps", "left to the driver", "free"] {
        assert!(said.contains(row), "{said}");
    }
    let refused = place.run(&format!("{plan} 300MB")).user_error();
    assert!(refused.contains("missing") && refused.contains("a larger card"), "{refused}");
    // Once more, through pipes instead of files.
    let asked = pipe(&place, "prompts data --shots 0 --out -", &[]);
    let answers =
        pipe(&place, "generate --model tuned/model --data - --max-new-tokens 4 --out -", &asked);
    assert!(answers.len() > 100, "an Arrow stream");
}

/// Runs `isogloss` with these bytes on stdin; returns what it writes to stdout.
fn pipe(place: &Place, line: &str, input: &[u8]) -> Vec<u8> {
    let mut command = place.command(line);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("isogloss starts");
    child.stdin.take().expect("its stdin").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{line}");
    output.stdout
}

#[test]
fn a_pipeline_file_may_stand_in_another_folder_than_the_store() {
    let place = Place::new();
    std::fs::create_dir(place.path("pipelines")).expect("a folder");
    place.write("pipelines/study.toml", common::STUDY);
    place.run("run pipelines/study.toml").ok();
    assert_eq!(place.outputs("report").len(), 1);
    assert!(!place.path("pipelines/runs").exists(), "the store is where the command was given");
}
