//! The other ranks as processes of this machine: starting them, noticing that one has ended, and seeing to it that none
//! is left behind. A child holds the reading end of a pipe whose other end is here; whatever becomes of this process, the
//! pipe closes and the child ends.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::world::World;

/// How long a child may take to end when there is nothing more to do.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long one that has closed its connections may take to end.
const BURIAL: Duration = Duration::from_secs(30);

/// How a process ended, by how much it explains that others end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// By itself.
    Done,
    /// With an error.
    Failed,
    /// By a signal.
    Killed,
}

impl Cause {
    fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Self::Done,
            Some(_) => Self::Failed,
            None => Self::Killed,
        }
    }
}

/// Processes that this one has started, ended with it.
pub struct Crew(Vec<(usize, Child)>);

impl Crew {
    /// Starts the ranks from 1 on, each by a command that `launch` gives.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub fn start(world: &World, port: u16, launch: &dyn Fn() -> Result<Command>) -> Result<Self> {
        let mut crew = Self(Vec::new());
        for rank in 1..world.size {
            let mut command = launch()?;
            command
                .env_remove("TORCHELASTIC_USE_AGENT_STORE")
                .envs(world.variables(rank, port))
                .env("RAYON_NUM_THREADS", rayon::current_num_threads().to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                // Ctrl-C in a terminal is for this process, which then tells the others.
                .process_group(0);
            let child = command.spawn().with_context(|| format!("cannot start rank {rank}"))?;
            crew.0.push((rank, child));
        }
        Ok(crew)
    }

    /// An error if one has ended, which says how.
    ///
    /// # Errors
    /// That.
    pub fn check(&mut self) -> Result<()> {
        match self.worst_end(|_| true)? {
            Some((_, what)) => bail!(what),
            None => Ok(()),
        }
    }

    /// How these ranks, which have closed their connections, ended: of several the one whose end says most. They are
    /// waited for, for a while: the system closes connections first.
    pub fn fate_of(&mut self, ranks: &[usize]) -> Option<String> {
        let deadline = Instant::now() + BURIAL;
        while self.are_running(|rank| ranks.contains(&rank)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.worst_end(|rank| ranks.contains(&rank)).ok()?.map(|(_, what)| what)
    }

    /// Of the processes that have ended the one whose end says most, and how it ended.
    fn worst_end(&mut self, counts: impl Fn(usize) -> bool) -> Result<Option<(Cause, String)>> {
        let mut worst: Option<(Cause, String)> = None;
        for (rank, child) in self.0.iter_mut().filter(|(rank, _)| counts(*rank)) {
            let Some(status) = child.try_wait()? else { continue };
            let cause = Cause::of(status);
            if worst.as_ref().is_none_or(|held| held.0 < cause) {
                let what = format!("rank {rank} (process {}) {}", child.id(), fate(status));
                worst = Some((cause, what));
            }
        }
        Ok(worst)
    }

    fn are_running(&mut self, counts: impl Fn(usize) -> bool) -> bool {
        let running = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_none());
        self.0.iter_mut().any(|(rank, child)| counts(*rank) && running(child))
    }

    /// The process of a rank.
    pub fn process(&self, rank: usize) -> Option<u32> {
        self.0.iter().find(|(of, _)| *of == rank).map(|(_, child)| child.id())
    }

    /// Waits for all to end by themselves, for a while.
    pub fn dismiss(&mut self) {
        let deadline = Instant::now() + FAREWELL;
        while self.are_running(|_| true) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            // One that has ended cannot be killed, and need not be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn fate(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (_, Some(code)) => format!("ended with status {code}"),
        _ => "ended".to_owned(),
    }
}

/// Ends this process when the one that has started it is no more.
pub fn end_with_starter() {
    std::thread::spawn(|| {
        let mut nothing = [0];
        while std::io::stdin().read(&mut nothing).is_ok_and(|read| read > 0) {}
        std::process::exit(1);
    });
}
