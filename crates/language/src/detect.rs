//! Language identification in two stages, among the experiment's languages, English and whatever the row declares.
//!
//! whatlang (trigrams and alphabets, 70 languages) answers first. It is fast, and when it is sure it is right; the allow list
//! lifts it from 95 to 98 % on sentences. Where it is unsure, where the text is too short for it, or where a candidate is a
//! language that it has never heard of (Swahili, Yoruba), lingua's n-gram models decide ([`crate::ngrams`]).

use std::collections::BTreeSet;
use std::sync::LazyLock;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whatlang::{Lang, Script};

use crate::ngrams::{self, HOPELESS, MODELS, Model, likeliest, model_of};
use crate::sample::Sample;
use crate::tag::{Tag, canonical, normalise, several_scripts, with_script};

/// The first detector's name and version: part of every artifact that its answers are in.
const NAME: &str = "whatlang 0.18.0";
/// Above this confidence an answer of either detector is called reliable (whatlang's own threshold). Of lingua's test data in 27
/// languages and Swahili, 98.8 % of the sentences and 67 % of the single words get a reliable answer; it is right in 99.7 and
/// 99.3 % of them, on the even lines, where the models' constants were set, as on the odd ones, which had no say.
const RELIABLE: f64 = 0.9;

/// Where whatlang is sure and only has to hold against languages it does not know, the lead at which that is decided.
const CHALLENGE: f64 = 60.0;

/// How languages are identified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accuracy {
    /// By whatlang alone: it has never heard of Swahili, and guesses at short texts.
    Fast,
    /// By whatlang where it is sure, and by lingua's n-gram models where it is not.
    #[default]
    Accurate,
}

/// Identifies languages among fixed candidates.
#[derive(Clone, Debug)]
pub struct Detector {
    accuracy: Accuracy,
    /// Candidates that whatlang knows; empty: all its languages.
    allowed: Vec<Lang>,
    candidates: Vec<String>,
    /// The candidates' models; without candidates all of them.
    models: Vec<&'static Model>,
}

/// What a detector found in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Canonical tag of the likeliest candidate; `None` where none fits or there is no running text.
    pub lang: Option<String>,
    /// ISO 15924 code of the script most letters are in.
    pub script: Option<String>,
    /// The deciding detector's confidence, 0 to 1.
    pub confidence: f64,
    /// Whether the confidence is above 0.9.
    pub reliable: bool,
    /// Letters that were looked at.
    pub letters: usize,
}

/// A language as one of the stages found it, with its confidence.
type Answer = Option<(String, f64)>;

impl Detector {
    /// An accurate detector for the experiment's languages and English; no candidates: every language that it knows.
    ///
    /// # Errors
    /// A user error for a candidate that is no language.
    pub fn new(candidates: &[String]) -> Result<Detector> {
        Detector::with(candidates, Accuracy::default())
    }

    /// The same, as accurate as is asked for.
    ///
    /// # Errors
    /// A user error for a candidate that is no language.
    pub fn with(candidates: &[String], accuracy: Accuracy) -> Result<Detector> {
        let mut tags: BTreeSet<String> =
            candidates.iter().map(|tag| canonical(tag)).collect::<Result<_>>()?;
        if !tags.is_empty() {
            tags.insert("en".to_string());
        }
        let allowed = tags.iter().filter_map(|tag| known(&normalise(tag)?)).collect();
        let named = tags.iter().filter_map(|tag| model_of(&normalise(tag)?));
        let models = match accuracy {
            Accuracy::Fast => Vec::new(),
            Accuracy::Accurate if tags.is_empty() => MODELS.iter().collect(),
            Accuracy::Accurate => named.collect(),
        };
        Ok(Detector { accuracy, allowed, candidates: tags.into_iter().collect(), models })
    }

    pub(crate) fn is_accurate(&self) -> bool {
        self.accuracy == Accuracy::Accurate
    }

    /// Both stages' names and versions, and the candidates, as they enter a cache key and a metric's signature.
    pub fn identity(&self) -> String {
        let candidates =
            if self.candidates.is_empty() { "all".to_string() } else { self.candidates.join(",") };
        match self.accuracy {
            Accuracy::Fast => format!("{NAME}; candidates {candidates}"),
            Accuracy::Accurate => format!("{NAME}, {}; candidates {candidates}", ngrams::NAME),
        }
    }

    /// Whether the experiment names this language (English always).
    pub fn is_candidate(&self, lang: &str) -> bool {
        self.candidates.iter().any(|candidate| candidate == lang)
    }

    /// Whether the detector can tell this language.
    pub fn knows(&self, lang: &str) -> bool {
        normalise(lang).is_some_and(|tag| self.knows_tag(&tag))
    }

    pub(crate) fn knows_tag(&self, tag: &Tag) -> bool {
        known(tag).is_some() || (self.accuracy == Accuracy::Accurate && model_of(tag).is_some())
    }

    /// Whether whatlang knows every candidate that is written in `script`.
    pub(crate) fn knows_all_in(&self, script: &str) -> bool {
        self.models.iter().all(|model| model.tag.script != script || known(&model.tag).is_some())
    }

    /// The likeliest candidate for a text. Of a long text some windows are looked at; code and addresses are not.
    pub fn detect(&self, text: &str) -> Detection {
        self.detect_sample(&Sample::new(text), None)
    }

    /// Detection with a row's declared language among the candidates.
    pub(crate) fn detect_sample(&self, sample: &Sample, declared: Option<&Tag>) -> Detection {
        let first = self.first(sample, declared);
        self.second(sample, declared, first)
    }

    /// whatlang's answer. Of a few words it is taken only where the models can have a second look.
    pub(crate) fn first(&self, sample: &Sample, declared: Option<&Tag>) -> Detection {
        let enough = match self.accuracy {
            Accuracy::Fast => sample.is_prose(),
            Accuracy::Accurate => sample.is_words(),
        };
        let answer = enough
            .then(|| self.identify(&sample.text, declared.and_then(known)))
            .flatten()
            .and_then(|(lang, confidence)| {
                Some((tag_of(lang, sample.letters.script())?, confidence))
            });
        detection(sample, answer)
    }

    /// The models' answer where the first is not to be trusted; else the first.
    pub(crate) fn second(
        &self,
        sample: &Sample,
        declared: Option<&Tag>,
        first: Detection,
    ) -> Detection {
        match self.reconsidered(sample, declared, &first) {
            Some(answer) => detection(sample, Some(answer)),
            None => first,
        }
    }

    /// What the models say, where they have a say.
    fn reconsidered(&self, sample: &Sample, declared: Option<&Tag>, first: &Detection) -> Answer {
        let script = first.script.as_deref().filter(|_| sample.is_words())?;
        let found = first.lang.as_deref().and_then(normalise);
        let found_model = found.as_ref().and_then(model_of);
        if self.accuracy == Accuracy::Fast || (found.is_some() && found_model.is_none()) {
            return None; // nothing to hold the answer against
        }
        let mut rivals: Vec<&Model> =
            self.models.iter().copied().filter(|model| model.tag.script == script).collect();
        for model in [declared.and_then(model_of), found_model].into_iter().flatten() {
            if model.tag.script == script && !rivals.iter().any(|rival| rival.tag == model.tag) {
                rivals.push(model);
            }
        }
        let answer = |rivals: &[&'static Model], hopeless| {
            let (best, confidence) = likeliest(&sample.text, rivals, hopeless)?;
            Some((best.tag.lang.clone(), confidence))
        };
        if let (true, Some(found)) = (first.reliable && sample.is_prose(), found_model) {
            // Sure, but of languages that it knows: it has to hold against those it does not know.
            let mut unknown: Vec<&Model> =
                rivals.iter().copied().filter(|rival| known(&rival.tag).is_none()).collect();
            if unknown.is_empty() {
                return None;
            }
            unknown.push(found);
            if answer(&unknown, CHALLENGE)?.0 == found.tag.lang {
                return None;
            }
        }
        if rivals.len() == 1 && script == "Latn" {
            rivals = MODELS.iter().filter(|model| model.tag.script == script).collect();
        }
        answer(&rivals, HOPELESS)
    }

    /// whatlang's answer as language and confidence.
    fn identify(&self, text: &str, declared: Option<Lang>) -> Option<(Lang, f64)> {
        let answer = |detector: whatlang::Detector| {
            detector.detect(text).map(|info| (info.lang(), info.confidence()))
        };
        if self.allowed.is_empty() {
            return answer(whatlang::Detector::new());
        }
        let mut allowed = self.allowed.clone();
        allowed.extend(declared.filter(|lang| !allowed.contains(lang)));
        let script = whatlang::detect_script(text)?;
        let rivals: Vec<Lang> =
            script.langs().iter().copied().filter(|lang| allowed.contains(lang)).collect();
        match rivals[..] {
            // One candidate among Latin script's many languages would win whatever the text says: it has to hold
            // against all of them, and gives way only to one that whatlang is sure of. (In other scripts whatlang
            // is too often sure and wrong for that: of 250 Russian questions it takes 4 for Bulgarian.)
            [sole] if script == Script::Latin => {
                let (lang, confidence) = answer(whatlang::Detector::new())?;
                if lang == sole || confidence > RELIABLE {
                    Some((lang, confidence))
                } else {
                    Some((sole, 1.0 - confidence))
                }
            }
            _ => answer(whatlang::Detector::with_allowlist(allowed)),
        }
    }
}

fn detection(sample: &Sample, answer: Answer) -> Detection {
    let confidence = answer.as_ref().map_or(0.0, |(_, confidence)| *confidence);
    Detection {
        lang: answer.map(|(lang, _)| lang),
        script: sample.letters.script().map(str::to_string),
        confidence,
        reliable: confidence > RELIABLE,
        letters: sample.letters.total(),
    }
}
/// whatlang's language for a tag, where it knows the language in that script.
fn known(tag: &Tag) -> Option<Lang> {
    TABLE
        .iter()
        .find(|entry| entry.tag.language() == tag.language() && entry.covers(&tag.script))
        .map(|entry| entry.lang)
}

/// The tag of what whatlang found; Han text says by its characters which form it is in.
fn tag_of(lang: Lang, script: Option<&str>) -> Option<String> {
    let tag = &TABLE.iter().find(|entry| entry.lang == lang)?.tag;
    match script.filter(|script| several_scripts(tag.language()).contains(script)) {
        Some(script) => with_script(tag.language(), script).map(|tag| tag.lang),
        None => Some(tag.lang.clone()),
    }
}

struct Entry {
    lang: Lang,
    tag: Tag,
}

impl Entry {
    fn covers(&self, script: &str) -> bool {
        self.tag.script == script || (self.lang == Lang::Cmn && matches!(script, "Hans" | "Hant"))
    }
}

/// whatlang's languages with the tag of the form that it knows (Serbian in Cyrillic, Azerbaijani in Latin).
static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let entry = |&lang: &Lang| {
        let tag = normalise(lang.code())?;
        let script = Script::all().iter().find(|script| script.langs().contains(&lang))?;
        let tag = match script {
            Script::Latin => with_script(tag.language(), "Latn")?,
            Script::Cyrillic => with_script(tag.language(), "Cyrl")?,
            _ => tag,
        };
        Some(Entry { lang, tag })
    };
    Lang::all().iter().filter_map(entry).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_names_the_locked_version() {
        let (name, version) = NAME.split_once(' ').unwrap();
        let locked = format!("name = \"{name}\"\nversion = \"{version}\"");
        assert!(
            include_str!("../../../Cargo.lock").contains(&locked),
            "Cargo.lock has another {name}"
        );
    }

    #[test]
    fn every_language_of_whatlang_has_a_tag() {
        assert_eq!(TABLE.len(), Lang::all().len());
        let detector = Detector::with(&[], Accuracy::Fast).unwrap();
        for lang in Lang::all() {
            assert!(TABLE.iter().any(|entry| entry.lang == *lang), "{lang:?}");
        }
        assert!(detector.knows("sr-Cyrl") && !detector.knows("sr-Latn"));
        assert!(detector.knows("zh-Hant") && detector.knows("Mandarin") && detector.knows("fil"));
        assert!(!detector.knows("sw") && !detector.knows("yo"));
    }

    #[test]
    fn a_sole_candidate_does_not_win_by_default() {
        let french =
            "Nous avons mangé toutes les pommes qui restaient dans le panier de la grand-mère.";
        for accuracy in [Accuracy::Fast, Accuracy::Accurate] {
            let detector = Detector::with(&["en".into(), "zh".into()], accuracy).unwrap();
            assert_eq!(detector.detect(french).lang.as_deref(), Some("fr"), "{accuracy:?}");
        }
    }
}
