//! Damaged pages give errors: no panic, no endless loop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, RerankOptions, RerankStream};
use distillvq_ivf::{
    Builder, CreateOptions, Error, ListSearch, Meta, Metric, Model, PAGE_SIZE, PG_HEADER_SIZE,
    PageStore, check, collect_stats, copy_without_rows, count_rows, insert, load_model,
    read_all_pages, replace_student, vacuum,
};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_pages::{Error as PageError, FORMAT};
use distillvq_training::{NoMonitor, TrainOptions, train};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Does everything that can be done with an index.
fn use_everything(store: &MemoryStore, model: &Model, row: &Owned) -> Result<(), Error> {
    let meta = Meta::read(store)?;
    let _ = check(store);
    let _ = load_model(store, &mut meta.clone());
    let _ = copy_without_rows(store, &MemoryStore::new());
    let _ = insert(store, &meta, row.row());
    let query = vectors(1, 1);
    if let Ok(mut search) = ListSearch::new(store, &meta, Some(model.searcher()), &query) {
        let _ = search.next_exact(&mut Vec::new());
        let _ = search.probe(3);
        let _ = search.pull(100, &mut Vec::new());
        let _ = search.probe(usize::MAX);
        let _ = search.pull_new_lists(100, &mut Vec::new());
        let _ = search.pull(100_000, &mut Vec::new());
    }
    let mut fetch = distances_by(|tid| f64::from(tid.block));
    if let Ok(search) = ListSearch::new(store, &meta, Some(model.searcher()), &query) {
        let mut stream = RerankStream::new(search, RerankOptions::default());
        while let Ok(Some(_)) = stream.next(&mut fetch) {}
    }
    if let Ok(search) = ListSearch::new(store, &meta, Some(model.searcher()), &query) {
        let options = RerankOptions::for_refine_codes(meta.shape);
        if let Ok(refined) = RefineStream::new(search, store, options) {
            let mut stream = RerankStream::new(refined, RerankOptions::for_heap_rows());
            while let Ok(Some(_)) = stream.next(&mut fetch) {}
        }
    }
    if let Ok(student) = model.student_bytes() {
        let _ = replace_student(store, &student, 7);
        let _ = replace_student(store, &student, 8);
    }
    let _ = collect_stats(store, &meta, (100, 50), 1);
    let _ = read_all_pages(store);
    let _ = count_rows(store);
    let _ = vacuum(store, &mut |tid| tid.offset.is_multiple_of(7));
    let _ = insert(store, &meta, row.row());
    let _ = check(store);
    Ok(())
}

/// A byte to overwrite: block, offset, value. Heads and directory entries are hit more often than their size suggests.
fn damage() -> impl Strategy<Value = (u32, usize, u8)> {
    let offset = prop_oneof![
        3 => PG_HEADER_SIZE..40,
        2 => 64..280usize,
        1 => PG_HEADER_SIZE..PAGE_SIZE,
    ];
    let value = prop_oneof![3 => 0..20u8, 1 => any::<u8>()];
    (any::<u32>(), offset, value)
}

fn index(model: &Model, refine: bool) -> (MemoryStore, Owned) {
    let encode = if refine { encode_refined } else { encode };
    let mut rows = encode(model, &vectors(1201, 21), 0);
    rows.iter_mut().for_each(|row| row.list %= 3);
    let last = rows.pop().unwrap();
    let store = MemoryStore::new();
    build(&store, model, &[&rows]);
    (store, last)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_an_error_at_worst(
        damages in prop::collection::vec(damage(), 1..12), eight in any::<bool>(), refine in any::<bool>(),
    ) {
        let model = model(Metric::L2, if eight { 8 } else { 4 });
        let (store, row) = index(&model, refine);
        let blocks = store.block_count().unwrap();
        for (block, offset, value) in damages {
            store.mutate(block % blocks, |page| page[offset] = value);
        }
        let _ = use_everything(&store, &model, &row);
    }

    #[test]
    fn an_untrained_index_may_be_damaged_too(damages in prop::collection::vec(damage(), 1..12)) {
        let store = MemoryStore::new();
        let create = CreateOptions { metric: Metric::InnerProduct, dim: DIM, model: None, refine: false, filters: distillvq_ivf::filter::FilterFormat::default(), model_version: 7 };
        let mut builder = Builder::create(&store, create).unwrap();
        let row = |i| exact_row(tid(i));
        builder.append((0..3_000).map(row)).unwrap();
        builder.finish().unwrap();
        let blocks = store.block_count().unwrap();
        prop_assert!(blocks > 3);
        for (block, offset, value) in damages {
            store.mutate(block % blocks, |page| page[offset] = value);
        }
        let _ = check(&store);
        let _ = copy_without_rows(&store, &MemoryStore::new());
        if let Ok(meta) = Meta::read(&store) {
            if let Ok(mut search) = ListSearch::new(&store, &meta, None, &[0.5; DIM]) {
                let _ = search.next_exact(&mut Vec::new());
            }
            let _ = insert(&store, &meta, row(5_000));
            let _ = collect_stats(&store, &meta, (100, 50), 1);
            let _ = vacuum(&store, &mut |tid| tid.offset.is_multiple_of(7));
            let _ = insert(&store, &meta, row(5_001));
            let _ = check(&store);
        }
    }

    #[test]
    fn pages_may_be_swapped_or_cleared(swaps in prop::collection::vec((any::<u32>(), any::<u32>()), 1..4)) {
        let model = model(Metric::L2, 4);
        let (store, row) = index(&model, false);
        let blocks = store.block_count().unwrap();
        for (from, to) in swaps {
            let page = store.read(from % blocks, |page| page.to_vec()).unwrap();
            let to = to % (blocks + 1);
            if to == blocks {
                store.mutate(from % blocks, |page| page.fill(0));
            } else {
                store.mutate(to, |bytes| bytes.copy_from_slice(&page));
            }
        }
        let _ = use_everything(&store, &model, &row);
    }
}

/// Lists of [`large_model`].
const MANY_LISTS: usize = 400;

/// A model whose parts take several pages each.
fn large_model() -> Model {
    let options = TrainOptions {
        metric: Metric::L2,
        lists: MANY_LISTS,
        subquantizers: 7,
        ..TrainOptions::default()
    };
    let trained = train(vectors(5_000, 1), DIM, None, &options, &NoMonitor);
    trained.unwrap().model
}

/// A link: its page, and where it is there.
type Link = (u32, usize);

fn get(store: &MemoryStore, (block, at): Link) -> u32 {
    let bytes = store.read(block, |page| page[at..at + 4].to_vec()).unwrap();
    u32::from_le_bytes(bytes.try_into().unwrap())
}

/// Kind of a page (`page.rs`).
fn kind(store: &MemoryStore, block: u32) -> u8 {
    store.read(block, |page| page[24]).unwrap()
}

/// The links of an index: all of the metapage and of the model's pages, of the lists that are in use, and of some posting pages.
fn links(store: &MemoryStore) -> Vec<Link> {
    let mut links: Vec<Link> = [84, 88, 112, 116, 136, 140, 160, 164]
        .map(|at| (0, at))
        .into();
    let mut postings = 0;
    for block in 1..store.block_count().unwrap() {
        match kind(store, block) {
            2 => links.push((block, 32)),
            3 => {
                let entries = (0..=MANY_LISTS).map(|list| 64 + list * 16);
                let used = entries.filter(|&at| get(store, (block, at)) != 0);
                links.extend(used.flat_map(|at| [(block, at), (block, at + 4)]));
            }
            4 if postings < 4 => {
                postings += 1;
                links.push((block, 32));
                links.extend(refine_links(store, block));
            }
            5 if postings < 4 => links.push((block, 32)),
            _ => {}
        }
    }
    links
}

/// Where a posting page names its refine pages: they name it too.
fn refine_links(store: &MemoryStore, posting: u32) -> Vec<Link> {
    let of_it = |block: &u32| kind(store, *block) == 5 && get(store, (*block, 32)) == posting;
    let named = (0..store.block_count().unwrap()).filter(of_it);
    let place = |refine: u32| {
        let mut places = (64..=PAGE_SIZE - 4).rev();
        (
            posting,
            places
                .find(|&at| get(store, (posting, at)) == refine)
                .unwrap(),
        )
    };
    named.map(place).collect()
}

/// Pages that a link might lead to.
fn targets(store: &MemoryStore, (block, _): Link) -> Vec<u32> {
    let blocks = store.block_count().unwrap();
    let mut targets = vec![block, 0, 1, blocks - 1, blocks, 1 << 17, u32::MAX];
    // The pages before and behind, and of each kind some of the same list and some of others.
    targets.extend([block.saturating_sub(1), block + 1]);
    for wanted in 2..=5 {
        let pages: Vec<u32> = (0..blocks).filter(|&b| kind(store, b) == wanted).collect();
        targets.extend(pages.first().into_iter().chain(pages.last()));
        targets.extend(pages.get(pages.len() / 2));
    }
    targets.sort_unstable();
    targets.dedup();
    targets
}

#[test]
fn damaged_links_end_in_errors() {
    for refine in [false, true] {
        let model = large_model();
        let (sound, row) = index(&model, refine);
        // A spare chain too.
        let student = model.student_bytes().unwrap();
        replace_student(&sound, &student, 6).unwrap();
        replace_student(&sound, &student, 7).unwrap();
        let (links, mut cases) = (links(&sound), 0);
        for &link in &links {
            for target in targets(&sound, link) {
                let store = sound.copy();
                store.mutate(link.0, |page| {
                    page[link.1..link.1 + 4].copy_from_slice(&target.to_le_bytes());
                });
                cases += 1;
                let (model, row) = (model.clone(), row.clone());
                ends(
                    format!("link {link:?} to {target}, refine: {refine}"),
                    move || {
                        let _ = use_everything(&store, &model, &row);
                    },
                );
            }
        }
        assert!(links.len() >= 20 && cases >= 250, "{} {cases}", links.len());
    }
}

/// Runs work that must end soon, and without a panic.
fn ends(what: String, work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        let _ = done.send(outcome.is_ok());
    });
    let outcome = ended.recv_timeout(Duration::from_secs(10));
    assert_eq!(outcome, Ok(true), "{what}");
}

#[test]
fn a_link_to_the_page_itself_is_refused_before_its_lock() {
    let model = model(Metric::L2, 4);
    let (store, row) = index(&model, true);
    let meta = Meta::read(&store).unwrap();
    let posting = (0..store.block_count().unwrap())
        .filter(|&block| kind(&store, block) == 4 && get(&store, (block, 28)) == row.list);
    for block in posting.collect::<Vec<_>>() {
        for (block, at) in refine_links(&store, block) {
            store.mutate(block, |page| {
                page[at..at + 4].copy_from_slice(&block.to_le_bytes());
            });
        }
    }
    let refused = insert(&store, &meta, row.row()).unwrap_err();
    assert!(
        refused.to_string().contains("link leads backwards"),
        "{refused}"
    );
    let problems = check(&store).unwrap().problems;
    let told = problems
        .iter()
        .any(|it| it.what == "link to a side page leads backwards");
    assert!(told, "{problems:?}");
}

#[test]
fn refine_codes_of_another_page_are_refused() {
    let model = model(Metric::L2, 4);
    let (store, _) = index(&model, true);
    let meta = Meta::read(&store).unwrap();
    let search = || {
        let lists = ListSearch::new(&store, &meta, Some(model.searcher()), &vectors(1, 1));
        let options = RerankOptions::for_refine_codes(meta.shape);
        let mut codes = RefineStream::new(lists.unwrap(), &store, options).unwrap();
        codes.probe(usize::MAX)?;
        codes.pull(100_000, &mut Vec::new())
    };
    search().unwrap();
    let blocks = 0..store.block_count().unwrap();
    let links: Vec<Link> = blocks.flat_map(|it| refine_links(&store, it)).collect();
    let [first, second] = [links[0], links[links.len() - 1]];
    assert_ne!(first.0, second.0);
    let other = get(&store, second);
    store.mutate(first.0, |page| {
        page[first.1..first.1 + 4].copy_from_slice(&other.to_le_bytes());
    });
    let refused = search().unwrap_err().to_string();
    assert!(
        refused.contains("not the page of refine codes expected here"),
        "{refused}"
    );
}

#[test]
fn a_new_student_spares_the_models_pages() {
    let model = large_model();
    let (store, _) = index(&model, false);
    let student = model.student_bytes().unwrap();
    replace_student(&store, &student, 6).unwrap();
    let meta = Meta::read(&store).unwrap();
    assert!(meta.pages.spare.blocks > 1 && meta.pages.current.blocks > 1);
    // From the first spare page on into the student's chain, whose second page has the right number.
    let second = get(&store, (meta.pages.current.start, 32));
    store.mutate(meta.pages.spare.start, |page| {
        page[32..36].copy_from_slice(&second.to_le_bytes());
    });
    let before = load_model(&store, &mut meta.clone()).unwrap().unwrap();
    let refused = replace_student(&store, &student, 8).unwrap_err();
    assert!(
        matches!(refused, Error::Pages(PageError::Damaged { .. })),
        "{refused}"
    );
    let after = load_model(&store, &mut meta.clone()).unwrap().unwrap();
    assert_eq!(
        before.student_bytes().unwrap(),
        after.student_bytes().unwrap()
    );
}

/// The first posting page of the first list that has one.
fn posting_block(store: &MemoryStore) -> u32 {
    let posting = |block: &u32| store.read(*block, |page| page[24]).unwrap() == 4;
    (0..store.block_count().unwrap()).find(posting).unwrap()
}

/// What searching everything says after a page was changed.
fn searched(change: impl FnOnce(&mut [u8])) -> (u32, Result<(), Error>, Vec<String>) {
    let model = model(Metric::L2, 4);
    let (store, _) = index(&model, false);
    let block = posting_block(&store);
    store.mutate(block, change);
    let meta = Meta::read(&store).unwrap();
    let mut search =
        ListSearch::new(&store, &meta, Some(model.searcher()), &vectors(1, 1)).unwrap();
    let result = search
        .probe(usize::MAX)
        .and_then(|()| search.pull(100_000, &mut Vec::new()));
    let problems = check(&store).unwrap().problems;
    let problems = problems.iter().map(|problem| problem.to_string());
    (block, result, problems.collect())
}

#[test]
fn damage_names_the_block_and_the_check_finds_it() {
    let put = |at: usize, value: u32| {
        move |page: &mut [u8]| page[at..at + 4].copy_from_slice(&value.to_le_bytes())
    };
    let (_, result, problems) = searched(|_| ());
    assert!(result.is_ok() && problems.is_empty());
    // The head: { kind, format, count }, list, next.
    for (change, what) in [
        (put(24, 0x0001_0109), "unknown kind of page"),
        (put(24, 0x0001_0004), "unknown page format"),
        (put(24, 0x0001_0103), "not a posting page"),
        (put(24, 0xffff_0104), "more rows than fit"),
        (put(28, 77), "the page belongs to another list"),
        (put(32, 1), "link leads backwards"),
        (put(32, 1_000_000), "link leads beyond the end"),
    ] {
        let (block, result, problems) = searched(change);
        let expected = format!("block {block} of the index is damaged: {what}");
        assert_eq!(result.unwrap_err().to_string(), expected);
        assert_eq!(problems.first(), Some(&format!("block {block}: {what}")));
    }
}

#[test]
fn a_newer_page_is_named_by_its_version_and_the_check_finds_it() {
    let newer = FORMAT + 1;
    let (block, result, problems) = searched(|page| page[25] = newer);
    assert_eq!(
        result.unwrap_err().to_string(),
        format!(
            "block {block} of the index has format version {newer}; this library reads versions up to {FORMAT}"
        )
    );
    let expected = format!("block {block}: the page has a newer format than the index");
    assert_eq!(problems.first(), Some(&expected));
}

#[test]
fn the_check_finds_a_row_that_is_there_twice() {
    let model = model(Metric::L2, 4);
    let (store, row) = index(&model, false);
    let meta = Meta::read(&store).unwrap();
    insert(&store, &meta, row.row()).unwrap();
    assert!(check(&store).unwrap().is_sound());
    let elsewhere = Owned {
        list: (row.list + 1) % 3,
        ..row
    };
    insert(&store, &meta, elsewhere.row()).unwrap();
    let problems = check(&store).unwrap().problems;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].what.contains("is in the index twice"));
}

#[test]
fn the_check_finds_a_damaged_model() {
    let model = model(Metric::L2, 4);
    let (store, _) = index(&model, false);
    let meta = Meta::read(&store).unwrap();
    for block in [meta.pages.base.start, meta.pages.current.start] {
        store.mutate(block, |page| page[70] ^= 1);
        assert!(matches!(
            load_model(&store, &mut meta.clone()),
            Err(Error::Pages(PageError::Damaged { .. }))
        ));
        assert_eq!(check(&store).unwrap().problems.len(), 1);
        store.mutate(block, |page| page[70] ^= 1);
        assert!(check(&store).unwrap().is_sound());
    }
}

#[test]
fn newer_and_foreign_metapages_are_told_apart() {
    let model = model(Metric::L2, 4);
    let (store, _) = index(&model, false);
    store.mutate(0, |page| page[72] = 2);
    let newer = Meta::read(&store);
    assert!(matches!(
        newer,
        Err(Error::Pages(PageError::UnsupportedVersion {
            found: 2,
            newest: 1
        }))
    ));
    store.mutate(0, |page| page[64] = b'x');
    assert!(matches!(
        Meta::read(&store),
        Err(Error::Pages(PageError::NotAnIndex))
    ));
}
