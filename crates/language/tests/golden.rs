//! The golden cases in `fixtures/`: tags and what they mean, texts and how their language is settled. Adding a line adds a
//! test. Expectations are by hand, from CLDR's aliases and the design's rule.

use std::collections::BTreeMap;

use language::{Accuracy, Detector, Rule, normalise, resolve, verify};

#[test]
fn every_tag_has_its_canonical_form() {
    for line in include_str!("fixtures/tags.tsv").lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [input, lang, script] = cells[..] else { panic!("not three cells: {line:?}") };
        let tag = normalise(input);
        let found = tag.as_ref().map_or(("-", "-"), |tag| (tag.lang.as_str(), tag.script.as_str()));
        assert_eq!(found, (lang, script), "{input:?}");
        if let Some(tag) = tag {
            assert_eq!(
                normalise(&tag.lang).map(|again| again.lang),
                Some(tag.lang),
                "not stable: {input:?}"
            );
        }
    }
}

#[test]
fn the_rule_settles_each_case() {
    let experiment =
        ["en", "es", "fr", "pt", "ja", "zh", "ar", "ko", "ru", "th", "sw"].map(String::from);
    let detector = Detector::new(&experiment).unwrap();
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("fixtures/resolve.json")).unwrap();
    for case in cases {
        let text = |key: &str| case[key].as_str();
        let declared = text("declared").map(|tag| normalise(tag).unwrap());
        let settled = resolve(declared.as_ref(), text("text").unwrap(), &detector);
        let name = text("case").unwrap();
        assert_eq!(Some(settled.lang.as_str()), text("lang"), "{name}: {settled:?}");
        match &case["rule_in"] {
            serde_json::Value::Array(rules) => {
                assert!(rules.iter().any(|r| r == settled.rule.as_str()), "{name}: {settled:?}")
            }
            _ => assert_eq!(Some(settled.rule.as_str()), text("rule"), "{name}: {settled:?}"),
        }
        if let Some(detected) = text("detected") {
            assert_eq!(settled.detected.as_deref(), Some(detected), "{name}: {settled:?}");
        }
        if let Some(script) = text("script") {
            assert_eq!(settled.script.as_deref(), Some(script), "{name}: {settled:?}");
        }
    }
}

#[test]
fn an_unknown_language_is_the_users_error_and_names_a_near_one() {
    let error = language::canonical("Swahilli").unwrap_err();
    assert!(artifact::error::is_user(&error));
    assert!(error.to_string().contains("swahili"), "{error}");
}

#[test]
fn tags_of_any_kind_can_be_compared() {
    assert!(language::same_language("zh", "zh-Hans"));
    assert!(language::same_language("English", "eng_Latn"));
    assert!(!language::same_language("zh-Hans", "zh-Hant"));
    assert_eq!(language::english_name("sw"), Some("Swahili"));
    assert_eq!(language::english_name("zh-Hant"), Some("Chinese"));
}

/// lingua's test data (see `fixtures/make_identify.py`), from the half on which no threshold was set. In lingua's own tables
/// sentences are 99.5 % right and single words 87.4 % among these candidates (macro average).
#[test]
fn sentences_and_words_are_identified_as_well_as_by_lingua() {
    let candidates =
        "ar bn cs da de el en es fa fr he hi id it ja ko nl pl pt ru sv sw te th tr uk vi zh";
    let candidates: Vec<String> = candidates.split(' ').map(String::from).collect();
    let detector = Detector::new(&candidates).unwrap();
    let (mut right, mut sure, mut surely_right) = (BTreeMap::new(), 0, 0);
    for (kind, lang, text) in identify_cases() {
        if !candidates.iter().any(|candidate| candidate == lang) {
            continue;
        }
        let found = detector.detect(text);
        let hit = found.lang.as_deref().is_some_and(|tag| tag.split('-').next() == Some(lang));
        let cell: &mut (u32, u32) = right.entry(kind).or_default();
        *cell = (cell.0 + u32::from(hit), cell.1 + 1);
        (sure, surely_right) =
            (sure + u32::from(found.reliable), surely_right + u32::from(found.reliable && hit));
    }
    for (kind, least) in [("sentences", 99), ("word-pairs", 94), ("single-words", 84)] {
        let (hits, all) = right[kind];
        assert!(hits * 100 >= all * least, "{kind}: {hits} of {all}");
    }
    assert!(surely_right * 100 >= sure * 98, "{surely_right} of {sure}");
}

/// Each language as a row's tag beside English and Spanish as the experiment's languages.
#[test]
fn sentences_without_a_tag_and_with_one_are_settled() {
    let (mut tagged, mut checked, mut untagged, mut sentences) = (0, 0, 0, 0);
    for (_, lang, text) in identify_cases().filter(|(kind, ..)| *kind == "sentences") {
        let tag = normalise(lang).unwrap();
        let detector = Detector::new(&["en".into(), "es".into(), lang.into()]).unwrap();
        assert!(detector.knows(lang), "{lang}");
        let settled = resolve(Some(&tag), text, &detector);
        sentences += 1;
        checked += u32::from(settled.rule != Rule::Undetermined); // fewer than 20 letters
        tagged += u32::from(settled.rule == Rule::Agreed);
        let settled = resolve(None, text, &detector);
        assert_eq!(settled.rule == Rule::Detected, settled.lang != "und", "{settled:?}");
        let same = |found: String| normalise(&found).unwrap().language() == tag.language();
        untagged += u32::from(settled.rule == Rule::Detected && same(settled.lang));
    }
    assert!(checked * 100 >= sentences * 95, "{checked} of {sentences} are long enough");
    assert!(tagged * 100 >= checked * 99, "{tagged} of {checked} agree");
    assert!(untagged * 100 >= sentences * 96, "{untagged} of {sentences} are detected");
}

fn identify_cases() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    include_str!("fixtures/identify.tsv").lines().filter(|line| !line.starts_with('#')).map(
        |line| {
            let cells: Vec<&str> = line.splitn(3, '\t').collect();
            (cells[0], cells[1], cells[2])
        },
    )
}

#[test]
fn the_fast_detector_knows_what_whatlang_knows() {
    let languages = ["en".to_string(), "sw".to_string()];
    let fast = Detector::with(&languages, Accuracy::Fast).unwrap();
    assert!(fast.knows("es") && !fast.knows("sw"));
    let text = "Natalia aliuza kipande kwa marafiki arobaini mwezi wa Aprili.";
    let swahili = normalise("sw").unwrap();
    assert_eq!(resolve(Some(&swahili), text, &fast).rule, Rule::NotVerifiable);
    let accurate = Detector::new(&languages).unwrap();
    assert_eq!(resolve(Some(&swahili), text, &accurate).rule, Rule::Agreed);
    assert_ne!(fast.identity(), accurate.identity());
    assert!(accurate.identity().ends_with("; candidates en,sw"));
}

/// A row's tag is a witness, the language asked for is none: only `verify` has an unsure agreement looked at again.
#[test]
fn what_was_asked_for_is_no_evidence() {
    let detector = Detector::new(&["en".into(), "es".into(), "sw".into()]).unwrap();
    let spanish = normalise("es").unwrap();
    let found = verify(&spanish, "Все яблоки из корзины уже съели дети.", &detector);
    assert_eq!((found.rule, found.script.as_deref()), (Rule::ScriptMismatch, Some("Cyrl")));
    assert_eq!(verify(&spanish, "Sí, tres manzanas.", &detector).rule, Rule::Agreed);
    assert_eq!(resolve(Some(&spanish), "Sí, tres manzanas.", &detector).rule, Rule::Undetermined);
}

/// MGSM is human translated: every question is in the language its file names.
#[test]
fn mgsm_questions_agree_with_their_tags() {
    let Some(root) = std::env::var_os("ISOGLOSS_DATA") else {
        println!("skipped: ISOGLOSS_DATA is not set");
        return;
    };
    let folder = std::path::Path::new(&root).join("mgsm");
    let languages = ["bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"];
    let detector = Detector::new(&languages.map(String::from)).unwrap();
    for lang in languages {
        let text = std::fs::read_to_string(folder.join(format!("mgsm_{lang}.tsv"))).unwrap();
        let declared = normalise(lang);
        let settled: Vec<_> =
            text.lines().map(|line| resolve(declared.as_ref(), line, &detector)).collect();
        let agreed = settled.iter().filter(|s| s.rule == language::Rule::Agreed).count();
        assert!(!settled.iter().any(|s| s.rule.quarantines()), "{lang}");
        assert!(agreed * 100 >= settled.len() * 98, "{lang}: {agreed} of {}", settled.len());
    }
}
