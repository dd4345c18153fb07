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
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownOption { known, .. } => format!("The parameters are: {}.", known.join(", ")),
            Self::OptionRange { name, min, max, .. } => {
                format!("Set \"{name}\" to a value from {min} to {max}, or leave it out for the default.")
            }
            Self::TargetRange { min, max, .. } => {
                format!("Set \"target_recall\" to a share from {min} to {max}, or leave it out for that of the setting.")
            }
            Self::Bits(_) => "Use 4 or 8 bits a subquantizer, or 0 (automatic).".into(),
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
                format!("Name one of them with query_column: {}.", join_limited(columns))
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
            Self::NotAnIndex { indexes, operation, .. } => index_argument_hint(*operation, indexes),
            Self::NullIndex(operation) => index_argument_hint(*operation, &[]),
            Self::Null(name) => format!("Give \"{name}\" a value."),
            Self::PartitionedIndex { partitions, .. } if partitions.is_empty() => {
                "It has no partitions yet, and no rows.".into()
            }
            Self::PartitionedIndex { partitions, operation, .. } => {
                format!("{operation} the indexes of its partitions one by one: {}.", join_limited(partitions))
            }
            Self::InvalidIndex { index, .. } if index.is_transient() => {
                format!(
                    "A REINDEX CONCURRENTLY is under way or has failed: wait, or remove what it left with DROP INDEX CONCURRENTLY {}.",
                    index.quoted
                )
            }
            Self::InvalidIndex { index, .. } => {
                format!("Its build is under way or has failed: wait, or build it with REINDEX INDEX {}.", index.quoted)
            }
            Self::UnloggedInRecovery { operation, .. } => {
                format!("It has no contents here: {} it on the primary.", operation.verb())
            }
            Self::OldSnapshot { operation, .. } => {
                format!("{operation} it in a new transaction, best with the isolation level READ COMMITTED.")
            }
            Self::NotOwner(_) => {
                "The owner of the table may maintain its indexes, and from PostgreSQL 17 on who has MAINTAIN on it.".into()
            }
            Self::NoSelect(_) => "The table's rows are read: the right to SELECT is needed.".into(),
            Self::NotVisible(_) => {
                "It is shown to who may read the indexed column or maintain the table, and to members of pg_monitor, \
                 pg_read_all_stats, or pg_stat_scan_tables.".into()
            }
            Self::RowSecurity { operation, .. } => format!(
                "All rows count, also those hidden from you: {} it as a role that no policy restricts, such as the table's owner.",
                operation.verb()
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
                format!("Its table was too small when it was built. REINDEX INDEX {} trains it.", index.quoted)
            }
            Self::ModelDimensions { .. } => {
                "Train a model on this column: SELECT distillvq_train(table, column, metric => ...).".into()
            }
            Self::ModelMetric { model, index, type_name, .. } => format!(
                "Use the operator class {}_{model}_ops, or a model that distillvq_train has made with metric => '{index}'.",
                type_name
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
            Self::IncompleteQueries => "Name the relation of the queries with queries => ...".into(),
            Self::Snapshot => "Search through SQL, as in SELECT ... ORDER BY embedding <-> $1 LIMIT 10.".into(),
            Self::NoOrder => "Add ORDER BY with the index's distance operator.".into(),
            Self::NoMetric(_) => "Use one of distillvq's own operator classes, such as vector_cosine_ops.".into(),
            Self::Pages { index, .. } | Self::NoSuchRow { index, .. } => {
                format!("REINDEX INDEX {} builds the index anew; the table's rows are not affected.", index.quoted)
            }
            Self::Model { name, .. } => format!("Train the model \"{name}\" anew with distillvq_train."),
            Self::Spi(_) => "See the server's log.".into(),
            Self::Worker(_) => "Please report this as a bug of distillvq.".into(),
        }
    }

    /// What else there is to know.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::ModelInUse { indexes, .. } => Some(format!(
                "It is needed to rebuild: {}.",
                join_limited(indexes)
            )),
            _ => None,
        }
    }
}

/// How to name an index to a function, if need be one of those that the caller has named the table of.
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
        some => format!(" The table has: {}.", join_limited(some)),
    };
    format!("Name an index, as in {function}({example}){or}.{there_are}")
}

/// The first names of a list that may be long.
fn join_limited(names: &[String]) -> String {
    const MOST: usize = 20;
    let more = if names.len() > MOST { ", ..." } else { "" };
    names.get(..MOST).unwrap_or(names).join(", ") + more
}
