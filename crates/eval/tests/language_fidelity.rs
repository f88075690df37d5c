//! LPR and WPR beside the Language Confusion Benchmark's own method (fastText lid.176, MeCab, jieba, a word list) on its two
//! models' answers. `language_confusion/oracle.py` made the verdicts; a sample of the answers (for-ai/language-confusion,
//! Apache-2.0) stands beside them, all 13,129 are read where ISOGLOSS_DATA is.

use std::path::Path;

use eval::metric::{Item, Metric, Tools, exact_match::Marks};
use language::{Accuracy, Detector};
use rayon::prelude::*;

const LANGUAGES: [&str; 15] =
    ["ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "pt", "ru", "tr", "vi", "zh"];

const NOT_LATIN: [&str; 6] = ["ar", "hi", "ja", "ko", "ru", "zh"];
const MISTAKEN: [&str; 2] = ["id", "zh"];

/// An answer, the language asked for, and the benchmark's verdict.
struct Answer {
    lang: String,
    text: String,
    theirs: char,
}

/// Ours in the same letters: `f`ails by line, `p`asses, has a `s`tray word, `-` no line counts.
fn ours(answer: &Answer, tools: &Tools) -> char {
    let marks = Marks::default();
    let item =
        Item { lang: &answer.lang, generation: &answer.text, reference: None, marks: &marks };
    let score = |name| Metric::named(name).expect("a metric").score(&item, tools).value;
    match (score("line_pass"), score("word_pass")) {
        (None, _) => '-',
        (Some(0.0), _) => 'f',
        (_, Some(0.0)) => 's',
        _ => 'p',
    }
}

/// How two methods agree on yes or no: the share of answers on which they do, and both shares of yes, in percent.
#[derive(Debug)]
struct Rates {
    answers: usize,
    agreement: f64,
    theirs: f64,
    ours: f64,
}

impl Rates {
    fn of(pairs: impl Iterator<Item = (bool, bool)>) -> Rates {
        let pairs: Vec<(bool, bool)> = pairs.collect();
        let share = |of: fn(&(bool, bool)) -> bool| {
            100.0 * pairs.iter().filter(|pair| of(pair)).count() as f64 / pairs.len() as f64
        };
        Rates {
            answers: pairs.len(),
            agreement: share(|(theirs, ours)| theirs == ours),
            theirs: share(|(theirs, _)| *theirs),
            ours: share(|(_, ours)| *ours),
        }
    }

    /// LPR, of the answers that both judge.
    fn by_line(answers: &[(&Answer, char)]) -> Rates {
        let judged = answers.iter().map(|(answer, ours)| (answer.theirs, *ours));
        let judged = judged.filter(|(theirs, ours)| *theirs != '-' && *ours != '-');
        Rates::of(judged.map(|(theirs, ours)| (theirs != 'f', ours != 'f')))
    }

    /// WPR, of the answers in languages of other scripts that pass by line in both.
    fn by_word(answers: &[(&Answer, char)]) -> Rates {
        let passed = answers.iter().filter(|(answer, ours)| {
            NOT_LATIN.contains(&answer.lang.as_str())
                && [answer.theirs, *ours].iter().all(|verdict| "ps".contains(*verdict))
        });
        Rates::of(passed.map(|(answer, ours)| (answer.theirs == 'p', *ours == 'p')))
    }
}

fn judged(answers: &[Answer], accuracy: Accuracy) -> Vec<(&Answer, char)> {
    let detector = Detector::with(&LANGUAGES.map(String::from), accuracy).expect("known languages");
    let tools = Tools::from(detector);
    answers.par_iter().map(|answer| (answer, ours(answer, &tools))).collect()
}

#[test]
fn a_sample_of_answers_is_judged_as_by_the_benchmark() {
    let rows = include_str!("language_confusion/answers.jsonl").lines();
    let answers: Vec<Answer> = rows
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).expect("a row");
            let text = |key: &str| row[key].as_str().expect("text").to_owned();
            let theirs = text("verdict").chars().next().expect("a verdict");
            Answer { lang: text("lang"), text: text("generation"), theirs }
        })
        .collect();
    let judged = judged(&answers, Accuracy::Accurate);
    let (lines, words) = (Rates::by_line(&judged), Rates::by_word(&judged));
    assert!(answers.len() > 100 && lines.agreement >= 97.0, "{lines:?}");
    assert!(words.agreement >= 97.0, "{words:?}");
}

/// With the fast detector both models' rates by line are within a point of the benchmark's. The accurate one is right more often than
/// the benchmark: fastText's lid.176.ftz takes short Chinese headings for Japanese and short Indonesian ones for Malay or Italian: there the
/// benchmark fails answers that are right, and the pass rates may differ by more than elsewhere, but in one direction only. Its word
/// list does not have `sharding`, `qubit` or `genki`, which are strays to us: 20 answers of 2,903. The rates by word are held to a
/// point over both models' answers together; llama-2 has 428 that pass by line, of which 7 differ, one way.
#[test]
fn all_answers_are_judged_as_by_the_benchmark() {
    let Some(data) = std::env::var_os("ISOGLOSS_DATA") else {
        println!("skipped: ISOGLOSS_DATA is not set");
        return;
    };
    let mut passed = Vec::new();
    for line in include_str!("language_confusion/verdicts.txt").lines() {
        let (model, verdicts) = line.split_once(' ').expect("model and verdicts");
        let path = Path::new(&data).join(format!("language_confusion/outputs/{model}.csv"));
        let mut reader = csv::Reader::from_path(&path).expect("the answers");
        let rows = reader.records().map(|row| row.expect("a row"));
        let answers: Vec<Answer> = rows
            .zip(verdicts.chars())
            .map(|(row, theirs)| Answer { lang: row[5].into(), text: row[2].into(), theirs })
            .collect();
        assert_eq!(answers.len(), verdicts.len());
        let judged = judged(&answers, Accuracy::Accurate);
        let (lines, words) = (Rates::by_line(&judged), Rates::by_word(&judged));
        println!("{model}: {lines:?}, {words:?}");
        let fast = Rates::by_line(&self::judged(&answers, Accuracy::Fast));
        println!("  fast: {fast:?}");
        assert!(fast.agreement >= 97.0, "{model}: {fast:?}");
        assert!((fast.theirs - fast.ours).abs() <= 1.0, "{model}: {fast:?}");
        assert!(lines.agreement >= 97.0, "{model}: {lines:?}");
        assert!(words.agreement >= 97.0, "{model}: {words:?}");
        let of = |pick: &dyn Fn(&str) -> bool| {
            let some: Vec<_> = judged.iter().filter(|(a, _)| pick(&a.lang)).copied().collect();
            Rates::by_line(&some)
        };
        let sound = of(&|lang| !MISTAKEN.contains(&lang));
        println!("  without {MISTAKEN:?}: {sound:?}");
        assert!((sound.theirs - sound.ours).abs() <= 1.0, "{model}: {sound:?}");
        for lang in LANGUAGES {
            println!("  {lang}: {:?}", of(&|other| other == lang));
        }
        for lang in MISTAKEN {
            let rates = of(&|other| other == lang);
            assert!(rates.ours >= rates.theirs, "{model} {lang}: {rates:?}");
        }
        passed.push(words);
    }
    let mean = |rate: fn(&Rates) -> f64| {
        let answers: usize = passed.iter().map(|words| words.answers).sum();
        passed.iter().map(|words| rate(words) * words.answers as f64).sum::<f64>() / answers as f64
    };
    let (theirs, ours) = (mean(|words| words.theirs), mean(|words| words.ours));
    println!("by word, both models: {theirs:.2} and {ours:.2}");
    assert!((theirs - ours).abs() <= 1.0, "{theirs} and {ours}");
}
