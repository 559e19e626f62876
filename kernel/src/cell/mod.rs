//! The code of a cell: what evcxr is given of it, what evcxr made of it, and how its errors are told.

pub mod items;
pub mod lex;
pub mod report;
pub mod rewrite;
pub mod types;
