//! Queries, as the caller and, for the extension's own table, as its owner.

use crate::error::{Error, Result};
use crate::pg::compat::MAINTENANCE_IN_PG_CATALOG;
use crate::pg::datum::{ReadElements, append_elements};
use crate::pg::relation::{Element, Index};
use crate::pg::rights::{may_select, may_select_column};
use crate::pg::text;
use crate::pg::vector_types::{base_type, type_name};
use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiTupleTable;
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

/// The current user.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: a look at the session's state.
    unsafe { pg_sys::GetUserId() }
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
unsafe fn owned(text: *mut std::ffi::c_char) -> Option<String> {
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

/// Vectors to train on: a column of some relation, or what an index takes from its table.
pub struct VectorColumn {
    /// The relation's quoted name, or the index's.
    pub relation: String,
    /// What its vectors are made of.
    pub element: Element,
    /// The dimensions that its type fixes, if it does.
    pub dim: Option<usize>,
    source: Source,
}

/// Where the vectors are.
enum Source {
    Column {
        relation: pg_sys::Oid,
        number: i16,
    },
    Index {
        table: pg_sys::Oid,
        index: pg_sys::Oid,
        /// The role to select as, if not the caller.
        role: Option<pg_sys::Oid>,
    },
}

impl VectorColumn {
    /// Looks a column up and checks its type.
    pub fn find(relation: pg_sys::Oid, column: &CStr) -> Result<Self> {
        let name = quoted_relation(relation)?;
        // SAFETY: a catalog look-up.
        let number = unsafe { pg_sys::get_attnum(relation, column.as_ptr()) };
        let column = text::from_c(column);
        if number <= 0 {
            return Err(Error::NoColumn {
                relation: name,
                column,
            });
        }
        let (mut type_oid, mut modifier, mut collation) =
            (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
        // SAFETY: a catalog look-up of a column that exists.
        unsafe {
            pg_sys::get_atttypetypmodcoll(
                relation,
                number,
                &mut type_oid,
                &mut modifier,
                &mut collation,
            );
        }
        let Some(element) = Element::of_type(type_oid) else {
            return Err(Error::ColumnType {
                relation: name,
                column,
                type_name: type_name(type_oid),
            });
        };
        let (_, modifier) = base_type(type_oid, modifier);
        Ok(Self {
            relation: name,
            element,
            dim: usize::try_from(modifier).ok().filter(|&dim| dim > 0),
            source: Source::Column { relation, number },
        })
    }

    /// The only column of vectors that a relation has.
    pub fn only_one(relation: pg_sys::Oid) -> Result<Self> {
        // SAFETY: a catalog look-up; null means that there is no such column. One that was dropped has a name, but no type.
        let name = |number: i16| unsafe { owned(pg_sys::get_attname(relation, number, true)) };
        let is_vector = |number: i16| {
            // SAFETY: a catalog look-up.
            let type_oid = unsafe { pg_sys::get_atttype(relation, number) };
            type_oid != pg_sys::InvalidOid && Element::of_type(type_oid).is_some()
        };
        let columns = (1..).map_while(|number| name(number).map(|name| (number, name)));
        let names: Vec<String> = columns
            .filter_map(|(number, name)| is_vector(number).then_some(name))
            .collect();
        match &*names {
            [name] => Self::find(relation, &text::to_c(name)),
            _ => Err(Error::ColumnChoice {
                relation: quoted_relation(relation)?,
                columns: names,
            }),
        }
    }

    /// The rows of an index, as the caller may see them. Functions in the index's definition run as the owner of the
    /// table, as in REINDEX: a superuser is not to run them with rights that their author has not; then the caller must
    /// be allowed to read the table.
    pub fn of_index(index: Index) -> Result<Self> {
        let element = index.element()?;
        let role = index.has_expressions().then(|| index.owner());
        if role.is_some() && !may_select(index.table()) {
            return Err(Error::NoSelect(quoted_relation(index.table())?));
        }
        Ok(Self {
            relation: quoted_relation(index.oid())?,
            element,
            dim: Some(index.dimensions()?),
            source: Source::Index {
                table: index.table(),
                index: index.oid(),
                role,
            },
        })
    }

    /// Passes every non-null vector that the caller may see to `each`, which decides whether to read it: it is given
    /// a function that appends the elements to a buffer and returns their number.
    pub fn scan(&self, each: &mut dyn FnMut(&ReadElements<'_>) -> Result<()>) -> Result<()> {
        match self.source {
            Source::Column { relation, .. } => self.scan_here(relation, each),
            Source::Index { table, role, .. } => match role {
                Some(role) => as_role(role, || self.scan_here(table, each)),
                None => self.scan_here(table, each),
            },
        }
    }

    /// Selects the vectors that are not null. An index's definition is deparsed under the search path that the query runs under.
    fn query(&self) -> Result<String> {
        match self.source {
            Source::Column { relation, number } => {
                let name = quoted_relation(relation)?;
                // SAFETY: a catalog look-up; null means that there is no such column any more.
                let column = unsafe { owned(pg_sys::get_attname(relation, number, true)) };
                let value = pgrx::spi::quote_identifier(column.unwrap_or_default());
                Ok(format!(
                    "SELECT {value} FROM {name} WHERE {value} IS NOT NULL"
                ))
            }
            Source::Index { table, index, .. } => {
                let (value, predicate) = definition(index)?;
                let predicate = predicate.map_or(String::new(), |text| format!(" AND ({text})"));
                let table = quoted_relation(table)?;
                Ok(format!(
                    "SELECT {value} FROM ONLY {table} WHERE {value} IS NOT NULL{predicate}"
                ))
            }
        }
    }

    fn scan_here(
        &self,
        relation: pg_sys::Oid,
        each: &mut dyn FnMut(&ReadElements<'_>) -> Result<()>,
    ) -> Result<()> {
        self.check_right()?;
        let query = text::to_c(&self.query()?);
        Spi::connect(|_| {
            // SAFETY: a query without parameters; the portal, its rows, and what a row holds are used while they are there, and
            // the abort closes the portal after an error.
            unsafe {
                let read_only =
                    pg_sys::GetCurrentTransactionIdIfAny() == pg_sys::InvalidTransactionId;
                let portal = pg_sys::SPI_cursor_open_with_args(
                    std::ptr::null(),
                    query.as_ptr(),
                    0,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    std::ptr::null(),
                    read_only,
                    0,
                );
                self.verify(portal, relation)?;
                loop {
                    pg_sys::SPI_cursor_fetch(portal, true, ROWS_A_FETCH);
                    let rows = pg_sys::SPI_tuptable;
                    if rows.is_null() || pg_sys::SPI_processed == 0 {
                        pg_sys::SPI_cursor_close(portal);
                        return Ok(());
                    }
                    for i in 0..pg_sys::SPI_processed as usize {
                        let (mut null, row) = (false, *(*rows).vals.add(i));
                        let value = pg_sys::SPI_getbinval(row, (*rows).tupdesc, 1, &mut null);
                        if !null {
                            each(&|out| append_elements(value, self.element, out))?;
                        }
                    }
                    // Nothing refers to them any more; SPI would keep them to the end.
                    pg_sys::SPI_freetuptable(rows);
                }
            }
        })
    }

    /// Refuses a column that the caller may not read, before the query is planned.
    fn check_right(&self) -> Result<()> {
        match self.source {
            Source::Column { relation, number }
                if !may_select(relation) && !may_select_column(relation, number) =>
            {
                Err(Error::NoSelect(quoted_relation(relation)?))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a query whose names have come to mean something else since the relation was looked up.
    ///
    /// # Safety
    /// The portal must be open.
    unsafe fn verify(&self, portal: pg_sys::Portal, relation: pg_sys::Oid) -> Result<()> {
        // SAFETY: an open portal of a query has its statement and the description of its rows, which have one column.
        let (reads, of_type) = unsafe {
            let plan = (*(*portal).stmts)
                .elements
                .cast::<*mut pg_sys::PlannedStmt>();
            let reads = pg_sys::list_member_oid((**plan).relationOids, relation);
            (reads, pg_sys::SPI_gettypeid((*portal).tupDesc, 1))
        };
        if reads && Element::of_type(of_type) == Some(self.element) {
            Ok(())
        } else {
            Err(Error::Renamed(self.relation.clone()))
        }
    }
}

/// What an index takes from a row, and for which rows, as SQL. Looked up with the caller's `search_path`, which may hide
/// operators too, so that the SQL is right under it.
fn definition(index: pg_sys::Oid) -> Result<(String, Option<String>)> {
    let query = "SELECT pg_catalog.pg_get_indexdef(indexrelid, 1, false), \
                 pg_catalog.pg_get_expr(indpred, indrelid) FROM pg_catalog.pg_index \
                 WHERE indexrelid OPERATOR(pg_catalog.=) $1";
    Spi::connect(|client| {
        let rows = client.select(query, Some(1), &[index.into()])?.first();
        Ok((text_at(&rows, 1)?.unwrap_or_default(), text_at(&rows, 2)?))
    })
}

/// The text in a column, of the type text, of the current row; none for NULL, and where there is no row.
pub fn text_at(rows: &SpiTupleTable<'_>, column: usize) -> Result<Option<String>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let value = rows.get_datum_by_ordinal(column)?;
    // SAFETY: a value of a text, alive as long as the rows.
    Ok(value.map(|value| unsafe { text::of_datum(value) }))
}

/// Names of the indexes with rows below the index of a partitioned table.
pub fn partitions(index: pg_sys::Oid) -> Result<Vec<String>> {
    let query = "SELECT t.relid::pg_catalog.text FROM pg_catalog.pg_partition_tree($1) t \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.relid \
         WHERE c.relkind OPERATOR(pg_catalog.=) 'i' ORDER BY 1";
    texts(query, &[index.into()])
}

/// Names, with schema, of the indexes of this access method that a table and its partitions have.
pub fn indexes_of_table(table: pg_sys::Oid) -> Result<Vec<String>> {
    let query = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam \
         WHERE a.amname OPERATOR(pg_catalog.=) 'distillvq' AND c.relkind OPERATOR(pg_catalog.=) 'i' \
         AND (i.indrelid OPERATOR(pg_catalog.=) $1 OR i.indrelid OPERATOR(pg_catalog.=) ANY \
              (SELECT t.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1) t)) ORDER BY 1";
    texts(query, &[table.into()])
}

/// The texts that a query gives.
pub fn texts(query: &str, arguments: &[DatumWithOid<'_>]) -> Result<Vec<String>> {
    Spi::connect(|client| {
        let mut rows = client.select(query, None, arguments)?;
        let mut texts = Vec::with_capacity(rows.len());
        while rows.next().is_some() {
            texts.extend(text_at(&rows, 1)?);
        }
        Ok(texts)
    })
}
