//! A column that the library does not have: rows carry a made-up tag of 16 bits beside their codes. Bulk load, insert,
//! vacuum, check and statistics keep it, and a search filters by it, without a change in any of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::scorer::BlockFilter;
use distillvq_ivf::{
    Calibration, Candidate, ListSearch, Meta, Metric, Model, Tid, Training, row_format,
};
use distillvq_kernels::LANES;
use distillvq_model::refine_bytes;
use distillvq_pages::memory_store::MemoryStore;
use distillvq_pages::{
    Block, Builder, Check, CheckReport, Column, Contents, MAX_COLUMNS, Metapage, PageStore, Row,
    RowFormat, Stored, Value, collect_stats, insert, vacuum,
};
use std::collections::HashMap;

const TAG: u8 = 77;
/// Rows that the index is built with; further ones are inserted.
const BUILT: usize = 900;

/// The tag of a row: every value in 0..7 that a row's number leaves, far apart in both bytes.
fn tag(tid: Tid) -> u16 {
    (tid.block * 40 + u32::from(tid.offset)) as u16 % 7 * 9001
}

/// The columns of codes, and the tag in front of the side column if there is one.
fn tagged_format(model: &Model, refine: bool) -> RowFormat {
    let bytes = if refine { refine_bytes(DIM) } else { 0 };
    let mut columns = row_format(model.shape(), &FilterFormat::default(), bytes)
        .unwrap()
        .columns()
        .to_vec();
    let tag = Column {
        id: TAG,
        planes: 1,
        bits: 16,
        stored: Stored::Posting,
    };
    columns.insert(columns.len() - usize::from(refine), tag);
    RowFormat::new(&columns).unwrap()
}

/// A row in the columns of [`tagged_format`].
fn tagged<'a>(row: &'a Owned, model: &Model) -> Row<'a> {
    let norm = model
        .shape()
        .has_norm
        .then(|| Value::Number(row.norm.to_bits()));
    let refine = (!row.refine.is_empty()).then_some(Value::Bytes(&row.refine));
    let values = [Value::Bytes(&row.codes), Value::Number(row.scale.into())];
    let values = values.into_iter().chain(norm);
    let values = values.chain([Value::Number(tag(row.tid).into())]);
    let mut columns = [Value::default(); MAX_COLUMNS];
    for (column, value) in columns.iter_mut().zip(values.chain(refine)) {
        *column = value;
    }
    Row {
        list: row.list,
        tid: row.tid,
        columns,
    }
}

/// Admits the rows with one tag.
struct TagFilter {
    position: usize,
    tag: u16,
}

impl BlockFilter for TagFilter {
    fn admit(&self, block: &Block<'_>) -> u32 {
        let tags = block.column(self.position).as_chunks::<2>().0;
        assert_eq!(tags.len(), LANES);
        let lanes = (0..).zip(tags);
        lanes.fold(0, |mask, (lane, tag)| {
            mask | u32::from(u16::from_le_bytes(*tag) == self.tag) << lane
        })
    }
}

struct Index {
    store: MemoryStore,
    metapage: Metapage,
    model: Model,
    refine: bool,
}

impl Index {
    fn build(model: Model, rows: &[Owned], refine: bool) -> Index {
        let store = MemoryStore::new();
        let [encoder, student] = [model.encoder_bytes(), model.student_bytes()].map(Result::unwrap);
        let contents = Contents {
            format: tagged_format(&model, refine),
            lists: LISTS as u32,
            blobs: [&encoder, &student],
            blob_version: 1,
            body: b"some body",
        };
        let mut builder = Builder::create(&store, contents).unwrap();
        // Two runs, the second of which goes on in the pages of the first.
        for run in rows.chunks(500) {
            let mut run = run.to_vec();
            run.sort_by_key(|row| row.list);
            let rows = run.iter().map(|row| tagged(row, &model));
            builder.append(rows).unwrap();
        }
        builder.finish().unwrap();
        let metapage = Metapage::read(&store).unwrap();
        assert_eq!(metapage.format, tagged_format(&model, refine));
        Index {
            store,
            metapage,
            model,
            refine,
        }
    }

    fn meta(&self) -> Meta {
        Meta {
            pages: self.metapage,
            metric: self.model.metric(),
            dim: DIM,
            shape: self.model.shape(),
            refine: self.refine,
            filters: FilterFormat::default(),
            assignments: self.model.assignments() as u8,
            training: Training::default(),
            calibration: None::<Calibration>,
        }
    }

    /// All rows with a tag, best first, pulled from all lists in pieces.
    fn search(&self, query: &[f32], tag: u16, memory: usize) -> Vec<(f32, Tid)> {
        let position = self.metapage.format.position(TAG).unwrap();
        let filter = TagFilter { position, tag };
        let searcher = Some(self.model.searcher());
        let search = ListSearch::with_filter(&self.store, &self.meta(), searcher, query, filter);
        let mut search = search.unwrap().with_memory(memory);
        let mut out = Vec::new();
        for lists in [3, LISTS] {
            search.probe(lists).unwrap();
            search.pull_new_lists(5, &mut out).unwrap();
        }
        while search.bound().is_some() {
            search.pull(20, &mut out).unwrap();
        }
        // Which lists are looked at first decides the order of the first candidates.
        out.sort_by(order);
        out.iter()
            .map(|it: &Candidate| (it.score, it.tid))
            .collect()
    }

    /// Everything that the pages can say of the rows, and searches for each tag.
    fn expect(&self, rows: &[Owned]) {
        let mut by_tid: HashMap<Tid, &Owned> = rows.iter().map(|row| (row.tid, row)).collect();
        let blocks = self.store.block_count().unwrap();
        let report = CheckReport::default();
        let mut check = Check::new(&self.store, blocks, self.metapage, usize::MAX, report);
        let position = self.metapage.format.position(TAG).unwrap();
        let wrong = |block: &Block<'_>, lane: usize| {
            let tags = block.column(position).as_chunks::<2>().0;
            (u16::from_le_bytes(tags[lane]) != tag(block.tid(lane))).then_some("has a wrong tag")
        };
        let has_columns = |block: &Block<'_>, lane| {
            if block.column(position).is_empty() {
                None
            } else {
                wrong(block, lane)
            }
        };
        assert!(check.walk(&has_columns).unwrap());
        check.next_window().unwrap().unwrap();
        for row in rows.iter().filter(|row| row.list < LISTS as u32) {
            let found = check.find(row.tid).expect("the row is in the index");
            let indexed = check.read_row(found).unwrap().unwrap();
            assert_eq!((indexed.list, &indexed.columns[0]), (row.list, &row.codes));
            assert_eq!(indexed.columns[position], tag(row.tid).to_le_bytes());
            if self.refine {
                assert_eq!(indexed.columns[position + 1], row.refine);
            }
        }
        assert_eq!(check.report.problems, []);
        let stats = collect_stats(&self.store, &self.metapage, (9, 10_000), (1, TAG)).unwrap();
        assert_eq!(stats.rows(), rows.len() as u64);
        for row in stats.inserted_sample {
            assert!(by_tid.remove(&row.tid).is_some());
            assert_eq!(row.values, tag(row.tid).to_le_bytes());
        }
        let query = vectors(1, 5);
        for wanted in (0..7).map(|i| i * 9001) {
            let mut expected = scores(&self.model, rows, &query);
            expected.retain(|candidate| tag(candidate.tid) == wanted);
            assert!(expected.len() > 50);
            let expected: Vec<_> = expected.iter().map(|it| (it.score, it.tid)).collect();
            // With the scores kept, and scanning the lists again for each piece.
            for memory in [1 << 20, 0] {
                assert_eq!(self.search(&query, wanted, memory), expected);
            }
        }
    }
}

#[test]
fn a_made_up_column_is_kept_and_filtered_by() {
    for (metric, bits, refine) in [
        (Metric::L2, 4, false),
        (Metric::Cosine, 8, false),
        (Metric::L2, 8, true),
    ] {
        let model = model(metric, bits);
        let encode = if refine { encode_refined } else { encode };
        let mut rows = encode(&model, &vectors(BUILT + 300, 2), 0);
        let inserted = rows.split_off(BUILT);
        let index = Index::build(model.clone(), &rows, refine);
        index.expect(&rows);
        let (early, late) = inserted.split_at(150);
        for row in early {
            insert(&index.store, &index.metapage, tagged(row, &model)).unwrap();
        }
        rows.extend_from_slice(early);
        index.expect(&rows);
        let dead = |tid: Tid| (tid.block + u32::from(tid.offset)).is_multiple_of(3);
        let stats = vacuum(&index.store, &mut |tid| dead(tid)).unwrap();
        let before = rows.len();
        rows.retain(|row| !dead(row.tid));
        assert_eq!(stats.removed, (before - rows.len()) as u64);
        index.expect(&rows);
        for row in late {
            insert(&index.store, &index.metapage, tagged(row, &model)).unwrap();
        }
        rows.extend_from_slice(late);
        index.expect(&rows);
    }
}
