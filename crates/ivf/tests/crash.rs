//! Every state that a crash can leave is a valid index with the right rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{LateRows, RerankOptions, RerankStream};
use distillvq_ivf::{
    Builder, Calibration, CreateOptions, Error, ListSearch, Meta, Metric, Model, Point, QueryKind,
    Row, RowEncoder, RowFn, Tid, Training, check_against, collect_stats, insert, load_model,
    replace_student, vacuum, write_calibration,
};
use distillvq_model::{EncodedRows, Placement};
use distillvq_pages::Error as PageError;
use distillvq_pages::memory_store::MemoryStore;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;

#[derive(Clone, Debug)]
enum Op {
    /// Inserts this many rows.
    Insert(usize),
    /// Replaces the student by the one of this number.
    Replace(usize),
    /// Writes down another training and calibration.
    Describe(u64),
    /// Removes the rows whose line number leaves this rest modulo 4.
    Vacuum(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..60usize).prop_map(Op::Insert),
        1 => (0..4u16).prop_map(Op::Vacuum),
        1 => (0..4usize).prop_map(Op::Replace),
        1 => (1..99u64).prop_map(Op::Describe),
    ]
}

/// How far the history had come, and which rows and which student there were.
struct Milestone {
    changes: usize,
    rows: BTreeSet<Tid>,
    student: Vec<u8>,
    /// Rows inserted since the build, those removed since included.
    inserted: u64,
    record: (Training, Option<Calibration>),
}

/// A table: vectors in few lists, so that chains grow and pages fill, and some that the codes cannot represent.
struct Table {
    vectors: Vec<f32>,
    encoded: EncodedRows,
}

impl Table {
    fn new(model: &Model, meta: &Meta, rows: usize) -> Table {
        let mut all = vectors(6 * rows, 11);
        let encoder = RowEncoder::new(meta, Some(model)).unwrap();
        let encoded = encoder.encode(&all);
        let list = |i: usize| encoded.rows[i].placement;
        let (often, seldom) = (list(0), (1..).map(list).find(|it| *it != list(0)).unwrap());
        let mut chosen = Vec::new();
        for (i, vector) in all.chunks_exact_mut(DIM).enumerate() {
            if list(i) == seldom && i % 7 == 0 {
                vector[3] = f32::INFINITY;
            }
            if (list(i) == often || list(i) == seldom) && chosen.len() < rows * DIM {
                chosen.extend_from_slice(vector);
            }
        }
        let encoded = encoder.encode(&chosen);
        let exact = encoded
            .rows
            .iter()
            .filter(|row| row.placement == Placement::Exact);
        assert!((5..chosen.len() / DIM / 2).contains(&exact.count()));
        Table {
            vectors: chosen,
            encoded,
        }
    }

    fn len(&self) -> usize {
        self.encoded.rows.len()
    }

    /// The entries of the `i`-th row.
    fn entries(&self, meta: &Meta, i: usize) -> impl Iterator<Item = Row<'_>> {
        let first = Row::of(meta, &self.encoded, i, tid(i));
        assert!(first.is_some());
        let second = Row::second_entry(meta, &self.encoded, i, tid(i));
        [first, second].into_iter().flatten()
    }

    /// Fails unless the index has these rows as they must be, and nothing else is wrong with it.
    fn expect_sound(&self, store: &MemoryStore, rows: &BTreeSet<Tid>) {
        let mut table = |blocks: Range<u32>, each: &mut RowFn<'_, Error>| {
            let vectors = self.vectors.chunks_exact(DIM).enumerate();
            let mut shown = vectors.map(|(i, vector)| (tid(i), vector));
            shown.try_for_each(|(tid, vector)| {
                let is_here = blocks.contains(&tid.block) && rows.contains(&tid);
                if is_here {
                    each(tid, vector, &[])
                } else {
                    Ok(())
                }
            })
        };
        let report = check_against(store, usize::MAX, &mut table).unwrap();
        assert_eq!(report.problems, []);
        assert_eq!(report.compared as usize, rows.len());
        // A page that was appended and not yet filled, and one for its refine codes.
        assert!(report.orphan_pages <= 1 + u32::from(!self.encoded.refine.is_empty()));
    }
}

/// All rows that a search finds: by the codes, and by refine codes if there are any.
fn searches(store: &MemoryStore, meta: &Meta, model: &Model, query: &[f32]) -> Vec<Vec<Tid>> {
    let begin = || ListSearch::new(store, meta, Some(model.searcher()), query).unwrap();
    let found = pull_all(store, meta, model, query, 10_000);
    let mut by_codes: Vec<Tid> = found.iter().map(|c| c.tid).collect();
    if meta.assignments == 2 {
        by_codes.sort_unstable();
        by_codes.dedup();
    }
    by_codes.extend(exact_rows(&mut begin()));
    let mut all = vec![by_codes];
    if meta.refine {
        let options = RerankOptions::for_refine_codes(meta.shape);
        let refined = RefineStream::new(begin(), store, options).unwrap();
        // The distances here have nothing to do with the codes: nearly all rows are late.
        let options = RerankOptions {
            late: LateRows::Append,
            ..RerankOptions::for_heap_rows()
        };
        let mut stream = RerankStream::new(refined, options);
        let mut fetch = distances_by(|tid| f64::from(tid.block));
        let next = || stream.next(&mut fetch).unwrap().map(|hit| hit.tid);
        all.push(std::iter::from_fn(next).collect());
    }
    all
}

/// Plays the history change by change; between two milestones a row that both have must be there, and no row that
/// neither has.
fn expect_valid_prefixes(store: &MemoryStore, table: &Table, milestones: &[Milestone]) {
    let query = vectors(1, 12);
    let replayed = MemoryStore::new();
    let built = milestones[0].changes;
    for (done, change) in (1..).zip(store.history()) {
        replayed.apply(&change);
        let mut meta = match Meta::read(&replayed) {
            Ok(meta) => meta,
            Err(Error::Pages(PageError::NotAnIndex | PageError::Incomplete)) if done < built => {
                continue;
            }
            Err(error) => panic!("after {done} of {built} changes: {error}"),
        };
        assert!(done >= built, "complete only when everything is there");
        let at = milestones.partition_point(|m| m.changes < done);
        let (before, after) = (&milestones[at.saturating_sub(1)], &milestones[at]);
        let model = load_model(&replayed, &mut meta).unwrap().unwrap();
        let stored = model.student_bytes().unwrap();
        let whole = after.changes == done;
        assert!(stored == after.student || (!whole && stored == before.student));
        let census = collect_stats(&replayed, &meta, (0, 0), 1).unwrap();
        let possible = [if whole { after } else { before }.inserted, after.inserted];
        assert!(possible.contains(&census.inserted), "after {done} changes");
        let record = (meta.training, meta.calibration);
        assert!(record == after.record || (!whole && record == before.record));
        let (before, after) = (&before.rows, &after.rows);
        let both = before.intersection(after).copied().collect();
        table.expect_sound(&replayed, if whole { after } else { &both });
        for found in searches(&replayed, &meta, &model, &query) {
            let rows: BTreeSet<Tid> = found.iter().copied().collect();
            assert_eq!(rows.len(), found.len(), "no row twice");
            assert!(both.is_subset(&rows), "after {done} changes");
            let known = |tid: &Tid| before.contains(tid) || after.contains(tid);
            assert!(rows.iter().all(known), "after {done} changes");
            assert!(!whole || rows == *after, "after {done} changes");
        }
    }
}

/// Builds an index over the first rows of its table, in two runs.
fn build_over(store: &MemoryStore, model: &Model, refine: bool, built: usize) -> (Meta, Table) {
    let create = CreateOptions {
        metric: model.metric(),
        dim: DIM,
        model: Some(model),
        refine,
        filters: FilterFormat::default(),
        model_version: 5,
    };
    let mut builder = Builder::create(store, create).unwrap();
    let meta = *builder.meta();
    let table = Table::new(model, &meta, 1600);
    for run in [0..built / 2, built / 2..built] {
        let mut rows: Vec<Row<'_>> = run.flat_map(|i| table.entries(&meta, i)).collect();
        rows.sort_by_key(|row| row.list);
        builder.append(rows).unwrap();
    }
    (builder.finish().unwrap(), table)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_of_the_history_is_a_valid_index(
        built in 0..1200usize, ops in prop::collection::vec(op(), 0..8), eight in any::<bool>(),
        cosine in any::<bool>(), refine in any::<bool>(), two_lists in any::<bool>(),
    ) {
        let metric = if cosine { Metric::Cosine } else { Metric::L2 };
        let bits = if eight { 8 } else { 4 };
        let model = if two_lists { two_list_model(metric, bits) } else { model(metric, bits) };
        let store = MemoryStore::recording();
        let (meta, table) = build_over(&store, &model, refine, built);
        let mut present: BTreeSet<Tid> = (0..built).map(tid).collect();
        let mut student = model.student_bytes().unwrap();
        let mut inserted = 0;
        let milestone = |present: &BTreeSet<Tid>, student: &[u8], inserted| {
            let meta = Meta::read(&store).unwrap();
            Milestone {
                changes: store.history().len(),
                rows: present.clone(),
                student: student.to_vec(),
                inserted,
                record: (meta.training, meta.calibration),
            }
        };
        let mut milestones = vec![milestone(&present, &student, inserted)];
        let mut unused = built..table.len();
        for (op, id) in ops.into_iter().zip(6..) {
            match op {
                Op::Insert(n) => for i in unused.by_ref().take(n) {
                    for entry in table.entries(&meta, i) {
                        insert(&store, &meta, entry).unwrap();
                    }
                    present.insert(tid(i));
                    inserted += 1;
                    milestones.push(milestone(&present, &student, inserted));
                },
                Op::Vacuum(rest) => {
                    vacuum(&store, &mut |tid| tid.offset % 4 == rest).unwrap();
                    present.retain(|tid| tid.offset % 4 != rest);
                }
                // The students belong to the encoder of rows in one list.
                Op::Replace(_) if two_lists => {}
                Op::Replace(i) => {
                    student = students(metric, model.bits())[i].student_bytes().unwrap();
                    replace_student(&store, &student, id).unwrap();
                }
                Op::Describe(n) => {
                    let training = Training { rows: n, ..meta.training };
                    let point = Point { probes: 3, recall: 0.5, ..Point::default() };
                    let curve = Calibration::new(QueryKind::Log, 100, 10, n, 0).with_points(&[point]);
                    let model_version = Meta::read(&store).unwrap().model_version();
                    let now = write_calibration(&store, model_version, training, Some(curve)).unwrap();
                    assert_eq!((now.training, now.calibration), (training, Some(curve)));
                    assert!(write_calibration(&store, model_version ^ 1, Training::default(), None).is_err());
                    assert_eq!(Meta::read(&store).unwrap(), now);
                }
            }
            milestones.push(milestone(&present, &student, inserted));
        }
        expect_valid_prefixes(&store, &table, &milestones);
    }
}
