//! Reading `.npy` files: C-ordered arrays of one or two dimensions, little-endian.
//!
//! Format: `\x93NUMPY`, version, header length, a Python dictionary with `descr`, `fortran_order` and `shape`, the data.

use std::fs;
use std::path::Path;

use half::f16;

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
    /// `<f2`, widened, `<f4`, or `<f8`, rounded
    Float(Vec<f32>),
}

impl Array {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not an array of a type and shape that the data sets use.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        parse(&bytes).map_err(|what| Error::data(path, what))
    }
}

fn parse(bytes: &[u8]) -> std::result::Result<Array, String> {
    let (header, body) = split(bytes).ok_or("not a .npy file")?;
    let field = |name: &str| {
        let (_, rest) = header.split_once(&format!("'{name}':"))?;
        Some(rest.trim_start())
    };
    if !field("fortran_order").is_some_and(|value| value.starts_with("False")) {
        return Err("not in C order".into());
    }
    let (rows, columns) = field("shape")
        .and_then(shape)
        .ok_or("not of one or two dimensions")?;
    let descr = field("descr")
        .and_then(|value| value.split('\'').nth(1))
        .ok_or("no type")?;
    let count = rows.checked_mul(columns).ok_or("too large")?;
    let values = match descr {
        "|i1" => Values::Int8(decode(body, count, |[byte]: [u8; 1]| byte.cast_signed())?),
        "<i4" => Values::Int32(decode(body, count, i32::from_le_bytes)?),
        "<f2" => Values::Float(decode(body, count, |b| f16::from_le_bytes(b).to_f32())?),
        "<f4" => Values::Float(decode(body, count, f32::from_le_bytes)?),
        "<f8" => Values::Float(decode(body, count, |b| f64::from_le_bytes(b) as f32)?),
        other => return Err(format!("values of type {other}")),
    };
    Ok(Array {
        rows,
        columns,
        values,
    })
}

/// Header text and data of a file of version 1 (two bytes of header length) or 2 and 3 (four bytes).
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (&[major, _minor], rest) = rest.split_first_chunk()?;
    let (length, rest) = if major == 1 {
        let (length, rest) = rest.split_first_chunk()?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk()?;
        (usize::try_from(u32::from_le_bytes(*length)).ok()?, rest)
    };
    let (header, body) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, body))
}

/// `(rows, columns)` of `(20000,)` or `(20000, 384)`.
fn shape(text: &str) -> Option<(usize, usize)> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let mut sizes = inside
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().ok());
    let rows = sizes.next()??;
    let columns = sizes.next().unwrap_or(Some(1))?;
    sizes.next().is_none().then_some((rows, columns))
}

fn decode<const N: usize, T>(
    body: &[u8],
    count: usize,
    value: impl Fn([u8; N]) -> T,
) -> std::result::Result<Vec<T>, String> {
    let (items, rest) = body.as_chunks::<N>();
    if items.len() != count || !rest.is_empty() {
        return Err(format!(
            "{} bytes of data for {count} values of {N} bytes",
            body.len()
        ));
    }
    Ok(items.iter().map(|&item| value(item)).collect())
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
    fn reads_floats_and_integers() {
        let header = "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2), }";
        let array = parse(&file(header, &[0x00, 0x3c, 0x00, 0xc0])).unwrap();
        assert_eq!((array.rows, array.columns), (1, 2));
        assert!(matches!(array.values, Values::Float(v) if v == [1.0, -2.0]));

        let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }";
        let array = parse(&file(header, &1.5f64.to_le_bytes())).unwrap();
        assert!(matches!(array.values, Values::Float(v) if v == [1.5]));

        let header = "{'descr': '|i1', 'fortran_order': False, 'shape': (3,), }";
        let array = parse(&file(header, &[1, 0, 255])).unwrap();
        assert!(matches!(array.values, Values::Int8(v) if v == [1, 0, -1]));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for (header, body) in [
            (
                "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }",
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
        ] {
            assert!(parse(&file(header, body)).is_err(), "{header}");
        }
        assert!(parse(b"\x93NUMPY\x01\x00\xff\xff{").is_err());
    }
}
