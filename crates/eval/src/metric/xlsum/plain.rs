//! XL-Sum's cleaning (after BERT's basic tokenizer), and its words where a language has no segmenter: pyonmttok's "aggressive" mode.

use super::super::category::group;
use unicode_properties::GeneralCategoryGroup as Group;

/// The text without control, format, unassigned and private characters, with one space for any run of white space and punctuation.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut apart = false;
    for c in text.chars() {
        match kind(c) {
            Kind::Dropped => {}
            Kind::Space => apart = true,
            Kind::Kept => {
                if apart && !out.is_empty() {
                    out.push(' ');
                }
                apart = false;
                out.push(c);
            }
        }
    }
    out
}

enum Kind {
    Kept,
    Dropped,
    Space,
}

fn kind(c: char) -> Kind {
    if c.is_ascii() {
        return match c {
            ' ' | '\t' | '\n' | '\r' => Kind::Space,
            _ if c.is_ascii_control() => Kind::Dropped,
            _ if c.is_ascii_punctuation() => Kind::Space,
            _ => Kind::Kept,
        };
    }
    match group(c) {
        _ if c == '\u{FFFD}' => Kind::Dropped,
        Group::Other => Kind::Dropped,
        // Lines and paragraphs are split at too: Python counts their separators as white space.
        Group::Separator | Group::Punctuation => Kind::Space,
        _ => Kind::Kept,
    }
}

/// Runs of letters, runs of digits and any other character are words, each with the marks behind it; and each Chinese character.
pub fn words(clean: &str, mut emit: impl FnMut(&str)) {
    let mut word = String::new();
    let mut before = Group::Separator;
    let mut characters = clean.chars().peekable();
    while let Some(c) = characters.next() {
        let mut now = group(c);
        if now != before || !matches!(now, Group::Letter | Group::Number) {
            without_chinese(&mut word, &mut emit);
        }
        let mut marks =
            std::iter::from_fn(|| characters.next_if(|&c| group(c) == Group::Mark)).peekable();
        match now {
            Group::Separator if marks.peek().is_none() => {}
            Group::Separator => {
                word.push_str("％0020"); // pyonmttok writes out a space that carries a mark
                now = Group::Other;
            }
            _ => word.push(substitute(c)),
        }
        word.extend(marks);
        before = now;
    }
    without_chinese(&mut word, &mut emit);
}

/// Characters that mean something to pyonmttok are replaced by others that look like them.
fn substitute(c: char) -> char {
    match c {
        '▁' => '_',
        '￭' => '■',
        '￨' => '│',
        _ => c,
    }
}

/// Emits a token, its Chinese characters apart, and empties it.
fn without_chinese(token: &mut String, emit: &mut impl FnMut(&str)) {
    let mut rest = token.as_str();
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_chinese(*c)) {
        let (chinese, after) = rest[at..].split_at(c.len_utf8());
        [&rest[..at], chinese].into_iter().filter(|word| !word.is_empty()).for_each(&mut *emit);
        rest = after;
    }
    if !rest.is_empty() {
        emit(rest);
    }
    token.clear();
}

/// The blocks of Chinese characters that XL-Sum and BERT know.
pub fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{20000}'..='\u{2A6DF}' | '\u{2A700}'..='\u{2B73F}'
        | '\u{2B740}'..='\u{2B81F}' | '\u{2B820}'..='\u{2CEAF}' | '\u{F900}'..='\u{FAFF}' | '\u{2F800}'..='\u{2FA1F}')
}
