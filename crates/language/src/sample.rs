//! What a detector should look at: a few windows of a text (so that time does not grow with its length), without fenced
//! code, addresses, formulas and other tokens that are in no language, and a count of what was found.

use crate::script::{Letters, letter_script, unicode_scripts};

/// Texts up to this many bytes are looked at whole; of longer ones three windows are, at the start, middle and end.
const WHOLE_BYTES: usize = 900;
const WINDOW_BYTES: usize = WHOLE_BYTES / 3;
/// Below this many letters of prose a detector only guesses.
pub(crate) const LETTERS_MIN: usize = 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// The prose found, words separated by spaces.
    pub text: String,
    /// Letters of the prose and of code, by script.
    pub letters: Letters,
    /// Letters of the prose.
    prose: usize,
    /// Characters that are not white space.
    visible: usize,
}

impl Sample {
    pub(crate) fn new(text: &str) -> Sample {
        let mut sample = Sample::default();
        if text.len() <= WHOLE_BYTES {
            sample.window(text);
        } else {
            for start in [0, (text.len() - WINDOW_BYTES) / 2, text.len() - WINDOW_BYTES] {
                let (from, to) = (
                    text.ceil_char_boundary(start),
                    text.floor_char_boundary(start + WINDOW_BYTES),
                );
                sample.window(&text[from..to]);
            }
        }
        sample
    }

    /// Whether there is enough running text to say a language: not a few letters, not mostly code, numbers, addresses.
    pub(crate) fn is_prose(&self) -> bool {
        self.prose >= LETTERS_MIN && 2 * self.prose >= self.visible
    }

    /// Whether what there is, be it one word, is not mostly code, numbers and addresses.
    pub(crate) fn is_words(&self) -> bool {
        self.prose > 0 && 3 * self.prose >= self.visible
    }

    /// The part of the sample that is in one script (ISO 15924), with what is in none.
    pub(crate) fn in_script(self, script: &str) -> Sample {
        if !self.letters.has_other_than(script) {
            return self;
        }
        let scripts = unicode_scripts(script);
        let other = |c: char| letter_script(c).is_some_and(|found| !scripts.contains(&found));
        let text: String = self.text.chars().map(|c| if other(c) { ' ' } else { c }).collect();
        let mut sample = Sample::default();
        sample.window(&text);
        sample
    }

    fn window(&mut self, window: &str) {
        let mut fenced = false;
        for token in window.split_whitespace() {
            if token.starts_with("```") {
                fenced = !fenced;
                continue;
            }
            let code = fenced || is_code(token);
            for c in token.chars() {
                self.visible += 1;
                let letter = self.letters.add(c);
                // A letter of another script is prose wherever it stands: code is written in ASCII.
                let prose = !code || !c.is_ascii();
                self.prose += usize::from(letter && prose);
                if prose {
                    self.text.push(c);
                }
            }
            self.text.push(' ');
        }
    }
}

/// Whether a token is an address, a formula, an identifier or another piece of code, once its punctuation is taken off.
fn is_code(token: &str) -> bool {
    let word = token.trim_matches(|c: char| c.is_ascii_punctuation());
    let code_byte = |b: u8| b.is_ascii_digit() || b"{}[]()<>=_/\\|#&*+^~$%@:;`".contains(&b);
    word.bytes().any(code_byte) || token.contains("()") || token.ends_with([';', '{', '}', '='])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_addresses_and_numbers_are_not_prose() {
        for text in [
            "for i in range(10): print(i * 2 + offset[3])",
            "https://example.org/a/very/long/path/with/many/words?and=arguments",
            "12 345 678 90 11 12 13 14 15 16 17 18 19 apples and pears, more",
            "```\nthe code in here is not running text at all\n``` yes",
        ] {
            assert!(!Sample::new(text).is_prose(), "{text}");
        }
        for text in [
            "Weng earns $12 an hour for babysitting, she said.",
            "翁每小时做保姆工作赚12美元。昨天，她只做了50分钟的保姆工作。",
        ] {
            assert!(Sample::new(text).is_prose(), "{text}");
        }
    }

    #[test]
    fn a_long_text_is_sampled_at_character_boundaries() {
        for word in ["слово ", "words ", "คำ", "字"] {
            let sample = Sample::new(&word.repeat(20_000));
            assert!(sample.is_prose(), "{word}");
            assert!(sample.text.len() <= 2 * WHOLE_BYTES, "{} bytes", sample.text.len());
        }
    }
}
