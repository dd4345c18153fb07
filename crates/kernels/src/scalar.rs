//! The portable table; what the others must agree with.

use crate::packed::{self, BYTES, VALUES};
use crate::{CodewordSearch, Kernels, LANES, Norms, ScoreParams, keys};

pub(crate) static KERNELS: Kernels = Kernels {
    name: "scalar",
    dot,
    dot_rows,
    dot_rows_i8,
    matmul_i8,
    dot_packed7,
    scan4,
    scan8,
    score_block,
    nearest_codewords,
    keys_in_range: keys::in_range,
};

/// Partial sums kept side by side, so that the compiler can vectorize.
const WIDE: usize = 8;

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let mut sums = [0f32; WIDE];
    let (ac, at) = a.as_chunks::<WIDE>();
    let (bc, bt) = b.as_chunks::<WIDE>();
    for (x, y) in ac.iter().zip(bc) {
        for i in 0..WIDE {
            sums[i] += x[i] * y[i];
        }
    }
    let tail: f32 = at.iter().zip(bt).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + tail
}

pub(crate) fn dot_rows(q: &[f32], rows: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    if q.is_empty() {
        return;
    }
    for (o, row) in out.iter_mut().zip(rows.chunks_exact(q.len())) {
        *o = dot(q, row);
    }
}

pub(crate) fn dot_rows_i8(q: &[i8], rows: &[i8], out: &mut [i32]) {
    out.fill(0);
    if q.is_empty() {
        return;
    }
    for (o, row) in out.iter_mut().zip(rows.chunks_exact(q.len())) {
        *o = dot8(q, row);
    }
}

/// Product of two rows of integers; wraps where it is not exact.
pub(crate) fn dot8(a: &[i8], b: &[i8]) -> i32 {
    let products = a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y));
    products.fold(0, i32::wrapping_add)
}

fn matmul_i8(a: &[i8], b: &[i8], columns: usize, out: &mut [i32]) {
    matmul_i8_by_rows(dot_rows_i8, a, b, columns, out);
}

/// [`Kernels::matmul_i8`] by the products of one row after the other.
pub(crate) fn matmul_i8_by_rows(
    dot_rows_i8: impl Fn(&[i8], &[i8], &mut [i32]),
    a: &[i8],
    b: &[i8],
    columns: usize,
    out: &mut [i32],
) {
    out.fill(0);
    let columns = columns.max(1);
    let rows = out.chunks_exact_mut((b.len() / columns).max(1));
    for (row, out) in a.chunks_exact(columns).zip(rows) {
        dot_rows_i8(row, b, out);
    }
}

pub(crate) fn dot_packed7(q: &[i8], packed: &[u8]) -> [i32; 2] {
    let mut sums = [0i32; 2];
    let blocks = packed.as_chunks::<BYTES>().0;
    for (q, block) in q.as_chunks::<VALUES>().0.iter().zip(blocks) {
        let values = packed::values(block);
        sums[0] = sums[0].wrapping_add(dot8(q, &values));
        sums[1] = sums[1].wrapping_add(dot8(&values, &values));
    }
    sums
}

pub(crate) fn scan4(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    sums.fill(0);
    let (codes, _) = codes.as_chunks::<16>();
    let (lut, _) = lut.as_chunks::<16>();
    for (code, table) in codes.iter().zip(lut) {
        for (j, c) in code.iter().enumerate() {
            sums[j] = sums[j].wrapping_add(u16::from(table[usize::from(c & 15)]));
            sums[j + 16] = sums[j + 16].wrapping_add(u16::from(table[usize::from(c >> 4)]));
        }
    }
}

pub(crate) fn scan8(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    sums.fill(0);
    let (codes, _) = codes.as_chunks::<LANES>();
    let (lut, _) = lut.as_chunks::<256>();
    for (code, table) in codes.iter().zip(lut) {
        for (sum, c) in sums.iter_mut().zip(code) {
            *sum = sum.wrapping_add(u16::from(table[usize::from(*c)]));
        }
    }
}

pub(crate) fn score_block(
    sums: &[u16; LANES],
    scales: &[u8; LANES],
    norms: Option<&Norms>,
    a: &ScoreParams,
    threshold: f32,
    out: &mut [f32; LANES],
) -> u32 {
    for ((o, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
        *o = (a.correction_min + a.correction_step * f32::from(*scale))
            * (a.base + a.delta * f32::from(*sum));
    }
    if let Some(norms) = norms {
        for (o, norm) in out.iter_mut().zip(norms.as_chunks::<4>().0) {
            *o = 2.0 * *o - f32::from_le_bytes(*norm);
        }
    }
    let below = |score: &f32| *score < threshold;
    let lanes = out.iter().enumerate();
    lanes.fold(0, |mask, (i, score)| mask | u32::from(!below(score)) << i)
}

pub(crate) fn nearest_codewords(search: &CodewordSearch<'_>, out: &mut [u8], out_stride: usize) {
    let words = search.half_norms.len().min(256);
    if words == 0 || search.width == 0 {
        return;
    }
    let mut costs = [0f32; 256];
    let costs = &mut costs[..words];
    let rows = search.rows.chunks(search.stride.max(1));
    for (row, code) in rows.zip(out.iter_mut().step_by(out_stride.max(1))) {
        costs.copy_from_slice(&search.half_norms[..words]);
        for (x, dim) in row
            .iter()
            .take(search.width)
            .zip(search.codebook.chunks_exact(words))
        {
            for (cost, c) in costs.iter_mut().zip(dim) {
                *cost -= x * c;
            }
        }
        *code = arg_min(costs);
    }
}

/// Index of the smallest value, the first of equals; 0 when nothing compares.
fn arg_min(costs: &[f32]) -> u8 {
    let mut best = (f32::INFINITY, 0);
    for (j, cost) in costs.iter().enumerate() {
        if *cost < best.0 {
            best = (*cost, j);
        }
    }
    // At most 256 costs, so the index fits.
    best.1 as u8
}
