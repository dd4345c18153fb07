//! The errors of the extension.
//!
//! An [`Error`] is a plain value with an SQLSTATE, a message that names object and value, and a hint. `pg::report` raises it as an
//! `ERROR` of PostgreSQL.

mod report;

use distillvq_ivf as ivf;
use distillvq_model::{Metric, ModelError, can_allocate};
use distillvq_training::TrainError;

/// An operation on an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `distillvq_train`.
    Train,
    /// `distillvq_calibrate`.
    Calibrate,
    /// `distillvq_check`.
    Check,
    /// `distillvq_recall`.
    Measure,
    /// `distillvq_index_info`.
    Inspect,
    /// `distillvq_prewarm`.
    Prewarm,
    /// `distillvq_reset_query_sample`.
    ResetQuerySample,
}

impl Operation {
    /// Name of the SQL function.
    fn function(self) -> &'static str {
        match self {
            Self::Train => "distillvq_train",
            Self::Check => "distillvq_check",
            Self::Measure => "distillvq_recall",
            Self::Inspect => "distillvq_index_info",
            Self::Prewarm => "distillvq_prewarm",
            Self::Calibrate => "distillvq_calibrate",
            Self::ResetQuerySample => "distillvq_reset_query_sample",
        }
    }

    /// The verb in lower case.
    fn verb(self) -> String {
        self.to_string().to_lowercase()
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "Train",
            Self::Calibrate => "Calibrate",
            Self::Check => "Check",
            Self::Measure => "Measure",
            Self::Inspect => "Inspect",
            Self::Prewarm => "Prewarm",
            Self::ResetQuerySample => "Reset the query sample of",
        })
    }
}

/// The name of an index, for messages and for statements under any `search_path`.
#[derive(Clone, Debug)]
pub struct IndexName {
    /// For messages.
    pub plain: String,
    /// With its schema, quoted if necessary.
    pub quoted: String,
}

impl IndexName {
    /// The statement that builds the index anew beside reads and writes.
    pub fn reindex(&self) -> String {
        format!("REINDEX INDEX CONCURRENTLY {}", self.quoted)
    }

    /// Whether `REINDEX CONCURRENTLY` gave this name to its new or old index.
    pub fn is_transient(&self) -> bool {
        let name = self.plain.trim_end_matches(|c: char| c.is_ascii_digit());
        name.ends_with("_ccnew") || name.ends_with("_ccold")
    }
}

impl std::fmt::Display for IndexName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.plain)
    }
}

/// An error of the extension.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An unknown index parameter.
    #[error("unrecognized parameter \"{name}\" of a distillvq index")]
    UnknownOption {
        name: String,
        /// All index parameters.
        known: &'static [&'static str],
    },
    /// An index parameter or function argument that is not an integer in its range.
    #[error("value \"{value}\" is out of range for parameter \"{name}\"")]
    OptionRange {
        name: &'static str,
        value: String,
        min: i64,
        max: i64,
    },
    /// A target recall out of range.
    #[error("value \"{value}\" is out of range for parameter \"target_recall\"")]
    TargetRange { value: String, min: f64, max: f64 },
    /// `bits` other than 4 and 8.
    #[error("invalid value for parameter \"bits\": {0}")]
    Bits(i64),
    /// An unknown kind of refine codes.
    #[error("invalid value for parameter \"refine\": \"{0}\"")]
    Refine(String),
    /// Too many dimensions for refine codes.
    #[error("refine codes of {dim} dimensions do not fit on a page")]
    RefineDimensions { dim: usize, most: usize },
    /// An index parameter that contradicts the named model.
    #[error("parameter \"{name}\" is {option}, but model \"{model}\" was trained with {trained}")]
    OptionAgainstModel {
        name: &'static str,
        option: usize,
        trained: usize,
        model: String,
    },
    /// The column has no fixed number of dimensions.
    #[error("column does not have dimensions")]
    NoDimensions,
    /// A vector with another number of dimensions than the index.
    #[error("different vector dimensions {expected} and {found}")]
    Dimensions { expected: usize, found: usize },
    /// A column or expression that is neither `vector` nor `halfvec`.
    #[error(
        "column \"{column}\" of relation \"{relation}\" is of type {type_name}, not vector or halfvec"
    )]
    ColumnType {
        relation: String,
        column: String,
        type_name: String,
    },
    /// A first column of an index that is not a vector.
    #[error("first column of index \"{index}\" is of type {type_name}, not vector or halfvec")]
    FirstColumn { index: String, type_name: String },
    /// A second vector column.
    #[error("index \"{0}\" has more than one vector column")]
    SecondVector(String),
    /// A filter column of a type that has no keys.
    #[error("index \"{index}\" cannot filter by a column of type {type_name}")]
    FilterType { index: String, type_name: String },
    /// Too many filter columns.
    #[error("index \"{index}\" has {columns} filter columns, more than {most}")]
    ManyFilters {
        index: String,
        columns: usize,
        most: usize,
    },
    /// Codes that do not fit on a page beside the filter columns.
    #[error(
        "{subquantizers} subquantizers of {bits} bits do not fit on a page with the filter columns"
    )]
    FilterSpace {
        subquantizers: usize,
        bits: u8,
        most: usize,
    },
    /// Filter columns that are not those that the index was built with.
    #[error("filter columns of index \"{0}\" differ from those in its pages")]
    FilterFormat(IndexName),
    /// A scan for rows without a vector.
    #[error("index \"{0}\" does not have rows whose vector is null")]
    NullVectors(String),
    /// A column that the relation does not have.
    #[error("column \"{column}\" of relation \"{relation}\" does not exist")]
    NoColumn { relation: String, column: String },
    /// A relation that does not exist.
    #[error("relation with OID {0} does not exist")]
    NoRelation(u32),
    /// `query_column` is missing, and the relation does not have exactly one column of vectors.
    #[error("relation {relation} has {} columns of type vector or halfvec", .columns.len())]
    ColumnChoice {
        relation: String,
        columns: Vec<String>,
    },
    /// The name of a relation now refers to another one.
    #[error("relation {0} was changed concurrently")]
    Renamed(String),
    /// An index instead of a table.
    #[error("\"{index}\" is an index, not a table")]
    IndexAsTable { index: String },
    /// A malformed value of a pgvector type.
    #[error("value is not a valid {0}")]
    Malformed(&'static str),
    /// An unknown model.
    #[error("model \"{0}\" does not exist")]
    NoModel(String),
    /// The extension does not exist in this database.
    #[error("table \"distillvq.model\" does not exist")]
    NoModelTable,
    /// A model of another role.
    #[error("model \"{name}\" belongs to {}", .owner.as_ref().map_or("a role that does not exist".into(), |owner| format!("role \"{owner}\"")))]
    ModelOwner { name: String, owner: Option<String> },
    /// A model with this name exists.
    #[error("model \"{0}\" already exists")]
    ModelExists(String),
    /// Indexes name the model in their parameters.
    #[error("cannot drop model \"{name}\" because indexes use it")]
    ModelInUse { name: String, indexes: Vec<String> },
    /// A model name that is empty or too long.
    #[error("invalid length of a model name: {bytes} bytes")]
    NameLength { bytes: usize, most: usize },
    /// A model that is too large.
    #[error("model of {bytes} bytes exceeds the maximum of {most} bytes")]
    LargeModel { bytes: usize, most: usize },
    /// Bytes that are not a valid model.
    #[error("cannot import model \"{name}\": {source}")]
    Import { name: String, source: ModelError },
    /// A relation that is not an index of this access method.
    #[error("\"{relation}\" is {kind}, not a distillvq index")]
    NotAnIndex {
        relation: String,
        kind: &'static str,
        /// The distillvq indexes of the relation, if it is a table.
        indexes: Vec<String>,
        operation: Operation,
    },
    /// A null index.
    #[error("index must not be null")]
    NullIndex(Operation),
    /// Null for another required argument.
    #[error("parameter \"{0}\" must not be null")]
    Null(&'static str),
    /// The index of a partitioned table.
    #[error("\"{index}\" is a partitioned index")]
    PartitionedIndex {
        index: String,
        partitions: Vec<String>,
        operation: Operation,
    },
    /// An index that is not valid.
    #[error("cannot {} index \"{index}\": it is not valid", .operation.verb())]
    InvalidIndex {
        operation: Operation,
        index: IndexName,
    },
    /// An unlogged index on a standby.
    #[error("cannot {} unlogged index \"{index}\" during recovery", .operation.verb())]
    UnloggedInRecovery { operation: Operation, index: String },
    /// A snapshot older than the index.
    #[error("cannot {} index \"{index}\" with the snapshot of this transaction", .operation.verb())]
    OldSnapshot { operation: Operation, index: String },
    /// The caller may not maintain the table.
    #[error("must be owner of index \"{0}\"")]
    NotOwner(String),
    /// The caller lacks `SELECT`.
    #[error("permission denied for table {0}")]
    NoSelect(String),
    /// The caller may not see the figures of the index.
    #[error("permission denied for index \"{0}\"")]
    NotVisible(String),
    /// Row-level security hides rows from the caller.
    #[error("cannot {} an index of table {table}: its row-level security applies to the current role", .operation.verb())]
    RowSecurity { operation: Operation, table: String },
    /// An index without an ordering operator for distances.
    #[error("index \"{0}\" does not order rows by a distance")]
    NoDistance(String),
    /// Query values out of range for the type of the index.
    #[error("query vector has values out of range for type halfvec")]
    QueryRange,
    /// Queries that need too much memory.
    #[error(
        "{queries} queries need {bytes} bytes, more than the {most} bytes allowed by maintenance_work_mem"
    )]
    ManyQueries {
        queries: usize,
        bytes: usize,
        most: usize,
    },
    /// A temporary index of another session.
    #[error("\"{0}\" is a temporary index of another session")]
    OtherSession(String),
    /// An index without a model.
    #[error("index \"{0}\" has no model")]
    Untrained(IndexName),
    /// A model with another number of dimensions.
    #[error("model \"{name}\" has {model} dimensions, but the index has {index}")]
    ModelDimensions {
        name: String,
        model: usize,
        index: usize,
    },
    /// A model of another metric.
    #[error("model \"{name}\" was trained for metric {model}, but the index uses {index}")]
    ModelMetric {
        name: String,
        model: Metric,
        index: Metric,
        /// Of the indexed vectors.
        type_name: &'static str,
    },
    /// An unknown metric.
    #[error("metric \"{0}\" does not exist")]
    UnknownMetric(String),
    /// An unknown loss.
    #[error("loss \"{0}\" does not exist")]
    UnknownLoss(String),
    /// A training that failed.
    #[error("cannot train on \"{relation}\": {source}")]
    Train {
        relation: String,
        source: TrainError,
    },
    /// An empty query log. Training without queries instead would go unnoticed.
    #[error("query log \"{0}\" is empty")]
    NoQueries(String),
    /// `query_column` without `queries`.
    #[error("parameter \"query_column\" requires parameter \"queries\"")]
    IncompleteQueries,
    /// A scan under a snapshot that is not an MVCC snapshot.
    #[error("distillvq indexes can only be scanned with an MVCC snapshot")]
    Snapshot,
    /// A scan without an ORDER BY operator.
    #[error("cannot scan a distillvq index without an ORDER BY distance")]
    NoOrder,
    /// An operator class without a metric.
    #[error("operator class of index \"{0}\" does not name a metric")]
    NoMetric(String),
    /// An error of the pages.
    #[error("index \"{index}\": {source}")]
    Pages {
        index: IndexName,
        source: ivf::Error,
    },
    /// A TID beyond the end of the table.
    #[error("index \"{index}\" refers to a row in block {block}, beyond the end of its table")]
    NoSuchRow { index: IndexName, block: u32 },
    /// A stored model that cannot be decoded.
    #[error("cannot read model \"{name}\": {source}")]
    Model { name: String, source: ModelError },
    /// A failed SPI call.
    #[error("{0}")]
    Spi(#[from] pgrx::spi::SpiError),
    /// An allocation that would fail.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory { what: &'static str, bytes: usize },
    /// A thread that cannot be started.
    #[error("cannot start a worker thread: {0}")]
    Threads(String),
    /// A worker thread that panicked.
    #[error("a worker thread failed: {0}")]
    Worker(String),
}

impl Error {
    /// Reserves memory for more values. A failed allocation of `Vec` itself would abort the process.
    pub fn reserve<T>(values: &mut Vec<T>, more: usize, what: &'static str) -> Result<()> {
        let bytes = values
            .len()
            .saturating_add(more)
            .saturating_mul(size_of::<T>());
        values
            .try_reserve(more)
            .map_err(|_| Self::OutOfMemory { what, bytes })
    }

    /// Fails if `bytes` cannot be allocated now.
    pub fn check_memory(bytes: usize, what: &'static str) -> Result<()> {
        if can_allocate(bytes) {
            Ok(())
        } else {
            Err(Self::OutOfMemory { what, bytes })
        }
    }
}

/// Results of the extension's own functions.
pub type Result<T> = std::result::Result<T, Error>;
