//! The golden cases in `fixtures/`: tags and what they mean, texts and how their language is settled. Adding a line adds a
//! test. Expectations are by hand, from CLDR's aliases and the design's rule.

use language::{Detector, normalise, resolve};

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

/// MGSM is human translated: every question is in the language its file names.
#[test]
fn mgsm_questions_agree_with_their_tags() {
    let root = std::env::var("ISOGLOSS_DATA")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data").into());
    let folder = std::path::Path::new(&root).join("mgsm");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return;
    }
    let languages = ["bn", "de", "en", "es", "fr", "ja", "ru", "te", "th", "zh"];
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
