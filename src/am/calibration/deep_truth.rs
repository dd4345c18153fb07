//! The true neighbors of queries as the index itself finds them, without a pass over the table: by searches that probe far more
//! lists than usual, and compare far more rows. What even these miss counts as no neighbor.

use crate::am::calibration::measure::truth;
use crate::am::calibration::queries::CalibrationQueries;
use crate::am::open_index::OpenIndex;
use crate::am::scan::SearchStream;
use crate::error::Result;
use crate::pg::filter_columns::FilterColumns;
use crate::pg::heap::{HeapDistances, RowFn, fetch_live};
use crate::pg::relation::Heap;
use crate::pg::vector_datum::OwnedVector;
use crate::settings::Probing;
use crate::settings::search::SearchParams;
use distillvq_ivf::adaptive_probes::AdaptiveProbes;
use distillvq_ivf::filter::ColumnFilter;
use distillvq_ivf::rerank::{Growth, RANKS};
use distillvq_ivf::{CALIBRATION_K, RERANK_MARGINS, Tid, Truth};
use distillvq_model::Model;

/// Codes that a search scans at the most, unless that is less than [`MIN_TIMES`] what usual searches scan.
const CODES: f64 = 1e6;
/// Lists probed, relative to those of usual searches.
const MIN_TIMES: usize = 8;
/// Rows that a search returns, relative to the neighbors that are wanted: the more are returned, the more are compared.
const RETURNED: usize = 3;
/// Queries, the first ones, whose neighbors are found as far as the last of [`RANKS`].
const FAR_QUERIES: usize = 32;

/// Finds the neighbors of queries in an index that searches usually probe so many lists of. `delay` is called between searches.
pub fn deep_truth(
    heap: Heap,
    target: &OpenIndex,
    model: &Model,
    queries: CalibrationQueries,
    usual: usize,
    delay: &dyn Fn(),
) -> Result<Truth> {
    let tids = candidates(heap, target, model, &queries.vectors, usual, delay)?;
    let rows = heap.estimated_rows();
    let mut truth = truth(heap, target, model, queries, |each| {
        fetch(heap, target, &tids, delay, each)
    })?;
    truth.rows = rows as u64;
    // Rows behind these were found for other queries.
    for neighbors in truth.neighbors.iter_mut().skip(FAR_QUERIES) {
        neighbors.rows.truncate(CALIBRATION_K);
    }
    Ok(truth)
}

/// The rows that searches for each query find, in the order of the table.
fn candidates(
    heap: Heap,
    target: &OpenIndex,
    model: &Model,
    queries: &[f32],
    usual: usize,
    delay: &dyn Fn(),
) -> Result<Vec<Tid>> {
    let element = target.index.element()?;
    let mut distances = HeapDistances::of_live(heap, target.index);
    let probing = Probing {
        first: lists_to_probe(heap, target, usual),
        adaptive: AdaptiveProbes::default(),
        growth: Growth::default(),
    };
    let [.., deepest] = RERANK_MARGINS;
    let params = SearchParams::unlimited(probing, deepest);
    let mut found = Vec::new();
    for (i, elements) in queries.chunks_exact(target.meta.dim.max(1)).enumerate() {
        delay();
        let query = OwnedVector::of(elements, element);
        let wanted = match RANKS {
            [.., last] if i < FAR_QUERIES => last as usize,
            _ => RETURNED * CALIBRATION_K,
        };
        let filter = ColumnFilter::default();
        let mut search =
            SearchStream::start(target, Some(model.searcher()), elements, (params, filter))?;
        for _ in 0..wanted {
            let Some(hit) = search.next(Some(&query), &mut distances)? else {
                break;
            };
            found.push(hit.tid);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn lists_to_probe(heap: Heap, target: &OpenIndex, usual: usize) -> usize {
    let lists = target.meta.lists() as usize;
    let entries = heap.estimated_rows() as f64 * f64::from(target.meta.assignments);
    let affordable = (CODES / (entries / lists.max(1) as f64).max(1.0)) as usize;
    affordable.max(MIN_TIMES * usual).min(lists)
}

/// Passes rows that are still alive to `each`.
fn fetch(
    heap: Heap,
    target: &OpenIndex,
    tids: &[Tid],
    delay: &dyn Fn(),
    each: &mut RowFn<'_>,
) -> Result<()> {
    let mut outcome = Ok(());
    let filters = FilterColumns::default();
    fetch_live(heap, target.index, &filters, tids, &mut |i, row| {
        delay();
        if let (Ok(()), Some(tid)) = (&outcome, tids.get(i)) {
            outcome = each(*tid, row);
        }
    })?;
    outcome
}
