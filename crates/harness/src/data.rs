//! Data sets on disk: the shipped `data/wordnet-20k`, or any folder with `documents.npy` and `queries.npy`.
//!
//! | file | contents |
//! |---|---|
//! | `documents.npy` | the rows of the table |
//! | `queries.npy` | queries: rows 0..500 are the test queries, rows 2000..32000 the query log |
//! | `test.npy`, `log.npy` | test queries and query log; each replaces that part of `queries.npy` |
//! | `titles.txt` | optional: one line of text per document |
//! | `labels.npy`, `test_labels.npy` | optional: the number of the document that each query of `queries.npy` or `test.npy` is about |
//! | `metric.txt` | optional: `cosine` (the default), `l2`, or `ip` |
//!
//! A set has no query log if `queries.npy` has fewer than 2,500 rows and there is no `log.npy`. Vectors are float16, float32, or
//! float64, or int8 with one scale per row in `NAME_scales.npy`. `tools/import_data.py` writes such a folder from other formats.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::exact::Metric;
use crate::npy::{Array, Values};
use crate::vectors::Vectors;

/// Rows of `queries.npy` that are test queries.
const TEST_ROWS: Range<usize> = 0..500;
/// Rows of `queries.npy` that are the query log.
const LOG_ROWS: Range<usize> = 2_000..32_000;
/// Minimum rows of a query log in `queries.npy`. Fewer queries are not used.
const MIN_LOG_ROWS: usize = 500;

/// Documents to search, queries to train with, and queries to measure with.
#[derive(Debug)]
pub struct DataSet {
    /// The name of its directory.
    pub name: String,
    /// The metric of its vectors.
    pub metric: Metric,
    /// The documents; a row's number is its id.
    pub documents: Vectors,
    /// One line of text per document, or empty.
    pub titles: Vec<String>,
    /// Queries to train with; no rows if there is no query log.
    pub log: Vectors,
    /// Queries to measure with, never trained on.
    pub test: Vectors,
    /// The document that each test query is about, or empty.
    pub labels: Vec<usize>,
}

impl DataSet {
    /// Reads the set in a directory.
    ///
    /// # Errors
    /// If a required file is missing, a file is malformed, or the files do not fit together.
    pub fn open(directory: &Path) -> Result<Self> {
        let documents = vectors(directory, "documents")?;
        let cut = directory.join("test.npy").exists();
        let (test, labels) = if cut {
            (vectors(directory, "test")?, "test_labels.npy")
        } else {
            (vectors(directory, "queries")?, "labels.npy")
        };
        let log = if directory.join("log.npy").exists() {
            vectors(directory, "log")?
        } else if cut {
            test.slice(0..0)
        } else {
            logged(&test)
        };
        let test = if cut { test } else { test.slice(TEST_ROWS) };
        let mut labels = optional(numbers(&directory.join(labels)))?.unwrap_or_default();
        if !cut {
            labels.truncate(TEST_ROWS.end);
        }
        let set = Self {
            name: name(directory),
            metric: optional(metric(&directory.join("metric.txt")))?.unwrap_or(Metric::Cosine),
            documents,
            titles: optional(lines(&directory.join("titles.txt")))?.unwrap_or_default(),
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

    /// Whether there are queries to train with.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.log.rows() > 0
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        let (dim, documents) = (self.documents.dim(), self.documents.rows());
        if documents == 0 || self.test.rows() == 0 {
            return Err("no documents or no test queries");
        }
        if self.test.dim() != dim || self.has_log() && self.log.dim() != dim {
            return Err("documents and queries differ in their dimensions");
        }
        if !self.titles.is_empty() && self.titles.len() != documents {
            return Err("titles.txt must have one line per document");
        }
        if !self.labels.is_empty() && self.labels.len() != self.test.rows() {
            return Err("labels must have one row per query");
        }
        if self.labels.iter().any(|&label| label >= documents) {
            return Err("a label is not the number of a document");
        }
        Ok(())
    }
}

/// The query log in `queries.npy`: no rows if there are too few.
fn logged(queries: &Vectors) -> Vectors {
    let rows = if queries.rows() >= LOG_ROWS.start + MIN_LOG_ROWS {
        LOG_ROWS
    } else {
        0..0
    };
    queries.slice(rows)
}

/// The name of a directory, also if it is given as `.` or with a slash at the end.
fn name(directory: &Path) -> String {
    let absolute = directory.canonicalize();
    let directory = absolute.as_deref().unwrap_or(directory);
    let name = directory.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// None if the file is missing.
fn optional<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn metric(path: &Path) -> Result<Metric> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let metric = text.trim().parse();
    metric.map_err(|error: Error| Error::data(path, error.to_string()))
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

fn lines(path: &Path) -> Result<Vec<String>> {
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

    /// Writes a float32 array of `rows` × 2.
    fn write(directory: &Path, name: &str, rows: usize) {
        let header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 2), }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend((0..2 * rows).flat_map(|value| (value as f32).to_le_bytes()));
        fs::write(directory.join(name), bytes).unwrap();
    }

    #[test]
    fn documents_and_queries_are_enough() {
        let directory = std::env::temp_dir().join(format!("distillvq-data-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        write(&directory, "documents.npy", 30);
        for (queries, test, log) in [(7, 7, 0), (2_499, 500, 0), (2_600, 500, 600)] {
            write(&directory, "queries.npy", queries);
            let set = DataSet::open(&directory).unwrap();
            assert_eq!((set.test.rows(), set.log.rows()), (test, log));
            assert!(set.titles.is_empty() && set.labels.is_empty());
            assert_eq!(set.metric, Metric::Cosine);
        }
        write(&directory, "log.npy", 3);
        fs::write(directory.join("metric.txt"), "l2\n").unwrap();
        let set = DataSet::open(&directory).unwrap();
        assert_eq!((set.log.rows(), set.metric), (3, Metric::L2));
        fs::write(directory.join("titles.txt"), "one\n").unwrap();
        let error = DataSet::open(&directory).unwrap_err().to_string();
        assert!(error.ends_with("one line per document"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = DataSet::open(Path::new("nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("nowhere/documents.npy: "), "{error}");
    }
}
