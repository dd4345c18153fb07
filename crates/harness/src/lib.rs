//! Private servers, data sets and measurements for the tests, the demo and the benches. Development only.
//!
//! * [`server`]: a private PostgreSQL server ([`Server`]) that can be crashed and restarted
//! * [`data`], [`vectors`]: the shipped embeddings and synthetic ones
//! * [`load`]: vectors into tables and parameters
//! * [`exact`]: exact nearest neighbors, and recall
//! * [`measure`]: runs and times queries of one client
//! * [`affinity`]: pins clients to processors
//! * [`compare`]: comparison of indexes
//! * [`filters`]: the same with filters
//! * [`plans`]: the planner's choices compared with measured times
//! * [`query_sets`]: tables with queries of several kinds
//! * [`sessions`]: threads that work until they are stopped
//! * [`provenance`]: machine, commit and date of a measurement
//! * [`report`]: progress messages, and pages of results
//!
//! Servers need the environment of `tools/with_env.sh` (`make test` and `make demo` set it) and the extension installed
//! by `tools/install.sh`.

pub mod affinity;
pub mod compare;
pub mod data;
pub mod error;
pub mod exact;
pub mod filters;
pub mod installation;
pub mod load;
pub mod measure;
pub mod npy;
pub mod plans;
pub mod process_tree;
pub mod provenance;
pub mod query_sets;
pub mod report;
pub mod server;
pub mod sessions;
pub mod vectors;

use std::path::Path;

pub use data::DataSet;
pub use error::{Error, Result};
pub use exact::{Metric, Truth};
pub use load::Embedding;
pub use provenance::Provenance;
pub use server::{Server, Stop};
pub use vectors::Vectors;

/// The checkout that this was compiled in.
fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
