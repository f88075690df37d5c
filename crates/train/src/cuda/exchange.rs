//! The exchange of tensors between cards, one a rank, in a stream of its own beside the kernels. In each round every rank
//! takes the next piece of what it owns from all others (or gives it to them), so that all connections are at work at
//! once. Pieces travel by a [`Carrier`]: NCCL from card to card, or where it is missing through host memory and TCP. Sums
//! are made by our own kernel, in the order of the ranks, and so do not depend on the carrier.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use artifact::Context;

use super::Cuda;
use super::driver::{Address, Arguments, Driver, Event, Grid, Stream};
use super::memory::{Buffer, Locked, Tensor};
use super::nccl::{self, Nccl};
use crate::ops::Backend as _;
use crate::parallel::{Connect, Cuts, Exchange, Mesh, Point, Shares};

/// Bytes of a piece: enough for a connection's full rate, and a stage of them for each rank is little.
const PIECE: usize = 16 << 20;
/// How often the stream is looked at.
const GLANCE: Duration = Duration::from_micros(20);

/// Bytes on their way to a rank or from one.
#[derive(Clone, Copy, Debug)]
pub struct Parcel {
    /// The other rank.
    pub peer: usize,
    /// Where they are in this card's memory.
    pub at: Address,
    /// How many.
    pub bytes: usize,
}

/// How bytes go from card to card.
pub trait Carrier: Send + Sync {
    /// Sends and receives, in [`Stream::Exchange`], and waits for it. Each rank receives from each other in the order
    /// in which that sends to it.
    ///
    /// # Errors
    /// If a rank is gone.
    fn carry(&self, sends: &[Parcel], receives: &[Parcel]) -> Result<()>;
}

/// Through page-locked host memory, over TCP.
struct ThroughHost {
    driver: Arc<dyn Driver>,
    mesh: Arc<Mesh>,
    /// What is on its way, once there was something.
    room: Mutex<Option<Locked>>,
}

impl ThroughHost {
    fn new(driver: Arc<dyn Driver>, mesh: Arc<Mesh>) -> Self {
        Self { driver, mesh, room: Mutex::default() }
    }

    fn settle(&self) -> Result<()> {
        while !self.driver.has_exchanged()? {
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Takes what comes through one piece of host memory to the card.
    fn receive(&self, receives: &[Parcel], (room, at): (&mut [u8], Address)) -> Result<()> {
        for receive in receives {
            self.mesh.receive(receive.peer, &mut room[..receive.bytes])?;
            self.driver.copy_on(Stream::Exchange, receive.at, at, receive.bytes)?;
            self.settle()?;
        }
        Ok(())
    }
}

impl Carrier for ThroughHost {
    fn carry(&self, sends: &[Parcel], receives: &[Parcel]) -> Result<()> {
        let sent: usize = sends.iter().map(|send| send.bytes).sum();
        let needed = sent + receives.iter().map(|receive| receive.bytes).max().unwrap_or(0);
        let mut held = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|room| room.bytes().len() < needed) {
            *held = Some(Locked::zeros(&self.driver, needed)?);
        }
        let Some(room) = &mut *held else { return Ok(()) };
        let mut at = room.at;
        for send in sends {
            self.driver.copy_on(Stream::Exchange, at, send.at, send.bytes)?;
            at += send.bytes as Address;
        }
        self.settle()?;
        let (mut outgoing, incoming) = room.bytes_mut().split_at_mut(sent);
        std::thread::scope(|scope| {
            let mut by_peer: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
            for send in sends {
                let (bytes, after) = std::mem::take(&mut outgoing).split_at_mut(send.bytes);
                by_peer.entry(send.peer).or_default().push(bytes);
                outgoing = after;
            }
            let mut senders = Vec::new();
            for (peer, parcels) in by_peer {
                let mut parcels = parcels.into_iter();
                let send = move || parcels.try_for_each(|bytes| self.mesh.send(peer, bytes));
                senders.push(scope.spawn(send));
            }
            let received = self.receive(receives, (incoming, at));
            let sent = senders.into_iter().try_for_each(|sender| {
                sender.join().unwrap_or_else(|_| Err(anyhow!("a sending thread panicked")))
            });
            received.and(sent)
        })
    }
}

/// Nowhere, for a rehearsal.
struct Nowhere;

impl Carrier for Nowhere {
    fn carry(&self, _: &[Parcel], _: &[Parcel]) -> Result<()> {
        Ok(())
    }
}

/// A run of bytes in the card's memory.
type Run = (Address, usize);

/// The exchange of one rank.
struct Rounds {
    cuda: Cuda,
    rank: usize,
    size: usize,
    /// Bytes of a piece.
    piece: usize,
    carrier: Box<dyn Carrier>,
    /// Where gradients of other ranks arrive, and how many bytes of each.
    stage: Option<(Buffer, usize)>,
}

impl Cuda {
    /// The exchange of one of several ranks, for its memory alone.
    #[must_use]
    pub fn rehearsed_exchange(&self, rank: usize, size: usize) -> Box<dyn Exchange<Self>> {
        Box::new(Rounds::new(self.clone(), (rank, size), Box::new(Nowhere)))
    }
}

impl Connect for Cuda {
    const ON_CARD: bool = true;

    fn meeting(&self, ctx: &Context) -> Result<Option<Vec<u8>>> {
        let id = nccl::unique_id()?;
        if id.is_none() {
            ctx.warn(
                "NCCL is not on this machine, so the ranks talk through host memory, which is slow: install libnccl2, \
                 or `pip install nvidia-nccl-cu12` into a virtual environment and activate it, or name libnccl.so.2 in \
                 ISOGLOSS_NCCL",
            );
        }
        Ok(id)
    }

    fn exchange(
        &self,
        mesh: &Arc<Mesh>,
        meeting: Option<&[u8]>,
    ) -> Result<Box<dyn Exchange<Self>>> {
        let (driver, mesh) = (Arc::clone(&self.driver), Arc::clone(mesh));
        let (rank, size) = (mesh.rank, mesh.size());
        let carrier: Box<dyn Carrier> = match meeting {
            Some(id) => Box::new(Nccl::connect(driver, mesh, id)?),
            None => Box::new(ThroughHost::new(driver, mesh)),
        };
        Ok(Box::new(Rounds::new(self.clone(), (rank, size), carrier)))
    }
}

impl Rounds {
    fn new(cuda: Cuda, (rank, size): (usize, usize), carrier: Box<dyn Carrier>) -> Self {
        Self { cuda, rank, size, piece: PIECE, carrier, stage: None }
    }

    /// Runs of bytes cut into pieces.
    fn pieces(&self, runs: impl IntoIterator<Item = Run>) -> Vec<Run> {
        let cut = |(at, bytes): Run| {
            let starts = (0..bytes).step_by(self.piece);
            starts.map(move |start| (at + start as Address, self.piece.min(bytes - start)))
        };
        runs.into_iter().flat_map(cut).collect()
    }

    /// The pieces of what each rank owns, with their exact form where all ranks read that.
    fn owned<'a>(
        &self,
        tensors: impl Iterator<Item = (&'a Tensor, &'a Cuts)> + Clone,
    ) -> Vec<Vec<Run>> {
        let of = |rank: usize| {
            self.pieces(tensors.clone().flat_map(|(tensor, cuts)| {
                let run = cuts.of(rank);
                let exact = tensor.master.as_ref().filter(|_| cuts.is_exact && !run.is_empty());
                let exact = exact.map(|master| (master.from(run.start), 4 * run.len()));
                let values = (tensor.from(run.start), run.len() * tensor.dtype.bytes());
                std::iter::once(values).chain(exact)
            }))
        };
        (0..self.size).map(of).collect()
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (size, own) = (self.size, self.rank);
        (0..size).filter(move |&rank| rank != own)
    }

    /// Lets the exchange's stream wait for a point of the kernels'.
    fn begin(&self, after: Point) -> Result<()> {
        self.cuda.driver.wait(Stream::Exchange, Event(after.0))?;
        self.cuda.driver.drop_event(Event(after.0));
        Ok(())
    }

    /// The n-th of the pieces for each peer.
    fn parcels(&self, pieces: &[Vec<Run>], n: usize) -> Vec<Parcel> {
        let of = |peer: usize| pieces[peer].get(n).map(|&(at, bytes)| Parcel { peer, at, bytes });
        self.others().filter_map(of).collect()
    }

    /// Sends and receives the pieces for each peer and from each.
    fn carry(&self, sends: &[Vec<Run>], receives: &[Vec<Run>]) -> Result<()> {
        let rounds = sends.iter().chain(receives).map(Vec::len).max().unwrap_or(0);
        (0..rounds).try_for_each(|n| {
            self.carrier.carry(&self.parcels(sends, n), &self.parcels(receives, n))
        })
    }

    /// to [bytes / 4] += from.
    fn add(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        let count = bytes / 4;
        let multiprocessors = self.cuda.driver.facts().multiprocessors as usize;
        let blocks = count.div_ceil(256).min(8 * multiprocessors);
        let arguments = Arguments::new().with(to).with(from).with(count as i64);
        let grid = Grid::line(blocks, 256);
        self.cuda.driver.launch_on(Stream::Exchange, "add_f32", grid, arguments)
    }

    /// Adds what has come from the other ranks to a piece, all in the order of the ranks.
    fn sum(&self, own: Address, staged: impl Fn(usize) -> Address, bytes: usize) -> Result<()> {
        let first = staged(0);
        for rank in 1..self.rank {
            self.add(first, staged(rank), bytes)?;
        }
        if self.rank > 0 {
            self.add(own, first, bytes)?;
        }
        for rank in self.rank + 1..self.size {
            self.add(own, staged(rank), bytes)?;
        }
        Ok(())
    }
}

impl Exchange<Cuda> for Rounds {
    fn prepare(&mut self, shares: &Shares) -> Result<()> {
        let own = shares.of(self.rank).into_iter().map(|run| 4 * run.len());
        let room = own.max().unwrap_or(0).min(self.piece).next_multiple_of(256);
        self.stage = Some((self.cuda.pool.take(room * self.size)?, room));
        Ok(())
    }

    fn point(&self) -> Result<Point> {
        let event = self.cuda.driver.event()?;
        self.cuda.driver.record(event, Stream::Compute)?;
        Ok(Point(event.0))
    }

    fn reduce(&self, after: Point, tensors: Vec<&mut Tensor>, cuts: &[Cuts]) -> Result<()> {
        self.begin(after)?;
        let Some((stage, room)) = &self.stage else { bail!("an exchange without a stage") };
        let staged = |rank: usize| stage.at + (rank * room) as Address;
        let pieces = self.owned(tensors.iter().map(|tensor| &**tensor).zip(cuts));
        let rounds = pieces.iter().map(Vec::len).max().unwrap_or(0);
        for round in 0..rounds {
            let sends = self.parcels(&pieces, round);
            let mine = pieces[self.rank].get(round);
            let receives = mine.map_or(Vec::new(), |&(_, bytes)| {
                self.others().map(|peer| Parcel { peer, at: staged(peer), bytes }).collect()
            });
            self.carrier.carry(&sends, &receives)?;
            if let Some(&(own, bytes)) = mine {
                self.sum(own, staged, bytes)?;
            }
        }
        while !self.cuda.driver.has_exchanged()? {
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn gather(&self, tensors: Vec<&mut Tensor>, cuts: &[Cuts]) -> Result<()> {
        self.cuda.check()?;
        self.begin(self.point()?)?;
        let pieces = self.owned(tensors.iter().map(|tensor| &**tensor).zip(cuts));
        self.carry(&vec![pieces[self.rank].clone(); self.size], &pieces)
    }

    fn give(&self, tensors: &[(&Tensor, Option<&Cuts>)]) -> Result<()> {
        self.cuda.check()?;
        self.begin(self.point()?)?;
        let to = |rank: usize| {
            self.pieces(tensors.iter().flat_map(|(tensor, cuts)| {
                let run = cuts.map(|cuts| cuts.kept(rank)).filter(|run| !run.is_empty());
                let exact = tensor.master.as_ref().zip(run);
                let exact = exact.map(|(master, run)| (master.from(run.start), 4 * run.len()));
                std::iter::once((tensor.at(), tensor.len * tensor.dtype.bytes())).chain(exact)
            }))
        };
        let sends: Vec<_> = (0..self.size).map(to).collect();
        self.carry(&sends, &vec![Vec::new(); self.size])
    }

    fn take(&self, tensors: Vec<&mut Tensor>) -> Result<()> {
        self.cuda.check()?;
        self.begin(self.point()?)?;
        let all = self.pieces(tensors.iter().flat_map(|tensor| {
            let exact = tensor.master.as_ref();
            let exact = exact.map(|master| (master.buffer.at, 4 * master.run.len()));
            std::iter::once((tensor.at(), tensor.len * tensor.dtype.bytes())).chain(exact)
        }));
        let mut receives = vec![Vec::new(); self.size];
        receives[0] = all;
        self.carry(&vec![Vec::new(); self.size], &receives)
    }
}

#[cfg(test)]
mod tests {
    use super::super::emulator::Emulator;
    use super::*;
    use crate::config::TrainConfig;
    use crate::model::{Batch, Decoder, Model, ModelConfig};
    use crate::ops::testing::{bits, random};
    use crate::ops::{Backend, Kind};
    use crate::parallel::engine::Engine;
    use crate::parallel::meeting::tests::meshes;
    use crate::parallel::shares::cut;

    /// Does something on ranks that are threads, each with a device of its own; none without a C++ compiler.
    fn on_ranks<T: Send>(size: usize, work: impl Fn(&Arc<Mesh>, Cuda) -> T + Sync) -> Vec<T> {
        if Emulator::new((8, 0)).is_none() {
            return Vec::new();
        }
        std::thread::scope(|scope| {
            let work = &work;
            let start = |mesh: Mesh| {
                scope.spawn(move || {
                    let device = Emulator::new((8, 0)).expect("there was a compiler");
                    work(&Arc::new(mesh), Cuda::new(Arc::new(device)))
                })
            };
            let threads: Vec<_> = meshes(size).into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
        })
    }

    const LENGTHS: [usize; 3] = [700, 3, 2050];

    /// What a rank has of a tensor before.
    fn before(rank: usize, tensor: usize) -> Vec<f32> {
        random((10 * rank + tensor) as u64, LENGTHS[tensor])
    }

    #[test]
    fn sums_are_made_in_the_order_of_the_ranks_and_go_to_all() {
        let cuts = cut(&LENGTHS, 3);
        let found = on_ranks(3, |mesh, cuda| {
            let carrier = Box::new(ThroughHost::new(Arc::clone(&cuda.driver), Arc::clone(mesh)));
            let mut rounds = Rounds::new(cuda.clone(), (mesh.rank, 3), carrier);
            rounds.piece = 1024;
            let pieces = std::iter::once(0..3).collect();
            rounds.prepare(&Shares { cuts: cuts.clone(), pieces }).unwrap();
            let of = |tensor| cuda.tensor(Kind::Gradient, before(mesh.rank, tensor));
            let mut tensors: Vec<Tensor> = (0..3).map(of).collect();
            let complete = rounds.point().unwrap();
            rounds.reduce(complete, tensors.iter_mut().collect(), &cuts).unwrap();
            rounds.gather(tensors.iter_mut().collect(), &cuts).unwrap();
            tensors.iter().map(|t| bits(&cuda.values(t, t.len))).collect::<Vec<_>>()
        });
        for tensors in found {
            for (tensor, found) in tensors.into_iter().enumerate() {
                let [a, b, c] = [0, 1, 2].map(|rank| before(rank, tensor));
                let sum: Vec<f32> =
                    a.iter().zip(&b).zip(&c).map(|((a, b), c)| (a + b) + c).collect();
                assert_eq!(found, bits(&sum));
            }
        }
    }

    const TINY: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "initializer_range": 0.1, "hidden_act": "silu"}"#;

    fn batch(first: u32) -> Batch {
        let tokens: Vec<u32> = (0..24).map(|i| (i * 37 + first) % 96).collect();
        let targets = tokens.iter().map(|&token| (token as i32 * 5 + 1) % 96).collect();
        Batch { tokens, targets, documents: vec![0, 24] }
    }

    #[test]
    fn two_cards_move_the_weights_as_one_does_and_keep_masters_of_their_own_part_alone() {
        let config = ModelConfig::parse(TINY, std::path::Path::new("config.json")).unwrap();
        let recipe = TrainConfig::default().resolve().unwrap();
        let batches = [batch(3), batch(50)];
        let steps = |engine: &mut Engine<Cuda>, own: &[Batch]| {
            for _ in 0..3 {
                engine.gradients((0, own), 0.02).unwrap();
                engine.update(0.5, 1e-2).unwrap();
            }
        };
        let weights = |engine: &Engine<Cuda>| -> Vec<Vec<f32>> {
            (0..engine.shares.cuts.len()).map(|tensor| engine.weight(tensor).into_owned()).collect()
        };
        let found = on_ranks(2, |mesh, cuda| {
            // Rank 1 begins with other weights, and is given those of rank 0.
            let model = Model::random(config.clone(), mesh.rank as u64).copy_to(cuda.clone());
            let exchange = cuda.exchange(mesh, None).unwrap();
            let mut engine = Engine::among(model, &recipe, (mesh.rank, 2), exchange).unwrap();
            steps(&mut engine, &batches[mesh.rank..=mesh.rank]);
            assert!(engine.has_masters_apart());
            (weights(&engine), engine.shares.of(mesh.rank))
        });
        let Some(device) = Emulator::new((8, 0)) else { return };
        let model: Decoder<Cuda> =
            Model::random(config.clone(), 0).copy_to(Cuda::new(Arc::new(device)));
        let mut alone = Engine::alone(model, &recipe).unwrap();
        steps(&mut alone, &batches);
        let [(first, of_first), (second, of_second)] = &found[..] else { unreachable!() };
        let (mut shared, alone) = (0, weights(&alone));
        for (tensor, exact) in alone.iter().enumerate() {
            let (run, after) = (of_first[tensor].clone(), of_second[tensor].clone());
            assert_eq!((run.start, run.end, after.end), (0, after.start, exact.len()));
            shared += usize::from(!run.is_empty() && !after.is_empty());
            let pairs = [(run, first, second), (after, second, first)];
            for (run, owner, other) in pairs {
                let (owner, other) = (&owner[tensor][run.clone()], &other[tensor][run.clone()]);
                let narrow: Vec<f32> =
                    owner.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
                assert_eq!(bits(&narrow), bits(other), "the other computes with the same values");
                assert!(run.is_empty() || owner.iter().any(|x| x.to_bits() & 0xffff != 0));
                for (one, exact) in owner.iter().zip(&exact[run]) {
                    assert!((one - exact).abs() < 2e-3, "{one}, alone {exact}");
                }
            }
        }
        assert!(shared >= 2, "some tensors have two owners");
    }
}
