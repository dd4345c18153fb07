//! A bounded sample of records of one size, which searches write without WAL and without waiting for a lock.
//!
//! # Pages
//! The metapage names the first page, which names the others; of these, `list` is the ordinal, from 1.
//! ```text
//! first page                                            other pages
//!   64  number of the newest record u32                   64  records
//!   68  that number when they were last checked u32     record
//!   72  newest record written at i64                      crc32c of the rest u32
//!   80  pages u32                                         number u32, from 1
//!   84  reserved u32                                      contents
//!   88  their blocks u32
//! ```
//! Times are in microseconds since 1970.
//!
//! # Which records are kept
//! After a check, the next records take all places in turn, so that soon all are newer than the check. From then on, a record takes
//! a random place, and at most one does in each [`Draw::interval`]: the sample is of all records since, recent ones more likely.
//!
//! # Locking and WAL
//! Pages are added and emptied by atomic changes. Records and counters are written by [`PageStore::try_hint`], as PostgreSQL writes
//! hint bits and its free space map: there is no WAL record, and a page that somebody else has locked is left alone. A crash may
//! take records away, or tear a page; a record with a wrong checksum is none. Counters that a crash has set back let numbers occur
//! twice, which does no harm. A standby has the records of the last full-page image.

use crate::bytes::{BODY, BODY_SIZE, PAGE_SIZE, get_u32, get_u64, put};
use crate::error::Error;
use crate::metapage::{Metapage, raise_version};
use crate::page::{FORMAT, NO_BLOCK, PageHeader, PageKind};
use crate::posting::extend_after;
use crate::store::{PageStore, PageWrite};

const NEWEST: usize = BODY;
const CHECKED: usize = BODY + 4;
const WRITTEN_AT: usize = BODY + 8;
const PAGES: usize = BODY + 16;
const BLOCKS: usize = BODY + 24;
/// Checksum and number.
const RECORD_HEAD: usize = 8;
/// Maximum number of pages with records.
const MAX_PAGES: usize = (PAGE_SIZE - BLOCKS) / 4;

/// Maximum number of bytes of a record's contents.
pub const MAX_RECORD_BYTES: usize = BODY_SIZE - RECORD_HEAD;

/// What decides whether a record is kept, and where.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Now.
    pub now: i64,
    /// Minimum time between two records, once there is no older one than the last check.
    pub interval: i64,
    /// A random number.
    pub random: u32,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is in the sample.
    Kept,
    /// Another session is writing.
    Busy,
    /// The sample takes no record before this time.
    NotBefore(i64),
    /// The index has no pages for records.
    NoRoom,
}

/// The counters of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleCounters {
    /// Number of the newest record.
    pub newest: u32,
    /// The same at the last check: newer records have higher numbers.
    pub checked: u32,
    /// Number of records that there is room for.
    pub capacity: u32,
}

/// The first page, with records of `length` bytes.
struct FirstPage<'a> {
    page: &'a [u8],
    per_page: u32,
}

impl<'a> FirstPage<'a> {
    fn read(page: &'a [u8], block: u32, length: usize) -> Result<Self, Error> {
        check_header(page, block, 0)?;
        let first = FirstPage {
            page,
            per_page: records_per_page(length),
        };
        if first.pages() > MAX_PAGES as u32 {
            return Err(Error::damaged(block, "a sample of too many pages"));
        }
        Ok(first)
    }

    fn pages(&self) -> u32 {
        get_u32(self.page, PAGES)
    }

    fn counters(&self) -> SampleCounters {
        SampleCounters {
            newest: get_u32(self.page, NEWEST),
            checked: get_u32(self.page, CHECKED),
            capacity: self.pages() * self.per_page,
        }
    }

    fn written_at(&self) -> i64 {
        get_u64(self.page, WRITTEN_AT).cast_signed()
    }

    /// Block of the page of this ordinal, from 1.
    fn block(&self, ordinal: u32) -> u32 {
        get_u32(self.page, BLOCKS + 4 * (ordinal as usize - 1))
    }

    fn blocks(&self) -> Vec<u32> {
        (1..=self.pages()).map(|i| self.block(i)).collect()
    }
}

/// A record's place.
#[derive(Clone, Copy)]
struct Place {
    ordinal: u32,
    block: u32,
    /// On its page.
    at: usize,
    number: u32,
}

/// Makes room for so many records of `length` bytes, unless there is. Returns the metapage.
///
/// # Errors
/// [`Error::Mismatch`] if a record does not fit a page.
pub fn make_room<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    length: usize,
    records: usize,
) -> Result<Metapage, Error> {
    if length > MAX_RECORD_BYTES {
        return Err(Error::Mismatch("a record does not fit a page"));
    }
    let per_page = records_per_page(length);
    let wanted = records.div_ceil(per_page as usize).min(MAX_PAGES) as u32;
    let present = sample_counters(store, metapage, length)?.capacity / per_page;
    if present >= wanted {
        return Ok(*metapage);
    }
    let mut metapage = Metapage::read(store)?;
    if metapage.sample == NO_BLOCK {
        raise_version(store, &metapage)?;
        metapage = add_first_page(store)?;
    }
    for ordinal in present + 1..=wanted {
        store.check_interrupts()?;
        add_page(store, metapage.sample, ordinal)?;
    }
    Ok(metapage)
}

fn add_first_page<S: PageStore>(store: &S) -> Result<Metapage, Error> {
    let mut write = store.write()?;
    let meta_slot = write.lock(0)?;
    let mut metapage = Metapage::parse(write.page(meta_slot))?;
    let (first, slot) = extend_after(&mut write, 0)?;
    header(0).write(write.page(slot));
    metapage.sample = first;
    metapage.version = FORMAT.into();
    metapage.write_to(write.page(meta_slot));
    write.commit()?;
    Ok(metapage)
}

/// Adds the page of an ordinal, the next one.
fn add_page<S: PageStore>(store: &S, first: u32, ordinal: u32) -> Result<(), Error> {
    let mut write = store.write()?;
    let first_slot = write.lock_whole(first)?;
    check_header(write.page(first_slot), first, 0)?;
    let (block, slot) = extend_after(&mut write, first)?;
    header(ordinal).write(write.page(slot));
    let page = write.page(first_slot);
    put(page, PAGES, &ordinal.to_le_bytes());
    put(
        page,
        BLOCKS + 4 * (ordinal as usize - 1),
        &block.to_le_bytes(),
    );
    write.commit()
}

/// Offers a record of the index's length.
pub fn offer_record<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    contents: &[u8],
    draw: Draw,
) -> Result<Offer, Error> {
    if metapage.sample == NO_BLOCK {
        return Ok(Offer::NoRoom);
    }
    let reserved = store.try_hint(metapage.sample, |page| {
        let reserved = reserve(page, metapage.sample, contents.len(), draw);
        let is_changed = matches!(reserved, Ok(Ok(_)));
        (reserved, is_changed)
    })?;
    let place = match reserved {
        None => return Ok(Offer::Busy),
        Some(reserved) => match reserved? {
            Ok(place) => place,
            Err(offer) => return Ok(offer),
        },
    };
    let written = store.try_hint(place.block, |page| {
        let is_right = check_header(page, place.block, place.ordinal);
        if is_right.is_ok() {
            put_record(page, place, contents);
        }
        let is_changed = is_right.is_ok();
        (is_right, is_changed)
    })?;
    // Somebody reads the older record there: this one is passed over.
    written.map_or(Ok(Offer::Busy), |is_right| is_right.map(|()| Offer::Kept))
}

/// Takes a place for a record, or tells why there is none.
fn reserve(
    page: &mut [u8],
    block: u32,
    length: usize,
    draw: Draw,
) -> Result<Result<Place, Offer>, Error> {
    let first = FirstPage::read(page, block, length)?;
    let SampleCounters {
        newest,
        checked,
        capacity,
    } = first.counters();
    if capacity == 0 {
        return Ok(Err(Offer::NoRoom));
    }
    let is_full = newest.wrapping_sub(checked) >= capacity;
    // A clock that was set back does not stop the sample.
    let waited = draw.now.saturating_sub(first.written_at());
    if is_full && (0..draw.interval).contains(&waited) {
        let next = first.written_at().saturating_add(draw.interval);
        return Ok(Err(Offer::NotBefore(next)));
    }
    let record = if is_full { draw.random } else { newest } % capacity;
    let (ordinal, i) = (1 + record / first.per_page, record % first.per_page);
    let place = Place {
        ordinal,
        block: first.block(ordinal),
        at: BODY + i as usize * record_bytes(length),
        number: newest.wrapping_add(1),
    };
    put(page, NEWEST, &place.number.to_le_bytes());
    put(page, WRITTEN_AT, &draw.now.to_le_bytes());
    Ok(Ok(place))
}

fn put_record(page: &mut [u8], place: Place, contents: &[u8]) {
    put(page, place.at + 4, &place.number.to_le_bytes());
    put(page, place.at + RECORD_HEAD, contents);
    let checksum = checksum(page, place.at, contents.len()).unwrap_or_default();
    put(page, place.at, &checksum.to_le_bytes());
}

/// Checksum of a record's number and contents.
fn checksum(page: &[u8], at: usize, length: usize) -> Option<u32> {
    let record = page.get(at + 4..at + RECORD_HEAD + length)?;
    Some(crc32c::crc32c(record))
}

/// Reads the counters; all zero if there are no pages for records of `length` bytes.
pub fn sample_counters<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    length: usize,
) -> Result<SampleCounters, Error> {
    let block = metapage.sample;
    if block == NO_BLOCK {
        return Ok(SampleCounters::default());
    }
    let counters = |page: &[u8]| Ok::<_, Error>(FirstPage::read(page, block, length)?.counters());
    store.read(block, counters)?
}

/// Passes the number and the contents of each record of `length` bytes to `each`, in no order. Returns the counters.
pub fn read_records<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    length: usize,
    mut each: impl FnMut(u32, &[u8]),
) -> Result<SampleCounters, Error> {
    let counters = sample_counters(store, metapage, length)?;
    for (ordinal, block) in (1..).zip(sample_blocks(store, metapage)?) {
        store.check_interrupts()?;
        store.read(block, |page| {
            check_header(page, block, ordinal)?;
            for i in 0..records_per_page(length) as usize {
                let at = BODY + i * record_bytes(length);
                let number = get_u32(page, at + 4);
                let is_whole = checksum(page, at, length) == Some(get_u32(page, at));
                if number > 0 && is_whole {
                    let from = at + RECORD_HEAD;
                    each(number, page.get(from..from + length).unwrap_or_default());
                }
            }
            Ok::<(), Error>(())
        })??;
    }
    Ok(counters)
}

/// Records that the records up to a number were checked; by a hint, which may be lost.
pub fn mark_checked<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    newest: u32,
) -> Result<(), Error> {
    if metapage.sample != NO_BLOCK {
        store.try_hint(metapage.sample, |page| {
            let is_first = check_header(page, metapage.sample, 0).is_ok();
            if is_first {
                put(page, CHECKED, &newest.to_le_bytes());
            }
            ((), is_first)
        })?;
    }
    Ok(())
}

/// Removes all records, for good.
pub fn remove_records<S: PageStore>(store: &S, metapage: &Metapage) -> Result<(), Error> {
    for (ordinal, block) in (1..).zip(sample_blocks(store, metapage)?) {
        overwrite(store, block, ordinal, BODY..PAGE_SIZE)?;
    }
    if metapage.sample != NO_BLOCK {
        overwrite(store, metapage.sample, 0, BODY..PAGES)?;
    }
    Ok(())
}

fn overwrite<S: PageStore>(
    store: &S,
    block: u32,
    ordinal: u32,
    part: std::ops::Range<usize>,
) -> Result<(), Error> {
    store.check_interrupts()?;
    let mut write = store.write()?;
    let slot = write.lock_whole(block)?;
    check_header(write.page(slot), block, ordinal)?;
    if let Some(part) = write.page(slot).get_mut(part) {
        part.fill(0);
    }
    write.commit()
}

/// The pages with records, in the order of their ordinals.
///
/// # Errors
/// [`Error::Damaged`] if a page is not inside the index.
pub(crate) fn sample_blocks<S: PageStore>(
    store: &S,
    metapage: &Metapage,
) -> Result<Vec<u32>, Error> {
    let first = metapage.sample;
    if first == NO_BLOCK {
        return Ok(Vec::new());
    }
    let blocks = |page: &[u8]| Ok::<_, Error>(FirstPage::read(page, first, 0)?.blocks());
    let blocks = store.read(first, blocks)??;
    let end = store.block_count()?;
    if blocks.iter().all(|block| (1..end).contains(block)) {
        Ok(blocks)
    } else {
        Err(Error::damaged(
            first,
            "the pages of the sample are not inside the index",
        ))
    }
}

fn header(ordinal: u32) -> PageHeader {
    PageHeader {
        kind: PageKind::Sample,
        ..PageHeader::posting(ordinal)
    }
}

/// Checks the header of the page of an ordinal.
pub(crate) fn check_header(page: &[u8], block: u32, ordinal: u32) -> Result<(), Error> {
    if PageHeader::read(page, block)? == header(ordinal) {
        Ok(())
    } else {
        Err(Error::damaged(
            block,
            "not the page of a sample expected here",
        ))
    }
}

/// Bytes of a record with contents of this length.
fn record_bytes(length: usize) -> usize {
    (RECORD_HEAD + length).next_multiple_of(4)
}

/// Records of this length on a page.
fn records_per_page(length: usize) -> u32 {
    (BODY_SIZE / record_bytes(length)) as u32
}
