//! Self-test of a table before it is chosen: it must compute on this machine what the portable one does.
//!
//! A table that is wrong on some machine (a fault of ours that the machines we test on do not show, of a compiler, of a
//! hypervisor) would give wrong answers in silence. So each process lets a table work a small problem first. The inputs
//! are small multiples of powers of two, on which sums of floats come out exact in every order: whatever differs is a
//! fault, not rounding, and the tolerance allows for a few odd ends only.

use crate::keys::widen;
use crate::{CodewordSearch, Kernels, LANES, ScoreParams};

/// Whether `table` computes the same as `reference` on small inputs.
pub(crate) fn passes(table: &Kernels, reference: &Kernels) -> bool {
    dot(table, reference)
        && dot_rows(table, reference)
        && dot_rows_i8(table, reference)
        && matmul_i8(table, reference)
        && dot_packed7(table, reference)
        && scan4(table, reference)
        && scan8(table, reference)
        && score_block(table, reference)
        && nearest_codewords(table, reference)
        && keys_in_range(table, reference)
}

/// Bytes without a pattern that a mistake in the order of lanes could keep; each on its own, which is quick to compute.
fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mix = |i: u32| {
        let x = (i + 1_000 * seed).wrapping_mul(2_654_435_761);
        ((x ^ x >> 15).wrapping_mul(2_246_822_519) >> 24) as u8
    };
    (0..len as u32).map(mix).collect()
}

/// Bytes of -127 to 127 with both ends among them.
fn signed(seed: u32, len: usize) -> Vec<i8> {
    let end = |x: u8| match x % 8 {
        0 => 127,
        1 => -127,
        _ => (x as i8).max(-127),
    };
    bytes(seed, len).into_iter().map(end).collect()
}

/// Odd multiples of 1/8 between -4 and 4: none is 0, so that each counts.
fn floats(seed: u32, len: usize) -> Vec<f32> {
    let float = |x: u8| (f32::from(x % 32) * 2.0 - 31.0) / 8.0;
    bytes(seed, len).into_iter().map(float).collect()
}

/// Whether two numbers are the same but for rounding; nothing is close to a NaN.
fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * (1.0 + b.abs())
}

fn all_close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(*a, *b))
}

fn dot(table: &Kernels, reference: &Kernels) -> bool {
    let (a, b) = (floats(1, 130), floats(2, 130));
    // Around the lengths at which registers are full, and lengths that differ.
    let lengths = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130];
    lengths.iter().all(|&n| {
        let (short, long) = (&a[..n], &b[..n + (130 - n).min(5)]);
        let want = (reference.dot)(short, long);
        close((table.dot)(short, long), want) && close((table.dot)(long, short), want)
    })
}

/// Rows, rows that are asked for, and columns: whole and incomplete groups of rows, with more asked for than there are.
const SHAPES: [(usize, usize, usize); 4] = [(5, 7, 67), (6, 5, 64), (6, 6, 13), (1, 2, 99)];

fn dot_rows(table: &Kernels, reference: &Kernels) -> bool {
    SHAPES.iter().all(|&(rows, asked, columns)| {
        let (q, rows) = (floats(3, columns), floats(4, rows * columns));
        let (mut want, mut got) = ([1.0; 12], [2.0; 12]);
        (reference.dot_rows)(&q, &rows, &mut want[..asked]);
        (table.dot_rows)(&q, &rows, &mut got[..asked]);
        all_close(&got[..asked], &want[..asked])
    })
}

fn dot_rows_i8(table: &Kernels, reference: &Kernels) -> bool {
    let ends = [
        (vec![127; 96], vec![-127; 5 * 96]),
        (vec![-127; 96], vec![-127; 5 * 96]),
    ];
    let mixed = SHAPES
        .iter()
        .map(|s| (signed(5, s.2), signed(6, s.0 * s.2)));
    ends.into_iter().chain(mixed).all(|(q, rows)| {
        let (mut want, mut got) = ([1; 10], [2; 10]);
        (reference.dot_rows_i8)(&q, &rows, &mut want);
        (table.dot_rows_i8)(&q, &rows, &mut got);
        got == want
    })
}

fn matmul_i8(table: &Kernels, reference: &Kernels) -> bool {
    // Rows of one side and of the other, rows that are asked for, columns: whole and incomplete groups of each.
    let shapes = [
        (9, 11, 9, 67),
        (4, 4, 4, 64),
        (8, 7, 6, 128),
        (3, 2, 5, 13),
        (2, 0, 1, 9),
    ];
    shapes.iter().all(|&(rows, others, asked, columns)| {
        let (a, b) = (signed(15, rows * columns), signed(16, others * columns));
        let (mut want, mut got) = (vec![1; asked * others + 1], vec![2; asked * others + 1]);
        (reference.matmul_i8)(&a, &b, columns, &mut want);
        (table.matmul_i8)(&a, &b, columns, &mut got);
        got == want
    })
}

fn dot_packed7(table: &Kernels, reference: &Kernels) -> bool {
    let (ends, mixed) = ([127, -127].map(|x| vec![x; 128]), signed(13, 200));
    let packed = [vec![0; 112], vec![255; 112], bytes(14, 56 * 3 + 5)];
    let queries = ends.iter().chain([&mixed]);
    queries
        .flat_map(|q| packed.iter().map(move |packed| (q, packed)))
        .all(|(q, packed)| {
            // Whole blocks count, and those that both have.
            [0, 63, 64, 128, q.len()].iter().all(|&n| {
                let q = &q[..n];
                (table.dot_packed7)(q, packed) == (reference.dot_packed7)(q, packed)
            })
        })
}

fn scan4(table: &Kernels, reference: &Kernels) -> bool {
    let (codes, lut) = (bytes(7, 16 * 21), bytes(8, 16 * 21));
    // Odd and even numbers of sub-quantizers, and the largest sums that so many can have.
    let same = |codes: &[u8], lut: &[u8]| same_sums(table.scan4, reference.scan4, codes, lut);
    [0, 1, 2, 21]
        .iter()
        .all(|&m| same(&codes[..16 * m], &lut[..16 * m]))
        && same(&codes, &[255; 16 * 20])
}

fn scan8(table: &Kernels, reference: &Kernels) -> bool {
    // One table in which every entry tells its place, then some without order.
    let places: Vec<u8> = (0..=255).collect();
    let (codes, lut) = (bytes(9, LANES * 5), bytes(10, 256 * 5));
    let same = |codes: &[u8], lut: &[u8]| same_sums(table.scan8, reference.scan8, codes, lut);
    places
        .as_chunks::<LANES>()
        .0
        .iter()
        .all(|codes| same(codes, &places))
        && same(&codes, &lut)
        && same(&codes[..LANES * 2], &lut)
}

/// Type of both scans.
type Scan = fn(&[u8], &[u8], &mut [u16; LANES]);

fn same_sums(scan: Scan, reference: Scan, codes: &[u8], lut: &[u8]) -> bool {
    let (mut want, mut got) = ([1; LANES], [2; LANES]);
    reference(codes, lut, &mut want);
    scan(codes, lut, &mut got);
    got == want
}

fn score_block(table: &Kernels, reference: &Kernels) -> bool {
    let scales: [u8; LANES] = std::array::from_fn(|i| (i * 37 % 256) as u8);
    let sums: [u16; LANES] = std::array::from_fn(|i| (i * 2_039 + 5) as u16);
    let mut norms = [0; 4 * LANES];
    for (i, norm) in norms.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *norm = (i as f32 / 4.0 - 3.0).to_le_bytes();
    }
    let params = ScoreParams {
        base: -2.0,
        delta: 1.0 / 8192.0,
        correction_min: 0.5,
        correction_step: 1.0 / 256.0,
    };
    [None, Some(&norms)].into_iter().all(|norms| {
        let (mut want, mut got) = ([1.0; LANES], [2.0; LANES]);
        // A score that occurs, for which "not below" and "above" differ; all; none; and what compares with nothing.
        (reference.score_block)(&sums, &scales, norms, &params, 0.0, &mut want);
        [want[11], f32::NEG_INFINITY, f32::INFINITY, f32::NAN]
            .into_iter()
            .all(|threshold| {
                let mask =
                    (reference.score_block)(&sums, &scales, norms, &params, threshold, &mut want);
                mask == (table.score_block)(&sums, &scales, norms, &params, threshold, &mut got)
                    && all_close(&got, &want)
            })
    })
}

fn nearest_codewords(table: &Kernels, reference: &Kernels) -> bool {
    [(16, 3), (48, 5), (11, 2)].iter().all(|&(words, width)| {
        let (rows, codebook) = (floats(11, 60), floats(12, words * width));
        let half_norms: Vec<f32> = (0..words).map(|word| half_norm(&codebook, words, word)).collect();
        let (stride, half_norms) = (width + 1, &half_norms[..]);
        let search = CodewordSearch { rows: &rows, stride, width, codebook: &codebook, half_norms };
        let (mut want, mut got) = ([0; 24], [0; 24]);
        (reference.nearest_codewords)(&search, &mut want, 2);
        (table.nearest_codewords)(&search, &mut got, 2);
        // Codewords that are equally near may stand for each other.
        want.iter().zip(&got).step_by(2).zip(rows.chunks(stride)).all(|((want, got), row)| {
            matches!((cost(&search, row, *want), cost(&search, row, *got)), (Some(w), Some(g)) if close(g, w))
        }) && want.iter().zip(&got).skip(1).step_by(2).all(|(want, got)| want == got)
    })
}

/// Half the squared norm of a codeword.
fn half_norm(codebook: &[f32], words: usize, word: usize) -> f32 {
    codebook
        .iter()
        .skip(word)
        .step_by(words)
        .map(|x| x * x)
        .sum::<f32>()
        / 2.0
}

/// What makes a codeword near to a row when it is small; nothing if there is no such codeword.
fn cost(search: &CodewordSearch<'_>, row: &[f32], word: u8) -> Option<f32> {
    let word = usize::from(word);
    let column = search
        .codebook
        .iter()
        .skip(word)
        .step_by(search.half_norms.len());
    let product: f32 = row
        .iter()
        .take(search.width)
        .zip(column)
        .map(|(x, y)| x * y)
        .sum();
    search.half_norms.get(word).map(|half| half - product)
}

fn keys_in_range(table: &Kernels, reference: &Kernels) -> bool {
    let keys = bytes(17, 8 * LANES);
    [1, 2, 4, 8].into_iter().all(|width: u8| {
        let wide = widen(&keys, width);
        let ranges = [
            (wide[3], wide[9]),
            (wide[9], wide[3]),
            (wide[5], wide[5]),
            (0, u64::MAX),
        ];
        ranges.iter().all(|&(min, max)| {
            (table.keys_in_range)(&keys, width, min, max)
                == (reference.keys_in_range)(&keys, width, min, max)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::KERNELS as SCALAR;
    use crate::{Norms, ScoreBlockFn, choose, supported};

    /// The scalar table under another name, for single functions to be replaced.
    fn copy() -> Kernels {
        Kernels {
            name: "copy",
            ..SCALAR
        }
    }

    #[test]
    fn every_table_of_this_machine_passes() {
        for table in supported() {
            assert!(passes(table, &SCALAR), "{}", table.name);
        }
        assert!(passes(&copy(), &SCALAR));
    }

    #[test]
    fn the_fastest_table_that_passes_is_chosen() {
        static WRONG: Kernels = Kernels {
            name: "wrong",
            dot: |_, _| 0.0,
            ..SCALAR
        };
        static RIGHT: Kernels = Kernels {
            name: "right",
            ..SCALAR
        };
        assert_eq!(choose(&[&SCALAR, &RIGHT]).name, "right");
        assert_eq!(choose(&[&SCALAR, &RIGHT, &WRONG, &WRONG]).name, "right");
        assert_eq!(choose(&[&SCALAR, &WRONG]).name, "scalar");
    }

    #[test]
    fn wrong_products_of_many_rows_are_found() {
        let transposed = |a: &[i8], b: &[i8], columns: usize, out: &mut [i32]| {
            (SCALAR.matmul_i8)(b, a, columns, out);
        };
        let missing_left_alone = |a: &[i8], b: &[i8], columns: usize, out: &mut [i32]| {
            let all = (a.len() / columns) * (b.len() / columns);
            let all = all.min(out.len());
            (SCALAR.matmul_i8)(a, b, columns, &mut out[..all]);
        };
        assert!(!passes(
            &Kernels {
                matmul_i8: transposed,
                ..copy()
            },
            &SCALAR
        ));
        assert!(!passes(
            &Kernels {
                matmul_i8: missing_left_alone,
                ..copy()
            },
            &SCALAR
        ));
    }

    #[test]
    fn wrong_products_of_packed_vectors_are_found() {
        let low_bits = |q: &[i8], packed: &[u8]| {
            let low: Vec<u8> = packed.iter().map(|byte| byte & 0x7f).collect();
            (SCALAR.dot_packed7)(q, &low)
        };
        let first_block = |q: &[i8], packed: &[u8]| (SCALAR.dot_packed7)(q, &packed[..56]);
        let no_square = |q: &[i8], packed: &[u8]| [(SCALAR.dot_packed7)(q, packed)[0], 0];
        let refused = |wrong: Kernels| !passes(&wrong, &SCALAR);
        assert!(refused(Kernels {
            dot_packed7: low_bits,
            ..copy()
        }));
        assert!(refused(Kernels {
            dot_packed7: first_block,
            ..copy()
        }));
        assert!(refused(Kernels {
            dot_packed7: no_square,
            ..copy()
        }));
    }

    #[test]
    fn wrong_products_of_floats_are_found() {
        let without_rest = |a: &[f32], b: &[f32]| {
            let whole = a.len().min(b.len()) / 16 * 16;
            (SCALAR.dot)(&a[..whole], &b[..whole])
        };
        assert!(!passes(
            &Kernels {
                dot: without_rest,
                ..copy()
            },
            &SCALAR
        ));
        assert!(!passes(
            &Kernels {
                dot: |_, _| f32::NAN,
                ..copy()
            },
            &SCALAR
        ));
        let missing_left_alone = |q: &[f32], rows: &[f32], out: &mut [f32]| {
            let whole = (rows.len() / q.len()).min(out.len());
            (SCALAR.dot_rows)(q, rows, &mut out[..whole]);
        };
        assert!(!passes(
            &Kernels {
                dot_rows: missing_left_alone,
                ..copy()
            },
            &SCALAR
        ));
        let rows_swapped = |q: &[f32], rows: &[f32], out: &mut [f32]| {
            (SCALAR.dot_rows)(q, rows, out);
            out.rotate_left(1);
        };
        assert!(!passes(
            &Kernels {
                dot_rows: rows_swapped,
                ..copy()
            },
            &SCALAR
        ));
    }

    #[test]
    fn wrong_products_of_integers_are_found() {
        let saturating = |q: &[i8], rows: &[i8], out: &mut [i32]| {
            (SCALAR.dot_rows_i8)(q, rows, out);
            out.iter_mut()
                .for_each(|x| *x = (*x).clamp(-1_000_000, 1_000_000));
        };
        assert!(!passes(
            &Kernels {
                dot_rows_i8: saturating,
                ..copy()
            },
            &SCALAR
        ));
        let unsigned = |q: &[i8], rows: &[i8], out: &mut [i32]| {
            let q: Vec<i8> = q.iter().map(|x| x.saturating_abs()).collect();
            (SCALAR.dot_rows_i8)(&q, rows, out);
        };
        assert!(!passes(
            &Kernels {
                dot_rows_i8: unsigned,
                ..copy()
            },
            &SCALAR
        ));
    }

    #[test]
    fn wrong_scans_are_found() {
        let even_only: Scan = |codes, lut, sums| {
            let whole = codes.len() / 32 * 32;
            (SCALAR.scan4)(&codes[..whole], lut, sums);
        };
        assert!(!passes(
            &Kernels {
                scan4: even_only,
                ..copy()
            },
            &SCALAR
        ));
        let narrow: Scan = |codes, lut, sums| {
            (SCALAR.scan4)(codes, lut, sums);
            sums.iter_mut().for_each(|sum| *sum &= 0x0fff);
        };
        assert!(!passes(
            &Kernels {
                scan4: narrow,
                ..copy()
            },
            &SCALAR
        ));
        let without_top_bit: Scan = |codes, lut, sums| {
            let codes: Vec<u8> = codes.iter().map(|c| c & 127).collect();
            (SCALAR.scan8)(&codes, lut, sums);
        };
        assert!(!passes(
            &Kernels {
                scan8: without_top_bit,
                ..copy()
            },
            &SCALAR
        ));
    }

    #[test]
    fn wrong_scores_are_found() {
        let without_norms: ScoreBlockFn = |sums, scales, _, params, threshold, out| {
            (SCALAR.score_block)(sums, scales, None::<&Norms>, params, threshold, out)
        };
        assert!(!passes(
            &Kernels {
                score_block: without_norms,
                ..copy()
            },
            &SCALAR
        ));
        let above: ScoreBlockFn = |sums, scales, norms, params, threshold, out| {
            (SCALAR.score_block)(sums, scales, norms, params, threshold, out);
            let lanes = out.iter().enumerate();
            lanes.fold(0, |mask, (i, score)| {
                mask | u32::from(*score > threshold) << i
            })
        };
        assert!(!passes(
            &Kernels {
                score_block: above,
                ..copy()
            },
            &SCALAR
        ));
    }

    #[test]
    fn wrong_codewords_are_found() {
        let first: fn(&CodewordSearch<'_>, &mut [u8], usize) = |_, out, _| out.fill(0);
        assert!(!passes(
            &Kernels {
                nearest_codewords: first,
                ..copy()
            },
            &SCALAR
        ));
        let without_stride: fn(&CodewordSearch<'_>, &mut [u8], usize) =
            |search, out, _| (SCALAR.nearest_codewords)(search, out, 1);
        assert!(!passes(
            &Kernels {
                nearest_codewords: without_stride,
                ..copy()
            },
            &SCALAR
        ));
        let beyond: fn(&CodewordSearch<'_>, &mut [u8], usize) = |search, out, stride| {
            let words = search.half_norms.len() as u8;
            out.iter_mut()
                .step_by(stride)
                .for_each(|code| *code = words);
        };
        assert!(!passes(
            &Kernels {
                nearest_codewords: beyond,
                ..copy()
            },
            &SCALAR
        ));
    }

    #[test]
    fn wrong_ranges_of_keys_are_found() {
        let without_max: fn(&[u8], u8, u64, u64) -> u32 =
            |keys, width, min, max| (SCALAR.keys_in_range)(keys, width, min, max.saturating_sub(1));
        let narrow: fn(&[u8], u8, u64, u64) -> u32 =
            |keys, width, min, max| (SCALAR.keys_in_range)(keys, width.min(4), min, max);
        for keys_in_range in [without_max, narrow] {
            assert!(!passes(
                &Kernels {
                    keys_in_range,
                    ..copy()
                },
                &SCALAR
            ));
        }
    }
}
