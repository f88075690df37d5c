//! NLTK's Arabic light stemmer (Chelli, Aries, Benzahia; snowballstem.org/algorithms/arabic).
//!
//! NLTK never takes back that a pronoun was once cut from a verb, so that from then on every word goes the way of those with a
//! pronoun. A score must not depend on the ones before it: here every word goes that way, as in NLTK from the first such word on.

/// Arabic.
pub fn stem(token: &str) -> String {
    let (defined, verb) = kind(token);
    let mut word: Vec<char> = token.chars().filter(|&c| !is_mark(c)).collect();
    if word.len() <= 2 || super::is_stop_word("arabic", &word.iter().collect::<String>()) {
        return word.into_iter().collect();
    }
    if verb {
        pronoun_of_verb(&mut word);
        if !conjugation(&mut word) {
            cut_first(&mut word, &[("و", 4), ("تمو", 6)]);
        }
    }
    noun_suffixes(&mut word, defined);
    cut_first(&mut word, &[("ي", 3)]);
    prefixes(&mut word, verb);
    hamzas(&mut word);
    word.into_iter().collect()
}

/// Vowel signs, the lengthening stroke and marks.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{64B}'..='\u{652}' | '\u{640}' | '\u{60C}'..='\u{61B}' | '\u{61F}')
}

/// What the word as it was written shows: whether it has an article, and whether it may be a verb.
fn kind(token: &str) -> (bool, bool) {
    let length = super::count(token);
    let starts = |prefix: &str, more_than: usize| token.starts_with(prefix) && length > more_than;
    let article = starts("كال", 4) || starts("بال", 4) || starts("ال", 3) || starts("لل", 3);
    let noun = (token.ends_with('ة') && length > 2) || (token.ends_with("ات") && length > 3);
    (article, !article && !noun)
}

/// Takes off the first of the suffixes that the word ends with and is long enough for (its least length stands beside it); whether
/// there was one.
fn cut_first(word: &mut Vec<char>, suffixes: &[(&str, usize)]) -> bool {
    let fits = |(suffix, least): &&(&str, usize)| word.len() >= *least && ends(word, suffix);
    let found = suffixes.iter().find(fits).map(|(suffix, _)| super::count(suffix));
    word.truncate(word.len() - found.unwrap_or(0));
    found.is_some()
}

fn ends(word: &[char], suffix: &str) -> bool {
    let mut back = word.iter().rev();
    suffix.chars().rev().all(|c| back.next() == Some(&c))
}

fn starts(word: &[char], prefix: &str) -> bool {
    let mut front = word.iter();
    prefix.chars().all(|c| front.next() == Some(&c))
}

fn pronoun_of_verb(word: &mut Vec<char>) {
    let suffixes = [
        ("ه", 4),
        ("ك", 4),
        ("ني", 5),
        ("نا", 5),
        ("ها", 5),
        ("هم", 5),
        ("هن", 5),
        ("كم", 5),
        ("كن", 5),
        ("هما", 6),
        ("كما", 6),
        ("كمو", 6),
    ];
    cut_first(word, &suffixes);
}

fn conjugation(word: &mut Vec<char>) -> bool {
    let suffixes = [
        ("ت", 4),
        ("ا", 4),
        ("ن", 4),
        ("ي", 4),
        ("نا", 5),
        ("تا", 5),
        ("تن", 5),
        ("ان", 6),
        ("ون", 6),
        ("ين", 6),
        ("تما", 6),
    ];
    cut_first(word, &suffixes)
}

fn noun_suffixes(word: &mut Vec<char>, defined: bool) {
    if cut_first(word, &[("ة", 3)]) {
        return;
    }
    let vowel = |word: &mut Vec<char>| cut_first(word, &[("ا", 5), ("ي", 5), ("و", 5)]);
    // NLTK walks over the letters of "ات", so that one of them is enough to take off two
    let plural = |word: &mut Vec<char>| {
        let found = word.len() >= 5 && (ends(word, "ا") || ends(word, "ت"));
        word.truncate(word.len() - if found { 2 } else { 0 });
        found
    };
    let feminine = |word: &mut Vec<char>| cut_first(word, &[("ت", 4)]);
    if !defined {
        let pronouns = [
            ("ي", 4),
            ("ك", 4),
            ("ه", 4),
            ("نا", 5),
            ("كم", 5),
            ("ها", 5),
            ("هن", 5),
            ("هم", 5),
            ("كما", 6),
            ("هما", 6),
        ];
        cut_first(word, &pronouns);
    }
    if !defined || cut_first(word, &[("ن", 6)]) {
        let _ = vowel(word) || plural(word) || feminine(word);
    } else {
        plural(word);
    }
}

/// Takes off conjunctions, articles, prepositions and the signs of the future.
fn prefixes(word: &mut Vec<char>, verb: bool) {
    if word.len() > 3 && word[0] == 'أ' && matches!(word[1], 'أ' | 'آ' | 'ؤ' | 'ا' | 'إ') {
        word.remove(0);
    }
    if word.len() > 5 && (starts(word, "فال") || starts(word, "وال")) {
        word.drain(..3);
    } else if word.len() > 3 && matches!(word[0], 'ف' | 'و') && word[1] != 'ا' {
        word.remove(0);
    }
    let article = word.len() > 4 && (starts(word, "ال") || starts(word, "لل"));
    if article {
        word.drain(..2);
    } else if word.len() > 5 && (starts(word, "كال") || starts(word, "بال")) {
        word.drain(..3);
    }
    if !article {
        preposition(word);
    } else if verb {
        future(word);
    }
}

fn preposition(word: &mut Vec<char>) {
    let single = match word.first() {
        Some('ب') => word.len() > 3,
        Some('ك' | 'ل') => word.len() > 4,
        _ => false,
    };
    if single || (word.len() > 3 && starts(word, "كك")) {
        word.remove(0);
    }
}

fn future(word: &mut Vec<char>) {
    if word.len() > 4 && word[0] == 'س' && matches!(word[1], 'ي' | 'ت' | 'ن' | 'أ') {
        word.remove(0);
    }
    if word.len() > 4 && ["يست", "نست", "تست"].iter().any(|prefix| starts(word, prefix)) {
        word[0] = 'ا';
    }
}

fn hamzas(word: &mut [char]) {
    if let Some(last) = word.last_mut().filter(|last| matches!(last, 'أ' | 'إ' | 'آ' | 'ؤ' | 'ئ'))
    {
        *last = 'ء';
    }
    for c in word {
        *c = match *c {
            'أ' | 'إ' | 'آ' => 'ا',
            'ؤ' => 'و',
            'ئ' => 'ي',
            other => other,
        };
    }
}
