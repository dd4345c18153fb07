//! Rows of product quantizer codes: their columns, and the scores of a block.

use crate::filter::FilterFormat;
use crate::scorer::BlockScorer;
use crate::{CodeShape, Tid};
use distillvq_kernels::{Kernels, LANES, ScoreParams, kernels};
use distillvq_model::QueryTables;
use distillvq_pages::{self as pages, Block, Column, MAX_COLUMNS, RowFormat, Stored, Value};

/// Id of the column of codes.
pub(crate) const CODES: u8 = 1;
/// Id of the column of norm corrections.
pub(crate) const CORRECTION: u8 = 2;
/// Id of the column of squared norms (L2 only).
pub(crate) const NORM: u8 = 3;
/// Id of the side column of refine codes.
pub(crate) const REFINE: u8 = 4;

/// The columns of rows with codes of a shape, filter columns, and refine codes of `refine` bytes (0 = none); `None` if there are
/// no such columns.
pub fn row_format(shape: CodeShape, filters: &FilterFormat, refine: usize) -> Option<RowFormat> {
    let posting = |id, planes: usize, bits| {
        let planes = u16::try_from(planes).ok()?;
        Some(Column {
            id,
            planes,
            bits,
            stored: Stored::Posting,
        })
    };
    if !matches!(shape.bits, 4 | 8) {
        return None;
    }
    let mut columns = vec![
        posting(CODES, shape.subquantizers, shape.bits)?,
        posting(CORRECTION, 1, 8)?,
    ];
    if shape.has_norm {
        columns.push(posting(NORM, 1, 32)?);
    }
    columns.extend(filters.columns());
    if refine > 0 {
        columns.push(Column {
            stored: Stored::Side,
            ..posting(REFINE, refine, 8)?
        });
    }
    RowFormat::new(&columns)
}

/// The shape of the codes of rows with these columns, `None` if they are no such rows.
pub(crate) fn code_shape(format: &RowFormat) -> Option<CodeShape> {
    let codes = format.column(CODES)?;
    let shape = CodeShape {
        subquantizers: codes.planes.into(),
        bits: codes.bits,
        has_norm: format.column(NORM).is_some(),
    };
    let refine = format
        .column(REFINE)
        .map_or(0, |column| column.planes.into());
    let filters = FilterFormat::of(format)?;
    (row_format(shape, &filters, refine)? == *format).then_some(shape)
}

/// An entry of a row to store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// Its list; the number of lists stands for the exact list.
    pub list: u32,
    /// Its address, see [`Tid::second`].
    pub tid: Tid,
    /// Norm correction byte; ignored in the exact list.
    pub scale: u8,
    /// Squared norm; ignored unless the metric is L2.
    pub norm: f32,
    /// Codes, one per byte; ignored in the exact list.
    pub codes: &'a [u8],
    /// Refine code, empty in an index without; ignored in the exact list.
    pub refine: &'a [u8],
    /// Values of the filter columns as [`FilterFormat::encode`] writes them, empty in an index without.
    pub filters: &'a [u8],
}

impl<'a> Row<'a> {
    /// The row in the columns of an index.
    pub(crate) fn to_columns(self, format: &RowFormat) -> pages::Row<'a> {
        let mut columns = [Value::default(); MAX_COLUMNS];
        let filters = FilterFormat::of(format).unwrap_or_default();
        for (value, column) in columns.iter_mut().zip(format.columns()) {
            *value = match column.id {
                CODES => Value::Bytes(self.codes),
                CORRECTION => Value::Number(self.scale.into()),
                NORM => Value::Number(self.norm.to_bits()),
                REFINE => Value::Bytes(self.refine),
                id => Value::Bytes(filters.part(self.filters, id).unwrap_or_default()),
            };
        }
        pages::Row {
            list: self.list,
            tid: self.tid,
            columns,
        }
    }

    /// The same row with these values of the filter columns.
    #[must_use]
    pub fn with_filters(self, filters: &'a [u8]) -> Self {
        Row { filters, ..self }
    }

    /// Whether it has a refine code exactly if an index of these columns has.
    pub(crate) fn check_refine(
        &self,
        format: &RowFormat,
        exact_list: u32,
    ) -> Result<(), pages::Error> {
        if self.list < exact_list && format.side().is_none() && !self.refine.is_empty() {
            let what = "the row has a refine code, but the index has none";
            return Err(pages::Error::Mismatch(what));
        }
        Ok(())
    }
}

/// The type of the kernels that add up look-up tables.
type ScanFn = fn(&[u8], &[u8], &mut [u16; LANES]);

/// Scores of blocks by look-up tables, for one query.
pub struct PqScorer {
    pub(crate) tables: QueryTables,
    kernels: &'static Kernels,
    scan: ScanFn,
    /// Positions of the columns.
    codes: usize,
    correction: usize,
    norm: Option<usize>,
}

impl PqScorer {
    /// For the rows of an index with these columns.
    pub(crate) fn new(format: &RowFormat, tables: QueryTables) -> Option<PqScorer> {
        let kernels = kernels();
        Some(PqScorer {
            tables,
            kernels,
            scan: if format.column(CODES)?.bits == 8 {
                kernels.scan8
            } else {
                kernels.scan4
            },
            codes: format.position(CODES)?,
            correction: format.position(CORRECTION)?,
            norm: format.position(NORM),
        })
    }
}

impl BlockScorer for PqScorer {
    type List = ScoreParams;

    fn lists(&self, lists: &[u32]) -> impl Iterator<Item = ScoreParams> {
        self.tables.list_score_params(lists).into_iter()
    }

    #[inline]
    fn score(
        &self,
        list: &ScoreParams,
        block: &Block<'_>,
        at_least: f32,
        out: &mut [f32; LANES],
    ) -> u32 {
        let mut sums = [0; LANES];
        let Some(corrections) = block.column(self.correction).first_chunk() else {
            return 0; // impossible: the column has a byte per lane
        };
        (self.scan)(block.column(self.codes), &self.tables.lut, &mut sums);
        let norms = self.norm.and_then(|norm| block.column(norm).first_chunk());
        (self.kernels.score_block)(&sums, corrections, norms, list, at_least, out)
    }

    fn expected_error(&self) -> f32 {
        self.tables.expected_error()
    }

    fn is_read(&self, position: usize) -> bool {
        [self.codes, self.correction].contains(&position) || self.norm == Some(position)
    }
}
