//! Rows in two lists: a search returns each once, builds and inserts store the same entries, and vacuum, check and statistics
//! know which entries belong to one row.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, Hit, LateRows, RerankOptions, RerankStream};
use distillvq_ivf::{
    Builder, Candidate, CreateOptions, Error, ListSearch, Meta, Metric, Model, PageStore, Row,
    RowEncoder, RowFn, Tid, check, check_against, collect_stats, count_rows, insert, vacuum,
};
use distillvq_pages::memory_store::MemoryStore;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

/// Vectors, some of them for the exact list.
fn table(rows: usize) -> Vec<f32> {
    let mut all = vectors(rows, 31);
    let exact = all.chunks_exact_mut(DIM).skip(3).step_by(50);
    exact.for_each(|vector| vector[0] = 3e38);
    all
}

/// An index over the rows of a table.
struct Index {
    store: MemoryStore,
    meta: Meta,
    model: Model,
    vectors: Vec<f32>,
}

impl Index {
    /// Built over the first rows of the table, in two runs; the others are inserted.
    fn new(model: &Model, refine: bool, vectors: &[f32], built: usize) -> Index {
        Index::in_store(MemoryStore::new(), model, refine, (vectors, built))
    }

    fn in_store(
        store: MemoryStore,
        model: &Model,
        refine: bool,
        (vectors, built): (&[f32], usize),
    ) -> Index {
        let create = CreateOptions {
            metric: model.metric(),
            dim: DIM,
            model: Some(model),
            refine,
            filters: FilterFormat::default(),
            model_version: 5,
        };
        let mut builder = Builder::create(&store, create).unwrap();
        let meta = *builder.meta();
        let encoder = RowEncoder::new(&meta, Some(model)).unwrap();
        let encoded = encoder.encode(&vectors[..built * DIM]);
        for rows in [0..built / 3, built / 3..built] {
            let entries = rows.flat_map(|i| {
                let first = Row::of(&meta, &encoded, i, tid(i));
                [first, Row::second_entry(&meta, &encoded, i, tid(i))]
            });
            let mut run: Vec<Row<'_>> = entries.flatten().collect();
            run.sort_by_key(|row| row.list);
            builder.append(run).unwrap();
        }
        assert_eq!(builder.rows(), built as u64);
        let meta = builder.finish().unwrap();
        assert_eq!(meta.pages.rows_at_build, built as u64);
        let index = Index {
            store,
            meta,
            model: model.clone(),
            vectors: vectors.to_vec(),
        };
        (built..index.len()).for_each(|i| index.insert(i));
        index
    }

    fn len(&self) -> usize {
        self.vectors.len() / DIM
    }

    fn vector(&self, tid: Tid) -> &[f32] {
        let i = tid.block as usize * 40 + usize::from(tid.offset) - 1;
        &self.vectors[i * DIM..][..DIM]
    }

    /// Inserts both entries of a row.
    fn insert(&self, i: usize) {
        let encoder = RowEncoder::new(&self.meta, Some(&self.model)).unwrap();
        let encoded = encoder.encode(self.vector(tid(i)));
        let first = Row::of(&self.meta, &encoded, 0, tid(i));
        let second = Row::second_entry(&self.meta, &encoded, 0, tid(i));
        for entry in [first, second].into_iter().flatten() {
            insert(&self.store, &self.meta, entry).unwrap();
        }
    }

    /// All entries: addresses with lists and columns.
    fn entries(&self) -> Entries {
        entries(&self.store, &self.meta)
    }

    /// What a check against the table finds, of which these rows are visible.
    fn problems(&self, rows: impl Fn(Tid) -> bool) -> Vec<String> {
        let table = |tid| Some(self.vector(tid)).filter(|_| rows(tid));
        problems(&self.store, self.len(), table)
    }

    /// A stream over all lists, as an index of this kind is searched.
    fn search(&self, query: &[f32], options: RerankOptions) -> Result<Vec<Hit>, Error> {
        let search = self.open(query);
        if !self.meta.refine {
            return self.run(query, RerankStream::new(search, options));
        }
        let refined = RerankOptions {
            memory: options.memory,
            probes: options.probes,
            ..RerankOptions::for_refine_codes(self.meta.shape)
        };
        let refined = RefineStream::new(search, &self.store, refined).unwrap();
        let options = RerankOptions {
            memory: options.memory,
            late: options.late,
            ..RerankOptions::for_heap_rows()
        };
        self.run(query, RerankStream::new(refined, options))
    }

    fn open(&self, query: &[f32]) -> ListSearch<&MemoryStore> {
        ListSearch::new(&self.store, &self.meta, Some(self.model.searcher()), query).unwrap()
    }

    /// All rows that a stream returns. If memory suffices, it compares none of them twice.
    fn run<S: CandidateSource>(
        &self,
        query: &[f32],
        mut stream: RerankStream<S>,
    ) -> Result<Vec<Hit>, Error> {
        let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
            let distance = |c: &Candidate| distance(self.meta.metric, query, self.vector(c.tid));
            out.extend(batch.iter().map(|c| Some(distance(c))));
            Ok(())
        };
        let mut hits = Vec::new();
        while let Some(hit) = stream.next(&mut fetch)? {
            hits.push(hit);
        }
        Ok(hits)
    }
}

/// What a check finds against a table of so many rows, whose vectors are given if they are visible.
fn problems<'a>(
    store: &MemoryStore,
    rows: usize,
    vector: impl Fn(Tid) -> Option<&'a [f32]>,
) -> Vec<String> {
    let mut table = |blocks: Range<u32>, each: &mut RowFn<'_, Error>| {
        let mut visible = (0..rows).map(tid).filter(|tid| blocks.contains(&tid.block));
        visible.try_for_each(|tid| vector(tid).map_or(Ok(()), |vector| each(tid, vector, &[])))
    };
    let report = check_against(store, usize::MAX, &mut table).unwrap();
    report.problems.iter().map(ToString::to_string).collect()
}

/// Addresses of hits, which must be different.
#[track_caller]
fn distinct(hits: &[Hit]) -> BTreeSet<Tid> {
    let tids: BTreeSet<Tid> = hits.iter().map(|hit| hit.tid).collect();
    assert_eq!(tids.len(), hits.len(), "a row twice");
    tids
}

#[test]
fn candidates_are_those_of_both_entries() {
    for metric in METRICS {
        for bits in [4, 8] {
            let model = two_list_model(metric, bits);
            let entries = encode(&model, &table(900), 0);
            let store = MemoryStore::new();
            let meta = build(&store, &model, &[&entries]);
            assert_eq!(meta.assignments, 2);
            let query = vectors(1, 32);
            let mut expected = scores(&model, &entries, &query);
            expected.iter_mut().for_each(|c| c.tid = c.tid.row());
            expected.sort_by(order);
            assert!(expected.len() > 1600, "{} entries", expected.len());
            for n in [50, 5000] {
                let mut found = pull_all(&store, &meta, &model, &query, n);
                // Of two entries of a row with the same score, a pull may leave the second one out.
                found.dedup();
                expected.dedup();
                assert_eq!(found, expected);
            }
            let mut search =
                ListSearch::new(&store, &meta, Some(model.searcher()), &query).unwrap();
            search.exclude(expected[0].tid);
            search.probe(usize::MAX).unwrap();
            let mut found = Vec::new();
            search.pull(5000, &mut found).unwrap();
            assert!(found.iter().all(|c| c.tid != expected[0].tid));
            let rows = search.rows();
            assert!((850..=900).contains(&rows), "{rows} rows");
        }
    }
}

#[test]
fn a_search_returns_each_row_once() {
    for (metric, bits) in METRICS.into_iter().zip([4, 8, 4]) {
        let model = two_list_model(metric, bits);
        for refine in [false, true] {
            let index = Index::new(&model, refine, &table(900), 600);
            let all: BTreeSet<Tid> = (0..900).map(tid).collect();
            for query in vectors(3, 33).chunks(DIM) {
                // Too little for the addresses of the rows taken, then of the rows returned.
                for memory in [1 << 24, 4_000, 2_000] {
                    let options = RerankOptions {
                        probes: 3,
                        memory,
                        ..RerankOptions::for_codes(index.meta.shape)
                    };
                    match index.search(query, options) {
                        Ok(hits) => {
                            distinct(&hits);
                            assert!(hits.is_sorted_by_key(|hit| hit.distance));
                        }
                        // There are many rows at the same distance.
                        Err(Error::ReturnedRows { .. }) => {
                            assert_eq!(memory, 2_000);
                        }
                        Err(error) => panic!("{error}"),
                    }
                    let options = RerankOptions {
                        late: LateRows::Append,
                        ..options
                    };
                    match index.search(query, options) {
                        Ok(hits) => assert_eq!(distinct(&hits), all),
                        Err(Error::LateRows { .. } | Error::ReturnedRows { .. }) => {
                            assert!(memory < 1 << 24);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_compared_once() {
    let model = two_list_model(Metric::L2, 4);
    let index = Index::new(&model, false, &table(900), 900);
    let query = vectors(1, 34);
    let options = RerankOptions {
        probes: usize::MAX,
        late: LateRows::Append,
        ..RerankOptions::for_codes(index.meta.shape)
    };
    let mut stream = RerankStream::new(index.open(&query), options);
    let mut best = BTreeMap::new();
    let mut candidates = Vec::new();
    let mut search = index.open(&query);
    search.probe(usize::MAX).unwrap();
    search.pull(5000, &mut candidates).unwrap();
    for candidate in candidates.iter().rev() {
        best.insert(candidate.tid, candidate.score);
    }
    let mut compared = BTreeSet::new();
    let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
        for candidate in batch {
            assert!(compared.insert(candidate.tid), "compared twice");
            if !candidate.score.is_nan() {
                assert_eq!(candidate.score, best[&candidate.tid], "the better estimate");
            }
            out.push(Some(distance(
                Metric::L2,
                &query,
                index.vector(candidate.tid),
            )));
        }
        Ok(())
    };
    while stream.next(&mut fetch).unwrap().is_some() {}
    assert_eq!(stream.stats().reranked, 900);
    assert_eq!(
        stream.stats().work.codes as usize,
        index.entries().len() - 18
    );
}

#[test]
fn builds_and_inserts_store_the_same_entries() {
    for metric in METRICS {
        for (bits, refine) in [(4, false), (8, true)] {
            let model = two_list_model(metric, bits);
            let built = Index::new(&model, refine, &table(400), 400);
            let expected = built.entries();
            let second = expected.keys().filter(|tid| tid.is_second()).count();
            assert!((300..=400).contains(&second), "{second} second entries");
            for rows in [0, 150] {
                let index = Index::new(&model, refine, &table(400), rows);
                let entries = index.entries();
                assert!(entries.keys().eq(expected.keys()), "{metric} {bits} {rows}");
                for ((list, columns), (built_list, built_columns)) in
                    entries.values().zip(expected.values())
                {
                    assert_eq!(list, built_list);
                    // Corrections and norms may differ by a rounding.
                    assert_eq!(columns.first(), built_columns.first());
                }
                assert_eq!(index.problems(|_| true), [""; 0]);
            }
        }
    }
}

#[test]
fn vacuum_removes_both_entries() {
    for refine in [false, true] {
        let model = two_list_model(Metric::Cosine, 4);
        let index = Index::new(&model, refine, &table(900), 600);
        let mut asked = BTreeMap::new();
        let stats = vacuum(&index.store, &mut |tid| {
            assert!(!tid.is_second());
            *asked.entry(tid).or_insert(0) += 1;
            tid.offset.is_multiple_of(3)
        });
        let stats = stats.unwrap();
        assert_eq!(asked.len(), 900);
        assert!(asked.values().all(|times| (1..=2).contains(times)));
        let left = asked.keys().filter(|tid| !tid.offset.is_multiple_of(3));
        let left: BTreeSet<Tid> = left.copied().collect();
        let counted = (stats.removed as usize, stats.remaining as usize);
        assert_eq!(counted, (900 - left.len(), left.len()));
        let rows: BTreeSet<Tid> = index.entries().into_keys().map(Tid::row).collect();
        assert_eq!(rows, left);
        assert_eq!(count_rows(&index.store).unwrap(), left.len() as u64);
        assert_eq!(index.problems(|tid| left.contains(&tid)), [""; 0]);
        // The places of removed entries are used again.
        let pages = index.store.block_count().unwrap();
        let again = (0..900).filter(|i| !left.contains(&tid(*i)));
        again.for_each(|i| index.insert(i));
        assert_eq!(index.store.block_count().unwrap(), pages);
        assert_eq!(index.problems(|_| true), [""; 0]);
    }
}

#[test]
fn statistics_count_rows() {
    let model = two_list_model(Metric::L2, 4);
    for refine in [false, true] {
        let index = Index::new(&model, refine, &table(900), 600);
        let stats = |samples| collect_stats(&index.store, &index.meta, samples, 1).unwrap();
        let all = stats((10_000, 10_000));
        let entries = index.entries();
        let second = entries.keys().filter(|tid| tid.is_second()).count();
        assert_eq!(all.second_entries as usize, second);
        assert_eq!(all.lists.iter().sum::<u64>() as usize, entries.len());
        assert_eq!((all.rows(), all.exact_rows()), (900, 18));
        assert_eq!((all.inserted, all.inserted_exact), (300, 6));
        let sampled: BTreeSet<Tid> = all.sampled_tids.iter().copied().collect();
        assert_eq!(sampled, (0..900).map(tid).collect());
        assert_eq!(all.sampled_tids.len(), 900);
        // The rows inserted into lists, by their first entries.
        assert_eq!(all.inserted_sample.len(), 294);
        for row in &all.inserted_sample {
            assert!(row.tid >= tid(600));
            let (list, columns) = &entries[&row.tid];
            assert_eq!((row.list, &row.values), (*list, &columns[0]));
        }
        // Removed rows stay counted as inserted.
        vacuum(&index.store, &mut |_| true).unwrap();
        let none = stats((10, 10));
        assert_eq!(
            (none.rows(), none.second_entries, none.inserted),
            (0, 0, 300)
        );
        assert_eq!(count_rows(&index.store).unwrap(), 0);
    }
}

/// The problems of an index whose entries are changed before the build, without the block where they are.
fn changed(model: &Model, change: impl FnOnce(&mut Vec<Owned>)) -> Vec<String> {
    let vectors = table(300);
    let mut entries = encode(model, &vectors, 0);
    change(&mut entries);
    let store = MemoryStore::new();
    build(&store, model, &[&entries]);
    let vector = |tid: Tid| {
        let i = tid.block as usize * 40 + usize::from(tid.offset) - 1;
        Some(&vectors[i * DIM..][..DIM])
    };
    let problems = problems(&store, 300, vector);
    let without_block = |problem: String| match problem.split_once(": ") {
        Some((_, what)) => what.to_owned(),
        None => problem,
    };
    problems.into_iter().map(without_block).collect()
}

/// Where an entry of row 100 is among all.
fn position(entries: &[Owned], is_second: bool) -> usize {
    let wanted = if is_second {
        tid(100).second()
    } else {
        tid(100)
    };
    entries
        .iter()
        .position(|entry| entry.tid == wanted)
        .unwrap()
}

#[test]
fn check_finds_damage_of_second_entries() {
    for metric in METRICS {
        let model = two_list_model(metric, 4);
        let changed = |change: &dyn Fn(&mut Vec<Owned>)| changed(&model, change);
        assert_eq!(changed(&|_| ()), [""; 0]);
        let missing = changed(&|entries| {
            entries.remove(position(entries, true));
        });
        let row = "row (2,21) of the table";
        assert_eq!(missing, [format!("{row} has no second entry in the index")]);
        let without_first = changed(&|entries| {
            entries.remove(position(entries, false));
        });
        assert_eq!(without_first, [format!("{row} is not in the index")]);
        let gone = changed(&|entries| entries.retain(|entry| entry.tid.row() != tid(100)));
        assert_eq!(gone, [format!("{row} is not in the index")]);
        let twice = changed(&|entries| {
            let second = entries[position(entries, true)].clone();
            entries.push(second);
        });
        assert_eq!(twice.len(), 1, "{twice:?}");
        assert!(
            twice[0].ends_with("(2,21) is in the index twice"),
            "{twice:?}"
        );
        let codes = changed(&|entries| {
            let at = position(entries, true);
            entries[at].codes[2] ^= 1;
        });
        assert_eq!(codes, [format!("second entry of {row} has wrong codes")]);
        let scale = changed(&|entries| {
            let at = position(entries, true);
            entries[at].scale ^= 64;
        });
        let expected = format!("second entry of {row} has a wrong norm correction");
        assert_eq!(scale, [expected]);
        let wrong = format!("second entry of {row} is in the wrong list");
        let same_list = changed(&|entries| {
            let first = entries[position(entries, false)].clone();
            let at = position(entries, true);
            entries[at] = Owned {
                tid: tid(100).second(),
                ..first
            };
        });
        assert_eq!(same_list, [wrong.as_str()]);
        let exact_list = changed(&|entries| {
            let at = position(entries, true);
            entries[at].list = LISTS as u32;
        });
        assert_eq!(exact_list, [wrong.as_str()]);
        let mut other_lists = 0;
        for list in 0..LISTS as u32 {
            let moved = changed(&|entries| {
                let at = position(entries, true);
                entries[at].list = list;
            });
            // The codes are those of another list.
            other_lists += usize::from(moved == [wrong.as_str()]);
        }
        assert_eq!(other_lists, LISTS - 1);
        let extra = format!("{row} has a second entry in the index, where it must have one entry");
        let one_list = self::changed(&self::model(metric, 4), |entries| {
            let first = entries[position(entries, false)].clone();
            entries.push(Owned {
                tid: tid(100).second(),
                list: (first.list + 1) % LISTS as u32,
                ..first
            });
        });
        assert_eq!(one_list, [extra.as_str()]);
        if metric == Metric::Cosine {
            continue; // which has no rows in the exact list
        }
        let exact = changed(&|entries| {
            let exact = entries.iter().position(|entry| entry.tid == tid(103));
            let exact = exact.unwrap();
            assert_eq!(entries[exact].list, LISTS as u32);
            let second = entries[position(entries, true)].clone();
            entries.push(Owned {
                tid: tid(103).second(),
                ..second
            });
        });
        assert_eq!(exact, [extra.replace("(2,21)", "(2,24)")]);
    }
}

/// A crash within an insert leaves a row with one entry or none. Its transaction is aborted, so that the check accepts the row,
/// searches return it at most once to a snapshot that does not see it, and the next vacuum removes it.
#[test]
fn a_crash_within_an_insert_leaves_a_dead_row() {
    for refine in [false, true] {
        let model = two_list_model(Metric::L2, 4);
        let vectors = table(700);
        // Every list gets its first page with the first rows, and further pages with later ones.
        let built = if refine { 650 } else { 0 };
        let store = MemoryStore::recording();
        let index = Index::in_store(store, &model, refine, (&vectors[..built * DIM], built));
        let (mut changes, mut row) = (index.store.history().len(), built);
        let replayed = index.store.copy();
        let index = Index { vectors, ..index };
        let mut half_inserted = 0;
        while row < index.len() {
            index.insert(row);
            let history = index.store.history();
            for (i, change) in history.iter().enumerate().skip(changes) {
                replayed.apply(change);
                if i + 1 == history.len() || row % 20 > 3 {
                    continue;
                }
                // The crash.
                let store = replayed.copy();
                let left = entries(&store, &index.meta);
                let own = left
                    .keys()
                    .filter(|tid| tid.row() == self::tid(row))
                    .count();
                half_inserted += usize::from(own == 1);
                assert_eq!(check(&store).unwrap().problems, []);
                let before = |tid: Tid| Some(index.vector(tid)).filter(|_| tid < self::tid(row));
                assert_eq!(problems(&store, index.len(), before), [""; 0]);
                let stats = vacuum(&store, &mut |tid| tid == self::tid(row)).unwrap();
                assert!(stats.removed <= 1);
                assert_eq!(stats.remaining, row as u64);
                let vacuumed = entries(&store, &index.meta);
                assert!(vacuumed.keys().all(|tid| tid.row() < self::tid(row)));
                assert_eq!(vacuumed.len(), left.len() - own);
                // Another row may get the address.
                let again = Index {
                    store,
                    model: model.clone(),
                    vectors: index.vectors.clone(),
                    meta: index.meta,
                };
                again.insert(row);
                assert_eq!(again.problems(|tid| tid <= self::tid(row)), [""; 0]);
            }
            changes = history.len();
            row += 1;
        }
        assert!(half_inserted > 5, "{half_inserted}");
        assert_eq!(index.problems(|_| true), [""; 0]);
    }
}
