//! Checks that a stored code is a valid encoding of its row.
//!
//! Processors add in different orders, and so does one processor that encodes one row or many: the last bits of products
//! differ, and of two centroids or codewords that are equally near either may win. So what is stored is not compared with
//! what encoding gives here, but judged by what makes an encoding: the nearest, up to a rounding.

use crate::coarse::Assigner;
use crate::coarse::flat::Assignment;
use crate::coarse::near_lists::{CANDIDATES, NearLists};
use crate::coarse::second_list;
use crate::format::Metric;
use crate::model::Model;
use crate::preprocess::RowClass;
use crate::sq7::same_up_to_rounding;
use distillvq_linalg::matrix::MatRef;
use std::convert::Infallible;

/// Tolerance of squared distances, relative to the squared norms.
const REL_TOLERANCE: f64 = 2e-5;

/// Lists that a second list must not be worse than: fewer than are compared for it, since a rounding may exchange the farthest ones.
const CHECKED_CANDIDATES: usize = CANDIDATES * 3 / 4;

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

/// Which list of a row an entry is in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ListRole {
    /// The nearest list; encoding gives this one.
    First { computed: u32 },
    /// The second list of a row in this first list.
    Second { first: u32 },
}

impl Model {
    /// Checks that `stored` is an encoding of this raw vector, and says what is wrong; `computed` is its encoding here.
    pub fn check_encoding(
        &self,
        vector: &[f32],
        stored: &StoredRow<'_>,
        computed: &StoredRow<'_>,
    ) -> Option<&'static str> {
        let role = ListRole::First {
            computed: computed.list,
        };
        self.check_entry(vector, stored, computed, role)
    }

    /// As [`Model::check_encoding`], for the second entry of a row. `first` is the stored first list.
    pub fn check_second_encoding(
        &self,
        vector: &[f32],
        stored: &StoredRow<'_>,
        computed: &StoredRow<'_>,
        first: u32,
    ) -> Option<&'static str> {
        self.check_entry(vector, stored, computed, ListRole::Second { first })
    }

    fn check_entry(
        &self,
        vector: &[f32],
        stored: &StoredRow<'_>,
        computed: &StoredRow<'_>,
        role: ListRole,
    ) -> Option<&'static str> {
        if role == (ListRole::Second { first: stored.list }) {
            return Some("is in the wrong list");
        }
        let same_codes = (stored.list, stored.codes) == (computed.list, computed.codes);
        let fitting_scale = if same_codes {
            stored.correction_code.abs_diff(computed.correction_code) <= 1
        } else {
            match self.decoded(vector, stored, role) {
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

    /// The squared length of the internal vector, and what the codes stand for, if the list is the right one and the codewords are
    /// as near as any.
    fn decoded(
        &self,
        vector: &[f32],
        stored: &StoredRow<'_>,
        role: ListRole,
    ) -> Result<(f64, Vec<f32>), &'static str> {
        let mut internal = vec![0f32; self.dim()];
        let space = &self.data().encoder.space;
        let kinds = space.rows(MatRef::new(vector, self.dim()), &mut internal);
        if kinds != [RowClass::Encodable] {
            return Err("is in the wrong list");
        }
        let length = dot(&internal, &internal);
        let centroid = self.centroid(stored.list);
        let Some(centroid) = centroid.filter(|_| self.is_in_list(&internal, stored.list, role))
        else {
            return Err("is in the wrong list");
        };
        let slack = REL_TOLERANCE * (length + dot(centroid, centroid));
        let books = &self.data().encoder.tables.books;
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

    /// Whether no other list is better for the internal vector, up to a rounding.
    fn is_in_list(&self, internal: &[f32], list: u32, role: ListRole) -> bool {
        let Some(centroid) = self.centroid(list) else {
            return false;
        };
        let slack = REL_TOLERANCE * (dot(internal, internal) + dot(centroid, centroid));
        match role {
            ListRole::First { computed } => self.centroid(computed).is_some_and(|best| {
                distance(internal, centroid) <= distance(internal, best) + slack
            }),
            ListRole::Second { first } => {
                let Some(first_centroid) = self.centroid(first) else {
                    return false;
                };
                let (loss, error) = second_list::loss(internal, first_centroid, centroid);
                let best = self.second_list(internal, first);
                let best = best.and_then(|best| self.centroid(best));
                best.is_some_and(|best| {
                    loss <= second_list::loss(internal, first_centroid, best).0 + error * slack
                })
            }
        }
    }

    /// The second list of an internal vector in a first list, `None` if rows have one list.
    fn second_list(&self, internal: &[f32], first: u32) -> Option<u32> {
        let centroid = self.centroid(first)?;
        let cost = dot(centroid, centroid) - 2.0 * dot(internal, centroid);
        let first = Assignment {
            list: first,
            cost: cost as f32,
        };
        let (half_norms, row) = (self.half_norms(), MatRef::new(internal, self.dim()));
        let centroids = MatRef::new(&self.data().encoder.tables.centroids, self.dim());
        let assigner = Assigner::new(centroids, half_norms).with_index(self.centroid_index());
        let (mut nearest, mut near) = ([Assignment::default()], [NearLists::default()]);
        let Ok(()) =
            assigner.assign_with_near(row, &mut nearest, &mut near, || Ok::<_, Infallible>(()));
        let near = near
            .iter_mut()
            .flat_map(|it| it.nearest(CHECKED_CANDIDATES));
        second_list::choose(centroids, half_norms, internal, first, near)
    }

    pub(crate) fn centroid(&self, list: u32) -> Option<&[f32]> {
        let at = list as usize * self.dim();
        let centroids = &self.data().encoder.tables.centroids;
        centroids.get(at..at + self.dim())
    }

    /// Whether the byte is, up to a step, the correction of a squared length.
    fn correction_fits(&self, length: f64, decoded: &[f32], byte: u8) -> bool {
        let scale = &self.data().encoder.scale;
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
