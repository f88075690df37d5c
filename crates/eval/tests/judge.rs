//! The judge against a server on loopback that answers, fails, stalls, cuts and lies. What is expected follows from the
//! definitions (rating, switch-aware rating, win rate in both orders) by counting on one's fingers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use artifact::polars::prelude::*;
use artifact::schema::SCORES;
use artifact::{Context, parquet};
use eval::judge::{self, Config, Price, Summary};
use loopback::{Answer, Request, Server};
use serde_json::{Value, json};

/// A chat completion with this text.
fn completion(text: &str) -> Answer {
    Answer::json(
        200,
        json!({
            "model": "judge-2026",
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }),
    )
}

/// The user's message of a request.
fn asked(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).expect("a request is JSON");
    body["messages"][1]["content"].as_str().expect("a user message").to_owned()
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes generations of one run: (example, language, answer).
    fn run(&self, run_id: &str, rows: &[(&str, &str, &str)]) -> PathBuf {
        let path = self.path(&format!("{run_id}.jsonl"));
        let row = |&(id, lang, answer): &(&str, &str, &str)| {
            let row = json!({"run_id": run_id, "example_id": format!("{id}-{lang}"), "item_id": id, "lang": lang,
                "task": "chat", "prompt": format!("question {id}"), "generation": answer, "n": 100});
            format!("{row}\n")
        };
        std::fs::write(&path, rows.iter().map(row).collect::<String>()).expect("written");
        path
    }

    /// Settings for a server, quick to give up.
    fn config(&self, url: &str) -> Config {
        Config {
            model: "judge".into(),
            base_url: Some(url.to_owned()),
            cache: Some(self.path("cache")),
            retry_wait: 0.01,
            timeout: 60.0,
            attempts: 4,
            max_failed: 1.0,
            ..Config::default()
        }
    }

    fn judge(&self, config: &Config, generations: &[PathBuf]) -> anyhow::Result<Summary> {
        std::fs::create_dir_all(self.path("out")).expect("a folder");
        judge::run(config, generations, &[], &self.path("out"), &Context::quiet())
    }

    fn scores(&self) -> Scores {
        Scores(read(&self.path("out/scores.parquet")))
    }
}

fn read(path: &Path) -> DataFrame {
    parquet::read(path, Some(&SCORES)).expect("scores by the contract")
}

struct Scores(DataFrame);

impl Scores {
    fn text(&self, row: usize, column: &str) -> String {
        let column = self.0.column(column).expect(column).str().expect(column).clone();
        column.get(row).unwrap_or_default().to_owned()
    }

    /// Value and detail of a metric for an example.
    fn of(&self, example: &str, metric: &str) -> (Option<f64>, String) {
        let row = (0..self.0.height())
            .find(|&row| {
                self.text(row, "example_id") == example && self.text(row, "metric") == metric
            })
            .unwrap_or_else(|| panic!("no {metric} of {example}"));
        (self.0.column("value").unwrap().f64().unwrap().get(row), self.text(row, "detail"))
    }
}

const SPANISH: &str = "La capital de Francia es París, una ciudad grande y muy visitada.";
const ENGLISH: &str = "The capital of France is Paris, a large and much visited city.";

#[test]
fn a_rating_a_language_pass_and_a_switch_aware_rating_are_three_metrics() {
    let server = Server::start(|_, _| completion("Right, with a minor flaw.\n[[4]]"));
    let place = Place::new();
    let rows = [("1", "es", SPANISH), ("2", "es", ENGLISH), ("3", "en", ENGLISH), ("4", "es", "")];
    let generations = place.run("r", &rows);
    let price = Some(Price { prompt: 2.0, completion: 10.0 });
    let config = Config { price, ..place.config(&server.url()) };
    let summary = place.judge(&config, &[generations]).unwrap();
    let scores = place.scores();
    for (example, rating, pass, switch_aware) in [
        ("1-es", 4.0, 1.0, 4.0),
        ("2-es", 4.0, 0.0, 1.0),
        ("3-en", 4.0, 1.0, 4.0),
        ("4-es", 1.0, 0.0, 1.0), // an empty answer is not worth a request
    ] {
        assert_eq!(scores.of(example, "judge_rating").0, Some(rating), "{example}");
        assert_eq!(scores.of(example, "judge_pass").0, Some(pass), "{example}");
        assert_eq!(scores.of(example, "judge_switch_aware").0, Some(switch_aware), "{example}");
    }
    assert!(scores.of("2-es", "judge_switch_aware").1.contains("wrong language"));
    assert!(scores.of("1-es", "judge_rating").1.contains("a minor flaw"));
    assert!(scores.text(0, "signature").contains("judge:judge|prompt:rating@"));
    assert_eq!(scores.0.column("n").unwrap().i64().unwrap().get(0), Some(100), "factors go along");
    assert_eq!(summary.mean("chat", "judge_switch_aware", "es"), Some(2.0));
    // Three answers were asked for, each of 100 tokens there and 10 back.
    assert_eq!((summary.requests, summary.asked), (3, 3));
    assert_eq!((summary.prompt_tokens, summary.completion_tokens), (300, 30));
    assert_eq!(summary.cost, Some((300.0 * 2.0 + 30.0 * 10.0) / 1e6));
    assert!(summary.served.contains("judge-2026"));
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.path == "/v1/chat/completions"));
    assert!(requests.iter().any(|request| asked(request).contains("an answer in Spanish")));
    let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!((&body["temperature"], &body["model"]), (&json!(0), &json!("judge")));
}

#[test]
fn a_rerun_pays_nothing_and_gives_the_same_bytes_whoever_answered_first() {
    let answers = |request: &Request, _: usize| {
        let rating = 1 + asked(request).len() % 5;
        completion(&format!("[[{rating}]]"))
    };
    let server = Server::start(answers);
    let place = Place::new();
    let texts: Vec<String> = (0..40).map(|n| format!("{SPANISH}{}", "!".repeat(n))).collect();
    let ids: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let rows: Vec<_> =
        ids.iter().zip(&texts).map(|(id, text)| (&id[..], "es", &text[..])).collect();
    let generations = [place.run("r", &rows)];
    let config = place.config(&server.url());
    place.judge(&Config { concurrency: 8, ..config.clone() }, &generations).unwrap();
    let bytes = std::fs::read(place.path("out/scores.parquet")).unwrap();
    assert_eq!(server.requests().len(), 40);

    let again = place.judge(&Config { concurrency: 1, ..config.clone() }, &generations).unwrap();
    assert_eq!((again.asked, again.prompt_tokens), (0, 0));
    assert_eq!(std::fs::read(place.path("out/scores.parquet")).unwrap(), bytes);
    assert_eq!(server.requests().len(), 40);

    // Elsewhere, one at a time: the same bytes again.
    let alone = Config { concurrency: 1, cache: Some(place.path("other")), ..config.clone() };
    place.judge(&alone, &generations).unwrap();
    assert_eq!(std::fs::read(place.path("out/scores.parquet")).unwrap(), bytes);

    // With everything in the cache there need not be an endpoint.
    let nowhere = Config { base_url: Some(String::new()), ..config };
    place.judge(&nowhere, &generations).unwrap();
    let other = Config { model: "other".into(), ..nowhere };
    let error = place.judge(&other, &generations).unwrap_err();
    assert!(
        artifact::error::is_user(&error) && error.to_string().contains("no endpoint"),
        "{error}"
    );
}

#[test]
fn equal_requests_are_asked_once() {
    let server = Server::start(|_, _| completion("[[3]]"));
    let place = Place::new();
    let row = ("1", "es", SPANISH);
    let (one, two) = (place.run("a", &[row, row]), place.run("b", &[row]));
    place.judge(&place.config(&server.url()), &[one, two]).unwrap();
    assert_eq!(server.requests().len(), 1);
    assert_eq!(place.scores().0.height(), 9, "but every answer has its rows");
}

#[test]
fn a_win_must_hold_in_both_orders() {
    // The judge prefers by a word in the answer; "first" makes it prefer whatever is shown first.
    let server = Server::start(|request, _| {
        let text = asked(request);
        let (a, b) = text.split_once("<answer_b>").unwrap();
        completion(match () {
            () if text.contains("FIRST") => "[[A]]",
            () if text.contains("EQUAL") => "[[C]]",
            () if text.contains("WORDY") => "I like both.",
            () if a.contains("GOOD") => "[[A]]",
            () if b.contains("GOOD") => "[[B]]",
            () => "[[C]]",
        })
    });
    let place = Place::new();
    let own = [
        ("win", "en", "GOOD answer"),
        ("loss", "en", "weak answer"),
        ("flip", "en", "FIRST answer"),
        ("tie", "en", "EQUAL answer"),
        ("none", "en", "WORDY answer"),
        ("same", "en", "plain"),
        ("empty", "en", ""),
        ("alone", "en", "an answer"),
    ];
    let theirs = [
        ("win", "en", "weak"),
        ("loss", "en", "GOOD"),
        ("flip", "en", "x"),
        ("tie", "en", "x"),
        ("none", "en", "x"),
        ("same", "en", "plain"),
        ("empty", "en", "something"),
    ];
    let generations = [place.run("own", &own), place.run("base", &theirs)];
    let config =
        Config { baseline: Some("base".into()), rating: false, ..place.config(&server.url()) };
    let summary = place.judge(&config, &generations).unwrap();
    let scores = place.scores();
    for (example, value, detail) in [
        ("win", Some(1.0), "win"),
        ("loss", Some(0.0), "loss"),
        ("flip", Some(0.5), "tie: win when shown first, loss when shown second"),
        ("tie", Some(0.5), "tie"),
        ("none", None, "malformed"),
        ("same", Some(0.5), "the same"),
        ("empty", Some(0.0), "empty"),
        ("alone", None, "no answer to this example"),
    ] {
        let (found, said) = scores.of(&format!("{example}-en"), "win_rate");
        assert_eq!(found, value, "{example}: {said}");
        assert!(said.contains(detail), "{example}: {said}");
    }
    assert_eq!(scores.0.height(), own.len(), "the baseline is not compared with itself");
    assert_eq!((summary.pairs, summary.flips), (4, 1));
    // win: A, B; loss: B, A; flip: A, A; tie: C, C.
    assert_eq!(summary.first_preferred, 4);
    // (1 win + 0 + 3 ties / 2) / 6 with a verdict
    assert_eq!(summary.mean("chat", "win_rate", "en"), Some(2.5 / 6.0));
    assert!(scores.text(0, "signature").contains("orders:2|baseline:base"));

    let unknown = Config { baseline: Some("bass".into()), ..config };
    let error = place.judge(&unknown, &generations).unwrap_err();
    assert!(artifact::error::is_user(&error), "{error}");
    assert!(error.to_string().contains("is it `base`?"), "{error}");
}

#[test]
fn passing_faults_are_tried_again() {
    let faults: [fn() -> Answer; 7] = [
        || Answer::json(500, json!({"error": {"message": "out of memory"}})),
        || Answer::json(429, json!({"error": "slow down"})).with("retry-after", "0"),
        || Answer::Close,
        || completion("[[3]]").cut(20),
        || Answer::body(200, "text/html", "<html>maintenance"),
        || Answer::json(200, json!({"choices": []})),
        || Answer::json(200, json!({"error": {"message": "overloaded"}})),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let server = Server::start(move |_, before| match before {
            0 | 1 => fault(),
            _ => completion("[[5]]"),
        });
        let place = Place::new();
        let generations = place.run("r", &[("1", "en", ENGLISH)]);
        let summary = place.judge(&place.config(&server.url()), &[generations]).unwrap();
        assert_eq!(place.scores().of("1-en", "judge_rating").0, Some(5.0), "fault {number}");
        assert_eq!((summary.failed, server.requests().len()), (0, 3), "fault {number}");
    }
}

#[test]
fn a_stall_ends_at_the_timeout_and_is_tried_again() {
    // Far longer than any machine takes for the rest, so that the test does not depend on its speed.
    let stall = Duration::from_secs(3600);
    let server = Server::start(move |_, before| match before {
        0 => Answer::Stall(stall),
        _ => completion("[[5]]"),
    });
    let place = Place::new();
    let generations = place.run("r", &[("1", "en", ENGLISH)]);
    let started = Instant::now();
    place.judge(&Config { timeout: 1.0, ..place.config(&server.url()) }, &[generations]).unwrap();
    assert!(started.elapsed() < stall);
    assert_eq!(place.scores().of("1-en", "judge_rating").0, Some(5.0));
}

#[test]
fn retry_after_holds_for_all_requests() {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = times.clone();
    let server = Server::start(move |_, before| {
        seen.lock().unwrap().push(Instant::now());
        match before {
            0 => Answer::json(429, json!({"error": "slow down"})).with("retry-after", "0.4"),
            _ => completion("[[5]]"),
        }
    });
    let place = Place::new();
    let rows = [("1", "en", "one"), ("2", "en", "two"), ("3", "en", "three")];
    let config = Config { concurrency: 1, ..place.config(&server.url()) };
    place.judge(&config, &[place.run("r", &rows)]).unwrap();
    let times = times.lock().unwrap();
    assert!(times[1] - times[0] >= Duration::from_millis(400), "{:?}", times[1] - times[0]);

    // A wait that is longer than a request may take is not waited for.
    let server = Server::start(|_, _| Answer::text(503, "later").with("retry-after", "3600"));
    let summary = place
        .judge(
            &Config { model: "b".into(), ..place.config(&server.url()) },
            &[place.run("r", &rows)],
        )
        .unwrap();
    assert_eq!((summary.failed, server.requests().len()), (3, 3));
    assert!(place.scores().of("1-en", "judge_rating").1.contains("1 h 0 min"));
}

#[test]
fn requests_keep_to_the_rate() {
    let server = Server::start(|_, _| completion("[[5]]"));
    let place = Place::new();
    let rows = [("1", "en", "one"), ("2", "en", "two"), ("3", "en", "three"), ("4", "en", "four")];
    let config = Config { requests_per_minute: Some(600.0), ..place.config(&server.url()) };
    let started = Instant::now();
    place.judge(&config, &[place.run("r", &rows)]).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
}

#[test]
fn what_never_answers_is_a_row_without_a_value_and_asked_again_next_time() {
    let server = Server::start(|request, _| match asked(request).contains("question 2") {
        true => Answer::json(500, json!({"error": {"message": "no luck"}})),
        false => completion("[[5]]"),
    });
    let place = Place::new();
    let rows = [("1", "en", "one"), ("2", "en", "two"), ("3", "en", "three")];
    let generations = [place.run("r", &rows)];
    let config = place.config(&server.url());
    let summary = place.judge(&config, &generations).unwrap();
    assert_eq!((summary.failed, summary.malformed), (1, 0));
    let (value, detail) = place.scores().of("2-en", "judge_rating");
    assert_eq!(value, None);
    assert!(
        detail.contains("failed") && detail.contains("500") && detail.contains("no luck"),
        "{detail}"
    );
    assert_eq!(server.requests().len(), 2 + 4, "four attempts");
    let text = summary.to_string();
    assert!(text.contains("1 failed") && text.contains("no luck"), "{text}");

    // More failures than allowed end in an error, and the next run asks for those alone.
    let strict = Config { max_failed: 0.1, ..config };
    let error = place.judge(&strict, &generations).unwrap_err().to_string();
    assert!(error.contains("1 of 3 requests") && error.contains("max_failed = 0.1"), "{error}");
    assert_eq!(server.requests().len(), 6 + 4);
}

#[test]
fn an_endpoint_that_fails_throughout_is_not_asked_to_the_end() {
    let server =
        Server::start(|_, _| Answer::json(400, json!({"error": {"message": "no such field"}})));
    let place = Place::new();
    let ids: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let rows: Vec<_> = ids.iter().map(|id| (&id[..], "en", ENGLISH)).collect();
    let config = Config { max_failed: 0.01, ..place.config(&server.url()) };
    let error = place.judge(&config, &[place.run("r", &rows)]).unwrap_err().to_string();
    assert!(error.contains("no such field"), "{error}");
    assert!(server.requests().len() < 40, "{} requests", server.requests().len());
}

#[test]
fn what_the_user_must_mend_stops_at_once() {
    type Case = (fn() -> Answer, &'static [&'static str]);
    let cases: [Case; 6] = [
        (
            || Answer::json(401, json!({"error": {"message": "no key"}})),
            &["401", "no key", "ISOGLOSS_JUDGE_KEY"],
        ),
        (|| Answer::text(404, "not here"), &["404", "/v1"]),
        (
            || {
                Answer::json(
                    404,
                    json!({"error": {"message": "The model `judge` does not exist."}}),
                )
            },
            &["does not exist", "`model`"],
        ),
        (
            || {
                Answer::json(
                    429,
                    json!({"error": {"message": "pay", "code": "insufficient_quota"}}),
                )
            },
            &["paid up"],
        ),
        (|| Answer::json(402, json!({"error": {"message": "no credit"}})), &["no credit"]),
        (|| Answer::text(308, "").with("location", "https://there/v1"), &["https://there/v1"]),
    ];
    for (answer, words) in cases {
        let server = Server::start(move |_, _| answer());
        let place = Place::new();
        let config = Config { concurrency: 1, ..place.config(&server.url()) };
        let rows = [("1", "en", "one"), ("2", "en", "two")];
        let error = place.judge(&config, &[place.run("r", &rows)]).unwrap_err();
        let said = error.to_string();
        assert!(artifact::error::is_user(&error), "{said}");
        assert!(
            words.iter().all(|word| said.contains(word)) && said.contains("127.0.0.1"),
            "{said}"
        );
        assert!(server.requests().len() <= 2, "no request is tried again");
    }
    // Nothing listens: the port of a server that is gone.
    let gone = Server::start(|_, _| Answer::Close).url();
    let place = Place::new();
    let error =
        place.judge(&place.config(&gone), &[place.run("r", &[("1", "en", "x")])]).unwrap_err();
    assert!(artifact::error::is_user(&error) && error.to_string().contains(&gone), "{error}");
}

#[test]
fn lies_are_counted_and_shown_and_never_guessed() {
    let lies: BTreeMap<&str, &str> = [
        ("1", "I would say 4 out of 5."),
        ("2", "[[9]]"),
        ("3", "[[4]] … on second thought [[2]]"),
        ("4", ""),
        ("5", "{\"rating\": 4}"),
        ("6", "As to [[that]]: well done! [[4]]\nHave a nice day."),
    ]
    .into();
    let answers = lies.clone();
    let server = Server::start(move |request, _| {
        let text = asked(request);
        let id = answers.keys().find(|id| text.contains(&format!("question {id}"))).unwrap();
        completion(answers[id])
    });
    let place = Place::new();
    let rows: Vec<_> = lies.keys().map(|id| (*id, "en", ENGLISH)).collect();
    let summary = place.judge(&place.config(&server.url()), &[place.run("r", &rows)]).unwrap();
    let scores = place.scores();
    for id in ["1", "2", "3", "4", "5"] {
        for metric in ["judge_rating", "judge_switch_aware"] {
            let (value, detail) = scores.of(&format!("{id}-en"), metric);
            assert_eq!(value, None, "{id}");
            assert!(detail.starts_with("malformed: "), "{id}: {detail}");
        }
        assert_eq!(scores.of(&format!("{id}-en"), "judge_pass").0, Some(1.0));
    }
    assert_eq!(scores.of("6-en", "judge_rating").0, Some(4.0), "prose around a verdict is no lie");
    assert_eq!((summary.malformed, summary.failed), (5, 0));
    let text = summary.to_string();
    assert!(text.contains("5 malformed") && text.contains("no value"), "{text}");
    // A malformed reply was paid, too: it is not asked again.
    place.judge(&place.config(&server.url()), &[place.path("r.jsonl")]).unwrap();
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn a_run_that_is_stopped_goes_on_from_the_cache() {
    let served = Arc::new(AtomicUsize::new(0));
    let (count, ctx) = (served.clone(), Context::quiet());
    let cancel = ctx.clone();
    let server = Server::start(move |_, _| {
        if count.fetch_add(1, Ordering::SeqCst) == 4 {
            cancel.cancel();
        }
        std::thread::sleep(Duration::from_millis(20));
        completion("[[5]]")
    });
    let place = Place::new();
    let ids: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let rows: Vec<_> = ids.iter().map(|id| (&id[..], "en", ENGLISH)).collect();
    let generations = [place.run("r", &rows)];
    let config = Config { concurrency: 2, ..place.config(&server.url()) };
    std::fs::create_dir_all(place.path("out")).unwrap();
    let error = judge::run(&config, &generations, &[], &place.path("out"), &ctx).unwrap_err();
    assert!(artifact::error::is_interrupted(&error), "{error}");
    let before = served.load(Ordering::SeqCst);
    assert!(before < 30, "{before} requests went out after the stop");
    let summary = place.judge(&config, &generations).unwrap();
    assert_eq!(summary.asked as usize, 60 - before, "every reply that came was kept");
}

#[test]
fn an_estimate_asks_nothing() {
    let server = Server::start(|_, _| completion("[[5]]"));
    let place = Place::new();
    let one = [place.run("a", &[("1", "en", "one")])];
    let price = Some(Price { prompt: 1.0, completion: 1.0 });
    let config = Config { price, ..place.config(&server.url()) };
    place.judge(&config, &one).unwrap();
    let all = [one[0].clone(), place.run("b", &[("2", "en", "two"), ("3", "en", "three")])];
    let estimate = judge::estimate(&config, &all, &[], &Context::quiet()).unwrap();
    assert_eq!((estimate.requests, estimate.cached), (3, 1));
    // The reply in the cache had 10 tokens, so two more have about 20.
    assert_eq!(estimate.completion_tokens, Some(20));
    assert!(estimate.prompt_tokens > 200 && estimate.cost.is_some());
    assert_eq!(server.requests().len(), 1);
    let text = estimate.to_string();
    assert!(text.contains("3 requests: 1 in the cache, 2 to ask"), "{text}");
}

#[test]
fn a_baseline_may_stand_in_a_file_of_its_own_and_rows_without_ids_pair_by_their_place() {
    let server = Server::start(|_, _| completion("[[A]]"));
    let place = Place::new();
    let row =
        |answer: &str| json!({"lang": "en", "task": "chat", "prompt": "q", "generation": answer});
    let (own, theirs) = (place.path("own.jsonl"), place.path("theirs.jsonl"));
    std::fs::write(&own, format!("{}\n{}\n", row("a"), row("b"))).unwrap();
    std::fs::write(&theirs, format!("{}\n{}\n", row("c"), row("b"))).unwrap();
    std::fs::create_dir_all(place.path("out")).unwrap();
    let config = Config { rating: false, ..place.config(&server.url()) };
    judge::run(&config, &[own], &[theirs], &place.path("out"), &Context::quiet()).unwrap();
    let scores = place.scores();
    assert_eq!(scores.0.height(), 2);
    assert!(scores.text(0, "detail").starts_with("tie: win when shown first"));
    assert!(scores.text(1, "detail").contains("the same"));
    assert!(scores.text(0, "signature").contains("baseline:theirs"));
}

#[test]
fn answers_that_hold_no_more_than_an_id_are_joined_with_what_was_asked() {
    use artifact::example::{Example, Message, examples_to_frame};
    let server = Server::start(|_, _| completion("[[2]]"));
    let place = Place::new();
    let message =
        |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let example = Example {
        example_id: "e".into(),
        task: "chat".into(),
        lang: "es".into(),
        messages: vec![
            message("user", "a shot"),
            message("assistant", "x"),
            message("user", "¿Qué?"),
        ],
        ..Example::default()
    };
    let prompts = place.path("prompts.parquet");
    let mut frame = examples_to_frame(&[example]).unwrap();
    parquet::write(&prompts, &artifact::schema::EXAMPLES, &mut frame).unwrap();
    let path = place.path("x.jsonl");
    std::fs::write(&path, format!("{}\n", json!({"example_id": "e", "generation": SPANISH})))
        .unwrap();
    let config = Config { prompts: Some(prompts), ..place.config(&server.url()) };
    place.judge(&config, &[path]).unwrap();
    assert_eq!(place.scores().of("e", "judge_switch_aware").0, Some(2.0));
    let text = asked(&server.requests()[0]);
    assert!(
        text.contains("¿Qué?") && text.contains("Spanish") && !text.contains("a shot"),
        "{text}"
    );
}

#[test]
fn answers_without_their_prompt_are_refused() {
    let place = Place::new();
    let path = place.path("x.jsonl");
    std::fs::write(&path, "{\"lang\":\"en\",\"task\":\"chat\",\"generation\":\"a\"}\n").unwrap();
    let error = place.judge(&place.config("http://127.0.0.1:9"), &[path]).unwrap_err();
    let said = error.to_string();
    assert!(artifact::error::is_user(&error) && said.contains("`prompt`"), "{said}");
    assert!(said.contains("x.jsonl"), "{said}");
}
