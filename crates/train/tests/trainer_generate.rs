//! Generation: the same answers whatever the batch, stops, limits, and the order of the input.

mod trainer_common;

use std::path::{Path, PathBuf};

use artifact::{Context, Example, Factors, error::is_user, parquet, schema::GENERATIONS};
use train::{GenerateConfig, RunLabels, generate};
use trainer_common::{Bench, example, sums, write_examples};

/// A model that was shown a few sums, and a folder for outputs.
struct Answers {
    bench: Bench,
    model: PathBuf,
}

/// Texts and reasons of `generations.parquet`, in its order.
fn read(out: &Path) -> Vec<(String, String, String)> {
    let frame = parquet::read(&out.join("generations.parquet"), Some(&GENERATIONS)).unwrap();
    let cell = |name: &str, row: usize| {
        frame.column(name).unwrap().str().unwrap().get(row).unwrap().to_owned()
    };
    (0..frame.height())
        .map(|row| (cell("example_id", row), cell("generation", row), cell("finish_reason", row)))
        .collect()
}

impl Answers {
    fn new() -> Self {
        let bench = Bench::new(&sums(24), 0);
        bench.run("train", "steps = 30\nbatch_size = 24\nlearning_rate = 1e-2").unwrap();
        let model = bench.out("train").join("model");
        Self { bench, model }
    }

    fn generate(
        &self,
        name: &str,
        config: &GenerateConfig,
        prompts: &[Example],
    ) -> Vec<(String, String, String)> {
        let path = self.bench.folder.path().join(format!("{name}.parquet"));
        write_examples(&path, prompts);
        let factors = Factors { n: Some(100), ..Factors::default() };
        let out = self.bench.out(name);
        let run = RunLabels { run_id: "run-1", mixture_id: Some("mix-1"), factors: &factors };
        generate(config, &self.model, &path, run, &out, &Context::quiet()).unwrap();
        read(&out)
    }
}

fn config(max_new_tokens: usize, batch_size: usize) -> GenerateConfig {
    GenerateConfig { max_new_tokens, batch_size, ..GenerateConfig::default() }
}

#[test]
fn answers_are_the_same_whatever_the_batch() {
    let answers = Answers::new();
    let prompts = sums(13);
    let sampled = |batch_size| GenerateConfig {
        temperature: 1.0,
        top_p: 0.95,
        seed: 5,
        ..config(12, batch_size)
    };
    for (kind, settings) in [("greedy", config(12, 1)), ("sampled", sampled(1))] {
        let alone = answers.generate(&format!("{kind}-1"), &settings, &prompts);
        let order: Vec<&str> = alone.iter().map(|(id, ..)| id.as_str()).collect();
        let asked: Vec<&str> = prompts.iter().map(|example| example.example_id.as_str()).collect();
        assert_eq!(order, asked);
        for batch_size in [3, 16] {
            let settings = GenerateConfig { batch_size, ..settings.clone() };
            let beside = answers.generate(&format!("{kind}-{batch_size}"), &settings, &prompts);
            assert_eq!(beside, alone, "{kind}, {batch_size} at a time");
        }
    }
    let reversed: Vec<Example> = prompts.iter().rev().cloned().collect();
    let mut turned = answers.generate("turned", &sampled(4), &reversed);
    turned.reverse();
    assert_eq!(
        turned,
        answers.generate("straight", &sampled(4), &prompts),
        "an answer does not depend on its neighbours"
    );
    let other = GenerateConfig { seed: 6, ..sampled(4) };
    assert_ne!(answers.generate("other", &other, &prompts), turned);
}

#[test]
fn the_most_likely_of_one_token_is_the_greedy_one_and_top_k_enters_the_key_only_where_it_is_set() {
    let answers = Answers::new();
    let one = GenerateConfig { temperature: 2.0, top_k: 1, ..config(8, 3) };
    let greedy = answers.generate("greedy", &config(8, 3), &sums(4));
    assert_eq!(answers.generate("one", &one, &sums(4)), greedy);
    let key = |config: &GenerateConfig| serde_json::to_value(config).unwrap();
    assert_eq!(key(&one)["top_k"], 1);
    assert!(key(&config(8, 3)).get("top_k").is_none());
}

#[test]
fn rows_carry_prompt_reference_counts_and_factors() {
    let answers = Answers::new();
    answers.generate("out", &config(4, 4), &sums(3));
    let frame =
        parquet::read(&answers.bench.out("out").join("generations.parquet"), Some(&GENERATIONS))
            .unwrap();
    let text = |name: &str| frame.column(name).unwrap().str().unwrap().get(1).unwrap().to_owned();
    let number = |name: &str| frame.column(name).unwrap().i64().unwrap().get(1).unwrap();
    assert_eq!(
        text("prompt"),
        "<|im_start|>user\n¿Cuánto es 7 + 3?<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        (text("reference"), text("lang"), text("run_id"), text("mixture_id")),
        ("so 10".into(), "es".into(), "run-1".into(), "mix-1".into())
    );
    assert_eq!(number("n"), 100);
    assert!(number("prompt_tokens") > 5 && number("generated_tokens") <= 4);
}

#[test]
fn an_answer_ends_at_a_stop_token_a_stop_text_or_the_limit() {
    let answers = Answers::new();
    let prompts = sums(6);
    let free = answers.generate("free", &config(40, 4), &prompts);
    assert!(
        free.iter().any(|(.., reason)| reason == "stop"),
        "the trained model ends its turns: {free:?}"
    );
    let short = answers.generate("short", &config(1, 4), &prompts);
    assert!(short.iter().all(|(_, text, reason)| reason == "length" || text.is_empty()));
    let (id, whole, _) = free.iter().find(|(_, text, _)| text.chars().count() > 1).unwrap();
    let stop: String = whole.chars().skip(1).take(1).collect();
    let stopped = answers.generate(
        "stopped",
        &GenerateConfig { stop: vec![stop.clone()], ..config(40, 4) },
        &prompts,
    );
    let (_, text, reason) = stopped.iter().find(|(other, ..)| other == id).unwrap();
    assert_eq!((text.as_str(), reason.as_str()), (&whole[..whole.find(&stop).unwrap()], "stop"));
}

#[test]
fn a_prompt_beyond_the_context_is_said_and_one_at_its_edge_is_answered_within() {
    let answers = Answers::new();
    let words = |count: usize| example(&format!("words-{count}"), "en", &"hens ".repeat(count), "");
    let rows = answers.generate("out", &config(500, 2), &[words(200), words(1), words(300)]);
    assert_eq!((rows[0].1.as_str(), rows[0].2.as_str()), ("", "prompt-too-long"));
    assert_eq!((rows[2].1.as_str(), rows[2].2.as_str()), ("", "prompt-too-long"));
    assert_ne!(rows[1].2, "prompt-too-long");
}

#[test]
fn prompts_of_the_named_tasks_alone_are_answered() {
    let answers = Answers::new();
    let mut prompts = sums(4);
    prompts[1].task = "logic".into();
    prompts[2].task = "poetry".into();
    let of = |tasks: &[&str]| GenerateConfig {
        tasks: tasks.iter().map(|&task| task.to_owned()).collect(),
        ..config(2, 4)
    };
    let asked = |name: &str, tasks: &[&str]| -> Vec<String> {
        answers.generate(name, &of(tasks), &prompts).into_iter().map(|(id, ..)| id).collect()
    };
    assert_eq!(asked("two", &["poetry", "math"]), ["sum-000", "sum-002", "sum-003"]);
    assert_eq!(asked("all", &[]).len(), 4);

    let path = answers.bench.folder.path().join("all.parquet");
    let run = RunLabels { run_id: "r", mixture_id: None, factors: &Factors::default() };
    let out = answers.bench.out("none");
    let error =
        generate(&of(&["math", "maths"]), &answers.model, &path, run, &out, &Context::quiet())
            .unwrap_err();
    let text = error.to_string();
    assert!(is_user(&error) && text.contains("the task maths"), "{text}");
    assert!(text.contains("logic, math, poetry") && text.contains("all.parquet"), "{text}");
}

#[test]
fn the_users_faults_are_named() {
    let answers = Answers::new();
    let run = |config: &GenerateConfig, model: &Path, prompts: &Path| {
        let out = answers.bench.out("faults");
        let run = RunLabels { run_id: "r", mixture_id: None, factors: &Factors::default() };
        generate(config, model, prompts, run, &out, &Context::quiet()).unwrap_err()
    };
    let prompts = answers.bench.folder.path().join("none.parquet");
    let error = run(&config(4, 1), &answers.model, &prompts);
    assert!(is_user(&error) && format!("{error:#}").contains("none.parquet"), "{error:#}");
    write_examples(&prompts, &[]);
    let error = run(&config(4, 1), &answers.model, &prompts);
    assert!(is_user(&error) && error.to_string().contains("no rows"), "{error}");
    let error = run(&GenerateConfig { top_p: 0.0, ..config(4, 1) }, &answers.model, &prompts);
    assert!(is_user(&error) && error.to_string().contains("top_p"), "{error}");
    write_examples(&prompts, &sums(2));
    let weights = answers.model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0xff);
    std::fs::write(&weights, bytes).unwrap();
    let error = run(&config(4, 1), &answers.model, &prompts);
    assert!(is_user(&error) && error.to_string().contains("not numbers"), "{error}");
    std::fs::remove_file(answers.model.join("tokenizer.json")).unwrap();
    let error = run(&config(4, 1), &answers.model, &prompts);
    assert!(is_user(&error) && error.to_string().contains("tokenizer.json"), "{error}");
}
