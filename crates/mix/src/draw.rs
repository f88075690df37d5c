//! Draws by keyed hash. Every cell (task × language) has one queue of rows per seed, and a mixture
//! takes its first n: so n = 100 is part of n = 200, and neither row order nor threads matter.
//!
//! A queue merges strata (task × language × source), each in the order of
//! blake3(seed ‖ stratum ‖ id), so that every beginning of it has the sources in proportion.
//! Largest remainders would give and take rows back as n grows (the Alabama paradox); the quota method of
//! Balinski & Young (1975) is as exact, within one row of each share, and only gives.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use artifact::hash::draw_key;
use rayon::prelude::*;

use crate::{
    design::{Content, OnShortage},
    grid::{ENGLISH, Grid, Point},
    pool::{Pool, Row},
};

/// Validation rows do not follow the data seed: all mixtures of a design are validated on the same.
const VALIDATION_SEED: u64 = 0;

/// A row of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Index in the pool.
    pub row: usize,
    /// Which pass over the row, from 0.
    pub repeat: u64,
}

/// The rows that a cell may draw from.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    /// Rows with the source that counts for their stratum. A later tier follows once the earlier is used up.
    tiers: Vec<Vec<(Arc<str>, usize)>>,
}

impl Cell {
    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.len() as u64).sum()
    }
}

/// The cells that the grid asks for, by task and language.
pub(crate) type Cells<'a> = BTreeMap<(&'a str, &'a str), Cell>;

/// What every cell of the grid may draw from.
pub(crate) fn cells<'a>(pool: &Pool, grid: &'a Grid) -> Cells<'a> {
    let free = pool.free(false);
    let wanted = grid.largest_cells();
    match grid.content {
        Content::Independent => wanted
            .keys()
            .map(|cell| {
                let rows = free.get(cell).into_iter().flatten();
                (
                    *cell,
                    Cell {
                        tiers: vec![
                            rows.map(|&row| (Arc::clone(&pool.rows[row].source), row)).collect(),
                        ],
                    },
                )
            })
            .collect(),
        Content::Parallel => {
            grid.tasks.iter().flat_map(|task| parallel_cells(pool, &free, &wanted, task)).collect()
        }
    }
}

/// The cells of one task where languages draw the same items: one row per item and language, and
/// items that all languages have come first. Only English goes beyond them.
fn parallel_cells<'a>(
    pool: &Pool,
    free: &BTreeMap<(&str, &str), Vec<usize>>,
    wanted: &BTreeMap<(&'a str, &'a str), u64>,
    task: &str,
) -> Cells<'a> {
    let mut items: BTreeMap<(&str, &str), BTreeMap<&str, usize>> = BTreeMap::new();
    let mut sources: HashMap<&str, Arc<str>> = HashMap::new();
    for cell in wanted.keys().filter(|cell| cell.0 == task) {
        let by_item = items.entry(*cell).or_default();
        for &index in free.get(cell).into_iter().flatten() {
            let row = &pool.rows[index];
            let first = by_item.entry(&row.item_id).or_insert(index);
            if row.example_id < pool.rows[*first].example_id {
                *first = index;
            }
            // Translations may come from several sources; the item's stratum is the first by name.
            let source = sources.entry(&row.item_id).or_insert_with(|| Arc::clone(&row.source));
            if row.source < *source {
                *source = Arc::clone(&row.source);
            }
        }
    }
    let is_common = |item: &str| items.values().all(|by_item| by_item.contains_key(item));
    let cell = |lang: &str, by_item: &BTreeMap<&str, usize>| {
        let (common, rest): (Vec<_>, Vec<_>) = by_item
            .iter()
            .map(|(item, &row)| (*item, (Arc::clone(&sources[item]), row)))
            .partition(|(item, _)| is_common(item));
        let rows =
            |tier: Vec<(&str, (Arc<str>, usize))>| tier.into_iter().map(|(_, row)| row).collect();
        let rest = if lang == ENGLISH { rows(rest) } else { Vec::new() };
        Cell { tiers: vec![rows(common), rest] }
    };
    wanted
        .keys()
        .filter_map(|key| items.get(key).map(|by_item| (*key, cell(key.1, by_item))))
        .collect()
}

/// Draws every mixture: its rows in training order.
pub(crate) fn mixtures(pool: &Pool, grid: &Grid, cells: &Cells) -> Vec<Vec<Taken>> {
    let seeds: BTreeSet<u64> = grid.points.iter().map(|point| point.seed).collect();
    let keys: Vec<(u64, &str, &str)> = seeds
        .iter()
        .flat_map(|&seed| cells.keys().map(move |&(task, lang)| (seed, task, lang)))
        .collect();
    let largest = grid.largest_cells();
    let queues: BTreeMap<(u64, &str, &str), Vec<usize>> = keys
        .into_par_iter()
        .map(|(seed, task, lang)| {
            let mut queue = queue(pool, grid.content, seed, &cells[&(task, lang)]);
            queue.truncate(largest[&(task, lang)] as usize);
            ((seed, task, lang), queue)
        })
        .collect();
    grid.points.par_iter().map(|point| mixture(pool, point, &queues, grid.on_shortage)).collect()
}

/// One mixture: the beginning of each cell's queue, then put into training order by a key of its
/// own that knows nothing of strata. Rows that two mixtures of a seed share stand in the same order in both.
fn mixture(
    pool: &Pool,
    point: &Point,
    queues: &BTreeMap<(u64, &str, &str), Vec<usize>>,
    on_shortage: OnShortage,
) -> Vec<Taken> {
    let mut taken = Vec::new();
    for cell in &point.cells {
        let Some(queue) = queues.get(&(point.seed, cell.task.as_str(), cell.lang.as_str())) else {
            continue;
        };
        let passes = if on_shortage == OnShortage::Repeat { u64::MAX } else { 1 };
        let passes =
            (0..passes).flat_map(|repeat| queue.iter().map(move |&row| Taken { row, repeat }));
        if !queue.is_empty() {
            taken.extend(passes.take(cell.rows as usize));
        }
    }
    let key = |taken: &Taken| {
        let id = format!("{}\u{1f}{}", pool.rows[taken.row].example_id, taken.repeat);
        draw_key(point.seed, "training order", &id)
    };
    taken.sort_by_cached_key(key);
    taken
}

/// The rows of a cell in the order in which they are drawn.
fn queue(pool: &Pool, content: Content, seed: u64, cell: &Cell) -> Vec<usize> {
    let key = |row: &Row, source: &str| match content {
        // With the language out of the key, translations stand at the same place in each language.
        Content::Parallel => draw_key(seed, &stratum(&[&row.task, source]), &row.item_id),
        Content::Independent => {
            draw_key(seed, &stratum(&[&row.task, &row.lang, source]), &row.example_id)
        }
    };
    let mut queue = Vec::new();
    for tier in &cell.tiers {
        let mut strata: BTreeMap<&str, Vec<([u8; 32], usize)>> = BTreeMap::new();
        for (source, row) in tier {
            strata.entry(source).or_default().push((key(&pool.rows[*row], source), *row));
        }
        let mut strata: Vec<_> = strata.into_values().collect();
        strata.iter_mut().for_each(|stratum| stratum.sort_unstable());
        let sizes: Vec<u64> = strata.iter().map(|stratum| stratum.len() as u64).collect();
        let mut next = vec![0; strata.len()];
        queue.extend(quota_order(&sizes).into_iter().map(|stratum| {
            next[stratum] += 1;
            strata[stratum][next[stratum] - 1].1
        }));
    }
    queue
}

fn stratum(parts: &[&str]) -> String {
    parts.join("\u{1f}")
}

/// The order in which strata of these sizes give their rows, so that every beginning of h rows
/// holds each stratum's share h·size/total rounded down or up (quota method; ties go to the first).
fn quota_order(sizes: &[u64]) -> Vec<usize> {
    let total: u64 = sizes.iter().sum();
    let mut given = vec![0u64; sizes.len()];
    (1..=total)
        .map(|house| {
            let below_quota = |&stratum: &usize| {
                u128::from(given[stratum]) * u128::from(total)
                    < u128::from(house) * u128::from(sizes[stratum])
            };
            // The largest size/(given + 1), compared without division.
            let next = (0..sizes.len()).filter(below_quota).reduce(|best, other| {
                let best_weight = u128::from(sizes[best]) * u128::from(given[other] + 1);
                let other_weight = u128::from(sizes[other]) * u128::from(given[best] + 1);
                if other_weight > best_weight { other } else { best }
            });
            // Shares add up to `house` and less is given so far, so one of them is below its quota.
            let next = next.unwrap_or(0);
            given[next] += 1;
            next
        })
        .collect()
}

/// The validation rows of a cell.
pub(crate) struct Validation {
    pub task: String,
    pub lang: String,
    /// Indices in the pool, in the order of their draw.
    pub rows: Vec<usize>,
    /// Whether they were taken from the split `train`.
    pub held_out: bool,
}

/// Draws the validation rows of every task and language; by item, so that translations of one item
/// are held out together.
pub(crate) fn validation(pool: &Pool, grid: &Grid) -> Vec<Validation> {
    if grid.validation_rows == 0 {
        return Vec::new();
    }
    let (given, train) = (pool.free(true), pool.free(false));
    let cells =
        grid.tasks.iter().flat_map(|task| grid.languages.iter().map(move |lang| (task, lang)));
    cells
        .map(|(task, lang)| {
            let cell = (task.as_str(), lang.as_str());
            let held_out = !given.contains_key(&cell);
            let from = if held_out { train.get(&cell) } else { given.get(&cell) };
            let mut rows = from.cloned().unwrap_or_default();
            rows.sort_by_cached_key(|&index| {
                let row = &pool.rows[index];
                let key = draw_key(VALIDATION_SEED, &stratum(&["validation", task]), &row.item_id);
                (key, row.example_id.clone())
            });
            rows.truncate(grid.validation_rows as usize);
            Validation { task: task.clone(), lang: lang.clone(), rows, held_out }
        })
        // What no mixture trains on (English, or another grid's language) is validated on where there is some.
        .filter(|cell| !cell.rows.is_empty() || grid.trains_on(&cell.task, &cell.lang))
        .collect()
}

#[cfg(test)]
mod tests;
