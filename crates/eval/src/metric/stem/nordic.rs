//! NLTK's Danish, Norwegian (Bokmål) and Swedish stemmers (snowballstem.org/algorithms).

use super::{Part, count, cut, is, region_behind_three, swap};

const DANISH: &str = "aeiouyæåø";
const DANISH_ENDINGS: &str = "erendes erende hedens ethed erede heden heder endes ernes erens erets ered ende erne eren erer heds enes eres \
    eret hed ene ere ens ers ets en er es et e s";
const DANISH_DOUBLE: &str = "bb cc dd ff gg hh jj kk ll mm nn pp qq rr ss tt vv ww xx zz";

/// Danish.
pub fn danish(word: &str) -> String {
    let mut word = Part::new(word);
    let mut r1 = region_behind_three(&word, DANISH);
    ending(&mut word, &mut r1, DANISH_ENDINGS, |word| is(word.back(2), "abcdfghjklmnoprtvyzå"));
    let closed = "gd dt gt kt";
    if r1.ends_any(closed) {
        cut([&mut word, &mut r1], 1);
    }
    if r1.ends("igst") {
        cut([&mut word, &mut r1], 2);
    }
    match r1.ending("elig løst lig els ig") {
        Some("løst") => word.cut(1),
        Some(suffix) => {
            cut([&mut word, &mut r1], suffix.len());
            if r1.ends_any(closed) {
                word.cut(1);
            }
        }
        None => {}
    }
    if word.len() > 3 && word.ends_any(DANISH_DOUBLE) {
        word.cut(1);
    }
    word.text()
}

const NORWEGIAN: &str = DANISH;
const NORWEGIAN_ENDINGS: &str = "hetenes hetene hetens heter heten endes ande ende edes enes erte ede ane ene ens ers ets het ast ert en ar er as \
    es et a e s";

/// Norwegian.
pub fn norwegian(word: &str) -> String {
    let mut word = Part::new(word);
    let mut r1 = region_behind_three(&word, NORWEGIAN);
    match r1.ending(NORWEGIAN_ENDINGS) {
        Some(suffix @ ("erte" | "ert")) => swap([&mut word, &mut r1], suffix.len(), "er"),
        _ => ending(&mut word, &mut r1, NORWEGIAN_ENDINGS, |word| {
            let k = word.back(2) == Some('k') && !is(word.back(3), NORWEGIAN);
            k || is(word.back(2), "bcdfghjlmnoprtvyz")
        }),
    }
    if r1.ends_any("dt vt") {
        cut([&mut word, &mut r1], 1);
    }
    if let Some(suffix) = r1.ending("hetslov eleg elig elov slov leg eig lig els lov ig") {
        word.cut(suffix.len());
    }
    word.text()
}

const SWEDISH: &str = "aeiouyäåö";
const SWEDISH_ENDINGS: &str = "heterna hetens heter heten anden arnas ernas ornas andes andet arens arna erna orna ande arne aste aren ades \
    erns ade are ern ens het ast ad en ar er or as es at a e s";

/// Swedish.
pub fn swedish(word: &str) -> String {
    let mut word = Part::new(word);
    let mut r1 = region_behind_three(&word, SWEDISH);
    ending(&mut word, &mut r1, SWEDISH_ENDINGS, |word| is(word.back(2), "bcdfghjklmnoprtvy"));
    if r1.ends_any("dd gd nn dt gt kt tt") {
        cut([&mut word, &mut r1], 1);
    }
    match r1.ending("fullt löst els lig ig") {
        Some("fullt" | "löst") => word.cut(1),
        Some(suffix) => word.cut(suffix.len()),
        None => {}
    }
    word.text()
}

/// Step 1: takes off an inflection, an s only where it may stand.
fn ending(word: &mut Part, r1: &mut Part, endings: &'static str, s: impl Fn(&Part) -> bool) {
    if let Some(suffix) = r1.ending(endings)
        && (suffix != "s" || s(word))
    {
        cut([word, r1], count(suffix));
    }
}
