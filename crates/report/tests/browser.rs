//! The page as a reader has it: opened from a file in headless Chromium, clicked and typed into.
//! Skipped, and said so, where there is no Chromium.

#[path = "common/chromium.rs"]
mod chromium;
mod common;

use std::fmt::Write as _;

use chromium::Browser;
use common::{Made, noise, quick, report, study};
use polars::prelude::*;
use report::Samples;

/// Texts that would act if they were anything but text; each would set `window.struck`.
const HOSTILE: [&str; 8] = [
    "</script><script>window.struck = 1</script>",
    "<img src=x onerror=\"window.struck = 2\">",
    "</textarea></title><svg onload=window.struck=3>",
    "{{ 7 * 7 }}{% raw %}${window.struck = 4}",
    "\u{202E}reversed\u{2066}isolated\0nul",
    "]]><!--<script>window.struck = 5</script>-->",
    "javascript:window.struck=6//<a href=\"javascript:window.struck=7\">x</a>",
    "<style>body { display: none }</style><base href=\"https://example.org/\">",
];

/// Two models, three seeds, four languages, with generations that are hostile throughout.
fn made() -> Made {
    let folder = tempfile::tempdir().unwrap();
    let one = study(&[0, 50, 200], 20, &[1, 2, 3], |n, lang, item, seed| {
        let level = if lang == "en" { 0.9 } else { 0.3 + 0.002 * n as f64 };
        noise(&[n, item as i64, seed, lang.len() as i64]) < level
    });
    let mut csv = String::new();
    for (at, line) in one.lines().enumerate() {
        for model in ["small", "<b>large</b>"] {
            match (at, model) {
                (0, "small") => writeln!(csv, "{line},model").unwrap(),
                (0, _) => {}
                _ => writeln!(csv, "{model}-{line},{model}").unwrap(),
            }
        }
    }
    let scores = folder.path().join("scores.csv");
    std::fs::write(&scores, &csv).unwrap();
    let mut rows: Vec<[String; 4]> = Vec::new();
    for model in ["small", "<b>large</b>"] {
        for (at, lang) in ["en", "es", "ar", "th"].iter().enumerate() {
            for item in 0..20 {
                let long = item == 3 && *lang == "es";
                let text = HOSTILE[(item + at) % HOSTILE.len()];
                let text = if long { "x".repeat(1 << 20) } else { text.to_string() };
                rows.extend((1..=3).map(|seed| {
                    let run = format!("{model}-n200-s{seed}");
                    [run, format!("item-{item}"), lang.to_string(), text.clone()]
                }));
            }
        }
    }
    let column = |at: usize| rows.iter().map(|row| row[at].clone()).collect::<Vec<_>>();
    let mut frame = df!("run_id" => column(0), "item_id" => column(1), "lang" => column(2),
        "generation" => column(3), "prompt" => column(3), "reference" => vec!["كم بقي؟"; rows.len()])
    .unwrap();
    let generations = folder.path().join("generations.parquet");
    ParquetWriter::new(std::fs::File::create(&generations).unwrap()).finish(&mut frame).unwrap();
    let mut config = quick();
    config.title = HOSTILE[0].into();
    config.samples =
        Some(Samples { generations: vec![generations], per_cell: 20, ..Samples::default() });
    report(&config, &[scores])
}

#[test]
fn nothing_in_the_data_runs_and_nothing_is_fetched() {
    let Some(mut browser) = Browser::start() else { return };
    let made = made();
    browser.open(&made.folder.path().join("index.html"));
    // Every cell is opened once, so that every text has stood in the document.
    let opened = browser.run(
        "(() => { let count = 0; for (const button of document.querySelectorAll('button.open')) { button.click(); count += document.querySelectorAll('dialog .example').length; document.querySelector('dialog').close(); } return count; })()",
    );
    assert!(opened.as_u64().unwrap() > 100, "{opened} answers shown");
    assert!(browser.run("window.struck").is_null(), "a text ran");
    assert_eq!(browser.run("document.querySelectorAll('main img, main b b, main iframe, main base, main style, dialog img, dialog script').length"), 0);
    assert_eq!(browser.run("document.title"), HOSTILE[0]);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The texts themselves are there, with what is hidden in them shown.
    let page = browser.run("document.body.textContent");
    let page = page.as_str().unwrap();
    assert!(page.contains("[U+202E]reversed[U+2066]isolated␀nul"));
    assert!(page.contains("more characters]") && made.read("index.html").len() < 3_000_000);
}

#[test]
fn a_script_that_came_in_all_the_same_would_be_refused() {
    let Some(mut browser) = Browser::start() else { return };
    let made = made();
    let path = made.folder.path().join("index.html");
    let html = made.read("index.html");
    let injected = html.replace(
        "<main>",
        "<main><script>window.struck = 1</script><img src=x onerror=\"window.struck = 2\">",
    );
    std::fs::write(&path, injected).unwrap();
    browser.open(&path);
    assert!(browser.run("window.struck").is_null());
    let complaints = browser.complaints().join("\n");
    assert!(complaints.contains("Content Security Policy"), "{complaints}");
}

#[test]
fn filters_sorting_values_and_items_work_by_keyboard_alone() {
    let Some(mut browser) = Browser::start() else { return };
    let made = made();
    browser.open(&made.folder.path().join("index.html"));

    // Filter by language: rows of others go, rows about all stay, other panels of a drawing dim.
    let visible = "[...document.querySelectorAll('tbody tr')].filter(row => !row.hidden)";
    let before = browser.run(&format!("{visible}.length")).as_u64().unwrap();
    browser.run("(() => { const s = document.getElementById('filter-l'); s.value = [...s.options].find(o => o.text.startsWith('Spanish')).value; s.dispatchEvent(new Event('change')); })()");
    let after = browser.run(&format!("{visible}.length")).as_u64().unwrap();
    assert!(after < before && after > 0, "{before} to {after}");
    let others = browser.run(&format!(
        "{visible}.filter(row => row.dataset.l && row.dataset.l !== document.getElementById('filter-l').value).length"
    ));
    assert_eq!(others, 0);
    assert!(browser.run("document.querySelectorAll('svg .dim').length").as_u64().unwrap() > 0);
    assert!(
        browser
            .run("document.getElementById('status').textContent")
            .as_str()
            .unwrap()
            .starts_with("Showing ")
    );
    browser.run("(() => { const s = document.getElementById('filter-l'); s.value = ''; s.dispatchEvent(new Event('change')); })()");
    assert_eq!(browser.run(&format!("{visible}.length")).as_u64().unwrap(), before);

    // Sort by a heading's button.
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })");
    browser.run("(() => { window.table = [...document.querySelectorAll('table')].find(table => table.caption.textContent.includes('Differences')); [...table.querySelectorAll('th')].find(th => th.textContent === 'Difference').querySelector('button').focus(); })()");
    let numbers = "[...table.tBodies[0].rows].map(row => parseFloat(row.cells[[...table.querySelectorAll('th')].findIndex(th => th.textContent === 'Difference')].textContent.replace('−', '-').replace(/^[±+]/, '')))";
    for (sort, order) in [("ascending", "a <= b"), ("descending", "a >= b")] {
        browser.press("Enter");
        assert_eq!(
            browser.run("table.querySelector('th[aria-sort]').getAttribute('aria-sort')"),
            sort
        );
        let sorted =
            format!("{numbers}.every((b, at, all) => at === 0 || (a => {order})(all[at - 1]))");
        assert_eq!(browser.run(&sorted), true, "{}", browser.run(numbers));
    }

    // Values of a figure by arrow keys; each is also said.
    browser.run("document.querySelector('.drawing').focus()");
    browser.press("ArrowRight");
    let tip = browser.run(
        "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent",
    );
    assert!(tip.as_str().unwrap().contains("n = 0"), "{tip}");
    assert_eq!(browser.run("document.getElementById('status').textContent"), tip);
    browser.press("ArrowRight");
    assert_ne!(browser.run("document.getElementById('tip').textContent"), tip);

    // The items of a cell: opened, read, closed, and the focus is back.
    browser.run("(() => { window.cell = [...document.querySelectorAll('td[data-d] button')].find(button => button.closest('tr').dataset.l === String(JSON.parse(document.getElementById('data').textContent).tags.indexOf('ar'))); cell.focus(); })()");
    browser.press("Enter");
    assert_eq!(browser.run("document.querySelector('dialog').open"), true);
    let told = browser.run("document.querySelector('dialog').textContent");
    let told = told.as_str().unwrap();
    assert!(
        told.contains("20 items, 60 answers")
            && told.contains("item-")
            && told.contains("Arabic (ar)"),
        "{told}"
    );
    assert_eq!(browser.run("[...document.querySelectorAll('dialog dd[lang=ar]')].every(dd => getComputedStyle(dd).direction === 'rtl')"), true);
    browser.press("Escape");
    assert_eq!(browser.run("document.querySelector('dialog').open"), false);
    assert_eq!(browser.run("document.activeElement === cell"), true);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_fits_a_phone_and_stands_without_a_script() {
    let Some(mut browser) = Browser::start() else { return };
    let made = made();
    let path = made.folder.path().join("index.html");
    for scripts in [true, false] {
        browser
            .call("Emulation.setScriptExecutionDisabled", serde_json::json!({"value": !scripts}));
        browser.size(390, 844);
        browser.open_unwatched(&path);
        let layout = browser.call("Page.getLayoutMetrics", serde_json::json!({}));
        let width = layout["cssContentSize"]["width"].as_f64().unwrap();
        assert!(width <= 390.0, "{width} px wide, scripts {scripts}");
    }
    // What a reader without a script has: every figure, every table, and samples.
    let html = made.read("index.html");
    assert!(
        html.contains("<figure") && html.contains("<caption>") && html.contains("id=\"samples\"")
    );
    assert!(
        html.contains("id=\"filters\" aria-label=\"Show only\" hidden"),
        "no control that does nothing"
    );
}
