//! Where the values of a block are: `planes` values of `bits` bits for each of 32 rows.
//!
//! A plane holds one value of every row. With 4 bits, byte `j` holds lane `j` in its low and lane `j + 16` in its high
//! nibble; with 1 bit, byte `j` holds lanes `8·j` to `8·j + 7`, the lowest bit first; wider values are little-endian, in the
//! order of the lanes. A block is padded with zeros to a multiple of [`ALIGNMENT`] bytes, so that an odd number of planes of
//! 4 bits has one more, as the scan kernels need it.

/// Rows in a block.
pub const LANES: usize = 32;

/// Bytes that a block is a multiple of.
pub const ALIGNMENT: usize = 32;

/// The widths of values, in bits.
pub const WIDTHS: [u8; 5] = [1, 4, 8, 16, 32];

/// Bytes of a block.
pub const fn bytes(planes: usize, bits: u8) -> usize {
    (planes * bits as usize * (LANES / 8)).next_multiple_of(ALIGNMENT)
}

/// First byte of a value in its block, and the shift of the value in that byte.
pub fn position(plane: usize, lane: usize, bits: u8) -> (usize, u32) {
    let start = plane * usize::from(bits) * (LANES / 8);
    match bits {
        1 => (start + lane / 8, (lane % 8) as u32),
        4 => (start + lane % (LANES / 2), (lane / (LANES / 2) * 4) as u32),
        wide => (start + lane * usize::from(wide / 8), 0),
    }
}

/// A value of a block; bytes beyond the end count as zero.
pub fn get(block: &[u8], (plane, lane): (usize, usize), bits: u8) -> u32 {
    let (at, shift) = position(plane, lane, bits);
    let byte = |i: usize| u32::from(block.get(at + i).copied().unwrap_or(0));
    match bits {
        1 | 4 => byte(0) >> shift & ((1 << bits) - 1),
        wide => (0..usize::from(wide / 8)).fold(0, |value, i| value | byte(i) << (8 * i)),
    }
}

/// Stores a value in a block, its lowest bits if it is too large. Nothing is stored beyond the end.
pub fn put(block: &mut [u8], (plane, lane): (usize, usize), bits: u8, value: u32) {
    let (at, shift) = position(plane, lane, bits);
    match bits {
        1 | 4 => {
            let mask = ((1u32 << bits) - 1) as u8;
            if let Some(byte) = block.get_mut(at) {
                *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
            }
        }
        wide => {
            let bytes = value.to_le_bytes();
            let width = usize::from(wide / 8).min(bytes.len());
            if let (Some(to), Some(from)) = (block.get_mut(at..at + width), bytes.get(..width)) {
                to.copy_from_slice(from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_without_touching_others() {
        for bits in WIDTHS {
            let planes = 5;
            let mut block = vec![0; bytes(planes, bits)];
            let value = |plane: usize, lane: usize| {
                let mixed = ((plane * LANES + lane + 1) as u32).wrapping_mul(0x9e37_79b9);
                mixed >> (32 - u32::from(bits))
            };
            let all = || (0..planes).flat_map(|plane| (0..LANES).map(move |lane| (plane, lane)));
            for at in all() {
                put(&mut block, at, bits, !value(at.0, at.1));
            }
            for at in all() {
                put(&mut block, at, bits, value(at.0, at.1));
            }
            assert!(all().all(|at| get(&block, at, bits) == value(at.0, at.1)));
            assert_eq!(block.len() % ALIGNMENT, 0);
            let used = planes * usize::from(bits) * LANES / 8;
            assert!(block.len() - used < ALIGNMENT);
            put(&mut block, (planes + 8 * 32, 0), bits, 1);
            assert_eq!(get(&block, (planes + 8 * 32, 0), bits), 0);
        }
    }
}
