//! Checks that a stored code is a valid encoding of its row.
//!
//! Processors add in different orders, and so does one processor that encodes one row or many: the last bits of products
//! differ, and of two centroids or codewords that are equally near either may win. So what is stored is not compared with
//! what encoding gives here, but judged by what makes an encoding: the nearest, up to a rounding.

use crate::linalg::MatRef;
use crate::preprocess::RowClass;
use crate::refine::same_up_to_rounding;
use crate::{Metric, Model};

/// Tolerance of squared distances, relative to the squared norms.
const REL_TOLERANCE: f64 = 2e-5;

/// Stored code of a row in a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoredRow<'a> {
    /// Its list.
    pub list: u32,
    /// Codes, one a byte.
    pub codes: &'a [u8],
    /// Norm correction byte.
    pub correction_code: u8,
    /// Squared norm of the internal vector (L2), else without meaning.
    pub norm: f32,
    /// Refine code; empty where there are none.
    pub refine: &'a [u8],
}

impl Model {
    /// Checks that `stored` is an encoding of this raw vector, and says what is wrong; `computed` is its encoding here.
    pub fn check_encoding(
        &self,
        vector: &[f32],
        stored: &StoredRow<'_>,
        computed: &StoredRow<'_>,
    ) -> Option<&'static str> {
        let same_codes = (stored.list, stored.codes) == (computed.list, computed.codes);
        let fitting_scale = if same_codes {
            stored.correction_code.abs_diff(computed.correction_code) <= 1
        } else {
            match self.decoded(vector, stored, computed.list) {
                Ok((length, decoded)) => {
                    self.correction_fits(length, &decoded, stored.correction_code)
                }
                Err(what) => return Some(what),
            }
        };
        if !fitting_scale {
            return Some("has a wrong norm correction");
        }
        let l2 = self.metric() == Metric::L2;
        if l2 && !close(stored.norm.into(), computed.norm.into()) {
            return Some("has a wrong norm");
        }
        let same = stored.refine == computed.refine
            || same_up_to_rounding(stored.refine, computed.refine, self.dim());
        (!same).then_some("has a wrong refine code")
    }

    /// The squared length of the internal vector, and what the codes stand for, if list and codewords are as near as any;
    /// `nearest` is the list that encoding gives.
    fn decoded(
        &self,
        vector: &[f32],
        stored: &StoredRow<'_>,
        nearest: u32,
    ) -> Result<(f64, Vec<f32>), &'static str> {
        let mut internal = vec![0f32; self.dim()];
        let space = &self.body().encoder.space;
        let kinds = space.rows(MatRef::new(vector, self.dim()), &mut internal);
        if kinds != [RowClass::Encodable] {
            return Err("is in the wrong list");
        }
        let (Some(centroid), Some(best)) = (self.centroid(stored.list), self.centroid(nearest))
        else {
            return Err("is in the wrong list");
        };
        let length = dot(&internal, &internal);
        let slack = REL_TOLERANCE * (length + dot(centroid, centroid));
        if distance(&internal, centroid) > distance(&internal, best) + slack {
            return Err("is in the wrong list");
        }
        let books = &self.body().encoder.tables.books;
        let pairs = internal.iter().zip(centroid);
        let residual: Vec<f32> = pairs.map(|(x, c)| x - c).collect();
        let is_nearest = |(s, &code): (usize, &u8)| {
            let part = residual.get(books.range(s)).unwrap_or_default();
            let cost = |word: usize| distance(part, books.word(s, word as u8));
            let least = (0..books.codewords).map(cost).fold(f64::INFINITY, f64::min);
            usize::from(code) < books.codewords && cost(code.into()) <= least + slack
        };
        let codes = stored.codes;
        if codes.len() != books.subquantizers || !codes.iter().enumerate().all(is_nearest) {
            return Err("has wrong codes");
        }
        let mut decoded = centroid.to_vec();
        books.add_decoded(codes, &mut decoded);
        Ok((length, decoded))
    }

    pub(crate) fn centroid(&self, list: u32) -> Option<&[f32]> {
        let at = list as usize * self.dim();
        let centroids = &self.body().encoder.tables.centroids;
        centroids.get(at..at + self.dim())
    }

    /// Whether the byte is, up to a step, the correction of a squared length.
    fn correction_fits(&self, length: f64, decoded: &[f32], byte: u8) -> bool {
        let scale = &self.body().encoder.scale;
        let correction = (length / dot(decoded, decoded)).sqrt();
        if correction.is_nan() || scale.step <= 0.0 {
            return byte == 0;
        }
        let steps = (correction - f64::from(scale.lo)) / f64::from(scale.step);
        (steps.clamp(0.0, 255.0) - f64::from(byte)).abs() <= 1.0
    }
}

/// Whether two lengths are the same up to rounding.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * b
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

/// Squared distance; what `b` has beyond `a` is padding.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::refine::refine_bytes;
    use crate::testing::noise;
    use crate::{Encoded, NoMonitor, Placement, TrainOptions, train};

    const DIM: usize = 24;

    fn model(metric: Metric, bits: u8) -> Model {
        let options = TrainOptions {
            metric,
            lists: 10,
            subquantizers: 7,
            bits,
            distill: false,
            ..TrainOptions::default()
        };
        train(noise(1500 * DIM, 1), DIM, None, &options, &NoMonitor)
            .unwrap()
            .model
    }

    /// A row's list and what else is stored of it.
    fn encode(model: &Model, vector: &[f32]) -> (u32, Encoded, Vec<u8>, Vec<u8>) {
        let all = model.encode_refined(vector);
        let Placement::List(list) = all.rows[0].placement else {
            unreachable!("a usual row");
        };
        (list, all.rows[0], all.codes, all.refine)
    }

    fn stored<'a>((list, one): (u32, Encoded), codes: &'a [u8], refine: &'a [u8]) -> StoredRow<'a> {
        StoredRow {
            list,
            codes,
            correction_code: one.correction_code,
            norm: one.norm,
            refine,
        }
    }

    #[test]
    fn encodings_alone_and_among_others_are_both_right() {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            for bits in [4, 8] {
                let model = model(metric, bits);
                let vectors = noise(300 * DIM, 2);
                let together = model.encode_refined(&vectors);
                for (i, vector) in vectors.chunks_exact(DIM).enumerate() {
                    let (list, one, codes, refine) = encode(&model, vector);
                    let alone = stored((list, one), &codes, &refine);
                    let other = together.rows[i];
                    let Placement::List(list) = other.placement else {
                        unreachable!("a usual row");
                    };
                    let bytes = refine_bytes(DIM);
                    let codes = &together.codes[i * 7..(i + 1) * 7];
                    let refine = &together.refine[i * bytes..(i + 1) * bytes];
                    let among = stored((list, other), codes, refine);
                    assert_eq!(model.check_encoding(vector, &alone, &among), None);
                    assert_eq!(model.check_encoding(vector, &among, &alone), None);
                }
            }
        }
    }

    #[test]
    fn whatever_is_changed_is_a_contradiction() {
        for bits in [4, 8] {
            let model = model(Metric::L2, bits);
            for vector in noise(50 * DIM, 3).chunks_exact(DIM) {
                let (list, one, codes, refine) = encode(&model, vector);
                let right = stored((list, one), &codes, &refine);
                let says = |stored: StoredRow<'_>| model.check_encoding(vector, &stored, &right);
                assert_eq!(says(right), None);
                for list in (0..11).filter(|other| *other != list) {
                    let says = says(StoredRow { list, ..right });
                    assert_eq!(says, Some("is in the wrong list"));
                }
                for s in 0..7 {
                    let mut codes = codes.clone();
                    codes[s] ^= 5;
                    let codes = &codes;
                    assert_eq!(says(StoredRow { codes, ..right }), Some("has wrong codes"));
                }
                let short = &codes[1..];
                let says_short = says(StoredRow {
                    codes: short,
                    ..right
                });
                assert_eq!(says_short, Some("has wrong codes"));
                let correction_code = one.correction_code ^ 32;
                let says_far = says(StoredRow {
                    correction_code,
                    ..right
                });
                assert_eq!(says_far, Some("has a wrong norm correction"));
                let norm = one.norm * 1.01;
                assert_eq!(says(StoredRow { norm, ..right }), Some("has a wrong norm"));
                for at in 0..refine.len() {
                    let mut refine = refine.clone();
                    refine[at] ^= 8;
                    let refine = &refine;
                    let says = says(StoredRow { refine, ..right });
                    assert_eq!(says, Some("has a wrong refine code"), "{at}");
                }
            }
        }
    }

    #[test]
    fn the_nearest_but_for_a_rounding_is_right() {
        // Two equal codewords of a sub-space: the one that encoding does not choose is as good.
        let vectors = noise(300 * DIM, 4);
        let mut body = model(Metric::InnerProduct, 4).body().clone();
        let first = Model::new(body.clone()).unwrap();
        let one = encode(&first, &vectors[..DIM]).2[2];
        let other = one ^ 1;
        let books = &mut body.encoder.tables.books;
        let word = books.word(2, one).to_vec();
        let at = (2 * books.codewords + usize::from(other)) * books.width;
        books.values[at..at + word.len()].copy_from_slice(&word);
        let model = Model::new(body).unwrap();
        let mut chosen = 0;
        for vector in vectors.chunks_exact(DIM) {
            let (list, row, codes, refine) = encode(&model, vector);
            let right = stored((list, row), &codes, &refine);
            if ![one, other].contains(&codes[2]) {
                continue;
            }
            chosen += 1;
            let mut codes = codes.clone();
            codes[2] ^= 1;
            let codes = &codes;
            let twin = StoredRow { codes, ..right };
            assert_eq!(model.check_encoding(vector, &twin, &right), None);
        }
        assert!(chosen > 3, "{chosen}");
    }

    #[test]
    fn rows_that_are_exact_have_no_list() {
        let model = model(Metric::L2, 4);
        let (list, one, codes, _) = encode(&model, &noise(DIM, 3));
        let in_list = stored((list, one), &codes, &[]);
        let computed = StoredRow {
            list: 10,
            ..in_list
        };
        let says = model.check_encoding(&[3e38; DIM], &in_list, &computed);
        assert_eq!(says, Some("is in the wrong list"));
    }
}
