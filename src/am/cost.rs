//! What a search costs, in the planner's units.

/// What the planner and the metapage say.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Pages and rows of the index.
    pub index_pages: f64,
    /// Rows of the index.
    pub index_rows: f64,
    /// Pages of the table, TOAST not counted.
    pub heap_pages: f64,
    /// Rows of the table.
    pub heap_rows: f64,
    /// Lists; 0 for an untrained index.
    pub lists: f64,
    /// Lists probed first.
    pub probes: f64,
    /// Dimensions of the vectors.
    pub dimensions: f64,
    /// Subquantizers of a code.
    pub subquantizers: f64,
    /// Cost of a page read at random.
    pub random_page: f64,
    /// Cost of a page read in sequence.
    pub sequential_page: f64,
    /// Cost of an index row.
    pub row_cost: f64,
    /// Cost of an operator call.
    pub operator_cost: f64,
    /// Share of the table's rows that the query's conditions keep.
    pub selectivity: f64,
}

/// The answer for the planner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Cost up to the first row.
    pub startup: f64,
    /// Cost of all rows.
    pub total: f64,
    /// Share of the table's rows that the scan returns.
    pub selectivity: f64,
    /// Pages of the index that a search reads.
    pub pages: f64,
}

/// Codes scored for the price of one operator call: a block of 32 at a time, a code of 48 bytes in two nanoseconds.
const CODES_PER_OPERATOR: f64 = 8.0;
/// Dimensions of exact arithmetic for the price of one operator call.
const DIMENSIONS_PER_OPERATOR: f64 = 64.0;
/// Rows re-ranked before the first one is returned.
const FIRST_EXACT_ROWS: f64 = 100.0;

/// Estimates a search: routing, the probed lists, and exact distances of the best rows before the first row comes out;
/// every further row is an exact distance and a table page. Up to the last row the scan reads all lists.
pub fn estimate(inputs: &Inputs) -> Estimate {
    let share = if inputs.lists > 0.0 {
        (inputs.probes / inputs.lists).clamp(0.0, 1.0)
    } else {
        1.0
    };
    let vector_cost = inputs.operator_cost * (1.0 + inputs.dimensions / DIMENSIONS_PER_OPERATOR);
    let routing = inputs.lists * vector_cost / 4.0;
    // A part of a list's pages follow each other on disk.
    let page = (inputs.random_page + inputs.sequential_page) / 2.0;
    let code_cost = inputs.operator_cost / CODES_PER_OPERATOR * (1.0 + inputs.subquantizers / 96.0);
    let scan = |share: f64| share * (inputs.index_pages * page + inputs.index_rows * code_cost);
    let exact_row = vector_cost + inputs.row_cost + inputs.random_page * heap_page_share(inputs);
    let first = if inputs.lists > 0.0 {
        FIRST_EXACT_ROWS.min(inputs.index_rows)
    } else {
        inputs.index_rows
    };
    let startup = routing + scan(share) + first * exact_row;
    let total = routing + scan(1.0) + inputs.index_rows * exact_row;
    let pages = (share * inputs.index_pages).max(1.0);
    Estimate {
        startup,
        total: total.max(startup),
        selectivity: inputs.selectivity.clamp(0.0, 1.0),
        pages,
    }
}

/// The share of exact rows that cost a table page of their own: the neighbours of a query lie scattered, but a small
/// table's pages are soon all in memory.
fn heap_page_share(inputs: &Inputs) -> f64 {
    if inputs.heap_rows > 0.0 {
        (inputs.heap_pages / inputs.heap_rows).clamp(0.05, 1.0)
    } else {
        1.0
    }
}
