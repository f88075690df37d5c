//! NLTK's Spanish, Portuguese and Italian stemmers (snowballstem.org/algorithms).

use super::{Part, capital_between, count, cut, region, swap, vowel_region};

const SPANISH: &str = "aeiouáéíóúü";
const SPANISH_1: &str = "amientos imientos amiento imiento acion aciones uciones ucion adoras adores ancias logías encias amente idades \
    anzas ismos ables ibles istas adora ación antes ancia logía ución encia mente anza icos icas ismo able ible ista \
    osos osas ador ante idad ivas ivos ico ica oso osa iva ivo";
const SPANISH_2A: &str = "yeron yendo yamos yais yan yen yas yes ya ye yo yó";
const SPANISH_2B: &str = "aríamos eríamos iríamos iéramos iésemos aríais aremos eríais eremos iríais iremos ierais ieseis asteis isteis \
    ábamos áramos ásemos arían arías aréis erían erías eréis irían irías iréis ieran iesen ieron iendo ieras ieses \
    abais arais aseis éamos arán arás aría erán erás ería irán irás iría iera iese aste iste aban aran asen aron \
    ando abas adas idas aras ases íais ados idos amos imos emos ará aré erá eré irá iré aba ada ida ara ase ían ado \
    ido ías áis éis ía ad ed id an ió ar er ir as ís en es";

/// Spanish.
pub fn spanish(word: &str) -> String {
    let mut word = Part::new(word);
    let mut r1 = region(&word, SPANISH);
    let mut r2 = region(&r1, SPANISH);
    let mut rv = vowel_region(&word, SPANISH);
    if let Some(pronoun) = rv.ending("selas selos sela selo las les los nos me se la le lo") {
        let without =
            |part: &Part| Part(part.0[..part.len().saturating_sub(pronoun.len())].to_vec());
        let verb = without(&rv);
        let follows = verb.ends_any("ando ándo ar ár er ér iendo iéndo ir ír");
        if follows || (verb.ends("yendo") && without(&word).ends("uyendo")) {
            for part in [&mut word, &mut r1, &mut r2, &mut rv] {
                *part = without(part);
                accents_off(part);
            }
        }
    }
    if !spanish_standard(&mut word, &r1, &mut r2, &mut rv) {
        spanish_verb(&mut word, &mut rv);
    }
    if let Some(suffix) = rv.ending("os a e o á é í ó") {
        word.cut(count(suffix));
        if matches!(suffix, "e" | "é") {
            rv.cut(1);
            if word.ends("gu") && rv.ends("u") {
                word.cut(1);
            }
        }
    }
    accents_off(&mut word);
    word.text()
}

/// Step 1; whether something was taken off.
fn spanish_standard(word: &mut Part, r1: &Part, r2: &mut Part, rv: &mut Part) -> bool {
    let Some(suffix) = word.ending(SPANISH_1) else { return false };
    if suffix == "amente" && r1.ends(suffix) {
        adverb(word, r2, rv, "os ic ad");
        return true;
    }
    if !r2.ends(suffix) {
        return false;
    }
    let n = count(suffix);
    match suffix {
        "logía" | "logías" => swap([word, rv], n, "log"),
        "ución" | "uciones" | "ucion" => swap([word, rv], n, "u"),
        "encia" | "encias" => swap([word, rv], n, "ente"),
        _ => {
            cut([word, r2, rv], n);
            let before: &[&str] = match suffix {
                "adora" | "ador" | "ación" | "adoras" | "adores" | "acion" | "aciones" | "ante"
                | "antes" | "ancia" | "ancias" => &["ic"],
                "mente" => &["ante", "able", "ible"],
                "idad" | "idades" => &["abil", "ic", "iv"],
                "ivo" | "iva" | "ivos" | "ivas" => &["at"],
                _ => &[],
            };
            if let Some(more) = before.iter().find(|more| r2.ends(more)) {
                cut([word, rv], more.len());
            }
        }
    }
    true
}

/// Step 2.
fn spanish_verb(word: &mut Part, rv: &mut Part) {
    let after_u = |suffix: &&str| rv.ends(suffix) && word.back(count(suffix) + 1) == Some('u');
    if let Some(suffix) = SPANISH_2A.split_ascii_whitespace().find(after_u) {
        cut([word, rv], count(suffix));
    }
    if let Some(suffix) = rv.ending(SPANISH_2B) {
        cut([word, rv], count(suffix));
        if matches!(suffix, "en" | "es" | "éis" | "emos") {
            for part in [word, rv] {
                if part.ends("gu") {
                    part.cut(1);
                }
            }
        }
    }
}

fn accents_off(part: &mut Part) {
    part.replace(&[('á', 'a'), ('é', 'e'), ('í', 'i'), ('ó', 'o'), ('ú', 'u')]);
}

/// Takes off -amente with what stands before it.
fn adverb(word: &mut Part, r2: &mut Part, rv: &mut Part, others: &'static str) {
    cut([word, r2, rv], 6);
    if r2.ends("iv") {
        cut([word, r2, rv], 2);
        if r2.ends("at") {
            cut([word, rv], 2);
        }
    } else if let Some(other) = r2.ending(others) {
        cut([word, rv], other.len());
    }
}

const PORTUGUESE: &str = "aeiouáéíóúâêô";
const PORTUGUESE_1: &str = "amentos imentos uço~es amento imento adoras adores aço~es logias ências amente idades anças ismos istas adora \
    aça~o antes ância logia uça~o ência mente idade ança ezas icos icas ismo ável ível ista osos osas ador ante ivas \
    ivos iras eza ico ica oso osa iva ivo ira";
const PORTUGUESE_2: &str = "aríamos eríamos iríamos ássemos êssemos íssemos aríeis eríeis iríeis ásseis ésseis ísseis áramos éramos íramos \
    ávamos aremos eremos iremos ariam eriam iriam assem essem issem ara~o era~o ira~o arias erias irias ardes erdes \
    irdes asses esses isses astes estes istes áreis areis éreis ereis íreis ireis áveis íamos armos ermos irmos aria \
    eria iria asse esse isse aste este iste arei erei irei aram eram iram avam arem erem irem ando endo indo adas \
    idas arás aras erás eras irás avas ares eres ires íeis ados idos ámos amos emos imos iras ada ida ará ara erá \
    era irá ava iam ado ido ias ais eis ira ia ei am em ar er ir as es is eu iu ou";

/// Portuguese. A tilde stands behind its letter as a consonant.
pub fn portuguese(word: &str) -> String {
    let plain = word.replace('ã', "a~").replace('õ', "o~").replace("qü", "qu").replace("gü", "gu");
    let mut word = Part::new(&plain);
    let r1 = region(&word, PORTUGUESE);
    let mut r2 = region(&r1, PORTUGUESE);
    let mut rv = vowel_region(&word, PORTUGUESE);
    let mut done = portuguese_standard(&mut word, &r1, &mut r2, &mut rv);
    if let Some(suffix) = rv.ending(PORTUGUESE_2).filter(|_| !done) {
        cut([&mut word, &mut rv], count(suffix));
        done = true;
    }
    if done {
        if rv.ends("i") && word.back(2) == Some('c') {
            cut([&mut word, &mut rv], 1);
        }
    } else if let Some(suffix) = rv.ending("os a i o á í ó") {
        cut([&mut word, &mut rv], count(suffix));
    }
    if rv.ends_any("e é ê") {
        cut([&mut word, &mut rv], 1);
        if (word.ends("gu") && rv.ends("u")) || (word.ends("ci") && rv.ends("i")) {
            word.cut(1);
        }
    } else if word.ends("ç") {
        word.swap(1, "c");
    }
    word.text().replace("a~", "ã").replace("o~", "õ")
}

/// Step 1; whether something was taken off.
fn portuguese_standard(word: &mut Part, r1: &Part, r2: &mut Part, rv: &mut Part) -> bool {
    let Some(suffix) = word.ending(PORTUGUESE_1) else { return false };
    let n = count(suffix);
    if suffix == "amente" && r1.ends(suffix) {
        adverb(word, r2, rv, "os ic ad");
        return true;
    }
    if matches!(suffix, "ira" | "iras") && rv.ends(suffix) && word.back(n + 1) == Some('e') {
        swap([word, rv], n, "ir");
        return true;
    }
    if !r2.ends(suffix) {
        return false;
    }
    match suffix {
        "logia" | "logias" => swap([word, rv], n, "log"),
        "uça~o" | "uço~es" => swap([word, rv], n, "u"),
        "ência" | "ências" => swap([word, rv], n, "ente"),
        _ => {
            cut([word, r2, rv], n);
            let before: &[&str] = match suffix {
                "mente" => &["ante", "avel", "ivel"],
                "idade" | "idades" => &["ic", "iv", "abil"],
                "iva" | "ivo" | "ivas" | "ivos" => &["at"],
                _ => &[],
            };
            if let Some(more) = before.iter().find(|more| r2.ends(more)) {
                cut([word, rv], more.len());
            }
        }
    }
    true
}

const ITALIAN: &str = "aeiouàèìòù";
const ITALIAN_0: &str = "gliela gliele glieli glielo gliene sene mela mele meli melo mene tela tele teli telo tene cela cele celi celo \
    cene vela vele veli velo vene gli ci la le li lo mi ne si ti vi";
const ITALIAN_1: &str = "atrice atrici azione azioni uzione uzioni usione usioni amento amenti imento imenti amente abile abili ibile \
    ibili mente atore atori logia logie anza anze iche ichi ismo ismi ista iste isti istà istè istì ante anti enza \
    enze ico ici ica ice oso osi osa ose ità ivo ivi iva ive";
const ITALIAN_2: &str = "erebbero irebbero assero assimo eranno erebbe eremmo ereste eresti essero iranno irebbe iremmo ireste iresti \
    iscano iscono issero arono avamo avano avate eremo erete erono evamo evano evate iremo irete irono ivamo ivano \
    ivate ammo ando asse assi emmo enda ende endi endo erai erei Yamo iamo immo irai irei isca isce isci isco ano \
    are ata ate ati ato ava avi avo erà ere erò ete eva evi evo irà ire irò ita ite iti ito iva ivi ivo ono uta ute \
    uti uto ar ir";

/// Italian.
pub fn italian(word: &str) -> String {
    let mut word = Part::new(word);
    word.replace(&[('á', 'à'), ('é', 'è'), ('í', 'ì'), ('ó', 'ò'), ('ú', 'ù')]);
    word.mark(|word, at| (word[at] == 'u' && at > 0 && word[at - 1] == 'q').then_some('U'));
    word.mark(|word, at| capital_between(word, at, "ui", ITALIAN));
    let mut r1 = region(&word, ITALIAN);
    let mut r2 = region(&r1, ITALIAN);
    let mut rv = vowel_region(&word, ITALIAN);
    if let Some(pronoun) = rv.ending(ITALIAN_0) {
        let n = pronoun.len();
        if matches!(rv.slice(n + 4, n).as_str(), "ando" | "endo") {
            cut([&mut word, &mut r1, &mut r2, &mut rv], n);
        } else if matches!(rv.slice(n + 2, n).as_str(), "ar" | "er" | "ir") {
            swap([&mut word, &mut r1, &mut r2, &mut rv], n, "e");
        }
    }
    if !italian_standard(&mut word, &r1, &mut r2, &mut rv)
        && let Some(suffix) = rv.ending(ITALIAN_2)
    {
        cut([&mut word, &mut rv], count(suffix));
    }
    if rv.ends_any("a e i o à è ì ò") {
        cut([&mut word, &mut rv], 1);
        if rv.ends("i") {
            cut([&mut word, &mut rv], 1);
        }
    }
    if rv.ends_any("ch gh") {
        word.cut(1);
    }
    word.replace(&[('I', 'i'), ('U', 'u')]);
    word.text()
}

/// Step 1; whether something was taken off.
fn italian_standard(word: &mut Part, r1: &Part, r2: &mut Part, rv: &mut Part) -> bool {
    let Some(suffix) = word.ending(ITALIAN_1) else { return false };
    if suffix == "amente" && r1.ends(suffix) {
        adverb(word, r2, rv, "os ic abil");
        return true;
    }
    if matches!(suffix, "amento" | "amenti" | "imento" | "imenti") && rv.ends(suffix) {
        cut([word, rv], 6);
        return true;
    }
    if !r2.ends(suffix) {
        return false;
    }
    match suffix {
        // NLTK sets RV to the word here, and puts -te for Snowball's -ente.
        "logia" | "logie" => {
            word.cut(2);
            *rv = word.clone();
            rv.cut(2);
        }
        "enza" | "enze" => swap([word, rv], 4, "te"),
        "uzione" | "uzioni" | "usione" | "usioni" => cut([word, rv], 5),
        "ivo" | "ivi" | "iva" | "ive" => {
            cut([word, r2, rv], 3);
            if r2.ends("at") {
                cut([word, r2, rv], 2);
                if r2.ends("ic") {
                    cut([word, rv], 2);
                }
            }
        }
        _ => {
            cut([word, r2, rv], count(suffix));
            let before: &[&str] = match suffix {
                "azione" | "azioni" | "atore" | "atori" => &["ic"],
                "ità" => &["ic", "iv", "abil"],
                _ => &[],
            };
            if let Some(more) = before.iter().find(|more| r2.ends(more)) {
                cut([word, rv], more.len());
            }
        }
    }
    true
}
