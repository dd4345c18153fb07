//! The teacher of the distillation: nearest rows of queries within the sample.

pub mod approximate;
pub mod brute_force;
pub mod exact;
