//! Reports: statistics over item scores, tables, contrasts, curves, pages. Runs no stage and knows no tensor.

pub mod statistics;
