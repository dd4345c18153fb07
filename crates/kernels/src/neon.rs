//! NEON, which every 64-bit ARM has.
//!
//! The functions need no check of the machine, and every load and store below stays inside a fixed-size array.

use crate::{CodewordSearch, Kernels, LANES, Norms, ScoreParams, keys, scalar};
use std::arch::aarch64::*;

pub(crate) static KERNELS: Kernels = Kernels {
    name: "neon",
    dot,
    dot_rows,
    dot_rows_i8,
    matmul_i8,
    dot_packed7: scalar::dot_packed7,
    scan4,
    scan8,
    score_block,
    nearest_codewords,
    keys_in_range: keys::in_range,
};

fn load_f32(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: 4 floats are 16 readable bytes.
    unsafe { vld1q_f32(x.as_ptr()) }
}

fn store_f32(x: float32x4_t, to: &mut [f32; 4]) {
    // SAFETY: 4 floats are 16 writable bytes.
    unsafe { vst1q_f32(to.as_mut_ptr(), x) }
}

fn load_u32(x: &[u32; 4]) -> uint32x4_t {
    // SAFETY: 4 u32 are 16 readable bytes.
    unsafe { vld1q_u32(x.as_ptr()) }
}

fn store_u32(x: uint32x4_t, to: &mut [u32; 4]) {
    // SAFETY: 4 u32 are 16 writable bytes.
    unsafe { vst1q_u32(to.as_mut_ptr(), x) }
}

fn load_u8(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(x.as_ptr()) }
}

fn load_64(x: &[u8; 64]) -> uint8x16x4_t {
    // SAFETY: 64 readable bytes.
    unsafe { vld1q_u8_x4(x.as_ptr()) }
}

fn load_i8(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_s8(x.as_ptr()) }
}

fn load_u16(x: &[u16; 4]) -> uint16x4_t {
    // SAFETY: 4 u16 are 8 readable bytes.
    unsafe { vld1_u16(x.as_ptr()) }
}

fn store_u16(x: uint16x8_t, to: &mut [u16; 8]) {
    // SAFETY: 8 u16 are 16 writable bytes.
    unsafe { vst1q_u16(to.as_mut_ptr(), x) }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    // SAFETY: NEON belongs to every machine that this module is compiled for; so in all functions below.
    unsafe { dot_neon(&a[..len], &b[..len]) }
}

fn dot_rows(q: &[f32], rows: &[f32], out: &mut [f32]) {
    // SAFETY: as in `dot`.
    unsafe { dot_rows_neon(q, rows, out) }
}

fn matmul_i8(a: &[i8], b: &[i8], columns: usize, out: &mut [i32]) {
    scalar::matmul_i8_by_rows(dot_rows_i8, a, b, columns, out);
}

fn dot_rows_i8(q: &[i8], rows: &[i8], out: &mut [i32]) {
    // SAFETY: as in `dot`.
    unsafe { dot_rows_i8_neon(q, rows, out) }
}

fn scan4(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    // SAFETY: as in `dot`.
    unsafe { scan4_neon(codes, lut, sums) }
}

fn scan8(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    // SAFETY: as in `dot`.
    unsafe { scan8_neon(codes, lut, sums) }
}

fn score_block(
    sums: &[u16; LANES],
    scales: &[u8; LANES],
    norms: Option<&Norms>,
    a: &ScoreParams,
    threshold: f32,
    out: &mut [f32; LANES],
) -> u32 {
    // SAFETY: as in `dot`.
    unsafe { score_block_neon(sums, scales, norms, a, threshold, out) }
}

fn nearest_codewords(search: &CodewordSearch<'_>, out: &mut [u8], out_stride: usize) {
    let words = search.half_norms.len();
    let complete = search.codebook.len() >= words * search.width && search.stride >= search.width;
    if complete && search.width > 0 && words > 0 && words <= 256 && words.is_multiple_of(BLOCK) {
        // SAFETY: as in `dot`.
        unsafe { nearest_codewords_neon(search, out, out_stride.max(1)) }
    } else {
        scalar::nearest_codewords(search, out, out_stride);
    }
}

#[target_feature(enable = "neon")]
fn dot_neon(a: &[f32], b: &[f32]) -> f32 {
    let (wide_a, rest_a) = a.as_chunks::<16>();
    let (wide_b, rest_b) = b.as_chunks::<16>();
    let mut sums = [vdupq_n_f32(0.0); 4];
    for (x, y) in wide_a.iter().zip(wide_b) {
        let (x, y) = (x.as_chunks::<4>().0, y.as_chunks::<4>().0);
        for i in 0..4 {
            sums[i] = vfmaq_f32(sums[i], load_f32(&x[i]), load_f32(&y[i]));
        }
    }
    let (rest_a, tail_a) = rest_a.as_chunks::<4>();
    let (rest_b, tail_b) = rest_b.as_chunks::<4>();
    for (x, y) in rest_a.iter().zip(rest_b) {
        sums[0] = vfmaq_f32(sums[0], load_f32(x), load_f32(y));
    }
    let sum = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
    vaddvq_f32(sum) + tail_a.iter().zip(tail_b).map(|(x, y)| x * y).sum::<f32>()
}

/// Rows of `dot_rows` and `dot_rows_i8` that share the loads of the query.
const ROW_TILE: usize = 4;

#[target_feature(enable = "neon")]
fn dot_rows_neon(q: &[f32], rows: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let d = q.len().max(1);
    let whole = (rows.len() / d).min(out.len());
    let (fours, rest) = out[..whole].as_chunks_mut::<ROW_TILE>();
    let (rows, last) = rows.split_at(fours.len() * ROW_TILE * d);
    for (four, rows) in fours.iter_mut().zip(rows.chunks_exact(ROW_TILE * d)) {
        *four = dot4_neon(q, rows);
    }
    for (o, row) in rest.iter_mut().zip(last.chunks_exact(d)) {
        *o = dot_neon(q, row);
    }
}

/// Products of `q` with four rows of its length, one after the other in `rows`.
#[target_feature(enable = "neon")]
fn dot4_neon(q: &[f32], rows: &[f32]) -> [f32; ROW_TILE] {
    let (ab, ce) = rows.split_at(rows.len() / 2);
    let ((a, b), (c, e)) = (ab.split_at(ab.len() / 2), ce.split_at(ce.len() / 2));
    let (wide, tail) = q.as_chunks::<4>();
    let (a, a_tail) = a.as_chunks::<4>();
    let (b, b_tail) = b.as_chunks::<4>();
    let (c, c_tail) = c.as_chunks::<4>();
    let (e, e_tail) = e.as_chunks::<4>();
    let mut sums = [vdupq_n_f32(0.0); ROW_TILE];
    for ((((x, a), b), c), e) in wide.iter().zip(a).zip(b).zip(c).zip(e) {
        let x = load_f32(x);
        sums[0] = vfmaq_f32(sums[0], x, load_f32(a));
        sums[1] = vfmaq_f32(sums[1], x, load_f32(b));
        sums[2] = vfmaq_f32(sums[2], x, load_f32(c));
        sums[3] = vfmaq_f32(sums[3], x, load_f32(e));
    }
    let mut out = [0f32; ROW_TILE];
    let tails = [a_tail, b_tail, c_tail, e_tail];
    for ((o, sum), rest) in out.iter_mut().zip(sums).zip(tails) {
        *o = vaddvq_f32(sum) + tail.iter().zip(rest).map(|(x, y)| x * y).sum::<f32>();
    }
    out
}

#[target_feature(enable = "neon")]
fn dot_rows_i8_neon(q: &[i8], rows: &[i8], out: &mut [i32]) {
    out.fill(0);
    let d = q.len().max(1);
    let whole = (rows.len() / d).min(out.len());
    let (fours, rest) = out[..whole].as_chunks_mut::<ROW_TILE>();
    let (rows, last) = rows.split_at(fours.len() * ROW_TILE * d);
    for (four, rows) in fours.iter_mut().zip(rows.chunks_exact(ROW_TILE * d)) {
        *four = dot8x4_neon(q, rows);
    }
    for (o, row) in rest.iter_mut().zip(last.chunks_exact(d)) {
        let (x, tail) = q.as_chunks::<16>();
        let (y, row_tail) = row.as_chunks::<16>();
        let mut sum = vdupq_n_s32(0);
        for (x, y) in x.iter().zip(y) {
            sum = add_products8(sum, load_i8(x), load_i8(y));
        }
        *o = vaddvq_s32(sum).wrapping_add(scalar::dot8(tail, row_tail));
    }
}

/// Products of `q` with four rows of its length, one after the other in `rows`.
#[target_feature(enable = "neon")]
fn dot8x4_neon(q: &[i8], rows: &[i8]) -> [i32; ROW_TILE] {
    let (ab, ce) = rows.split_at(rows.len() / 2);
    let ((a, b), (c, e)) = (ab.split_at(ab.len() / 2), ce.split_at(ce.len() / 2));
    let (wide, tail) = q.as_chunks::<16>();
    let (a, a_tail) = a.as_chunks::<16>();
    let (b, b_tail) = b.as_chunks::<16>();
    let (c, c_tail) = c.as_chunks::<16>();
    let (e, e_tail) = e.as_chunks::<16>();
    let mut sums = [vdupq_n_s32(0); ROW_TILE];
    for ((((x, a), b), c), e) in wide.iter().zip(a).zip(b).zip(c).zip(e) {
        let x = load_i8(x);
        sums[0] = add_products8(sums[0], x, load_i8(a));
        sums[1] = add_products8(sums[1], x, load_i8(b));
        sums[2] = add_products8(sums[2], x, load_i8(c));
        sums[3] = add_products8(sums[3], x, load_i8(e));
    }
    let mut out = [0i32; ROW_TILE];
    let tails = [a_tail, b_tail, c_tail, e_tail];
    for ((o, sum), rest) in out.iter_mut().zip(sums).zip(tails) {
        *o = vaddvq_s32(sum).wrapping_add(scalar::dot8(tail, rest));
    }
    out
}

/// Adds 16 products, four to each sum. With 127 at the most, two of them fit 16 bits.
#[target_feature(enable = "neon")]
fn add_products8(sum: int32x4_t, x: int8x16_t, y: int8x16_t) -> int32x4_t {
    let twos = vmull_s8(vget_low_s8(x), vget_low_s8(y));
    vpadalq_s16(sum, vmlal_high_s8(twos, x, y))
}

/// Sums of 16 lanes.
#[derive(Clone, Copy)]
struct Sums([uint16x8_t; 2]);

impl Sums {
    #[target_feature(enable = "neon")]
    fn new() -> Self {
        Sums([vdupq_n_u16(0); 2])
    }

    #[target_feature(enable = "neon")]
    fn add(&mut self, bytes: uint8x16_t) {
        self.0[0] = vaddw_u8(self.0[0], vget_low_u8(bytes));
        self.0[1] = vaddw_high_u8(self.0[1], bytes);
    }
}

/// Stores the sums of the first and of the last 16 lanes.
#[target_feature(enable = "neon")]
fn store_sums(halves: [Sums; 2], to: &mut [u16; LANES]) {
    let eights = halves.iter().flat_map(|half| half.0);
    for (to, eight) in to.as_chunks_mut::<8>().0.iter_mut().zip(eights) {
        store_u16(eight, to);
    }
}

#[target_feature(enable = "neon")]
fn scan4_neon(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    let codes = codes.as_chunks::<16>().0;
    let tables = lut.as_chunks::<16>().0;
    let (mut low, mut high) = (Sums::new(), Sums::new());
    for (code, table) in codes.iter().zip(tables) {
        let (code, table) = (load_u8(code), load_u8(table));
        low.add(vqtbl1q_u8(table, vandq_u8(code, vdupq_n_u8(15))));
        high.add(vqtbl1q_u8(table, vshrq_n_u8::<4>(code)));
    }
    store_sums([low, high], sums);
}

#[target_feature(enable = "neon")]
fn scan8_neon(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    let codes = codes.as_chunks::<LANES>().0;
    let tables = lut.as_chunks::<256>().0;
    let mut total = [Sums::new(); 2];
    for (code, table) in codes.iter().zip(tables) {
        for (sum, code) in total.iter_mut().zip(code.as_chunks::<16>().0) {
            sum.add(look_up_256(load_u8(code), table));
        }
    }
    store_sums(total, sums);
}

/// 16 look-ups in a table of 256 bytes, a quarter of it at a time: outside of a quarter, a look-up leaves a lane alone.
#[target_feature(enable = "neon")]
fn look_up_256(code: uint8x16_t, table: &[u8; 256]) -> uint8x16_t {
    let (mut found, mut at) = (vdupq_n_u8(0), code);
    for quarter in table.as_chunks::<64>().0 {
        found = vqtbx4q_u8(found, load_64(quarter), at);
        at = vsubq_u8(at, vdupq_n_u8(64));
    }
    found
}

#[target_feature(enable = "neon")]
fn score_block_neon(
    sums: &[u16; LANES],
    scales: &[u8; LANES],
    norms: Option<&Norms>,
    a: &ScoreParams,
    threshold: f32,
    out: &mut [f32; LANES],
) -> u32 {
    let (base, delta) = (vdupq_n_f32(a.base), vdupq_n_f32(a.delta));
    let (lo, step) = (
        vdupq_n_f32(a.correction_min),
        vdupq_n_f32(a.correction_step),
    );
    let mut norms = norms.map(|n| n.as_chunks::<16>().0.iter());
    let fours = sums
        .as_chunks::<4>()
        .0
        .iter()
        .zip(scales.as_chunks::<4>().0);
    let mut mask = 0;
    for (i, ((sum, scale), o)) in fours.zip(out.as_chunks_mut::<4>().0).enumerate() {
        let sum = vcvtq_f32_u32(vmovl_u16(load_u16(sum)));
        let scale = vcvtq_f32_u32(vmovl_u16(load_u16(&scale.map(u16::from))));
        let mut score = vmulq_f32(vfmaq_f32(lo, step, scale), vfmaq_f32(base, delta, sum));
        if let Some(norms) = &mut norms
            && let Some(norm) = norms.next()
        {
            // The bytes are little-endian, as the machine is wherever this module is compiled.
            let norm = vreinterpretq_f32_u8(load_u8(norm));
            score = vsubq_f32(vaddq_f32(score, score), norm);
        }
        store_f32(score, o);
        mask |= not_below(score, threshold) << (4 * i);
    }
    mask
}

/// A bit a lane: whether it is not below the threshold.
#[target_feature(enable = "neon")]
fn not_below(score: float32x4_t, threshold: f32) -> u32 {
    let below = vcltq_f32(score, vdupq_n_f32(threshold));
    vaddvq_u32(vbicq_u32(load_u32(&[1, 2, 4, 8]), below))
}

/// Codewords that are compared with a row at once.
const BLOCK: usize = 16;

/// Needs `codebook.len() ≥ words·width`, `stride ≥ width > 0`, and 16 to 256 words in whole sixteens.
#[target_feature(enable = "neon")]
fn nearest_codewords_neon(search: &CodewordSearch<'_>, out: &mut [u8], out_stride: usize) {
    let words = search.half_norms.len();
    let rows = search.rows.chunks(search.stride);
    for (row, code) in rows.zip(out.iter_mut().step_by(out_stride)) {
        let row = &row[..row.len().min(search.width)];
        let mut best = vdupq_n_f32(f32::INFINITY);
        let (mut best_at, mut at) = (vdupq_n_u32(0), vdupq_n_u32(0));
        for (block, half) in search.half_norms.as_chunks::<BLOCK>().0.iter().enumerate() {
            let half = half.as_chunks::<4>().0;
            let mut costs = [vdupq_n_f32(0.0); BLOCK / 4];
            for (cost, half) in costs.iter_mut().zip(half) {
                *cost = load_f32(half);
            }
            for (x, dim) in row.iter().zip(search.codebook.chunks_exact(words)) {
                let x = vdupq_n_f32(*x);
                let dim = dim.as_chunks::<BLOCK>().0[block].as_chunks::<4>().0;
                for (cost, dim) in costs.iter_mut().zip(dim) {
                    *cost = vfmsq_f32(*cost, x, load_f32(dim));
                }
            }
            for cost in costs {
                let better = vcltq_f32(cost, best);
                best = vbslq_f32(better, cost, best);
                best_at = vbslq_u32(better, at, best_at);
                at = vaddq_u32(at, vdupq_n_u32(1));
            }
        }
        *code = word_of_min(best, best_at);
    }
}

/// The codeword of the smallest cost, `at` counting fours of them; the first one when nothing compares.
#[target_feature(enable = "neon")]
fn word_of_min(best: float32x4_t, at: uint32x4_t) -> u8 {
    let (mut costs, mut fours) = ([0f32; 4], [0u32; 4]);
    store_f32(best, &mut costs);
    store_u32(at, &mut fours);
    let mut first = (f32::INFINITY, 0);
    for (lane, (cost, four)) in costs.into_iter().zip(fours).enumerate() {
        if cost < first.0 {
            first = (cost, 4 * four as usize + lane);
        }
    }
    // At most 256 words, so the index fits.
    first.1 as u8
}
