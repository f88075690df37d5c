//! The stemmers of XL-Sum's ROUGE: NLTK's Snowball stemmers in 15 languages, and one each for Bengali, Hindi and Turkish.
//!
//! In goes a lower-cased token, out comes its stem, letter for letter as in Python: NLTK 3.10 (whose Snowball is that of 2010, with
//! slips of its own that Snowball's current stemmers do not share) with its stop words left alone, bengali-stemmer and TurkishStemmer 1.3. Golden
//! words: `tests/fixtures/stems.tsv.zst`.
//!
//! NLTK keeps the regions R1, R2 and RV (snowballstem.org/texts/r1r2.html) as strings of their own and cuts them beside the
//! word; where it forgets to, they disagree with the word, and its results depend on that. So they are strings here too.

mod arabic;
mod french;
mod germanic;
mod indic;
mod nordic;
mod romance;
mod romanian;
mod russian;
mod turkish;
mod uralic;

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

type Stem = fn(&str) -> String;

/// A stemmer.
#[derive(Clone, Copy, Debug)]
pub struct Stemmer {
    language: &'static str,
    stem: Stem,
}

/// Languages by BCP 47 with NLTK's and XL-Sum's names.
const STEMMERS: &[(&str, &str, Stem)] = &[
    ("ar", "arabic", arabic::stem),
    ("bn", "bengali", indic::bengali),
    ("da", "danish", nordic::danish),
    ("de", "german", germanic::german),
    ("en", "english", germanic::english),
    ("es", "spanish", romance::spanish),
    ("fi", "finnish", uralic::finnish),
    ("fr", "french", french::stem),
    ("hi", "hindi", indic::hindi),
    ("hu", "hungarian", uralic::hungarian),
    ("it", "italian", romance::italian),
    ("nb", "norwegian", nordic::norwegian),
    ("nl", "dutch", germanic::dutch),
    ("no", "norwegian", nordic::norwegian),
    ("pt", "portuguese", romance::portuguese),
    ("ro", "romanian", romanian::stem),
    ("ru", "russian", russian::stem),
    ("sv", "swedish", nordic::swedish),
    ("tr", "turkish", turkish::stem),
];

impl Stemmer {
    /// The stemmer of a language, if XL-Sum has one.
    pub fn of(lang: &str) -> Option<Stemmer> {
        let language = lang.split('-').next().unwrap_or(lang);
        let found = STEMMERS.iter().find(|(tag, ..)| *tag == language)?;
        Some(Stemmer { language: found.1, stem: found.2 })
    }

    /// The language, by XL-Sum's name.
    pub fn name(self) -> &'static str {
        self.language
    }

    /// The stem of a lower-cased token.
    pub fn stem(self, token: &str) -> String {
        if is_stop_word(self.language, token) { token.to_owned() } else { (self.stem)(token) }
    }
}

fn is_stop_word(language: &str, word: &str) -> bool {
    STOP_WORDS.get(language).is_some_and(|words| words.contains(word))
}

/// NLTK's stop words that a stemmer would change, by language.
static STOP_WORDS: LazyLock<HashMap<&str, HashSet<&str>>> = LazyLock::new(|| {
    let lines = include_str!("../../../data/stop_words.tsv").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('\t'))
        .map(|(language, words)| (language, words.split(' ').collect()))
        .collect()
});

/// A word or one of its regions.
#[derive(Clone, Debug, Default, PartialEq)]
struct Part(Vec<char>);

impl Part {
    fn new(text: &str) -> Part {
        Part(text.chars().collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn ends(&self, suffix: &str) -> bool {
        let mut back = self.0.iter().rev();
        suffix.chars().rev().all(|c| back.next() == Some(&c))
    }

    fn starts(&self, prefix: &str) -> bool {
        let mut front = self.0.iter();
        prefix.chars().all(|c| front.next() == Some(&c))
    }

    /// The first of the suffixes, which stand between spaces, that it ends with.
    fn ending(&self, suffixes: &'static str) -> Option<&'static str> {
        suffixes.split_ascii_whitespace().find(|suffix| self.ends(suffix))
    }

    fn ends_any(&self, suffixes: &'static str) -> bool {
        self.ending(suffixes).is_some()
    }

    /// Where a text stands in it first.
    fn find(&self, text: &str) -> Option<usize> {
        let text: Vec<char> = text.chars().collect();
        self.0.windows(text.len()).position(|window| window == text)
    }

    /// Where a text stands in it last.
    fn find_last(&self, text: &str) -> Option<usize> {
        let text: Vec<char> = text.chars().collect();
        self.0.windows(text.len()).rposition(|window| window == text)
    }

    fn has(&self, text: &str) -> bool {
        self.find(text).is_some()
    }

    /// Drops the last `n` characters, all if there are fewer.
    fn cut(&mut self, n: usize) {
        self.0.truncate(self.0.len().saturating_sub(n));
    }

    /// Puts `new` in the place of the last `n` characters.
    fn swap(&mut self, n: usize, new: &str) {
        self.cut(n);
        self.0.extend(new.chars());
    }

    /// The `k`th character from the end, the last for 1.
    fn back(&self, k: usize) -> Option<char> {
        self.0.len().checked_sub(k).map(|at| self.0[at])
    }

    /// The characters from the `from`th to before the `to`th from the end: Python's `[-from:-to]`.
    fn slice(&self, from: usize, to: usize) -> String {
        let (start, end) = (self.0.len().saturating_sub(from), self.0.len().saturating_sub(to));
        self.0[start.min(end)..end].iter().collect()
    }

    /// Puts in the place of each character what `other` makes of it, from the first to the last; it sees what was done before.
    fn mark(&mut self, other: impl Fn(&[char], usize) -> Option<char>) {
        for at in 0..self.0.len() {
            if let Some(c) = other(&self.0, at) {
                self.0[at] = c;
            }
        }
    }

    fn replace(&mut self, pairs: &[(char, char)]) {
        for c in &mut self.0 {
            if let Some((_, to)) = pairs.iter().find(|(of, _)| of == c) {
                *c = *to;
            }
        }
    }

    fn text(&self) -> String {
        self.0.iter().collect()
    }
}

fn count(text: &str) -> usize {
    text.chars().count()
}

/// Drops the last `n` characters of each.
fn cut<const N: usize>(parts: [&mut Part; N], n: usize) {
    parts.into_iter().for_each(|part| part.cut(n));
}

/// Puts `new` in the place of the last `n` characters of each.
fn swap<const N: usize>(parts: [&mut Part; N], n: usize, new: &str) {
    parts.into_iter().for_each(|part| part.swap(n, new));
}

/// Whether there is a character and it is in the set.
fn is(c: Option<char>, set: &str) -> bool {
    c.is_some_and(|c| set.contains(c))
}

/// Whether the characters on both sides are in the set.
fn between(word: &[char], at: usize, set: &str) -> bool {
    at > 0 && is(Some(word[at - 1]), set) && is(word.get(at + 1).copied(), set)
}

/// The capital form of a character that is in `letters` and stands between two of `vowels`.
fn capital_between(word: &[char], at: usize, letters: &str, vowels: &str) -> Option<char> {
    let c = word[at];
    (letters.contains(c) && between(word, at, vowels)).then(|| c.to_ascii_uppercase())
}

/// The region behind the first non-vowel that follows a vowel: R1, and applied to R1 R2.
fn region(word: &Part, vowels: &str) -> Part {
    Part(word.0[first_closed(word, vowels).map_or(word.len(), |at| at + 1)..].to_vec())
}

/// Where the first non-vowel that follows a vowel is.
fn first_closed(word: &Part, vowels: &str) -> Option<usize> {
    (1..word.len()).find(|&at| !vowels.contains(word.0[at]) && vowels.contains(word.0[at - 1]))
}

/// R1 with at least three letters before it; nothing where no non-vowel follows a vowel.
fn region_behind_three(word: &Part, vowels: &str) -> Part {
    let start = first_closed(word, vowels).map_or(word.len(), |at| (at + 1).max(3));
    Part(word.0[start.min(word.len())..].to_vec())
}

/// RV of the Romance languages: behind the next vowel if the second letter is none, behind the next other letter if the first two are
/// vowels, or else behind the third letter.
fn vowel_region(word: &Part, vowels: &str) -> Part {
    let vowel = |at: usize| vowels.contains(word.0[at]);
    if word.len() < 2 {
        return Part::default();
    }
    let start = match (vowel(0), vowel(1)) {
        (_, false) => (2..word.len()).find(|&at| vowel(at)),
        (true, true) => (2..word.len()).find(|&at| !vowel(at)),
        (false, true) => Some(2),
    };
    Part(word.0[start.map_or(word.len(), |at| (at + 1).min(word.len()))..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_words_have_their_stems() {
        let packed = include_bytes!("../../../tests/fixtures/stems.tsv.zst");
        let text = String::from_utf8(zstd::decode_all(&packed[..]).expect("zstd")).expect("UTF-8");
        let mut seen = HashMap::<&str, usize>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let [lang, word, stem] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line:?}: three columns are needed")
            };
            let ours = Stemmer::of(lang).expect("a stemmer").stem(word);
            assert_eq!(ours, stem, "{lang}: {word}");
            *seen.entry(lang).or_default() += 1;
        }
        assert!(seen.len() == 18 && seen.values().all(|&words| words > 1500), "{seen:?}");
    }

    #[test]
    fn regions_are_those_of_snowballs_examples() {
        // snowballstem.org/texts/r1r2.html
        for (word, r1, r2) in [
            ("beautiful", "iful", "ul"),
            ("beauty", "y", ""),
            ("beau", "", ""),
            ("animadversion", "imadversion", "adversion"),
        ] {
            let first = region(&Part::new(word), "aeiouy");
            assert_eq!((first.text().as_str(), region(&first, "aeiouy").text().as_str()), (r1, r2));
        }
        for (word, rv) in [("macho", "ho"), ("oliva", "va"), ("trabajo", "bajo"), ("áureo", "eo")]
        {
            assert_eq!(vowel_region(&Part::new(word), "aeiouáéíóúü").text(), rv);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_token_panics(token in "\\PC{0,12}") {
            for (tag, ..) in STEMMERS {
                Stemmer::of(tag).expect("a stemmer").stem(&token);
            }
        }
    }
}
