//! Vectors to and from a server in pgvector's binary format: int16 dimensions, int16 unused, then the values as
//! float32 (`vector`) or float16 (`halfvec`), all big-endian.

use std::error::Error as StdError;

use bytes::{BufMut, BytesMut};
use half::f16;
use postgres::Client;
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::error::{Error, Result};
use crate::vectors::Vectors;

/// A query parameter or copied value of type `vector` or `halfvec`.
#[derive(Debug)]
pub struct Embedding<'a>(pub &'a [f32]);

impl ToSql for Embedding<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_i16(i16::try_from(self.0.len())?);
        out.put_i16(0);
        if kind.name() == "halfvec" {
            for &value in self.0 {
                out.put_u16(f16::from_f32(value).to_bits());
            }
        } else {
            for &value in self.0 {
                out.put_f32(value);
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        matches!(kind.name(), "vector" | "halfvec")
    }

    to_sql_checked!();
}

/// Creates a table with columns `id bigint`, the primary key, and `embedding vector`, and copies vectors into it.
///
/// # Errors
/// If there is such a table, or the copy fails.
pub fn create_table(client: &mut Client, table: &str, vectors: &Vectors) -> Result<()> {
    client.batch_execute(&format!(
        "CREATE TABLE {table} (id bigint, embedding vector({}) NOT NULL)",
        vectors.dim()
    ))?;
    copy_vectors(client, table, vectors)?;
    Ok(client.batch_execute(&format!("ALTER TABLE {table} ADD PRIMARY KEY (id)"))?)
}

/// Copies vectors into a table with columns `id bigint` and `embedding`; a row's number is its id.
///
/// # Errors
/// If the table has no such columns, or the copy fails.
pub fn copy_vectors(client: &mut Client, table: &str, vectors: &Vectors) -> Result<u64> {
    copy(client, table, vectors, None)
}

/// Copies vectors and their titles into a table with columns `id bigint`, `embedding` and `title text`.
///
/// # Errors
/// As [`copy_vectors`], and if there are fewer titles than vectors.
pub fn copy_titled(
    client: &mut Client,
    table: &str,
    vectors: &Vectors,
    titles: &[String],
) -> Result<u64> {
    if titles.len() < vectors.rows() {
        return Err(Error::Argument("fewer titles than vectors".into()));
    }
    copy(client, table, vectors, Some(titles))
}

fn copy(
    client: &mut Client,
    table: &str,
    vectors: &Vectors,
    titles: Option<&[String]>,
) -> Result<u64> {
    let columns = if titles.is_some() {
        "id, embedding, title"
    } else {
        "id, embedding"
    };
    // The server tells the columns' types: those of an extension have other numbers in every database.
    let shape = client.prepare(&format!("SELECT {columns} FROM {table}"))?;
    let types: Vec<Type> = shape.columns().iter().map(|c| c.type_().clone()).collect();
    let sink = client.copy_in(&format!("COPY {table} ({columns}) FROM STDIN BINARY"))?;
    let mut writer = BinaryCopyInWriter::new(sink, &types);
    for (id, row) in (0i64..).zip(vectors.iter()) {
        let embedding = Embedding(row);
        match titles.and_then(|titles| titles.get(usize::try_from(id).ok()?)) {
            Some(title) => writer.write(&[&id, &embedding, title])?,
            None => writer.write(&[&id, &embedding])?,
        }
    }
    Ok(writer.finish()?)
}
