//! The table under test, the expected state of its rows, and the checks of table and index.
//!
//! A row's vector is a function of its id and version, so that a wrong vector is detected. Each writer has its own ids and a
//! [`Ledger`] of its confirmed changes.

use std::collections::BTreeMap;

use distillvq_harness::{Embedding, Error, Result, Server, Vectors, load};
use postgres::{Client, Statement};
use rand::RngExt as _;
use rand::seq::IteratorRandom as _;
use rand_chacha::ChaCha8Rng;

/// Dimensions of the vectors.
pub const DIM: usize = 16;
/// Rows that nobody changes.
pub const FIXED: usize = 1_200;
/// Vectors that rows have.
const POOL: usize = 4_000;
/// Rows that a writer has at the most.
const OWN: usize = 600;
/// Ids of a writer.
const IDS: i64 = 1_000_000_000;
/// `distillvq.probes` that means all lists.
const ALL: &str = "SET distillvq.probes = 32768";
/// What makes the planner take the index.
const BY_INDEX: &str =
    "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off";
/// Leaves the choice to the planner again.
const RESET: &str =
    "RESET enable_seqscan; RESET enable_sort; RESET enable_bitmapscan; RESET enable_indexscan";
/// The database.
pub const DATABASE: &str = "soak";

/// Settings of a server that is to be killed: replay compares every page with the image that was logged.
pub const SETTINGS: [(&str, &str); 5] = [
    ("log_line_prefix", "%m [%p] %e %q%d "),
    ("wal_consistency_checking", "all"),
    ("max_wal_size", "256MB"),
    ("checkpoint_timeout", "30s"),
    ("autovacuum_naptime", "5s"),
];

/// Lists of its index, so that recall is compared at equal shares however many rows there are.
pub const LISTS: usize = 40;
/// Queries of a table.
const QUERIES: usize = 1_000;
/// Vectors of the same cloud that no row ever has.
const OTHERS: usize = 3_000;

/// The vectors that rows and queries have.
pub struct TableState {
    pool: Vectors,
    queries: Vectors,
    others: Vectors,
}

impl TableState {
    /// The same for the same seed.
    pub fn new(seed: u64) -> Self {
        // One cloud: lists that nothing separates are the hardest to choose among.
        let all = Vectors::clustered(POOL + QUERIES + OTHERS, DIM, 1, seed);
        Self {
            pool: all.slice(0..POOL),
            queries: all.slice(POOL..POOL + QUERIES),
            others: all.slice(POOL + QUERIES..POOL + QUERIES + OTHERS),
        }
    }

    /// Makes the database: the table `items` with its index `one`, and `pool`.
    pub fn create(&self, server: &Server) -> Result<Client> {
        let mut client = server.database(DATABASE)?;
        client.batch_execute(&format!(
            "CREATE TABLE pool (id bigint, embedding vector({DIM}));
             CREATE TABLE items (id bigint, embedding vector({DIM}), version int NOT NULL DEFAULT 0)"
        ))?;
        load::copy_vectors(&mut client, "pool", &self.pool)?;
        client.batch_execute(&format!(
            "ALTER TABLE pool ADD PRIMARY KEY (id);
             INSERT INTO items SELECT i.id, p.embedding, i.version
                 FROM (SELECT id, 0 AS version FROM generate_series(0, {FIXED} - 1) id) i JOIN pool p ON p.id = {PLACE};
             ALTER TABLE items ADD PRIMARY KEY (id);
             CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = {LISTS});
             ANALYZE"
        ))?;
        Ok(client)
    }

    /// Builds `one` anew with a model of vectors that no row has: it fits the rows to come as well as those that are there.
    pub fn train_elsewhere(&self, client: &mut Client) -> Result<()> {
        client.batch_execute(&format!(
            "CREATE TABLE others (id bigint, embedding vector({DIM}))"
        ))?;
        load::copy_vectors(client, "others", &self.others)?;
        client.batch_execute(&format!(
            "SELECT distillvq_train('others', 'embedding', 'elsewhere', metric => 'l2', lists => {LISTS});
             ALTER INDEX one SET (model = elsewhere)"
        ))?;
        Ok(client.batch_execute("REINDEX INDEX one")?)
    }

    /// The vector of a row.
    fn vector(&self, id: i64, version: i32) -> &[f32] {
        self.pool.row(place(id, version))
    }

    /// A query.
    pub fn query(&self, random: &mut ChaCha8Rng) -> &[f32] {
        self.queries
            .row(random.random_range(0..self.queries.rows()))
    }

    /// All queries.
    pub fn queries(&self) -> &Vectors {
        &self.queries
    }

    /// Fails unless rows are in order, none twice, and as far away as their ids and versions say.
    pub fn check_answer(&self, query: &[f32], rows: &[SearchResult]) -> Result<()> {
        for pair in rows.windows(2) {
            claim(pair[0].distance <= pair[1].distance, || {
                format!("out of order: {pair:?}")
            })?;
        }
        let mut ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        ids.dedup();
        claim(ids.len() == rows.len(), || "a row came twice".into())?;
        for row in rows {
            let truth = squared(query, self.vector(row.id, row.version)).sqrt();
            claim((row.distance - truth).abs() < 1e-3, || {
                format!("a wrong row: {row:?}, its vector is {truth} away")
            })?;
        }
        Ok(())
    }

    /// Fails unless the index is sound, holds every row of the table once and no other, and finds the nearest.
    pub fn check_index(&self, client: &mut Client, random: &mut ChaCha8Rng) -> Result<()> {
        checked(client, "one")?;
        let wrong: i64 = one(
            client,
            &format!(
                "SELECT count(*) FROM items i JOIN pool p ON p.id = {PLACE} WHERE i.embedding <> p.embedding"
            ),
        )?;
        claim(wrong == 0, || format!("{wrong} rows have a wrong vector"))?;
        let query = self.query(random).to_vec();
        by_index(client)?;
        client.batch_execute(ALL)?;
        let near = nearest(client, &query, 10);
        // In strict order a row found late is dropped.
        client.batch_execute("SET distillvq.iterative_scan = relaxed_order")?;
        let found = nearest(client, &query, i64::MAX);
        client.batch_execute("RESET distillvq.iterative_scan; RESET distillvq.probes")?;
        by_table(client)?;
        let truth = nearest(client, &query, i64::MAX);
        client.batch_execute(RESET)?;
        let (found, near, truth) = (found?, near?, truth?);
        self.check_answer(&query, &near)?;
        claim(same_rows(&found, &truth), || {
            format!(
                "the index finds {} rows, the table has {}",
                found.len(),
                truth.len()
            )
        })?;
        let recall = recall(&near, truth.get(..10).unwrap_or(&truth));
        claim(recall >= 0.9, || format!("recall of all lists is {recall}"))
    }
}

/// A row's place in the pool, in SQL.
const PLACE: &str = "(i.id * 31 + i.version * 17) % 4000";

/// A row's place in the pool.
fn place(id: i64, version: i32) -> usize {
    ((id * 31 + i64::from(version) * 17) % POOL as i64) as usize
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    let square = |(x, y): (&f32, &f32)| f64::from(x - y).powi(2);
    a.iter().zip(b).map(square).sum()
}

/// A row that a search returned.
#[derive(Clone, Copy, Debug)]
pub struct SearchResult {
    pub id: i64,
    pub version: i32,
    pub distance: f64,
}

/// The statement of [`nearest`].
pub const NEAREST: &str =
    "SELECT id, version, embedding <-> $1 FROM items ORDER BY embedding <-> $1 LIMIT $2";

/// The rows nearest to a query.
pub fn nearest(client: &mut Client, query: &[f32], limit: i64) -> Result<Vec<SearchResult>> {
    let rows = client.query(NEAREST, &[&Embedding(query), &limit])?;
    let found = |row: &postgres::Row| SearchResult {
        id: row.get(0),
        version: row.get(1),
        distance: row.get(2),
    };
    Ok(rows.iter().map(found).collect())
}

/// Lets searches of the session use the index, and nothing else.
pub fn by_index(client: &mut Client) -> Result<()> {
    client.batch_execute(BY_INDEX)?;
    planned(client, true)
}

/// Lets searches of the session look at the whole table.
fn by_table(client: &mut Client) -> Result<()> {
    client.batch_execute(RESET)?;
    client.batch_execute("SET enable_indexscan = off; SET enable_bitmapscan = off")?;
    planned(client, false)
}

/// Fails unless a search is planned as it should be.
fn planned(client: &mut Client, index: bool) -> Result<()> {
    let query = vec!["1"; DIM].join(",");
    let plan = client.query(
        &format!("EXPLAIN SELECT id FROM items ORDER BY embedding <-> '[{query}]' LIMIT 10"),
        &[],
    )?;
    let uses = |row: &postgres::Row| row.get::<_, String>(0).contains("Index Scan using one");
    claim(plan.iter().any(uses) == index, || {
        "the planner goes another way".into()
    })
}

fn same_rows(a: &[SearchResult], b: &[SearchResult]) -> bool {
    let sorted = |rows: &[SearchResult]| {
        let mut ids: Vec<_> = rows.iter().map(|row| (row.id, row.version)).collect();
        ids.sort_unstable();
        ids
    };
    sorted(a) == sorted(b)
}

/// The share of the true results among those found; a row as near as the last true one counts.
pub fn recall(found: &[SearchResult], truth: &[SearchResult]) -> f64 {
    let Some(last) = truth.last() else { return 1.0 };
    let hits = found.iter().filter(|row| row.distance <= last.distance);
    hits.count().min(truth.len()) as f64 / truth.len() as f64
}

/// Mean recall of the ten nearest, with the settings as they are.
pub fn mean_recall(client: &mut Client, queries: &Vectors) -> Result<f64> {
    let mut sum = 0.0;
    for query in queries.iter() {
        by_index(client)?;
        let found = nearest(client, query, 10)?;
        by_table(client)?;
        let truth = nearest(client, query, 10)?;
        client.batch_execute(RESET)?;
        sum += recall(&found, &truth);
    }
    Ok(sum / queries.rows().max(1) as f64)
}

/// Fails unless `distillvq_check` finds nothing to complain of, every row of the table being looked for.
pub fn checked(client: &mut Client, index: &str) -> Result<()> {
    let sql = format!("SELECT c::text FROM distillvq_check('{index}', heap => true) c");
    let problems = client.query(&sql, &[])?;
    let first = problems.first().map(|row| row.get::<_, String>(0));
    claim(first.is_none(), || {
        format!("distillvq_check: {}", first.unwrap_or_default())
    })
}

/// The only value of a query.
pub fn one<T: postgres::types::FromSqlOwned>(client: &mut Client, sql: &str) -> Result<T> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// Fails with a message unless something holds.
pub fn claim(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Broken(message()))
    }
}

/// A server's log must not tell of anything bad, but that processes were killed.
pub fn healthy(server: &Server, killed: bool) -> Result<()> {
    let log = server.log()?;
    let bad = distillvq_harness::server::complaints(&log, DATABASE);
    let ours = |line: &&String| !(killed && line.contains("was terminated by signal 9"));
    match bad.iter().find(ours) {
        Some(line) => Err(Error::Broken(format!("the server's log says: {line}"))),
        None => Ok(()),
    }
}

/// Rows as one change leaves them: a version, or gone.
type Change = Vec<(i64, Option<i32>)>;

/// What a writer knows of its rows.
#[derive(Default)]
pub struct Ledger {
    rows: BTreeMap<i64, i32>,
    next: i64,
    /// A change that may have been committed, or not.
    doubt: Change,
    /// Changes that were confirmed.
    pub confirmed: u64,
}

impl Ledger {
    /// Of the `number`-th writer.
    pub fn new(number: i64) -> Self {
        Self {
            next: (number + 1) * IDS,
            ..Self::default()
        }
    }

    /// What to do next.
    fn plan(&mut self, random: &mut ChaCha8Rng) -> Change {
        let count = random.random_range(1..=8);
        let kind = if self.rows.len() < 20 {
            0
        } else if self.rows.len() > OWN {
            2
        } else {
            [0, 0, 1, 2][random.random_range(0..4)]
        };
        if kind == 0 {
            let first = self.next;
            self.next += count;
            return (first..self.next).map(|id| (id, Some(0))).collect();
        }
        let chosen = self.rows.iter().sample(random, count as usize);
        let after = |version: i32| (kind == 1).then_some(version + 1);
        chosen
            .into_iter()
            .map(|(&id, &version)| (id, after(version)))
            .collect()
    }

    fn apply(&mut self, change: Change) {
        for (id, version) in change {
            match version {
                Some(version) => self.rows.insert(id, version),
                None => self.rows.remove(&id),
            };
        }
        self.confirmed += 1;
    }

    /// Compares with what the table has, and takes over the change in doubt if it was committed: all of it or nothing.
    fn settle(&mut self, there: &BTreeMap<i64, i32>) -> Result<()> {
        let doubt = std::mem::take(&mut self.doubt);
        let done = |(id, version): &(i64, Option<i32>)| there.get(id).copied() == *version;
        if !doubt.is_empty() && doubt.iter().all(done) {
            self.apply(doubt);
        }
        let mine = |(id, _): &(&i64, &i32)| **id / IDS == self.next / IDS;
        let wrong = there
            .iter()
            .filter(mine)
            .find(|&(id, version)| self.rows.get(id) != Some(version));
        claim(wrong.is_none(), || {
            format!("a row that nobody wrote: {wrong:?}")
        })?;
        let lost = self
            .rows
            .iter()
            .find(|&(id, version)| there.get(id) != Some(version));
        claim(lost.is_none(), || {
            format!("a committed row is lost: {lost:?}")
        })
    }
}

/// Fails unless the table has what its writers know, and the rows that nobody changes. Returns the number of its rows.
pub fn settle(client: &mut Client, ledgers: &mut [Ledger]) -> Result<usize> {
    let rows = client.query("SELECT id, version FROM items", &[])?;
    let there: BTreeMap<i64, i32> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for ledger in ledgers {
        ledger.settle(&there)?;
    }
    let fixed = there.range(..IDS).count();
    claim(fixed == FIXED, || {
        format!("{fixed} of {FIXED} fixed rows are there")
    })?;
    Ok(there.len())
}

/// A session that writes.
pub struct Writer {
    client: Client,
    put: Statement,
    change: Statement,
    remove: Statement,
}

impl Writer {
    pub fn new(mut client: Client) -> Result<Self> {
        let rows = format!(
            "(SELECT i.id, i.version, p.embedding FROM unnest($1::bigint[], $2::int[]) i(id, version)
              JOIN pool p ON p.id = {PLACE}) n"
        );
        let put = format!(
            "INSERT INTO items (id, version, embedding) SELECT n.id, n.version, n.embedding FROM {rows}"
        );
        let change = format!(
            "UPDATE items SET version = n.version, embedding = n.embedding FROM {rows} WHERE items.id = n.id"
        );
        Ok(Self {
            put: client.prepare(&put)?,
            change: client.prepare(&change)?,
            remove: client.prepare("DELETE FROM items WHERE id = ANY ($1)")?,
            client,
        })
    }

    /// Makes one change and notes it; after an error it is in doubt.
    pub fn step(&mut self, ledger: &mut Ledger, random: &mut ChaCha8Rng) -> Result<()> {
        let change = ledger.plan(random);
        let (ids, versions): (Vec<i64>, Vec<i32>) = change
            .iter()
            .map(|&(id, version)| (id, version.unwrap_or(0)))
            .unzip();
        ledger.doubt.clone_from(&change);
        let written = match change.first() {
            Some((_, Some(0))) => self.client.execute(&self.put, &[&ids, &versions])?,
            Some((_, Some(_))) => self.client.execute(&self.change, &[&ids, &versions])?,
            _ => self.client.execute(&self.remove, &[&ids])?,
        };
        ledger.doubt.clear();
        claim(written == ids.len() as u64, || {
            format!("{written} of {} rows were written", ids.len())
        })?;
        ledger.apply(change);
        Ok(())
    }
}
