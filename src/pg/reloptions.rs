//! The server's side of index options: their registration, the struct that it keeps in `rd_options`, and a definition's text.

use crate::pg::compat::parse_element;
use crate::pg::relation::Index;
use crate::pg::text;
use pgrx::{Array, FromDatum, pg_sys};
use std::ffi::CStr;
use std::sync::OnceLock;

/// An option of an index.
pub struct OptionSpec {
    /// Its name.
    pub name: &'static CStr,
    /// Its description.
    pub about: &'static CStr,
    /// Its type and range.
    pub kind: OptionKind,
    /// Its place in [`RawOptions`].
    pub offset: usize,
    /// Whether it affects searches and VACUUM only: then changing it needs no rebuild, and no lock that holds off searches.
    pub for_scans: bool,
}

/// The type of an option's value.
pub enum OptionKind {
    /// From 0, the default, to `max`.
    Integer { max: i32 },
    /// -1 by default.
    Real { min: f64, max: f64 },
    /// None by default.
    Text,
    /// On or off.
    Boolean { default: bool },
}

/// The struct that the server keeps in `rd_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawOptions {
    vl_len_: i32,
    /// Inverted lists.
    pub lists: i32,
    /// Subquantizers of a code.
    pub subquantizers: i32,
    /// Bits per subquantizer.
    pub bits: i32,
    /// Maximum number of lists per row.
    pub assignments: i32,
    /// Lists that a search probes first.
    pub probes: i32,
    /// Offset of the model's name from the start of the struct; 0 = none.
    pub model: i32,
    /// The same for refine codes.
    pub refine: i32,
    /// Negative = none.
    pub target_recall: f64,
    /// Whether VACUUM trains an untrained index.
    pub auto_train: bool,
    pub sample_queries: bool,
}

static KIND: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// Registers options with the server; called once when the library is loaded.
pub fn register(options: &'static [OptionSpec]) {
    // SAFETY: called by the backend's only PostgreSQL thread; all strings live forever.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        for option in options {
            let lock = if option.for_scans {
                pg_sys::ShareUpdateExclusiveLock
            } else {
                pg_sys::AccessExclusiveLock
            } as pg_sys::LOCKMODE;
            let (name, about) = (option.name.as_ptr(), option.about.as_ptr());
            match option.kind {
                OptionKind::Integer { max } => {
                    pg_sys::add_int_reloption(kind, name, about, 0, 0, max, lock);
                }
                OptionKind::Real { min, max } => {
                    pg_sys::add_real_reloption(kind, name, about, -1.0, min, max, lock);
                }
                OptionKind::Text => {
                    pg_sys::add_string_reloption(kind, name, about, std::ptr::null(), None, lock);
                }
                OptionKind::Boolean { default } => {
                    pg_sys::add_bool_reloption(kind, name, about, default, lock);
                }
            }
        }
        let _ = KIND.set(kind);
    }
}

/// The server's struct of a definition, as `amoptions` must return it.
pub fn build(
    options: &[OptionSpec],
    definition: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    let element = |option: &OptionSpec| {
        let kind = match option.kind {
            OptionKind::Integer { .. } => pg_sys::relopt_type::RELOPT_TYPE_INT,
            OptionKind::Real { .. } => pg_sys::relopt_type::RELOPT_TYPE_REAL,
            OptionKind::Text => pg_sys::relopt_type::RELOPT_TYPE_STRING,
            OptionKind::Boolean { .. } => pg_sys::relopt_type::RELOPT_TYPE_BOOL,
        };
        parse_element(option.name, kind, option.offset)
    };
    let table: Vec<_> = options.iter().map(element).collect();
    let kind = KIND
        .get()
        .copied()
        .unwrap_or(pg_sys::relopt_kind::RELOPT_KIND_LOCAL);
    let (size, count) = (size_of::<RawOptions>(), table.len() as i32);
    // SAFETY: the table describes `RawOptions`; the server copies what it needs.
    let built = unsafe {
        pg_sys::build_reloptions(definition, validate, kind, size, table.as_ptr(), count)
    };
    built.cast()
}

/// The items of a definition, each `name=value`.
pub fn definition_items(definition: pg_sys::Datum) -> Vec<String> {
    let is_null = definition.is_null();
    // SAFETY: the server passes null or a text array, whose elements are varlenas of bytes.
    let items = unsafe { Array::<&[u8]>::from_datum(definition, is_null) };
    let items = items.iter().flat_map(|items| items.iter().flatten());
    items.map(text::from_server).collect()
}

/// The options that the server keeps for an index.
pub struct StoredOptions {
    /// Numbers.
    pub raw: RawOptions,
    /// Empty = none.
    pub model: String,
    /// Empty = none.
    pub refine: String,
}

impl StoredOptions {
    /// Those of an open index; none if it has only defaults.
    pub fn of(index: Index) -> Option<Self> {
        // SAFETY: null or what our amoptions made.
        unsafe { Self::read(index.data().rd_options) }
    }

    /// Reads the server's struct.
    ///
    /// # Safety
    /// `stored` must be null or a struct that [`build`] made.
    pub unsafe fn read(stored: *const pg_sys::varlena) -> Option<Self> {
        if stored.is_null() {
            return None;
        }
        // SAFETY: as promised; the struct starts every such value, which the server allocates aligned for any type.
        let raw = unsafe { *stored.cast::<RawOptions>() };
        let string = |offset: i32| {
            // SAFETY: a non-zero offset leads to a terminated string inside the same allocation.
            let string = (offset > 0).then(|| unsafe {
                CStr::from_ptr(stored.cast::<std::ffi::c_char>().offset(offset as isize))
            });
            string.map(text::from_c).unwrap_or_default()
        };
        Some(Self {
            raw,
            model: string(raw.model),
            refine: string(raw.refine),
        })
    }
}
