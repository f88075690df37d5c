//! The generator's promises: the same bytes, unique items, right arithmetic, clean text, clear errors.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::Path,
};

use artifact::{context::Context, error::is_user};
use serde_json::Value;

use super::*;
use crate::draw::{permute, region};

fn generate(config: &Config) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    run(config, out.path(), &Context::quiet()).unwrap();
    out
}

fn small(train: usize, test: usize, text: usize) -> Config {
    Config { train, validation: test, test, text, ..Config::default() }
}

fn rows(out: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(out.join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn content(row: &Value, message: usize) -> &str {
    row["messages"][message]["content"].as_str().unwrap()
}

fn user_error(config: &Config) -> String {
    let out = tempfile::tempdir().unwrap();
    let error = run(config, out.path(), &Context::quiet()).unwrap_err();
    assert!(is_user(&error), "{error:#}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "nothing is written");
    format!("{error:#}")
}

#[test]
fn the_same_config_gives_the_same_bytes_for_any_number_of_threads() {
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = pool.install(|| generate(&small(30, 10, 60)));
        let files = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path());
        files
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap()))
            .collect::<BTreeMap<_, _>>()
    };
    let one = bytes(1);
    assert_eq!(one, bytes(3));
    assert_eq!(one.len(), 8 * (3 * 3 + 1));
}

#[test]
fn a_larger_draw_begins_with_the_smaller_one_and_leaves_the_test_items_alone() {
    let (small_out, large_out) = (generate(&small(40, 20, 0)), generate(&small(90, 20, 0)));
    for task in world::TASKS {
        let file = format!("{task}.ko.train.jsonl");
        assert_eq!(rows(small_out.path(), &file)[..], rows(large_out.path(), &file)[..40]);
        let file = format!("{task}.ko.test.jsonl");
        assert_eq!(rows(small_out.path(), &file), rows(large_out.path(), &file));
    }
}

/// The split is the world's, not the seed's: a model pretrained with one seed is tested fairly with another.
#[test]
fn no_prompt_of_one_split_comes_in_another_whatever_the_seeds() {
    let outs: Vec<_> =
        [1, 2, 3].map(|seed| generate(&Config { seed, ..small(400, 100, 600) })).into();
    for lang in world::LANGUAGES {
        let prompts = |split: &str, out: &Path| -> Vec<String> {
            let files = world::TASKS.map(|task| rows(out, &format!("{task}.{lang}.{split}.jsonl")));
            files
                .iter()
                .flatten()
                .map(|row| content(row, 0).lines().last().unwrap().to_owned())
                .collect()
        };
        for (seed, out) in outs.iter().enumerate() {
            let test: HashSet<String> = prompts("test", out.path()).into_iter().collect();
            assert_eq!(test.len(), 300, "{lang}: test prompts differ from one another");
            let other = outs[(seed + 1) % outs.len()].path();
            for split in ["train", "validation"] {
                assert!(
                    prompts(split, other).iter().all(|prompt| !test.contains(prompt)),
                    "{lang} {split}"
                );
            }
            let text = fs::read_to_string(other.join(format!("text.{lang}.train.jsonl"))).unwrap();
            assert!(test.iter().all(|prompt| !text.contains(prompt)), "{lang} text");
        }
    }
}

/// The equations `l o r = v` of an answer, the spaces read strictly.
fn equations(answer: &str) -> Vec<(i64, String, i64, i64)> {
    let digits = |word: &str, from_end: bool| -> Option<i64> {
        let take = |chars: &mut dyn Iterator<Item = char>| {
            chars.take_while(char::is_ascii_digit).collect::<String>()
        };
        let text = if from_end {
            take(&mut word.chars().rev()).chars().rev().collect()
        } else {
            take(&mut word.chars())
        };
        text.parse().ok()
    };
    let words: Vec<&str> = answer.split(' ').collect();
    let found = words.windows(5).filter(|window| window[3] == "=");
    found
        .map(|w| {
            (
                digits(w[0], true).unwrap(),
                w[1].into(),
                digits(w[2], false).unwrap(),
                digits(w[4], false).unwrap(),
            )
        })
        .collect()
}

fn numbers(text: &str) -> Vec<i64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn every_word_problem_is_solved_right_from_the_numbers_of_its_question() {
    let out = generate(&Config { tasks: vec!["math".into()], ..small(500, 100, 0) });
    for lang in world::LANGUAGES {
        let mut schemas = BTreeSet::new();
        for split in ["train", "test"] {
            for row in rows(out.path(), &format!("math.{lang}.{split}.jsonl")) {
                let (prompt, answer) = (content(&row, 0), content(&row, 1));
                schemas.insert(
                    row["item_id"].as_str().unwrap().rsplit_once('-').unwrap().0.to_owned(),
                );
                let mut known = numbers(prompt);
                let equations = equations(answer);
                assert!(!equations.is_empty(), "{answer}");
                for (left, sign, right, value) in &equations {
                    assert!(known.contains(left) && known.contains(right), "{prompt} => {answer}");
                    let right_value = match sign.as_str() {
                        "+" => left + right,
                        "-" => left - right,
                        "×" => left * right,
                        "÷" => left / right,
                        other => panic!("sign {other} in {answer}"),
                    };
                    assert!(
                        right_value == *value && (sign != "÷" || left % right == 0),
                        "{answer}"
                    );
                    known.push(*value);
                }
                let result = equations.last().unwrap().3;
                assert_eq!(row["reference"], result.to_string());
                assert_eq!(
                    numbers(answer).last(),
                    Some(&result),
                    "the last number is the answer: {answer}"
                );
                assert!((3..=99).contains(&result));
            }
        }
        assert_eq!(schemas.len(), 25, "{lang} has every schema");
    }
}

#[test]
fn the_answers_end_as_mgsm_asks() {
    let out = generate(&Config { tasks: vec!["math".into()], ..small(1, 1, 0) });
    let endings = [
        ("en", "The answer is ", "."),
        ("es", "La respuesta es ", "."),
        ("fr", "La réponse est ", "."),
        ("ja", "答えは", "です。"),
        ("zh-Hans", "答案是", "。"),
        ("ar", "الجواب هو ", "."),
        ("ko", "답은 ", "입니다."),
        ("pt", "A resposta é ", "."),
    ];
    for (lang, before, after) in endings {
        let row = &rows(out.path(), &format!("math.{lang}.test.jsonl"))[0];
        let ending = format!("{before}{}{after}", row["reference"].as_str().unwrap());
        assert!(content(row, 1).ends_with(&ending), "{lang}: {}", content(row, 1));
    }
}

#[test]
fn items_are_parallel_and_rows_have_the_columns_of_examples() {
    let out = generate(&small(60, 15, 0));
    for task in world::TASKS {
        let english = rows(out.path(), &format!("{task}.en.train.jsonl"));
        for lang in world::LANGUAGES {
            let other = rows(out.path(), &format!("{task}.{lang}.train.jsonl"));
            assert_eq!(other.len(), 60);
            for (row, peer) in other.iter().zip(&english) {
                assert_eq!(row["item_id"], peer["item_id"]);
                assert_eq!(row["id"], format!("{}.{lang}", peer["item_id"].as_str().unwrap()));
                assert_eq!(
                    (&row["lang"], &row["task"], &row["split"]),
                    (&lang.into(), &task.into(), &"train".into())
                );
                assert_eq!(
                    (&row["messages"][0]["role"], &row["messages"][1]["role"]),
                    (&"user".into(), &"assistant".into())
                );
                assert!(task != "math" || row["reference"] == peer["reference"]);
                assert!(task == "math" || row["reference"] == row["messages"][1]["content"]);
            }
        }
    }
}

fn is_of(lang: &str, letter: char) -> bool {
    let han = ('\u{4e00}'..='\u{9fff}').contains(&letter);
    match lang {
        "ja" => han || ('\u{3040}'..='\u{30ff}').contains(&letter) || letter == '々',
        "zh-Hans" => han,
        "ko" => ('가'..='힣').contains(&letter),
        "ar" => ('\u{0600}'..='\u{06ff}').contains(&letter),
        _ => letter < '\u{0250}' && letter.is_alphabetic(),
    }
}

#[test]
fn every_language_is_in_its_script_and_no_template_shows_through() {
    let out = generate(&small(300, 50, 300));
    for lang in world::LANGUAGES {
        for task in world::TASKS {
            for row in rows(out.path(), &format!("{task}.{lang}.train.jsonl")) {
                let foreign = row["item_id"].as_str().unwrap().contains("foreign_word");
                for text in [content(&row, 0), content(&row, 1)] {
                    assert!(
                        !text.contains(['{', '}', '[', ']', '|', '@'])
                            && !text.contains("  ")
                            && text == text.trim(),
                        "{text}"
                    );
                    let wrong: Vec<char> =
                        text.chars().filter(|c| c.is_alphabetic() && !is_of(lang, *c)).collect();
                    assert!(wrong.is_empty() || foreign, "{lang}: {wrong:?} in {text}");
                }
            }
        }
        for row in rows(out.path(), &format!("text.{lang}.train.jsonl")) {
            assert!(
                !content(&row, 0).contains(['{', '}', '[', ']', '|', '@']),
                "{}",
                content(&row, 0)
            );
        }
    }
}

#[test]
fn a_language_detector_agrees() {
    use whatlang::{Detector, Lang};
    let candidates =
        [Lang::Eng, Lang::Spa, Lang::Fra, Lang::Jpn, Lang::Cmn, Lang::Ara, Lang::Kor, Lang::Por];
    let detector = Detector::with_allowlist(candidates.to_vec());
    let out = generate(&Config {
        tasks: vec!["math".into(), "summarization".into()],
        ..small(100, 1, 0)
    });
    for (lang, expected) in world::LANGUAGES.iter().zip(candidates) {
        let math = rows(out.path(), &format!("math.{lang}.train.jsonl"));
        let news = rows(out.path(), &format!("summarization.{lang}.train.jsonl"));
        let agreed = math
            .iter()
            .chain(&news)
            .filter(|row| detector.detect_lang(content(row, 0)) == Some(expected))
            .count();
        assert!(agreed >= 190, "{lang}: {agreed} of 200");
    }
}

/// What makes the untaught languages untaught.
#[test]
fn the_text_holds_no_solved_problem() {
    let out = generate(&small(1, 1, 2000));
    let catalog = Catalog::load(&World::load().unwrap()).unwrap();
    for language in catalog.languages() {
        let mut kinds = BTreeSet::new();
        let mut lines = HashSet::new();
        for row in rows(out.path(), &format!("text.{}.train.jsonl", language.tag)) {
            let (id, text) = (row["item_id"].as_str().unwrap(), content(&row, 0).to_owned());
            let kind = id.split('-').next().unwrap().to_owned();
            assert_eq!(
                (row["messages"][0]["role"].as_str(), row.get("reference")),
                (Some("text"), None)
            );
            assert!(
                kind != "math" || !text.contains('='),
                "a question without its solution: {text}"
            );
            assert!(kind == "arithmetic" || !text.contains('='), "{text}");
            assert!(["math", "text", "word", "arithmetic"].contains(&kind.as_str()), "{kind}");
            assert!(lines.insert(text), "each line comes once");
            kinds.insert(kind);
        }
        assert_eq!(kinds.len(), 4);
    }
}

#[test]
fn sizes_from_one_to_twenty_thousand() {
    let config = |train| Config { languages: vec!["ar".into()], ..small(train, 1, 0) };
    let summary =
        run(&config(20_000), tempfile::tempdir().unwrap().path(), &Context::quiet()).unwrap();
    let train: Vec<_> =
        summary.files.iter().filter(|file| file.split == "train").map(|file| file.rows).collect();
    assert_eq!(train, [20_000; 3]);
    let out = generate(&config(20_000));
    let ids: HashSet<String> = rows(out.path(), "math.ar.train.jsonl")
        .iter()
        .map(|row| content(row, 0).to_owned())
        .collect();
    assert_eq!(ids.len(), 20_000);
    assert_eq!(rows(generate(&config(1)).path(), "math.ar.train.jsonl").len(), 1);
}

#[test]
fn more_items_than_there_are_is_the_users_error_with_both_counts() {
    let message = user_error(&Config {
        tasks: vec!["instruction".into()],
        test: 50_000_000,
        ..Config::default()
    });
    let world = World::load().unwrap();
    let have: u64 = world.task("instruction").map(|schema| region(schema, Split::Test).1).sum();
    assert!(
        message.contains(&format!("instruction has {have} test items, but 50000000 are asked for")),
        "{message}"
    );
}

#[test]
fn unknown_languages_and_tasks_are_named_with_what_there_is() {
    let message =
        user_error(&Config { languages: vec!["en".into(), "de".into()], ..Config::default() });
    assert!(
        message.contains("'de'") && message.contains("en, es, fr, ja, zh-Hans, ar, ko, pt"),
        "{message}"
    );
    let message = user_error(&Config { languages: vec!["zh".into()], ..Config::default() });
    assert!(message.contains("'zh'"), "{message}");
    let message = user_error(&Config { tasks: vec!["maths".into()], ..Config::default() });
    assert!(message.contains("did you mean math?"), "{message}");
    let message =
        user_error(&Config { languages: vec!["en".into(), "en".into()], ..Config::default() });
    assert!(message.contains("twice"), "{message}");
}

#[test]
fn the_shuffle_is_a_bijection() {
    for size in [1, 2, 3, 5, 64, 100, 1023] {
        let mut seen: Vec<u64> =
            (0..size).map(|value| permute(value, size, &[11, 22, 33, 44])).collect();
        let moved = seen.iter().enumerate().filter(|(at, value)| *at as u64 != **value).count();
        assert!(size < 64 || moved as u64 > size / 2);
        seen.sort_unstable();
        assert_eq!(seen, (0..size).collect::<Vec<_>>());
    }
}

#[test]
fn the_parts_of_a_schema_do_not_overlap_and_decoding_gives_different_items() {
    let world = World::load().unwrap();
    let schema = world.schemas.iter().find(|schema| schema.title() == "math.rows").unwrap();
    // 14 places, 30 people; 7 × 7 products, all of 81 or less.
    assert_eq!(schema.size(), 14 * 30 * 49);
    let items: HashSet<_> = (0..schema.size()).map(|index| schema.decode(index)).collect();
    assert_eq!(items.len() as u64, schema.size());
    let regions = [Split::Test, Split::Validation, Split::Train, Split::Text]
        .map(|split| region(schema, split));
    for pair in regions.windows(2) {
        assert_eq!(pair[0].0 + pair[0].1, pair[1].0);
    }
    assert_eq!((regions[0].0, regions[3].0 + regions[3].1), (0, schema.size()));
}

#[test]
fn slots_of_one_kind_never_hold_the_same_word() {
    let world = World::load().unwrap();
    let schema =
        world.schemas.iter().find(|schema| schema.title() == "math.three_friends").unwrap();
    for index in (0..schema.size()).step_by(1_000_003) {
        let (words, numbers) = schema.decode(index);
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
        assert_eq!(i64::from(numbers[0]) + i64::from(numbers[1]), i64::from(numbers[3]));
    }
}

#[test]
fn neighbouring_sounds_and_capitals() {
    let world = World::load().unwrap();
    let catalog = Catalog::load(&world).unwrap();
    let cases = [
        ("en", "she buys [a|an] apple and [a|an] hat. then?", "She buys an apple and a hat. Then?"),
        ("fr", "combien [de |d']œufs ? plus [que |qu']anna", "Combien d'œufs ? Plus qu'anna"),
        (
            "ko",
            "톰[은|는] 사과[을|를] 7[을|를] \"말\"[이라는|라는]",
            "톰은 사과를 7을 \"말\"이라는",
        ),
        ("ko", "2[은|는] 6[은|는] 10[이|가] 배[이|가]", "2는 6은 10이 배가"),
        ("es", "¿cuántos? ¿y tú? si, ¿qué?", "¿Cuántos? ¿Y tú? Si, ¿qué?"),
    ];
    for (tag, given, expected) in cases {
        assert_eq!(catalog.get(tag).unwrap().finish(given), expected);
    }
}

/// CLDR plural rules for Arabic: few for 3 to 10, many for 11 to 99.
#[test]
fn a_counted_noun_takes_the_form_of_its_number() {
    let world = World::load().unwrap();
    let catalog = Catalog::load(&world).unwrap();
    let cases = [
        ("ar", "book", 7, "7 كتب"),
        ("ar", "book", 10, "10 كتب"),
        ("ar", "book", 11, "11 كتابًا"),
        ("en", "book", 7, "7 books"),
        ("es", "pencil", 7, "7 lápices"),
        ("ja", "book", 7, "本7冊"),
        ("zh-Hans", "book", 7, "7本书"),
        ("ko", "book", 7, "책 7권"),
    ];
    for (tag, noun, number, expected) in cases {
        let language = catalog.get(tag).unwrap();
        assert_eq!(language.counted(number, &number.to_string(), language.word(noun)), expected);
    }
}

#[test]
fn a_broken_language_file_is_named_with_what_is_wrong() {
    let world = World::load().unwrap();
    let english = include_str!("../templates/en.toml");
    let spanish = include_str!("../templates/es.toml");
    let cases = [
        ("en", english, "[math.older]", "[math.oldest]", "[math.older] is missing"),
        ("en", english, "apple = [\"apple\", \"apples\"]\n", "", "the word 'apple'"),
        (
            "en",
            english,
            "[\"apple\", \"apples\"]",
            "[\"apple\"]",
            "noun.apple has 1 forms; [columns] asks for one, other",
        ),
        (
            "en",
            english,
            "Now {who} has {s1 thing}.",
            "Now {whom} has {s1 thing}.",
            "{whom} is not known; math.buy_more has thing, who",
        ),
        (
            "en",
            english,
            "Now {who} has {s1 thing}.",
            "Now {who} has {s2 thing}.",
            "{s2 thing} is not known",
        ),
        (
            "en",
            english,
            "Now {who} has {s1 thing}.",
            "Now {who.dative} has {s1 thing}.",
            "no form 'dative'",
        ),
        (
            "en",
            english,
            "Now {who} has {s1 thing}.",
            "Now {who has {s1 thing}.",
            "a brace without its partner",
        ),
        (
            "en",
            english,
            "{who} goes {place.to}. {who:He|She} walks",
            "{who} walks",
            "every slot and number must show",
        ),
        ("en", english, "other = \"3..99\"", "other = \"3..50\"", "plural gives 0 forms for 51"),
        ("en", english, "tag = \"en\"", "tag = \"de\"", "tag is 'de'"),
        ("en", english, "\"twenty-four\",", "", "numerals for 0 to 23"),
        (
            "es",
            spanish,
            "[\"manzana\", \"manzanas\", \"f\"]",
            "[\"manzana\", \"manzanas\", \"x\"]",
            "'apple' has none of m, f",
        ),
        (
            "es",
            spanish,
            "{thing:Cuántos|Cuántas}",
            "{thing:Cuántos}",
            "has 1 forms, but the language has 2 genders",
        ),
    ];
    for (tag, text, from, to, expected) in cases {
        assert!(text.contains(from), "{from}");
        let Err(error) = Language::parse(tag, &text.replacen(from, to, 1), &world) else {
            panic!("{expected}: no error");
        };
        let message = format!("{error:#}");
        assert!(
            is_user(&error)
                && message.contains(expected)
                && message.contains(&format!("templates/{tag}.toml")),
            "{message}"
        );
    }
}

#[test]
fn a_broken_world_is_named_with_what_is_wrong() {
    let text = include_str!("../templates/world.toml");
    let cases = [
        (
            "steps = [\"c = a + b\"]",
            "steps = [\"c = a plus b\"]",
            "step 'c = a plus b' should read like",
        ),
        ("thing = \"item\" }", "thing = \"gadget\" }", "kind 'gadget', which is not there"),
        ("a = \"3..20\"", "a = \"1..20\"", "range '1..20'"),
        (
            "a = \"6..25\", b = \"3..10\" }\nsteps = [\"c = a - b\"]",
            "a = \"6..7\", b = \"20..30\" }\nsteps = [\"c = a - b\"]",
            "no draw of its numbers",
        ),
        ("\"@food\", \"@object\"", "\"@fodder\", \"@object\"", "kind '@fodder'"),
        (
            "other = \"person\", thing = \"item\" }",
            "other = \"food\", thing = \"item\" }",
            "different kinds that share a word",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(text.contains(from), "{from}");
        let Err(error) = World::parse(&text.replacen(from, to, 1)) else {
            panic!("{expected}: no error");
        };
        assert!(is_user(&error) && format!("{error:#}").contains(expected), "{error:#}");
    }
}
