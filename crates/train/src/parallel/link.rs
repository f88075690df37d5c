//! Connections between ranks, over TCP. Each rank has one to rank 0 for orders and answers, which are JSON with floats
//! beside it, and one to every other rank for tensors' values.
//!
//! Rank 0 listens. The others come, say who they are and where they listen themselves, and are told where the rest is.
//! Who does not know the token is sent away.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use artifact::{Context, bail_user, error::user};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::world::World;
use crate::cuda::memory::{bytes_of, bytes_of_mut};

/// How long rank 0 waits for the others, and they for it: they may still be in a queue, or at the data.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long a newcomer may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);
/// Bytes of a greeting, at most.
const GREETING_BYTES: usize = 4096;

/// A connection's failure, in words alone: whose chain of causes has a closed pipe is taken for one that writes to a
/// reader who has seen enough, which is no failure.
fn plain(error: std::io::Error) -> anyhow::Error {
    anyhow!("{error}")
}

/// A connection for messages.
pub struct Wire(TcpStream);

impl Wire {
    fn new(stream: TcpStream) -> Result<Self> {
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

    fn receive_within<T: DeserializeOwned>(&self, most: usize) -> Result<(T, Vec<f32>)> {
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

    /// The last thing that the other side said, if it says anything in that time.
    pub fn last_words<T: DeserializeOwned>(&self, within: Duration) -> Option<T> {
        self.0.set_read_timeout(Some(within)).ok()?;
        self.receive().ok().map(|(message, _)| message)
    }
}

/// Whether the other side has closed a connection.
fn is_closed(stream: &TcpStream) -> bool {
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
    peers: Vec<Option<TcpStream>>,
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
        sent.map_err(|error| plain(error).context(format!("rank {to} is gone")))
    }

    /// Receives bytes from a rank.
    ///
    /// # Errors
    /// If it is gone.
    pub fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let read = self.peer(from)?.read_exact(bytes);
        read.map_err(|error| plain(error).context(format!("rank {from} is gone")))
    }
}

/// What a newcomer says.
#[derive(Serialize, Deserialize)]
struct Hello {
    /// Which program it is.
    program: String,
    token: String,
    rank: usize,
    size: usize,
    /// Where it listens for others, as a connection for orders; none as one for values.
    port: Option<u16>,
}

impl Hello {
    fn new(world: &World, port: Option<u16>) -> Self {
        Self {
            program: program(),
            token: world.token.clone(),
            rank: world.rank,
            size: world.size,
            port,
        }
    }
}

fn program() -> String {
    format!("isogloss {}", env!("CARGO_PKG_VERSION"))
}

/// Where rank 0 listens.
pub struct Door {
    listener: TcpListener,
    /// The port.
    pub port: u16,
}

impl Door {
    /// Begins to listen at the world's address; where that is not this machine's own, at all of its addresses.
    ///
    /// # Errors
    /// A user error if the address cannot be had.
    pub fn open(world: &World) -> Result<Self> {
        let World { address, port, .. } = world;
        let bound = TcpListener::bind((&address[..], *port)).or_else(|error| match error.kind() {
            ErrorKind::AddrNotAvailable => TcpListener::bind(("0.0.0.0", *port)),
            _ => Err(error),
        });
        let listener =
            bound.map_err(|error| user(format!("cannot listen at {address}:{port}: {error}")))?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// Lets the other ranks in; their connections for orders, from rank 1 on, and for values. `check` is asked all the
    /// while whether it is worth waiting.
    ///
    /// # Errors
    /// The first that `check` returns, or if the ranks are not those of one run, or do not come.
    pub fn gather(
        self,
        world: &World,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<(Vec<Wire>, Mesh)> {
        let mut controls: Vec<Option<(Wire, SocketAddr)>> = (0..world.size).map(|_| None).collect();
        let deadline = Instant::now() + PATIENCE;
        while controls.iter().flatten().count() < world.size - 1 {
            let (wire, hello, from) = accept(&self.listener, world, deadline, &mut check)?;
            let Some(port) = hello.port else { continue };
            if controls[hello.rank].is_some() {
                bail_user!("two processes say that they are rank {}", hello.rank);
            }
            controls[hello.rank] = Some((wire, SocketAddr::new(from, port)));
        }
        let (controls, places): (Vec<Wire>, Vec<SocketAddr>) =
            controls.into_iter().flatten().unzip();
        for wire in &controls {
            wire.send(&places, &[])?;
        }
        let peers = accept_peers(&self.listener, world, deadline, &mut check)?;
        Ok((controls, Mesh { rank: 0, peers }))
    }
}

/// Goes to rank 0 and from there to the others.
///
/// # Errors
/// If rank 0 does not answer, or is gone before all have met.
pub fn join(world: &World, ctx: &Context) -> Result<(Wire, Mesh)> {
    let lead = connect(world, ctx)?;
    let master = lead.peer_addr()?;
    let listener = TcpListener::bind((lead.local_addr()?.ip(), 0))?;
    let control = Wire::new(lead)?;
    control.send(&Hello::new(world, Some(listener.local_addr()?.port())), &[])?;
    let gone = || "rank 0 is gone, or is of another run";
    let (places, _): (Vec<SocketAddr>, _) = control.receive().with_context(gone)?;
    ensure!(places.len() + 1 == world.size, "rank 0 counts {} ranks", places.len() + 1);
    let mut peers: Vec<Option<TcpStream>> = (0..world.size).map(|_| None).collect();
    for (rank, place) in std::iter::once(master).chain(places).enumerate().take(world.rank) {
        let stream =
            TcpStream::connect(place).with_context(|| format!("rank {rank} at {place}"))?;
        let wire = Wire::new(stream)?;
        wire.send(&Hello::new(world, None), &[])?;
        peers[rank] = Some(wire.0);
    }
    let deadline = Instant::now() + PATIENCE;
    let later = accept_peers(&listener, world, deadline, &mut || ctx.check())?;
    for (place, stream) in later.into_iter().enumerate().filter(|(_, stream)| stream.is_some()) {
        peers[place] = stream;
    }
    Ok((control, Mesh { rank: world.rank, peers }))
}

/// Tries until rank 0 listens.
fn connect(world: &World, ctx: &Context) -> Result<TcpStream> {
    let World { address, port, .. } = world;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = || -> std::io::Result<TcpStream> {
            let mut places = (&address[..], *port).to_socket_addrs()?;
            let place = places.next().ok_or(ErrorKind::AddrNotAvailable)?;
            TcpStream::connect_timeout(&place, GREETING)
        };
        match attempt() {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(anyhow!(error).context(format!("no rank 0 at {address}:{port}")));
            }
            Err(_) => ctx.check()?,
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Connections for values, from all ranks above this one.
fn accept_peers(
    listener: &TcpListener,
    world: &World,
    deadline: Instant,
    check: &mut impl FnMut() -> Result<()>,
) -> Result<Vec<Option<TcpStream>>> {
    let mut peers: Vec<Option<TcpStream>> = (0..world.size).map(|_| None).collect();
    while peers.iter().flatten().count() < world.size - 1 - world.rank {
        let (wire, hello, _) = accept(listener, world, deadline, check)?;
        if hello.port.is_none() && hello.rank > world.rank {
            peers[hello.rank] = Some(wire.0);
        }
    }
    Ok(peers)
}

/// The next connection of somebody who belongs here.
fn accept(
    listener: &TcpListener,
    world: &World,
    deadline: Instant,
    check: &mut impl FnMut() -> Result<()>,
) -> Result<(Wire, Hello, IpAddr)> {
    listener.set_nonblocking(true)?;
    loop {
        check()?;
        ensure!(Instant::now() < deadline, "the ranks have not all come");
        let (stream, from) = match listener.accept() {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(GREETING))?;
        let wire = Wire::new(stream)?;
        // Whoever else knocks, a port scanner for one, is left standing.
        let Ok((hello, _)) = wire.receive_within::<Hello>(GREETING_BYTES) else { continue };
        if hello.token != world.token {
            continue;
        }
        if hello.program != program() {
            bail!("rank {} is {}, and this is {}", hello.rank, hello.program, program());
        }
        if hello.size != world.size || !(1..world.size).contains(&hello.rank) {
            bail_user!(
                "a process says that it is rank {} of {}; here are {} ranks",
                hello.rank,
                hello.size,
                world.size
            );
        }
        wire.0.set_read_timeout(None)?;
        return Ok((wire, hello, from.ip()));
    }
}
#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The meshes of ranks that are threads of one process.
    pub fn meshes(size: usize) -> Vec<Mesh> {
        let world = World::of_one_machine(size);
        let door = Door::open(&world).unwrap();
        let port = door.port;
        std::thread::scope(|scope| {
            let joined: Vec<_> = (1..size)
                .map(|rank| {
                    let other = World { rank, port, ..world.clone() };
                    scope.spawn(move || join(&other, &Context::quiet()).unwrap().1)
                })
                .collect();
            let (_, first) = door.gather(&world, || Ok(())).unwrap();
            let others = joined.into_iter().map(|thread| thread.join().unwrap());
            std::iter::once(first).chain(others).collect()
        })
    }

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
        let error = meshes[0].receive(1, &mut [0]).unwrap_err();
        assert!(error.to_string().contains("rank 1 is gone"), "{error}");
        assert_eq!((meshes[0].first_gone(), meshes[1].first_gone()), (Some(1), Some(1)));
    }

    #[test]
    fn strangers_and_ranks_of_other_runs_are_kept_out() {
        let world = World::of_one_machine(2);
        let door = Door::open(&world).unwrap();
        let knock = |hello: &Hello| {
            let wire = Wire::new(TcpStream::connect(("127.0.0.1", door.port)).unwrap()).unwrap();
            wire.send(hello, &[]).unwrap();
            wire
        };
        let mut noise = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        noise.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let second = World { rank: 1, ..world.clone() };
        let other_run = Hello { token: "?".into(), ..Hello::new(&second, Some(1)) };
        let _stranger = knock(&other_run);
        let _of_three = knock(&Hello::new(&World { size: 3, ..second }, Some(1)));
        let error = door.gather(&world, || Ok(())).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("rank 1 of 3; here are 2 ranks"), "{error}");
    }
}
