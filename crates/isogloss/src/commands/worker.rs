//! `isogloss worker`: one of the ranks that share a training, for a `train` or a `run` that leads them; and what those
//! two do about ranks.

use ::train::parallel::{Ranks, World, serve};
use anyhow::Result;
use artifact::{Context, bail_user};
use clap::Args as ClapArgs;

/// Serves a training that runs on several ranks; --ranks starts it by itself.
///
/// On other machines it is started with the variables that torchrun and clusters set: RANK, from 1 on, WORLD_SIZE,
/// MASTER_ADDR and MASTER_PORT, and LOCAL_RANK for the card. Rank 0 is `isogloss train` or `isogloss run` with the
/// same variables. A worker needs neither data nor model: rank 0 sends it what it needs.
///
/// A worker that rank 0 hears nothing of for a minute (it is stopped, or its machine is cut off) ends the run, which goes
/// on from its last checkpoint when it is started again; ISOGLOSS_RANK_TIMEOUT sets other seconds on rank 0.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  WORLD_SIZE=2 RANK=0 MASTER_ADDR=node1 MASTER_PORT=29500 isogloss train ... on node1
  WORLD_SIZE=2 RANK=1 MASTER_ADDR=node1 MASTER_PORT=29500 LOCAL_RANK=0 isogloss worker
  torchrun --no-python --nproc-per-node 8 isogloss train ...   starts all ranks by itself")]
pub struct Args {}

/// Does what `isogloss worker` was asked for.
pub fn run(_: Args, ctx: &Context) -> Result<()> {
    if !serves_another(ctx)? {
        bail_user!(
            "a worker needs RANK (from 1 on), WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment; \
             `isogloss train --ranks N` starts its workers by itself"
        );
    }
    Ok(())
}

/// Whether the environment says that this process is a rank other than 0; if so, serves rank 0 to the end.
pub fn serves_another(ctx: &Context) -> Result<bool> {
    match World::from_env()? {
        Some(world) if world.rank > 0 => serve(&world, ctx).map(|()| true),
        _ => Ok(false),
    }
}

/// The other ranks of this process: those of the environment, or those that it starts.
pub fn ranks(ctx: &Context) -> Result<Ranks> {
    match World::from_env()? {
        Some(world) => Ranks::of_world(world, ctx),
        None => Ok(Ranks::default()),
    }
}
