//! What the operator class of an index says: element type, metric, and distance function.

use super::relation::Index;
use crate::error::{Error, Result};
use crate::pg::compat;
use crate::pg::element::{ElementType, base_type, type_name};
use distillvq_model::{MAX_DIM, Metric};
use pgrx::pg_sys;

impl Index {
    /// The element type, from the operator class.
    pub fn element(self) -> Result<ElementType> {
        // SAFETY: an index relation has an operator class input type for its one column.
        let oid = unsafe { *self.data().rd_opcintype };
        ElementType::of_type(oid).ok_or_else(|| Error::ColumnType {
            relation: self.name(),
            column: "1".into(),
            type_name: type_name(oid),
        })
    }

    /// The metric, as the operator class's support function 2 tells it.
    pub fn metric(self) -> Result<Metric> {
        // SAFETY: support function 2 exists in every operator class that amvalidate accepts; it takes no arguments.
        let code = unsafe {
            let function = pg_sys::index_getprocid(self.as_ptr(), 1, METRIC_PROCEDURE);
            if function == pg_sys::InvalidOid {
                return Err(Error::NoMetric(self.name()));
            }
            pg_sys::OidFunctionCall0Coll(function, pg_sys::InvalidOid).value() as i32
        };
        let metric = u8::try_from(code).ok().and_then(Metric::from_code);
        metric.ok_or_else(|| Error::NoMetric(self.name()))
    }

    /// Dimensions of the indexed vectors, from the column's type modifier, or that of the domain that its type is.
    pub fn dimensions(self) -> Result<usize> {
        // SAFETY: a distillvq index has exactly one column.
        let (of_type, modifier) = unsafe {
            let column = &*compat::attribute(self.data().rd_att, 0);
            (column.atttypid, column.atttypmod)
        };
        let (_, modifier) = base_type(of_type, modifier);
        match usize::try_from(modifier) {
            Ok(dim) if (1..=MAX_DIM).contains(&dim) => Ok(dim),
            _ => Err(Error::NoDimensions),
        }
    }

    /// The distance function of the operator class (support function 1) and the collation to call it with.
    pub fn distance(self) -> Distance {
        // SAFETY: support function 1 is required; the relation caches it for as long as it is open.
        unsafe {
            let function = pg_sys::index_getprocinfo(self.as_ptr(), 1, DISTANCE_PROCEDURE);
            Distance {
                function,
                collation: *self.data().rd_indcollation,
            }
        }
    }
}

/// Support function number of the distance.
pub const DISTANCE_PROCEDURE: u16 = 1;
/// Support function number of the metric's code.
pub const METRIC_PROCEDURE: u16 = 2;

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
