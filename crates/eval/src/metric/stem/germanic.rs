//! NLTK's English (Porter 2), German and Dutch stemmers (snowballstem.org/algorithms).

use super::{Part, capital_between, count, cut, is, region, region_behind_three, swap};

const ENGLISH: &str = "aeiouy";
const SPECIAL: &str = "skis=ski skies=sky dying=die lying=lie tying=tie idly=idl gently=gentl ugly=ugli early=earli only=onli \
    singly=singl sky=sky news=news howe=howe atlas=atlas cosmos=cosmos bias=bias andes=andes inning=inning \
    innings=inning outing=outing outings=outing canning=canning cannings=canning herring=herring herrings=herring \
    earring=earring earrings=earring proceed=proceed proceeds=proceed proceeded=proceed proceeding=proceed \
    exceed=exceed exceeds=exceed exceeded=exceed exceeding=exceed succeed=succeed succeeds=succeed succeeded=succeed \
    succeeding=succeed";
const STEP_2: &str = "ization ational fulness ousness iveness tional biliti lessli entli ation alism aliti ousli iviti fulli enci anci \
    abli izer ator alli bli ogi li";
const STEP_3: &str = "ational tional alize icate iciti ative ical ness ful";
const STEP_4: &str = "ement ance ence able ible ment ant ent ism ate iti ous ive ize ion al er ic";

/// English. The apostrophes of step 0 are no part of a token.
pub fn english(word: &str) -> String {
    if count(word) <= 2 {
        return word.to_owned();
    }
    let special = |pair: &'static str| pair.split_once('=').filter(|(known, _)| *known == word);
    if let Some((_, stem)) = SPECIAL.split_ascii_whitespace().find_map(special) {
        return stem.to_owned();
    }
    let mut word = Part::new(word);
    word.mark(|word, at| initial_y(word, at, ENGLISH));
    let mut r1 = match ["gener", "arsen", "commun"].iter().find(|start| word.starts(start)) {
        Some(start) => Part(word.0[start.len()..].to_vec()),
        None => region(&word, ENGLISH),
    };
    let mut r2 = region(&r1, ENGLISH);
    let parts = [&mut word, &mut r1, &mut r2];
    plural(parts);
    past(&mut word, &mut r1, &mut r2);
    if word.len() > 2 && is(word.back(1), "yY") && !is(word.back(2), ENGLISH) {
        last(&mut word, &mut r1, &mut r2, "i");
    }
    derived(&mut word, &mut r1, &mut r2);
    derived_again(&mut word, &mut r1, &mut r2);
    if let Some(suffix) = word.ending(STEP_4).filter(|suffix| r2.ends(suffix))
        && (suffix != "ion" || is(word.back(4), "st"))
    {
        cut([&mut word, &mut r1, &mut r2], suffix.len());
    }
    let long = || {
        word.len() >= 4
            && (is(word.back(2), ENGLISH)
                || is(word.back(2), "wxY")
                || !is(word.back(3), ENGLISH)
                || is(word.back(4), ENGLISH))
    };
    if (r2.ends("l") && word.back(2) == Some('l')) || r2.ends("e") || (r1.ends("e") && long()) {
        word.cut(1);
    }
    word.replace(&[('Y', 'y')]);
    word.text()
}

/// A y that is a consonant: first, or behind a vowel.
fn initial_y(word: &[char], at: usize, vowels: &str) -> Option<char> {
    (word[at] == 'y' && (at == 0 || vowels.contains(word[at - 1]))).then_some('Y')
}

/// Step 1a.
fn plural([word, r1, r2]: [&mut Part; 3]) {
    let n = match word.ending("sses ied ies us ss s") {
        Some("sses") => 2,
        Some("ied" | "ies") => {
            if word.len() > 4 {
                2
            } else {
                1
            }
        }
        Some("s") => {
            usize::from(word.0[..word.len().saturating_sub(2)].iter().any(|c| ENGLISH.contains(*c)))
        }
        _ => 0,
    };
    cut([word, r1, r2], n);
}

/// Step 1b.
fn past(word: &mut Part, r1: &mut Part, r2: &mut Part) {
    let Some(suffix) = word.ending("eedly ingly edly eed ing ed") else { return };
    if suffix.starts_with("eed") {
        if r1.ends(suffix) {
            put(word, r1, r2, suffix.len(), "ee", "");
        }
        return;
    }
    if !word.0[..word.len() - suffix.len()].iter().any(|c| ENGLISH.contains(*c)) {
        return;
    }
    cut([word, r1, r2], suffix.len());
    let open = |word: &Part, at: usize| is(word.back(at), ENGLISH);
    if word.ends_any("at bl iz") {
        swap([word, r1], 0, "e");
        if word.len() > 5 || r1.len() >= 3 {
            r2.swap(0, "e");
        }
    } else if word.ends_any("bb dd ff gg mm nn pp rr tt") {
        cut([word, r1, r2], 1);
    } else if r1.len() == 0 {
        let three = word.len() >= 3
            && !open(word, 1)
            && !is(word.back(1), "wxY")
            && open(word, 2)
            && !open(word, 3);
        if three || (word.len() == 2 && open(word, 2) && !open(word, 1)) {
            word.swap(0, "e");
        }
    }
}

/// Step 2.
fn derived(word: &mut Part, r1: &mut Part, r2: &mut Part) {
    let Some(suffix) = word.ending(STEP_2).filter(|suffix| r1.ends(suffix)) else { return };
    let n = suffix.len();
    match suffix {
        "tional" | "entli" | "fulli" | "lessli" => cut([word, r1, r2], 2),
        "enci" | "anci" | "abli" => last(word, r1, r2, "e"),
        "izer" | "ization" => put(word, r1, r2, n, "ize", ""),
        "ational" | "ation" | "ator" => put(word, r1, r2, n, "ate", "e"),
        "alism" | "aliti" | "alli" => put(word, r1, r2, n, "al", ""),
        "fulness" => cut([word, r1, r2], 4),
        "ousli" | "ousness" => put(word, r1, r2, n, "ous", ""),
        "iveness" | "iviti" => put(word, r1, r2, n, "ive", "e"),
        "biliti" | "bli" => put(word, r1, r2, n, "ble", ""),
        "ogi" if word.back(4) == Some('l') => cut([word, r1, r2], 1),
        "li" if is(word.back(3), "cdeghkmnrt") => cut([word, r1, r2], 2),
        _ => {}
    }
}

/// Step 3.
fn derived_again(word: &mut Part, r1: &mut Part, r2: &mut Part) {
    let Some(suffix) = word.ending(STEP_3).filter(|suffix| r1.ends(suffix)) else { return };
    let n = suffix.len();
    match suffix {
        "tional" => cut([word, r1, r2], 2),
        "ational" => put(word, r1, r2, n, "ate", ""),
        "alize" => cut([word, r1, r2], 3),
        "icate" | "iciti" | "ical" => put(word, r1, r2, n, "ic", ""),
        "ful" | "ness" => cut([word, r1, r2], n),
        "ative" if r2.ends("ative") => cut([word, r1, r2], 5),
        _ => {}
    }
}

/// Puts `new` in the place of the last `n` characters; a region that is shorter becomes nothing, or R2 `short`.
fn put(word: &mut Part, r1: &mut Part, r2: &mut Part, n: usize, new: &str, short: &str) {
    word.swap(n, new);
    for (region, short) in [(r1, ""), (r2, short)] {
        let fits = region.len() >= n;
        region.swap(n, if fits { new } else { short });
    }
}

/// Puts `new` in the place of the last character.
fn last(word: &mut Part, r1: &mut Part, r2: &mut Part, new: &str) {
    put(word, r1, r2, 1, new, "");
}

const GERMAN: &str = "aeiouyäöü";

/// German.
pub fn german(word: &str) -> String {
    let mut word = Part::new(&word.replace('ß', "ss"));
    word.mark(|word, at| capital_between(word, at, "uy", GERMAN));
    let mut r2 = region(&region(&word, GERMAN), GERMAN);
    let mut r1 = region_behind_three(&word, GERMAN);
    if let Some(suffix) = r1.ending("ern em er en es e s") {
        let n = suffix.len();
        let after = |before: &str| word.slice(n + 4, n) == before;
        let n = match suffix {
            "en" | "es" | "e" if after("niss") => n + 1,
            "s" if !is(word.back(2), "bdfghklmnrt") => 0,
            _ => n,
        };
        cut([&mut word, &mut r1, &mut r2], n);
    }
    if let Some(suffix) = r1.ending("est en er st")
        && (suffix != "st" || (is(word.back(3), "bdfghklmnt") && word.len() >= 6))
    {
        cut([&mut word, &mut r1, &mut r2], suffix.len());
    }
    if let Some(suffix) = r2.ending("isch lich heit keit end ung ig ik") {
        let n = suffix.len();
        let before = |part: &Part, length: usize| part.slice(n + length, n);
        let more = match suffix {
            "end" | "ung" if before(&r2, 2) == "ig" && r2.slice(n + 3, n + 2) != "e" => 2,
            "ig" | "ik" | "isch" if before(&r2, 1) == "e" => return umlauts_off(word),
            "lich" | "heit" if matches!(before(&r1, 2).as_str(), "er" | "en") => 2,
            "keit" if before(&r2, 4) == "lich" => 4,
            "keit" if before(&r2, 2) == "ig" => 2,
            _ => 0,
        };
        word.cut(n + more);
    }
    umlauts_off(word)
}

fn umlauts_off(mut word: Part) -> String {
    word.replace(&[('ä', 'a'), ('ö', 'o'), ('ü', 'u'), ('U', 'u'), ('Y', 'y')]);
    word.text()
}

const DUTCH: &str = "aeiouyè";

/// Dutch.
pub fn dutch(word: &str) -> String {
    let mut word = Part::new(word);
    word.replace(&[
        ('ä', 'a'),
        ('á', 'a'),
        ('ë', 'e'),
        ('é', 'e'),
        ('í', 'i'),
        ('ï', 'i'),
        ('ö', 'o'),
        ('ó', 'o'),
        ('ü', 'u'),
        ('ú', 'u'),
    ]);
    word.mark(|word, at| initial_y(word, at, DUTCH));
    word.mark(|word, at| capital_between(word, at, "i", DUTCH));
    let mut r2 = region(&region(&word, DUTCH), DUTCH);
    let mut r1 = region_behind_three(&word, DUTCH);
    dutch_plural(&mut word, &mut r1, &mut r2);
    let e = r1.ends("e") && !is(word.back(2), DUTCH);
    if e {
        cut([&mut word, &mut r1, &mut r2], 1);
        undouble(&mut word, &mut r1, &mut r2);
    }
    if r2.ends("heid") && word.back(5) != Some('c') {
        cut([&mut word, &mut r1, &mut r2], 4);
        if r1.ends("en") && !is(word.back(3), DUTCH) && word.slice(5, 2) != "gem" {
            cut([&mut word, &mut r1, &mut r2], 2);
            undouble(&mut word, &mut r1, &mut r2);
        }
    }
    dutch_derived(&mut word, &mut r1, &mut r2, e);
    let closed = !is(word.back(1), DUTCH) && word.back(1) != Some('I');
    let long = matches!(word.slice(3, 1).as_str(), "aa" | "ee" | "oo" | "uu");
    if word.len() >= 4 && closed && long && !is(word.back(4), DUTCH) {
        word.0.remove(word.len() - 2);
    }
    word.replace(&[('I', 'i'), ('Y', 'y')]);
    word.text()
}

/// Step 1.
fn dutch_plural(word: &mut Part, r1: &mut Part, r2: &mut Part) {
    let Some(suffix) = r1.ending("heden ene en se s") else { return };
    let n = suffix.len();
    let before = word.back(n + 1);
    match suffix {
        "heden" => {
            swap([word, r1], n, "heid");
            if r2.ends("heden") {
                r2.swap(n, "heid");
            }
        }
        "ene" | "en"
            if word.ends("heden") || is(before, DUTCH) || word.slice(n + 3, n) == "gem" => {}
        "ene" | "en" => {
            cut([&mut *word, &mut *r1, &mut *r2], n);
            undouble(word, r1, r2);
        }
        _ if !is(before, DUTCH) && before != Some('j') => cut([word, r1, r2], n),
        _ => {}
    }
}

/// Step 3b. `e` says whether step 2 took an e.
fn dutch_derived(word: &mut Part, r1: &mut Part, r2: &mut Part, e: bool) {
    let double = "kk dd tt";
    let ig = |word: &Part| word.back(3) != Some('e');
    match r2.ending("baar lijk bar end ing ig") {
        Some("end" | "ing") => {
            cut([word, r2], 3);
            if r2.ends("ig") && ig(word) {
                word.cut(2);
            } else if word.ends_any(double) {
                word.cut(1);
            }
        }
        Some("ig") if ig(word) => word.cut(2),
        Some("lijk") => {
            cut([word, r1], 4);
            if r1.ends("e") && !is(word.back(2), DUTCH) {
                word.cut(1);
                if word.ends_any(double) {
                    word.cut(1);
                }
            }
        }
        Some("baar") => word.cut(4),
        Some("bar") if e => word.cut(3),
        _ => {}
    }
}

fn undouble(word: &mut Part, r1: &mut Part, r2: &mut Part) {
    if word.ends_any("kk dd tt") {
        cut([word, r1, r2], 1);
    }
}
