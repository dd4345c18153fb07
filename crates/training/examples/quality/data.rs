//! Data sets and their split; `benches/quality/dataset.py` follows the same rules.

use distillvq_harness::{Error, Result, data};
use std::ops::Range;
use std::path::Path;

const TEST: Range<usize> = 0..2_000;
const LOG: Range<usize> = 2_000..32_000;
const VALIDATION: Range<usize> = 32_000..35_000;
/// Validation queries of a cut set: the last of its log, which are then not trained with.
const CUT_VALIDATION: usize = 500;

/// Which queries to measure with.
#[derive(Clone, Copy, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For the figures that are published.
    Test,
    /// For development.
    Validation,
}

/// Documents, queries to train with, and queries to measure with; row-major.
pub struct DataSet {
    /// Values a row.
    pub dim: usize,
    /// All documents.
    pub documents: Vec<f32>,
    /// The query log.
    pub log: Vec<f32>,
    /// The queries of the split.
    pub measured: Vec<f32>,
    /// The document that each of them is about.
    pub labels: Option<Vec<usize>>,
}

impl DataSet {
    /// Reads a full set (`queries.npy`, split by position) or a cut one (`log.npy`, `test.npy`).
    pub fn open(directory: &Path, split: Split) -> Result<DataSet> {
        let (documents, dim) = vectors(directory, "documents")?;
        let parts = if directory.join("queries.npy").exists() {
            full(directory, split)?
        } else {
            cut(directory, split)?
        };
        let fits = |rows: &[f32]| !rows.is_empty() && rows.len().is_multiple_of(dim);
        let labels = parts.labels.as_ref();
        if parts.dim != dim || !fits(&documents) || !fits(&parts.log) || !fits(&parts.measured) {
            return Err(Error::data(
                directory,
                "no documents, no queries, or queries of other dimensions",
            ));
        }
        if labels.is_some_and(|labels| {
            labels.len() * dim != parts.measured.len()
                || labels.iter().any(|label| label * dim >= documents.len())
        }) {
            return Err(Error::data(
                directory,
                "not one label a query, or one of no document",
            ));
        }
        Ok(DataSet { documents, ..parts })
    }

    /// `count` documents at even distances, or all of them.
    pub fn sample(&self, count: usize) -> Vec<f32> {
        let rows = self.documents.len() / self.dim;
        let count = count.min(rows);
        (0..count)
            .flat_map(|i| self.document(i * rows / count))
            .copied()
            .collect()
    }

    fn document(&self, row: usize) -> &[f32] {
        &self.documents[row * self.dim..(row + 1) * self.dim]
    }
}

fn full(directory: &Path, split: Split) -> Result<DataSet> {
    let (queries, dim) = vectors(directory, "queries")?;
    let measured = match split {
        Split::Test => TEST,
        Split::Validation => VALIDATION,
    };
    let rows = |range: Range<usize>| {
        let end = (range.end * dim).min(queries.len());
        queries[(range.start * dim).min(end)..end].to_vec()
    };
    let labels = labels(directory, "labels")?;
    Ok(DataSet {
        dim,
        documents: Vec::new(),
        log: rows(LOG),
        measured: rows(measured.clone()),
        labels: labels.map(|all| {
            let end = measured.end.min(all.len());
            all[measured.start.min(end)..end].to_vec()
        }),
    })
}

fn cut(directory: &Path, split: Split) -> Result<DataSet> {
    let (mut log, dim) = vectors(directory, "log")?;
    let (measured, labels) = match split {
        Split::Test => (
            vectors(directory, "test")?.0,
            labels(directory, "test_labels")?,
        ),
        Split::Validation => (
            log.split_off(log.len().saturating_sub(CUT_VALIDATION * dim)),
            None,
        ),
    };
    Ok(DataSet {
        dim,
        documents: Vec::new(),
        log,
        measured,
        labels,
    })
}

/// The rows of `NAME.npy` and their dimensions.
fn vectors(directory: &Path, name: &str) -> Result<(Vec<f32>, usize)> {
    let vectors = data::vectors(directory, name)?;
    Ok((vectors.values().to_vec(), vectors.dim()))
}

/// Row numbers, if there is such a file.
fn labels(directory: &Path, name: &str) -> Result<Option<Vec<usize>>> {
    let path = directory.join(format!("{name}.npy"));
    path.exists().then(|| data::numbers(&path)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_set_is_split_as_it_says() -> Result<()> {
        let shipped = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../data/wordnet-20k"
        ));
        let test = DataSet::open(shipped, Split::Test)?;
        let rows = |values: &[f32]| values.len() / test.dim;
        assert_eq!((rows(&test.documents), rows(&test.log)), (20_000, 3_000));
        assert_eq!(rows(&test.measured), 500);
        assert_eq!(test.labels.as_ref().map(Vec::len), Some(500));
        let validation = DataSet::open(shipped, Split::Validation)?;
        assert_eq!(validation.log, test.log[..2_500 * test.dim]);
        assert_eq!(validation.measured, test.log[2_500 * test.dim..]);
        assert!(validation.labels.is_none());
        assert_eq!(
            test.sample(4)[test.dim..2 * test.dim],
            *test.document(5_000)
        );
        Ok(())
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = DataSet::open(Path::new("nowhere"), Split::Test).err();
        let error = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with("nowhere/documents.npy: "), "{error}");
    }
}
