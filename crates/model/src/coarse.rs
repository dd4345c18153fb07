//! Nearest centroids of rows (the coarse quantizer): by all centroids, or by the index that is faster.

pub mod flat;
pub mod int8_filter;
pub mod near_lists;
pub mod second_list;
pub mod two_level;

use distillvq_linalg::int8;
use distillvq_linalg::matrix::MatRef;
use flat::{Assignment, assign_by_all};
use int8_filter::Int8Filter;
use near_lists::NearLists;
use two_level::TwoLevelCentroids;

/// Index over centroids, which spares a row the `f32` product with every one.
#[derive(Debug)]
pub enum CentroidIndex {
    /// Int8 filter, for long centroids.
    Int8Filter(Int8Filter),
    /// Two levels, for many short centroids.
    TwoLevelCentroids(TwoLevelCentroids),
}

impl CentroidIndex {
    /// The index over centroids, if it is faster than none. Works on this thread alone; calls `check_interrupts` every few milliseconds.
    pub fn new<E>(
        centroids: MatRef<'_>,
        check_interrupts: impl Fn() -> Result<(), E>,
    ) -> Result<Option<CentroidIndex>, E> {
        if uses_int8(centroids.cols) {
            Ok(Int8Filter::new(centroids, check_interrupts)?.map(CentroidIndex::Int8Filter))
        } else {
            Ok(TwoLevelCentroids::new(centroids, check_interrupts)?
                .map(CentroidIndex::TwoLevelCentroids))
        }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        match self {
            CentroidIndex::Int8Filter(outline) => outline.memory_bytes(),
            CentroidIndex::TwoLevelCentroids(groups) => groups.memory_bytes(),
        }
    }
}

/// Whether centroids of this dimension use the int8 filter.
pub fn uses_int8(cols: usize) -> bool {
    cols >= int8::MIN_INT8_DIM
}

/// Nearest centroids of all rows of one chunk.
pub struct Assigner<'a> {
    centroids: MatRef<'a>,
    half_norms: &'a [f32],
    centroid_index: Option<&'a CentroidIndex>,
}

impl<'a> Assigner<'a> {
    /// `half_norms` are those of the centroids.
    pub fn new(centroids: MatRef<'a>, half_norms: &'a [f32]) -> Self {
        Assigner {
            centroids,
            half_norms,
            centroid_index: None,
        }
    }

    /// Searches the centroids by an index, if there is one.
    pub fn with_index(self, centroid_index: Option<&'a CentroidIndex>) -> Self {
        Assigner {
            centroid_index,
            ..self
        }
    }

    /// Finds the nearest centroid of each row; calls `check_interrupts` every few milliseconds.
    pub fn assign<E>(
        &self,
        rows: MatRef<'_>,
        out: &mut [Assignment],
        check_interrupts: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        self.assign_with_near(rows, out, &mut [], check_interrupts)
    }

    /// The same, and offers centroids near each row to its element of `near`.
    pub fn assign_with_near<E>(
        &self,
        rows: MatRef<'_>,
        out: &mut [Assignment],
        near: &mut [NearLists],
        check_interrupts: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        out.fill(Assignment {
            list: 0,
            cost: f32::INFINITY,
        });
        let (centroids, half_norms) = (self.centroids, self.half_norms);
        match self.centroid_index {
            Some(CentroidIndex::Int8Filter(it)) => {
                it.assign(centroids, half_norms, rows, (out, near), check_interrupts)
            }
            Some(CentroidIndex::TwoLevelCentroids(it)) => {
                it.assign(centroids, half_norms, rows, (out, near), check_interrupts)
            }
            None => assign_by_all(centroids, half_norms, rows, (out, near), check_interrupts),
        }
    }
}
