//! Memory of a scan over ten million made-up rows.
#![allow(clippy::unwrap_used)]

use distillvq_ivf::SideLocation;
use distillvq_ivf::rerank::{CandidateSource, RerankOptions, RerankStream};
use distillvq_ivf::{Candidate, Error, Tid};

const ROWS: usize = 10_000_000;
const LISTS: usize = 1_000;
const MB: usize = 1 << 20;

/// Rows whose codes tell nothing, or rows without codes.
#[derive(Default)]
struct Rows {
    has_codes: bool,
    probed: usize,
    pulled: usize,
}

fn tid(i: usize) -> Tid {
    Tid {
        block: (i / 50) as u32,
        offset: (i % 50 + 1) as u16,
    }
}

/// A random permutation of the rows, as a distance.
fn distance(tid: Tid) -> f64 {
    let i = tid.block as usize * 50 + usize::from(tid.offset) - 1;
    (i * 7_368_787 % ROWS) as f64
}

impl CandidateSource for Rows {
    fn lists(&self) -> usize {
        LISTS
    }
    fn probed(&self) -> usize {
        self.probed
    }
    fn probe(&mut self, more: usize) -> Result<(), Error> {
        self.probed = (self.probed + more).min(LISTS);
        Ok(())
    }
    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        let end = (self.pulled + n).min(self.there());
        out.extend((self.pulled..end).map(|i| Candidate {
            score: 0.0,
            tid: tid(i),
            refine: SideLocation::default(),
        }));
        self.pulled = end;
        Ok(())
    }
    fn bound(&self) -> Option<f32> {
        (self.pulled < self.there()).then_some(0.0)
    }
    fn score(&self, distance: f64) -> f64 {
        -distance
    }
    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        if !self.has_codes {
            let end = (self.pulled + 1_000).min(ROWS);
            out.extend((self.pulled..end).map(tid));
            self.pulled = end;
        }
        Ok(())
    }
    fn rewind(&mut self) {
        self.pulled = 0;
    }
}

impl Rows {
    fn there(&self) -> usize {
        if self.has_codes {
            self.probed * (ROWS / LISTS)
        } else {
            self.pulled
        }
    }
}

/// Resident memory of this process; 0 where there is no `/proc`.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4096
}

#[test]
fn ten_million_rows_take_no_more_memory_than_allowed() {
    for has_codes in [false, true] {
        let source = Rows {
            has_codes,
            ..Rows::default()
        };
        let mut stream = RerankStream::new(
            source,
            RerankOptions {
                memory: 2 * MB,
                ..RerankOptions::default()
            },
        );
        let (before, mut peak, mut calls) = (resident(), 0, 0);
        let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
            out.extend(batch.iter().map(|c| Some(distance(c.tid))));
            calls += 1;
            if calls % 1_000 == 0 {
                peak = peak.max(resident());
            }
            Ok(())
        };
        // A filter that the nearest 20 rows do not pass.
        for expected in 0..30 {
            let hit = stream.next(&mut fetch).unwrap().unwrap();
            assert_eq!(hit.distance, f64::from(expected), "codes: {has_codes}");
        }
        assert_eq!(stream.stats().reranked, ROWS as u64, "one pass");
        let grown = peak.saturating_sub(before);
        assert!(grown < 6 * MB, "codes: {has_codes}, {grown} bytes");
    }
}

#[test]
fn a_search_that_would_need_very_many_passes_fails() {
    let source = Rows {
        has_codes: false,
        ..Rows::default()
    };
    let options = RerankOptions {
        memory: 0,
        ..RerankOptions::default()
    };
    let mut stream = RerankStream::new(Few(source), options);
    let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
        out.extend(batch.iter().map(|c| Some(distance(c.tid))));
        Ok(())
    };
    let (mut last, mut rows) = (f64::MIN, 0);
    let failure = loop {
        match stream.next(&mut fetch) {
            Ok(Some(hit)) => {
                assert!(hit.distance > last);
                (last, rows) = (hit.distance, rows + 1);
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(matches!(failure, Some(Error::WaitingRows { .. })));
    assert!(rows > 32 * 4_096, "{rows} rows came before that");
}

/// The first 400,000 of them.
struct Few(Rows);

impl CandidateSource for Few {
    fn lists(&self) -> usize {
        0
    }
    fn probed(&self) -> usize {
        0
    }
    fn probe(&mut self, _more: usize) -> Result<(), Error> {
        Ok(())
    }
    fn pull(&mut self, _n: usize, _out: &mut Vec<Candidate>) -> Result<(), Error> {
        Ok(())
    }
    fn bound(&self) -> Option<f32> {
        None
    }
    fn score(&self, distance: f64) -> f64 {
        -distance
    }
    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        if self.0.pulled < 400_000 {
            self.0.next_exact(out)?;
        }
        Ok(())
    }
    fn rewind(&mut self) {
        self.0.rewind();
    }
}
