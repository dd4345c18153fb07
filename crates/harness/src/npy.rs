//! Reads `.npy` files: C-ordered arrays of one or two dimensions, of the types that the data sets use.

use std::fs;
use std::io;
use std::path::Path;

use half::f16;
use npyz::{NpyFile, Order};

use crate::error::{Error, Result};

/// An array as stored.
#[derive(Debug)]
pub struct Array {
    /// Number of rows.
    pub rows: usize,
    /// Values a row; 1 for one-dimensional arrays.
    pub columns: usize,
    /// The values, row-major.
    pub values: Values,
}

/// The values of an array.
#[derive(Debug)]
pub enum Values {
    /// `|i1`
    Int8(Vec<i8>),
    /// `<i4`
    Int32(Vec<i32>),
    /// `<f2`, widened, or `<f4`
    Float(Vec<f32>),
}

impl Array {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not an array of a type and shape that the data sets use.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        parse(&bytes).map_err(|what| Error::data(path, what.to_string()))
    }
}

fn parse(mut bytes: &[u8]) -> std::result::Result<Array, Box<dyn std::error::Error>> {
    let file = NpyFile::new(&mut bytes)?;
    if file.order() != Order::C {
        return Err("not in C order".into());
    }
    let (rows, columns) = match *file.shape() {
        [rows] => (rows, 1),
        [rows, columns] => (rows, columns),
        _ => return Err("not of one or two dimensions".into()),
    };
    let values = match file.dtype().descr().as_str() {
        "'|i1'" => Values::Int8(file.into_vec()?),
        "'<i4'" => Values::Int32(file.into_vec()?),
        "'<f2'" => Values::Float(
            file.data::<f16>()?
                .map(|x| Ok(x?.to_f32()))
                .collect::<io::Result<_>>()?,
        ),
        "'<f4'" => Values::Float(file.into_vec()?),
        other => return Err(format!("values of type {other}").into()),
    };
    if !bytes.is_empty() {
        return Err(format!("{} bytes too many", bytes.len()).into());
    }
    Ok(Array {
        rows: rows.try_into()?,
        columns: columns.try_into()?,
        values,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(header: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn reads_halves_and_integers() {
        let header = "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2), }";
        let array = parse(&file(header, &[0x00, 0x3c, 0x00, 0xc0])).unwrap();
        assert_eq!((array.rows, array.columns), (1, 2));
        assert!(matches!(array.values, Values::Float(v) if v == [1.0, -2.0]));

        let header = "{'descr': '|i1', 'fortran_order': False, 'shape': (3,), }";
        let array = parse(&file(header, &[1, 0, 255])).unwrap();
        assert!(matches!(array.values, Values::Int8(v) if v == [1, 0, -1]));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for (header, body) in [
            (
                "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }",
                &[0u8; 8][..],
            ),
            (
                "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }",
                &[0; 4],
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }",
                &[0; 4],
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
                &[0; 4],
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
                &[0; 9],
            ),
        ] {
            assert!(parse(&file(header, body)).is_err(), "{header}");
        }
        assert!(parse(b"\x93NUMPY\x01\x00\xff\xff{").is_err());
    }
}
