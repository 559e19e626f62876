//! What may import what: rooms in one direction, and no circles among files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A crate with its rooms, from the bottom up: each may import what stands before it, and what shares its line.
struct Crate {
    folder: &'static str,
    /// What stands outside the rooms: roots, which re-export or choose, and crates of their own.
    roots: &'static [&'static str],
    rooms: &'static [&'static [&'static str]],
    /// So many imports are to be found, or they are not read rightly.
    least: usize,
}

const LIBRARY: Crate = Crate {
    folder: "src",
    roots: &["lib", "cli"],
    rooms: &[
        &["error"],
        &["files", "hook", "json", "markup", "notebook", "random"],
        &["progress"],
        &["memory"],
        &["named"],
        &["view"],
        &["network", "tokenizer", "hub"],
        &["gguf"],
        &["model"],
        &["open", "analysis"],
        &["training"],
        &["figure"],
        &["visualize", "prelude"],
        &["tests"],
    ],
    least: 300,
};

const KERNEL: Crate = Crate {
    folder: "kernel/src",
    roots: &["main"],
    rooms: &[
        &["files", "notebook", "process", "sync", "terminal"],
        &["cell"],
        &["html", "shim"],
        &["build"],
        &["engine"],
        &["jupyter", "run"],
        &["setup"],
        &["cli"],
    ],
    least: 100,
};

/// Only these may know of figures; everything else says what is to be seen in terms of `view`.
const DRAWING: [&str; 3] = ["figure", "visualize", "prelude"];

/// Modules by their paths, with their source: without tests, comments and re-exports.
struct Sources(BTreeMap<String, String>);

impl Sources {
    fn read(of: &Crate) -> Sources {
        let mut all = BTreeMap::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(of.folder), "", &mut all);
        all.retain(|module, _| !of.roots.contains(&room(module)));
        Sources(all)
    }

    /// The module that a path leads to, through what others re-export.
    fn resolve(&self, path: &str) -> Option<String> {
        let parts: Vec<&str> = path.split("::").collect();
        let len = (1..=parts.len()).rev().find(|&len| self.0.contains_key(&parts[..len].join("::")))?;
        let module = parts[..len].join("::");
        let name = parts.get(len).copied().unwrap_or_default();
        for tree in uses(&self.0[&module], "pub use ").chain(uses(&self.0[&module], "pub(crate) use ")) {
            for target in expand(&tree) {
                // A macro is re-exported by its bare name, which leads no further.
                let leads_on = !target.starts_with("crate::") && target.contains("::");
                if leads_on && target.rsplit("::").next() == Some(name) {
                    return self.resolve(&format!("{module}::{target}"));
                }
            }
        }
        Some(module)
    }

    /// Which modules each imports.
    fn imports(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let of = |(module, text): (&'_ String, &String)| {
            let mut found = BTreeSet::new();
            for tree in uses(text, "use crate::") {
                found.extend(
                    expand(&tree).iter().filter_map(|path| self.resolve(path.trim_end_matches("::self"))),
                );
            }
            // Paths that are written out.
            for part in text.split("crate::").skip(1) {
                let end =
                    part.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(part.len());
                found.extend(self.resolve(part[..end].trim_end_matches(':')));
            }
            found.remove(module.as_str());
            found
        };
        self.0.iter().map(|(module, text)| (module.as_str(), of((module, text)))).collect()
    }
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

fn collect(folder: &Path, prefix: &str, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let module = if prefix.is_empty() { stem.clone() } else { format!("{prefix}::{stem}") };
        if path.is_dir() {
            collect(&path, &module, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let module = if stem == "mod" { prefix.to_string() } else { module };
            all.insert(module, code.join("\n"));
        }
    }
}

/// The trees of `use` declarations that begin so, without their beginning.
fn uses<'a>(text: &'a str, begin: &'a str) -> impl Iterator<Item = String> + 'a {
    let lines = text.match_indices(begin).filter(|(at, _)| *at == 0 || text[..*at].ends_with('\n'));
    lines.filter_map(move |(at, _)| {
        let rest = &text[at + begin.len()..];
        Some(rest[..rest.find(';')?].split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

/// The paths of a tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((before, inside)) = tree.split_once('{') else { return vec![tree.trim().to_string()] };
    let inside = inside.trim_end().strip_suffix('}').expect("braces in pairs");
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inside.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().expect("one at least").push(c),
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|part| format!("{}{part}", before.trim())).collect()
}

#[test]
fn rooms_import_in_one_direction() {
    for one in [LIBRARY, KERNEL] {
        let sources = Sources::read(&one);
        let floor = |module: &str| {
            let room = room(module);
            let floor = one.rooms.iter().position(|rooms| rooms.contains(&room));
            floor.unwrap_or_else(|| panic!("`{room}` has no place among the rooms of {}", one.folder))
        };
        let mut seen = 0;
        for (module, imports) in sources.imports() {
            for import in imports {
                assert!(
                    floor(&import) <= floor(module),
                    "`{module}` imports `{import}`, which lies above it"
                );
                seen += 1;
            }
        }
        assert!(seen > one.least, "only {seen} imports were found in {}", one.folder);
    }
}

#[test]
fn figures_are_known_where_they_are_drawn() {
    for (module, imports) in Sources::read(&LIBRARY).imports() {
        let import = imports.iter().find(|import| room(import) == "figure");
        assert!(
            import.is_none() || DRAWING.contains(&room(module)),
            "`{module}` imports {import:?}: say it in terms of `view`"
        );
    }
}

#[test]
fn files_import_in_no_circle() {
    for one in [LIBRARY, KERNEL] {
        let circle = find_circle(&Sources::read(&one).imports());
        assert!(circle.is_empty(), "import circles, and what leads to them: {circle:#?}");
    }
}

/// What is left when files that import nothing that is left are taken away, again and again: it lies on a circle or above one.
fn find_circle(imports: &BTreeMap<&str, BTreeSet<String>>) -> Vec<String> {
    let mut left: BTreeSet<&str> = imports.keys().copied().collect();
    loop {
        let is_free = |module: &&&str| !imports[**module].iter().any(|import| left.contains(import.as_str()));
        let free: Vec<&str> = left.iter().filter(is_free).copied().collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module| !free.contains(module));
    }
    let describe = |module: &&str| {
        let into: Vec<&String> = imports[*module].iter().filter(|to| left.contains(to.as_str())).collect();
        format!("{module} -> {into:?}")
    };
    left.iter().map(describe).collect()
}
