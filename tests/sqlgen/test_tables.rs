//! The tables of a round.

mod rows;
mod target;

use distillvq_harness::Metric;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{access, any, one_in};
use rows::model_of;
pub use target::Target;
use target::predicate;

/// Rows of `queries`.
pub const QUERIES: i32 = 6;
/// Fewer rows than this are not learned from: such an index compares all of them.
const MIN_TRAINED_ROWS: i64 = 1_000;

/// Filter columns of an index.
const FILTER_COLUMNS: [&str; 7] = [
    "",
    "",
    ", category",
    ", id, price",
    ", note, category",
    ", (string_to_array(note, ' ')), category",
    ", price, category, (id % 7), id, note",
];

/// How `items` is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Plain,
    Unlogged,
    Temporary,
    /// Two partitions, the columns of the second in another order.
    Partitioned,
    /// A table with a child.
    Inherited,
}

/// How vectors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In groups.
    Groups,
    /// Everywhere.
    Noise,
    /// On few points, so that most distances are ties.
    Grid,
    /// Twenty-five of them, many times each.
    Copies,
    /// Of lengths over some magnitudes.
    Lengths,
    /// On a line.
    Line,
}

/// The tables of a round.
#[derive(Debug)]
pub struct TestTables {
    /// Type of the column.
    pub kind: &'static str,
    pub dim: usize,
    pub metric: Metric,
    pub layout: Layout,
    pub target: Target,
    pub shape: Shape,
    /// Condition of the index.
    pub predicate: Option<&'static str>,
    /// Its filter columns, each behind a comma.
    pub filter_columns: &'static str,
    /// Parameters of the index.
    pub options: String,
    /// Rows when the index is built, and those that come later.
    pub built: i64,
    pub grown: i64,
    /// Whether the column is added to a table that has rows, which get its default.
    pub late_column: bool,
    /// Whether plans are run by a parallel worker.
    pub parallel: bool,
    /// Whether an index was built over enough rows to be trained.
    trained: bool,
    /// Whether VACUUM, or autovacuum at any time, trains an index once there are enough rows.
    auto_train: bool,
    /// Id of the next row.
    pub next: i64,
}

impl TestTables {
    /// One at random.
    pub fn new(random: &mut ChaCha8Rng) -> Self {
        let dim = any(random, &[1, 2, 3, 3, 4, 8, 13, 16, 32, 64]);
        let kind = any(random, &["vector", "vector", "halfvec"]);
        let target = match random.random_range(0..8) {
            0 if kind == "vector" => Target::Halved,
            1 if dim > 2 => Target::Part(dim / 2),
            2 => Target::Model,
            3 => Target::Checked,
            _ => Target::Column,
        };
        let built = match random.random_range(0..5) {
            0 => random.random_range(0..MIN_TRAINED_ROWS - 100),
            _ => random.random_range(1_200..2_800),
        };
        let late_column = one_in(random, 6);
        let parallel = one_in(random, 8);
        let auto_train = one_in(random, 2);
        TestTables {
            kind,
            dim,
            metric: any(random, &Metric::ALL),
            layout: any(
                random,
                &[
                    Layout::Plain,
                    Layout::Plain,
                    Layout::Unlogged,
                    Layout::Temporary,
                    Layout::Partitioned,
                    Layout::Inherited,
                ],
            ),
            target,
            shape: any(
                random,
                &[
                    Shape::Groups,
                    Shape::Noise,
                    Shape::Grid,
                    Shape::Copies,
                    Shape::Lengths,
                    Shape::Line,
                ],
            ),
            predicate: predicate(target, random),
            filter_columns: any(random, &FILTER_COLUMNS),
            options: options(random, auto_train),
            built,
            grown: random.random_range(0..400),
            late_column,
            parallel,
            trained: built >= MIN_TRAINED_ROWS,
            auto_train,
            next: 0,
        }
    }

    /// Whether an index may be one that was trained.
    pub fn may_be_trained(&self) -> bool {
        self.trained || self.auto_train && self.next >= MIN_TRAINED_ROWS
    }

    /// Whether `items` consists of several tables.
    pub fn is_divided(&self) -> bool {
        matches!(self.layout, Layout::Partitioned | Layout::Inherited)
    }

    /// The tables that rows are in, and that they are searched in.
    fn parts(&self) -> &'static [&'static str] {
        match self.layout {
            Layout::Partitioned => &["items", "vq_one", "vq_two"],
            Layout::Inherited => &["items", "vq_child"],
            _ => &["items"],
        }
    }

    /// The statements that make everything.
    pub fn set_up(&mut self, random: &mut ChaCha8Rng) -> Vec<String> {
        let mut statements = vec![
            "DROP TABLE IF EXISTS vq_child, items, queries, labels CASCADE".to_owned(),
            format!(
                "SELECT setseed({})",
                random.random_range(0..100) as f64 / 100.0
            ),
        ];
        statements.extend(self.tables());
        if self.late_column {
            statements.push(format!(
                "ALTER TABLE items ADD COLUMN embedding {} DEFAULT {}",
                self.column_type(),
                self.default()
            ));
        }
        statements.extend(self.insert(self.built - self.next));
        statements.extend(self.others(random));
        statements.extend(access::grants(self.parts()));
        statements.extend(self.indexes());
        statements.extend(self.insert(self.grown));
        statements.push("ANALYZE items, queries, labels".to_owned());
        statements
    }

    /// `items`, empty but for rows that come before its vectors.
    fn tables(&mut self) -> Vec<String> {
        let embedding = format!(", embedding {}", self.column_type());
        let embedding = if self.late_column { "" } else { &embedding };
        let rest = format!("model int, category int, price float8, note text{embedding}");
        let cut = self.built * 2 / 3;
        let mut statements = match self.layout {
            Layout::Partitioned => vec![
                format!("CREATE TABLE items (id bigint, {rest}) PARTITION BY RANGE (id)"),
                format!(
                    "CREATE TABLE vq_one PARTITION OF items FOR VALUES FROM (MINVALUE) TO ({cut})"
                ),
                format!(
                    "CREATE TABLE vq_two (gone int, note text, {}, id bigint)",
                    rest.replace("note text", "gone_too int")
                ),
                "ALTER TABLE vq_two DROP COLUMN gone, DROP COLUMN gone_too".to_owned(),
                format!(
                    "ALTER TABLE items ATTACH PARTITION vq_two FOR VALUES FROM ({cut}) TO (MAXVALUE)"
                ),
            ],
            Layout::Inherited => vec![
                format!("CREATE TABLE items (id bigint, {rest})"),
                "CREATE TABLE vq_child () INHERITS (items)".to_owned(),
            ],
            layout => {
                let word = match layout {
                    Layout::Unlogged => "UNLOGGED ",
                    Layout::Temporary => "TEMPORARY ",
                    _ => "",
                };
                vec![
                    format!(
                        "CREATE {word}TABLE items (gone float8, id bigint, {rest}) WITH (fillfactor = 60)"
                    ),
                    "ALTER TABLE items DROP COLUMN gone".to_owned(),
                ]
            }
        };
        if self.late_column {
            let rows = self.built.min(80);
            statements.push(format!(
                "INSERT INTO items (id, model, category, price, note) SELECT i, {}, i % 5, random(), 'early'
                 FROM generate_series(0, {}) i",
                model_of("i"),
                rows - 1
            ));
            self.next = rows;
        }
        statements
    }

    /// The tables that `items` is joined with.
    fn others(&self, random: &mut ChaCha8Rng) -> Vec<String> {
        let (kind, dim) = self.searched();
        let mut statements = vec![
            format!(
                "CREATE TABLE queries (n int PRIMARY KEY, v {kind}({dim}), r float8, c int, k bigint)"
            ),
            "CREATE TABLE labels (item bigint PRIMARY KEY, label int)".to_owned(),
            format!(
                "INSERT INTO labels SELECT i, i % 4 FROM generate_series(0, {}) i WHERE i % 3 <> 1",
                self.built
            ),
        ];
        for n in 0..QUERIES {
            let (v, c) = (self.query(random), random.random_range(0..6));
            let k = random.random_range(1..30);
            statements.push(format!(
                "INSERT INTO queries VALUES ({n}, {v}, (SELECT {} {} {v} FROM {}), {c}, {k})",
                self.target(""),
                self.metric.operator(),
                self.row(self.some_id(random))
            ));
        }
        statements
    }

    /// Statements that build the indexes: all of this access method have names that begin with `vq`.
    fn indexes(&self) -> Vec<String> {
        let (kind, _) = self.searched();
        let predicate = self
            .predicate
            .map_or_else(String::new, |p| format!("WHERE {p}"));
        let rest = format!(
            "USING distillvq ({} {kind}_{}_ops{}) {} {predicate}",
            self.target(""),
            self.metric.name(),
            self.filter_columns,
            self.options
        );
        let mut statements = vec![
            format!("CREATE INDEX vq_items ON items {rest}"),
            "CREATE INDEX of_id ON items (id)".to_owned(),
            "CREATE INDEX of_category ON items (category)".to_owned(),
        ];
        if self.layout == Layout::Inherited {
            statements.push(format!("CREATE INDEX vq_childs ON vq_child {rest}"));
            statements.push("CREATE INDEX of_child ON vq_child (id)".to_owned());
        }
        statements
    }

    /// Builds all indexes anew.
    pub fn reindex(&mut self) -> String {
        self.trained |= self.next >= MIN_TRAINED_ROWS;
        "REINDEX TABLE items".to_owned()
    }
}

fn options(random: &mut ChaCha8Rng, auto_train: bool) -> String {
    let mut options = Vec::new();
    if !auto_train {
        options.push("auto_train = off".to_owned());
    }
    if one_in(random, 3) {
        options.push("refine = sq7".to_owned());
    }
    if one_in(random, 4) {
        options.push("bits = 8".to_owned());
    }
    if one_in(random, 3) {
        options.push(format!("lists = {}", random.random_range(1..60)));
    }
    if options.is_empty() {
        String::new()
    } else {
        format!("WITH ({})", options.join(", "))
    }
}
