//! The backend's cache of decoded models.
//!
//! The key is the index and the build identifier in its metapage, which every search reads anyway: a rebuilt index or a
//! changed model is noticed without any invalidation message. Searches hold their model by reference count, so that
//! dropping an entry never hurts one under way.

use crate::error::{Result, of_index};
use crate::pg::relation::Index;
use crate::pg::store::RelationStore;
use distillvq_ivf::{self as ivf, Meta, Model, load_model};
use std::cell::RefCell;
use std::sync::Arc;

/// Decoded models that a backend keeps; the least recently used go first, the newest always stays.
const MOST_BYTES: usize = 64 << 20;

struct Entry {
    index: pgrx::pg_sys::Oid,
    build_id: u64,
    model: Arc<Model>,
}

thread_local! {
    /// Most recently used last.
    static MODELS: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

/// The model of an index whose metapage says `meta`, or what the metapage says by now if the model is replaced meanwhile.
pub fn model(index: Index, store: &RelationStore, meta: &Meta) -> Result<Arc<Model>> {
    if let Some(found) = find(index, meta.build_id) {
        return Ok(found);
    }
    let (pages, mut meta) = (of_index(index), *meta);
    let missing = || ivf::Error::Mismatch("a trained index has no model");
    let model = load_model(store, &mut meta)
        .and_then(|model| model.ok_or_else(missing))
        .map_err(pages)?;
    let model = Arc::new(model);
    remember(Entry {
        index: index.oid(),
        build_id: meta.build_id,
        model: model.clone(),
    });
    Ok(model)
}

fn find(index: Index, build_id: u64) -> Option<Arc<Model>> {
    MODELS.with_borrow_mut(|entries| {
        let place = entries
            .iter()
            .position(|entry| entry.index == index.oid() && entry.build_id == build_id)?;
        let entry = entries.remove(place);
        let model = entry.model.clone();
        entries.push(entry);
        Some(model)
    })
}

fn remember(new: Entry) {
    MODELS.with_borrow_mut(|entries| {
        entries.retain(|entry| entry.index != new.index);
        entries.push(new);
        let bytes = |entries: &[Entry]| {
            entries
                .iter()
                .map(|entry| entry.model.memory_bytes())
                .sum::<usize>()
        };
        while entries.len() > 1 && bytes(entries) > MOST_BYTES {
            entries.remove(0);
        }
    });
}
