//! Language tags: codes (ISO 639-1, -2, -3), locales, `xxx_Script` and English or own names in, canonical BCP 47 out.
//! Aliases and likely scripts are CLDR's (through icu_locale), names are ISO 639-3's (through isolang).
//! The region is dropped, so that `por-BR` and `pt` join; where it decides the script (`zh-TW`) the script is kept.

use std::collections::HashMap;
use std::sync::LazyLock;

use anyhow::Result;
use icu_locale::subtags::Script;
use icu_locale::{LanguageIdentifier, Locale, LocaleCanonicalizer, LocaleExpander};

/// A canonical language tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// BCP 47: the language, and its script where the language is written in several or the script is an unusual one
    /// (`en`, `zh-Hans`, `sr-Latn`, `hi-Latn`).
    pub lang: String,
    /// ISO 15924 code of the script the language is written in; `Zzzz` where it is not known.
    pub script: String,
    /// Whether the input decided the script (`sr-Latn`, `zh-TW`) or it is only the likely one (`sr`, `zh`).
    pub script_given: bool,
}

impl Tag {
    /// The language subtag alone: `zh` of `zh-Hans`.
    pub fn language(&self) -> &str {
        self.lang.split('-').next().unwrap_or(&self.lang)
    }
}

/// Languages that CLDR describes in more than one script; their tag always says which.
/// (Hindi is not here: its Latin form is always tagged as such, as that of any other language.)
const SEVERAL_SCRIPTS: &[(&str, &[&str])] = &[
    ("az", &["Latn", "Cyrl"]),
    ("bs", &["Latn", "Cyrl"]),
    ("ff", &["Latn", "Adlm"]),
    ("kk", &["Cyrl", "Arab"]),
    ("kok", &["Deva", "Latn"]),
    ("ks", &["Arab", "Deva"]),
    ("pa", &["Guru", "Arab"]),
    ("sat", &["Olck", "Deva"]),
    ("sd", &["Arab", "Deva"]),
    ("shi", &["Tfng", "Latn"]),
    ("sr", &["Cyrl", "Latn"]),
    ("su", &["Latn", "Sund"]),
    ("uz", &["Latn", "Cyrl", "Arab"]),
    ("vai", &["Vaii", "Latn"]),
    ("yue", &["Hant", "Hans"]),
    ("zh", &["Hans", "Hant"]),
];

/// Names in use that the registry spells otherwise.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("bangla", "bn"),
    ("bokmal", "nb"),
    ("brazilian portuguese", "pt"),
    ("burmese", "my"),
    ("cantonese", "yue"),
    ("castilian", "es"),
    ("chichewa", "ny"),
    ("chinese (simplified)", "zh-Hans"),
    ("chinese (traditional)", "zh-Hant"),
    ("chinese simplified", "zh-Hans"),
    ("chinese traditional", "zh-Hant"),
    ("farsi", "fa"),
    ("filipino", "fil"),
    ("flemish", "nl"),
    ("frisian", "fy"),
    ("greek", "el"),
    ("haitian creole", "ht"),
    ("khmer", "km"),
    ("kiswahili", "sw"),
    ("kurmanji", "ku"),
    ("kyrgyz", "ky"),
    ("lingala", "ln"),
    ("mandarin", "zh"),
    ("mandarin chinese", "zh"),
    ("moldavian", "ro"),
    ("myanmar", "my"),
    ("nepali", "ne"),
    ("nigerian pidgin", "pcm"),
    ("norwegian bokmal", "nb"),
    ("norwegian nynorsk", "nn"),
    ("odia", "or"),
    ("oriya", "or"),
    ("oromo", "om"),
    ("pashto", "ps"),
    ("persian", "fa"),
    ("punjabi", "pa"),
    ("scottish gaelic", "gd"),
    ("simplified chinese", "zh-Hans"),
    ("sinhalese", "si"),
    ("slovene", "sl"),
    ("sorani", "ckb"),
    ("swahili", "sw"),
    ("traditional chinese", "zh-Hant"),
    ("uyghur", "ug"),
    ("valencian", "ca"),
];

/// The canonical tag of a code, a locale or a language name; `None` where it names no registered language.
///
/// Codes win over names (`ee` is Ewe, `aka` is Akan), letter case and `_` for `-` do not matter.
pub fn normalise(tag: &str) -> Option<Tag> {
    let tag = tag.trim();
    let code = tag.split(['.', '@']).next().unwrap_or(tag).replace('_', "-");
    parse(&code).map(canonicalise).or_else(|| {
        let known = NAMES.get(tag.to_lowercase().replace('_', " ").as_str())?;
        parse(known).map(canonicalise)
    })
}

/// The canonical BCP 47 form of a tag.
///
/// # Errors
/// A user error that names the nearest known language where the tag is not one.
pub fn canonical(tag: &str) -> Result<String> {
    normalise(tag).map(|tag| tag.lang).ok_or_else(|| {
        let known = NAMES.keys().map(String::as_str).chain(NAMES.values().map(String::as_str));
        let hint = match artifact::config::nearest(&tag.to_lowercase(), known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => {
                "give a BCP 47 tag such as \"sw\" or \"zh-Hant\", or an English name".to_string()
            }
        };
        artifact::error::user(format!("unknown language {tag:?}: {hint}"))
    })
}

/// Whether two tags of any kind mean the same language in the same script (`zh` and `zh-Hans`, `eng` and `English`).
pub fn same_language(a: &str, b: &str) -> bool {
    match (normalise(a), normalise(b)) {
        (Some(a), Some(b)) => a.lang == b.lang,
        _ => a.eq_ignore_ascii_case(b),
    }
}

/// The English name of a language (`sw` gives `Swahili`), without its script; `None` for an unknown tag.
pub fn english_name(tag: &str) -> Option<&'static str> {
    let tag = normalise(tag)?;
    let language = registered(tag.language())?;
    // ISO 639-3 tells Modern Greek from Ancient; everyone else says Greek.
    Some(match language {
        isolang::Language::Ell => "Greek",
        other => other.to_name(),
    })
}

/// The scripts the language is written in, the likely one first; empty where there is only one.
pub(crate) fn several_scripts(language: &str) -> &'static [&'static str] {
    SEVERAL_SCRIPTS.iter().find(|(code, _)| *code == language).map_or(&[], |(_, scripts)| scripts)
}

/// The tag of a language known to be written in `script`.
pub(crate) fn with_script(language: &str, script: &str) -> Option<Tag> {
    parse(&format!("{language}-{script}")).map(canonicalise)
}

/// Syntax and registration: a locale whose language subtag ISO 639 has.
fn parse(code: &str) -> Option<Locale> {
    let locale = Locale::try_from_str(&without_extlang(code)).ok()?;
    let mut canonical = locale.clone();
    LocaleCanonicalizer::new_extended().canonicalize(&mut canonical);
    registered(canonical.id.language.as_str())?;
    Some(locale)
}

/// `zh-cmn-Hans` (RFC 5646 extended language) as `cmn-Hans`, which Unicode locales take.
fn without_extlang(code: &str) -> String {
    let mut parts = code.split('-');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let extended =
        first.len() == 2 && second.len() == 3 && second.bytes().all(|b| b.is_ascii_alphabetic());
    if extended { code[3..].to_string() } else { code.to_string() }
}

fn registered(language: &str) -> Option<isolang::Language> {
    match language.len() {
        2 => isolang::Language::from_639_1(language),
        3 if language != "und" => isolang::Language::from_639_3(language),
        _ => None,
    }
}

fn canonicalise(mut locale: Locale) -> Tag {
    // A macrolanguage's alias can carry a script of its own (`sh` is `sr-Latn`): that counts as given.
    LocaleCanonicalizer::new_extended().canonicalize(&mut locale);
    let mut id = LanguageIdentifier { variants: Default::default(), ..locale.id };
    let language = id.language.to_string();
    match (language.as_str(), id.script.as_ref().map(|script| script.as_str())) {
        // Parts of what the language is written in stand for the whole.
        ("ko", Some("Hang")) | ("ja", Some("Hira" | "Kana")) | ("zh", Some("Hani")) => {
            id.script = None;
        }
        _ => {}
    }
    let likely = likely_script(LanguageIdentifier::from(id.language));
    let script = id.script.or_else(|| likely_script(id.clone()));
    let name = script.map_or("Zzzz".to_string(), |script| script.to_string());
    let unusual = script != likely && likely.is_some();
    let chinese_region = id.region.is_some() && matches!(language.as_str(), "zh" | "yue");
    let with_script = unusual || !several_scripts(&language).is_empty();
    Tag {
        lang: if with_script { format!("{language}-{name}") } else { language },
        script: name,
        script_given: id.script.is_some() || unusual || chinese_region,
    }
}

fn likely_script(mut id: LanguageIdentifier) -> Option<Script> {
    LocaleExpander::new_extended().maximize(&mut id);
    id.script
}

/// Lower-case English and own names, each to a code. An English name wins over another language's own name, and a
/// language with a two-letter code (the macrolanguage `sw`) over one without (its member `swh`).
static NAMES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let mut languages: Vec<_> = isolang::Language::match_names(|_| true).collect();
    languages.sort_by_key(|language| language.to_639_1().is_none());
    let mut names: HashMap<String, String> =
        OTHER_NAMES.iter().map(|&(name, code)| (name.to_string(), code.to_string())).collect();
    let english = languages.iter().map(|language| (language.to_name(), language));
    let own = languages.iter().filter_map(|language| Some((language.to_autonym()?, language)));
    for (name, language) in english.chain(own) {
        if name.is_ascii() && name.len() < 3 {
            continue; // a slip of a code rather than the language E or U
        }
        let code = language.to_639_1().unwrap_or(language.to_639_3());
        names.entry(name.to_lowercase()).or_insert_with(|| code.to_string());
    }
    names
});
