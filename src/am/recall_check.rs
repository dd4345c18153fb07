//! VACUUM checks the recall of an index with the sample of its queries, and calibrates the index again if it is wrong.
//!
//! A check compares usual searches with much deeper ones ([`deep_truth`]), so it makes no pass over the table. It takes place when
//! there are enough new queries since the last one. An index that was calibrated with rows of the table is calibrated with
//! queries without a check, because its curve may be wrong at other targets than the current one.
//!
//! [`deep_truth`]: crate::am::calibration::deep_truth

use crate::am::calibration::deep_truth::deep_truth;
use crate::am::calibration::measure::{measure, recall_of_searches};
use crate::am::calibration::queries::CalibrationQueries;
use crate::am::failure::with_index;
use crate::am::open_index::OpenIndex;
use crate::error::Result;
use crate::pg::heap::HeapDistances;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::{Heap, Index};
use crate::pg::server::commit_durably;
use crate::settings::reloptions::Options;
use crate::settings::target_recall::target_recall;
use crate::settings::{has_fixed_probes, probing};
use distillvq_ivf::query_sample::{self, MIN_QUERIES};
use distillvq_ivf::{
    self as ivf, Calibration, FoundRecall, Meta, Model, PageStore, QueryKind, Truth,
    write_calibration,
};

/// Queries of a check, and of the calibration after it.
const QUERIES: usize = 384;

/// Whether there are enough new queries for a check.
pub fn is_due(
    index: Index,
    store: &RelationStore,
    meta: &Meta,
) -> std::result::Result<bool, ivf::Error> {
    let options = Options::of(index);
    if meta.calibration.is_none() || !options.samples_queries() || has_fixed_probes(&options) {
        return Ok(false);
    }
    let counters = query_sample::counters(store, meta)?;
    Ok(counters.newest.wrapping_sub(counters.checked) as usize >= MIN_QUERIES)
}

/// Checks the recall; calibrates the index if that is wrong, and returns what was found before and the new calibration.
pub fn check(
    index: Index,
    heap: Heap,
    store: &RelationStore,
) -> Result<Option<(FoundRecall, Calibration)>> {
    let meta = Meta::read(store).map_err(with_index(index))?;
    let check = RecallCheck {
        heap,
        store,
        target: OpenIndex::built(index, meta),
    };
    let Some(model) = check.target.model()? else {
        return Ok(None);
    };
    let sample = query_sample::read(store, &meta).map_err(with_index(index))?;
    let recent = sample.recent();
    let outcome = check.run(&model, &recent)?;
    query_sample::mark_checked(store, &meta, sample.counters).map_err(with_index(index))?;
    Ok(outcome)
}

struct RecallCheck<'a> {
    heap: Heap,
    store: &'a RelationStore,
    target: OpenIndex,
}

impl RecallCheck<'_> {
    fn run(&self, model: &Model, recent: &[f32]) -> Result<Option<(FoundRecall, Calibration)>> {
        let Some(known) = self.target.meta.calibration else {
            return Ok(None);
        };
        let truth = self.truth(model, recent)?;
        let found = recall_of_searches(&self.target, model, &truth, self.distances())?;
        let Some(found) = found else {
            return Ok(None);
        };
        let target = target_recall(Options::of(self.target.index).target_recall);
        if known.kind != QueryKind::Rows && !found.is_wrong(target) {
            return Ok(None);
        }
        let before = FoundRecall {
            recall: found.mean as f32,
            target: target as f32,
        };
        let calibrated = self.calibrate(model, &truth, before)?;
        Ok(calibrated.map(|calibration| (before, calibration)))
    }

    fn calibrate(
        &self,
        model: &Model,
        truth: &Truth,
        before: FoundRecall,
    ) -> Result<Option<Calibration>> {
        let (index, meta) = (self.target.index, &self.target.meta);
        let Some(measured) = measure(&self.target, model, truth, self.distances())? else {
            return Ok(None);
        };
        let measured = measured.with_before(Some(before));
        let (version, training) = (meta.model_version(), meta.training);
        write_calibration(self.store, version, training, Some(measured))
            .map_err(with_index(index))?;
        commit_durably();
        Ok(Some(measured))
    }

    fn truth(&self, model: &Model, recent: &[f32]) -> Result<Truth> {
        let meta = &self.target.meta;
        let queries = CalibrationQueries::of_searches(recent, meta.dim, QUERIES);
        let usual = probing(&Options::of(self.target.index), meta).first;
        deep_truth(self.heap, &self.target, model, queries, usual, &|| {
            // It returns no error: what is pending is raised.
            let _ = self.store.check_interrupts();
        })
    }

    fn distances(&self) -> HeapDistances {
        HeapDistances::of_live(self.heap, self.target.index)
    }
}
