//! BLEU (Papineni et al. 2002): the geometric mean of the precisions of word n-grams up to order 4, times a penalty for brevity, from
//! 0 to 100.
//!
//! Equal to sacreBLEU 2.6 with one reference and its defaults: for one answer `sentence_bleu` (exponential smoothing, only the orders
//! that the answer is long enough for), for a corpus `corpus_bleu` over the summed counts. A mean of the former is not the latter.

use super::chrf::is_space;
use super::mecab::{Dictionary, NO_DICTIONARY};
use super::ngrams::{Suffixes, common};
use super::tokens::Vocabulary;

const ORDER: usize = 4;

/// What BLEU is computed from; counts of several answers add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    hypothesis: u64,
    reference: u64,
    correct: [u64; ORDER],
    total: [u64; ORDER],
}

/// The words of one language.
#[derive(Clone, Copy, Debug)]
pub enum Words<'a> {
    /// One of sacreBLEU's own tokenizers.
    Rules(Tokenizer),
    /// Japanese words by a MeCab dictionary; IPADIC's are sacreBLEU's.
    Mecab(&'a Dictionary),
}

impl<'a> Words<'a> {
    /// The tokenizer's words, or those that sacreBLEU chooses for a language; why there are none.
    pub fn of(
        tokenizer: Option<Tokenizer>,
        lang: &str,
        dictionary: Option<&'a Dictionary>,
    ) -> Result<Words<'a>, &'static str> {
        match (tokenizer, lang.split('-').next().unwrap_or(lang)) {
            (Some(tokenizer), _) => Ok(Words::Rules(tokenizer)),
            (None, "zh") => Ok(Words::Rules(Tokenizer::Chinese)),
            (None, "ja") => dictionary.map(Words::Mecab).ok_or(NO_DICTIONARY),
            (None, "ko") => Err(
                "sacreBLEU segments Korean with mecab-ko, which is not built in: name a tokenizer, such as bleu_char",
            ),
            (None, _) => Ok(Words::Rules(Tokenizer::V13a)),
        }
    }

    /// sacreBLEU's name.
    fn name(self) -> String {
        match self {
            Words::Rules(tokenizer) => tokenizer.name().to_owned(),
            Words::Mecab(dictionary) => format!("ja-{}", dictionary.identity()),
        }
    }

    fn each(self, text: &str, mut emit: impl FnMut(&str)) {
        match self {
            Words::Rules(tokenizer) => tokenizer.each(text, emit),
            Words::Mecab(dictionary) => dictionary.words(text.trim_matches(is_space), |word| {
                word.split(is_space).filter(|word| !word.is_empty()).for_each(&mut emit);
            }),
        }
    }
}

/// The variant in sacreBLEU's notation.
pub fn signature(words: Result<Words, &str>) -> String {
    let tokenizer = words.map_or("mecab".to_owned(), Words::name);
    format!("BLEU|nrefs:1|case:mixed|eff:yes|tok:{tokenizer}|smooth:exp|version:2.6.0")
}

impl Counts {
    /// The counts of one answer.
    pub fn new(hypothesis: &str, reference: &str, words: Words) -> Counts {
        let mut vocabulary = Vocabulary::default();
        let mut ids = |text: &str| {
            let mut ids = Vec::new();
            words.each(text, |word| ids.push(vocabulary.id(word)));
            ids
        };
        let (hypothesis, reference) = (ids(hypothesis), ids(reference));
        Counts::of(&hypothesis, &reference)
    }

    /// The counts of one answer, whose words and the reference's were numbered by one vocabulary.
    fn of(hypothesis: &[u32], reference: &[u32]) -> Counts {
        let suffixes = |ids: &[u32]| Suffixes::<ORDER, 32>::of_reversed(ids.iter().rev().copied());
        let (ours, theirs) = (suffixes(hypothesis), suffixes(reference));
        let mut counts = Counts {
            hypothesis: hypothesis.len() as u64,
            reference: reference.len() as u64,
            ..Counts::default()
        };
        for n in 1..=ORDER {
            counts.correct[n - 1] = common(&ours.grams(n), &theirs.grams(n)) as u64;
            counts.total[n - 1] = (hypothesis.len() + 1).saturating_sub(n) as u64;
        }
        counts
    }

    /// Adds another answer's counts.
    pub fn add(&mut self, other: &Counts) {
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
        for n in 0..ORDER {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
    }

    /// BLEU of one answer: orders that it is too short for do not count.
    pub fn sentence(&self) -> f64 {
        self.score(true)
    }

    /// BLEU of all answers whose counts are in here.
    pub fn corpus(&self) -> f64 {
        self.score(false)
    }

    fn score(&self, effective_order: bool) -> f64 {
        if self.correct == [0; ORDER] {
            return 0.0;
        }
        let mut precisions = [0.0; ORDER];
        let (mut smooth, mut orders) = (1.0, ORDER);
        for (n, precision) in precisions.iter_mut().enumerate() {
            let (correct, total) = (self.correct[n], self.total[n] as f64);
            if self.total[n] == 0 {
                break;
            }
            if effective_order {
                orders = n + 1;
            }
            *precision = if correct == 0 {
                smooth *= 2.0;
                100.0 / (smooth * total)
            } else {
                100.0 * correct as f64 / total
            };
        }
        // sacreBLEU's logarithm of 0
        let logarithm = |p: &f64| if *p == 0.0 { -9_999_999_999.0 } else { p.ln() };
        let sum: f64 = precisions[..orders].iter().map(logarithm).fold(0.0, |sum, log| sum + log);
        self.brevity_penalty() * (sum / orders as f64).exp()
    }

    fn brevity_penalty(&self) -> f64 {
        let (hypothesis, reference) = (self.hypothesis as f64, self.reference as f64);
        match self.hypothesis {
            0 if self.reference > 0 => 0.0,
            length if length < self.reference => (1.0 - reference / hypothesis).exp(),
            _ => 1.0,
        }
    }
}

/// How text becomes BLEU's words, by sacreBLEU's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tokenizer {
    /// mteval-v13a: ASCII punctuation apart from words, numbers kept whole.
    V13a,
    /// mteval-v14: every script's punctuation and symbols apart.
    International,
    /// Each character but white space.
    Character,
    /// Each Chinese character, the rest as 13a.
    Chinese,
    /// Split at white space alone.
    None,
}

impl Tokenizer {
    /// sacreBLEU's name.
    pub fn name(self) -> &'static str {
        match self {
            Tokenizer::V13a => "13a",
            Tokenizer::International => "intl",
            Tokenizer::Character => "char",
            Tokenizer::Chinese => "zh",
            Tokenizer::None => "none",
        }
    }
}
