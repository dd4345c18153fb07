//! Distilled IVF-PQ models: training, encoding of rows, scoring tables of queries. Slices in, model out.
