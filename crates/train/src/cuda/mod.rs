//! The engine on a card: our own kernels (in `kernels/`), compiled for the card when they are first
//! used, and the launch code for them. [`Cuda`] is the set of operations over a [`driver::Driver`]:
//! a [`Card`], or in tests the emulation of the kernels on the host.

mod arena;
pub mod attention;
mod backend;
#[doc(hidden)]
pub mod bench;
mod card;
mod counter;
mod derived;
mod dora;
pub mod driver;
#[doc(hidden)]
pub mod emulator;
mod exchange;
pub mod gemm;
#[cfg(test)]
mod generation_tests;
pub mod graph;
pub mod kernels;
#[cfg(test)]
mod lora_tests;
mod loss;
pub mod memory;
pub mod nccl;
mod nf4;
mod norm;
pub mod nvrtc;
pub mod optimizer;
#[cfg(test)]
mod optimizer_tests;
mod products;
mod rows;
mod sample;
mod staging;
#[doc(hidden)]
pub mod suite;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiles;
#[cfg(test)]
mod training_tests;
mod turn;
mod values;

pub use backend::Cuda;
pub use card::{Card, missing};
pub use counter::Counter;
