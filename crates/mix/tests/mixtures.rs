//! The stage from files to files: what it writes, what it refuses, and what it keeps out.

use std::path::{Path, PathBuf};

use artifact::{
    Context, Example, Message,
    config::from_toml,
    error::is_user,
    example::examples_to_frame,
    parquet,
    polars::prelude::*,
    schema::{EXAMPLES, LEAKS, MIXTURE, MIXTURES},
};
use mix::{Design, Summary};
use tempfile::TempDir;

/// Item 7 of math in Spanish is `math7.es`; its prompt is four words that no other row has.
fn example(task: &str, lang: &str, split: &str, item: usize) -> Example {
    let message = |role: &str, content: String| Message { role: role.into(), content };
    Example {
        example_id: format!("{task}{item}.{lang}"),
        item_id: format!("{task}{item}"),
        source: format!("made-{}", item % 2),
        task: task.into(),
        split: split.into(),
        lang: lang.into(),
        lang_rule: "agreed".into(),
        messages: vec![
            message("user", format!("{task} {lang} number {item}")),
            message("assistant", format!("answer {item}")),
        ],
        reference: Some(format!("answer {item}")),
        ..Example::default()
    }
}

fn train(task: &str, lang: &str, items: std::ops::Range<usize>) -> Vec<Example> {
    items.map(|item| example(task, lang, "train", item)).collect()
}

/// Train rows 0..60 and test rows 1000..1010 in three languages, and validation rows in English.
fn rows() -> Vec<Example> {
    let languages = ["en", "es", "zh-Hans"];
    let mut rows: Vec<Example> =
        languages.iter().flat_map(|lang| train("math", lang, 0..60)).collect();
    rows.extend(
        languages
            .iter()
            .flat_map(|lang| (1000..1010).map(|item| example("math", lang, "test", item))),
    );
    rows.extend((500..520).map(|item| example("math", "en", "validation", item)));
    rows
}

const DESIGN: &str = "tasks = [\"math\"]\nlanguages = [\"en\", \"es\", \"zh\"]\nenglish = 40\nn = [0, 10, 20]\nseeds = [1, 2]\n\
                      validation = { per_language = 5 }\n";

struct Run {
    folder: TempDir,
    summary: anyhow::Result<Summary>,
}

impl Run {
    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    fn mixture(&self, id: &str) -> DataFrame {
        parquet::read(&self.out(&format!("mixtures/{id}/mixture.parquet")), Some(&MIXTURE)).unwrap()
    }

    fn fault(self) -> String {
        let error = self.summary.unwrap_err();
        assert!(is_user(&error), "{error:?}");
        assert_eq!(
            std::fs::read_dir(self.folder.path().join("out")).unwrap().count(),
            0,
            "nothing is half written"
        );
        format!("{error:#}")
    }
}

fn run_frames(design: &str, frames: Vec<DataFrame>, tokenizer: Option<&str>) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut paths = Vec::new();
    for (index, mut frame) in frames.into_iter().enumerate() {
        paths.push(folder.path().join(format!("examples-{index}.parquet")));
        parquet::write(&paths[index], &EXAMPLES, &mut frame).unwrap();
    }
    let tokenizer = tokenizer.map(|text| {
        std::fs::write(folder.path().join("tokenizer.json"), text).unwrap();
        folder.path().join("tokenizer.json")
    });
    let summary = from_toml::<Design>(design, Path::new("design.toml")).and_then(|design| {
        mix::run(&design, &paths, tokenizer.as_deref(), &out, &Context::quiet())
    });
    Run { folder, summary }
}

fn run(design: &str, rows: &[Example]) -> Run {
    run_frames(design, vec![examples_to_frame(rows).unwrap()], None)
}

fn strings(df: &DataFrame, column: &str) -> Vec<String> {
    df.column(column)
        .unwrap()
        .str()
        .unwrap()
        .iter()
        .map(|value| value.unwrap_or_default().to_owned())
        .collect()
}

fn integers(df: &DataFrame, column: &str) -> Vec<i64> {
    df.column(column).unwrap().i64().unwrap().iter().map(|value| value.unwrap_or(-1)).collect()
}

/// One token per word.
const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
    "model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"}}"#;

#[test]
fn a_mixture_holds_what_its_factors_say_and_all_columns() {
    let rows = rows();
    let mut frame = examples_to_frame(&rows).unwrap();
    let difficulty: Vec<i64> = (0..rows.len() as i64).collect();
    frame.with_column(Series::new("difficulty".into(), difficulty).into()).unwrap();
    let run = run_frames(DESIGN, vec![frame], Some(WORDS));
    let summary = run.summary.as_ref().unwrap();
    assert_eq!(summary.mixtures.len(), 6);

    let mixture = run.mixture("math.en-es-zh-Hans.additive.n20.d2");
    assert_eq!(integers(&mixture, "position"), (0..80).collect::<Vec<_>>());
    assert!(integers(&mixture, "repeat").iter().all(|&repeat| repeat == 0));
    let langs = strings(&mixture, "lang");
    let count = |lang: &str| langs.iter().filter(|found| *found == lang).count();
    assert_eq!([count("en"), count("es"), count("zh-Hans")], [40, 20, 20]);
    assert!(
        langs[..40].iter().any(|lang| lang != "en"),
        "languages are mixed, not laid end to end"
    );
    for (id, difficulty) in
        strings(&mixture, "example_id").iter().zip(integers(&mixture, "difficulty"))
    {
        assert_eq!(
            rows[difficulty as usize].example_id, *id,
            "the extra column stays with its row"
        );
    }

    let index = parquet::read(&run.out("mixtures.parquet"), Some(&MIXTURES)).unwrap();
    assert_eq!(integers(&index, "rows"), [40, 40, 60, 60, 80, 80]);
    // A prompt is four words and an answer two; zh-Hans splits at its hyphen into three.
    assert_eq!(integers(&index, "tokens"), [240, 240, 380, 380, 520, 520]);
    assert_eq!(integers(&index, "n"), [0, 0, 10, 10, 20, 20]);
    assert!(strings(&index, "train_langs").iter().all(|langs| langs == "en,es,zh-Hans"));
    let realised = &summary.mixtures[5].cells;
    assert_eq!(
        (realised[2].lang.as_str(), realised[2].rows, realised[2].tokens),
        ("zh-Hans", 20, Some(160))
    );
    let text = summary.to_string();
    assert!(
        text.contains("math.en-es-zh-Hans.additive.n20.d2") && text.contains("80 (520 tok)"),
        "{text}"
    );
}

#[test]
fn the_index_lists_rows_by_task_and_language() {
    let run = run(DESIGN, &rows());
    let index = parquet::read(&run.out("mixtures.parquet"), Some(&MIXTURES)).unwrap();
    assert_eq!(index.column("tokens").unwrap().null_count(), 6, "no tokenizer, no tokens");
    let realised = index
        .column("realised")
        .unwrap()
        .as_materialized_series()
        .list()
        .unwrap()
        .get_as_series(2)
        .unwrap();
    let fields = realised.struct_().unwrap().clone().unnest();
    assert_eq!(strings(&fields, "lang"), ["en", "es", "zh-Hans"]);
    assert_eq!(integers(&fields, "rows"), [40, 10, 10]);
}

#[test]
fn a_plan_says_what_a_run_does_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("examples.parquet");
    parquet::write(&path, &EXAMPLES, &mut examples_to_frame(&rows()).unwrap()).unwrap();
    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, WORDS).unwrap();
    let design: Design = from_toml(DESIGN, Path::new("d")).unwrap();
    let planned = mix::plan(&design, &[path], Some(folder.path()), &Context::quiet()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let run = run_frames(DESIGN, vec![examples_to_frame(&rows()).unwrap()], Some(WORDS));
    assert_eq!(planned, run.summary.unwrap().mixtures);
}

#[test]
fn test_items_are_kept_out_in_every_language() {
    let long = "a farmer has seven fields and in each of them stand eleven trees that carry fruit";
    let mut rows = rows();
    rows[0].item_id = "math1000".into(); // English, a test item
    rows[61].messages[0].content = format!("Listen: {long}. How many trees?"); // Spanish
    rows[121].item_id = rows[61].item_id.clone(); // its Chinese translation
    rows.push(Example {
        messages: vec![Message { role: "user".into(), content: long.into() }],
        ..example("math", "sw", "test", 2000)
    });
    let run = run(&DESIGN.replace("english = 40", "english = 57\non_shortage = \"cap\""), &rows);
    let summary = run.summary.as_ref().unwrap();
    assert_eq!(summary.test_rows, 31);

    let leaks = parquet::read(&run.out("leaks.parquet"), Some(&LEAKS)).unwrap();
    let found: Vec<_> =
        strings(&leaks, "example_id").into_iter().zip(strings(&leaks, "reason")).collect();
    let reason =
        |id: &str| found.iter().find(|(found, _)| found == id).map(|(_, reason)| reason.as_str());
    assert_eq!(reason("math0.en"), Some("item-id"));
    assert_eq!(reason("math1.es"), Some("n-gram"));
    assert_eq!(reason("math1.zh-Hans"), Some("n-gram of a translation"));
    assert_eq!(reason("math1.en"), Some("n-gram of a translation"));
    assert_eq!(found.len(), 4);
    assert!(
        strings(&leaks, "test_example_id").contains(&"math2000.sw".to_owned()),
        "in a language that is not trained on"
    );
    for mixture in &summary.mixtures {
        let ids = strings(&run.mixture(&mixture.mixture_id), "example_id");
        assert!(found.iter().all(|(leaked, _)| !ids.contains(leaked)));
    }
    let text = summary.to_string();
    assert!(text.contains("4 rows left out, compared with 31 test rows"), "{text}");
}

#[test]
fn the_guard_can_be_turned_off() {
    let mut rows = rows();
    rows[0].item_id = "math1000".into();
    let off = format!("{DESIGN}leakage = {{ item_id = false, ngram = 0 }}");
    let summary = run(&off, &rows).summary.unwrap();
    assert!(summary.leaks.is_empty());
}

#[test]
fn validation_rows_are_in_no_mixture() {
    let run = run(DESIGN, &rows());
    let summary = run.summary.as_ref().unwrap();
    let held_out: Vec<_> = summary
        .validation
        .iter()
        .map(|cell| (cell.lang.as_str(), cell.rows, cell.held_out))
        .collect();
    assert_eq!(held_out, [("en", 5, false), ("es", 5, true), ("zh-Hans", 5, true)]);
    let validation = parquet::read(&run.out("validation.parquet"), Some(&EXAMPLES)).unwrap();
    assert_eq!(validation.height(), 15);
    // Rows held out of the training split are validation rows from here on.
    assert!(strings(&validation, "split").iter().all(|split| split == "validation"));
    let items = strings(&validation, "item_id");
    for mixture in &summary.mixtures {
        let trained = strings(&run.mixture(&mixture.mixture_id), "item_id");
        assert!(items.iter().all(|item| !trained.contains(item)));
    }
}

#[test]
fn single_tasks_and_all_tasks_at_once_can_be_one_design() {
    let mut rows = rows();
    rows.extend(["en", "es"].into_iter().flat_map(|lang| train("logic", lang, 0..30)));
    let design = format!(
        "{DESIGN}[[also]]\nsetting = \"multi-task\"\ntasks = [\"math\", \"logic\"]\n\
         languages = [\"en\", \"es\"]\nenglish = 20\nn = 10\nseeds = 1\n"
    );
    let run = run(&design, &rows);
    let summary = run.summary.as_ref().unwrap();
    assert_eq!(summary.mixtures.len(), 7);
    let index = parquet::read(&run.out("mixtures.parquet"), Some(&MIXTURES)).unwrap();
    assert_eq!(strings(&index, "setting")[5..], ["single-task", "multi-task"]);
    assert_eq!(integers(&index, "rows")[6], 60);

    let both = run.mixture("math+logic.en-es.additive.n10.d1");
    let single = strings(&run.mixture("math.en-es-zh-Hans.additive.n10.d1"), "example_id");
    let math: Vec<String> = strings(&both, "example_id")
        .into_iter()
        .filter(|id| id.starts_with("math") && id.ends_with(".es"))
        .collect();
    assert!(
        math.len() == 10 && math.iter().all(|id| single.contains(id)),
        "one draw for both grids"
    );

    let validated: Vec<_> = summary
        .validation
        .iter()
        .map(|cell| (cell.task.as_str(), cell.lang.as_str(), cell.rows))
        .collect();
    let want = [
        ("math", "en", 5),
        ("math", "es", 5),
        ("math", "zh-Hans", 5),
        ("logic", "en", 5),
        ("logic", "es", 5),
    ];
    assert_eq!(validated, want, "there is no logic in zh-Hans, nor is there a mixture of it");

    let short = design.replace("english = 20\nn = 10", "english = 26").replace("= 40", "= 61");
    let text = self::run(&short, &rows).fault();
    assert!(text.contains("math") && text.contains("61"), "{text}");
    assert!(text.contains("logic") && text.contains("26"), "both grids at once: {text}");
}

#[test]
fn shortage_is_said_in_full_before_anything_is_written() {
    let design = DESIGN.replace("english = 40", "english = 4000").replace("20]", "20, 500]");
    let text = run(&design, &rows()).fault();
    for words in
        ["have", "want", "4,000", "500", "es", "zh-Hans", "on_shortage = \"repeat\"", "\"cap\""]
    {
        assert!(text.contains(words), "{text}");
    }
    let repeated = run(&format!("{design}on_shortage = \"repeat\"\n"), &rows());
    let summary = repeated.summary.as_ref().unwrap();
    assert_eq!(summary.short.len(), 3);
    assert_eq!(summary.mixtures[7].rows, 5000);
    let repeats = integers(&repeated.mixture("math.en-es-zh-Hans.additive.n500.d1"), "repeat");
    assert!(repeats.contains(&9) && repeats.contains(&0));
}

#[test]
fn an_absent_language_is_named_with_what_there_is() {
    for shortage in ["error", "repeat", "cap"] {
        let design = DESIGN.replace("\"zh\"", "\"sw\"");
        let text = run(&format!("{design}on_shortage = \"{shortage}\""), &rows()).fault();
        assert!(text.contains("sw") && text.contains("en 60, es 60, zh-Hans 60"), "{text}");
    }
}

#[test]
fn neither_row_order_nor_the_cut_into_files_nor_threads_change_the_output() {
    let forward = rows();
    let mut backward: Vec<Example> = rows().into_iter().rev().collect();
    let rest = backward.split_off(77);
    let bytes = |threads: usize, parts: &[&[Example]]| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let frames = parts.iter().map(|part| examples_to_frame(part).unwrap()).collect();
        let run = pool.install(|| run_frames(DESIGN, frames, Some(WORDS)));
        assert!(run.summary.is_ok());
        let names = [
            "mixtures.parquet",
            "validation.parquet",
            "mixtures/math.en-es-zh-Hans.additive.n20.d1/mixture.parquet",
        ];
        names.map(|name| std::fs::read(run.out(name)).unwrap())
    };
    let expected = bytes(1, &[&forward]);
    assert!(expected == bytes(2, &[&forward]), "threads");
    assert!(expected == bytes(2, &[&backward, &rest]), "order and files");
}

#[test]
fn files_may_differ_in_their_extra_columns() {
    let (first, second) = (train("math", "en", 0..5), train("math", "en", 5..10));
    let mut graded = examples_to_frame(&first).unwrap();
    graded.with_column(Series::new("grade".into(), vec!["A"; 5]).into()).unwrap();
    let design = "tasks = [\"math\"]\nlanguages = [\"en\"]\nenglish = 10\nn = 0\nvalidation = { per_language = 0 }";
    let run = run_frames(design, vec![graded.clone(), examples_to_frame(&second).unwrap()], None);
    assert!(run.summary.is_ok());
    let mixture = run.mixture("math.en.additive.n0.d1");
    assert_eq!(mixture.column("grade").unwrap().null_count(), 5);

    let mut numbers = examples_to_frame(&second).unwrap();
    numbers.with_column(Series::new("grade".into(), vec![1i64; 5]).into()).unwrap();
    let text = run_frames(design, vec![graded, numbers], None).fault();
    assert!(text.contains("`grade`") && text.contains("examples-1.parquet"), "{text}");
}

#[test]
fn sources_can_be_chosen() {
    let run = run(
        &DESIGN.replace(
            "english = 40\nn = [0, 10, 20]",
            "english = 20\nn = 5\nsources = [\"made-0\"]",
        ),
        &rows(),
    );
    assert!(run.summary.is_ok());
    let mixture = run.mixture("math.en-es-zh-Hans.additive.n5.d1");
    assert!(strings(&mixture, "source").iter().all(|source| source == "made-0"));
}

#[test]
fn bad_examples_are_refused_with_the_place() {
    let frame = || examples_to_frame(&rows()).unwrap();
    let missing = run_frames(DESIGN, vec![frame().drop("item_id").unwrap()], None).fault();
    assert!(missing.contains("`item_id`") && missing.contains("examples-0.parquet"), "{missing}");
    let empty = run(DESIGN, &[]).fault();
    assert!(empty.contains("no row has split = \"train\""), "{empty}");
    let twice = run_frames(DESIGN, vec![frame(), frame()], None).fault();
    assert!(twice.contains("math0.en") && twice.contains("more than one row"), "{twice}");
    let mut odd = rows();
    odd[3].split = "dev".into();
    let odd = run(DESIGN, &odd).fault();
    assert!(odd.contains("row 4") && odd.contains("`dev`"), "{odd}");
    let absent = run_frames(DESIGN, Vec::new(), None).fault();
    assert!(absent.contains("no examples are given"), "{absent}");
}

#[test]
fn a_broken_tokenizer_is_named() {
    let text = run_frames(DESIGN, vec![examples_to_frame(&rows()).unwrap()], Some("{}")).fault();
    assert!(text.contains("tokenizer.json"), "{text}");
}
