//! Creating an index: the columns and the blobs of a model, and the empty copy of an index.

use crate::calibration::Training;
use crate::error::Error;
use crate::filter::FilterFormat;
use crate::index_meta::{Meta, UNTRAINED};
use crate::model_pages::model_bytes;
use crate::pq::{Row, row_format};
use crate::{Metric, Model, PageStore};
use distillvq_model::{MAX_DIM, refine_bytes};
use distillvq_pages::{self as pages, Contents, Metapage, RowFormat};

/// What an index is created with.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions<'a> {
    /// The metric.
    pub metric: Metric,
    /// Dimensions of a vector.
    pub dim: usize,
    /// The model; `None` makes an untrained index, in which all rows go to the exact list.
    pub model: Option<&'a Model>,
    /// Whether rows in lists get refine codes.
    pub refine: bool,
    /// The filter columns.
    pub filters: FilterFormat,
    /// A random number that marks this model, see [`Meta::model_version`].
    pub model_version: u64,
}

/// A build under way. It must be the only writer. Until [`Builder::finish`] the index is incomplete and refused by readers.
pub struct Builder<'a, S: PageStore> {
    pages: pages::Builder<'a, S>,
    meta: Meta,
}

impl<'a, S: PageStore> Builder<'a, S> {
    /// Begins an index in an empty store: metapage, model and directory pages.
    pub fn create(store: &'a S, create: CreateOptions<'_>) -> Result<Self, Error> {
        if create.dim == 0 || create.dim > MAX_DIM {
            return Err(Error::mismatch("impossible dimension"));
        }
        if let Some(model) = create.model {
            check_kind(model, create.metric, create.dim)?;
        }
        let refine = create.refine && create.model.is_some();
        let shape = create.model.map_or(UNTRAINED, Model::shape);
        let format = match create.model {
            Some(model) => model_format(model, &create.filters, refine)?,
            None => {
                let format = RowFormat::new(&create.filters.columns());
                format.ok_or(Error::mismatch("the filter columns do not fit a page"))?
            }
        };
        let parts = match create.model {
            Some(model) => [model.encoder_bytes()?, model.student_bytes()?],
            None => Default::default(),
        };
        let meta = Meta {
            pages: Metapage {
                format,
                blob_version: create.model_version,
                ..Metapage::default()
            },
            metric: create.metric,
            dim: create.dim,
            shape,
            refine,
            filters: create.filters,
            assignments: create.model.map_or(1, |model| model.assignments() as u8),
            training: Training::default(),
            calibration: None,
        };
        let lists = create.model.map_or(0, |model| model.lists() as u32);
        Builder::begin(store, meta, lists, &parts)
    }

    /// Writes the pages before the first posting page. Of the pages in `meta` only columns and blob version count.
    fn begin(
        store: &'a S,
        mut meta: Meta,
        lists: u32,
        parts: &[Vec<u8>; 2],
    ) -> Result<Self, Error> {
        let contents = Contents {
            format: meta.pages.format,
            lists,
            blobs: parts.each_ref().map(Vec::as_slice),
            blob_version: meta.pages.blob_version,
            body: &meta.body(),
        };
        let pages = pages::Builder::create(store, contents)?;
        meta.pages = *pages.metapage();
        Ok(Builder { pages, meta })
    }

    /// The future contents of the metapage.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        self.pages.rows()
    }

    /// Adds a run of rows, sorted by list. Later runs continue where the lists' last pages ended.
    pub fn append<'r>(&mut self, rows: impl IntoIterator<Item = Row<'r>>) -> Result<(), Error> {
        let (format, exact_list) = (self.meta.pages.format, self.meta.exact_list());
        let mut refused = Ok(());
        let rows = rows.into_iter().map_while(|row| {
            refused = row.check_refine(&format, exact_list);
            refused.is_ok().then(|| row.to_columns(&format))
        });
        self.pages.append(rows)?;
        Ok(refused?)
    }

    /// Writes the directory, then marks the index complete. Returns the metapage.
    pub fn finish(self) -> Result<Meta, Error> {
        let pages = self.pages.finish()?;
        Ok(Meta { pages, ..self.meta })
    }
}

/// Checks that a model is for vectors of this kind.
pub(crate) fn check_kind(model: &Model, metric: Metric, dim: usize) -> Result<(), Error> {
    if model.metric() == metric && model.dim() == dim {
        Ok(())
    } else {
        let what = "the model is for another metric or dimension";
        Err(Error::mismatch(what))
    }
}

/// The columns of rows with the codes of a model and filter columns, with or without refine codes.
pub(crate) fn model_format(
    model: &Model,
    filters: &FilterFormat,
    refine: bool,
) -> Result<RowFormat, Error> {
    let refine = if refine { refine_bytes(model.dim()) } else { 0 };
    let format = row_format(model.shape(), filters, refine);
    format.ok_or(Error::mismatch("the model's codes do not fit a page"))
}

/// Inserts a row into its list. Safe under concurrency with everything else.
pub fn insert<S: PageStore>(store: &S, meta: &Meta, row: Row<'_>) -> Result<(), Error> {
    row.check_refine(&meta.pages.format, meta.exact_list())?;
    Ok(pages::insert(
        store,
        &meta.pages,
        row.to_columns(&meta.pages.format),
    )?)
}

/// Copies metapage and model of `from` into the empty store `to`, with an empty directory: the same index without rows.
pub fn copy_without_rows<S: PageStore, T: PageStore>(from: &S, to: &T) -> Result<Meta, Error> {
    let mut meta = Meta::read(from)?;
    let parts = if meta.has_model() {
        model_bytes(from, &mut meta)?
    } else {
        Default::default()
    };
    let lists = meta.lists();
    Builder::begin(to, meta, lists, &parts)?.finish()
}
