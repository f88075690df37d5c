//! The study's own figures come back from its published tables through the command line.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use isogloss_tests::Place;

#[test]
fn perf_to_en_of_the_published_tables() -> Result<()> {
    let tables =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/report/tests/fixtures/published.csv");
    let place = Place::new()?;
    let map = "lang=eval_lang,value=score,n=n_per_non_en_lang";
    let answer = place.run(&format!("report {} --map {map} --out out", tables.display()))?;
    assert_eq!(answer.status, Some(0), "{answer:?}");
    let rows = read(&fs::read_to_string(place.path("out/tables/perf_to_en.csv"))?)?;
    let of = |task: &str, setting: &str, langs: &str, column: &str| -> Vec<(i64, f64)> {
        rows.iter()
            .filter(|row| {
                row["task"] == task
                    && row["model"] == "aya-7b"
                    && row["setting"] == setting
                    && row["train_langs"] == langs
            })
            .filter_map(|row| Some((row["n"].parse().ok()?, row[column].parse().ok()?)))
            .collect()
    };
    let highest = |values: &[(i64, f64)]| values.iter().map(|v| v.1).fold(f64::MIN, f64::max);
    let all = "en,es,fr,ja,zh";
    for (task, points) in [("IF", 6.8), ("SM", 8.7)] {
        let curve = of(task, "single", all, "perf_to_en");
        let start = curve.iter().find(|point| point.0 == 0).context("a point at n = 0")?.1;
        let rise = 100.0 * (highest(&curve) - start);
        assert!((rise - points).abs() < 0.05, "{task}: {rise}");
    }
    for (setting, langs, mean) in [
        ("single", all, 38.4),
        ("single", "en,es,fr", 37.4),
        ("single", "en,ja,zh", 36.6),
        ("multi", all, 30.0),
    ] {
        let found = 100.0 * highest(&of("MR", setting, langs, "mean_non_en"));
        assert!((found - mean).abs() < 0.05, "{setting} {langs}: {found}");
    }
    Ok(())
}

/// A CSV with quoted cells, as rows by column name.
fn read(text: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let split = |line: &str| {
        let mut cells = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(String::new()),
                c => cells.last_mut().into_iter().for_each(|cell| cell.push(c)),
            }
        }
        cells
    };
    let mut lines = text.lines();
    let header = split(lines.next().context("a header")?);
    Ok(lines.map(|line| header.iter().cloned().zip(split(line)).collect()).collect())
}
