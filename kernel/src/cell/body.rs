//! The code of a cell, parsed as evcxr compiles it: as the body of a function.

use ra_ap_syntax::ast::{self, AstNode};
use ra_ap_syntax::{Edition, Parse, SourceFile, SyntaxNode};

use crate::cell::lex::code_start;

const PREFIX: &str = "fn cell() {";

/// What a cell has behind its commands.
pub struct CellBody {
    /// Where it begins in the cell.
    pub start: usize,
    parsed: Parse<SourceFile>,
}

impl CellBody {
    pub fn parse(code: &str) -> CellBody {
        let start = code_start(code);
        let function = format!("{PREFIX}{}\n}}", &code[start..]);
        CellBody { start, parsed: SourceFile::parse(&function, Edition::Edition2024) }
    }

    /// Its statements, or its items, in their order.
    pub fn nodes<T: AstNode>(&self) -> Vec<T> {
        let function = self.parsed.tree().syntax().children().find_map(ast::Fn::cast);
        let list = function.and_then(|function| function.body()?.stmt_list());
        list.iter().flat_map(|list| list.syntax().children()).filter_map(T::cast).collect()
    }

    /// The bytes of the cell that a node takes, what documents it included.
    pub fn range(&self, node: &SyntaxNode) -> std::ops::Range<usize> {
        let range = node.text_range();
        self.in_cell(range.start().into())..self.in_cell(range.end().into())
    }

    /// The first error, with where it is in the cell.
    pub fn first_error(&self) -> Option<(usize, String)> {
        let errors = self.parsed.errors();
        let first = errors.iter().map(|error| (error.range().start(), error.to_string())).min();
        first.map(|(at, message)| (self.in_cell(at.into()), message))
    }

    fn in_cell(&self, at: usize) -> usize {
        at.saturating_sub(PREFIX.len()) + self.start
    }
}
