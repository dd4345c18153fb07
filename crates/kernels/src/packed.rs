//! Vectors of seven-bit values, packed.
//!
//! A block of [`VALUES`] values of -64 to 63 has [`BYTES`] bytes. A value is stored 64 larger, so that none is negative. Byte
//! `i` has value `i` in its low seven bits; the highest bits of all bytes, one behind the other, are the last eight values,
//! seven bits each, the lowest first.

/// Values of a block.
pub const VALUES: usize = 64;
/// Bytes of a block.
pub const BYTES: usize = 56;
/// What is added to a value.
pub(crate) const SHIFT: i32 = 64;

/// Appends values as blocks, the last one filled up with zeros.
pub fn pack7(values: &[i8], out: &mut Vec<u8>) {
    for values in values.chunks(VALUES) {
        let stored = |i: usize| {
            let value = values.get(i).copied().unwrap_or_default();
            value.clamp(-64, 63).wrapping_add(64).cast_unsigned()
        };
        let last = (BYTES..VALUES).rev();
        let high = last.fold(0u64, |bits, i| bits << 7 | u64::from(stored(i)));
        out.extend((0..BYTES).map(|i| stored(i) | ((high >> i & 1) as u8) << 7));
    }
}

/// Appends the values of blocks, those of padding too.
pub fn unpack7(packed: &[u8], out: &mut Vec<i8>) {
    for block in packed.as_chunks::<BYTES>().0 {
        out.extend(values(block));
    }
}

/// The values of a block.
pub(crate) fn values(block: &[u8; BYTES]) -> [i8; VALUES] {
    let mut values = [0; VALUES];
    let mut high = 0;
    for (i, (value, byte)) in values.iter_mut().zip(block).enumerate() {
        *value = (byte & 0x7f) as i8 - 64;
        high |= u64::from(byte >> 7) << i;
    }
    for (value, byte) in values[BYTES..].iter_mut().zip(spread(high).to_le_bytes()) {
        *value = byte as i8 - 64;
    }
    values
}

/// Eight times seven bits, each in a byte of its own.
#[inline]
pub(crate) fn spread(bits: u64) -> u64 {
    let fours = bits & 0xfff_ffff | (bits & 0xff_ffff_f000_0000) << 4;
    let twos = fours & 0x3fff_0000_3fff | (fours & 0xfff_c000_0fff_c000) << 2;
    twos & 0x7f_007f_007f_007f | (twos & 0x3f80_3f80_3f80_3f80) << 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept() {
        for n in [0, 1, 7, 56, 57, 63, 64, 65, 128, 1_000] {
            let all: Vec<i8> = (0..n).map(|i| (i * 37 % 128 - 64) as i8).collect();
            let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
            pack7(&all, &mut packed);
            assert_eq!(packed.len(), all.len().div_ceil(VALUES) * BYTES);
            unpack7(&packed, &mut unpacked);
            assert_eq!(unpacked[..all.len()], all);
            assert!(unpacked[all.len()..].iter().all(|padding| *padding == 0));
        }
    }

    #[test]
    fn every_value_is_alone_in_its_place() {
        for at in 0..VALUES {
            for value in [-64, 63] {
                let mut all = [0; VALUES];
                all[at] = value;
                let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
                pack7(&all, &mut packed);
                unpack7(&packed, &mut unpacked);
                assert_eq!(unpacked, all, "{at}");
            }
        }
    }
}
