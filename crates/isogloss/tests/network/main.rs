//! What isogloss asks others for over HTTP, against servers on loopback: the judge, and the Hugging Face Hub.

#[path = "../common/mod.rs"]
mod common;
mod hub;
mod judge;
