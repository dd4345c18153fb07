//! A sample of the queries that an index is searched with, on pages of the index ([`distillvq_pages::make_room`]).
//!
//! A query is kept in half precision, scaled by a power of two so that elements of any size fit.
//! ```text
//! contents of a record { exponent i16, dim f16 }
//! ```

use crate::error::Error;
use crate::index_meta::Meta;
use distillvq_pages::{
    self as pages, Draw, MAX_RECORD_BYTES, Offer, PageStore, SampleCounters, read_records,
};
use half::f16;

/// Maximum number of queries.
pub const MAX_QUERIES: usize = 1_024;
/// Minimum number of queries: of room for them, and to calibrate an index with.
pub const MIN_QUERIES: usize = 64;
/// Number of rows of the index for which there is room for one query.
const ROWS_PER_QUERY: u64 = 64;
/// Exponent that the largest element is scaled to: twice that is still finite in half precision.
const LARGEST_EXPONENT: i32 = 14;

/// Queries of a sample.
#[derive(Clone, Debug, Default)]
pub struct QuerySample {
    /// The sampled queries, newest first.
    pub queries: Vec<SampledQuery>,
    /// The counters of the sample before the queries were read.
    pub counters: SampleCounters,
}

/// A sampled query.
#[derive(Clone, Debug)]
pub struct SampledQuery {
    /// Rises with the time.
    pub number: u32,
    /// Raw elements.
    pub elements: Vec<f32>,
}

impl QuerySample {
    /// The elements of the newest queries, row-major: those since the last check if they are enough, otherwise all; none if even these
    /// are too few.
    pub fn recent(&self) -> Vec<f32> {
        let is_new = |query: &&SampledQuery| {
            let age = self.counters.newest.wrapping_sub(query.number);
            age < self.counters.newest.wrapping_sub(self.counters.checked)
        };
        let new = self.queries.iter().take_while(is_new).count();
        let count = if new >= MIN_QUERIES {
            new
        } else {
            self.queries.len()
        };
        if count < MIN_QUERIES {
            return Vec::new();
        }
        self.newest(count)
    }

    /// The elements of all queries, row-major; none if they are too few.
    pub fn all(&self) -> Vec<f32> {
        if self.queries.len() < MIN_QUERIES {
            return Vec::new();
        }
        self.newest(self.queries.len())
    }

    fn newest(&self, count: usize) -> Vec<f32> {
        let queries = self.queries.iter().take(count);
        queries.flat_map(|it| it.elements.iter().copied()).collect()
    }
}

/// Makes room for the queries that an index over so many rows keeps. An index without a model needs none, and vectors that are
/// too long for a page are not kept.
pub fn make_room<S: PageStore>(store: &S, meta: &Meta, rows: u64) -> Result<Meta, Error> {
    let length = record_length(meta.dim);
    if !meta.has_model() || length > MAX_RECORD_BYTES {
        return Ok(*meta);
    }
    let queries = (rows / ROWS_PER_QUERY).clamp(MIN_QUERIES as u64, MAX_QUERIES as u64);
    let pages = pages::make_room(store, &meta.pages, length, queries as usize)?;
    Ok(Meta { pages, ..*meta })
}

/// Offers a query to the sample.
pub fn offer<S: PageStore>(
    store: &S,
    meta: &Meta,
    query: &[f32],
    draw: Draw,
) -> Result<Offer, Error> {
    match encode(query) {
        Some(record) if query.len() == meta.dim => {
            Ok(pages::offer_record(store, &meta.pages, &record, draw)?)
        }
        _ => Ok(Offer::NoRoom),
    }
}

/// Puts the newest queries of another index's sample into an empty one, as far as there is room; `checked` tells whether this index
/// was calibrated with them.
pub fn fill<S: PageStore>(
    store: &S,
    meta: &Meta,
    sample: &QuerySample,
    checked: bool,
) -> Result<(), Error> {
    let room = counters(store, meta)?.capacity as usize;
    let draw = Draw {
        now: 0,
        interval: 0,
        random: 0,
    };
    for query in sample.queries.iter().take(room).rev() {
        offer(store, meta, &query.elements, draw)?;
    }
    if checked {
        mark_checked(store, meta, counters(store, meta)?)?;
    }
    Ok(())
}

/// The counters of the sample.
pub fn counters<S: PageStore>(store: &S, meta: &Meta) -> Result<SampleCounters, Error> {
    Ok(pages::sample_counters(
        store,
        &meta.pages,
        record_length(meta.dim),
    )?)
}

/// Reads the sampled queries.
pub fn read<S: PageStore>(store: &S, meta: &Meta) -> Result<QuerySample, Error> {
    let mut queries = Vec::new();
    let length = record_length(meta.dim);
    let counters = read_records(store, &meta.pages, length, |number, record| {
        let elements = decode(record);
        queries.extend(elements.map(|elements| SampledQuery { number, elements }));
    })?;
    queries.sort_unstable_by_key(|query| counters.newest.wrapping_sub(query.number));
    Ok(QuerySample { queries, counters })
}

/// Records that the queries up to the newest one of a sample were used for a check.
pub fn mark_checked<S: PageStore>(
    store: &S,
    meta: &Meta,
    counters: SampleCounters,
) -> Result<(), Error> {
    Ok(pages::mark_checked(store, &meta.pages, counters.newest)?)
}

/// Removes all queries, for good.
pub fn remove<S: PageStore>(store: &S, meta: &Meta) -> Result<(), Error> {
    Ok(pages::remove_records(store, &meta.pages)?)
}

fn record_length(dim: usize) -> usize {
    2 + 2 * dim
}

/// The record of a query; none if it points nowhere, or is not finite.
fn encode(query: &[f32]) -> Option<Vec<u8>> {
    let largest = query.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let is_finite = query.iter().all(|x| x.is_finite());
    if !is_finite || largest == 0.0 {
        return None;
    }
    let exponent = largest.log2().floor() as i32 - LARGEST_EXPONENT;
    let scale = (-f64::from(exponent)).exp2();
    let mut record = (exponent as i16).to_le_bytes().to_vec();
    record.extend(
        query
            .iter()
            .flat_map(|x| f16::from_f64(f64::from(*x) * scale).to_le_bytes()),
    );
    Some(record)
}

/// The query of a record; none if nobody can have written it.
fn decode(record: &[u8]) -> Option<Vec<f32>> {
    let (exponent, elements) = record.split_first_chunk()?;
    let scale = f64::from(i16::from_le_bytes(*exponent)).exp2();
    let (pairs, _) = elements.as_chunks::<2>();
    let elements = pairs
        .iter()
        .map(|pair| (f16::from_le_bytes(*pair).to_f64() * scale) as f32);
    let elements: Vec<f32> = elements.collect();
    elements.iter().all(|x| x.is_finite()).then_some(elements)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_any_size_are_kept_to_eleven_bits() {
        for size in [1e-38f32, 1e-20, 3e-5, 1.0, 32_768.0, 65_504.0, 1e9, 3e38] {
            let query: Vec<f32> = (0..64).map(|i| size * (0.9f32 - i as f32 / 40.0)).collect();
            let kept = decode(&encode(&query).unwrap()).unwrap();
            for (a, b) in query.iter().zip(kept) {
                assert!((a - b).abs() <= size * 5e-4, "{a} became {b}");
            }
        }
    }

    #[test]
    fn queries_that_point_nowhere_are_not_kept() {
        for odd in [0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(encode(&[0.0, odd]), None);
        }
    }

    #[test]
    fn new_queries_go_before_old_ones() {
        let sample = |numbers: std::ops::Range<u32>, checked: u32| QuerySample {
            counters: SampleCounters {
                newest: numbers.end - 1,
                checked,
                capacity: 500,
            },
            queries: numbers
                .rev()
                .map(|number| SampledQuery {
                    number,
                    elements: vec![number as f32],
                })
                .collect(),
        };
        assert_eq!(sample(1..301, 200).recent().len(), 100);
        assert_eq!(sample(1..301, 299).recent().len(), 300);
        assert!(sample(1..MIN_QUERIES as u32, 0).recent().is_empty());
    }
}
