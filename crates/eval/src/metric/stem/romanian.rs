//! NLTK's Romanian stemmer (snowballstem.org/algorithms/romanian), for the letters ş and ţ with a cedilla.
//!
//! NLTK asks whether a suffix stands anywhere in a region of the word as it was, not whether the region ends with it.

use super::{Part, capital_between, count, region, vowel_region};

const VOWELS: &str = "aeiouăâî";
const STEP_0: &str = "iilor ului elor iile ilor atei aţie aţia aua ele iua iei ile ul ea ii";
const STEP_1: &str = "abilitate abilitati abilităţi ibilitate abilităi ivitate ivitati ivităţi icitate icitati icităţi icatori ivităi \
    icităi icator aţiune atoare ătoare iţiune itoare iciva icive icivi icivă icala icale icali icală ativa ative \
    ativi ativă atori ători itiva itive itivi itivă itori iciv ical ativ ator ător itiv itor";
const STEP_2: &str = "abila abile abili abilă ibila ibile ibili ibilă atori itate itati ităţi abil ibil oasa oasă oase anta ante anti \
    antă ator ităi iune iuni isme ista iste isti istă işti ata ată ati ate uta ută uti ute ita ită iti ite ica ice \
    ici ică osi oşi ant iva ive ivi ivă ism ist at ut it ic os iv";
const STEP_3: &str = "seserăţi aserăţi iserăţi âserăţi userăţi seserăm aserăm iserăm âserăm userăm serăţi seseşi seseră ească arăţi \
    urăţi irăţi ârăţi aseşi aseră iseşi iseră âseşi âseră useşi useră serăm sesem indu ându ează eşti eşte ăşti ăşte \
    eaţi iaţi arăm urăm irăm ârăm asem isem âsem usem seşi seră sese are ere ire âre ind ând eze ezi esc ăsc eam eai \
    eau iam iai iau aşi ară uşi ură işi iră âşi âră ase ise âse use aţi eţi iţi âţi sei ez am ai au ea ia ui âi ăm \
    em im âm se";
/// Those of step 3 that need nothing before them.
const FREE: &str = "seserăţi seserăm serăţi seseşi seseră serăm sesem seşi seră sese aţi eţi iţi âţi sei ăm em im âm se";

/// Romanian.
pub fn stem(word: &str) -> String {
    let mut word = Part::new(word);
    word.mark(|word, at| capital_between(word, at, "ui", VOWELS));
    let r1 = region(&word, VOWELS);
    let mut r2 = region(&r1, VOWELS);
    let mut rv = vowel_region(&word, VOWELS);
    plural(&mut word, &r1, &mut rv);
    let combined = combined(&mut word, &r1, &mut r2);
    if !standard(&mut word, &r2) && !combined {
        verb(&mut word, &rv);
    }
    if let Some(suffix) = word.ending("ie a e i ă").filter(|suffix| rv.has(suffix)) {
        word.cut(count(suffix));
    }
    word.replace(&[('I', 'i'), ('U', 'u')]);
    word.text()
}

/// Step 0.
fn plural(word: &mut Part, r1: &Part, rv: &mut Part) {
    let Some(suffix) = word.ending(STEP_0).filter(|suffix| r1.has(suffix)) else { return };
    let n = count(suffix);
    let mut put = |new: &str| {
        word.swap(n, new);
        if rv.has(suffix) {
            rv.swap(n, new);
        } else {
            *rv = Part::default();
        }
    };
    match suffix {
        "ul" | "ului" => put(""),
        "ea" | "ele" | "elor" => put("e"),
        "ii" | "iua" | "iei" | "iile" | "iilor" | "ilor" => put("i"),
        "aua" | "atei" => word.cut(2),
        "ile" if word.slice(5, 3) != "ab" => word.cut(2),
        "aţie" | "aţia" => word.cut(1),
        _ => {}
    }
}

/// Step 1, over and over; whether the last suffix found stood in R1.
fn combined(word: &mut Part, r1: &Part, r2: &mut Part) -> bool {
    let mut done = false;
    while let Some(suffix) = word.ending(STEP_1) {
        done = r1.has(suffix);
        if !done {
            break;
        }
        let (n, mut again) = (count(suffix), |new: &str| {
            if r2.has(suffix) {
                r2.swap(count(suffix), new);
            }
        });
        let new = match suffix {
            "ibilitate" => "ibil",
            _ if suffix.starts_with("abil") => "abil",
            _ if suffix.starts_with("ivit") => "iv",
            _ if suffix.starts_with("ic") => "ic",
            _ if suffix.starts_with('a') || suffix.starts_with('ă') => {
                again("at");
                "at"
            }
            _ => {
                again("it");
                "it"
            }
        };
        word.swap(n, new);
    }
    done
}

/// Step 2; whether a suffix stood in R2.
fn standard(word: &mut Part, r2: &Part) -> bool {
    let Some(suffix) = word.ending(STEP_2).filter(|suffix| r2.has(suffix)) else { return false };
    let n = count(suffix);
    match suffix {
        "iune" | "iuni" => {
            if word.back(5) == Some('ţ') {
                word.swap(5, "t");
            }
        }
        "ism" | "isme" | "ist" | "ista" | "iste" | "isti" | "istă" | "işti" => {
            word.swap(n, "ist")
        }
        _ => word.cut(n),
    }
    true
}

/// Step 3.
fn verb(word: &mut Part, rv: &Part) {
    let found =
        |suffix: &'static str| Some((suffix, rv.find(suffix).filter(|_| word.ends(suffix))?));
    let Some((suffix, at)) = STEP_3.split_ascii_whitespace().find_map(found) else { return };
    let free = FREE.split(' ').any(|known| known == suffix);
    if free || (at > 0 && !"aeioăâî".contains(rv.0[at - 1])) {
        word.cut(count(suffix));
    }
}
