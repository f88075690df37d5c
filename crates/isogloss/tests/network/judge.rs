//! The judge on the command line and in a pipeline, against a server on loopback.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::common::Place;
use loopback::{Answer, Request, Server};

/// A judge that gives everything this rating, or prefers what is shown second.
fn judge(verdict: &'static str) -> Server {
    Server::start(reply(verdict))
}

fn reply(verdict: &'static str) -> impl Fn(&Request, usize) -> Answer {
    move |request, _| {
        let verdict = if request.text().contains("answer_b") { "[[B]]" } else { verdict };
        let usage = r#"{"prompt_tokens":50,"completion_tokens":5}"#;
        let choice = format!(r#"{{"message":{{"content":"{verdict}"}},"finish_reason":"stop"}}"#);
        Answer::json(200, format!(r#"{{"choices":[{choice}],"usage":{usage}}}"#))
    }
}

fn generations(rows: usize) -> String {
    let row = |n| {
        format!(
            r#"{{"run_id":"r","example_id":"{n}","lang":"en","task":"chat","prompt":"q{n}","generation":"This is a fine answer to it."}}"#
        )
    };
    (0..rows).map(|n| row(n) + "\n").collect()
}

/// Whether any file below holds these bytes.
fn holds(folder: &Path, needle: &str) -> bool {
    std::fs::read_dir(folder).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => holds(&path, needle),
            false => {
                let bytes = std::fs::read(&path).expect("a file");
                bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
            }
        }
    })
}

#[test]
fn generations_are_judged_and_the_key_is_sent_and_never_stored() {
    let (place, server) = (Place::new(), judge("[[4]]"));
    place.write("g.jsonl", &generations(12));
    let line = format!(
        "judge g.jsonl --model m --base-url {} --cache cache --price 1,2 --out judged",
        server.url()
    );
    let dry = place.run(&format!("{line} --dry-run")).ok().out;
    assert!(
        dry.contains("12 requests: 0 in the cache, 12 to ask") && dry.contains("cost: "),
        "{dry}"
    );
    assert!(!place.path("judged").exists() && server.requests().is_empty());

    let mut command = place.command(&line);
    command.env("ISOGLOSS_JUDGE_KEY", "sk-very-secret");
    let answer = crate::common::Answer::from(command.output().expect("it runs")).ok();
    assert!(
        answer.out.contains("judge_switch_aware") && answer.out.contains("4.000"),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("tokens: 600 sent, 60 back; cost 0.0007"), "{}", answer.out);
    let sent = server.requests();
    assert_eq!(sent[0].header("authorization"), Some("Bearer sk-very-secret"));
    assert!(!holds(&place.path("."), "sk-very-secret"), "the key is in a file");
    assert!(!answer.err.contains("sk-very-secret"));
    assert!(!holds(&place.path("cache"), "127.0.0.1"), "the address is in the cache");

    let again = place.run(&line).ok().out;
    assert!(again.contains("12 of them answered from the cache"), "{again}");
    assert_eq!(server.requests().len(), 12);
}

#[test]
fn a_judge_without_an_endpoint_a_name_or_a_key_is_the_users_error() {
    let place = Place::new();
    place.write("g.jsonl", &generations(1));
    for (line, word) in [
        ("--model m --cache c", "ISOGLOSS_JUDGE_URL"),
        ("--base-url http://127.0.0.1:9", "`model`"),
        ("--model m --cache c --base-url localhost:80", "http://localhost:8000"),
        (
            "--model m --cache c --base-url http://127.0.0.1:9 --key-env NOT_SET_HERE",
            "NOT_SET_HERE",
        ),
        ("--model m --cache c --base-url http://127.0.0.1:9", "127.0.0.1:9"),
        ("--model m --cache c --baseline q", "no run `q`"),
        ("--model m --cache /dev/null/c", "/dev/null/c"),
        ("--model m --cache c --rating-prompt gone.toml", "gone.toml"),
    ] {
        let mut command = place.command(&format!("judge g.jsonl {line} --out o"));
        command.env_remove("ISOGLOSS_JUDGE_URL").env_remove("ISOGLOSS_JUDGE_KEY");
        let message = crate::common::Answer::from(command.output().expect("it runs")).user_error();
        assert!(message.contains(word), "`{line}`: {message}");
        assert!(!place.path("o").exists());
    }
}

#[test]
fn a_killed_judge_loses_no_reply() {
    // Ten replies, then none as long as it is not killed.
    let (place, killed) = (Place::new(), Arc::new(AtomicBool::new(false)));
    let (gone, answers) = (killed.clone(), reply("[[2]]"));
    let server = Server::start(move |request, before| match before < 10 || gone.load(SeqCst) {
        true => answers(request, before),
        false => Answer::Stall(Duration::from_secs(3600)),
    });
    place.write("g.jsonl", &generations(60));
    let line = format!("judge g.jsonl --model m --base-url {} --cache cache --out o", server.url());
    let mut child = place.start(&format!("{line} --concurrency 2"));
    while server.requests().len() < 12 {
        assert_eq!(child.try_wait().expect("its state"), None, "it waits for replies");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    killed.store(true, SeqCst);
    let before = server.requests().len();
    assert_eq!(before, 12, "two at a time");
    // Two at a time on one cache: both end well, and what was kept is not asked again.
    let one = place.start(&line);
    let two = place.start(&line.replace("--out o", "--out p"));
    for child in [one, two] {
        crate::common::Answer::from(child.wait_with_output().expect("it ends")).ok();
    }
    let scores =
        |folder: &str| std::fs::read(place.path(folder).join("scores.parquet")).expect(folder);
    assert!(scores("o") == scores("p"));
    // The ten replies are kept; the two may ask for the other fifty at the same time.
    let asked = server.requests().len() - before;
    assert!((50..=100).contains(&asked), "{asked}");
    assert!(place.run(&line).ok().out.contains("60 of them answered from the cache"));
}

#[test]
fn a_study_with_a_judge_reports_ratings_and_runs_on_without_one() {
    let (place, server) = (Place::with_study(), judge("[[3]]"));
    place.edit(
        "[report]",
        "[judge]\nmodel = \"m\"\nbaseline = { n = 0 }\ncache = \"cache\"\n\n[report]",
    );
    // A model that has learnt next to nothing answers with blanks, which are rated by rule, unless it is sampled.
    place.edit("max_new_tokens = 4", "max_new_tokens = 24\ntemperature = 1.0");
    let run = |line: &str, url: &str| {
        let mut command = place.command(line);
        command.env("ISOGLOSS_JUDGE_URL", url);
        crate::common::Answer::from(command.output().expect("it runs"))
    };
    let without = run("run study.toml", "").ok();
    assert!(without.err.contains("no endpoint for the judge"), "{}", without.err);
    assert_eq!((place.outputs("judge").len(), place.outputs("report").len()), (0, 1));

    let dry = run("run study.toml --dry-run", &server.url()).ok().out;
    assert!(dry.contains("judge, of the runs that have answers"), "{dry}");
    assert!(server.requests().is_empty());
    let with = run("run study.toml --jobs 2", &server.url()).ok();
    assert!(with.out.contains("3 of 14 steps done"), "{}", with.out);
    assert_eq!((place.outputs("judge").len(), place.outputs("report").len()), (2, 2));
    let page = std::fs::read_to_string(place.path("runs/reports/tiny/index.html")).expect("a page");
    assert!(page.contains("judge_rating") && page.contains("win_rate"), "the report shows both");
    // Where the endpoint is does not matter to what it said.
    let asked = server.requests().len();
    assert!(asked > 0);
    let again = run("run study.toml", "http://127.0.0.1:9/elsewhere").ok();
    assert!(again.out.starts_with("nothing to do"), "{}", again.out);
    // The judge does.
    place.edit("model = \"m\"", "model = \"other\"");
    let status = run("status study.toml", &server.url()).ok().out;
    assert!(status.contains("setting model: m → other"), "{status}");

    place.edit("baseline = { n = 0 }", "baseline = { n = 5 }");
    let message = run("run study.toml", &server.url()).user_error();
    assert!(message.contains("n = 5"), "{message}");
}
