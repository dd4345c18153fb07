//! Inner loops of scoring: dot products and look-up-table scans, one table of functions chosen at run time.
//!
//! Codes are kept in blocks of [`LANES`] rows, as [`block`] describes. Padding sub-quantizers have a look-up table of zeros.
//!
//! # Lengths
//! Every function takes slices and stays inside them: what the shorter slice does not cover is left out of the sum, so
//! a wrong length gives a wrong number, never undefined behavior and never a panic.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod block;
pub mod keys;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod packed;
mod scalar;
mod self_test;

pub use block::LANES;
pub use packed::{BYTES as PACKED_BYTES, VALUES as PACKED_VALUES, pack7, unpack7};

use std::sync::OnceLock;

/// Parameters that turn the look-up-table sums of a block into scores; FAISS calls them normalizers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreParams {
    /// `q·O[list] + lut_bias`: what every row of the list shares.
    pub base: f32,
    /// Value of one step of the look-up table.
    pub delta: f32,
    /// Norm correction of correction byte 0.
    pub correction_min: f32,
    /// Norm correction per step of the correction byte.
    pub correction_step: f32,
}

/// Input of a product quantizer's encoding: sub-vectors of rows and one codebook; see [`Kernels::nearest_codewords`].
#[derive(Debug, Clone, Copy)]
pub struct CodewordSearch<'a> {
    /// Row-major rows; row `i` starts at `i·stride`.
    pub rows: &'a [f32],
    /// Distance between the starts of two rows.
    pub stride: usize,
    /// Length of the sub-vector at the start of each row.
    pub width: usize,
    /// Codebook by dimension: entry `t·words + j` is dimension `t` of codeword `j`.
    pub codebook: &'a [f32],
    /// Half the squared norm of each codeword; its length is the number of codewords (1..=256).
    pub half_norms: &'a [f32],
}

/// Bytes as signed numbers.
pub fn signed(bytes: &[u8]) -> &[i8] {
    // SAFETY: both types have one byte, any value of which is valid.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// Prefetches `bytes` bytes from `start`. The address need not be valid. Does nothing where there is no such instruction.
#[inline]
pub fn prefetch<T>(start: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        // SAFETY: a hint that has no effect on what the program does, wherever it points to.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(start.cast::<i8>().wrapping_add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}

/// Squared norms of a block's rows, little-endian `f32`.
pub type Norms = [u8; 4 * LANES];

/// Type of [`Kernels::score_block`]: sums, scale bytes, norms, parameters, threshold, scores.
pub type ScoreBlockFn =
    fn(&[u16; LANES], &[u8; LANES], Option<&Norms>, &ScoreParams, f32, &mut [f32; LANES]) -> u32;

/// One implementation of all inner loops.
#[derive(Debug)]
pub struct Kernels {
    /// Name of the instruction set, for reports.
    pub name: &'static str,
    /// Dot product over the shorter of the two lengths.
    pub dot: fn(&[f32], &[f32]) -> f32,
    /// `dot_rows(q, rows, out)`: `out[i] = row_i·q`; `rows` is row-major with `q.len()` columns. Missing rows give 0.
    pub dot_rows: fn(&[f32], &[f32], &mut [f32]),
    /// `dot_rows_i8(q, rows, out)`: as `dot_rows`, of integers. Exact for values of -127 to 127 and at most 2^17 columns;
    /// other input gives a wrong number.
    pub dot_rows_i8: fn(&[i8], &[i8], &mut [i32]),
    /// `matmul_i8(a, b, columns, out)`: `a·bᵀ` of row-major matrices, for as many rows of `a` as fit `out`. Exact as
    /// `dot_rows_i8` is.
    pub matmul_i8: fn(&[i8], &[i8], usize, &mut [i32]),
    /// `dot_packed7(q, packed)`: products of a packed vector ([`pack7`]) with `q` and with itself, over the whole blocks that
    /// both have. Exact as `dot_rows_i8` is.
    pub dot_packed7: fn(&[i8], &[u8]) -> [i32; 2],
    /// `scan4(codes, lut, sums)`: sums of one block of 4-bit codes. Both slices hold 16 bytes a sub-quantizer.
    /// Sums wrap at 65536.
    pub scan4: fn(&[u8], &[u8], &mut [u16; LANES]),
    /// `scan8(codes, lut, sums)`: sums of one block of 8-bit codes. `codes` holds 32, `lut` 256 bytes a sub-quantizer.
    /// Sums wrap at 65536.
    pub scan8: fn(&[u8], &[u8], &mut [u16; LANES]),
    /// `score_block(sums, scales, norms, params, threshold, out)`: scores of 32 rows, `(correction_min +
    /// correction_step·scale)·(base + delta·sum)`, and with `norms` (little-endian `f32`) twice that minus the norm. Returns
    /// a mask with one bit per lane, the lowest for lane 0: set if the score is not below the threshold. A NaN sets it.
    pub score_block: ScoreBlockFn,
    /// `nearest_codewords(search, out, out_stride)`: for each row `i` the codeword that is nearest in L2, written to
    /// `out[i·out_stride]`. Covers as many rows as both sides have.
    pub nearest_codewords: fn(&CodewordSearch<'_>, &mut [u8], usize),
    /// `keys_in_range(keys, width, min, max)`: a mask of the lanes of a block whose keys of `width` bytes ([`keys`]) lie in a range,
    /// ends included. Missing keys are 0.
    pub keys_in_range: fn(&[u8], u8, u64, u64) -> u32,
}

static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();

/// The table for this machine, chosen once: the fastest that passes its self-test against the portable one.
pub fn kernels() -> &'static Kernels {
    CHOSEN.get_or_init(|| choose(&supported()))
}

/// Makes [`kernels`] return the portable table, for tests that compare results of different machines. Returns false if
/// another table was chosen before.
pub fn use_portable() -> bool {
    std::ptr::eq(*CHOSEN.get_or_init(|| &scalar::KERNELS), &scalar::KERNELS)
}

/// The last table that passes the self-test.
fn choose(tables: &[&'static Kernels]) -> &'static Kernels {
    let mut fastest_first = tables.iter().rev();
    let passing = fastest_first.find(|table| self_test::passes(table, &scalar::KERNELS));
    passing.copied().unwrap_or(&scalar::KERNELS)
}

/// All tables that this machine can run, slowest first, whether they pass the self-test or not; for tests and benches.
pub fn supported() -> Vec<&'static Kernels> {
    #[allow(unused_mut)]
    let mut tables = vec![&scalar::KERNELS];
    #[cfg(target_arch = "x86_64")]
    tables.extend(avx2::kernels().into_iter().chain(avx512::kernels()));
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    tables.push(&neon::KERNELS);
    tables
}
