//! Range tests of the keys of a block: unsigned numbers of 1, 2, 4 or 8 bytes, one per lane.
//!
//! Keys of 8 bytes lie in two planes, that of the lower halves first.

use crate::LANES;

/// The keys of all lanes, widened; 0 where the slice ends before.
#[inline]
pub fn widen(keys: &[u8], width: u8) -> [u64; LANES] {
    match width {
        1 => lanes(keys, |bytes: [u8; 1]| bytes[0].into()),
        2 => lanes(keys, |bytes| u16::from_le_bytes(bytes).into()),
        4 => lanes(keys, |bytes| u32::from_le_bytes(bytes).into()),
        _ => {
            let (low, high) = keys.split_at_checked(4 * LANES).unwrap_or((keys, &[]));
            let half = |bytes| u64::from(u32::from_le_bytes(bytes));
            let (mut wide, high) = (lanes(low, half), lanes(high, half));
            wide.iter_mut()
                .zip(high)
                .for_each(|(key, high)| *key |= high << 32);
            wide
        }
    }
}

#[inline]
fn lanes<const BYTES: usize>(keys: &[u8], read: impl Fn([u8; BYTES]) -> u64) -> [u64; LANES] {
    let mut out = [0; LANES];
    let (chunks, _) = keys.as_chunks::<BYTES>();
    out.iter_mut()
        .zip(chunks)
        .for_each(|(key, bytes)| *key = read(*bytes));
    out
}

/// See [`crate::Kernels::keys_in_range`].
pub(crate) fn in_range(keys: &[u8], width: u8, min: u64, max: u64) -> u32 {
    let mut mask = 0;
    for (lane, key) in widen(keys, width).iter().enumerate() {
        mask |= u32::from((*key >= min) & (*key <= max)) << lane;
    }
    mask
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::in_range_avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// The same with AVX2; part of tables that are handed out only where there is AVX2.
    pub fn in_range_avx2(keys: &[u8], width: u8, min: u64, max: u64) -> u32 {
        let (vectors, _) = keys.as_chunks::<32>();
        // SAFETY: the tables with this function are only reachable where AVX2 was seen.
        unsafe {
            match (width, vectors) {
                (1, [keys, ..]) => bytes(keys, min, max),
                (2, [a, b, ..]) => words([a, b], min, max),
                (4, [a, b, c, d, ..]) => double_words([a, b, c, d], min, max),
                (8, [a, b, c, d, e, f, g, h, ..]) => {
                    quad_words([a, b, c, d], [e, f, g, h], min, max)
                }
                // Keys are missing.
                _ => super::in_range(keys, width, min, max),
            }
        }
    }

    /// The ends of a range among keys up to `largest`, `None` if none of them lies in the range.
    fn ends(min: u64, max: u64, largest: u64) -> Option<(u64, u64)> {
        (min <= largest && min <= max).then_some((min, max.min(largest)))
    }

    #[target_feature(enable = "avx2,fma")]
    fn bytes(keys: &[u8; 32], min: u64, max: u64) -> u32 {
        let Some((min, max)) = ends(min, max, u8::MAX.into()) else {
            return 0;
        };
        let (min, max) = (_mm256_set1_epi8(min as i8), _mm256_set1_epi8(max as i8));
        let keys = load(keys);
        let from = _mm256_cmpeq_epi8(_mm256_max_epu8(keys, min), keys);
        let to = _mm256_cmpeq_epi8(_mm256_min_epu8(keys, max), keys);
        _mm256_movemask_epi8(_mm256_and_si256(from, to)).cast_unsigned()
    }

    #[target_feature(enable = "avx2,fma")]
    fn words(keys: [&[u8; 32]; 2], min: u64, max: u64) -> u32 {
        let Some((min, max)) = ends(min, max, u16::MAX.into()) else {
            return 0;
        };
        let (min, max) = (_mm256_set1_epi16(min as i16), _mm256_set1_epi16(max as i16));
        let [a, b] = keys.map(|keys| {
            let keys = load(keys);
            let from = _mm256_cmpeq_epi16(_mm256_max_epu16(keys, min), keys);
            let to = _mm256_cmpeq_epi16(_mm256_min_epu16(keys, max), keys);
            _mm256_and_si256(from, to)
        });
        // Packing works within halves of 128 bits.
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(a, b));
        _mm256_movemask_epi8(packed).cast_unsigned()
    }

    #[target_feature(enable = "avx2,fma")]
    fn double_words(keys: [&[u8; 32]; 4], min: u64, max: u64) -> u32 {
        let Some((min, max)) = ends(min, max, u32::MAX.into()) else {
            return 0;
        };
        let (min, max) = (_mm256_set1_epi32(min as i32), _mm256_set1_epi32(max as i32));
        let [a, b, c, d] = keys.map(|keys| {
            let keys = load(keys);
            let from = _mm256_cmpeq_epi32(_mm256_max_epu32(keys, min), keys);
            let to = _mm256_cmpeq_epi32(_mm256_min_epu32(keys, max), keys);
            mask_of(_mm256_and_si256(from, to))
        });
        a | b << 8 | c << 16 | d << 24
    }

    #[target_feature(enable = "avx2,fma")]
    fn quad_words(low: [&[u8; 32]; 4], high: [&[u8; 32]; 4], min: u64, max: u64) -> u32 {
        let halves = |end: u64| {
            let (high, low) = ((end >> 32) as i32, end as i32);
            (_mm256_set1_epi32(high), _mm256_set1_epi32(low))
        };
        let ((min_high, min_low), (max_high, max_low)) = (halves(min), halves(max));
        let mut mask = 0;
        for (i, (low, high)) in low.iter().zip(high).enumerate() {
            let (low, high) = (load(low), load(high));
            // Above the end in the upper half, or equal there and not below it in the lower half; and likewise below.
            let at_min = _mm256_cmpeq_epi32(high, min_high);
            let at_max = _mm256_cmpeq_epi32(high, max_high);
            let above = _mm256_cmpeq_epi32(_mm256_max_epu32(high, min_high), high);
            let below = _mm256_cmpeq_epi32(_mm256_min_epu32(high, max_high), high);
            let low_from = _mm256_cmpeq_epi32(_mm256_max_epu32(low, min_low), low);
            let low_to = _mm256_cmpeq_epi32(_mm256_min_epu32(low, max_low), low);
            // `above` includes equal ones: those count only if the lower half does.
            let from = _mm256_andnot_si256(_mm256_andnot_si256(low_from, at_min), above);
            let to = _mm256_andnot_si256(_mm256_andnot_si256(low_to, at_max), below);
            mask |= mask_of(_mm256_and_si256(from, to)) << (8 * i);
        }
        mask
    }

    #[target_feature(enable = "avx2,fma")]
    fn load(keys: &[u8; 32]) -> __m256i {
        // SAFETY: 32 readable bytes, and the load needs no alignment.
        unsafe { _mm256_loadu_si256(keys.as_ptr().cast()) }
    }

    /// A bit for each of eight numbers that is all ones.
    #[target_feature(enable = "avx2,fma")]
    fn mask_of(x: __m256i) -> u32 {
        _mm256_movemask_ps(_mm256_castsi256_ps(x)).cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use crate::{LANES, block, supported};
    use proptest::prelude::*;

    /// Keys near each other and near the ends of the widths.
    fn key() -> impl Strategy<Value = u64> {
        let edges = [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            0x8000,
            0xffff,
            1 << 31,
            0xffff_ffff,
            1 << 32,
            1 << 63,
            u64::MAX,
        ];
        let near = (prop::sample::select(edges.to_vec()), 0..3u64);
        prop_oneof![
            any::<u64>(),
            0..5u64,
            near.prop_map(|(edge, more)| edge.wrapping_add(more))
        ]
    }

    proptest! {
        #[test]
        fn all_tables_find_the_keys_of_a_range(
            keys in prop::collection::vec(key(), LANES),
            width in prop::sample::select(vec![1u8, 2, 4, 8]),
            (a, b) in (key(), key()),
            missing in prop_oneof![Just(0), 0..40usize],
        ) {
            let (planes, bits) = if width == 8 { (2, 32) } else { (1, 8 * width) };
            let mut bytes = vec![0; block::bytes(planes, bits)];
            let fitted = |key: u64| if width == 8 { key } else { key & ((1 << (8 * width)) - 1) };
            for (lane, key) in keys.iter().enumerate() {
                let mut rest = fitted(*key);
                for plane in 0..planes {
                    block::put(&mut bytes, (plane, lane), bits, rest as u32);
                    rest >>= 32;
                }
            }
            let widened = super::widen(&bytes, width);
            prop_assert!(keys.iter().zip(widened).all(|(key, wide)| fitted(*key) == wide));
            // Ends that do not fit the width, and ranges without a key.
            for (min, max) in [(a, b), (b, a), (fitted(a), fitted(b)), (fitted(a), u64::MAX), (0, b), (a, a)] {
                let expected = (0..LANES).fold(0, |mask, lane| {
                    mask | u32::from((min..=max).contains(&widened[lane])) << lane
                });
                for table in supported() {
                    let got = (table.keys_in_range)(&bytes, width, min, max);
                    prop_assert_eq!(got, expected, "{}: {} bytes, {}..={}", table.name, width, min, max);
                }
            }
            let short = &bytes[..bytes.len().saturating_sub(missing)];
            let tables = supported();
            let found: Vec<u32> = tables.iter().map(|it| (it.keys_in_range)(short, width, a, b)).collect();
            prop_assert!(found.iter().all(|mask| *mask == found[0]));
        }
    }
}
