//! Rows encoded and not yet written.

use crate::error::{Error, Result};
use distillvq_ivf::{Meta, Row, Tid};
use distillvq_model::{Encoded, EncodedRows, Placement};

/// What memory is for, in errors.
const WHAT: &str = "a run of encoded rows";
/// Rows between two looks at interrupts.
const ROWS_PER_INTERRUPT_CHECK: usize = 1 << 16;

/// Encoded rows in the order of the table, to be written in the order of the lists.
#[derive(Default)]
pub struct Run {
    tids: Vec<Tid>,
    encoded: EncodedRows,
    /// Values of the filter columns.
    filters: Vec<u8>,
}

impl Run {
    /// Bytes that it takes, with what sorting needs.
    pub fn bytes(&self) -> usize {
        let entries = self.tids.len() + self.encoded.second_rows.len();
        self.tids.len() * size_of::<Tid>()
            + entries * (size_of::<Encoded>() + size_of::<u32>())
            + self.encoded.codes.len()
            + self.encoded.second_codes.len()
            + self.encoded.refine.len()
            + self.filters.len()
    }

    /// Adds the rows that come next in the table.
    pub fn add(&mut self, tids: &[Tid], encoded: &EncodedRows, filters: &[u8]) -> Result<()> {
        Error::reserve(&mut self.filters, filters.len(), WHAT)?;
        self.filters.extend_from_slice(filters);
        let EncodedRows {
            rows,
            codes,
            refine,
            second_rows,
            second_codes,
        } = &mut self.encoded;
        Error::reserve(&mut self.tids, tids.len(), WHAT)?;
        Error::reserve(rows, encoded.rows.len(), WHAT)?;
        Error::reserve(codes, encoded.codes.len(), WHAT)?;
        Error::reserve(refine, encoded.refine.len(), WHAT)?;
        Error::reserve(second_rows, encoded.second_rows.len(), WHAT)?;
        Error::reserve(second_codes, encoded.second_codes.len(), WHAT)?;
        self.tids.extend_from_slice(tids);
        self.encoded.rows.extend_from_slice(&encoded.rows);
        self.encoded.codes.extend_from_slice(&encoded.codes);
        self.encoded.refine.extend_from_slice(&encoded.refine);
        self.encoded
            .second_rows
            .extend_from_slice(&encoded.second_rows);
        self.encoded
            .second_codes
            .extend_from_slice(&encoded.second_codes);
        Ok(())
    }

    /// The numbers of the entries to be written, sorted by list, in the order of the table within a list. The numbers of second
    /// entries follow those of all first entries.
    pub fn order(&self, meta: &Meta) -> Result<Vec<u32>> {
        let list = |row: &Encoded| match row.placement {
            Placement::List(list) => Some(list as usize),
            Placement::Exact => Some(meta.exact_list() as usize),
            Placement::Unindexed => None,
        };
        // Counted, not compared: a run may have many millions of rows, and interrupts must be served meanwhile.
        let mut starts = vec![0u32; meta.exact_list() as usize + 2];
        for list in self.entries().filter_map(|(_, row)| list(row)) {
            starts[list + 1] += 1;
        }
        for list in 1..starts.len() {
            starts[list] += starts[list - 1];
        }
        let rows = starts.last().map_or(0, |end| *end as usize);
        let mut order = Vec::new();
        Error::reserve(&mut order, rows, WHAT)?;
        order.resize(rows, 0);
        for (i, row) in self.entries() {
            if let Some(list) = list(row) {
                order[starts[list] as usize] = i as u32;
                starts[list] += 1;
            }
        }
        Ok(order)
    }

    /// Its rows in this order.
    pub fn rows<'a>(&'a self, meta: &'a Meta, order: &'a [u32]) -> impl Iterator<Item = Row<'a>> {
        let (rows, width) = (self.tids.len(), meta.filters.row_bytes());
        order.iter().filter_map(move |&entry| {
            let second = (entry as usize).checked_sub(rows);
            let i = second.unwrap_or(entry as usize);
            let row = match second {
                None => Row::of(meta, &self.encoded, i, self.tids[i]),
                Some(_) => Row::second_entry(meta, &self.encoded, i, self.tids[i]),
            };
            let filters = &self.filters[i * width..(i + 1) * width];
            row.map(|row| row.with_filters(filters))
        })
    }

    /// All entries with their numbers. Checks for interrupts.
    fn entries(&self) -> impl Iterator<Item = (usize, &Encoded)> {
        let all = self.encoded.rows.iter().chain(&self.encoded.second_rows);
        all.enumerate().inspect(|(i, _)| {
            if i % ROWS_PER_INTERRUPT_CHECK == 0 {
                pgrx::check_for_interrupts!();
            }
        })
    }
}
