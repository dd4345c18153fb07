//! Codebooks of the product quantizer: one a sub-space (Jégou et al., 2011).
//!
//! The `dim` values of a vector are dealt out evenly: sub-space `s` has the values from `s·dim/subquantizers` on, at most
//! `width` of them. Where widths differ, sub-vectors are padded with a zero ([`Codebooks::pad`]); codewords of the padding
//! stay zero, so it never changes a distance or a product.

use distillvq_kernels::{CodewordSearch, kernels};
use distillvq_linalg::matrix::squared_norm;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Codebooks of all sub-spaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Codebooks {
    /// Dimensions of a vector.
    pub dim: usize,
    /// Sub-spaces.
    pub subquantizers: usize,
    /// Codewords of a sub-space: 16 or 256.
    pub codewords: usize,
    /// Most dimensions of a sub-space.
    pub width: usize,
    /// `subquantizers`×`words`×`width` values.
    #[serde(with = "crate::bf16")]
    pub values: Vec<f32>,
}

impl Codebooks {
    /// Codebooks of zeros.
    pub fn zeros(dim: usize, subquantizers: usize, codewords: usize) -> Codebooks {
        let width = dim.div_ceil(subquantizers.max(1));
        Codebooks {
            dim,
            subquantizers,
            codewords,
            width,
            values: vec![0.0; subquantizers * codewords * width],
        }
    }

    /// Values of one sub-space.
    pub fn stride(&self) -> usize {
        self.codewords * self.width
    }

    /// Values of a padded vector.
    pub fn padded(&self) -> usize {
        self.subquantizers * self.width
    }

    /// The dimensions of a sub-space.
    pub fn range(&self, subquantizer: usize) -> Range<usize> {
        range(self.dim, self.subquantizers, subquantizer)
    }

    /// Writes a vector to `out`, which has room for a padded one, is zero, and stays so in the padding.
    pub fn pad(&self, vector: &[f32], out: &mut [f32]) {
        if self.padded() == self.dim {
            return out.copy_from_slice(vector);
        }
        for (s, out) in out.chunks_exact_mut(self.width.max(1)).enumerate() {
            let part = &vector[self.range(s)];
            out[..part.len()].copy_from_slice(part);
        }
    }

    /// Adds the vector that `codes` stand for to `out`.
    pub fn add_decoded(&self, codes: &[u8], out: &mut [f32]) {
        match self.width {
            4 if self.padded() == self.dim => self.add_words::<4>(codes, out),
            8 if self.padded() == self.dim => self.add_words::<8>(codes, out),
            _ => self.add_rest(codes, out),
        }
    }

    /// [`Codebooks::add_rest`] for a width known to the compiler.
    fn add_words<const W: usize>(&self, codes: &[u8], out: &mut [f32]) {
        let (whole, _) = out.as_chunks_mut::<W>();
        let books = self.values.as_chunks::<W>().0;
        let books = books.chunks_exact(self.codewords.max(1));
        for ((out, code), book) in whole.iter_mut().zip(codes).zip(books) {
            let word = &book[usize::from(*code).min(book.len() - 1)];
            for (o, c) in out.iter_mut().zip(word) {
                *o += c;
            }
        }
    }

    fn add_rest(&self, codes: &[u8], out: &mut [f32]) {
        for (s, code) in codes.iter().enumerate() {
            let part = out.get_mut(self.range(s)).unwrap_or_default();
            let pairs = part.iter_mut().zip(self.word(s, *code));
            pairs.for_each(|(o, c)| *o += c);
        }
    }

    /// One codeword.
    pub fn word(&self, subquantizer: usize, code: u8) -> &[f32] {
        let at = (subquantizer * self.codewords + usize::from(code)) * self.width;
        self.values.get(at..at + self.width).unwrap_or_default()
    }

    /// The codebooks transposed for the kernels.
    pub fn transposed(&self) -> TransposedCodebooks {
        let mut values = vec![0.0; self.values.len()];
        let mut half_norms = Vec::with_capacity(self.subquantizers * self.codewords);
        let stride = self.stride().max(1);
        for (book, out) in self
            .values
            .chunks_exact(stride)
            .zip(values.chunks_exact_mut(stride))
        {
            for (j, word) in book.chunks_exact(self.width).enumerate() {
                half_norms.push(squared_norm(word) / 2.0);
                for (t, value) in word.iter().enumerate() {
                    out[t * self.codewords + j] = *value;
                }
            }
        }
        TransposedCodebooks {
            dim: self.dim,
            codewords: self.codewords,
            width: self.width,
            values,
            half_norms,
        }
    }
}

/// Transposed codebooks, laid out `subquantizers`×`width`×`words`, to search and to build look-up tables.
#[derive(Debug, Clone)]
pub struct TransposedCodebooks {
    dim: usize,
    codewords: usize,
    width: usize,
    values: Vec<f32>,
    half_norms: Vec<f32>,
}

impl TransposedCodebooks {
    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&self.values[..]) + size_of_val(&self.half_norms[..])
    }

    /// The codes of padded residuals (`rows`×`stride`), `subquantizers` bytes a row.
    pub fn encode(&self, residuals: &[f32], stride: usize, out: &mut [u8]) {
        let subquantizers = self.half_norms.len() / self.codewords.max(1);
        let books = self.values.chunks_exact(self.codewords * self.width);
        for (s, (book, half_norms)) in books
            .zip(self.half_norms.chunks_exact(self.codewords))
            .enumerate()
        {
            let rows = residuals.get(s * self.width..).unwrap_or_default();
            let search = CodewordSearch {
                rows,
                stride,
                width: self.width,
                codebook: book,
                half_norms,
            };
            (kernels().nearest_codewords)(
                &search,
                out.get_mut(s..).unwrap_or_default(),
                subquantizers,
            );
        }
    }

    /// Products of a query with all codewords, `subquantizers`×`words`.
    pub fn products(&self, query: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; self.half_norms.len()];
        let subquantizers = out.len() / self.codewords.max(1);
        let books = self.values.chunks_exact(self.codewords * self.width);
        let rows = out.chunks_exact_mut(self.codewords).zip(books);
        for (s, (out, book)) in rows.enumerate() {
            let part = query.get(range(self.dim, subquantizers, s));
            for (x, dim) in part
                .unwrap_or_default()
                .iter()
                .zip(book.chunks_exact(self.codewords))
            {
                for (o, c) in out.iter_mut().zip(dim) {
                    *o += x * c;
                }
            }
        }
        out
    }
}

/// The dimensions of a sub-space.
fn range(dim: usize, subquantizers: usize, subquantizer: usize) -> Range<usize> {
    let bound = |s: usize| s * dim / subquantizers.max(1);
    bound(subquantizer)..bound(subquantizer + 1)
}
