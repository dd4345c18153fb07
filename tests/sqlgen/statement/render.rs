//! Statements as SQL.

use std::mem::replace;

use super::*;
use crate::sqlgen::computation::{Computation, Inputs, OTHER_SQL};

impl Statement {
    /// The statement for one side, with or without parameters.
    pub fn text(&self, tables: &TestTables, side: Side, prepared: bool) -> Text {
        let mut text = Renderer {
            side,
            parameters: prepared.then(Vec::new),
        };
        let sql = self.framed(tables, &mut text);
        Text {
            sql,
            parameters: text.parameters.unwrap_or_default(),
        }
    }

    fn framed(&self, tables: &TestTables, text: &mut Renderer) -> String {
        let core = self.core(tables, "0", text);
        match self.frame {
            Frame::Lateral | Frame::LeftLateral => return self.lateral(&core),
            Frame::Scalar if text.side == Side::Universe => return self.lateral(&core),
            Frame::Scalar => return self.scalar(tables, text),
            Frame::UnionAll => {
                return format!("({core}) UNION ALL ({})", self.core(tables, "1", text));
            }
            Frame::Computed(computation) if text.side != Side::Universe => {
                return self.computed(tables, computation, text);
            }
            _ if text.side == Side::Universe => return core,
            _ => {}
        }
        let mut of_outer = |condition: String| {
            let distance = self.distance(tables, "o.", text);
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
            Frame::Window => self.window(tables, text),
            Frame::Delete => format!(
                "DELETE FROM items t USING ({core}) s WHERE t.id = s.id RETURNING s.n, s.id, s.d"
            ),
            Frame::Update => format!(
                "UPDATE items t SET note = 'found' FROM ({core}) s WHERE t.id = s.id RETURNING s.n, s.id, s.d"
            ),
            Frame::Insert => self.insert(tables, text),
            _ => core,
        }
    }

    /// The search itself: its number, ids and distances.
    fn core(&self, tables: &TestTables, number: &str, text: &mut Renderer) -> String {
        let distance = self.distance(tables, "i.", text);
        self.search(
            tables,
            &format!("{number} AS n, i.id, {distance} AS d"),
            text,
        )
    }

    /// A search for some columns.
    fn search(&self, tables: &TestTables, columns: &str, text: &mut Renderer) -> String {
        let distance = self.distance(tables, "i.", text);
        let tie = if self.by_id { ", i.id" } else { "" };
        format!(
            "SELECT {columns} FROM {} WHERE {} ORDER BY {distance}{tie}{}{}",
            self.source(tables),
            self.conditions(tables, text),
            self.limits(text),
            self.lock
                .map_or_else(String::new, |lock| format!(" {lock}"))
        )
    }

    /// A computation over a search, which sorts its rows only if not all of them are wanted. Rows that an index leaves out
    /// are left out on all sides, since only a part of the plan may be by an index.
    fn computed(
        &self,
        tables: &TestTables,
        computation: Computation,
        text: &mut Renderer,
    ) -> String {
        let distance = self.distance(tables, "i.", text);
        let from = format!("FROM {}", self.source(tables));
        let side = replace(&mut text.side, Side::Table);
        let conditions = self.conditions(tables, text);
        let columns = format!("i.id, {distance} AS d, category");
        let search = if self.limit.is_some() || self.offset.is_some() {
            self.search(tables, &columns, text)
        } else {
            format!("SELECT {columns} {from} WHERE {conditions}")
        };
        text.side = side;
        let other =
            format!("SELECT i.id, {distance} AS d {from} WHERE {conditions} AND {OTHER_SQL}");
        computation.sql(&Inputs { search, other })
    }

    fn source(&self, tables: &TestTables) -> &'static str {
        match self.source {
            Source::Table => "items i",
            Source::Join => "items i JOIN labels l ON l.item = i.id AND l.label < 3",
            Source::LeftJoin => "items i LEFT JOIN labels l ON l.item = i.id",
            Source::Union if tables.layout == Layout::Inherited => {
                "(SELECT * FROM ONLY items UNION ALL SELECT * FROM vq_child) i"
            }
            Source::Union => {
                "(SELECT id, model, category, price, note, embedding FROM vq_two
                  UNION ALL SELECT id, model, category, price, note, embedding FROM vq_one) i"
            }
        }
    }

    fn distance(&self, tables: &TestTables, alias: &str, text: &mut Renderer) -> String {
        let (target, operator) = (tables.target(alias), tables.metric.operator());
        let query = self.query(tables, text);
        if self.swapped {
            format!("{query} {operator} {target}")
        } else {
            format!("{target} {operator} {query}")
        }
    }

    pub(super) fn query(&self, tables: &TestTables, text: &mut Renderer) -> String {
        match &self.query {
            Query::Value(value) => text.value(tables.searched().0, value),
            Query::OfRow(id) => format!("(SELECT {} FROM {})", tables.target(""), tables.row(*id)),
            Query::Listed(n) => format!("(SELECT v FROM queries WHERE n = {n})"),
            Query::Outer => "q.v".to_owned(),
        }
    }

    fn conditions(&self, tables: &TestTables, text: &mut Renderer) -> String {
        let mut all: Vec<String> = tables.predicate.iter().map(|p| (*p).to_owned()).collect();
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
            all.push(self.within(tables, radius, text));
        }
        if text.side != Side::Index {
            all.push(tables.indexed("i."));
        }
        if all.is_empty() {
            "true".to_owned()
        } else {
            all.join(" AND ")
        }
    }

    fn within(&self, tables: &TestTables, radius: &Radius, text: &mut Renderer) -> String {
        let distance = self.distance(tables, "i.", text);
        let swapped = Statement {
            swapped: !self.swapped,
            ..self.clone()
        };
        let bound = match &radius.bound {
            Bound::Value(value) => text.value("float8", value),
            Bound::Listed(n) => format!("(SELECT r FROM queries WHERE n = {n})"),
            Bound::Outer => "q.r".to_owned(),
        };
        let swapped = swapped.distance(tables, "i.", text);
        radius.form.sql(&distance, &swapped, &bound)
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

    fn window(&self, tables: &TestTables, text: &mut Renderer) -> String {
        let distance = self.distance(tables, "i.", text);
        let tie = if self.by_id { ", i.id" } else { "" };
        let (source, conditions) = (self.source(tables), self.conditions(tables, text));
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
    fn insert(&self, tables: &TestTables, text: &mut Renderer) -> String {
        format!(
            "INSERT INTO items AS t (id, model, category, price, note, embedding) {}
             RETURNING 0, t.id - 1000000, {}",
            self.search(
                tables,
                "i.id + 1000000, i.model, i.category, i.price, i.note, i.embedding",
                text
            ),
            self.distance(tables, "t.", text)
        )
    }

    /// The nearest row of each query, as an expression.
    fn scalar(&self, tables: &TestTables, text: &mut Renderer) -> String {
        let distance = self.distance(tables, "i.", text);
        let array = self.search(tables, &format!("ARRAY[i.id, {distance}]"), text);
        format!(
            "SELECT n, a[1]::bigint, a[2] FROM (SELECT q.n, ({array}) a FROM queries q OFFSET 0) s WHERE a IS NOT NULL"
        )
    }
}

/// Writes values, or numbers of parameters.
pub(super) struct Renderer {
    side: Side,
    parameters: Option<Vec<(String, String)>>,
}

impl Renderer {
    pub(super) fn of_values(side: Side) -> Self {
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
