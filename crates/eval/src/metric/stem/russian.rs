//! NLTK's Russian stemmer (snowballstem.org/algorithms/russian), which works on a Latin transliteration: "щ" is "shch", "я" is "i^a".

use std::sync::LazyLock;

use super::{Part, count, cut};

/// Cyrillic letters and their transliterations, in the order in which NLTK puts them back.
const LETTERS: &[(&str, &str)] = &[
    ("i^u", "ю"),
    ("i^a", "я"),
    ("shch", "щ"),
    ("kh", "х"),
    ("t^s", "ц"),
    ("ch", "ч"),
    ("e`", "э"),
    ("i`", "й"),
    ("sh", "ш"),
    ("k", "к"),
    ("e", "е"),
    ("zh", "ж"),
    ("a", "а"),
    ("b", "б"),
    ("v", "в"),
    ("g", "г"),
    ("d", "д"),
    ("z", "з"),
    ("i", "и"),
    ("l", "л"),
    ("m", "м"),
    ("n", "н"),
    ("o", "о"),
    ("p", "п"),
    ("r", "р"),
    ("s", "с"),
    ("t", "т"),
    ("u", "у"),
    ("f", "ф"),
    ("''", "ъ"),
    ("y", "ы"),
    ("'", "ь"),
];

const VERBS: &str = "esh' ei`te ui`te ui^ut ish' ete i`te i^ut nno ila yla ena ite ili yli ilo ylo eno i^at uet eny it' yt' ui^u la \
    na li em lo no et ny t' ei` ui` il yl im ym en it yt i^u i` l n";
/// The verb suffixes that stand behind а or я alone.
const VERBS_AFTER_A: &str = "la na ete i`te li i` l em n lo no et i^ut ny t' esh' nno";
const NOUNS: &str = "ii^ami ii^akh i^ami ii^am i^akh ami iei` i^am iem akh ii^u 'i^u ii^a 'i^a ev ov ie 'e ei ii ei` oi` ii` em am om \
    i^u i^a a e i i` o u y '";
const PARTICIPLES: &str = "ui^ushch ivsh yvsh";
/// The participles that stand behind а or я alone.
const PARTICIPLES_AFTER_A: &str = "i^ushch shch vsh em nn";
const ADJECTIVES: &str = "i^ui^u i^ai^a imi ymi ego ogo emu omu ikh ykh ui^u ai^a oi^u ei^u ee ie ye oe ei` ii` yi` oi` em im ym om";

/// Adjectives and participles with them, long before short, with whether an а or я must stand before.
static ADJECTIVAL: LazyLock<Vec<(String, bool)>> = LazyLock::new(|| {
    let participles = PARTICIPLES.split(' ').chain([""]).map(|participle| (participle, false));
    let all =
        participles.chain(PARTICIPLES_AFTER_A.split(' ').map(|participle| (participle, true)));
    let joined = |(participle, after_a)| {
        ADJECTIVES.split(' ').map(move |end| (format!("{participle}{end}"), after_a))
    };
    let mut suffixes: Vec<(String, bool)> = all.flat_map(joined).collect();
    for (suffix, _) in &mut suffixes {
        if suffix == "ui^ushchai^a" {
            *suffix = "ui^ushchaia".to_owned(); // as NLTK has it
        }
    }
    suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
    suffixes
});

/// Russian. A word without a letter beyond Latin-1 is left as it is.
pub fn stem(token: &str) -> String {
    if token.chars().all(|c| u32::from(c) <= 255) {
        return token.to_owned();
    }
    let mut word = Part::new(&to_latin(token));
    let (mut rv, mut r2) = regions(&word);
    let gerund = "ivshis' yvshis' vshis' ivshi yvshi vshi iv yv v".split(' ');
    let gerund = gerund.map(|suffix| (suffix, matches!(suffix, "v" | "vshi" | "vshis'")));
    if !take_off(&mut word, &mut rv, &mut r2, gerund) {
        let reflexive = "si^a s'".split(' ').map(|suffix| (suffix, false));
        take_off(&mut word, &mut rv, &mut r2, reflexive);
        let adjectival = ADJECTIVAL.iter().map(|(suffix, after_a)| (suffix.as_str(), *after_a));
        let verbs = VERBS.split_ascii_whitespace();
        let verbs =
            verbs.map(|suffix| (suffix, VERBS_AFTER_A.split(' ').any(|known| known == suffix)));
        let nouns = NOUNS.split_ascii_whitespace().map(|suffix| (suffix, false));
        let _ = take_off(&mut word, &mut rv, &mut r2, adjectival)
            || take_off(&mut word, &mut rv, &mut r2, verbs)
            || take_off(&mut word, &mut rv, &mut r2, nouns);
    }
    if rv.ends("i") {
        cut([&mut word, &mut r2], 1);
    }
    if let Some(suffix) = r2.ending("ost' ost") {
        word.cut(count(suffix));
    }
    tidy(&mut word);
    LETTERS.iter().fold(word.text(), |text, (latin, cyrillic)| text.replace(latin, cyrillic))
}

/// Takes off the first suffix that RV ends with, those that want it only behind an а or я; whether there was one.
fn take_off<'a>(
    word: &mut Part,
    rv: &mut Part,
    r2: &mut Part,
    mut suffixes: impl Iterator<Item = (&'a str, bool)>,
) -> bool {
    let found = suffixes.find(|(suffix, after_a)| {
        let n = count(suffix);
        let a = || rv.slice(n + 3, n) == "i^a" || rv.slice(n + 1, n) == "a";
        rv.ends(suffix) && (!after_a || a())
    });
    if let Some((suffix, _)) = found {
        cut([word, rv, r2], count(suffix));
    }
    found.is_some()
}

/// Step 4: a double н, a superlative or a soft sign at the end.
fn tidy(word: &mut Part) {
    if word.ends("nn") {
        word.cut(1);
    } else if let Some(suffix) = word.ending("ei`she ei`sh") {
        word.cut(count(suffix));
        if word.ends("nn") {
            word.cut(1);
        }
    } else if word.ends("'") {
        word.cut(1);
    }
}

fn to_latin(token: &str) -> String {
    let mut text = String::with_capacity(token.len());
    for c in token.chars() {
        let lower: String = c.to_lowercase().collect();
        match LETTERS.iter().find(|(_, cyrillic)| *cyrillic == lower) {
            Some((latin, _)) => text.push_str(latin),
            None if lower == "ё" => text.push('e'),
            None => text.push(c),
        }
    }
    text
}

/// RV (behind the first vowel) and R2, with ю, я and э as one letter each while they are looked for.
fn regions(word: &Part) -> (Part, Part) {
    let vowels = "AUEaeiouy";
    let whole = Part::new(&word.text().replace("i^a", "A").replace("i^u", "U").replace("e`", "E"));
    let apart = |part: &[char]| {
        let text: String = part.iter().collect();
        Part::new(&text.replace('A', "i^a").replace('U', "i^u").replace('E', "e`"))
    };
    let r2 = super::region(&super::region(&whole, vowels), vowels);
    let rv =
        whole.0.iter().position(|c| vowels.contains(*c)).map_or(&[][..], |at| &whole.0[at + 1..]);
    (apart(rv), apart(&r2.0))
}
