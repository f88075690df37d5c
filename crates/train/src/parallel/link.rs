//! Connections between ranks, over TCP. Each rank has one to rank 0 for orders and answers, which are JSON with floats
//! beside it, one for signs of life ([`super::pulse`]), and one to every other rank for tensors' values. How they come to
//! be is in [`super::meeting`].

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cuda::memory::{bytes_of, bytes_of_mut};

/// A connection's failure, in words alone: whose chain of causes has a closed pipe is taken for one that writes to a
/// reader who has seen enough, which is no failure.
fn plain(error: std::io::Error) -> anyhow::Error {
    anyhow!("{error}")
}

/// A rank has closed its connection.
#[derive(Debug)]
pub struct Gone(pub usize);

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} is gone", self.0)
    }
}

impl std::error::Error for Gone {}

/// What the other side of a connection said before it closed it.
pub enum LastWords<T> {
    /// This.
    Said(T),
    /// Nothing.
    Silence,
    /// It has not closed it.
    StillThere,
}

/// A connection for messages.
pub struct Wire(pub(super) TcpStream);

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends a message with floats beside it.
    pub fn send(&self, message: &impl Serialize, floats: &[f32]) -> Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut head = Vec::with_capacity(16 + text.len());
        head.extend((text.len() as u64).to_le_bytes());
        head.extend((floats.len() as u64).to_le_bytes());
        head.extend(text);
        (&self.0).write_all(&head).map_err(plain)?;
        (&self.0).write_all(bytes_of(floats)).map_err(plain)
    }

    /// Waits for a message.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<f32>)> {
        self.receive_within(usize::MAX)
    }

    pub(super) fn receive_within<T: DeserializeOwned>(&self, most: usize) -> Result<(T, Vec<f32>)> {
        let mut head = [[0; 8]; 2];
        (&self.0).read_exact(head.as_flattened_mut()).map_err(plain)?;
        let [text, floats] = head.map(|bytes| u64::from_le_bytes(bytes) as usize);
        ensure!(text.saturating_add(floats) <= most, "a message of {text} bytes");
        let mut bytes = Vec::new();
        (&self.0).take(text as u64).read_to_end(&mut bytes).map_err(plain)?;
        let mut values = vec![0.0; floats];
        (&self.0).read_exact(bytes_of_mut(&mut values)).map_err(plain)?;
        Ok((serde_json::from_slice(&bytes)?, values))
    }

    /// The last message, of those that come until then and of which `counts` says that it is one.
    pub fn last_words<T: DeserializeOwned>(
        &self,
        until: Instant,
        counts: impl Fn(&T) -> bool,
    ) -> LastWords<T> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let shortest = Duration::from_millis(1);
            if self.0.set_read_timeout(Some(left.max(shortest))).is_err() {
                return LastWords::Silence;
            }
            match self.0.peek(&mut [0]) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return LastWords::StillThere;
                }
                Ok(1..) => {}
                _ => return LastWords::Silence,
            }
            match self.receive() {
                Ok((message, _)) if counts(&message) => return LastWords::Said(message),
                Ok(_) => {}
                Err(_) => return LastWords::Silence,
            }
        }
    }

    /// Another handle of the connection.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn handle(&self) -> Result<TcpStream> {
        Ok(self.0.try_clone()?)
    }
}

/// Whether the other side has closed a connection.
pub(super) fn is_closed(stream: &TcpStream) -> bool {
    let look = || -> std::io::Result<usize> {
        stream.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        seen
    };
    match look() {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Connections to all other ranks, for values.
pub struct Mesh {
    /// Which rank this is.
    pub rank: usize,
    /// By rank; none to itself.
    pub(super) peers: Vec<Option<TcpStream>>,
}

impl Mesh {
    /// How many ranks there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.peers.len()
    }

    /// All ranks but this one.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (size, own) = (self.size(), self.rank);
        (0..size).filter(move |&rank| rank != own)
    }

    fn peer(&self, rank: usize) -> Result<&TcpStream> {
        self.peers[rank].as_ref().with_context(|| format!("rank {rank} talks to itself"))
    }

    /// Other handles of the connections.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn handles(&self) -> Result<Vec<TcpStream>> {
        self.peers.iter().flatten().map(|stream| Ok(stream.try_clone()?)).collect()
    }

    /// The first rank that has closed its connection.
    #[must_use]
    pub fn first_gone(&self) -> Option<usize> {
        let gone = |stream: &Option<TcpStream>| stream.as_ref().is_some_and(is_closed);
        self.peers.iter().position(gone)
    }

    /// Sends bytes to a rank.
    ///
    /// # Errors
    /// If it is gone.
    pub fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        let sent = self.peer(to)?.write_all(bytes);
        sent.map_err(|error| plain(error).context(Gone(to)))
    }

    /// Receives bytes from a rank.
    ///
    /// # Errors
    /// If it is gone.
    pub fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let read = self.peer(from)?.read_exact(bytes);
        read.map_err(|error| plain(error).context(Gone(from)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::meeting::tests::meshes;
    use super::*;

    #[test]
    fn every_rank_reaches_every_other() {
        let meshes = meshes(4);
        std::thread::scope(|scope| {
            for mesh in &meshes {
                scope.spawn(move || {
                    for to in mesh.others() {
                        mesh.send(to, &[mesh.rank as u8, to as u8]).unwrap();
                    }
                    for from in mesh.others() {
                        let mut found = [9; 2];
                        mesh.receive(from, &mut found).unwrap();
                        assert_eq!(found, [from as u8, mesh.rank as u8]);
                    }
                });
            }
        });
    }

    #[test]
    fn a_rank_that_is_gone_is_an_error_and_no_wait() {
        let mut meshes = meshes(3);
        assert_eq!(meshes[0].first_gone(), None);
        drop(meshes.remove(1));
        for mesh in &meshes {
            let error = mesh.receive(1, &mut [0]).unwrap_err();
            assert!(error.to_string().contains("rank 1 is gone"), "{error}");
        }
        assert_eq!((meshes[0].first_gone(), meshes[1].first_gone()), (Some(1), Some(1)));
    }

    #[test]
    fn of_what_is_said_at_the_end_the_message_that_counts_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = Wire::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        let here = Wire::new(listener.accept().unwrap().0).unwrap();
        let last =
            |wait| here.last_words(Instant::now() + Duration::from_millis(wait), |n: &u8| *n > 5);
        assert!(matches!(last(20), LastWords::StillThere));
        there.send(&3, &[1.0]).unwrap();
        assert!(matches!(last(20), LastWords::StillThere), "an answer, and no more");
        there.send(&4, &[]).unwrap();
        there.send(&7, &[]).unwrap();
        drop(there);
        assert!(matches!(last(10_000), LastWords::Said(7)));
        assert!(matches!(last(10_000), LastWords::Silence));
    }
}
