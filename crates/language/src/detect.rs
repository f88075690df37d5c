//! Language identification by whatlang (trigrams and alphabets, 70 languages), among the experiment's languages, English
//! and whatever the row declares. The allow list lifts whatlang from 95 to 98 % on sentences.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use anyhow::Result;
use whatlang::{Lang, Script};

use crate::sample::Sample;
use crate::tag::{Tag, canonical, normalise, several_scripts, with_script};

/// The detector's name and version: part of every artifact that its answers are in.
const NAME: &str = "whatlang 0.18.0";
/// whatlang calls an answer reliable above this confidence.
const RELIABLE: f64 = 0.9;

/// Identifies languages among fixed candidates.
#[derive(Clone, Debug)]
pub struct Detector {
    /// Candidates that whatlang knows; empty: all its languages.
    allowed: Vec<Lang>,
    candidates: Vec<String>,
}

/// What a detector found in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Canonical tag of the likeliest candidate; `None` where none fits or there is no running text.
    pub lang: Option<String>,
    /// ISO 15924 code of the script most letters are in.
    pub script: Option<String>,
    /// whatlang's confidence, 0 to 1.
    pub confidence: f64,
    /// Whether the confidence is above whatlang's threshold of 0.9 (then at least 96 % right for every language).
    pub reliable: bool,
    /// Letters that were looked at.
    pub letters: usize,
}

impl Detector {
    /// A detector for the experiment's languages and English; no candidates: every language whatlang knows.
    ///
    /// # Errors
    /// A user error for a candidate that is no language.
    pub fn new(candidates: &[String]) -> Result<Detector> {
        let mut tags: BTreeSet<String> =
            candidates.iter().map(|tag| canonical(tag)).collect::<Result<_>>()?;
        if !tags.is_empty() {
            tags.insert("en".to_string());
        }
        let allowed = tags.iter().filter_map(|tag| known(&normalise(tag)?)).collect();
        Ok(Detector { allowed, candidates: tags.into_iter().collect() })
    }

    /// Name, version and candidates, as they enter a cache key.
    pub fn identity(&self) -> String {
        let candidates =
            if self.candidates.is_empty() { "all".to_string() } else { self.candidates.join(",") };
        format!("{NAME}; candidates {candidates}")
    }

    /// Whether the experiment names this language (English always).
    pub fn is_candidate(&self, lang: &str) -> bool {
        self.candidates.iter().any(|candidate| candidate == lang)
    }

    /// Whether the detector can tell this language (it cannot tell Swahili).
    pub fn knows(&self, lang: &str) -> bool {
        normalise(lang).is_some_and(|tag| self.knows_tag(&tag))
    }

    pub(crate) fn knows_tag(&self, tag: &Tag) -> bool {
        known(tag).is_some()
    }

    /// The likeliest candidate for a text. Of a long text some windows are looked at; code and addresses are not.
    pub fn detect(&self, text: &str) -> Detection {
        self.detect_sample(&Sample::new(text), None)
    }

    /// Detection with a row's declared language among the candidates.
    pub(crate) fn detect_sample(&self, sample: &Sample, declared: Option<&Tag>) -> Detection {
        let script = sample.letters.script();
        let info = if sample.is_prose() {
            self.identify(&sample.text, declared.and_then(known))
        } else {
            None
        };
        Detection {
            lang: info.and_then(|(lang, _)| tag_of(lang, script)),
            script: script.map(str::to_string),
            confidence: info.map_or(0.0, |(_, confidence)| confidence),
            reliable: info.is_some_and(|(_, confidence)| confidence > RELIABLE),
            letters: sample.letters.total(),
        }
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
        let detector = Detector::new(&[]).unwrap();
        for lang in Lang::all() {
            assert!(TABLE.iter().any(|entry| entry.lang == *lang), "{lang:?}");
        }
        assert!(detector.knows("sr-Cyrl") && !detector.knows("sr-Latn"));
        assert!(detector.knows("zh-Hant") && detector.knows("Mandarin") && detector.knows("fil"));
        assert!(!detector.knows("sw") && !detector.knows("yo"));
    }

    #[test]
    fn a_sole_candidate_does_not_win_by_default() {
        let detector = Detector::new(&["en".into(), "zh".into()]).unwrap();
        let french =
            "Nous avons mangé toutes les pommes qui restaient dans le panier de la grand-mère.";
        assert_eq!(detector.detect(french).lang.as_deref(), Some("fr"));
    }
}
