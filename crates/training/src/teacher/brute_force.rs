//! k nearest rows of many queries by brute force, in blocks: of exact vectors for training, of decoded vectors to measure
//! recall.

use crate::error::TrainError;
use distillvq_linalg::matrix::{MatRef, matmul_nt};
use distillvq_linalg::parallel;

/// Queries that are answered together.
const QUERIES: usize = 128;
/// Multiply-adds of a block, at the most: it bounds the time between two looks at the monitor.
const TILE: usize = 1 << 25;
/// Candidates that are collected before they are cut down to the best, in units of what is wanted.
const BUFFER_FACTOR: usize = 4;

/// Source of the rows' vectors, block by block.
pub trait RowSource: Sync {
    /// Number of rows.
    fn len(&self) -> usize;
    /// Appends the vectors of rows `from..to` to `out`; the score of a row is their product with the query.
    fn vectors(&self, from: usize, to: usize, out: &mut Vec<f32>);
    /// For L2 the squared norm of each row: its score is twice the product minus the norm.
    fn norms(&self) -> Option<&[f32]>;
    /// Whether query `query` may find `row`.
    fn is_candidate(&self, query: usize, row: u32) -> bool;
}

/// Nearest rows of each query.
#[derive(Debug, Clone)]
pub struct NeighborLists {
    /// Best first, with their scores; fewer than asked for if there are not so many.
    pub best: Vec<Vec<(f32, u32)>>,
}

/// The `k` nearest of `rows` for each query.
pub fn knn(
    queries: MatRef<'_>,
    rows: &impl RowSource,
    k: usize,
    check_interrupts: impl Fn(usize) -> Result<(), TrainError> + Sync,
) -> Result<NeighborLists, TrainError> {
    let blocks = queries.rows().div_ceil(QUERIES);
    let best = parallel::map(blocks, |block| {
        let queries = queries.slice(block * QUERIES, (block + 1) * QUERIES);
        knn_block(queries, block * QUERIES, rows, k, &check_interrupts)
    })?;
    Ok(NeighborLists {
        best: best.into_iter().flatten().collect(),
    })
}

fn knn_block(
    queries: MatRef<'_>,
    first: usize,
    rows: &impl RowSource,
    k: usize,
    check_interrupts: &impl Fn(usize) -> Result<(), TrainError>,
) -> Result<Vec<Vec<(f32, u32)>>, TrainError> {
    let q = queries.rows();
    let step = (TILE / (q.max(1) * queries.cols)).clamp(16, 512);
    let mut best: Vec<TopK> = (0..q).map(|_| TopK::new(k)).collect();
    let (mut vectors, mut scores) = (Vec::new(), vec![0f32; q * step]);
    for from in (0..rows.len()).step_by(step) {
        let to = (from + step).min(rows.len());
        check_interrupts((to - from) * q)?;
        vectors.clear();
        rows.vectors(from, to, &mut vectors);
        let scores = &mut scores[..q * (to - from)];
        matmul_nt(queries, MatRef::new(&vectors, queries.cols), scores);
        for (i, (scores, best)) in scores
            .chunks_exact_mut(to - from)
            .zip(&mut best)
            .enumerate()
        {
            if let Some(norms) = rows.norms() {
                scores
                    .iter_mut()
                    .zip(&norms[from..to])
                    .for_each(|(s, n)| *s = 2.0 * *s - n);
            }
            best.offer_all(scores, from, |row| rows.is_candidate(first + i, row));
        }
    }
    // Copies of their own size: the buffers are several times larger.
    Ok(best.into_iter().map(|b| b.finish().to_vec()).collect())
}

/// The `k` best scores so far: a buffer that is cut down to `k` when it is full.
pub struct TopK {
    k: usize,
    least: f32,
    buffer: Vec<(f32, u32)>,
}

/// Best first; among equals the smaller row.
fn order(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl TopK {
    /// Nothing yet, of `k` at the most.
    pub fn new(k: usize) -> TopK {
        TopK {
            k: k.max(1),
            least: f32::NEG_INFINITY,
            buffer: Vec::new(),
        }
    }

    /// Only scores above this are still taken.
    pub fn least(&self) -> f32 {
        self.least
    }

    /// Offers rows `first`, `first + 1`, … with these scores.
    pub fn offer_all(&mut self, scores: &[f32], first: usize, is_candidate: impl Fn(u32) -> bool) {
        for (i, chunk) in scores.chunks(16).enumerate() {
            // Nearly all chunks hold nothing better: look at their maximum first.
            if chunk.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b)) <= self.least {
                continue;
            }
            for (j, score) in chunk.iter().enumerate() {
                let row = (first + 16 * i + j) as u32;
                if *score > self.least && is_candidate(row) {
                    self.buffer.push((*score, row));
                }
            }
            if self.buffer.len() >= BUFFER_FACTOR * self.k.max(16) {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        if self.buffer.len() > self.k {
            let (_, last, _) = self.buffer.select_nth_unstable_by(self.k - 1, order);
            self.least = last.0;
            self.buffer.truncate(self.k);
        }
    }

    /// The best, best first.
    pub fn finish(mut self) -> Vec<(f32, u32)> {
        self.cut();
        self.buffer.sort_unstable_by(order);
        self.buffer
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use distillvq_linalg::testing::noise;

    struct Plain<'a>(MatRef<'a>, Option<Vec<f32>>);

    impl RowSource for Plain<'_> {
        fn len(&self) -> usize {
            self.0.rows()
        }
        fn vectors(&self, from: usize, to: usize, out: &mut Vec<f32>) {
            out.extend_from_slice(self.0.slice(from, to).data);
        }
        fn norms(&self) -> Option<&[f32]> {
            self.1.as_deref()
        }
        fn is_candidate(&self, query: usize, row: u32) -> bool {
            query as u32 != row
        }
    }

    #[test]
    fn the_best_are_the_best() {
        let (rows, queries) = (noise(6000, 0), noise(900, 17));
        let (rows, queries) = (MatRef::new(&rows, 3), MatRef::new(&queries, 3));
        let norms: Vec<f32> = (0..2000)
            .map(|i| rows.row(i).iter().map(|x| x * x).sum())
            .collect();
        for norms in [None, Some(norms)] {
            let got = knn(queries, &Plain(rows, norms.clone()), 7, |_| Ok(())).unwrap();
            for (q, got) in got.best.iter().enumerate() {
                let mut want: Vec<(f32, u32)> = (0..2000)
                    .filter(|row| *row != q)
                    .map(|row| {
                        let dot: f32 = rows
                            .row(row)
                            .iter()
                            .zip(queries.row(q))
                            .map(|(x, y)| x * y)
                            .sum();
                        (
                            norms.as_ref().map_or(dot, |n| 2.0 * dot - n[row]),
                            row as u32,
                        )
                    })
                    .collect();
                want.sort_by(order);
                assert_eq!(got.len(), 7);
                for (g, w) in got.iter().zip(&want) {
                    assert!((g.0 - w.0).abs() < 1e-5, "{g:?} {w:?}");
                }
            }
        }
    }
}
