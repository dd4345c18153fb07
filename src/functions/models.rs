//! The table of trained models, `distillvq.model`.
//!
//! It belongs to the extension's owner and nobody else may read it; a model's owner is the role that trained or imported
//! it, and only its members may train it anew, export or drop it. Any role may build an index with a model by name.

use crate::error::{Error, Result, or_raise};
use crate::pg::spi::{as_extension_owner, current_user};
use distillvq_quantizer::{Metric, Model, Report};
use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_extern};

/// Whether the role `$2` may replace the model `m`: a member of its owner's role, or a superuser if that role is gone.
macro_rules! may_replace {
    () => {
        "coalesce(pg_has_role($2::name, (SELECT oid FROM pg_roles WHERE rolname = m.owner), 'USAGE'), \
         (SELECT rolsuper FROM pg_roles WHERE rolname = $2::name))"
    };
}

/// Bytes that a model may have: about the largest that PostgreSQL can send as a parameter and decode in reasonable memory.
const MOST_BYTES: usize = 256 << 20;

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
            let rows = client.select(query, Some(1), &[DatumWithOid::from(name)])?;
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
            let rows = client.select(query, Some(1), &[DatumWithOid::from(name)])?;
            Ok::<bool, pgrx::spi::Error>(!rows.is_empty())
        })
    })??;
    if exists || !indexes_of(name)?.is_empty() {
        Ok(())
    } else {
        Err(Error::NoModel(name.to_owned()))
    }
}

/// The bytes of a model.
fn body(name: &str) -> Result<Vec<u8>> {
    let query = "SELECT body FROM distillvq.model WHERE name = $1";
    let body = as_extension_owner(|| {
        Spi::connect(|client| {
            let rows = client.select(query, Some(1), &[DatumWithOid::from(name)])?;
            if rows.is_empty() {
                Ok(None)
            } else {
                rows.first().get_one::<Vec<u8>>()
            }
        })
    })??;
    body.ok_or_else(|| Error::NoModel(name.to_owned()))
}

/// The bytes of a model, for another database.
#[pg_extern]
fn distillvq_export_model(name: Option<&str>) -> Vec<u8> {
    let name = or_raise(name.ok_or(Error::Null("name")));
    or_raise(check_owner(name).and_then(|()| body(name)))
}

/// Stores a model that was exported, under a name.
#[pg_extern]
fn distillvq_import_model(name: Option<&str>, body: Option<&[u8]>, replace: Option<bool>) {
    let name = or_raise(name.ok_or(Error::Null("name")));
    let body = or_raise(body.ok_or(Error::Null("body")));
    or_raise(import(name, body, replace.unwrap_or(false)));
}

fn import(name: &str, body: &[u8], replace: bool) -> Result<()> {
    if body.len() > MOST_BYTES {
        return Err(Error::LargeModel {
            bytes: body.len(),
            most: MOST_BYTES,
        });
    }
    check_new(name)?;
    let model = Model::from_bytes(body).map_err(|source| Error::Import {
        name: name.to_owned(),
        source,
    })?;
    let report = model.report().clone();
    if replace {
        store(name, &model, &report)
    } else if write(name, &model, &report, NEW)? == 0 {
        Err(Error::ModelExists(name.to_owned()))
    } else {
        Ok(())
    }
}

/// Forgets a model. Indexes keep the copies in their pages, but need it by name to be rebuilt.
#[pg_extern]
fn distillvq_drop_model(name: Option<&str>, force: Option<bool>) {
    let name = or_raise(name.ok_or(Error::Null("name")));
    or_raise(drop_model(name, force.unwrap_or(false)));
}

fn drop_model(name: &str, force: bool) -> Result<()> {
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
        may_replace!()
    );
    let user = current_user();
    let dropped = as_extension_owner(|| {
        let arguments = [DatumWithOid::from(name), DatumWithOid::from(user.as_str())];
        Spi::connect_mut(|client| {
            client
                .update(statement, None, &arguments)
                .map(|dropped| dropped.len())
        })
    })??;
    if dropped == 0 {
        Err(Error::NoModel(name.to_owned()))
    } else {
        Ok(())
    }
}

/// The indexes of this database that name a model in their options.
fn indexes_of(name: &str) -> Result<Vec<String>> {
    let query = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
                 JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am a ON a.oid = c.relam \
                 WHERE a.amname = 'distillvq' AND 'model=' || $1 = ANY (c.reloptions) ORDER BY 1";
    as_extension_owner(|| {
        Spi::connect(|client| {
            let rows = client.select(query, None, &[DatumWithOid::from(name)])?;
            let names = rows.filter_map(|row| row.get::<String>(1).transpose());
            Ok(names.collect::<std::result::Result<_, _>>()?)
        })
    })?
}

/// Bytes that a model's name may have. The names of table and column, which make one by default, have 127 together.
const MOST_NAME_BYTES: usize = 255;

/// Refuses a name that the current user cannot give to a model: an empty or a long one, and one that is somebody else's.
pub fn check_new(name: &str) -> Result<()> {
    if !(1..=MOST_NAME_BYTES).contains(&name.len()) {
        return Err(Error::NameLength {
            bytes: name.len(),
            most: MOST_NAME_BYTES,
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
            let rows = client.select(
                query,
                Some(1),
                &[DatumWithOid::from(name), DatumWithOid::from(user.as_str())],
            )?;
            if rows.is_empty() {
                Ok(None)
            } else {
                rows.first().get_one::<String>()
            }
        })
    })??;
    owner.map_or(Ok(()), |owner| {
        Err(Error::ModelOwner {
            name: name.to_owned(),
            owner,
        })
    })
}

/// Leaves an earlier model of the name alone.
const NEW: &str = "DO NOTHING";
/// Puts the model in the place of an earlier one of the name.
const REPLACE: &str = concat!(
    "(name) DO UPDATE SET metric = excluded.metric, dimensions = excluded.dimensions, lists = excluded.lists, \
     subquantizers = excluded.subquantizers, bits = excluded.bits, rows = excluded.rows, \
     queries = excluded.queries, recall_before = excluded.recall_before, recall_after = excluded.recall_after, \
     trained = excluded.trained, body = excluded.body WHERE ",
    may_replace!()
);

/// Stores a model under a name, in place of an earlier one.
pub fn store(name: &str, model: &Model, report: &Report) -> Result<()> {
    // Nothing written: since the first look somebody else has taken the name.
    if write(name, model, report, REPLACE)? == 0 {
        check_owner(name)
    } else {
        Ok(())
    }
}

/// Writes a model unless the rule for conflicts forbids it. Returns the number of rows written.
fn write(name: &str, model: &Model, report: &Report, conflict: &str) -> Result<usize> {
    let statement = format!(
        "INSERT INTO distillvq.model AS m (name, owner, metric, dimensions, lists, subquantizers, bits, rows, queries, \
         recall_before, recall_after, trained, body) \
         VALUES ($1, $2::name, $3, $4, $5, $6, $7, $8, $9, $10, $11, now(), $12) ON CONFLICT {conflict}"
    );
    let body = model.to_bytes().map_err(|source| Error::Model {
        name: name.to_owned(),
        source,
    })?;
    let user = current_user();
    let metric = model.metric().to_string();
    as_extension_owner(|| {
        let arguments: [DatumWithOid<'_>; 12] = [
            name.into(),
            user.as_str().into(),
            metric.as_str().into(),
            (model.dim() as i32).into(),
            (model.lists() as i32).into(),
            (model.subquantizers() as i32).into(),
            i32::from(model.bits()).into(),
            i64::try_from(report.rows).unwrap_or(i64::MAX).into(),
            i64::try_from(report.queries).unwrap_or(i64::MAX).into(),
            report.recall_before.into(),
            report.recall_after.into(),
            body.into(),
        ];
        Spi::connect_mut(|client| {
            let written = client.update(statement.as_str(), None, &arguments)?;
            Ok(written.len())
        })
    })?
}
