//! The table of trained models, `distillvq.model`.
//!
//! It belongs to the extension's owner and nobody else may write it; a model's owner is the role that trained or imported
//! it, and only its members may train it again, export or drop it. Any role may build an index with a model by name.
//!
//! An owner is kept as the role's number, of the type `distillvq.model_owner`, which dumps show as the role's name. So that
//! a role which owns models is not dropped unnoticed, it is granted what it has anyway: the usage of that type. The server
//! remembers that as it does any privilege: `DROP ROLE` refuses, `DROP OWNED` lets go.

use crate::error::{Error, Result};
use crate::pg::role::{as_extension_owner, current_user, quoted_role};
use crate::pg::spi::{text_at, texts};
use crate::pg::text;
use distillvq_model::{Metric, Model, TrainReport};
use pgrx::Spi;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use std::ffi::CString;

/// Whether the role `$2` may replace the model `m`: a member of its owner's role, or a superuser.
macro_rules! may_replace {
    () => {
        "pg_has_role($2, m.owner::oid, 'USAGE')"
    };
}

/// Bytes that a model may have: about the largest that PostgreSQL can send as a parameter and decode in reasonable memory.
const MAX_MODEL_BYTES: usize = 256 << 20;

/// Reads a model by name.
pub fn load(name: &str) -> Result<Model> {
    Model::from_bytes(&body(name)?).map_err(|source| Error::Model {
        name: name.to_owned(),
        source,
    })
}

/// Why an index over so many dimensions cannot be built with the model of a name; none if it can.
pub fn unfit(name: &str, metric: Metric, dim: usize) -> Result<Option<String>> {
    let query = "SELECT metric, dimensions FROM distillvq.model WHERE name = $1";
    let found = as_extension_owner(|| {
        Spi::connect(|client| {
            let rows = client.select(query, Some(1), &[text::argument(name)])?;
            if rows.is_empty() {
                Ok(None)
            } else {
                rows.first().get_two::<String, i32>().map(Some)
            }
        })
    })??;
    Ok(match found {
        None => Some("does not exist".to_owned()),
        Some((Some(of), Some(dimensions))) => {
            let fits = of == metric.to_string() && usize::try_from(dimensions) == Ok(dim);
            (!fits).then(|| format!("is for {dimensions} dimensions and {of}"))
        }
        Some(_) => None,
    })
}

/// Refuses a name in the options of an index that is no model's. A name that some index has already is let pass: its other
/// options can be changed although its model was dropped.
pub fn check_option(name: &str) -> Result<()> {
    let query = "SELECT 1 FROM distillvq.model WHERE name = $1";
    let exists = as_extension_owner(|| {
        Spi::connect(|client| {
            let rows = client.select(query, Some(1), &[text::argument(name)])?;
            Ok::<bool, pgrx::spi::Error>(!rows.is_empty())
        })
    })??;
    if exists || !indexes_of(name)?.is_empty() {
        Ok(())
    } else {
        Err(Error::NoModel(name.to_owned()))
    }
}

/// The bytes of a model, for anybody who builds an index with it.
fn body(name: &str) -> Result<Vec<u8>> {
    let query = "SELECT body FROM distillvq.model WHERE name = $1";
    selected_body(name, query, &[text::argument(name)])
}

/// The bytes of a model that the current user may export.
pub fn export(name: &str) -> Result<Vec<u8>> {
    check_owner(name)?;
    // The owner is checked again: between two queries it could change.
    let query = concat!(
        "SELECT body FROM distillvq.model m WHERE name = $1 AND ",
        may_replace!()
    );
    selected_body(name, query, &[text::argument(name), current_user().into()])
}

fn selected_body(name: &str, query: &str, arguments: &[DatumWithOid<'_>]) -> Result<Vec<u8>> {
    let body = as_extension_owner(|| {
        Spi::connect(|client| {
            let rows = client.select(query, Some(1), arguments)?;
            if rows.is_empty() {
                Ok(None)
            } else {
                rows.first().get_one::<Vec<u8>>()
            }
        })
    })??;
    body.ok_or_else(|| Error::NoModel(name.to_owned()))
}

/// Runs a statement that changes at most one model and returns its owner; none if it changed none.
fn changed(statement: &str, arguments: &[DatumWithOid<'_>]) -> Result<Option<Oid>> {
    Spi::connect_mut(|client| {
        let changed = client.update(statement, None, arguments)?;
        if changed.is_empty() {
            return Ok(None);
        }
        Ok(changed.first().get_one()?)
    })
}

/// Lets one session at a time change who owns models.
fn lock() -> Result<()> {
    let statement = "LOCK TABLE distillvq.model IN SHARE UPDATE EXCLUSIVE MODE";
    Spi::connect_mut(|client| client.update(statement, None, &[]).map(drop))?;
    Ok(())
}

/// A row if the server is to be told that models depend on a role.
const UNKNOWN: &str = "SELECT 'x' FROM pg_type t WHERE t.oid = 'distillvq.model_owner'::regtype AND t.typowner <> $1 \
                       AND NOT EXISTS (SELECT FROM aclexplode(t.typacl) a WHERE a.grantee = $1)";
/// A row if the server has been told, and no model depends on the role any more.
const OUTDATED: &str = "SELECT 'x' FROM pg_type t WHERE t.oid = 'distillvq.model_owner'::regtype AND t.typowner <> $1 \
                        AND EXISTS (SELECT FROM aclexplode(t.typacl) a WHERE a.grantee = $1) \
                        AND NOT EXISTS (SELECT FROM distillvq.model WHERE owner::oid = $1)";

/// Tells the server whether models depend on a role.
fn record_dependency(role: Oid) -> Result<()> {
    for (needed, verb, preposition) in [(UNKNOWN, "GRANT", "TO"), (OUTDATED, "REVOKE", "FROM")] {
        if let Some(name) = quoted_role(role)
            && !texts(needed, &[role.into()])?.is_empty()
        {
            let start = format!("{verb} USAGE ON TYPE distillvq.model_owner {preposition} ");
            // Names of roles need not be in the database's encoding.
            let statement = CString::new([start.as_bytes(), name.to_bytes()].concat());
            let statement = statement.unwrap_or_default();
            Spi::connect_mut(|client| client.update(&*statement, None, &[]).map(drop))?;
        }
    }
    Ok(())
}

/// The indexes of this database that name a model in their options.
fn indexes_of(name: &str) -> Result<Vec<String>> {
    let query = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
                 JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am a ON a.oid = c.relam \
                 WHERE a.amname = 'distillvq' AND 'model=' || $1 = ANY (c.reloptions) ORDER BY 1";
    as_extension_owner(|| texts(query, &[text::argument(name)]))?
}

/// Bytes that a model's name may have. The names of table and column, which make one by default, have 127 together.
const MAX_NAME_BYTES: usize = 255;

/// Refuses a name that the current user cannot give to a model: an empty or a long one, and one that is somebody else's.
pub fn check_name(name: &str) -> Result<()> {
    let bytes = text::to_server(name).len();
    if !(1..=MAX_NAME_BYTES).contains(&bytes) {
        return Err(Error::NameLength {
            bytes,
            most: MAX_NAME_BYTES,
        });
    }
    check_owner(name)
}

/// Refuses a name that is taken by a role of which the current user is no member.
fn check_owner(name: &str) -> Result<()> {
    let query = concat!(
        "SELECT owner::text FROM distillvq.model m WHERE name = $1 AND NOT ",
        may_replace!()
    );
    let user = current_user();
    let owner = as_extension_owner(|| {
        Spi::connect(|client| {
            let arguments = [text::argument(name), user.into()];
            let rows = client.select(query, Some(1), &arguments)?.first();
            text_at(&rows, 1)
        })
    })??;
    owner.map_or(Ok(()), |owner| {
        Err(Error::ModelOwner {
            name: name.to_owned(),
            owner: Some(owner).filter(|owner| !owner.is_empty()),
        })
    })
}

/// Leaves an earlier model of the name alone.
const NEW: &str = "DO NOTHING";
/// Puts the model in the place of an earlier one of the name.
const REPLACE: &str = concat!(
    "(name) DO UPDATE SET metric = excluded.metric, dimensions = excluded.dimensions, lists = excluded.lists, \
     subquantizers = excluded.subquantizers, bits = excluded.bits, assignments = excluded.assignments, rows = excluded.rows, \
     logged_queries = excluded.logged_queries, code_recall_before = excluded.code_recall_before, code_recall_after = excluded.code_recall_after, \
     trained_at = excluded.trained_at, body = excluded.body WHERE ",
    may_replace!()
);

/// Stores a model under a name, in place of an earlier one.
pub fn store(name: &str, model: &Model, report: &TrainReport) -> Result<()> {
    // Nothing written: since the first look somebody else has taken the name.
    if write(name, model, report, REPLACE)? {
        Ok(())
    } else {
        check_owner(name)
    }
}

/// Writes a model unless the rule for conflicts forbids it. Returns whether it did.
fn write(name: &str, model: &Model, report: &TrainReport, conflict: &str) -> Result<bool> {
    let statement = format!(
        "INSERT INTO distillvq.model AS m (name, owner, metric, dimensions, lists, subquantizers, bits, assignments, rows, \
         logged_queries, code_recall_before, code_recall_after, trained_at, body) \
         VALUES ($1, $2::distillvq.model_owner, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now(), $13) ON CONFLICT {conflict} RETURNING m.owner::oid"
    );
    let body = model.to_bytes().map_err(|source| Error::Model {
        name: name.to_owned(),
        source,
    })?;
    let user = current_user();
    let metric = model.metric().to_string();
    as_extension_owner(|| {
        lock()?;
        let arguments: [DatumWithOid<'_>; 13] = [
            text::argument(name),
            user.into(),
            text::argument(&metric),
            (model.dim() as i32).into(),
            (model.lists() as i32).into(),
            (model.subquantizers() as i32).into(),
            i32::from(model.bits()).into(),
            (model.assignments() as i32).into(),
            i64::try_from(report.rows).unwrap_or(i64::MAX).into(),
            i64::try_from(report.queries).unwrap_or(i64::MAX).into(),
            report.recall_before.into(),
            report.recall_after.into(),
            body.into(),
        ];
        let owner = changed(&statement, &arguments)?;
        if let Some(owner) = owner {
            record_dependency(owner)?;
        }
        Ok(owner.is_some())
    })?
}

pub fn import(name: &str, body: &[u8], replace: bool) -> Result<()> {
    if body.len() > MAX_MODEL_BYTES {
        return Err(Error::LargeModel {
            bytes: body.len(),
            most: MAX_MODEL_BYTES,
        });
    }
    check_name(name)?;
    let model = Model::from_bytes(body).map_err(|source| Error::Import {
        name: name.to_owned(),
        source,
    })?;
    let report = model.report().clone();
    if replace {
        store(name, &model, &report)
    } else if write(name, &model, &report, NEW)? {
        Ok(())
    } else {
        Err(Error::ModelExists(name.to_owned()))
    }
}

/// Deletes a model: indexes keep the copies in their pages, but need it by name to be rebuilt.
pub fn delete(name: &str, force: bool) -> Result<()> {
    check_owner(name)?;
    // Says so if there is none.
    body(name)?;
    let indexes = if force { Vec::new() } else { indexes_of(name)? };
    if !indexes.is_empty() {
        return Err(Error::ModelInUse {
            name: name.to_owned(),
            indexes,
        });
    }
    let statement = concat!(
        "DELETE FROM distillvq.model m WHERE name = $1 AND ",
        may_replace!(),
        " RETURNING owner::oid"
    );
    let user = current_user();
    let owner = as_extension_owner(|| -> Result<Option<Oid>> {
        lock()?;
        let arguments = [text::argument(name), user.into()];
        let owner = changed(statement, &arguments)?;
        if let Some(owner) = owner {
            record_dependency(owner)?;
        }
        Ok(owner)
    })??;
    match owner {
        Some(_) => Ok(()),
        None => Err(Error::NoModel(name.to_owned())),
    }
}
