//! ivf
