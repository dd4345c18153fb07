//! A model for an index that was built without one: the rows of the exact list move into lists
//! ([`distillvq_pages::add_lists`] has the protocol).

use crate::calibration::Training;
use crate::create::{check_kind, model_format};
use crate::error::Error;
use crate::index_meta::Meta;
use crate::pq::Row;
use crate::{Model, PageStore};
use distillvq_pages::{self as pages, ExactPages, MovedPage, NewLists, RowMoves};

/// What an untrained index gets.
#[derive(Clone, Copy, Debug)]
pub struct NewModel<'a> {
    /// The model.
    pub model: &'a Model,
    /// Whether rows in lists get refine codes.
    pub refine: bool,
    /// Rows that the index has.
    pub rows: u64,
    /// How the model came to be.
    pub training: Training,
    /// A random number that marks this model, see [`Meta::model_version`].
    pub model_version: u64,
}

/// Gives an untrained index a model. Its rows stay in the exact list until they are moved ([`move_rows`]). At most one attempt may
/// be under way, and no vacuum meanwhile; everything else may go on. Returns the new metapage.
pub fn add_model<S: PageStore>(store: &S, new: &NewModel<'_>) -> Result<Meta, Error> {
    let NewModel { model, refine, .. } = *new;
    let meta = Meta::read(store)?;
    check_kind(model, meta.metric, meta.dim)?;
    let format = model_format(model, &meta.filters, refine)?;
    let parts = [model.encoder_bytes()?, model.student_bytes()?];
    let body = Meta {
        assignments: model.assignments() as u8,
        training: new.training,
        calibration: None,
        ..meta
    }
    .body();
    let lists = NewLists {
        format,
        lists: model.lists() as u32,
        blobs: parts.each_ref().map(Vec::as_slice),
        blob_version: new.model_version,
        rows: new.rows,
        body: &body,
    };
    pages::add_lists(store, &lists)?;
    Meta::read(store)
}

/// The pages of the exact list whose rows may have a place in a list.
pub fn exact_pages<'a, S: PageStore>(store: &'a S, meta: &'a Meta) -> ExactPages<'a, S> {
    ExactPages::new(store, &meta.pages)
}

/// Moves rows from pages of the exact list into lists: all entries of each row, sorted by list. Entries of the exact list are left
/// out: such rows stay.
pub fn move_rows<'r, S: PageStore>(
    store: &S,
    meta: &Meta,
    entries: impl IntoIterator<Item = Row<'r>>,
    pages: &[MovedPage],
) -> Result<(), Error> {
    let (format, exact_list) = (meta.pages.format, meta.exact_list());
    let mut refused = Ok(());
    let in_lists = entries.into_iter().filter(|row| row.list != exact_list);
    let entries = in_lists.map_while(|row| {
        refused = row.check_refine(&format, exact_list);
        refused.is_ok().then(|| row.to_columns(&format))
    });
    pages::move_rows(store, &meta.pages, entries, pages)?;
    Ok(refused?)
}

/// Ends an attempt that came to the end of the exact list, `is_finished` if no row may be in a list and the exact list at once.
pub fn finish_moves<S: PageStore>(store: &S, is_finished: bool) -> Result<Meta, Error> {
    pages::finish_moves(store, is_finished)?;
    Meta::read(store)
}

impl Meta {
    /// Whether the index was built without a model, and got one later.
    pub fn got_lists_later(&self) -> bool {
        self.pages.row_moves != RowMoves::Never
    }

    /// Whether rows of the exact list may have a place in a list.
    pub fn has_rows_to_move(&self) -> bool {
        self.pages.row_moves == RowMoves::Unfinished
    }
}
