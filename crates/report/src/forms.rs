//! A table in the forms that leave the report: CSV and Parquet for machines (the same columns with
//! the same values, unrounded but for noise digits), Markdown and LaTeX for people (the page's
//! rounding). `sections` cuts the latter two into a table for each part that is read by itself.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use polars::prelude::{DataFrame, ParquetCompression, ParquetWriter};
use unicode_width::UnicodeWidthStr;

use crate::table::{Cell, Kind, Table};
use crate::words;

/// Rows from which on a LaTeX table may break over pages.
const LONG: usize = 40;

/// Writes `NAME.csv`, `.parquet`, `.md` and `.tex` into `folder`. `sections` are the parts of the
/// table with their headings; without any, the table is written whole.
///
/// # Errors
/// Where a file cannot be written.
pub(crate) fn write(table: &Table, sections: &[(String, Table)], folder: &Path) -> Result<()> {
    let flat = Flat::new(table);
    flat.write_csv(&folder.join(format!("{}.csv", table.name)))?;
    flat.write_parquet(&folder.join(format!("{}.parquet", table.name)))?;
    let whole = [(String::new(), table.clone())];
    let sections = if sections.is_empty() { &whole[..] } else { sections };
    for (extension, text) in [("md", markdown(table, sections)), ("tex", latex(table, sections))] {
        let path = folder.join(format!("{}.{extension}", table.name));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A table as the machines' columns: keys and values, then the ends of intervals, then remarks.
struct Flat {
    columns: Vec<(String, Values)>,
    rows: usize,
}

enum Values {
    Text(Vec<Option<String>>),
    Whole(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
}

impl Values {
    /// As a CSV field; empty where there is none.
    fn field(&self, row: usize) -> String {
        match self {
            Values::Text(values) => values[row].clone().unwrap_or_default(),
            Values::Whole(values) => values[row].map(|value| value.to_string()).unwrap_or_default(),
            Values::Real(values) => values[row].map(plain).unwrap_or_default(),
        }
    }
}

impl Flat {
    fn new(table: &Table) -> Self {
        let of =
            |kind: Kind| (0..table.columns.len()).filter(move |&at| table.columns[at].kind == kind);
        let name = |at: usize| table.columns[at].name.clone();
        let mut columns = Vec::new();
        for at in (0..table.columns.len()).filter(|&at| table.columns[at].kind != Kind::Remark) {
            columns.push((name(at), values(table, at)));
        }
        for at in of(Kind::Measure) {
            columns.push((name(at) + "_low", end(table, at, |ends| ends.0)));
            columns.push((name(at) + "_high", end(table, at, |ends| ends.1)));
        }
        for at in of(Kind::Remark) {
            columns.push((name(at), values(table, at)));
        }
        Flat { columns, rows: table.rows.len() }
    }

    fn write_csv(&self, path: &Path) -> Result<()> {
        let context = || format!("writing {}", path.display());
        let mut writer = csv::Writer::from_path(path).with_context(context)?;
        writer.write_record(self.columns.iter().map(|(name, _)| name)).with_context(context)?;
        for row in 0..self.rows {
            let fields = self.columns.iter().map(|(_, values)| values.field(row));
            writer.write_record(fields).with_context(context)?;
        }
        writer.flush().with_context(context)
    }

    fn write_parquet(self, path: &Path) -> Result<()> {
        let context = || format!("writing {}", path.display());
        let column = |(name, values): (String, Values)| match values {
            Values::Text(values) => polars::prelude::Column::new(name.into(), values),
            Values::Whole(values) => polars::prelude::Column::new(name.into(), values),
            Values::Real(values) => polars::prelude::Column::new(name.into(), values),
        };
        let columns = self.columns.into_iter().map(column).collect();
        let mut frame = DataFrame::new(self.rows, columns).with_context(context)?;
        let file = File::create(path).with_context(context)?;
        ParquetWriter::new(file)
            .with_compression(ParquetCompression::Zstd(None))
            .finish(&mut frame)
            .with_context(context)?;
        Ok(())
    }
}

/// The values of a column: numbers where all of its cells are, otherwise text.
fn values(table: &Table, at: usize) -> Values {
    let cells = || table.rows.iter().map(|row| &row.cells[at]);
    let text = |cell: &Cell| matches!(cell, Cell::Text(_));
    let whole = |cell: &Cell| matches!(cell, Cell::Count(_) | Cell::Empty);
    let empty = |cell: &Cell| matches!(cell, Cell::Empty);
    if cells().any(text) || (table.columns[at].kind == Kind::Key && cells().all(empty)) {
        let shown = |cell: &Cell| match cell {
            Cell::Text(text) => Some(text.clone()),
            other => number(other).map(plain),
        };
        return Values::Text(cells().map(shown).collect());
    }
    if table.columns[at].kind != Kind::Measure && cells().all(whole) {
        let count = |cell: &Cell| if let Cell::Count(count) = cell { Some(*count) } else { None };
        return Values::Whole(cells().map(count).collect());
    }
    Values::Real(cells().map(number).collect())
}

fn end(table: &Table, at: usize, pick: fn((f64, f64)) -> f64) -> Values {
    // An open end is no number.
    let of = |cell: &Cell| low_high(cell).map(pick).filter(|end| end.is_finite()).map(rounded);
    Values::Real(table.rows.iter().map(|row| of(&row.cells[at])).collect())
}

fn low_high(cell: &Cell) -> Option<(f64, f64)> {
    if let Cell::Measure { interval, .. } = cell { *interval } else { None }
}

/// The number of a cell without what is only noise of the sums: six decimals, of a p value six
/// digits. Never −0.
fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Measure { value, .. } => Some(rounded(*value)),
        Cell::Probability(p) => Some(format!("{p:.5e}").parse().unwrap_or(*p)),
        Cell::Count(count) => Some(*count as f64),
        Cell::Empty | Cell::Text(_) => None,
    }
}

fn rounded(value: f64) -> f64 {
    format!("{value:.6}").parse::<f64>().unwrap_or(value) + 0.0
}

fn plain(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-6 { format!("{value:e}") } else { value.to_string() }
}

/// A heading for the whole and for each section; columns aligned by display width.
fn markdown(table: &Table, sections: &[(String, Table)]) -> String {
    let mut text = format!("# {}\n", table.caption);
    for (heading, part) in sections {
        if !heading.is_empty() {
            let _ = write!(text, "\n## {}\n", markdown_text(heading));
        }
        text.push('\n');
        text += &markdown_table(part);
    }
    text
}

fn markdown_table(table: &Table) -> String {
    let numeric = table.numeric();
    let mut lines: Vec<Vec<String>> =
        vec![table.columns.iter().map(|column| markdown_text(&column.title)).collect()];
    for row in &table.rows {
        lines.push(row.cells.iter().map(|cell| markdown_text(&cell.shown())).collect());
    }
    let width = |at: usize| lines.iter().map(|line| line[at].width()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..numeric.len()).map(width).collect();
    let padded = |(at, cell): (usize, &String)| {
        let space = " ".repeat(widths[at] - cell.width());
        if numeric[at] { space + cell } else { cell.clone() + &space }
    };
    let line = |cells: &Vec<String>| {
        let cells: Vec<String> = cells.iter().enumerate().map(padded).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = |at: usize| {
        if numeric[at] { "-".repeat(widths[at] - 1) + ":" } else { "-".repeat(widths[at]) }
    };
    let rule: Vec<String> = (0..numeric.len()).map(rule).collect();
    let mut text = line(&lines[0]);
    let _ = writeln!(text, "| {} |", rule.join(" | "));
    text.extend(lines[1..].iter().map(line));
    text
}

/// Text as it may stand in a cell of Markdown: nothing in it is markup, and right-to-left letters
/// do not turn the row around them.
fn markdown_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in words::visible(text).chars() {
        match c {
            '\\' | '|' | '`' | '*' | '[' | ']' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    if out.chars().any(words::is_right_to_left) { format!("\u{2068}{out}\u{2069}") } else { out }
}

/// A `table` (or, where it is long, a `longtable`) with booktabs rules for every section.
fn latex(table: &Table, sections: &[(String, Table)]) -> String {
    let mut body = String::new();
    for (at, (heading, part)) in sections.iter().enumerate() {
        let caption = match heading.as_str() {
            "" => table.caption.clone(),
            heading => format!("{}: {heading}", table.caption),
        };
        let number = if sections.len() > 1 { format!(":{}", at + 1) } else { String::new() };
        let label = format!("tab:{}{number}", table.name.replace('_', "-"));
        body += &latex_table(part, &latex_text(&caption), &label);
    }
    let mut text = format!("% {}.tex: \\usepackage{{booktabs,longtable}}\n", table.name);
    if body.chars().any(beyond_latin) {
        text += "% Holds letters beyond the Latin script: compile with XeLaTeX or LuaLaTeX, \\usepackage{fontspec}, and a\n\
                 % font that has them (such as Noto); right-to-left text needs \\usepackage[bidi=basic]{babel} as well.\n";
    }
    text + &body
}

fn latex_table(table: &Table, caption: &str, label: &str) -> String {
    let align: String =
        table.numeric().into_iter().map(|number| if number { 'r' } else { 'l' }).collect();
    let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
    let head = line(table.columns.iter().map(|column| latex_text(&column.title)).collect());
    let rows: String = table
        .rows
        .iter()
        .map(|row| line(row.cells.iter().map(|cell| latex_text(&cell.shown())).collect()))
        .collect();
    if table.rows.len() > LONG {
        format!(
            "\n\\begin{{longtable}}{{{align}}}\n  \\caption{{{caption}}}\\label{{{label}}}\\\\\n    \\toprule\n{head}    \\midrule\n\
             \\endfirsthead\n    \\toprule\n{head}    \\midrule\n\\endhead\n    \\bottomrule\n\\endlastfoot\n{rows}\\end{{longtable}}\n"
        )
    } else {
        format!(
            "\n\\begin{{table}}\n  \\centering\n  \\caption{{{caption}}}\\label{{{label}}}\n  \\begin{{tabular}}{{{align}}}\n    \\toprule\n\
             {head}    \\midrule\n{rows}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
        )
    }
}

/// Text as LaTeX prints it. A bracket is guarded, for behind `\\` it would begin an option.
fn latex_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in words::visible(text).chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            '[' => out.push_str("{[}"),
            ']' => out.push_str("{]}"),
            '−' => out.push_str("$-$"),
            '±' => out.push_str("$\\pm$"),
            '×' => out.push_str("$\\times$"),
            '→' => out.push_str("$\\rightarrow$"),
            '≤' => out.push_str("$\\leq$"),
            '≥' => out.push_str("$\\geq$"),
            '–' => out.push_str("--"),
            '·' => out.push_str("\\textperiodcentered{}"),
            '…' => out.push_str("\\dots{}"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Letters that pdfLaTeX with its usual fonts has not.
fn beyond_latin(c: char) -> bool {
    c as u32 > 0x24F && !matches!(c as u32, 0x2010..=0x2027)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Column, NO_CURVE, Row};
    use crate::words::Unit;

    fn table(cells: Vec<[Cell; 3]>) -> Table {
        let columns = vec![
            Column::key("lang", "Language"),
            Column::measure("score", "Score"),
            Column::remark("note", "Note"),
        ];
        let rows = cells.into_iter().map(|cells| Row { curve: NO_CURVE, cells: cells.into() });
        Table {
            name: "made_up".into(),
            caption: "A made-up table".into(),
            columns,
            rows: rows.collect(),
        }
    }

    fn score(value: f64) -> Cell {
        Cell::Measure {
            value,
            interval: Some((value - 0.1, value + 0.1)),
            unit: Unit::Percent,
            signed: false,
        }
    }

    #[test]
    fn csv_and_parquet_hold_the_same_columns_and_values() {
        let table = table(vec![
            [Cell::text("a,b\"c"), score(0.123_456_789), Cell::Empty],
            [Cell::text("日本"), score(-1e-19), Cell::text("x")],
        ]);
        let folder = tempfile::tempdir().unwrap();
        write(&table, &[], folder.path()).unwrap();
        let frame = artifact::parquet::read(&folder.path().join("made_up.parquet"), None).unwrap();
        let mut csv = csv::Reader::from_path(folder.path().join("made_up.csv")).unwrap();
        let header: Vec<String> = csv.headers().unwrap().iter().map(String::from).collect();
        assert_eq!(header, ["lang", "score", "score_low", "score_high", "note"]);
        let names: Vec<&str> =
            frame.columns().iter().map(|column| column.name().as_str()).collect();
        assert_eq!(names, header);
        for (at, record) in csv.records().enumerate() {
            let record = record.unwrap();
            for name in ["score", "score_low", "score_high"] {
                let place = header.iter().position(|one| one == name).unwrap();
                let stored = frame.column(name).unwrap().f64().unwrap().get(at).unwrap();
                assert_eq!(record[place].parse::<f64>().unwrap(), stored, "{name}");
            }
            assert_eq!(Some(&record[0]), frame.column("lang").unwrap().str().unwrap().get(at));
        }
        assert_eq!(frame.column("score").unwrap().f64().unwrap().get(0), Some(0.123_457));
        assert_eq!(frame.column("score").unwrap().f64().unwrap().get(1), Some(0.0));
        assert_eq!(number(&Cell::Probability(1.234_567_8e-9)), Some(1.234_57e-9));
    }

    #[test]
    fn markdown_columns_align_in_every_script() {
        let names = ["English", "日本語", "العربية", "ไทย", "a|b <i>*x*"];
        let table = table(names.map(|name| [Cell::text(name), score(0.5), Cell::Empty]).to_vec());
        let text = markdown_table(&table);
        let widths: Vec<usize> = text.lines().map(UnicodeWidthStr::width).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}\n{widths:?}");
        assert!(text.contains("a\\|b &lt;i>\\*x\\*"), "{text}");
        assert!(text.lines().nth(1).unwrap().contains("-:"), "numbers stand to the right: {text}");
    }

    #[test]
    fn latex_prints_every_special_character_as_itself() {
        assert_eq!(
            latex_text("50 % of a_b & #1 ~x^2 \\y {z} $ <|>"),
            "50 \\% of a\\_b \\& \\#1 \\textasciitilde{}x\\textasciicircum{}2 \\textbackslash{}y \\{z\\} \\$ \\textless{}\\textbar{}\\textgreater{}"
        );
        assert_eq!(latex_text("−6.8 [−7.0, 1.0]"), "$-$6.8 {[}$-$7.0, 1.0{]}");
        let latin = latex(
            &table(vec![[Cell::text("es"), score(0.5), Cell::Empty]]),
            &[(String::new(), table(vec![]))],
        );
        assert!(!latin.contains("XeLaTeX") && latin.contains("\\toprule"), "{latin}");
        let thai = table(vec![[Cell::text("ไทย"), score(0.5), Cell::Empty]]);
        let text = latex(&thai, &[(String::new(), thai.clone())]);
        assert!(text.starts_with("% made_up.tex") && text.contains("XeLaTeX"), "{text}");
        assert!(text.contains("ไทย & 50.0 {[}40.0, 60.0{]} & -- \\\\"), "{text}");
    }

    #[test]
    fn a_long_latex_table_breaks_over_pages() {
        let rows = (0..=LONG).map(|_| [Cell::text("es"), score(0.5), Cell::Empty]).collect();
        let long = table(rows);
        let text = latex(&long, &[(String::new(), long.clone())]);
        assert!(
            text.contains("\\begin{longtable}{lrl}") || text.contains("\\begin{longtable}{lrr}"),
            "{text}"
        );
    }
}
