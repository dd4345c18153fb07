//! A set of row addresses that stays small when many rows of a table are in it.

use crate::Tid;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Row addresses, 64 neighbouring line numbers in one entry.
#[derive(Default)]
pub(crate) struct TidSet {
    words: HashMap<u64, u64, BuildHasherDefault<Mixer>>,
}

/// Spreads a number over all bits (the multiplier is 2^64 divided by the golden ratio). Nobody can choose row addresses so
/// that many fall together, and a search asks for each of its rows.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, x: u64) {
        let mixed = (self.0 ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }
}

impl TidSet {
    /// Adds an address; false if it was there already.
    pub fn insert(&mut self, tid: Tid) -> bool {
        let place = u64::from(tid.block) << 10 | u64::from(tid.offset >> 6);
        let word = self.words.entry(place).or_default();
        let bit = 1u64 << (tid.offset & 63);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}
