//! What a search costs, in the planner's units.
//!
//! The planner compares plans, and what it charges for the others is given, also where it is far from the truth: a distance
//! costs the same in three dimensions as in a thousand, a vector out of line costs nothing to fetch, and a row that an index
//! finds is charged as if it came from a disk. Adding up such prices for a search compares badly with both. Therefore:
//!
//! 1. *Times.* How long the search takes, and how long its rivals do: the table read through and sorted, and the rows that a
//!    btree on the query's conditions finds, sorted. Only the ratios matter; the figures are microseconds of one machine, with
//!    everything in memory, fitted to the situations of `make bench-plans`.
//! 2. *Prices.* What the planner charges for the rivals, by its own formulas and settings.
//! 3. The search is charged what the planner charges for so much time: a line from nothing to the time and price of the
//!    rivals, from the cheaper to the dearer. So it costs less than a rival when it is faster. The line is the same whether
//!    there is such a btree or not.
//!
//! A search is not linear in its rows (see `distillvq_ivf::rerank`): the farther it goes, the more lists it looks at, and
//! the smaller the share of rows that it compares in vain. The planner, which knows a first and a last row's cost, is told a
//! line through the cost of the first row and that of the last row wanted, if the LIMIT is known, or else of the last row.
//!
//! A search whose query limits the distance ends at the limit. The planner knows nothing of distances; how many rows lie within
//! is estimated by the codes of a few lists of the index. Where limit or vector is not known yet, the search is supposed to
//! leave few rows ([`UNKNOWN_SHARES`]): if it leaves all, the index takes two to three times as long as the table read
//! through, and if it leaves few, the table takes a hundred times as long as the index.
//!
//! Other tables of a join drop rows like a filter, or multiply them (`pg/join.rs`): the search is charged for the rows that it
//! has to find for the rows wanted of the join.

use distillvq_ivf::list_search::Shares;
use distillvq_ivf::refine::REFINED_SPARE;
use distillvq_ivf::rerank::{FEW_ADMITTED, FIRST_PULL, Growth, LARGEST_PULL};

/// What a limit of the distance is supposed to leave if it cannot be estimated.
pub const UNKNOWN_SHARES: Shares = Shares {
    within: 0.01,
    between: 0.01,
};

/// The table, and the vectors in it.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Pages, TOAST not counted.
    pub pages: f64,
    /// Rows.
    pub rows: f64,
    /// Bytes of a vector.
    pub vector: f64,
    /// Bytes of what the query takes from a row.
    pub width: f64,
}

/// The index.
#[derive(Clone, Copy, Debug)]
pub struct IndexShape {
    /// Pages of codes.
    pub pages: f64,
    /// Rows.
    pub rows: f64,
    /// Lists; 0 for an untrained index.
    pub lists: f64,
    /// Lists probed first.
    pub probes: f64,
    /// Lists probed for further rows.
    pub growth: Growth,
    /// Dimensions of the vectors.
    pub dimensions: f64,
    /// Subquantizers of a code.
    pub subquantizers: f64,
    /// Bits of each of them.
    pub bits: u8,
    /// Maximum number of lists per row.
    pub assignments: f64,
    /// Whether rows are ranked by refine codes before they are compared.
    pub refine: bool,
}

/// The query.
#[derive(Clone, Copy, Debug)]
pub struct QueryInput {
    /// Rows of the table that fulfil the conditions, joins among them.
    pub rows: f64,
    /// The same as the planner has it, for all plans alike. It takes any limit of the distance for a third of the rows.
    pub planned: f64,
    /// The shares of the rows that limits of the distance leave, if there are any.
    pub shares: Option<Shares>,
    /// Rows wanted of those, if that is known.
    pub limit: Option<f64>,
    /// The planner's cost of checking the conditions of a row; 0 without conditions.
    pub conditions: f64,
    /// What the index does with those on its filter columns.
    pub filter: FilterInput,
}

/// The conditions on filter columns of the index.
#[derive(Clone, Copy, Debug)]
pub struct FilterInput {
    /// The share of the table's rows that fulfil them; 1 without such conditions.
    pub share: f64,
    /// Their part of [`QueryInput::conditions`].
    pub conditions: f64,
}

impl FilterInput {
    /// No such conditions.
    pub const NONE: FilterInput = FilterInput {
        share: 1.0,
        conditions: 0.0,
    };
}

/// The planner's settings.
#[derive(Clone, Copy, Debug)]
pub struct CostSettings {
    /// A page read in sequence.
    pub sequential_page: f64,
    /// A page read at random.
    pub random_page: f64,
    /// A row.
    pub row: f64,
    /// A row of an index.
    pub index_row: f64,
    /// A call of an operator.
    pub operator: f64,
    /// Bytes that a sort may keep in memory.
    pub sort_memory: f64,
}

/// What the planner and the metapage say.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// The table.
    pub table: Table,
    /// The index.
    pub index: IndexShape,
    /// The query.
    pub query: QueryInput,
    /// The planner's settings.
    pub prices: CostSettings,
}

/// The answer for the planner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Cost up to the first row.
    pub startup: f64,
    /// Cost of all rows, without what the planner adds for rows of the table.
    pub total: f64,
    /// Share of the table's rows that the scan returns: the conditions are checked later.
    pub selectivity: f64,
    /// How far the rows come in the order of the table. They do not, but their pages were just read by the search: the planner
    /// is not to charge for reading them at random.
    pub correlation: f64,
    /// Pages of the index that a search reads.
    pub pages: f64,
}

/// Rows of a block of codes.
const BLOCK_ROWS: i32 = 32;
/// Maximum of any estimate, so that sums of costs stay finite.
const MAX_COST: f64 = 1e100;

/// Time and price of a plan for the query.
#[derive(Clone, Copy, Debug, Default)]
struct PlanCost {
    time: f64,
    price: f64,
}

/// Estimates a search.
pub fn estimate(inputs: &Inputs) -> Estimate {
    let inputs = inputs.clamped();
    let Inputs {
        table,
        index,
        query,
        prices,
    } = inputs;
    let wanted = query.wanted_of(query.rows);
    let (scan, btree) = (inputs.scan(), inputs.btree());
    let cost_of_rows =
        |rows: f64| cost_for_time(inputs.search_time(rows), scan, btree).clamp(0.0, MAX_COST);

    let startup = cost_of_rows(1.0);
    let selectivity = (inputs.rows_within() * query.filter.share / table.rows).min(1.0);
    // The planner goes from the first row to the last in proportion, and adds this up to the last.
    let beyond_first = (cost_of_rows(wanted) - startup).max(0.0);
    let all = startup + beyond_first * query.planned / query.wanted_of(query.planned);
    let pages = (selectivity * table.pages).ceil();
    let added = prices.random_page
        + (pages - 1.0).max(0.0) * prices.sequential_page
        + selectivity * table.rows * (prices.row + query.other_conditions());
    Estimate {
        startup,
        total: (all - added).clamp(startup, MAX_COST),
        selectivity,
        correlation: 1.0,
        pages: (index.pages * inputs.probed(1.0)).max(1.0),
    }
}

/// The planner's cost for `time` microseconds.
fn cost_for_time(time: f64, scan: PlanCost, btree: PlanCost) -> f64 {
    // A btree that is dearer than the scan is not chosen; one that is cheaper but slower bends the line back: then the
    // scan, which is always possible, counts.
    let bend = if btree.time < scan.time && btree.price < scan.price {
        btree
    } else {
        PlanCost::default()
    };
    if time < bend.time {
        bend.price * time / bend.time
    } else {
        bend.price + (scan.price - bend.price) * (time - bend.time) / (scan.time - bend.time)
    }
}

// Microseconds. Of any plan with a table:
/// Starting and ending a plan that sorts.
const PLAN_US: f64 = 2.0;
/// A row read in sequence.
const SEQ_ROW_US: f64 = 0.015;
/// A page of the table read in sequence.
const SEQ_PAGE_US: f64 = 0.1;
/// A page of the table read through an index, and a row on it.
const INDEX_PAGE_US: f64 = 0.2;
const INDEX_ROW_US: f64 = 0.1;
/// Descending a btree.
const BTREE_US: f64 = 4.0;
/// A condition as cheap as an operator call.
const CONDITION_US: f64 = 0.008;
/// A distance, and its part for a dimension.
const DISTANCE_US: f64 = 0.05;
const DISTANCE_DIMENSION_US: f64 = 2.5e-4;
/// Fetching a vector that is out of line, and its part for each piece.
const OUT_OF_LINE_US: f64 = 0.9;
const PIECE_US: f64 = 0.3;
/// Bytes of such a piece.
const PIECE_BYTES: f64 = 1996.0;
/// A step of a full sort (a row has log2(rows) of them), and of one that keeps a few rows.
const SORT_STEP_US: f64 = 0.011;
const BOUNDED_STEP_US: f64 = 0.02;
/// A kilobyte of a sort that goes through files.
const SORT_KILOBYTE_US: f64 = 1.0;

// Of a search:
/// Starting it, and the part for a dimension (look-up tables, rotation).
const SEARCH_US: f64 = 15.0;
const SEARCH_DIMENSION_US: f64 = 0.03;
/// Ranking a list, and the part for a dimension.
const LIST_US: f64 = 0.005;
const LIST_DIMENSION_US: f64 = 2e-5;
/// A page of codes.
const CODE_PAGE_US: f64 = 0.22;
/// A subquantizer of a code, of 4 bits or of 8.
const CODE_US: f64 = 2e-5;
const WIDE_CODE_US: f64 = 1.5e-4;
/// Comparing a row of the table, and the part for a dimension.
const COMPARE_US: f64 = 0.35;
const COMPARE_DIMENSION_US: f64 = 5e-4;
/// Fetching an out-of-line vector in no order, more than in the table's order.
const SCATTERED_US: f64 = 0.5;
/// A row in a list whose filter columns are looked at.
const FILTER_US: f64 = 4e-4;
/// Ranking a row by its refine code, and the part for a dimension.
const REFINE_US: f64 = 0.3;
const REFINE_DIMENSION_US: f64 = 3e-4;
/// A row of an untrained index, besides its distance.
const UNTRAINED_ROW_US: f64 = 0.15;

impl QueryInput {
    /// The planner's cost of checking the conditions that are not on filter columns.
    fn other_conditions(&self) -> f64 {
        (self.conditions - self.filter.conditions).max(0.0)
    }

    /// How many of so many rows are wanted.
    fn wanted_of(&self, rows: f64) -> f64 {
        self.limit.map_or(rows, |limit| limit.min(rows))
    }

    /// Rows that fulfil the conditions but limits of the distance.
    fn rows_of_any_distance(&self) -> f64 {
        self.rows / self.shares.map_or(1.0, |shares| shares.between)
    }

    /// Distances that a plan without the index computes: to check such a limit, and to sort.
    fn distances(&self) -> f64 {
        let checked = self.shares.map(|_| self.rows_of_any_distance());
        self.rows + checked.unwrap_or(0.0)
    }
}

impl Inputs {
    /// Without anything that is negative, unknown, or in contradiction.
    fn clamped(&self) -> Self {
        let known = |x: f64| {
            if x.is_nan() {
                0.0
            } else {
                x.clamp(0.0, MAX_COST)
            }
        };
        let Inputs {
            table,
            index,
            query,
            prices,
        } = *self;
        let rows = known(table.rows).max(1.0);
        let matching = known(query.rows).clamp(1.0, rows);
        Inputs {
            table: Table {
                pages: known(table.pages).max(1.0),
                rows,
                ..table
            },
            index: IndexShape {
                pages: known(index.pages),
                rows: known(index.rows).clamp(matching, rows),
                ..index
            },
            query: QueryInput {
                rows: matching,
                planned: known(query.planned).clamp(1.0, rows),
                shares: query.shares.map(|Shares { within, between }| {
                    let within = known(within).clamp(1e-6, 1.0);
                    let between = known(between).clamp(1e-6, within);
                    Shares { within, between }
                }),
                limit: query.limit.map(|limit| known(limit).max(1.0)),
                conditions: known(query.conditions),
                filter: FilterInput {
                    // At least the rows that fulfil all conditions fulfil these.
                    share: known(query.filter.share).clamp(matching / rows, 1.0),
                    conditions: known(query.filter.conditions),
                },
            },
            prices: CostSettings {
                sequential_page: known(prices.sequential_page),
                random_page: known(prices.random_page),
                row: known(prices.row),
                index_row: known(prices.index_row),
                operator: known(prices.operator),
                ..prices
            },
        }
    }

    /// The table read through, the rows that fulfil the conditions sorted.
    fn scan(&self) -> PlanCost {
        let Inputs {
            table,
            query,
            prices,
            ..
        } = self;
        let sort = self.sort();
        PlanCost {
            time: PLAN_US
                + table.rows * (SEQ_ROW_US + self.conditions_time())
                + table.pages * SEQ_PAGE_US
                + query.distances() * self.distance()
                + sort.time,
            price: table.pages * prices.sequential_page
                + table.rows * (prices.row + query.conditions)
                + query.planned * prices.operator
                + sort.price,
        }
    }

    /// The rows that fulfil the conditions, found through a btree on those, sorted.
    fn btree(&self) -> PlanCost {
        let Inputs {
            table,
            query,
            prices,
            ..
        } = self;
        let sort = self.sort();
        // Mackert and Lohman's formula, as the planner has it.
        let pages = |rows: f64| {
            let pages = 2.0 * table.pages * rows / (2.0 * table.pages + rows);
            pages.min(table.pages).ceil()
        };
        let (found, planned) = (query.rows_of_any_distance(), pages(query.planned));
        // The denser they lie, the less it is reading at random.
        let dense = (planned / table.pages).sqrt();
        let page = prices.random_page - (prices.random_page - prices.sequential_page) * dense;
        let row = prices.index_row + prices.row + query.conditions + prices.operator;
        PlanCost {
            time: PLAN_US
                + BTREE_US
                + found * INDEX_ROW_US
                + query.distances() * self.distance()
                + pages(found) * INDEX_PAGE_US
                + sort.time,
            price: prices.random_page + query.planned * row + planned * page + sort.price,
        }
    }

    /// Sorting the rows that fulfil the conditions.
    fn sort(&self) -> PlanCost {
        PlanCost {
            time: self.sort_of(self.query.rows).time,
            price: self.sort_of(self.query.planned).price,
        }
    }

    fn sort_of(&self, rows: f64) -> PlanCost {
        let Inputs {
            table,
            query,
            prices,
            ..
        } = self;
        let (wanted, rows) = (query.wanted_of(rows), rows.max(2.0));
        // As the planner counts: the row, rounded up, and its header.
        let row_bytes = table.width + 32.0;
        let comparison = 2.0 * prices.operator;
        if wanted * row_bytes > prices.sort_memory {
            let kilobytes = rows * row_bytes / 1024.0;
            let transfers = 2.0 * kilobytes / 8.0;
            return PlanCost {
                time: rows * rows.log2() * SORT_STEP_US + kilobytes * SORT_KILOBYTE_US,
                price: comparison * rows * rows.log2()
                    + transfers * (0.75 * prices.sequential_page + 0.25 * prices.random_page),
            };
        }
        let heap = (2.0 * wanted).log2();
        if rows > 2.0 * wanted {
            PlanCost {
                time: wanted * (rows / wanted).ln() * (heap + 1.0) * BOUNDED_STEP_US,
                price: comparison * rows * heap,
            }
        } else {
            PlanCost {
                time: rows * rows.log2() * SORT_STEP_US,
                price: comparison * rows * rows.log2(),
            }
        }
    }

    /// Rows of the index that a search for all that is wanted gives out.
    fn rows_within(&self) -> f64 {
        let share = self.query.shares.map_or(1.0, |shares| shares.within);
        (self.index.rows * share).max(self.query.rows)
    }

    /// Rows of the index that are nearer than a lower limit of the distance: a search gives them out first.
    fn rows_skipped(&self) -> f64 {
        let shares = self.query.shares;
        let skipped = shares.map_or(0.0, |shares| shares.within - shares.between);
        (self.index.rows * skipped).min(self.rows_within() - self.query.rows)
    }

    /// The time of a search until so many rows that fulfil the conditions were returned.
    fn search_time(&self, wanted: f64) -> f64 {
        let Inputs { index, query, .. } = self;
        let skipped = self.rows_skipped();
        // Rows among which those wanted are, and those of them that the filter columns admit.
        let passed = skipped + wanted * (self.rows_within() - skipped) / query.rows;
        let FilterInput { share, .. } = query.filter;
        let given = passed * share;
        // The executor computes the distances of the rows that it returns once more.
        let returned = given * self.other_conditions_time() + wanted * self.distance();
        if index.lists < 1.0 {
            let compared = index.rows * share * (UNTRAINED_ROW_US + self.distance());
            return SEARCH_US + self.filter_time(index.rows) + compared + returned;
        }
        let route = SEARCH_US
            + index.dimensions * SEARCH_DIMENSION_US
            + index.lists * (LIST_US + index.dimensions * LIST_DIMENSION_US);
        let admitted = index.rows * share;
        let (probed, compared) = if share < 1.0 && admitted <= FEW_ADMITTED {
            (1.0, admitted)
        } else {
            (self.probed(passed), self.compared(given))
        };
        // Blocks in which nothing is admitted are not scored.
        let scored = 1.0 - (1.0 - share).powi(BLOCK_ROWS);
        let code = if index.bits > 4 {
            WIDE_CODE_US
        } else {
            CODE_US
        };
        let codes = index.rows * index.assignments;
        let scan = index.pages * CODE_PAGE_US
            + codes * index.subquantizers * code * scored
            + self.filter_time(codes);
        let scans = probed * scans(compared);
        route + scans * scan + self.compare_time(given, compared) + returned
    }

    /// The share of the lists that is probed until so many rows were given out.
    fn probed(&self, given: f64) -> f64 {
        let lists = self.index.growth.lists(self.index.probes, given);
        (lists / self.index.lists.max(1.0)).clamp(0.0, 1.0)
    }

    /// Candidates compared until so many rows were given out.
    fn compared(&self, given: f64) -> f64 {
        (given + 25.0 * given.sqrt()).min(self.index.rows * self.query.filter.share)
    }

    /// The time to look at the filter columns of so many rows.
    fn filter_time(&self, rows: f64) -> f64 {
        if self.query.filter.share < 1.0 {
            rows * FILTER_US
        } else {
            0.0
        }
    }

    fn compare_time(&self, given: f64, compared: f64) -> f64 {
        let dimensions = self.index.dimensions;
        let fetch = match self.fetch() {
            0.0 => 0.0,
            fetch => fetch + SCATTERED_US,
        };
        if self.index.refine {
            let exact = (given + REFINED_SPARE as f64).min(compared);
            compared * (REFINE_US + dimensions * REFINE_DIMENSION_US) + exact * (COMPARE_US + fetch)
        } else {
            compared * (COMPARE_US + dimensions * COMPARE_DIMENSION_US + fetch)
        }
    }

    /// The time of a distance in the executor.
    fn distance(&self) -> f64 {
        DISTANCE_US + self.index.dimensions * DISTANCE_DIMENSION_US + self.fetch()
    }

    /// The time to fetch a vector that is out of line: where the table has no room for it.
    fn fetch(&self) -> f64 {
        let Table {
            pages,
            rows,
            vector,
            ..
        } = self.table;
        if pages * 8192.0 < rows * vector {
            OUT_OF_LINE_US + PIECE_US * (vector / PIECE_BYTES).ceil()
        } else {
            0.0
        }
    }

    /// The time to check the conditions of a row that the index returns.
    fn other_conditions_time(&self) -> f64 {
        self.time_of_conditions(self.query.other_conditions())
    }

    /// The time to check the conditions of a row.
    fn conditions_time(&self) -> f64 {
        self.time_of_conditions(self.query.conditions)
    }

    fn time_of_conditions(&self, cost: f64) -> f64 {
        cost / self.prices.operator.max(1e-6) * CONDITION_US
    }
}

/// How often the probed lists are scanned to pull so many candidates, in all: the first pulls double, and happen while few
/// lists are probed.
fn scans(candidates: f64) -> f64 {
    let (first, largest) = (FIRST_PULL as f64, LARGEST_PULL as f64);
    let doubled = (candidates.min(largest) / first).log2().max(0.0);
    1.0 + doubled / 2.0 + (candidates - largest).max(0.0) / largest
}
