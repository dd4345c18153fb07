//! The order in which a query probes the lists.

use crate::format::Metric;

/// Routing by the encoder's centroids, from half their squared norms: the norms to divide the centroids by, and the biases of
/// the lists. By distance for L2, by product for inner product, by cosine for cosine; empty means no division, or no bias.
pub fn centroid_routing(metric: Metric, half_norms: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
    let halves = half_norms.into_iter();
    match metric {
        Metric::L2 => (Vec::new(), halves.map(|half| -half).collect()),
        Metric::InnerProduct => (Vec::new(), Vec::new()),
        Metric::Cosine => {
            let norm = |half: f32| (2.0 * half).sqrt().max(f32::MIN_POSITIVE);
            (halves.map(norm).collect(), Vec::new())
        }
    }
}

/// Lists in the order in which a query probes them, sorted lazily.
#[derive(Debug, Clone, Default)]
pub struct ListRanking {
    /// In each the score, such that the best comes first, above the list: one number, so that sorting is quick.
    keys: Vec<u64>,
    /// So many are the best, best first.
    sorted: usize,
}

impl ListRanking {
    /// By scores, the list being the position.
    pub(super) fn new(scores: &[f32]) -> ListRanking {
        let keys = scores.iter().zip(0u64..);
        ListRanking {
            keys: keys
                .map(|(score, list)| u64::from(descending_key(score.to_bits())) << 32 | list)
                .collect(),
            sorted: 0,
        }
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The lists from the `from`-th to the `to`-th, or as many of them as there are: best first, among equals the smaller
    /// list.
    pub fn lists(&mut self, from: usize, to: usize) -> impl ExactSizeIterator<Item = u32> {
        let to = to.min(self.keys.len());
        self.sort(to);
        self.keys[from.min(to)..to].iter().map(|key| *key as u32)
    }

    /// Sorts the first `n` at least, which must not be more than there are.
    fn sort(&mut self, n: usize) {
        if n <= self.sorted {
            return;
        }
        // Twice as many as were sorted, so that whoever asks step by step does not pay for each.
        let end = n.max(2 * self.sorted).min(self.keys.len());
        let rest = &mut self.keys[self.sorted..];
        let wanted = end - self.sorted;
        if wanted < rest.len() {
            rest.select_nth_unstable(wanted);
        }
        rest[..wanted].sort_unstable();
        self.sorted = end;
    }

    /// All of them with their scores, best first.
    pub fn all(mut self) -> Vec<(f32, u32)> {
        self.sort(self.keys.len());
        let score = |key: u64| f32::from_bits(descending_key((key >> 32) as u32));
        self.keys
            .iter()
            .map(|key| (score(*key), *key as u32))
            .collect()
    }
}

/// The order of `f32::total_cmp` turned round, for the bits of floats: greater numbers get lesser ones. Its own inverse.
fn descending_key(bits: u32) -> u32 {
    let negative = bits >> 31 == 1;
    if negative {
        bits
    } else {
        bits ^ (u32::MAX >> 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rankings_are_sorted_piece_by_piece() {
        let mut scores: Vec<f32> = (0..500u32).map(|i| (i * 7919 % 83) as f32 - 40.0).collect();
        scores[17] = f32::INFINITY;
        scores[18] = f32::NEG_INFINITY;
        scores[19] = -0.0;
        let mut expected: Vec<u32> = (0..500).collect();
        expected.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let ranking = ListRanking::new(&scores);
        let all = ranking.clone().all().into_iter();
        assert!(all.eq(expected.iter().map(|list| (scores[*list as usize], *list))));
        let mut by_pieces = ranking;
        for (from, to) in [
            (0, 0),
            (0, 1),
            (1, 2),
            (0, 34),
            (34, 34),
            (30, 20),
            (20, 100),
            (0, 499),
            (7, 501),
        ] {
            let lists: Vec<u32> = by_pieces.lists(from, to).collect();
            let to = to.min(500);
            assert_eq!(lists, &expected[from.min(to)..to]);
        }
    }
}
