//! The second detector: which of a few languages makes a text's letter sequences likeliest? The method and the
//! probabilities are lingua's (Stahl, github.com/pemistahl/lingua-rs): log-probabilities of all sequences of one to five
//! letters, added up, a sequence that a language lacks counting as its longest known beginning.
//!
//! lingua itself is not used. It adds up in an order that changes from call to call, so that its confidence does in the
//! last digits, and looks each order of n-gram up anew. Here one walk down the map from each letter finds the five at
//! once, words are taken in the order of the text, and a language that has fallen hopelessly behind is dropped. What is
//! missing costs a little ([`LACKING`]), which takes the place of lingua's rules about letters that only some languages use.

use std::collections::HashSet;
use std::fmt;
use std::sync::LazyLock;

use fst::raw::{Fst, Output};

use crate::tag::{Tag, normalise};

/// Name and version of the models, as they enter a signature.
pub(crate) const NAME: &str = "lingua models 1.3.0";

/// Log-probabilities are stored as so many of these (build.rs).
const STEP: f64 = 0.125;
/// Longest sequence of letters in a model.
const ORDERS: usize = 5;
/// Log-probability of a letter that a model has never seen. This and the next were chosen on the even lines of lingua's test data
/// (27 languages, Swahili and all 43 with a model): sentences do not care, and single words gain half a point over costing nothing.
const UNSEEN: f64 = -10.0;
/// What each order that a model lacks a sequence in costs.
const LACKING: f64 = 1.0;
/// A language so far behind the best is out of the race once so many letters have been looked at. (At 60 nats, 2 in 1,000
/// sentences of the development half came out otherwise than by the whole text.)
pub(crate) const HOPELESS: f64 = 100.0;
const LETTERS_MIN: usize = 40;
/// The margin between the two best as a confidence is 1 / (1 + exp(-margin / SOFTNESS)): the five orders tell much the same five
/// times over. Of single words with confidences from 0.55 to 0.95 as many are right as it says, to within 8 points.
const SOFTNESS: f64 = 6.0;

/// One language's n-gram probabilities.
pub(crate) struct Model {
    /// The language in the script that the model is of.
    pub tag: Tag,
    map: Fst<&'static [u8]>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// All models. They lie in the binary and are read where they lie, by the page, when first asked.
pub(crate) static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
    let models: &[(&str, &'static [u8])] = &include!(concat!(env!("OUT_DIR"), "/models.rs"));
    models
        .iter()
        .filter_map(|&(lang, map)| Some(Model { tag: normalise(lang)?, map: Fst::new(map).ok()? }))
        .collect()
});

/// The model of a language in a script.
pub(crate) fn model_of(tag: &Tag) -> Option<&'static Model> {
    MODELS
        .iter()
        .find(|model| model.tag.language() == tag.language() && model.tag.script == tag.script)
}

/// The likeliest of `models` and the confidence in it, 0.5 to 1; `None` for a text without letters. A language that is
/// `hopeless` nats behind is dropped.
pub(crate) fn likeliest(
    text: &str,
    models: &[&'static Model],
    hopeless: f64,
) -> Option<(&'static Model, f64)> {
    let mut race = Race { scores: vec![0.0; models.len()], running: (0..models.len()).collect() };
    let (lower, mut seen, mut letters) = (text.to_lowercase(), HashSet::new(), 0);
    let words = lower.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    for word in words.filter(|word| seen.insert(*word)) {
        letters += race.add(word, models);
        if letters >= LETTERS_MIN && race.ends(hopeless) {
            break;
        }
    }
    let (best, margin) = race.finish().filter(|_| letters > 0)?;
    Some((models[best], 1.0 / (1.0 + (-margin / SOFTNESS).exp())))
}

/// The languages' sums, and those that can still win.
struct Race {
    scores: Vec<f64>,
    running: Vec<usize>,
}

impl Race {
    /// Adds a word's n-grams; returns the number of its letters.
    fn add(&mut self, word: &str, models: &[&Model]) -> usize {
        let mut letters = 0;
        for (start, _) in word.char_indices() {
            letters += 1;
            for &at in &self.running {
                self.scores[at] += beginnings(&models[at].map, &word[start..]);
            }
        }
        letters
    }

    /// Drops who is hopelessly behind; whether one alone is left.
    fn ends(&mut self, hopeless: f64) -> bool {
        let best = self.running.iter().map(|&at| self.scores[at]).fold(f64::MIN, f64::max);
        self.running.retain(|&at| self.scores[at] > best - hopeless);
        self.running.len() == 1
    }

    /// The best and its lead; of equals the first.
    fn finish(&self) -> Option<(usize, f64)> {
        let mut ranked: Vec<usize> = self.running.clone();
        ranked.sort_by(|&a, &b| self.scores[b].total_cmp(&self.scores[a]));
        let best = *ranked.first()?;
        let lead = ranked.get(1).map_or(HOPELESS, |&next| self.scores[best] - self.scores[next]);
        Some((best, lead))
    }
}

/// The summed log-probabilities of the first 1, 2 … 5 letters of `rest`, as far as it goes.
fn beginnings(map: &Fst<&'static [u8]>, rest: &str) -> f64 {
    let (mut node, mut steps) = (map.root(), Output::zero());
    let (mut sum, mut last, mut lacking) = (0.0, UNSEEN, 0.0);
    for (from, letter) in rest.char_indices().take(ORDERS) {
        let bytes = &rest.as_bytes()[from..from + letter.len_utf8()];
        let known = lacking == 0.0
            && bytes.iter().all(|&byte| {
                let Some(found) = node.find_input(byte) else { return false };
                let transition = node.transition(found);
                steps = steps.cat(transition.out);
                node = map.node(transition.addr);
                true
            })
            && node.is_final();
        if known {
            last = -STEP * steps.cat(node.final_output()).value() as f64;
        } else {
            lacking += LACKING;
        }
        sum += last - lacking;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_names_the_locked_version() {
        let (name, version) = NAME.rsplit_once(' ').unwrap();
        assert_eq!(name, "lingua models");
        let lock = include_str!("../../../Cargo.lock");
        for line in lock.lines().filter(|line| line.ends_with("-language-model\"")) {
            let locked = format!("{line}\nversion = \"{version}\"");
            assert!(!line.starts_with("name") || lock.contains(&locked), "{line}");
        }
    }

    #[test]
    fn every_model_is_a_language_of_its_own() {
        let tags: HashSet<&str> = MODELS.iter().map(|model| model.tag.lang.as_str()).collect();
        assert_eq!(tags.len(), MODELS.len());
        for lang in ["sw", "yo", "xh", "zu", "en", "fil", "ar", "ru", "hi"] {
            assert!(tags.contains(lang), "{lang}");
        }
    }

    /// lingua's documentation of its English model: ln(7915445 / 93616591) for the letter a.
    #[test]
    fn probabilities_are_linguas_to_a_step() {
        let english = model_of(&normalise("en").unwrap()).unwrap();
        let expected = (7_915_445f64 / 93_616_591.0).ln();
        assert!((beginnings(&english.map, "a") - expected).abs() <= STEP / 2.0);
    }

    #[test]
    fn letters_that_no_language_has_are_no_answer_and_no_panic() {
        let both = [
            model_of(&normalise("en").unwrap()).unwrap(),
            model_of(&normalise("sw").unwrap()).unwrap(),
        ];
        assert!(likeliest("12 + 3 = 15!", &both, HOPELESS).is_none());
        assert!(
            likeliest("", &both, HOPELESS).is_none() && likeliest("words", &[], HOPELESS).is_none()
        );
        assert_eq!(likeliest("𝔘𐍈水", &both, HOPELESS).map(|(_, confidence)| confidence), Some(0.5));
    }
}
