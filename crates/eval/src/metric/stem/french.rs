//! NLTK's French stemmer (snowballstem.org/algorithms/french).
//!
//! NLTK asks whether a suffix stands anywhere in a region of the word as it was, not whether the region ends with it.

use super::{Part, between, count, is, region};

const VOWELS: &str = "aeiouyâàëéêèïîôûù";
const STEP_1: &str = "issements issement atrices atrice ateurs ations logies usions utions ements amment emment ances iqUes ismes \
    ables istes ateur ation logie usion ution ences ement euses ments ance iqUe isme able iste ence ités ives eaux \
    euse ment eux ité ive ifs aux if";
const STEP_2A: &str = "issaIent issantes iraIent issante issants issions irions issais issait issant issent issiez issons irais irait \
    irent iriez irons iront isses issez îmes îtes irai iras irez isse ies ira ît ie ir is it i";
const STEP_2B: &str = "eraIent assions erions assent assiez èrent erais erait eriez erons eront aIent antes asses ions erai eras erez \
    âmes âtes ante ants asse ées era iez ais ait ant ée és er ez ât ai as é a";
/// Those of step 2b that take an e before them along.
const WITH_E: &str =
    "assions assent assiez aIent antes asses âmes âtes ante ants asse ais ait ant ât ai as a";

/// The regions; R1 and R2 stay as they were.
struct Regions {
    r1: Part,
    r2: Part,
    rv: Part,
}

/// What step 1 did.
#[derive(PartialEq)]
enum Standard {
    Nothing,
    /// Took off a suffix.
    Done,
    /// Took off the -ment of an adverb; verb suffixes may still follow.
    Adverb,
}

/// French.
pub fn stem(word: &str) -> String {
    let mut word = Part::new(word);
    word.mark(|word, at| (word[at] == 'u' && at > 0 && word[at - 1] == 'q').then_some('U'));
    word.mark(capital);
    let r1 = region(&word, VOWELS);
    let mut regions = Regions { r2: region(&r1, VOWELS), rv: verb_region(&word), r1 };
    let standard = standard(&mut word, &mut regions);
    let verb = standard != Standard::Done
        && (verb_in_i(&mut word, &regions) || verb(&mut word, &mut regions));
    if standard == Standard::Done || verb {
        match word.back(1) {
            Some('Y') => word.swap(1, "i"),
            Some('ç') => word.swap(1, "c"),
            _ => {}
        }
    } else {
        residue(&mut word, &regions);
    }
    if word.ends_any("enn onn ett ell eill") {
        word.cut(1);
    }
    unaccent(&mut word);
    word.replace(&[('I', 'i'), ('U', 'u'), ('Y', 'y')]);
    word.text()
}

/// u and i between vowels, and y beside one, are consonants.
fn capital(word: &[char], at: usize) -> Option<char> {
    if at == 0 || at + 1 >= word.len() {
        return None;
    }
    let beside = VOWELS.contains(word[at - 1]) || VOWELS.contains(word[at + 1]);
    match word[at] {
        'u' if between(word, at, VOWELS) => Some('U'),
        'i' if between(word, at, VOWELS) => Some('I'),
        'y' if beside => Some('Y'),
        _ => None,
    }
}

fn verb_region(word: &Part) -> Part {
    let vowel = |at: usize| VOWELS.contains(word.0[at]);
    if word.len() < 2 {
        return Part::default();
    }
    let three =
        ["par", "col", "tap"].iter().any(|start| word.starts(start)) || (vowel(0) && vowel(1));
    let start = if three { Some(2) } else { (1..word.len()).find(|&at| vowel(at)) };
    Part(word.0[start.map_or(word.len(), |at| (at + 1).min(word.len()))..].to_vec())
}

/// Step 1.
fn standard(word: &mut Part, regions: &mut Regions) -> Standard {
    let Some(suffix) = word.ending(STEP_1) else { return Standard::Nothing };
    let (n, Regions { r1, r2, rv }) = (count(suffix), regions);
    match suffix {
        "eaux" => word.cut(1),
        "euse" | "euses" if r2.has(suffix) => word.cut(n),
        "euse" | "euses" if r1.has(suffix) => word.swap(n, "eux"),
        "ement" | "ements" if rv.has(suffix) => {
            word.cut(n);
            before_ement(word, r1, r2, rv);
        }
        "amment" if rv.has(suffix) => {
            word.swap(n, "ant");
            rv.swap(n, "ant");
            return Standard::Adverb;
        }
        "emment" if rv.has(suffix) => {
            word.swap(n, "ent");
            return Standard::Adverb;
        }
        "ment" | "ments" if behind_vowel(rv, suffix) => {
            word.cut(n);
            rv.cut(n);
            return Standard::Adverb;
        }
        "aux" if r1.has(suffix) => word.swap(2, "l"),
        "issement" | "issements" if r1.has(suffix) && !is(word.back(n + 1), VOWELS) => word.cut(n),
        "ance" | "iqUe" | "isme" | "able" | "iste" | "eux" | "ances" | "iqUes" | "ismes"
        | "ables" | "istes"
            if r2.has(suffix) =>
        {
            word.cut(n)
        }
        "atrice" | "ateur" | "ation" | "atrices" | "ateurs" | "ations" if r2.has(suffix) => {
            word.cut(n);
            if word.ends("ic") {
                ic(word, r2);
            }
        }
        "logie" | "logies" if r2.has(suffix) => word.swap(n, "log"),
        "usion" | "ution" | "usions" | "utions" if r2.has(suffix) => word.swap(n, "u"),
        "ence" | "ences" if r2.has(suffix) => word.swap(n, "ent"),
        "ité" | "ités" if r2.has(suffix) => {
            word.cut(n);
            if word.ends("abil") {
                if r2.has("abil") { word.cut(4) } else { word.swap(2, "l") }
            } else if word.ends("ic") {
                ic(word, r2);
            } else if word.ends("iv") && r2.has("iv") {
                word.cut(2);
            }
        }
        "if" | "ive" | "ifs" | "ives" if r2.has(suffix) => {
            word.cut(n);
            if word.ends("at") && r2.has("at") {
                word.cut(2);
                if word.ends("ic") {
                    ic(word, r2);
                }
            }
        }
        _ => return Standard::Nothing,
    }
    Standard::Done
}

/// Takes off what stands before -ement.
fn before_ement(word: &mut Part, r1: &Part, r2: &Part, rv: &Part) {
    if word.ends("iv") && r2.has("iv") {
        word.cut(2);
        if word.ends("at") && r2.has("at") {
            word.cut(2);
        }
    } else if word.ends("eus") {
        if r2.has("eus") {
            word.cut(3);
        } else if r1.has("eus") {
            word.swap(1, "x");
        }
    } else if word.ends_any("abl iqU") {
        if r2.has("abl") || r2.has("iqU") {
            word.cut(3);
        }
    } else if word.ends_any("ièr Ièr") && (rv.has("ièr") || rv.has("Ièr")) {
        word.swap(3, "i");
    }
}

fn ic(word: &mut Part, r2: &Part) {
    if r2.has("ic") { word.cut(2) } else { word.swap(2, "iqU") }
}

/// Whether the suffix's last place in RV is behind a vowel in RV.
fn behind_vowel(rv: &Part, suffix: &str) -> bool {
    !rv.starts(suffix)
        && rv.find_last(suffix).is_some_and(|at| at > 0 && VOWELS.contains(rv.0[at - 1]))
}

/// Step 2a: verb suffixes that begin with an i.
fn verb_in_i(word: &mut Part, regions: &Regions) -> bool {
    let Some(suffix) = word.ending(STEP_2A) else { return false };
    let (n, rv) = (count(suffix), &regions.rv);
    let Some(at) = rv.find_last(suffix).filter(|_| rv.len() > n) else { return false };
    // Python's index -1 is the last character
    let before = if at == 0 { rv.back(1) } else { Some(rv.0[at - 1]) };
    let found = !is(before, VOWELS);
    if found {
        word.cut(n);
    }
    found
}

/// Step 2b: other verb suffixes.
fn verb(word: &mut Part, regions: &mut Regions) -> bool {
    let Some(suffix) = regions.rv.ending(STEP_2B) else { return false };
    let n = count(suffix);
    if suffix == "ions" && !regions.r2.has("ions") {
        return false;
    }
    word.cut(n);
    if WITH_E.split(' ').any(|known| known == suffix) {
        regions.rv.cut(n);
        if regions.rv.ends("e") {
            word.cut(1);
        }
    }
    true
}

/// Step 4.
fn residue(word: &mut Part, Regions { r2, rv, .. }: &Regions) {
    if word.len() >= 2 && word.ends("s") && !is(word.back(2), "aiouès") {
        word.cut(1);
    }
    let suffixes = "ière Ière ion ier Ier e ë".split(' ');
    let found = suffixes.into_iter().find(|suffix| word.ends(suffix) && rv.has(suffix));
    match found {
        Some("ion") if r2.has("ion") && is(rv.back(4), "st") => word.cut(3),
        Some(suffix @ ("ier" | "ière" | "Ier" | "Ière")) => word.swap(count(suffix), "i"),
        Some("e") => word.cut(1),
        Some("ë") if word.slice(3, 1) == "gu" => word.cut(1),
        _ => {}
    }
}

/// Step 6: the accent of an é or è with other letters than vowels behind it.
fn unaccent(word: &mut Part) {
    let last = (1..word.len()).find(|&back| is(word.back(back), VOWELS));
    if let Some(back) = last.filter(|&back| back > 1 && is(word.back(back), "éè")) {
        let at = word.len() - back;
        word.0[at] = 'e';
    }
}
