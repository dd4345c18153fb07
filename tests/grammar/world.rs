//! The tables of a round: what is in them, how they are made, and how they change.

use distillvq_harness::Metric;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{any, one_in};

/// Rows of `queries`.
pub const QUERIES: i32 = 6;
/// Fewer rows than this are not learned from: such an index compares all of them.
const LEAST_TRAINED: i64 = 1_000;

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

/// What is indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Column,
    /// The column, of type `vector`, as `halfvec`.
    Halved,
    /// Its first so many dimensions.
    Part(usize),
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
pub struct World {
    /// Type of the column.
    pub kind: &'static str,
    pub dim: usize,
    pub metric: Metric,
    pub layout: Layout,
    pub target: Target,
    pub shape: Shape,
    /// Condition of the index.
    pub predicate: Option<&'static str>,
    /// Parameters of the index.
    pub options: String,
    /// Rows when the index is built, and those that come later.
    pub built: i64,
    pub grown: i64,
    /// Whether the column is added to a table that has rows, which get its default.
    pub late_column: bool,
    /// Whether plans are run by a parallel worker.
    pub parallel: bool,
    /// Whether an index may be one that was trained.
    pub trained: bool,
    /// Id of the next row.
    pub next: i64,
}

impl World {
    /// One at random.
    pub fn new(random: &mut ChaCha8Rng) -> Self {
        let dim = any(random, &[1, 2, 3, 3, 4, 8, 13, 16, 32, 64]);
        let kind = any(random, &["vector", "vector", "halfvec"]);
        let target = match random.random_range(0..8) {
            0 if kind == "vector" => Target::Halved,
            1 if dim > 2 => Target::Part(dim / 2),
            _ => Target::Column,
        };
        let built = match random.random_range(0..5) {
            0 => random.random_range(0..LEAST_TRAINED - 100),
            _ => random.random_range(1_200..2_800),
        };
        let late_column = one_in(random, 6);
        let parallel = one_in(random, 8);
        World {
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
            predicate: one_in(random, 4).then(|| {
                any(
                    random,
                    &["category = 2", "price < 0.7", "category IS NOT NULL"],
                )
            }),
            options: options(random),
            built,
            grown: random.random_range(0..400),
            late_column,
            parallel,
            trained: built >= LEAST_TRAINED,
            next: 0,
        }
    }

    /// Whether `items` consists of several tables.
    pub fn is_divided(&self) -> bool {
        matches!(self.layout, Layout::Partitioned | Layout::Inherited)
    }

    /// Type and dimensions of what is indexed.
    pub fn searched(&self) -> (&'static str, usize) {
        match self.target {
            Target::Column => (self.kind, self.dim),
            Target::Halved => ("halfvec", self.dim),
            Target::Part(dim) => (self.kind, dim),
        }
    }

    /// What is indexed, in a table called `alias`.
    pub fn target(&self, alias: &str) -> String {
        let (kind, dim) = self.searched();
        match self.target {
            Target::Column => format!("{alias}embedding"),
            Target::Halved => format!("({alias}embedding::halfvec({dim}))"),
            Target::Part(_) => format!("(subvector({alias}embedding, 1, {dim})::{kind}({dim}))"),
        }
    }

    /// Which rows an index holds; what it leaves out, documented, no search by it returns.
    pub fn indexed(&self, alias: &str) -> String {
        let target = self.target(alias);
        match (self.metric, self.searched().0) {
            (Metric::Cosine, "halfvec") => format!("l2_norm({target}) > 0"),
            (Metric::Cosine, _) => format!("vector_norm({target}) > 0"),
            _ => format!("{target} IS NOT NULL"),
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
                "ALTER TABLE items ADD COLUMN embedding {}({}) DEFAULT {}",
                self.kind,
                self.dim,
                self.default()
            ));
        }
        statements.extend(self.insert(self.built - self.next));
        statements.extend(self.others(random));
        statements.extend(self.indexes());
        statements.extend(self.insert(self.grown));
        statements.push("ANALYZE items, queries, labels".to_owned());
        statements
    }

    /// `items`, empty but for rows that come before its vectors.
    fn tables(&mut self) -> Vec<String> {
        let embedding = format!(", embedding {}({})", self.kind, self.dim);
        let embedding = if self.late_column { "" } else { &embedding };
        let rest = format!("category int, price float8, note text{embedding}");
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
                "INSERT INTO items (id, category, price, note) SELECT i, i % 5, random(), 'early'
                 FROM generate_series(0, {}) i",
                rows - 1
            ));
            self.next = rows;
        }
        statements
    }

    /// Further rows: some without vector, some zero, some without category.
    pub fn insert(&mut self, rows: i64) -> Vec<String> {
        if rows <= 0 {
            return Vec::new();
        }
        let (first, last) = (self.next, self.next + rows - 1);
        self.next += rows;
        let child = (self.layout == Layout::Inherited).then_some("vq_child");
        let halves = [("items", "<="), (child.unwrap_or("items"), ">")];
        let middle = (first + last) / 2;
        let halves = halves.map(|(table, sign)| {
            format!(
                "INSERT INTO {table} (id, category, price, note, embedding)
                 SELECT i, nullif((random() * 6)::int, 6), nullif(round(random()::numeric, 2), 0.5), 'note ' || i % 9, {}
                 FROM generate_series({first}, {last}) i WHERE i {sign} {middle}",
                self.vector_of("i")
            )
        });
        halves.into()
    }

    /// The vector of a row whose number is in the column `i`.
    fn vector_of(&self, i: &str) -> String {
        let element = match self.shape {
            Shape::Groups => &format!("sin(7 * ({i} % 12) + 3 * d) * 2 + random() * 0.5"),
            Shape::Noise => "random() * 2 - 1",
            Shape::Grid => "floor(random() * 3) - 1",
            Shape::Copies => &format!("sin(({i} % 25) * 5 + d)"),
            Shape::Lengths => &format!("(random() - 0.5) * power(10, {i} % 6 - 3)"),
            Shape::Line => &format!("{i} * 0.001 + d % 3 - 1"),
        };
        format!(
            "CASE WHEN {i} % 37 = 3 THEN NULL WHEN {i} % 41 = 5 THEN array_fill(0, ARRAY[{dim}])
             ELSE ARRAY(SELECT {element} FROM generate_series(1, {dim}) d WHERE {i} IS NOT NULL) END::real[]::{kind}",
            dim = self.dim,
            kind = self.kind
        )
    }

    fn default(&self) -> String {
        format!(
            "array_fill(0.25, ARRAY[{}])::real[]::{}",
            self.dim, self.kind
        )
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
                "INSERT INTO queries VALUES ({n}, {v}, (SELECT {} {} {v} FROM items WHERE id = {}), {c}, {k})",
                self.target(""),
                self.metric.operator(),
                self.some_id(random)
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
            "USING distillvq ({} {kind}_{}_ops) {} {predicate}",
            self.target(""),
            self.metric.name(),
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

    /// The id of a row that there is, or was.
    pub fn some_id(&self, random: &mut ChaCha8Rng) -> i64 {
        random.random_range(0..self.next.max(1))
    }

    /// A query vector as SQL: near the rows, at one of them, far away, zero, or NULL.
    pub fn query(&self, random: &mut ChaCha8Rng) -> String {
        let (kind, dim) = self.searched();
        let group = random.random_range(0..12);
        let way = random.random_range(0..9);
        let mut element = |d: usize| -> f32 {
            let noise: f32 = random.random_range(-1.0..1.0);
            match way {
                0 => (noise * 1.5).round(),
                1 => noise * 100.0,
                2..5 => noise,
                _ => ((7 * group + 3 * (d + 1)) as f32).sin() * 2.0 + noise * 0.3,
            }
        };
        let elements: Vec<f32> = (0..dim).map(&mut element).collect();
        match random.random_range(0..20) {
            0 => format!("NULL::{kind}"),
            1 => format!("'[{}]'::{kind}", vec!["0"; dim].join(",")),
            _ => {
                let elements: Vec<String> = elements.iter().map(|x| format!("{x:.3}")).collect();
                format!("'[{}]'::{kind}", elements.join(","))
            }
        }
    }

    /// Builds all indexes anew.
    pub fn reindex(&mut self) -> String {
        self.trained |= self.next >= LEAST_TRAINED;
        "REINDEX TABLE items".to_owned()
    }

    /// Some changes to the rows.
    pub fn changes(&mut self, random: &mut ChaCha8Rng) -> Vec<String> {
        let seed = random.random_range(0..100) as f64 / 100.0;
        let mut statements = vec![format!("SELECT setseed({seed})")];
        for _ in 0..random.random_range(1..4) {
            let modulus = random.random_range(4..20);
            let some = format!("id % {modulus} = {}", random.random_range(0..modulus));
            let vector = self.vector_of("id");
            match random.random_range(0..5) {
                0 => statements.extend(self.insert(random.random_range(1..150))),
                1 => statements.push(format!(
                    "UPDATE items SET embedding = {vector} WHERE {some}"
                )),
                2 => statements.push(format!("UPDATE items SET note = note || '.' WHERE {some}")),
                3 => statements.push(format!(
                    "UPDATE items SET category = (random() * 5)::int WHERE {some}"
                )),
                _ => statements.push(format!("DELETE FROM items WHERE {some}")),
            }
        }
        statements
    }
}

fn options(random: &mut ChaCha8Rng) -> String {
    let mut options = Vec::new();
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
