//! How many lists the neighbors behind the first ten need, by bands of ranks.
//!
//! A row is found in order only if its list is probed before rows behind it are returned. So what counts for a band is the
//! share of its own neighbors that lie in so many lists, and not that of all nearer ones too: where the first twenty neighbors
//! lie in one list, the next ten may need twenty lists, though all thirty would be found at two thirds with one.

use crate::rerank::{BANDS, BASE_ROWS, Growth, RANKS};
use std::ops::Range;

/// Recalls for which the lists are kept; between them they are interpolated.
pub const LEVELS: [f64; 9] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];

/// The lists that each band beyond the first needs, at each of the [`LEVELS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BandLists {
    lists: [[u32; LEVELS.len()]; BANDS],
    bands: u8,
}

impl BandLists {
    /// From the lists of each band; those beyond [`BANDS`] are left out.
    pub fn new(lists: &[[u32; LEVELS.len()]]) -> Self {
        let mut all = BandLists {
            bands: lists.len().min(BANDS) as u8,
            ..BandLists::default()
        };
        for (band, lists) in all.lists.iter_mut().zip(lists) {
            *band = *lists;
        }
        all
    }

    /// The lists of each band that was measured.
    pub fn bands(&self) -> &[[u32; LEVELS.len()]] {
        self.lists
            .get(..usize::from(self.bands))
            .unwrap_or_default()
    }

    /// How the lists have to grow to find each band with this recall. It is taken into the range of the [`LEVELS`].
    pub fn growth(&self, recall: f64) -> Growth {
        let lists: Vec<u32> = self.bands().iter().map(|it| at(it, recall)).collect();
        Growth::new(&lists)
    }
}

/// The lists at a recall: between two levels, their logarithm rises with that of the share of rows that may be missed.
fn at(lists: &[u32; LEVELS.len()], recall: f64) -> u32 {
    let above = LEVELS.partition_point(|level| *level < recall);
    let level = |i: usize| Some((*LEVELS.get(i)?, *lists.get(i)?));
    match (above.checked_sub(1).and_then(level), level(above)) {
        (Some((from, few)), Some((to, many))) => {
            let [from, at, to] = [from, recall, to].map(|level| -(1.0 - level).ln());
            let [few, many] = [few, many].map(|lists| f64::from(lists.max(1)).ln());
            let lists = (few + (at - from) / (to - from) * (many - few)).exp();
            // What rounding adds to a whole number is no list.
            (lists - 1e-6).ceil() as u32
        }
        (one, other) => one.or(other).map_or(1, |(_, lists)| lists),
    }
}

/// For some queries, the lists that must be probed to reach each of their neighbors behind the first [`BASE_ROWS`].
#[derive(Clone, Debug)]
pub struct Bands {
    lists: u32,
    /// Of each band that was measured, and each query, ascending.
    reached: Vec<Vec<Vec<u32>>>,
}

impl Bands {
    /// Of an index with so many lists. `reached` has for each query how many lists must be probed to reach its neighbors, in the
    /// order of their ranks from the one behind the first [`BASE_ROWS`]. Bands that a query has no neighbors to fill are left out.
    pub fn new(lists: u32, reached: &[Vec<u32>]) -> Self {
        let band = |band: usize| -> Option<Vec<Vec<u32>>> {
            let ranks = ranks(band)?;
            let of_query = |all: &Vec<u32>| {
                let mut of_band = all.get(ranks.clone())?.to_vec();
                of_band.sort_unstable();
                Some(of_band)
            };
            let all: Option<Vec<_>> = reached.iter().map(of_query).collect();
            all.filter(|all| !all.is_empty())
        };
        Bands {
            lists: lists.max(1),
            reached: (0..BANDS).map_while(band).collect(),
        }
    }

    /// Number of bands.
    pub fn len(&self) -> usize {
        self.reached.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reached.is_empty()
    }

    /// The share of a query's neighbors in a band that so many lists reach.
    pub fn share(&self, band: usize, query: usize, lists: u32) -> Option<f64> {
        let reached = self.reached.get(band)?.get(query)?;
        Some(share(reached, lists))
    }

    /// The lists that each band needs, where searches lose these shares of the neighbors within reach. Further lists make up for
    /// that, for at most half of what a level lets be missed: what codes lose, lists bring back at a high price.
    pub fn lists(&self, lost: &[f64]) -> BandLists {
        let band = |(band, reached): (usize, &Vec<Vec<u32>>)| {
            let lost = lost.get(band).copied().unwrap_or(0.0).max(0.0);
            LEVELS.map(|level| self.needed(reached, (level + lost).min((1.0 + level) / 2.0)))
        };
        let bands: Vec<_> = self.reached.iter().enumerate().map(band).collect();
        BandLists::new(&bands)
    }

    /// The fewest lists that reach this share of the neighbors, in the mean and less one standard error.
    fn needed(&self, reached: &[Vec<u32>], wanted: f64) -> u32 {
        let is_enough = |lists: u32| {
            let shares: Vec<f64> = reached.iter().map(|it| share(it, lists)).collect();
            let (mean, variance) = moments(&shares);
            // What rounding takes from a share is no neighbor.
            mean - (variance / shares.len().max(1) as f64).sqrt() >= wanted - 1e-9
        };
        let (mut few, mut enough) = (0, self.lists);
        while few + 1 < enough {
            let middle = few + (enough - few) / 2;
            if is_enough(middle) {
                enough = middle;
            } else {
                few = middle;
            }
        }
        enough
    }
}

/// The places of a band's neighbors behind the first [`BASE_ROWS`].
fn ranks(band: usize) -> Option<Range<usize>> {
    let place = |band: usize| Some(*RANKS.get(band)? as usize - BASE_ROWS);
    Some(place(band)?..place(band + 1)?)
}

/// The share of a query's neighbors that so many lists reach.
pub(crate) fn share(reached: &[u32], probes: u32) -> f64 {
    let within = reached.partition_point(|needed| *needed <= probes);
    within as f64 / reached.len().max(1) as f64
}

/// Mean and variance.
pub(crate) fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, squares / (n - 1.0).max(1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Neighbors up to the 60th: the first 19 in one list, the others in one list each.
    fn groups() -> Vec<u32> {
        let rank = |rank: u32| if rank < 20 { 1 } else { rank - 18 };
        (11..=60).map(rank).collect()
    }

    #[test]
    fn each_band_needs_the_lists_of_its_own_rows() {
        let bands = Bands::new(100, &vec![groups(); 30]);
        // The 50th neighbor is there, the hundredth is not.
        assert_eq!(bands.len(), 3);
        let lists = bands.lists(&[]);
        let needed: Vec<u32> = lists.bands().iter().map(|it| it[4]).collect();
        // Nine in ten of the second band are in the first list, its last one is in the second.
        assert_eq!(needed, [2, 12, 31]);
        assert_eq!(lists.growth(0.95), Growth::new(&needed));
        assert_eq!(lists.growth(0.5), Growth::new(&[1, 7, 22]));
        assert_eq!(bands.share(1, 3, 7), Some(0.5));
        assert_eq!((bands.share(1, 30, 7), bands.share(3, 0, 7)), (None, None));
    }

    #[test]
    fn lists_make_up_for_half_of_what_may_be_missed() {
        let bands = Bands::new(100, &[groups()]);
        let at = |lost: f64| bands.lists(&[0.0, 0.0, lost]).bands()[2][3];
        // 18, 19 and 19 of 20 neighbors.
        assert_eq!([0.0, 0.05, 0.4].map(at), [30, 31, 31]);
    }

    #[test]
    fn queries_that_differ_need_more() {
        let near = vec![1; 10];
        let far = vec![40; 10];
        let alike = Bands::new(50, &vec![near.clone(); 100]).lists(&[]);
        assert_eq!(alike.bands(), [[1; 9]]);
        let mut mixed = vec![near; 96];
        mixed.extend(vec![far; 4]);
        let mixed = Bands::new(50, &mixed).lists(&[]);
        // One standard error is 0.02.
        assert_eq!(mixed.bands()[0][3], 1);
        assert_eq!(mixed.bands()[0][4], 40);
    }

    #[test]
    fn between_levels_and_beyond() {
        let lists = BandLists::new(&[[1, 2, 4, 8, 16, 32, 64, 128, 256]; 9]);
        assert_eq!(lists.bands().len(), BANDS);
        let band = |recall: f64| at(&lists.bands()[0], recall);
        assert_eq!([0.1, 0.5, 0.95, 0.999, 1.0].map(band), [1, 1, 16, 256, 256]);
        assert!((9..16).contains(&band(0.93)));
        assert_eq!(band(f64::NAN), 1);
        assert_eq!(BandLists::default().growth(0.9), Growth::default());
        for all in [vec![], vec![vec![]], vec![vec![1; 9]]] {
            assert!(Bands::new(0, &all).is_empty());
        }
    }
}
