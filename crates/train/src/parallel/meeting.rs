//! How ranks find each other. Rank 0 listens. The others come, say who they are and where they listen themselves, and are
//! told where the rest is. Who does not know the token is sent away.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use artifact::{Context, bail_user, error::user};
use serde::{Deserialize, Serialize};

use super::link::{Gone, Mesh, Wire, is_closed};
use super::world::World;

/// How long rank 0 waits for the others, and they for it: they may still be in a queue, or at the data.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long a newcomer may take to say who it is.
const GREETING: Duration = Duration::from_secs(60);
/// How long a port that something else has is asked for again: what had it before may just be ending.
const PORT_IN_USE: Duration = Duration::from_secs(10);
/// How long rank 0 is looked for where something else was found, or one that has ended.
const SECOND_TRY: Duration = Duration::from_secs(30);
/// Bytes of a greeting, at most.
const GREETING_BYTES: usize = 4096;

/// What a newcomer says.
#[derive(Serialize, Deserialize)]
struct Hello {
    /// Which program it is.
    program: String,
    token: String,
    rank: usize,
    size: usize,
    line: Line,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Line {
    /// Orders and answers; who has it listens for others at this port.
    Orders { port: u16 },
    /// Values.
    Values,
    /// Signs of life.
    Pulse,
}

impl Hello {
    fn new(world: &World, line: Line) -> Self {
        Self {
            program: program(),
            token: world.token.clone(),
            rank: world.rank,
            size: world.size,
            line,
        }
    }
}

fn program() -> String {
    format!("isogloss {}", env!("CARGO_PKG_VERSION"))
}

/// The connections of a rank that has come.
struct Guests {
    /// For values, by rank; none of those below this one, and of itself.
    peers: Vec<Option<TcpStream>>,
    /// For signs of life, from rank 1 on, where this is rank 0.
    pulses: Vec<Option<TcpStream>>,
}

/// What rank 0 has of the others: their connections for orders and for signs of life, from rank 1 on, and for values.
pub type Gathered = (Vec<Wire>, Vec<TcpStream>, Mesh);

/// Where rank 0 listens.
pub struct Door {
    listener: Listener,
    /// The port.
    pub port: u16,
}

impl Door {
    /// Begins to listen at the world's address; where that is not this machine's own, at all of its addresses. Where
    /// something else does, it is tried for some seconds more.
    ///
    /// # Errors
    /// A user error if the address cannot be had; and if the run is to stop.
    pub fn open(world: &World, ctx: &Context) -> Result<Self> {
        let World { address, port, .. } = world;
        let deadline = Instant::now() + PORT_IN_USE;
        let listener = loop {
            let bound = TcpListener::bind((&address[..], *port));
            let bound = bound.or_else(|error| match error.kind() {
                ErrorKind::AddrNotAvailable => TcpListener::bind(("0.0.0.0", *port)),
                _ => Err(error),
            });
            match bound {
                Ok(listener) => break listener,
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    ctx.check()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => {
                    return Err(user(format!("cannot listen at {address}:{port}: {error}")));
                }
            }
        };
        let port = listener.local_addr()?.port();
        Ok(Self { listener: Listener::new(listener)?, port })
    }

    /// Lets the other ranks in. `check` is asked all the while whether it is worth waiting.
    ///
    /// # Errors
    /// The first that `check` returns, or if the ranks are not those of one run, or do not come.
    pub fn gather(self, world: &World, mut check: impl FnMut() -> Result<()>) -> Result<Gathered> {
        let mut controls: Vec<Option<(Wire, SocketAddr)>> = (0..world.size).map(|_| None).collect();
        let deadline = Instant::now() + PATIENCE;
        while controls.iter().flatten().count() < world.size - 1 {
            let (wire, hello, from) = self.listener.next(world, deadline, &mut check)?;
            let Line::Orders { port } = hello.line else { continue };
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
        let Guests { peers, pulses } = self.listener.guests(world, deadline, &mut check)?;
        let pulses = pulses.into_iter().flatten().collect();
        Ok((controls, pulses, Mesh { rank: 0, peers }))
    }
}

/// Goes to rank 0 and from there to the others: the connections for orders, for signs of life, and for values.
///
/// # Errors
/// If rank 0 does not answer, or is gone before all have met.
pub fn join(world: &World, ctx: &Context) -> Result<(Wire, TcpStream, Mesh)> {
    let (mut deadline, mut sent_away) = (Instant::now() + PATIENCE, false);
    let (control, listener, places) = loop {
        match meet(world, ctx, deadline) {
            // Something else may have listened where rank 0 is going to.
            Err(Missed::SentAway) if !sent_away => {
                (deadline, sent_away) = (Instant::now() + SECOND_TRY, true);
            }
            Err(Missed::SentAway) if Instant::now() < deadline => {}
            Err(Missed::SentAway) => bail!("rank 0 is gone, or is of another run"),
            Err(Missed::Never(error)) => return Err(error),
            Ok(met) => break met,
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let master = control.0.peer_addr()?;
    ensure!(places.len() + 1 == world.size, "rank 0 counts {} ranks", places.len() + 1);
    let mut peers: Vec<Option<TcpStream>> = (0..world.size).map(|_| None).collect();
    let go = |rank: usize, place: SocketAddr, line| {
        let stream =
            TcpStream::connect(place).with_context(|| format!("rank {rank} at {place}"))?;
        let wire = Wire::new(stream)?;
        wire.send(&Hello::new(world, line), &[])?;
        Ok::<_, anyhow::Error>(wire.0)
    };
    let pulse = go(0, master, Line::Pulse)?;
    for (rank, place) in std::iter::once(master).chain(places).enumerate().take(world.rank) {
        peers[rank] = Some(go(rank, place, Line::Values)?);
    }
    let deadline = Instant::now() + PATIENCE;
    // Rank 0 has nothing to say here: when there is something to hear, it is that it is gone.
    let mut check = || match is_closed(&control.0) {
        true => Err(Gone(0).into()),
        false => ctx.check(),
    };
    let later = Listener::new(listener)?.guests(world, deadline, &mut check)?.peers;
    for (place, stream) in later.into_iter().enumerate().filter(|(_, stream)| stream.is_some()) {
        peers[place] = stream;
    }
    Ok((control, pulse, Mesh { rank: world.rank, peers }))
}

/// Why a rank has not met rank 0.
enum Missed {
    /// Who listens there has closed the connection.
    SentAway,
    /// There is no hope.
    Never(anyhow::Error),
}

/// Finds rank 0: the connection to it, where this rank listens, and where the others do, from rank 1 on.
fn meet(
    world: &World,
    ctx: &Context,
    deadline: Instant,
) -> Result<(Wire, TcpListener, Vec<SocketAddr>), Missed> {
    let reach = || -> Result<(Wire, TcpListener)> {
        let lead = connect(world, ctx, deadline)?;
        let listener = TcpListener::bind((lead.local_addr()?.ip(), 0))?;
        Ok((Wire::new(lead)?, listener))
    };
    let (control, listener) = reach().map_err(Missed::Never)?;
    let talk = || -> Result<Vec<SocketAddr>> {
        let line = Line::Orders { port: listener.local_addr()?.port() };
        control.send(&Hello::new(world, line), &[])?;
        Ok(control.receive()?.0)
    };
    let places = talk().map_err(|_| Missed::SentAway)?;
    Ok((control, listener, places))
}

/// Tries until rank 0 listens.
fn connect(world: &World, ctx: &Context, deadline: Instant) -> Result<TcpStream> {
    let World { address, port, .. } = world;
    loop {
        let attempt = || -> std::io::Result<TcpStream> {
            let mut places = (&address[..], *port).to_socket_addrs()?;
            let place = places.next().ok_or(ErrorKind::AddrNotAvailable)?;
            TcpStream::connect_timeout(&place, GREETING)
        };
        match attempt() {
            // Between two ports of one machine, who looks for a listener may find himself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => ctx.check()?,
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(anyhow!(error).context(format!("no rank 0 at {address}:{port}")));
            }
            Err(_) => ctx.check()?,
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A listener, and those who have come to it and said who they are. Each is heard in a thread of its own, so that one
/// who says nothing keeps nobody waiting.
struct Listener {
    listener: TcpListener,
    heard: (Sender<Newcomer>, Receiver<Newcomer>),
}

/// A newcomer's connection, what it said, and where it is.
type Newcomer = (Wire, Hello, IpAddr);

impl Listener {
    fn new(listener: TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, heard: channel() })
    }

    /// Connections for values from all ranks above this one, and to rank 0 for signs of life.
    fn guests(
        &self,
        world: &World,
        deadline: Instant,
        check: &mut impl FnMut() -> Result<()>,
    ) -> Result<Guests> {
        let none = || (0..world.size).map(|_| None).collect::<Vec<Option<TcpStream>>>();
        let mut guests = Guests { peers: none(), pulses: none() };
        let expected = world.size - 1 - world.rank;
        let pulses = if world.rank == 0 { expected } else { 0 };
        let count = |all: &[Option<TcpStream>]| all.iter().flatten().count();
        while count(&guests.peers) < expected || count(&guests.pulses) < pulses {
            let (wire, hello, _) = self.next(world, deadline, check)?;
            match hello.line {
                Line::Values if hello.rank > world.rank => {
                    guests.peers[hello.rank] = Some(wire.0);
                }
                Line::Pulse => guests.pulses[hello.rank] = Some(wire.0),
                _ => {}
            }
        }
        Ok(guests)
    }

    /// The next connection of somebody who belongs here.
    fn next(
        &self,
        world: &World,
        deadline: Instant,
        check: &mut impl FnMut() -> Result<()>,
    ) -> Result<Newcomer> {
        loop {
            check()?;
            ensure!(Instant::now() < deadline, "the ranks have not all come");
            let newcomer = match self.listener.accept() {
                Ok((stream, from)) => {
                    self.hear(stream, from.ip());
                    self.heard.1.try_recv().ok()
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.heard.1.recv_timeout(Duration::from_millis(10)).ok()
                }
                // A newcomer that has left again is none.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => None,
                Err(error) => return Err(error.into()),
            };
            let Some(newcomer) = newcomer.filter(|(_, hello, _)| hello.token == world.token) else {
                continue;
            };
            let hello = &newcomer.1;
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
            return Ok(newcomer);
        }
    }

    /// Listens to a newcomer. Whoever says nothing of use, a port scanner for one, is left standing.
    fn hear(&self, stream: TcpStream, from: IpAddr) {
        let sender = self.heard.0.clone();
        std::thread::spawn(move || {
            let hear = || -> Result<Newcomer> {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(GREETING))?;
                let wire = Wire::new(stream)?;
                let (hello, _) = wire.receive_within(GREETING_BYTES)?;
                wire.0.set_read_timeout(None)?;
                Ok((wire, hello, from))
            };
            if let Ok(newcomer) = hear() {
                // Nobody may be waiting any more.
                let _ = sender.send(newcomer);
            }
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use super::*;

    /// The meshes of ranks that are threads of one process.
    pub fn meshes(size: usize) -> Vec<Mesh> {
        let world = World::of_one_machine(size);
        let door = Door::open(&world, &Context::quiet()).unwrap();
        let port = door.port;
        std::thread::scope(|scope| {
            let joined: Vec<_> = (1..size)
                .map(|rank| {
                    let other = World { rank, port, ..world.clone() };
                    scope.spawn(move || join(&other, &Context::quiet()).unwrap().2)
                })
                .collect();
            // Who is still on the way must not find that rank 0 has hung up.
            let (_controls, _pulses, first) = door.gather(&world, || Ok(())).unwrap();
            let others = joined.into_iter().map(|thread| thread.join().unwrap());
            std::iter::once(first).chain(others).collect()
        })
    }

    #[test]
    fn strangers_and_ranks_of_other_runs_are_kept_out() {
        let world = World::of_one_machine(2);
        let door = Door::open(&world, &Context::quiet()).unwrap();
        let knock = |hello: &Hello| {
            let wire = Wire::new(TcpStream::connect(("127.0.0.1", door.port)).unwrap()).unwrap();
            wire.send(hello, &[]).unwrap();
            wire
        };
        const LINE: Line = Line::Orders { port: 1 };
        let _silent = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        let mut noise = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        noise.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let second = World { rank: 1, ..world.clone() };
        let other_run = Hello { token: "?".into(), ..Hello::new(&second, LINE) };
        let _stranger = knock(&other_run);
        let _of_three = knock(&Hello::new(&World { size: 3, ..second }, LINE));
        let error = door.gather(&world, || Ok(())).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("rank 1 of 3; here are 2 ranks"), "{error}");
    }

    #[test]
    fn a_port_that_is_being_given_up_is_waited_for() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let world = World { port, ..World::of_one_machine(2) };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(150));
                drop(free);
            });
            assert_eq!(Door::open(&world, &Context::quiet()).unwrap().port, port);
        });
    }

    #[test]
    fn a_rank_that_finds_something_else_at_its_port_goes_on_looking() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let world = World { port, ..World::of_one_machine(2) };
        std::thread::scope(|scope| {
            let second = World { rank: 1, ..world.clone() };
            let rank = scope.spawn(move || join(&second, &Context::quiet()).map(|_| ()));
            // It is sent away, and then finds rank 0 there.
            drop(other.accept().unwrap());
            drop(other);
            let door = Door::open(&world, &Context::quiet()).unwrap();
            door.gather(&world, || Ok(())).unwrap();
            rank.join().unwrap().unwrap();
        });
    }
}
