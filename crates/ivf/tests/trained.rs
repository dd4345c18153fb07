//! Trained indexes: search against brute force, insert, vacuum.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, LateRows, RerankOptions, RerankStream};
use distillvq_ivf::{
    Candidate, ListSearch, Meta, Metric, Model, PageStore, Tid, check, copy_without_rows, insert,
    load_model, vacuum,
};
use distillvq_pages::memory_store::MemoryStore;
use proptest::prelude::*;
use std::collections::BTreeSet;

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

/// A built index and its rows.
struct Built {
    store: MemoryStore,
    meta: Meta,
    model: Model,
    rows: Vec<Owned>,
}

fn built(metric: Metric, bits: u8, n: usize) -> Built {
    built_of(metric, bits, n, encode)
}

/// Turns vectors into rows, with refine codes or without.
type Encode = fn(&Model, &[f32], usize) -> Vec<Owned>;

/// An index whose rows are made so.
fn built_of(metric: Metric, bits: u8, n: usize, encode: Encode) -> Built {
    let model = model(metric, bits);
    let rows = encode(&model, &vectors(n, 2), 0);
    let store = MemoryStore::new();
    let (first, second) = rows.split_at(rows.len() / 3);
    let meta = build(&store, &model, &[first, second]);
    Built {
        store,
        meta,
        model,
        rows,
    }
}

impl Built {
    fn search(&self, query: &[f32]) -> ListSearch<&MemoryStore> {
        ListSearch::new(&self.store, &self.meta, Some(self.model.searcher()), query).unwrap()
    }

    fn expect_sound(&self) {
        let report = check(&self.store).unwrap();
        assert_eq!(report.problems, []);
        assert_eq!(report.orphan_pages, 0);
        let mut rows = vec![0; LISTS + 1];
        self.rows
            .iter()
            .for_each(|row| rows[row.list as usize] += 1);
        assert_eq!(report.entries, rows);
    }

    fn expect_like_brute_force(&self, query: &[f32]) {
        let expected = scores(&self.model, &self.rows, query);
        let found = pull_all(&self.store, &self.meta, &self.model, query, 5000);
        assert_eq!(found, expected);
    }
}

#[test]
fn search_of_all_lists_is_brute_force() {
    for metric in METRICS {
        for bits in [4, 8] {
            for encode in [encode as Encode, encode_refined] {
                let index = built_of(metric, bits, 3000, encode);
                index.expect_sound();
                for query in vectors(3, 3).chunks(DIM) {
                    index.expect_like_brute_force(query);
                }
            }
        }
    }
}

#[test]
fn pulls_in_pieces_are_one_big_pull() {
    let index = built(Metric::Cosine, 4, 3000);
    let query = vectors(1, 4);
    let whole = pull_all(&index.store, &index.meta, &index.model, &query, 100_000);
    for n in [1000, 333, 64, 32] {
        let pieces = pull_all(&index.store, &index.meta, &index.model, &query, n);
        assert_eq!(pieces, whole);
    }
}

#[test]
fn the_metapage_and_the_model_come_back() {
    let index = built(Metric::L2, 8, 500);
    let meta = Meta::read(&index.store).unwrap();
    assert_eq!(meta, index.meta);
    assert_eq!((meta.lists(), meta.model_version()), (LISTS as u32, 5));
    assert_eq!(meta.pages.rows_at_build, index.rows.len() as u64);
    let model = load_model(&index.store, &mut meta.clone())
        .unwrap()
        .unwrap();
    assert_eq!(model.to_bytes().unwrap(), index.model.to_bytes().unwrap());
    assert!(meta.pages.base.blocks > 1);
    let entries = meta.pages.directory.entries(&index.store).unwrap();
    let rows: u64 = entries.iter().map(|entry| entry.rows).sum();
    assert_eq!(rows, meta.pages.rows_at_build);
}

#[test]
fn an_empty_copy_searches_and_fills() {
    let index = built_of(Metric::L2, 8, 500, encode_refined);
    let copy = MemoryStore::new();
    let meta = copy_without_rows(&index.store, &copy).unwrap();
    let model = load_model(&copy, &mut meta.clone()).unwrap().unwrap();
    let query = vectors(1, 3);
    assert_eq!(pull_all(&copy, &meta, &model, &query, 10), []);
    for row in &index.rows {
        insert(&copy, &meta, row.row()).unwrap();
    }
    let found = pull_all(&copy, &meta, &model, &query, 5000);
    assert_eq!(found, scores(&model, &index.rows, &query));
}

#[test]
fn inserted_rows_are_found() {
    let cases: [(Metric, u8, Encode); 3] = [
        (Metric::L2, 4, encode),
        (Metric::InnerProduct, 8, encode),
        (Metric::L2, 4, encode_refined),
    ];
    for (metric, bits, encode) in cases {
        let mut index = built_of(metric, bits, 700, encode);
        let new = encode(&index.model, &vectors(2000, 5), 700);
        for row in &new {
            insert(&index.store, &index.meta, row.row()).unwrap();
        }
        index.rows.extend(new);
        index.expect_sound();
        index.expect_like_brute_force(&vectors(1, 6));
    }
}

#[test]
fn vacuum_removes_exactly_the_dead_and_room_is_used_again() {
    let cases: [(Metric, u8, Encode); 3] = [
        (Metric::L2, 8, encode),
        (Metric::Cosine, 4, encode),
        (Metric::Cosine, 4, encode_refined),
    ];
    for (metric, bits, encode) in cases {
        let mut index = built_of(metric, bits, 3000, encode);
        let blocks = index.store.block_count().unwrap();
        let dead = |tid: Tid| !(tid.block + u32::from(tid.offset)).is_multiple_of(3);
        let stats = vacuum(&index.store, &mut |tid| dead(tid)).unwrap();
        let (gone, left): (Vec<_>, Vec<_>) = index.rows.drain(..).partition(|row| dead(row.tid));
        assert_eq!(
            (stats.removed, stats.remaining),
            (gone.len() as u64, left.len() as u64)
        );
        index.rows = left;
        index.expect_sound();
        index.expect_like_brute_force(&vectors(1, 6));
        for row in &gone {
            insert(&index.store, &index.meta, row.row()).unwrap();
        }
        assert_eq!(index.store.block_count().unwrap(), blocks);
        index.rows.extend(gone);
        index.expect_sound();
        index.expect_like_brute_force(&vectors(1, 6));
    }
}

#[test]
fn rows_that_codes_cannot_represent_are_in_the_exact_list() {
    let model = model(Metric::InnerProduct, 4);
    let mut data = vectors(50, 7);
    data[..DIM].fill(0.0);
    let rows = encode(&model, &data, 0);
    let store = MemoryStore::new();
    let meta = build(&store, &model, &[&rows]);
    let mut search =
        ListSearch::new(&store, &meta, Some(model.searcher()), &data[DIM..2 * DIM]).unwrap();
    let exact = exact_rows(&mut search);
    assert!(exact.contains(&tid(0)));
    let expected = rows.iter().filter(|row| row.list as usize == LISTS);
    assert_eq!(exact, expected.map(|row| row.tid).collect::<Vec<_>>());
}

/// The lists that a search probes, best first.
fn ranking(model: &Model, query: &[f32]) -> Vec<u32> {
    let ranking = model.query(query).ranking().all();
    ranking.into_iter().map(|(_, list)| list).collect()
}

#[test]
fn probes_follow_the_ranking() {
    let index = built(Metric::Cosine, 4, 2000);
    let query = vectors(1, 8);
    let ranking = ranking(&index.model, &query);
    let mut search = index.search(&query);
    assert_eq!((search.lists(), search.bound()), (LISTS, None));
    for probed in [1, 4] {
        search.probe(probed - search.probed()).unwrap();
        let mut out = Vec::new();
        search.pull(10_000, &mut out).unwrap();
        let found: BTreeSet<Tid> = out.iter().map(|c| c.tid).collect();
        let lists = &ranking[if probed == 1 { 0..1 } else { 1..4 }];
        let rows = index.rows.iter().filter(|row| lists.contains(&row.list));
        assert_eq!(found, rows.map(|row| row.tid).collect());
    }
}

/// Streams ten queries: the first ten rows of all lists must be in order, and two lists must return every row once. Returns how
/// many of the first ten rows are true neighbors, and how many rows each query compares for them.
fn stream_ten_queries<S: CandidateSource>(
    index: &Built,
    stream: impl Fn(&[f32], usize) -> RerankStream<S>,
) -> (usize, Vec<u64>) {
    let data = vectors(3000, 2);
    let (mut found, mut compared) = (0, Vec::new());
    for query in vectors(10, 30).chunks(DIM) {
        let vector = |tid: Tid| &data[row_number(tid) * DIM..][..DIM];
        let exact = |tid: Tid| distance(index.model.metric(), query, vector(tid));
        let mut all: Vec<(f64, Tid)> = index.rows.iter().map(|r| (exact(r.tid), r.tid)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let top: BTreeSet<Tid> = all[..10].iter().map(|(_, tid)| *tid).collect();
        let mut fetch = distances_by(exact);
        let mut every = stream(query, LISTS);
        let mut last = f64::MIN;
        for _ in 0..10 {
            let hit = every.next(&mut fetch).unwrap().unwrap();
            assert!(hit.distance >= last);
            last = hit.distance;
            found += usize::from(top.contains(&hit.tid));
        }
        compared.push(every.stats().reranked);
        // A filter that takes the farthest rows only still gets them all.
        let mut few = stream(query, 2);
        let mut given = BTreeSet::new();
        while let Some(hit) = few.next(&mut fetch).unwrap() {
            assert!(given.insert(hit.tid));
        }
        assert_eq!(given.len(), index.rows.len());
    }
    (found, compared)
}

#[test]
fn a_stream_over_an_index_gives_exact_order_and_good_recall() {
    for metric in METRICS {
        let index = built(metric, 4, 3000);
        let (found, compared) = stream_ten_queries(&index, |query, probes| {
            let options = RerankOptions {
                probes,
                late: LateRows::Append,
                ..RerankOptions::default()
            };
            RerankStream::new(index.search(query), options)
        });
        assert!(found >= 95, "{metric}: {found} of 100");
        // Far fewer than there are rows.
        assert!(compared.iter().all(|n| *n < 2000), "{compared:?}");
    }
}

#[test]
fn refine_codes_leave_little_to_compare() {
    for metric in METRICS {
        let index = built_of(metric, 4, 3000, encode_refined);
        let (found, compared) = stream_ten_queries(&index, |query, probes| {
            let options = RerankOptions {
                probes,
                ..RerankOptions::for_refine_codes(index.meta.shape)
            };
            let refined = RefineStream::new(index.search(query), &index.store, options).unwrap();
            let relaxed = RerankOptions {
                late: LateRows::Append,
                ..RerankOptions::for_heap_rows()
            };
            RerankStream::new(refined, relaxed)
        });
        assert!(found >= 95, "{metric}: {found} of 100");
        assert!(
            compared.iter().sum::<u64>() <= 400,
            "{metric}: {compared:?}"
        );
    }
}

#[test]
fn a_row_left_out_is_as_if_it_were_not_there() {
    let data = vectors(1500, 2);
    for metric in METRICS {
        let model = model(metric, 4);
        let rows = encode_refined(&model, &data, 0);
        for own in [3, 700, 1499] {
            let query = &data[own * DIM..][..DIM];
            // Everything that ten rows take, with lists enough that the first pull is full.
            let ten = |rows: &[Owned], excluded: Option<Tid>| {
                let store = MemoryStore::new();
                let meta = build(&store, &model, &[rows]);
                let search = ListSearch::new(&store, &meta, Some(model.searcher()), query).unwrap();
                let options = RerankOptions {
                    probes: 4,
                    ..RerankOptions::for_refine_codes(meta.shape)
                };
                let refined = RefineStream::new(search, &store, options).unwrap();
                let mut stream = RerankStream::new(refined, RerankOptions::for_heap_rows());
                excluded.into_iter().for_each(|tid| stream.exclude(tid));
                let vector = |tid: Tid| &data[row_number(tid) * DIM..][..DIM];
                let mut fetch = distances_by(|tid| distance(metric, query, vector(tid)));
                let hits: Vec<_> = (0..10)
                    .map(|_| stream.next(&mut fetch).unwrap().unwrap())
                    .collect();
                let stats = stream.stats();
                (hits, stats.probed, stats.reranked, stats.work.refined)
            };
            let without: Vec<Owned> = rows
                .iter()
                .filter(|row| row.tid != tid(own))
                .cloned()
                .collect();
            assert_eq!(ten(&rows, Some(tid(own))), ten(&without, None), "{metric}");
        }
    }
}

/// What a user of a search may do.
#[derive(Clone, Debug)]
enum Step {
    Probe(usize),
    Pull(usize),
    CatchUp(usize),
    Rewind,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4usize).prop_map(Step::Probe),
        (1..4usize).prop_map(Step::Probe),
        (1..200usize).prop_map(Step::Pull),
        (1..200usize).prop_map(Step::Pull),
        (1..200usize).prop_map(Step::CatchUp),
        (1..200usize).prop_map(Step::CatchUp),
        Just(Step::Rewind),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_probes_and_pulls_is_complete_and_repeats_nothing(
        steps in prop::collection::vec(step(), 0..30), seed in 0..1000u64, eight in any::<bool>(),
        bytes in prop_oneof![2 => Just(usize::MAX), 1 => 0..8_000usize],
    ) {
        let index = built(Metric::L2, if eight { 8 } else { 4 }, 1500);
        let query = vectors(1, seed);
        let ranking = ranking(&index.model, &query);
        let expected = scores(&index.model, &index.rows, &query);
        let list_of: std::collections::HashMap<Tid, u32> =
            index.rows.iter().map(|row| (row.tid, row.list)).collect();
        let mut search = index.search(&query).with_memory(bytes);
        let mut given = BTreeSet::new();
        let steps = steps.into_iter().chain([Step::Probe(LISTS), Step::Pull(10_000)]);
        for step in steps {
            let mut out: Vec<Candidate> = Vec::new();
            let probed = &ranking[..search.probed()];
            let mut unseen: Vec<Candidate> = expected.iter().copied()
                .filter(|c| probed.contains(&list_of[&c.tid]) && !given.contains(&c.tid)).collect();
            match step {
                Step::Probe(more) => search.probe(more).unwrap(),
                Step::Rewind => {
                    search.rewind();
                    given.clear();
                }
                Step::Pull(n) => {
                    search.pull(n, &mut out).unwrap();
                    unseen.truncate(n);
                    prop_assert_eq!(&out, &unseen, "the next best of all that is probed");
                }
                Step::CatchUp(n) => {
                    search.pull_new_lists(n, &mut out).unwrap();
                    unseen.truncate(out.len());
                    prop_assert_eq!(&out, &unseen, "also the next best, perhaps fewer");
                }
            }
            for candidate in out {
                prop_assert!(given.insert(candidate.tid), "no row twice");
            }
            let probed = &ranking[..search.probed()];
            let codes = expected.iter().filter(|c| probed.contains(&list_of[&c.tid])).count() as u64;
            prop_assert!(bytes < usize::MAX || search.scanned() <= codes, "no code is scanned twice");
            let best_unseen = expected.iter()
                .find(|c| probed.contains(&list_of[&c.tid]) && !given.contains(&c.tid));
            if let Some(best) = best_unseen {
                prop_assert!(search.bound().is_some_and(|bound| bound >= best.score));
            }
        }
        prop_assert_eq!(given.len(), expected.len());
        prop_assert_eq!(search.bound(), None);
    }
}

#[test]
fn shares_within_a_distance_are_estimated() {
    for metric in METRICS {
        let index = built(metric, 4, 6000);
        let rows = vectors(6000, 2);
        for query in vectors(3, 3).chunks(DIM) {
            let mut all: Vec<f64> = rows
                .chunks(DIM)
                .map(|row| distance(metric, query, row))
                .collect();
            all.sort_unstable_by(f64::total_cmp);
            for share in [0.003, 0.05, 0.3, 0.9] {
                let upper = all[(share * all.len() as f64) as usize];
                let lower = all[(0.5 * share * all.len() as f64) as usize];
                let shares = index.search(query).shares(lower, upper).unwrap().unwrap();
                let near = |found: f64, share: f64| {
                    found > share / 3.0 - 0.003 && found < share * 3.0 + 0.003
                };
                assert!(near(shares.within, share), "{metric:?} {share}: {shares:?}");
                assert!(
                    near(shares.between, 0.5 * share),
                    "{metric:?} {share}: {shares:?}"
                );
            }
            let none = f64::NEG_INFINITY;
            let search = |lower, upper| index.search(query).shares(lower, upper).unwrap();
            let all = search(none, f64::INFINITY).unwrap();
            assert!(all.within > 0.99 && all.between == all.within);
            let few = search(none, -1e9).unwrap();
            assert!(few.within < 0.001, "{few:?}");
            assert_eq!(search(none, f64::NAN), None);
        }
    }
}

#[test]
fn rows_that_a_vacuum_moves_meanwhile_are_found_once() {
    for (bits, bytes) in [(4, usize::MAX), (8, usize::MAX), (4, 0)] {
        let index = built(Metric::L2, bits, 3000);
        let query = vectors(1, 5);
        let expected = scores(&index.model, &index.rows, &query);
        let mut search = index.search(&query).with_memory(bytes);
        search.probe(LISTS).unwrap();
        let mut given = Vec::new();
        search.pull(100, &mut given).unwrap();
        // Every third row is removed, so that others take the places of most, and room is used again.
        let is_dead = |tid: &Tid| (tid.block * 40 + u32::from(tid.offset)).is_multiple_of(3);
        vacuum(&index.store, &mut |tid| is_dead(&tid)).unwrap();
        let before = search.scanned();
        while search.bound().is_some() {
            search.pull(400, &mut given).unwrap();
        }
        let rescanned = search.scanned() - before;
        assert!(
            bytes == 0 || rescanned <= 2000,
            "each changed page once more: {rescanned}"
        );
        let mut tids: Vec<Tid> = given.iter().map(|c| c.tid).collect();
        tids.sort_unstable();
        tids.dedup();
        assert_eq!(tids.len(), given.len(), "no row twice");
        let live = |all: &[Candidate]| -> Vec<(Tid, u32)> {
            let live = all.iter().filter(|c| !is_dead(&c.tid));
            live.map(|c| (c.tid, c.score.to_bits())).collect()
        };
        assert_eq!(live(&given), live(&expected));
    }
}
