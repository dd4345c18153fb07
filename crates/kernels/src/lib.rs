//! Inner loops of scoring: dot products and look-up-table scans, one table of functions chosen at run time.
//!
//! # Block layout
//! Codes are kept in blocks of [`LANES`] rows, sub-quantizer by sub-quantizer. With 4 bits, sub-quantizer `s` owns the
//! 16 bytes from `16·s`; byte `j` holds lane `j` in its low and lane `j + 16` in its high nibble, and the number of
//! sub-quantizers is padded to an even one. With 8 bits, sub-quantizer `s` owns the 32 bytes from `32·s`, a byte a lane.

/// Rows in a block.
pub const LANES: usize = 32;
