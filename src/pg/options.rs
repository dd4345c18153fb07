//! The options of an index, `CREATE INDEX … WITH (…)`.
//!
//! PostgreSQL keeps them as the text array `name=value`; [`parse`] checks them first, so that errors name the value and
//! say what to do, and then lets the server build its struct.

use crate::error::{Error, Result};
use crate::pg::compat::parse_element;
use crate::pg::target::RANGE;
use crate::pg::text;
use distillvq_quantizer::{MAX_LISTS, max_subquantizers};
use pgrx::{Array, FromDatum, pg_sys};
use std::ffi::CStr;
use std::sync::OnceLock;

/// The options of an index, as its definition gives them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Number of inverted lists; 0 = automatic.
    pub lists: usize,
    /// Number of subquantizers; 0 = automatic.
    pub subquantizers: usize,
    /// Bits of a subquantizer's code, 4 or 8; 0 = automatic.
    pub bits: usize,
    /// Lists that a search probes first; 0 = automatic.
    pub probes: usize,
    /// Recall that searches aim at; none = as the setting says.
    pub target_recall: Option<f64>,
    /// Name of the trained model to build with; none trains at build.
    pub model: Option<String>,
    /// Whether the index keeps refine codes; none = where vectors are too long to lie in the table's own pages.
    pub refine: Option<bool>,
}

/// Names of all options, for hints.
pub const NAMES: [&str; 7] = [
    "lists",
    "subquantizers",
    "bits",
    "probes",
    "target_recall",
    "model",
    "refine",
];

/// The values of `refine`, and what they mean.
const REFINE: [(&str, Option<bool>); 3] =
    [("auto", None), ("none", Some(false)), ("sq7", Some(true))];

/// An integer option: its name, what it is for, its largest value, and whether changing it needs no rebuild.
struct Integer {
    name: &'static str,
    c_name: &'static CStr,
    about: &'static CStr,
    most: i32,
    offset: usize,
    for_scans: bool,
}

/// The struct that the server keeps in `rd_options`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    vl_len_: i32,
    lists: i32,
    subquantizers: i32,
    bits: i32,
    probes: i32,
    /// Offset of the model's name from the start of the struct; 0 = none.
    model: i32,
    /// The same for refine codes.
    refine: i32,
    /// Negative = none.
    target_recall: f64,
}

const INTEGERS: [Integer; 4] = [
    Integer {
        name: "lists",
        c_name: c"lists",
        about: c"Number of inverted lists (0 = automatic)",
        most: MAX_LISTS as i32,
        offset: std::mem::offset_of!(Raw, lists),
        for_scans: false,
    },
    Integer {
        name: "subquantizers",
        c_name: c"subquantizers",
        about: c"Number of subquantizers, each giving 4 or 8 bits of a row's code (0 = automatic)",
        most: max_subquantizers(4) as i32,
        offset: std::mem::offset_of!(Raw, subquantizers),
        for_scans: false,
    },
    Integer {
        name: "bits",
        c_name: c"bits",
        about: c"Bits a subquantizer: 4 or 8 (0 = automatic)",
        most: 8,
        offset: std::mem::offset_of!(Raw, bits),
        for_scans: false,
    },
    Integer {
        name: "probes",
        c_name: c"probes",
        about: c"Number of inverted lists that a search probes first (0 = automatic)",
        most: MAX_LISTS as i32,
        offset: std::mem::offset_of!(Raw, probes),
        for_scans: true,
    },
];

static KIND: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// Registers the options with the server; called once when the library is loaded.
pub fn register() {
    // SAFETY: called by the backend's only PostgreSQL thread; all strings live forever.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        for option in &INTEGERS {
            let lock = if option.for_scans {
                pg_sys::ShareUpdateExclusiveLock
            } else {
                pg_sys::AccessExclusiveLock
            };
            let (name, about) = (option.c_name.as_ptr(), option.about.as_ptr());
            pg_sys::add_int_reloption(
                kind,
                name,
                about,
                0,
                0,
                option.most,
                lock as pg_sys::LOCKMODE,
            );
        }
        pg_sys::add_real_reloption(
            kind,
            c"target_recall".as_ptr(),
            c"Recall that searches aim at by default".as_ptr(),
            -1.0,
            *RANGE.start(),
            *RANGE.end(),
            pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE,
        );
        let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        let about = c"Name of the trained model to build with (none = train at build)".as_ptr();
        pg_sys::add_string_reloption(kind, c"model".as_ptr(), about, std::ptr::null(), None, lock);
        let about = c"Codes to rank rows by before they are compared: none, sq7 (auto = sq7 where vectors are long)".as_ptr();
        pg_sys::add_string_reloption(
            kind,
            c"refine".as_ptr(),
            about,
            std::ptr::null(),
            None,
            lock,
        );
        let _ = KIND.set(kind);
    }
}

/// Checks the definition's options and gives the server's struct, as `amoptions` must.
pub fn parse(definition: pg_sys::Datum, validate: bool) -> Result<*mut pg_sys::bytea> {
    if validate {
        check(definition)?;
    }
    let integer = |option: &Integer| {
        parse_element(
            option.c_name,
            pg_sys::relopt_type::RELOPT_TYPE_INT,
            option.offset,
        )
    };
    let mut table: Vec<_> = INTEGERS.iter().map(integer).collect();
    let string = pg_sys::relopt_type::RELOPT_TYPE_STRING;
    for (name, offset) in [
        (c"model", std::mem::offset_of!(Raw, model)),
        (c"refine", std::mem::offset_of!(Raw, refine)),
    ] {
        table.push(parse_element(name, string, offset));
    }
    let real = pg_sys::relopt_type::RELOPT_TYPE_REAL;
    let offset = std::mem::offset_of!(Raw, target_recall);
    table.push(parse_element(c"target_recall", real, offset));
    let kind = KIND
        .get()
        .copied()
        .unwrap_or(pg_sys::relopt_kind::RELOPT_KIND_LOCAL);
    let (size, count) = (std::mem::size_of::<Raw>(), table.len() as i32);
    // SAFETY: the table describes `Raw`; the server copies what it needs.
    let built = unsafe {
        pg_sys::build_reloptions(definition, validate, kind, size, table.as_ptr(), count)
    };
    Ok(built.cast())
}

/// Refuses unknown names and values out of range, with our own words.
fn check(definition: pg_sys::Datum) -> Result<()> {
    let is_null = definition.is_null();
    // SAFETY: the server passes null or a text array, whose elements are varlenas of bytes.
    let Some(items) = (unsafe { Array::<&[u8]>::from_datum(definition, is_null) }) else {
        return Ok(());
    };
    items.iter().flatten().try_for_each(|item| {
        let item = text::from_server(item);
        let (name, value) = item.split_once('=').unwrap_or((&item, "true"));
        check_one(name, value)
    })
}

fn check_one(name: &str, value: &str) -> Result<()> {
    if name == "model" {
        return Ok(());
    }
    if name == "refine" {
        let known = REFINE.iter().any(|(known, _)| *known == value);
        return if known {
            Ok(())
        } else {
            Err(Error::Refine(value.to_owned()))
        };
    }
    if name == "target_recall" {
        let number = value.trim().parse::<f64>();
        return match number {
            Ok(number) if RANGE.contains(&number) => Ok(()),
            _ => Err(Error::TargetRange(value.to_owned())),
        };
    }
    let known = INTEGERS.iter().find(|option| option.name == name);
    let option = known.ok_or_else(|| Error::UnknownOption(name.to_owned()))?;
    let out_of_range = || Error::OptionRange {
        name: option.name,
        value: value.to_owned(),
        min: 0,
        max: i64::from(option.most),
    };
    let number: i64 = value.trim().parse().map_err(|_| out_of_range())?;
    if !(0..=i64::from(option.most)).contains(&number) {
        return Err(out_of_range());
    }
    if name == "bits" && ![0, 4, 8].contains(&number) {
        return Err(Error::Bits(number));
    }
    Ok(())
}

impl Options {
    /// Reads the server's struct.
    ///
    /// # Safety
    /// `raw` must be null or a struct that [`parse`] made.
    pub unsafe fn from_raw(raw: *const pg_sys::varlena) -> Self {
        if raw.is_null() {
            return Self::default();
        }
        // SAFETY: as promised; the struct starts every such value, which the server allocates aligned for any type.
        let fixed = unsafe { *raw.cast::<Raw>() };
        let count = |value: i32| usize::try_from(value).unwrap_or(0);
        let string = |offset: i32| {
            // SAFETY: a non-zero offset leads to a terminated string inside the same allocation.
            let string = (offset > 0).then(|| unsafe {
                CStr::from_ptr(raw.cast::<std::ffi::c_char>().offset(offset as isize))
            });
            string.map(text::from_c)
        };
        let refine = string(fixed.refine).unwrap_or_default();
        Self {
            lists: count(fixed.lists),
            subquantizers: count(fixed.subquantizers),
            bits: count(fixed.bits),
            probes: count(fixed.probes),
            target_recall: Some(fixed.target_recall).filter(|target| RANGE.contains(target)),
            model: string(fixed.model).filter(|name| !name.is_empty()),
            refine: REFINE
                .iter()
                .find_map(|(name, meaning)| meaning.filter(|_| *name == refine)),
        }
    }
}
