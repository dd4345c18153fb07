//! What the check of stored rows accepts and refuses.
#![allow(clippy::unwrap_used)]

use distillvq_linalg::testing::{never_interrupt, noise};
use distillvq_model::{Encoded, Metric, Model, Placement, StoredRow, refine_bytes};
use distillvq_training::{NoMonitor, TrainOptions, train};

const DIM: usize = 24;

fn model(metric: Metric, bits: u8) -> Model {
    model_of(metric, bits, 1)
}

/// A model of rows in up to `assignments` lists.
fn model_of(metric: Metric, bits: u8, assignments: u8) -> Model {
    let options = TrainOptions {
        metric,
        lists: 10,
        subquantizers: 7,
        bits,
        assignments,
        distill: false,
        ..TrainOptions::default()
    };
    train(noise(1500 * DIM, 1), DIM, None, &options, &NoMonitor)
        .unwrap()
        .model
}

/// A row's list and what else is stored of it.
fn encode(model: &Model, vector: &[f32]) -> (u32, Encoded, Vec<u8>, Vec<u8>) {
    let Ok(all) = model.try_encode(vector, true, never_interrupt);
    let Placement::List(list) = all.rows[0].placement else {
        unreachable!("a usual row");
    };
    (list, all.rows[0], all.codes, all.refine)
}

fn stored<'a>((list, one): (u32, Encoded), codes: &'a [u8], refine: &'a [u8]) -> StoredRow<'a> {
    StoredRow {
        list,
        codes,
        correction_code: one.correction_code,
        norm: one.norm,
        refine,
    }
}

#[test]
fn encodings_alone_and_among_others_are_both_right() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        for bits in [4, 8] {
            let model = model(metric, bits);
            let vectors = noise(300 * DIM, 2);
            let Ok(together) = model.try_encode(&vectors, true, never_interrupt);
            for (i, vector) in vectors.chunks_exact(DIM).enumerate() {
                let (list, one, codes, refine) = encode(&model, vector);
                let alone = stored((list, one), &codes, &refine);
                let other = together.rows[i];
                let Placement::List(list) = other.placement else {
                    unreachable!("a usual row");
                };
                let bytes = refine_bytes(DIM);
                let codes = &together.codes[i * 7..(i + 1) * 7];
                let refine = &together.refine[i * bytes..(i + 1) * bytes];
                let among = stored((list, other), codes, refine);
                assert_eq!(model.check_encoding(vector, &alone, &among), None);
                assert_eq!(model.check_encoding(vector, &among, &alone), None);
            }
        }
    }
}

#[test]
fn whatever_is_changed_is_a_contradiction() {
    for bits in [4, 8] {
        let model = model(Metric::L2, bits);
        for vector in noise(50 * DIM, 3).chunks_exact(DIM) {
            let (list, one, codes, refine) = encode(&model, vector);
            let right = stored((list, one), &codes, &refine);
            let says = |stored: StoredRow<'_>| model.check_encoding(vector, &stored, &right);
            assert_eq!(says(right), None);
            for list in (0..11).filter(|other| *other != list) {
                let says = says(StoredRow { list, ..right });
                assert_eq!(says, Some("is in the wrong list"));
            }
            for s in 0..7 {
                let mut codes = codes.clone();
                codes[s] ^= 5;
                let codes = &codes;
                assert_eq!(says(StoredRow { codes, ..right }), Some("has wrong codes"));
            }
            let short = &codes[1..];
            let says_short = says(StoredRow {
                codes: short,
                ..right
            });
            assert_eq!(says_short, Some("has wrong codes"));
            let correction_code = one.correction_code ^ 32;
            let says_far = says(StoredRow {
                correction_code,
                ..right
            });
            assert_eq!(says_far, Some("has a wrong norm correction"));
            let norm = one.norm * 1.01;
            assert_eq!(says(StoredRow { norm, ..right }), Some("has a wrong norm"));
            for at in 0..refine.len() {
                let mut refine = refine.clone();
                refine[at] ^= 8;
                let refine = &refine;
                let says = says(StoredRow { refine, ..right });
                assert_eq!(says, Some("has a wrong refine code"), "{at}");
            }
        }
    }
}

#[test]
fn the_nearest_but_for_a_rounding_is_right() {
    // Two equal codewords of a sub-space: the one that encoding does not choose is as good.
    let vectors = noise(300 * DIM, 4);
    let mut body = model(Metric::InnerProduct, 4).data().clone();
    let first = Model::new(body.clone()).unwrap();
    let one = encode(&first, &vectors[..DIM]).2[2];
    let other = one ^ 1;
    let books = &mut body.encoder.tables.books;
    let word = books.word(2, one).to_vec();
    let at = (2 * books.codewords + usize::from(other)) * books.width;
    books.values[at..at + word.len()].copy_from_slice(&word);
    let model = Model::new(body).unwrap();
    let mut chosen = 0;
    for vector in vectors.chunks_exact(DIM) {
        let (list, row, codes, refine) = encode(&model, vector);
        let right = stored((list, row), &codes, &refine);
        if ![one, other].contains(&codes[2]) {
            continue;
        }
        chosen += 1;
        let mut codes = codes.clone();
        codes[2] ^= 1;
        let codes = &codes;
        let twin = StoredRow { codes, ..right };
        assert_eq!(model.check_encoding(vector, &twin, &right), None);
    }
    assert!(chosen > 3, "{chosen}");
}

#[test]
fn rows_that_are_exact_have_no_list() {
    let model = model(Metric::L2, 4);
    let (list, one, codes, _) = encode(&model, &noise(DIM, 3));
    let in_list = stored((list, one), &codes, &[]);
    let computed = StoredRow {
        list: 10,
        ..in_list
    };
    let says = model.check_encoding(&[3e38; DIM], &in_list, &computed);
    assert_eq!(says, Some("is in the wrong list"));
}

#[test]
fn second_entries_alone_and_among_others_are_both_right() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        for bits in [4, 8] {
            let model = model_of(metric, bits, 2);
            let vectors = noise(300 * DIM, 2);
            let together = model.encode(&vectors);
            let mut in_two = 0;
            for (i, vector) in vectors.chunks_exact(DIM).enumerate() {
                let alone = model.encode(vector);
                let (first, [one, other]) = (together.rows[i], [&alone, &together]);
                let (Placement::List(first), Placement::List(list), Placement::List(other_list)) = (
                    first.placement,
                    one.second_rows[0].placement,
                    other.second_rows[i].placement,
                ) else {
                    continue;
                };
                in_two += 1;
                assert_ne!(first, list);
                let one = stored((list, one.second_rows[0]), &one.second_codes, &[]);
                let codes = &other.second_codes[i * 7..][..7];
                let other = stored((other_list, other.second_rows[i]), codes, &[]);
                let says = |a: StoredRow<'_>, b: StoredRow<'_>| {
                    model.check_second_encoding(vector, &a, &b, first)
                };
                assert_eq!((says(one, other), says(other, one)), (None, None));
                for list in (0..10).filter(|list| *list != other_list) {
                    let wrong = StoredRow { list, ..other };
                    assert_eq!(says(wrong, other), Some("is in the wrong list"));
                }
                let wrong = StoredRow {
                    correction_code: other.correction_code ^ 64,
                    ..other
                };
                assert_eq!(says(wrong, other), Some("has a wrong norm correction"));
            }
            assert!(in_two > 250, "{in_two}");
        }
    }
}

#[test]
fn second_lists_that_are_equally_good_are_right() {
    let model = model_of(Metric::InnerProduct, 4, 2);
    // Of the vectors between two others, some are where their second lists change.
    let (mut changes, ends) = (0, noise(80 * DIM, 9));
    for ends in ends.chunks_exact(2 * DIM) {
        let (from, to) = ends.split_at(DIM);
        let between = |t: f64| -> Vec<f32> {
            let pairs = from.iter().zip(to);
            let mix = pairs.map(|(a, b)| f64::from(*a) * (1.0 - t) + f64::from(*b) * t);
            mix.map(|x| x as f32).collect()
        };
        let lists = |vector: &[f32]| {
            let encoded = model.encode(vector);
            (encoded.rows[0].placement, encoded.second_rows[0].placement)
        };
        let (mut low, mut high) = (0.0, 1.0);
        while high - low > 1e-9 {
            let middle = f64::midpoint(low, high);
            if lists(&between(middle)) == lists(&between(low)) {
                low = middle;
            } else {
                high = middle;
            }
        }
        let [low, high] = [low, high].map(between);
        let (Placement::List(first), _) = lists(&low) else {
            continue;
        };
        if lists(&low).0 != lists(&high).0 || lists(&low) == lists(&high) {
            continue;
        }
        let encoded = [&low, &high].map(|vector| model.encode(vector));
        let entry = |i: usize| match encoded[i].second_rows[0].placement {
            Placement::List(list) => Some(stored(
                (list, encoded[i].second_rows[0]),
                &encoded[i].second_codes,
                &[],
            )),
            _ => None,
        };
        if let (Some(one), Some(other)) = (entry(0), entry(1)) {
            assert_ne!(one.list, other.list);
            assert_eq!(model.check_second_encoding(&low, &other, &one, first), None);
            assert_eq!(
                model.check_second_encoding(&high, &one, &other, first),
                None
            );
            changes += 1;
        }
    }
    assert!(changes > 3, "{changes}");
}
