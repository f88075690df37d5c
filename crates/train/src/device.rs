//! Where the model runs, and how that place is opened.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use artifact::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cuda::{self, Card, Cuda, nvrtc::Nvrtc};

/// Where the model runs. It is no part of a cache key: a card computes in bf16, the processor in f32,
/// and the manifest records which it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// A card where one can be used, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA card.
    Cuda,
}

/// A place to run.
pub enum Opened {
    /// The processor.
    Cpu,
    /// A card.
    Cuda(Cuda),
}

impl Device {
    /// Whether it is the processor, or will be for want of a card.
    #[must_use]
    pub fn is_processor(self) -> bool {
        self == Self::Cpu || (self == Self::Auto && cuda::missing().is_some())
    }

    /// Opens the device; `number` says which card, where there are several.
    ///
    /// # Errors
    /// A user error that says what is missing, if a card is asked for and none can be used.
    pub fn open(self, number: usize, ctx: &Context) -> Result<Opened> {
        match self {
            Self::Cpu => Ok(Opened::Cpu),
            Self::Cuda => Ok(Opened::Cuda(card(number)?)),
            Self::Auto if cuda::missing().is_some() => Ok(Opened::Cpu),
            Self::Auto => match card(number) {
                Ok(cuda) => Ok(Opened::Cuda(cuda)),
                Err(error) => {
                    ctx.warn(format!("runs on the processor: {error:#}"));
                    Ok(Opened::Cpu)
                }
            },
        }
    }
}

/// The process's card, opened once for all its runs.
fn card(number: usize) -> Result<Cuda> {
    static OPEN: Mutex<Option<Cuda>> = Mutex::new(None);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cuda) = &*open {
        return Ok(cuda.clone());
    }
    // The compiler is looked for before anything is loaded onto the card.
    let card = Card::open(i32::try_from(number)?)?;
    Nvrtc::get()?;
    Ok(open.insert(Cuda::new(Arc::new(card))).clone())
}
