//! Large tables of the model as bfloat16.
//!
//! Queries multiply by int8 values (see `int8`), so a student keeps no more than the upper half of an `f32`'s bits (bfloat16:
//! the range of `f32`, steps of 1/256). So do rotation and codebooks: rows are encoded by what is left of them. [`round_to_bf16`] is called where training ends; serde's side then finds by itself that
//! nothing is lost, and writes a table that was never rounded in full.

use distillvq_linalg::int8::MIN_INT8_DIM;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Low bits of an `f32` that bfloat16 lacks.
const LOW_BITS: u32 = 0xffff;

/// Rounds the rows of a table to bfloat16, unless they are so short that full precision matters and costs little.
pub fn round_to_bf16(values: &mut [f32], dim: usize) {
    if dim < MIN_INT8_DIM {
        return;
    }
    for x in values.iter_mut().filter(|x| x.is_finite()) {
        let bits = x.to_bits();
        // To the nearest, ties to even; what would become infinite stays below.
        let up = f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & !LOW_BITS);
        *x = if up.is_finite() {
            up
        } else {
            f32::from_bits(bits & !LOW_BITS)
        };
    }
}

/// Stored form of a table.
#[derive(Serialize, Deserialize)]
enum StoredTable {
    Full(Vec<f32>),
    /// The upper halves, little-endian.
    Half(Vec<u8>),
}

/// Writes a table.
pub fn serialize<S: Serializer>(values: &[f32], to: S) -> Result<S::Ok, S::Error> {
    let upper = |x: &f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
    let stored = if values.iter().all(|x| x.to_bits() & LOW_BITS == 0) {
        StoredTable::Half(values.iter().flat_map(upper).collect())
    } else {
        StoredTable::Full(values.to_vec())
    };
    stored.serialize(to)
}

/// Reads a table. Its length and numbers are not checked here.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
    Ok(match StoredTable::deserialize(from)? {
        StoredTable::Full(values) => values,
        StoredTable::Half(bytes) => {
            let (halves, _) = bytes.as_chunks::<2>();
            let whole = |half: &[u8; 2]| u32::from(u16::from_le_bytes(*half)) << 16;
            halves
                .iter()
                .map(|half| f32::from_bits(whole(half)))
                .collect()
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bincode::serde::{decode_from_slice, encode_to_vec};
    use distillvq_linalg::testing::noise;

    #[derive(Serialize, Deserialize)]
    struct Table(#[serde(with = "super")] Vec<f32>);

    fn there_and_back(values: &[f32]) -> (usize, Vec<f32>) {
        let config = bincode::config::standard();
        let bytes = encode_to_vec(Table(values.to_vec()), config).unwrap();
        let (Table(back), _) = decode_from_slice(&bytes, config).unwrap();
        (bytes.len(), back)
    }

    #[test]
    fn rounded_tables_take_half_and_lose_nothing_more() {
        let mut values = noise(1000, 3);
        values[..4].copy_from_slice(&[f32::MAX, f32::MIN, 1e-45, -0.0]);
        let (size, back) = there_and_back(&values);
        assert!(size > 4000 && back == values);
        let mut rounded = values.clone();
        round_to_bf16(&mut rounded, MIN_INT8_DIM);
        for (x, y) in values.iter().zip(&rounded) {
            assert!(y.is_finite() && (x - y).abs() <= x.abs() / 256.0 + 1e-40);
        }
        let (size, back) = there_and_back(&rounded);
        assert!(size < 2010 && back == rounded);
        let mut again = rounded.clone();
        round_to_bf16(&mut again, MIN_INT8_DIM);
        assert_eq!(again, rounded);
    }

    #[test]
    fn short_rows_stay_as_they_are() {
        let mut values = noise(100, 4);
        round_to_bf16(&mut values, MIN_INT8_DIM - 1);
        assert_eq!(values, noise(100, 4));
    }
}
