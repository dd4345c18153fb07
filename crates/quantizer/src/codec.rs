//! A model as bytes: an envelope of ours around a body written by bincode (standard configuration).
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | magic `DVQMODEL` |
//! | 8 | 4 | format version, little-endian |
//! | 12 | 8 | length of the body |
//! | 20 | 4 | CRC-32C of version, length and body |
//! | 24 | … | body |
//!
//! Everything about the encoding is in this module, so that another one could take its place in a later version.

use crate::ModelError;
use crate::model::Body;
use bincode::serde::{decode_from_slice, encode_to_vec};

const MAGIC: &[u8; 8] = b"DVQMODEL";
const VERSION: u32 = 1;
const HEADER: usize = 24;

/// The bytes of a model.
pub(crate) fn to_bytes(body: &Body) -> Result<Vec<u8>, ModelError> {
    let body = encode_to_vec(body, bincode::config::standard())
        .map_err(|e| ModelError::Body(e.to_string()))?;
    Ok(wrap(VERSION, &body))
}

fn wrap(version: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let crc = checksum(&bytes[8..20], body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// The body in these bytes. Its numbers are not checked yet.
///
/// bincode reserves memory by what has been read, not by what a length announces, so hostile lengths cost nothing.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Body, ModelError> {
    let body = unwrap(bytes)?;
    let (decoded, used): (Body, usize) = decode_from_slice(body, bincode::config::standard())
        .map_err(|e| ModelError::Body(e.to_string()))?;
    if used != body.len() {
        return Err(ModelError::Body(format!(
            "{} bytes are left over",
            body.len() - used
        )));
    }
    Ok(decoded)
}

/// Opens the envelope.
fn unwrap(bytes: &[u8]) -> Result<&[u8], ModelError> {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(ModelError::NotAModel);
    };
    let [
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        m6,
        m7,
        v0,
        v1,
        v2,
        v3,
        l0,
        l1,
        l2,
        l3,
        l4,
        l5,
        l6,
        l7,
        c0,
        c1,
        c2,
        c3,
    ] = *header;
    if &[m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC {
        return Err(ModelError::NotAModel);
    }
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if version != VERSION {
        return Err(ModelError::UnsupportedVersion {
            found: version,
            newest: VERSION,
        });
    }
    let expected = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
    if expected != body.len() as u64 {
        return Err(ModelError::Length {
            expected,
            found: body.len() as u64,
        });
    }
    let found = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(&header[8..20], body);
    if found != computed {
        return Err(ModelError::Checksum { found, computed });
    }
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Report, Routing, Tables};
    use crate::product::Codebooks;
    use crate::scale::Scale;
    use crate::space::Space;
    use crate::{Metric, Model};
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    fn body() -> Body {
        let books = |dim, m| {
            let mut books = Codebooks::zeros(dim, m, 16);
            books
                .values
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = i as f32 / 7.0);
            books
        };
        let tables = Tables {
            centroids: (0..15).map(|i| i as f32).collect(),
            books: books(5, 2),
        };
        Body {
            space: Space {
                metric: Metric::L2,
                dim: 5,
                center: vec![0.5; 5],
                unit: 1.0,
                longest: 10.0,
            },
            lists: 3,
            bits: 4,
            encoder: tables.clone(),
            decoder: Some(tables),
            routing: Some(Routing {
                vectors: vec![0.25; 15],
                biases: vec![0.0; 3],
            }),
            scale: Scale {
                lo: 0.9,
                step: 0.001,
            },
            report: Report {
                rows: 1000,
                recall_before: 0.5,
                recall_after: 0.6,
                ..Report::default()
            },
        }
    }

    #[test]
    fn round_trip() {
        let bytes = to_bytes(&body()).unwrap();
        assert_eq!(from_bytes(&bytes).unwrap(), body());
        let model = Model::from_bytes(&bytes).unwrap();
        assert_eq!(model.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn wrong_shapes_and_numbers_are_refused() {
        let spoil: [fn(&mut Body); 14] = [
            |b| b.space.dim = 0,
            |b| b.space.dim = usize::MAX,
            |b| b.lists = 0,
            |b| b.lists = usize::MAX,
            |b| b.bits = 5,
            |b| b.encoder.books.subquantizers = 0,
            |b| b.encoder.books.subquantizers = usize::MAX,
            |b| b.encoder.centroids[3] = f32::NAN,
            |b| {
                b.decoder
                    .as_mut()
                    .unwrap()
                    .books
                    .values
                    .pop()
                    .map_or((), |_| ())
            },
            |b| b.routing.as_mut().unwrap().biases[0] = f32::INFINITY,
            |b| b.scale.step = f32::NAN,
            |b| b.space.unit = 0.0,
            |b| b.space.center.clear(),
            |b| b.report.recall_after = f32::NAN,
        ];
        for (i, spoil) in spoil.into_iter().enumerate() {
            let mut body = body();
            spoil(&mut body);
            let bytes = to_bytes(&body).unwrap();
            assert!(
                matches!(Model::from_bytes(&bytes), Err(ModelError::Invalid { .. })),
                "{i}"
            );
        }
    }

    #[test]
    fn versions_to_come_are_named() {
        let bytes = wrap(7, b"whatever");
        assert_eq!(
            Model::from_bytes(&bytes).unwrap_err(),
            ModelError::UnsupportedVersion {
                found: 7,
                newest: 1
            }
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_bytes_are_errors(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let bytes = to_bytes(&body()).unwrap();
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(Model::from_bytes(&flipped).is_err());
            prop_assert!(Model::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        }

        /// Bodies that somebody gave a right checksum: still an error or a model that keeps every invariant.
        #[test]
        fn forged_bodies_do_no_harm(at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 1..12), cut in any::<prop::sample::Index>()) {
            let mut forged = to_bytes(&body()).unwrap().split_off(HEADER);
            let start = at.index(forged.len());
            for (old, new) in forged[start..].iter_mut().zip(&with) {
                *old = *new;
            }
            for body in [&forged[..], &forged[..cut.index(forged.len())]] {
                if let Ok(model) = Model::from_bytes(&wrap(VERSION, body)) {
                    let query = vec![0.5; model.dim()];
                    let tables = model.query(&query);
                    prop_assert_eq!(tables.ranking().len(), model.lists());
                    prop_assert_eq!(model.encode(&query).rows.len(), 1);
                }
            }
        }

        #[test]
        fn noise_is_no_model(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Model::from_bytes(&bytes).is_err());
            prop_assert!(Model::from_bytes(&wrap(VERSION, &bytes)).is_err());
        }
    }
}
