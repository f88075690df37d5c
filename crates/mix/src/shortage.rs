//! Where a design asks for more than there is. Said before any row is drawn, all of it at once.

use std::{cmp::Reverse, fmt::Write};

use anyhow::Result;
use artifact::{
    bail_user,
    text::{TextTable, count},
};
use serde::Serialize;

use crate::{
    design::{Content, OnShortage},
    draw::Cells,
    grid::Grid,
    pool::{Pool, State},
};

/// A cell with fewer rows than the design's largest point asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Task.
    pub task: String,
    /// Language.
    pub lang: String,
    /// Rows that may be drawn.
    pub have: u64,
    /// Rows that the largest point asks for.
    pub want: u64,
}

/// The short cells; an error if the design does not say what to do about them, or if a cell has no row at all.
pub(crate) fn check(pool: &Pool, grid: &Grid, cells: &Cells) -> Result<Vec<Shortage>> {
    let wanted = grid.largest_cells().into_iter().map(|((task, lang), want)| Shortage {
        task: task.to_owned(),
        lang: lang.to_owned(),
        have: cells.get(&(task, lang)).map_or(0, |cell| cell.rows()),
        want,
    });
    let short: Vec<Shortage> = wanted.filter(|cell| cell.have < cell.want).collect();
    let fatal = |cell: &&Shortage| cell.have == 0 || grid.on_shortage == OnShortage::Error;
    let fatal: Vec<&Shortage> = short.iter().filter(fatal).collect();
    if !fatal.is_empty() {
        bail_user!("{}", message(&fatal, pool, grid)?);
    }
    Ok(short)
}

fn message(short: &[&Shortage], pool: &Pool, grid: &Grid) -> Result<String> {
    let mut table = TextTable::new(&["task", "language", "have", "want", "leaked", "held out"]);
    table.right(&[2, 3, 4, 5]);
    for cell in short {
        let kept_out = |state| count(pool.count(&cell.task, &cell.lang, state));
        table.row(vec![
            cell.task.clone(),
            cell.lang.clone(),
            count(cell.have),
            count(cell.want),
            kept_out(State::Leaked),
            kept_out(State::HeldOut),
        ]);
    }
    let mut text = format!("the design asks for more training rows than there are:\n\n{table}\n");
    if short.iter().any(|cell| cell.have == 0) {
        text += &what_there_is(pool)?;
        text += "Correct the task or the language, or add data";
    } else {
        text += "Lower `n` or `english`, add data, or set on_shortage = \"repeat\" (pass over the rows again) \
                 or on_shortage = \"cap\" (take what there is)";
    }
    if grid.content == Content::Parallel {
        text += ". With content = \"parallel\" only items that every language has are counted";
    }
    if !grid.sources.is_empty() {
        write!(text, ". Only these sources are counted: {}", grid.sources.join(", "))?;
    }
    Ok(text)
}

/// The training rows of the examples by task, the largest languages first.
fn what_there_is(pool: &Pool) -> Result<String> {
    const SHOWN: usize = 12;
    let mut text = String::from("The examples hold, in the split `train`:\n");
    for (task, languages) in &pool.held {
        let mut languages: Vec<_> = languages.iter().collect();
        languages.sort_by_key(|&(_, rows)| Reverse(rows));
        let shown: Vec<String> = languages
            .iter()
            .take(SHOWN)
            .map(|(lang, rows)| format!("{lang} {}", count(**rows)))
            .collect();
        let more = if languages.len() > SHOWN { ", …" } else { "" };
        writeln!(text, "  {task}: {}{more}", shown.join(", "))?;
    }
    Ok(text)
}
