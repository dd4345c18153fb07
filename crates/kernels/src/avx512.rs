//! AVX-512 as Ice Lake and Zen 4 brought it: F, BW, VL and DQ with VBMI and VNNI.
//!
//! Older machines have AVX-512 without the last two, lower their clock for it, and keep the AVX2 table. The table takes
//! function of AVX2 over where wider registers gain next to nothing: `nearest_codewords` is a small part of any build.
//!
//! What is said of safety in `avx2.rs` holds here too; loads of incomplete registers leave the missing elements alone.

use crate::avx2::{self, ByteSums, fold, load_32, store_halves};
use crate::packed::{BYTES as PACKED_BYTES, SHIFT, VALUES as PACKED_VALUES, spread};
use crate::{Kernels, LANES, Norms, ScoreParams, keys, scalar, signed};
use std::arch::x86_64::*;

static KERNELS: Kernels = Kernels {
    name: "avx512",
    dot,
    dot_rows,
    dot_rows_i8,
    matmul_i8,
    dot_packed7,
    scan4,
    scan8,
    score_block,
    nearest_codewords: avx2::nearest_codewords,
    keys_in_range: keys::in_range_avx2,
};

/// The table, if this machine can run it.
pub(crate) fn kernels() -> Option<&'static Kernels> {
    let here = avx2::kernels().is_some()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni");
    here.then_some(&KERNELS)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the table is only reachable through `kernels`, which has seen all that the function is compiled for.
    unsafe { dot_avx512(a, b) }
}

fn dot_rows(q: &[f32], rows: &[f32], out: &mut [f32]) {
    // SAFETY: as in `dot`.
    unsafe { dot_rows_avx512(q, rows, out) }
}

fn dot_rows_i8(q: &[i8], rows: &[i8], out: &mut [i32]) {
    // SAFETY: as in `dot`.
    unsafe { dot_rows_i8_avx512(q, rows, out) }
}

fn matmul_i8(a: &[i8], b: &[i8], columns: usize, out: &mut [i32]) {
    // SAFETY: as in `dot`.
    unsafe { matmul_i8_avx512(a, b, columns, out) }
}

fn dot_packed7(q: &[i8], packed: &[u8]) -> [i32; 2] {
    // SAFETY: as in `dot`.
    unsafe { dot_packed7_avx512(q, packed) }
}

fn scan4(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    // SAFETY: as in `dot`.
    unsafe { scan4_avx512(codes, lut, sums) }
}

fn scan8(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    // SAFETY: as in `dot`.
    unsafe { scan8_avx512(codes, lut, sums) }
}

fn score_block(
    sums: &[u16; LANES],
    scales: &[u8; LANES],
    norms: Option<&Norms>,
    params: &ScoreParams,
    threshold: f32,
    out: &mut [f32; LANES],
) -> u32 {
    // SAFETY: as in `dot`.
    unsafe { score_block_avx512(sums, scales, norms, params, threshold, out) }
}

/// Floats in a register.
const FLOATS: usize = 16;
/// Bytes in a register.
const BYTES: usize = 64;

#[target_feature(enable = "avx512f")]
fn load_f32(x: &[f32; FLOATS]) -> __m512 {
    // SAFETY: 16 floats are 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// The first floats of a register; the others are 0.
#[target_feature(enable = "avx512f")]
fn load_some_f32(x: &[f32]) -> __m512 {
    let mask = (1u32 << x.len().min(FLOATS)) - 1;
    // SAFETY: the mask has a bit for no more floats than the slice has, and the load touches no others.
    unsafe { _mm512_maskz_loadu_ps(mask as __mmask16, x.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn load_u8(x: &[u8; BYTES]) -> __m512i {
    // SAFETY: 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load_i8(x: &[i8; BYTES]) -> __m512i {
    // SAFETY: 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The first bytes of a register; the others are 0.
#[target_feature(enable = "avx512f,avx512bw")]
fn load_some_i8(x: &[i8]) -> __m512i {
    let mask = 1u64
        .checked_shl(x.len() as u32)
        .map_or(u64::MAX, |end| end - 1);
    // SAFETY: the mask has a bit for no more bytes than the slice has, and the load touches no others.
    unsafe { _mm512_maskz_loadu_epi8(mask, x.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let (wide_a, rest_a) = a.as_chunks::<{ 4 * FLOATS }>();
    let (wide_b, rest_b) = b.as_chunks::<{ 4 * FLOATS }>();
    let mut sums = [_mm512_setzero_ps(); 4];
    for (x, y) in wide_a.iter().zip(wide_b) {
        let (x, y) = (x.as_chunks::<FLOATS>().0, y.as_chunks::<FLOATS>().0);
        for i in 0..4 {
            sums[i] = _mm512_fmadd_ps(load_f32(&x[i]), load_f32(&y[i]), sums[i]);
        }
    }
    for (x, y) in rest_a.chunks(FLOATS).zip(rest_b.chunks(FLOATS)) {
        sums[0] = _mm512_fmadd_ps(load_some_f32(x), load_some_f32(y), sums[0]);
    }
    let pairs = (
        _mm512_add_ps(sums[0], sums[1]),
        _mm512_add_ps(sums[2], sums[3]),
    );
    _mm512_reduce_add_ps(_mm512_add_ps(pairs.0, pairs.1))
}

/// Rows of `dot_rows` and `dot_rows_i8` that share the loads of the query.
const ROW_TILE: usize = 4;

#[target_feature(enable = "avx512f")]
fn dot_rows_avx512(q: &[f32], rows: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let d = q.len().max(1);
    let whole = (rows.len() / d).min(out.len());
    let (fours, rest) = out[..whole].as_chunks_mut::<ROW_TILE>();
    let (rows, last) = rows.split_at(fours.len() * ROW_TILE * d);
    for (four, rows) in fours.iter_mut().zip(rows.chunks_exact(ROW_TILE * d)) {
        *four = dot4_avx512(q, rows);
    }
    for (o, row) in rest.iter_mut().zip(last.chunks_exact(d)) {
        *o = dot_avx512(q, row);
    }
}

/// Products of `q` with four rows of its length, one after the other in `rows`.
#[target_feature(enable = "avx512f")]
fn dot4_avx512(q: &[f32], rows: &[f32]) -> [f32; ROW_TILE] {
    let (ab, ce) = rows.split_at(rows.len() / 2);
    let ((a, b), (c, e)) = (ab.split_at(ab.len() / 2), ce.split_at(ce.len() / 2));
    let (wide, tail) = q.as_chunks::<FLOATS>();
    let (a, a_tail) = a.as_chunks::<FLOATS>();
    let (b, b_tail) = b.as_chunks::<FLOATS>();
    let (c, c_tail) = c.as_chunks::<FLOATS>();
    let (e, e_tail) = e.as_chunks::<FLOATS>();
    let tail = load_some_f32(tail);
    let tails = [a_tail, b_tail, c_tail, e_tail];
    let mut sums = [_mm512_setzero_ps(); ROW_TILE];
    for (sum, rest) in sums.iter_mut().zip(tails) {
        *sum = _mm512_mul_ps(tail, load_some_f32(rest));
    }
    for ((((x, a), b), c), e) in wide.iter().zip(a).zip(b).zip(c).zip(e) {
        let x = load_f32(x);
        sums[0] = _mm512_fmadd_ps(x, load_f32(a), sums[0]);
        sums[1] = _mm512_fmadd_ps(x, load_f32(b), sums[1]);
        sums[2] = _mm512_fmadd_ps(x, load_f32(c), sums[2]);
        sums[3] = _mm512_fmadd_ps(x, load_f32(e), sums[3]);
    }
    let mut out = [0f32; ROW_TILE];
    for (o, sum) in out.iter_mut().zip(sums) {
        *o = _mm512_reduce_add_ps(sum);
    }
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_rows_i8_avx512(q: &[i8], rows: &[i8], out: &mut [i32]) {
    out.fill(0);
    let d = q.len().max(1);
    let whole = (rows.len() / d).min(out.len());
    let (fours, rest) = out[..whole].as_chunks_mut::<ROW_TILE>();
    let (rows, last) = rows.split_at(fours.len() * ROW_TILE * d);
    let excess = excess8(q);
    for (four, rows) in fours.iter_mut().zip(rows.chunks_exact(ROW_TILE * d)) {
        *four = dot8x4_avx512(q, rows, excess);
    }
    for (o, row) in rest.iter_mut().zip(last.chunks_exact(d)) {
        *o = dot8_avx512(q, row, excess);
    }
}

/// What raising a row by 128 adds to its product with `q`: the same for each row.
fn excess8(q: &[i8]) -> i32 {
    q.iter()
        .fold(0i32, |sum, x| sum.wrapping_add(128 * i32::from(*x)))
}

/// Adds products of `x` with a row of which 128 is too much. The instruction multiplies unsigned by signed bytes; the
/// row is made unsigned by raising it by 128, which for a byte is to flip its top bit.
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_raised(sum: __m512i, x: __m512i, row: __m512i) -> __m512i {
    let raised = _mm512_xor_si512(row, _mm512_set1_epi8(i8::MIN));
    _mm512_dpbusd_epi32(sum, raised, x)
}

/// Product of `q` with one row of its length.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot8_avx512(q: &[i8], row: &[i8], excess: i32) -> i32 {
    let mut sum = _mm512_setzero_si512();
    for (x, y) in q.chunks(BYTES).zip(row.chunks(BYTES)) {
        sum = add_raised(sum, load_some_i8(x), load_some_i8(y));
    }
    _mm512_reduce_add_epi32(sum).wrapping_sub(excess)
}

/// Products of `q` with four rows of its length, one after the other in `rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot8x4_avx512(q: &[i8], rows: &[i8], excess: i32) -> [i32; ROW_TILE] {
    let (ab, ce) = rows.split_at(rows.len() / 2);
    let ((a, b), (c, e)) = (ab.split_at(ab.len() / 2), ce.split_at(ce.len() / 2));
    let (wide, tail) = q.as_chunks::<BYTES>();
    let (a, a_tail) = a.as_chunks::<BYTES>();
    let (b, b_tail) = b.as_chunks::<BYTES>();
    let (c, c_tail) = c.as_chunks::<BYTES>();
    let (e, e_tail) = e.as_chunks::<BYTES>();
    let mut sums = [_mm512_setzero_si512(); ROW_TILE];
    for ((((x, a), b), c), e) in wide.iter().zip(a).zip(b).zip(c).zip(e) {
        let x = load_i8(x);
        sums[0] = add_raised(sums[0], x, load_i8(a));
        sums[1] = add_raised(sums[1], x, load_i8(b));
        sums[2] = add_raised(sums[2], x, load_i8(c));
        sums[3] = add_raised(sums[3], x, load_i8(e));
    }
    if !tail.is_empty() {
        let x = load_some_i8(tail);
        for (sum, rest) in sums.iter_mut().zip([a_tail, b_tail, c_tail, e_tail]) {
            *sum = add_raised(*sum, x, load_some_i8(rest));
        }
    }
    four_sums(sums, excess)
}

/// The sum of each register, less something.
#[target_feature(enable = "avx512f")]
fn four_sums(sums: [__m512i; ROW_TILE], less: i32) -> [i32; ROW_TILE] {
    let halved = sums.map(|sum| {
        let high = _mm512_extracti64x4_epi64::<1>(sum);
        _mm256_add_epi32(_mm512_castsi512_si256(sum), high)
    });
    avx2::four_sums(halved, less.wrapping_neg())
}

/// Four rows by four, which share all loads; what is left over, row by row.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn matmul_i8_avx512(a: &[i8], b: &[i8], columns: usize, out: &mut [i32]) {
    let width = b.len() / columns.max(1);
    if columns == 0 || width == 0 {
        return out.fill(0);
    }
    let whole = width / ROW_TILE * ROW_TILE;
    let (fours, rest) = b.split_at(whole * columns);
    let blocks = out.len() / (ROW_TILE * width);
    let blocks = blocks.min(a.len() / (ROW_TILE * columns));
    let (out, last) = out.split_at_mut(blocks * ROW_TILE * width);
    let (a, last_a) = a.split_at(blocks * ROW_TILE * columns);
    let rows = a.chunks_exact(ROW_TILE * columns);
    for (a, out) in rows.zip(out.chunks_exact_mut(ROW_TILE * width)) {
        let (first, second) = out.split_at_mut(2 * width);
        let ((o0, o1), (o2, o3)) = (first.split_at_mut(width), second.split_at_mut(width));
        let outs = o0.as_chunks_mut().0.iter_mut().zip(o1.as_chunks_mut().0);
        let outs = outs.zip(o2.as_chunks_mut().0.iter_mut().zip(o3.as_chunks_mut().0));
        let [e0, e1, e2, e3] = four_rows(a, columns).map(excess8);
        for (b, ((o0, o1), (o2, o3))) in fours.chunks_exact(ROW_TILE * columns).zip(outs) {
            let [s0, s1, s2, s3] = tile8_avx512(four_rows(a, columns), four_rows(b, columns));
            *o0 = four_sums(s0, e0);
            *o1 = four_sums(s1, e1);
            *o2 = four_sums(s2, e2);
            *o3 = four_sums(s3, e3);
        }
        for (a, out) in a.chunks_exact(columns).zip(out.chunks_exact_mut(width)) {
            dot_rows_i8_avx512(a, rest, &mut out[whole..]);
        }
    }
    scalar::matmul_i8_by_rows(dot_rows_i8, last_a, b, columns, last);
}

/// Four rows that lie one behind the other.
fn four_rows(rows: &[i8], columns: usize) -> [&[i8]; ROW_TILE] {
    std::array::from_fn(|i| rows.get(i * columns..(i + 1) * columns).unwrap_or_default())
}

/// Adds the products of each register of `a` with each of `b` that is raised by 128.
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_products(
    sums: &mut [[__m512i; ROW_TILE]; ROW_TILE],
    a: [__m512i; ROW_TILE],
    b: [__m512i; ROW_TILE],
) {
    for (j, b) in b.into_iter().enumerate() {
        let raised = _mm512_xor_si512(b, _mm512_set1_epi8(i8::MIN));
        for (sums, a) in sums.iter_mut().zip(a) {
            sums[j] = _mm512_dpbusd_epi32(sums[j], raised, a);
        }
    }
}

/// Sums for the products of each of four rows with each of four that are raised by 128; all of the same length.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile8_avx512(a: [&[i8]; ROW_TILE], b: [&[i8]; ROW_TILE]) -> [[__m512i; ROW_TILE]; ROW_TILE] {
    let mut sums = [[_mm512_setzero_si512(); ROW_TILE]; ROW_TILE];
    let whole = a[0].len() / BYTES;
    let [a0, a1, a2, a3] = a.map(|row| &row.as_chunks().0[..whole]);
    let [b0, b1, b2, b3] = b.map(|row| &row.as_chunks().0[..whole]);
    for k in 0..whole {
        let b = [
            load_i8(&b0[k]),
            load_i8(&b1[k]),
            load_i8(&b2[k]),
            load_i8(&b3[k]),
        ];
        let a = [
            load_i8(&a0[k]),
            load_i8(&a1[k]),
            load_i8(&a2[k]),
            load_i8(&a3[k]),
        ];
        add_products(&mut sums, a, b);
    }
    if !a[0].len().is_multiple_of(BYTES) {
        let rest = |row: &[i8]| load_some_i8(&row[whole * BYTES..]);
        let (a, b) = (a.map(rest), b.map(rest));
        add_products(&mut sums, a, b);
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_packed7_avx512(q: &[i8], packed: &[u8]) -> [i32; 2] {
    let mut sums = [_mm512_setzero_si512(); 2];
    // What comes of the stored values being 64 larger.
    let mut excess = sums;
    let (low, shift) = (_mm512_set1_epi8(0x7f), _mm512_set1_epi8(SHIFT as i8));
    let blocks = packed.as_chunks::<PACKED_BYTES>().0;
    for (x, block) in q.as_chunks::<PACKED_VALUES>().0.iter().zip(blocks) {
        let (x, block) = (load_i8(x), load_some_u8(block));
        let high = spread(_mm512_movepi8_mask(block));
        let stored = _mm512_and_si512(block, low);
        let stored = _mm512_mask_set1_epi64(stored, 0x80, high.cast_signed());
        let values = _mm512_sub_epi8(stored, shift);
        sums[0] = _mm512_dpbusd_epi32(sums[0], stored, x);
        sums[1] = _mm512_dpbusd_epi32(sums[1], stored, values);
        excess[0] = _mm512_dpbusd_epi32(excess[0], shift, x);
        excess[1] = _mm512_dpbusd_epi32(excess[1], shift, values);
    }
    let both = [0, 1].map(|i| _mm512_sub_epi32(sums[i], excess[i]));
    both.map(|sum| _mm512_reduce_add_epi32(sum))
}

/// The first bytes of a register; the others are 0.
#[target_feature(enable = "avx512f,avx512bw")]
fn load_some_u8(x: &[u8]) -> __m512i {
    load_some_i8(signed(x))
}

/// As [`ByteSums`], of 64 bytes.
#[derive(Clone, Copy)]
struct WideSums {
    both: __m512i,
    odd: __m512i,
}

impl WideSums {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new() -> Self {
        WideSums {
            both: _mm512_setzero_si512(),
            odd: _mm512_setzero_si512(),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(&mut self, bytes: __m512i) {
        self.both = _mm512_add_epi16(self.both, bytes);
        self.odd = _mm512_add_epi16(self.odd, _mm512_srli_epi16::<8>(bytes));
    }

    /// The sums of 16 lanes over the four sub-quantizers in the quarters of the register.
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
    fn total(self) -> __m256i {
        let even = _mm512_sub_epi16(self.both, _mm512_slli_epi16::<8>(self.odd));
        let (even, odd) = (fold(halve(even)), fold(halve(self.odd)));
        _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd))
    }
}

/// Adds the two halves of a register.
#[target_feature(enable = "avx512f,avx2,fma")]
fn halve(x: __m512i) -> __m256i {
    _mm256_add_epi16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x))
}

/// 128 look-ups in a dozen instructions: each quarter of a register has a sub-quantizer's table and codes.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
fn scan4_avx512(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    let len = codes.len().min(lut.len()) / 16 * 16;
    let (wide_codes, last_codes) = codes[..len].as_chunks::<BYTES>();
    let (wide_tables, last_tables) = lut[..len].as_chunks::<BYTES>();
    let nibble = _mm512_set1_epi8(15);
    let (mut low, mut high) = (WideSums::new(), WideSums::new());
    let mut add = |code: __m512i, table: __m512i| {
        let upper = _mm512_srli_epi16::<4>(code);
        low.add(_mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble)));
        high.add(_mm512_shuffle_epi8(table, _mm512_and_si512(upper, nibble)));
    };
    for (code, table) in wide_codes.iter().zip(wide_tables) {
        add(load_u8(code), load_u8(table));
    }
    if !last_codes.is_empty() {
        // Tables that are missing give 0.
        add(load_some_u8(last_codes), load_some_u8(last_tables));
    }
    // Stored in one piece, as `score_block` loads them: what was written in two could not be handed on before it is in the cache.
    for (half, total) in sums
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip([low.total(), high.total()])
    {
        // SAFETY: 16 u16 are 32 writable bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(half.as_mut_ptr().cast(), total) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
fn scan8_avx512(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    let codes = codes.as_chunks::<LANES>().0;
    let tables = lut.as_chunks::<256>().0;
    let mut total = ByteSums::new();
    for (code, table) in codes.iter().zip(tables) {
        total.add(look_up_256(load_32(code), table));
    }
    store_halves(total, sums);
}

/// 32 look-ups in a table of 256 bytes: one in each half of it by the low seven bits; the top bit decides between them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
fn look_up_256(code: __m256i, table: &[u8; 256]) -> __m256i {
    let rows = table.as_chunks::<BYTES>().0;
    let row = |k: usize| load_u8(&rows[k]);
    let at = _mm512_castsi256_si512(code);
    let low = _mm512_permutex2var_epi8(row(0), at, row(1));
    let high = _mm512_permutex2var_epi8(row(2), at, row(3));
    let (low, high) = (_mm512_castsi512_si256(low), _mm512_castsi512_si256(high));
    _mm256_mask_blend_epi8(_mm256_movepi8_mask(code), low, high)
}

#[target_feature(enable = "avx512f,avx2,fma")]
fn score_block_avx512(
    sums: &[u16; LANES],
    scales: &[u8; LANES],
    norms: Option<&Norms>,
    a: &ScoreParams,
    threshold: f32,
    out: &mut [f32; LANES],
) -> u32 {
    let (base, delta) = (_mm512_set1_ps(a.base), _mm512_set1_ps(a.delta));
    let (lo, step) = (
        _mm512_set1_ps(a.correction_min),
        _mm512_set1_ps(a.correction_step),
    );
    let sums = sums.as_chunks::<FLOATS>().0.iter();
    let scales = scales.as_chunks::<FLOATS>().0.iter();
    let mut norms = norms.map(|n| n.as_chunks::<BYTES>().0.iter());
    let mut mask = 0;
    let halves = sums.zip(scales).zip(out.as_chunks_mut::<FLOATS>().0);
    for (i, ((sum, scale), o)) in halves.enumerate() {
        // SAFETY: 16 u16 are 32 readable bytes, 16 u8 are 16.
        let (sum, scale) = unsafe {
            (
                _mm256_loadu_si256(sum.as_ptr().cast()),
                _mm_loadu_si128(scale.as_ptr().cast()),
            )
        };
        let sum = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sum));
        let scale = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(scale));
        let mut score = _mm512_mul_ps(
            _mm512_fmadd_ps(step, scale, lo),
            _mm512_fmadd_ps(delta, sum, base),
        );
        if let Some(norm) = norms.as_mut().and_then(Iterator::next) {
            let norm = _mm512_castsi512_ps(load_u8(norm));
            score = _mm512_fmsub_ps(_mm512_set1_ps(2.0), score, norm);
        }
        // SAFETY: 16 floats are 64 writable bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_ps(o.as_mut_ptr(), score) };
        let not_below = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(score, _mm512_set1_ps(threshold));
        mask |= u32::from(not_below) << (FLOATS * i);
    }
    mask
}
