//! Roles: the current one, their names, and work done as another one.

use crate::error::{Error, Result};
use crate::pg::compat::MAINTENANCE_IN_PG_CATALOG;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// The current user.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: a look at the session's state.
    unsafe { pg_sys::GetUserId() }
}

/// The rights of another user and, if it is `safe`, a search path that nobody else can write to, until dropped; after an error
/// the abort restores both.
struct UserGuard {
    user: pg_sys::Oid,
    context: i32,
    settings: i32,
}

impl UserGuard {
    fn new(owner: pg_sys::Oid, safe: bool) -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        let flags =
            (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
        // SAFETY: plain reads and writes of the backend's own state; the strings live forever.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(owner, context | flags);
            let settings = pg_sys::NewGUCNestLevel();
            if safe {
                pg_sys::set_config_option(
                    c"search_path".as_ptr(),
                    c"pg_catalog, pg_temp".as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Self {
                user,
                context,
                settings,
            }
        }
    }
}

impl Drop for UserGuard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: what `new` found.
            unsafe {
                pg_sys::AtEOXact_GUC(false, self.settings);
                pg_sys::SetUserIdAndSecContext(self.user, self.context);
            }
        }
    }
}

/// Runs `work`, which runs functions of an index's definition, with the rights of a role, as REINDEX does: from PostgreSQL 17 on
/// names are looked up in `pg_catalog` alone.
pub fn as_role<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let _guard = UserGuard::new(role, MAINTENANCE_IN_PG_CATALOG);
    work()
}

/// Runs `work` with the rights of the owner of the extension's table, names being looked up in `pg_catalog` alone. Only
/// for fixed statements.
pub fn as_extension_owner<T>(work: impl FnOnce() -> T) -> Result<T> {
    // SAFETY: catalog look-ups; the row is read before it is released.
    let owner = unsafe {
        let schema = pg_sys::get_namespace_oid(c"distillvq".as_ptr(), false);
        let table = pg_sys::get_relname_relid(c"model".as_ptr(), schema);
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(table),
        );
        if row.is_null() {
            return Err(Error::NoModelTable);
        }
        let owner = (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(row);
        owner
    };
    let _guard = UserGuard::new(owner, true);
    Ok(work())
}

/// The role of a name, which is in the database's encoding; invalid if there is none.
pub fn role_named(name: &CStr) -> pg_sys::Oid {
    // SAFETY: a catalog look-up.
    unsafe { pg_sys::get_role_oid(name.as_ptr(), true) }
}

/// The name of a role in whatever encoding it was given, if the role exists.
pub fn role_name(role: pg_sys::Oid) -> Option<CString> {
    // SAFETY: a catalog look-up; null means none, and the name is copied.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_owned())
    }
}

/// The same, quoted as an identifier if need be.
pub fn quoted_role(role: pg_sys::Oid) -> Option<CString> {
    let name = role_name(role)?;
    // SAFETY: a C string, and the answer is one that lives in the current memory context, or the argument itself.
    Some(unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) }.to_owned())
}
