//! A set of row addresses that stays small when many rows of a table are in it.

use crate::Tid;
use std::collections::HashMap;

/// Row addresses, 64 neighbouring line numbers in one entry.
#[derive(Default)]
pub(crate) struct TidSet {
    words: HashMap<(u32, u16), u64>,
}

impl TidSet {
    /// Adds an address; false if it was there already.
    pub fn insert(&mut self, tid: Tid) -> bool {
        let word = self.words.entry((tid.block, tid.offset >> 6)).or_default();
        let bit = 1u64 << (tid.offset & 63);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}
