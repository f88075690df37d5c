//! Language fidelity: is the answer in the language that was asked for? (Marchisio et al. 2024, "Understanding and Mitigating
//! Language Confusion in LLMs".)
//!
//! The paper's two rates are means of [`line_pass`] (LPR: every line of 5 or more words is in the right language) and
//! [`word_pass`] (WPR: of the answers that pass by line, those without a stray English word; not for languages in Latin
//! script); LCPR is their harmonic mean. Of the answer as a whole, [`whole`] says whether it is in the language asked for,
//! in English instead, or in another.
//!
//! A detector that finds another language counts as a miss even if it is unsure, as in the paper. Where nothing can be said,
//! because there are no letters or the detector does not know the language, there is no value rather than a wrong one.
//! Where the paper has fastText, MeCab, jieba and a word list, this has [`language::Detector`], characters, and a rule.

use language::{Detector, Resolution, Rule, Tag, normalise, verify};

use super::tokens::{Class, class};

/// Words from which on a line counts.
const LINE_WORDS: usize = 5;
/// In scripts without spaces so many characters count for one word, as MeCab and jieba find on average.
const CHARACTERS_A_WORD: usize = 2;
/// Letters from which on an English word is a stray one: shorter ones are units and abbreviations in every language.
const STRAY_LETTERS: usize = 4;

/// Whether a text is in a language.
#[derive(Clone, Debug, PartialEq)]
pub struct Fidelity {
    /// 1 yes, 0 no, `None` cannot be said.
    pub value: Option<f64>,
    /// The case, in the words of [`Rule`]; `empty` for no text.
    pub rule: &'static str,
    /// What the detector found, for a miss.
    pub detected: Option<String>,
}

/// Which share an answer counts towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Share {
    /// In the language asked for.
    Asked,
    /// In English, where that was not asked for.
    English,
    /// In another language, or empty.
    Other,
}

/// Whether the whole of `text` counts towards a share; the three add up to 1.
pub fn whole(text: &str, lang: &str, share: Share, detector: &Detector) -> Fidelity {
    let found = judge(text, normalise(lang).as_ref(), detector);
    let english = found.detected.as_deref() == Some("en");
    let value = found.value.map(|asked| match share {
        Share::Asked => asked,
        Share::English => f64::from(asked == 0.0 && english),
        Share::Other => f64::from(asked == 0.0 && !english),
    });
    Fidelity { value, ..found }
}

/// Whether every line of `text` with 5 or more words is in `lang`; no value where no line is that long.
pub fn line_pass(text: &str, lang: &str, detector: &Detector) -> Fidelity {
    if text.trim().is_empty() {
        return EMPTY;
    }
    let tag = normalise(lang);
    let mut passed = Fidelity { value: None, rule: "short lines", detected: None };
    for line in text.lines().filter(|line| words(line) >= LINE_WORDS) {
        let found = judge(line, tag.as_ref(), detector);
        match found.value {
            Some(value) if value < 1.0 => return found,
            Some(_) => passed = found,
            None if passed.value.is_none() => passed = found,
            None => {}
        }
    }
    passed
}

/// Whether an answer that passes by line has no stray English word in it; no value for a language in Latin script, where an
/// English word cannot be told from another.
pub fn word_pass(text: &str, lang: &str, detector: &Detector) -> Fidelity {
    let none = |rule| Fidelity { value: None, rule, detected: None };
    if normalise(lang).is_none_or(|tag| tag.script == "Latn") {
        return none("latin script");
    }
    match line_pass(text, lang, detector).value {
        Some(1.0) => {}
        Some(_) => return none("fails by line"),
        None => return none("short lines"),
    }
    match text.lines().filter(|line| words(line) >= LINE_WORDS).find_map(stray) {
        Some(word) => {
            Fidelity { value: Some(0.0), rule: "stray word", detected: Some(word.to_owned()) }
        }
        None => Fidelity { value: Some(1.0), rule: "no stray word", detected: None },
    }
}

/// LCPR: the harmonic mean of LPR and WPR.
pub fn combined(line_pass: f64, word_pass: f64) -> f64 {
    if line_pass + word_pass == 0.0 {
        return 0.0;
    }
    2.0 * line_pass * word_pass / (line_pass + word_pass)
}

/// The variant with the detector that decides it.
pub fn signature(form: &str, detector: &Detector) -> String {
    format!("{form}|{}", detector.identity())
}

const EMPTY: Fidelity = Fidelity { value: Some(0.0), rule: "empty", detected: None };

/// The number of words: between spaces, punctuation not counting, and by characters where there are no spaces.
fn words(line: &str) -> usize {
    let (mut words, mut characters) = (0, 0);
    for token in line.split_whitespace() {
        let single = token.chars().filter(|&c| class(c) == Class::Single).count();
        characters += single;
        words += usize::from(single == 0 && token.chars().any(|c| class(c) == Class::Letter));
    }
    words + characters / CHARACTERS_A_WORD
}

/// An English word in a line of another script: four or more small Latin letters that stand alone, between spaces or beside
/// a script that has none.
fn stray(line: &str) -> Option<&str> {
    let outside = |c: char| c.is_whitespace() || class(c) == Class::Single;
    let small = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
    line.split(outside)
        .map(|token| token.trim_matches(|c: char| class(c) == Class::Separator))
        .find(|token| token.len() >= STRAY_LETTERS && small(token))
}

fn judge(text: &str, asked: Option<&Tag>, detector: &Detector) -> Fidelity {
    if text.trim().is_empty() {
        return EMPTY;
    }
    let Some(asked) = asked else {
        return Fidelity { value: None, rule: Rule::Unknown.as_str(), detected: None };
    };
    let Resolution { rule, detected, script, .. } = verify(asked, text, detector);
    let value = match rule {
        Rule::Agreed => Some(1.0),
        Rule::ScriptMismatch | Rule::Contradicted | Rule::Doubtful => Some(0.0),
        Rule::Undetermined
        | Rule::NotVerifiable
        | Rule::Detected
        | Rule::Unsure
        | Rule::Unknown
        | Rule::NotChecked => None,
    };
    let miss = value == Some(0.0);
    Fidelity { value, rule: rule.as_str(), detected: detected.or(script).filter(|_| miss) }
}
#[cfg(test)]
mod tests {
    use super::*;

    const SPANISH: &str = "La niña compró tres manzanas y dos naranjas en el mercado.";
    const ENGLISH: &str = "The girl bought three apples and two oranges at the market.";
    const SWAHILI: &str = "Msichana alinunua matufaha matatu na machungwa mawili sokoni.";
    const RUSSIAN: &str = "Девочка вчера купила на рынке три яблока и два апельсина.";
    const JAPANESE: &str = "女の子は昨日市場でりんごを三つとオレンジを二つ買いました。";

    fn detector() -> Detector {
        let candidates = ["en", "es", "ja", "ru", "sw"].map(String::from);
        Detector::new(&candidates).expect("known languages")
    }

    fn asked(text: &str, lang: &str) -> Fidelity {
        whole(text, lang, Share::Asked, &detector())
    }

    #[test]
    fn the_right_language_passes_and_another_does_not() {
        for (text, lang) in [(SPANISH, "es"), (SWAHILI, "sw"), (RUSSIAN, "ru"), (JAPANESE, "ja")] {
            assert_eq!(asked(text, lang).value, Some(1.0), "{lang}");
            let english = asked(ENGLISH, lang);
            assert_eq!((english.value, english.detected.as_deref()), (Some(0.0), Some("en")));
        }
        assert_eq!(asked(SWAHILI, "es").detected.as_deref(), Some("sw"));
        assert_eq!(asked(ENGLISH, "ja").rule, "script-mismatch");
    }

    #[test]
    fn what_cannot_be_said_has_no_value() {
        assert_eq!(asked("18", "es").value, None);
        let lingala =
            asked("Mwana mwasi asombaki bapome misato na bandunda mibale na zando.", "ln");
        assert_eq!((lingala.value, lingala.rule), (None, "not-verifiable"));
        assert_eq!(line_pass("Sí, claro.", "es", &detector()).value, None);
    }

    #[test]
    fn an_empty_answer_is_a_miss() {
        assert_eq!(asked(" \n", "es").value, Some(0.0));
        assert_eq!(line_pass("", "es", &detector()).value, Some(0.0));
    }

    #[test]
    fn the_three_shares_of_an_answer_add_up_to_one() {
        for (text, lang, shares) in [
            (SPANISH, "es", [1.0, 0.0, 0.0]),
            (ENGLISH, "es", [0.0, 1.0, 0.0]),
            (ENGLISH, "en", [1.0, 0.0, 0.0]),
            (RUSSIAN, "es", [0.0, 0.0, 1.0]),
            ("", "es", [0.0, 0.0, 1.0]),
        ] {
            let found = [Share::Asked, Share::English, Share::Other]
                .map(|share| whole(text, lang, share, &detector()).value);
            assert_eq!(found, shares.map(Some), "{lang}: {text}");
        }
    }

    #[test]
    fn one_stray_line_fails_the_lines_but_not_the_whole() {
        let mostly = format!("{SPANISH}\n{SPANISH}\n{SPANISH}\nSí, claro.\n{ENGLISH}");
        assert_eq!(line_pass(&mostly, "es", &detector()).value, Some(0.0));
        assert_eq!(
            line_pass(&format!("{SPANISH}\nOK, let's go!\n18"), "es", &detector()).value,
            Some(1.0)
        );
    }

    #[test]
    fn a_line_counts_from_five_words_or_ten_characters() {
        assert_eq!(words("- uno, dos: tres (cuatro) cinco"), 5);
        assert_eq!(words("1. 2. 3. 4. 5."), 5);
        assert_eq!(words("女の子は昨日市場で"), 4);
        assert_eq!(words("女の子は昨日市場でり"), 5);
    }

    #[test]
    fn a_small_english_word_among_another_script_is_a_stray_one() {
        for (text, lang, word) in [
            ("Девочка вчера bought на рынке три яблока и два апельсина.", "ru", Some("bought")),
            ("女の子は昨日市場でapplesを三つとオレンジを二つ買いました。", "ja", Some("apples")),
            ("Девочка вчера купила на рынке iPhone, USB, Google и km два апельсина.", "ru", None),
            (RUSSIAN, "ru", None),
        ] {
            let found = word_pass(text, lang, &detector());
            assert_eq!(found.value, Some(f64::from(word.is_none())), "{text}");
            assert_eq!(found.detected.as_deref(), word, "{text}");
        }
        for (text, lang) in [(SPANISH, "es"), (ENGLISH, "ru"), ("Да, да.", "ru")] {
            assert_eq!(word_pass(text, lang, &detector()).value, None, "{text}");
        }
    }

    /// Marchisio et al. (2024), section 3: LCPR = 2 · LPR · WPR / (LPR + WPR).
    #[test]
    fn the_combined_rate_is_the_harmonic_mean() {
        assert_eq!(combined(0.5, 1.0), 2.0 / 3.0);
        assert_eq!(combined(0.0, 0.0), 0.0);
    }
}
