//! What the access method does, one family of callbacks a file. No `unsafe` here: PostgreSQL's side is in [`crate::pg`].

pub mod build;
pub mod calibrate;
pub mod cost;
pub mod insert;
pub mod scan;
pub mod vacuum;
