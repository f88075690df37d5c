//! Training side by side: runs that train adapters beside the same frozen weights, each in a thread of
//! its own, bring their batches to a meeting. Once there are enough, one of them does a pass for
//! several, their rows laid end to end, and each goes on with its own losses and gradients: its
//! optimiser, its validation, its checkpoints. How many are enough is the backend's to say
//! ([`Gathering`]). No run's result depends on the others, nor on who passed with whom.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow};

use super::adapter::{Adapter, Trained};
use super::batch::{Batch, Filling};
use super::passes::{Ground, Memory, Run};
use super::projection::{Into, Moment};
use super::{Attached, Decoder, ModelConfig};
use crate::batches::MICRO_BATCH_TOKENS;
use crate::memory::Places;
use crate::ops::{Backend, Gathering};

/// Where runs over one base meet.
pub struct Meeting<B: Backend> {
    /// The weights that all of them stand beside, once the first has read them.
    base: Mutex<Option<Decoder<B>>>,
    table: Mutex<Table<B>>,
    changed: Condvar,
    /// How batches come together, where that is not left to the backend.
    gathering: Option<Gathering>,
    /// How many runs their device has room for, and the rest of what is planned for all of them.
    pub(crate) places: Places,
}

struct Table<B: Backend> {
    /// Number of the next seat.
    next: u64,
    /// Runs that will bring batches.
    seated: usize,
    /// What was brought, by seat, the first to come first.
    brought: Vec<(u64, Brought<B::Tensor>)>,
    /// What came of it, by seat.
    done: BTreeMap<u64, Done<B::Tensor>>,
    /// Passes that are being done.
    passing: usize,
    /// The memory of passes of which none is being done.
    memories: Vec<Memory<B>>,
}

/// A run's batch, with what it lends for the time of the pass.
struct Brought<T> {
    batch: Batch,
    moment: Moment,
    adapter: Attached<T>,
    into: Option<(f32, Trained<T>)>,
}

/// The same after the pass; nothing comes back where the pass broke off.
struct Done<T> {
    lent: Option<Brought<T>>,
    losses: Result<Vec<f32>, String>,
}

/// A run's place at a meeting, until it is dropped.
pub struct Seat<B: Backend> {
    meeting: Arc<Meeting<B>>,
    number: u64,
}

impl<B: Backend> Default for Meeting<B> {
    fn default() -> Self {
        let (brought, done, memories) = (Vec::new(), BTreeMap::new(), Vec::new());
        let table = Table { next: 0, seated: 0, brought, done, passing: 0, memories };
        let (base, places) = (Mutex::default(), Places::default());
        let (table, changed) = (Mutex::new(table), Condvar::new());
        Self { base, table, changed, gathering: None, places }
    }
}

impl<B: Backend> Meeting<B> {
    /// One where batches come together in this way, whatever the backend would rather have.
    #[must_use]
    pub fn gathering(gathering: Gathering) -> Self {
        Self { gathering: Some(gathering), ..Self::default() }
    }
}

impl<B: Backend> Table<B> {
    /// The batches that a pass is to be done for now, if one is.
    fn gather(
        &mut self,
        Gathering { at_once, enough }: Gathering,
    ) -> Vec<(u64, Brought<B::Tensor>)> {
        let mut rows = 0;
        let mut is_wanted = |(_, one): &&(u64, Brought<_>)| {
            let wanted = rows < enough;
            rows += if wanted { one.batch.tokens.len() } else { 0 };
            wanted
        };
        let count = self.brought.iter().take_while(|one| is_wanted(one)).count();
        let all_are_here = self.passing == 0 && self.brought.len() >= self.seated;
        let begins = self.passing < at_once && (rows >= enough || all_are_here);
        self.brought.drain(..if begins { count } else { 0 }).collect()
    }
}

/// Weights of a layer's linear maps.
fn weights_of_a_layer(config: &ModelConfig) -> usize {
    let ModelConfig { hidden_size, intermediate_size, .. } = *config;
    hidden_size * (config.qkv_width() + config.query_width() + 3 * intermediate_size)
}

impl<B: Backend + Clone> Meeting<B> {
    /// A model of the meeting's weights, which `load` reads for the first run that asks, to train an
    /// adapter beside; it has a seat.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn join(self: &Arc<Self>, load: impl FnOnce() -> Result<Decoder<B>>) -> Result<Decoder<B>> {
        // Held while the weights are read, so that runs that start together read them once.
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        let base = match &mut *base {
            Some(base) => base,
            empty => empty.insert(load()?),
        };
        let mut model = base.share();
        let mut table = self.table();
        table.seated += 1;
        table.next += 1;
        model.seat = Some(Seat { meeting: Arc::clone(self), number: table.next });
        Ok(model)
    }
}

impl<B: Backend> Meeting<B> {
    fn table(&self) -> MutexGuard<'_, Table<B>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for Seat<B> {
    fn drop(&mut self) {
        self.meeting.table().seated -= 1;
        // The others may have been waiting for this run alone.
        self.meeting.changed.notify_all();
    }
}

impl<B: Backend> Seat<B> {
    /// Does something about the memory of passes before the first of them.
    pub(super) fn with_memory(&self, work: impl FnOnce(&mut Memory<B>)) {
        let mut table = self.meeting.table();
        if table.passing == 0 {
            let mut memory = table.memories.pop().unwrap_or_default();
            work(&mut memory);
            table.memories.push(memory);
        }
    }

    /// Brings a checked batch and waits for its losses; the adapter and the gradients are lent.
    pub(super) fn pass(
        &self,
        ground: &mut Ground<'_, B>,
        (batch, moment): (&Batch, Moment),
        adapter: &mut Option<Attached<B::Tensor>>,
        mut into: Option<Into<'_, B::Tensor>>,
    ) -> Result<Vec<f32>> {
        let lent = into.as_mut().map(|(scale, gradients)| {
            let empty = Trained::Adapter(Adapter { layers: Vec::new() });
            (*scale, std::mem::replace(*gradients, empty))
        });
        let adapter_lent = adapter.take().context("a run without an adapter trains alone")?;
        let brought = Brought { batch: batch.clone(), moment, adapter: adapter_lent, into: lent };
        let Done { lent, losses } = self.wait(ground, brought);
        if let Some(Brought { adapter: back, into: gradients, .. }) = lent {
            *adapter = Some(back);
            if let (Some((_, into)), Some((_, back))) = (into, gradients) {
                *into = back;
            }
        }
        losses.map_err(|fault| anyhow!(fault))
    }

    fn wait(&self, ground: &mut Ground<'_, B>, brought: Brought<B::Tensor>) -> Done<B::Tensor> {
        let backend = ground.backend;
        let of_backend = || backend.gathering(weights_of_a_layer(ground.config));
        let gathering = self.meeting.gathering.unwrap_or_else(of_backend);
        let mut table = self.meeting.table();
        table.brought.push((self.number, brought));
        loop {
            if let Some(done) = table.done.remove(&self.number) {
                return done;
            }
            let some = table.gather(gathering);
            if some.is_empty() {
                table = self.meeting.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            table.passing += 1;
            let mut memory = table.memories.pop().unwrap_or_default();
            drop(table);
            let done = backend.on_its_threads(|| pass_all(ground, &mut memory, some));
            table = self.meeting.table();
            table.passing -= 1;
            table.memories.push(memory);
            table.done.extend(done);
            self.meeting.changed.notify_all();
        }
    }

    /// Waits for something that another run at the meeting may be at, without being waited for.
    pub(super) fn aside<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.meeting.table().seated -= 1;
        self.meeting.changed.notify_all();
        let found = wait();
        self.meeting.table().seated += 1;
        found
    }
}

/// Does the passes that all have come for: those that train, then those that validate, as many at once
/// as make the rows of one run's micro-batch, so that several need no more memory than one.
fn pass_all<B: Backend>(
    ground: &mut Ground<'_, B>,
    memory: &mut Memory<B>,
    all: Vec<(u64, Brought<B::Tensor>)>,
) -> Vec<(u64, Done<B::Tensor>)> {
    let mut done = Vec::new();
    let (train, validate): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, b)| b.into.is_some());
    for kind in [train, validate] {
        let mut together: Vec<(u64, Brought<B::Tensor>)> = Vec::new();
        let mut rows = 0;
        for (number, brought) in kind {
            let filling = match brought.into {
                Some(_) => Filling::of(ground.backend, ground.config),
                None => Filling::NONE,
            };
            let more = filling.count(brought.batch.tokens.len());
            if rows + more > MICRO_BATCH_TOKENS && !together.is_empty() {
                done.extend(pass_some(ground, memory, std::mem::take(&mut together)));
                rows = 0;
            }
            rows += more;
            together.push((number, brought));
        }
        if !together.is_empty() {
            done.extend(pass_some(ground, memory, together));
        }
    }
    done
}

fn pass_some<B: Backend>(
    ground: &mut Ground<'_, B>,
    memory: &mut Memory<B>,
    mut some: Vec<(u64, Brought<B::Tensor>)>,
) -> Vec<(u64, Done<B::Tensor>)> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let runs = some.iter_mut().map(|(_, Brought { batch, moment, adapter, into })| Run {
            batch,
            adapter: Some(adapter),
            moment: *moment,
            into: into.as_mut().map(|(scale, gradients)| (*scale, gradients)),
        });
        ground.pass(memory, runs.collect(), None)
    }));
    match result {
        Ok(Ok(losses)) => some
            .into_iter()
            .zip(losses)
            .map(|((number, lent), losses)| (number, Done { lent: Some(lent), losses: Ok(losses) }))
            .collect(),
        fault => {
            let fault = match fault {
                Ok(Err(error)) => format!("{error:#}"),
                _ => "a pass shared by several runs ended in a panic; the message is above".into(),
            };
            let done =
                |(number, lent)| (number, Done { lent: Some(lent), losses: Err(fault.clone()) });
            some.into_iter().map(done).collect()
        }
    }
}
