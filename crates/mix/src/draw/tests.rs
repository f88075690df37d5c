//! What a draw promises: nested, exact, proportional, and blind to the order of rows.

use std::path::Path;

use artifact::config::from_toml;
use proptest::prelude::*;

use super::*;
use crate::{design::Design, pool::State};

fn grid(text: &str) -> Grid {
    Grid::new(&from_toml::<Design>(text, Path::new("design.toml")).unwrap()).unwrap()
}

/// A row whose ids say where it is from: item 7 of source s in Spanish is `s7.es`.
fn row(lang: &str, source: &str, item: usize) -> Row {
    Row {
        number: 0,
        example_id: format!("{source}{item}.{lang}"),
        item_id: format!("{source}{item}"),
        source: source.into(),
        task: "math".into(),
        lang: lang.into(),
        validation: false,
        state: State::Free,
    }
}

fn pool(rows: Vec<Row>) -> Pool {
    Pool { rows, ..Pool::default() }
}

/// Every mixture as (example id, repeat) in training order.
fn draw(pool: &Pool, grid: &Grid) -> Vec<Vec<(String, u64)>> {
    let named = |taken: &Taken| (pool.rows[taken.row].example_id.clone(), taken.repeat);
    let drawn = mixtures(pool, grid, &cells(pool, grid));
    drawn.iter().map(|mixture| mixture.iter().map(named).collect()).collect()
}

/// Rows of both languages, with as many items in each of three sources.
fn rows(english: [usize; 3], spanish: [usize; 3]) -> Vec<Row> {
    let of = |lang: &'static str, sizes: [usize; 3]| {
        let sources = ["a", "b", "c"].into_iter().zip(sizes);
        sources.flat_map(move |(source, size)| (0..size).map(move |item| row(lang, source, item)))
    };
    of("en", english).chain(of("es", spanish)).collect()
}

fn in_language<'a>(mixture: &'a [(String, u64)], lang: &str) -> Vec<&'a str> {
    mixture
        .iter()
        .map(|(id, _)| id.as_str())
        .filter(|id| id.ends_with(&format!(".{lang}")))
        .collect()
}

#[test]
fn a_draw_takes_the_smallest_keys_of_its_stratum() {
    // The orders are blake3's, by the Python package `blake3`:
    // blake3(struct.pack("<Q", 1) + b"\0" + "math\x1fen\x1fs".encode() + b"\0" + id.encode())
    let rows = (0..10)
        .map(|item| Row { example_id: format!("e{item}"), ..row("en", "s", item) })
        .collect();
    let grid = grid("tasks = [\"math\"]\nlanguages = [\"en\"]\nenglish = 4\nn = 0\nseeds = [1, 2]");
    let drawn = draw(&pool(rows), &grid);
    let ids =
        |mixture: &[(String, u64)]| mixture.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&drawn[0]), ["e1", "e9", "e2", "e5"], "of e9 e2 e5 e1, in training order");
    assert_eq!(ids(&drawn[1]), ["e5", "e9", "e7", "e6"], "of e7 e5 e6 e9, in training order");
}

#[test]
fn sources_give_in_proportion_and_never_take_back() {
    // 6 : 6 : 2 is where largest remainders take a row back: 4, 4, 2 of ten, but 5, 5, 1 of eleven.
    let order = quota_order(&[6, 6, 2]);
    let given = |house: usize| {
        [0, 1, 2].map(|stratum| order[..house].iter().filter(|&&s| s == stratum).count())
    };
    assert_eq!(given(7), [3, 3, 1], "an even share is met exactly");
    assert_eq!(given(14), [6, 6, 2]);
    assert!(quota_order(&[]).is_empty());
}

#[test]
fn parallel_content_is_the_same_items_in_every_language() {
    let mut rows = rows([30, 0, 0], [20, 0, 0]);
    rows.extend((10..40).map(|item| row("fr", "a", item)));
    let design = "tasks = [\"math\"]\nlanguages = [\"en\", \"es\", \"fr\"]\nenglish = 25\nn = [5, 10]\ncontent = \"parallel\"";
    let (pool, grid) = (pool(rows), grid(design));
    let cells = cells(&pool, &grid);
    assert_eq!(cells[&("math", "es")].rows(), 10, "only items 10 to 19 are in all three languages");
    assert_eq!(cells[&("math", "en")].rows(), 30, "English goes on beyond them");
    for mixture in draw(&pool, &grid) {
        let items = |lang: &str| -> BTreeSet<String> {
            in_language(&mixture, lang)
                .iter()
                .map(|id| id.split('.').next().unwrap_or(id).to_owned())
                .collect()
        };
        assert_eq!(items("es"), items("fr"));
        assert!(items("es").is_subset(&items("en")));
        assert_eq!(items("en").len(), 25);
    }
}

#[test]
fn parallel_draws_hold_even_if_each_translation_has_a_source_of_its_own() {
    let from = |lang: &str, source: &str| -> Vec<Row> {
        (0..20).map(|item| Row { item_id: format!("i{item}"), ..row(lang, source, item) }).collect()
    };
    let pool = pool([from("es", "z"), from("fr", "y")].concat());
    let grid =
        grid("tasks = [\"math\"]\nlanguages = [\"es\", \"fr\"]\nn = 5\ncontent = \"parallel\"");
    let drawn = &mixtures(&pool, &grid, &cells(&pool, &grid))[0];
    let items = |lang: &str| -> BTreeSet<&str> {
        drawn
            .iter()
            .map(|taken| &pool.rows[taken.row])
            .filter(|row| &*row.lang == lang)
            .map(|row| row.item_id.as_str())
            .collect()
    };
    assert_eq!(items("es"), items("fr"));
}

#[test]
fn independent_draws_do_not_follow_each_other() {
    let pool = pool(
        rows([0, 0, 0], [400, 0, 0])
            .into_iter()
            .chain((0..400).map(|item| row("fr", "a", item)))
            .collect(),
    );
    let drawn = draw(&pool, &grid("tasks = [\"math\"]\nlanguages = [\"es\", \"fr\"]\nn = 100"));
    let items = |lang: &str| -> BTreeSet<String> {
        in_language(&drawn[0], lang).iter().map(|id| id.replace(&format!(".{lang}"), "")).collect()
    };
    let shared = items("es").intersection(&items("fr")).count();
    // Hypergeometric: 25 are expected, with a standard deviation of 3.8.
    assert!((6..=44).contains(&shared), "{shared} of 100 items are shared");
}

#[test]
fn a_short_cell_repeats_or_caps_as_asked() {
    let pool = pool(rows([4, 0, 0], [0, 0, 0]));
    let base = "tasks = [\"math\"]\nlanguages = [\"en\"]\nenglish = 10\nn = 0\n";
    let repeated = draw(&pool, &grid(&format!("{base}on_shortage = \"repeat\"")));
    let passes = |pass: u64| repeated[0].iter().filter(|(_, repeat)| *repeat == pass).count();
    assert_eq!([passes(0), passes(1), passes(2)], [4, 4, 2]);
    assert_eq!(draw(&pool, &grid(&format!("{base}on_shortage = \"cap\"")))[0].len(), 4);
}

#[test]
fn validation_items_are_held_out_in_every_language() {
    let mut pool = pool(rows([20, 0, 0], [20, 0, 0]));
    let grid = grid(
        "tasks = [\"math\"]\nlanguages = [\"en\", \"es\"]\nenglish = 15\nn = 15\nvalidation = { per_language = 5 }",
    );
    let validation = validation(&pool, &grid);
    let held: Vec<usize> = validation.iter().flat_map(|cell| cell.rows.clone()).collect();
    assert_eq!(held.len(), 10);
    pool.hold_out(&held);
    let items: BTreeSet<&str> = held.iter().map(|&row| pool.rows[row].item_id.as_str()).collect();
    assert_eq!(items.len(), 5, "both languages hold out the same items");
    for taken in mixtures(&pool, &grid, &cells(&pool, &grid)).iter().flatten() {
        assert!(!items.contains(pool.rows[taken.row].item_id.as_str()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_beginning_of_a_queue_is_within_one_row_of_each_share(sizes in prop::collection::vec(0u64..40, 1..7)) {
        let total: u64 = sizes.iter().sum();
        let mut given = vec![0u64; sizes.len()];
        for (index, stratum) in quota_order(&sizes).into_iter().enumerate() {
            given[stratum] += 1;
            for (have, size) in given.iter().zip(&sizes) {
                let share = (index + 1) as f64 * *size as f64 / total as f64;
                prop_assert!((*have as f64 - share).abs() < 1.0, "{given:?} of {sizes:?}");
            }
        }
        prop_assert_eq!(given, sizes);
    }

    #[test]
    fn larger_draws_contain_smaller_ones_in_the_same_order(
        spanish in prop::array::uniform3(1usize..30),
        seed in 0u64..1000,
        parallel: bool,
        first in 0usize..30,
        second in 0usize..30,
    ) {
        let total = spanish.iter().sum::<usize>();
        let (small, large) = (first.min(second).min(total - 1), first.max(second).min(total - 1) + 1);
        let content = if parallel { "parallel" } else { "independent" };
        let grid = grid(&format!(
            "tasks = [\"math\"]\nlanguages = [\"en\", \"es\"]\nenglish = 20\nseeds = {seed}\nn = [{small}, {large}]\ncontent = \"{content}\""
        ));
        let drawn = draw(&pool(rows([30, 30, 30], spanish)), &grid);
        let without_added: Vec<_> = drawn[1].iter().filter(|row| drawn[0].contains(row)).cloned().collect();
        prop_assert_eq!(&without_added, &drawn[0]);
        prop_assert_eq!(in_language(&drawn[1], "es").len(), large);
    }

    #[test]
    fn row_order_does_not_matter(
        shuffled in Just(rows([9, 5, 2], [4, 8, 1])).prop_shuffle(),
        parallel: bool,
    ) {
        let content = if parallel { "parallel" } else { "independent" };
        let grid = grid(&format!(
            "tasks = [\"math\"]\nlanguages = [\"en\", \"es\"]\nenglish = 7\nn = [0, 4]\ncontent = \"{content}\"\nvalidation = {{ per_language = 2 }}"
        ));
        let everything = |rows: Vec<Row>| {
            let mut pool = pool(rows);
            let ids = |rows: &[usize], pool: &Pool| rows.iter().map(|&row| pool.rows[row].example_id.clone()).collect::<Vec<_>>();
            let held: Vec<usize> = validation(&pool, &grid).iter().flat_map(|cell| cell.rows.clone()).collect();
            pool.hold_out(&held);
            (ids(&held, &pool), draw(&pool, &grid))
        };
        prop_assert_eq!(everything(shuffled), everything(rows([9, 5, 2], [4, 8, 1])));
    }

    #[test]
    fn substitution_meets_its_budget_exactly(n in 0u64..25, english in 50u64..60) {
        let grid = grid(&format!(
            "tasks = [\"math\"]\nlanguages = [\"en\", \"es\"]\nenglish = {english}\nn = {n}\nbudget = \"substitution\""
        ));
        let drawn = draw(&pool(rows([40, 15, 10], [20, 3, 4])), &grid);
        prop_assert_eq!(drawn[0].len() as u64, english);
        prop_assert_eq!(in_language(&drawn[0], "es").len() as u64, n);
    }
}
