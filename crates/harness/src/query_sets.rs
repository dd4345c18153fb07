//! Tables for measurements of recall, with queries like their rows and queries of another kind.

use std::path::Path;

use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::DataSet;
use crate::error::Result;
use crate::exact::Metric;
use crate::vectors::Vectors;

/// Rows that are taken out of the table, to be queries like the rows; test queries of a generated set.
const LIKE_ROWS: usize = 1_000;
/// Queries in the log of a generated set.
const LOGGED: usize = 20_000;
/// Rows and numbers of a point of the products.
const PRODUCTS: usize = 10_000;
const FACTORS: usize = 5;

/// A table and its queries.
pub struct QuerySet {
    /// For headings.
    pub name: String,
    /// The metric.
    pub metric: Metric,
    /// The rows of the table.
    pub rows: Vectors,
    /// More of the same kind.
    pub like_rows: Vectors,
    /// Queries of another kind, to learn from; no rows if a data set has none.
    pub log: Vectors,
    /// The same, to test with.
    pub test: Vectors,
}

impl QuerySet {
    /// One of the generated sets `texts`, `mixture`, `noise` and `products`, or the data set in a directory, whose metric can be
    /// replaced.
    ///
    /// # Errors
    /// If there is no such data set.
    pub fn named(name: &str, metric: Option<Metric>) -> Result<Self> {
        Ok(match name {
            "texts" => Self::midway(
                "200,000 vectors like texts' × 768, cosine",
                Metric::Cosine,
                200_000,
                |rows| Vectors::like_texts(rows, 768, 1, 0),
            ),
            "mixture" => Self::midway(
                "100,000 points of a mixture × 128, L2",
                Metric::L2,
                100_000,
                |rows| Vectors::clustered(rows, 128, 2_000, 1),
            ),
            "noise" => Self::midway(
                "100,000 points of one cloud × 32, inner product",
                Metric::InnerProduct,
                100_000,
                |rows| Vectors::noise(rows, 32, 1),
            ),
            "products" => Self::products()?,
            directory => Self::on_disk(Path::new(directory), metric)?,
        })
    }

    /// Drawn from one distribution by `draw`; the queries of another kind lie midway between two of it.
    fn midway(name: &str, metric: Metric, rows: usize, draw: impl Fn(usize) -> Vectors) -> Self {
        let all = draw(rows + LIKE_ROWS + LOGGED + LIKE_ROWS + 2);
        let rest = all.slice(rows..all.rows());
        let log = rest.slice(LIKE_ROWS..LIKE_ROWS + LOGGED + 1);
        let test = rest.slice(LIKE_ROWS + LOGGED + 1..rest.rows());
        Self {
            name: name.to_owned(),
            metric,
            rows: all.slice(0..rows),
            like_rows: rest.slice(0..LIKE_ROWS),
            log: log.midway(),
            test: test.midway(),
        }
    }

    /// Rows are the ten products of pairs of five uniform numbers; queries are ten uniform numbers.
    fn products() -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut products = |rows: usize| {
            let mut values = Vec::new();
            for _ in 0..rows {
                let factors: [f32; FACTORS] = std::array::from_fn(|_| random.random());
                for (i, a) in factors.iter().enumerate() {
                    values.extend(factors.iter().take(i).map(|b| a * b));
                }
            }
            Vectors::new(FACTORS * (FACTORS - 1) / 2, values)
        };
        let (rows, like_rows) = (products(PRODUCTS)?, products(LIKE_ROWS)?);
        let dim = rows.dim();
        let mut uniform = |n: usize| {
            let values = (0..n * dim).map(|_| random.random());
            Vectors::new(dim, values.collect())
        };
        Ok(Self {
            name: format!("{PRODUCTS} products of pairs × {dim}, uniform queries, L2"),
            metric: Metric::L2,
            rows,
            like_rows,
            log: uniform(LOGGED)?,
            test: uniform(LIKE_ROWS)?,
        })
    }

    fn on_disk(directory: &Path, metric: Option<Metric>) -> Result<Self> {
        let set = DataSet::open(directory)?;
        let metric = metric.unwrap_or(set.metric);
        let like_rows = LIKE_ROWS.min(set.documents.rows() / 10);
        let rows = set.documents.rows() - like_rows;
        // Neighbors in the file may be of one kind: halves of the table and the queries are drawn from everywhere.
        let step = (set.documents.rows() as f64 * 0.618) as usize;
        let step = (step..).find(|step| coprime(*step, set.documents.rows()));
        let mut order =
            (0..set.documents.rows()).map(|i| i * step.unwrap_or(1) % set.documents.rows());
        let dim = set.documents.dim();
        let mut draw = |n: usize| {
            let drawn = order.by_ref().take(n);
            let values = drawn.flat_map(|i| set.documents.row(i).to_vec()).collect();
            Vectors::new(dim, values)
        };
        Ok(Self {
            name: format!("{}, {rows} rows × {dim}, {}", set.name, metric.name()),
            metric,
            like_rows: draw(like_rows)?,
            rows: draw(rows)?,
            log: set.log.clone(),
            test: set.test.clone(),
        })
    }
}

fn coprime(mut a: usize, mut b: usize) -> bool {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}
