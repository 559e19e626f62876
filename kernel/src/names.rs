//! Names that completion must not offer: rust-analyzer takes all crates of a session for the user's own, and shows what
//! is private in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ra_ap_syntax::ast::{self, AstNode, HasName, HasVisibility};
use ra_ap_syntax::{Edition, SourceFile, SyntaxKind, SyntaxNode};

/// Names that are private in each of these folders of source where they are declared, and public in none of them nor
/// in those of `public`.
pub fn hidden(of: &[PathBuf], public: &[PathBuf]) -> BTreeSet<String> {
    let (mut private, mut shown) = (BTreeSet::new(), BTreeSet::new());
    for folder in of {
        for_each_file(folder, &mut |text| sort(text, &mut private, &mut shown));
    }
    for folder in public {
        for_each_file(folder, &mut |text| sort(text, &mut BTreeSet::new(), &mut shown));
    }
    private.difference(&shown).cloned().collect()
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

fn sort(text: &str, private: &mut BTreeSet<String>, public: &mut BTreeSet<String>) {
    let file = SourceFile::parse(text, Edition::Edition2024);
    for node in file.syntax_node().descendants() {
        // What a macro is told to declare, or an item to show elsewhere, may be public.
        if ast::MacroCall::can_cast(node.kind()) || ast::Use::can_cast(node.kind()) {
            let tokens = node.descendants_with_tokens().filter_map(|part| part.into_token());
            public.extend(
                tokens
                    .filter(|token| token.kind() == SyntaxKind::IDENT)
                    .map(|token| token.text().to_string()),
            );
            continue;
        }
        let Some((name, is_public)) = declared(&node) else { continue };
        let names = if is_public { &mut *public } else { &mut *private };
        names.insert(name);
    }
}

/// The name that an item declares, and whether it is public.
fn declared(node: &SyntaxNode) -> Option<(String, bool)> {
    fn of<N: HasName + HasVisibility>(item: N) -> Option<(String, bool)> {
        let public = item.visibility().is_some_and(|visibility| visibility.syntax().text() == "pub");
        Some((item.name()?.text().to_string(), public || is_of_a_trait(item.syntax())))
    }
    let node = node.clone();
    if let Some(item) = ast::Fn::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::Const::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::Static::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::Struct::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::Enum::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::Trait::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::TypeAlias::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::Module::cast(node.clone()) {
        of(item)
    } else if let Some(item) = ast::RecordField::cast(node.clone()) {
        let of_variant =
            item.syntax().ancestors().nth(2).is_some_and(|above| ast::Variant::can_cast(above.kind()));
        of(item).map(|(name, public)| (name, public || of_variant))
    } else {
        ast::Variant::cast(node).and_then(|variant| Some((variant.name()?.text().to_string(), true)))
    }
}

/// Items of traits are as public as their trait.
fn is_of_a_trait(item: &SyntaxNode) -> bool {
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
        let text = "pub struct A { pub shown: i32, inner: i32 }\nimpl A { pub fn open() {} fn checked() {} pub(crate) fn near() {} fn len(&self) {} }\n\
            trait T { fn asked(); }\nimpl T for A { fn asked() {} }\nenum E { One { x: i32 } }\nmod deep {}\nfn inner() {}\n\
            fn made() {}\nmake! { made }";
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        std::fs::create_dir_all(ours.join("below")).unwrap();
        std::fs::create_dir_all(&theirs).unwrap();
        std::fs::write(ours.join("below/lib.rs"), text).unwrap();
        std::fs::write(theirs.join("lib.rs"), "pub fn len() {} fn open() {}").unwrap();
        let names: Vec<String> = hidden(&[ours], &[theirs]).into_iter().collect();
        assert_eq!(names, ["E", "T", "checked", "deep", "inner", "near"]);
    }
}
