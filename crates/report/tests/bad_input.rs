//! Input that cannot be reported on, and input of which a part cannot: what is said, and what is
//! computed all the same.

mod common;

use common::{number, quick, report_text, study, try_report, user_error};
use report::ReportConfig;

const HEAD: &str = "lang,n,value,train_langs\n";

#[test]
fn a_missing_column_is_named_with_the_likely_one_and_the_way_to_map_it() {
    let message = user_error("eval_lang,n,score\nen,0,0.5\n");
    assert!(
        message.contains("scores.csv")
            && message.contains("no column `lang`")
            && message.contains("--map lang=eval_lang"),
        "{message}"
    );
    let message = user_error("lang,n,score\nen,0,0.5\n");
    assert!(message.contains("--map value=score"), "{message}");
    let message = user_error("lang,n_per_lang,value\nen,0,0.5\n");
    assert!(
        message.contains("--map n=n_per_lang")
            && message.contains("Columns there: lang, n_per_lang, value"),
        "{message}"
    );
}

#[test]
fn a_map_that_names_no_column_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.csv");
    std::fs::write(&path, "lang,n,score\nen,0,0.5\n").unwrap();
    let run = |ours: &str, theirs: &str| {
        let config =
            ReportConfig { map: [(ours.to_string(), theirs.to_string())].into(), ..quick() };
        format!("{:#}", try_report(&config, std::slice::from_ref(&path)).err().unwrap())
    };
    assert!(run("value", "scor").contains("the nearest is `score`"), "{}", run("value", "scor"));
    assert!(run("langs", "lang").contains("`lang`"), "{}", run("langs", "lang"));
}

#[test]
fn a_mistyped_value_is_named_with_file_row_and_column() {
    let message = user_error("lang,n,value\nen,0,0.5\nes,0,half\n");
    assert!(
        message.contains("scores.csv: row 2: column `value` holds \"half\", a number is needed"),
        "{message}"
    );
    let message = user_error("lang,n,value\nen,1.5,0.5\n");
    assert!(message.contains("row 1: column `n` holds 1.5, a whole number is needed"), "{message}");
}

#[test]
fn empty_files_and_no_files_are_errors() {
    assert!(user_error("").contains("no column `lang`"));
    assert!(user_error(HEAD).contains("nothing to report on"));
    let error = try_report(&quick(), &[]).err().unwrap();
    assert!(artifact::error::is_user(&error) && error.to_string().contains("no score files"));
    let missing = try_report(&quick(), &["nowhere/scores.parquet".into()]).err().unwrap();
    assert!(
        artifact::error::is_user(&missing)
            && format!("{missing:#}").contains("nowhere/scores.parquet")
    );
}

#[test]
fn a_row_of_the_wrong_length_is_an_error() {
    assert!(user_error("lang,n,value\nen,0\n").contains("line: 2"));
}

/// The notes of a report, as one text.
fn notes(made: &common::Made) -> String {
    made.summary.notes.join("\n")
}

#[test]
fn two_runs_under_one_id_are_left_out_and_the_rest_computed() {
    let twice = "run_id,item_id,lang,n,metric,value,train_langs\n\
        r1,q7,es,0,em,1,\"en,es\"\nr1,q7,es,0,em,0,\"en,es\"\nr1,q7,en,0,em,1,\"en,es\"\nr1,q8,es,0,em,0,\"en,es\"\n";
    let made = report_text(twice);
    let said = notes(&made);
    for part in
        ["1 scores stand there with two values", "\"r1\"", "\"q7\"", "\"es\"", "\"em\"", "run_id"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let point = &made.table("perf_to_en")[0];
    assert_eq!(number(point, "mean_seen"), 0.0, "q8 alone: {point:?}");
    // The same row twice is no contradiction.
    let made = report_text("lang,n,value\nes,0,0.5\nes,0,0.5\n");
    assert!(notes(&made).contains("1 rows repeat another row"), "{}", notes(&made));
    assert_eq!(number(&made.table("perf_to_en")[0], "mean_non_en"), 0.5);
    // Nothing but contradictions is nothing to report on.
    let message = user_error("lang,n,value\nes,0,0.5\nes,0,0.6\n");
    assert!(
        message.contains("nothing to report on") && message.contains("two values"),
        "{message}"
    );
}

#[test]
fn a_metric_in_two_signatures_is_kept_apart() {
    let made = report_text(
        "lang,n,metric,value,signature\nen,0,chrf,50,nw:0\nes,0,chrf,40,nw:0\nar,0,chrf,35,nw:0\nes,100,chrf,60,nw:2\n",
    );
    assert!(notes(&made).contains("chrf comes in several signatures"), "{}", notes(&made));
    let metrics: Vec<_> =
        made.table("language_by_n").iter().map(|row| row["metric"].clone()).collect();
    assert_eq!(metrics.iter().filter(|name| *name == "chrf").count(), 3, "{metrics:?}");
    assert!(metrics.contains(&"chrf [nw:2]".to_string()), "{metrics:?}");
    assert!(made.table("baseline_differences").is_empty(), "the two do not compare");
    // One signature for each language is one metric.
    let made =
        report_text("lang,n,metric,value,signature\nen,0,bleu,50,tok:13a\nzh,0,bleu,40,tok:zh\n");
    assert!(!notes(&made).contains("signatures"), "{}", notes(&made));
}

#[test]
fn unknown_languages_are_taken_by_name_and_noted() {
    let made = report_text(&format!(
        "{HEAD}en,0,0.9,\"en,es\"\nes,0,0.5,\"en,es\"\nqqx-tongue,0,0.2,\"en,es\"\n,0,0.4,\"en,es\"\n"
    ));
    let said = notes(&made);
    assert!(said.contains("no known language: qqx-tongue"), "{said}");
    assert!(said.contains("1 rows have no language"), "{said}");
    assert!((number(&made.table("perf_to_en")[0], "mean_unseen") - 0.2).abs() < 1e-9);
}

#[test]
fn scores_that_are_all_equal_have_no_differences() {
    let made = report_text(&study(&[0, 100, 200], 30, &[1, 2], |_, _, _, _| true));
    for row in made.table("baseline_differences") {
        assert_eq!((row["difference"].as_str(), row["verdict"].as_str()), ("0", "within noise"));
    }
    assert!(made.table("perf_to_en").iter().all(|row| number(row, "perf_to_en") == 1.0));
}

#[test]
fn missing_cells_are_named_and_the_rest_computed() {
    let full = study(&[0, 50, 100], 20, &[1, 2], |_, lang, item, _| lang == "en" || item % 3 == 0);
    let cut: String = full
        .lines()
        .filter(|line| !(line.starts_with("n50-") && line.contains(",th,")))
        .filter(|line| !(line.starts_with("n100-s2") && line.contains(",es,")))
        .map(|line| format!("{line}\n"))
        .collect();
    let made = report_text(&cut);
    assert!(
        notes(&made).contains("at 1 points the languages were not all scored in the same runs")
    );
    let mut answers = made.summary.answers.iter().flat_map(|question| &question.answers);
    let next = answers.find(|one| one.topic == "Missing cells").unwrap();
    assert!(next.text.contains("n = 50 lacks th"), "{}", next.text);
    let means = made.table("perf_to_en");
    assert!(means[1]["note"].contains("other languages than the baseline"), "{means:?}");
    assert_eq!(number(&means[2], "seeds"), 1.0);
    assert!(made.table("baseline_differences").iter().any(|row| row["of"] == "es"));
}

#[test]
fn settings_that_cannot_be_meant_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.csv");
    std::fs::write(&path, study(&[0], 5, &[1], |_, _, _, _| true)).unwrap();
    let failed = |config: ReportConfig| {
        let error = try_report(&config, std::slice::from_ref(&path)).err().unwrap();
        assert!(artifact::error::is_user(&error), "{error:#}");
        format!("{error:#}")
    };
    assert!(failed(ReportConfig { budget: Some(0), ..quick() }).contains("budget = 0"));
    assert!(failed(ReportConfig { gap_margin: 2.0, ..quick() }).contains("gap_margin = 2"));
    let targets = vec!["spanisch".to_string()];
    assert!(failed(ReportConfig { targets, ..quick() }).contains("spanisch"));
}

#[test]
fn an_unknown_metric_or_too_few_draws_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.csv");
    std::fs::write(&path, study(&[0], 5, &[1], |_, _, _, _| true)).unwrap();
    let failed = |config: ReportConfig| {
        format!("{:#}", try_report(&config, std::slice::from_ref(&path)).err().unwrap())
    };
    let message = failed(ReportConfig { metrics: vec!["exact_mtch".into()], ..quick() });
    assert!(message.contains("did you mean \"exact_match\""), "{message}");
    assert!(failed(ReportConfig { draws: 10, ..quick() }).contains("draws = 10"));
}

#[test]
fn without_english_perf_to_en_is_withheld_and_the_rest_computed() {
    let made = report_text(&format!("{HEAD}es,0,0.5,\"en,es\"\nar,0,0.2,\"en,es\"\n"));
    let point = &made.table("perf_to_en")[0];
    assert!(
        point["perf_to_en"].is_empty() && point["note"].contains("no English scores"),
        "{point:?}"
    );
    assert!((number(point, "gap") - 0.3).abs() < 1e-9);
    assert!(
        made.summary.notes.iter().any(|note| note.contains("Perf-to-EN is withheld at 1 of 1")),
        "{:?}",
        made.summary.notes
    );
}

#[test]
fn an_english_score_of_zero_withholds_perf_to_en() {
    let made = report_text(&study(&[0, 100], 20, &[1, 2], |_, lang, item, _| {
        lang != "en" && item % 2 == 0
    }));
    assert!(
        made.table("perf_to_en")
            .iter()
            .all(|row| row["perf_to_en"].is_empty() && row["note"].contains("English scores 0"))
    );
    assert!(made.read("index.html").contains("English is not scored or scores 0"));
}

#[test]
fn one_n_alone_and_a_baseline_that_is_not_there_are_noted() {
    let alone = report_text(&study(&[0], 20, &[1, 2], |_, _, item, _| item % 2 == 0));
    assert!(
        alone.summary.notes.iter().any(|note| note.contains("nothing to compare along n")),
        "{:?}",
        alone.summary.notes
    );
    let without = report_text(&study(&[50, 100], 20, &[1, 2], |_, _, item, _| item % 2 == 0));
    assert!(
        without.summary.notes.iter().any(|note| note.contains("no scores at the baseline n = 0")),
        "{:?}",
        without.summary.notes
    );
    assert!(without.table("baseline_differences").is_empty());
}

#[test]
fn one_item_has_no_interval() {
    let made = report_text(&study(&[0, 100], 1, &[1], |n, lang, _, _| lang == "en" || n > 0));
    assert!(made.table("baseline_differences").iter().all(|row| row["verdict"] == "no interval"));
    assert!(
        made.summary.notes.iter().any(|note| note.contains("one item and one seed")),
        "{:?}",
        made.summary.notes
    );
}

#[test]
fn scores_that_are_missing_or_no_numbers_are_left_out_and_counted() {
    let made = report_text(&format!(
        "{HEAD}en,0,0.9,\"en,es\"\nes,0,,\"en,es\"\nar,0,NaN,\"en,es\"\nth,,0.4,\"en,es\"\npt,0,0.3,\"en,es\"\n"
    ));
    assert!(
        made.summary.notes.iter().any(|note| note.contains("2 rows have no score")),
        "{:?}",
        made.summary.notes
    );
    assert!(
        made.summary.notes.iter().any(|note| note.contains("1 rows have no n")),
        "{:?}",
        made.summary.notes
    );
    assert!((number(&made.table("perf_to_en")[0], "perf_to_en") - 0.3 / 0.9).abs() < 1e-6);
}

#[test]
fn the_input_s_own_seen_and_unseen_is_checked() {
    let made = report_text(
        "lang,n,value,train_langs,split\nen,0,0.9,\"en,es\",english\nes,0,0.5,\"en,es\",unseen\nar,0,0.2,\"en,es\",unseen\n",
    );
    assert!(
        made.summary.notes.iter().any(|note| note.contains("calls es unseen")),
        "{:?}",
        made.summary.notes
    );
    assert!(
        (number(&made.table("perf_to_en")[0], "mean_seen") - 0.5).abs() < 1e-9,
        "train_langs decides"
    );
    // Where nothing else tells, it is believed; and the examples' train and test are no such thing.
    let made =
        report_text("lang,n,value,split\nen,0,0.9,english\nes,0,0.5,seen\nar,0,0.2,unseen\n");
    assert!((number(&made.table("perf_to_en")[0], "gap") - 0.3).abs() < 1e-9);
    let made = report_text("lang,n,value,split\nen,0,0.9,test\nes,0,0.5,test\nar,0,0.2,test\n");
    let point = &made.table("perf_to_en")[0];
    assert!(
        point["gap"].is_empty() && (number(point, "mean_non_en") - 0.35).abs() < 1e-9,
        "{point:?}"
    );
}

#[test]
fn other_languages_at_the_baseline_withhold_differences_of_means() {
    let made = report_text(&format!(
        "{HEAD}en,0,0.9,\"en,es\"\nes,0,0.5,\"en,es\"\nar,0,0.2,\"en,es\"\nen,100,0.9,\"en,es\"\nes,100,0.6,\"en,es\"\n"
    ));
    let rows = made.table("baseline_differences");
    let of: Vec<&str> = rows.iter().map(|row| row["of"].as_str()).collect();
    assert_eq!(of, ["en", "es"]);
    assert!(made.table("perf_to_en")[1]["note"].contains("other languages than the baseline"));
}
