//! The logic of the access method. No `unsafe` here: calls to PostgreSQL are in [`crate::pg`].

pub mod batches;
pub mod calibration;
pub mod cost;
pub mod encoded_run;
pub mod failure;
pub mod index_build;
pub mod insert;
pub mod last_scan;
pub mod maintenance;
pub mod model_store;
pub mod open_index;
pub mod query_sample;
pub mod recall_check;
pub mod scan;
pub mod self_training;
pub mod stage_timer;
pub mod training;
pub mod vacuum;
