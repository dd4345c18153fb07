//! The query's side: which lists to probe, and the tables that score codes.
//!
//! Score (bigger is nearer), with `κ` the row's norm correction: `κ·(q·O[list] + Σ_s LUT[s][code_s])` for cosine and
//! inner product, twice that minus the row's squared norm for L2. One look-up table serves all lists.
//!
//! Everything that a query is multiplied by is int8, except for the codebooks.

pub mod lut;
pub mod ranking;
pub mod searcher;
