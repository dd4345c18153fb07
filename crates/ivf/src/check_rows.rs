//! Verification of an index: of its structure ([`distillvq_pages::Check`]) and its model, and against the rows of its table.
//!
//! Against the table: every row that must be in the index is there, in the lists and with the codes that encoding its vector
//! again gives, or others that are as near but for a rounding ([`Model::check_encoding`]), and with the values of its filter
//! columns. Rows of the index that the table does not show are no problem: they are dead, or younger than the snapshot of the
//! table. A row that the table shows has both entries: a transaction that inserted only one was aborted.

use crate::error::Error;
use crate::index_meta::Meta;
use crate::model_pages::load_model;
use crate::pq::{CODES, CORRECTION, NORM, REFINE, Row};
use crate::row_encoder::RowEncoder;
use crate::{Model, Tid};
use distillvq_model::StoredRow;
use distillvq_pages::{Block, Check, CheckReport, PageStore, RowMoves, TidLocation};
use std::ops::Range;

/// Elements of the vectors that are encoded in one go: milliseconds.
const BATCH_ELEMENTS: usize = 1 << 16;

/// Takes a row of the table: its address, its vector, and the values of its filter columns as
/// [`crate::filter::FilterFormat::encode`] writes them.
pub type RowFn<'a, E> = dyn FnMut(Tid, &[f32], &[u8]) -> Result<(), E> + 'a;

/// Shows all rows in some blocks of the table that must be in the index: with one snapshot, taken before the check began,
/// under the predicate of the index, with the addresses that an index has of them, without those whose vector is NULL.
pub type ScanTableFn<'a, E> = dyn FnMut(Range<u32>, &mut RowFn<'_, E>) -> Result<(), E> + 'a;

/// Verifies the structure of an index. Damage is in the report; errors are anything else, as
/// [`distillvq_pages::Error::NotAnIndex`] or a failure of the store. Inserts may go on meanwhile; a vacuum or a replacement
/// of the student must not.
pub fn check<S: PageStore>(store: &S) -> Result<CheckReport, Error> {
    check_within(store, usize::MAX)
}

/// As [`check()`], with approximately `memory` bytes for the addresses of rows.
pub fn check_within<S: PageStore>(store: &S, memory: usize) -> Result<CheckReport, Error> {
    check_rows(store, memory, None::<&mut ScanTableFn<'_, Error>>)
}

/// As [`check_within`], and against the rows that `table` shows.
pub fn check_against<S: PageStore, E: From<Error>>(
    store: &S,
    memory: usize,
    table: &mut ScanTableFn<'_, E>,
) -> Result<CheckReport, E> {
    check_rows(store, memory, Some(table))
}

fn check_rows<S: PageStore, E: From<Error>>(
    store: &S,
    memory: usize,
    mut table: Option<&mut ScanTableFn<'_, E>>,
) -> Result<CheckReport, E> {
    let mut report = CheckReport::default();
    // Before everything else: whatever is in use of these pages is linked by the time that the links are followed.
    let blocks = store.block_count().map_err(Error::from)?;
    let Some(mut meta) = record_problem(&mut report, Meta::read(store))? else {
        return Ok(report);
    };
    let model = record_problem(&mut report, load_model(store, &mut meta))?;
    let mut check = Check::new(store, blocks, meta.pages, memory, report);
    let norm = meta.pages.format.position(NORM);
    let walked = check.walk(&|block, lane| norm_problem(block, norm, lane));
    if !walked.map_err(Error::from)? {
        return Ok(check.report);
    }
    let mut comparison = Comparison { store, check, meta };
    let model = model.as_ref().map(Option::as_ref);
    while let Some(range) = comparison.check.next_window().map_err(Error::from)? {
        if let (Some(table), Some(model)) = (table.as_deref_mut(), model) {
            let encoder = RowEncoder::new(&comparison.meta, model)?;
            comparison.check_table(encoder, range, table)?;
        }
    }
    Ok(comparison.check.report)
}

/// Turns damage into a problem; passes other errors on.
fn record_problem<T>(
    report: &mut CheckReport,
    result: Result<T, Error>,
) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Pages(error)) => Ok(report.record_damage(Err(error))?),
        Err(Error::Model(error)) => {
            report.add(Some(0), error.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Names what is wrong with the norm of a row, if it has one.
fn norm_problem(block: &Block<'_>, norm: Option<usize>, lane: usize) -> Option<&'static str> {
    let norms = block.column(norm?).as_chunks::<4>().0;
    let is_finite = f32::from_le_bytes(*norms.get(lane)?).is_finite();
    (!is_finite).then_some("has no finite norm")
}

/// A check against the rows of the table.
struct Comparison<'a, S> {
    store: &'a S,
    check: Check<'a, S>,
    meta: Meta,
}

impl<S: PageStore> Comparison<'_, S> {
    /// Compares rows of the table with the window.
    fn check_table<E: From<Error>>(
        &mut self,
        encoder: RowEncoder<'_>,
        range: Range<u32>,
        table: &mut ScanTableFn<'_, E>,
    ) -> Result<(), E> {
        let mut batch = RowBatch::default();
        table(range, &mut |tid, vector, filters| {
            if self.check.report.is_full() {
                return Ok(());
            }
            if vector.len() != self.meta.dim {
                let (block, offset, found) = (tid.block, tid.offset, vector.len());
                let what = format!("row ({block},{offset}) of the table has {found} dimensions");
                self.check.report.add(None, what);
                return Ok(());
            }
            batch.tids.push(tid);
            batch.vectors.extend_from_slice(vector);
            batch.filters.extend_from_slice(filters);
            if batch.vectors.len() >= BATCH_ELEMENTS {
                self.compare(encoder, &mut batch)?;
            }
            Ok(())
        })?;
        Ok(self.compare(encoder, &mut batch)?)
    }

    /// Compares a batch of rows with what the index has of them, and empties it.
    fn compare(&mut self, encoder: RowEncoder<'_>, batch: &mut RowBatch) -> Result<(), Error> {
        self.store.check_interrupts()?;
        let encoded = encoder.encode(&batch.vectors);
        for (i, &tid) in batch.tids.iter().enumerate() {
            self.check.report.compared += 1;
            let vector = i * self.meta.dim..(i + 1) * self.meta.dim;
            let vector = batch.vectors.get(vector).unwrap_or_default();
            let (meta, model) = (self.meta, encoder.model());
            let width = meta.filters.row_bytes();
            let filters = batch.filters.get(i * width..(i + 1) * width);
            let filters = filters.unwrap_or_default();
            let first = Row::of(&meta, &encoded, i, tid);
            let first = first.map(|row| row.with_filters(filters));
            let list = self.compare_entry(vector, (tid, first), (model, None))?;
            let list = list.or(first.map(|first| first.list));
            let second = Row::second_entry(&meta, &encoded, i, tid);
            let second = second.map(|row| row.with_filters(filters));
            // A row without any entry is one problem, and one that has not moved yet has one entry.
            let is_missing = |tid| self.check.find(tid).is_none();
            let is_unmoved = list == Some(meta.exact_list()) && self.may_be_unmoved();
            let is_moving = meta.has_rows_to_move() && is_missing(tid.second());
            if first.is_some() && (is_unmoved || is_moving) {
                continue;
            }
            if first.is_none() || !is_missing(tid) || !is_missing(tid.second()) {
                self.compare_entry(vector, (tid.second(), second), (model, list))?;
            }
        }
        batch.tids.clear();
        batch.vectors.clear();
        batch.filters.clear();
        Ok(())
    }

    /// Compares an entry of a row with that of the index. `first` is the list of the first entry if this is the second one. Returns
    /// the list of the entry in the index.
    fn compare_entry(
        &mut self,
        vector: &[f32],
        (tid, wanted): (Tid, Option<Row<'_>>),
        (model, first): (Option<&Model>, Option<u32>),
    ) -> Result<Option<u32>, Error> {
        let (mut subject, mut list, found) = ("row", None, self.check.find(tid));
        let what = match (wanted, &found, tid.is_second()) {
            (None, None, _) => None,
            (None, Some(_), false) => Some(NOT_TO_INDEX),
            (None, Some(_), true) => {
                Some("has a second entry in the index, where it must have one entry")
            }
            (Some(_), None, false) => Some("is not in the index"),
            (Some(_), None, true) => Some("has no second entry in the index"),
            (Some(row), Some(found), is_second) => {
                if is_second {
                    subject = "second entry of row";
                }
                let compared = self.difference(vector, (&row, model, first), found);
                let compared = record_problem(&mut self.check.report, compared)?;
                list = compared.as_ref().and_then(|(list, _)| *list);
                compared.and_then(|(_, what)| what)
            }
        };
        if let Some(what) = what {
            let Tid { block, offset } = tid.row();
            let what = format!("{subject} ({block},{offset}) of the table {what}");
            let block = found.map(|found| found.place().0);
            self.check.report.add(block, what);
        }
        Ok(list)
    }

    /// Whether a row that has a place in a list may be in the exact list nevertheless: rows move there, or it was inserted by a
    /// statement that began before the index had a model.
    fn may_be_unmoved(&self) -> bool {
        self.meta.pages.row_moves != RowMoves::Never
    }

    /// The list of an entry of the index, `None` if the entry was removed meanwhile, and how it differs from what it must be.
    fn difference(
        &mut self,
        vector: &[f32],
        (row, model, first): (&Row<'_>, Option<&Model>, Option<u32>),
        found: &TidLocation,
    ) -> Result<(Option<u32>, Option<&'static str>), Error> {
        let meta = &self.meta;
        let Some(indexed) = self.check.read_row(*found)? else {
            return Ok((None, Some("is not in the index any more")));
        };
        let list = Some(indexed.list);
        if meta.filters.gather(&meta.pages.format, &indexed.columns) != row.filters {
            return Ok((list, Some("has wrong values of filter columns")));
        }
        if indexed.list == meta.exact_list() && (row.list == indexed.list || self.may_be_unmoved())
        {
            return Ok((list, None));
        }
        let column = |id| {
            let position = meta.pages.format.position(id);
            let column = position.and_then(|position| indexed.columns.get(position));
            column.map(Vec::as_slice).unwrap_or_default()
        };
        let stored = StoredRow {
            list: indexed.list,
            codes: column(CODES),
            correction_code: column(CORRECTION).first().copied().unwrap_or(0),
            norm: column(NORM)
                .first_chunk()
                .map_or(0.0, |norm| f32::from_le_bytes(*norm)),
            refine: column(REFINE),
        };
        let wanted = StoredRow {
            list: row.list,
            codes: row.codes,
            correction_code: row.scale,
            norm: if meta.shape.has_norm { row.norm } else { 0.0 },
            refine: row.refine,
        };
        if stored == wanted && first != list {
            return Ok((list, None));
        }
        // What fits a list ends where hardly any row is: no room is left for roundings there.
        let what = match (model, first) {
            _ if [row.list, stored.list].contains(&meta.exact_list()) => {
                Some("is in the wrong list")
            }
            (None, _) => Some("is in the wrong list"),
            (Some(model), None) => model.check_encoding(vector, &stored, &wanted),
            (Some(model), Some(first)) => {
                model.check_second_encoding(vector, &stored, &wanted, first)
            }
        };
        Ok((list, what))
    }
}

const NOT_TO_INDEX: &str = "is in the index, where rows of its kind have no place";

/// Rows to be compared.
#[derive(Default)]
struct RowBatch {
    tids: Vec<Tid>,
    /// Elements, row-major.
    vectors: Vec<f32>,
    /// Values of the filter columns of each row.
    filters: Vec<u8>,
}
