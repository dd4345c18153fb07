//! Two-level centroids, as a ScaNN tree: centroids are clustered into groups, and only the groups nearest to a row are
//! searched. For short centroids; long ones have an [`super::int8_filter`].
//!
//! With g groups of n centroids a row is compared with g group centroids and with the members of a quarter of the groups. The
//! centroid found is not always the nearest one, but it is the same wherever it is looked for: groups follow from the centroids
//! alone, and a row's centroid from both.
//!
//! Measured on 384 dimensions, with 512 to 4,000 centroids: half a percent of the rows miss their nearest one, which
//! adds 0.04 to 0.3 % to the squared error, in 1/1.4 to 1/2.4 of the time; k-means whose rounds assign rows so ends up
//! to 0.7 % above the objective that it reaches otherwise, which is less than another round wins. That was with
//! a sixth of the groups; a quarter makes the error a third, for about 30 % more time.

use super::flat::{Assignment, assign_by_all};
use super::near_lists::NearLists;
use distillvq_linalg::matrix::{MatRef, ROWS, half_norms, matmul_nt};

/// Minimum number of centroids that have groups. Groups miss some rows' nearest centroid, and at 919 lists a query had to probe a tenth
/// more of them for the same recall. Tests have no time for thousands.
pub const MIN_CENTROIDS: usize = if cfg!(test) { 512 } else { 5_000 };
/// 1/this of the groups is searched.
const GROUPS_DIVISOR: usize = 4;
/// Centroids per group that k-means over the groups samples, and its rounds: more do not improve the groups.
const CENTROIDS_PER_GROUP: usize = 16;
const ROUNDS: usize = 3;

/// Centroids in groups.
#[derive(Debug)]
pub struct TwoLevelCentroids {
    /// Means of the groups, row-major.
    group_centroids: Vec<f32>,
    half_norms: Vec<f32>,
    /// The centroids of each group.
    members: Vec<Vec<u32>>,
}

impl TwoLevelCentroids {
    /// Groups of the centroids, none if they are few. Works on this thread alone; calls `check_interrupts` every few
    /// milliseconds.
    pub fn new<E>(
        centroids: MatRef<'_>,
        check_interrupts: impl Fn() -> Result<(), E>,
    ) -> Result<Option<TwoLevelCentroids>, E> {
        let n = centroids.rows();
        if n < MIN_CENTROIDS {
            return Ok(None);
        }
        let count = 2 * n.isqrt();
        let mut group_centroids = Vec::new();
        centroids.gather(&spread(n, count), &mut group_centroids);
        let mut some = Vec::new();
        centroids.gather(&spread(n, count * CENTROIDS_PER_GROUP), &mut some);
        for _ in 0..ROUNDS {
            let members = members(
                MatRef::new(&group_centroids, centroids.cols),
                &some,
                &check_interrupts,
            )?;
            for (head, members) in group_centroids
                .chunks_exact_mut(centroids.cols)
                .zip(members)
            {
                mean(MatRef::new(&some, centroids.cols), &members, head);
            }
        }
        let view = MatRef::new(&group_centroids, centroids.cols);
        Ok(Some(TwoLevelCentroids {
            half_norms: half_norms(view),
            members: members(view, centroids.data, &check_interrupts)?,
            group_centroids,
        }))
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        let members = self.members.iter().map(Vec::len).sum::<usize>();
        size_of::<f32>() * (self.group_centroids.len() + self.half_norms.len() + members)
    }

    /// Finds a near centroid of each row: the nearest one in the groups whose heads are nearest. `near` has an element per row, to
    /// which the centroids of these groups are offered, or none.
    pub fn assign<E>(
        &self,
        centroids: MatRef<'_>,
        half_norms: &[f32],
        rows: MatRef<'_>,
        (out, near_lists): (&mut [Assignment], &mut [NearLists]),
        check_interrupts: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        check_interrupts()?;
        let rows_by_group = self.rows_by_group(rows);
        let (mut near, mut group_rows, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for (members, row_ids) in self.members.iter().zip(&rows_by_group) {
            if members.is_empty() || row_ids.is_empty() {
                continue;
            }
            check_interrupts()?;
            centroids.gather(members, &mut near);
            rows.gather(row_ids, &mut group_rows);
            scores.resize(members.len() * row_ids.len(), 0.0);
            let (near, group_rows) = (
                MatRef::new(&near, rows.cols),
                MatRef::new(&group_rows, rows.cols),
            );
            matmul_nt(group_rows, near, &mut scores);
            for (row_id, scores) in row_ids.iter().zip(scores.chunks_exact(members.len())) {
                let best = &mut out[*row_id as usize];
                let mut near_lists = near_lists.get_mut(*row_id as usize);
                for (list, score) in members.iter().zip(scores) {
                    let cost = 2.0 * (half_norms[*list as usize] - score);
                    if let Some(near_lists) = &mut near_lists {
                        near_lists.offer(*list, cost);
                    }
                    // The first of equals, in whichever order the groups come.
                    if cost < best.cost || (cost == best.cost && *list < best.list) {
                        *best = Assignment { list: *list, cost };
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows that search each group.
    fn rows_by_group(&self, rows: MatRef<'_>) -> Vec<Vec<u32>> {
        let count = self.members.len();
        let mut rows_by_group = vec![Vec::new(); count];
        let mut scores = vec![0f32; rows.rows() * count];
        matmul_nt(
            rows,
            MatRef::new(&self.group_centroids, rows.cols),
            &mut scores,
        );
        let mut order: Vec<(f32, u32)> = Vec::with_capacity(count);
        for (row, scores) in scores.chunks_exact(count).enumerate() {
            let halves = self.half_norms.iter().zip(scores);
            order.clear();
            order.extend(
                halves
                    .zip(0..)
                    .map(|((half, score), group)| (half - score, group)),
            );
            let nearest = count.div_ceil(GROUPS_DIVISOR);
            order.select_nth_unstable_by(nearest - 1, |a, b| {
                a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
            });
            for (_, group) in &order[..nearest] {
                rows_by_group[*group as usize].push(row as u32);
            }
        }
        rows_by_group
    }
}

/// At most `count` of the numbers below `n`, evenly spread.
fn spread(n: usize, count: usize) -> Vec<u32> {
    let count = count.min(n);
    (0..count).map(|i| (i * n / count) as u32).collect()
}

/// The centroids nearest to each head.
fn members<E>(
    group_centroids: MatRef<'_>,
    centroids: &[f32],
    check_interrupts: impl Fn() -> Result<(), E>,
) -> Result<Vec<Vec<u32>>, E> {
    let halves = half_norms(group_centroids);
    let mut members = vec![Vec::new(); group_centroids.rows()];
    let mut nearest = vec![Assignment::default(); ROWS];
    for (chunk, rows) in centroids.chunks(ROWS * group_centroids.cols).enumerate() {
        let rows = MatRef::new(rows, group_centroids.cols);
        let nearest = &mut nearest[..rows.rows()];
        nearest.fill(Assignment {
            list: 0,
            cost: f32::INFINITY,
        });
        let found = (&mut *nearest, &mut [][..]);
        assign_by_all(group_centroids, &halves, rows, found, &check_interrupts)?;
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
mod tests {
    use super::*;
    use crate::coarse::{Assigner, CentroidIndex};
    use crate::testing::assign;
    use distillvq_linalg::matrix::squared_norm;
    use distillvq_linalg::testing::{never_interrupt, noise};

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
        let Ok(centroid_index) = CentroidIndex::new(centroids, never_interrupt);
        let Some(CentroidIndex::TwoLevelCentroids(groups)) = &centroid_index else {
            unreachable!("many short centroids");
        };
        let members = groups.members.iter().flatten();
        let mut members: Vec<u32> = members.copied().collect();
        members.sort_unstable();
        assert!(members.into_iter().eq(0..1_000), "each is in one group");
        let flat = assign(&Assigner::new(centroids, &halves), x, 500);
        let grouped = Assigner::new(centroids, &halves).with_index(centroid_index.as_ref());
        let found = assign(&grouped, x, 500);
        let same = found.iter().zip(&flat).filter(|(a, b)| a == b).count();
        assert!(same >= 2_850, "{same} of 3000");
        let norms: f32 = (0..3_000).map(|i| squared_norm(x.row(i))).sum();
        let error = |nearest: &[Assignment]| norms + nearest.iter().map(|n| n.cost).sum::<f32>();
        assert!(error(&found) <= 1.01 * error(&flat));
    }

    #[test]
    fn a_row_finds_the_same_centroid_alone_and_among_others() {
        let (centroids, x) = (rows(700, 3), rows(800, 4));
        let (centroids, x) = (MatRef::new(&centroids, DIM), MatRef::new(&x, DIM));
        let halves = half_norms(centroids);
        let Ok(centroid_index) = CentroidIndex::new(centroids, never_interrupt);
        let grouped = Assigner::new(centroids, &halves).with_index(centroid_index.as_ref());
        assert_eq!(assign(&grouped, x, 1), assign(&grouped, x, 800));
    }

    #[test]
    fn few_equal_and_odd_centroids_are_no_trouble() {
        let few = vec![1.0; 20 * DIM];
        let Ok(groups) = TwoLevelCentroids::new(MatRef::new(&few, DIM), never_interrupt);
        assert!(groups.is_none());
        let equal = vec![1.0; 600 * DIM];
        let equal = MatRef::new(&equal, DIM);
        let halves = half_norms(equal);
        let Ok(centroid_index) = CentroidIndex::new(equal, never_interrupt);
        let grouped = Assigner::new(equal, &halves).with_index(centroid_index.as_ref());
        let mut x = rows(3, 5);
        x[DIM] = f32::NAN;
        x[2 * DIM] = f32::INFINITY;
        let nearest = assign(&grouped, MatRef::new(&x, DIM), 3);
        assert!(nearest.iter().all(|nearest| nearest.list < 600));
    }
}
