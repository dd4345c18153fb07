//! What the server calls: the callbacks of the access method, hooks, SQL functions, and the library's initialization.
//!
//! Each entry point turns its pointers into safe views, calls [`crate::am`] or [`crate::functions`], and raises their errors as
//! PostgreSQL's. With [`crate::pg`], which calls the server, these are the only modules with `unsafe`.
#![allow(unsafe_code)]

mod cost_estimate;
mod executor_hook;
mod explain_hook;
mod handler;
mod init;
mod scan;
mod sql_functions;
mod validate;
