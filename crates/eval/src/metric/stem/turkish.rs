//! XL-Sum's Turkish stemmer (TurkishStemmer 1.3, after Eryiğit and Adalı 2004 and Can et al. 2008).
//!
//! Three state machines take off suffixes of verbs, of nouns, and one that derives words, and gather every stem on the way; the one
//! nearest to four letters is chosen. Of two that are as near and as long Python's takes the one its set happens to give; here it is the
//! first by code point. Words: `data/turkish.tsv`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::LazyLock;

const ALPHABET: &str = "abcçdefgğhıijklmnoöprsştuüvyz";
const VOWELS: &str = "üiıueöao";
const CONSONANTS: &str = "bcçdfgğhjklmnprsştvyz";
/// The number of letters that the chosen stem is nearest to.
const USUAL_LENGTH: usize = 4;

/// One suffix: its forms, and what letter may have been put before it.
struct Suffix {
    forms: &'static [&'static str],
    optional: &'static str,
    harmony: bool,
}

const fn suffix(forms: &'static [&'static str], optional: &'static str) -> Suffix {
    Suffix { forms, optional, harmony: true }
}

/// A state machine. Its suffixes and states are numbered; a suffix's number is its priority.
struct Machine {
    suffixes: &'static [Suffix],
    states: &'static [State],
}

/// A state: whether a word may end in it, and to which state each of its suffixes leads.
struct State {
    last: bool,
    next: &'static [(usize, usize)],
}

const fn state(last: bool, next: &'static [(usize, usize)]) -> State {
    State { last, next }
}

const HIGH: &str = "ıiuü";

/// Suffixes of predicates: -cAsInA 0, -sUnUz 1, -(y)mUş 2, -(y)ken 3, -sUn 4, -lAr 5, -nUz 6, -DUr 7, -(y)Uz 8, -(y)Um 9, -(y)DU 10,
/// -(y)sA 11, -m 12, -n 13, -k 14.
const VERBS: Machine = Machine {
    suffixes: &[
        suffix(&["casına", "çasına", "cesine", "çesine"], ""),
        suffix(&["sınız", "siniz", "sunuz", "sünüz"], ""),
        suffix(&["muş", "miş", "müş", "mış"], "y"),
        suffix(&["ken"], "y"),
        suffix(&["sın", "sin", "sun", "sün"], ""),
        suffix(&["lar", "ler"], ""),
        suffix(&["nız", "niz", "nuz", "nüz"], ""),
        suffix(&["tır", "tir", "tur", "tür", "dır", "dir", "dur", "dür"], ""),
        suffix(&["ız", "iz", "uz", "üz"], "y"),
        suffix(&["ım", "im", "um", "üm"], "y"),
        suffix(&["dı", "di", "du", "dü", "tı", "ti", "tu", "tü"], "y"),
        suffix(&["sa", "se"], "y"),
        suffix(&["m"], ""),
        suffix(&["n"], ""),
        suffix(&["k"], ""),
    ],
    states: &[
        state(
            false,
            &[
                (0, 7),
                (1, 1),
                (2, 5),
                (3, 5),
                (4, 1),
                (5, 2),
                (6, 3),
                (7, 4),
                (8, 1),
                (9, 1),
                (10, 5),
                (11, 5),
                (12, 3),
                (13, 3),
                (14, 3),
            ],
        ), // A
        state(true, &[(2, 5)]),                                          // B
        state(true, &[(7, 5), (10, 5), (11, 5), (2, 5)]),                // C
        state(false, &[(10, 5), (11, 5)]),                               // D
        state(true, &[(9, 6), (4, 6), (8, 6), (1, 6), (5, 6), (2, 5)]),  // E
        state(true, &[]),                                                // F
        state(false, &[(2, 5)]),                                         // G
        state(false, &[(9, 6), (4, 6), (8, 6), (1, 6), (5, 6), (2, 5)]), // H
    ],
};

/// Suffixes of nouns: -nDAn 0, -lArI 1, -(U)mUz 2, -(U)nUz 3, -lAr 4, -nDA 5, -DAn 6, -(y)lA 7, -(n)Un 8, -(n)cA 9, -Un 10, -nU 11,
/// -nA 12, -DA 13, -ki 14, -(U)m 15, -(s)U 16, -(y)U 17, -(y)A 18.
const NOUNS: Machine = Machine {
    suffixes: &[
        suffix(&["ndan", "ntan", "nden", "nten"], ""),
        suffix(&["ları", "leri"], ""),
        suffix(&["mız", "miz", "muz", "müz"], HIGH),
        suffix(&["nız", "niz", "nuz", "nüz"], HIGH),
        suffix(&["lar", "ler"], ""),
        suffix(&["nta", "nte", "nda", "nde"], ""),
        suffix(&["dan", "tan", "den", "ten"], ""),
        suffix(&["la", "le"], "y"),
        suffix(&["ın", "in", "un", "ün"], "n"),
        suffix(&["ca", "ce"], "n"),
        suffix(&["ın", "in", "un", "ün"], ""),
        suffix(&["nı", "ni", "nu", "nü"], ""),
        suffix(&["na", "ne"], ""),
        suffix(&["da", "de", "ta", "te"], ""),
        Suffix { forms: &["ki"], optional: "", harmony: false },
        suffix(&["m"], HIGH),
        suffix(&["ı", "i", "u", "ü"], "s"),
        suffix(&["ı", "i", "u", "ü"], "y"),
        suffix(&["a", "e"], "y"),
    ],
    states: &[
        state(
            true,
            &[
                (0, 2),
                (1, 8),
                (2, 7),
                (3, 7),
                (4, 9),
                (5, 5),
                (6, 6),
                (7, 4),
                (8, 4),
                (9, 10),
                (10, 7),
                (11, 2),
                (12, 5),
                (13, 1),
                (14, 3),
                (15, 7),
                (16, 7),
                (17, 1),
                (18, 1),
            ],
        ), // A
        state(true, &[(4, 9), (15, 7), (2, 7), (10, 7), (3, 7)]), // B
        state(false, &[(16, 7), (1, 8)]),                         // C
        state(false, &[(8, 4), (13, 1), (5, 5)]),                 // D
        state(true, &[(4, 9), (15, 7), (2, 7), (10, 7), (3, 7), (16, 7), (1, 8), (14, 3)]), // E
        state(false, &[(16, 7), (1, 8), (14, 3)]),                // F
        state(true, &[(4, 9), (15, 7), (2, 7), (10, 7), (3, 7), (14, 3)]), // G
        state(true, &[(4, 9)]),                                   // H
        state(true, &[]),                                         // K
        state(true, &[(14, 3)]),                                  // L
        state(true, &[(4, 9), (15, 7), (2, 7), (10, 7), (3, 7), (16, 7), (16, 7), (1, 8)]), // M
    ],
};

/// The suffix that derives words: -lU.
const DERIVATION: Machine = Machine {
    suffixes: &[suffix(&["lı", "li", "lu", "lü"], "")],
    states: &[state(false, &[(0, 1)]), state(true, &[])],
};

/// Words that are stemmed otherwise, by the name of their list.
static WORDS: LazyLock<HashMap<&str, HashSet<&str>>> = LazyLock::new(|| {
    let lines = include_str!("../../../data/turkish.tsv").lines();
    let lists =
        lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
    lists.map(|(name, words)| (name, words.split(' ').collect())).collect()
});

fn listed(list: &str, word: &str) -> bool {
    WORDS.get(list).is_some_and(|words| words.contains(word))
}

/// Turkish.
pub fn stem(word: &str) -> String {
    let syllables = |word: &str| word.chars().filter(|c| VOWELS.contains(*c)).count();
    let turkish = word.chars().all(|c| ALPHABET.contains(c));
    if !turkish || listed("protected", word) || syllables(word) < 2 {
        return word.to_owned();
    }
    let mut stems = BTreeSet::new();
    for machine in [&VERBS, &NOUNS, &DERIVATION] {
        let before: Vec<String> = stems.iter().cloned().chain([word.to_owned()]).collect();
        for start in before {
            strip(machine, start, &mut stems);
        }
    }
    stems.remove(word);
    let ends = stems.iter().filter(|stem| syllables(stem) > 0).map(|stem| last_consonant(stem));
    let near = |stem: &String| {
        let length = super::count(stem);
        (Reverse(listed("average_stem_size", stem)), length.abs_diff(USUAL_LENGTH), length)
    };
    let ends: BTreeSet<String> = ends.collect();
    ends.into_iter().min_by_key(near).unwrap_or_else(|| word.to_owned())
}

/// A suffix that may be taken off.
struct Transition {
    from: usize,
    to: usize,
    word: String,
    suffix: usize,
    marked: bool,
}

/// Gathers the stems that a machine finds in a word.
fn strip(machine: &Machine, word: String, stems: &mut BTreeSet<String>) {
    let mut transitions = VecDeque::new();
    add(machine, 0, &word, &mut transitions);
    while let Some(Transition { from, to, word, suffix, .. }) = transitions.pop_front() {
        let stem = take_off(&word, &machine.suffixes[suffix]);
        if stem == word {
            continue;
        }
        if machine.states[to].last {
            transitions.retain(|other| !(other.marked || (other.from == from && other.to == to)));
            add(machine, to, &stem, &mut transitions);
            stems.insert(stem);
        } else {
            let alike = transitions.iter_mut().filter(|other| other.from == from && other.to == to);
            alike.for_each(|other| other.marked = true);
            add(machine, to, &stem, &mut transitions);
        }
    }
}

fn add(machine: &Machine, from: usize, word: &str, transitions: &mut VecDeque<Transition>) {
    for &(suffix, to) in machine.states[from].next {
        if machine.suffixes[suffix].forms.iter().any(|form| word.ends_with(form)) {
            transitions.push_back(Transition {
                from,
                to,
                word: word.to_owned(),
                suffix,
                marked: false,
            });
        }
    }
}

/// The word without the suffix and the letter put before it; the word itself where that may not be.
fn take_off(word: &str, suffix: &Suffix) -> String {
    let may = !listed("protected", word)
        && (!suffix.harmony || in_harmony(word) || listed("vowel_harmony", word));
    let form = suffix.forms.iter().find(|form| may && word.ends_with(*form));
    let stem = &word[..word.len() - form.map_or(0, |form| form.len())];
    let mut back = stem.chars().rev();
    let Some(letter) = back.next().filter(|c| suffix.optional.contains(*c)) else {
        return stem.to_owned();
    };
    let wanted = if VOWELS.contains(letter) { CONSONANTS } else { VOWELS };
    match back.next() {
        Some(before) if wanted.contains(before) => {
            stem[..stem.len() - letter.len_utf8()].to_owned()
        }
        _ => word.to_owned(),
    }
}

/// Whether the last two vowels agree in frontness and rounding.
fn in_harmony(word: &str) -> bool {
    let mut vowels = word.chars().rev().filter(|c| VOWELS.contains(*c));
    let (Some(last), Some(before)) = (vowels.next(), vowels.next()) else { return true };
    let both = |first: &str, second: &str| first.contains(before) && second.contains(last);
    (both("iıea", "iıea") || both("oöuü", "aeuü")) && (both("eiöü", "eiöü") || both("ıuao", "ıuao"))
}

fn last_consonant(stem: &str) -> String {
    let hard = [('b', 'p'), ('c', 'ç'), ('d', 't'), ('ğ', 'k')];
    let found =
        hard.iter().find(|(soft, _)| stem.ends_with(*soft) && !listed("last_consonant", stem));
    match found {
        Some((soft, hard)) => format!("{}{hard}", &stem[..stem.len() - soft.len_utf8()]),
        None => stem.to_owned(),
    }
}
