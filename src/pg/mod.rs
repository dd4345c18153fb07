//! Calls to PostgreSQL, one file per service of the server. With [`crate::entry`], which the server calls, these are the only
//! modules with `unsafe`.
//!
//! Other code sees safe views: [`relation::Index`] and [`relation::Heap`] over open relations, [`page_store`] for pages,
//! [`heap`] for rows, [`workers`] for threads, [`spi`] for queries. A view is made only inside a callback, from a
//! pointer that PostgreSQL guarantees for the callback's duration, and is not kept beyond it.
//!
//! A PostgreSQL error inside a call unwinds as a Rust panic (pgrx) and becomes an `ERROR` again at the callback's
//! [`guard`] or `#[pg_guard]`; destructors here therefore touch nothing of PostgreSQL's during a panic.
#![allow(unsafe_code)]

pub mod compat;
pub mod condition;
pub mod element;
pub mod explicit_setting;
pub mod filter_columns;
pub mod former_file;
pub mod guard;
pub mod heap;
pub mod join;
pub mod memory;
pub mod names;
pub mod opclass;
pub mod page_store;
pub mod privileges;
pub mod progress;
pub mod recall_search;
pub mod recent_buffers;
pub mod relation;
pub mod reloptions;
pub mod report;
pub mod role;
pub mod server;
pub mod sibling_index;
pub mod spi;
pub mod subtransaction;
pub mod text;
pub mod vector_column;
pub mod vector_datum;
pub mod workers;
