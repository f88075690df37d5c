//! A design becomes its points: what is crossed, named, united and refused.

use std::path::Path;

use artifact::{config::from_toml, error::is_user};

use super::*;

fn grid(text: &str) -> Result<Grid> {
    Grid::new(&from_toml::<Design>(text, Path::new("design.toml"))?)
}

fn fault(text: &str) -> String {
    let error = grid(text).unwrap_err();
    assert!(is_user(&error), "{error:?}");
    format!("{error:#}")
}

fn rows(point: &Point) -> Vec<(&str, &str, u64)> {
    point.cells.iter().map(|cell| (cell.task.as_str(), cell.lang.as_str(), cell.rows)).collect()
}

const SMALL: &str =
    "tasks = [\"math\"]\nlanguages = [\"en\", \"es\", \"zh\"]\nenglish = 2000\nseeds = [1, 2]\n";

#[test]
fn factors_are_crossed_and_named() {
    let grid = grid(&format!("{SMALL}n = [0, 100]")).unwrap();
    let ids: Vec<_> = grid.points.iter().map(|point| point.mixture_id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "math.en-es-zh-Hans.additive.n0.d1",
            "math.en-es-zh-Hans.additive.n0.d2",
            "math.en-es-zh-Hans.additive.n100.d1",
            "math.en-es-zh-Hans.additive.n100.d2",
        ]
    );
    let last = &grid.points[3];
    assert_eq!(rows(last), [("math", "en", 2000), ("math", "es", 100), ("math", "zh-Hans", 100)]);
    let factors = &last.factors;
    assert_eq!(factors.train_langs.as_deref(), Some("en,es,zh-Hans"));
    assert_eq!((factors.n, factors.english, factors.data_seed), (Some(100), Some(2000), Some(2)));
    assert_eq!(
        grid.points[0].factors.train_langs, factors.train_langs,
        "n = 0 belongs to the same curve"
    );
}

#[test]
fn substitution_keeps_the_total() {
    let grid = grid(&format!("{SMALL}n = [0, 100, 1000]\nbudget = \"substitution\"")).unwrap();
    for point in &grid.points {
        assert_eq!(point.cells.iter().map(|cell| cell.rows).sum::<u64>(), 2000);
        assert_eq!(
            point.factors.english,
            Some(2000),
            "the factor is the design's, so that a curve has one value"
        );
    }
    let text = fault(&format!("{SMALL}n = [0, 1001]\nbudget = \"substitution\""));
    assert!(text.contains("n = 1001") && text.contains("largest n that fits is 1000"), "{text}");
}

#[test]
fn the_studys_grids_have_its_sizes() {
    let single = grid("preset = \"study-single-task\"").unwrap();
    assert_eq!(single.points.len(), 3 * 8);
    let multi = grid("preset = \"study-multi-task\"").unwrap();
    assert_eq!(multi.points.len(), 16);
    let english = multi.points[0].cells.iter().map(|cell| cell.rows).sum::<u64>();
    assert_eq!(english, 15_000, "15,000 English examples over three tasks");
    let script = grid("preset = \"study-script\"").unwrap();
    assert_eq!(script.points.len(), 3 * 2 * 8);
    assert_eq!(script.languages, ["en", "es", "fr", "ja", "zh-Hans"]);
}

#[test]
fn explicit_points_stand_as_written() {
    let text = "budget = \"explicit\"\n[counts.half]\nmath = { es = 50, en = 100 }\n\
                [counts.mixed]\nmath = { en = 10, es = 20 }\nsummarization = { en = 5 }";
    let grid = grid(text).unwrap();
    let [half, mixed] = &grid.points[..] else { panic!("two points") };
    assert_eq!(half.mixture_id, "math.en-es.explicit.half.d1");
    assert_eq!(rows(half), [("math", "en", 100), ("math", "es", 50)]);
    assert_eq!((half.factors.n, half.factors.english), (Some(50), Some(100)));
    assert_eq!(mixed.factors.setting.as_deref(), Some("multi-task"));
    assert_eq!(
        (mixed.factors.n, mixed.factors.english),
        (None, None),
        "no one number describes it"
    );
    assert_eq!(mixed.cells.len(), 4);
}

#[test]
fn a_set_without_other_languages_has_one_point() {
    let grid = grid("tasks = [\"math\"]\nlanguage_sets = [[\"en\"], [\"en\", \"es\"]]\nenglish = 10\nn = [0, 5]").unwrap();
    assert_eq!(grid.points.len(), 3);
}

#[test]
fn faults_of_a_design_say_what_would_be_right() {
    for (text, words) in [
        (String::new(), "names no task"),
        (SMALL.to_owned(), "`n`"),
        (format!("{SMALL}n = [1, 1]"), "`n` lists 1 twice"),
        (format!("{SMALL}n = 1\nlanguage_sets = [[\"en\"]]"), "keep one"),
        (format!("{SMALL}n = 1\nsetting = \"multi-task\""), "two tasks"),
        (format!("{SMALL}n = 1\n[counts.a]\nmath = {{ en = 1 }}"), "budget = \"explicit\""),
        (
            "tasks = [\"m\"]\nn = 1\nlanguages = [\"en\", \"English\"]\nenglish = 1".into(),
            "en twice",
        ),
        ("tasks = [\"m\"]\nn = 1\nlanguages = [\"en\", \"es\"]".into(), "english ="),
        ("tasks = [\"m\"]\nn = 1\nlanguages = [\"es\"]\nenglish = 1".into(), "add \"en\""),
        ("tasks = [\"m\"]\nn = 1\nlanguages = [\"Spannish\"]".into(), "Spannish"),
        ("budget = \"explicit\"".into(), "[counts.half]"),
        (
            "budget = \"explicit\"\nn = 1\n[counts.a]\nmath = { en = 1 }".into(),
            "`n` has no meaning",
        ),
        ("budget = \"explicit\"\n[counts.a]\nmath = { en = 0 }".into(), "no rows at all"),
    ] {
        let found = fault(&text);
        assert!(found.contains(words), "{found}");
    }
}

#[test]
fn long_and_odd_names_still_make_a_folder_name() {
    let tags = [
        "en", "es", "fr", "de", "ja", "ko", "ar", "pt", "ru", "sw", "th", "bn", "te", "zh", "it",
        "nl", "pl", "cs", "tr", "vi",
    ];
    let text = format!("tasks = [\"a/b: c\"]\nn = 1\nenglish = 1\nlanguages = {tags:?}");
    let id = grid(&text).unwrap().points[0].mixture_id.clone();
    assert!(id.starts_with("a_b__c.20langs-") && id.len() < 100, "{id}");
}

#[test]
fn further_grids_add_their_points_after_the_designs_own() {
    let text = format!(
        "{SMALL}n = [0, 100]\n[[also]]\nsetting = \"multi-task\"\ntasks = [\"math\", \"logic\"]\n\
         languages = [\"en\", \"fr\"]\nenglish = 500\nseeds = 3"
    );
    let grid = grid(&text).unwrap();
    let ids: Vec<_> = grid.points[4..].iter().map(|point| point.mixture_id.as_str()).collect();
    assert_eq!(ids, ["math+logic.en-fr.additive.n0.d3", "math+logic.en-fr.additive.n100.d3"]);
    assert_eq!(grid.points[5].factors.setting.as_deref(), Some("multi-task"));
    assert_eq!(
        rows(&grid.points[5]),
        [("math", "en", 500), ("math", "fr", 100), ("logic", "en", 500), ("logic", "fr", 100)]
    );
    assert_eq!(grid.points[5].tasks(), ["math", "logic"]);
    assert_eq!(grid.tasks, ["math", "logic"]);
    assert_eq!(grid.languages, ["en", "es", "zh-Hans", "fr"]);
    assert_eq!(grid.largest_cells()[&("math", "en")], 2000, "the most of any grid");
    assert!(grid.trains_on("logic", "fr") && !grid.trains_on("logic", "es"));
}

#[test]
fn a_mixture_of_two_grids_is_made_once_and_must_be_the_same_in_both() {
    let overlapping = grid(&format!("{SMALL}n = [0, 100]\n[[also]]\nn = [100, 200]")).unwrap();
    let ns: Vec<_> = overlapping.points.iter().filter_map(|point| point.factors.n).collect();
    assert_eq!(ns, [0, 0, 100, 100, 200, 200]);
    let text = fault(&format!("{SMALL}n = [0, 100]\n[[also]]\nenglish = 10"));
    assert!(
        text.contains("two different mixtures math.en-es-zh-Hans.additive.n0.d1")
            && text.contains("`english`"),
        "{text}"
    );
}

#[test]
fn a_fault_in_a_further_grid_says_in_which() {
    let text = fault(&format!("{SMALL}n = 1\n[[also]]\nn = 2\n[[also]]\nlanguages = [\"es\"]"));
    assert!(text.contains("[[also]] number 2") && text.contains("english = 0"), "{text}");
}

#[test]
fn a_point_asks_only_for_tasks_that_it_has_rows_of() {
    let text = "budget = \"explicit\"\n[counts.a]\nmath = { en = 0 }\nlogic = { en = 1 }";
    assert_eq!(grid(text).unwrap().points[0].tasks(), ["logic"]);
}
