//! Data sets on disk: the shipped `data/wordnet-20k`, or a full one of the same kind.
//!
//! A *cut* set has `log.npy`, `test.npy` and `test_labels.npy`; a *full* one has `queries.npy` and `labels.npy` for all
//! queries, of which 0..500 serve as test queries and 2000..32000 as the query log. Both have `documents.npy` and
//! `titles.txt`. Vectors are float16 or float32, or int8 with one scale per row in `NAME_scales.npy`.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::npy::{Array, Values};
use crate::vectors::Vectors;

const FULL_TEST: Range<usize> = 0..500;
const FULL_LOG: Range<usize> = 2_000..32_000;

/// Documents to search in, queries to learn from, and queries to measure with.
#[derive(Debug)]
pub struct DataSet {
    /// The name of its directory.
    pub name: String,
    /// The documents; a row's number is its id.
    pub documents: Vectors,
    /// One line of words for each document.
    pub titles: Vec<String>,
    /// Queries to train with.
    pub log: Vectors,
    /// Queries to measure with, never trained on.
    pub test: Vectors,
    /// For each test query the document that it is about.
    pub labels: Vec<usize>,
}

impl DataSet {
    /// Reads the set in a directory.
    ///
    /// # Errors
    /// If a file is missing or malformed, or the files do not fit together.
    pub fn open(directory: &Path) -> Result<Self> {
        let documents = vectors(directory, "documents")?;
        let titles = lines(&directory.join("titles.txt"))?;
        let (log, test, labels) = if directory.join("queries.npy").exists() {
            let queries = vectors(directory, "queries")?;
            let mut labels = numbers(&directory.join("labels.npy"))?;
            labels.truncate(FULL_TEST.end);
            (queries.slice(FULL_LOG), queries.slice(FULL_TEST), labels)
        } else {
            let labels = numbers(&directory.join("test_labels.npy"))?;
            (
                vectors(directory, "log")?,
                vectors(directory, "test")?,
                labels,
            )
        };
        let name = directory.file_name().unwrap_or_default();
        let set = Self {
            name: name.to_string_lossy().into_owned(),
            documents,
            titles,
            log,
            test,
            labels,
        };
        set.check().map_err(|what| Error::data(directory, what))?;
        Ok(set)
    }

    /// The set that comes with the sources.
    ///
    /// # Errors
    /// As [`DataSet::open`].
    pub fn shipped() -> Result<Self> {
        Self::open(&crate::checkout().join("data/wordnet-20k"))
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        let dim = self.documents.dim();
        if self.log.dim() != dim || self.test.dim() != dim {
            return Err("documents and queries differ in their dimensions");
        }
        if self.titles.len() != self.documents.rows() {
            return Err("not one title a document");
        }
        if self.labels.len() != self.test.rows() {
            return Err("not one label a test query");
        }
        if self.labels.iter().any(|&label| label >= self.titles.len()) {
            return Err("a label of no document");
        }
        Ok(())
    }
}

/// Reads `NAME.npy`, and `NAME_scales.npy` if its values are int8.
///
/// # Errors
/// If a file is missing or malformed.
pub fn vectors(directory: &Path, name: &str) -> Result<Vectors> {
    let path = directory.join(format!("{name}.npy"));
    let array = Array::read(&path)?;
    let values = match array.values {
        Values::Float(values) => values,
        Values::Int8(bytes) => {
            let scales = scales(&directory.join(format!("{name}_scales.npy")), array.rows)?;
            let rows = bytes.chunks(array.columns.max(1));
            rows.zip(scales)
                .flat_map(|(row, scale)| row.iter().map(move |&byte| f32::from(byte) * scale))
                .collect()
        }
        Values::Int32(_) => return Err(Error::data(&path, "integers, not vectors")),
    };
    Vectors::new(array.columns, values).map_err(|error| Error::data(&path, error.to_string()))
}

fn scales(path: &Path, rows: usize) -> Result<Vec<f32>> {
    match Array::read(path)?.values {
        Values::Float(scales) if scales.len() == rows => Ok(scales),
        _ => Err(Error::data(path, "not one float a row")),
    }
}

/// Reads row numbers.
///
/// # Errors
/// If the file is missing or malformed.
pub fn numbers(path: &Path) -> Result<Vec<usize>> {
    let bad = || Error::data(path, "not row numbers");
    match Array::read(path)?.values {
        Values::Int32(numbers) => numbers
            .into_iter()
            .map(|number| usize::try_from(number).map_err(|_| bad()))
            .collect(),
        _ => Err(bad()),
    }
}

fn lines(path: &PathBuf) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_set_is_whole() {
        let set = DataSet::shipped().unwrap();
        assert_eq!(set.documents.rows(), 20_000);
        assert_eq!((set.log.rows(), set.test.rows()), (3_000, 500));
        assert_eq!(set.documents.dim(), 384);
        for row in set.documents.iter().chain(set.test.iter()).step_by(97) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 0.01, "{length}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = DataSet::open(Path::new("nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("nowhere/documents.npy: "), "{error}");
    }
}
