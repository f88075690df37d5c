//! The exchange of tensors between cards, one a rank. In each round every rank takes the next piece of what it owns from
//! all others (or gives it to them), so that all connections are at work at once. Pieces travel by a [`Carrier`]: NCCL
//! from card to card, or where it is missing through host memory and TCP. Sums are made by our own kernel, in the order
//! of the ranks, and so do not depend on the carrier.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use artifact::Context;

use super::Cuda;
use super::driver::{Address, Arguments, Driver, Grid};
use super::memory::Tensor;
use super::nccl::{self, Nccl};
use crate::ops::Backend as _;
use crate::parallel::{Connect, Exchange, Mesh};

/// Bytes of a piece.
const PIECE: usize = 64 << 20;

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
pub trait Carrier {
    /// Sends and receives. Each rank receives from each other in the order in which that sends to it. Comes after the
    /// device's earlier work and before its later.
    ///
    /// # Errors
    /// If a rank is gone.
    fn carry(&self, sends: &[Parcel], receives: &[Parcel]) -> Result<()>;
}

/// Through host memory, over TCP.
struct ThroughHost {
    driver: Arc<dyn Driver>,
    mesh: Arc<Mesh>,
}

impl Carrier for ThroughHost {
    fn carry(&self, sends: &[Parcel], receives: &[Parcel]) -> Result<()> {
        let mut bytes = Vec::with_capacity(sends.len());
        for send in sends {
            let mut copy = vec![0; send.bytes];
            self.driver.copy_out(&mut copy, send.at)?;
            bytes.push(copy);
        }
        std::thread::scope(|scope| {
            let to = |peer: usize| {
                let parcels = sends.iter().zip(&bytes).filter(move |(send, _)| send.peer == peer);
                move || {
                    parcels
                        .into_iter()
                        .try_for_each(|(send, bytes)| self.mesh.send(send.peer, bytes))
                }
            };
            let senders: Vec<_> = self.mesh.others().map(|peer| scope.spawn(to(peer))).collect();
            let received = receives.iter().try_for_each(|receive| {
                let mut bytes = vec![0; receive.bytes];
                self.mesh.receive(receive.peer, &mut bytes)?;
                self.driver.copy_in(receive.at, &bytes)
            });
            let sent = senders.into_iter().try_for_each(|sender| {
                sender.join().unwrap_or_else(|_| Err(anyhow!("a sending thread panicked")))
            });
            received.and(sent)
        })
    }
}

/// The exchange of one rank.
struct Rounds {
    cuda: Cuda,
    rank: usize,
    size: usize,
    /// Bytes of a piece.
    piece: usize,
    carrier: Box<dyn Carrier>,
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
            None => Box::new(ThroughHost { driver, mesh }),
        };
        Ok(Box::new(Rounds { cuda: self.clone(), rank, size, piece: PIECE, carrier }))
    }
}

impl Rounds {
    /// The pieces of each rank's runs of bytes, cut at whole values.
    fn pieces(&self, runs: &[(usize, Address, usize)]) -> Vec<Vec<(Address, usize)>> {
        let mut pieces = vec![Vec::new(); self.size];
        for &(owner, at, bytes) in runs {
            for start in (0..bytes).step_by(self.piece) {
                pieces[owner].push((at + start as Address, self.piece.min(bytes - start)));
            }
        }
        pieces
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (size, own) = (self.size, self.rank);
        (0..size).filter(move |&rank| rank != own)
    }

    /// to [bytes / 4] += from.
    fn add(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        let count = bytes / 4;
        let multiprocessors = self.cuda.driver.facts().multiprocessors as usize;
        let blocks = count.div_ceil(256).min(8 * multiprocessors);
        let arguments = Arguments::new().with(to).with(from).with(count as i64);
        self.cuda.driver.launch("add_f32", Grid::line(blocks, 256), arguments)
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
    fn reduce(&self, tensors: Vec<&mut Tensor>, owners: &[usize]) -> Result<()> {
        self.cuda.check()?;
        let runs: Vec<_> = tensors
            .iter()
            .zip(owners)
            .map(|(tensor, &owner)| (owner, tensor.at(), tensor.len * tensor.dtype.bytes()))
            .collect();
        let pieces = self.pieces(&runs);
        let rounds = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let most = pieces[self.rank].iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let room = most.next_multiple_of(256);
        let stage = self.cuda.pool.take(room * self.size)?;
        let staged = |rank: usize| stage.at + (rank * room) as Address;
        for round in 0..rounds {
            let sends: Vec<_> = self
                .others()
                .filter_map(|peer| {
                    let (at, bytes) = *pieces[peer].get(round)?;
                    Some(Parcel { peer, at, bytes })
                })
                .collect();
            let mine = pieces[self.rank].get(round);
            let receives: Vec<_> = self
                .others()
                .filter_map(|peer| Some(Parcel { peer, at: staged(peer), bytes: mine?.1 }))
                .collect();
            self.carrier.carry(&sends, &receives)?;
            if let Some(&(own, bytes)) = mine {
                self.sum(own, staged, bytes)?;
            }
        }
        Ok(())
    }

    fn broadcast(&self, tensors: Vec<&mut Tensor>, owners: &[usize], masters: bool) -> Result<()> {
        self.cuda.check()?;
        let mut runs = Vec::new();
        for (tensor, &owner) in tensors.iter().zip(owners) {
            runs.push((owner, tensor.at(), tensor.len * tensor.dtype.bytes()));
            if let Some(master) = tensor.master.as_ref().filter(|_| masters) {
                runs.push((owner, master.at, tensor.len * 4));
            }
        }
        let pieces = self.pieces(&runs);
        let rounds = pieces.iter().map(Vec::len).max().unwrap_or(0);
        for round in 0..rounds {
            let mine = pieces[self.rank].get(round);
            let sends: Vec<_> = self
                .others()
                .filter_map(|peer| Some(Parcel { peer, at: mine?.0, bytes: mine?.1 }))
                .collect();
            let receives: Vec<_> = self
                .others()
                .filter_map(|peer| {
                    let (at, bytes) = *pieces[peer].get(round)?;
                    Some(Parcel { peer, at, bytes })
                })
                .collect();
            self.carrier.carry(&sends, &receives)?;
        }
        Ok(())
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
    use crate::parallel::link::tests::meshes;

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

    /// What a rank has of a tensor before.
    fn before(rank: usize, tensor: usize) -> Vec<f32> {
        random((10 * rank + tensor) as u64, [700, 3, 2050][tensor])
    }

    #[test]
    fn sums_are_made_in_the_order_of_the_ranks_and_go_to_all() {
        let owners = [2, 0, 1];
        let found = on_ranks(3, |mesh, cuda| {
            let carrier =
                Box::new(ThroughHost { driver: Arc::clone(&cuda.driver), mesh: Arc::clone(mesh) });
            let rounds =
                Rounds { cuda: cuda.clone(), rank: mesh.rank, size: 3, piece: 1024, carrier };
            let of = |tensor| cuda.tensor(Kind::Gradient, before(mesh.rank, tensor));
            let mut tensors: Vec<Tensor> = (0..3).map(of).collect();
            rounds.reduce(tensors.iter_mut().collect(), &owners).unwrap();
            rounds.broadcast(tensors.iter_mut().collect(), &owners, false).unwrap();
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
            (0..engine.owners().len()).map(|tensor| engine.weight(tensor).into_owned()).collect()
        };
        let found = on_ranks(2, |mesh, cuda| {
            // Rank 1 begins with other weights, and is given those of rank 0.
            let model = Model::random(config.clone(), mesh.rank as u64).copy_to(cuda.clone());
            let exchange = cuda.exchange(mesh, None).unwrap();
            let mut engine = Engine::among(model, &recipe, (mesh.rank, 2), exchange).unwrap();
            steps(&mut engine, &batches[mesh.rank..=mesh.rank]);
            let kept: Vec<bool> =
                (0..engine.owners().len()).map(|t| engine.keeper(t).is_none()).collect();
            (weights(&engine), kept)
        });
        let Some(device) = Emulator::new((8, 0)) else { return };
        let model: Decoder<Cuda> =
            Model::random(config.clone(), 0).copy_to(Cuda::new(Arc::new(device)));
        let mut alone = Engine::alone(model, &recipe).unwrap();
        steps(&mut alone, &batches);
        let [(first, first_keeps), (second, second_keeps)] = &found[..] else { unreachable!() };
        for (tensor, exact) in weights(&alone).iter().enumerate() {
            assert!(first_keeps[tensor] != second_keeps[tensor], "one rank has the master");
            let (owner, other) = match first_keeps[tensor] {
                true => (&first[tensor], &second[tensor]),
                false => (&second[tensor], &first[tensor]),
            };
            let narrow: Vec<f32> =
                owner.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
            assert_eq!(bits(&narrow), bits(other), "the other computes with the same values");
            for (one, exact) in owner.iter().zip(exact) {
                assert!((one - exact).abs() < 2e-3, "{one}, alone {exact}");
            }
        }
    }
}
