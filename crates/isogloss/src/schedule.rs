//! Runs a graph of steps, several side by side: a step starts once all it needs is done, the earliest in the list
//! first; steps of one group, which share their work, side by side within one job. In: the graph and a function that
//! does one step. Out: what became of each. A failed step stops those that need it and no others; an interruption stops
//! everything. The result of a step does not depend on the number of
//! jobs, for each job computes in its own share of the threads and every stage is deterministic in those.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Error, Result, anyhow};
use artifact::error::Interrupted;

/// One step as the scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// The steps that must be done before, by index into the graph; always smaller than its own.
    pub needs: Vec<usize>,
    /// Whether nothing else can usefully run beside it, so that it gets every thread.
    pub alone: bool,
    /// The group that it shares its work with, if it has one: the steps of a group that run at the same time
    /// count as one job, and get every thread.
    pub group: Option<usize>,
}

/// How many steps run at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs: steps, or groups of steps.
    pub jobs: usize,
    /// Steps of one group.
    pub side_by_side: usize,
}

/// What became of a step.
#[derive(Debug)]
pub enum Fate {
    /// Done.
    Done,
    /// Failed, and why.
    Failed(Error),
    /// Not started: a step it needs did not get done, or the run was interrupted.
    Skipped,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Running,
    Done,
    Failed,
}

struct Board {
    states: Vec<State>,
    errors: Vec<Option<Error>>,
    interrupted: bool,
    limits: Limits,
}

impl Board {
    /// The first step that could start now.
    fn ready(&self, graph: &[Node]) -> Option<usize> {
        if self.interrupted {
            return None;
        }
        (0..graph.len()).find(|&i| {
            self.states[i] == State::Waiting
                && graph[i].needs.iter().all(|&need| self.states[need] == State::Done)
                && self.has_room(graph, &graph[i])
        })
    }

    /// Whether one more step may run beside those that do.
    fn has_room(&self, graph: &[Node], node: &Node) -> bool {
        let running = || (0..graph.len()).filter(|&i| self.states[i] == State::Running);
        let together = running().filter(|&i| graph[i].group == node.group).count();
        if node.group.is_some() && together > 0 {
            return together < self.limits.side_by_side;
        }
        let mut groups: Vec<usize> = running().filter_map(|i| graph[i].group).collect();
        groups.sort_unstable();
        groups.dedup();
        let single = running().filter(|&i| graph[i].group.is_none()).count();
        groups.len() + single < self.limits.jobs
    }

    fn running(&self) -> bool {
        self.states.contains(&State::Running)
    }

    fn finish(&mut self, step: usize, result: Result<()>) {
        match result {
            Ok(()) => self.states[step] = State::Done,
            Err(error) => {
                self.interrupted |= error.chain().any(|cause| cause.is::<Interrupted>());
                self.states[step] = State::Failed;
                self.errors[step] = Some(error);
            }
        }
    }
}

/// Does every step of `graph` with `work`, as many at a time as the limits say, and says what became of each.
///
/// # Errors
/// Only where the thread pools cannot be made; failures of steps are in the fates.
pub fn run(
    graph: &[Node],
    limits: Limits,
    work: impl Fn(usize) -> Result<()> + Sync,
) -> Result<Vec<Fate>> {
    let most = graph.len().max(1);
    let (jobs, side_by_side) = (limits.jobs.clamp(1, most), limits.side_by_side.clamp(1, most));
    let workers = (jobs + side_by_side - 1).min(most);
    let pools = (1..=workers)
        .map(|_| {
            rayon::ThreadPoolBuilder::new()
                .num_threads((rayon::current_num_threads() / jobs).max(1))
                .build()
                .context("cannot start the threads of a job")
        })
        .collect::<Result<Vec<_>>>()?;
    let board = Mutex::new(Board {
        states: vec![State::Waiting; graph.len()],
        errors: graph.iter().map(|_| None).collect(),
        interrupted: false,
        limits: Limits { jobs, side_by_side },
    });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for pool in &pools {
            scope.spawn(|| worker(graph, pool, &board, &changed, &work));
        }
    });
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(board
        .states
        .into_iter()
        .zip(board.errors)
        .map(|(state, error)| match (state, error) {
            (State::Done, _) => Fate::Done,
            (_, Some(error)) => Fate::Failed(error),
            _ => Fate::Skipped,
        })
        .collect())
}

/// Takes one ready step after another until none can become ready any more.
fn worker(
    graph: &[Node],
    pool: &rayon::ThreadPool,
    board: &Mutex<Board>,
    changed: &Condvar,
    work: &(impl Fn(usize) -> Result<()> + Sync),
) {
    let mut held = lock(board);
    loop {
        if let Some(step) = held.ready(graph) {
            held.states[step] = State::Running;
            drop(held);
            let has_all = graph[step].alone || graph[step].group.is_some();
            let attempt = || if has_all { work(step) } else { pool.install(|| work(step)) };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt))
                .unwrap_or_else(|_| {
                    Err(anyhow!("the step ended in a panic; the message is above"))
                });
            held = lock(board);
            held.finish(step, result);
            changed.notify_all();
        } else if held.running() {
            held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        } else {
            return;
        }
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn graph(needs: &[&[usize]]) -> Vec<Node> {
        needs.iter().map(|needs| Node { needs: needs.to_vec(), ..Node::default() }).collect()
    }

    fn jobs(jobs: usize) -> Limits {
        Limits { jobs, side_by_side: 1 }
    }

    #[test]
    fn a_step_starts_after_all_it_needs() {
        for count in [1, 2, 4] {
            let order = Mutex::new(Vec::new());
            let graph = graph(&[&[], &[0], &[0], &[1, 2], &[]]);
            let fates = run(&graph, jobs(count), |step| {
                order.lock().unwrap().push(step);
                Ok(())
            })
            .unwrap();
            assert!(fates.iter().all(|fate| matches!(fate, Fate::Done)));
            let order = order.into_inner().unwrap();
            let at = |step| order.iter().position(|&s| s == step).unwrap();
            assert!(at(0) < at(1) && at(0) < at(2) && at(1) < at(3) && at(2) < at(3));
            assert_eq!(order.len(), 5);
        }
    }

    #[test]
    fn a_failure_stops_what_needs_it_and_nothing_else() {
        let graph = graph(&[&[], &[], &[0], &[1], &[2, 3]]);
        let fates =
            run(&graph, jobs(1), |step| if step == 0 { Err(anyhow!("broken")) } else { Ok(()) })
                .unwrap();
        let seen: Vec<_> = fates
            .iter()
            .map(|fate| match fate {
                Fate::Done => "done",
                Fate::Failed(_) => "failed",
                Fate::Skipped => "skipped",
            })
            .collect();
        assert_eq!(seen, ["failed", "done", "skipped", "done", "skipped"]);
    }

    #[test]
    fn an_interruption_starts_nothing_more() {
        let started = AtomicUsize::new(0);
        let fates = run(&graph(&[&[], &[], &[]]), jobs(1), |_| {
            started.fetch_add(1, Ordering::SeqCst);
            Err(Interrupted.into())
        })
        .unwrap();
        assert_eq!(started.into_inner(), 1);
        assert!(matches!(fates[1], Fate::Skipped) && matches!(fates[2], Fate::Skipped));
    }

    #[test]
    fn a_panic_is_a_failure_of_its_step() {
        let fates = run(&graph(&[&[], &[]]), jobs(2), |step| {
            if step == 0 { panic!("on purpose") } else { Ok(()) }
        })
        .unwrap();
        assert!(matches!(fates[0], Fate::Failed(_)) && matches!(fates[1], Fate::Done));
    }

    #[test]
    fn a_job_computes_in_its_share_of_the_threads() {
        let all = rayon::current_num_threads();
        let mut graph = graph(&[&[], &[]]);
        graph[1].alone = true;
        run(&graph, jobs(2), |step| {
            let want = if step == 0 { (all / 2).max(1) } else { all };
            assert_eq!(rayon::current_num_threads(), want);
            Ok(())
        })
        .unwrap()
        .iter()
        .for_each(|fate| assert!(matches!(fate, Fate::Done)));
    }

    #[test]
    fn steps_of_a_group_run_together_as_one_job() {
        let mut graph = graph(&[&[], &[], &[], &[], &[]]);
        for (step, group) in [(0, 7), (1, 7), (2, 7), (3, 8)] {
            graph[step].group = Some(group);
        }
        let running = Mutex::new(Vec::new());
        let most = AtomicUsize::new(0);
        let limits = Limits { jobs: 1, side_by_side: 2 };
        let fates = run(&graph, limits, |step| {
            let mut now = running.lock().unwrap();
            now.push(step);
            assert!(now.iter().all(|&other| graph[other].group == graph[step].group), "{now:?}");
            assert!(graph[step].group.is_some() || now.len() == 1, "{now:?}");
            most.fetch_max(now.len(), Ordering::SeqCst);
            drop(now);
            // Those of a group wait for company: that one comes must not depend on how fast it is.
            let alone = || graph[step].group == Some(7) && most.load(Ordering::SeqCst) < 2;
            let patience = std::time::Instant::now() + std::time::Duration::from_secs(600);
            while alone() && std::time::Instant::now() < patience {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            running.lock().unwrap().retain(|&other| other != step);
            Ok(())
        })
        .unwrap();
        assert!(fates.iter().all(|fate| matches!(fate, Fate::Done)));
        assert_eq!(most.into_inner(), 2);
    }
}
