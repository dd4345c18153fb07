//! The metapage, the model's pages and the directory.
//!
//! # Metapage (block 0), after the head
//! ```text
//!   64  magic "distilvq"         84  lists u32                    112  rows at build u64
//!   72  version u32              88  sub-quantizers u32           120  encoder chain
//!   76  complete u8              92  directory start u32          144  student chain
//!   77  metric u8                96  directory blocks u32         168  spare chain
//!   78  bits u8                 100  has refine codes u8          192  record
//!   79  has norm u8             104  build id u64
//!   80  dim u32
//! chain { start u32, blocks u32, bytes u64, crc32c u32, reserved u32 }
//! ```
//!
//! The record says how the index was trained and what recall it was measured to have (see `calibration`). Times are in
//! microseconds since 1970, unknown shares NaN.
//! ```text
//! 192  crc32c u32 of 196..908      204  error of the codes f32      248  trained with queries u64
//! 196  queries u8: 0 not           208  rows when measured u64      256  recall before f32
//!      measured, 1 rows, 2 log     216  measured at i64             260  recall after f32
//! 197  k u8                        224  built at i64                264  depth f32, 0 as 1
//! 198  points u8                   232  trained at i64              272  24 points
//! 199  bands u8                    240  trained on rows u64         656  7 bands
//! 200  queries measured with u32
//! point { probes u32, recall f32, standard error f32, rows compared f32 }
//! band { lists for each of nine levels of recall u32 }
//! ```
//!
//! The metapage is written incomplete when a build begins, and complete when it ends. After that only a replacement of
//! the student (see `student`) and a new record change it; every other change is in the directory and the posting pages.
//!
//! # Model pages
//! The bytes of the model's two parts, each over a chain of pages of its own (see `chain`). The spare chain is where the
//! next student will be written; its bytes mean nothing.
//!
//! # Directory pages
//! Entries of 16 bytes, `{ first u32, hint u32, rows u64 }`, one a list and one more for the exact list, on consecutive
//! blocks. `first` never changes once set. `hint` says where an insert starts to look for room and is never needed for
//! correctness; `rows` counts at build or the last vacuum.

use crate::calibration::{Calibration, Training};
use crate::chain::{self, Chain, Extent};
use crate::error::Error;
use crate::page::{BODY, BODY_SIZE, Head, Kind, Layout, get, get_u32, get_u64, put};
use crate::record::Record;
use crate::store::{PageStore, PageWrite};
use crate::{CodeShape, Metric, Model};
use distillvq_model::{MAX_DIM, MAX_LISTS, refine_bytes};

/// Format version that this library writes, and the newest it reads.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"distilvq";
const ENTRY_SIZE: usize = 16;
/// Directory entries on a page.
pub(crate) const ENTRIES: usize = BODY_SIZE / ENTRY_SIZE;

/// What the metapage says. Read it once for a scan and keep the copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// Format version.
    pub version: u32,
    /// Whether the build was finished; [`Meta::read`] refuses an incomplete index.
    pub complete: bool,
    /// The metric.
    pub metric: Metric,
    /// Dimensions of a vector.
    pub dim: usize,
    /// Inverted lists; 0 means untrained: only the exact list exists.
    pub lists: u32,
    /// What is kept of a row in a list; without meaning (no sub-quantizers) if untrained.
    pub shape: CodeShape,
    /// Whether rows in lists have refine codes ([`distillvq_model::RefineQuery`]).
    pub refine: bool,
    /// The model's encoder, which never changes.
    pub encoder: Chain,
    /// The model's student.
    pub student: Chain,
    /// Where the next student will be written.
    pub spare: Chain,
    /// Pages of the directory.
    pub directory: Extent,
    /// Changes whenever the model in the pages changes: the key of a cache of decoded models.
    pub build_id: u64,
    /// Rows indexed by the build.
    pub rows_at_build: u64,
    /// How the model came to be.
    pub training: Training,
    /// The measured recall, none if it was not measured.
    pub calibration: Option<Calibration>,
}

impl Meta {
    /// Reads and checks the metapage of a complete index.
    pub fn read<S: PageStore>(store: &S) -> Result<Meta, Error> {
        let meta = Meta::read_any(store)?;
        if meta.complete {
            Ok(meta)
        } else {
            Err(Error::Incomplete)
        }
    }

    /// Reads and checks the metapage, also of an index whose build was never finished.
    pub(crate) fn read_any<S: PageStore>(store: &S) -> Result<Meta, Error> {
        let blocks = store.blocks()?;
        if blocks == 0 {
            return Err(Error::NotAnIndex);
        }
        let meta = store.read(0, Meta::parse)??;
        if meta.validate(blocks).is_err() {
            // The metapage may tell of pages that were added since the size was asked for.
            meta.validate(store.blocks()?)?;
        }
        Ok(meta)
    }

    /// Whether there is a model; without one all rows are in the exact list.
    pub fn trained(&self) -> bool {
        self.lists > 0
    }

    /// Whether a model is of the kind that the metapage tells of.
    ///
    /// # Errors
    /// If it is not: the metapage or the model's pages are damaged.
    pub fn check_model(&self, model: &Model) -> Result<(), Error> {
        let fits = model.metric() == self.metric
            && model.dim() == self.dim
            && model.lists() == self.lists as usize
            && model.shape() == self.shape;
        if fits {
            Ok(())
        } else {
            Err(Error::damaged(0, "metapage and model differ"))
        }
    }

    /// The number of the exact list.
    pub fn exact_list(&self) -> u32 {
        self.lists
    }

    /// Layout of the posting pages of a list.
    pub(crate) fn layout(&self, list: u32) -> Result<Layout, Error> {
        if list == self.lists {
            return Ok(Layout::exact());
        }
        self.coded()
            .ok_or(Error::damaged(0, "codes do not fit a page"))
    }

    /// Layout of the posting pages of lists, if the codes fit a page.
    pub(crate) fn coded(&self) -> Option<Layout> {
        Layout::coded(self.shape, self.refine_bytes())
    }

    /// Bytes of a refine code, 0 if there are none.
    pub fn refine_bytes(&self) -> usize {
        if self.refine {
            refine_bytes(self.dim)
        } else {
            0
        }
    }

    /// Reads a metapage of a version that is known.
    pub(crate) fn parse(page: &[u8]) -> Result<Meta, Error> {
        let head = Head::read(page).map_err(|_| Error::NotAnIndex)?;
        if head.kind != Kind::Meta || get::<8>(page, BODY) != MAGIC {
            return Err(Error::NotAnIndex);
        }
        let version = get_u32(page, 72);
        if version == 0 || version > VERSION {
            return Err(Error::UnsupportedVersion {
                found: version,
                newest: VERSION,
            });
        }
        let [complete, metric, bits, has_norm] = get(page, 76);
        let Record {
            training,
            calibration,
        } = Record::read(page)?;
        Ok(Meta {
            version,
            complete: complete == 1,
            metric: metric_of(metric).ok_or(Error::damaged(0, "unknown metric"))?,
            dim: get_u32(page, 80) as usize,
            lists: get_u32(page, 84),
            shape: CodeShape {
                subquantizers: get_u32(page, 88) as usize,
                bits,
                has_norm: has_norm == 1,
            },
            refine: get::<1>(page, 100) == [1],
            directory: Extent {
                start: get_u32(page, 92),
                blocks: get_u32(page, 96),
            },
            build_id: get_u64(page, 104),
            rows_at_build: get_u64(page, 112),
            encoder: Chain::read(page, 120),
            student: Chain::read(page, 144),
            spare: Chain::read(page, 168),
            training,
            calibration,
        })
    }

    /// Writes everything into a page.
    pub(crate) fn store(&self, page: &mut [u8]) {
        Head {
            kind: Kind::Meta,
            count: 0,
            list: 0,
            next: 0,
            inserted: 0,
            moves: 0,
        }
        .write(page);
        put(page, BODY, &MAGIC);
        put(page, 72, &self.version.to_le_bytes());
        let flags = [
            u8::from(self.complete),
            metric_code(self.metric),
            self.shape.bits,
            u8::from(self.shape.has_norm),
        ];
        put(page, 76, &flags);
        put(page, 80, &(self.dim as u32).to_le_bytes());
        put(page, 84, &self.lists.to_le_bytes());
        put(page, 88, &(self.shape.subquantizers as u32).to_le_bytes());
        put(page, 92, &self.directory.start.to_le_bytes());
        put(page, 96, &self.directory.blocks.to_le_bytes());
        put(page, 100, &[u8::from(self.refine)]);
        put(page, 104, &self.build_id.to_le_bytes());
        put(page, 112, &self.rows_at_build.to_le_bytes());
        self.encoder.write(page, 120);
        self.student.write(page, 144);
        self.spare.write(page, 168);
        let record = Record {
            training: self.training,
            calibration: self.calibration,
        };
        record.write(page);
    }

    fn validate(&self, blocks: u32) -> Result<(), Error> {
        let fail = |what| Err(Error::damaged(0, what));
        if self.dim == 0 || self.dim > MAX_DIM {
            return fail("impossible dimension");
        }
        if self.lists as usize > MAX_LISTS {
            return fail("too many lists");
        }
        if self.trained() && self.coded().is_none() {
            return fail("codes do not fit a page");
        }
        if !self.complete {
            return Ok(());
        }
        let model = [self.encoder, self.student];
        let fits = model.iter().chain([&self.spare]).all(|c| c.fits(blocks));
        if !fits || model.iter().any(|c| self.trained() != (c.blocks > 0)) {
            return fail("the model's pages are not inside the index");
        }
        if self.spare.blocks > 0 && model.iter().any(|c| c.start == self.spare.start) {
            return fail("the spare pages are the model's");
        }
        if self.directory.blocks != directory_blocks(self.lists) || !self.directory.fits(blocks) {
            return fail("the directory's pages are not inside the index");
        }
        Ok(())
    }

    /// Block and offset of a list's directory entry.
    pub(crate) fn entry_place(&self, list: u32) -> Result<(u32, usize), Error> {
        if list > self.lists {
            return Err(Error::Mismatch("there is no list of this number"));
        }
        let slot = list as usize % ENTRIES;
        Ok((self.entry_page(list), entry_offset(slot)))
    }

    /// Block of a list's directory entry, if there is such a list.
    pub(crate) fn entry_page(&self, list: u32) -> u32 {
        self.directory.start.wrapping_add(list / ENTRIES as u32)
    }
}

/// Offset of the `slot`-th entry on its directory page.
pub(crate) fn entry_offset(slot: usize) -> usize {
    BODY + slot * ENTRY_SIZE
}

/// Pages of a directory.
pub(crate) fn directory_blocks(lists: u32) -> u32 {
    (lists + 1).div_ceil(ENTRIES as u32)
}

/// Entries on the `ordinal`-th directory page.
pub(crate) fn entries_on(lists: u32, ordinal: u32) -> usize {
    (lists as usize + 1)
        .saturating_sub(ordinal as usize * ENTRIES)
        .min(ENTRIES)
}

/// Changes the metapage alone. Returns what it says now.
pub(crate) fn change_meta<W: PageWrite>(
    mut write: W,
    change: impl FnOnce(&mut Meta) -> Result<(), Error>,
) -> Result<Meta, Error> {
    let slot = write.lock(0)?;
    let mut meta = Meta::parse(write.page(slot))?;
    change(&mut meta)?;
    meta.store(write.page(slot));
    write.commit()?;
    Ok(meta)
}

/// Replaces what the metapage says of training and recall, in one change. `build_id` is that of the model which was
/// measured: if it is another one's by now, nothing is changed, and that is an error. Returns the new metapage.
pub fn describe<S: PageStore>(
    store: &S,
    build_id: u64,
    training: Training,
    calibration: Option<Calibration>,
) -> Result<Meta, Error> {
    change_meta(store.write()?, |meta| {
        if meta.build_id != build_id {
            return Err(Error::Mismatch("the model was replaced meanwhile"));
        }
        meta.training = training;
        meta.calibration = calibration;
        Ok(())
    })
}

fn metric_code(metric: Metric) -> u8 {
    match metric {
        Metric::L2 => 1,
        Metric::InnerProduct => 2,
        Metric::Cosine => 3,
    }
}

fn metric_of(code: u8) -> Option<Metric> {
    [Metric::L2, Metric::InnerProduct, Metric::Cosine]
        .into_iter()
        .find(|&metric| metric_code(metric) == code)
}

/// An entry of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// First posting page, 0 if the list has none.
    pub first: u32,
    /// Where an insert starts to look.
    pub hint: u32,
    /// Rows at build or the last vacuum.
    pub rows: u64,
}

impl Entry {
    /// Reads the entry at an offset of a directory page.
    pub fn read(page: &[u8], at: usize) -> Entry {
        Entry {
            first: get_u32(page, at),
            hint: get_u32(page, at + 4),
            rows: get_u64(page, at + 8),
        }
    }

    /// Writes the entry at an offset of a directory page.
    pub fn write(&self, page: &mut [u8], at: usize) {
        put(page, at, &self.first.to_le_bytes());
        put(page, at + 4, &self.hint.to_le_bytes());
        put(page, at + 8, &self.rows.to_le_bytes());
    }

    /// Reads the entry of a list from the directory.
    pub fn of<S: PageStore>(store: &S, meta: &Meta, list: u32) -> Result<Entry, Error> {
        let (block, at) = meta.entry_place(list)?;
        store.read(block, |page| {
            check_directory_page(page, block, meta)?;
            Ok(Entry::read(page, at))
        })?
    }
}

/// Checks the head of a directory page.
pub(crate) fn check_directory_page(page: &[u8], block: u32, meta: &Meta) -> Result<(), Error> {
    let head = Head::read(page).map_err(|what| Error::damaged(block, what))?;
    let ordinal = block.wrapping_sub(meta.directory.start);
    if head.kind != Kind::Directory || head.list != ordinal {
        return Err(Error::damaged(
            block,
            "not the directory page expected here",
        ));
    }
    if usize::from(head.count) != entries_on(meta.lists, ordinal) {
        return Err(Error::damaged(block, "wrong number of directory entries"));
    }
    Ok(())
}

/// Reads all directory entries, in the order of lists; the last one is that of the exact list.
pub(crate) fn read_directory<S: PageStore>(store: &S, meta: &Meta) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::with_capacity(meta.lists as usize + 1);
    for ordinal in 0..meta.directory.blocks {
        store.interrupts()?;
        let block = meta.directory.start + ordinal;
        store.read(block, |page| {
            check_directory_page(page, block, meta)?;
            let count = entries_on(meta.lists, ordinal);
            entries.extend((0..count).map(|i| Entry::read(page, entry_offset(i))));
            Ok::<(), Error>(())
        })??;
    }
    Ok(entries)
}

/// Rows of every list (the last entry is the exact list) as counted at build or by the last vacuum.
pub fn list_rows<S: PageStore>(store: &S, meta: &Meta) -> Result<Vec<u64>, Error> {
    let entries = read_directory(store, meta)?;
    Ok(entries.iter().map(|entry| entry.rows).collect())
}

/// Times that a reader begins anew because the student was replaced meanwhile.
const RETRIES: usize = 10;

/// The bytes of the encoder of a trained index.
pub fn encoder_bytes<S: PageStore>(store: &S, meta: &Meta) -> Result<Vec<u8>, Error> {
    chain::read(store, &meta.encoder)
}

/// The bytes of encoder and student of a trained index. They are of one model even if the student is replaced meanwhile: then
/// `meta` is brought up to date, and its build identifier is that of the model.
pub fn model_bytes<S: PageStore>(store: &S, meta: &mut Meta) -> Result<[Vec<u8>; 2], Error> {
    let encoder = encoder_bytes(store, meta)?;
    for _ in 0..RETRIES {
        match chain::read(store, &meta.student) {
            Ok(student) => return Ok([encoder, student]),
            // Its pages may have been written over for a later student.
            Err(error @ Error::Damaged { .. }) => {
                let now = Meta::read(store)?;
                if now.build_id == meta.build_id {
                    return Err(error);
                }
                *meta = now;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Store(
        "the model changes faster than it can be read".to_owned(),
    ))
}

/// Reads the model of an index; `None` if it is untrained. If the student was replaced since `meta` was read, `meta` may
/// be brought up to date: afterwards its build identifier is that of the model.
pub fn load_model<S: PageStore>(store: &S, meta: &mut Meta) -> Result<Option<Model>, Error> {
    if !meta.trained() {
        return Ok(None);
    }
    let [encoder, student] = model_bytes(store, meta)?;
    let model = Model::from_parts(&encoder, &student)?;
    meta.check_model(&model)?;
    Ok(Some(model))
}
