//! Statements: a search, what stands around it, and how its rows are fetched.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::verdict::Wanted;
use super::world::{Layout, QUERIES, World};
use super::{any, one_in};

/// Who is to answer a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A search by the index.
    Index,
    /// A sequential scan, of the rows that an index holds.
    Table,
    /// The same, of all rows that fulfil the conditions, whatever LIMIT and OFFSET are.
    Universe,
}

/// The vector that is searched for.
#[derive(Clone, Debug)]
enum Query {
    /// A constant, or a parameter.
    Value(String),
    /// That of a row of the table, by a sub-select.
    OfRow(i64),
    /// That of a row of `queries`, by a sub-select.
    Listed(i32),
    /// That of the outer row.
    Outer,
}

/// A limit of the distance.
#[derive(Clone, Debug)]
struct Radius {
    form: Form,
    value: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Below,
    AtMost,
    /// `value > distance`.
    Turned,
    /// `value >= distance`, the vectors the other way round than in ORDER BY.
    Swapped,
    /// From the value less a half.
    Between,
    /// With an alternative, so that it limits nothing.
    OrElse,
    /// `NOT distance >= value`.
    Negated,
}

#[derive(Clone, Debug)]
enum Bound {
    Value(String),
    Listed(i32),
    Outer,
}

/// A condition on other columns.
#[derive(Clone, Debug)]
enum Filter {
    Sql(&'static str),
    Category(String),
    Ids(i64, i64),
    OuterCategory,
}

/// What a search goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Table,
    /// With `labels`, which drops rows.
    Join,
    LeftJoin,
    /// The parts of a divided table.
    Union,
}

/// What stands around a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frame {
    Bare,
    Subquery,
    With,
    WithMaterialized,
    /// A search for every row of `queries`.
    Lateral,
    LeftLateral,
    /// The same as an expression, which gives one row.
    Scalar,
    Exists,
    In,
    /// Two searches, one after the other.
    UnionAll,
    /// Numbered by a window function, which LIMIT and OFFSET become conditions on.
    Window,
    Delete,
    Update,
    /// Into the table that is searched.
    Insert,
}

const FRAMES: [Frame; 14] = [
    Frame::Bare,
    Frame::Subquery,
    Frame::With,
    Frame::WithMaterialized,
    Frame::Lateral,
    Frame::LeftLateral,
    Frame::Scalar,
    Frame::Exists,
    Frame::In,
    Frame::UnionAll,
    Frame::Window,
    Frame::Delete,
    Frame::Update,
    Frame::Insert,
];

impl Frame {
    fn is_lateral(self) -> bool {
        matches!(self, Frame::Lateral | Frame::LeftLateral | Frame::Scalar)
    }

    /// Whether rows are changed.
    pub fn changes(self) -> bool {
        matches!(self, Frame::Delete | Frame::Update | Frame::Insert)
    }

    /// Whether the rows come in the order of the search.
    fn keeps_order(self) -> bool {
        !matches!(
            self,
            Frame::Exists | Frame::In | Frame::Delete | Frame::Update
        )
    }
}

/// How the rows are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Plain,
    /// By a prepared statement with a generic plan, executed for NULLs before.
    Prepared,
    /// In pieces, with changes between them; a cursor that scrolls goes back at the end.
    Cursor {
        scroll: bool,
        pieces: Vec<u32>,
        changes: Vec<String>,
    },
    /// By a loop in PL/pgSQL.
    Loop,
}

/// A statement that returns numbers of searches, ids of rows, and distances.
#[derive(Clone, Debug)]
pub struct Statement {
    pub frame: Frame,
    pub delivery: Delivery,
    source: Source,
    query: Query,
    /// Whether the query stands before the column.
    swapped: bool,
    filters: Vec<Filter>,
    radius: Option<Radius>,
    limit: Option<i64>,
    offset: Option<i64>,
    /// Whether the id settles ties.
    by_id: bool,
    lock: Option<&'static str>,
}

/// SQL with its parameters.
pub struct Text {
    pub sql: String,
    /// Types and values; empty if values stand in the SQL.
    pub parameters: Vec<(String, String)>,
}

impl Statement {
    /// One at random. `distance` evaluates an expression that gives one.
    pub fn new(
        world: &mut World,
        random: &mut ChaCha8Rng,
        distance: &mut dyn FnMut(&str) -> Option<f64>,
    ) -> Self {
        let frame = if one_in(random, 3) {
            Frame::Bare
        } else {
            any(random, &FRAMES)
        };
        let mut statement = Statement {
            frame,
            delivery: Delivery::Plain,
            source: source(world, frame, random),
            query: query(world, frame, random),
            swapped: one_in(random, 5),
            filters: filters(world, frame, random),
            radius: None,
            limit: limit(random),
            offset: one_in(random, 5).then(|| random.random_range(0..40)),
            by_id: one_in(random, 6),
            lock: None,
        };
        if frame == Frame::Scalar {
            statement.limit = Some(1);
        }
        if one_in(random, 4) {
            statement.radius = Some(statement.some_radius(world, random, distance));
        }
        statement.delivery = statement.some_delivery(world, random);
        statement.lock = statement.some_lock(random);
        statement
    }

    /// What a LIMIT and an OFFSET leave of each search.
    pub fn wanted(&self, world: &World) -> Wanted {
        Wanted {
            offset: self.offset.unwrap_or(0) as usize,
            by_id: self.by_id && self.frame.keeps_order(),
            ordered: self.frame.keeps_order(),
            mixed: self.by_id || world.is_divided(),
        }
    }

    /// Whether the distance is limited.
    pub fn has_radius(&self) -> bool {
        self.radius.is_some()
    }

    /// Whether it can be run in a transaction beside one that changes the same rows.
    pub fn locks(&self) -> bool {
        let changes =
            matches!(&self.delivery, Delivery::Cursor { changes, .. } if !changes.is_empty());
        self.lock.is_some() || self.frame.changes() || changes
    }

    /// Whether rows that another transaction locks are left out.
    pub fn skips_locked(&self) -> bool {
        self.lock.is_some_and(|lock| lock.ends_with("SKIP LOCKED"))
    }

    /// Whether it is of no use without a transaction, or must be rolled back.
    pub fn needs_transaction(&self) -> bool {
        self.locks() || matches!(self.delivery, Delivery::Cursor { .. })
    }

    fn some_radius(
        &self,
        world: &World,
        random: &mut ChaCha8Rng,
        distance: &mut dyn FnMut(&str) -> Option<f64>,
    ) -> Radius {
        let form = any(
            random,
            &[
                Form::Below,
                Form::Below,
                Form::AtMost,
                Form::Turned,
                Form::Swapped,
                Form::Between,
                Form::OrElse,
                Form::Negated,
            ],
        );
        let mut text = Renderer::of_values(Side::Table);
        let value = match random.random_range(0..12) {
            0 => Bound::Value("'NaN'".to_owned()),
            1 => Bound::Value("NULL".to_owned()),
            2 => Bound::Value(any(random, &["0", "-1", "1", "0.5", "'Infinity'"]).to_owned()),
            3 => Bound::Listed(random.random_range(0..QUERIES)),
            4..8 if self.frame.is_lateral() => Bound::Outer,
            _ if self.frame.is_lateral() => Bound::Value("1.5".to_owned()),
            _ => {
                let query = self.query(world, &mut text);
                let (target, operator) = (world.target(""), world.metric.operator());
                let id = world.some_id(random);
                let sql = format!("SELECT {target} {operator} {query} FROM items WHERE id = {id}");
                Bound::Value(distance(&sql).map_or("NULL".to_owned(), |x| format!("'{x:?}'")))
            }
        };
        Radius { form, value }
    }

    fn some_delivery(&self, world: &mut World, random: &mut ChaCha8Rng) -> Delivery {
        match random.random_range(0..6) {
            0 | 1 => Delivery::Prepared,
            2 if !self.frame.changes() => Delivery::Cursor {
                scroll: one_in(random, 2),
                pieces: (0..4).map(|_| random.random_range(1..60)).collect(),
                changes: if one_in(random, 2) {
                    world.changes(random)
                } else {
                    Vec::new()
                },
            },
            3 if !self.frame.changes() => Delivery::Loop,
            _ => Delivery::Plain,
        }
    }

    fn some_lock(&self, random: &mut ChaCha8Rng) -> Option<&'static str> {
        let scrolls = matches!(self.delivery, Delivery::Cursor { scroll: true, .. });
        // Rows changed meanwhile cannot be locked any more: which ones come before that depends on the order of ties.
        let changes =
            matches!(&self.delivery, Delivery::Cursor { changes, .. } if !changes.is_empty());
        let may = matches!(self.frame, Frame::Bare | Frame::Subquery)
            && self.source != Source::Union
            && !scrolls
            && !changes;
        (may && one_in(random, 5)).then(|| {
            any(
                random,
                &[
                    "FOR UPDATE OF i",
                    "FOR SHARE OF i",
                    "FOR UPDATE OF i SKIP LOCKED",
                ],
            )
        })
    }

    /// The statement for one side, with or without parameters.
    pub fn text(&self, world: &World, side: Side, prepared: bool) -> Text {
        let mut text = Renderer {
            side,
            parameters: prepared.then(Vec::new),
        };
        let sql = self.framed(world, &mut text);
        Text {
            sql,
            parameters: text.parameters.unwrap_or_default(),
        }
    }

    fn framed(&self, world: &World, text: &mut Renderer) -> String {
        let core = self.core(world, "0", text);
        match self.frame {
            Frame::Lateral | Frame::LeftLateral => return self.lateral(&core),
            Frame::Scalar if text.side == Side::Universe => return self.lateral(&core),
            Frame::Scalar => return scalar(&core),
            Frame::UnionAll => {
                return format!("({core}) UNION ALL ({})", self.core(world, "1", text));
            }
            _ if text.side == Side::Universe => return core,
            _ => {}
        }
        let mut of_outer = |condition: String| {
            let distance = self.distance(world, "o.", text);
            format!("SELECT 0 AS n, o.id, {distance} FROM items o WHERE {condition}")
        };
        match self.frame {
            Frame::Subquery => format!("SELECT n, id, d FROM ({core}) s"),
            Frame::With => format!("WITH s AS ({core}) SELECT n, id, d FROM s"),
            Frame::WithMaterialized => {
                format!("WITH s AS MATERIALIZED ({core}) SELECT n, id, d FROM s")
            }
            Frame::Exists => of_outer(format!("EXISTS (SELECT FROM ({core}) s WHERE s.id = o.id)")),
            Frame::In => of_outer(format!("o.id IN (SELECT s.id FROM ({core}) s)")),
            Frame::Window => self.window(world, text),
            Frame::Delete => format!(
                "DELETE FROM items t USING ({core}) s WHERE t.id = s.id RETURNING s.n, s.id, s.d"
            ),
            Frame::Update => format!(
                "UPDATE items t SET note = 'found' FROM ({core}) s WHERE t.id = s.id RETURNING s.n, s.id, s.d"
            ),
            Frame::Insert => self.insert(world, &core, text),
            _ => core,
        }
    }

    /// The search itself.
    fn core(&self, world: &World, number: &str, text: &mut Renderer) -> String {
        let distance = self.distance(world, "i.", text);
        let tie = if self.by_id { ", i.id" } else { "" };
        format!(
            "SELECT {number} AS n, i.id, {distance}{COLUMNS_END}{} WHERE {} ORDER BY {distance}{tie}{}{}",
            self.source(world),
            self.conditions(world, text),
            self.limits(text),
            self.lock
                .map_or_else(String::new, |lock| format!(" {lock}"))
        )
    }

    fn source(&self, world: &World) -> &'static str {
        match self.source {
            Source::Table => "items i",
            Source::Join => "items i JOIN labels l ON l.item = i.id AND l.label < 3",
            Source::LeftJoin => "items i LEFT JOIN labels l ON l.item = i.id",
            Source::Union if world.layout == Layout::Inherited => {
                "(SELECT * FROM ONLY items UNION ALL SELECT * FROM vq_child) i"
            }
            Source::Union => {
                "(SELECT id, category, price, note, embedding FROM vq_two
                  UNION ALL SELECT id, category, price, note, embedding FROM vq_one) i"
            }
        }
    }

    fn distance(&self, world: &World, alias: &str, text: &mut Renderer) -> String {
        let (target, operator) = (world.target(alias), world.metric.operator());
        let query = self.query(world, text);
        if self.swapped {
            format!("{query} {operator} {target}")
        } else {
            format!("{target} {operator} {query}")
        }
    }

    fn query(&self, world: &World, text: &mut Renderer) -> String {
        match &self.query {
            Query::Value(value) => text.value(world.searched().0, value),
            Query::OfRow(id) => format!("(SELECT {} FROM items WHERE id = {id})", world.target("")),
            Query::Listed(n) => format!("(SELECT v FROM queries WHERE n = {n})"),
            Query::Outer => "q.v".to_owned(),
        }
    }

    fn conditions(&self, world: &World, text: &mut Renderer) -> String {
        let mut all: Vec<String> = world.predicate.iter().map(|p| (*p).to_owned()).collect();
        for filter in &self.filters {
            all.push(match filter {
                Filter::Sql(sql) => (*sql).to_owned(),
                Filter::Category(value) => format!("category = {}", text.value("int", value)),
                Filter::Ids(low, high) => format!(
                    "i.id BETWEEN {} AND {}",
                    text.value("bigint", &low.to_string()),
                    text.value("bigint", &high.to_string())
                ),
                Filter::OuterCategory => "category = q.c".to_owned(),
            });
        }
        if let Some(radius) = &self.radius {
            all.push(self.within(world, radius, text));
        }
        if text.side != Side::Index {
            all.push(world.indexed("i."));
        }
        if all.is_empty() {
            "true".to_owned()
        } else {
            all.join(" AND ")
        }
    }

    fn within(&self, world: &World, radius: &Radius, text: &mut Renderer) -> String {
        let distance = self.distance(world, "i.", text);
        let value = match &radius.value {
            Bound::Value(value) => text.value("float8", value),
            Bound::Listed(n) => format!("(SELECT r FROM queries WHERE n = {n})"),
            Bound::Outer => "q.r".to_owned(),
        };
        match radius.form {
            Form::Below => format!("{distance} < {value}"),
            Form::AtMost => format!("{distance} <= {value}"),
            Form::Turned => format!("{value} > {distance}"),
            Form::Swapped => {
                let other = Statement {
                    swapped: !self.swapped,
                    ..self.clone()
                };
                format!("{value} >= {}", other.distance(world, "i.", text))
            }
            Form::Between => format!("{distance} BETWEEN {value} - 0.5::float8 AND {value}"),
            Form::OrElse => format!("({distance} < {value} OR i.id % 5 = 1)"),
            Form::Negated => format!("NOT {distance} >= {value}"),
        }
    }

    fn limits(&self, text: &mut Renderer) -> String {
        if text.side == Side::Universe {
            return String::new();
        }
        let mut sql = String::new();
        if self.frame == Frame::Scalar {
            sql += " LIMIT 1"; // as a parameter it could be NULL
        } else if let Some(limit) = self.limit {
            sql += &format!(" LIMIT {}", text.value("bigint", &limit.to_string()));
        }
        if let Some(offset) = self.offset {
            sql += &format!(" OFFSET {}", text.value("bigint", &offset.to_string()));
        }
        sql
    }

    fn lateral(&self, core: &str) -> String {
        let core = core.replacen("SELECT 0 AS n, ", "SELECT ", 1);
        let join = if self.frame == Frame::Lateral {
            format!("CROSS JOIN LATERAL ({core}) s")
        } else {
            format!("LEFT JOIN LATERAL ({core}) s ON true WHERE s.id IS NOT NULL")
        };
        format!("SELECT q.n, s.id, s.d FROM queries q {join}")
    }

    fn window(&self, world: &World, text: &mut Renderer) -> String {
        let distance = self.distance(world, "i.", text);
        let tie = if self.by_id { ", i.id" } else { "" };
        let (source, conditions) = (self.source(world), self.conditions(world, text));
        let offset = self.offset.unwrap_or(0);
        let mut numbers = format!("r > {}", text.value("bigint", &offset.to_string()));
        if let Some(limit) = self.limit {
            numbers += &format!(
                " AND r <= {}",
                text.value("bigint", &(offset + limit).to_string())
            );
        }
        format!(
            "SELECT n, id, d FROM (SELECT 0 AS n, i.id, {distance} AS d, row_number() OVER (ORDER BY {distance}{tie}) AS r
             FROM {source} WHERE {conditions}) w WHERE {numbers}"
        )
    }

    /// Rows found are inserted again, under other ids.
    fn insert(&self, world: &World, core: &str, text: &mut Renderer) -> String {
        let (_, rest) = core.split_once(COLUMNS_END).unwrap();
        format!(
            "INSERT INTO items AS t (id, category, price, note, embedding)
             SELECT i.id + 1000000, i.category, i.price, i.note, i.embedding FROM {rest}
             RETURNING 0, t.id - 1000000, {}",
            self.distance(world, "t.", text)
        )
    }
}

/// What ends the columns of a search.
const COLUMNS_END: &str = " AS d FROM ";

/// The nearest row of each query, as an expression.
fn scalar(core: &str) -> String {
    let array = core
        .replacen("SELECT 0 AS n, i.id, ", "SELECT ARRAY[i.id, ", 1)
        .replacen(COLUMNS_END, "] FROM ", 1);
    format!(
        "SELECT n, a[1]::bigint, a[2] FROM (SELECT q.n, ({array}) a FROM queries q OFFSET 0) s WHERE a IS NOT NULL"
    )
}

/// Writes values, or numbers of parameters.
struct Renderer {
    side: Side,
    parameters: Option<Vec<(String, String)>>,
}

impl Renderer {
    fn of_values(side: Side) -> Self {
        Renderer {
            side,
            parameters: None,
        }
    }

    fn value(&mut self, kind: &str, value: &str) -> String {
        let Some(parameters) = &mut self.parameters else {
            return if value.ends_with(kind) {
                value.to_owned()
            } else {
                format!("{value}::{kind}")
            };
        };
        let new = (kind.to_owned(), value.to_owned());
        let known = parameters.iter().position(|old| *old == new);
        let number = known.unwrap_or_else(|| {
            parameters.push(new);
            parameters.len() - 1
        });
        format!("${}", number + 1)
    }
}

fn source(world: &World, frame: Frame, random: &mut ChaCha8Rng) -> Source {
    let plain = frame.changes() || frame.is_lateral();
    match random.random_range(0..8) {
        0 if !plain => Source::Join,
        1 if !plain => Source::LeftJoin,
        2 | 3 if !plain && world.is_divided() => Source::Union,
        _ => Source::Table,
    }
}

fn query(world: &World, frame: Frame, random: &mut ChaCha8Rng) -> Query {
    if frame.is_lateral() {
        return Query::Outer;
    }
    match random.random_range(0..8) {
        0 => Query::OfRow(world.some_id(random)),
        1 => Query::Listed(random.random_range(0..QUERIES)),
        _ => Query::Value(world.query(random)),
    }
}

fn limit(random: &mut ChaCha8Rng) -> Option<i64> {
    match random.random_range(0..10) {
        0 => None,
        1 => Some(random.random_range(0..3)),
        2 => Some(random.random_range(100..4_000)),
        _ => Some(random.random_range(1..60)),
    }
}

fn filters(world: &World, frame: Frame, random: &mut ChaCha8Rng) -> Vec<Filter> {
    const SQL: [&str; 10] = [
        "category IS NULL",
        "category IN (1, 3)",
        "price < 0.2",
        "price IS NOT NULL",
        "note LIKE 'note 4%'",
        "i.id % 7 = 3",
        "i.embedding IS NOT NULL",
        "category = (SELECT c FROM queries WHERE n = 1)",
        "i.id IN (SELECT item FROM labels WHERE label = 1)",
        "NOT EXISTS (SELECT FROM labels WHERE item = i.id AND label = 2)",
    ];
    let mut filters = Vec::new();
    if frame.is_lateral() && one_in(random, 3) {
        filters.push(Filter::OuterCategory);
    }
    while one_in(random, 3) && filters.len() < 3 {
        let first = world.some_id(random);
        filters.push(match random.random_range(0..4) {
            0 => Filter::Category(any(random, &["0", "1", "3", "77", "NULL"]).to_owned()),
            1 => Filter::Ids(first, first + random.random_range(0..500)),
            _ => Filter::Sql(any(random, &SQL)),
        });
    }
    filters
}
