//! Every state that a crash can leave is a valid index with the right rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::testing::MemoryStore;
use distillvq_ivf::{
    Error, Meta, Metric, Model, Search, Tid, check, insert, load_model, replace_student, vacuum,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Op {
    /// Inserts this many rows.
    Insert(usize),
    /// Replaces the student by the one of this number.
    Replace(usize),
    /// Removes the rows whose line number leaves this rest modulo 4.
    Vacuum(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..60usize).prop_map(Op::Insert),
        1 => (0..4u16).prop_map(Op::Vacuum),
        1 => (0..4usize).prop_map(Op::Replace),
    ]
}

/// How far the history had come, and which rows and which student there were.
struct Milestone {
    changes: usize,
    rows: BTreeSet<Tid>,
    student: Vec<u8>,
}

/// Rows in few lists, so that chains grow and pages fill.
fn crowded(model: &Model, n: usize) -> Vec<Owned> {
    let mut rows = encode(model, &vectors(n, 11), 0);
    for (i, row) in rows.iter_mut().enumerate() {
        row.list = [0, 0, 0, 3, LISTS as u32][i % 5];
    }
    rows
}

fn all_rows(store: &MemoryStore, meta: &Meta, model: &Model, query: &[f32]) -> Vec<Tid> {
    let found = pull_all(store, meta, model, query, 10_000);
    let mut tids: Vec<Tid> = found.iter().map(|c| c.tid).collect();
    let search = Search::new(store, meta, Some(model.searcher()), query).unwrap();
    search.exact(&mut tids).unwrap();
    tids
}

/// Plays the history change by change; between two milestones a row that both have must be there, and no row that
/// neither has.
fn expect_valid_prefixes(store: &MemoryStore, model: &Model, milestones: &[Milestone]) {
    let query = vectors(1, 12);
    let replayed = MemoryStore::new();
    let built = milestones[0].changes;
    for (done, change) in (1..).zip(store.history()) {
        replayed.apply(&change);
        let meta = match Meta::read(&replayed) {
            Ok(meta) => meta,
            Err(Error::NotAnIndex | Error::Incomplete) if done < built => continue,
            Err(error) => panic!("after {done} of {built} changes: {error}"),
        };
        assert!(done >= built, "complete only when everything is there");
        let report = check(&replayed).unwrap();
        assert_eq!(report.problems, [], "after {done} changes");
        let found = all_rows(&replayed, &meta, model, &query);
        let rows: BTreeSet<Tid> = found.iter().copied().collect();
        assert_eq!(rows.len(), found.len(), "no row twice");
        // A page that was appended, and not yet filled.
        assert!(report.orphan_pages <= 1);
        let at = milestones.partition_point(|m| m.changes < done);
        let (before, after) = (&milestones[at.saturating_sub(1)], &milestones[at]);
        let stored = load_model(&replayed, &mut meta.clone()).unwrap().unwrap();
        let stored = stored.student_bytes().unwrap();
        let whole = milestones[at].changes == done;
        assert!(stored == after.student || (!whole && stored == before.student));
        let (before, after) = (&before.rows, &after.rows);
        assert!(before.intersection(after).all(|tid| rows.contains(tid)));
        assert!(
            rows.iter()
                .all(|tid| before.contains(tid) || after.contains(tid))
        );
        if whole {
            assert_eq!(&rows, after);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_of_the_history_is_a_valid_index(
        built in 0..1200usize, ops in prop::collection::vec(op(), 0..8), eight in any::<bool>(),
    ) {
        let model = model(Metric::L2, if eight { 8 } else { 4 });
        let rows = crowded(&model, 2000);
        let store = MemoryStore::recording();
        let (first, second) = rows[..built].split_at(built / 2);
        let meta = build(&store, &model, &[first, second]);
        let mut present: BTreeSet<Tid> = rows[..built].iter().map(|row| row.tid).collect();
        let mut student = model.student_bytes().unwrap();
        let milestone = |present: &BTreeSet<Tid>, student: &[u8]| Milestone {
            changes: store.history().len(),
            rows: present.clone(),
            student: student.to_vec(),
        };
        let mut milestones = vec![milestone(&present, &student)];
        let mut unused = rows[built..].iter();
        for (op, id) in ops.into_iter().zip(6..) {
            match op {
                Op::Insert(n) => for row in unused.by_ref().take(n) {
                    insert(&store, &meta, row.row()).unwrap();
                    present.insert(row.tid);
                    milestones.push(milestone(&present, &student));
                },
                Op::Vacuum(rest) => {
                    vacuum(&store, &mut |tid| tid.offset % 4 == rest).unwrap();
                    present.retain(|tid| tid.offset % 4 != rest);
                }
                Op::Replace(i) => {
                    student = students(Metric::L2, model.bits())[i].student_bytes().unwrap();
                    replace_student(&store, &student, id).unwrap();
                }
            }
            milestones.push(milestone(&present, &student));
        }
        expect_valid_prefixes(&store, &model, &milestones);
    }
}
