//! Queries, as the caller and, for the extension's own table, as its owner.

use crate::error::{Error, Result};
use crate::pg::compat::MAINTENANCE_IN_PG_CATALOG;
use crate::pg::datum::{ReadElements, append_elements};
use crate::pg::relation::{Element, Index, type_name};
use crate::pg::rights::may_select;
use pgrx::{Spi, pg_sys};
use std::ffi::CStr;

/// Rows that one fetch from a cursor brings.
const ROWS_A_FETCH: std::ffi::c_long = 512;

/// The rights of another user and, if it is `safe`, a search path that nobody else can write to, until dropped; after an error
/// the abort restores both.
struct AsOwner {
    user: pg_sys::Oid,
    context: i32,
    settings: i32,
}

impl AsOwner {
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

impl Drop for AsOwner {
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
    let _guard = AsOwner::new(role, MAINTENANCE_IN_PG_CATALOG);
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
    let _guard = AsOwner::new(owner, true);
    Ok(work())
}

/// The name of the current user.
pub fn current_user() -> String {
    // SAFETY: the current user exists; the name is palloc'd.
    unsafe { owned(pg_sys::GetUserNameFromId(pg_sys::GetUserId(), false)) }.unwrap_or_default()
}

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
        _ => Err(Error::NoColumn {
            relation: oid.to_u32().to_string(),
            column: String::new(),
        }),
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
unsafe fn owned(text: *mut std::ffi::c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: as promised.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        Some(copy)
    }
}

/// Vectors to train on: a column of some relation, or what an index takes from its table.
pub struct VectorColumn {
    /// The relation's quoted name, or the index's.
    pub relation: String,
    /// What its vectors are made of.
    pub element: Element,
    /// The dimensions that its type fixes, if it does.
    pub dim: Option<usize>,
    /// Selects the vectors that are not null.
    query: String,
    /// The role to select as, if not the caller.
    role: Option<pg_sys::Oid>,
}

impl VectorColumn {
    /// Looks a column up and checks its type.
    pub fn find(relation: pg_sys::Oid, column: &str) -> Result<Self> {
        let name = quoted_relation(relation)?;
        let missing = || Error::NoColumn {
            relation: name.clone(),
            column: column.to_owned(),
        };
        let c_column = std::ffi::CString::new(column).map_err(|_| missing())?;
        let (mut type_oid, mut modifier, mut collation) =
            (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
        // SAFETY: a catalog look-up of a column that exists.
        unsafe {
            let number = pg_sys::get_attnum(relation, c_column.as_ptr());
            if number <= 0 {
                return Err(missing());
            }
            pg_sys::get_atttypetypmodcoll(
                relation,
                number,
                &mut type_oid,
                &mut modifier,
                &mut collation,
            );
        }
        let element = Element::of_type(type_oid).ok_or_else(|| Error::ColumnType {
            relation: name.clone(),
            column: column.to_owned(),
            type_name: type_name(type_oid),
        })?;
        let dim = usize::try_from(modifier).ok().filter(|&dim| dim > 0);
        let value = pgrx::spi::quote_identifier(column);
        let query = format!("SELECT {value} FROM {name} WHERE {value} IS NOT NULL");
        Ok(Self {
            relation: name,
            element,
            dim,
            query,
            role: None,
        })
    }

    /// The rows of an index, as the caller may see them. Functions in the index's definition run as the owner of the
    /// table, as in REINDEX: a superuser is not to run them with rights that their author has not; then the caller must
    /// be allowed to read the table.
    pub fn of_index(index: Index) -> Result<Self> {
        let (relation, element) = (quoted_relation(index.table())?, index.element()?);
        let role = index.has_expressions().then(|| index.owner());
        if role.is_some() && !may_select(index.table()) {
            return Err(Error::NoSelect(relation));
        }
        let define = || {
            let (value, predicate) = definition(index.oid())?;
            let predicate = predicate.map_or(String::new(), |text| format!(" AND ({text})"));
            Ok(format!(
                "SELECT {value} FROM ONLY {relation} WHERE {value} IS NOT NULL{predicate}"
            ))
        };
        let query: Result<String> = match role {
            // Deparsed under the search path that the query will run under.
            Some(role) => as_role(role, define),
            None => define(),
        };
        Ok(Self {
            relation: quoted_relation(index.oid())?,
            element,
            dim: Some(index.dimensions()?),
            query: query?,
            role,
        })
    }

    /// Passes every non-null vector that the caller may see to `each`, which decides whether to read it: it is given
    /// a function that appends the elements to a buffer and returns their number.
    pub fn scan(&self, each: &mut dyn FnMut(&ReadElements<'_>) -> Result<()>) -> Result<()> {
        match self.role {
            Some(role) => as_role(role, || self.scan_here(each)),
            None => self.scan_here(each),
        }
    }

    fn scan_here(&self, each: &mut dyn FnMut(&ReadElements<'_>) -> Result<()>) -> Result<()> {
        Spi::connect(|client| {
            let mut cursor = client.try_open_cursor(self.query.as_str(), &[])?;
            loop {
                let mut rows = cursor.fetch(ROWS_A_FETCH)?;
                if rows.is_empty() {
                    return Ok(());
                }
                while rows.next().is_some() {
                    if let Some(datum) = rows.get_datum_by_ordinal(1)? {
                        // SAFETY: a non-null value of the column's type, alive as long as the fetched rows.
                        each(&|out| unsafe { append_elements(datum, self.element, out) })?;
                    }
                }
                // SAFETY: the rows of the last fetch, to which nothing refers any more; SPI would keep them to the end.
                unsafe { pg_sys::SPI_freetuptable(pg_sys::SPI_tuptable) };
            }
        })
    }
}

/// What an index takes from a row, and for which rows, as SQL. Looked up with the caller's `search_path`, which may hide
/// operators too, so that the SQL is right under it.
fn definition(index: pg_sys::Oid) -> Result<(String, Option<String>)> {
    let query = "SELECT pg_catalog.pg_get_indexdef(indexrelid, 1, false), \
                 pg_catalog.pg_get_expr(indpred, indrelid) FROM pg_catalog.pg_index \
                 WHERE indexrelid OPERATOR(pg_catalog.=) $1";
    Spi::connect(|client| {
        let rows = client.select(query, Some(1), &[index.into()])?;
        let (value, predicate) = rows.first().get_two::<String, String>()?;
        Ok((value.unwrap_or_default(), predicate))
    })
}

/// Names of the indexes with rows below the index of a partitioned table.
pub fn partitions(index: pg_sys::Oid) -> Result<Vec<String>> {
    names(
        "SELECT t.relid::text FROM pg_catalog.pg_partition_tree($1) t \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.relid \
         WHERE c.relkind OPERATOR(pg_catalog.=) 'i' ORDER BY 1",
        index,
    )
}

/// Names, with schema, of the indexes of this access method that a table and its partitions have.
pub fn indexes_of_table(table: pg_sys::Oid) -> Result<Vec<String>> {
    names(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam \
         WHERE a.amname OPERATOR(pg_catalog.=) 'distillvq' AND c.relkind OPERATOR(pg_catalog.=) 'i' \
         AND (i.indrelid OPERATOR(pg_catalog.=) $1 OR i.indrelid OPERATOR(pg_catalog.=) ANY \
              (SELECT t.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1) t)) ORDER BY 1",
        table,
    )
}

/// The names that a query about a relation gives.
fn names(query: &str, relation: pg_sys::Oid) -> Result<Vec<String>> {
    Spi::connect(|client| {
        let rows = client.select(query, None, &[relation.into()])?;
        let names = rows.filter_map(|row| row.get::<String>(1).transpose());
        Ok(names.collect::<std::result::Result<_, _>>()?)
    })
}
