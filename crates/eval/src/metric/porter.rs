//! The Porter stemmer in the form rouge-score uses it: NLTK's `PorterStemmer` with its own extensions, which are not those of
//! Snowball's "english" or "porter".
//!
//! In goes a lower-case ASCII word, which is shortened in place. Porter, "An algorithm for suffix stripping", 1980, steps 1a to
//! 5b; every deviation of NLTK is marked. Checked against NLTK itself on `tests/fixtures/porter.tsv`.

/// Stems `word` (lower-case ASCII) in place.
pub fn stem(word: &mut String) {
    if let Some(&(_, stem)) = IRREGULAR.iter().find(|(form, _)| form == word) {
        *word = stem.to_owned();
        return;
    }
    if word.len() <= 2 {
        return;
    }
    step_1a(word);
    step_1b(word);
    step_1c(word);
    step_2(word);
    apply(word, STEP_3, 0);
    step_4(word);
    step_5(word);
}

/// NLTK: forms that the rules get wrong.
const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// (suffix, replacement), each where m > 0. NLTK: `bli` for `abli`; `fulli`.
const STEP_2: &[(&str, &str)] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// (suffix, replacement), each where m > 0.
const STEP_3: &[(&str, &str)] = &[
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Suffixes removed where m > 1, in the order of the paper: the first that matches decides.
const STEP_4: &[&str] = &[
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
];

/// For each letter, whether it is a consonant: `y` is one where the letter before it is not.
fn consonants(word: &str) -> impl Iterator<Item = bool> {
    word.bytes().scan(false, |previous, letter| {
        *previous = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !*previous,
            _ => true,
        };
        Some(*previous)
    })
}

fn ends_in_consonant(word: &str) -> bool {
    consonants(word).last().unwrap_or(false)
}

fn has_vowel(word: &str) -> bool {
    consonants(word).any(|consonant| !consonant)
}

/// Porter's m: how often a vowel is followed by a consonant.
fn measure(stem: &str) -> usize {
    let mut after_vowel = false;
    consonants(stem)
        .filter(|&consonant| std::mem::replace(&mut after_vowel, !consonant) && consonant)
        .count()
}

/// `*d`: ends in a doubled consonant.
fn ends_double(word: &str) -> bool {
    matches!(word.as_bytes(), [.., a, b] if a == b) && ends_in_consonant(word)
}

/// `*o`: ends consonant, vowel, consonant, the last not w, x or y. NLTK: or is just vowel, consonant.
fn ends_cvc(word: &str) -> bool {
    let letters: Vec<bool> = consonants(word).collect();
    match letters[..] {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

/// Replaces by the first rule whose suffix matches, if the stem before it has a measure above `above`; later rules are not tried.
fn apply(word: &mut String, rules: &[(&str, &str)], above: usize) {
    for (suffix, replacement) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            if measure(stem) > above {
                word.truncate(stem.len());
                word.push_str(replacement);
            }
            return;
        }
    }
}

/// Plurals: caresses → caress, ponies → poni, cats → cat. NLTK: dies → die.
fn step_1a(word: &mut String) {
    let cut = if word.ends_with("ies") {
        if word.len() == 4 { 1 } else { 2 }
    } else if word.ends_with("sses") {
        2
    } else if word.ends_with('s') && !word.ends_with("ss") {
        1
    } else {
        0
    };
    word.truncate(word.len() - cut);
}

/// Past forms: agreed → agree, plastered → plaster, hopping → hop, filing → file. NLTK: died → die, spied → spi.
fn step_1b(word: &mut String) {
    if word.ends_with("ied") {
        let cut = if word.len() == 4 { 1 } else { 2 };
        word.truncate(word.len() - cut);
        return;
    }
    if let Some(stem) = word.strip_suffix("eed") {
        if measure(stem) > 0 {
            word.pop();
        }
        return;
    }
    let Some(length) = ["ed", "ing"]
        .iter()
        .filter_map(|suffix| word.strip_suffix(suffix))
        .find(|stem| has_vowel(stem))
        .map(str::len)
    else {
        return;
    };
    word.truncate(length);
    if ["at", "bl", "iz"].iter().any(|end| word.ends_with(end)) {
        word.push('e');
    } else if ends_double(word) {
        if !word.ends_with(['l', 's', 'z']) {
            word.pop();
        }
    } else if measure(word) == 1 && ends_cvc(word) {
        word.push('e');
    }
}

/// happy → happi. NLTK: only after a consonant that is not the word's first letter, so enjoy stays.
fn step_1c(word: &mut String) {
    if let Some(stem) = word.strip_suffix('y')
        && stem.len() > 1
        && ends_in_consonant(stem)
    {
        word.pop();
        word.push('i');
    }
}

/// Double suffixes: relational → relate. NLTK: logi → log, with the l counted to the stem.
fn step_2(word: &mut String) {
    // NLTK: the rule for "alli" comes first, and what it leaves goes through the step again (internationally → international →
    // internate).
    while let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        word.truncate(stem.len() + 2);
    }
    if word.ends_with("logi") {
        if measure(&word[..word.len() - 3]) > 0 {
            word.pop();
        }
    } else {
        apply(word, STEP_2, 0);
    }
}

/// Single suffixes: revival → reviv, adoption → adopt (`ion` only after s or t).
fn step_4(word: &mut String) {
    for &suffix in STEP_4 {
        if let Some(stem) = word.strip_suffix(suffix) {
            if measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't'])) {
                word.truncate(stem.len());
            }
            return;
        }
    }
}

/// Tidying up: probate → probat, cease → ceas, controll → control.
fn step_5(word: &mut String) {
    if let Some(stem) = word.strip_suffix('e') {
        let m = measure(stem);
        if m > 1 || (m == 1 && !ends_cvc(stem)) {
            word.pop();
        }
    }
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
}

#[cfg(test)]
mod tests {
    /// Made by tests/fixtures/make_metric_pairs.py with NLTK 3.10.
    #[test]
    fn stems_equal_nltks() {
        let golden = include_str!("../../tests/fixtures/porter.tsv");
        let mut checked = 0;
        for line in golden.lines().filter(|l| !l.starts_with('#')) {
            let (word, expected) = line.split_once('\t').expect("two columns");
            let mut stem = word.to_owned();
            super::stem(&mut stem);
            assert_eq!(stem, expected, "stem of {word}");
            checked += 1;
        }
        assert!(checked > 1000);
    }

    #[test]
    fn a_long_run_of_one_letter_is_no_trouble() {
        let mut word = "y".repeat(200_000) + "ing";
        super::stem(&mut word);
        assert!(!word.is_empty());
    }
}
