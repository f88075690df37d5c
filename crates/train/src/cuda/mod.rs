//! The engine on a card: our own kernels (in `kernels/`), compiled for the card when they are first
//! used, and the launch code for them.

mod card;
pub mod driver;
#[cfg(test)]
mod emulator;
pub mod kernels;
pub mod nvrtc;

pub use card::{Card, missing};
