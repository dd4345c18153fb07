//! Names of relations.

use crate::error::{Error, Result};
use crate::pg::text;
use pgrx::pg_sys;
use std::ffi::CStr;

/// The schema-qualified, quoted name of a relation.
pub fn quoted_relation(oid: pg_sys::Oid) -> Result<String> {
    // SAFETY: catalog look-ups; null names are handled.
    let (schema, name) = unsafe {
        (
            owned(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid))),
            relation_name(oid),
        )
    };
    match (schema, name) {
        (Some(schema), Some(name)) => Ok(pgrx::spi::quote_qualified_identifier(schema, name)),
        _ => Err(Error::NoRelation(oid.to_u32())),
    }
}

/// The bare name of a relation, if it exists.
pub fn relation_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: a catalog look-up; null means none.
    unsafe { owned(pg_sys::get_rel_name(oid)) }
}

/// Copies and frees a palloc'd C string.
///
/// # Safety
/// `text` must be null or a palloc'd, terminated string.
pub unsafe fn owned(text: *mut std::ffi::c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: as promised.
    unsafe {
        let copy = text::from_c(CStr::from_ptr(text));
        pg_sys::pfree(text.cast());
        Some(copy)
    }
}

/// The bare name of an open relation.
pub fn name_of_open(relation: &pg_sys::RelationData) -> String {
    // SAFETY: an open relation has a catalog row with a terminated name.
    unsafe { text::from_c(CStr::from_ptr((*relation.rd_rel).relname.data.as_ptr())) }
}
