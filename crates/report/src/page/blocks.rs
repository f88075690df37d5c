//! The page's sections: the figures by theme, task and metric, each with the table of its numbers,
//! and the tables that no figure shows.

use serde::Serialize;

use super::Page;
use crate::drill::Drill;
use crate::figures::{Figure, Theme};
use crate::table::{Cell, Kind, NO_CURVE, Row, Table};

/// Rows of a table that the page shows; its files have all.
const MOST_ROWS: usize = 800;

/// A theme.
#[derive(Serialize)]
pub(super) struct Section<'a> {
    id: &'static str,
    short: &'static str,
    title: &'static str,
    lead: &'static str,
    groups: Vec<Group<'a>>,
    tables: Vec<HtmlTable>,
}

/// The figures of one task and metric.
#[derive(Serialize)]
struct Group<'a> {
    name: String,
    task: Option<usize>,
    headline: bool,
    blocks: Vec<Block<'a>>,
}

/// A figure with the table of its numbers.
#[derive(Serialize)]
struct Block<'a> {
    id: &'a str,
    title: &'a str,
    caption: &'a str,
    svg: &'a str,
    folded: bool,
    task: Option<usize>,
    /// Numbers of its models, by spaces.
    models: String,
    table: Option<HtmlTable>,
}

/// A table as the template shows it.
#[derive(Serialize)]
pub(super) struct HtmlTable {
    pub caption: String,
    /// Its files' name; empty where it has none.
    pub file: String,
    pub left_out: usize,
    pub titles: Vec<HtmlCell>,
    pub rows: Vec<HtmlRow>,
}

#[derive(Serialize)]
pub(super) struct HtmlRow {
    pub task: Option<usize>,
    pub model: Option<usize>,
    /// Numbers of its languages, by spaces.
    pub langs: String,
    pub cells: Vec<HtmlCell>,
}

#[derive(Default, Serialize)]
pub(super) struct HtmlCell {
    pub text: String,
    pub class: &'static str,
    /// The class of the badge that the text stands in, where it is a verdict.
    pub badge: &'static str,
    pub interval: String,
    /// The number of the cell of items that it opens.
    pub items: Option<usize>,
}

/// Id, name in the contents, heading and lead of a theme.
fn theme(theme: Theme) -> [&'static str; 4] {
    match theme {
        Theme::Along => [
            "along-n",
            "More data",
            "What more data bought",
            "Scores along n, the number of training examples in each seen language other than English.",
        ],
        Theme::Between => [
            "between",
            "Transfer",
            "Which language helps which",
            "Languages as donors and as recipients, and what a language gains without examples of its own.",
        ],
        Theme::Trade => [
            "trade-offs",
            "Trade-offs",
            "What it costs",
            "English against the other languages, and one kind of mixture against another.",
        ],
        Theme::Fidelity => [
            "fidelity",
            "Answers read",
            "In which language, and readable?",
            "A score can fall because the answer is in another language, or because no answer could be read from it.",
        ],
        Theme::Trust => [
            "trust",
            "Trust",
            "How far to trust this",
            "What the scores vary with, how far runs differ by chance, what could have been found, and what does not fit.",
        ],
    }
}

/// Where a table stands that no figure shows.
fn theme_of(table: &Table) -> Theme {
    match table.name.as_str() {
        "transfer_matrix" | "donors_recipients" | "zero_shot_direct" => Theme::Between,
        "script_panels" | "single_multi" | "panels_best" | "pareto" => Theme::Trade,
        "language_fidelity" | "extraction" => Theme::Fidelity,
        "run_noise" | "variance_shares" | "outliers" | "detectable" => Theme::Trust,
        _ => Theme::Along,
    }
}

/// Tables that stand on the page elsewhere.
const ELSEWHERE: [&str; 1] = ["suggestion"];

/// The themes that have something to show.
pub(super) fn sections<'a>(page: &'a Page, drill: &Drill) -> Vec<Section<'a>> {
    let all = [Theme::Along, Theme::Between, Theme::Trade, Theme::Fidelity, Theme::Trust];
    let section = |one: Theme| {
        let [id, short, title, lead] = theme(one);
        let figures = page.figures.iter().filter(|figure| figure.theme == one);
        let groups = groups(figures, page, drill);
        let shown =
            |table: &&&Table| page.figures.iter().any(|figure| figure.numbers.table == table.name);
        let tables = page.tables.all();
        let tables = tables.iter().filter(|table| {
            theme_of(table) == one
                && !shown(table)
                && !table.rows.is_empty()
                && !ELSEWHERE.contains(&table.name.as_str())
        });
        let tables = tables.map(|table| html_table(table, |_| true, drill)).collect();
        Section { id, short, title, lead, groups, tables }
    };
    let full = |section: &Section| !section.groups.is_empty() || !section.tables.is_empty();
    all.into_iter().map(section).filter(full).collect()
}

/// By task and metric, in the figures' order; the headline metric of each task before the others.
fn groups<'a>(
    figures: impl Iterator<Item = &'a Figure>,
    page: &'a Page,
    drill: &Drill,
) -> Vec<Group<'a>> {
    let mut groups: Vec<(&str, &str, Group<'a>)> = Vec::new();
    for figure in figures {
        let block = block(figure, page, drill);
        let (task, metric) = (figure.task.as_str(), figure.metric.as_str());
        match groups.iter_mut().find(|one| (one.0, one.1) == (task, metric)) {
            Some((_, _, group)) => group.blocks.push(block),
            None => {
                let name = [task, metric].into_iter().filter(|part| !part.is_empty());
                let group = Group {
                    name: name.collect::<Vec<_>>().join(" · "),
                    task: block.task,
                    headline: figure.headline,
                    blocks: vec![block],
                };
                groups.push((task, metric, group));
            }
        }
    }
    let mut groups: Vec<Group> = groups.into_iter().map(|(_, _, group)| group).collect();
    groups.sort_by_key(|group| (!group.headline, group.task));
    groups
}

fn block<'a>(figure: &'a Figure, page: &'a Page, drill: &Drill) -> Block<'a> {
    let tables = page.tables.all();
    let table = tables.into_iter().find(|table| table.name == figure.numbers.table);
    let part = |table: &Table| {
        let wanted = figure.numbers.wanted(table);
        table.rows.iter().any(&wanted).then(|| html_table(table, &wanted, drill))
    };
    let models = figure.models.iter().filter_map(|model| place(&drill.names.models, model));
    Block {
        id: &figure.id,
        title: &figure.title,
        caption: &figure.caption,
        svg: &figure.svg,
        folded: figure.folded,
        task: place(&drill.names.tasks, &figure.task),
        models: models.map(|at| at.to_string()).collect::<Vec<_>>().join(" "),
        table: table.and_then(part),
    }
}

fn place(list: &[String], name: &str) -> Option<usize> {
    list.iter().position(|one| one == name)
}

/// A part of a table. What its rows are about is read from the whole table's key columns, for the
/// part leaves out those that say the same throughout.
fn html_table(whole: &Table, wanted: impl Fn(&Row) -> bool, drill: &Drill) -> HtmlTable {
    let part = whole.part_by(&wanted);
    let numeric = part.numeric();
    let column = |name: &str| whole.columns.iter().position(|column| column.name == name);
    let keys = Keys {
        task: column("task"),
        model: column("model"),
        langs: ["lang", "of", "source", "target"].into_iter().filter_map(column).collect(),
        n: column("n"),
    };
    let titles = part.columns.iter().zip(&numeric).map(|(column, &numeric)| HtmlCell {
        text: column.title.clone(),
        class: number(numeric),
        ..HtmlCell::default()
    });
    let rows = part.rows.iter().zip(whole.rows.iter().filter(|row| wanted(row))).take(MOST_ROWS);
    let rows = rows.map(|(row, full)| html_row(row, &part, &full.cells, &keys, &numeric, drill));
    HtmlTable {
        caption: whole.caption.clone(),
        file: whole.name.clone(),
        left_out: part.rows.len().saturating_sub(MOST_ROWS),
        titles: titles.collect(),
        rows: rows.collect(),
    }
}

/// Places, in the whole table, of what rows are filtered and opened by.
struct Keys {
    task: Option<usize>,
    model: Option<usize>,
    langs: Vec<usize>,
    n: Option<usize>,
}

fn html_row(
    row: &Row,
    part: &Table,
    cells: &[Cell],
    keys: &Keys,
    numeric: &[bool],
    drill: &Drill,
) -> HtmlRow {
    let named = |at: Option<usize>, list: &[String]| {
        place(list, &at.and_then(|at| cells.get(at)).map(Cell::key)?)
    };
    let tags = keys.langs.iter().filter_map(|&at| cells.get(at)).map(Cell::key);
    let tags: Vec<String> = tags
        .flat_map(|tags| {
            tags.split(['+', ',']).map(|tag| tag.trim().to_string()).collect::<Vec<_>>()
        })
        .collect();
    let lang = tags.first().filter(|_| row.curve != NO_CURVE);
    let n: Option<i64> =
        keys.n.and_then(|at| cells.get(at)).and_then(|cell| cell.key().parse().ok());
    let mut opened = false;
    let mut shown = Vec::with_capacity(row.cells.len());
    for ((cell, column), &numeric) in row.cells.iter().zip(&part.columns).zip(numeric) {
        // A column of one n opens that n; otherwise the row's first value opens the row's.
        let own = column.name.strip_prefix("n=").and_then(|n| n.parse().ok());
        let n = own.or(n.filter(|_| !opened));
        let measure = column.kind == Kind::Measure && matches!(cell, Cell::Measure { .. });
        let items = (|| drill.cell(row.curve, n?, lang?))().filter(|_| measure);
        opened |= items.is_some() && own.is_none();
        shown.push(HtmlCell { items, ..html_cell(cell, numeric) });
    }
    let langs = tags.iter().filter_map(|tag| place(&drill.names.tags, tag));
    HtmlRow {
        task: named(keys.task, &drill.names.tasks).filter(|_| drill.names.tasks.len() > 1),
        model: named(keys.model, &drill.names.models).filter(|_| drill.names.models.len() > 1),
        langs: langs.map(|at| at.to_string()).collect::<Vec<_>>().join(" "),
        cells: shown,
    }
}

fn html_cell(cell: &Cell, numeric: bool) -> HtmlCell {
    let shown = cell.shown();
    if numeric {
        // The interval stands back behind its value.
        let (text, interval) = match shown.find(" [") {
            Some(at) => (shown[..at].to_string(), shown[at + 1..].to_string()),
            None => (shown, String::new()),
        };
        return HtmlCell { text, interval, class: "number", ..HtmlCell::default() };
    }
    let long = shown.chars().count() > 60;
    HtmlCell {
        badge: badge(&shown),
        class: if long { "long" } else { "" },
        text: shown,
        ..HtmlCell::default()
    }
}

/// The class of a verdict's badge; empty for any other text.
pub(super) fn badge(text: &str) -> &'static str {
    match text {
        "clear" => "clear",
        "clear in one run" => "once",
        "within noise" => "noise",
        "no interval" => "none",
        _ => "",
    }
}

pub(super) fn number(is: bool) -> &'static str {
    if is { "number" } else { "" }
}
