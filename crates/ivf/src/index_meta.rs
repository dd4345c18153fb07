//! What the metapage says of vectors: metric, dimensions, training and calibration, in its body.
//!
//! # Body of the metapage
//! Times are in microseconds since 1970, unknown recalls NaN.
//! ```text
//!   0  metric u8                     20  error of the codes f32     64  trained with queries u64
//!   1  maximum lists per row u8      24  rows when measured u64     72  recall before f32
//!   4  dim u32
//!  12  queries u8: 0 not measured,   32  measured at i64            76  recall after f32
//!      1 rows, 2 log, 3 searches     40  built at i64               80  re-ranking margin f32
//!  13  k u8                          48  trained at i64             88  24 points
//!  14  points u8                     56  trained on rows u64       472  7 bands
//!  15  bands u8
//!  16  queries measured with u32
//! 724  16 shares f32                788  temperature f32           792  lists that these are for u32
//! 796  recall found before f32      800  target then f32
//! point { probes u32, recall f32, standard error f32, rows compared f32 }
//! band { lists for each of nine levels of recall u32 }
//! ```
//! What is kept of a row follows from the columns of the index ([`crate::row_format`]).

use crate::adaptive_probes::{AdaptiveProbes, SHARES};
use crate::bands::{BandLists, LEVELS};
use crate::calibration::{
    Calibration, FoundRecall, MAX_POINTS, Point, QueryKind, RERANK_MARGINS, Training,
};
use crate::error::Error;
use crate::filter::FilterFormat;
use crate::pq::{REFINE, code_shape};
use crate::rerank::BANDS;
use crate::{CodeShape, Metric, Model};
use distillvq_model::{MAX_DIM, MAX_LISTS, refine_bytes};
use distillvq_pages::{
    Chain, Metapage, PageStore, RowFormat, get, get_f32, get_u32, get_u64, put, replace_body,
};

const RERANK_MARGIN: usize = 80;
const POINTS: usize = 88;
const POINT_SIZE: usize = 16;
const BAND_LISTS: usize = POINTS + MAX_POINTS * POINT_SIZE;
const BAND_SIZE: usize = LEVELS.len() * 4;
const ADAPTIVE_PROBES: usize = BAND_LISTS + BANDS * BAND_SIZE;
const BEFORE: usize = ADAPTIVE_PROBES + (SHARES + 2) * 4;
const BODY_BYTES: usize = BEFORE + 8;

/// What is kept of a row where there are no lists.
pub(crate) const UNTRAINED: CodeShape = CodeShape {
    subquantizers: 0,
    bits: 4,
    has_norm: false,
};

/// The metapage. Read it once for a scan and keep the copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// The pages and columns of the index. Its base blob is the encoder of the model, its current blob the student.
    pub pages: Metapage,
    /// The metric.
    pub metric: Metric,
    /// Dimensions of a vector.
    pub dim: usize,
    /// What is kept of a row in a list; without meaning (no sub-quantizers) if untrained.
    pub shape: CodeShape,
    /// Whether rows in lists have refine codes ([`distillvq_model::RefineQuery`]).
    pub refine: bool,
    /// The filter columns.
    pub filters: FilterFormat,
    /// Maximum number of lists per row: 1 or 2.
    pub assignments: u8,
    /// How the model came to be.
    pub training: Training,
    /// The measured recall, none if it was not measured.
    pub calibration: Option<Calibration>,
}

impl Meta {
    /// Reads and checks the metapage of a complete index.
    pub fn read<S: PageStore>(store: &S) -> Result<Meta, Error> {
        let (pages, body) = Metapage::read_with_body(store)?;
        Meta::parse(pages, &body)
    }

    /// From a metapage and its body.
    pub(crate) fn parse(pages: Metapage, body: &[u8]) -> Result<Meta, Error> {
        let fail = |what| Err(Error::damaged(0, what));
        if body.len() != BODY_BYTES {
            return fail("the body of the metapage has a wrong length");
        }
        let [metric, assignments] = get(body, 0);
        let dim = get_u32(body, 4) as usize;
        if dim == 0 || dim > MAX_DIM {
            return fail("impossible dimension");
        }
        if !(1..=2).contains(&assignments) {
            return fail("impossible number of lists per row");
        }
        if pages.lists() as usize > MAX_LISTS {
            return fail("too many lists");
        }
        let trained = pages.lists() > 0;
        let blobs = [pages.base, pages.current];
        // Without a model they are pages for a later one.
        let is_right = |blob: &&Chain| {
            if trained {
                blob.blocks > 0
            } else {
                blob.bytes == 0
            }
        };
        if !blobs.iter().all(|blob| is_right(&blob)) {
            return fail("the model's pages are not inside the index");
        }
        let filters = FilterFormat::of(&pages.format).unwrap_or_default();
        let shape = if trained {
            code_shape(&pages.format)
        } else {
            let only_filters = RowFormat::new(&filters.columns()) == Some(pages.format);
            only_filters.then_some(UNTRAINED)
        };
        let refine = pages
            .format
            .column(REFINE)
            .map(|column| usize::from(column.planes));
        let Some(shape) = shape.filter(|_| refine.is_none_or(|bytes| bytes == refine_bytes(dim)))
        else {
            return fail("the columns are not those of codes");
        };
        let Record {
            training,
            calibration,
        } = Record::read(body)?;
        Ok(Meta {
            pages,
            metric: Metric::from_code(metric).ok_or(Error::damaged(0, "unknown metric"))?,
            dim,
            shape,
            refine: refine.is_some(),
            filters,
            assignments,
            training,
            calibration,
        })
    }

    /// The body of the metapage.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = vec![0; BODY_BYTES];
        put(&mut body, 0, &[self.metric.code(), self.assignments]);
        put(&mut body, 4, &(self.dim as u32).to_le_bytes());
        let record = Record {
            training: self.training,
            calibration: self.calibration,
        };
        record.write(&mut body);
        body
    }

    /// Inverted lists; 0 means untrained: only the exact list exists.
    pub fn lists(&self) -> u32 {
        self.pages.lists()
    }

    /// Changes whenever the model in the pages changes: the key of a cache of decoded models.
    pub fn model_version(&self) -> u64 {
        self.pages.blob_version
    }

    /// Whether there is a model; without one all rows are in the exact list.
    pub fn has_model(&self) -> bool {
        self.lists() > 0
    }

    /// The number of the exact list.
    pub fn exact_list(&self) -> u32 {
        self.pages.exact_list()
    }

    /// Bytes of a refine code, 0 if there are none.
    pub fn refine_bytes(&self) -> usize {
        if self.refine {
            refine_bytes(self.dim)
        } else {
            0
        }
    }

    /// Whether a model is of the kind that the metapage tells of.
    ///
    /// # Errors
    /// If it is not: the metapage or the model's pages are damaged.
    pub fn check_model(&self, model: &Model) -> Result<(), Error> {
        let fits = model.metric() == self.metric
            && model.dim() == self.dim
            && model.lists() == self.lists() as usize
            && model.assignments() == usize::from(self.assignments)
            && model.shape() == self.shape;
        if fits {
            Ok(())
        } else {
            Err(Error::damaged(0, "metapage and model differ"))
        }
    }
}

/// Replaces what the metapage says of training and recall, in one change. `model_version` is that of the model which was
/// measured: if it is another one's by now, nothing is changed, and that is an error. Returns the new metapage.
pub fn write_calibration<S: PageStore>(
    store: &S,
    model_version: u64,
    training: Training,
    calibration: Option<Calibration>,
) -> Result<Meta, Error> {
    let mut meta = Meta {
        training,
        calibration,
        ..Meta::read(store)?
    };
    meta.pages = replace_body(store, model_version, &meta.body())?;
    Ok(meta)
}

/// Both, as the metapage keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub training: Training,
    pub calibration: Option<Calibration>,
}

impl Record {
    /// Reads it from the body of a metapage.
    pub fn read(body: &[u8]) -> Result<Record, Error> {
        let time = |at| get_u64(body, at).cast_signed();
        let share = |at| Some(get_f32(body, at)).filter(|value| value.is_finite());
        let [kind, k, len, bands] = get(body, 12);
        let kind = match kind {
            0 => None,
            1 => Some(QueryKind::Rows),
            2 => Some(QueryKind::Log),
            3 => Some(QueryKind::Searches),
            _ => return Err(Error::damaged(0, "unknown kind of calibration")),
        };
        let calibration = kind.map(|kind| {
            let (queries, rows) = (get_u32(body, 16), get_u64(body, 24));
            let points: [Point; MAX_POINTS] =
                std::array::from_fn(|i| point(body, POINTS + i * POINT_SIZE));
            let points = points.get(..usize::from(len)).unwrap_or(&points);
            let band_lists: [[u32; LEVELS.len()]; BANDS] = std::array::from_fn(|band| {
                std::array::from_fn(|level| get_u32(body, band_lists_at(band, level)))
            });
            let bands = band_lists.get(..usize::from(bands)).unwrap_or(&band_lists);
            let rerank_margin = get_f32(body, RERANK_MARGIN);
            let rerank_margin = RERANK_MARGINS.into_iter().find(|it| *it == rerank_margin);
            let rerank_margin =
                rerank_margin.ok_or(Error::damaged(0, "unknown margin of re-ranking"))?;
            let calibration = Calibration::new(kind, queries, k, rows, time(32))
                .with_rerank_margin(rerank_margin)
                .with_adaptive_probes(adaptive_probes(body))
                .with_bands(BandLists::new(bands))
                .with_points(points);
            let before = share(BEFORE).zip(share(BEFORE + 4));
            let before = before.map(|(recall, target)| FoundRecall { recall, target });
            Ok::<_, Error>(calibration.with_before(before))
        });
        let calibration = calibration.transpose()?;
        Ok(Record {
            calibration,
            training: Training {
                built_at: time(40),
                trained_at: time(48),
                rows: get_u64(body, 56),
                queries: get_u64(body, 64),
                recall_before: share(72),
                recall_after: share(76),
                code_error: share(20),
            },
        })
    }

    /// Writes it into the body of a metapage, which is zero so far.
    pub fn write(&self, body: &mut [u8]) {
        let share = |value: Option<f32>| value.unwrap_or(f32::NAN).to_le_bytes();
        let it = &self.training;
        put(body, 20, &share(it.code_error));
        put(body, 40, &it.built_at.to_le_bytes());
        put(body, 48, &it.trained_at.to_le_bytes());
        put(body, 56, &it.rows.to_le_bytes());
        put(body, 64, &it.queries.to_le_bytes());
        put(body, 72, &share(it.recall_before));
        put(body, 76, &share(it.recall_after));
        if let Some(it) = &self.calibration {
            let kind = match it.kind {
                QueryKind::Rows => 1,
                QueryKind::Log => 2,
                QueryKind::Searches => 3,
            };
            let bands = it.bands.bands();
            put(
                body,
                12,
                &[kind, it.k, it.points().len() as u8, bands.len() as u8],
            );
            put(body, 16, &it.queries.to_le_bytes());
            put(body, 24, &it.rows.to_le_bytes());
            put(body, 32, &it.measured_at.to_le_bytes());
            put(body, RERANK_MARGIN, &it.rerank_margin.to_le_bytes());
            for (band, of_band) in bands.iter().enumerate() {
                for (level, lists) in of_band.iter().enumerate() {
                    put(body, band_lists_at(band, level), &lists.to_le_bytes());
                }
            }
            put_adaptive_probes(body, &it.adaptive_probes);
            put(body, BEFORE, &share(it.before.map(|it| it.recall)));
            put(body, BEFORE + 4, &share(it.before.map(|it| it.target)));
            for (i, point) in it.points().iter().enumerate() {
                put_point(body, POINTS + i * POINT_SIZE, point);
            }
        }
    }
}

fn band_lists_at(band: usize, level: usize) -> usize {
    BAND_LISTS + band * BAND_SIZE + level * 4
}

fn adaptive_probes(body: &[u8]) -> AdaptiveProbes {
    let behind = ADAPTIVE_PROBES + SHARES * 4;
    AdaptiveProbes {
        temperature: get_f32(body, behind),
        lists: get_u32(body, behind + 4),
        shares: std::array::from_fn(|i| get_f32(body, ADAPTIVE_PROBES + i * 4)),
    }
}

fn put_adaptive_probes(body: &mut [u8], probes: &AdaptiveProbes) {
    let behind = ADAPTIVE_PROBES + SHARES * 4;
    for (i, share) in probes.shares.iter().enumerate() {
        put(body, ADAPTIVE_PROBES + i * 4, &share.to_le_bytes());
    }
    put(body, behind, &probes.temperature.to_le_bytes());
    put(body, behind + 4, &probes.lists.to_le_bytes());
}

fn point(body: &[u8], at: usize) -> Point {
    Point {
        probes: get_u32(body, at),
        recall: get_f32(body, at + 4),
        error: get_f32(body, at + 8),
        reranked: get_f32(body, at + 12),
    }
}

fn put_point(body: &mut [u8], at: usize, point: &Point) {
    put(body, at, &point.probes.to_le_bytes());
    put(body, at + 4, &point.recall.to_le_bytes());
    put(body, at + 8, &point.error.to_le_bytes());
    put(body, at + 12, &point.reranked.to_le_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::calibration::tests::curve;

    #[test]
    fn what_is_written_is_read() {
        let many: Vec<_> = (0..30).map(|i| (1 + i, i as f32 / 30.0, 0.01)).collect();
        let full = Record {
            training: Training {
                built_at: -7,
                trained_at: 1 << 50,
                rows: 1 << 40,
                queries: 3,
                recall_before: Some(0.5),
                recall_after: None,
                code_error: Some(0.25),
            },
            calibration: Some(curve(&many)),
        };
        assert_eq!(full.calibration.unwrap().points().len(), MAX_POINTS);
        for record in [full, Record::default()] {
            let mut body = vec![0; BODY_BYTES];
            record.write(&mut body);
            assert_eq!(Record::read(&body).unwrap(), record);
        }
    }
}
