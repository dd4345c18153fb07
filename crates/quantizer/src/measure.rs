//! The error of codes.

use crate::Model;
use crate::linalg::{MatRef, norm2};
use crate::space::Kind;

impl Model {
    /// The squared error of a raw row's codes over the squared length of its internal vector, as the encoder decodes
    /// them; none for a row without length, or that is not in a list.
    pub fn code_error(&self, vector: &[f32], list: u32, codes: &[u8]) -> Option<f64> {
        let mut internal = vec![0f32; self.dim()];
        let space = &self.body().encoder.space;
        let kinds = space.rows(MatRef::new(vector, self.dim()), &mut internal);
        if kinds != [Kind::Usable] {
            return None;
        }
        let mut decoded = self.centroid(list)?.to_vec();
        self.body()
            .encoder
            .tables
            .books
            .add_decoded(codes, &mut decoded);
        let length = f64::from(norm2(&internal));
        for (x, d) in internal.iter_mut().zip(&decoded) {
            *x -= d;
        }
        (length > 0.0).then(|| f64::from(norm2(&internal)) / length)
    }
}
