//! The file that an index had before this transaction gave it a new one, as REINDEX does. It stays until the transaction ends.

use crate::pg::compat::{Locator, has_new_file};
use crate::pg::relation::Index;
use distillvq_pages::{Error, PAGE_SIZE, PageStore, PageWrite};
use pgrx::pg_sys;

/// The pages of such a file, to be read only.
pub struct FormerFile {
    file: Locator,
    blocks: u32,
    is_permanent: bool,
}

impl FormerFile {
    /// The former file of an index that is built, as the statement's snapshot knows it; none of a temporary index.
    pub fn of(index: Index) -> Option<Self> {
        let persistence = index.persistence();
        if !has_new_file(index.data()) || persistence == pg_sys::RELPERSISTENCE_TEMP {
            return None;
        }
        let (tablespace, number) = file_in_catalog(index)?;
        let current = Locator::of(index.data());
        let file = current.other_file(tablespace, number);
        if file.same(&current) {
            return None;
        }
        Some(Self {
            file,
            blocks: file.blocks()?,
            is_permanent: persistence == pg_sys::RELPERSISTENCE_PERMANENT,
        })
    }
}

/// Tablespace and number of an index's file, as the statement's snapshot sees them: it was taken before the change.
fn file_in_catalog(index: Index) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: a scan of the catalog by a snapshot that is active; the row is read before the scan ends.
    unsafe {
        if !pg_sys::ActiveSnapshotSet() {
            return None;
        }
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            pg_sys::Anum_pg_class_oid as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            pg_sys::Datum::from(index.oid()),
        );
        let catalog = pg_sys::table_open(pg_sys::RelationRelationId, lock);
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan(
            catalog,
            pg_sys::Oid::from(pg_sys::ClassOidIndexId),
            true,
            snapshot,
            1,
            &mut key,
        );
        let row = pg_sys::systable_getnext(scan);
        let file = (!row.is_null()).then(|| {
            let class = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>();
            (class.reltablespace, class.relfilenode)
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
        // 0 is a file that is not named in the catalog.
        file.filter(|(_, number)| *number != pg_sys::InvalidOid)
    }
}

impl PageStore for FormerFile {
    type Write<'a> = Never;

    fn block_count(&self) -> Result<u32, Error> {
        Ok(self.blocks)
    }

    fn read<T>(&self, block: u32, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        if block >= self.blocks {
            return Err(Error::damaged(block, "link leads beyond the end"));
        }
        // SAFETY: the file is there until the transaction ends; the page is pinned and locked while it is read. An error's abort
        // releases both.
        unsafe {
            let buffer = self.file.read(block, self.is_permanent);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let page = pg_sys::BufferGetPage(buffer).cast::<u8>();
            let seen = f(std::slice::from_raw_parts(page, PAGE_SIZE));
            pg_sys::UnlockReleaseBuffer(buffer);
            Ok(seen)
        }
    }

    fn write(&self) -> Result<Never, Error> {
        Err(Error::Store("a file that was replaced is read only".into()))
    }

    fn check_interrupts(&self) -> Result<(), Error> {
        pgrx::check_for_interrupts!();
        Ok(())
    }
}

/// A change of such a file, of which there is none.
pub enum Never {}

impl PageWrite for Never {
    fn lock(&mut self, _block: u32) -> Result<usize, Error> {
        match *self {}
    }

    fn extend(&mut self) -> Result<(u32, usize), Error> {
        match *self {}
    }

    fn page(&mut self, _slot: usize) -> &mut [u8] {
        match *self {}
    }

    fn commit(self) -> Result<(), Error> {
        match self {}
    }
}
