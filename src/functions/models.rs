//! SQL functions of models: export, import, drop, and the type of their owners.

use crate::am::model_store::catalog;
use crate::error::{Error, Result};
use crate::pg::report::or_raise;
use crate::pg::role::{role_name, role_named};
use crate::pg::text;
use pgrx::pg_sys::Oid;
use std::ffi::{CStr, CString};

/// The name that a caller has given.
fn name_of_model(name: Option<&[u8]>) -> Result<String> {
    name.map(text::from_server).ok_or(Error::Null("name"))
}

/// The bytes of a model, for another database.
pub fn distillvq_export_model(name: Option<&[u8]>) -> Vec<u8> {
    let name = or_raise(name_of_model(name));
    or_raise(catalog::export(&name))
}

/// Stores a model that was exported, under a name.
pub fn distillvq_import_model(name: Option<&[u8]>, body: Option<&[u8]>, replace: Option<bool>) {
    let name = or_raise(name_of_model(name));
    let body = or_raise(body.ok_or(Error::Null("body")));
    or_raise(catalog::import(&name, body, replace.unwrap_or(false)));
}

/// Forgets a model. Indexes keep the copies in their pages, but need it by name to be rebuilt.
pub fn distillvq_drop_model(name: Option<&[u8]>, force: Option<bool>) {
    let name = or_raise(name_of_model(name));
    or_raise(catalog::delete(&name, force.unwrap_or(false)));
}

/// The input function of `distillvq.model_owner`: a role by its name. A name that no role has is nobody's, so that a dump can
/// be restored where its roles are not.
pub fn distillvq_model_owner_in(name: &CStr) -> i32 {
    // As four bytes: pgrx would make NULL of an invalid Oid.
    role_named(name).to_u32().cast_signed()
}

/// The output function of `distillvq.model_owner`: the role's name, nothing if there is no such role any more.
pub fn distillvq_model_owner_out(role: Oid) -> CString {
    role_name(role).unwrap_or_default()
}
