//! Filter columns: what is kept of them beside the codes of a row, and which rows a search may return.
//!
//! Each filter column is a column of the row format with a key of 1, 2, 4 or 8 bytes per row (see [`crate::filter_key`]), on the
//! posting pages of the lists and of the exact list. One more column has a bit per filter column, set for NULL.

use crate::filter_key::ColumnTest;
use crate::scorer::BlockFilter;
use distillvq_kernels::keys::widen;
use distillvq_kernels::{LANES, kernels};
use distillvq_model::max_subquantizers;
use distillvq_pages::{Block, Column, RowFormat, Stored};

/// Maximum number of filter columns.
pub const MAX_FILTERS: usize = 8;
/// Id of the column of the bits for NULL.
const NULLS: u8 = 8;
/// Id of the first filter column.
const FIRST_FILTER: u8 = 16;

/// The widths of the keys of the filter columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterFormat {
    widths: [u8; MAX_FILTERS],
    len: u8,
}

impl FilterFormat {
    /// Filter columns with keys of so many bytes each: 1, 2, 4 or 8. `None` if there cannot be such columns.
    pub fn new(widths: &[u8]) -> Option<FilterFormat> {
        let mut format = FilterFormat::default();
        for (i, width) in widths.iter().enumerate() {
            *format.widths.get_mut(i)? = Some(*width).filter(|it| matches!(it, 1 | 2 | 4 | 8))?;
            format.len += 1;
        }
        Some(format)
    }

    /// Bytes of each key.
    pub fn widths(&self) -> &[u8] {
        self.widths.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Number of filter columns.
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of a row in a block.
    pub fn stored_bytes(&self) -> usize {
        let columns = self.columns();
        let bytes: usize = columns.iter().map(Column::block_bytes).sum();
        bytes.div_ceil(LANES)
    }

    /// Maximum number of subquantizers of so many bits whose codes fit on a page beside the filter columns.
    pub fn max_subquantizers(&self, bits: u8) -> usize {
        let taken = self.stored_bytes() * 8 / usize::from(bits.max(1));
        max_subquantizers(bits).saturating_sub(taken)
    }

    /// Bytes of a row as [`FilterFormat::encode`] writes it.
    pub fn row_bytes(&self) -> usize {
        self.widths()
            .iter()
            .map(|width| usize::from(*width))
            .sum::<usize>()
            + self.len()
    }

    /// Appends the columns of a row with these keys, `None` for NULL: those of the filter columns, and a byte per NULL bit.
    pub fn encode(&self, keys: &[Option<u64>], out: &mut Vec<u8>) {
        let key = |i: usize| keys.get(i).copied().flatten();
        for (i, width) in self.widths().iter().enumerate() {
            let bytes = key(i).unwrap_or(0).to_le_bytes();
            out.extend_from_slice(bytes.get(..usize::from(*width)).unwrap_or_default());
        }
        out.extend((0..self.len()).map(|i| u8::from(key(i).is_none())));
    }

    /// The columns of the row format.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let column = |id, planes, bits| Column {
            id,
            planes,
            bits,
            stored: Stored::EveryPosting,
        };
        let mut columns: Vec<Column> = (FIRST_FILTER..)
            .zip(self.widths())
            .map(|(id, width)| match width {
                8 => column(id, 2, 32),
                width => column(id, 1, 8 * width),
            })
            .collect();
        if !self.is_empty() {
            columns.push(column(NULLS, self.len.into(), 1));
        }
        columns
    }

    /// The filter columns of a row format, which may have others; `None` if they are not such ones.
    pub(crate) fn of(format: &RowFormat) -> Option<FilterFormat> {
        let (mut widths, mut len) = ([0; MAX_FILTERS], 0);
        for (id, width) in (FIRST_FILTER..).zip(&mut widths) {
            let Some(column) = format.column(id) else {
                break;
            };
            *width = (column.planes.min(255) as u8).saturating_mul(column.bits / 8);
            len += 1;
        }
        FilterFormat::new(widths.get(..len).unwrap_or_default())
    }

    /// The part of an encoded row that a column of the row format has, `None` if it is no column of filters.
    pub(crate) fn part<'a>(&self, row: &'a [u8], id: u8) -> Option<&'a [u8]> {
        let mut at = 0;
        for (own, width) in (FIRST_FILTER..).zip(self.widths()) {
            let bytes = usize::from(*width);
            if own == id {
                return row.get(at..at + bytes);
            }
            at += bytes;
        }
        let nulls = (id == NULLS).then(|| row.get(at..));
        nulls.flatten().filter(|nulls| nulls.len() == self.len())
    }

    /// The row that [`FilterFormat::encode`] wrote, from the values of all columns of the row format.
    pub(crate) fn gather(&self, format: &RowFormat, values: &[Vec<u8>]) -> Vec<u8> {
        let columns = self.columns();
        let positions = columns
            .iter()
            .filter_map(|column| format.position(column.id));
        let parts = positions.filter_map(|position| values.get(position));
        parts.flatten().copied().collect()
    }
}

/// A test of a filter column, and where the column is.
#[derive(Clone, Debug)]
struct PlacedTest {
    position: usize,
    width: u8,
    /// The place of its NULL bit.
    number: usize,
    test: ColumnTest,
}

/// Admits the rows that pass all tests of their filter columns.
#[derive(Clone, Debug, Default)]
pub struct ColumnFilter {
    tests: Vec<PlacedTest>,
    /// Position of the column of NULL bits.
    nulls: usize,
}

impl ColumnFilter {
    /// For the rows of an index with these columns, and tests of filter columns by their numbers; `None` if the index lacks one.
    pub fn new(
        format: &RowFormat,
        tests: impl IntoIterator<Item = (usize, ColumnTest)>,
    ) -> Option<ColumnFilter> {
        let filters = FilterFormat::of(format)?;
        let place = |(number, test)| {
            let id = FIRST_FILTER.checked_add(u8::try_from(number).ok()?)?;
            Some(PlacedTest {
                position: format.position(id)?,
                width: *filters.widths().get(number)?,
                number,
                test,
            })
        };
        let tests: Option<Vec<PlacedTest>> = tests.into_iter().map(place).collect();
        let tests = tests?;
        let nulls = format.position(NULLS);
        Some(ColumnFilter {
            nulls: if tests.is_empty() { 0 } else { nulls? },
            tests,
        })
    }

    /// Whether it admits every row.
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Whether it admits no row.
    pub fn admits_nothing(&self) -> bool {
        let is_nothing = |it: &PlacedTest| it.test == ColumnTest::Nothing;
        self.tests.iter().any(is_nothing)
    }
}

impl BlockFilter for ColumnFilter {
    #[inline]
    fn admit(&self, block: &Block<'_>) -> u32 {
        let mut admitted = u32::MAX;
        for test in &self.tests {
            if admitted == 0 {
                break;
            }
            admitted = test.admit(block, self.nulls, admitted);
        }
        admitted
    }

    fn is_read(&self, position: usize) -> bool {
        let mut tests = self.tests.iter();
        !self.is_empty() && (position == self.nulls || tests.any(|it| it.position == position))
    }
}

impl PlacedTest {
    /// Those of the `wanted` lanes that pass.
    fn admit(&self, block: &Block<'_>, nulls: usize, wanted: u32) -> u32 {
        let (bits, _) = block.column(nulls).as_chunks::<4>();
        // The other value of a lane is no key.
        let nulls = bits
            .get(self.number)
            .map_or(0, |bits| u32::from_le_bytes(*bits));
        let keys = block.column(self.position);
        match &self.test {
            ColumnTest::Nothing => 0,
            ColumnTest::Null => wanted & nulls,
            ColumnTest::NotNull => wanted & !nulls,
            ColumnTest::Range(min, max) => wanted & !nulls & self.in_range(keys, *min, *max),
            ColumnTest::OneOf(wanted_keys) => self.one_of(keys, wanted_keys, wanted & !nulls),
            ColumnTest::Superset(masks) => {
                let keys = widen(keys, self.width);
                let found = |found, mask: &u64| found | bits_mask(keys, *mask, *mask);
                wanted & !nulls & masks.iter().fold(0, found)
            }
            ColumnTest::Subset(mask) => {
                wanted & !nulls & bits_mask(widen(keys, self.width), !mask, 0)
            }
        }
    }

    /// The lanes with keys in a range.
    fn in_range(&self, keys: &[u8], min: u64, max: u64) -> u32 {
        (kernels().keys_in_range)(keys, self.width, min, max)
    }

    /// Those of the `wanted` lanes that have one of some keys.
    fn one_of(&self, keys: &[u8], one_of: &[u64], wanted: u32) -> u32 {
        let (Some(min), Some(max)) = (one_of.first(), one_of.last()) else {
            return 0;
        };
        let mut rest = wanted & self.in_range(keys, *min, *max);
        if rest == 0 {
            return 0;
        }
        if one_of.len() <= MAX_COMPARED_KEYS {
            let found = |found, key: &u64| found | self.in_range(keys, *key, *key);
            return rest & one_of.iter().fold(0, found);
        }
        let (keys, mut passed) = (widen(keys, self.width), 0);
        while rest != 0 {
            let lane = rest.trailing_zeros();
            rest &= rest - 1;
            let is_wanted = one_of.binary_search(&keys[lane as usize % LANES]).is_ok();
            passed |= u32::from(is_wanted) << lane;
        }
        passed
    }
}

/// Maximum number of keys that each lane is compared with, all lanes at once; among more keys each lane is looked up.
const MAX_COMPARED_KEYS: usize = 8;

/// The lanes with values that have, of the bits of a mask, exactly these.
#[inline]
fn bits_mask(values: [u64; LANES], mask: u64, bits: u64) -> u32 {
    let mut found = 0;
    for (lane, value) in values.iter().enumerate() {
        found |= u32::from(value & mask == bits) << lane;
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::CodeShape;
    use crate::filter_key::largest_key;
    use crate::pq::row_format;
    use distillvq_kernels::block;
    use distillvq_pages::{Layout, PAGE_SIZE};
    use proptest::prelude::*;

    /// Writes encoded rows into the blocks of a page, a value at a time.
    fn page(format: &RowFormat, filters: &FilterFormat, rows: &[Vec<u8>]) -> Vec<u8> {
        let layout = Layout::exact(format).unwrap();
        let mut page = vec![0xa5; PAGE_SIZE];
        for (i, row) in rows.iter().enumerate() {
            for (position, column) in format.columns().iter().enumerate() {
                let part = filters.part(row, column.id).unwrap();
                let start = layout.block(&page, i / LANES).column(position).as_ptr() as usize
                    - page.as_ptr() as usize;
                let bytes = block::bytes(column.planes.into(), column.bits);
                let width = usize::from(column.bits).div_ceil(8);
                for (plane, value) in part.chunks(width).enumerate() {
                    let value = value
                        .iter()
                        .rev()
                        .fold(0, |all, byte| all << 8 | u32::from(*byte));
                    let block = &mut page[start..start + bytes];
                    block::put(block, (plane, i % LANES), column.bits, value);
                }
            }
        }
        page
    }

    fn test() -> impl Strategy<Value = ColumnTest> {
        let key = prop_oneof![0..6u64, any::<u64>()];
        prop_oneof![
            Just(ColumnTest::Nothing),
            Just(ColumnTest::Null),
            Just(ColumnTest::NotNull),
            (key.clone(), key.clone()).prop_map(|(a, b)| ColumnTest::Range(a.min(b), a.max(b))),
            prop::collection::btree_set(key, 1..20)
                .prop_map(|keys| ColumnTest::OneOf(keys.into_iter().collect())),
            prop::collection::vec(0..12u64, 0..4).prop_map(ColumnTest::Superset),
            any::<u64>().prop_map(ColumnTest::Subset),
        ]
    }

    proptest! {
        #[test]
        fn blocks_are_filtered_as_their_rows_are(
            widths in prop::collection::vec(prop::sample::select(vec![1u8, 2, 4, 8]), 1..=MAX_FILTERS),
            seeds in prop::collection::vec(prop::collection::vec(prop::option::of(prop_oneof![0..6u64, any::<u64>()]), MAX_FILTERS), 1..70),
            tests in prop::collection::vec((any::<prop::sample::Index>(), test()), 0..4),
        ) {
            let filters = FilterFormat::new(&widths).unwrap();
            let format = RowFormat::new(&filters.columns()).unwrap();
            prop_assert_eq!(FilterFormat::of(&format), Some(filters));
            let fitted = |key: u64, i: usize| key & largest_key(widths[i].into());
            let keys: Vec<Vec<Option<u64>>> = seeds
                .iter()
                .map(|row| (0..widths.len()).map(|i| row[i].map(|key| fitted(key, i))).collect())
                .collect();
            let rows: Vec<Vec<u8>> = keys
                .iter()
                .map(|keys| {
                    let mut row = Vec::new();
                    filters.encode(keys, &mut row);
                    assert_eq!(row.len(), filters.row_bytes());
                    row
                })
                .collect();
            let page = page(&format, &filters, &rows);
            let layout = Layout::exact(&format).unwrap();
            for (i, row) in rows.iter().enumerate() {
                let columns = 0..format.columns().len();
                let values: Vec<Vec<u8>> = columns.map(|at| layout.values(&page, at, i)).collect();
                prop_assert_eq!(&filters.gather(&format, &values), row);
            }
            let tests: Vec<(usize, ColumnTest)> = tests
                .into_iter()
                .map(|(number, test)| {
                    let number = number.index(widths.len());
                    let fitted = |key: u64| fitted(key, number);
                    (number, match test {
                        ColumnTest::Range(a, b) => {
                            ColumnTest::Range(fitted(a).min(fitted(b)), fitted(a).max(fitted(b)))
                        }
                        ColumnTest::OneOf(keys) => {
                            let mut keys: Vec<u64> = keys.into_iter().map(fitted).collect();
                            keys.sort_unstable();
                            keys.dedup();
                            ColumnTest::OneOf(keys)
                        }
                        test => test,
                    })
                })
                .collect();
            let filter = ColumnFilter::new(&format, tests.clone()).unwrap();
            prop_assert_eq!(filter.is_empty(), tests.is_empty());
            for (i, keys) in keys.iter().enumerate() {
                let admitted = filter.admit(&layout.block(&page, i / LANES)) >> (i % LANES) & 1 == 1;
                let expected = tests.iter().all(|(number, test)| test.admits(keys[*number]));
                prop_assert_eq!(admitted, expected, "row {}: {:?} {:?}", i, keys, tests);
                prop_assert!(!admitted || !filter.admits_nothing());
            }
        }
    }

    #[test]
    fn the_most_codes_fit_on_a_page_beside_filter_columns() {
        let all = [&[][..], &[1], &[8], &[4, 8, 2], &[8; MAX_FILTERS]];
        for filters in all.map(|widths| FilterFormat::new(widths).unwrap()) {
            for (bits, has_norm) in [(4, true), (8, true), (4, false), (8, false)] {
                let shape = CodeShape {
                    subquantizers: filters.max_subquantizers(bits),
                    bits,
                    has_norm,
                };
                for refine in [0, 100] {
                    let format = row_format(shape, &filters, refine).unwrap();
                    assert!(Layout::new(&format).is_some(), "{filters:?} {shape:?}");
                }
            }
        }
    }

    #[test]
    fn impossible_formats_are_refused() {
        assert_eq!(FilterFormat::new(&[3]), None);
        assert_eq!(FilterFormat::new(&[1; 9]), None);
        let filters = FilterFormat::new(&[4, 8, 1]).unwrap();
        assert_eq!((filters.row_bytes(), filters.stored_bytes()), (16, 14));
        assert_eq!(FilterFormat::default().row_bytes(), 0);
        let format = RowFormat::new(&filters.columns()).unwrap();
        assert!(ColumnFilter::new(&format, [(3, ColumnTest::Null)]).is_none());
        assert!(ColumnFilter::new(&format, [(2, ColumnTest::Null)]).is_some());
        assert!(
            ColumnFilter::new(&RowFormat::default(), [])
                .unwrap()
                .is_empty()
        );
    }
}
