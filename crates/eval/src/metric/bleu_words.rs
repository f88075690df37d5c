//! sacreBLEU's tokenizers 13a, intl, char, zh and none.
//!
//! The first two are lists of substitutions, each a pass over the text whose matches do not overlap; what they cut apart depends
//! on that, so the passes are kept as they are. A word is what stands between white space after the last pass.

use super::bleu::Tokenizer;
use super::category::group;
use super::chrf::is_space;
use unicode_properties::GeneralCategoryGroup as Group;

impl Tokenizer {
    /// Calls `emit` with each word of `text` in order.
    pub fn each(self, text: &str, mut emit: impl FnMut(&str)) {
        let text = text.trim_end_matches(is_space);
        let split = match self {
            Tokenizer::V13a => western(&format!(" {} ", plain(text))),
            Tokenizer::International => international(text),
            Tokenizer::Chinese => western(&chinese_apart(text)),
            Tokenizer::Character => {
                let characters = text.char_indices().filter(|(_, c)| !is_space(*c));
                return characters.for_each(|(at, c)| emit(&text[at..at + c.len_utf8()]));
            }
            Tokenizer::None => text.to_owned(),
        };
        split.split(is_space).filter(|word| !word.is_empty()).for_each(emit);
    }
}

/// The text on one line without mteval's markup.
fn plain(text: &str) -> String {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if !text.contains('&') {
        return text;
    }
    let entities = [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")];
    entities.iter().fold(text, |text, (entity, sign)| text.replace(entity, sign))
}

fn western(text: &str) -> String {
    let digit = |c: char| c.is_ascii_digit();
    let mark = |c: char| matches!(c, '.' | ',');
    let text = apart(text, |c| {
        c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.') || c == ' '
    });
    let text = pairs(&text, |a, b| !digit(a) && mark(b), ["", " ", " "]);
    let text = pairs(&text, |a, b| mark(a) && !digit(b), [" ", " ", ""]);
    pairs(&text, |a, b| digit(a) && b == '-', ["", " ", " "])
}

fn international(text: &str) -> String {
    let number = |c: char| group(c) == Group::Number;
    let mark = |c: char| group(c) == Group::Punctuation;
    let text = pairs(text, |a, b| !number(a) && mark(b), ["", " ", " "]);
    let text = pairs(&text, |a, b| mark(a) && !number(b), [" ", " ", ""]);
    apart(&text, |c| group(c) == Group::Symbol)
}

/// The text with spaces around each character that is `lone`.
fn apart(text: &str, lone: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len() * 3 / 2);
    for c in text.chars() {
        if lone(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// The text with `glue` before, between and behind two characters that `fit`; a pair starts behind the last.
fn pairs(text: &str, fit: impl Fn(char, char) -> bool, glue: [&str; 3]) -> String {
    let mut out = String::with_capacity(text.len() * 5 / 4);
    let mut characters = text.chars().peekable();
    while let Some(first) = characters.next() {
        match characters.peek().copied() {
            Some(second) if fit(first, second) => {
                characters.next();
                out.push_str(glue[0]);
                out.push(first);
                out.push_str(glue[1]);
                out.push(second);
                out.push_str(glue[2]);
            }
            _ => out.push(first),
        }
    }
    out
}

fn chinese_apart(text: &str) -> String {
    apart(text.trim_matches(is_space), is_chinese)
}

/// sacreBLEU's "Chinese characters". Two of its ranges are meant for the planes beyond U+FFFF but written with four hexadecimal digits,
/// and so cover U+2001–2A6D and U+2F81–2FA1 instead.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4DB5}' | '\u{4E00}'..='\u{9FBB}' | '\u{F900}'..='\u{FA2D}' | '\u{FA30}'..='\u{FA6A}'
        | '\u{FA70}'..='\u{FAD9}' | '\u{2001}'..='\u{2A6D}' | '\u{2F81}'..='\u{2FA1}' | '\u{FF00}'..='\u{FFEF}'
        | '\u{2E80}'..='\u{2EFF}' | '\u{3000}'..='\u{303F}' | '\u{31C0}'..='\u{31EF}' | '\u{2F00}'..='\u{2FDF}'
        | '\u{2FF0}'..='\u{2FFF}' | '\u{3100}'..='\u{312F}' | '\u{31A0}'..='\u{31BF}' | '\u{FE10}'..='\u{FE1F}'
        | '\u{FE30}'..='\u{FE4F}' | '\u{3200}'..='\u{33FF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokenizer: Tokenizer, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        tokenizer.each(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn numbers_stay_whole_and_marks_come_off() {
        let text = "It cost $1,200.50, \"or so\" (2-3 &amp; more).";
        let expected =
            "It cost $ 1,200.50 , \" or so \" ( 2 - 3 & more ) .".split(' ').collect::<Vec<_>>();
        assert_eq!(words(Tokenizer::V13a, text), expected);
    }

    #[test]
    fn only_intl_knows_the_marks_of_other_scripts() {
        assert_eq!(words(Tokenizer::V13a, "नमस्ते।"), ["नमस्ते।"]);
        assert_eq!(words(Tokenizer::International, "नमस्ते।"), ["नमस्ते", "।"]);
        // a full stop behind a digit at the end stays with it, as in mteval-v14
        assert_eq!(words(Tokenizer::International, "in 1999."), ["in", "1999."]);
    }

    #[test]
    fn chinese_characters_stand_alone() {
        assert_eq!(
            words(Tokenizer::Chinese, "我有3.5个GPU。"),
            ["我", "有", "3.5", "个", "GPU", "。"]
        );
        assert_eq!(words(Tokenizer::Character, "a b\n猫"), ["a", "b", "猫"]);
        assert_eq!(words(Tokenizer::None, "a, b"), ["a,", "b"]);
    }
}
