//! The query's side: which lists to probe, and the tables that score codes.
//!
//! Score (bigger is nearer), with `κ` the row's norm correction: `κ·(q·O[list] + Σ_s LUT[s][code_s])` for cosine and
//! inner product, twice that minus the row's squared norm for L2. One look-up table serves all lists.

use crate::linalg::MatRef;
use crate::model::Body;
use crate::{Metric, Model};
use distillvq_kernels::{Affine, kernels};

/// What a query needs to score rows.
#[derive(Debug, Clone)]
pub struct QueryTables {
    /// Look-up table as the scan kernels want it: 16·(even m) or 256·m bytes. An entry is `(value − minimum of its
    /// sub-quantizer)/delta`, rounded.
    pub lut: Vec<u8>,
    /// Value of one step of the table.
    pub delta: f32,
    /// Sum of the minima of the sub-quantizers.
    pub lut_bias: f32,
    /// The internal query.
    query: Vec<f32>,
    /// The same as the decoder wants it.
    turned: Vec<f32>,
    model: Model,
}

impl Model {
    /// Tables to score rows for a raw query (`dim` values; missing ones count as 0, as do values that are not finite).
    /// A zero query under cosine scores every row alike.
    pub fn query(&self, vector: &[f32]) -> QueryTables {
        let dim = self.dim();
        let encoder = &self.body().encoder;
        let books = &encoder.tables.books;
        let mut raw = vector.to_vec();
        raw.resize(dim, 0.0);
        let mut query = vec![0f32; dim];
        encoder.space.query(&raw, &mut query);
        let inner = self.inner();
        let turn = self.body().student.decoder.as_ref().map(|d| &d.turn[..]);
        let mut turned = query.clone();
        if let Some(turn) = turn.filter(|turn| !turn.is_empty()) {
            (kernels().dots)(&query, turn, &mut turned);
        }
        let mut padded = vec![0f32; books.padded()];
        books.pad(&turned, &mut padded);
        let table = inner
            .decoder_books
            .as_ref()
            .unwrap_or(&inner.encoder_books)
            .products(&padded);
        let (lut, delta, lut_bias) = quantize(&table, books.words, self.shape().lut_bytes());
        QueryTables {
            lut,
            delta,
            lut_bias,
            query,
            turned,
            model: self.clone(),
        }
    }
}

/// Largest table entry, such that no sum of `rows` entries overflows 16 bits.
fn largest_entry(rows: usize) -> f32 {
    (65_535 / rows.max(1)).min(255) as f32
}

/// The table in bytes (padded with zeros to `bytes`), its step, and the sum of its rows' minima.
pub(crate) fn quantize(table: &[f32], words: usize, bytes: usize) -> (Vec<u8>, f32, f32) {
    let rows = table.chunks_exact(words.max(1));
    let ranges: Vec<(f32, f32)> = rows
        .clone()
        .map(|row| {
            row.iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), x| {
                    (lo.min(*x), hi.max(*x))
                })
        })
        .collect();
    let widest = ranges.iter().map(|(lo, hi)| hi - lo).fold(0.0, f32::max);
    let delta = widest / largest_entry(ranges.len());
    let per_step = if delta > 0.0 { 1.0 / delta } else { 0.0 };
    let per_step = if per_step.is_finite() { per_step } else { 0.0 };
    let mut lut = Vec::with_capacity(bytes);
    for (row, (lo, _)) in rows.zip(&ranges) {
        // A cast saturates, and the largest entry comes out as at most itself plus rounding.
        let most = largest_entry(ranges.len());
        lut.extend(
            row.iter()
                .map(|x| ((x - lo) * per_step + 0.5).min(most) as u8),
        );
    }
    lut.resize(bytes, 0);
    (lut, delta, ranges.iter().map(|(lo, _)| lo).sum())
}

impl QueryTables {
    /// All lists with their scores, best first; among equals the smaller list first.
    ///
    /// Trained routing scores `q·W[list] + b[list]`. Without it the encoder's centroids decide: by distance for L2, by
    /// product for inner product, by cosine for cosine.
    pub fn ranking(&self) -> Vec<(f32, u32)> {
        let Body { encoder, student } = self.model.body();
        let routing = student.routing.as_ref();
        let vectors = routing.map_or(&encoder.tables.centroids, |r| &r.vectors);
        let mut scores = vec![0f32; encoder.lists];
        (kernels().dots)(&self.query, vectors, &mut scores);
        match (routing, encoder.space.metric) {
            (Some(routing), _) => scores
                .iter_mut()
                .zip(&routing.biases)
                .for_each(|(s, b)| *s += b),
            (None, Metric::L2) => scores
                .iter_mut()
                .zip(&self.model.inner().half_norms)
                .for_each(|(s, h)| *s -= h),
            (None, Metric::InnerProduct) => {}
            (None, Metric::Cosine) => {
                for (s, half) in scores.iter_mut().zip(&self.model.inner().half_norms) {
                    *s /= (2.0 * half).sqrt().max(f32::MIN_POSITIVE);
                }
            }
        }
        let mut ranking: Vec<(f32, u32)> = scores.into_iter().zip(0..).collect();
        ranking.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        ranking
    }

    /// Parameters of the final score in `list`. A list that the model does not have has no base of its own.
    pub fn affine(&self, list: u32) -> Affine {
        let Body { encoder, student } = self.model.body();
        let decoder = student.decoder.as_ref().map(|d| &d.tables);
        let tables = decoder.unwrap_or(&encoder.tables);
        let base = MatRef::new(&tables.centroids, encoder.space.dim).row(list as usize);
        Affine {
            base: (kernels().dot)(&self.turned, base) + self.lut_bias,
            delta: self.delta,
            scale_lo: encoder.scale.lo,
            scale_step: encoder.scale.step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keep_their_values() {
        for (rows, words) in [(1, 16), (3, 16), (300, 16), (480, 16), (2, 256)] {
            let table: Vec<f32> = (0..rows * words)
                .map(|i| ((i * 7919) % 1013) as f32 / 100.0 - 3.0)
                .collect();
            let (lut, delta, bias) = quantize(&table, words, rows * words + 16);
            assert_eq!(lut.len(), rows * words + 16);
            let most = lut
                .chunks(words)
                .map(|row| u32::from(*row.iter().max().unwrap_or(&0)))
                .sum::<u32>();
            assert!(most <= 65_535);
            let mut error = 0f32;
            for (s, row) in table.chunks(words).enumerate() {
                let lo = row.iter().copied().fold(f32::INFINITY, f32::min);
                for (j, x) in row.iter().enumerate() {
                    error = error.max((lo + delta * f32::from(lut[s * words + j]) - x).abs());
                }
            }
            assert!(error <= 0.51 * delta, "{error} {delta}");
            let minima: f32 = table
                .chunks(words)
                .map(|r| r.iter().copied().fold(f32::INFINITY, f32::min))
                .sum();
            assert!((bias - minima).abs() < 1e-2);
        }
    }

    #[test]
    fn a_table_without_spread_is_all_zero() {
        let (lut, delta, bias) = quantize(&[0.5; 32], 16, 32);
        assert_eq!((lut, delta, bias), (vec![0; 32], 0.0, 1.0));
    }
}
