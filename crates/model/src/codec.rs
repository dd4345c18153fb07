//! A model as bytes: envelopes of ours, the encoder's, the student's and perhaps the held-out queries', around bodies written by bincode (standard
//! configuration).
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | magic `DVQENCOD`, `DVQSTUDT` or `DVQQUERY` |
//! | 8 | 4 | format version, little-endian |
//! | 12 | 8 | length of the body |
//! | 20 | 4 | CRC-32C of version, length and body |
//! | 24 | … | body |
//!
//! A student's body begins with the CRC-32C of all bytes of its encoder: it is refused with another one. A whole model
//! is the encoder's bytes with the student's behind them, and behind these those of the held-out queries if there are any.
//!
//! # Versions
//! One number covers all three envelopes. A library reads all versions up to its own, writes its own, and names a newer one
//! ([`ModelError::UnsupportedVersion`]).
//! ```text
//!   version   written by   difference to the version before
//!   1         0.1          the first
//! ```
//! Models of every released version are in `crates/ivf/tests/fixtures`. The feature `next-format` makes the library one of a
//! made-up next version, without a difference: the tests use it for models of the version before. The encoder in an index stays
//! in the version that it was written in, so a student that replaces another names the bytes of that encoder
//! ([`Model::student_bytes_for`](crate::Model::student_bytes_for)).
//!
//! Everything about the encoding is in this module, so that another one could take its place in a later version.

use crate::error::ModelError;
use crate::memory::can_allocate;
use crate::params::{Encoder, ModelData, Student};
use bincode::serde::{decode_from_slice, encode_to_vec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What an envelope holds.
type Magic = [u8; 8];

const ENCODER: Magic = *b"DVQENCOD";
const STUDENT: Magic = *b"DVQSTUDT";
const QUERIES: Magic = *b"DVQQUERY";
const VERSION: u32 = if cfg!(feature = "next-format") { 2 } else { 1 };
const HEADER: usize = 24;

/// The bytes of an encoder.
pub(crate) fn encoder_bytes(encoder: &Encoder) -> Result<Vec<u8>, ModelError> {
    Ok(wrap(ENCODER, VERSION, &encoded(encoder)?))
}

/// The bytes of a student that belongs to the encoder of these bytes.
pub(crate) fn student_bytes(student: &Student, encoder: &[u8]) -> Result<Vec<u8>, ModelError> {
    let body = encoded(&(crc32c::crc32c(encoder), student))?;
    Ok(wrap(STUDENT, VERSION, &body))
}

/// Held-out queries in their envelope.
#[derive(Serialize, Deserialize)]
struct HeldOut(#[serde(with = "crate::bf16")] Vec<f32>);

/// The bytes of held-out queries.
pub(crate) fn queries_bytes(queries: &[f32]) -> Result<Vec<u8>, ModelError> {
    Ok(wrap(
        QUERIES,
        VERSION,
        &encoded(&HeldOut(queries.to_vec()))?,
    ))
}

/// The body in the bytes of a whole model. Its numbers are not checked yet.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<ModelData, ModelError> {
    let (encoder, rest) = split(ENCODER, bytes)?;
    // What is wrong first is what is told, a version to come above all.
    unwrap(ENCODER, encoder)?;
    let (student, queries) = split(STUDENT, rest)?;
    let mut body = from_parts(encoder, student)?;
    if !queries.is_empty() {
        check_memory(queries.len())?;
        let HeldOut(held_out) = decoded(unwrap(QUERIES, queries)?)?;
        body.held_out = held_out;
    }
    Ok(body)
}

/// The envelope at the start, and what is behind it.
fn split(wanted: Magic, bytes: &[u8]) -> Result<(&[u8], &[u8]), ModelError> {
    let Header { magic, length, .. } = Header::read(bytes)?;
    let end = usize::try_from(length).ok();
    let end = end.and_then(|length| length.checked_add(HEADER));
    match end.and_then(|end| bytes.split_at_checked(end)) {
        Some(parts) if magic == wanted => Ok(parts),
        None if magic == wanted => Err(ModelError::Length {
            expected: length,
            found: (bytes.len() - HEADER) as u64,
        }),
        _ => Err(ModelError::NotAModel),
    }
}

/// What a model takes decoded, with all that is derived from it, is at most so many times its bytes: numbers of two bytes
/// become four, tables are kept in two orders, and the buffers of decoding grow by doubling.
const DECODED: usize = 8;

/// Whether so many bytes can be decoded.
fn check_memory(bytes: usize) -> Result<(), ModelError> {
    if can_allocate(bytes.saturating_mul(DECODED)) {
        Ok(())
    } else {
        Err(ModelError::OutOfMemory { bytes })
    }
}

/// The encoder in its bytes. Its numbers are not checked yet.
pub(crate) fn encoder(bytes: &[u8]) -> Result<Encoder, ModelError> {
    check_memory(bytes.len())?;
    decoded(unwrap(ENCODER, bytes)?)
}

/// The body in the bytes of both parts. Its numbers are not checked yet.
pub(crate) fn from_parts(encoder: &[u8], student: &[u8]) -> Result<ModelData, ModelError> {
    check_memory(encoder.len() + student.len())?;
    let body = decoded(unwrap(ENCODER, encoder)?)?;
    let (expected, student) = decoded(unwrap(STUDENT, student)?)?;
    let found = crc32c::crc32c(encoder);
    if found != expected {
        return Err(ModelError::OtherEncoder { expected, found });
    }
    Ok(ModelData {
        encoder: body,
        student,
        held_out: Vec::new(),
    })
}

fn encoded(body: &impl Serialize) -> Result<Vec<u8>, ModelError> {
    encode_to_vec(body, bincode::config::standard())
        .map_err(|e| ModelError::ModelData(e.to_string()))
}

/// bincode reserves memory by what has been read, not by what a length announces, so hostile lengths cost nothing.
fn decoded<T: DeserializeOwned>(body: &[u8]) -> Result<T, ModelError> {
    let (decoded, used): (T, usize) = decode_from_slice(body, bincode::config::standard())
        .map_err(|e| ModelError::ModelData(e.to_string()))?;
    if used != body.len() {
        return Err(ModelError::ModelData(format!(
            "{} bytes are left over",
            body.len() - used
        )));
    }
    Ok(decoded)
}

/// Puts a body into its envelope.
fn wrap(magic: Magic, version: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&magic);
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

/// What stands at the start of an envelope.
struct Header {
    magic: Magic,
    version: u32,
    length: u64,
    crc: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, ModelError> {
        Ok(Header {
            magic: field(bytes, 0)?,
            version: u32::from_le_bytes(field(bytes, 8)?),
            length: u64::from_le_bytes(field(bytes, 12)?),
            crc: u32::from_le_bytes(field(bytes, 20)?),
        })
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ModelError> {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.first_chunk().copied().ok_or(ModelError::NotAModel)
}

/// Opens an envelope.
fn unwrap(magic: Magic, bytes: &[u8]) -> Result<&[u8], ModelError> {
    let header = Header::read(bytes)?;
    let (head, body) = bytes.split_at(HEADER);
    if header.magic != magic || header.version == 0 {
        return Err(ModelError::NotAModel);
    }
    if header.version > VERSION {
        return Err(ModelError::UnsupportedVersion {
            found: header.version,
            newest: VERSION,
        });
    }
    if header.length != body.len() as u64 {
        return Err(ModelError::Length {
            expected: header.length,
            found: body.len() as u64,
        });
    }
    let computed = checksum(&head[8..20], body);
    if header.crc != computed {
        return Err(ModelError::Checksum {
            found: header.crc,
            computed,
        });
    }
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::codebooks::Codebooks;
    use crate::format::Metric;
    use crate::model::Model;
    use crate::norm_correction::NormCorrection;
    use crate::params::{Decoder, IvfPqTables, Routing, TrainReport};
    use crate::preprocess::Preprocess;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    fn body() -> ModelData {
        let books = |dim, m| {
            let mut books = Codebooks::zeros(dim, m, 16);
            books
                .values
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = i as f32 / 7.0);
            books
        };
        let tables = IvfPqTables {
            centroids: (0..15).map(|i| i as f32).collect(),
            books: books(5, 2),
        };
        ModelData {
            encoder: Encoder {
                space: Preprocess {
                    metric: Metric::L2,
                    dim: 5,
                    center: vec![0.5; 5],
                    scale_factor: 1.0,
                    max_norm: 10.0,
                    rotation: Vec::new(),
                },
                lists: 3,
                bits: 4,
                assignments: 1,
                tables: tables.clone(),
                scale: NormCorrection {
                    lo: 0.9,
                    step: 0.001,
                },
            },
            student: Student {
                decoder: Some(Decoder {
                    tables,
                    query_transform: vec![0.5; 25],
                }),
                routing: Some(Routing {
                    vectors: vec![0.25; 15],
                    biases: vec![0.0; 3],
                }),
                report: TrainReport {
                    rows: 1000,
                    recall_before: 0.5,
                    recall_after: 0.6,
                    ..TrainReport::default()
                },
            },
            held_out: vec![0.1; 10],
        }
    }

    fn to_bytes(body: &ModelData) -> Vec<u8> {
        let mut bytes = encoder_bytes(&body.encoder).unwrap();
        let student = student_bytes(&body.student, &bytes).unwrap();
        bytes.extend_from_slice(&student);
        if !body.held_out.is_empty() {
            bytes.extend(queries_bytes(&body.held_out).unwrap());
        }
        bytes
    }

    /// Encoder and student of a model.
    fn parts(bytes: &[u8]) -> [&[u8]; 2] {
        let (encoder, rest) = split(ENCODER, bytes).unwrap();
        let (student, _) = split(STUDENT, rest).unwrap();
        [encoder, student]
    }

    #[test]
    fn round_trip() {
        let bytes = to_bytes(&body());
        let model = Model::from_bytes(&bytes).unwrap();
        assert_eq!(*model.data(), body());
        assert_eq!(model.to_bytes().unwrap(), bytes);
        let [encoder, student] = parts(&bytes);
        assert_eq!(model.encoder_bytes().unwrap(), encoder);
        assert_eq!(model.student_bytes().unwrap(), student);
        let alone = Model::from_parts(encoder, student).unwrap();
        assert!(alone.held_out().is_empty());
        let again = alone.with_held_out(model.held_out().to_vec()).unwrap();
        assert_eq!(*again.data(), body());
        assert!(again.with_held_out(vec![0.5; 7]).is_err());
    }

    #[test]
    fn a_student_is_refused_with_another_encoder() {
        let (one, mut two) = (body(), body());
        two.encoder.scale.lo = 0.8;
        let [one, two] = [one, two].map(|body| to_bytes(&body));
        let ([encoder, other], [_, student]) = (parts(&one), parts(&two));
        assert!(Model::from_parts(encoder, other).is_ok());
        assert!(matches!(
            Model::from_parts(encoder, student),
            Err(ModelError::OtherEncoder { .. })
        ));
        // Nor are the parts interchangeable.
        for (a, b) in [(other, encoder), (encoder, encoder), (other, other)] {
            assert_eq!(Model::from_parts(a, b).unwrap_err(), ModelError::NotAModel);
        }
    }

    #[test]
    fn wrong_shapes_and_numbers_are_refused() {
        let spoil: [fn(&mut ModelData); 28] = [
            |b| b.held_out.truncate(9),
            |b| b.held_out[3] = f32::NAN,
            |b| b.encoder.space.dim = 0,
            |b| b.encoder.space.dim = usize::MAX,
            |b| b.encoder.lists = 0,
            |b| b.encoder.lists = usize::MAX,
            |b| b.encoder.bits = 5,
            |b| b.encoder.assignments = 0,
            |b| b.encoder.assignments = 3,
            |b| b.encoder.tables.books.subquantizers = 0,
            |b| b.encoder.tables.books.subquantizers = usize::MAX,
            |b| b.encoder.tables.centroids[3] = f32::NAN,
            |b| b.encoder.tables.centroids[3] = f32::INFINITY,
            |b| b.encoder.tables.centroids[3] = 1e24,
            |b| b.encoder.tables.books.values[7] = -1e24,
            |b| b.encoder.scale.step = f32::NAN,
            |b| b.encoder.scale.step = 1e23,
            |b| b.encoder.space.scale_factor = 0.0,
            |b| b.encoder.space.max_norm = f32::MAX,
            |b| b.encoder.space.center.clear(),
            |b| decoder(b).books.values.truncate(7),
            |b| decoder(b).books.values[0] = f32::NAN,
            |b| decoder(b).centroids[14] = 1e24,
            |b| routing(b).biases[0] = f32::INFINITY,
            |b| routing(b).biases[0] = f32::MAX,
            |b| routing(b).vectors[9] = -1e24,
            |b| routing(b).vectors.truncate(10),
            |b| b.student.report.recall_after = f32::NAN,
        ];
        for (i, spoil) in spoil.into_iter().enumerate() {
            let mut body = body();
            spoil(&mut body);
            let bytes = to_bytes(&body);
            assert!(
                matches!(Model::from_bytes(&bytes), Err(ModelError::Invalid { .. })),
                "{i}"
            );
        }
    }

    fn decoder(body: &mut ModelData) -> &mut IvfPqTables {
        &mut body.student.decoder.as_mut().unwrap().tables
    }

    fn routing(body: &mut ModelData) -> &mut Routing {
        body.student.routing.as_mut().unwrap()
    }

    /// Whether no score of a list or a row can be NaN for a query that is as long as a query can be.
    fn scores_are_sane(model: &Model) -> bool {
        let tables = model.query(&vec![f32::MAX; model.dim()]);
        let rows = tables.lut.chunks(model.shape().words());
        let most: u32 = rows
            .map(|row| row.iter().copied().max().map_or(0, u32::from))
            .sum();
        let finite = |list| {
            let score_params = tables.score_params(list);
            let scale = score_params.correction_min + 255.0 * score_params.correction_step;
            [0, most].iter().all(|sum| {
                let score = score_params.base + score_params.delta * *sum as f32;
                (2.0 * scale * score).is_finite()
            })
        };
        let mut lists = tables.ranking().all().into_iter();
        lists.all(|(score, list)| !score.is_nan() && finite(list))
    }

    #[test]
    fn the_largest_values_allowed_give_finite_scores() {
        let times = |body: &ModelData, by: f32| {
            let mut body = body.clone();
            let tables = [
                &mut body.encoder.tables,
                &mut body.student.decoder.as_mut().unwrap().tables,
            ];
            for tables in tables {
                let all = tables.centroids.iter_mut().chain(&mut tables.books.values);
                all.for_each(|x| *x *= by);
            }
            Model::from_bytes(&to_bytes(&body))
        };
        let body = body();
        let powers = (0..126).map(|i| times(&body, 2f32.powi(i)));
        let accepted: Vec<Model> = powers.map_while(Result::ok).collect();
        assert!((40..90).contains(&accepted.len()), "{}", accepted.len());
        for model in accepted {
            assert!(scores_are_sane(&model));
        }
    }

    #[test]
    fn versions_to_come_are_named() {
        let newer = ModelError::UnsupportedVersion {
            found: 7,
            newest: VERSION,
        };
        let bytes = to_bytes(&body());
        let [encoder, student] = parts(&bytes);
        let of = |magic| wrap(magic, 7, b"whatever");
        assert_eq!(Model::from_bytes(&of(ENCODER)).unwrap_err(), newer);
        assert_eq!(Model::from_parts(&of(ENCODER), student).unwrap_err(), newer);
        assert_eq!(Model::from_parts(encoder, &of(STUDENT)).unwrap_err(), newer);
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_bytes_are_errors(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let bytes = to_bytes(&body());
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(Model::from_bytes(&flipped).is_err());
            prop_assert!(Model::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        }

        /// Bodies that somebody gave right checksums: still an error or a model that keeps every invariant.
        #[test]
        fn forged_bodies_do_no_harm(student in any::<bool>(), at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 1..12), cut in any::<prop::sample::Index>()) {
            let whole = body();
            let bodies = [encoded(&whole.encoder).unwrap(), encoded(&whole.student).unwrap()];
            let mut forged = bodies[usize::from(student)].clone();
            let start = at.index(forged.len());
            for (old, new) in forged[start..].iter_mut().zip(&with) {
                *old = *new;
            }
            for part in [&forged[..], &forged[..cut.index(forged.len())]] {
                let [mut first, mut second] = bodies.clone();
                *if student { &mut second } else { &mut first } = part.to_vec();
                let first = wrap(ENCODER, VERSION, &first);
                let mut own = encoded(&crc32c::crc32c(&first)).unwrap();
                own.extend(second);
                if let Ok(model) = Model::from_parts(&first, &wrap(STUDENT, VERSION, &own)) {
                    prop_assert_eq!(model.query(&[]).ranking().len(), model.lists());
                    prop_assert_eq!(model.encode(&vec![0.5; model.dim()]).rows.len(), 1);
                    prop_assert!(scores_are_sane(&model));
                }
            }
        }

        #[test]
        fn noise_is_no_model(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Model::from_bytes(&bytes).is_err());
            prop_assert!(Model::from_bytes(&wrap(ENCODER, VERSION, &bytes)).is_err());
        }
    }
}
