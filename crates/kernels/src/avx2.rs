//! AVX2 with FMA.
//!
//! The functions of the table are safe wrappers: [`kernels`] hands the table out only on a machine that has both
//! instruction sets, and every load and store below stays inside a fixed-size array or a checked slice.

use crate::packed::{BYTES as PACKED_BYTES, SHIFT, VALUES as PACKED_VALUES, spread};
use crate::{CodewordSearch, Kernels, LANES, Norms, ScoreParams, keys, scalar};
use std::arch::x86_64::*;

static KERNELS: Kernels = Kernels {
    name: "avx2",
    dot,
    dot_rows,
    dot_rows_i8,
    matmul_i8,
    dot_packed7,
    scan4,
    scan8,
    score_block,
    nearest_codewords,
    keys_in_range: keys::in_range_avx2,
};

/// The table, if this machine can run it.
pub(crate) fn kernels() -> Option<&'static Kernels> {
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&KERNELS)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the table is only reachable through `kernels`, which has seen AVX2 and FMA.
    unsafe { dot_avx2(a, b) }
}

fn dot_rows(q: &[f32], rows: &[f32], out: &mut [f32]) {
    // SAFETY: as in `dot`.
    unsafe { dot_rows_avx2(q, rows, out) }
}

fn matmul_i8(a: &[i8], b: &[i8], columns: usize, out: &mut [i32]) {
    scalar::matmul_i8_by_rows(dot_rows_i8, a, b, columns, out);
}

fn dot_rows_i8(q: &[i8], rows: &[i8], out: &mut [i32]) {
    // SAFETY: as in `dot`.
    unsafe { dot_rows_i8_avx2(q, rows, out) }
}

fn dot_packed7(q: &[i8], packed: &[u8]) -> [i32; 2] {
    // SAFETY: as in `dot`.
    unsafe { dot_packed7_avx2(q, packed) }
}

pub(crate) fn scan4(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    // SAFETY: as in `dot`.
    unsafe { scan4_avx2(codes, lut, sums) }
}

fn scan8(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    // SAFETY: as in `dot`.
    unsafe { scan8_avx2(codes, lut, sums) }
}

pub(crate) fn score_block(
    sums: &[u16; LANES],
    scales: &[u8; LANES],
    norms: Option<&Norms>,
    a: &ScoreParams,
    threshold: f32,
    out: &mut [f32; LANES],
) -> u32 {
    // SAFETY: as in `dot`.
    unsafe { score_block_avx2(sums, scales, norms, a, threshold, out) }
}

pub(crate) fn nearest_codewords(search: &CodewordSearch<'_>, out: &mut [u8], out_stride: usize) {
    let words = search.half_norms.len();
    let complete = search.codebook.len() >= words * search.width && search.stride >= search.width;
    if complete && search.width > 0 && words > 0 && words <= 256 && words.is_multiple_of(16) {
        // SAFETY: as in `dot`.
        unsafe { nearest_codewords_avx2(search, out, out_stride.max(1)) }
    } else {
        scalar::nearest_codewords(search, out, out_stride);
    }
}

#[target_feature(enable = "avx2,fma")]
fn load_f32(x: &[f32; 8]) -> __m256 {
    // SAFETY: 8 floats are 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2,fma")]
fn store_f32(x: __m256, to: &mut [f32; 8]) {
    // SAFETY: 8 floats are 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
}

#[target_feature(enable = "avx2,fma")]
pub(crate) fn load_32(x: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma")]
fn load_i8(x: &[i8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma")]
fn load_16(x: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma")]
fn store_u16(x: __m128i, to: &mut [u16; 8]) {
    // SAFETY: 8 u16 are 16 writable bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx2,fma")]
fn sum_f32(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

#[target_feature(enable = "avx2,fma")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let (wide_a, rest_a) = a.as_chunks::<32>();
    let (wide_b, rest_b) = b.as_chunks::<32>();
    let mut sums = [_mm256_setzero_ps(); 4];
    for (x, y) in wide_a.iter().zip(wide_b) {
        let (x, y) = (x.as_chunks::<8>().0, y.as_chunks::<8>().0);
        for i in 0..4 {
            sums[i] = _mm256_fmadd_ps(load_f32(&x[i]), load_f32(&y[i]), sums[i]);
        }
    }
    let (rest_a, tail_a) = rest_a.as_chunks::<8>();
    let (rest_b, tail_b) = rest_b.as_chunks::<8>();
    for (x, y) in rest_a.iter().zip(rest_b) {
        sums[0] = _mm256_fmadd_ps(load_f32(x), load_f32(y), sums[0]);
    }
    let sum = _mm256_add_ps(
        _mm256_add_ps(sums[0], sums[1]),
        _mm256_add_ps(sums[2], sums[3]),
    );
    let tail: f32 = tail_a.iter().zip(tail_b).map(|(x, y)| x * y).sum();
    sum_f32(sum) + tail
}

/// Rows of `dot_rows` that share the loads of the query.
const ROW_TILE: usize = 4;

#[target_feature(enable = "avx2,fma")]
fn dot_rows_avx2(q: &[f32], rows: &[f32], out: &mut [f32]) {
    let d = q.len();
    let whole = rows.len().checked_div(d).unwrap_or(0).min(out.len());
    let (head, tail) = out.split_at_mut(whole);
    tail.fill(0.0);
    let mut rows = rows.chunks_exact(d.max(1));
    let (fours, rest) = head.as_chunks_mut::<ROW_TILE>();
    for four in fours {
        let (Some(a), Some(b), Some(c), Some(e)) =
            (rows.next(), rows.next(), rows.next(), rows.next())
        else {
            return;
        };
        *four = dot4_avx2(q, [a, b, c, e]);
    }
    for (o, row) in rest.iter_mut().zip(rows) {
        *o = dot_avx2(q, row);
    }
}

/// Products of `q` with four rows of its length.
#[target_feature(enable = "avx2,fma")]
fn dot4_avx2(q: &[f32], rows: [&[f32]; ROW_TILE]) -> [f32; ROW_TILE] {
    let (wide, tail) = q.as_chunks::<8>();
    let (a, a_tail) = rows[0].as_chunks::<8>();
    let (b, b_tail) = rows[1].as_chunks::<8>();
    let (c, c_tail) = rows[2].as_chunks::<8>();
    let (e, e_tail) = rows[3].as_chunks::<8>();
    let mut sums = [_mm256_setzero_ps(); ROW_TILE];
    for ((((x, a), b), c), e) in wide.iter().zip(a).zip(b).zip(c).zip(e) {
        let x = load_f32(x);
        sums[0] = _mm256_fmadd_ps(x, load_f32(a), sums[0]);
        sums[1] = _mm256_fmadd_ps(x, load_f32(b), sums[1]);
        sums[2] = _mm256_fmadd_ps(x, load_f32(c), sums[2]);
        sums[3] = _mm256_fmadd_ps(x, load_f32(e), sums[3]);
    }
    let mut out = [0f32; ROW_TILE];
    for ((o, sum), rest) in out
        .iter_mut()
        .zip(sums)
        .zip([a_tail, b_tail, c_tail, e_tail])
    {
        *o = sum_f32(sum) + tail.iter().zip(rest).map(|(x, y)| x * y).sum::<f32>();
    }
    out
}

#[target_feature(enable = "avx2,fma")]
fn dot_rows_i8_avx2(q: &[i8], rows: &[i8], out: &mut [i32]) {
    out.fill(0);
    let d = q.len().max(1);
    let whole = (rows.len() / d).min(out.len());
    let (fours, rest) = out[..whole].as_chunks_mut::<ROW_TILE>();
    let (rows, last) = rows.split_at(fours.len() * ROW_TILE * d);
    let bias = sign_bias(q.as_chunks::<32>().0);
    for (four, rows) in fours.iter_mut().zip(rows.chunks_exact(ROW_TILE * d)) {
        *four = dot8x4_avx2(q, rows, bias);
    }
    for (o, row) in rest.iter_mut().zip(last.chunks_exact(d)) {
        let (x, tail) = q.as_chunks::<32>();
        let (y, row_tail) = row.as_chunks::<32>();
        let mut sum = _mm256_setzero_si256();
        for (x, y) in x.iter().zip(y) {
            sum = _mm256_add_epi32(sum, Factor::new(x).times(y));
        }
        let sum = sum_i32(sum).wrapping_add(bias);
        *o = sum.wrapping_add(scalar::dot8(tail, row_tail));
    }
}

/// Products of `q` with four rows of its length, one after the other in `rows`.
#[target_feature(enable = "avx2,fma")]
fn dot8x4_avx2(q: &[i8], rows: &[i8], bias: i32) -> [i32; ROW_TILE] {
    let d = q.len();
    let (ab, cd) = rows.split_at(2 * d);
    let ((a, b), (c, e)) = (ab.split_at(d), cd.split_at(d));
    let (wide, tail) = q.as_chunks::<32>();
    let (a, a_tail) = a.as_chunks::<32>();
    let (b, b_tail) = b.as_chunks::<32>();
    let (c, c_tail) = c.as_chunks::<32>();
    let (e, e_tail) = e.as_chunks::<32>();
    let mut sums = [_mm256_setzero_si256(); ROW_TILE];
    for ((((x, a), b), c), e) in wide.iter().zip(a).zip(b).zip(c).zip(e) {
        let x = Factor::new(x);
        sums[0] = _mm256_add_epi32(sums[0], x.times(a));
        sums[1] = _mm256_add_epi32(sums[1], x.times(b));
        sums[2] = _mm256_add_epi32(sums[2], x.times(c));
        sums[3] = _mm256_add_epi32(sums[3], x.times(e));
    }
    let mut out = four_sums(sums, bias);
    if !tail.is_empty() {
        for (o, rest) in out.iter_mut().zip([a_tail, b_tail, c_tail, e_tail]) {
            *o = o.wrapping_add(scalar::dot8(tail, rest));
        }
    }
    out
}

#[target_feature(enable = "avx2,fma")]
fn dot_packed7_avx2(q: &[i8], packed: &[u8]) -> [i32; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    let low = _mm256_set1_epi8(0x7f);
    let shift = _mm256_set1_epi8(SHIFT as i8);
    let blocks = packed.as_chunks::<PACKED_BYTES>().0;
    for (q, block) in q.as_chunks::<PACKED_VALUES>().0.iter().zip(blocks) {
        let [first, last] = halves(block);
        // The last 24 bytes lie behind eight that the first half has too.
        let last = _mm256_permute4x64_epi64::<0b11_11_10_01>(load_32(last));
        let first = load_32(first);
        let high = |half| u64::from(_mm256_movemask_epi8(half).cast_unsigned());
        let high = spread(high(first) | (high(last) & 0xff_ffff) << 32);
        let last = _mm256_insert_epi64::<3>(last, high.cast_signed());
        for (x, half) in q.as_chunks::<32>().0.iter().zip([first, last]) {
            let (x, stored) = (load_i8(x), _mm256_and_si256(half, low));
            let values = _mm256_sub_epi8(stored, shift);
            let size = _mm256_abs_epi8(values);
            let square = fours(size, size);
            // Too much by 64 times `x`.
            let product = _mm256_sub_epi32(fours(stored, x), fours(shift, x));
            sums[0] = _mm256_add_epi32(sums[0], product);
            sums[1] = _mm256_add_epi32(sums[1], square);
        }
    }
    sums.map(|sum| sum_i32(sum))
}

/// The first and the last 32 bytes of a packed block.
fn halves(block: &[u8; PACKED_BYTES]) -> [&[u8; 32]; 2] {
    const NONE: &[u8; 32] = &[0; 32];
    [block.first_chunk(), block.last_chunk()].map(|half| half.unwrap_or(NONE))
}

/// Sums of four products each, of bytes from 0 to 127 and signed ones.
#[target_feature(enable = "avx2,fma")]
fn fours(x: __m256i, y: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1))
}

/// The sum of each register, and something more.
#[target_feature(enable = "avx2")]
pub(crate) fn four_sums(sums: [__m256i; 4], more: i32) -> [i32; 4] {
    let pairs = (
        _mm256_hadd_epi32(sums[0], sums[1]),
        _mm256_hadd_epi32(sums[2], sums[3]),
    );
    let all = _mm256_hadd_epi32(pairs.0, pairs.1);
    let all = _mm_add_epi32(
        _mm256_castsi256_si128(all),
        _mm256_extracti128_si256::<1>(all),
    );
    let all = _mm_add_epi32(all, _mm_set1_epi32(more));
    let mut out = [0i32; 4];
    // SAFETY: four i32 are 16 writable bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), all) };
    out
}

/// 32 numbers of the query, to be multiplied by those of rows. The instruction multiplies unsigned by signed bytes: the
/// unsigned ones are the sizes of these numbers, their signs go to the row.
#[derive(Clone, Copy)]
struct Factor {
    size: __m256i,
    negative: __m256i,
}

impl Factor {
    #[target_feature(enable = "avx2,fma")]
    fn new(x: &[i8; 32]) -> Self {
        let x = load_i8(x);
        Factor {
            size: _mm256_abs_epi8(x),
            negative: _mm256_cmpgt_epi8(_mm256_setzero_si256(), x),
        }
    }

    /// Sums of four products each. To flip all bits of `y` where the number is negative makes it `-y - 1`, cheaper
    /// than `-y`; the difference does not depend on `y`, see [`sign_bias`]. With sizes up to 127 two products
    /// fit 16 bits, as -128 is the farthest that flipping reaches.
    #[target_feature(enable = "avx2,fma")]
    fn times(self, y: &[i8; 32]) -> __m256i {
        let signed = _mm256_xor_si256(load_i8(y), self.negative);
        let twos = _mm256_maddubs_epi16(self.size, signed);
        _mm256_madd_epi16(twos, _mm256_set1_epi16(1))
    }
}

/// The difference of the products of [`Factor`] to those wanted, per row: the sum of the sizes of the negative numbers.
fn sign_bias(q: &[[i8; 32]]) -> i32 {
    let negative = q.as_flattened().iter().map(|x| -i32::from((*x).min(0)));
    negative.fold(0, i32::wrapping_add)
}

#[target_feature(enable = "avx2,fma")]
fn sum_i32(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

/// Sums of u8 values in u16 without widening each: one accumulator takes whole u16 (the odd byte times 256 on top of the
/// even one), the other the odd bytes alone; the even bytes are the difference, modulo 65536.
#[derive(Clone, Copy)]
pub(crate) struct ByteSums {
    both: __m256i,
    odd: __m256i,
}

impl ByteSums {
    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn new() -> Self {
        ByteSums {
            both: _mm256_setzero_si256(),
            odd: _mm256_setzero_si256(),
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn add(&mut self, bytes: __m256i) {
        self.both = _mm256_add_epi16(self.both, bytes);
        self.odd = _mm256_add_epi16(self.odd, _mm256_srli_epi16::<8>(bytes));
    }

    /// Sums of the even and of the odd bytes.
    #[target_feature(enable = "avx2,fma")]
    fn split(self) -> (__m256i, __m256i) {
        (
            _mm256_sub_epi16(self.both, _mm256_slli_epi16::<8>(self.odd)),
            self.odd,
        )
    }
}

/// Adds the two halves of a register (the two sub-quantizers of a pair).
#[target_feature(enable = "avx2,fma")]
pub(crate) fn fold(x: __m256i) -> __m128i {
    _mm_add_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}

/// Stores 16 sums whose even and odd lanes are apart.
#[target_feature(enable = "avx2,fma")]
fn store_sums(even: __m128i, odd: __m128i, to: &mut [[u16; 8]]) {
    if let [low, high] = to {
        store_u16(_mm_unpacklo_epi16(even, odd), low);
        store_u16(_mm_unpackhi_epi16(even, odd), high);
    }
}

#[target_feature(enable = "avx2,fma")]
fn scan4_avx2(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    let code_pairs = codes.as_chunks::<32>().0;
    let lut_pairs = lut.as_chunks::<32>().0;
    let nibble = _mm256_set1_epi8(15);
    let (mut low, mut high) = (ByteSums::new(), ByteSums::new());
    for (code, table) in code_pairs.iter().zip(lut_pairs) {
        let (code, table) = (load_32(code), load_32(table));
        low.add(_mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble)));
        high.add(_mm256_shuffle_epi8(
            table,
            _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble),
        ));
    }
    let out = sums.as_chunks_mut::<8>().0;
    let (even, odd) = low.split();
    store_sums(fold(even), fold(odd), &mut out[..2]);
    let (even, odd) = high.split();
    store_sums(fold(even), fold(odd), &mut out[2..]);
    // An odd sub-quantizer at the end, if the slices are not padded.
    let done = 32 * code_pairs.len().min(lut_pairs.len());
    if (codes.len() - done).min(lut.len() - done) >= 16 {
        let mut rest = [0; LANES];
        scalar::scan4(&codes[done..], &lut[done..], &mut rest);
        for (sum, r) in sums.iter_mut().zip(rest) {
            *sum = sum.wrapping_add(r);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn scan8_avx2(codes: &[u8], lut: &[u8], sums: &mut [u16; LANES]) {
    let mut total = ByteSums::new();
    for (code, table) in codes
        .as_chunks::<32>()
        .0
        .iter()
        .zip(lut.as_chunks::<256>().0)
    {
        total.add(look_up_256(load_32(code), table));
    }
    store_halves(total, sums);
}

/// Stores the sums of 32 lanes, a byte each.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn store_halves(total: ByteSums, sums: &mut [u16; LANES]) {
    let (even, odd) = total.split();
    let out = sums.as_chunks_mut::<8>().0;
    store_sums(
        _mm256_castsi256_si128(even),
        _mm256_castsi256_si128(odd),
        &mut out[..2],
    );
    store_sums(
        _mm256_extracti128_si256::<1>(even),
        _mm256_extracti128_si256::<1>(odd),
        &mut out[2..],
    );
}

/// 32 look-ups in a table of 256 bytes: all 16 rows of 16 are looked up by the low nibble, then the four high bits
/// select among them, bit by bit (the blend reads the top bit of each byte).
#[target_feature(enable = "avx2,fma")]
fn look_up_256(code: __m256i, table: &[u8; 256]) -> __m256i {
    let low = _mm256_and_si256(code, _mm256_set1_epi8(15));
    let bit4 = _mm256_slli_epi16::<3>(code);
    let bit5 = _mm256_slli_epi16::<2>(code);
    let bit6 = _mm256_slli_epi16::<1>(code);
    let rows = table.as_chunks::<16>().0;
    let mut halves = [_mm256_setzero_si256(); 2];
    for (half, rows) in halves.iter_mut().zip(rows.as_chunks::<8>().0) {
        let row =
            |k: usize| _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(&rows[k])), low);
        let pair = |k: usize| _mm256_blendv_epi8(row(k), row(k + 1), bit4);
        let four = |k: usize| _mm256_blendv_epi8(pair(k), pair(k + 2), bit5);
        *half = _mm256_blendv_epi8(four(0), four(4), bit6);
    }
    _mm256_blendv_epi8(halves[0], halves[1], code)
}

#[target_feature(enable = "avx2,fma")]
fn score_block_avx2(
    sums: &[u16; LANES],
    scales: &[u8; LANES],
    norms: Option<&Norms>,
    a: &ScoreParams,
    threshold: f32,
    out: &mut [f32; LANES],
) -> u32 {
    let (base, delta) = (_mm256_set1_ps(a.base), _mm256_set1_ps(a.delta));
    let (lo, step) = (
        _mm256_set1_ps(a.correction_min),
        _mm256_set1_ps(a.correction_step),
    );
    let sums = sums.as_chunks::<8>().0.iter();
    let scales = scales.as_chunks::<8>().0.iter();
    let mut norms = norms.map(|n| n.as_chunks::<32>().0.iter());
    let threshold = _mm256_set1_ps(threshold);
    let mut mask = 0;
    let eights = sums.zip(scales).zip(out.as_chunks_mut::<8>().0);
    for (i, ((sum, scale), o)) in eights.enumerate() {
        // SAFETY: 8 u16 are 16 readable bytes, 8 u8 are 8.
        let (sum, scale) = unsafe {
            (
                _mm_loadu_si128(sum.as_ptr().cast()),
                _mm_loadl_epi64(scale.as_ptr().cast()),
            )
        };
        let sum = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sum));
        let scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(scale));
        let mut score = _mm256_mul_ps(
            _mm256_fmadd_ps(step, scale, lo),
            _mm256_fmadd_ps(delta, sum, base),
        );
        if let Some(norms) = &mut norms
            && let Some(norm) = norms.next()
        {
            let norm = _mm256_castsi256_ps(load_32(norm));
            score = _mm256_fmsub_ps(_mm256_set1_ps(2.0), score, norm);
        }
        store_f32(score, o);
        let not_below = _mm256_cmp_ps::<_CMP_NLT_UQ>(score, threshold);
        mask |= (_mm256_movemask_ps(not_below) as u32) << (8 * i);
    }
    mask
}

/// Needs `codebook.len() ≥ words·width`, `stride ≥ width > 0`, and 16 to 256 words in whole sixteens.
#[target_feature(enable = "avx2,fma")]
fn nearest_codewords_avx2(search: &CodewordSearch<'_>, out: &mut [u8], out_stride: usize) {
    let words = search.half_norms.len();
    let rows = search.rows.chunks(search.stride);
    for (row, code) in rows.zip(out.iter_mut().step_by(out_stride)) {
        let row = &row[..row.len().min(search.width)];
        let mut best = _mm256_set1_ps(f32::INFINITY);
        let mut best_at = _mm256_setzero_si256();
        let mut at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        for (block, half) in search.half_norms.as_chunks::<16>().0.iter().enumerate() {
            let half = half.as_chunks::<8>().0;
            let (mut cost0, mut cost1) = (load_f32(&half[0]), load_f32(&half[1]));
            for (x, dim) in row.iter().zip(search.codebook.chunks_exact(words)) {
                let x = _mm256_set1_ps(*x);
                let dim = dim.as_chunks::<8>().0;
                cost0 = _mm256_fnmadd_ps(x, load_f32(&dim[2 * block]), cost0);
                cost1 = _mm256_fnmadd_ps(x, load_f32(&dim[2 * block + 1]), cost1);
            }
            for cost in [cost0, cost1] {
                let better = _mm256_cmp_ps::<_CMP_LT_OQ>(cost, best);
                best = _mm256_blendv_ps(best, cost, better);
                best_at = _mm256_blendv_epi8(best_at, at, _mm256_castps_si256(better));
                at = _mm256_add_epi32(at, _mm256_set1_epi32(8));
            }
        }
        *code = lane_of_min(best, best_at);
    }
}

/// The index beside the smallest value; some index when nothing compares.
#[target_feature(enable = "avx2,fma")]
fn lane_of_min(best: __m256, at: __m256i) -> u8 {
    let min = _mm256_min_ps(best, _mm256_permute2f128_ps::<1>(best, best));
    let min = _mm256_min_ps(min, _mm256_shuffle_ps::<0b01_00_11_10>(min, min));
    let min = _mm256_min_ps(min, _mm256_shuffle_ps::<0b10_11_00_01>(min, min));
    let hits = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(best, min));
    let lane = hits.trailing_zeros() & 7;
    let index = _mm256_permutevar8x32_epi32(at, _mm256_set1_epi32(lane as i32));
    // At most 256 words, so the index fits.
    _mm_cvtsi128_si32(_mm256_castsi256_si128(index)) as u8
}
