//! What an index stores of a vector: the one rule for builds, inserts and the check.

use crate::error::Error;
use crate::index_meta::Meta;
use crate::pq::Row;
use crate::{Metric, Model, Tid};
use distillvq_model::{Encoded, EncodedRows, Placement};
use std::convert::Infallible;

/// How vectors become rows of an index: plain values, fit for a worker.
#[derive(Clone, Copy, Debug)]
pub struct RowEncoder<'a> {
    model: Option<&'a Model>,
    metric: Metric,
    dim: usize,
    refine: bool,
}

impl<'a> RowEncoder<'a> {
    /// For the index of this metapage, whose model is given, `None` if it is untrained.
    pub fn new(meta: &Meta, model: Option<&'a Model>) -> Result<Self, Error> {
        if meta.has_model() != model.is_some() {
            return Err(Error::mismatch("the model is not that of the index"));
        }
        Ok(RowEncoder {
            model,
            metric: meta.metric,
            dim: meta.dim,
            refine: meta.refine,
        })
    }

    /// The model of the index.
    pub(crate) fn model(&self) -> Option<&'a Model> {
        self.model
    }

    /// Encodes row-major vectors.
    pub fn encode(&self, vectors: &[f32]) -> EncodedRows {
        let Ok(encoded) = self.try_encode(vectors, || Ok::<_, Infallible>(()));
        encoded
    }

    /// As [`RowEncoder::encode`]; calls `check_interrupts` every few milliseconds.
    ///
    /// # Errors
    /// The first error of `check_interrupts`.
    pub fn try_encode<E: Send>(
        &self,
        vectors: &[f32],
        check_interrupts: impl Fn() -> Result<(), E> + Sync + Send,
    ) -> Result<EncodedRows, E> {
        match self.model {
            Some(model) => model.try_encode(vectors, self.refine, check_interrupts),
            None => Ok(self.untrained(vectors)),
        }
    }

    /// Without a model all rows are in the exact list, but for those that no search could find.
    fn untrained(&self, vectors: &[f32]) -> EncodedRows {
        let one = |vector: &[f32]| {
            let zero = self.metric == Metric::Cosine && vector.iter().all(|&x| x == 0.0);
            let placement = if zero {
                Placement::Unindexed
            } else {
                Placement::Exact
            };
            Encoded {
                placement,
                correction_code: 0,
                norm: 0.0,
            }
        };
        EncodedRows {
            rows: vectors.chunks_exact(self.dim.max(1)).map(one).collect(),
            ..EncodedRows::default()
        }
    }
}

impl<'a> Row<'a> {
    /// The first entry of the `i`-th encoded row, without values of filter columns; `None` if it is not to be indexed.
    pub fn of(meta: &Meta, encoded: &'a EncodedRows, i: usize, tid: Tid) -> Option<Row<'a>> {
        Row::entry(meta, encoded, (&encoded.rows, &encoded.codes), (i, tid))
    }

    /// The second entry of the same row, `None` if it has none.
    pub fn second_entry(
        meta: &Meta,
        encoded: &'a EncodedRows,
        i: usize,
        tid: Tid,
    ) -> Option<Row<'a>> {
        let second = (&*encoded.second_rows, &*encoded.second_codes);
        Row::entry(meta, encoded, second, (i, tid.second()))
    }

    fn entry(
        meta: &Meta,
        encoded: &'a EncodedRows,
        (entries, codes): (&[Encoded], &'a [u8]),
        (i, tid): (usize, Tid),
    ) -> Option<Row<'a>> {
        let one = entries.get(i)?;
        let list = match one.placement {
            Placement::List(list) => list,
            Placement::Exact => meta.exact_list(),
            Placement::Unindexed => return None,
        };
        let part = |all: &'a [u8], width: usize| all.get(i * width..(i + 1) * width);
        Some(Row {
            list,
            tid,
            scale: one.correction_code,
            norm: one.norm,
            codes: part(codes, meta.shape.subquantizers).unwrap_or_default(),
            refine: part(&encoded.refine, meta.refine_bytes()).unwrap_or_default(),
            filters: &[],
        })
    }
}
