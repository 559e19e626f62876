//! The code of a cell: what evcxr is given of it, what evcxr made of it, and how its errors are told. The stand-in for cargo
//! uses `rewrite`; the engine, the runner and the pages use the rest.

pub mod body;
pub mod cursor;
pub mod dependencies;
pub mod items;
pub mod lex;
pub mod locate;
pub mod nesting;
pub mod report;
pub mod rewrite;
pub mod types;
