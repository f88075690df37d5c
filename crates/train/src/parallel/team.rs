//! The ranks as rank 0 sees them. [`Ranks`] starts or awaits the others when they are first needed; a [`Lead`] is the
//! connection to them, which outlives a run; a [`Team`] is a model in training on all of them. On one rank a team is
//! an [`Engine`] and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow, bail};
use artifact::{Context, bail_user};

use super::crew::Crew;
use super::engine::Engine;
use super::link::{Gone, LastWords, Mesh, Wire};
use super::meeting::{Door, Gathered};
use super::pulse::{self, Watch};
use super::world::World;
use super::{Answer, Connect, Job, Order};
use crate::checkpoint::Checkpoint;
use crate::config::{Recipe, TrainConfig};
use crate::model::{Batch, Decoder, Dtype, Room};
use crate::ops::Backend;
use crate::optimizer::{Named, Words};

/// How long the others may take to say what went wrong.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How the other ranks of this process's runs come to be.
pub struct Ranks {
    /// What the environment says; none: this process starts the others itself.
    world: Option<World>,
    /// The command that becomes another rank.
    launch: Box<dyn Fn() -> Result<Command> + Send + Sync>,
    lead: Mutex<Option<Arc<Lead>>>,
}

impl Default for Ranks {
    fn default() -> Self {
        Self::started_by(|| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["worker", "--quiet"]);
            Ok(command)
        })
    }
}

impl Ranks {
    /// Ranks that this process starts on this machine, by a command that calls [`super::serve`].
    pub fn started_by(launch: impl Fn() -> Result<Command> + Send + Sync + 'static) -> Self {
        Self { world: None, launch: Box::new(launch), lead: Mutex::default() }
    }

    /// Ranks that something else starts; `world` is this process's, which is rank 0. Waits for them.
    ///
    /// # Errors
    /// If they do not come.
    pub fn of_world(world: World, ctx: &Context) -> Result<Self> {
        let lead = Mutex::new(Some(Arc::new(Lead::await_others(&world, ctx)?)));
        Ok(Self { world: Some(world), lead, ..Self::default() })
    }

    /// The settings of a run, with as many ranks as the environment says where they say nothing.
    #[must_use]
    pub fn settings(&self, config: &TrainConfig) -> TrainConfig {
        let of_world = self.world.as_ref().map(|world| world.size);
        TrainConfig { ranks: config.ranks.or(of_world), ..config.clone() }
    }

    /// The other ranks of a run that asks for `size`, none for 1. They are started where they are not there yet, or
    /// no longer fit to be used.
    ///
    /// # Errors
    /// If they cannot be started, or the environment says another number.
    pub fn lead(&self, size: usize, ctx: &Context) -> Result<Option<Arc<Lead>>> {
        let mut held = self.lead.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(world) = &self.world {
            if size != world.size {
                bail_user!("{size} ranks are asked for, but WORLD_SIZE is {}", world.size);
            }
            let Some(lead) = held.as_ref().filter(|lead| !lead.is_broken()) else {
                bail!("the other ranks are gone");
            };
            return Ok(Some(Arc::clone(lead)));
        }
        if size == 1 {
            return Ok(None);
        }
        if let Some(lead) = held.as_ref().filter(|l| !l.is_broken() && l.world.size == size) {
            return Ok(Some(Arc::clone(lead)));
        }
        *held = None;
        let lead = Lead::start(&World::of_one_machine(size), &*self.launch, ctx)?;
        Ok(Some(Arc::clone(held.insert(Arc::new(lead)))))
    }
}

/// The connection to the other ranks.
pub struct Lead {
    world: World,
    /// By rank, from 1 on.
    controls: Vec<Wire>,
    /// For values.
    mesh: Arc<Mesh>,
    /// Those that this process has started.
    crew: Mutex<Option<Crew>>,
    /// Over them.
    watch: Watch,
    /// Whether something went wrong in the middle of an exchange.
    broken: AtomicBool,
    turn: Mutex<()>,
}

impl Lead {
    fn await_others(world: &World, ctx: &Context) -> Result<Self> {
        let door = Door::open(world, ctx)?;
        let World { address, size, .. } = world;
        ctx.log(format!("waiting for {} other ranks at {address}:{}", size - 1, door.port));
        let gathered = door.gather(world, || ctx.check())?;
        Self::new(world, gathered, None)
    }

    fn start(world: &World, launch: &dyn Fn() -> Result<Command>, ctx: &Context) -> Result<Self> {
        let door = Door::open(world, ctx)?;
        let mut crew = Crew::start(world, door.port, launch)?;
        let gathered = door.gather(world, || {
            ctx.check()?;
            crew.check()
        })?;
        Self::new(world, gathered, Some(crew))
    }

    fn new(world: &World, (controls, pulses, mesh): Gathered, crew: Option<Crew>) -> Result<Self> {
        let mut connections = mesh.handles()?;
        for wire in &controls {
            connections.push(wire.handle()?);
        }
        Ok(Self {
            world: world.clone(),
            controls,
            mesh: Arc::new(mesh),
            crew: Mutex::new(crew),
            watch: Watch::start(pulses, connections, pulse::limit()?)?,
            broken: AtomicBool::new(false),
            turn: Mutex::default(),
        })
    }

    /// Waits until no other run of this process uses the ranks; they are the caller's as long as it keeps this.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The threads that this rank computes with.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn threads(&self) -> Result<rayon::ThreadPool> {
        Ok(rayon::ThreadPoolBuilder::new().num_threads(self.world.threads()).build()?)
    }

    /// This rank's card.
    pub fn card(&self) -> usize {
        self.world.local_rank
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn send(&self, rank: usize, order: &Order, floats: &[f32]) -> Result<()> {
        self.controls[rank - 1].send(order, floats)
    }

    fn send_to_all(&self, order: &Order, floats: &[f32]) -> Result<()> {
        (1..self.world.size).try_for_each(|rank| self.send(rank, order, floats))
    }

    fn answer(&self, rank: usize) -> Result<(Answer, Vec<f32>)> {
        let (answer, floats) =
            self.controls[rank - 1].receive().map_err(|error| error.context(Gone(rank)))?;
        match answer {
            Answer::Failed { what, .. } => bail!("rank {rank}: {what}"),
            answer => Ok((answer, floats)),
        }
    }

    /// Does something with the others. What goes wrong leaves them unfit to be used, and becomes an error that says who
    /// was the first to fail.
    fn together<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        work().map_err(|error| {
            self.broken.store(true, Ordering::Relaxed);
            self.blame(error)
        })
    }

    /// Who failed: one that is silent, one that says so, or one that is gone without a word. One that lost sight of
    /// another is none of those, nor is one that ended because this rank did.
    fn blame(&self, error: Error) -> Error {
        let mut crew = self.crew.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((rank, seconds)) = self.watch.silent() {
            let process = crew.as_ref().and_then(|crew| crew.process(rank));
            let process = process.map_or(String::new(), |id| format!(" (process {id})"));
            return anyhow!(
                "rank {rank}{process} has given no sign of life for {seconds} seconds: it is stopped, or its machine is \
                 cut off"
            );
        }
        let deadline = Instant::now() + LAST_WORDS;
        let has_failed = |answer: &Answer| matches!(answer, Answer::Failed { .. });
        let (mut missed, mut spoke) = (BTreeSet::new(), BTreeSet::from([0]));
        missed.extend(error.downcast_ref::<Gone>().map(|Gone(rank)| *rank));
        for (wire, rank) in self.controls.iter().zip(1..) {
            match wire.last_words(deadline, has_failed) {
                LastWords::Said(Answer::Failed { what, lost: None }) => {
                    return anyhow!("rank {rank}: {what}");
                }
                LastWords::Said(Answer::Failed { lost, .. }) => {
                    spoke.insert(rank);
                    missed.extend(lost);
                }
                LastWords::Silence => _ = missed.insert(rank),
                _ => {}
            }
        }
        let gone: Vec<usize> = missed.difference(&spoke).copied().collect();
        match (crew.as_mut().and_then(|crew| crew.fate_of(&gone)), gone.first()) {
            (Some(fate), _) => error.context(fate),
            (None, Some(&rank)) => error.context(Gone(rank)),
            _ => error,
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let crew = self.crew.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !self.broken.load(Ordering::Relaxed) {
            // One that does not hear it is ended with the crew.
            for wire in &self.controls {
                let _ = wire.send(&Order::End, &[]);
            }
            if let Some(crew) = crew {
                crew.dismiss();
            }
        }
    }
}

/// A model in training, on all ranks of a run.
pub struct Team<B: Backend> {
    engine: Engine<B>,
    lead: Option<Arc<Lead>>,
}

impl<B: Connect> Team<B> {
    /// Brings the model to the other ranks, where there are any. `config` is what `recipe` is made of.
    pub fn new(
        model: Decoder<B>,
        (config, recipe): (&TrainConfig, &Recipe),
        lead: Option<Arc<Lead>>,
        ctx: &Context,
    ) -> Result<Self> {
        let Some(lead) = lead else {
            return Ok(Self { engine: Engine::alone(model, recipe)?, lead: None });
        };
        let engine = lead.together(|| {
            let meeting = model.backend().meeting(ctx)?;
            let lora = recipe.lora.as_ref();
            let lora = lora.map(|lora| config.lora.clone().unwrap_or_default().of(lora));
            let job = Job {
                // What was settled by this rank's memory, and by an adapter that training goes on from, is settled for
                // all.
                config: TrainConfig { recompute: recipe.recompute, lora, ..config.clone() },
                model: model.config().to_json(),
                on_card: B::ON_CARD,
                meeting: meeting.clone(),
            };
            lead.send_to_all(&Order::Begin(Box::new(job)), &[])?;
            for rank in 1..lead.world.size {
                lead.answer(rank)?;
            }
            let exchange = model.backend().exchange(&lead.mesh, meeting.as_deref())?;
            Engine::among(model, recipe, (0, lead.world.size), exchange)
        })?;
        Ok(Self { engine, lead: Some(lead) })
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.lead.as_ref().map_or(1, |lead| lead.world.size)
    }

    /// Seconds that this rank waited for the others' gradients when its own were complete, where there are others.
    pub fn waited(&self) -> Option<f64> {
        self.lead.as_ref().map(|_| self.engine.waited.as_secs_f64())
    }

    /// Gives up the model's place beside other runs: no more passes are to come that they would wait for.
    pub fn leave(&mut self) {
        self.engine.model.leave();
    }

    /// The model as it stands on this rank.
    pub fn model(&self) -> &Decoder<B> {
        &self.engine.model
    }

    /// Gradients of a step's batches, by rank, times `scale`. Returns the batches' losses one after the other, the
    /// gradient's norm, and whether a rank was asked to stop.
    pub fn gradients(
        &mut self,
        shares: &mut [Vec<Batch>],
        scale: f32,
    ) -> Result<(Vec<f32>, f64, bool)> {
        let Self { engine, lead } = self;
        let lead = lead.as_ref();
        let work = || {
            let rows =
                |share: &[Batch]| share.iter().map(|batch| batch.tokens.len()).sum::<usize>();
            let mut before = rows(&shares[0]) as u64;
            if let Some(lead) = lead {
                for (rank, share) in shares.iter_mut().enumerate().skip(1) {
                    let more = rows(share) as u64;
                    let order = Order::Gradients(before, std::mem::take(share));
                    lead.send(rank, &order, &[scale])?;
                    before += more;
                }
            }
            let (mut losses, mut squares) = engine.gradients((0, &shares[0]), scale)?;
            let mut stop = false;
            if let Some(lead) = lead {
                for rank in 1..shares.len() {
                    let (Answer::Gradients(theirs, asked), more) = lead.answer(rank)? else {
                        bail!("rank {rank} has no gradients");
                    };
                    losses.extend(more);
                    squares.extend(theirs.into_iter().map(|(t, bits)| (t, f64::from_bits(bits))));
                    stop |= asked;
                }
            }
            // In the order of the tensors, whoever owns what of them.
            squares.sort_by_key(|(tensor, _)| *tensor);
            let norm = squares.iter().map(|(_, sum)| sum).sum::<f64>().sqrt();
            Ok((losses, norm, stop))
        };
        together(lead, work)
    }

    /// A whole step on one batch, whose gradients are used as they come, on one rank; see
    /// [`Engine::step_in_backward`].
    pub fn step_in_backward(
        &mut self,
        batch: &Batch,
        scale: f32,
        learning_rate: f32,
    ) -> Result<(Vec<f32>, f64)> {
        self.engine.step_in_backward(batch, scale, learning_rate)
    }

    /// Takes the memory for passes on this rank.
    pub fn reserve(&mut self, room: Room) {
        self.engine.model.reserve(room);
    }

    /// A step of the optimiser with those gradients times `factor`.
    pub fn update(&mut self, factor: f32, learning_rate: f32) -> Result<()> {
        let Self { engine, lead } = self;
        let lead = lead.as_ref();
        together(lead, || {
            if let Some(lead) = lead {
                lead.send_to_all(&Order::Update, &[factor, learning_rate])?;
            }
            engine.update(factor, learning_rate)
        })
    }

    /// Losses of batches, by rank, one after the other. `done` is called after each that this rank has run.
    pub fn losses(&mut self, shares: &mut [Vec<Batch>], done: impl FnMut()) -> Result<Vec<f32>> {
        let Self { engine, lead } = self;
        let lead = lead.as_ref();
        together(lead, || {
            let Some(lead) = lead else { return engine.losses(&shares[0], done) };
            for (rank, share) in shares.iter_mut().enumerate().skip(1) {
                lead.send(rank, &Order::Losses(std::mem::take(share)), &[])?;
            }
            let mut losses = engine.losses(&shares[0], done)?;
            for rank in 1..shares.len() {
                losses.extend(lead.answer(rank)?.1);
            }
            Ok(losses)
        })
    }

    /// Puts the optimiser where a checkpoint left it.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let Self { engine, lead } = self;
        let lead = lead.as_ref();
        together(lead, || {
            let Engine { model, optimizer, shares, .. } = engine;
            checkpoint.restore(model.backend(), optimizer, |moment, values| {
                let Some(lead) = lead else { bail!("a moment that no rank owns") };
                let runs = shares.cuts[moment.index].runs().enumerate().skip(1);
                runs.filter(|(_, run)| !run.is_empty()).try_for_each(|(rank, run)| {
                    lead.send(rank, &Order::SetMoment(moment), &values.part(run).into_words())
                })
            })?;
            match lead {
                Some(lead) => lead.send_to_all(&Order::SetSteps(checkpoint.step), &[]),
                None => Ok(()),
            }
        })
    }

    /// The optimiser's steps and moments, from whichever rank has them.
    pub fn state(&self) -> Result<(u64, Vec<Named<'_>>)> {
        let engine = &self.engine;
        engine.optimizer.state(engine.model.backend(), |moment| {
            self.ask_all(moment.index, &Order::Moment(moment))
        })
    }

    /// Writes the model's folder, with the values that the owners have.
    pub fn save(&self, folder: &Path, dtype: Dtype) -> Result<()> {
        self.engine.model.save_with(folder, dtype, &|tensor| {
            if !self.engine.has_masters_apart() {
                return Ok(None);
            }
            let mut values = self.engine.weight(tensor).into_owned();
            for (run, exact) in self.ask_all(tensor, &Order::Weight(tensor))? {
                values[run].copy_from_slice(&exact);
            }
            Ok(Some(values))
        })
    }

    /// Asks all other ranks that own values of a tensor for something of those.
    fn ask_all(&self, tensor: usize, order: &Order) -> Result<Vec<Words>> {
        let Some(lead) = &self.lead else { bail!("there is no rank to ask") };
        let runs = self.engine.runs(tensor).enumerate().skip(1).filter(|(_, run)| !run.is_empty());
        let one = |(rank, run)| {
            lead.send(rank, order, &[])?;
            Ok((run, lead.answer(rank)?.1))
        };
        lead.together(|| runs.map(one).collect())
    }
}

impl<B: Backend> Drop for Team<B> {
    fn drop(&mut self) {
        if let Some(lead) = self.lead.as_ref().filter(|lead| !lead.is_broken()) {
            // Who does not hear it is found to be gone in the next run.
            let _ = lead.send_to_all(&Order::Finish, &[]);
        }
    }
}

fn together<T>(lead: Option<&Arc<Lead>>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match lead {
        Some(lead) => lead.together(work),
        None => work(),
    }
}
