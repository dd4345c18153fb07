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
    pub fn from_scores(scores: &[f32]) -> ListRanking {
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

    /// The fewest lists, best first, with this share of the softmax of the scores, at least 1 and at most `most`.
    pub fn lists_for_share(&mut self, temperature: f32, share: f32, most: usize) -> usize {
        let most = most.min(self.keys.len());
        self.sort(most.min(FIRST_SORTED));
        let Some(&best) = self.keys.first() else {
            return 0;
        };
        let (best, inverse) = (score(best), 1.0 / temperature);
        let weight = |key: &u64| softmax_weight(score(*key), best, inverse);
        // Lanes of their own, so that the sum is quick.
        let mut sums = [0f32; 8];
        let chunks = self.keys.chunks_exact(sums.len());
        let rest: f32 = chunks.remainder().iter().map(weight).sum();
        for chunk in chunks {
            sums.iter_mut()
                .zip(chunk)
                .for_each(|(sum, key)| *sum += weight(key));
        }
        let wanted = share * (rest + sums.iter().sum::<f32>());
        let (mut sum, mut lists) = (0.0, 0);
        while lists < most && (lists == 0 || sum < wanted) {
            self.sort(lists + 1);
            sum += self.keys.get(lists).map_or(0.0, weight);
            lists += 1;
        }
        lists
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
        self.keys
            .iter()
            .map(|key| (score(*key), *key as u32))
            .collect()
    }
}

/// Lists sorted at once where it is not known how many are wanted.
const FIRST_SORTED: usize = 16;

/// The score of a key.
fn score(key: u64) -> f32 {
    f32::from_bits(descending_key((key >> 32) as u32))
}

/// Weight of a list in the softmax of a query's scores, relative to the best list's: `exp((score − best) / temperature)` up to
/// 1/10,000, and not below 1e-18. The same for scores that are not numbers.
pub fn softmax_weight(score: f32, best: f32, inverse_temperature: f32) -> f32 {
    /// Adding and subtracting it rounds to a whole number, which is in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let exponent = ((score - best) * inverse_temperature * std::f32::consts::LOG2_E).max(-60.0);
    let rounded = exponent + ROUND;
    let part = (exponent - (rounded - ROUND)) * std::f32::consts::LN_2;
    // The Taylor series of the exponential function.
    let power = 1.0 + part * (1.0 + part * (0.5 + part * (1.0 / 6.0 + part * (1.0 / 24.0))));
    let whole = rounded.to_bits().wrapping_sub(ROUND.to_bits()) << 23;
    f32::from_bits(power.to_bits().wrapping_add(whole))
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
    fn weights_are_exponentials() {
        for i in 0..400 {
            let x = -(i as f32) / 10.0;
            let (weight, exact) = (softmax_weight(x, 0.0, 1.0), x.exp());
            assert!(
                (weight / exact - 1.0).abs() < 1e-4,
                "{x}: {weight}, {exact}"
            );
        }
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let weight = softmax_weight(odd, odd, 1.0);
            assert!(weight > 0.0 && weight < 1e-17);
        }
    }

    #[test]
    fn a_share_of_the_softmax_takes_the_fewest_lists() {
        let scores: Vec<f32> = (0..300u32)
            .map(|i| (i * 7919 % 300) as f32 / 30.0)
            .collect();
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let weights: Vec<f32> = sorted
            .iter()
            .map(|s| ((s - sorted[0]) / 2.0).exp())
            .collect();
        let all: f32 = weights.iter().sum();
        for share in [0.0, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0] {
            let lists = ListRanking::from_scores(&scores).lists_for_share(2.0, share, 300);
            let of = |lists: usize| weights[..lists].iter().sum::<f32>() / all;
            assert!(of(lists) >= share - 1e-3, "{share}: {lists}");
            assert!(
                lists == 1 || of(lists - 1) < share + 1e-3,
                "{share}: {lists}"
            );
        }
        let mut ranking = ListRanking::from_scores(&scores);
        assert_eq!(ranking.lists_for_share(2.0, 0.9, 7), 7);
        assert_eq!(
            ListRanking::from_scores(&[]).lists_for_share(1.0, 0.5, 9),
            0
        );
    }

    #[test]
    fn rankings_are_sorted_piece_by_piece() {
        let mut scores: Vec<f32> = (0..500u32).map(|i| (i * 7919 % 83) as f32 - 40.0).collect();
        scores[17] = f32::INFINITY;
        scores[18] = f32::NEG_INFINITY;
        scores[19] = -0.0;
        let mut expected: Vec<u32> = (0..500).collect();
        expected.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let ranking = ListRanking::from_scores(&scores);
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
