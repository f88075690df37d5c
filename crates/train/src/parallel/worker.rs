//! A rank other than 0: it does what it is told until there is nothing more to do.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use artifact::Context;

use super::crew;
use super::engine::Engine;
use super::link::{Gone, Mesh, Wire};
use super::meeting::join;
use super::pulse;
use super::world::World;
use super::{Answer, Connect, Job, Order};
use crate::config::Recipe;
use crate::device::{Device, Opened};
use crate::model::{Base, Decoder, ModelConfig};
use crate::ops::Cpu;

/// Serves rank 0 as the rank that `world` says this process is.
///
/// # Errors
/// If rank 0 cannot be reached, or is gone before the end. What goes wrong in a run is told to rank 0, whose error it
/// then is.
pub fn serve(world: &World, ctx: &Context) -> Result<()> {
    if !world.token.is_empty() {
        crew::end_with_starter();
    }
    let (control, pulse, mesh) = join(world, ctx)?;
    pulse::send(pulse);
    let worker = Worker { world, ctx, control, mesh: Arc::new(mesh) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(world.threads()).build()?;
    pool.install(|| match worker.serve() {
        Err(error) => {
            let lost = error.downcast_ref::<Gone>().map(|Gone(rank)| *rank);
            let told =
                worker.control.send(&Answer::Failed { what: format!("{error:#}"), lost }, &[]);
            told.map_err(|_| error.context(format!("rank {}", world.rank)))
        }
        done => done,
    })
}

struct Worker<'a> {
    world: &'a World,
    ctx: &'a Context,
    control: Wire,
    mesh: Arc<Mesh>,
}

impl Worker<'_> {
    fn next(&self) -> Result<(Order, Vec<f32>)> {
        self.control.receive().map_err(|error| error.context(Gone(0)))
    }

    fn serve(&self) -> Result<()> {
        loop {
            match self.next()? {
                (Order::End, _) => return Ok(()),
                (Order::Begin(job), _) => self.begin(&job)?,
                (order, _) => bail!("rank 0 asked for {order:?} outside a run"),
            }
        }
    }

    fn begin(&self, job: &Job) -> Result<()> {
        let recipe = job.config.resolve()?;
        let config = ModelConfig::parse(&job.model.to_string(), Path::new("the model of rank 0"))?;
        let device = if job.on_card { Device::Cuda } else { Device::Cpu };
        match device.open(self.world.local_rank, self.ctx)? {
            Opened::Cpu => self.work(Cpu, config, &recipe, job),
            Opened::Cuda(cuda) => self.work(cuda, config, &recipe, job),
        }
    }

    fn work<B: Connect>(
        &self,
        backend: B,
        config: ModelConfig,
        recipe: &Recipe,
        job: &Job,
    ) -> Result<()> {
        self.control.send(&Answer::Done, &[])?;
        let exchange = backend.exchange(&self.mesh, job.meeting.as_deref())?;
        let mut model = Decoder::empty_on(backend.clone(), config, recipe.weights())?;
        if let Some(lora) = &recipe.lora {
            // What it begins with comes from rank 0.
            model.attach(lora.clone(), Base::default(), recipe.seed);
        }
        let place = (self.mesh.rank, self.mesh.size());
        let mut engine = Engine::among(model, recipe, place, exchange)?;
        loop {
            let (order, floats) = self.next()?;
            let floats_of = |count: usize| match floats.len() == count {
                true => Ok(&floats[..]),
                false => bail!("{} numbers beside an order", floats.len()),
            };
            match order {
                Order::Gradients(row, batches) => {
                    let scale = floats_of(1)?[0];
                    let (losses, squares) = engine.gradients((row, &batches), scale)?;
                    let squares =
                        squares.into_iter().map(|(tensor, sum)| (tensor, sum.to_bits())).collect();
                    let stop = self.ctx.check().is_err();
                    self.control.send(&Answer::Gradients(squares, stop), &losses)?;
                }
                Order::Update => {
                    let floats = floats_of(2)?;
                    engine.update(floats[0], floats[1])?;
                }
                Order::Losses(batches) => {
                    let losses = engine.losses(&batches, || ())?;
                    self.control.send(&Answer::Done, &losses)?;
                }
                Order::Weight(tensor) => {
                    self.control.send(&Answer::Done, &engine.own_weight(tensor))?;
                }
                Order::Moment(moment) => {
                    let values = engine.optimizer.moment(&backend, moment);
                    self.control.send(&Answer::Done, &values)?;
                }
                Order::SetMoment(moment) => engine.optimizer.set_moment(&backend, moment, floats),
                Order::SetSteps(steps) => engine.optimizer.set_steps(steps),
                Order::Finish => return Ok(()),
                Order::Begin(_) | Order::End => bail!("rank 0 left a run before its end"),
            }
        }
    }
}
