//! The record in the metapage: how the model was trained, and what recall was measured. Its bytes are described in `meta`.

use crate::bands::{BandLists, LEVELS};
use crate::calibration::{Calibration, DEPTHS, MOST_POINTS, Point, QueryKind, Training};
use crate::error::Error;
use crate::page::{get, get_f32, get_u32, get_u64, put};
use crate::stream::BANDS;
use std::ops::Range;

/// Bytes of the metapage that the record takes, its checksum first.
pub(crate) const RECORD: Range<usize> = 192..BAND_LISTS + BANDS * BAND_SIZE;
const CRC: usize = RECORD.start;
const CHECKED: Range<usize> = CRC + 4..RECORD.end;
const DEPTH: usize = 264;
const POINTS: usize = 272;
const POINT_SIZE: usize = 16;
const BAND_LISTS: usize = POINTS + MOST_POINTS * POINT_SIZE;
const BAND_SIZE: usize = LEVELS.len() * 4;

/// Both, as the metapage keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub training: Training,
    pub calibration: Option<Calibration>,
}

impl Record {
    /// Reads it from a metapage.
    pub fn read(page: &[u8]) -> Result<Record, Error> {
        if get_u32(page, CRC) != checksum(page) {
            return Err(Error::damaged(0, "wrong checksum of the calibration"));
        }
        let time = |at| get_u64(page, at).cast_signed();
        let share = |at| Some(get_f32(page, at)).filter(|value| value.is_finite());
        let [kind, k, len, bands] = get(page, 196);
        let kind = match kind {
            0 => None,
            1 => Some(QueryKind::Rows),
            2 => Some(QueryKind::Log),
            _ => return Err(Error::damaged(0, "unknown kind of calibration")),
        };
        let calibration = kind.map(|kind| {
            let (queries, rows) = (get_u32(page, 200), get_u64(page, 208));
            let points: [Point; MOST_POINTS] =
                std::array::from_fn(|i| point(page, POINTS + i * POINT_SIZE));
            let points = points.get(..usize::from(len)).unwrap_or(&points);
            let band_lists: [[u32; LEVELS.len()]; BANDS] = std::array::from_fn(|band| {
                std::array::from_fn(|level| get_u32(page, band_lists_at(band, level)))
            });
            let bands = band_lists.get(..usize::from(bands)).unwrap_or(&band_lists);
            let depth = get_f32(page, DEPTH);
            let depth = DEPTHS.into_iter().find(|it| *it == depth);
            Calibration::new(kind, queries, k, rows, time(216))
                .with_depth(depth.unwrap_or(DEPTHS[0]))
                .with_bands(BandLists::new(bands))
                .with_points(points)
        });
        Ok(Record {
            calibration,
            training: Training {
                built_at: time(224),
                trained_at: time(232),
                rows: get_u64(page, 240),
                queries: get_u64(page, 248),
                recall_before: share(256),
                recall_after: share(260),
                code_error: share(204),
            },
        })
    }

    /// Writes it into a metapage.
    pub fn write(&self, page: &mut [u8]) {
        let share = |value: Option<f32>| value.unwrap_or(f32::NAN).to_le_bytes();
        let it = &self.training;
        put(page, RECORD.start, &[0; RECORD.end - RECORD.start]);
        put(page, 204, &share(it.code_error));
        put(page, 224, &it.built_at.to_le_bytes());
        put(page, 232, &it.trained_at.to_le_bytes());
        put(page, 240, &it.rows.to_le_bytes());
        put(page, 248, &it.queries.to_le_bytes());
        put(page, 256, &share(it.recall_before));
        put(page, 260, &share(it.recall_after));
        if let Some(it) = &self.calibration {
            let kind = match it.kind {
                QueryKind::Rows => 1,
                QueryKind::Log => 2,
            };
            let bands = it.bands.bands();
            put(
                page,
                196,
                &[kind, it.k, it.points().len() as u8, bands.len() as u8],
            );
            put(page, 200, &it.queries.to_le_bytes());
            put(page, 208, &it.rows.to_le_bytes());
            put(page, 216, &it.measured_at.to_le_bytes());
            put(page, DEPTH, &it.depth.to_le_bytes());
            for (band, of_band) in bands.iter().enumerate() {
                for (level, lists) in of_band.iter().enumerate() {
                    put(page, band_lists_at(band, level), &lists.to_le_bytes());
                }
            }
            for (i, point) in it.points().iter().enumerate() {
                put_point(page, POINTS + i * POINT_SIZE, point);
            }
        }
        let crc = checksum(page);
        put(page, CRC, &crc.to_le_bytes());
    }
}

fn checksum(page: &[u8]) -> u32 {
    crc32c::crc32c(page.get(CHECKED).unwrap_or_default())
}

fn band_lists_at(band: usize, level: usize) -> usize {
    BAND_LISTS + band * BAND_SIZE + level * 4
}

fn point(page: &[u8], at: usize) -> Point {
    Point {
        probes: get_u32(page, at),
        recall: get_f32(page, at + 4),
        error: get_f32(page, at + 8),
        compared: get_f32(page, at + 12),
    }
}

fn put_point(page: &mut [u8], at: usize, point: &Point) {
    put(page, at, &point.probes.to_le_bytes());
    put(page, at + 4, &point.recall.to_le_bytes());
    put(page, at + 8, &point.error.to_le_bytes());
    put(page, at + 12, &point.compared.to_le_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
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
        assert_eq!(full.calibration.unwrap().points().len(), MOST_POINTS);
        for record in [full, Record::default()] {
            let mut page = vec![9; PAGE_SIZE];
            record.write(&mut page);
            assert_eq!(Record::read(&page).unwrap(), record);
            let outside = page[..RECORD.start].iter().chain(&page[RECORD.end..]);
            assert!(outside.copied().all(|byte| byte == 9));
            for at in RECORD {
                page[at] ^= 1 << (at % 8);
                assert!(Record::read(&page).is_err(), "{at}");
                page[at] ^= 1 << (at % 8);
            }
        }
    }
}
