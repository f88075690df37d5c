//! Text for people: tables aligned by display width (CJK is two columns wide, combining marks
//! none), numbers with separators, durations.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A plain table: header, rule, rows; columns aligned by display width.
pub struct TextTable {
    table: Table,
}

impl TextTable {
    /// A table with these column titles.
    pub fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(header.iter().copied());
        Self { table }
    }

    /// Adds a row. Right-to-left cells are isolated so that a terminal keeps the column order.
    pub fn row(&mut self, cells: Vec<String>) {
        self.table.add_row(cells.into_iter().map(isolate));
    }

    /// Aligns these columns (0-based) to the right, as numbers are.
    pub fn right(&mut self, columns: &[usize]) {
        for &index in columns {
            if let Some(column) = self.table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Wraps a cell with right-to-left letters into FSI … PDI; both marks have no width.
fn isolate(cell: String) -> String {
    let right_to_left =
        |c: char| matches!(c as u32, 0x590..=0x8FF | 0xFB1D..=0xFDFF | 0xFE70..=0xFEFF);
    if cell.chars().any(right_to_left) { format!("\u{2068}{cell}\u{2069}") } else { cell }
}

/// Cuts a text to `width` display columns, with an ellipsis where something was cut.
pub fn shorten(text: &str, width: usize) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if flat.width() <= width {
        return flat;
    }
    let mut kept = String::new();
    let mut used = 0;
    for c in flat.chars() {
        used += c.width().unwrap_or(0);
        if used >= width {
            break;
        }
        kept.push(c);
    }
    kept + "…"
}

/// A whole number with thousands separators: `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds as people say them: `8 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    #[test]
    fn columns_align_whatever_the_script() {
        let mut table = TextTable::new(&["language", "rows"]);
        table.right(&[1]);
        for (name, rows) in [("English", "1"), ("日本語", "200"), ("العربية", "30"), ("ไทย", "4")]
        {
            table.row(vec![name.into(), rows.into()]);
        }
        let text = table.to_string();
        let widths: Vec<_> = text.lines().map(|line| line.width()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}\n{widths:?}");
    }

    #[test]
    fn numbers_and_durations_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(duration(3.26), "3.3 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(7500.0), "2 h 5 min");
    }

    #[test]
    fn shortening_counts_display_columns() {
        assert_eq!(shorten("日本語テキスト", 8), "日本語…");
        assert_eq!(shorten("short", 8), "short");
        assert_eq!(shorten("a\nb", 8), "a b");
    }
}
