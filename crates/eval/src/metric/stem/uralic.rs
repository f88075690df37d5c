//! NLTK's Finnish and Hungarian stemmers (snowballstem.org/algorithms).

use super::{Part, count, cut, is, region, swap};

const FINNISH: &str = "aeiouyäö";
const RESTRICTED: &str = "aeiouäö";
const CONSONANTS: &str = "bcdfghjklmnpqrstvwxz";
const LONG: &str = "aa ee ii oo uu ää öö";
const CASES: &str = "siin tten seen han hen hin hon hän hön den tta ttä ssa ssä sta stä lla llä lta ltä lle ksi ine ta tä na nä a ä n";
const OTHER: &str = "impi impa impä immi imma immä mpi mpa mpä mmi mma mmä eja ejä";

/// Finnish.
pub fn finnish(word: &str) -> String {
    let mut word = Part::new(word);
    let mut r1 = region(&word, FINNISH);
    let mut r2 = region(&r1, FINNISH);
    match r1.ending("kaan kään sti kin han hän ko kö pa pä") {
        Some("sti") if !r2.has("sti") => {}
        Some(suffix) if suffix == "sti" || is(word.back(count(suffix) + 1), "ntaeiouyäö") => {
            cut([&mut word, &mut r1, &mut r2], count(suffix));
        }
        _ => {}
    }
    possessive(&mut word, &mut r1, &mut r2);
    let case = case(&mut word, &mut r1, &mut r2);
    if let Some(suffix) = r2.ending(OTHER)
        && (count(suffix) == 4 || matches!(suffix, "eja" | "ejä") || word.slice(5, 3) != "po")
    {
        cut([&mut word, &mut r1, &mut r2], count(suffix));
    }
    if case && is(r1.back(1), "ij") {
        cut([&mut word, &mut r1], 1);
    } else if !case && r1.ends("t") && is(r1.back(2), FINNISH) {
        cut([&mut word, &mut r1, &mut r2], 1);
        if r2.ends("imma") {
            cut([&mut word, &mut r1], 4);
        } else if r2.ends("mma") && r2.slice(5, 3) != "po" {
            cut([&mut word, &mut r1], 3);
        }
    }
    tidy(&mut word, &mut r1);
    word.text()
}

/// Step 2.
fn possessive(word: &mut Part, r1: &mut Part, r2: &mut Part) {
    let Some(suffix) = r1.ending("nsa nsä mme nne si ni an än en") else { return };
    let (two, three) = (word.slice(4, 2), word.slice(5, 2));
    let (two, three) = (two.as_str(), three.as_str());
    let fits = match suffix {
        "si" => word.back(3) != Some('k'),
        "an" => matches!(two, "ta" | "na") || matches!(three, "ssa" | "sta" | "lla" | "lta"),
        "än" => matches!(two, "tä" | "nä") || matches!(three, "ssä" | "stä" | "llä" | "ltä"),
        "en" => matches!(three, "lle" | "ine"),
        _ => true,
    };
    if !fits {
        return;
    }
    for part in [word, r1, r2] {
        part.cut(count(suffix));
        if suffix == "ni" && part.ends("kse") {
            part.swap(1, "i");
        }
    }
}

/// Step 3; whether a case ending was taken off.
fn case(word: &mut Part, r1: &mut Part, r2: &mut Part) -> bool {
    for suffix in CASES.split_ascii_whitespace() {
        if !r1.ends(suffix) {
            continue;
        }
        let n = count(suffix);
        let fits = match suffix {
            "han" | "hen" | "hin" | "hon" | "hän" | "hön" => {
                word.back(4) == suffix.chars().nth(1)
            }
            "siin" | "den" | "tten" => {
                if word.back(n + 1) != Some('i') || !is(word.back(n + 2), RESTRICTED) {
                    continue;
                }
                true
            }
            "seen" => {
                if !LONG.split(' ').any(|long| long == word.slice(6, 4)) {
                    continue;
                }
                true
            }
            "a" | "ä" => is(word.back(2), FINNISH) && is(word.back(3), CONSONANTS),
            "tta" | "ttä" => word.back(4) == Some('e'),
            _ => true,
        };
        // where the first suffix found does not fit, no other is tried
        if !fits {
            return false;
        }
        cut([&mut *word, &mut *r1, &mut *r2], n);
        if suffix == "n" && (word.ends("ie") || word.ends_any(LONG)) {
            cut([word, r1, r2], 1);
        }
        return true;
    }
    false
}

/// Step 6.
fn tidy(word: &mut Part, r1: &mut Part) {
    if r1.ends_any(LONG) {
        cut([&mut *word, &mut *r1], 1);
    }
    if is(r1.back(2), CONSONANTS) && is(r1.back(1), "aäei") {
        cut([&mut *word, &mut *r1], 1);
    }
    if r1.ends_any("oj uj") {
        cut([&mut *word, &mut *r1], 1);
    }
    if r1.ends("jo") {
        cut([&mut *word, &mut *r1], 1);
    }
    // a double consonant with nothing but vowels behind it becomes single
    let last = (1..word.len()).find(|&back| !is(word.back(back), FINNISH));
    if let Some(back) = last
        .filter(|&back| word.back(back) == word.back(back + 1) && is(word.back(back), CONSONANTS))
    {
        word.0.remove(word.len() - back);
    }
}

const HUNGARIAN: &str = "aeiouöüáéíóõúû";
const DIGRAPHS: &str = "cs dz dzs gy ly ny ty zs";
const DOUBLE: &str = "bb cc ccs dd ff gg ggy jj kk ll lly mm nn nny pp rr ss ssz tt tty vv zz zzs";
const STEP_2: &str = "képpen onként enként anként képp ként ban ben nak nek val vel tól tõl ról rõl ból bõl hoz hez höz nál nél ért \
    kor ba be ra re ig at et ot öt ul ül vá vé en on an ön n t";
const STEP_7: &str = "ájuk éjük ünk unk juk jük ánk énk nk uk ük em om am od ed ad öd ja je ám ád ém éd m d a e o á é";
const STEP_8: &str = "jaitok jeitek jaink jeink aitok eitek áitok éitek jaim jeim jaid jeid eink aink itek jeik jaik áink éink aim eim \
    aid eid jai jei ink aik eik áim áid áik éim éid éik im id ai ei ik ái éi i";

/// Hungarian. Of its vowels NLTK knows õ and û for ő and ű, as Latin-1 wrote them.
pub fn hungarian(word: &str) -> String {
    let mut word = Part::new(word);
    let mut r1 = hungarian_region(&word);
    if r1.ends_any("al el") {
        single(&mut word, &mut r1, 2);
    }
    if let Some(suffix) = word.ending(STEP_2).filter(|suffix| r1.ends(suffix)) {
        cut([&mut word, &mut r1], count(suffix));
        if r1.ends("á") {
            swap([&mut word, &mut r1], 1, "a");
        } else if r1.ends("é") {
            swap([&mut word, &mut r1], 1, "e");
        }
    }
    if let Some(suffix) = r1.ending("ánként án én") {
        swap([&mut word, &mut r1], count(suffix), if suffix == "én" { "e" } else { "a" });
    }
    let suffix = r1.ending("astul estül ástul éstül stul stül");
    take_off(&mut word, &mut r1, suffix, "ástul", "éstül");
    for factive in ["á", "é"] {
        if r1.ends(factive) {
            single(&mut word, &mut r1, 1);
        }
    }
    let suffix = r1.ending("oké öké aké eké áké áéi éké ééi ké éi éé é");
    take_off(&mut word, &mut r1, suffix, "áké áéi", "éké ééi éé");
    for (step, a, e) in [
        (STEP_7, "ánk ájuk ám ád á", "énk éjük ém éd é"),
        (STEP_8, "áim áid ái áink áitok áik", "éim éid éi éink éitek éik"),
        ("ák ék ök ok ek ak k", "ák", "ék"),
    ] {
        let suffix = word.ending(step).filter(|suffix| r1.ends(suffix));
        take_off(&mut word, &mut r1, suffix, a, e);
    }
    word.text()
}

/// Takes off a suffix; the ones in `a` leave an a, the ones in `e` an e.
fn take_off(word: &mut Part, r1: &mut Part, suffix: Option<&str>, a: &str, e: &str) {
    let Some(suffix) = suffix else { return };
    let of = |list: &str| list.split(' ').any(|known| known == suffix);
    let new = if of(a) {
        "a"
    } else if of(e) {
        "e"
    } else {
        ""
    };
    swap([word, r1], count(suffix), new);
}

/// Takes off the last `n` letters and makes the double consonant before them single.
fn single(word: &mut Part, r1: &mut Part, n: usize) {
    let stands = |part: &Part, double: &str| part.slice(n + count(double), n) == double;
    let Some(double) = DOUBLE.split(' ').find(|double| stands(word, double)) else { return };
    let in_region = stands(r1, double);
    let shorten = |part: &mut Part| {
        let last: String = part.back(n + 1).into_iter().collect();
        part.swap(n + 2, &last);
    };
    shorten(word);
    if in_region {
        shorten(r1);
    }
}

fn hungarian_region(word: &Part) -> Part {
    let vowel = |at: usize| HUNGARIAN.contains(word.0[at]);
    let behind = |at: Option<usize>| Part(word.0[at.map_or(word.len(), |at| at + 1)..].to_vec());
    if word.len() == 0 {
        return Part::default();
    }
    if !vowel(0) {
        return behind((1..word.len()).find(|&at| vowel(at)));
    }
    let rest = Part(word.0[1..].to_vec());
    match DIGRAPHS.split(' ').find(|digraph| rest.has(digraph)) {
        // NLTK looks for the digraph's last letter, wherever it stands first
        Some(digraph) => behind(word.0.iter().position(|c| digraph.ends_with(*c))),
        None => behind((1..word.len()).find(|&at| !vowel(at))),
    }
}
