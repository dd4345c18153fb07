//! distillvq from Rust, with tokio-postgres and pgvector's crate. In `Cargo.toml`:
//!
//! ```toml
//! pgvector = { version = "0.4", features = ["postgres"] }
//! rand = "0.10"
//! tokio = { version = "1", features = ["macros", "rt"] }
//! tokio-postgres = "0.7"
//! ```
//!
//! It creates the table `tokio_items`, which must not exist.

use std::error::Error;
use std::pin::pin;

use pgvector::Vector;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

const DIMENSIONS: usize = 64;
const CENTERS: usize = 50;

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code)] // the test of the guide calls `run`
async fn main() -> Result<(), Box<dyn Error>> {
    run(&std::env::var("DATABASE_URL").unwrap_or_default()).await
}

/// Creates a table, fills it, indexes it, and searches it.
pub async fn run(url: &str) -> Result<(), Box<dyn Error>> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);

    client
        .batch_execute(
            "CREATE EXTENSION IF NOT EXISTS distillvq CASCADE;
             CREATE TABLE tokio_items (id bigserial PRIMARY KEY, category integer, embedding vector(64))",
        )
        .await?;
    let mut random = StdRng::seed_from_u64(5);
    let centers: Vec<Vec<f32>> = (0..CENTERS)
        .map(|_| around(&mut random, &[0.0; DIMENSIONS]))
        .collect();
    fill(&client, &mut random, &centers).await?;

    // Insert the rows before the index is created: it is trained on them.
    client
        .batch_execute("CREATE INDEX ON tokio_items USING distillvq (embedding vector_cosine_ops); ANALYZE tokio_items")
        .await?;

    // For all searches of this connection.
    client
        .batch_execute("SET distillvq.target_recall = 0.98")
        .await?;

    let query = Vector::from(around(&mut random, &centers[7]));
    let nearest = client
        .query(
            "SELECT id, embedding <=> $1 AS distance FROM tokio_items ORDER BY embedding <=> $1 LIMIT 10",
            &[&query],
        )
        .await?;
    for row in &nearest {
        println!(
            "item {} at {:.3}",
            row.get::<_, i64>("id"),
            row.get::<_, f64>("distance")
        );
    }
    assert_eq!(nearest.len(), 10);

    let row = client
        .query_one(
            "SELECT recall::float8 FROM distillvq_recall('tokio_items_embedding_idx')",
            &[],
        )
        .await?;
    let recall: f64 = row.get(0);
    println!("recall@10 is {recall:.3}");
    assert!(recall > 0.9);
    Ok(())
}

/// Copies 5,000 rows into the table.
async fn fill(
    client: &Client,
    random: &mut StdRng,
    centers: &[Vec<f32>],
) -> Result<(), Box<dyn Error>> {
    // Ask the server for the OID of type `vector`, which differs between databases.
    let shape = client
        .prepare("SELECT category, embedding FROM tokio_items")
        .await?;
    let types: Vec<Type> = shape
        .columns()
        .iter()
        .map(|column| column.type_().clone())
        .collect();
    let sink = client
        .copy_in("COPY tokio_items (category, embedding) FROM STDIN (FORMAT binary)")
        .await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    for _ in 0..5000 {
        let category = random.random_range(0..CENTERS);
        let embedding = Vector::from(around(random, &centers[category]));
        writer
            .as_mut()
            .write(&[&(category as i32), &embedding])
            .await?;
    }
    writer.finish().await?;
    Ok(())
}

/// A vector near a center, in place of a language model's embedding.
fn around(random: &mut StdRng, center: &[f32]) -> Vec<f32> {
    center
        .iter()
        .map(|x| x + random.random_range(-1.0..1.0f32))
        .collect()
}
