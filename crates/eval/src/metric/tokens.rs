//! Words for ROUGE and for counting tokens on a line: the tokenizers, and the numbering that turns words into `u32` ids.
//!
//! `Ascii` is the default tokenizer of Google's rouge-score (`rouge_score/tokenize.py`): it knows a–z and 0–9 and nothing else,
//! so Arabic or Chinese text has no tokens at all. `Unicode` goes by characters alone: lower case, every punctuation mark and symbol
//! a separator, and one token a character in scripts that do not put spaces between words; it needs no language, no model and no
//! list. On ASCII text both agree. `XlSum` has a segmenter and a stemmer per language (`xlsum`).

use super::{porter, xlsum};
use std::collections::HashMap;
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark, is_nfc};
use unicode_script::{Script, UnicodeScript};

/// How text becomes words.
#[derive(Clone, Copy, Debug)]
pub enum Tokenizer<'a> {
    /// rouge-score's default: lower-cased runs of a–z and 0–9, stemmed where longer than three letters if `stem`.
    Ascii {
        /// Apply NLTK's Porter stemmer.
        stem: bool,
    },
    /// Lower-cased runs of letters, marks and digits of any script; single characters in scripts without spaces.
    Unicode,
    /// XL-Sum's for a language.
    XlSum(xlsum::Language<'a>),
    /// The same for a line of ROUGE-Lsum.
    XlSumLine(xlsum::Language<'a>),
}

impl<'a> Tokenizer<'a> {
    /// Calls `emit` with each token in order.
    pub fn each(self, text: &str, emit: impl FnMut(&str)) {
        match self {
            Tokenizer::Ascii { stem } => ascii(text, stem, emit),
            Tokenizer::Unicode => unicode(text, emit),
            Tokenizer::XlSum(language) => language.each(text, emit),
            Tokenizer::XlSumLine(language) => language.each_of_line(text, emit),
        }
    }

    /// The one for the lines of ROUGE-Lsum: the same but for XL-Sum's.
    pub fn of_lines(self) -> Tokenizer<'a> {
        match self {
            Tokenizer::XlSum(language) => Tokenizer::XlSumLine(language),
            other => other,
        }
    }

    /// The number of tokens in `text`.
    pub fn count(self, text: &str) -> usize {
        let mut tokens = 0;
        self.each(text, |_| tokens += 1);
        tokens
    }
}

/// Numbers words by first appearance, so that equal words have equal ids.
#[derive(Default)]
pub struct Vocabulary(HashMap<String, u32>);

impl Vocabulary {
    /// The id of `word`.
    pub fn id(&mut self, word: &str) -> u32 {
        if let Some(&id) = self.0.get(word) {
            return id;
        }
        let id = self.0.len() as u32;
        self.0.insert(word.to_owned(), id);
        id
    }

    /// The ids of a text's tokens.
    pub fn ids(&mut self, text: &str, tokenizer: Tokenizer) -> Vec<u32> {
        let mut ids = Vec::new();
        tokenizer.each(text, |token| ids.push(self.id(token)));
        ids
    }

    /// How many different words have an id.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

fn ascii(text: &str, stem: bool, mut emit: impl FnMut(&str)) {
    let mut word = String::new();
    let mut flush = |word: &mut String| {
        if !word.is_empty() {
            if stem && word.len() > 3 {
                porter::stem(word);
            }
            emit(word);
            word.clear();
        }
    };
    for c in text.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => word.push(c.to_ascii_lowercase()),
            // The only two characters beyond ASCII whose lower case has an ASCII letter: the Kelvin sign is "k", and the
            // dotted capital I is "i" and a combining dot, which separates.
            '\u{212A}' => word.push('k'),
            '\u{130}' => {
                word.push('i');
                flush(&mut word);
            }
            _ => flush(&mut word),
        }
    }
    flush(&mut word);
}

fn unicode(text: &str, mut emit: impl FnMut(&str)) {
    let mut lower = text.to_lowercase();
    if !lower.is_ascii() && !is_nfc(&lower) {
        lower = lower.nfc().collect();
    }
    let mut word = String::new();
    let mut single = false; // `word` is one character of a script without spaces: only marks may join it
    for c in lower.chars() {
        let class = class(c);
        let joins = match class {
            Class::Invisible => continue,
            Class::Mark if word.is_empty() => continue,
            Class::Mark => true,
            Class::Letter => !single,
            Class::Single | Class::Separator => false,
        };
        if !joins && !word.is_empty() {
            emit(&word);
            word.clear();
        }
        if class != Class::Separator {
            word.push(c);
        }
        if class != Class::Mark {
            single = class == Class::Single;
        }
    }
    if !word.is_empty() {
        emit(&word);
    }
}

/// What a character does to the word before it.
/// What a character does to a word.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Class {
    /// A letter or digit: joins letters.
    Letter,
    /// A letter of a script without spaces: a word of its own.
    Single,
    /// A combining mark: joins any word, starts none.
    Mark,
    /// Not seen.
    Invisible,
    /// Ends a word.
    Separator,
}

pub(super) fn class(c: char) -> Class {
    if c.is_ascii() {
        return if c.is_ascii_alphanumeric() { Class::Letter } else { Class::Separator };
    }
    if is_invisible(c) {
        Class::Invisible
    } else if is_combining_mark(c) {
        Class::Mark
    } else if !c.is_alphanumeric() {
        Class::Separator
    } else if is_unspaced(c) {
        Class::Single
    } else {
        Class::Letter
    }
}

/// Scripts written without spaces between words. Thai is the first of them by code point; Hangul is looked up most.
fn is_unspaced(c: char) -> bool {
    !matches!(c, ..'\u{E00}' | '\u{AC00}'..='\u{D7FF}')
        && matches!(
            c.script(),
            Script::Han
                | Script::Hiragana
                | Script::Katakana
                | Script::Thai
                | Script::Lao
                | Script::Khmer
                | Script::Myanmar
        )
}

/// Format characters inside a word (soft hyphen, zero-width joiners, direction marks, variation
/// selectors): two spellings with and without them are one word. The zero-width space is not among them: it separates words.
fn is_invisible(c: char) -> bool {
    let single = matches!(c, '\u{AD}' | '\u{61C}' | '\u{FEFF}');
    let marks =
        matches!(c, '\u{200C}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}');
    single || marks || matches!(c, '\u{FE00}'..='\u{FE0F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokenizer: Tokenizer, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        tokenizer.each(text, |w| words.push(w.to_owned()));
        words
    }

    #[test]
    fn no_other_character_lowercases_into_ascii() {
        let odd: Vec<char> = ('\u{80}'..=char::MAX)
            .filter(|c| c.to_lowercase().any(|l| l.is_ascii_alphanumeric()))
            .collect();
        assert_eq!(odd, ['\u{130}', '\u{212A}']);
    }

    #[test]
    fn both_tokenizers_agree_on_ascii() {
        let text: String =
            (0..128u8).map(char::from).chain("Don't_stop 3.5%-off E-MAIL".chars()).collect();
        assert_eq!(
            words(Tokenizer::Unicode, &text),
            words(Tokenizer::Ascii { stem: false }, &text)
        );
    }

    #[test]
    fn scripts_without_spaces_become_characters_and_others_words() {
        assert_eq!(words(Tokenizer::Unicode, "我有3个GPU。"), ["我", "有", "3", "个", "gpu"]);
        assert_eq!(words(Tokenizer::Unicode, "コーヒー 2杯"), ["コ", "ー", "ヒ", "ー", "2", "杯"]);
        // a Thai consonant keeps its vowel and tone marks
        assert_eq!(words(Tokenizer::Unicode, "ที่นี่"), ["ที่", "นี่"]);
        assert_eq!(words(Tokenizer::Unicode, "नमस्ते, दुनिया!"), ["नमस्ते", "दुनिया"]);
        assert_eq!(words(Tokenizer::Unicode, "안녕 세계"), ["안녕", "세계"]);
        assert_eq!(words(Tokenizer::Unicode, "كيف حالك؟"), ["كيف", "حالك"]);
    }

    #[test]
    fn spellings_of_one_word_are_one_token() {
        assert_eq!(words(Tokenizer::Unicode, "Cafe\u{301}"), words(Tokenizer::Unicode, "café"));
        assert_eq!(
            words(Tokenizer::Unicode, "می\u{200C}خواهم"),
            words(Tokenizer::Unicode, "میخواهم")
        );
        assert_eq!(words(Tokenizer::Unicode, "ΟΔΟΣ"), words(Tokenizer::Unicode, "οδος"));
        assert_eq!(words(Tokenizer::Unicode, "I ❤\u{FE0F} it"), ["i", "it"]);
    }
}
