//! distillvq: a distilled IVF-PQ index access method for PostgreSQL, on pgvector's types.
//!
//! The server calls `entry`, which turns pointers into safe views of PostgreSQL's objects; the work is done in `am`, and in
//! `functions` for SQL functions. The models and their training belong to the `quantizer` crate, index pages to the `ivf`
//! crate; neither depends on PostgreSQL. Only `entry` and `pg` contain `unsafe`.

pgrx::pg_module_magic!(name, version);

mod am;
mod entry;
mod error;
mod functions;
mod pg;
mod settings;
