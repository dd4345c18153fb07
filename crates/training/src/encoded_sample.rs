//! The encoded sample: lists, codes and norm corrections, which distillation trains on.

use crate::error::TrainError;
use crate::progress::{Monitor, check_interrupts};
use distillvq_linalg::matrix::{MatRef, ROWS};
use distillvq_linalg::parallel;
use distillvq_model::coarse::Assigner;
use distillvq_model::coarse::flat::Assignment;
use distillvq_model::codebooks::Codebooks;
use distillvq_model::encode::{EncodedRows, Placement, PqEncoder};
use distillvq_model::norm_correction::NormCorrection;
use distillvq_model::params::IvfPqTables;

/// Lists, codes and norm corrections of all rows of the sample. They never change during distillation.
pub struct EncodedSample {
    /// List of each row.
    nearest: Vec<Assignment>,
    /// Second list of each row; empty if rows have one list.
    second: Vec<u32>,
    subquantizers: usize,
    /// `subquantizers` bytes a row.
    codes: Vec<u8>,
    /// Norm correction a row, as its byte will say it.
    corrections: Vec<f32>,
}

impl EncodedSample {
    /// Encodes the rows, whose lists are known, and learns the range of the norm corrections.
    pub fn new(
        x: MatRef<'_>,
        (nearest, second): (Vec<Assignment>, Vec<u32>),
        half_norms: &[f32],
        tables: &IvfPqTables,
        monitor: &dyn Monitor,
    ) -> Result<(EncodedSample, NormCorrection), TrainError> {
        let subquantizers = tables.books.subquantizers;
        let books = tables.books.transposed();
        let assigner = Assigner::new(MatRef::new(&tables.centroids, x.cols), half_norms);
        let coder = PqEncoder {
            assigner,
            tables,
            books: &books,
        };
        let mut codes = vec![0u8; x.rows() * subquantizers];
        let mut corrections = vec![None; x.rows()];
        let pieces = codes
            .chunks_mut(ROWS * subquantizers)
            .zip(corrections.chunks_mut(ROWS));
        parallel::each_mut(
            &mut pieces.collect::<Vec<_>>(),
            |i, (codes, corrections)| {
                check_interrupts(monitor)?;
                let rows = x.slice(i * ROWS, (i + 1) * ROWS);
                corrections.copy_from_slice(&coder.codes(
                    rows,
                    &nearest[i * ROWS..i * ROWS + rows.rows()],
                    codes,
                ));
                Ok(())
            },
        )?;
        let scale = NormCorrection::fit(corrections.iter().flatten().copied().collect());
        let byte = |k: Option<f32>| k.and_then(|k| scale.encode(k)).unwrap_or(0);
        let corrections = corrections
            .into_iter()
            .map(|k| scale.decode(byte(k)))
            .collect();
        Ok((
            EncodedSample {
                nearest,
                second,
                subquantizers,
                codes,
                corrections,
            },
            scale,
        ))
    }

    /// The rows that a finished encoder put into lists, as it encoded them.
    pub fn from_encoded(
        rows: &EncodedRows,
        subquantizers: usize,
        scale: &NormCorrection,
    ) -> EncodedSample {
        let mut coded = EncodedSample {
            nearest: Vec::new(),
            second: Vec::new(),
            subquantizers,
            codes: Vec::new(),
            corrections: Vec::new(),
        };
        let codes = rows.codes.chunks_exact(subquantizers);
        for (i, (row, codes)) in rows.rows.iter().zip(codes).enumerate() {
            if let Placement::List(list) = row.placement {
                if let Some(row) = rows.second_rows.get(i) {
                    coded.second.push(match row.placement {
                        Placement::List(second) => second,
                        _ => list,
                    });
                }
                coded.nearest.push(Assignment { list, cost: 0.0 });
                coded.codes.extend_from_slice(codes);
                coded.corrections.push(scale.decode(row.correction_code));
            }
        }
        coded
    }

    /// Both lists of a row, twice the same if it is in one list.
    pub fn lists(&self, row: usize) -> [u32; 2] {
        let first = self.nearest[row].list;
        [first, self.second.get(row).copied().unwrap_or(first)]
    }

    /// The list of a row.
    pub fn list(&self, row: usize) -> usize {
        self.nearest[row].list as usize
    }

    /// The codes of a row.
    pub fn codes(&self, row: usize) -> &[u8] {
        &self.codes[row * self.subquantizers..(row + 1) * self.subquantizers]
    }

    /// The norm correction of a row.
    pub fn correction(&self, row: usize) -> f32 {
        self.corrections[row]
    }

    /// Entries per list.
    pub fn list_sizes(&self, lists: usize) -> Vec<usize> {
        let mut sizes = vec![0; lists];
        for [first, second] in (0..self.nearest.len()).map(|row| self.lists(row)) {
            sizes[first as usize] += 1;
            if second != first {
                sizes[second as usize] += 1;
            }
        }
        sizes
    }

    /// Writes κ·(base + decoded codes) of a row to `out`.
    pub fn decode(&self, row: usize, base: &[f32], books: &Codebooks, out: &mut [f32]) {
        out.copy_from_slice(base);
        books.add_decoded(self.codes(row), out);
        let correction = self.correction(row);
        out.iter_mut().for_each(|x| *x *= correction);
    }
}
