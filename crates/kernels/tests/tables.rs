//! Every table does what the scalar one does, whatever the lengths.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use distillvq_kernels::{
    CodewordSearch, Kernels, LANES, PACKED_BYTES, PACKED_VALUES, ScoreParams, pack7, supported,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn scalar() -> &'static Kernels {
    supported()[0]
}

fn floats(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-10f32..10.0, len)
}

/// Tolerance of a sum of products: rounding grows with the sizes of the terms, not with the sum.
fn tolerance(a: &[f32], b: &[f32]) -> f32 {
    1e-5 * (1.0 + a.iter().zip(b).map(|(x, y)| (x * y).abs()).sum::<f32>())
}

fn array<T: Copy, const N: usize>(v: &[T]) -> [T; N] {
    v.try_into().expect("length")
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dot_agrees(a in floats(0..200), b in floats(0..200)) {
        for k in supported() {
            let (got, want) = ((k.dot)(&a, &b), (scalar().dot)(&a, &b));
            prop_assert!((got - want).abs() <= tolerance(&a, &b), "{}: {got} != {want}", k.name);
        }
    }

    #[test]
    fn dots_agree(q in floats(0..70), rows in floats(0..900), n in 0usize..40) {
        let mut want = vec![7.0; n];
        (scalar().dot_rows)(&q, &rows, &mut want);
        for k in supported() {
            let mut got = vec![7.0; n];
            (k.dot_rows)(&q, &rows, &mut got);
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                let row = rows.get(i * q.len()..).unwrap_or(&[]);
                prop_assert!((g - w).abs() <= tolerance(&q, row), "{}: {g} != {w}", k.name);
            }
        }
    }

    #[test]
    fn products_of_integers_are_equal(
        q in prop::collection::vec(-127i8..=127, 0..200),
        rows in prop::collection::vec(-127i8..=127, 0..2000),
        n in 0usize..40,
    ) {
        let mut want = vec![7; n];
        (scalar().dot_rows_i8)(&q, &rows, &mut want);
        for k in supported() {
            let mut got = vec![9; n];
            (k.dot_rows_i8)(&q, &rows, &mut got);
            prop_assert_eq!(&want, &got, "{}", k.name);
        }
    }

    #[test]
    fn products_of_many_rows_are_equal(
        a in prop::collection::vec(-127i8..=127, 0..2000),
        b in prop::collection::vec(-127i8..=127, 0..2000),
        columns in 1usize..150,
        asked in 0usize..30,
    ) {
        let width = b.len() / columns;
        let mut want = vec![7; asked * width];
        for (i, want) in want.chunks_exact_mut(width.max(1)).enumerate() {
            let row = a.get(i * columns..(i + 1) * columns).unwrap_or(&[]);
            (scalar().dot_rows_i8)(row, &b, want);
            if row.is_empty() {
                want.fill(0);
            }
        }
        for k in supported() {
            let mut got = vec![9; asked * width];
            (k.matmul_i8)(&a, &b, columns, &mut got);
            prop_assert_eq!(&want, &got, "{}", k.name);
        }
    }

    #[test]
    fn products_of_packed_vectors_are_equal(
        q in prop::collection::vec(-127i8..=127, 0..400),
        values in prop::collection::vec(-64i8..=63, 0..400),
        rest in prop::collection::vec(any::<u8>(), 0..10),
    ) {
        let mut packed = Vec::new();
        pack7(&values, &mut packed);
        let blocks = (packed.len() / PACKED_BYTES).min(q.len() / PACKED_VALUES);
        let pairs = q.iter().zip(&values).take(blocks * PACKED_VALUES);
        let product: i32 = pairs.map(|(x, y)| i32::from(*x) * i32::from(*y)).sum();
        let own = values.iter().take(blocks * PACKED_VALUES);
        let square: i32 = own.map(|x| i32::from(*x).pow(2)).sum();
        packed.extend(&rest);
        for k in supported() {
            let got = (k.dot_packed7)(&q[..(blocks * PACKED_VALUES + q.len() % PACKED_VALUES).min(q.len())], &packed);
            prop_assert_eq!(got, [product, square], "{}", k.name);
        }
    }

    #[test]
    fn scans_are_equal_bit_by_bit(
        codes in prop::collection::vec(any::<u8>(), 0..4000),
        lut in prop::collection::vec(any::<u8>(), 0..4000),
    ) {
        for k in supported() {
            let (mut want, mut got) = ([1; LANES], [2; LANES]);
            (scalar().scan4)(&codes, &lut, &mut want);
            (k.scan4)(&codes, &lut, &mut got);
            prop_assert_eq!(want, got, "scan4 of {}", k.name);
            (scalar().scan8)(&codes, &lut, &mut want);
            (k.scan8)(&codes, &lut, &mut got);
            prop_assert_eq!(want, got, "scan8 of {}", k.name);
        }
    }

    #[test]
    fn scans_of_any_number_of_sub_quantizers_are_equal(
        m in 0usize..300, extra in 0usize..16, seed in any::<u8>(), high in any::<bool>(),
    ) {
        // Whole and half pairs of sub-quantizers, bytes that belong to none, and sums beyond 65535.
        let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 9) as u8 ^ seed;
        let codes: Vec<u8> = (0..LANES * m + extra).map(byte).collect();
        let lut: Vec<u8> = (0..256 * m + extra).map(|i| if high { 255 } else { byte(i * 3 + 1) }).collect();
        for k in supported() {
            let (mut want, mut got) = ([1; LANES], [2; LANES]);
            (scalar().scan4)(&codes[..16 * m + extra], &lut[..16 * m + extra], &mut want);
            (k.scan4)(&codes[..16 * m + extra], &lut[..16 * m + extra], &mut got);
            prop_assert_eq!(want, got, "scan4 of {}", k.name);
            (scalar().scan8)(&codes, &lut, &mut want);
            (k.scan8)(&codes, &lut, &mut got);
            prop_assert_eq!(want, got, "scan8 of {}", k.name);
        }
    }

    #[test]
    fn products_of_long_rows_agree(d in 250usize..400, rows in 0usize..12, seed in any::<u8>()) {
        let byte = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 9) as u8 ^ seed) as i8;
        let q: Vec<i8> = (0..d).map(|i| byte(i).max(-127)).collect();
        let values: Vec<i8> = (0..d * rows).map(|i| byte(i + 7 * d).max(-127)).collect();
        let float = |x: &i8| f32::from(*x) / 16.0;
        let (qf, valuesf) = (q.iter().map(float).collect::<Vec<_>>(), values.iter().map(float).collect::<Vec<_>>());
        let (mut want, mut wantf) = (vec![7; rows], vec![7.0; rows]);
        (scalar().dot_rows_i8)(&q, &values, &mut want);
        (scalar().dot_rows)(&qf, &valuesf, &mut wantf);
        for k in supported() {
            let (mut got, mut gotf) = (vec![9; rows], vec![9.0; rows]);
            (k.dot_rows_i8)(&q, &values, &mut got);
            (k.dot_rows)(&qf, &valuesf, &mut gotf);
            prop_assert_eq!(&want, &got, "{}", k.name);
            for (i, (g, w)) in gotf.iter().zip(&wantf).enumerate() {
                prop_assert!((g - w).abs() <= tolerance(&qf, &valuesf[i * d..]), "{}: {g} != {w}", k.name);
            }
        }
    }

    #[test]
    fn finish_agrees(
        sums in prop::collection::vec(any::<u16>(), LANES..LANES + 1),
        scales in prop::collection::vec(any::<u8>(), LANES..LANES + 1),
        norms in prop::option::of(prop::collection::vec(-50f32..50.0, LANES..LANES + 1)),
        base in -5f32..5.0, delta in 0f32..0.01, lo in 0.5f32..1.5, step in 0f32..0.01,
        threshold in prop_oneof![-100f32..100.0, Just(f32::NEG_INFINITY), Just(f32::NAN)],
    ) {
        let (sums, scales) = (array(&sums), array(&scales));
        let norms: Option<[u8; 4 * LANES]> =
            norms.map(|n| array(&n.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()));
        let params = ScoreParams { base, delta, correction_min: lo, correction_step: step };
        let mut want = [0.0; LANES];
        (scalar().score_block)(&sums, &scales, norms.as_ref(), &params, threshold, &mut want);
        for k in supported() {
            let mut got = [0.0; LANES];
            let mask = (k.score_block)(&sums, &scales, norms.as_ref(), &params, threshold, &mut got);
            for (i, score) in got.iter().enumerate() {
                let not_below = score.partial_cmp(&threshold) != Some(std::cmp::Ordering::Less);
                prop_assert_eq!(mask >> i & 1 == 1, not_below, "{}: {} {}", k.name, score, threshold);
            }
            for (g, w) in got.iter().zip(&want) {
                prop_assert!((g - w).abs() <= 1e-2, "{}: {g} != {w}", k.name);
            }
        }
    }

    #[test]
    fn nearest_is_as_near(
        rows in floats(0..400), codebook in floats(0..300), words in 0usize..40,
        stride in 0usize..12, width in 0usize..12, codes in 0usize..60, out_stride in 0usize..4,
    ) {
        let words = if words < 20 { 16 } else { words };
        // Half norms of the codewords that are complete; the rest has to be harmless only.
        let entry = |t: usize, j: usize| codebook.get(t * words + j).copied();
        let half: Vec<f32> = (0..words)
            .map(|j| (0..width).filter_map(|t| entry(t, j)).map(|x| x * x).sum::<f32>() / 2.0)
            .collect();
        let search = CodewordSearch { rows: &rows, stride, width, codebook: &codebook, half_norms: &half };
        let mut want = vec![0; codes];
        (scalar().nearest_codewords)(&search, &mut want, out_stride);
        for k in supported() {
            let mut got = vec![0; codes];
            (k.nearest_codewords)(&search, &mut got, out_stride);
            if codebook.len() < words * width || stride < width {
                continue;
            }
            for (i, row) in rows.chunks(stride.max(1)).enumerate() {
                let (Some(&g), Some(&w)) = (got.get(i * out_stride.max(1)), want.get(i * out_stride.max(1))) else {
                    break;
                };
                let cost = |j: u8| {
                    half[usize::from(j)]
                        - row.iter().take(width).enumerate().map(|(t, x)| x * codebook[t * words + usize::from(j)]).sum::<f32>()
                };
                prop_assert!(cost(g) <= cost(w) + 1e-2, "{}: code {g}, best {w}", k.name);
            }
        }
    }
}

#[test]
fn extreme_products_of_integers_are_exact() {
    for d in [1usize, 15, 16, 31, 32, 63, 64, 65, 384, 1 << 17] {
        for (x, y) in [
            (127i8, 127i8),
            (127, -127),
            (-127, 127),
            (-127, -127),
            (0, -127),
            (-1, 127),
        ] {
            let (q, rows) = (vec![x; d], vec![y; 5 * d]);
            for k in supported() {
                let mut out = [9; 6];
                (k.dot_rows_i8)(&q, &rows, &mut out);
                let want = i32::from(x) * i32::from(y) * d as i32;
                assert_eq!(out, [want, want, want, want, want, 0], "{} of {d}", k.name);
            }
        }
    }
}

#[test]
fn nearest_finds_codewords_themselves() {
    for words in [16usize, 256] {
        let width = 3;
        let word = |j: usize| [j as f32, (j * j % 31) as f32, -(j as f32) / 2.0];
        let mut codebook = vec![0.0; words * width];
        for j in 0..words {
            for (t, x) in word(j).into_iter().enumerate() {
                codebook[t * words + j] = x;
            }
        }
        let half: Vec<f32> = (0..words)
            .map(|j| word(j).iter().map(|x| x * x).sum::<f32>() / 2.0)
            .collect();
        let rows: Vec<f32> = (0..words).flat_map(word).collect();
        for k in supported() {
            let mut out = vec![0u8; words];
            (k.nearest_codewords)(
                &CodewordSearch {
                    rows: &rows,
                    stride: width,
                    width,
                    codebook: &codebook,
                    half_norms: &half,
                },
                &mut out,
                1,
            );
            assert!(
                out.iter().enumerate().all(|(j, c)| j == usize::from(*c)),
                "{}",
                k.name
            );
        }
    }
}

#[test]
fn numbers_that_do_not_compare_are_harmless() {
    for k in supported() {
        let rows = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
        let codebook = [f32::MAX; 16];
        let half = [f32::INFINITY; 16];
        let mut out = [0u8; 4];
        (k.nearest_codewords)(
            &CodewordSearch {
                rows: &rows,
                stride: 1,
                width: 1,
                codebook: &codebook,
                half_norms: &half,
            },
            &mut out,
            1,
        );
        assert!(out.iter().all(|c| *c < 16));
    }
}
