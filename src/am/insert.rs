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
use crate::pg::relation::Index;
use distillvq_ivf::{self as ivf, Row, RowEncoder, Tid};

/// What a statement keeps between the rows that it inserts into an index. It holds Rust memory alone.
pub struct Inserter {
    open: OpenIndex,
    element: ElementType,
    vector: Vec<f32>,
}

impl Inserter {
    /// Opens the index for the rows of a statement, which keeps it open.
    pub fn open(index: Index) -> Result<Self> {
        Ok(Self {
            open: OpenIndex::open(index)?,
            element: index.element()?,
            vector: Vec::new(),
        })
    }

    /// Inserts a row with the vector that `read` appends to a buffer; a vector that no search could find (a zero vector under
    /// cosine) is left out.
    pub fn insert(
        &mut self,
        tid: Tid,
        read: impl FnOnce(ElementType, &mut Vec<f32>) -> usize,
    ) -> Result<()> {
        if self.open.is_outdated()? {
            self.open = OpenIndex::open(self.open.index)?;
        }
        let Self { open, vector, .. } = self;
        vector.clear();
        open.check_dimensions(read(self.element, vector))?;
        let failed = with_index(open.index);
        let encoder = RowEncoder::new(&open.meta, open.encoder()?).map_err(&failed)?;
        let encoded = encoder.encode(vector);
        let first = Row::of(&open.meta, &encoded, 0, tid);
        let second = Row::second_entry(&open.meta, &encoded, 0, tid);
        // Two changes. A row is visible only once the statement has made both.
        for entry in [first, second].into_iter().flatten() {
            ivf::insert(open.store(), &open.meta, entry).map_err(&failed)?;
        }
        Ok(())
    }
}
