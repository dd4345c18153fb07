//! The backend's cache of decoded models.
//!
//! The key is the index and the build identifier in its metapage, which every search reads anyway: a rebuilt index or a
//! changed model is noticed without any invalidation message. Whoever uses a model shares it by reference count, so that
//! dropping an entry never hurts a search under way. Searches keep a fraction of the model, changes of rows the whole.

use crate::error::{Error, Result, of_index};
use crate::pg::compute;
use crate::pg::relation::Index;
use crate::pg::store::RelationStore;
use crate::settings;
use crate::timing::{self, Stage};
use distillvq_ivf::{self as ivf, Meta, Model, load_model};
use distillvq_quantizer::Searcher;
use std::cell::RefCell;

/// What is kept of a model.
#[derive(Clone)]
enum Held {
    Whole(Model),
    Searcher(Searcher),
}

impl Held {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Whole(model) => model.memory_bytes(),
            Self::Searcher(searcher) => searcher.memory_bytes(),
        }
    }

    fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

struct Entry {
    index: pgrx::pg_sys::Oid,
    build_id: u64,
    held: Held,
}

thread_local! {
    /// Most recently used last.
    static MODELS: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

/// The model of an index whose metapage says `meta`, or what the metapage says by now if the model is replaced meanwhile.
pub fn model(index: Index, store: &RelationStore, meta: &Meta) -> Result<Model> {
    if let Some(Held::Whole(found)) = find(index, meta.build_id, true) {
        return Ok(found);
    }
    let (model, build_id) = load(index, store, meta)?;
    remember(index, build_id, Held::Whole(model.clone()));
    Ok(model)
}

/// As [`model()`], for a search.
pub fn searcher(index: Index, store: &RelationStore, meta: &Meta) -> Result<Searcher> {
    match find(index, meta.build_id, false) {
        Some(Held::Searcher(found)) => Ok(found),
        Some(Held::Whole(model)) => Ok(model.searcher().clone()),
        None => {
            let (searcher, build_id) = timing::stage(Stage::Load, || {
                let (model, build_id) = load(index, store, meta)?;
                Ok::<_, Error>((model.searcher().clone(), build_id))
            })?;
            // The whole model was decoded for the fraction that is kept, and many sessions do so.
            compute::return_memory();
            remember(index, build_id, Held::Searcher(searcher.clone()));
            Ok(searcher)
        }
    }
}

fn load(index: Index, store: &RelationStore, meta: &Meta) -> Result<(Model, u64)> {
    let mut meta = *meta;
    let missing = || ivf::Error::Mismatch("a trained index has no model");
    let model = load_model(store, &mut meta)
        .and_then(|model| model.ok_or_else(missing))
        .map_err(of_index(index))?;
    Ok((model, meta.build_id))
}

/// What is held of this model: the whole of it, or anything.
fn find(index: Index, build_id: u64, whole: bool) -> Option<Held> {
    MODELS.with_borrow_mut(|entries| {
        let place = entries.iter().position(|entry| {
            let same = entry.index == index.oid() && entry.build_id == build_id;
            same && (!whole || entry.held.is_whole())
        })?;
        let entry = entries.remove(place);
        let held = entry.held.clone();
        entries.push(entry);
        Some(held)
    })
}

/// Keeps a model in place of the index's older ones. The least recently used go first; what does not fit alone is not kept.
fn remember(index: Index, build_id: u64, held: Held) {
    MODELS.with_borrow_mut(|entries| {
        let index = index.oid();
        entries.retain(|entry| entry.index != index);
        entries.push(Entry {
            index,
            build_id,
            held,
        });
        let bytes = |entries: &[Entry]| -> usize {
            entries.iter().map(|entry| entry.held.memory_bytes()).sum()
        };
        while bytes(entries) > settings::model_cache_bytes() {
            entries.remove(0);
        }
    });
}
