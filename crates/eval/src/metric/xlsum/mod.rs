//! The words of XL-Sum's ROUGE (Hasan et al. 2021, `multilingual_rouge_scoring`): lower case, punctuation dropped, segmenters for Chinese,
//! Japanese, Thai and Burmese, stemmers for 18 languages on tokens of more than three characters.
//!
//! Equal to the tool at commit afcd803 with `use_stemmer=True`, jieba 0.42.1, PyThaiNLP 5.4.0 (newmm), MeCab over the same dictionary,
//! pyonmttok 1.38.1. Its ways are kept, since the name promises its numbers: format characters such as the zero-width joiner vanish, in
//! Chinese and Thai the spaces are words, and ROUGE-Lsum segments nothing.

mod burmese;
mod plain;
mod thai;

use std::sync::LazyLock;

use super::mecab::Dictionary;
use super::stem::Stemmer;

/// The words of one language.
#[derive(Clone, Copy, Debug)]
pub struct Language<'a> {
    segmenter: Segmenter<'a>,
    stemmer: Option<Stemmer>,
}

#[derive(Clone, Copy, Debug)]
enum Segmenter<'a> {
    /// Letters, digits and other characters apart; each Chinese character a word.
    Plain,
    Chinese,
    Thai,
    Burmese,
    Japanese(&'a Dictionary),
}

impl<'a> Language<'a> {
    /// The words of a language; `None` for Japanese without a dictionary.
    pub fn of(lang: &str, dictionary: Option<&'a Dictionary>) -> Option<Language<'a>> {
        let segmenter = match lang.split('-').next().unwrap_or(lang) {
            "zh" => Segmenter::Chinese,
            "th" => Segmenter::Thai,
            "my" => Segmenter::Burmese,
            "ja" => Segmenter::Japanese(dictionary?),
            _ => Segmenter::Plain,
        };
        Some(Language { segmenter, stemmer: Stemmer::of(lang) })
    }

    /// Segmenter and stemmer, as they stand in a signature.
    pub fn signature(lang: &str, dictionary: Option<&Dictionary>) -> String {
        let segmenter = match Language::of(lang, dictionary).map(|language| language.segmenter) {
            Some(Segmenter::Plain) => "pyonmttok-1.38.1".to_owned(),
            Some(Segmenter::Chinese) => "jieba-0.42.1".to_owned(),
            Some(Segmenter::Thai) => "pythainlp-5.4.0-newmm".to_owned(),
            Some(Segmenter::Burmese) => "xlsum-burmese".to_owned(),
            Some(Segmenter::Japanese(dictionary)) => dictionary.identity().to_owned(),
            None => "mecab".to_owned(),
        };
        let stemmer = Stemmer::of(lang).map_or("no", Stemmer::name);
        format!("tok:xlsum|seg:{segmenter}|stem:{stemmer}|case:lc|version:afcd803")
    }

    /// Calls `emit` with each word of a text in order.
    pub fn each(self, text: &str, mut emit: impl FnMut(&str)) {
        let clean = plain::clean(&text.to_lowercase());
        let mut stemmed = |word: &str| self.stemmed(word, &mut emit);
        match self.segmenter {
            Segmenter::Plain => plain::words(&clean, stemmed),
            Segmenter::Chinese => chinese(&clean, stemmed),
            Segmenter::Thai => thai::words(&clean, stemmed),
            Segmenter::Burmese => burmese::words(&clean).iter().for_each(|word| stemmed(word)),
            Segmenter::Japanese(dictionary) => dictionary.words(&clean, stemmed),
        }
    }

    /// The same for one line of ROUGE-Lsum, where XL-Sum forgets the segmenter.
    pub fn each_of_line(self, line: &str, mut emit: impl FnMut(&str)) {
        let clean = plain::clean(&line.to_lowercase());
        clean
            .split(' ')
            .filter(|word| !word.is_empty())
            .for_each(|word| self.stemmed(word, &mut emit));
    }

    fn stemmed(self, word: &str, emit: &mut impl FnMut(&str)) {
        match self.stemmer.filter(|_| word.chars().nth(3).is_some()) {
            Some(stemmer) => {
                let stem = stemmer.stem(word);
                if !stem.is_empty() {
                    emit(&stem);
                }
            }
            None => emit(word),
        }
    }
}

/// jieba's words. Its Python form segments the first CJK block and ASCII letters and digits; every other character, a space too, is
/// a word.
fn chinese(clean: &str, mut emit: impl FnMut(&str)) {
    let segmented = |c: char| matches!(c, '\u{4E00}'..='\u{9FD5}') || c.is_ascii_alphanumeric();
    let mut rest = clean;
    while let Some(first) = rest.chars().next() {
        let end = match segmented(first) {
            true => rest.find(|c| !segmented(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (run, after) = rest.split_at(end);
        match segmented(first) {
            true => JIEBA.cut(run, true).iter().for_each(|token| emit(token.word)),
            false => emit(run),
        }
        rest = after;
    }
}

static JIEBA: LazyLock<jieba_rs::Jieba> = LazyLock::new(jieba_rs::Jieba::new);

#[cfg(test)]
mod tests {
    use super::*;

    fn words(lang: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        Language::of(lang, None).expect("words").each(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn each_language_has_its_segmenter_and_stemmer() {
        let text = "The organizations' 3rd U.S.A. (2-3)";
        assert_eq!(words("en", text), ["the", "organ", "3", "rd", "u", "s", "a", "2", "3"]);
        assert_eq!(words("sw", text), ["the", "organizations", "3", "rd", "u", "s", "a", "2", "3"]);
        assert_eq!(words("zh-Hans", "我有3.5个GPU"), ["我", "有", "3", " ", "5", "个", "gpu"]);
        assert_eq!(words("th", "สวัสดีครับ GPU"), ["สวัสดี", "ครับ", " ", "gpu"]);
        assert_eq!(words("my", "ရန်ကုန်မြို့"), ["ရန်", "ကုန်", "မြို့"]);
        assert_eq!(words("hi", "लड़कियों"), ["लड़क"]);
        assert!(Language::of("ja", None).is_none());
    }
}
