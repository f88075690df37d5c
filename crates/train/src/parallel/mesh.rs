//! The exchange of tensors between processors, over TCP. One thread sends to each other rank, so that none waits for
//! another; sums are made piece by piece as values come in, always in the order of the ranks.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use artifact::Context;

use super::{Connect, Cuts, Exchange, Mesh, Point};
use crate::cuda::memory::{bytes_of, bytes_of_mut};
use crate::ops::Cpu;

/// Values that are summed at a time.
const PIECE: usize = 1 << 16;

impl Mesh {
    /// Sends what `sends` has for each rank while `receive` takes what comes.
    fn exchange(&self, sends: &[Vec<&[f32]>], receive: impl FnOnce() -> Result<()>) -> Result<()> {
        std::thread::scope(|scope| {
            let send = |to: usize| {
                move || sends[to].iter().try_for_each(|values| self.send(to, bytes_of(values)))
            };
            let busy = self.others().filter(|&to| sends[to].iter().any(|run| !run.is_empty()));
            let senders: Vec<_> = busy.map(|to| scope.spawn(send(to))).collect();
            let received = receive();
            let sent = senders.into_iter().try_for_each(|sender| {
                sender.join().unwrap_or_else(|_| Err(anyhow!("a sending thread panicked")))
            });
            received.and(sent)
        })
    }

    /// sum += what the other ranks send, in the order of the ranks.
    fn sum(&self, sum: &mut [f32], pieces: &mut [Vec<f32>; 2]) -> Result<()> {
        let [total, next] = pieces;
        for own in sum.chunks_mut(PIECE) {
            let (total, next) = (&mut total[..own.len()], &mut next[..own.len()]);
            for rank in 0..self.size() {
                match rank {
                    0 if self.rank == 0 => total.copy_from_slice(own),
                    0 => self.receive(0, bytes_of_mut(total))?,
                    rank if rank == self.rank => add(total, own),
                    rank => {
                        self.receive(rank, bytes_of_mut(next))?;
                        add(total, next);
                    }
                }
            }
            own.copy_from_slice(total);
        }
        Ok(())
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

impl Connect for Cpu {
    const ON_CARD: bool = false;

    fn meeting(&self, _: &Context) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn exchange(&self, mesh: &Arc<Mesh>, _: Option<&[u8]>) -> Result<Box<dyn Exchange<Self>>> {
        Ok(Box::new(Arc::clone(mesh)))
    }
}

/// A tensor's runs of values, one a rank.
fn runs<'a>(mut values: &'a mut [f32], cuts: &Cuts) -> Vec<&'a mut [f32]> {
    let mut runs = Vec::new();
    for run in cuts.runs() {
        let (this, after) = values.split_at_mut(run.len());
        runs.push(this);
        values = after;
    }
    runs
}

impl Exchange<Cpu> for Arc<Mesh> {
    fn reduce(&self, _: Point, tensors: Vec<&mut Vec<f32>>, cuts: &[Cuts]) -> Result<()> {
        let mut sends: Vec<Vec<&[f32]>> = vec![Vec::new(); self.size()];
        let mut mine = Vec::new();
        for (tensor, cuts) in tensors.into_iter().zip(cuts) {
            for (owner, run) in runs(tensor, cuts).into_iter().enumerate() {
                match owner == self.rank {
                    true => mine.push(run),
                    false => sends[owner].push(run),
                }
            }
        }
        self.exchange(&sends, || {
            let mut pieces = [vec![0.0; PIECE], vec![0.0; PIECE]];
            mine.into_iter().try_for_each(|run| self.sum(run, &mut pieces))
        })
    }

    fn gather(&self, tensors: Vec<&mut Vec<f32>>, cuts: &[Cuts]) -> Result<()> {
        let (mut mine, mut others): (Vec<&[f32]>, Vec<_>) = (Vec::new(), Vec::new());
        for (tensor, cuts) in tensors.into_iter().zip(cuts) {
            for (owner, run) in runs(tensor, cuts).into_iter().enumerate() {
                match owner == self.rank {
                    true => mine.push(run),
                    false => others.push((owner, run)),
                }
            }
        }
        let sends = vec![mine; self.size()];
        self.exchange(&sends, || {
            let mut others = others.into_iter();
            others.try_for_each(|(owner, run)| self.receive(owner, bytes_of_mut(run)))
        })
    }

    fn give(&self, tensors: &[(&Vec<f32>, Option<&Cuts>)]) -> Result<()> {
        let all: Vec<&[f32]> = tensors.iter().map(|(tensor, _)| &tensor[..]).collect();
        self.exchange(&vec![all; self.size()], || Ok(()))
    }

    fn take(&self, tensors: Vec<&mut Vec<f32>>) -> Result<()> {
        tensors.into_iter().try_for_each(|tensor| self.receive(0, bytes_of_mut(tensor)))
    }
}
