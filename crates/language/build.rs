//! Makes the second detector's models: lingua's n-gram probabilities (Apache-2.0, one crate a language), a third of the size.
//!
//! lingua keeps each language's n-grams of one to five letters in a finite-state map to 64-bit log-probabilities. Rounded to
//! steps of 1/8 nat, far finer than what tells two languages apart, they share most of their states. `OUT_DIR` gets a map a
//! language (`sw.fst`) and `models.rs`, the table of them.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use fst::{Map, MapBuilder, Streamer};

/// Log-probabilities are stored as so many of these; `ngrams.rs` has the same number.
const STEP: f64 = 0.125;

macro_rules! models {
    ($($lang:literal $model:ident $folder:ident),* $(,)?) => {
        vec![$(($lang, $model::$folder.get_file("ngrams.fst").map(|file| file.contents()))),*]
    };
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let mut table = String::from("[\n");
    for (lang, model) in models() {
        let smaller = rounded(model.expect("lingua's crates hold ngrams.fst"));
        fs::write(Path::new(&out).join(format!("{lang}.fst")), smaller)
            .expect("OUT_DIR is writable");
        writeln!(table, "    ({lang:?}, include_bytes!(\"{lang}.fst\")),").expect("a string");
    }
    table.push_str("]\n");
    fs::write(Path::new(&out).join("models.rs"), table).expect("OUT_DIR is writable");
}

fn models() -> Vec<(&'static str, Option<&'static [u8]>)> {
    models![
        "af" lingua_afrikaans_language_model AFRIKAANS_MODELS_DIRECTORY,
        "ar" lingua_arabic_language_model ARABIC_MODELS_DIRECTORY,
        "eu" lingua_basque_language_model BASQUE_MODELS_DIRECTORY,
        "nb" lingua_bokmal_language_model BOKMAL_MODELS_DIRECTORY,
        "bg" lingua_bulgarian_language_model BULGARIAN_MODELS_DIRECTORY,
        "ca" lingua_catalan_language_model CATALAN_MODELS_DIRECTORY,
        "cs" lingua_czech_language_model CZECH_MODELS_DIRECTORY,
        "da" lingua_danish_language_model DANISH_MODELS_DIRECTORY,
        "nl" lingua_dutch_language_model DUTCH_MODELS_DIRECTORY,
        "en" lingua_english_language_model ENGLISH_MODELS_DIRECTORY,
        "fi" lingua_finnish_language_model FINNISH_MODELS_DIRECTORY,
        "fr" lingua_french_language_model FRENCH_MODELS_DIRECTORY,
        "lg" lingua_ganda_language_model GANDA_MODELS_DIRECTORY,
        "de" lingua_german_language_model GERMAN_MODELS_DIRECTORY,
        "hi" lingua_hindi_language_model HINDI_MODELS_DIRECTORY,
        "id" lingua_indonesian_language_model INDONESIAN_MODELS_DIRECTORY,
        "ga" lingua_irish_language_model IRISH_MODELS_DIRECTORY,
        "it" lingua_italian_language_model ITALIAN_MODELS_DIRECTORY,
        "ms" lingua_malay_language_model MALAY_MODELS_DIRECTORY,
        "mi" lingua_maori_language_model MAORI_MODELS_DIRECTORY,
        "mr" lingua_marathi_language_model MARATHI_MODELS_DIRECTORY,
        "fa" lingua_persian_language_model PERSIAN_MODELS_DIRECTORY,
        "pl" lingua_polish_language_model POLISH_MODELS_DIRECTORY,
        "pt" lingua_portuguese_language_model PORTUGUESE_MODELS_DIRECTORY,
        "ro" lingua_romanian_language_model ROMANIAN_MODELS_DIRECTORY,
        "ru" lingua_russian_language_model RUSSIAN_MODELS_DIRECTORY,
        "sn" lingua_shona_language_model SHONA_MODELS_DIRECTORY,
        "so" lingua_somali_language_model SOMALI_MODELS_DIRECTORY,
        "st" lingua_sotho_language_model SOTHO_MODELS_DIRECTORY,
        "es" lingua_spanish_language_model SPANISH_MODELS_DIRECTORY,
        "sw" lingua_swahili_language_model SWAHILI_MODELS_DIRECTORY,
        "sv" lingua_swedish_language_model SWEDISH_MODELS_DIRECTORY,
        "tl" lingua_tagalog_language_model TAGALOG_MODELS_DIRECTORY,
        "ts" lingua_tsonga_language_model TSONGA_MODELS_DIRECTORY,
        "tn" lingua_tswana_language_model TSWANA_MODELS_DIRECTORY,
        "tr" lingua_turkish_language_model TURKISH_MODELS_DIRECTORY,
        "uk" lingua_ukrainian_language_model UKRAINIAN_MODELS_DIRECTORY,
        "ur" lingua_urdu_language_model URDU_MODELS_DIRECTORY,
        "vi" lingua_vietnamese_language_model VIETNAMESE_MODELS_DIRECTORY,
        "cy" lingua_welsh_language_model WELSH_MODELS_DIRECTORY,
        "xh" lingua_xhosa_language_model XHOSA_MODELS_DIRECTORY,
        "yo" lingua_yoruba_language_model YORUBA_MODELS_DIRECTORY,
        "zu" lingua_zulu_language_model ZULU_MODELS_DIRECTORY,
    ]
}

fn rounded(model: &[u8]) -> Vec<u8> {
    let model = Map::new(model).expect("lingua's map");
    let mut builder = MapBuilder::memory();
    let mut ngrams = model.stream();
    while let Some((ngram, bits)) = ngrams.next() {
        let steps = (-f64::from_bits(bits) / STEP).round() as u64;
        builder.insert(ngram, steps).expect("in order");
    }
    builder.into_inner().expect("in memory")
}
