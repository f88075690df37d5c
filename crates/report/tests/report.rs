//! What the report writes, and that it is the same whatever the threads and the order of the rows.

mod common;

use common::{noise, quick, report, report_text, study};
use polars::prelude::*;
use report::Samples;

fn small() -> String {
    let level = |n: i64, lang: &str| match lang {
        "en" => 0.9,
        "es" => 0.3 + 0.005 * n as f64,
        _ => 0.3,
    };
    study(&[0, 50, 100], 60, &[1, 2, 3], |n, lang, item, seed| {
        noise(&[n, item as i64, seed, lang.bytes().map(i64::from).sum()]) < level(n, lang)
    })
}

#[test]
fn every_output_is_there() {
    let made = report_text(&small());
    let files = made.files();
    for name in [
        "index.html",
        "transfer.parquet",
        "tables/perf_to_en.csv",
        "tables/perf_to_en.md",
        "tables/perf_to_en.tex",
        "tables/perf_to_en.parquet",
        "tables/language_by_n.csv",
        "tables/seen_unseen.csv",
        "tables/baseline_differences.csv",
        "figures/math-exact-match-means.svg",
        "figures/math-exact-match-differences.svg",
        "figures/math-exact-match-perf-to-en.svg",
        "figures/math-exact-match-gap.svg",
        "figures/math-exact-match-languages.svg",
    ] {
        assert!(files.contains_key(std::path::Path::new(name)), "{name} in {:?}", files.keys());
    }
}

#[test]
fn the_bytes_depend_neither_on_threads_nor_on_the_order_of_the_rows() {
    let csv = small();
    let with_threads = |threads: usize, csv: &str| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| report_text(csv)).files()
    };
    let one = with_threads(1, &csv);
    assert_eq!(one, with_threads(3, &csv));
    let (header, rows) = csv.split_once('\n').unwrap();
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.reverse();
    let mut turned = with_threads(2, &format!("{header}\n{}\n", rows.join("\n")));
    let mut one = one;
    // The page names its input by hash.
    let page = std::path::Path::new("index.html");
    let stripped = |html: Vec<u8>| {
        String::from_utf8(html)
            .unwrap()
            .lines()
            .filter(|line| !line.contains("blake3"))
            .collect::<String>()
    };
    assert_eq!(stripped(one.remove(page).unwrap()), stripped(turned.remove(page).unwrap()));
    assert_eq!(one, turned);
}

#[test]
fn transfer_parquet_holds_every_language_with_its_difference() {
    let made = report_text(&small());
    let path = made.folder.path().join("transfer.parquet");
    let frame = artifact::parquet::read(&path, Some(&artifact::schema::TRANSFER)).unwrap();
    assert_eq!(frame.height(), 3 * 4);
    let groups: Vec<_> =
        frame.column("group").unwrap().str().unwrap().iter().take(4).map(Option::unwrap).collect();
    assert_eq!(groups, ["english", "seen", "unseen", "unseen"]);
    assert_eq!(frame.column("items").unwrap().i64().unwrap().get(0), Some(60));
    assert_eq!(frame.column("difference").unwrap().null_count(), 4, "none at the baseline");
}

#[test]
fn the_findings_say_what_was_planted() {
    let made = report_text(&small());
    let finding =
        |topic: &str| made.summary.findings.iter().find(|finding| finding.topic == topic).unwrap();
    assert_eq!(finding("Seen languages").verdict, report::Verdict::Clear);
    assert!(
        finding("Seen languages").text.contains("clear gains: Spanish (es) +"),
        "{}",
        finding("Seen languages").text
    );
    assert_eq!(finding("Unseen languages").verdict, report::Verdict::WithinNoise);
    assert!(
        finding("Unseen languages").text.contains("within noise: Arabic (ar)"),
        "{}",
        finding("Unseen languages").text
    );
    assert_eq!(finding("Gap").verdict, report::Verdict::Clear);
    assert!(finding("Gap").text.contains("grows"), "{}", finding("Gap").text);
    let terminal = made.summary.to_string();
    assert!(terminal.contains("Perf-to-EN") && terminal.contains("within noise"), "{terminal}");
}

#[test]
fn the_page_needs_no_network_and_runs_its_own_script_alone() {
    let made = report_text(&small());
    let html = made.read("index.html");
    assert!(html.contains("default-src 'none'") && !html.contains("unsafe-inline"));
    assert!(html.contains("style-src 'sha256-") && html.contains("script-src 'sha256-"));
    assert_eq!(html.matches("<script").count(), 2, "the data and the script");
    for forbidden in
        ["http-equiv=\"refresh\"", "@import", "url(", "<link", "<img", "<iframe", " src="]
    {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    let links =
        html.match_indices("href=\"").map(|(at, _)| html[at + 6..].split('"').next().unwrap());
    for link in links {
        assert!(link.starts_with('#') || made.folder.path().join(link).exists(), "{link}");
    }
    let ids: Vec<&str> = html
        .match_indices(" id=\"")
        .map(|(at, _)| html[at + 5..].split('"').next().unwrap())
        .collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "ids are unique");
}

#[test]
fn names_and_generations_are_text_and_cannot_run() {
    let folder = tempfile::tempdir().unwrap();
    let (evil, image) = ("<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>");
    let scores = folder.path().join("scores.csv");
    let mut writer = csv::Writer::from_path(&scores).unwrap();
    let small = small();
    writer.write_record(small.lines().next().unwrap().split(',')).unwrap();
    for row in csv::Reader::from_reader(small.as_bytes()).records() {
        let row = row.unwrap();
        let swap = |field| match field {
            "math" => evil,
            "single-task" => image,
            other => other,
        };
        writer.write_record(row.iter().map(swap)).unwrap();
    }
    writer.flush().unwrap();
    let generations = folder.path().join("generations.parquet");
    let mut frame = df!("run_id" => ["n100-s1"; 60], "item_id" => (0..60).map(|i| format!("item-{i}")).collect::<Vec<_>>(),
        "lang" => ["ar"; 60], "generation" => [evil; 60], "prompt" => ["كم بقي؟"; 60])
    .unwrap();
    ParquetWriter::new(std::fs::File::create(&generations).unwrap()).finish(&mut frame).unwrap();
    let mut config = quick();
    config.samples = Some(Samples { generations: vec![generations], ..Samples::default() });
    let made = report(&config, &[scores]);
    let html = made.read("index.html");
    assert_eq!(html.matches("<script").count(), 2, "the page's own");
    assert!(!html.contains("<script>alert") && !html.contains("<img"), "escaped everywhere");
    assert!(html.contains("&lt;script&gt;alert(1)&lt;"), "{}", html.len());
    assert!(html.contains("lang=\"ar\" dir=\"rtl\""), "Arabic runs from right to left");
    assert!(
        made.files()
            .iter()
            .filter(|(name, _)| name.ends_with("svg"))
            .all(|(_, svg)| !String::from_utf8_lossy(svg).contains("<script"))
    );
}

#[test]
fn drawings_are_named_described_and_told_apart_without_colour() {
    let made = report_text(&small());
    let svg = made.read("figures/math-exact-match-means.svg");
    assert!(
        svg.contains("role=\"img\"") && svg.contains("<title id=") && svg.contains("<desc id=")
    );
    assert!(
        svg.contains("stroke-dasharray=\"6 4\"") && svg.contains("stroke-dasharray=\"1.5 3.5\""),
        "unseen dashed, English dotted"
    );
    assert!(svg.contains("prefers-color-scheme: dark"));
    let panel = made.read("figures/math-exact-match-languages.svg");
    assert!(panel.contains(">Arabic (ar)<") && panel.contains(">Thai (th)<"));
}

#[test]
fn budgets_and_english_counts_set_series_apart_only_where_they_vary_at_one_n() {
    let row = |n: i64, english: i64, budget: &str, lang: &str, value: f64| {
        format!("{lang},{n},{value},\"en,es\",{english},{budget}\n")
    };
    let mut csv = "lang,n,value,train_langs,english,budget\n".to_string();
    for n in [0, 100] {
        for lang in ["en", "es", "ar"] {
            csv += &row(n, 1000, "additive", lang, 0.5);
            // A fixed total: fewer English examples as n grows.
            csv += &row(n, 1000 - n, "substitution", lang, 0.4);
        }
    }
    let made = report_text(&csv);
    let rows = made.table("perf_to_en");
    let variants: Vec<&str> = rows.iter().map(|row| row["variant"].as_str()).collect();
    assert_eq!(variants, ["additive", "additive", "substitution", "substitution"]);
}
