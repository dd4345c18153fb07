//! Runs a statement with given settings, role, and way of fetching.

use distillvq_harness::Error;
use postgres::Client;

use super::computation::Record;
use super::statement::Text;
use super::{Access, Delivery, Distance, Row, Side, Statement, TestTables};

/// One answer to a statement.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    pub statement: &'a Statement,
    pub access: Access,
    /// What was run before, in the same transaction; without any there is no transaction.
    pub begun: &'a [String],
    pub settings: String,
    pub side: Side,
    pub delivery: Delivery,
}

/// A statement that failed, and why.
pub struct Failure {
    pub sql: String,
    /// SQLSTATE, empty if the server did not refuse it.
    pub state: String,
    pub error: String,
}

impl Failure {
    fn new(sql: &str, error: postgres::Error) -> Self {
        Failure {
            sql: sql.to_owned(),
            state: error.code().map_or("", |state| state.code()).to_owned(),
            error: format!("{:?}", Error::from(error)),
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// Makes what a session needs to run statements.
pub const PREPARE: &str = "CREATE FUNCTION pg_temp.run(sql text) RETURNS TABLE (n int, id bigint, d float8, ids bigint[], \"values\" float8[])
     LANGUAGE plpgsql AS $$ BEGIN FOR n, id, d, ids, \"values\" IN EXECUTE sql LOOP RETURN NEXT; END LOOP; END $$;
     SET plan_cache_mode = force_generic_plan; SET statement_timeout = '60s'";

impl<'a> Run<'a> {
    /// By the index, without settings.
    pub fn of(statement: &'a Statement, access: Access, begun: &'a [String]) -> Self {
        Run {
            statement,
            access,
            begun,
            settings: String::new(),
            side: Side::Index,
            delivery: statement.delivery.clone(),
        }
    }

    /// All of it, to be read and repeated.
    pub fn told(&self, tables: &TestTables) -> String {
        let text = self.text(tables);
        format!(
            "{};\n{};\n{};\n{:?} {:?}",
            self.begun.join(";\n"),
            self.prelude(),
            text.sql,
            text.parameters,
            self.delivery
        )
    }

    /// The statement.
    pub fn text(&self, tables: &TestTables) -> Text {
        self.statement
            .text(tables, self.side, self.delivery == Delivery::Prepared)
    }

    /// Settings and role.
    pub fn prelude(&self) -> String {
        format!(
            "{}; {}; {}",
            self.settings,
            self.statement.settings(),
            self.access.sql()
        )
    }

    /// The plan of the statement.
    pub fn plan(&self, session: &mut Client, tables: &TestTables) -> Result<String> {
        execute(session, &self.prelude())?;
        let text = self.text(tables);
        match &self.delivery {
            Delivery::Prepared => prepared(session, &text, |session, execution, _| {
                explain(session, execution)
            }),
            _ => explain(session, &text.sql),
        }
    }

    /// Runs the statement. In a transaction what it changes is rolled back.
    pub fn answer(&self, session: &mut Client, tables: &TestTables) -> Result<Vec<Record>> {
        execute(session, &self.prelude())?;
        let text = self.text(tables);
        if !self.begun.is_empty() {
            execute(session, "SAVEPOINT run")?;
        }
        let sql = &text.sql;
        let answer = match &self.delivery {
            Delivery::Plain => records(&query(session, sql)?),
            Delivery::Loop => {
                let looped = format!("SELECT * FROM pg_temp.run($sql${sql}$sql$)");
                records(&query(session, &looped)?)
            }
            Delivery::Prepared => prepared(session, &text, |session, execution, nulls| {
                if self.begun.is_empty() {
                    query(session, nulls)?;
                }
                Ok(records(&query(session, execution)?))
            })?,
            Delivery::Cursor {
                scroll,
                pieces,
                changes,
            } => cursor(session, sql, *scroll, pieces, changes)?,
        };
        if !self.begun.is_empty() {
            execute(session, "ROLLBACK TO run; RELEASE run")?;
        }
        Ok(answer)
    }
}

/// Prepares a statement, which has a generic plan, and runs `then` with its execution, and with one for NULLs.
fn prepared<T>(
    session: &mut Client,
    text: &Text,
    then: impl FnOnce(&mut Client, &str, &str) -> Result<T>,
) -> Result<T> {
    let list = |values: Vec<&str>| match values.join(", ") {
        values if values.is_empty() => values,
        values => format!("({values})"),
    };
    let types = list(text.parameters.iter().map(|p| &*p.0).collect());
    let values = list(text.parameters.iter().map(|p| &*p.1).collect());
    let nulls = list(vec!["NULL"; text.parameters.len()]);
    execute(session, &format!("PREPARE s{types} AS {}", text.sql))?;
    let result = then(
        session,
        &format!("EXECUTE s{values}"),
        &format!("EXECUTE s{nulls}"),
    )?;
    execute(session, "DEALLOCATE s")?;
    Ok(result)
}

/// Fetches in pieces, with changes between them.
fn cursor(
    session: &mut Client,
    sql: &str,
    scroll: bool,
    pieces: &[u32],
    changes: &[String],
) -> Result<Vec<Record>> {
    let kind = if scroll { "SCROLL" } else { "NO SCROLL" };
    execute(session, &format!("DECLARE c {kind} CURSOR FOR {sql}"))?;
    let mut found = Vec::new();
    for (piece, size) in pieces.iter().cycle().enumerate() {
        let more = records(&query(session, &format!("FETCH {size} FROM c"))?);
        let is_last = more.len() < *size as usize;
        found.extend(more);
        if is_last {
            break;
        }
        if let Some(change) = changes.get(piece) {
            execute(session, change)?;
        }
    }
    if scroll {
        let mut back = records(&query(session, "FETCH BACKWARD ALL FROM c")?);
        back.reverse();
        if back != found {
            return Err(Failure {
                sql: sql.to_owned(),
                state: String::new(),
                error: format!("forward {found:?}\nbackward {back:?}"),
            });
        }
    }
    execute(session, "CLOSE c")?;
    Ok(found)
}

fn explain(session: &mut Client, sql: &str) -> Result<String> {
    let lines = query(session, &format!("EXPLAIN (COSTS OFF) {sql}"))?;
    let text = |all: String, line: &postgres::Row| all + line.get::<_, &str>(0) + "\n";
    Ok(lines.iter().fold(String::new(), text))
}

/// Runs statements that return nothing.
pub fn execute(session: &mut Client, sql: &str) -> Result<()> {
    let done = session.batch_execute(sql);
    done.map_err(|error| Failure::new(sql, error))
}

pub fn query(session: &mut Client, sql: &str) -> Result<Vec<postgres::Row>> {
    let rows = session.query(sql, &[]);
    rows.map_err(|error| Failure::new(sql, error))
}

fn records(rows: &[postgres::Row]) -> Vec<Record> {
    let record = |row: &postgres::Row| {
        let (mut ids, mut values) = (None, None);
        if row.len() > 3 {
            (ids, values) = (row.get(3), row.get(4));
        }
        let values: Option<Vec<Option<f64>>> = values;
        Record {
            row: Row {
                search: row.get(0),
                id: row.get(1),
                distance: Distance(row.get(2)),
            },
            ids: ids.unwrap_or_default(),
            values: values
                .unwrap_or_default()
                .into_iter()
                .map(Distance)
                .collect(),
        }
    };
    rows.iter().map(record).collect()
}
