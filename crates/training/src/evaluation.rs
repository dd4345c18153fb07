//! Code recall 10@10 of a student on held-out queries, and the test whether it is better than another.

use crate::encoded_sample::EncodedSample;
use crate::error::TrainError;
use crate::progress::{Monitor, check_interrupts};
use crate::teacher::brute_force::{RowSource, knn};
use crate::teacher::exact::{EVAL_K, QuerySet, SampleVectors, is_candidate};
use distillvq_linalg::matrix::MatRef;
use distillvq_linalg::orthogonal::rotate;
use distillvq_model::params::{Decoder, IvfPqTables};

/// Held-out queries and their exact neighbors.
pub struct EvalSet {
    /// The queries.
    pub queries: QuerySet,
    /// The [`EVAL_K`] nearest rows of each, or fewer.
    pub truth: Vec<Vec<u32>>,
}

/// The sample as a decoder sees it.
struct Decoded<'a> {
    rows: &'a SampleVectors<'a>,
    coded: &'a EncodedSample,
    tables: &'a IvfPqTables,
    source_row: &'a [u32],
}

impl RowSource for Decoded<'_> {
    fn len(&self) -> usize {
        self.rows.x.rows()
    }

    fn vectors(&self, from: usize, to: usize, out: &mut Vec<f32>) {
        let cols = self.rows.x.cols;
        let centroids = MatRef::new(&self.tables.centroids, cols);
        out.resize((to - from) * cols, 0.0);
        for (out, row) in out.chunks_exact_mut(cols).zip(from..to) {
            self.coded.decode(
                row,
                centroids.row(self.coded.list(row)),
                &self.tables.books,
                out,
            );
        }
    }

    fn norms(&self) -> Option<&[f32]> {
        self.rows.norms
    }

    fn is_candidate(&self, query: usize, row: u32) -> bool {
        is_candidate(self.rows.x, self.source_row[query], row)
    }
}

impl EvalSet {
    /// Recall 10@10 of every query when all rows are ranked by their codes.
    pub fn recalls(
        &self,
        rows: &SampleVectors<'_>,
        coded: &EncodedSample,
        decoder: &Decoder,
        monitor: &dyn Monitor,
    ) -> Result<Vec<f32>, TrainError> {
        let decoded = Decoded {
            rows,
            coded,
            tables: &decoder.tables,
            source_row: &self.queries.source_row,
        };
        let mut queries = self.queries.vectors.clone();
        if !decoder.query_transform.is_empty() {
            rotate(&decoder.query_transform, &mut queries, rows.x.cols, || {
                check_interrupts(monitor)
            })?;
        }
        let ranked = knn(MatRef::new(&queries, rows.x.cols), &decoded, EVAL_K, |_| {
            check_interrupts(monitor)
        })?;
        let share = |(found, truth): (&Vec<(f32, u32)>, &Vec<u32>)| {
            let hits = found.iter().filter(|(_, row)| truth.contains(row)).count();
            hits as f32 / truth.len().max(1) as f32
        };
        Ok(ranked.best.iter().zip(&self.truth).map(share).collect())
    }
}

/// The best of several candidates by the mean of their recalls.
pub struct BestSoFar<T> {
    best: Option<(T, Vec<f32>)>,
    worse: usize,
}

impl<T> Default for BestSoFar<T> {
    fn default() -> Self {
        BestSoFar {
            best: None,
            worse: 0,
        }
    }
}

impl<T> BestSoFar<T> {
    /// Keeps the candidate if it beats those before.
    pub fn offer(&mut self, candidate: T, recalls: Vec<f32>) {
        if self
            .best
            .as_ref()
            .is_none_or(|(_, before)| mean(&recalls) > mean(before))
        {
            self.best = Some((candidate, recalls));
            self.worse = 0;
        } else {
            self.worse += 1;
        }
    }

    /// Whether the last two were no better.
    pub fn stalled(&self) -> bool {
        self.worse >= 2
    }

    /// The best and its recalls.
    pub fn take(self) -> Option<(T, Vec<f32>)> {
        self.best
    }
}

/// Mean of the values.
pub fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

/// The gate: whether the results after are better than those before by more than chance, that is, whether the mean of
/// the paired differences exceeds its standard error.
pub fn is_significant_gain(before: &[f32], after: &[f32]) -> bool {
    let differences: Vec<f32> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    let n = differences.len() as f32;
    let gain = mean(&differences);
    let squares: f32 = differences.iter().map(|d| (d - gain) * (d - gain)).sum();
    n > 1.0 && gain > 0.0 && gain > (squares / (n - 1.0) / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_gain_wins() {
        let before = [0.5; 100];
        assert!(!is_significant_gain(&before, &before));
        assert!(is_significant_gain(&before, &[0.6; 100]));
        assert!(!is_significant_gain(&before, &[0.4; 100]));
        let noise: Vec<f32> = (0..100)
            .map(|i| if i % 2 == 0 { 0.91 } else { 0.1 })
            .collect();
        assert!(!is_significant_gain(&before, &noise));
        assert!(!is_significant_gain(&[], &[]));
        assert!(!is_significant_gain(&[0.1], &[0.9]));
    }
}
