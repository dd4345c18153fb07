//! Rows to lists, codes and scale bytes.

use crate::coarse::Assigner;
use crate::coarse::flat::{Assignment, rows_at_once};
use crate::coarse::near_lists::{CANDIDATES, NearLists};
use crate::coarse::second_list::choose;
use crate::codebooks::TransposedCodebooks;
use crate::format::Metric;
use crate::model::Model;
use crate::norm_correction::correction;
use crate::params::{Encoder, IvfPqTables};
use crate::preprocess::RowClass;
use crate::sq7::{self, refine_bytes};
use distillvq_linalg::matrix::{MatRef, squared_norm};
use distillvq_linalg::parallel;
use std::convert::Infallible;

/// Where a row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Into this inverted list.
    List(u32),
    /// Into the exact list: the codes cannot represent it.
    Exact,
    /// Nowhere: it has no place under this metric (a zero vector under cosine).
    Unindexed,
}

/// An encoded row, without its codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Encoded {
    /// Where the row goes.
    pub placement: Placement,
    /// Norm correction byte.
    pub correction_code: u8,
    /// Squared norm of the internal vector (L2), else 0.
    pub norm: f32,
}

/// Encoded rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncodedRows {
    /// One element per row: its first entry.
    pub rows: Vec<Encoded>,
    /// Codes, `subquantizers` bytes a row, one code a byte; zeros for rows outside the lists.
    pub codes: Vec<u8>,
    /// Refine codes, [`refine_bytes`] a row, zeros for rows outside the lists; empty unless asked for.
    pub refine: Vec<u8>,
    /// One element per row: its second entry, [`Placement::Unindexed`] if it has none; empty if rows have one list.
    pub second_rows: Vec<Encoded>,
    /// The codes of the second entries, as `codes`.
    pub second_codes: Vec<u8>,
}

impl EncodedRows {
    /// Rows behind rows.
    fn concat(chunks: Vec<EncodedRows>) -> EncodedRows {
        let mut all = EncodedRows::default();
        for chunk in chunks {
            all.rows.extend(chunk.rows);
            all.codes.extend(chunk.codes);
            all.refine.extend(chunk.refine);
            all.second_rows.extend(chunk.second_rows);
            all.second_codes.extend(chunk.second_codes);
        }
        all
    }
}

/// Encoder of internal rows: PQ codes and norm corrections.
pub struct PqEncoder<'a> {
    /// Finds the lists.
    pub assigner: Assigner<'a>,
    /// Centroids and codebooks.
    pub tables: &'a IvfPqTables,
    /// The same codebooks transposed.
    pub books: &'a TransposedCodebooks,
}

impl PqEncoder<'_> {
    /// Fills `codes` (`subquantizers` bytes a row) from lists that are known, and returns κ a row: `None` for a zero row
    /// that is reconstructed as zero.
    pub fn codes(
        &self,
        rows: MatRef<'_>,
        nearest: &[Assignment],
        codes: &mut [u8],
    ) -> Vec<Option<f32>> {
        let books = &self.tables.books;
        let centroids = MatRef::new(&self.tables.centroids, rows.cols);
        let stride = books.padded();
        let mut residuals = vec![0f32; rows.rows() * stride];
        let mut decoded = vec![0f32; rows.cols];
        for (i, (residual, nearest)) in residuals.chunks_exact_mut(stride).zip(nearest).enumerate()
        {
            let pair = rows.row(i).iter().zip(centroids.row(nearest.list as usize));
            decoded
                .iter_mut()
                .zip(pair)
                .for_each(|(r, (x, c))| *r = x - c);
            books.pad(&decoded, residual);
        }
        self.books.encode(&residuals, stride, codes);
        let codes = codes.chunks_exact(books.subquantizers);
        nearest
            .iter()
            .zip(codes)
            .enumerate()
            .map(|(i, (nearest, codes))| {
                decoded.copy_from_slice(centroids.row(nearest.list as usize));
                books.add_decoded(codes, &mut decoded);
                correction(squared_norm(rows.row(i)), squared_norm(&decoded))
            })
            .collect()
    }
}

impl Model {
    fn coder(&self) -> PqEncoder<'_> {
        let inner = self.inner();
        let centroids = MatRef::new(&inner.data.encoder.tables.centroids, self.dim());
        PqEncoder {
            assigner: Assigner::new(centroids, &inner.half_norms).with_index(self.centroid_index()),
            tables: &inner.data.encoder.tables,
            books: &inner.encoder_books,
        }
    }

    /// Encodes raw row-major vectors (n×dim; values after the last whole row are ignored). On a thread of a rayon pool
    /// it uses that pool. The lists and codes depend on the encoder alone, never on distillation.
    pub fn encode(&self, vectors: &[f32]) -> EncodedRows {
        let Ok(encoded) = self.try_encode(vectors, false, || Ok::<_, Infallible>(()));
        encoded
    }

    /// As [`Model::encode`], with refine codes if `refine`; calls `check_interrupts` every few milliseconds.
    ///
    /// # Errors
    /// The first error of `check_interrupts`.
    pub fn try_encode<E: Send>(
        &self,
        vectors: &[f32],
        refine: bool,
        check_interrupts: impl Fn() -> Result<(), E> + Sync + Send,
    ) -> Result<EncodedRows, E> {
        let (n, dim) = (vectors.len() / self.dim(), self.dim());
        let rows = MatRef::new(&vectors[..n * dim], dim);
        let many = rows_at_once(dim);
        let chunk = |i| {
            let rows = rows.slice(i * many, (i + 1) * many);
            self.encode_chunk(rows, refine, &check_interrupts)
        };
        Ok(EncodedRows::concat(parallel::map(n.div_ceil(many), chunk)?))
    }

    /// Encodes a few rows; calls `check_interrupts` every few milliseconds.
    fn encode_chunk<E>(
        &self,
        raw: MatRef<'_>,
        refine: bool,
        check_interrupts: impl Fn() -> Result<(), E>,
    ) -> Result<EncodedRows, E> {
        let (dim, m, n) = (self.dim(), self.subquantizers(), raw.rows());
        let space = &self.data().encoder.space;
        let mut internal = vec![0f32; n * dim];
        let kinds = space.rows(raw, &mut internal);
        let rows = MatRef::new(&internal, dim);
        let coder = self.coder();
        let mut nearest = vec![Assignment::default(); n];
        let mut near = match self.data().encoder.assignments {
            2 => vec![NearLists::default(); n],
            _ => Vec::new(),
        };
        coder
            .assigner
            .assign_with_near(rows, &mut nearest, &mut near, check_interrupts)?;
        let mut codes = vec![0u8; n * m];
        let corrections = coder.codes(rows, &nearest, &mut codes);
        let encoded: Vec<Encoded> = (0..n)
            .map(|i| self.entry(rows.row(i), kinds[i], (nearest[i].list, corrections[i])))
            .collect();
        clear_outside(&encoded, &mut codes, m);
        let (second_rows, second_codes) =
            self.second_entries(&coder, rows, (&nearest, &mut near), &encoded);
        let refine = if refine {
            refine_codes(rows, &encoded)
        } else {
            Vec::new()
        };
        Ok(EncodedRows {
            rows: encoded,
            codes,
            refine,
            second_rows,
            second_codes,
        })
    }

    /// The entry of an internal row in a list. `correction` is the norm correction of its codes there.
    fn entry(
        &self,
        row: &[f32],
        kind: RowClass,
        (list, correction): (u32, Option<f32>),
    ) -> Encoded {
        let Encoder { space, scale, .. } = &self.data().encoder;
        let byte = match correction {
            Some(correction) => scale.encode(correction),
            None => Some(0),
        };
        let outside = |placement| Encoded {
            placement,
            correction_code: 0,
            norm: 0.0,
        };
        match (kind, byte) {
            (RowClass::Unindexed, _) => outside(Placement::Unindexed),
            (RowClass::Encodable, Some(correction_code)) => Encoded {
                placement: Placement::List(list),
                correction_code,
                norm: if space.metric == Metric::L2 {
                    squared_norm(row)
                } else {
                    0.0
                },
            },
            (RowClass::Encodable, None) | (RowClass::Unencodable, _) => outside(Placement::Exact),
        }
    }

    /// The second entries of the rows in lists, and their codes.
    fn second_entries(
        &self,
        coder: &PqEncoder<'_>,
        rows: MatRef<'_>,
        (nearest, near): (&[Assignment], &mut [NearLists]),
        first: &[Encoded],
    ) -> (Vec<Encoded>, Vec<u8>) {
        if near.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let centroids = MatRef::new(&coder.tables.centroids, rows.cols);
        let half_norms = self.half_norms();
        let second = |(i, near): (usize, &mut NearLists)| {
            let (row, near) = (rows.row(i), near.nearest(CANDIDATES));
            let chosen = choose(centroids, half_norms, row, nearest[i], near);
            chosen.filter(|_| matches!(first[i].placement, Placement::List(_)))
        };
        let lists: Vec<Option<u32>> = near.iter_mut().enumerate().map(second).collect();
        let assigned = lists.iter().map(|list| Assignment {
            list: list.unwrap_or_default(),
            cost: 0.0,
        });
        let assigned: Vec<Assignment> = assigned.collect();
        let m = self.subquantizers();
        let mut codes = vec![0u8; rows.rows() * m];
        let corrections = coder.codes(rows, &assigned, &mut codes);
        let entry = |i: usize| {
            let kind = match lists[i] {
                Some(_) => RowClass::Encodable,
                None => RowClass::Unindexed,
            };
            let entry = self.entry(rows.row(i), kind, (assigned[i].list, corrections[i]));
            match entry.placement {
                // The codes in the second list cannot represent the row: it has one entry.
                Placement::Exact => self.entry(rows.row(i), RowClass::Unindexed, (0, None)),
                _ => entry,
            }
        };
        let entries: Vec<Encoded> = (0..rows.rows()).map(entry).collect();
        clear_outside(&entries, &mut codes, m);
        (entries, codes)
    }
}

/// Sets the codes of rows outside the lists to zeros.
fn clear_outside(entries: &[Encoded], codes: &mut [u8], subquantizers: usize) {
    for (entry, codes) in entries.iter().zip(codes.chunks_exact_mut(subquantizers)) {
        if !matches!(entry.placement, Placement::List(_)) {
            codes.fill(0);
        }
    }
}

/// The refine codes of internal rows.
fn refine_codes(rows: MatRef<'_>, encoded: &[Encoded]) -> Vec<u8> {
    let bytes = refine_bytes(rows.cols);
    let (mut values, mut out) = (Vec::new(), Vec::with_capacity(bytes * encoded.len()));
    for (i, one) in encoded.iter().enumerate() {
        if matches!(one.placement, Placement::List(_)) {
            sq7::encode(rows.row(i), &mut values, &mut out);
        } else {
            out.resize(out.len() + bytes, 0);
        }
    }
    out
}
