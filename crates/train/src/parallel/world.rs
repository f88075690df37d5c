//! Which rank of how many this process is, from the variables that torchrun and clusters set: RANK, WORLD_SIZE, MASTER_ADDR,
//! MASTER_PORT, LOCAL_RANK, LOCAL_WORLD_SIZE.

use std::str::FromStr;

use anyhow::Result;
use artifact::{bail_user, error::user};

/// What a process that we start is told besides, and proves itself by.
pub const TOKEN: &str = "ISOGLOSS_TOKEN";

/// A process among those that share a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Which one; 0 leads.
    pub rank: usize,
    /// How many.
    pub size: usize,
    /// Which one on this machine: the number of its card.
    pub local_rank: usize,
    /// How many on this machine, which share its threads.
    pub local_size: usize,
    /// Where rank 0 is to be found.
    pub address: String,
    /// Its port; 0: any that is free.
    pub port: u16,
    /// What a connection has to know to be let in.
    pub token: String,
}

impl World {
    /// What the environment says; none where it says nothing, or that there is one process.
    ///
    /// # Errors
    /// A user error that names the variable.
    pub fn from_env() -> Result<Option<Self>> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let Some(size) = number::<usize>(&get, "WORLD_SIZE")?.filter(|&size| size > 1) else {
            return Ok(None);
        };
        let need = |name: &str| {
            let missing = || user(format!("WORLD_SIZE is {size}, but {name} is not set"));
            number::<usize>(&get, name)?.ok_or_else(missing)
        };
        let rank = need("RANK")?;
        if rank >= size {
            bail_user!("RANK is {rank}; with WORLD_SIZE {size} it must be below that");
        }
        let Ok(port) = u16::try_from(need("MASTER_PORT")?) else {
            bail_user!("MASTER_PORT must be a port, at most 65535");
        };
        let Some(address) = get("MASTER_ADDR") else {
            bail_user!("WORLD_SIZE is {size}, but MASTER_ADDR is not set");
        };
        // torchrun itself may listen on MASTER_PORT, and says so.
        let taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        Ok(Some(Self {
            rank,
            size,
            local_rank: number(&get, "LOCAL_RANK")?.unwrap_or(rank),
            local_size: number(&get, "LOCAL_WORLD_SIZE")?.unwrap_or(1).max(1),
            address,
            port: if taken { port.wrapping_add(1) } else { port },
            token: get(TOKEN).unwrap_or_default(),
        }))
    }

    /// Rank 0 of processes on this machine, which it starts itself.
    #[must_use]
    pub fn of_one_machine(size: usize) -> Self {
        let token = blake3::hash(format!("{:?}", std::time::SystemTime::now()).as_bytes());
        Self {
            rank: 0,
            size,
            local_rank: 0,
            local_size: size,
            address: "127.0.0.1".to_owned(),
            port: 0,
            token: token.to_hex().to_string(),
        }
    }

    /// The variables by which another rank on this machine finds this one.
    #[must_use]
    pub fn variables(&self, rank: usize, port: u16) -> Vec<(&'static str, String)> {
        vec![
            ("RANK", rank.to_string()),
            ("WORLD_SIZE", self.size.to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("LOCAL_WORLD_SIZE", self.local_size.to_string()),
            ("MASTER_ADDR", self.address.clone()),
            ("MASTER_PORT", port.to_string()),
            (TOKEN, self.token.clone()),
        ]
    }

    /// The threads that this process computes with: its share of the machine's.
    #[must_use]
    pub fn threads(&self) -> usize {
        (rayon::current_num_threads() / self.local_size).max(1)
    }
}

fn number<T: FromStr>(get: impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<T>> {
    let Some(text) = get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let parsed = text.parse();
    parsed.map(Some).map_err(|_| user(format!("{name} is \"{text}\"; it must be a whole number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::error::is_user;

    fn read(variables: &[(&str, &str)]) -> Result<Option<World>> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        World::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    const TWO: [(&str, &str); 4] =
        [("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "node-7"), ("MASTER_PORT", "29500")];

    #[test]
    fn torchruns_variables_say_which_rank_this_is() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("WORLD_SIZE", "1"), ("RANK", "0")]).unwrap(), None);
        let world = read(&TWO).unwrap().unwrap();
        assert_eq!((world.rank, world.size, world.local_rank, world.local_size), (1, 2, 1, 1));
        assert_eq!((&world.address[..], world.port), ("node-7", 29500));
        let local = [&TWO[..], &[("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "4")]].concat();
        let world = read(&local).unwrap().unwrap();
        assert_eq!((world.local_rank, world.local_size), (0, 4));
        let agent = [&TWO[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(read(&agent).unwrap().unwrap().port, 29501, "the agent has the port itself");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (place, name) in [(1, "RANK"), (2, "MASTER_ADDR"), (3, "MASTER_PORT")] {
            let mut some = TWO.to_vec();
            some.remove(place);
            let error = read(&some).unwrap_err();
            assert!(is_user(&error) && error.to_string().contains(name), "{error}");
        }
        let mut wrong = TWO;
        wrong[1] = ("RANK", "2");
        assert!(read(&wrong).unwrap_err().to_string().contains("RANK is 2"));
        wrong[1] = ("RANK", "two");
        assert!(read(&wrong).unwrap_err().to_string().contains("\"two\""));
    }

    #[test]
    fn what_a_rank_is_told_it_reads() {
        let world = World::of_one_machine(3);
        let variables = world.variables(2, 4711);
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        let read = World::read(|name| find(name).map(|(_, value)| value.clone())).unwrap();
        assert_eq!(read, Some(World { rank: 2, local_rank: 2, port: 4711, ..world }));
    }
}
