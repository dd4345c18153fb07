//! The errors of the extension.
//!
//! An [`Error`] is a plain value with an SQLSTATE, the offending value in its message, and a hint. `pg::report` raises it as
//! PostgreSQL's `ERROR`.

mod report;

use distillvq_ivf as ivf;
use distillvq_model::{Metric, ModelError, can_allocate};
use distillvq_training::TrainError;

/// What somebody wants to do with an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Train it again.
    Train,
    /// Measure its recall.
    Calibrate,
    /// Check it.
    Check,
    /// Measure its recall.
    Measure,
    /// Look at what it is made of.
    Inspect,
    /// Bring it into memory.
    Prewarm,
}

impl Operation {
    /// The function that does it.
    fn function(self) -> &'static str {
        match self {
            Self::Train => "distillvq_train",
            Self::Check => "distillvq_check",
            Self::Measure => "distillvq_recall",
            Self::Inspect => "distillvq_index_info",
            Self::Prewarm => "distillvq_prewarm",
            Self::Calibrate => "distillvq_calibrate",
        }
    }

    /// What it is called in the middle of a sentence.
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
        })
    }
}

/// The names of an index: as a message has it, and as a statement must have it, whatever the `search_path`.
#[derive(Clone, Debug)]
pub struct IndexName {
    /// As messages show it.
    pub plain: String,
    /// With its schema, quoted if necessary.
    pub quoted: String,
}

impl IndexName {
    /// Whether it is a name that `REINDEX CONCURRENTLY` gives to the index that it makes, or replaces, until it is done.
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
    /// An option that the access method does not have.
    #[error("unrecognized parameter \"{name}\" of a distillvq index")]
    UnknownOption {
        name: String,
        /// The options that there are.
        known: &'static [&'static str],
    },
    /// An option of an index, or a parameter of a function, whose value is not an integer in its range.
    #[error("value \"{value}\" is out of range for parameter \"{name}\"")]
    OptionRange {
        name: &'static str,
        value: String,
        min: i64,
        max: i64,
    },
    /// A target recall that is none.
    #[error(
        "value \"{value}\" is out of range for the parameter \"target_recall\" of a distillvq index"
    )]
    TargetRange { value: String, min: f64, max: f64 },
    /// `bits` other than 4 and 8.
    #[error("value {0} is not possible for the parameter \"bits\" of a distillvq index")]
    Bits(i64),
    /// An unknown kind of refine codes.
    #[error("value \"{0}\" is not possible for the parameter \"refine\" of a distillvq index")]
    Refine(String),
    /// Vectors whose refine codes do not fit a page.
    #[error("refine codes of {dim} dimensions do not fit a page")]
    RefineDimensions { dim: usize, most: usize },
    /// An option given together with a model that was trained otherwise.
    #[error(
        "parameter \"{name}\" is {option}, but the model \"{model}\" was trained with {trained}"
    )]
    OptionAgainstModel {
        name: &'static str,
        option: usize,
        trained: usize,
        model: String,
    },
    /// The column has no fixed number of dimensions.
    #[error("column does not have dimensions")]
    NoDimensions,
    /// A vector of another length than the index.
    #[error("different vector dimensions {expected} and {found}")]
    Dimensions { expected: usize, found: usize },
    /// A column or expression that is neither `vector` nor `halfvec`.
    #[error("column \"{column}\" of \"{relation}\" is of type {type_name}, not vector or halfvec")]
    ColumnType {
        relation: String,
        column: String,
        type_name: String,
    },
    /// A column that the relation does not have.
    #[error("column \"{column}\" of \"{relation}\" does not exist")]
    NoColumn { relation: String, column: String },
    /// A relation that does not exist.
    #[error("relation with OID {0} does not exist")]
    NoRelation(u32),
    /// A relation whose only column of vectors was asked for.
    #[error("relation {relation} has {} columns of type vector or halfvec", .columns.len())]
    ColumnChoice {
        relation: String,
        columns: Vec<String>,
    },
    /// A relation that was looked up, and is another one now.
    #[error("relation {0} was changed concurrently")]
    Renamed(String),
    /// An index where a table is wanted.
    #[error("\"{index}\" is an index, not a table")]
    IndexAsTable { index: String },
    /// A value that is not as pgvector makes it.
    #[error("value is not a valid {0}")]
    Malformed(&'static str),
    /// No such model.
    #[error("model \"{0}\" does not exist")]
    NoModel(String),
    /// The extension's table is not there.
    #[error("table \"distillvq.model\" does not exist")]
    NoModelTable,
    /// A model that belongs to somebody else.
    #[error("model \"{name}\" belongs to {}", .owner.as_ref().map_or("a role that does not exist".into(), |owner| format!("the role \"{owner}\"")))]
    ModelOwner { name: String, owner: Option<String> },
    /// A model that exists already.
    #[error("model \"{0}\" already exists")]
    ModelExists(String),
    /// A model that indexes name in their options.
    #[error("cannot drop model \"{name}\" because indexes name it")]
    ModelInUse { name: String, indexes: Vec<String> },
    /// A model without a name, or with a long one.
    #[error("the name of a model has {bytes} bytes")]
    NameLength { bytes: usize, most: usize },
    /// Too many bytes for a model.
    #[error("a model of {bytes} bytes is too large, at most {most} are allowed")]
    LargeModel { bytes: usize, most: usize },
    /// Bytes that are no model.
    #[error("cannot import model \"{name}\": {source}")]
    Import { name: String, source: ModelError },
    /// A relation that is no index of this access method.
    #[error("\"{relation}\" is {kind}, not a distillvq index")]
    NotAnIndex {
        relation: String,
        kind: &'static str,
        /// Those of the relation, if it is a table.
        indexes: Vec<String>,
        operation: Operation,
    },
    /// No index at all.
    #[error("the index to {} must not be null", .0.verb())]
    NullIndex(Operation),
    /// No value for another parameter that needs one.
    #[error("parameter \"{0}\" must not be null")]
    Null(&'static str),
    /// An index without rows of its own.
    #[error("\"{index}\" is the index of a partitioned table")]
    PartitionedIndex {
        index: String,
        partitions: Vec<String>,
        operation: Operation,
    },
    /// An index that its build has not made valid.
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
    /// An index of somebody else's.
    #[error("must be owner of index \"{0}\"")]
    NotOwner(String),
    /// A table whose rows the caller may not read.
    #[error("permission denied for table {0}")]
    NoSelect(String),
    /// An index that the caller may not look at.
    #[error("permission denied for index \"{0}\"")]
    NotVisible(String),
    /// A table of which the caller sees a part.
    #[error("cannot {} index of table {table}: its row-level security applies to you", .operation.verb())]
    RowSecurity { operation: Operation, table: String },
    /// An index that does not order rows by a distance.
    #[error("index \"{0}\" does not order rows by a distance")]
    NoDistance(String),
    /// Queries whose values are too large for the index's type.
    #[error("a query has values out of range for halfvec")]
    QueryRange,
    /// Queries that take too much memory.
    #[error("{queries} queries need {bytes} bytes, {most} are allowed")]
    ManyQueries {
        queries: usize,
        bytes: usize,
        most: usize,
    },
    /// A temporary index of another session.
    #[error("\"{0}\" is a temporary index of another session")]
    OtherSession(String),
    /// An index without a model.
    #[error("index \"{0}\" is untrained: it has no model")]
    Untrained(IndexName),
    /// A model for vectors of another length.
    #[error("model \"{name}\" is for {model} dimensions, the index for {index}")]
    ModelDimensions {
        name: String,
        model: usize,
        index: usize,
    },
    /// A model for another metric.
    #[error("model \"{name}\" is for the metric {model}, the index for {index}")]
    ModelMetric {
        name: String,
        model: Metric,
        index: Metric,
        /// Of the indexed vectors.
        type_name: &'static str,
    },
    /// A metric's name that is none.
    #[error("metric \"{0}\" does not exist")]
    UnknownMetric(String),
    /// A loss's name that is none.
    #[error("loss \"{0}\" does not exist")]
    UnknownLoss(String),
    /// A relation without rows to train on.
    #[error("cannot train on \"{relation}\": {source}")]
    Train {
        relation: String,
        source: TrainError,
    },
    /// A log without queries, which would be no other training than one without a log.
    #[error("there are no queries in \"{0}\"")]
    NoQueries(String),
    /// The queries were named by half.
    #[error("parameter \"query_column\" requires parameter \"queries\"")]
    IncompleteQueries,
    /// A scan under a snapshot that is not an MVCC snapshot.
    #[error("distillvq indexes can only be scanned with an MVCC snapshot")]
    Snapshot,
    /// A scan without an ORDER BY operator.
    #[error("cannot scan a distillvq index without an ORDER BY distance")]
    NoOrder,
    /// The operator class does not say what it computes.
    #[error("operator class of index \"{0}\" does not name a metric")]
    NoMetric(String),
    /// The pages.
    #[error("index \"{index}\": {source}")]
    Pages {
        index: IndexName,
        source: ivf::Error,
    },
    /// A row of the index whose address is not in the table.
    #[error("index \"{index}\" names a row in block {block}, which its table does not have")]
    NoSuchRow { index: IndexName, block: u32 },
    /// The bytes of a model.
    #[error("model \"{name}\" cannot be read: {source}")]
    Model { name: String, source: ModelError },
    /// A failed SPI call.
    #[error("{0}")]
    Spi(#[from] pgrx::spi::SpiError),
    /// Memory that is not to be had.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory { what: &'static str, bytes: usize },
    /// Threads that cannot be started.
    #[error("cannot start a worker thread: {0}")]
    Threads(String),
    /// A worker thread that ended by a panic.
    #[error("a worker thread failed: {0}")]
    Worker(String),
}

impl Error {
    /// Makes room for more values: `Vec` by itself would end the process where there is none.
    pub fn reserve<T>(values: &mut Vec<T>, more: usize, what: &'static str) -> Result<()> {
        let bytes = values
            .len()
            .saturating_add(more)
            .saturating_mul(size_of::<T>());
        values
            .try_reserve(more)
            .map_err(|_| Self::OutOfMemory { what, bytes })
    }

    /// Refuses work that needs more memory than there is now.
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
