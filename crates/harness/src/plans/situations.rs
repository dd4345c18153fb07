//! Tables and queries of the comparison of plans.

use postgres::Client;

use crate::error::Result;
use crate::load::copy_vectors;
use crate::vectors::Vectors;

/// Values of the columns that filters look at are below this, evenly spread.
pub(super) const SHARES: u32 = 100_000;
/// Queries that a situation is measured with.
const QUERIES: usize = 8;

/// A table `(id, embedding, bucket, loose, spot, kind, doc)` with an index on `embedding`. For filters: `bucket` and `loose` have
/// nothing to do with the order of the rows, `spot` follows it, and a btree is on `bucket` and on `spot`. `kind` is one of 8.
/// Beside it are a table of some ids and one with a row per `doc`, which five rows share; btrees are on `id` and `doc`.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its rows.
    pub rows: usize,
    /// Dimensions of its vectors; those of more than 500 lie out of line.
    pub dim: usize,
    /// The type of its vectors.
    pub element: &'static str,
    /// What follows in the definition of the index on `embedding`: parameters, a predicate.
    pub rest: &'static str,
}

/// What is asked besides the nearest rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Plain,
    /// All columns instead of the id.
    Wide,
    /// Ties in the order of their ids.
    FurtherKey,
    /// The neighbors of each of several rows.
    Lateral,
    /// Each row's line of another table too.
    Join,
    /// Those that a small table of a hundredth of the ids allows.
    Allowed,
    /// Those whose line of another table passes a filter, as a hundredth of them do.
    Docs,
    /// All within a distance.
    Within,
    /// Those within a distance, the condition being on its negative.
    Negated,
    /// All between two distances.
    Between,
    /// All within a distance of each of several rows.
    LateralWithin,
}

impl Shape {
    /// Whether the distance of the rows is limited.
    pub fn limits_distance(self) -> bool {
        self.limit("", 0.0).is_some()
    }

    /// The condition on the distance, if there is one.
    fn limit(self, distance: &str, radius: f64) -> Option<String> {
        match self {
            Self::Within | Self::LateralWithin => Some(format!("{distance} < {radius}")),
            Self::Negated => Some(format!("-({distance}) > -{radius}")),
            Self::Between => {
                let least = radius / 2.0;
                Some(format!("{distance} > {least} AND {distance} < {radius}"))
            }
            _ => None,
        }
    }
}

/// A query in its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The table's name.
    pub table: &'static str,
    /// Rows asked for, all without one.
    pub limit: Option<usize>,
    /// The filters: a column, and how many rows of 100,000 it keeps.
    pub filters: &'static [(&'static str, u32)],
    /// `distillvq.probes`; 0 is the default.
    pub probes: u32,
    /// What else is asked.
    pub shape: Shape,
}

impl Table {
    /// Rows, and behind them queries.
    fn vectors(&self) -> Vectors {
        let rows = self.rows + QUERIES;
        if self.dim < 64 {
            Vectors::clustered(rows, self.dim, 200, 5)
        } else {
            Vectors::like_texts(rows, self.dim, 5, 0)
        }
    }

    /// Makes the table, its indexes, and a table of queries, which are returned.
    ///
    /// # Errors
    /// If a statement fails.
    pub fn make(&self, client: &mut Client) -> Result<Vectors> {
        let Self {
            name,
            rows,
            dim,
            element,
            rest,
        } = self;
        client.batch_execute(&format!(
            "CREATE TABLE {name}_queries (id bigint, embedding {element}({dim}));
             CREATE TABLE {name} (id bigint, embedding {element}({dim}),
                bucket int GENERATED ALWAYS AS (id * 7919 % {SHARES}) STORED,
                loose int GENERATED ALWAYS AS (id * 104729 % {SHARES}) STORED,
                spot int GENERATED ALWAYS AS (id * {SHARES} / {rows}) STORED,
                doc int GENERATED ALWAYS AS (id / 5) STORED,
                kind int GENERATED ALWAYS AS (id % {QUERIES}) STORED)"
        ))?;
        let vectors = self.vectors();
        let queries = vectors.slice(*rows..vectors.rows());
        copy_vectors(client, name, &vectors.slice(0..*rows))?;
        copy_vectors(client, &format!("{name}_queries"), &queries)?;
        client.batch_execute(&format!(
            "CREATE INDEX {name}_embedding ON {name} USING distillvq (embedding {element}_l2_ops) {rest};
             CREATE INDEX {name}_bucket ON {name} (bucket);
             CREATE INDEX {name}_spot ON {name} (spot);
             CREATE UNIQUE INDEX {name}_own_id ON {name} (id);
             CREATE INDEX {name}_own_doc ON {name} (doc);
             CREATE TABLE {name}_allowed AS SELECT id::bigint FROM generate_series(0, {rows} - 1, 100) id;
             CREATE TABLE {name}_docs AS
                SELECT doc, doc * 7919 % {SHARES} AS x FROM generate_series(0, {rows} / 5) doc;
             CREATE UNIQUE INDEX ON {name}_docs (doc);
             CREATE INDEX ON {name}_docs (x);
             ANALYZE {name}_allowed; ANALYZE {name}_docs"
        ))?;
        client.batch_execute(&format!("VACUUM ANALYZE {name}"))?;
        client.batch_execute(&format!("VACUUM ANALYZE {name}_queries"))?;
        Ok(queries)
    }
}

impl Table {
    /// A distance within which a query finds some twenty rows.
    ///
    /// # Errors
    /// If a statement fails.
    pub(super) fn radius(&self, client: &mut Client, queries: &Vectors) -> Result<f64> {
        let query = literal(queries.row(0));
        let name = self.name;
        let row = client.query_one(
            &format!("SELECT embedding <-> {query} AS d FROM {name} ORDER BY d OFFSET 19 LIMIT 1"),
            &[],
        )?;
        Ok(row.try_get(0)?)
    }
}

fn literal(query: &[f32]) -> String {
    let values: Vec<String> = query.iter().map(f32::to_string).collect();
    format!("'[{}]'", values.join(","))
}

impl Situation {
    /// The nearest rows of a table, with defaults for everything else.
    #[must_use]
    pub fn nearest(table: &'static str, limit: usize) -> Self {
        Self {
            table,
            limit: Some(limit),
            filters: &[],
            probes: 0,
            shape: Shape::Plain,
        }
    }

    /// The query for a vector, and a distance if it has one.
    pub(super) fn sql(&self, query: &[f32], radius: f64) -> String {
        let Self { table, .. } = self;
        let query = match self.shape {
            Shape::Lateral | Shape::LateralWithin => "q.embedding".to_owned(),
            _ => literal(query),
        };
        let filters = self.filters.iter();
        let mut conditions: Vec<String> = filters
            .map(|(column, share)| format!("t.{column} < {share}"))
            .collect();
        let distance = format!("t.embedding <-> {query}");
        conditions.extend(self.shape.limit(&distance, radius));
        match self.shape {
            Shape::Allowed => conditions.push(format!("t.id IN (SELECT id FROM {table}_allowed)")),
            Shape::Docs => conditions.push(format!("d.x < {}", SHARES / 100)),
            _ => {}
        }
        let filter = match conditions.join(" AND ") {
            none if none.is_empty() => none,
            all => format!("WHERE {all}"),
        };
        let limit = self
            .limit
            .map_or(String::new(), |limit| format!("LIMIT {limit}"));
        let of = |tables: &str, columns: &str, query: &str, key: &str| {
            format!(
                "SELECT {columns} FROM {tables} {filter} ORDER BY t.embedding <-> {query}{key} {limit}"
            )
        };
        let search =
            |columns: &str, query: &str, key: &str| of(&format!("{table} t"), columns, query, key);
        match self.shape {
            Shape::Plain | Shape::Allowed | Shape::Within | Shape::Negated | Shape::Between => {
                search("t.id", &query, "")
            }
            Shape::Wide => search("t.*", &query, ""),
            Shape::FurtherKey => search("t.id", &query, ", t.id"),
            Shape::Lateral | Shape::LateralWithin => format!(
                "SELECT n.id FROM {table}_queries q, LATERAL ({}) n",
                search("t.id", &query, "")
            ),
            Shape::Join => {
                let tables = format!("{table} t JOIN {table}_queries q ON q.id = t.kind");
                of(&tables, "t.id, q.id", &query, "")
            }
            Shape::Docs => {
                let tables = format!("{table} t JOIN {table}_docs d ON d.doc = t.doc");
                of(&tables, "t.id, d.doc", &query, "")
            }
        }
    }
}

/// The tables: of a few seconds, or of full size and of more kinds.
#[must_use]
pub fn tables(full: bool) -> Vec<Table> {
    let table = |name, rows, dim| Table {
        name,
        rows,
        dim,
        element: "vector",
        rest: "",
    };
    let mut tables = vec![
        table("tiny", 50, 8),
        table("small", 2_000, 128),
        table("narrow", 100_000, 16),
        table("texts", if full { 20_000 } else { 8_000 }, 384),
        table("toasted", if full { 20_000 } else { 5_000 }, 768),
        Table {
            rest: "WHERE bucket < 10000",
            ..table("partial", 20_000, 16)
        },
    ];
    if full {
        tables.extend([
            table("many", 100_000, 384),
            table("flat", 30_000, 3),
            table("long", 6_000, 1_536),
            Table {
                element: "halfvec",
                ..table("half", 20_000, 200)
            },
            Table {
                rest: "WITH (bits = 8)",
                ..table("wide_codes", 50_000, 64)
            },
            Table {
                rest: "WITH (refine = none)",
                ..table("unrefined", 5_000, 768)
            },
        ]);
    }
    tables
}

/// A tenth of the rows by each of two columns.
const BOTH: &[(&str, u32)] = &[("bucket", 10_000), ("loose", 10_000)];

pub(super) fn situations_of(table: &Table) -> Vec<Situation> {
    let plain = |limit| Situation::nearest(table.name, limit);
    let filtered = |limit, filters| Situation {
        filters,
        ..plain(limit)
    };
    let probing = |probes, limit| Situation {
        probes,
        ..plain(limit)
    };
    let shaped = |limit, shape| Situation {
        shape,
        ..plain(limit)
    };
    let all = |shape| Situation {
        limit: None,
        shape,
        ..plain(1)
    };
    let endless = all(Shape::Plain);
    match table.name {
        "tiny" => vec![plain(10), endless],
        "partial" => vec![
            filtered(10, &[("bucket", 10_000)]),
            filtered(100, &[("bucket", 5_000)]),
        ],
        _ => vec![
            plain(1),
            plain(10),
            plain(100),
            plain(1_000),
            plain(table.rows / 10),
            plain(2 * table.rows),
            endless,
            probing(2, 10),
            probing(32_768, 10),
            filtered(10, &[("bucket", 50_000)]),
            filtered(10, &[("bucket", 10_000)]),
            filtered(10, &[("bucket", 1_000)]),
            filtered(10, &[("bucket", 100)]),
            filtered(10, &[("bucket", 10)]),
            filtered(100, &[("bucket", 10_000)]),
            filtered(10, &[("loose", 10_000)]),
            filtered(10, &[("loose", 1_000)]),
            filtered(10, &[("spot", 10_000)]),
            filtered(10, &[("spot", 1_000)]),
            filtered(10, BOTH),
            shaped(100, Shape::Wide),
            shaped(10, Shape::FurtherKey),
            shaped(5, Shape::Lateral),
            shaped(10, Shape::Join),
            shaped(10, Shape::Allowed),
            shaped(10, Shape::Docs),
            shaped(10, Shape::Negated),
            all(Shape::Within),
            all(Shape::Between),
            all(Shape::LateralWithin),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_enough_situations() {
        for full in [false, true] {
            let count: usize = tables(full).iter().map(|t| situations_of(t).len()).sum();
            assert!(count >= 24, "{count}");
        }
    }
}
