//! Numbers, names and lists as a reader expects them.

use std::borrow::Cow;

use unicode_width::UnicodeWidthStr;

use crate::arrange::Series;
use crate::bootstrap::Estimate;

/// How a metric's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Shares of items, written as per cent.
    Percent,
    /// Other scores from 0 to 1 (ROUGE, chrF), written times 100 as the field does.
    Hundredth,
    /// Anything else, as it is.
    Raw,
}

impl Unit {
    /// The unit of a metric with these values.
    pub fn of(metric: &str, mut values: impl Iterator<Item = f64>) -> Unit {
        let within = values.all(|value| (0.0..=1.0).contains(&value));
        let share = ["acc", "match", "rate", "language", "pass"]
            .iter()
            .any(|word| metric.to_lowercase().contains(word));
        match (within, share && !metric.to_lowercase().contains("rating")) {
            (true, true) => Unit::Percent,
            (true, false) => Unit::Hundredth,
            (false, _) => Unit::Raw,
        }
    }

    fn scale(self) -> f64 {
        if self == Unit::Raw { 1.0 } else { 100.0 }
    }

    fn digits(self) -> usize {
        if self == Unit::Raw { 2 } else { 1 }
    }

    /// The value alone, as in a table or on an axis: `38.4`.
    pub fn number(self, value: f64) -> String {
        tidy(format!("{:.*}", self.digits(), value * self.scale()))
    }

    /// The value with its unit, as in a sentence: `38.4 %`.
    pub fn value(self, value: f64) -> String {
        let number = self.number(value);
        if self == Unit::Percent { number + " %" } else { number }
    }

    /// A difference with its sign: `+6.8`.
    pub fn signed(self, value: f64) -> String {
        let number = self.number(value);
        match number.strip_prefix('-') {
            Some(size) => format!("−{size}"),
            None if number.parse() == Ok(0.0_f64) => format!("±{number}"),
            None => format!("+{number}"),
        }
    }

    /// A difference as in a sentence: `+6.8 points`.
    pub fn points(self, value: f64) -> String {
        let signed = self.signed(value);
        if self == Unit::Raw { signed } else { signed + " points" }
    }

    /// An interval: `35.1 to 41.0`, with true minus signs.
    pub fn interval(self, (low, high): (f64, f64)) -> String {
        format!("{} to {}", self.number(low), self.number(high)).replace('-', "−")
    }

    /// A value and its interval: `38.4 [35.1, 41.0]`.
    pub fn cell(self, estimate: &Estimate, signed: bool) -> String {
        let value = if signed { self.signed(estimate.value) } else { self.number(estimate.value) };
        match estimate.interval {
            Some((low, high)) => format!("{value} [{}, {}]", self.number(low), self.number(high)),
            None => value,
        }
        .replace('-', "−")
    }

    /// What an axis says below the metric's name.
    pub fn axis(self) -> &'static str {
        match self {
            Unit::Percent => "%",
            Unit::Hundredth => "× 100",
            Unit::Raw => "",
        }
    }
}

/// A measure with its unit, as an axis names it.
pub(crate) fn axis(name: &str, unit: Unit) -> String {
    if unit.axis().is_empty() { name.into() } else { format!("{name}, {}", unit.axis()) }
}

/// No "-0.0".
fn tidy(number: String) -> String {
    if number.starts_with('-') && number.trim_start_matches(['-', '0', '.']).is_empty() {
        number[1..].to_string()
    } else {
        number
    }
}

/// A p value as in a sentence.
pub(crate) fn probability(p: f64) -> String {
    if p < 0.001 { "below 0.001".into() } else { format!("{p:.3}") }
}

/// `a, b and c`.
pub(crate) fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

/// Lines of at most `width` columns, broken at spaces.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].width() + 1 + word.width() > width {
            lines.push(word.to_string());
        } else {
            let gap = if lines[last].is_empty() { "" } else { " " };
            lines[last] += gap;
            lines[last] += word;
        }
    }
    lines
}

/// A language by its English name with its tag: `Spanish (es)`; the tag alone where it has no name.
pub(crate) fn language(tag: &str) -> String {
    language::english_name(tag).map_or(tag.to_string(), |name| format!("{name} ({tag})"))
}

/// Whether text in this language runs from right to left.
pub(crate) fn right_to_left(tag: &str) -> bool {
    let script = language::normalise(tag).map(|tag| tag.script);
    script.is_some_and(|script| {
        ["Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm"].contains(&script.as_str())
    })
}

/// The same as HTML says it.
pub(crate) fn direction(tag: &str) -> &'static str {
    if right_to_left(tag) { "rtl" } else { "ltr" }
}

/// Whether a letter runs from right to left.
pub(crate) fn is_right_to_left(c: char) -> bool {
    matches!(c as u32, 0x590..=0x8FF | 0xFB1D..=0xFDFF | 0xFE70..=0xFEFF | 0x1E900..=0x1E95F)
}

/// Text with its unseen powers made seen: control characters as their pictures (`␀`), and the marks
/// that would turn the direction of the text around them by name (`[U+202E]`). Joiners and the plain
/// direction marks, which scripts need, stay.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let bidi = |c: char| matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let hidden = |c: char| (c.is_control() && c != '\n' && c != '\t') || bidi(c);
    if !text.chars().any(hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !hidden(c) => out.push(c),
            '\0'..='\x1f' => out.extend(char::from_u32(0x2400 + c as u32)),
            '\x7f' => out.push('␡'),
            c => out.push_str(&format!("[U+{:04X}]", c as u32)),
        }
    }
    Cow::Owned(out)
}

/// The parts of a series that have a name, as `aya-7b · single · en+es+fr`.
pub(crate) fn series(series: &Series) -> String {
    let langs = series.train_langs.replace([',', ' '], "+");
    let parts = [&series.model, &series.setting, &langs, &series.variant];
    parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" · ")
}

/// The same in brackets, to stand behind a name.
pub(crate) fn series_suffix(one: &Series) -> String {
    let name = series(one);
    if name.is_empty() { name } else { format!(" ({name})") }
}

/// Names for series that stand side by side: what they share is left out.
pub(crate) fn short_names(all: &[&Series]) -> Vec<String> {
    let parts = |s: &Series| {
        [
            s.model.clone(),
            s.setting.clone(),
            s.train_langs.replace([',', ' '], "+"),
            s.variant.clone(),
        ]
    };
    let table: Vec<[String; 4]> = all.iter().map(|s| parts(s)).collect();
    let varies = |column: usize| table.iter().any(|row| row[column] != table[0][column]);
    let kept: Vec<usize> = (0..4).filter(|&column| varies(column)).collect();
    let name = |row: &[String; 4]| {
        let named: Vec<&str> = kept
            .iter()
            .map(|&column| row[column].as_str())
            .filter(|part| !part.is_empty())
            .collect();
        named.join(" · ")
    };
    table.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_the_field_writes_them() {
        assert_eq!(Unit::Percent.value(0.384), "38.4 %");
        assert_eq!(Unit::Hundredth.value(0.2417), "24.2");
        assert_eq!(Unit::Raw.points(-0.314), "−0.31");
        assert_eq!(Unit::Percent.points(0.068), "+6.8 points");
        assert_eq!(Unit::Percent.signed(-0.0001), "±0.0");
        assert_eq!(Unit::Percent.interval((-0.021, 0.3)), "−2.1 to 30.0");
    }

    #[test]
    fn a_rating_from_one_to_five_stays_as_it_is() {
        assert_eq!(Unit::of("switch_aware_rating_1_5", [3.2, 4.1].into_iter()), Unit::Raw);
        assert_eq!(Unit::of("mgsm_8shot_acc", [0.01, 0.6].into_iter()), Unit::Percent);
        assert_eq!(Unit::of("rougeL", [0.2].into_iter()), Unit::Hundredth);
    }

    #[test]
    fn lines_break_at_spaces_by_display_width() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("日本 日本", 5), ["日本", "日本"]);
    }

    #[test]
    fn names_of_series_leave_out_what_all_share() {
        let series = |model: &str, langs: &str| Series {
            model: model.into(),
            setting: "single-task".into(),
            train_langs: langs.into(),
            variant: String::new(),
        };
        let (a, b) = (series("a", "en,es"), series("a", "en,ja"));
        assert_eq!(short_names(&[&a, &b]), ["en+es", "en+ja"]);
        assert_eq!(short_names(&[&a]), [""]);
    }

    #[test]
    fn controls_and_direction_overrides_are_shown_and_do_not_act() {
        assert_eq!(visible("a\0b\u{202E}c\r\n\t"), "a␀b[U+202E]c␍\n\t");
        assert_eq!(visible("می\u{200C}خواهم"), "می\u{200C}خواهم");
    }

    #[test]
    fn lists_and_scripts() {
        let words: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        assert_eq!(
            (list(&words), list(&words[..1]), list(&[])),
            ("a, b and c".into(), "a".into(), String::new())
        );
        assert!(
            right_to_left("ar")
                && right_to_left("ur")
                && right_to_left("he")
                && !right_to_left("th")
        );
        assert_eq!(language("ar"), "Arabic (ar)");
    }
}
