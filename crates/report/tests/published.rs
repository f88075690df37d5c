//! The study's own tables (arXiv 2504.16677) through the report give back the study's own figures.

mod common;

use std::path::{Path, PathBuf};

use common::{Made, fixture, number, quick, report};
use report::ReportConfig;

fn aggregates() -> ReportConfig {
    let map = [("lang", "eval_lang"), ("value", "score"), ("n", "n_per_non_en_lang")];
    ReportConfig {
        map: map.map(|(ours, theirs)| (ours.to_string(), theirs.to_string())).into(),
        ..quick()
    }
}

/// A column along n, for Aya 7B.
fn curve(
    made: &Made,
    task: &str,
    setting: &str,
    train_langs: &str,
    column: &str,
) -> Vec<(i64, f64)> {
    let rows = made.table("perf_to_en");
    let wanted =
        [("task", task), ("model", "aya-7b"), ("setting", setting), ("train_langs", train_langs)];
    let of = rows.iter().filter(|row| wanted.iter().all(|(name, value)| row[*name] == *value));
    of.map(|row| (number(row, "n") as i64, number(row, column))).collect()
}

fn highest(curve: &[(i64, f64)]) -> f64 {
    curve.iter().map(|point| point.1).fold(f64::MIN, f64::max)
}

fn check_figures(made: &Made) {
    let all = "en,es,fr,ja,zh";
    for (task, points) in [("IF", 6.8), ("SM", 8.7)] {
        let curve = curve(made, task, "single", all, "perf_to_en");
        assert_eq!((curve.len(), curve[0].0), (8, 0), "{task}");
        let rise = 100.0 * (highest(&curve) - curve[0].1);
        assert!((rise - points).abs() < 0.05, "{task}: {rise}");
    }
    for (setting, langs, percent) in [
        ("single", all, 38.4),
        ("single", "en,es,fr", 37.4),
        ("single", "en,ja,zh", 36.6),
        ("multi", all, 30.0),
    ] {
        let best = 100.0 * highest(&curve(made, "MR", setting, langs, "mean_non_en"));
        assert!((best - percent).abs() < 0.05, "{setting} {langs}: {best}");
    }
}

#[test]
fn the_study_s_figures_come_back_from_its_table_cells() {
    let made = report(&aggregates(), &[fixture("published_aya_7b.csv")]);
    check_figures(&made);
    // "The MR gap at 7B grows from .03 to .17".
    let gap = curve(&made, "MR", "single", "en,es,fr,ja,zh", "gap");
    assert!((gap[0].1 - 0.03).abs() < 0.005 && (gap[7].1 - 0.17).abs() < 0.005, "{gap:?}");
    let header = made.read("tables/perf_to_en.csv");
    let wanted =
        "task,model,setting,train_langs,n,metric,perf_to_en,mean_seen,mean_unseen,mean_non_en,gap,";
    assert!(header.starts_with(wanted), "{}", header.lines().next().unwrap());
}

#[test]
fn the_whole_of_the_published_tables_where_they_are_at_hand() {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/published/tables.csv");
    if path.exists() {
        let made = report(&aggregates(), &[path]);
        check_figures(&made);
        // A task has five single-task series of 8 n and two multi-task ones of 16.
        assert_eq!(made.table("perf_to_en").len(), 3 * (5 * 8 + 2 * 16));
        assert!(
            made.summary.notes.iter().all(|note| !note.contains("decides")),
            "seen and unseen agree: {:?}",
            made.summary.notes
        );
    }
}

#[test]
fn aggregates_without_seeds_have_no_interval_and_say_so() {
    let made = report(&aggregates(), &[fixture("published_aya_7b.csv")]);
    for row in made.table("perf_to_en") {
        assert!(row["perf_to_en_low"].is_empty() && row["items"].is_empty(), "{row:?}");
        assert!(row["note"].contains("no interval"), "{row:?}");
    }
    assert!(
        made.table("baseline_differences")
            .iter()
            .all(|row| row["verdict"] == "no interval" && row["p"].is_empty())
    );
    assert!(made.summary.findings.iter().all(|finding| finding.text.contains("no interval")
        || finding.text.contains("no added examples")));
}
