//! Queries through SPI.

use crate::error::Result;
use crate::pg::text;
use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiTupleTable;
use pgrx::{Spi, pg_sys};

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
