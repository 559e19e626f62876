//! Which items of earlier cells a cell replaces. evcxr keeps items by name, and an `impl` block, which has none, for good:
//! run again, a cell with one would stand beside what it was. So each gets a named item before it, which evcxr keeps together
//! with it; the same name, given again with nothing after it, takes it away.
//!
//! What no longer compiles beside what a cell defines is left out too: a type could else not be changed where functions in other
//! cells use it, nor they without the type.

use std::collections::BTreeSet;

use evcxr::CompilationError;
use ra_ap_syntax::ast::{self, AstNode, HasGenericParams, HasName};
use ra_ap_syntax::{Edition, NodeOrToken, SourceFile, SyntaxNode};

use crate::cell::rewrite::{Sources, cell_of, code_start};

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
    kind: Kind,
    /// Names of its own cell: with another definition of one, it is gone.
    owners: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Of a trait, with whatever bounds.
    Trait { header: String },
    /// Of a type's own, or of foreign functions: with the names that it defines.
    Own { header: String, names: BTreeSet<String> },
}

impl Kind {
    fn replaces(&self, earlier: &Kind) -> bool {
        match (self, earlier) {
            (Kind::Trait { header }, Kind::Trait { header: other }) => header == other,
            (Kind::Own { header, names }, Kind::Own { header: other, names: before }) => {
                header == other && (!names.is_disjoint(before) || before.is_empty())
            }
            _ => false,
        }
    }
}

/// Items of earlier cells that a cell does not go together with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outdated {
    blocks: BTreeSet<usize>,
    names: BTreeSet<String>,
    /// What the user is to be told of, as it begins.
    pub told: BTreeSet<String>,
}

impl Outdated {
    /// Adds others; false if they are known.
    pub fn add(&mut self, more: Outdated) -> bool {
        let before = self.blocks.len() + self.names.len();
        self.blocks.extend(more.blocks);
        self.names.extend(more.names);
        self.told.extend(more.told);
        before < self.blocks.len() + self.names.len()
    }
}

impl Items {
    /// The cell as evcxr is to have it, no line moved, and what there is once it has run.
    pub fn with_cell(&self, code: &str, outdated: &Outdated) -> (String, Items) {
        let owners = self.blocks.iter().flat_map(|block| &block.owners).map(String::as_str);
        let none = *outdated == Outdated::default();
        if none && !owners.chain(["impl", "extern"]).any(|word| code.contains(word)) {
            return (code.to_string(), self.clone());
        }
        let cell = Cell::of(code);
        let mut after = self.clone();
        let mut made = Vec::new();
        for item in &cell.items {
            if let Some((kind, types)) = block(item) {
                let owners = types.into_iter().filter(|name| cell.defined.contains(name)).collect();
                made.push((item, Block { mark: after.count, kind, owners }));
                after.count += 1;
            }
        }
        let is_replaced = |old: &Block| {
            outdated.blocks.contains(&old.mark)
                || old.owners.iter().any(|owner| cell.defined.contains(owner))
                || made.iter().any(|(_, new)| new.kind.replaces(&old.kind))
        };
        let replaced = after.blocks.extract_if(.., |old| is_replaced(old)).map(|old| mark(old.mark));
        // In the place of an item of a name, one that nothing else can take for it.
        let removed = outdated.names.iter().map(|name| format!("macro_rules! {name} {{ () => {{}} }} "));
        let first: String = replaced.chain(removed).collect();

        let mut at = cell.items.first().map_or(cell.start, |item| cell.place(item));
        let mut marked = format!("{}{first}", &code[..at]);
        for (item, block) in made {
            let place = cell.place(item);
            marked += &format!("{}{}", &code[at..place], mark(block.mark));
            at = place;
            after.blocks.push(block);
        }
        marked += &code[at..];
        (marked, after)
    }

    /// Those items of earlier cells that are at fault where a cell does not compile; none if the cell itself is.
    pub fn outdated(&self, errors: &[CompilationError], code: &str, sources: &Sources) -> Option<Outdated> {
        let mut outdated = Outdated::default();
        let mut cell = None;
        for error in errors {
            let conflicts = error.code().is_some_and(|code| CONFLICTS.contains(&code));
            let spans = error.json["spans"].as_array()?;
            let mut at_fault = false;
            for span in spans.iter().filter(|span| conflicts || span["is_primary"] == true) {
                let (file, line) =
                    (span["file_name"].as_str()?, usize::try_from(span["line_start"].as_u64()?).ok()?);
                let cell = cell.get_or_insert_with(|| Cell::of(code));
                let generated = sources.generated(cell_of(file)?)?;
                match item_at(&generated, line) {
                    Some((Item::Block(mark), begins))
                        if self.blocks.iter().any(|block| block.mark == mark) =>
                    {
                        outdated.blocks.insert(mark);
                        outdated.told.extend((!conflicts).then_some(begins));
                        at_fault = true;
                    }
                    Some((Item::Named(name), begins)) if !conflicts && !cell.names.contains(&name) => {
                        outdated.names.insert(name);
                        outdated.told.insert(begins);
                        at_fault = true;
                    }
                    _ => {}
                }
            }
            if !at_fault {
                return None;
            }
        }
        Some(outdated)
    }
}

/// The items of a cell.
struct Cell {
    start: usize,
    items: Vec<ast::Item>,
    /// The types and traits among them, and all that have a name.
    defined: Vec<String>,
    names: BTreeSet<String>,
}

impl Cell {
    const BEFORE: &str = "fn cell() {";

    fn of(code: &str) -> Cell {
        let start = code_start(code);
        let parsed =
            SourceFile::parse(&format!("{}{}\n}}", Cell::BEFORE, &code[start..]), Edition::Edition2024);
        let function = parsed.tree().syntax().children().find_map(ast::Fn::cast);
        let statements = function.and_then(|function| function.body()?.stmt_list());
        let items: Vec<ast::Item> =
            statements.iter().flat_map(|list| list.syntax().children()).filter_map(ast::Item::cast).collect();
        let defined = items.iter().filter(|item| is_of_types(item)).filter_map(name_of).collect();
        let names = items.iter().filter_map(name_of).collect();
        Cell { start, items, defined, names }
    }

    /// Where an item begins, what documents it included.
    fn place(&self, item: &ast::Item) -> usize {
        usize::from(item.syntax().text_range().start()) - Cell::BEFORE.len() + self.start
    }
}

enum Item {
    /// With its mark.
    Block(usize),
    Named(String),
}

/// The item that a line of what was compiled is in, and how it begins; not the function that is the cell.
fn item_at(generated: &str, line: usize) -> Option<(Item, String)> {
    let start: usize = generated.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let tree = SourceFile::parse(generated, Edition::Edition2024).tree();
    let mut before = None;
    for item in tree.syntax().children().filter_map(ast::Item::cast) {
        let range = item.syntax().text_range();
        if usize::from(range.end()) > start {
            let text = item.syntax().text().to_string();
            let begins =
                text.lines().find(|line| !line.trim_start().starts_with(['/', '#'])).unwrap_or_default();
            let begins = begins.split(['{', ';']).next().unwrap_or_default().trim().to_string();
            let name = name_of(&item);
            let found = match (&item, name) {
                (ast::Item::Impl(_) | ast::Item::ExternBlock(_), _) => {
                    before.and_then(|name: String| number_of(&name)).map(Item::Block)
                }
                (_, Some(name)) if !name.starts_with("run_user_code_") && number_of(&name).is_none() => {
                    Some(Item::Named(name))
                }
                _ => None,
            };
            return found.map(|item| (item, begins));
        }
        before = name_of(&item);
    }
    None
}

/// The item that stands before a block.
fn mark(number: usize) -> String {
    format!("type {MARK}{number} = (); ")
}

/// The number of a name that is a mark.
fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix(MARK)?.parse().ok()
}

/// A line as the user wrote it.
pub fn without_marks(line: &str) -> String {
    let mut parts = line.split("type HeadlightImpl");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |line, part| line + part.split_once(" = (); ").map_or(part, |(_, rest)| rest))
}

/// Whether completion is not to offer the name.
pub fn is_mark(name: &str) -> bool {
    name.starts_with(MARK)
}

fn is_of_types(item: &ast::Item) -> bool {
    use ast::Item::{Enum, Struct, Trait, TypeAlias, Union};
    matches!(item, Enum(_) | Struct(_) | Trait(_) | TypeAlias(_) | Union(_))
}

/// The name that evcxr keeps an item by.
fn name_of(item: &ast::Item) -> Option<String> {
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
fn block(item: &ast::Item) -> Option<(Kind, Vec<String>)> {
    match item {
        ast::Item::Impl(block) => {
            let parameters = parameters(block);
            let of = block.self_ty()?;
            let mut types: Vec<String> = last_name(&of).into_iter().collect();
            let Some(of_trait) = block.trait_() else {
                let header = words(&[of.syntax()], &parameters);
                let items = block.assoc_item_list().into_iter().flat_map(|list| list.assoc_items());
                let names = items.filter_map(|item| match item {
                    ast::AssocItem::Fn(item) => item.name(),
                    ast::AssocItem::Const(item) => item.name(),
                    ast::AssocItem::TypeAlias(item) => item.name(),
                    ast::AssocItem::MacroCall(_) => None,
                });
                let names = names.map(|name| name.text().to_string()).collect();
                return Some((Kind::Own { header, names }, types));
            };
            types.extend(last_name(&of_trait));
            let header = words(&[of_trait.syntax(), of.syntax()], &parameters);
            Some((Kind::Trait { header }, types))
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
            Some((Kind::Own { header: "extern".to_string(), names }, Vec::new()))
        }
        _ => None,
    }
}

/// The names of its generic parameters.
fn parameters(block: &ast::Impl) -> Vec<String> {
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
fn words(nodes: &[&SyntaxNode], parameters: &[String]) -> String {
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
fn last_name(of: &ast::Type) -> Option<String> {
    match of {
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
            let (marked, after) = items.with_cell(cell, &Outdated::default());
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
        let fits = Outdated::default();
        let items = Items::default().with_cell("struct A; impl A { fn a() {} }", &fits).1;
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
            assert_eq!(items.with_cell(code, &fits).0, marked);
        }
        let outdated = Outdated {
            blocks: BTreeSet::from([0]),
            names: BTreeSet::from(["f".to_string()]),
            told: BTreeSet::new(),
        };
        assert_eq!(
            items.with_cell("let a = 1;\nimpl B {}", &outdated).0,
            "let a = 1;\ntype HeadlightImpl0 = (); macro_rules! f { () => {} } type HeadlightImpl1 = (); impl B {}"
        );
        assert_eq!(without_marks("a; type HeadlightImpl1 = (); impl B {}"), "a; impl B {}");
    }

    #[test]
    fn the_item_of_a_line_is_known() {
        let generated = "#![allow(warnings)]\ntype HeadlightImpl3 = (); \n/// Doc.\nimpl A for B {\n    fn a() {}\n}\n\
                         pub fn f(\nx: u8) {}\nimpl Loose {}\npub extern \"C\" fn run_user_code_1() {\nlet a = 1;\n}\n";
        let at = |line: usize| {
            item_at(generated, line).map(|(item, begins)| match item {
                Item::Block(mark) => format!("{mark}: {begins}"),
                Item::Named(name) => format!("{name}: {begins}"),
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
