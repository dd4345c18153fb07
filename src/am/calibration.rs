//! Calibration: the recall of an index by the lists that searches probe, measured with queries whose neighbors are known.

pub mod deep_truth;
pub mod measure;
pub mod queries;
