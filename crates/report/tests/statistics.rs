//! The report's intervals and verdicts against independent ones: numpy's bootstrap, closed forms,
//! and planted truth.

mod common;

use common::{Record, fixture, noise, number, quick, report, report_text, study};
use report::ReportConfig;
use serde_json::Value;

fn row<'a>(rows: &'a [Record], wanted: &[(&str, &str)]) -> &'a Record {
    rows.iter()
        .find(|row| wanted.iter().all(|(name, value)| row[*name] == *value))
        .unwrap_or_else(|| panic!("no row {wanted:?}"))
}

#[test]
fn intervals_are_those_of_an_analysis_of_variance_in_numpy() {
    // Its intervals are symmetric; BCa leans with the skewness of 40 items, hence .03.
    let oracle: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("interval_oracle.json")).unwrap())
            .unwrap();
    let config = ReportConfig { draws: 10_000, ..quick() };
    let made = report(&config, &[fixture("interval_scores.csv")]);
    let (means, differences) = (made.table("perf_to_en"), made.table("baseline_differences"));
    for (name, expected) in oracle.as_object().unwrap() {
        let close = |row: &Record, column: &str, expected: &Value, tolerance: f64| {
            let (found, expected) = (number(row, column), expected.as_f64().unwrap());
            assert!(
                (found - expected).abs() < tolerance,
                "{name} {column}: {found} against {expected}"
            );
        };
        for (place, n) in ["0", "100"].into_iter().enumerate().filter(|_| name != "es") {
            let row = row(&means, &[("n", n)]);
            close(row, name, &expected["value"][place], 1e-6);
            if name != "perf_to_en" {
                close(row, &format!("{name}_low"), &expected["interval"][place][0], 0.03);
                close(row, &format!("{name}_high"), &expected["interval"][place][1], 0.03);
            }
        }
        let row = row(&differences, &[("n", "100"), ("of", name)]);
        close(row, "difference", &expected["difference"], 1e-6);
        if name != "perf_to_en" {
            close(row, "difference_low", &expected["difference_interval"][0], 0.03);
            close(row, "difference_high", &expected["difference_interval"][1], 0.03);
        }
    }
}

#[test]
fn one_seed_s_interval_is_that_of_a_proportion() {
    // 400 items, 120 right: p = .3, normal interval .3 ± 1.96 √(.3 · .7 / 400) = .2551 to .3449.
    let csv = study(&[0], 400, &[1], |_, lang, item, _| lang == "en" || item < 120);
    let made = common::try_text(&csv).unwrap();
    let point = &made.table("perf_to_en")[0];
    assert!((number(point, "mean_seen_low") - 0.2551).abs() < 0.008, "{point:?}");
    assert!((number(point, "mean_seen_high") - 0.3449).abs() < 0.008, "{point:?}");
    assert!(point["note"].contains("one seed"), "{point:?}");
}

#[test]
fn translations_of_one_item_are_one_cluster() {
    // ar and th are right on the same items: their mean varies as one language does, not as two
    // independent ones do.
    let together =
        report_text(&study(&[0], 200, &[1], |_, lang, item, _| lang == "en" || item % 2 == 0));
    let apart = report_text(&study(&[0], 200, &[1], |_, lang, item, _| {
        lang == "en" || item < 20 || (item % 2 == 0) != (lang == "th")
    }));
    let width = |made: &common::Made| {
        let point = &made.table("perf_to_en")[0];
        number(point, "mean_unseen_high") - number(point, "mean_unseen_low")
    };
    // 2 · 1.96 √(.25 / 200) = .139; where one is right as the other is wrong but for a tenth of the
    // items, 2 · 1.96 √(.1 · .9 · .25 / 200) = .042.
    assert!((width(&together) - 0.139).abs() < 0.02, "{}", width(&together));
    assert!((width(&apart) - 0.042).abs() < 0.01, "{}", width(&apart));
}

#[test]
fn differences_are_paired_by_item() {
    // The same items are right at both n but for ten more: unpaired, ±.07 would hide the .05.
    let csv = study(&[0, 100], 200, &[1], |n, lang, item, _| {
        lang == "en" || item < if n == 0 { 100 } else { 110 }
    });
    let made = report_text(&csv);
    let differences = made.table("baseline_differences");
    let row = row(&differences, &[("of", "es")]);
    assert_eq!(row["verdict"], "clear in one run", "{row:?}");
    // √(.05 · .95 / 200) · 1.96 = .030 by the normal; 10 of 200 has .0274 to .0896 by Wilson, and BCa
    // leans the same way.
    assert!((number(row, "difference_high") - 0.0896).abs() < 0.01, "{row:?}");
    assert!((number(row, "difference_low") - 0.0274).abs() < 0.01, "{row:?}");
}

#[test]
fn a_share_of_nothing_has_wilson_s_interval() {
    let made =
        report_text(&study(&[0, 100], 250, &[1, 2], |_, lang, item, _| lang == "en" && item < 100));
    let first = &made.table("perf_to_en")[0];
    // 0 of 250: 0 to .015133 (statsmodels, proportion_confint, method "wilson").
    assert_eq!(number(first, "mean_seen_low"), 0.0);
    assert!((number(first, "mean_seen_high") - 0.015_133).abs() < 1e-6, "{first:?}");
    assert!(made.table("baseline_differences").iter().all(|row| row["verdict"] == "within noise"));
}

#[test]
fn pure_noise_is_called_noise_and_a_planted_effect_is_called_clear() {
    let coin = |study: i64, n: i64, lang: &str, item: usize, seed: i64, p: f64| {
        noise(&[study, n, lang.bytes().map(i64::from).sum(), item as i64, seed]) < p
    };
    let (mut false_alarms, mut found) = (0, 0);
    for number in 0..40 {
        let csv = study(&[0, 100], 60, &[1, 2, 3], |n, lang, item, seed| {
            coin(number, n, lang, item, seed, 0.5)
        });
        let clear = |made: &common::Made| {
            made.table("baseline_differences")
                .iter()
                .filter(|row| row["verdict"] == "clear")
                .count()
        };
        false_alarms += usize::from(clear(&report_text(&csv)) > 0);
    }
    for number in 0..10 {
        let p = |n: i64, lang: &str| if n == 100 && lang == "es" { 0.9 } else { 0.5 };
        let csv = study(&[0, 100], 60, &[1, 2, 3], |n, lang, item, seed| {
            coin(100 + number, n, lang, item, seed, p(n, lang))
        });
        let made = report_text(&csv);
        let rows = made.table("baseline_differences");
        found += usize::from(row(&rows, &[("of", "es")])["verdict"] == "clear");
    }
    // Two families of differences at 5 % each over 40 studies: 4 expected at most; 10 or more has p
    // < .01.
    assert!(false_alarms < 10, "{false_alarms} of 40 noise studies have a clear difference");
    assert_eq!(found, 10);
}

#[test]
fn seeds_widen_an_aggregate_s_interval() {
    let mut csv = "lang,n,value,train_langs,train_seed\n".to_string();
    for (seed, value) in [(1, 0.40), (2, 0.50), (3, 0.60)] {
        csv += &format!(
            "en,0,0.9,\"en,es\",{seed}\nes,0,{value},\"en,es\",{seed}\nar,0,0.2,\"en,es\",{seed}\n"
        );
    }
    let made = report_text(&csv);
    let point = &made.table("perf_to_en")[0];
    assert_eq!(number(point, "mean_seen"), 0.5);
    // SD .1 over three seeds of one language among three, half of whose 2 degrees of freedom each
    // count: .5 ± t(3) · .1 / √3 = ± .184.
    for (end, expected) in [("mean_seen_low", 0.316), ("mean_seen_high", 0.684)] {
        assert!((number(point, end) - expected).abs() < 0.05, "{point:?}");
    }
    assert!(point["note"].contains("seeds alone"), "{point:?}");
}
