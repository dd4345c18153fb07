//! The centroids nearest to a row, of which one becomes its second list ([`super::second_list`]).

/// Number of centroids compared per row, the first list's among them. With 16, a search scans 5 % more codes; with all, as many.
pub const CANDIDATES: usize = 32;

/// The centroids nearest to a row, up to [`CANDIDATES`].
#[derive(Debug, Clone)]
pub struct NearLists {
    /// Distance on any scale that rises with it, and list; up to twice as many as are wanted.
    found: Vec<(f32, u32)>,
    /// Distance below which a centroid may be among them.
    limit: f32,
}

impl Default for NearLists {
    fn default() -> Self {
        NearLists {
            found: Vec::new(),
            limit: f32::INFINITY,
        }
    }
}

impl NearLists {
    /// Offers the lists from `first` on with their distances.
    pub(super) fn offer_range(&mut self, first: u32, distances: &[f32]) {
        // Without branches: most often there is none.
        let limit = self.limit;
        if distances.iter().fold(false, |any, d| any | (*d < limit)) {
            let lists = (first..).zip(distances);
            lists.for_each(|(list, distance)| self.offer(list, *distance));
        }
    }

    /// Offers a list.
    pub(super) fn offer(&mut self, list: u32, distance: f32) {
        if distance < self.limit {
            self.found.push((distance, list));
            if self.found.len() >= 2 * CANDIDATES {
                self.keep(CANDIDATES);
            }
        }
    }

    /// Drops all but the `count` nearest.
    fn keep(&mut self, count: usize) {
        if let Some(last) = count.checked_sub(1).filter(|_| count < self.found.len()) {
            let (_, (distance, _), _) = self.found.select_nth_unstable_by(last, by_distance);
            self.limit = *distance;
            self.found.truncate(count);
        }
    }

    /// The `count` nearest lists, at most [`CANDIDATES`], nearest first.
    pub fn nearest(&mut self, count: usize) -> impl Iterator<Item = u32> {
        self.keep(count.min(CANDIDATES));
        self.found.sort_unstable_by(by_distance);
        self.found.iter().map(|(_, list)| *list)
    }
}

/// Nearest first, among equals the smaller list first.
pub(super) fn by_distance(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_lists_are_kept_in_whatever_pieces_they_come() {
        let distances: Vec<f32> = (0..500u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32)
            .collect();
        let mut order: Vec<u32> = (0..500).collect();
        order.sort_by(|a, b| distances[*a as usize].total_cmp(&distances[*b as usize]));
        for piece in [1, 7, 64, 500] {
            let mut near = NearLists::default();
            for (i, some) in distances.chunks(piece).enumerate() {
                near.offer_range((i * piece) as u32, some);
            }
            let found: Vec<u32> = near.nearest(usize::MAX).collect();
            assert_eq!(found, order[..CANDIDATES], "{piece}");
            assert!(near.nearest(5).eq(order[..5].iter().copied()));
        }
        let mut near = NearLists::default();
        near.offer_range(0, &[f32::NAN, 1.0, f32::INFINITY]);
        assert!(near.nearest(9).eq([1]));
    }
}
