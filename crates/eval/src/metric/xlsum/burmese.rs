//! Burmese syllables, by the rules of Ding et al. 2019 (doi 10.1145/3325885) as XL-Sum has them.
//!
//! A letter takes the dependent signs behind it; a short unit with a killer joins the one before; stacked letters join. White space
//! goes first, so every other character, Latin ones too, is a unit of its own.

const ASAT: char = '\u{103A}';
const DOT: char = '\u{1037}';
const STACK: &str = "\u{1039}";

/// The syllables of a cleaned text.
pub fn words(clean: &str) -> Vec<String> {
    let ordered = clean.replace("\u{1037}\u{103A}", "\u{103A}\u{1037}");
    let mut units: Vec<String> = Vec::new();
    for c in ordered.chars().filter(|c| !c.is_whitespace()) {
        match units.last_mut() {
            Some(unit) if is_dependent(c) => unit.push(c),
            _ => units.push(c.to_string()),
        }
    }
    // One that has just been joined is empty, and the next joins that emptiness: it becomes a unit of its own.
    for at in 1..units.len() {
        if units[at].contains(ASAT) && units[at].chars().count() < 4 {
            let unit = std::mem::take(&mut units[at]);
            units[at - 1].push_str(&unit);
        }
    }
    units.retain(|unit| !unit.is_empty());
    stacked(units)
}

/// Joins what stands on both sides of a stacking sign that is a unit of its own.
fn stacked(units: Vec<String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::with_capacity(units.len());
    let mut open = false;
    let last = units.len().saturating_sub(1);
    for (at, unit) in units.into_iter().enumerate() {
        let stack = unit == STACK && at > 0 && at < last && !open;
        match joined.last_mut() {
            Some(before) if stack || open => before.push_str(&unit),
            _ => joined.push(unit),
        }
        open = stack;
    }
    joined
}

fn is_dependent(c: char) -> bool {
    c == ASAT
        || c == DOT
        || matches!(c, '\u{102B}'..='\u{1032}' | '\u{1036}'..='\u{1038}' | '\u{103B}'..='\u{103E}')
}
