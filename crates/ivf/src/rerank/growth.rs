//! How many lists a search probes by the time it has returned so many rows.
//!
//! The first lists are those that hold the nearest ten rows. The next rows lie in more lists: how many more differs from table
//! to table, so an index measures it for bands of ranks ([`RANKS`], see `crate::bands`). A row is found in order only if its list
//! is probed before rows behind it are returned, so each band has the lists that its own rows need. Without a measurement, and
//! beyond the last band, the lists grow with a power of the rows.

/// Rows of a search for which its first probes are meant.
pub const BASE_ROWS: usize = 10;
/// The last rank of each band; the first band is that of the first probes.
pub const RANKS: [u32; 8] = [BASE_ROWS as u32, 20, 30, 50, 100, 200, 500, 1000];
/// Bands beyond the first.
pub const BANDS: usize = RANKS.len() - 1;
/// How the lists grow with the rows where nothing was measured.
const POWER: f64 = 0.6;

/// Lists that a search has to probe for the rows behind the first [`BASE_ROWS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Growth {
    /// Of each band beyond the first, as far as they were measured.
    lists: [u32; BANDS],
    bands: usize,
}

impl Growth {
    /// From the lists that each band beyond the first needs; those beyond [`BANDS`] are left out.
    pub fn new(lists: &[u32]) -> Self {
        let mut growth = Growth::default();
        let mut most = 0;
        for (band, &needed) in growth.lists.iter_mut().zip(lists) {
            most = needed.max(most);
            *band = most;
            growth.bands += 1;
        }
        growth
    }

    /// Lists to probe before the next row is returned, where `returned` were and the search began with `first` lists.
    pub fn lists(&self, first: f64, returned: f64) -> f64 {
        let measured = self.lists.get(..self.bands).unwrap_or_default();
        let rank = |band: usize| {
            RANKS
                .get(band)
                .map_or(f64::INFINITY, |rank| f64::from(*rank))
        };
        let (mut needed, mut band) = (first, 0);
        while let Some(lists) = measured.get(band)
            && returned >= rank(band)
        {
            needed = needed.max(f64::from(*lists));
            band += 1;
        }
        // Beyond the last band that was measured.
        let beyond = returned / rank(band);
        if band == self.bands && beyond > 1.0 {
            needed * beyond.powf(POWER)
        } else {
            needed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_the_rows_where_nothing_was_measured() {
        let growth = Growth::default();
        for returned in [0.0, 3.0, 10.0] {
            assert_eq!(growth.lists(4.0, returned), 4.0);
        }
        assert!((growth.lists(4.0, 100.0) - 4.0 * 10f64.powf(0.6)).abs() < 1e-9);
    }

    #[test]
    fn each_band_has_its_lists_before_its_first_row_is_returned() {
        let growth = Growth::new(&[5, 9, 7]);
        let lists = [0.0, 9.0, 10.0, 19.0, 20.0, 30.0, 49.0, 50.0].map(|n| growth.lists(4.0, n));
        assert_eq!(lists, [4.0, 4.0, 5.0, 5.0, 9.0, 9.0, 9.0, 9.0]);
        // A search that began with more keeps them.
        assert_eq!(growth.lists(8.0, 12.0), 8.0);
        assert!((growth.lists(4.0, 100.0) - 9.0 * 2f64.powf(0.6)).abs() < 1e-9);
        let all = Growth::new(&[10; 20]);
        assert_eq!(all.lists(1.0, 1000.0), 10.0);
        assert!(all.lists(1.0, 2000.0) > 15.0);
        assert_eq!(all.lists(1.0, f64::INFINITY), f64::INFINITY);
    }
}
