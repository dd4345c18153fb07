//! k-means in L2 over long rows (the inverted lists); products by GEMM where no [`CentroidIndex`] spares them.

use crate::error::TrainError;
use crate::progress::{Monitor, Phase, check_interrupts};
use distillvq_linalg::matrix::{MatRef, half_norms, squared_norm};
use distillvq_linalg::parallel;
use distillvq_model::coarse::flat::{Assignment, rows_at_once};
use distillvq_model::coarse::near_lists::{CANDIDATES, NearLists};
use distillvq_model::coarse::second_list::choose;
use distillvq_model::coarse::{Assigner, CentroidIndex, two_level, uses_int8};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Rounds at the most, and how many of them look at a quarter of the rows only: they bring the centroids near, at a quarter
/// of the cost.
const ROUNDS: usize = 10;
/// Rounds more where rows are assigned by groups: for less than the time saved they win back more than is missed.
const GROUPED_ROUNDS: usize = 2;
const EARLY_ROUNDS: usize = 7;
const EARLY_SHARE: usize = 4;
/// Minimum number of sampled rows per list of a round.
const MIN_SAMPLE_PER_LIST: usize = 8;
/// Minimum relative improvement of the objective; a round below it is the last.
const MIN_IMPROVEMENT: f64 = 1e-3;

/// Centroids (`lists`×cols) of the chosen rows of `x`. `lists` is clamped to the number of rows chosen.
pub fn kmeans(
    x: MatRef<'_>,
    chosen: &[u32],
    lists: usize,
    seed: u64,
    monitor: &dyn Monitor,
) -> Result<Vec<f32>, TrainError> {
    let lists = lists.clamp(1, chosen.len().max(1));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut first: Vec<u32> = rand::seq::index::sample(&mut rng, chosen.len(), lists)
        .iter()
        .map(|i| chosen[i])
        .collect();
    first.sort_unstable();
    let mut centroids = Vec::new();
    x.gather(&first, &mut centroids);
    let few = (chosen.len() / EARLY_SHARE).max(MIN_SAMPLE_PER_LIST * lists);
    let early = if few < chosen.len() { EARLY_ROUNDS } else { 0 };
    let mut some: Vec<u32> =
        rand::seq::index::sample(&mut rng, chosen.len(), few.min(chosen.len()))
            .iter()
            .map(|i| chosen[i])
            .collect();
    some.sort_unstable();
    let by_groups = lists >= two_level::MIN_CENTROIDS && !uses_int8(x.cols);
    let grouped = if by_groups { GROUPED_ROUNDS } else { 0 };
    let rounds = ROUNDS + grouped;
    lloyd(x, &some, &mut centroids, 0..early, rounds, monitor)?;
    lloyd(x, chosen, &mut centroids, early..rounds, rounds, monitor)?;
    monitor.phase(Phase::Clustering, rounds, rounds);
    Ok(centroids)
}

/// Lloyd's rounds `rounds` (of `of` in total), until the objective stops improving.
fn lloyd(
    x: MatRef<'_>,
    chosen: &[u32],
    centroids: &mut [f32],
    rounds: std::ops::Range<usize>,
    of: usize,
    monitor: &dyn Monitor,
) -> Result<(), TrainError> {
    let norms: f64 = parallel::map(chosen.len(), |i| {
        Ok::<_, TrainError>(f64::from(squared_norm(x.row(chosen[i] as usize))))
    })?
    .iter()
    .sum();
    let mut nearest = vec![Assignment::default(); chosen.len()];
    let mut before = f64::INFINITY;
    for round in rounds {
        monitor.phase(Phase::Clustering, round, of);
        assign_rows(x, chosen, centroids, &mut nearest, monitor)?;
        let objective = norms + nearest.iter().map(|n| f64::from(n.cost)).sum::<f64>();
        update(x, chosen, &nearest, centroids, monitor)?;
        if before - objective < MIN_IMPROVEMENT * before.abs() {
            break;
        }
        before = objective;
    }
    Ok(())
}

/// Assigns each chosen row to its nearest centroid, as an encoder with these centroids does.
pub fn assign_rows(
    x: MatRef<'_>,
    chosen: &[u32],
    centroids: &[f32],
    nearest: &mut [Assignment],
    monitor: &dyn Monitor,
) -> Result<(), TrainError> {
    let centroids = MatRef::new(centroids, x.cols);
    let halves = half_norms(centroids);
    let centroid_index = CentroidIndex::new(centroids, || check_interrupts(monitor))?;
    let assigner = Assigner::new(centroids, &halves).with_index(centroid_index.as_ref());
    let many = rows_at_once(x.cols);
    parallel::chunks_mut(nearest, many, |i, out| {
        let mut rows = Vec::new();
        x.gather(&chosen[i * many..i * many + out.len()], &mut rows);
        assigner.assign(MatRef::new(&rows, x.cols), out, || {
            check_interrupts(monitor)
        })
    })
}

/// The nearest centroid of each row of `x`, and its second list, which is the first one if there is only one list.
pub fn assign_to_two(
    x: MatRef<'_>,
    centroids: &[f32],
    monitor: &dyn Monitor,
) -> Result<(Vec<Assignment>, Vec<u32>), TrainError> {
    let centroids = MatRef::new(centroids, x.cols);
    let halves = half_norms(centroids);
    let centroid_index = CentroidIndex::new(centroids, || check_interrupts(monitor))?;
    let assigner = Assigner::new(centroids, &halves).with_index(centroid_index.as_ref());
    let many = rows_at_once(x.cols);
    let chunks = parallel::map(x.rows().div_ceil(many), |chunk| {
        let rows = x.slice(chunk * many, (chunk + 1) * many);
        let mut nearest = vec![Assignment::default(); rows.rows()];
        let mut near = vec![NearLists::default(); rows.rows()];
        assigner.assign_with_near(rows, &mut nearest, &mut near, || check_interrupts(monitor))?;
        let second = near.iter_mut().zip(&nearest).enumerate();
        let second = second.map(|(i, (near, first))| {
            let near = near.nearest(CANDIDATES);
            let second = choose(centroids, &halves, rows.row(i), *first, near);
            second.unwrap_or(first.list)
        });
        let second: Vec<u32> = second.collect();
        Ok::<_, TrainError>((nearest, second))
    })?;
    let (nearest, second): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
    Ok((nearest.concat(), second.concat()))
}

/// Moves every centroid to the mean of its rows, and the empty ones to the rows that are farthest from theirs.
fn update(
    x: MatRef<'_>,
    chosen: &[u32],
    nearest: &[Assignment],
    centroids: &mut [f32],
    monitor: &dyn Monitor,
) -> Result<(), TrainError> {
    let lists = centroids.len() / x.cols;
    let members = members(chosen, nearest, lists);
    let mut spare = farthest(
        x,
        chosen,
        nearest,
        members.iter().filter(|m| m.is_empty()).count(),
    );
    let spare: Vec<Option<u32>> = members
        .iter()
        .map(|m| if m.is_empty() { spare.pop() } else { None })
        .collect();
    parallel::chunks_mut(centroids, x.cols, |list, centroid| {
        check_interrupts(monitor)?;
        match spare[list] {
            Some(row) => centroid.copy_from_slice(x.row(row as usize)),
            None => mean(x, &members[list], centroid),
        }
        Ok(())
    })
}

/// The rows of each list.
fn members(chosen: &[u32], nearest: &[Assignment], lists: usize) -> Vec<Vec<u32>> {
    let mut members = vec![Vec::new(); lists];
    for (row, nearest) in chosen.iter().zip(nearest) {
        members[nearest.list as usize].push(*row);
    }
    members
}

/// The `n` rows with the largest distance to their centroid; fewer if the others sit on theirs. Nearest last.
fn farthest(x: MatRef<'_>, chosen: &[u32], nearest: &[Assignment], n: usize) -> Vec<u32> {
    if n == 0 {
        return Vec::new();
    }
    let mut distances: Vec<(f32, u32)> = chosen
        .iter()
        .zip(nearest)
        .map(|(row, nearest)| (squared_norm(x.row(*row as usize)), *row, nearest.cost))
        .filter(|(norm, _, cost)| norm + cost > 1e-6 * norm)
        .map(|(norm, row, cost)| (norm + cost, row))
        .collect();
    distances.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    distances.truncate(n);
    distances.iter().rev().map(|(_, row)| *row).collect()
}

/// The mean of the rows; unchanged if there are none.
fn mean(x: MatRef<'_>, rows: &[u32], out: &mut [f32]) {
    if rows.is_empty() {
        return;
    }
    let mut sums = vec![0f64; out.len()];
    for row in rows {
        for (sum, value) in sums.iter_mut().zip(x.row(*row as usize)) {
            *sum += f64::from(*value);
        }
    }
    for (o, sum) in out.iter_mut().zip(sums) {
        *o = (sum / rows.len() as f64) as f32;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::progress::NoMonitor;

    fn all(n: usize) -> Vec<u32> {
        (0..n as u32).collect()
    }

    #[test]
    fn well_separated_groups_are_found() {
        let x: Vec<f32> = (0..400)
            .flat_map(|i| {
                [
                    (i % 4 * 100) as f32 + (i / 4) as f32 / 1000.0,
                    (i % 4) as f32,
                ]
            })
            .collect();
        let x = MatRef::new(&x, 2);
        let centroids = kmeans(x, &all(400), 4, 3, &NoMonitor).unwrap();
        let mut nearest = vec![Assignment::default(); 400];
        assign_rows(x, &all(400), &centroids, &mut nearest, &NoMonitor).unwrap();
        for i in 0..400 {
            assert_eq!(nearest[i].list, nearest[i % 4].list);
        }
    }

    #[test]
    fn equal_rows_and_more_lists_than_rows_are_sensible() {
        let x = vec![0.5f32; 300];
        let centroids = kmeans(MatRef::new(&x, 3), &all(100), 10, 1, &NoMonitor).unwrap();
        assert_eq!(centroids, vec![0.5; 30]);
        let centroids = kmeans(MatRef::new(&x, 3), &all(100), 1000, 1, &NoMonitor).unwrap();
        assert_eq!(centroids.len(), 300);
    }

    #[test]
    fn empty_lists_are_filled_from_far_rows() {
        // Two values, many copies of one: random seeding leaves most lists equal.
        let mut x = vec![0f32; 1000];
        x[..10].copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        let centroids = kmeans(MatRef::new(&x, 1), &all(1000), 11, 1, &NoMonitor).unwrap();
        let mut sorted = centroids.clone();
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        assert!(sorted.len() >= 8, "{sorted:?}");
    }

    #[test]
    fn the_result_does_not_depend_on_the_threads() {
        let x: Vec<f32> = (0..8000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7)
            .collect();
        let run = || kmeans(MatRef::new(&x, 8), &all(1000), 20, 1, &NoMonitor).unwrap();
        let alone = run();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        assert_eq!(alone, pool.install(run));
    }
}
