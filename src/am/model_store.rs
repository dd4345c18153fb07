//! Models: the table `distillvq.model`, and the session's cache of decoded ones.

pub mod cache;
pub mod catalog;
