//! pgvector's types, told from others by what they are: base types of these names that belong to the extension `vector`,
//! wherever it is installed. Anybody may create types of these names; only a superuser creates base types.

use crate::pg::text;
use pgrx::{pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_int};

/// The element type of the indexed vectors, both pgvector's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// `vector`: 32-bit floats.
    Single,
    /// `halfvec`: 16-bit floats.
    Half,
}

impl ElementType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Single => 4,
            Self::Half => 2,
        }
    }

    /// The name of its type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "vector",
            Self::Half => "halfvec",
        }
    }

    /// The element type of a type, if it is one of pgvector's, or a domain over one.
    pub fn of_type(oid: pg_sys::Oid) -> Option<Self> {
        element_of(oid)
    }
}

thread_local! {
    /// What was found out about types since a type was last changed.
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Option<ElementType>>> = RefCell::new(HashMap::new());
    /// Changes of types that this session was told of; none before it asked to be told.
    static CHANGES: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The element type of a type, if it is one of pgvector's, or a domain over one.
fn element_of(oid: pg_sys::Oid) -> Option<ElementType> {
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&oid).copied()) {
        return known;
    }
    watch();
    let before = CHANGES.get();
    let found = look_up(oid);
    if CHANGES.get() == before {
        KNOWN.with_borrow_mut(|known| known.insert(oid, found));
    }
    found
}

/// Asks the server, once, to be told when a type is made, changed, or dropped.
fn watch() {
    #[pg_guard]
    unsafe extern "C-unwind" fn forget(
        _argument: pg_sys::Datum,
        _cache: c_int,
        _hash: pg_sys::uint32,
    ) {
        CHANGES.set(CHANGES.get().map(|count| count.wrapping_add(1)));
        KNOWN.with_borrow_mut(HashMap::clear);
    }
    if CHANGES.get().is_none() {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        // SAFETY: the callback is part of this library, which stays loaded.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(forget), pg_sys::Datum::null());
        }
        CHANGES.set(Some(0));
    }
}

fn look_up(oid: pg_sys::Oid) -> Option<ElementType> {
    let (base, _) = base_type(oid, -1);
    let row = Row::read(base).filter(|row| row.kind == pg_sys::TYPTYPE_BASE)?;
    let element = row.element()?;
    // SAFETY: catalog look-ups.
    let owned = unsafe {
        let extension = pg_sys::get_extension_oid(c"vector".as_ptr(), true);
        extension != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::TypeRelationId, base) == extension
    };
    owned.then_some(element)
}

/// What `pg_type` says about a type.
struct Row {
    name: String,
    schema: pg_sys::Oid,
    kind: u8,
}

impl Row {
    fn read(oid: pg_sys::Oid) -> Option<Self> {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        // SAFETY: a catalog look-up; the row is copied before it is released.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
            if tuple.is_null() {
                return None;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
            let found = Self {
                name: text::from_c(CStr::from_ptr(row.typname.data.as_ptr())),
                schema: row.typnamespace,
                kind: row.typtype as u8,
            };
            pg_sys::ReleaseSysCache(tuple);
            Some(found)
        }
    }

    /// The element type that pgvector's type of this name has.
    fn element(&self) -> Option<ElementType> {
        [ElementType::Single, ElementType::Half]
            .into_iter()
            .find(|element| element.name() == self.name)
    }
}

/// The type that values of a type are of, which is another one for a domain, with the type modifier.
pub fn base_type(oid: pg_sys::Oid, mut modifier: i32) -> (pg_sys::Oid, i32) {
    // SAFETY: catalog look-ups of a type that exists.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(oid, &mut modifier) };
    (base, modifier)
}

/// The name of a type in SQL, for messages; a domain's base type's. With its schema, if it is one of pgvector's names.
pub fn type_name(oid: pg_sys::Oid) -> String {
    let (base, _) = base_type(oid, -1);
    let Some(row) = Row::read(base) else {
        return String::new();
    };
    if row.element().is_none() {
        // SAFETY: the name of a type that exists, which is never null.
        return unsafe { text::from_c(CStr::from_ptr(pg_sys::format_type_be(base))) };
    }
    // SAFETY: a catalog look-up; null means that there is no such schema any more.
    let schema = unsafe {
        let schema = pg_sys::get_namespace_name(row.schema);
        (!schema.is_null()).then(|| text::from_c(CStr::from_ptr(schema)))
    };
    format!("{}.{}", schema.unwrap_or_default(), row.name)
}
