//! Row-major matrices as slices, and their products through ndarray (whose GEMM picks its instruction set at run time).

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};

/// Rows that are multiplied in one go.
pub const ROWS: usize = 256;

/// A row-major matrix of whole rows.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a> {
    /// All values.
    pub data: &'a [f32],
    /// Columns, at least 1.
    pub cols: usize,
}

impl<'a> MatRef<'a> {
    /// The matrix of these values with `cols` columns.
    pub fn new(data: &'a [f32], cols: usize) -> Self {
        MatRef {
            data,
            cols: cols.max(1),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.cols
    }

    /// Row `i`; empty past the end.
    pub fn row(&self, i: usize) -> &'a [f32] {
        self.data
            .get(i * self.cols..(i + 1) * self.cols)
            .unwrap_or_default()
    }

    /// The rows `from..to`, as far as they exist.
    pub fn slice(&self, from: usize, to: usize) -> MatRef<'a> {
        let (from, to) = (from.min(self.rows()), to.min(self.rows()));
        MatRef {
            data: &self.data[from * self.cols..to.max(from) * self.cols],
            cols: self.cols,
        }
    }

    /// The chosen rows, copied into `out`.
    pub fn gather(&self, rows: &[u32], out: &mut Vec<f32>) {
        out.clear();
        for &row in rows {
            out.extend_from_slice(self.row(row as usize));
        }
    }
}

/// `out = a · bᵀ`: the products of all rows of `a` (n) with all rows of `b` (m), an n×m matrix.
pub fn matmul_nt(a: MatRef<'_>, b: MatRef<'_>, out: &mut [f32]) {
    let (n, m) = (a.rows(), b.rows());
    debug_assert_eq!(a.cols, b.cols);
    let views = (
        ArrayView2::from_shape((n, a.cols), a.data),
        ArrayView2::from_shape((m, b.cols), b.data),
        ArrayViewMut2::from_shape((n, m), out),
    );
    if let (Ok(a), Ok(b), Ok(mut out)) = views {
        general_mat_mul(1.0, &a, &b.t(), 0.0, &mut out);
    } else {
        debug_assert!(false, "shapes do not fit");
    }
}

/// `out = a · b`: n×c from n×k and k×c.
pub fn matmul_nn(a: MatRef<'_>, b: MatRef<'_>, out: &mut [f32]) {
    debug_assert_eq!(a.cols, b.rows());
    let views = (
        ArrayView2::from_shape((a.rows(), a.cols), a.data),
        ArrayView2::from_shape((b.rows(), b.cols), b.data),
        ArrayViewMut2::from_shape((a.rows(), b.cols), out),
    );
    if let (Ok(a), Ok(b), Ok(mut out)) = views {
        general_mat_mul(1.0, &a, &b, 0.0, &mut out);
    } else {
        debug_assert!(false, "shapes do not fit");
    }
}

/// `out += aᵀ · b` for the columns of `a` from `from` on, as many as `out` has rows: k×n and k×c to n×c.
pub fn add_matmul_tn(a: MatRef<'_>, from: usize, b: MatRef<'_>, out: &mut [f32]) {
    debug_assert_eq!(a.rows(), b.rows());
    let to = (from + out.len() / b.cols).min(a.cols);
    let views = (
        ArrayView2::from_shape((a.rows(), a.cols), a.data),
        ArrayView2::from_shape((b.rows(), b.cols), b.data),
        ArrayViewMut2::from_shape((to.saturating_sub(from), b.cols), out),
    );
    if let (Ok(a), Ok(b), Ok(mut out)) = views {
        general_mat_mul(1.0, &a.slice(s![.., from..to]).t(), &b, 1.0, &mut out);
    } else {
        debug_assert!(false, "shapes do not fit");
    }
}

/// Squared norm.
pub fn squared_norm(x: &[f32]) -> f32 {
    (distillvq_kernels::kernels().dot)(x, x)
}

/// Half the squared norm of each row.
pub fn half_norms(rows: MatRef<'_>) -> Vec<f32> {
    rows.data
        .chunks_exact(rows.cols)
        .map(|row| squared_norm(row) / 2.0)
        .collect()
}

/// The smallest value and its position, the first of equals; `None` when nothing is below infinity.
pub fn arg_min(values: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
    let mut best = None;
    let mut least = f32::INFINITY;
    for (i, value) in values.enumerate() {
        if value < least {
            least = value;
            best = Some((i, value));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_products() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 1.0, 2.0, 1.0, 0.0];
        let mut out = [0.0; 4];
        matmul_nt(MatRef::new(&a, 3), MatRef::new(&b, 3), &mut out);
        assert_eq!(out, [4.0, 4.0, 10.0, 13.0]);
        let mut out = [0.0; 6];
        matmul_nn(
            MatRef::new(&[1.0, 2.0, 0.0, 1.0], 2),
            MatRef::new(&b, 3),
            &mut out,
        );
        assert_eq!(out, [5.0, 2.0, 1.0, 2.0, 1.0, 0.0]);
        let mut out = [1.0; 6];
        let a = [9.0, 1.0, 3.0, 9.0, 2.0, 4.0];
        add_matmul_tn(MatRef::new(&a, 3), 1, MatRef::new(&b, 3), &mut out);
        assert_eq!(out, [6.0, 3.0, 2.0, 12.0, 5.0, 4.0]);
    }
}
