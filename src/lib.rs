//! distillvq: a distilled IVF-PQ index access method for PostgreSQL, on pgvector's types.
//!
//! The way through the code: a callback of the access method arrives in `pg::callbacks`, is turned there into safe
//! views of PostgreSQL's objects, and does its work in `am`; SQL functions live in `functions`. What a model is and
//! how it is trained belongs to the `quantizer` crate, what happens on pages to the `ivf` crate; neither knows
//! PostgreSQL. `pg` is the only module with `unsafe`.

pgrx::pg_module_magic!(name, version);

mod am;
mod cache;
mod error;
mod functions;
mod pg;
mod sample;
mod settings;
mod timing;
