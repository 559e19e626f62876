//! Which items of earlier cells a cell replaces. evcxr keeps items by name, and an `impl` block, which has none, for good:
//! run again, a cell with one would stand beside what it was. So each gets a named item before it, which evcxr keeps together
//! with it; the same name, given again with nothing after it, takes it away.
//!
//! What no longer compiles beside what a cell defines is left out too: a type could else not be changed where functions in other
//! cells use it, nor they without the type.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use evcxr::CompilationError;
use ra_ap_syntax::ast::{self, AstNode, HasGenericParams, HasName};
use ra_ap_syntax::{Edition, NodeOrToken, SourceFile, SyntaxNode};

use crate::cell::body::CellBody;
use crate::cell::locate::{CellSources, cell_number};

const MARK: &str = "HeadlightImpl";
/// Two blocks that rustc does not let stand beside each other: of one trait, or with a name that both have.
const CONFLICTS: [&str; 3] = ["E0119", "E0592", "E0751"];

/// The items of a session, as far as they need help.
#[derive(Clone, Default)]
pub struct Items {
    blocks: Vec<Block>,
    /// How many there were ever.
    count: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Block {
    mark: usize,
    kind: BlockKind,
    /// Names of its own cell: with another definition of one, it is gone.
    owners: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum BlockKind {
    /// Of a trait, with whatever bounds.
    Trait { header: String },
    /// Of a type's own, or of foreign functions: with the names that it defines.
    Own { header: String, names: BTreeSet<String> },
}

impl BlockKind {
    fn replaces(&self, earlier: &BlockKind) -> bool {
        match (self, earlier) {
            (BlockKind::Trait { header }, BlockKind::Trait { header: other }) => header == other,
            (BlockKind::Own { header, names }, BlockKind::Own { header: other, names: before }) => {
                header == other && (!names.is_disjoint(before) || before.is_empty())
            }
            _ => false,
        }
    }
}

/// Items of earlier cells that a cell does not go together with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StaleItems {
    blocks: BTreeSet<usize>,
    names: BTreeSet<String>,
    /// Of those that the user must hear of: how they begin.
    pub headers: BTreeSet<String>,
}

impl StaleItems {
    /// Adds others; false if they are known.
    pub fn add(&mut self, more: StaleItems) -> bool {
        let before = self.blocks.len() + self.names.len();
        self.blocks.extend(more.blocks);
        self.names.extend(more.names);
        self.headers.extend(more.headers);
        before < self.blocks.len() + self.names.len()
    }
}

impl Items {
    /// The cell as evcxr is to have it, no line moved, and what there is once it has run.
    pub fn mark_cell(&self, code: &str, stale: &StaleItems) -> (String, Items) {
        let owners = self.blocks.iter().flat_map(|block| &block.owners).map(String::as_str);
        let none = *stale == StaleItems::default();
        if none && !owners.chain(["impl", "extern"]).any(|word| code.contains(word)) {
            return (code.to_string(), self.clone());
        }
        let cell = CellItems::parse(code);
        let mut after = self.clone();
        let mut new_blocks = Vec::new();
        for item in &cell.items {
            if let Some((kind, types)) = parse_block(item) {
                let owners = types.into_iter().filter(|name| cell.type_names.contains(name)).collect();
                new_blocks.push((item, Block { mark: after.count, kind, owners }));
                after.count += 1;
            }
        }
        let is_replaced = |old: &Block| {
            stale.blocks.contains(&old.mark)
                || old.owners.iter().any(|owner| cell.type_names.contains(owner))
                || new_blocks.iter().any(|(_, new)| new.kind.replaces(&old.kind))
        };
        let replaced = after.blocks.extract_if(.., |old| is_replaced(old)).map(|old| mark_item(old.mark));
        // In the place of an item of a name, one that nothing else can take for it.
        let removed = stale.names.iter().map(|name| format!("macro_rules! {name} {{ () => {{}} }} "));
        let first: String = replaced.chain(removed).collect();

        let mut at = cell.items.first().map_or(cell.body.start, |item| cell.offset(item));
        let mut marked = format!("{}{first}", &code[..at]);
        for (item, block) in new_blocks {
            let offset = cell.offset(item);
            marked += &format!("{}{}", &code[at..offset], mark_item(block.mark));
            at = offset;
            after.blocks.push(block);
        }
        marked += &code[at..];
        (marked, after)
    }

    /// Those items of earlier cells that are at fault where a cell does not compile; none if the cell itself is.
    pub fn find_stale(
        &self,
        errors: &[CompilationError],
        code: &str,
        sources: &CellSources,
    ) -> Option<StaleItems> {
        let mut stale = StaleItems::default();
        let mut cell = None;
        let mut files = BTreeMap::new();
        for error in errors {
            let conflicts = error.code().is_some_and(|code| CONFLICTS.contains(&code));
            let spans = error.json["spans"].as_array()?;
            let mut at_fault = false;
            for span in spans.iter().filter(|span| conflicts || span["is_primary"] == true) {
                let (file, line) =
                    (span["file_name"].as_str()?, usize::try_from(span["line_start"].as_u64()?).ok()?);
                let cell = cell.get_or_insert_with(|| CellItems::parse(code));
                let number = cell_number(file)?;
                let generated = match files.entry(number) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(GeneratedItems::parse(sources.read_generated(number)?)),
                };
                match generated.item_at(line) {
                    Some((ItemId::Block(mark), header))
                        if self.blocks.iter().any(|block| block.mark == mark) =>
                    {
                        stale.blocks.insert(mark);
                        stale.headers.extend((!conflicts).then_some(header));
                        at_fault = true;
                    }
                    Some((ItemId::Named(name), header)) if !conflicts && !cell.names.contains(&name) => {
                        stale.names.insert(name);
                        stale.headers.insert(header);
                        at_fault = true;
                    }
                    _ => {}
                }
            }
            if !at_fault {
                return None;
            }
        }
        Some(stale)
    }
}

/// The items of a cell.
struct CellItems {
    body: CellBody,
    items: Vec<ast::Item>,
    /// The types and traits among them, and all that have a name.
    type_names: Vec<String>,
    names: BTreeSet<String>,
}

impl CellItems {
    fn parse(code: &str) -> CellItems {
        let body = CellBody::parse(code);
        let items: Vec<ast::Item> = body.nodes();
        let type_names = items.iter().filter(|item| defines_type(item)).filter_map(item_name).collect();
        let names = items.iter().filter_map(item_name).collect();
        CellItems { body, items, type_names, names }
    }

    fn offset(&self, item: &ast::Item) -> usize {
        self.body.range(item.syntax()).start
    }
}

enum ItemId {
    /// With its mark.
    Block(usize),
    Named(String),
}

/// The items of what was compiled for a cell.
struct GeneratedItems {
    text: String,
    items: Vec<ast::Item>,
}

impl GeneratedItems {
    fn parse(text: String) -> GeneratedItems {
        let tree = SourceFile::parse(&text, Edition::Edition2024).tree();
        let items = tree.syntax().children().filter_map(ast::Item::cast).collect();
        GeneratedItems { text, items }
    }

    /// The item that a line is in, and how it begins; not the function that is the cell.
    fn item_at(&self, line: usize) -> Option<(ItemId, String)> {
        let start: usize = self.text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
        let ends_behind = |item: &ast::Item| usize::from(item.syntax().text_range().end()) > start;
        let at = self.items.iter().position(ends_behind)?;
        let item = &self.items[at];
        let id = match (item, item_name(item)) {
            (ast::Item::Impl(_) | ast::Item::ExternBlock(_), _) => {
                let before = item_name(&self.items[at.checked_sub(1)?])?;
                ItemId::Block(mark_number(&before)?)
            }
            (_, Some(name)) if !name.starts_with("run_user_code_") && mark_number(&name).is_none() => {
                ItemId::Named(name)
            }
            _ => return None,
        };
        let text = item.syntax().text().to_string();
        let header = text.lines().find(|line| !line.trim_start().starts_with(['/', '#'])).unwrap_or_default();
        Some((id, header.split(['{', ';']).next().unwrap_or_default().trim().to_string()))
    }
}

/// The item that stands before a block.
fn mark_item(number: usize) -> String {
    format!("type {MARK}{number} = (); ")
}

/// The number of a name that is a mark.
fn mark_number(name: &str) -> Option<usize> {
    name.strip_prefix(MARK)?.parse().ok()
}

/// A line as the user wrote it.
pub fn strip_marks(line: &str) -> String {
    let mark = format!("type {MARK}");
    let mut parts = line.split(&mark);
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |line, part| line + part.split_once(" = (); ").map_or(part, |(_, rest)| rest))
}

/// Whether completion is not to offer the name.
pub fn is_mark(name: &str) -> bool {
    name.starts_with(MARK)
}

fn defines_type(item: &ast::Item) -> bool {
    use ast::Item::{Enum, Struct, Trait, TypeAlias, Union};
    matches!(item, Enum(_) | Struct(_) | Trait(_) | TypeAlias(_) | Union(_))
}

/// The name that evcxr keeps an item by.
fn item_name(item: &ast::Item) -> Option<String> {
    let name = match item {
        ast::Item::Const(item) => item.name(),
        ast::Item::Enum(item) => item.name(),
        ast::Item::Fn(item) => item.name(),
        ast::Item::MacroDef(item) => item.name(),
        ast::Item::MacroRules(item) => item.name(),
        ast::Item::Module(item) => item.name(),
        ast::Item::Static(item) => item.name(),
        ast::Item::Struct(item) => item.name(),
        ast::Item::Trait(item) => item.name(),
        ast::Item::TypeAlias(item) => item.name(),
        ast::Item::Union(item) => item.name(),
        _ => None,
    };
    Some(name?.text().to_string())
}

/// What kind of block an item is, and the types and traits that it is of.
fn parse_block(item: &ast::Item) -> Option<(BlockKind, Vec<String>)> {
    match item {
        ast::Item::Impl(block) => {
            let parameters = generic_names(block);
            let self_type = block.self_ty()?;
            let mut types: Vec<String> = last_name(&self_type).into_iter().collect();
            let Some(trait_type) = block.trait_() else {
                let header = normalize(&[self_type.syntax()], &parameters);
                let items = block.assoc_item_list().into_iter().flat_map(|list| list.assoc_items());
                let names = items.filter_map(|item| match item {
                    ast::AssocItem::Fn(item) => item.name(),
                    ast::AssocItem::Const(item) => item.name(),
                    ast::AssocItem::TypeAlias(item) => item.name(),
                    ast::AssocItem::MacroCall(_) => None,
                });
                let names = names.map(|name| name.text().to_string()).collect();
                return Some((BlockKind::Own { header, names }, types));
            };
            types.extend(last_name(&trait_type));
            let header = normalize(&[trait_type.syntax(), self_type.syntax()], &parameters);
            Some((BlockKind::Trait { header }, types))
        }
        ast::Item::ExternBlock(block) => {
            let items = block.extern_item_list().into_iter().flat_map(|list| list.extern_items());
            let names = items.filter_map(|item| match item {
                ast::ExternItem::Fn(item) => item.name(),
                ast::ExternItem::Static(item) => item.name(),
                ast::ExternItem::TypeAlias(item) => item.name(),
                ast::ExternItem::MacroCall(_) => None,
            });
            let names = names.map(|name| name.text().to_string()).collect();
            Some((BlockKind::Own { header: "extern".to_string(), names }, Vec::new()))
        }
        _ => None,
    }
}

/// The names of its generic parameters.
fn generic_names(block: &ast::Impl) -> Vec<String> {
    let list = block.generic_param_list();
    let parameters = list.iter().flat_map(|list| list.generic_params());
    let names = parameters.filter_map(|parameter| {
        Some(match parameter {
            ast::GenericParam::TypeParam(one) => one.name()?.text().to_string(),
            ast::GenericParam::ConstParam(one) => one.name()?.text().to_string(),
            ast::GenericParam::LifetimeParam(one) => one.lifetime()?.text().to_string(),
        })
    });
    names.collect()
}

/// The code without spaces and comments, its parameters by their order: names of them, and bounds, make no other block.
fn normalize(nodes: &[&SyntaxNode], parameters: &[String]) -> String {
    let mut order: Vec<String> = Vec::new();
    let tokens = nodes.iter().flat_map(|node| node.descendants_with_tokens());
    let tokens = tokens.filter_map(NodeOrToken::into_token);
    let words = tokens.filter(|token| !token.kind().is_trivia()).map(|token| {
        let word = token.text().to_string();
        if !parameters.contains(&word) {
            return word;
        }
        let at = order.iter().position(|known| *known == word).unwrap_or_else(|| {
            order.push(word);
            order.len() - 1
        });
        format!("_{at}")
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `Dog` of `crate::Dog<T>`.
fn last_name(path: &ast::Type) -> Option<String> {
    match path {
        ast::Type::PathType(path) => Some(path.path()?.segment()?.name_ref()?.text().to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the blocks that are left after some cells.
    fn left(cells: &[&str]) -> Vec<usize> {
        let mut items = Items::default();
        let mut known = BTreeSet::new();
        for cell in cells {
            let (marked, after) = items.mark_cell(cell, &StaleItems::default());
            assert_eq!(marked.lines().count(), cell.lines().count(), "{marked}");
            // As evcxr sees it: a mark that nothing follows is of nothing.
            for part in marked.split(&format!("type {MARK}")).skip(1) {
                let (number, follows) = part.split_once(" = (); ").unwrap();
                let number: usize = number.parse().unwrap();
                if follows.contains("impl") || follows.contains("extern") {
                    known.insert(number);
                } else {
                    known.remove(&number);
                }
            }
            items = after;
        }
        let left: Vec<usize> = items.blocks.iter().map(|block| block.mark).collect();
        assert_eq!(left, known.into_iter().collect::<Vec<_>>(), "{cells:?}");
        left
    }

    #[test]
    fn a_block_replaces_what_cannot_stand_beside_it() {
        for (cells, expected) in [
            (&["let a = 1;", "fn implied() {}"][..], &[][..]),
            // Of a type's own: those that share a name.
            (&["impl Dog { fn say(&self) {} }", "impl Dog { fn say(&self) -> u8 { 1 } }"], &[1]),
            (&["impl Dog { fn say(&self) {} }", "impl Dog { fn run(&self) {} }"], &[0, 1]),
            (&["impl Dog { fn a() {} const N: u8 = 1; }", "impl Dog { const N: u8 = 2; }"], &[1]),
            (&["impl Dog { fn a() {} }", "impl Cat { fn a() {} }"], &[0, 1]),
            (&["impl W<u8> { fn a() {} }", "impl W<u16> { fn a() {} }"], &[0, 1]),
            (&["impl<T> W<T> { fn a() {} }", "impl<U: Copy> W< U > { fn a() {} }"], &[1]),
            (&["impl Dog {}", "impl Dog {}"], &[1]),
            (&["impl D { fn a() {} fn b() {} }", "impl D { fn a() {} }\nimpl D { fn b() {} }"], &[1, 2]),
            // Of a trait for a type: one.
            (&["impl Say for Dog {}", "impl Say for Dog { fn a() {} }"], &[1]),
            (&["impl Say for Dog {}", "impl Run for Dog {}", "impl Say for Cat {}"], &[0, 1, 2]),
            (&["impl From<u8> for Dog {}", "impl From<u16> for Dog {}", "impl From<u8> for Dog {}"], &[1, 2]),
            (&["impl<T: A> Say for W<T> {}", "impl<'a, U> Say for W<U> where U: B {}"], &[1]),
            (
                &["impl<A, B> S<A> for W<B> {}", "impl<A, B> S<B> for W<A> {}", "impl<A> S<A> for W<A> {}"],
                &[1, 2],
            ),
            (&["impl Dog { fn a() {} }", "impl Say for Dog { fn a() {} }"], &[0, 1]),
            // A type that is defined anew takes along what stood with it.
            (&["struct Dog;\nimpl Dog { fn a() {} }", "struct Dog;"], &[]),
            (&["struct Dog;\nimpl Dog { fn a() {} }", "struct Dog(u8);\nimpl Dog { fn b() {} }"], &[1]),
            (&["struct Dog;", "impl Dog { fn a() {} }", "struct Dog;"], &[0]),
            (&["trait Say {}\nimpl Say for Dog {}", "trait Say { fn a(); }"], &[]),
            (&["struct Dog; impl Dog { fn a() {} } impl Say for Dog {}", "let dog = Dog;"], &[0, 1]),
            (&["extern \"C\" { fn abs(x: i32) -> i32; }", "extern \"C\" { fn abs(x: i32) -> i32; }"], &[1]),
        ] {
            assert_eq!(left(cells), expected, "{cells:?}");
        }
    }

    #[test]
    fn marks_stand_where_no_line_and_no_meaning_changes() {
        let fits = StaleItems::default();
        let items = Items::default().mark_cell("struct A; impl A { fn a() {} }", &fits).1;
        for (code, marked) in [
            ("let a = 1;", "let a = 1;"),
            ("impl B {}", "type HeadlightImpl1 = (); impl B {}"),
            (
                "\n// x\n:dep y = \"1\"\nstruct A;",
                "\n// x\n:dep y = \"1\"\ntype HeadlightImpl0 = (); struct A;",
            ),
            (
                "let a = 1;\n/// Doc.\n#[x]\nimpl B {}\na",
                "let a = 1;\ntype HeadlightImpl1 = (); /// Doc.\n#[x]\nimpl B {}\na",
            ),
            (
                "#![allow(unused)]\nstruct A; impl A { fn b() {} }",
                "#![allow(unused)]\ntype HeadlightImpl0 = (); struct A; type HeadlightImpl1 = (); impl A { fn b() {} }",
            ),
            ("let s = \"impl X {}\";", "let s = \"impl X {}\";"),
            ("impl {", "impl {"),
        ] {
            assert_eq!(items.mark_cell(code, &fits).0, marked);
        }
        let stale = StaleItems {
            blocks: BTreeSet::from([0]),
            names: BTreeSet::from(["f".to_string()]),
            headers: BTreeSet::new(),
        };
        assert_eq!(
            items.mark_cell("let a = 1;\nimpl B {}", &stale).0,
            "let a = 1;\ntype HeadlightImpl0 = (); macro_rules! f { () => {} } type HeadlightImpl1 = (); impl B {}"
        );
        assert_eq!(strip_marks("a; type HeadlightImpl1 = (); impl B {}"), "a; impl B {}");
    }

    #[test]
    fn the_item_of_a_line_is_known() {
        let generated = "#![allow(warnings)]\ntype HeadlightImpl3 = (); \n/// Doc.\nimpl A for B {\n    fn a() {}\n}\n\
                         pub fn f(\nx: u8) {}\nimpl Loose {}\npub extern \"C\" fn run_user_code_1() {\nlet a = 1;\n}\n";
        let generated = GeneratedItems::parse(generated.to_string());
        let at = |line: usize| {
            generated.item_at(line).map(|(item, begins)| match item {
                ItemId::Block(mark) => format!("{mark}: {begins}"),
                ItemId::Named(name) => format!("{name}: {begins}"),
            })
        };
        for (line, expected) in [
            (2, None),
            (4, Some("3: impl A for B")),
            (5, Some("3: impl A for B")),
            (7, Some("f: pub fn f(")),
            (8, Some("f: pub fn f(")),
            (9, None),
            (11, None),
            (40, None),
        ] {
            assert_eq!(at(line).as_deref(), expected, "line {line}");
        }
    }
}
