//! Whether what is stored of a row is an encoding of it.
//!
//! Processors add in different orders, and so does one processor that encodes one row or many: the last bits of products
//! differ, and of two centroids or codewords that are equally near either may win. So what is stored is not compared with
//! what encoding gives here, but judged by what makes an encoding: the nearest, up to a rounding.

use crate::linalg::MatRef;
use crate::refine::refine_bytes;
use crate::space::Kind;
use crate::{Metric, Model};

/// What rounding may change of a squared distance, as a share of the squared lengths that it is made of.
const ROUNDING: f64 = 2e-5;

/// What is stored of a row in a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored<'a> {
    /// Its list.
    pub list: u32,
    /// Codes, one a byte.
    pub codes: &'a [u8],
    /// Norm correction byte.
    pub scale: u8,
    /// Squared norm of the internal vector (L2), else without meaning.
    pub norm: f32,
    /// Refine code; empty where there are none.
    pub refine: &'a [u8],
}

impl Model {
    /// What of `stored` cannot be an encoding of this raw vector, if anything.
    pub fn contradiction(&self, vector: &[f32], stored: &Stored<'_>) -> Option<&'static str> {
        let mut internal = vec![0f32; self.dim()];
        let space = &self.body().encoder.space;
        let kinds = space.rows(MatRef::new(vector, self.dim()), &mut internal);
        if kinds != [Kind::Usable] || stored.list as usize >= self.lists() {
            return Some("is in the wrong list");
        }
        let row = Row {
            model: self,
            length: dot(&internal, &internal),
            x: &internal,
        };
        if !row.is_near(stored.list) {
            return Some("is in the wrong list");
        }
        let Some(decoded) = row.decode(stored.list, stored.codes) else {
            return Some("has wrong codes");
        };
        if !row.scale_fits(&decoded, stored.scale) {
            return Some("has a wrong norm correction");
        }
        let l2 = self.metric() == Metric::L2;
        if l2 && !close(stored.norm.into(), row.length) {
            return Some("has a wrong norm");
        }
        let norm = if l2 { stored.norm } else { 0.0 };
        let fits = stored.refine.is_empty() || row.refine_fits(stored.refine, norm);
        (!fits).then_some("has a wrong refine code")
    }
}

/// An internal vector.
struct Row<'a> {
    model: &'a Model,
    x: &'a [f32],
    /// Its squared length.
    length: f64,
}

impl Row<'_> {
    fn centroid(&self, list: u32) -> &[f32] {
        let dim = self.x.len();
        let centroids = &self.model.body().encoder.tables.centroids;
        let at = list as usize * dim;
        centroids.get(at..at + dim).unwrap_or_default()
    }

    /// Whether the list's centroid is as near as the one that encoding finds.
    fn is_near(&self, list: u32) -> bool {
        let found = self.model.nearest(self.x);
        let cost = |list| distance(self.x, self.centroid(list));
        let lengths = self.length + dot(self.centroid(list), self.centroid(list));
        found == list || cost(list) <= cost(found) + ROUNDING * lengths
    }

    /// What the codes stand for, if each is that of a codeword as near as any.
    fn decode(&self, list: u32, codes: &[u8]) -> Option<Vec<f32>> {
        let books = &self.model.body().encoder.tables.books;
        let centroid = self.centroid(list);
        let slack = ROUNDING * (self.length + dot(centroid, centroid));
        let residual: Vec<f32> = self.x.iter().zip(centroid).map(|(x, c)| x - c).collect();
        let nearest = |(s, &code): (usize, &u8)| {
            let part = residual.get(books.range(s)).unwrap_or_default();
            let cost = |word: usize| distance(part, books.word(s, word as u8));
            let least = (0..books.words).map(cost).fold(f64::INFINITY, f64::min);
            usize::from(code) < books.words && cost(code.into()) <= least + slack
        };
        if codes.len() != books.subquantizers || !codes.iter().enumerate().all(nearest) {
            return None;
        }
        let mut decoded = centroid.to_vec();
        books.add_decoded(codes, &mut decoded);
        Some(decoded)
    }

    /// Whether the byte is, up to a step, the correction of the length.
    fn scale_fits(&self, decoded: &[f32], byte: u8) -> bool {
        let scale = &self.model.body().encoder.scale;
        let correction = (self.length / dot(decoded, decoded)).sqrt();
        if correction.is_nan() || scale.step <= 0.0 {
            return byte == 0;
        }
        let steps = (correction - f64::from(scale.lo)) / f64::from(scale.step);
        (steps.clamp(0.0, 255.0) - f64::from(byte)).abs() <= 1.0
    }

    /// Whether each value of the refine code is, up to half a step, that of the vector.
    fn refine_fits(&self, code: &[u8], norm: f32) -> bool {
        let (values, tail) = code.split_at_checked(self.x.len()).unwrap_or_default();
        let (step, rest) = tail.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let step = f32::from_le_bytes(*step);
        let most = self.x.iter().fold(0f32, |most, x| most.max(x.abs()));
        let slack = ROUNDING.sqrt() * 0.01 * f64::from(most) + 0.51 * f64::from(step);
        let fits = |(&value, &x): (&u8, &f32)| {
            let decoded = f64::from(value.cast_signed()) * f64::from(step);
            (decoded - f64::from(x)).abs() <= slack
        };
        code.len() == refine_bytes(self.x.len())
            && close(f64::from(step) * 127.0, most.into())
            && values.iter().zip(self.x).all(fits)
            && rest == norm.to_le_bytes()
    }
}

/// Whether two lengths are the same up to rounding.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-3 * b
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
    use crate::testing::noise;
    use crate::{Encoded, Placement, Quiet, TrainOptions, train};

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
        train(noise(1500 * DIM, 1), DIM, None, &options, &Quiet)
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

    #[test]
    fn encodings_alone_and_among_others_are_both_right() {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            for bits in [4, 8] {
                let model = model(metric, bits);
                let vectors = noise(300 * DIM, 2);
                let together = model.encode_refined(&vectors);
                for (i, vector) in vectors.chunks_exact(DIM).enumerate() {
                    let (list, one, codes, refine) = encode(&model, vector);
                    let (scale, norm) = (one.scale, one.norm);
                    let alone = Stored {
                        list,
                        codes: &codes,
                        scale,
                        norm,
                        refine: &refine,
                    };
                    assert_eq!(model.contradiction(vector, &alone), None);
                    let bytes = refine_bytes(DIM);
                    let other = together.rows[i];
                    let Placement::List(list) = other.placement else {
                        unreachable!("a usual row");
                    };
                    let stored = Stored {
                        list,
                        codes: &together.codes[i * 7..(i + 1) * 7],
                        scale: other.scale,
                        norm: other.norm,
                        refine: &together.refine[i * bytes..(i + 1) * bytes],
                    };
                    assert_eq!(model.contradiction(vector, &stored), None);
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
                let (scale, norm) = (one.scale, one.norm);
                let stored = Stored {
                    list,
                    codes: &codes,
                    scale,
                    norm,
                    refine: &refine,
                };
                let says = |stored: Stored<'_>| model.contradiction(vector, &stored);
                for other in (0..11).filter(|other| *other != list) {
                    let stored = Stored {
                        list: other,
                        ..stored
                    };
                    assert_eq!(says(stored), Some("is in the wrong list"));
                }
                for s in 0..7 {
                    let mut codes = codes.clone();
                    codes[s] ^= 5;
                    let stored = Stored {
                        codes: &codes,
                        ..stored
                    };
                    assert_eq!(says(stored), Some("has wrong codes"));
                }
                let short = Stored {
                    codes: &codes[1..],
                    ..stored
                };
                assert_eq!(says(short), Some("has wrong codes"));
                let far = Stored {
                    scale: scale ^ 32,
                    ..stored
                };
                assert_eq!(says(far), Some("has a wrong norm correction"));
                let long = Stored {
                    norm: norm * 1.01,
                    ..stored
                };
                assert_eq!(says(long), Some("has a wrong norm"));
                for at in 0..refine.len() {
                    let mut refine = refine.clone();
                    refine[at] ^= 8;
                    let stored = Stored {
                        refine: &refine,
                        ..stored
                    };
                    // The low bits of a step are below any rounding.
                    let wanted =
                        (!(DIM..DIM + 2).contains(&at)).then_some("has a wrong refine code");
                    assert_eq!(says(stored), wanted, "{at}");
                }
            }
        }
    }

    #[test]
    fn rows_that_are_exact_have_no_list() {
        let model = model(Metric::L2, 4);
        let (list, one, codes, _) = encode(&model, &noise(DIM, 3));
        let (scale, norm) = (one.scale, one.norm);
        let stored = Stored {
            list,
            codes: &codes,
            scale,
            norm,
            refine: &[],
        };
        let huge = vec![3e38; DIM];
        assert_eq!(
            model.contradiction(&huge, &stored),
            Some("is in the wrong list")
        );
    }
}
