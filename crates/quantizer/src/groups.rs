//! The nearest of many centroids without a look at all of them: centroids in groups of near ones, and only the groups
//! near to a row are searched. For short centroids; long ones have an [`crate::outline`].
//!
//! With g groups of n centroids a row is compared with g heads and with the members of g/[`SHARE`] groups. The centroid
//! found is not always the nearest one, but it is the same wherever it is looked for: groups follow from the centroids
//! alone, and a row's centroid from both.
//!
//! Measured on 384 dimensions, with 512 to 4,000 centroids: half a percent of the rows miss their nearest one, which
//! adds 0.04 to 0.3 % to the squared error, in 1/1.4 to 1/2.4 of the time; k-means whose rounds assign rows so ends up
//! to 0.7 % above the objective that it reaches otherwise, which is less than another round wins. That was with
//! a sixth of the groups; a quarter makes the error a third, for about 30 % more time.

use crate::kmeans::{Assigner, Nearest};
use crate::linalg::{MatRef, ROWS, half_norms, products};

/// Fewest centroids that are worth it: groups miss some rows' nearest centroid, and at 919 lists a query had to probe a tenth
/// more of them for the same recall. Tests have no time for thousands.
pub const FEWEST: usize = if cfg!(test) { 512 } else { 5_000 };
/// Of so many groups one is searched.
const SHARE: usize = 4;
/// Centroids a group that its head is found from, and rounds of k-means that find it: more would not find better ones.
const CENTROIDS_A_HEAD: usize = 16;
const ROUNDS: usize = 3;

/// Groups of centroids.
#[derive(Debug)]
pub struct Groups {
    /// The means of the groups, row-major.
    heads: Vec<f32>,
    half_norms: Vec<f32>,
    /// The centroids of each group.
    members: Vec<Vec<u32>>,
}

impl Groups {
    /// Groups of the centroids, none if they are few. Works on this thread alone, `keep_on` being asked every few
    /// milliseconds.
    pub fn new<E>(
        centroids: MatRef<'_>,
        keep_on: impl Fn() -> Result<(), E>,
    ) -> Result<Option<Groups>, E> {
        let n = centroids.rows();
        if n < FEWEST {
            return Ok(None);
        }
        let count = 2 * n.isqrt();
        let mut heads = Vec::new();
        centroids.gather(&spread(n, count), &mut heads);
        let mut some = Vec::new();
        centroids.gather(&spread(n, count * CENTROIDS_A_HEAD), &mut some);
        for _ in 0..ROUNDS {
            let members = members(MatRef::new(&heads, centroids.cols), &some, &keep_on)?;
            for (head, members) in heads.chunks_exact_mut(centroids.cols).zip(members) {
                mean(MatRef::new(&some, centroids.cols), &members, head);
            }
        }
        let view = MatRef::new(&heads, centroids.cols);
        Ok(Some(Groups {
            half_norms: half_norms(view),
            members: members(view, centroids.data, &keep_on)?,
            heads,
        }))
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        let members = self.members.iter().map(Vec::len).sum::<usize>();
        size_of::<f32>() * (self.heads.len() + self.half_norms.len() + members)
    }

    /// Finds a near centroid of each row: the nearest one in the groups whose heads are nearest.
    pub fn assign<E>(
        &self,
        centroids: MatRef<'_>,
        half_norms: &[f32],
        rows: MatRef<'_>,
        out: &mut [Nearest],
        keep_on: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        keep_on()?;
        let visitors = self.visitors(rows);
        let (mut near, mut guests, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for (members, visitors) in self.members.iter().zip(&visitors) {
            if members.is_empty() || visitors.is_empty() {
                continue;
            }
            keep_on()?;
            centroids.gather(members, &mut near);
            rows.gather(visitors, &mut guests);
            scores.resize(members.len() * visitors.len(), 0.0);
            let (near, guests) = (
                MatRef::new(&near, rows.cols),
                MatRef::new(&guests, rows.cols),
            );
            products(guests, near, &mut scores);
            for (visitor, scores) in visitors.iter().zip(scores.chunks_exact(members.len())) {
                let best = &mut out[*visitor as usize];
                for (list, score) in members.iter().zip(scores) {
                    let cost = 2.0 * (half_norms[*list as usize] - score);
                    // The first of equals, in whichever order the groups come.
                    if cost < best.cost || (cost == best.cost && *list < best.list) {
                        *best = Nearest { list: *list, cost };
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows that search each group.
    fn visitors(&self, rows: MatRef<'_>) -> Vec<Vec<u32>> {
        let count = self.members.len();
        let mut visitors = vec![Vec::new(); count];
        let mut scores = vec![0f32; rows.rows() * count];
        products(rows, MatRef::new(&self.heads, rows.cols), &mut scores);
        let mut order: Vec<(f32, u32)> = Vec::with_capacity(count);
        for (row, scores) in scores.chunks_exact(count).enumerate() {
            let halves = self.half_norms.iter().zip(scores);
            order.clear();
            order.extend(
                halves
                    .zip(0..)
                    .map(|((half, score), group)| (half - score, group)),
            );
            let nearest = count.div_ceil(SHARE);
            order.select_nth_unstable_by(nearest - 1, |a, b| {
                a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
            });
            for (_, group) in &order[..nearest] {
                visitors[*group as usize].push(row as u32);
            }
        }
        visitors
    }
}

/// At most `count` of the numbers below `n`, evenly spread.
fn spread(n: usize, count: usize) -> Vec<u32> {
    let count = count.min(n);
    (0..count).map(|i| (i * n / count) as u32).collect()
}

/// The centroids nearest to each head.
fn members<E>(
    heads: MatRef<'_>,
    centroids: &[f32],
    keep_on: impl Fn() -> Result<(), E>,
) -> Result<Vec<Vec<u32>>, E> {
    let halves = half_norms(heads);
    let assigner = Assigner::new(heads, &halves);
    let mut members = vec![Vec::new(); heads.rows()];
    let mut nearest = vec![Nearest::default(); ROWS];
    for (chunk, rows) in centroids.chunks(ROWS * heads.cols).enumerate() {
        let rows = MatRef::new(rows, heads.cols);
        let nearest = &mut nearest[..rows.rows()];
        assigner.assign(rows, nearest, &keep_on)?;
        for (i, nearest) in nearest.iter().enumerate() {
            members[nearest.list as usize].push((chunk * ROWS + i) as u32);
        }
    }
    Ok(members)
}

/// The mean of the rows; unchanged if there are none.
fn mean(x: MatRef<'_>, rows: &[u32], out: &mut [f32]) {
    if rows.is_empty() {
        return;
    }
    out.fill(0.0);
    for row in rows {
        for (sum, value) in out.iter_mut().zip(x.row(*row as usize)) {
            *sum += value;
        }
    }
    out.iter_mut().for_each(|x| *x /= rows.len() as f32);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kmeans::Shortcut;
    use crate::linalg::norm2;
    use crate::testing::{assign, forever, noise};
    use crate::{Model, Quiet, TrainOptions, train};

    const DIM: usize = 24;

    /// Rows around 50 points.
    fn rows(n: usize, seed: u32) -> Vec<f32> {
        let points = noise(50 * DIM, 7);
        let mut rows = noise(n * DIM, seed);
        for (i, row) in rows.chunks_exact_mut(DIM).enumerate() {
            let point = &points[i % 50 * DIM..][..DIM];
            row.iter_mut()
                .zip(point)
                .for_each(|(x, p)| *x = 0.5 * *x + p);
        }
        rows
    }

    #[test]
    fn most_rows_find_their_nearest_centroid_and_no_row_a_far_one() {
        let (centroids, x) = (rows(1_000, 1), rows(3_000, 2));
        let (centroids, x) = (MatRef::new(&centroids, DIM), MatRef::new(&x, DIM));
        let halves = half_norms(centroids);
        let Ok(shortcut) = Shortcut::new(centroids, forever);
        let Some(Shortcut::Groups(groups)) = &shortcut else {
            unreachable!("many short centroids");
        };
        let members = groups.members.iter().flatten();
        let mut members: Vec<u32> = members.copied().collect();
        members.sort_unstable();
        assert!(members.into_iter().eq(0..1_000), "each is in one group");
        let flat = assign(&Assigner::new(centroids, &halves), x, 500);
        let grouped = Assigner::new(centroids, &halves).by(shortcut.as_ref());
        let found = assign(&grouped, x, 500);
        let same = found.iter().zip(&flat).filter(|(a, b)| a == b).count();
        assert!(same >= 2_850, "{same} of 3000");
        let norms: f32 = (0..3_000).map(|i| norm2(x.row(i))).sum();
        let error = |nearest: &[Nearest]| norms + nearest.iter().map(|n| n.cost).sum::<f32>();
        assert!(error(&found) <= 1.01 * error(&flat));
    }

    #[test]
    fn a_row_finds_the_same_centroid_alone_and_among_others() {
        let (centroids, x) = (rows(700, 3), rows(800, 4));
        let (centroids, x) = (MatRef::new(&centroids, DIM), MatRef::new(&x, DIM));
        let halves = half_norms(centroids);
        let Ok(shortcut) = Shortcut::new(centroids, forever);
        let grouped = Assigner::new(centroids, &halves).by(shortcut.as_ref());
        assert_eq!(assign(&grouped, x, 1), assign(&grouped, x, 800));
    }

    #[test]
    fn few_equal_and_odd_centroids_are_no_trouble() {
        let few = vec![1.0; 20 * DIM];
        let Ok(groups) = Groups::new(MatRef::new(&few, DIM), forever);
        assert!(groups.is_none());
        let equal = vec![1.0; 600 * DIM];
        let equal = MatRef::new(&equal, DIM);
        let halves = half_norms(equal);
        let Ok(shortcut) = Shortcut::new(equal, forever);
        let grouped = Assigner::new(equal, &halves).by(shortcut.as_ref());
        let mut x = rows(3, 5);
        x[DIM] = f32::NAN;
        x[2 * DIM] = f32::INFINITY;
        let nearest = assign(&grouped, MatRef::new(&x, DIM), 3);
        assert!(nearest.iter().all(|nearest| nearest.list < 600));
    }

    #[test]
    fn a_model_of_many_lists_encodes_a_row_as_it_encodes_many() {
        let x = rows(3_000, 6);
        let options = TrainOptions {
            lists: 600,
            distill: false,
            ..TrainOptions::default()
        };
        let model = train(&x, DIM, None, &options, &Quiet).unwrap().model;
        assert!(model.shortcut().is_some());
        let all = model.encode(&x);
        // As another session does that has the model from its bytes.
        let parts = (
            model.encoder_bytes().unwrap(),
            model.student_bytes().unwrap(),
        );
        let again = Model::from_parts(&parts.0, &parts.1).unwrap();
        for (row, encoded) in x.chunks_exact(DIM).zip(&all.rows).take(500) {
            assert_eq!(again.encode(row).rows, [*encoded]);
        }
    }
}
