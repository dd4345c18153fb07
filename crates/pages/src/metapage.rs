//! The metapage, block 0.
//!
//! # After the page header
//! ```text
//!   64  magic "distilvq"          96  blob version u64
//!   72  format version u32       104  rows at build u64
//!   76  complete u8              112  base chain
//!   77  columns u8               136  current chain
//!   78  bytes of the body u16    160  spare chain
//!   80  lists u32                184  16 columns
//!   84  directory start u32      312  exact list's directory page u32
//!   88  directory blocks u32     316  row moves u8
//!   92  crc32c of the body u32   320  first page of the sample u32
//!                                324  reserved u32
//!                                328  body
//! chain  { start u32, blocks u32, bytes u64, crc32c u32, reserved u32 }
//! column { id u8, stored u8, bits u8, reserved u8, planes u16, reserved u16 }
//! ```
//! The body belongs to the crate above, which knows what the columns and blobs mean.
//!
//! The metapage is written incomplete when a build begins, and complete when it ends. After that only a replacement of the
//! current blob ([`crate::replace_blob`]) and of the body change it, lists that an index gets later ([`crate::add_lists`]), and
//! the first page of a sample ([`crate::make_room`]); every other change is in the directory and the posting pages.

use crate::bytes::{get, get_u16, get_u32, get_u64, put};
use crate::chain::{Chain, Extent};
use crate::directory::Directory;
use crate::error::Error;
use crate::page::{BODY, FORMAT, Layout, NO_BLOCK, PAGE_SIZE, PageHeader, PageKind, check_format};
use crate::row_format::RowFormat;
use crate::store::{PageStore, PageWrite};

const MAGIC: [u8; 8] = *b"distilvq";
const CONTENTS: usize = 328;

/// Maximum number of bytes of the body.
pub const MAX_BODY_BYTES: usize = PAGE_SIZE - CONTENTS;

/// The metapage without its body. Read it once for a scan and keep the copy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metapage {
    /// Format version of the newest page.
    pub version: u32,
    /// Whether the build was finished; [`Metapage::read`] refuses an incomplete index.
    pub complete: bool,
    /// Columns of rows; without lists only those that rows of the exact list have too.
    pub format: RowFormat,
    /// Where the lists begin.
    pub directory: Directory,
    /// The blob that never changes.
    pub base: Chain,
    /// The blob that may be replaced.
    pub current: Chain,
    /// Pages of the next current blob.
    pub spare: Chain,
    /// Changes with the current blob: the key of a cache of what was made of the blobs.
    pub blob_version: u64,
    /// Rows indexed by the build, or when the index got its lists.
    pub rows_at_build: u64,
    /// Whether rows move from the exact list into lists.
    pub row_moves: RowMoves,
    /// First page of the sample of records ([`crate::make_room`]), or 0.
    pub sample: u32,
}

/// Whether rows move from the exact list into lists that the index got after its build ([`crate::add_lists`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RowMoves {
    /// The index has had its lists since its build, or has none.
    #[default]
    Never = 0,
    /// Rows of the exact list may have a place in a list, and may be in both.
    Unfinished = 1,
    /// All rows that have a place in a list are there alone.
    Finished = 2,
}

impl Metapage {
    /// Reads and checks the metapage of a complete index.
    pub fn read<S: PageStore>(store: &S) -> Result<Metapage, Error> {
        Ok(Metapage::read_with_body(store)?.0)
    }

    /// Reads and checks the metapage of a complete index, and its body.
    pub fn read_with_body<S: PageStore>(store: &S) -> Result<(Metapage, Vec<u8>), Error> {
        let blocks = store.block_count()?;
        if blocks == 0 {
            return Err(Error::NotAnIndex);
        }
        let (metapage, body) = store.read(0, |page| {
            Ok::<_, Error>((Metapage::parse(page)?, body(page)?))
        })??;
        if metapage.validate(blocks).is_err() {
            // Its chains may have grown since the size was read.
            metapage.validate(store.block_count()?)?;
        }
        if metapage.complete {
            Ok((metapage, body))
        } else {
            Err(Error::Incomplete)
        }
    }

    /// Lists, without the exact list.
    pub fn lists(&self) -> u32 {
        self.directory.lists
    }

    /// The number of the exact list.
    pub fn exact_list(&self) -> u32 {
        self.lists()
    }

    /// Layout of the posting pages of a list.
    pub fn layout(&self, list: u32) -> Result<Layout, Error> {
        let layout = if list == self.exact_list() {
            Layout::exact(&self.format)
        } else {
            Layout::new(&self.format)
        };
        layout.ok_or(Error::damaged(0, "the columns do not fit a page"))
    }

    /// Reads a metapage of a version that is known.
    pub(crate) fn parse(page: &[u8]) -> Result<Metapage, Error> {
        let [kind] = get(page, 24);
        if page.len() != PAGE_SIZE || kind != PageKind::Meta as u8 || get::<8>(page, BODY) != MAGIC
        {
            return Err(Error::NotAnIndex);
        }
        // Everything else may lie elsewhere in a newer format.
        let version = get_u32(page, 72);
        check_format(version, FORMAT)?;
        PageHeader::read(page, 0)?;
        let [complete, columns] = get(page, 76);
        let format = RowFormat::read(page, 184, columns);
        Ok(Metapage {
            version,
            complete: complete == 1,
            format: format.ok_or(Error::damaged(0, "impossible columns"))?,
            directory: Directory {
                extent: Extent {
                    start: get_u32(page, 84),
                    blocks: get_u32(page, 88),
                },
                lists: get_u32(page, 80),
                exact: get_u32(page, 312),
            },
            blob_version: get_u64(page, 96),
            rows_at_build: get_u64(page, 104),
            base: Chain::read(page, 112),
            current: Chain::read(page, 136),
            spare: Chain::read(page, 160),
            row_moves: match get::<1>(page, 316) {
                [0] => RowMoves::Never,
                [1] => RowMoves::Unfinished,
                [2] => RowMoves::Finished,
                _ => return Err(Error::damaged(0, "unknown state of row moves")),
            },
            sample: get_u32(page, 320),
        })
    }

    /// Writes everything but the body into a page.
    pub(crate) fn write_to(&self, page: &mut [u8]) {
        PageHeader {
            kind: PageKind::Meta,
            count: 0,
            list: 0,
            next: 0,
            inserted: 0,
            moves: 0,
            closed: false,
        }
        .write(page);
        put(page, BODY, &MAGIC);
        put(page, 72, &self.version.to_le_bytes());
        put(
            page,
            76,
            &[u8::from(self.complete), self.format.columns().len() as u8],
        );
        put(page, 80, &self.lists().to_le_bytes());
        put(page, 84, &self.directory.extent.start.to_le_bytes());
        put(page, 88, &self.directory.extent.blocks.to_le_bytes());
        put(page, 96, &self.blob_version.to_le_bytes());
        put(page, 104, &self.rows_at_build.to_le_bytes());
        self.base.write(page, 112);
        self.current.write(page, 136);
        self.spare.write(page, 160);
        self.format.write(page, 184);
        put(page, 312, &self.directory.exact.to_le_bytes());
        put(page, 316, &[self.row_moves as u8]);
        put(page, 320, &self.sample.to_le_bytes());
    }

    fn validate(&self, blocks: u32) -> Result<(), Error> {
        let fail = |what| Err(Error::damaged(0, what));
        if self.version == 0 {
            return fail("unknown page format");
        }
        // The number of entries is one more.
        if self.lists() == u32::MAX {
            return fail("too many lists");
        }
        let has_columns = self.format.has_list_columns();
        if has_columns != (self.lists() > 0)
            || has_columns && Layout::new(&self.format).is_none()
            || Layout::exact(&self.format).is_none()
        {
            return fail("the columns do not fit a page");
        }
        if !self.complete {
            return Ok(());
        }
        let blobs = [self.base, self.current];
        if !blobs
            .iter()
            .chain([&self.spare])
            .all(|chain| chain.fits(blocks))
        {
            return fail("the pages of the blobs are not inside the index");
        }
        if self.spare.blocks > 0 && blobs.iter().any(|chain| chain.start == self.spare.start) {
            return fail("the spare pages are in use");
        }
        if self.sample != NO_BLOCK && self.sample >= blocks {
            return fail("the sample's first page is not inside the index");
        }
        let Directory { extent, exact, .. } = self.directory;
        // Without lists they are pages for later lists.
        let is_long_enough = extent.blocks == Directory::blocks_for(self.lists()) || !has_columns;
        let is_inside = extent.fits(blocks) && (1..blocks).contains(&exact);
        if !is_long_enough || !is_inside {
            return fail("the directory's pages are not inside the index");
        }
        Ok(())
    }
}

/// The body of a metapage.
fn body(page: &[u8]) -> Result<Vec<u8>, Error> {
    let bytes = CONTENTS..CONTENTS + usize::from(get_u16(page, 78));
    let body = page
        .get(bytes)
        .ok_or(Error::damaged(0, "the body is too long"))?;
    if crc32c::crc32c(body) != get_u32(page, 92) {
        return Err(Error::damaged(0, "wrong checksum of the metapage's body"));
    }
    Ok(body.to_vec())
}

/// Writes the body of a metapage.
pub(crate) fn write_body(page: &mut [u8], body: &[u8]) -> Result<(), Error> {
    if body.len() > MAX_BODY_BYTES {
        return Err(Error::Mismatch("the body does not fit the metapage"));
    }
    put(page, 78, &(body.len() as u16).to_le_bytes());
    put(page, 92, &crc32c::crc32c(body).to_le_bytes());
    put(page, CONTENTS, body);
    Ok(())
}

/// Changes the metapage alone, with a new body if one is given. Returns its new contents.
pub(crate) fn change<W: PageWrite>(
    mut write: W,
    body: Option<&[u8]>,
    change: impl FnOnce(&mut Metapage),
) -> Result<Metapage, Error> {
    let slot = write.lock(0)?;
    let mut metapage = Metapage::parse(write.page(slot))?;
    change(&mut metapage);
    metapage.version = FORMAT.into();
    metapage.write_to(write.page(slot));
    body.map_or(Ok(()), |body| write_body(write.page(slot), body))?;
    write.commit()?;
    Ok(metapage)
}

/// Raises the version of an index of an older format, before a page of [`FORMAT`] is written into it.
pub(crate) fn raise_version<S: PageStore>(store: &S, metapage: &Metapage) -> Result<(), Error> {
    if metapage.version < FORMAT.into() && Metapage::read(store)?.version < FORMAT.into() {
        change(store.write()?, None, |_| {})?;
    }
    Ok(())
}

/// Replaces the body of the metapage in one change. Returns the rest of the metapage.
///
/// # Errors
/// [`Error::Mismatch`] if the current blob is not of this version any more.
pub fn replace_body<S: PageStore>(
    store: &S,
    blob_version: u64,
    body: &[u8],
) -> Result<Metapage, Error> {
    let mut write = store.write()?;
    let slot = write.lock(0)?;
    let mut metapage = Metapage::parse(write.page(slot))?;
    if metapage.blob_version != blob_version {
        return Err(Error::Mismatch("the current blob was replaced meanwhile"));
    }
    metapage.version = FORMAT.into();
    metapage.write_to(write.page(slot));
    write_body(write.page(slot), body)?;
    write.commit()?;
    Ok(metapage)
}
