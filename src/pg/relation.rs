//! Views of open relations.

use crate::error::{Error, Result};
use crate::pg::options::Options;
use distillvq_quantizer::{MAX_DIM, Metric};
use pgrx::pg_sys;
use std::ffi::CStr;

/// The element type of the indexed vectors, both pgvector's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// `vector`: 32-bit floats.
    Single,
    /// `halfvec`: 16-bit floats.
    Half,
}

impl Element {
    /// The element type of a type's name, if it is one of pgvector's.
    pub fn of_type(oid: pg_sys::Oid) -> Option<Self> {
        match type_name(oid).as_str() {
            "vector" => Some(Self::Single),
            "halfvec" => Some(Self::Half),
            _ => None,
        }
    }
}

/// The name of a type without its schema; a domain's base type's.
pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: catalog look-ups inside a transaction; the string is copied before anything can free it.
    unsafe {
        let base = pg_sys::getBaseType(oid);
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(base));
        if tuple.is_null() {
            return String::new();
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let name = CStr::from_ptr(row.typname.data.as_ptr())
            .to_string_lossy()
            .into_owned();
        pg_sys::ReleaseSysCache(tuple);
        name
    }
}

/// An open table.
#[derive(Clone, Copy)]
pub struct Heap(pg_sys::Relation);

/// An open distillvq index.
#[derive(Clone, Copy)]
pub struct Index(pg_sys::Relation);

/// Name of a relation.
fn relation_name(relation: pg_sys::Relation) -> String {
    // SAFETY: an open relation has a catalog row with a terminated name.
    unsafe {
        CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr())
            .to_string_lossy()
            .into_owned()
    }
}

impl Heap {
    /// # Safety
    /// `relation` must be an open table for as long as the view is used.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self(relation)
    }

    /// The raw pointer, for calls of PostgreSQL's.
    pub fn as_ptr(self) -> pg_sys::Relation {
        self.0
    }

    /// Rows that the planner believes in; 0 when nothing is known.
    pub fn estimated_rows(self) -> usize {
        // SAFETY: an open relation has a catalog row.
        let rows = unsafe { (*(*self.0).rd_rel).reltuples };
        if rows > 0.0 { rows as usize } else { 0 }
    }
}

impl Index {
    /// # Safety
    /// `relation` must be an open distillvq index for as long as the view is used.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self(relation)
    }

    /// The raw pointer, for calls of PostgreSQL's.
    pub fn as_ptr(self) -> pg_sys::Relation {
        self.0
    }

    /// The index's name.
    pub fn name(self) -> String {
        relation_name(self.0)
    }

    /// The index's object identifier.
    pub fn oid(self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*self.0).rd_id }
    }

    /// Whether changes of the relation must reach the WAL (`RelationNeedsWAL` of utils/rel.h).
    pub fn needs_wal(self) -> bool {
        // SAFETY: an open relation; wal_level is fixed while the server runs.
        unsafe {
            let permanent =
                (*(*self.0).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT;
            permanent
                && (pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32
                    || !crate::pg::compat::created_in_this_transaction(&*self.0))
        }
    }

    /// The index's options.
    pub fn options(self) -> Options {
        // SAFETY: rd_options is null or what our amoptions made.
        unsafe { Options::from_raw((*self.0).rd_options) }
    }

    /// The element type, from the operator class.
    pub fn element(self) -> Result<Element> {
        // SAFETY: an index relation has an operator class input type for its one column.
        let oid = unsafe { *(*self.0).rd_opcintype };
        Element::of_type(oid).ok_or_else(|| Error::ColumnType {
            relation: self.name(),
            column: "1".into(),
            type_name: type_name(oid),
        })
    }

    /// The metric, as the operator class's support function 2 tells it.
    pub fn metric(self) -> Result<Metric> {
        // SAFETY: support function 2 exists in every operator class that amvalidate accepts; it takes no arguments.
        let code = unsafe {
            let function = pg_sys::index_getprocid(self.0, 1, METRIC_PROCEDURE);
            if function == pg_sys::InvalidOid {
                return Err(Error::NoMetric(self.name()));
            }
            pg_sys::OidFunctionCall0Coll(function, pg_sys::InvalidOid).value() as i32
        };
        metric_of_code(code).ok_or_else(|| Error::NoMetric(self.name()))
    }

    /// Dimensions of the indexed vectors, from the column's type modifier.
    pub fn dimensions(self) -> Result<usize> {
        // SAFETY: a distillvq index has exactly one column.
        let modifier = unsafe { (*crate::pg::compat::attribute((*self.0).rd_att, 0)).atttypmod };
        match usize::try_from(modifier) {
            Ok(dim) if (1..=MAX_DIM).contains(&dim) => Ok(dim),
            _ => Err(Error::NoDimensions),
        }
    }

    /// The distance function of the operator class (support function 1) and the collation to call it with.
    pub fn distance(self) -> Distance {
        // SAFETY: support function 1 is required; the relation caches it for as long as it is open.
        unsafe {
            let function = pg_sys::index_getprocinfo(self.0, 1, DISTANCE_PROCEDURE);
            Distance {
                function,
                collation: *(*self.0).rd_indcollation,
            }
        }
    }
}

/// Support function number of the distance.
pub const DISTANCE_PROCEDURE: u16 = 1;
/// Support function number of the metric's code.
pub const METRIC_PROCEDURE: u16 = 2;

/// The number that stands for a metric between an operator class and the access method.
pub const fn code_of_metric(metric: Metric) -> i32 {
    match metric {
        Metric::L2 => 1,
        Metric::InnerProduct => 2,
        Metric::Cosine => 3,
    }
}

fn metric_of_code(code: i32) -> Option<Metric> {
    [Metric::L2, Metric::InnerProduct, Metric::Cosine]
        .into_iter()
        .find(|&metric| code_of_metric(metric) == code)
}

/// The function behind the ordering operator: what it says is what the executor would compute.
#[derive(Clone, Copy)]
pub struct Distance {
    function: *mut pg_sys::FmgrInfo,
    collation: pg_sys::Oid,
}

impl Distance {
    /// Distance of two non-null vectors.
    ///
    /// # Safety
    /// Both datums must be of the operator class's input type, and the index still open.
    pub unsafe fn call(self, row: pg_sys::Datum, query: pg_sys::Datum) -> f64 {
        // SAFETY: as promised by the caller.
        let result =
            unsafe { pg_sys::FunctionCall2Coll(self.function, self.collation, row, query) };
        f64::from_bits(result.value() as u64)
    }
}
