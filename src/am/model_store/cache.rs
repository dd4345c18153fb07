//! The backend's cache of decoded models.
//!
//! Searches need a fraction of a model, changes of rows its encoder alone. Each of these parts is kept by itself, and once for
//! all indexes that have the same bytes of it, as the partitions of a table have that are built with one named model.
//!
//! An index is known by its OID and the build identifier in its metapage, which every search reads anyway: a rebuilt index
//! or a changed model is noticed without any invalidation message. The bytes of one that is new are looked up by a hash whose
//! secret is this backend's, so that nobody can make a model that is taken for another one. Whoever uses a part shares it by
//! reference count, so that dropping an entry never hurts a search under way.

use crate::am::failure::with_index;
use crate::am::stage_timer::{self, Stage};
use crate::error::Result;
use crate::pg::memory::trim_malloc;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Index;
use crate::settings;
use distillvq_ivf::{Error, Meta, Model, encoder_bytes, model_bytes};
use distillvq_model::Searcher;
use pgrx::pg_sys::Oid;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem::discriminant;

/// Indexes that an entry remembers at the most.
const MAX_INDEXES: usize = 65_536;

/// A part of a model, decoded.
#[derive(Clone)]
enum CachedModel {
    Encoder(Model),
    Searcher(Searcher),
}

impl CachedModel {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Encoder(model) => model.memory_bytes(),
            Self::Searcher(searcher) => searcher.memory_bytes(),
        }
    }
}

/// What can be held.
trait Part: Clone {
    /// The bytes that it is decoded from. If the model is replaced meanwhile, `meta` is brought up to date.
    fn read(store: &RelationStore, meta: &mut Meta) -> std::result::Result<Vec<Vec<u8>>, Error>;
    fn decode(bytes: &[Vec<u8>], meta: &Meta) -> std::result::Result<Self, Error>;
    fn hold(self) -> CachedModel;
    fn of(held: &CachedModel) -> Option<&Self>;
    /// Checks that it is what the metapage tells of, which may have been damaged since it was decoded.
    fn check(&self, meta: &Meta) -> std::result::Result<(), Error>;
}

impl Part for Model {
    fn read(store: &RelationStore, meta: &mut Meta) -> std::result::Result<Vec<Vec<u8>>, Error> {
        Ok(vec![encoder_bytes(store, meta)?])
    }

    fn decode(bytes: &[Vec<u8>], meta: &Meta) -> std::result::Result<Self, Error> {
        let encoder = bytes.first().map_or(&[][..], Vec::as_slice);
        let model = Model::from_encoder(encoder)?;
        meta.check_model(&model)?;
        Ok(model)
    }

    fn hold(self) -> CachedModel {
        CachedModel::Encoder(self)
    }

    fn of(held: &CachedModel) -> Option<&Self> {
        match held {
            CachedModel::Encoder(model) => Some(model),
            CachedModel::Searcher(_) => None,
        }
    }

    fn check(&self, meta: &Meta) -> std::result::Result<(), Error> {
        meta.check_model(self)
    }
}

impl Part for Searcher {
    fn read(store: &RelationStore, meta: &mut Meta) -> std::result::Result<Vec<Vec<u8>>, Error> {
        model_bytes(store, meta).map(Vec::from)
    }

    fn decode(bytes: &[Vec<u8>], meta: &Meta) -> std::result::Result<Self, Error> {
        let part = |i: usize| bytes.get(i).map_or(&[][..], Vec::as_slice);
        let model = Model::from_parts(part(0), part(1))?;
        meta.check_model(&model)?;
        Ok(model.searcher().clone())
    }

    fn hold(self) -> CachedModel {
        CachedModel::Searcher(self)
    }

    fn of(held: &CachedModel) -> Option<&Self> {
        match held {
            CachedModel::Searcher(searcher) => Some(searcher),
            CachedModel::Encoder(_) => None,
        }
    }

    /// A search compares the shape of the codes that it reads with its own.
    fn check(&self, _meta: &Meta) -> std::result::Result<(), Error> {
        Ok(())
    }
}

struct CacheEntry {
    /// Of the bytes.
    hash: u64,
    /// The indexes that have them, each with its build identifier.
    indexes: HashMap<Oid, u64>,
    held: CachedModel,
}

thread_local! {
    /// Most recently used last.
    static ENTRIES: RefCell<Vec<CacheEntry>> = const { RefCell::new(Vec::new()) };
    static SECRET: RandomState = RandomState::new();
}

/// What encodes the rows of an index whose metapage says `meta`.
pub fn encoder(index: Index, store: &RelationStore, meta: &Meta) -> Result<Model> {
    get(index, store, meta)
}

/// What searches an index whose metapage says `meta`, or what the metapage says by now if the model is replaced meanwhile.
pub fn searcher(index: Index, store: &RelationStore, meta: &Meta) -> Result<Searcher> {
    get(index, store, meta)
}

fn get<P: Part>(index: Index, store: &RelationStore, meta: &Meta) -> Result<P> {
    let of = (index.oid(), meta.model_version());
    match find::<P>(|entry| entry.indexes.get(&of.0) == Some(&of.1)) {
        Some(found) => {
            found.check(meta).map_err(with_index(index))?;
            Ok(found)
        }
        None => stage_timer::stage(Stage::Load, || load(index, store, *meta)),
    }
}

/// As [`searcher()`], if that takes little: the session has it, or it is at most so many bytes, and then kept for the search
/// that may follow.
pub fn searcher_at_hand(
    index: Index,
    store: &RelationStore,
    meta: &Meta,
    most_bytes: f64,
) -> Option<Searcher> {
    let bytes = meta
        .pages
        .base
        .bytes
        .saturating_add(meta.pages.current.bytes) as f64;
    let kept = settings::model_cache_bytes() as f64;
    let id = (index.oid(), meta.model_version());
    let is_known = find::<Searcher>(|entry| entry.indexes.get(&id.0) == Some(&id.1)).is_some();
    (is_known || bytes <= most_bytes.min(kept))
        .then(|| searcher(index, store, meta).ok())
        .flatten()
}

/// Reads the bytes of a part, and decodes them if no other index has the same.
fn load<P: Part>(index: Index, store: &RelationStore, mut meta: Meta) -> Result<P> {
    let bytes = P::read(store, &mut meta).map_err(with_index(index))?;
    let shape = (meta.metric, meta.dim, meta.lists(), meta.shape);
    let hash = SECRET.with(|secret| secret.hash_one((shape, &bytes)));
    let held = match find(|entry| entry.hash == hash) {
        Some(shared) => shared,
        None => {
            let decoded = P::decode(&bytes, &meta).map_err(with_index(index))?;
            drop(bytes);
            // More was decoded than is kept, and many sessions do so.
            trim_malloc();
            decoded
        }
    };
    put(
        hash,
        (index.oid(), meta.model_version()),
        P::hold(held.clone()),
    );
    Ok(held)
}

/// A part that is held, which is now the last used.
fn find<P: Part>(wanted: impl Fn(&CacheEntry) -> bool) -> Option<P> {
    ENTRIES.with_borrow_mut(|entries| {
        let place = entries
            .iter()
            .position(|entry| P::of(&entry.held).is_some() && wanted(entry))?;
        let entry = entries.remove(place);
        let found = P::of(&entry.held).cloned();
        entries.push(entry);
        found
    })
}

/// Keeps a part for an index, in place of what was kept for it before, as far as `distillvq.model_cache` allows.
fn put(hash: u64, (index, build_id): (Oid, u64), held: CachedModel) {
    ENTRIES.with_borrow_mut(|entries| {
        let part = discriminant(&held);
        let same = |entry: &CacheEntry| discriminant(&entry.held) == part;
        for entry in entries.iter_mut().filter(|entry| same(entry)) {
            entry.indexes.remove(&index);
        }
        let place = entries
            .iter()
            .position(|entry| same(entry) && entry.hash == hash);
        let mut entry = match place {
            Some(place) => entries.remove(place),
            None => CacheEntry {
                hash,
                indexes: HashMap::new(),
                held,
            },
        };
        if entry.indexes.len() >= MAX_INDEXES {
            entry.indexes.clear();
        }
        entry.indexes.insert(index, build_id);
        entries.push(entry);
        entries.retain(|entry| !entry.indexes.is_empty());
        drop_the_oldest(entries, settings::model_cache_bytes());
    });
}

/// Keeps what was used last and fits together into so many bytes. What does not fit alone takes no room from others: the last
/// used of its kind is kept beside them, since a session that decodes it for each row or search would be far too slow.
fn drop_the_oldest(entries: &mut Vec<CacheEntry>, bytes: usize) {
    let mut left = bytes;
    let mut large = Vec::new();
    let mut kept: Vec<bool> = entries
        .iter()
        .rev()
        .map(|CacheEntry { held, .. }| {
            let size = held.memory_bytes();
            if size > bytes {
                let first = !large.contains(&discriminant(held));
                large.push(discriminant(held));
                return first;
            }
            let fits = size <= left;
            left = if fits { left - size } else { 0 };
            fits
        })
        .collect();
    entries.retain(|_| kept.pop().unwrap_or(false));
}
