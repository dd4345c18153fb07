//! A set of row addresses that stays small when many rows of a table are in it.

use crate::Tid;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Bytes per entry of the table: a key, a word and a control byte, at a load of one half.
const ENTRY_BYTES: usize = 34;

/// Row addresses, 64 neighboring line numbers in one entry.
#[derive(Debug)]
pub(crate) struct TidSet {
    words: HashMap<u64, u64, BuildHasherDefault<TidHasher>>,
    max_words: usize,
}

/// Spreads a number over all bits (the multiplier is 2^64 divided by the golden ratio). Nobody can choose row addresses so
/// that many fall together, and a search asks for each of its rows.
#[derive(Default)]
struct TidHasher(u64);

impl Hasher for TidHasher {
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
    /// An empty set that takes at most `bytes`.
    pub fn new(bytes: usize) -> Self {
        TidSet {
            words: HashMap::default(),
            max_words: bytes / ENTRY_BYTES,
        }
    }

    /// Adds an address; false if it was there already. Without memory for it, it is not added.
    pub fn insert(&mut self, tid: Tid) -> bool {
        self.try_insert(tid).unwrap_or(true)
    }

    /// Adds an address; false if it was there already, `None` without memory for it.
    pub fn try_insert(&mut self, tid: Tid) -> Option<bool> {
        let place = u64::from(tid.block) << 10 | u64::from(tid.offset >> 6);
        let bit = 1u64 << (tid.offset & 63);
        if let Some(word) = self.words.get_mut(&place) {
            let new = *word & bit == 0;
            *word |= bit;
            return Some(new);
        }
        let has_room = self.words.len() < self.max_words && self.words.try_reserve(1).is_ok();
        has_room.then(|| {
            self.words.insert(place, bit);
            true
        })
    }

    /// Removes all addresses.
    pub fn clear(&mut self) {
        // Emptying a large table takes as long as it is large.
        if self.words.capacity() > 64 {
            self.words = HashMap::default();
        } else {
            self.words.clear();
        }
    }
}
