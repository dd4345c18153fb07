//! The table of trained models, `distillvq.model`.
//!
//! It belongs to the extension's owner and nobody else may read it; a model's owner is the role that trained it, and only
//! its members may train it anew. Any role may build an index with a model by name.

use crate::error::{Error, Result};
use crate::pg::spi::{as_extension_owner, current_user};
use distillvq_quantizer::{Model, Report};
use pgrx::Spi;
use pgrx::datum::DatumWithOid;

/// Reads a model by name.
pub fn load(name: &str) -> Result<Model> {
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
    let body = body.ok_or_else(|| Error::NoModel(name.to_owned()))?;
    Model::from_bytes(&body).map_err(|source| Error::Model {
        name: name.to_owned(),
        source,
    })
}

/// Whether the role `$2` may replace the model `m`: a member of its owner's role, or a superuser if that role is gone.
macro_rules! may_replace {
    () => {
        "coalesce(pg_has_role($2::name, (SELECT oid FROM pg_roles WHERE rolname = m.owner), 'USAGE'), \
         (SELECT rolsuper FROM pg_roles WHERE rolname = $2::name))"
    };
}

/// Refuses a name that is taken by a role of which the current user is no member.
pub fn check_owner(name: &str) -> Result<()> {
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

/// Stores a model under a name, in place of an earlier one.
pub fn store(name: &str, model: &Model, report: &Report) -> Result<()> {
    let statement = concat!(
        "INSERT INTO distillvq.model AS m (name, owner, metric, dimensions, lists, subquantizers, bits, rows, queries, \
         recall_before, recall_after, trained, body) \
         VALUES ($1, $2::name, $3, $4, $5, $6, $7, $8, $9, $10, $11, now(), $12) \
         ON CONFLICT (name) DO UPDATE SET metric = excluded.metric, dimensions = excluded.dimensions, \
         lists = excluded.lists, subquantizers = excluded.subquantizers, bits = excluded.bits, rows = excluded.rows, \
         queries = excluded.queries, recall_before = excluded.recall_before, recall_after = excluded.recall_after, \
         trained = excluded.trained, body = excluded.body WHERE ",
        may_replace!()
    );
    let body = model.to_bytes().map_err(|source| Error::Model {
        name: name.to_owned(),
        source,
    })?;
    let user = current_user();
    let metric = model.metric().to_string();
    let written = as_extension_owner(|| {
        let arguments: [DatumWithOid<'_>; 12] = [
            name.into(),
            user.as_str().into(),
            metric.as_str().into(),
            (model.dim() as i32).into(),
            (model.lists() as i32).into(),
            (model.subquantizers() as i32).into(),
            i32::from(model.bits()).into(),
            (report.rows as i64).into(),
            (report.queries as i64).into(),
            report.recall_before.into(),
            report.recall_after.into(),
            body.into(),
        ];
        Spi::connect_mut(|client| {
            client
                .update(statement, None, &arguments)
                .map(|written| written.len())
        })
    })??;
    // Nothing written: since the first look somebody else has taken the name.
    if written == 0 {
        check_owner(name)
    } else {
        Ok(())
    }
}
