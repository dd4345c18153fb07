//! The vectors of a column, or those that an index takes from its table, read through SPI.

use crate::error::{Error, Result};
use crate::pg::element::{ElementType, base_type, type_name};
use crate::pg::names::{owned, quoted_relation};
use crate::pg::privileges::{may_select, may_select_column};
use crate::pg::relation::Index;
use crate::pg::role::as_role;
use crate::pg::spi::text_at;
use crate::pg::text;
use crate::pg::vector_datum::{ReadElements, append_elements};
use pgrx::{Spi, pg_sys};
use std::ffi::CStr;

/// Rows per fetch from a cursor.
const ROWS_PER_FETCH: std::ffi::c_long = 512;

/// Vectors to train on: a column of some relation, or what an index takes from its table.
pub struct VectorColumn {
    /// The relation's quoted name, or the index's.
    pub relation: String,
    /// What its vectors are made of.
    pub element: ElementType,
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
        let Some(element) = ElementType::of_type(type_oid) else {
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
            type_oid != pg_sys::InvalidOid && ElementType::of_type(type_oid).is_some()
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
                    pg_sys::SPI_cursor_fetch(portal, true, ROWS_PER_FETCH);
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
        if reads && ElementType::of_type(of_type) == Some(self.element) {
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
