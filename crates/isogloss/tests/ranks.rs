//! Trainings that several processes share, as a user meets them: started by `--ranks` or by something else, killed, and
//! gone on with.

#[expect(dead_code, reason = "the pipeline's tests use the rest of it")]
mod common;
#[path = "common/sums.rs"]
mod sums;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Answer, Place};

const TRAIN: &str = "train --init shape.toml --tokenizer tok --data data --batch-size 4 --learning-rate 1e-3 \
                     --device cpu --threads 2";

fn place() -> Place {
    sums::place(24)
}

#[track_caller]
fn wait_for(mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(300), "it did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes that a process has started.
fn children(of: u32) -> Vec<u32> {
    let task = format!("/proc/{of}/task/{of}/children");
    let list = std::fs::read_to_string(task).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn is_running(id: u32) -> bool {
    // A zombie is gone, but for its name.
    let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn signal(id: u32, name: &str) {
    // The shell's own `kill`: not every system has the program.
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status();
    assert!(sent.expect("a shell runs").success());
}

/// The step of the newest checkpoint of the unfinished run `out`. One is kept, so that older ones come and go between
/// two looks.
fn last_step(place: &Place) -> Option<u64> {
    let steps = std::fs::read_dir(place.path(".out.partial/checkpoint")).ok()?;
    let step = |name: &str| name.strip_prefix("step-")?.parse().ok();
    steps.flatten().filter_map(|entry| step(entry.file_name().to_str()?)).max()
}

/// A long training on three ranks, some steps in, and the other ranks' processes.
fn started(place: &Place) -> (Child, Vec<u32>) {
    let child = place.start(&format!("{TRAIN} --steps 100000 --save-every 2 --ranks 3 --out out"));
    wait_for(|| last_step(place) >= Some(4));
    let others = children(child.id());
    assert_eq!(others.len(), 2);
    (child, others)
}

fn answer(child: Child) -> Answer {
    child.wait_with_output().expect("it ended").into()
}

/// The training goes on from its checkpoint, with another number of ranks.
#[track_caller]
fn goes_on(place: &Place) {
    let last = last_step(place).expect("a checkpoint");
    // What ends a run has no part in the steps that were done, but in its name.
    let line = format!("{TRAIN} --steps 100000 --save-every 2 --ranks 2 --out out --resume");
    let child = place.start(&line);
    // Ctrl-C may have left an odd step: only even ones follow it.
    wait_for(|| last_step(place) > Some(last));
    signal(child.id(), "INT");
    let answer = answer(child);
    assert!(answer.err.contains(&format!("going on from step {last}")), "{}", answer.err);
}

#[test]
fn a_rank_that_is_killed_ends_all_of_them_with_its_name() {
    let place = place();
    let (child, others) = started(&place);
    signal(others[1], "KILL");
    let answer = answer(child);
    assert_eq!(answer.status, 1, "{}", answer.err);
    let fate = format!("rank 2 (process {}) was killed by signal 9", others[1]);
    assert!(answer.err.contains(&fate), "{}", answer.err);
    assert!(!others.iter().any(|&id| is_running(id)));
    goes_on(&place);
}

#[test]
fn a_rank_that_is_stopped_is_given_up_after_a_while_and_named() {
    let place = place();
    let line = format!("{TRAIN} --steps 100000 --save-every 2 --ranks 3 --out out");
    let mut command = place.command(&line);
    command.env("ISOGLOSS_RANK_TIMEOUT", "8").stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("isogloss starts");
    wait_for(|| last_step(&place) >= Some(2));
    let others = children(child.id());
    signal(others[0], "STOP");
    let answer = answer(child);
    assert_eq!(answer.status, 1, "{}", answer.err);
    let what = format!("rank 1 (process {}) has given no sign of life for 8 seconds", others[0]);
    assert!(answer.err.contains(&what), "{}", answer.err);
    assert!(!others.iter().any(|&id| is_running(id)));
    let mut wrong = place.command(&line);
    let answer: Answer =
        wrong.env("ISOGLOSS_RANK_TIMEOUT", "0").output().expect("it starts").into();
    assert!(answer.user_error().contains("ISOGLOSS_RANK_TIMEOUT is \"0\""));
}

#[test]
fn a_lead_that_is_killed_leaves_nobody_behind() {
    let place = place();
    let (mut child, others) = started(&place);
    child.kill().expect("killed");
    child.wait().expect("it ended");
    wait_for(|| !others.iter().any(|&id| is_running(id)));
    goes_on(&place);
}

#[test]
fn ctrl_c_writes_the_checkpoint_and_ends_all_of_them() {
    let place = place();
    let (child, others) = started(&place);
    signal(child.id(), "INT");
    let answer = answer(child);
    assert!(answer.err.contains("a checkpoint is kept"), "{}", answer.err);
    assert!(!others.iter().any(|&id| is_running(id)));
    goes_on(&place);
}

#[test]
fn ranks_that_something_else_starts_find_each_other_by_torchruns_variables() {
    let place = place();
    let line = |out: &str| format!("{TRAIN} --steps 4 --out {out}");
    place.run(&format!("{} --ranks 2", line("by-flag"))).ok();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("its number").port().to_string()
    };
    let rank = |rank: &str, line: &str| {
        let mut command = place.command(line);
        let variables = [
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", &port),
        ];
        command.envs(variables).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("isogloss starts")
    };
    // As torchrun does: the same command for all.
    let (second, first) = (rank("1", &line("by-variables")), rank("0", &line("by-variables")));
    answer(first).ok();
    let second = answer(second).ok();
    assert!(second.out.is_empty(), "rank 0 speaks for all: {}", second.out);
    let weights = |out: &str| {
        std::fs::read(place.path(out).join("model/model.safetensors")).expect("weights")
    };
    assert!(weights("by-flag") == weights("by-variables"));
}

#[test]
fn what_cannot_be_is_said() {
    let place = place();
    let message = place.run("worker").user_error();
    assert!(message.contains("RANK") && message.contains("--ranks"), "{message}");
    let message = place.run(&format!("{TRAIN} --ranks 0 --out out")).user_error();
    assert!(message.contains("ranks is 0"), "{message}");
    let study = Place::with_study();
    study.edit("steps = 5\n", "steps = 5\nside_by_side = 2\nlora = {}\n");
    let message = study.run("run study.toml --ranks 2").user_error();
    assert!(message.contains("side_by_side is 2, and ranks is 2"), "{message}");
    let mut wrong = place.command(&format!("{TRAIN} --out out"));
    let answer: Answer = wrong.env("WORLD_SIZE", "2").output().expect("it starts").into();
    assert!(answer.user_error().contains("RANK is not set"));
}
