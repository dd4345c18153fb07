//! `distillvq_index_info` and the view `distillvq_indexes`: what an index is made of, and what it needs.
//!
//! A call reads all pages of the index, and looks up to 1,500 rows of the table up. The rules behind the advice are in
//! `distillvq_ivf::advice`.

use crate::am::failure::with_index;
use crate::am::model_store::catalog;
use crate::am::open_index::OpenIndex;
use crate::error::{Error, Operation, Result};
use crate::functions::{check_readable, open_for_reading};
use crate::pg::filter_columns::FilterColumns;
use crate::pg::heap::{count_dead, fetch_live};
use crate::pg::names::quoted_relation;
use crate::pg::privileges::{may_inspect, may_read, rls_applies};
use crate::pg::relation::{Index, LockedIndex, RelationKind, relation_kind};
use crate::pg::report::or_raise;
use crate::pg::subtransaction::{SubtransactionError, in_subtransaction};
use crate::pg::text::to_server;
use crate::pg::vector_datum::time_of;
use crate::settings::reloptions::Options;
use crate::settings::target_recall;
use distillvq_ivf::advice::{Advice, FinerCodes, IndexHealth, RecallStatus};
use distillvq_ivf::{
    Calibration, IndexStats, InsertedRow, Meta, Model, QueryKind, Tid, collect_stats, query_sample,
};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys::Oid};

/// Entries that are looked up in the table, to estimate how many are of dead rows.
const ENTRIES: usize = 1_000;
/// Rows inserted since the build whose codes are compared with their vectors.
const NEW_ROWS: usize = 500;
/// New rows that it takes to tell a drift: the mean error of fewer varies.
const MIN_DRIFT_ROWS: usize = 50;
/// Seed of both samples.
const SEED: u64 = 1;

/// The columns of `distillvq_index_info`.
type Row = (
    name!(rows, Option<i64>),
    name!(lists, Option<i32>),
    name!(list_min, Option<i64>),
    name!(list_median, Option<i64>),
    name!(list_max, Option<i64>),
    name!(largest_share, Option<f32>),
    name!(exact_rows, Option<i64>),
    name!(bytes, Option<i64>),
    name!(bytes_per_row, Option<f32>),
    name!(dead_rows, Option<i64>),
    name!(inserted_rows, Option<i64>),
    name!(model, Option<Vec<u8>>),
    name!(trained_at, Option<TimestampWithTimeZone>),
    name!(trained_rows, Option<i64>),
    name!(logged_queries, Option<i64>),
    name!(sampled_queries, Option<i64>),
    name!(code_recall_before, Option<f32>),
    name!(code_recall_after, Option<f32>),
    name!(calibration, Option<String>),
    name!(query_source, Option<&'static str>),
    name!(recall_before_calibration, Option<f32>),
    name!(drift, Option<f32>),
    name!(advice, Vec<u8>),
);

type Rows = TableIterator<'static, Row>;

/// What an index is made of, and what it needs.
pub fn distillvq_index_info(index: Option<Oid>) -> Rows {
    let index = or_raise(index.ok_or(Error::NullIndex(Operation::Inspect)));
    let locked = or_raise(open_for_reading(index, Operation::Inspect, may_inspect));
    TableIterator::once(or_raise(IndexReport::compute(&locked)).row())
}

/// The same for a view of all indexes: no row for one that the caller may not see, and one without figures for one that has
/// none now, with the reason in place of the advice.
pub fn distillvq_index_info_or_null(index: Oid) -> Rows {
    let row = in_subtransaction(|| info_if_any(index)).unwrap_or_else(
        |SubtransactionError {
             message,
             is_corruption,
         }| {
            Some(match quoted_relation(index) {
                Ok(name) if is_corruption => damaged(&message, &name),
                _ => row_without_figures(&message),
            })
        },
    );
    TableIterator::new(row.into_iter().collect::<Vec<_>>())
}

fn info_if_any(oid: Oid) -> Option<Row> {
    if relation_kind(oid) != Some(RelationKind::Index) || !may_inspect(oid) {
        return None;
    }
    let Some(locked) = LockedIndex::try_for_reading(oid) else {
        return Some(row_without_figures(
            "it is locked: another session builds, changes, or drops it",
        ));
    };
    if locked.of_another_session() {
        return None;
    }
    let figures =
        check_readable(&locked, Operation::Inspect).and_then(|()| IndexReport::compute(&locked));
    Some(match figures {
        Ok(figures) => figures.row(),
        Err(error @ Error::Pages { .. }) => damaged(&error, &locked.index().quoted_name()),
        Err(Error::InvalidIndex { index, .. }) if index.is_transient() => nothing_but(format!(
            "drop: a REINDEX CONCURRENTLY is running or has failed; if it has failed, DROP INDEX CONCURRENTLY {}",
            index.quoted
        )),
        Err(error @ Error::InvalidIndex { .. }) => nothing_but(format!(
            "reindex: the build is running or has failed ({error}); if it has failed, REINDEX INDEX {}",
            locked.index().quoted_name()
        )),
        Err(error) => row_without_figures(&error.to_string()),
    })
}

/// A row without figures, because of this.
fn row_without_figures(why: &str) -> Row {
    nothing_but(format!("unknown: {why}"))
}

/// The same for an index that cannot be read.
fn damaged(why: &dyn std::fmt::Display, index: &str) -> Row {
    nothing_but(format!(
        "reindex: {why}; REINDEX INDEX CONCURRENTLY {index}"
    ))
}

fn nothing_but(advice: String) -> Row {
    (
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        to_server(&advice),
    )
}

/// What was found out about an index.
struct IndexReport {
    index: Index,
    table: String,
    meta: Meta,
    stats: IndexStats,
    /// Share of the entries whose rows are dead.
    dead: Option<f64>,
    drift: Option<f64>,
    /// Queries in the sample that searches keep.
    sampled: i64,
    /// Why the index cannot be built with the model that it names.
    unfit: Option<String>,
}

impl IndexReport {
    fn compute(locked: &LockedIndex) -> Result<Self> {
        let (index, heap) = (locked.index(), locked.heap());
        let target = OpenIndex::open(index)?;
        let stats = collect_stats(target.store(), &target.meta, (ENTRIES, NEW_ROWS), SEED);
        if target.is_outdated()? {
            // It got a model meanwhile, which happens once.
            return Self::compute(locked);
        }
        let mut stats = stats.map_err(with_index(index))?;
        stats.sampled_tids.sort_unstable();
        stats.inserted_sample.sort_unstable_by_key(|row| row.tid);
        let (dead, looked_at) = (
            count_dead(heap, index, &stats.sampled_tids),
            stats.sampled_tids.len(),
        );
        let sample =
            query_sample::counters(target.store(), &target.meta).map_err(with_index(index))?;
        let mut figures = Self {
            index,
            table: quoted_relation(index.table())?,
            meta: target.meta,
            stats,
            dead: (looked_at > 0).then(|| dead as f64 / looked_at as f64),
            drift: None,
            sampled: sample.newest.min(sample.capacity).into(),
            unfit: None,
        };
        if let Some(name) = Options::of(index).model {
            figures.unfit = catalog::unfit(&name, index.metric()?, index.dimensions()?)?;
        }
        if figures.stats.inserted_sample.len() >= MIN_DRIFT_ROWS
            && let Some(before) = figures.meta.training.code_error
            && let Some(model) = target.encoder()?
        {
            let now = figures.error_of_new_rows(locked, model);
            // Codes without any error have none to compare with.
            let before = f64::from(before);
            figures.drift = now.map(|now| if now == before { 1.0 } else { now / before });
        }
        Ok(figures)
    }

    /// The mean error of the codes of rows that were inserted since the build; none if too few are alive. An index on an
    /// expression runs functions, so then the caller must be allowed to read the rows, and an error of theirs is no figure.
    fn error_of_new_rows(&self, locked: &LockedIndex, model: &Model) -> Option<f64> {
        let (oid, table) = (self.index.oid(), self.index.table());
        if self.index.has_expressions() && (!may_read(oid) || rls_applies(table)) {
            return None;
        }
        let recent = &self.stats.inserted_sample;
        let tids: Vec<Tid> = recent.iter().map(|row| row.tid).collect();
        let (mut errors, mut vector) = (Vec::new(), Vec::new());
        let filters = FilterColumns::default();
        let looked = in_subtransaction(|| {
            let element = self.index.element()?;
            fetch_live(locked.heap(), self.index, &filters, &tids, &mut |i, row| {
                if let Some(InsertedRow { list, values, .. }) = recent.get(i) {
                    vector.clear();
                    if row.append_elements(element, &mut vector) == self.meta.dim {
                        errors.extend(model.code_error(&vector, *list, values));
                    }
                }
            })
        });
        let enough = matches!(looked, Ok(Ok(()))) && errors.len() >= MIN_DRIFT_ROWS;
        enough.then(|| errors.iter().sum::<f64>() / errors.len() as f64)
    }

    fn condition(&self) -> IndexHealth {
        let options = Options::of(self.index);
        // Where probes are given, no target counts; where all is asked for, all lists are searched.
        let target = Some(target_recall::target_recall(options.target_recall))
            .filter(|&target| options.probes == 0 && target < 1.0);
        let rows = self.stats.rows();
        let measured = |it: &Calibration| RecallStatus {
            rows: it.rows,
            // What came since a later measurement is not counted apart: then what the index has grown by.
            inserted: if it.rows == self.meta.pages.rows_at_build {
                self.stats.inserted
            } else {
                rows.saturating_sub(it.rows)
            },
            reaches_target: target.is_none_or(|target| it.probes_for(target).is_some()),
        };
        IndexHealth {
            trained: self.meta.has_model(),
            model_missing: self.unfit.is_some(),
            unquantized: match options.model {
                // The model knew what the table's rows are like only if it was trained on them.
                Some(_) => self.stats.exact_rows(),
                None => self.stats.inserted_exact.min(self.stats.exact_rows()),
            },
            rows,
            dead: self.dead,
            inserted: self.stats.inserted,
            measured: self.meta.calibration.as_ref().map(measured),
            balance: self.stats.balance(),
            drift: self.drift,
        }
    }

    fn row(self) -> Row {
        let (rows, balance) = (self.stats.rows(), self.stats.balance());
        let (meta, training) = (&self.meta, &self.meta.training);
        let trained = meta.has_model();
        let listed = rows.saturating_sub(self.stats.exact_rows());
        let bytes = self.index.bytes();
        let calibration = meta.calibration.as_ref();
        let of_training = |value: u64| trained.then_some(value as i64);
        let own = || "own".to_owned();
        (
            Some(rows as i64),
            Some(meta.lists() as i32),
            balance.map(|it| it.min as i64),
            balance.map(|it| it.median as i64),
            balance.map(|it| it.max as i64),
            balance
                .filter(|_| listed > 0)
                .map(|it| it.max as f32 / listed as f32),
            Some((rows - listed) as i64),
            Some(bytes as i64),
            (rows > 0).then(|| bytes as f32 / rows as f32),
            self.dead.map(|share| (share * rows as f64).round() as i64),
            Some(self.stats.inserted as i64),
            trained.then(|| to_server(&Options::of(self.index).model.unwrap_or_else(own))),
            (trained && training.trained_at != 0)
                .then(|| time_of(training.trained_at))
                .flatten(),
            of_training(training.rows),
            of_training(training.queries),
            trained.then_some(self.sampled),
            training.recall_before,
            training.recall_after,
            calibration.map(curve),
            Some(calibration.map_or("none", |it| it.kind.as_str())),
            calibration.and_then(|it| it.before).map(|it| it.recall),
            self.drift.map(|drift| drift as f32),
            to_server(&self.advice()),
        )
    }

    /// What to do, in words.
    fn advice(&self) -> String {
        let (index, table) = (self.index.quoted_name(), &self.table);
        let reindex = format!("REINDEX INDEX CONCURRENTLY {index}");
        let percent = |share: f64| (100.0 * share).round();
        let by_log = self
            .meta
            .calibration
            .is_some_and(|it| it.kind == QueryKind::Log);
        let queries = if by_log || self.meta.training.queries > 0 {
            ", queries => ..., query_column => ..."
        } else {
            ""
        };
        let name = pgrx::spi::quote_literal(&index);
        let again = |function: &str| format!("SELECT * FROM {function}({name}{queries})");
        let rebuild = match &Options::of(self.index).model {
            Some(model) => {
                let model = pgrx::spi::quote_literal(model);
                format!("train {model} again, then {reindex}")
            }
            None => reindex.clone(),
        };
        match self.condition().advice() {
            Advice::NothingToDo => "ok".to_owned(),
            Advice::ModelMissing => self.without_model(&index),
            Advice::Unquantized(rows) if self.meta.has_rows_to_move() => format!(
                "vacuum: {rows} of {} rows have no code yet, so every search compares them; VACUUM {table}",
                self.stats.rows()
            ),
            Advice::Unquantized(rows) => format!(
                "reindex: {rows} of {} rows have no code, so every search compares them; {rebuild}",
                self.stats.rows()
            ),
            Advice::Untrained if Options::of(self.index).trains_itself() => format!(
                "vacuum: the table was too small to train on when the index was built, so searches compare every row until VACUUM \
                 trains it; VACUUM {table}"
            ),
            Advice::Untrained => format!(
                "reindex: the table was too small to train on when the index was built, so searches compare every row; {reindex}"
            ),
            Advice::Drift(times) => format!(
                "reindex: the distribution of the inserted rows differs, their quantization error is {times:.2} times that of the build; \
                 {rebuild}"
            ),
            Advice::Uneven(times) => format!(
                "reindex: lists are unbalanced, the longest has {times:.0} times the mean number of rows; \
                 {rebuild}"
            ),
            Advice::Dead(share) => format!(
                "vacuum: {} % of the entries belong to deleted rows; VACUUM {table}",
                percent(share)
            ),
            Advice::TargetMissed => self.finer(&index, &reindex),
            Advice::Grown(share) => format!(
                "retrain: rows inserted since the calibration are {} % of the rows at the calibration; {}",
                percent(share),
                again("distillvq_train")
            ),
            Advice::Shrunk(share) => format!(
                "calibrate: {} % of the rows were deleted since the calibration; {}",
                percent(share),
                again("distillvq_calibrate")
            ),
            Advice::Unmeasured => format!(
                "calibrate: recall was never measured; {}",
                again("distillvq_calibrate")
            ),
        }
    }

    /// How to make an index rebuildable whose model is missing.
    fn without_model(&self, index: &str) -> String {
        let name = Options::of(self.index).model.unwrap_or_default();
        let why = self.unfit.as_deref().unwrap_or_default();
        format!(
            "train or reset the model: \"{name}\" {why}, so the index cannot be rebuilt or restored; \
             ALTER INDEX {index} RESET (model)"
        )
    }

    /// How to get codes that reach the target, or a target that they reach.
    fn finer(&self, index: &str, reindex: &str) -> String {
        let best = self
            .meta
            .calibration
            .and_then(|it| it.best())
            .unwrap_or(0.0);
        let why = format!("with all lists, recall is {best:.3}");
        let set = |option: &str| format!("ALTER INDEX {index} SET ({option})");
        let rebuild = |how: String| format!("reindex: {why}, below the target; {how}");
        // What the model decides, and what of it the index's own options say.
        let coded = |arguments: String, options: String| {
            rebuild(match Options::of(self.index).model {
                Some(model) => {
                    let model = pgrx::spi::quote_literal(model);
                    format!("train {model} with {arguments}, then {reindex}")
                }
                None => format!("{}; {reindex}", set(&options)),
            })
        };
        let Meta {
            shape,
            refine,
            dim,
            filters,
            ..
        } = self.meta;
        match FinerCodes::next_step(shape, refine, dim, &filters) {
            FinerCodes::Subquantizers(codes) => coded(
                format!("subquantizers => {codes}"),
                format!("subquantizers = {codes}"),
            ),
            FinerCodes::Bits(codes) => coded(
                format!("bits => 8, subquantizers => {codes}"),
                format!("bits = 8, subquantizers = {codes}"),
            ),
            FinerCodes::Refine => rebuild(format!("{}; {reindex}", set("refine = sq7"))),
            FinerCodes::Nothing => {
                let reached = lowered_target(best);
                let how = match target_recall::is_explicit() {
                    true => format!("SET distillvq.target_recall = {reached:.3}"),
                    false => set(&format!("target_recall = {reached:.3}")),
                };
                format!("lower target_recall: {why}, and no finer codes exist; {how}")
            }
        }
    }
}

/// The best target for an index that reaches this recall.
fn lowered_target(best: f32) -> f64 {
    let thousandths = (1e3 * f64::from(best)).floor() / 1e3;
    thousandths.max(*target_recall::RANGE.start())
}

/// The points of a curve as JSON, of which PostgreSQL keeps the text: `[{"probes": 8, "recall": 0.953}, …]`.
fn curve(calibration: &Calibration) -> String {
    let point =
        |probes: u32, recall: f32| format!("{{\"probes\": {probes}, \"recall\": {recall:.4}}}");
    let points: Vec<String> = calibration
        .points()
        .iter()
        .map(|it| point(it.probes, it.recall))
        .collect();
    format!("[{}]", points.join(", "))
}
