//! The rule that settles a row's language from the tag it declares and the language detected, case by case.
//! Nothing is overwritten: the declared and the detected language stay beside the resolved one, and the rule names the case.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::UNDETERMINED;
use crate::detect::{Detection, Detector};
use crate::sample::Sample;
use crate::tag::{Tag, normalise, several_scripts, with_script};

/// How a row's language was settled, in the order in which the cases are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The text is in another script than the tag says: quarantined.
    ScriptMismatch,
    /// Too few letters, or mostly code, numbers or addresses: the tag stands.
    Undetermined,
    /// The detector finds the declared language.
    Agreed,
    /// The detector is sure of another language: quarantined.
    Contradicted,
    /// The detector finds another language but is not sure: the tag stands.
    Doubtful,
    /// The detector does not know the declared language: the tag stands.
    NotVerifiable,
    /// No tag, and the detector is sure: the detected language stands.
    Detected,
    /// No tag, and the detector is not sure: `und`; what it guessed stands beside it.
    Unsure,
    /// No tag and nothing detected: `und`.
    Unknown,
    /// Detection was switched off: the tag stands.
    NotChecked,
}

impl Rule {
    /// The name in the `lang_rule` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::ScriptMismatch => "script-mismatch",
            Rule::Undetermined => "undetermined",
            Rule::Agreed => "agreed",
            Rule::Contradicted => "contradicted",
            Rule::Doubtful => "doubtful",
            Rule::NotVerifiable => "not-verifiable",
            Rule::Detected => "detected",
            Rule::Unsure => "unsure",
            Rule::Unknown => "unknown",
            Rule::NotChecked => "not-checked",
        }
    }

    /// Whether a row of this case is kept apart rather than used.
    pub fn quarantines(self) -> bool {
        matches!(self, Rule::ScriptMismatch | Rule::Contradicted)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The settled language of a row, and what it was settled from.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    /// Canonical tag; `und` where nothing is known.
    pub lang: String,
    /// ISO 15924: of the settled language, or of the text where the two differ or no language is known.
    pub script: Option<String>,
    /// What the detector found, where it was asked.
    pub detected: Option<String>,
    /// The detector's confidence, where it was asked.
    pub confidence: Option<f64>,
    /// The case.
    pub rule: Rule,
}

impl Resolution {
    /// The declared tag taken at its word.
    pub fn unchecked(declared: Option<&Tag>) -> Resolution {
        Resolution {
            lang: declared.map_or(UNDETERMINED.to_string(), |tag| tag.lang.clone()),
            script: declared.map(|tag| tag.script.clone()),
            detected: None,
            confidence: None,
            rule: Rule::NotChecked,
        }
    }
}

/// Settles the language of a text that is declared as `declared`. A declared language that the first stage finds, even unsure, is
/// settled: two witnesses agree. The second stage is asked where they do not, and where the unsure first one does not know
/// all candidates.
pub fn resolve(declared: Option<&Tag>, text: &str, detector: &Detector) -> Resolution {
    let sample = Sample::new(text);
    let Some(declared) = declared else { return undeclared(&sample, detector) };
    settle(declared, sample, detector, Sample::is_prose, |sample, tag| {
        let first = detector.first(sample, Some(tag));
        let agrees = first.lang.as_deref().is_some_and(|lang| language_of(lang) == tag.language());
        let settled = agrees && (first.reliable || detector.knows_all_in(&tag.script));
        if settled { first } else { detector.second(sample, Some(tag), first) }
    })
}

/// Says whether a text is in the language that was `asked` for, by the same cases as [`resolve`]. Here the tag is a wish and
/// no witness: the second stage decides wherever the first is not sure, and a few words are enough for it. A text in the wrong
/// script is identified, too.
pub fn verify(asked: &Tag, text: &str, detector: &Detector) -> Resolution {
    let (sample, enough) = (Sample::new(text), |sample: &Sample| {
        if detector.is_accurate() { sample.is_words() } else { sample.is_prose() }
    });
    let mut verdict = settle(asked, sample.clone(), detector, enough, |sample, tag| {
        detector.detect_sample(sample, Some(tag))
    });
    if verdict.rule == Rule::ScriptMismatch {
        verdict.detected = detector.detect_sample(&sample, None).lang;
    }
    verdict
}

fn settle(
    declared: &Tag,
    sample: Sample,
    detector: &Detector,
    enough: impl Fn(&Sample) -> bool,
    look: impl Fn(&Sample, &Tag) -> Detection,
) -> Resolution {
    let tag = in_the_script_of(declared, &sample);
    let mut resolution = Resolution::unchecked(Some(&tag));
    if sample.letters.contradicts(&tag.script, enough(&sample)) {
        resolution.script = sample.letters.script().map(str::to_string);
        resolution.rule = Rule::ScriptMismatch;
        return resolution;
    }
    // A quotation in another script is legitimate: the detector is asked about the rest.
    let sample = sample.in_script(&tag.script);
    if !enough(&sample) {
        resolution.rule = Rule::Undetermined;
        return resolution;
    }
    if !detector.knows_tag(&tag) {
        resolution.rule = Rule::NotVerifiable;
        return resolution;
    }
    let found = look(&sample, &tag);
    resolution.confidence = found.lang.as_ref().map(|_| found.confidence);
    resolution.rule = match found.lang.as_deref() {
        None => Rule::Undetermined,
        Some(lang) if language_of(lang) == tag.language() => Rule::Agreed,
        Some(_) if found.reliable => Rule::Contradicted,
        Some(_) => Rule::Doubtful,
    };
    resolution.detected = found.lang;
    resolution
}

fn undeclared(sample: &Sample, detector: &Detector) -> Resolution {
    let found = detector.detect_sample(sample, None);
    let sure = found.lang.as_deref().filter(|_| found.reliable);
    Resolution {
        lang: sure.unwrap_or(UNDETERMINED).to_string(),
        script: sure.and_then(normalise).map(|tag| tag.script).or(found.script),
        confidence: found.lang.as_ref().map(|_| found.confidence),
        rule: match (&found.lang, sure) {
            (None, _) => Rule::Unknown,
            (_, None) => Rule::Unsure,
            _ => Rule::Detected,
        },
        detected: found.lang,
    }
}

/// A tag that leaves the script open (`sr`, `zh`) takes the text's, where the language is written in it.
fn in_the_script_of(declared: &Tag, sample: &Sample) -> Tag {
    let open = !declared.script_given;
    let script = sample
        .letters
        .script()
        .filter(|script| open && several_scripts(declared.language()).contains(script));
    script
        .and_then(|script| with_script(declared.language(), script))
        .unwrap_or_else(|| declared.clone())
}

fn language_of(lang: &str) -> &str {
    lang.split('-').next().unwrap_or(lang)
}
