//! Everything that can go wrong, and the one border where it becomes a PostgreSQL error.
//!
//! Inside the extension errors are values of [`Error`]. [`Error::raise`] turns one into an `ereport(ERROR)` with an
//! SQLSTATE, the offending value in the message and a hint that says what to do.

use crate::pg::relation::{Element, Index, IndexName};

use distillvq_ivf as ivf;
use distillvq_pages as pages;
use distillvq_quantizer::{Metric, ModelError, TrainError, can_allocate};
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// What somebody wants to do with an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
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

impl Purpose {
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

impl std::fmt::Display for Purpose {
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

/// An error of the extension.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that the access method does not have.
    #[error("unrecognized parameter \"{0}\" of a distillvq index")]
    UnknownOption(String),
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
        "value \"{0}\" is out of range for the parameter \"target_recall\" of a distillvq index"
    )]
    TargetRange(String),
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
    #[error("value is not a valid {}", .0.name())]
    Malformed(Element),
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
        purpose: Purpose,
    },
    /// No index at all.
    #[error("the index to {} must not be null", .0.verb())]
    NullIndex(Purpose),
    /// No value for another parameter that needs one.
    #[error("parameter \"{0}\" must not be null")]
    Null(&'static str),
    /// An index without rows of its own.
    #[error("\"{index}\" is the index of a partitioned table")]
    PartitionedIndex {
        index: String,
        partitions: Vec<String>,
        purpose: Purpose,
    },
    /// An index that its build has not made valid.
    #[error("cannot {} index \"{index}\": it is not valid", .purpose.verb())]
    InvalidIndex { purpose: Purpose, index: IndexName },
    /// An unlogged index on a standby.
    #[error("cannot {} unlogged index \"{index}\" during recovery", .purpose.verb())]
    UnloggedInRecovery { purpose: Purpose, index: String },
    /// A snapshot older than the index.
    #[error("cannot {} index \"{index}\" with the snapshot of this transaction", .purpose.verb())]
    OldSnapshot { purpose: Purpose, index: String },
    /// An index of somebody else's.
    #[error("must be owner of index \"{0}\"")]
    NotOwner(String),
    /// A table whose rows the caller may not read.
    #[error("permission denied for table {0}")]
    NoSelect(String),
    /// An index that the caller may not look at.
    #[error("permission denied for index \"{0}\"")]
    NotShown(String),
    /// A table of which the caller sees a part.
    #[error("cannot {} index of table {table}: its row-level security applies to you", .purpose.verb())]
    RowSecurity { purpose: Purpose, table: String },
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
        element: Element,
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
    HalfQueries,
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
    /// The SQLSTATE of the error.
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode as S;
        match self {
            Self::UnknownOption(_)
            | Self::OptionRange { .. }
            | Self::TargetRange(_)
            | Self::Bits(_)
            | Self::Refine(_)
            | Self::OptionAgainstModel { .. } => S::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::NoDimensions | Self::ModelDimensions { .. } | Self::ModelMetric { .. } => {
                S::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::UnknownMetric(_) | Self::UnknownLoss(_) | Self::HalfQueries => {
                S::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::Dimensions { .. } => S::ERRCODE_DATA_EXCEPTION,
            Self::ColumnType { .. } => S::ERRCODE_DATATYPE_MISMATCH,
            Self::NoColumn { .. } => S::ERRCODE_UNDEFINED_COLUMN,
            Self::NoRelation(_) => S::ERRCODE_UNDEFINED_TABLE,
            Self::ColumnChoice { columns, .. } if columns.is_empty() => {
                S::ERRCODE_DATATYPE_MISMATCH
            }
            Self::ColumnChoice { .. } => S::ERRCODE_AMBIGUOUS_COLUMN,
            Self::Renamed(_) => S::ERRCODE_OBJECT_IN_USE,
            Self::IndexAsTable { .. } => S::ERRCODE_WRONG_OBJECT_TYPE,
            Self::Malformed(_) => S::ERRCODE_DATA_CORRUPTED,
            Self::NoModel(_) => S::ERRCODE_UNDEFINED_OBJECT,
            Self::NoModelTable => S::ERRCODE_UNDEFINED_TABLE,
            Self::ModelOwner { .. }
            | Self::NotOwner(_)
            | Self::NoSelect(_)
            | Self::NotShown(_)
            | Self::RowSecurity { .. } => S::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::ModelExists(_) => S::ERRCODE_DUPLICATE_OBJECT,
            Self::ModelInUse { .. } => S::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            Self::NameLength { .. } => S::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::LargeModel { .. } | Self::RefineDimensions { .. } => {
                S::ERRCODE_PROGRAM_LIMIT_EXCEEDED
            }
            Self::Import {
                source: ModelError::UnsupportedVersion { .. },
                ..
            }
            | Self::OtherSession(_) => S::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::Import {
                source: ModelError::OutOfMemory { .. },
                ..
            } => S::ERRCODE_OUT_OF_MEMORY,
            Self::Import { .. } => S::ERRCODE_INVALID_BINARY_REPRESENTATION,
            Self::NotAnIndex { .. } | Self::PartitionedIndex { .. } => S::ERRCODE_WRONG_OBJECT_TYPE,
            Self::NullIndex(_) | Self::Null(_) => S::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::Untrained(_) | Self::InvalidIndex { .. } | Self::UnloggedInRecovery { .. } => {
                S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::OldSnapshot { .. } => S::ERRCODE_T_R_SERIALIZATION_FAILURE,
            Self::Train {
                source: TrainError::Interrupted,
                ..
            } => S::ERRCODE_QUERY_CANCELED,
            Self::Train {
                source: TrainError::Option { .. } | TrainError::Dimension { .. },
                ..
            } => S::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::Train { .. } | Self::NoQueries(_) => S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Snapshot | Self::NoOrder => S::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::NoMetric(_) => S::ERRCODE_INVALID_OBJECT_DEFINITION,
            Self::NoDistance(_) => S::ERRCODE_WRONG_OBJECT_TYPE,
            Self::QueryRange => S::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            Self::ManyQueries { .. } => S::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            Self::Pages {
                source: ivf::Error::Pages(pages::Error::UnsupportedVersion { .. }),
                ..
            } => S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::OutOfMemory { .. }
            | Self::Pages {
                source:
                    ivf::Error::Pages(pages::Error::OutOfMemory)
                    | ivf::Error::LateRows { .. }
                    | ivf::Error::WaitingRows { .. }
                    | ivf::Error::Model(ModelError::OutOfMemory { .. }),
                ..
            }
            | Self::Model {
                source: ModelError::OutOfMemory { .. },
                ..
            } => S::ERRCODE_OUT_OF_MEMORY,
            Self::Threads(_) => S::ERRCODE_INSUFFICIENT_RESOURCES,
            Self::Pages { .. } | Self::NoSuchRow { .. } => S::ERRCODE_INDEX_CORRUPTED,
            Self::Model { .. } => S::ERRCODE_DATA_CORRUPTED,
            Self::Spi(_) | Self::Worker(_) => S::ERRCODE_INTERNAL_ERROR,
        }
    }

    /// What the user can do about it.
    fn hint(&self) -> String {
        match self {
            Self::UnknownOption(_) => format!("The parameters are: {}.", crate::pg::options::NAMES.join(", ")),
            Self::OptionRange { name, min, max, .. } => {
                format!("Set \"{name}\" to a value from {min} to {max}, or leave it out for the default.")
            }
            Self::TargetRange(_) => {
                let (least, most) = crate::pg::target::RANGE.into_inner();
                format!("Set \"target_recall\" to a share from {least} to {most}, or leave it out for that of the setting.")
            }
            Self::Bits(_) => "Use 4 (the default) or 8 bits a subquantizer.".into(),
            Self::Refine(_) => {
                "Use none, sq7 (seven bits a dimension), or auto: sq7 where vectors are too long for the table's own pages.".into()
            }
            Self::RefineDimensions { most, .. } => {
                format!("Use refine = none: refine codes are for up to {most} dimensions.")
            }
            Self::OptionAgainstModel { name, .. } => {
                format!("Leave \"{name}\" out: the model decides it. Or train another model with distillvq_train.")
            }
            Self::NoDimensions => "Give the column's type a number of dimensions, as in vector(384).".into(),
            Self::Dimensions { expected, .. } => format!("Use vectors of {expected} dimensions."),
            Self::ColumnType { .. } => "Name a column of pgvector's type vector or halfvec.".into(),
            Self::NoColumn { .. } => "Check the column's name.".into(),
            Self::NoRelation(_) => "Name a relation that exists.".into(),
            Self::ColumnChoice { columns, .. } if columns.is_empty() => {
                "Name a relation with a column of pgvector's type vector or halfvec.".into()
            }
            Self::ColumnChoice { columns, .. } => {
                format!("Name one of them with query_column: {}.", some_of(columns))
            }
            Self::Renamed(_) => "Run the statement again.".into(),
            Self::IndexAsTable { .. } => {
                "To train an index again, name its queries: SELECT * FROM distillvq_train('index', queries => 'log', \
                 query_column => 'embedding').".into()
            }
            Self::Malformed(_) => "Restore the row from a backup.".into(),
            Self::NoModel(_) => {
                "SELECT name FROM distillvq_models lists the models; distillvq_train makes one.".into()
            }
            Self::NoModelTable => "Create the extension in this database: CREATE EXTENSION distillvq CASCADE.".into(),
            Self::ModelOwner { owner: None, .. } => {
                "Choose another name for a new model, or ask a superuser.".into()
            }
            Self::ModelOwner { owner: Some(owner), .. } => {
                format!("Its members alone replace, export, and drop it: choose another name for a new model, or become a member of \"{owner}\".")
            }
            Self::ModelExists(_) => "Choose another name, or say replace => true.".into(),
            Self::ModelInUse { .. } => {
                "Drop the indexes first, or say force => true: they go on working, but cannot be rebuilt.".into()
            }
            Self::NameLength { most, .. } => format!("Give the model a name of 1 to {most} bytes."),
            Self::LargeModel { .. } => "Train a model with fewer lists.".into(),
            Self::Import { source: ModelError::UnsupportedVersion { .. }, .. } => {
                "The model is from a newer release: update the extension.".into()
            }
            Self::Import { source: ModelError::OutOfMemory { .. }, .. }
            | Self::Model { source: ModelError::OutOfMemory { .. }, .. }
            | Self::Pages {
                source: ivf::Error::Pages(pages::Error::OutOfMemory) | ivf::Error::Model(ModelError::OutOfMemory { .. }), ..
            } => "Free some of the server's memory, or use a model of fewer lists.".into(),
            Self::Pages { source: ivf::Error::Pages(pages::Error::UnsupportedVersion { .. }), .. } => {
                "Update the extension.".into()
            }
            Self::Pages { source: ivf::Error::LateRows { .. }, .. } => {
                "Raise work_mem, or SET distillvq.iterative_scan = strict_order.".into()
            }
            Self::Pages { source: ivf::Error::WaitingRows { .. }, .. } => "Raise work_mem.".into(),
            Self::OutOfMemory { .. } => {
                "Lower maintenance_work_mem, or free some of the server's memory.".into()
            }
            Self::Threads(_) => {
                "Raise the system's limit of threads, or lower max_parallel_maintenance_workers.".into()
            }
            Self::Import { .. } => "Give the bytes that distillvq_export_model returned, whole and unchanged.".into(),
            Self::NotAnIndex { indexes, purpose, .. } => name_an_index(*purpose, indexes),
            Self::NullIndex(purpose) => name_an_index(*purpose, &[]),
            Self::Null(name) => format!("Give \"{name}\" a value."),
            Self::PartitionedIndex { partitions, .. } if partitions.is_empty() => {
                "It has no partitions yet, and no rows.".into()
            }
            Self::PartitionedIndex { partitions, purpose, .. } => {
                format!("{purpose} the indexes of its partitions one by one: {}.", some_of(partitions))
            }
            Self::InvalidIndex { index, .. } if index.is_transient() => {
                format!(
                    "A REINDEX CONCURRENTLY is under way or has failed: wait, or remove what it left with DROP INDEX CONCURRENTLY {}.",
                    index.quoted()
                )
            }
            Self::InvalidIndex { index, .. } => {
                format!("Its build is under way or has failed: wait, or build it with REINDEX INDEX {}.", index.quoted())
            }
            Self::UnloggedInRecovery { purpose, .. } => {
                format!("It has no contents here: {} it on the primary.", purpose.verb())
            }
            Self::OldSnapshot { purpose, .. } => {
                format!("{purpose} it in a new transaction, best with the isolation level READ COMMITTED.")
            }
            Self::NotOwner(_) => {
                "The owner of the table may maintain its indexes, and from PostgreSQL 17 on who has MAINTAIN on it.".into()
            }
            Self::NoSelect(_) => "The table's rows are read: the right to SELECT is needed.".into(),
            Self::NotShown(_) => {
                "It is shown to who may read the indexed column or maintain the table, and to members of pg_monitor, \
                 pg_read_all_stats, or pg_stat_scan_tables.".into()
            }
            Self::RowSecurity { purpose, .. } => format!(
                "All rows count, also those hidden from you: {} it as a role that no policy restricts, such as the table's owner.",
                purpose.verb()
            ),
            Self::NoDistance(_) => {
                "Name an index of distillvq, hnsw, or ivfflat, as in distillvq_recall('items_embedding_idx').".into()
            }
            Self::QueryRange => "Use queries whose values a halfvec can hold.".into(),
            Self::ManyQueries { .. } => {
                "Take fewer queries with the parameter \"sample\", or raise maintenance_work_mem.".into()
            }
            Self::OtherSession(_) => "Only the session that made it can read it.".into(),
            Self::Untrained(index) => {
                format!("Its table was too small when it was built. REINDEX INDEX {} trains it.", index.quoted())
            }
            Self::ModelDimensions { .. } => {
                "Train a model on this column: SELECT distillvq_train(table, column, metric => ...).".into()
            }
            Self::ModelMetric { model, index, element, .. } => format!(
                "Use the operator class {}_{model}_ops, or a model that distillvq_train has made with metric => '{index}'.",
                element.name()
            ),
            Self::UnknownMetric(_) => "The metrics are: l2, ip, cosine.".into(),
            Self::UnknownLoss(_) => "The losses are: listnet, kl, ranknet, margin_mse, mse.".into(),
            Self::Train { source: TrainError::Interrupted, .. } => "The training was cancelled.".into(),
            Self::Train { source: TrainError::Option { option, .. }, .. } => {
                format!("Choose another \"{option}\", or leave it out for an automatic choice.")
            }
            Self::Train { .. } => {
                "Fill the table first. A small or untrained index needs no model: its searches are exact.".into()
            }
            Self::NoQueries(_) => {
                "Log some first, or leave \"queries\" and \"query_column\" out: then rows of the table pose as queries.".into()
            }
            Self::HalfQueries => "Name the relation of the queries with queries => ...".into(),
            Self::Snapshot => "Search through SQL, as in SELECT ... ORDER BY embedding <-> $1 LIMIT 10.".into(),
            Self::NoOrder => "Add ORDER BY with the index's distance operator.".into(),
            Self::NoMetric(_) => "Use one of distillvq's own operator classes, such as vector_cosine_ops.".into(),
            Self::Pages { index, .. } | Self::NoSuchRow { index, .. } => {
                format!("REINDEX INDEX {} builds the index anew; the table's rows are not affected.", index.quoted())
            }
            Self::Model { name, .. } => format!("Train the model \"{name}\" anew with distillvq_train."),
            Self::Spi(_) => "See the server's log.".into(),
            Self::Worker(_) => "Please report this as a bug of distillvq.".into(),
        }
    }

    /// What else there is to know.
    fn detail(&self) -> Option<String> {
        match self {
            Self::ModelInUse { indexes, .. } => {
                Some(format!("It is needed to rebuild: {}.", some_of(indexes)))
            }
            _ => None,
        }
    }

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
    pub fn unless_memory_for(bytes: usize, what: &'static str) -> Result<()> {
        if can_allocate(bytes) {
            Ok(())
        } else {
            Err(Self::OutOfMemory { what, bytes })
        }
    }

    /// Raises the error as PostgreSQL's `ERROR`.
    pub fn raise(self) -> ! {
        let (message, detail) = (self.to_string(), self.detail());
        let report = crate::pg::report(self.sqlstate(), &message, detail.as_deref(), &self.hint());
        report.report(PgLogLevel::ERROR);
        unreachable!("ereport(ERROR) does not return")
    }
}

/// How to name an index to a function, if need be one of those that the caller has named the table of.
fn name_an_index(purpose: Purpose, indexes: &[String]) -> String {
    let function = purpose.function();
    let example = indexes
        .first()
        .map_or("items_embedding_idx", String::as_str);
    let example = pgrx::spi::quote_literal(example);
    let or = match purpose {
        Purpose::Train => {
            ", or a table and its column, as in distillvq_train('items', 'embedding')"
        }
        _ => "",
    };
    let there_are = match indexes {
        [] => String::new(),
        some => format!(" The table has: {}.", some_of(some)),
    };
    format!("Name an index, as in {function}({example}){or}.{there_are}")
}

/// The first names of a list that may be long.
fn some_of(names: &[String]) -> String {
    const MOST: usize = 20;
    let more = if names.len() > MOST { ", ..." } else { "" };
    names.get(..MOST).unwrap_or(names).join(", ") + more
}

/// Results of the extension's own functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Raises the error of a result, at the border to PostgreSQL.
pub fn or_raise<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| error.raise())
}

/// An error of an operation on pages that calls back, before the index's name is known to it.
pub enum Failure {
    /// Of the pages.
    Pages(ivf::Error),
    /// Of what was called back.
    Other(Error),
}

impl From<ivf::Error> for Failure {
    fn from(error: ivf::Error) -> Self {
        Self::Pages(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// The error, with the index's name.
    pub fn of(self, index: Index) -> Error {
        match self {
            Self::Pages(error) => of_index(index)(error),
            Self::Other(error) => error,
        }
    }
}

/// Names the index in an error of its pages.
pub fn of_index<E: Into<ivf::Error>>(index: Index) -> impl Fn(E) -> Error {
    move |source| Error::Pages {
        index: index.named(),
        source: source.into(),
    }
}
