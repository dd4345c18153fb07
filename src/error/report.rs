//! The SQLSTATE, HINT and DETAIL of each error.

use super::{Error, Operation};
use distillvq_ivf as ivf;
use distillvq_model::ModelError;
use distillvq_pages as pages;
use distillvq_training::TrainError;
use pgrx::PgSqlErrorCode;

impl Error {
    /// The SQLSTATE of the error.
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode as S;
        match self {
            Self::UnknownOption { .. }
            | Self::OptionRange { .. }
            | Self::TargetRange { .. }
            | Self::Bits(_)
            | Self::Refine(_)
            | Self::OptionAgainstModel { .. } => S::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::NoDimensions | Self::ModelDimensions { .. } | Self::ModelMetric { .. } => {
                S::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::UnknownMetric(_) | Self::UnknownLoss(_) | Self::IncompleteQueries => {
                S::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::Dimensions { .. } => S::ERRCODE_DATA_EXCEPTION,
            Self::ColumnType { .. } | Self::FirstColumn { .. } | Self::FilterType { .. } => {
                S::ERRCODE_DATATYPE_MISMATCH
            }
            Self::SecondVector(_) | Self::NullVectors(_) => S::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::ManyFilters { .. } => S::ERRCODE_TOO_MANY_COLUMNS,
            Self::FilterSpace { .. } => S::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::FilterFormat(_) => S::ERRCODE_INDEX_CORRUPTED,
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
            | Self::NotVisible(_)
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
                    | ivf::Error::ReturnedRows { .. }
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

    /// What the user can do.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownOption { known, .. } => format!("Valid parameters are: {}.", known.join(", ")),
            Self::OptionRange { name, min, max, .. } => {
                format!("Set \"{name}\" to a value from {min} to {max}, or omit it to use the default.")
            }
            Self::TargetRange { min, max, .. } => {
                format!("Set \"target_recall\" to a value from {min} to {max}, or omit it to use distillvq.target_recall.")
            }
            Self::Bits(_) => "Use 4 or 8 bits per subquantizer, or 0 (automatic).".into(),
            Self::Refine(_) => {
                "Use none, sq7 (7 bits per dimension), or auto (sq7 if vectors are stored out of line).".into()
            }
            Self::RefineDimensions { most, .. } => {
                format!("Use refine = none; refine codes support at most {most} dimensions.")
            }
            Self::OptionAgainstModel { name, .. } => {
                format!("Omit \"{name}\" to use the value of the model, or train another model with distillvq_train.")
            }
            Self::NoDimensions => "Declare the number of dimensions in the type of the column, as in vector(384).".into(),
            Self::Dimensions { expected, .. } => format!("Use vectors of {expected} dimensions."),
            Self::ColumnType { .. } => "Specify a column of type vector or halfvec.".into(),
            Self::FirstColumn { .. } => {
                "List the vector column first and the filter columns after it, as in (embedding vector_cosine_ops, tenant_id).".into()
            }
            Self::SecondVector(_) => "Create an index for each vector column.".into(),
            Self::FilterType { .. } => {
                "Omit the column; conditions on other columns are checked for the rows that the index returns.".into()
            }
            Self::ManyFilters { most, .. } => {
                format!("Omit columns: an index has a vector column and at most {most} filter columns.")
            }
            Self::FilterSpace { most, .. } => {
                format!("Set \"subquantizers\" to at most {most}, or omit filter columns.")
            }
            Self::FilterFormat(index) => {
                format!("Run REINDEX INDEX {} to rebuild the index.", index.quoted)
            }
            Self::NullVectors(_) => "Search for such rows without ORDER BY.".into(),
            Self::NoColumn { .. } => "Check the name of the column.".into(),
            Self::NoRelation(_) => "Specify an existing relation.".into(),
            Self::ColumnChoice { columns, .. } if columns.is_empty() => {
                "Specify a relation with a column of type vector or halfvec.".into()
            }
            Self::ColumnChoice { columns, .. } => {
                format!("Specify one of these columns with query_column: {}.", join_limited(columns))
            }
            Self::Renamed(_) => "Run the statement again.".into(),
            Self::IndexAsTable { .. } => {
                "To train an existing index, use SELECT * FROM distillvq_train('index', queries => 'log', \
                 query_column => 'embedding').".into()
            }
            Self::Malformed(_) => "Restore the row from a backup.".into(),
            Self::NoModel(_) => {
                "List the models with SELECT name FROM distillvq_models, or train one with distillvq_train.".into()
            }
            Self::NoModelTable => "Create the extension in this database: CREATE EXTENSION distillvq CASCADE.".into(),
            Self::ModelOwner { owner: None, .. } => {
                "Use another model name, or run the command as a superuser.".into()
            }
            Self::ModelOwner { owner: Some(owner), .. } => {
                format!("Use another model name, or run the command as a member of role \"{owner}\".")
            }
            Self::ModelExists(_) => "Use another name, or replace => true.".into(),
            Self::ModelInUse { .. } => {
                "Drop the indexes first, or use force => true: the indexes still work, but cannot be rebuilt.".into()
            }
            Self::NameLength { most, .. } => format!("Use a model name of 1 to {most} bytes."),
            Self::LargeModel { .. } => "Train a model with fewer lists.".into(),
            Self::Import { source: ModelError::UnsupportedVersion { .. }, .. } => {
                "Update the extension: a newer version wrote the model.".into()
            }
            Self::Import { source: ModelError::OutOfMemory { .. }, .. }
            | Self::Model { source: ModelError::OutOfMemory { .. }, .. }
            | Self::Pages {
                source: ivf::Error::Pages(pages::Error::OutOfMemory) | ivf::Error::Model(ModelError::OutOfMemory { .. }), ..
            } => "Free memory on the server, or use a model with fewer lists.".into(),
            Self::Pages { source: ivf::Error::Pages(pages::Error::UnsupportedVersion { .. }), .. } => {
                "Update the extension.".into()
            }
            Self::Pages { index, source: ivf::Error::Pages(pages::Error::NewerPage { .. }), .. } => {
                format!(
                    "Start a new session, which loads the installed library. If the error remains, run REINDEX INDEX {}.",
                    index.quoted
                )
            }
            Self::Pages { source: ivf::Error::LateRows { .. }, .. } => {
                "Increase work_mem, or SET distillvq.iterative_scan = strict_order.".into()
            }
            Self::Pages { source: ivf::Error::WaitingRows { .. } | ivf::Error::ReturnedRows { .. }, .. } => {
                "Increase work_mem.".into()
            }
            Self::OutOfMemory { .. } => {
                "Reduce maintenance_work_mem, or free memory on the server.".into()
            }
            Self::Threads(_) => {
                "Increase the operating system's limit on threads, or reduce max_parallel_maintenance_workers.".into()
            }
            Self::Import { .. } => "Pass the complete, unchanged result of distillvq_export_model.".into(),
            Self::NotAnIndex { indexes, operation, .. } => index_argument_hint(*operation, indexes),
            Self::NullIndex(operation) => index_argument_hint(*operation, &[]),
            Self::Null(name) => format!("Specify a value for \"{name}\"."),
            Self::PartitionedIndex { partitions, .. } if partitions.is_empty() => {
                "Add partitions first: the index has none, and therefore no rows.".into()
            }
            Self::PartitionedIndex { partitions, operation, .. } => {
                format!("{operation} the indexes of the partitions instead: {}.", join_limited(partitions))
            }
            Self::InvalidIndex { index, .. } if index.is_transient() => {
                format!(
                    "Wait for the running REINDEX CONCURRENTLY or, if it has failed, run DROP INDEX CONCURRENTLY {}.",
                    index.quoted
                )
            }
            Self::InvalidIndex { index, .. } => {
                format!("Wait for the running build or, if it has failed, run REINDEX INDEX {}.", index.quoted)
            }
            Self::UnloggedInRecovery { operation, .. } => {
                format!("{operation} the index on the primary: unlogged indexes are empty on a standby.")
            }
            Self::OldSnapshot { operation, .. } => {
                format!("{operation} the index in a new transaction, preferably at isolation level READ COMMITTED.")
            }
            Self::NotOwner(_) => {
                "Ownership of the table is required, or the MAINTAIN privilege (PostgreSQL 17 and later).".into()
            }
            Self::NoSelect(_) => "The SELECT privilege on the table is required.".into(),
            Self::NotVisible(_) => {
                "SELECT on the indexed column, the right to maintain the table, or membership in pg_monitor, pg_read_all_stats, \
                 or pg_stat_scan_tables is required.".into()
            }
            Self::RowSecurity { operation, .. } => {
                format!("{operation} the index as a role that bypasses row-level security, such as the owner of the table.")
            }
            Self::NoDistance(_) => {
                "Specify a distillvq, hnsw, or ivfflat index, as in distillvq_recall('items_embedding_idx').".into()
            }
            Self::QueryRange => "Use queries whose values fit type halfvec.".into(),
            Self::ManyQueries { .. } => {
                "Reduce \"query_count\", or increase maintenance_work_mem.".into()
            }
            Self::OtherSession(_) => "Run the function in the session that created the index.".into(),
            Self::Untrained(index) => {
                format!("Run {} to train a model; the table was too small when the index was built.", index.reindex())
            }
            Self::ModelDimensions { .. } => {
                "Train a model on this column: SELECT distillvq_train(table, column, metric => ...).".into()
            }
            Self::ModelMetric { model, index, type_name, .. } => format!(
                "Use operator class {}_{model}_ops, or train a model with distillvq_train(..., metric => '{index}').",
                type_name
            ),
            Self::UnknownMetric(_) => "Valid metrics are: l2, ip, cosine.".into(),
            Self::UnknownLoss(_) => "Valid losses are: listnet, kl, ranknet, margin_mse, mse.".into(),
            Self::Train { source: TrainError::Interrupted, .. } => "The training was canceled.".into(),
            Self::Train { source: TrainError::Option { option, .. }, .. } => {
                format!("Use another value for \"{option}\", or omit it to use the default.")
            }
            Self::Train { .. } => {
                "Fill the table first; an index over a small table needs no model and searches exactly.".into()
            }
            Self::NoQueries(_) => {
                "Fill the log first, or omit \"queries\" and \"query_column\" to use rows of the table as queries.".into()
            }
            Self::IncompleteQueries => "Specify the relation of the queries with queries => ...".into(),
            Self::Snapshot => "Search with SQL, as in SELECT ... ORDER BY embedding <-> $1 LIMIT 10.".into(),
            Self::NoOrder => "Add ORDER BY with the index's distance operator.".into(),
            Self::NoMetric(_) => "Use one of distillvq's own operator classes, such as vector_cosine_ops.".into(),
            Self::Pages { index, .. } | Self::NoSuchRow { index, .. } => {
                format!("Run REINDEX INDEX {} to rebuild the index; the rows of the table are not affected.", index.quoted)
            }
            Self::Model { name, .. } => format!("Train model \"{name}\" again with distillvq_train."),
            Self::Spi(_) => "See the server log.".into(),
            Self::Worker(_) => "Please report this as a bug of distillvq.".into(),
        }
    }

    /// Further facts.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::ModelInUse { indexes, .. } => Some(format!(
                "The model is needed to rebuild: {}.",
                join_limited(indexes)
            )),
            _ => None,
        }
    }
}

/// How to pass an index to a function; lists the indexes of a table that was passed instead.
fn index_argument_hint(operation: Operation, indexes: &[String]) -> String {
    let function = operation.function();
    let example = indexes
        .first()
        .map_or("items_embedding_idx", String::as_str);
    let example = pgrx::spi::quote_literal(example);
    let or = match operation {
        Operation::Train => {
            ", or a table and its column, as in distillvq_train('items', 'embedding')"
        }
        _ => "",
    };
    let there_are = match indexes {
        [] => String::new(),
        some => format!(" Indexes of the table: {}.", join_limited(some)),
    };
    format!("Specify an index, as in {function}({example}){or}.{there_are}")
}

/// At most 20 names, and an ellipsis for the others.
fn join_limited(names: &[String]) -> String {
    const MAX_NAMES: usize = 20;
    let more = if names.len() > MAX_NAMES { ", ..." } else { "" };
    names.get(..MAX_NAMES).unwrap_or(names).join(", ") + more
}
