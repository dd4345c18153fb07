//! Adding rows: each is encoded with the model and appended to its list.
//!
//! A statement opens the index once, at its first row. What an insert uses of the metapage and the model never changes in a
//! relation's file once it has a model: metric, dimensions, lists, codes, directory, and the encoder. An untrained index, which may
//! get a model at any time, is looked at again before each row; a row that goes to the exact list nevertheless is found there. A model that is trained again meanwhile gets
//! another student, which only searches use (`distillvq_ivf::replace_student`). A build makes another file, which needs a lock
//! that the statement's own lock on the index keeps away; in the statement's own session PostgreSQL refuses it, as the index is
//! in use.

use crate::am::failure::with_index;
use crate::am::open_index::OpenIndex;
use crate::error::Result;
use crate::pg::element::ElementType;
use crate::pg::filter_columns::{FilterColumns, RowValues};
use crate::pg::relation::Index;
use distillvq_ivf::{self as ivf, Row, RowEncoder, Tid};

/// What a statement keeps between the rows that it inserts into an index. It holds Rust memory alone.
pub struct Inserter {
    open: OpenIndex,
    element: ElementType,
    filters: FilterColumns,
    vector: Vec<f32>,
    /// Values of the filter columns.
    values: Vec<u8>,
}

impl Inserter {
    /// Opens the index for the rows of a statement, which keeps it open.
    pub fn open(index: Index) -> Result<Self> {
        let open = OpenIndex::open(index)?;
        Ok(Self {
            element: index.element()?,
            filters: open.filters()?,
            open,
            vector: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Columns of the index.
    pub fn columns(&self) -> usize {
        self.filters.index_columns()
    }

    /// Inserts a row, which must have a vector; one that no search could find (a zero vector under cosine) is left out.
    pub fn insert(&mut self, tid: Tid, row: RowValues<'_>) -> Result<()> {
        if self.open.is_outdated()? {
            self.open = OpenIndex::open(self.open.index)?;
        }
        let Self {
            open,
            vector,
            values,
            ..
        } = self;
        vector.clear();
        values.clear();
        open.check_dimensions(row.append_elements(self.element, vector))?;
        row.append_filters(&self.filters, values);
        let failed = with_index(open.index);
        let encoder = RowEncoder::new(&open.meta, open.encoder()?).map_err(&failed)?;
        let encoded = encoder.encode(vector);
        let first = Row::of(&open.meta, &encoded, 0, tid);
        let second = Row::second_entry(&open.meta, &encoded, 0, tid);
        // Two changes. A row is visible only once the statement has made both.
        for entry in [first, second].into_iter().flatten() {
            ivf::insert(open.store(), &open.meta, entry.with_filters(values)).map_err(&failed)?;
        }
        Ok(())
    }
}
