//! Names that completion must not offer: rust-analyzer takes all crates of a session for the user's own, and shows what
//! is private in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ra_ap_syntax::ast::{self, AstNode, HasName, HasVisibility};
use ra_ap_syntax::{Edition, SourceFile, SyntaxKind, SyntaxNode};
use serde::{Deserialize, Serialize};

/// What completion is not to offer.
#[derive(Default, Serialize, Deserialize)]
pub struct PrivateNames {
    /// Wherever it is declared.
    everywhere: BTreeSet<String>,
    /// Of values of a type, by its name, though something else that is public is called the same.
    of_types: BTreeMap<String, BTreeSet<String>>,
}

impl PrivateNames {
    /// Whether an entry is hidden, after a value of a type where that is known.
    pub fn hide(&self, entry: &str, of: Option<&str>) -> bool {
        let of_type = of.and_then(|of| self.of_types.get(of));
        self.everywhere.contains(entry) || of_type.is_some_and(|names| names.contains(entry))
    }
}

/// The name of a type, as its declaration has it: without what points to it, the path before it and the types that it is made with.
pub fn type_name(text: &str) -> &str {
    let text = text.trim().trim_start_matches('&').trim_start();
    let text = text.strip_prefix("mut ").unwrap_or(text);
    let (path, inner) = text.split_once('<').unwrap_or((text, ""));
    let name = path.rsplit("::").next().unwrap_or(path).trim();
    match name {
        "Arc" | "Box" | "Rc" => type_name(inner.trim_end().trim_end_matches('>')),
        name => name,
    }
}

/// How a field is listed: fields are often called what something else is called.
pub fn field_entry(name: &str) -> String {
    format!(".{name}")
}

/// How a function is listed, by its arguments as completion shows them.
pub fn function_entry(name: &str, arguments: &str) -> String {
    let arguments = arguments.trim_start_matches('(').trim_end_matches(')');
    let own = ["&mut self", "&self", "mut self", "self"].iter().find_map(|own| arguments.strip_prefix(own));
    format!("{name}({})", own.unwrap_or(arguments).trim_start_matches([',', ' ']))
}

#[derive(Default)]
struct Declarations {
    private: BTreeSet<Declaration>,
    public: BTreeSet<Declaration>,
    /// What macros are told to declare, and what is shown elsewhere by `pub use`: it may be public.
    mentioned: BTreeSet<String>,
}

/// The type whose field or method it is, if it is one, and how it is listed.
type Declaration = (Option<String>, String);

/// What is private in each of these folders of source where it is declared, and public in none of them nor in those of
/// `public`.
pub fn private_names(own: &[PathBuf], public: &[PathBuf]) -> PrivateNames {
    let (mut ours, mut theirs) = (Declarations::default(), Declarations::default());
    own.iter().for_each(|folder| for_each_file(folder, &mut |text| ours.read(text)));
    public.iter().for_each(|folder| for_each_file(folder, &mut |text| theirs.read(text)));
    let name =
        |listed: &str| listed.trim_start_matches('.').split('(').next().unwrap_or_default().to_string();
    let shown: BTreeSet<&String> =
        ours.public.iter().chain(&theirs.public).map(|(_, listed)| listed).collect();
    let mut names = PrivateNames::default();
    for (of, listed) in &ours.private {
        if !shown.contains(listed) && !ours.mentioned.contains(&name(listed)) {
            names.everywhere.insert(listed.clone());
        } else if let Some(of) = of
            && !ours.public.contains(&(Some(of.clone()), listed.clone()))
        {
            names.of_types.entry(of.clone()).or_default().insert(listed.clone());
        }
    }
    names
}

fn for_each_file(folder: &Path, with: &mut dyn FnMut(&str)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "tests" && name != "benches" {
                for_each_file(&path, with);
            }
        } else if path.extension().is_some_and(|kind| kind == "rs")
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            with(&text);
        }
    }
}

impl Declarations {
    fn read(&mut self, text: &str) {
        let file = SourceFile::parse(text, Edition::Edition2024);
        for node in file.syntax_node().descendants() {
            if let Some(import) = ast::Use::cast(node.clone()).filter(is_public) {
                // Not what stands before a list.
                let trees = import.syntax().descendants().filter_map(ast::UseTree::cast);
                let leaves = trees.filter(|tree| tree.use_tree_list().is_none());
                let last = leaves.filter_map(|tree| tree.path()?.segment()?.name_ref());
                self.mentioned.extend(last.map(|name| name.text().to_string()));
            } else if is_item_macro(&node) {
                let tokens = node.descendants_with_tokens().filter_map(|part| part.into_token());
                let names = tokens.filter(|token| token.kind() == SyntaxKind::IDENT);
                self.mentioned.extend(names.map(|token| token.text().to_string()));
            } else if let Some((listed, is_public)) = parse_declaration(&node) {
                let list = if is_public { &mut self.public } else { &mut self.private };
                list.insert((owner(&node), listed));
            }
        }
    }
}

/// Whether it is a macro where items stand.
fn is_item_macro(node: &SyntaxNode) -> bool {
    let of_items = [
        SyntaxKind::SOURCE_FILE,
        SyntaxKind::ITEM_LIST,
        SyntaxKind::ASSOC_ITEM_LIST,
        SyntaxKind::MACRO_ITEMS,
    ];
    let above = node.parent().map(|above| above.kind());
    ast::MacroCall::can_cast(node.kind()) && above.is_some_and(|above| of_items.contains(&above))
}

/// What an item declares, as it is listed, and whether it is public.
fn parse_declaration(node: &SyntaxNode) -> Option<(String, bool)> {
    fn parse<N: HasName + HasVisibility>(item: N) -> Option<(String, bool)> {
        Some((item.name()?.text().to_string(), is_public(&item) || is_trait_item(item.syntax())))
    }
    let node = node.clone();
    if let Some(item) = ast::Fn::cast(node.clone()) {
        let parameters = item.param_list().into_iter().flat_map(|list| list.params());
        let names: Vec<String> = parameters
            .map(|parameter| parameter.pat().map(|name| name.syntax().text().to_string()).unwrap_or_default())
            .collect();
        let arguments = names.join(", ").replace("mut ", "");
        parse(item).map(|(name, public)| (function_entry(&name, &arguments), public))
    } else if let Some(item) = ast::Const::cast(node.clone()) {
        parse(item)
    } else if let Some(item) = ast::Static::cast(node.clone()) {
        parse(item)
    } else if let Some(item) = ast::Struct::cast(node.clone()) {
        parse(item)
    } else if let Some(item) = ast::Enum::cast(node.clone()) {
        parse(item)
    } else if let Some(item) = ast::Trait::cast(node.clone()) {
        parse(item)
    } else if let Some(item) = ast::TypeAlias::cast(node.clone()) {
        parse(item)
    } else if let Some(item) = ast::Module::cast(node.clone()) {
        parse(item)
    } else if let Some(item) = ast::RecordField::cast(node.clone()) {
        let of_variant =
            item.syntax().ancestors().nth(2).is_some_and(|above| ast::Variant::can_cast(above.kind()));
        parse(item).map(|(name, public)| (field_entry(&name), public || of_variant))
    } else {
        ast::Variant::cast(node).and_then(|variant| Some((variant.name()?.text().to_string(), true)))
    }
}

/// The type that an item is declared in, or for.
fn owner(node: &SyntaxNode) -> Option<String> {
    node.ancestors().skip(1).find_map(|above| {
        let of_block =
            ast::Impl::cast(above.clone()).and_then(|block| Some(block.self_ty()?.syntax().to_string()));
        let of_fields = || Some(ast::Struct::cast(above)?.name()?.text().to_string());
        of_block.or_else(of_fields).map(|name| type_name(&name).to_string())
    })
}

fn is_public(item: &impl HasVisibility) -> bool {
    item.visibility().is_some_and(|visibility| visibility.syntax().text() == "pub")
}

/// Items of traits are as public as their trait.
fn is_trait_item(item: &SyntaxNode) -> bool {
    let Some(list) = item.parent().and_then(ast::AssocItemList::cast) else { return false };
    match list.syntax().parent() {
        Some(above) => ast::Impl::cast(above.clone()).is_none_or(|block| block.trait_().is_some()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_private_everywhere_is_hidden() {
        let text = "pub struct A { pub shown: i32, inner: i32 }\nimpl A { pub fn open() {} fn checked(&self, mut a: i32, b: u8) {} pub(crate) fn near() {} fn len(&self) {} }\n\
            trait T { fn asked(); }\nimpl T for A { fn asked() {} }\nenum E { One { x: i32 } }\nmod deep {}\nfn inner() {}\n\
            fn made() {}\nmake! { made }\nmod shared { fn lent() {} fn used() {} }\n\
            pub use shared::{lent};\nuse shared::used;\npub(crate) use shared::used as other;";
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        std::fs::create_dir_all(ours.join("below")).unwrap();
        std::fs::create_dir_all(&theirs).unwrap();
        std::fs::write(ours.join("below/lib.rs"), text).unwrap();
        std::fs::write(theirs.join("lib.rs"), "pub fn len() {} fn open() {}").unwrap();
        let names = private_names(&[ours], &[theirs]);
        let everywhere =
            [".inner", "E", "T", "checked(a, b)", "deep", "inner()", "near()", "shared", "used()"];
        assert_eq!(names.everywhere, BTreeSet::from(everywhere.map(str::to_string)));
        // As `Vec` has it too.
        let of_a = BTreeSet::from(["len()".to_string()]);
        assert_eq!(names.of_types, BTreeMap::from([("A".to_string(), of_a)]));
        assert!(
            names.hide("len()", Some("A")) && !names.hide("len()", Some("Vec")) && !names.hide("len()", None)
        );
        assert!(names.hide("near()", None));
        assert_eq!(function_entry("checked", "(&self, a, b)"), "checked(a, b)");
        assert_eq!(function_entry("len", "(&self)"), "len()");
    }

    #[test]
    fn types_are_called_as_they_are_declared() {
        for (text, name) in [
            ("Run", "Run"),
            ("headlight::Run", "Run"),
            ("headlight :: Run", "Run"),
            ("&mut Vec<a::B>", "Vec"),
            ("& Run", "Run"),
            ("std::sync::Arc<headlight::Model>", "Model"),
            ("Box<Vec<u8>>", "Vec"),
            ("Grid<'a, T>", "Grid"),
        ] {
            assert_eq!(type_name(text), name, "{text}");
        }
    }
}
