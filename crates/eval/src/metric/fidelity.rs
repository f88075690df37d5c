//! Language fidelity: is the answer in the language that was asked for? (Marchisio et al. 2024, "Understanding and Mitigating
//! Language Confusion in LLMs".)
//!
//! Two forms: of the answer as a whole, and of its lines (the pass rate LPR: every line of 5 or more words is in the right
//! language). A detector that finds another language counts as a miss even if it is unsure, as in the paper. Where nothing
//! can be said, because there are too few letters or the detector does not know the language, there is no value rather
//! than a wrong one.

use super::tokens::Tokenizer;
use language::{Detector, Rule, Tag, normalise, resolve};

/// Words from which on a line counts.
const LINE_WORDS: usize = 5;

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

/// Whether the whole of `text` is in `lang`.
pub fn language_fidelity(text: &str, lang: &str, detector: &Detector) -> Fidelity {
    judge(text, normalise(lang).as_ref(), detector)
}

/// Whether every line of `text` with 5 or more words is in `lang`; where no line is that long, the whole text.
pub fn line_pass(text: &str, lang: &str, detector: &Detector) -> Fidelity {
    let tag = normalise(lang);
    let lines = text.lines().filter(|line| Tokenizer::Unicode.count(line) >= LINE_WORDS);
    let mut judged = lines
        .map(|line| judge(line, tag.as_ref(), detector))
        .filter(|line| line.value.is_some())
        .peekable();
    if judged.peek().is_none() {
        return judge(text, tag.as_ref(), detector);
    }
    let passed = Fidelity { value: Some(1.0), rule: Rule::Agreed.as_str(), detected: None };
    judged.find(|line| line.value == Some(0.0)).unwrap_or(passed)
}

/// The variant with the detector that decides it.
pub fn signature(form: &str, detector: &Detector) -> String {
    format!("{form}|{}", detector.identity())
}

fn judge(text: &str, asked: Option<&Tag>, detector: &Detector) -> Fidelity {
    if text.trim().is_empty() {
        return Fidelity { value: Some(0.0), rule: "empty", detected: None };
    }
    let found = resolve(asked, text, detector);
    let value = match found.rule {
        Rule::Agreed => Some(1.0),
        Rule::ScriptMismatch | Rule::Contradicted | Rule::Doubtful => Some(0.0),
        Rule::Undetermined
        | Rule::NotVerifiable
        | Rule::Detected
        | Rule::Unknown
        | Rule::NotChecked => None,
    };
    let miss = value == Some(0.0);
    Fidelity {
        value,
        rule: found.rule.as_str(),
        detected: found.detected.or(found.script).filter(|_| miss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANISH: &str = "La niña compró tres manzanas y dos naranjas en el mercado.";
    const ENGLISH: &str = "The girl bought three apples and two oranges at the market.";

    fn detector() -> Detector {
        Detector::new(&["en".into(), "es".into(), "ja".into(), "sw".into()])
            .expect("known languages")
    }

    #[test]
    fn the_right_language_passes_and_another_does_not() {
        assert_eq!(language_fidelity(SPANISH, "es", &detector()).value, Some(1.0));
        assert_eq!(language_fidelity(ENGLISH, "es", &detector()).value, Some(0.0));
        let script = language_fidelity(ENGLISH, "ja", &detector());
        assert_eq!((script.value, script.rule), (Some(0.0), "script-mismatch"));
    }

    #[test]
    fn what_cannot_be_said_has_no_value() {
        assert_eq!(language_fidelity("18", "es", &detector()).value, None);
        let swahili = language_fidelity(
            "Msichana alinunua matufaha matatu na machungwa mawili sokoni.",
            "sw",
            &detector(),
        );
        assert_eq!((swahili.value, swahili.rule), (None, "not-verifiable"));
    }

    #[test]
    fn an_empty_answer_is_a_miss() {
        assert_eq!(language_fidelity(" \n", "es", &detector()).value, Some(0.0));
        assert_eq!(line_pass("", "es", &detector()).value, Some(0.0));
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
}
