//! Recall of a ranking by codes, by candidates and by probes, and of the routing alone; `benches/quality/measure.py`
//! measures the same of others.

use crate::data::DataSet;
use crate::index::Index;
use distillvq_kernels::kernels;
use distillvq_model::Model;
use rayon::prelude::*;
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;

const NEAREST: usize = 10;
/// Rows that are nearer to the tenth than this are ties.
const TIE: f32 = 1e-6;
const CANDIDATES: [usize; 3] = [10, 50, 100];
const PROBES: [usize; 6] = [1, 2, 4, 8, 16, 32];
const TARGETS: [f64; 2] = [0.95, 0.975];

/// For each query the rows that count as its ten nearest by cosine: ten, and more if others tie with the tenth.
pub fn truth(set: &DataSet) -> Vec<Vec<usize>> {
    let dot = kernels().dot;
    let unit = |x: &[f32]| 1.0 / dot(x, x).sqrt().max(f32::MIN_POSITIVE);
    let units: Vec<f32> = set.documents.chunks_exact(set.dim).map(unit).collect();
    let queries = set.measured.par_chunks_exact(set.dim);
    queries
        .map(|query| {
            let mut scores = vec![0f32; units.len()];
            (kernels().dot_rows)(query, &set.documents, &mut scores);
            let unit = unit(query);
            scores
                .iter_mut()
                .zip(&units)
                .for_each(|(s, u)| *s *= u * unit);
            let mut order = scores.clone();
            let nearest = NEAREST.min(order.len()) - 1;
            let (_, tenth, _) = order.select_nth_unstable_by(nearest, |a, b| b.total_cmp(a));
            let enough = *tenth - TIE;
            (0..scores.len()).filter(|i| scores[*i] >= enough).collect()
        })
        .collect()
}

/// What one variant reaches.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Share of the true ten among the best 10, 50 and 100 of all codes.
    pub recall: Recall,
    /// Share of the true ten among the best 100 codes of the probed lists.
    probes: Vec<Probes>,
    /// Mean reciprocal rank of the label among the best 10 of all codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    mrr10: Option<f64>,
    /// Share of the labels among the best 100 of all codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    r100: Option<f64>,
    /// The true ten in the probed lists, whatever their codes.
    pub routing: Curve,
}

/// Recall by candidates.
#[derive(Debug, Serialize)]
pub struct Recall {
    #[serde(rename = "10")]
    ten: f64,
    #[serde(rename = "50")]
    fifty: f64,
    #[serde(rename = "100")]
    hundred: f64,
}

/// Recall at a number of probes, and the share of rows scanned.
#[derive(Debug, Serialize)]
struct Probes {
    probes: usize,
    recall: f64,
    rows: f64,
}

/// Share of rows scanned and of the true ten found with 1, 2, … probes.
#[derive(Debug, Serialize)]
pub struct Curve {
    rows: Vec<f64>,
    recall: Vec<f64>,
    /// Share of rows that a target of recall needs, between whole probes by interpolation.
    pub rows_for: RowsFor,
}

/// Share of rows for each target.
#[derive(Debug, Serialize)]
pub struct RowsFor {
    /// For 0.95 of the true ten.
    #[serde(rename = "0.95")]
    pub p95: f64,
    /// For 0.975 of the true ten.
    #[serde(rename = "0.975")]
    pub p975: f64,
}

/// Counts over queries: whole numbers, so that the sum does not depend on the threads.
#[derive(Clone)]
struct Counts {
    candidates: [usize; 3],
    probes: [[usize; 2]; 6],
    places: [usize; 100],
    routing: Vec<[usize; 2]>,
}

impl Counts {
    fn new(lists: usize) -> Self {
        Counts {
            candidates: [0; 3],
            probes: [[0; 2]; 6],
            places: [0; 100],
            routing: vec![[0; 2]; lists],
        }
    }

    fn add(mut self, other: Self) -> Self {
        let pairs = self.probes.iter_mut().chain(&mut self.routing);
        for (sum, x) in pairs.zip(other.probes.iter().chain(&other.routing)) {
            sum[0] += x[0];
            sum[1] += x[1];
        }
        let single = self.candidates.iter_mut().chain(&mut self.places);
        for (sum, x) in single.zip(other.candidates.iter().chain(&other.places)) {
            *sum += x;
        }
        self
    }
}

/// Microseconds that a query's tables take on one thread: the least mean of several rounds, to a tenth.
pub fn query_microseconds(set: &DataSet, model: &Model) -> f64 {
    let queries = set.measured.chunks_exact(set.dim).take(200);
    let round = |_| {
        let started = Instant::now();
        queries.clone().for_each(|query| {
            black_box(model.query(query));
        });
        started.elapsed().as_secs_f64() * 1e6 / queries.len().max(1) as f64
    };
    let least = (0..5).map(round).fold(f64::INFINITY, f64::min);
    (least * 10.0).round() / 10.0
}

/// Measures `model` on all documents and the queries of the split.
pub fn measure(set: &DataSet, truth: &[Vec<usize>], model: &Model, index: &Index<'_>) -> Figures {
    let count = |number: usize| {
        let query = &set.measured[number * set.dim..(number + 1) * set.dim];
        let label = set.labels.as_ref().map(|labels| labels[number]);
        count_query(model, index, query, &truth[number], label)
    };
    let zero = || Counts::new(model.lists());
    let counts = (0..truth.len())
        .into_par_iter()
        .map(count)
        .reduce(zero, Counts::add);
    figures(
        &counts,
        truth.len(),
        index.list_of.len(),
        set.labels.is_some(),
    )
}

fn count_query(
    model: &Model,
    index: &Index<'_>,
    query: &[f32],
    truth: &[usize],
    label: Option<usize>,
) -> Counts {
    let tables = model.query(query);
    let scores = index.scores(&tables);
    let order: Vec<usize> = tables
        .ranking()
        .all()
        .iter()
        .map(|(_, l)| *l as usize)
        .collect();
    let mut counts = Counts::new(index.lists.len());
    let places: Vec<usize> = truth.iter().map(|row| place(&scores, *row)).collect();
    counts.candidates =
        CANDIDATES.map(|limit| places.iter().filter(|p| **p < limit).count().min(NEAREST));
    if let Some(count) = label.and_then(|row| counts.places.get_mut(place(&scores, row))) {
        *count += 1;
    }
    count_probes(&mut counts.probes, index, &scores, &order, truth);
    count_lists(&mut counts.routing, index, &order, truth);
    counts
}

/// Whether row `a` is ranked before row `b`: among equals the smaller number is first.
fn before(scores: &[f32], a: usize, b: usize) -> bool {
    scores[a] > scores[b] || (scores[a] == scores[b] && a < b)
}

/// The place of a row in the ranking of all rows.
fn place(scores: &[f32], row: usize) -> usize {
    let score = scores[row];
    scores.iter().filter(|s| **s > score).count()
        + scores[..row].iter().filter(|s| **s == score).count()
}

/// The true ten among the best codes of the probed lists, and the rows scanned.
fn count_probes(
    counts: &mut [[usize; 2]; 6],
    index: &Index<'_>,
    scores: &[f32],
    order: &[usize],
    truth: &[usize],
) {
    let best = CANDIDATES[2];
    let mut better = vec![0; truth.len()];
    let mut probed = vec![false; truth.len()];
    for (number, list) in order.iter().take(PROBES[5]).enumerate() {
        let rows = &index.lists[*list].rows;
        for (i, row) in truth.iter().enumerate() {
            better[i] += rows.iter().filter(|r| before(scores, **r, *row)).count();
            probed[i] |= index.list_of[*row] == *list;
        }
        let found = probed
            .iter()
            .zip(&better)
            .filter(|(p, b)| **p && **b < best);
        let found = found.count().min(NEAREST);
        // With fewer lists than probes, the last list counts for all that is left.
        let last = number + 1 == order.len();
        for (probes, count) in PROBES.iter().zip(counts.iter_mut()) {
            count[1] += if number < *probes { rows.len() } else { 0 };
            if number + 1 == *probes || (last && number + 1 < *probes) {
                count[0] = found;
            }
        }
    }
}

/// The true ten in the first 1, 2, … lists, and the rows in them.
fn count_lists(counts: &mut [[usize; 2]], index: &Index<'_>, order: &[usize], truth: &[usize]) {
    let (mut found, mut rows) = (0, 0);
    for (count, list) in counts.iter_mut().zip(order) {
        found += truth
            .iter()
            .filter(|row| index.list_of[**row] == *list)
            .count();
        rows += index.lists[*list].rows.len();
        *count = [found.min(NEAREST), rows];
    }
}

fn figures(counts: &Counts, queries: usize, rows: usize, labeled: bool) -> Figures {
    let share = |part: usize, whole: usize| round(part as f64 / (whole * queries) as f64);
    let [ten, fifty, hundred] = counts.candidates.map(|n| share(n, NEAREST));
    let probes = PROBES.iter().zip(&counts.probes);
    let reciprocal = (1..=10)
        .zip(&counts.places)
        .map(|(i, n)| *n as f64 / f64::from(i));
    Figures {
        recall: Recall {
            ten,
            fifty,
            hundred,
        },
        probes: probes
            .map(|(probes, [found, read])| Probes {
                probes: *probes,
                recall: share(*found, NEAREST),
                rows: share(*read, rows),
            })
            .collect(),
        mrr10: labeled.then(|| round(reciprocal.sum::<f64>() / queries as f64)),
        r100: labeled.then(|| share(counts.places.iter().sum(), 1)),
        routing: curve(
            counts
                .routing
                .iter()
                .map(|[_, read]| share(*read, rows))
                .collect(),
            counts
                .routing
                .iter()
                .map(|[found, _]| share(*found, NEAREST))
                .collect(),
        ),
    }
}

fn curve(rows: Vec<f64>, recall: Vec<f64>) -> Curve {
    let [p95, p975] = TARGETS.map(|target| needed(&rows, &recall, target));
    Curve {
        rows,
        recall,
        rows_for: RowsFor { p95, p975 },
    }
}

/// The share of rows at which recall reaches `target`.
fn needed(rows: &[f64], recall: &[f64], target: f64) -> f64 {
    let at = recall.partition_point(|r| *r < target);
    match (at.checked_sub(1), rows.get(at)) {
        (None, first) => first.copied().unwrap_or(1.0),
        (Some(_), None) => 1.0,
        (Some(before), Some(after)) => {
            let way = (target - recall[before]) / (recall[at] - recall[before]);
            round(rows[before] + way * (after - rows[before]))
        }
    }
}

/// Five digits are enough.
fn round(x: f64) -> f64 {
    (x * 1e5).round() / 1e5
}

#[cfg(test)]
mod tests {
    use super::*;
    use distillvq_training::{NoMonitor, TrainOptions, train};

    /// Two hundred groups of ten rows; the queries are rows.
    fn set() -> DataSet {
        let dim = 8;
        let wave = |i: usize| ((i * 7919 % 10_007) as f32 / 5_003.0 - 1.0).sin();
        let documents: Vec<f32> = (0..2_000 * dim)
            .map(|i| wave(i / dim / 10 * dim + i % dim) + 0.1 * wave(3 * i + 1))
            .collect();
        DataSet {
            dim,
            measured: documents[..40 * dim].to_vec(),
            log: documents[..40 * dim].to_vec(),
            documents,
            labels: Some((0..40).collect()),
        }
    }

    #[test]
    fn figures_are_those_of_a_slow_search() -> Result<(), distillvq_training::TrainError> {
        let set = set();
        let truth = truth(&set);
        let options = TrainOptions {
            lists: 40,
            subquantizers: 4,
            distill: false,
            ..TrainOptions::default()
        };
        let trained = train(&set.documents, set.dim, None, &options, &NoMonitor)?;
        let index = Index::new(&trained.model, &set.documents);
        let figures = measure(&set, &truth, &trained.model, &index);
        let (mut found, mut probed, mut labeled) = (0, 0, 0);
        for (number, query) in set.measured.chunks_exact(set.dim).enumerate() {
            let tables = trained.model.query(query);
            let scores = index.scores(&tables);
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let hits = |order: &[usize]| {
                order
                    .iter()
                    .filter(|r| truth[number].contains(r))
                    .count()
                    .min(10)
            };
            found += hits(&order[..50]);
            labeled += usize::from(order[..100].contains(&number));
            let lists: Vec<usize> = tables
                .ranking()
                .lists(0, 4)
                .map(|list| list as usize)
                .collect();
            order.retain(|row| lists.contains(&index.list_of[*row]));
            probed += hits(&order[..order.len().min(100)]);
        }
        assert!((figures.recall.fifty - found as f64 / 400.0).abs() < 1e-4);
        assert!((figures.probes[2].recall - probed as f64 / 400.0).abs() < 1e-4);
        assert_eq!(figures.r100, Some(round(labeled as f64 / 40.0)));
        assert!(figures.recall.fifty > 0.5, "{figures:?}");
        assert_eq!(figures.routing.recall.last(), Some(&1.0));
        // 40 lists are all lists: 32 probes scan most rows, and no later number of probes may be missing.
        assert!(figures.probes[5].rows > 0.5 && figures.probes[5].rows <= 1.0);
        Ok(())
    }

    #[test]
    fn ties_go_to_the_smaller_row() {
        let scores = [1.0, 3.0, 1.0, 2.0];
        assert_eq!([0, 1, 2, 3].map(|row| place(&scores, row)), [2, 0, 3, 1]);
        assert!(before(&scores, 0, 2) && !before(&scores, 2, 0));
    }

    #[test]
    fn rows_for_a_target_lie_between_probes() {
        let (rows, recall) = ([0.1, 0.2, 0.3], [0.5, 0.9, 1.0]);
        assert_eq!(needed(&rows, &recall, 0.95), 0.25);
        assert_eq!(needed(&rows, &recall, 0.4), 0.1);
        assert_eq!(needed(&rows, &[0.5, 0.6, 0.7], 0.95), 1.0);
    }
}
