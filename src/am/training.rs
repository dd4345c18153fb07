//! Training a model: sampling, memory, threads, progress.

pub mod phases;
pub mod plan;
pub mod reservoir;
pub mod run;
pub mod sample;
