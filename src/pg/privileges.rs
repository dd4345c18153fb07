//! Who may look at an index and the rows behind it.

use crate::pg::compat::ACL_SELECT;
use crate::pg::relation::{may_maintain, table_of};
use crate::pg::role::current_user;
use pgrx::pg_sys;

/// Whether the current user may read what an index takes from its table: by the right to the whole table, or to the column if
/// that is all the index has.
pub fn may_read(index: pg_sys::Oid) -> bool {
    let table = table_of(index);
    may_select(table) || plain_column(index).is_some_and(|column| may_select_column(table, column))
}

/// Whether the current user may see what an index is made of: whoever may read its column or maintain its table, and members
/// of the roles that PostgreSQL has for such figures (`pg_monitor` is one of both).
pub fn may_inspect(index: pg_sys::Oid) -> bool {
    let member = |role: u32| {
        // SAFETY: a catalog look-up.
        unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), pg_sys::Oid::from(role)) }
    };
    may_read(index)
        || may_maintain(table_of(index))
        || member(pg_sys::ROLE_PG_READ_ALL_STATS)
        || member(pg_sys::ROLE_PG_STAT_SCAN_TABLES)
}

/// Whether row-level security hides rows of a table from the current user.
pub fn rls_applies(table: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups; the current user is asked about, and no error wanted.
    let found = unsafe { pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true) };
    found == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
}

/// Whether the current user may read all columns of a table.
pub fn may_select(table: pg_sys::Oid) -> bool {
    may_select_as(table, current_user())
}

/// Whether a role may read a table, or the column of it that is given, if any.
pub fn may_select_any(table: pg_sys::Oid, column: Option<i16>, role: pg_sys::Oid) -> bool {
    may_select_as(table, role)
        || column.is_some_and(|column| may_select_column_as(table, column, role))
}

fn may_select_as(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up.
    unsafe { pg_sys::pg_class_aclcheck(table, role, ACL_SELECT) == pg_sys::AclResult::ACLCHECK_OK }
}

/// Whether the current user may read a column of a table.
pub fn may_select_column(table: pg_sys::Oid, column: i16) -> bool {
    may_select_column_as(table, column, current_user())
}

fn may_select_column_as(table: pg_sys::Oid, column: i16, role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up.
    unsafe {
        pg_sys::pg_attribute_aclcheck(table, column, role, ACL_SELECT)
            == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// The column of an index that has neither an expression nor a predicate.
fn plain_column(index: pg_sys::Oid) -> Option<i16> {
    let cache = pg_sys::SysCacheIdentifier::INDEXRELID as i32;
    // SAFETY: a catalog look-up; the row, which has at least one column's number, is read before it is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(index));
        if row.is_null() {
            return None;
        }
        let column = *(*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>())
            .indkey
            .values
            .as_ptr();
        let mut null = false;
        let predicate = pg_sys::Anum_pg_index_indpred as pg_sys::AttrNumber;
        pg_sys::SysCacheGetAttr(cache, row, predicate, &mut null);
        pg_sys::ReleaseSysCache(row);
        (column > 0 && null).then_some(column)
    }
}
