//! The standard library's source as rust-analyzer reads it.
//!
//! It reads all of it whenever a kernel starts: four of the five seconds that it needs. Attributes of stability and the
//! documentation of what notebooks seldom ask about are most of the text, and none of the types.

use std::fs;
use std::path::Path;

use crate::Result;

const CRATES: [&str; 8] =
    ["core", "alloc", "std", "proc_macro", "panic_abort", "panic_unwind", "unwind", "test"];

/// What people look up: its documentation stays.
const DOCUMENTED: [&str; 27] = [
    "alloc/src/boxed.rs",
    "alloc/src/fmt.rs",
    "alloc/src/rc.rs",
    "alloc/src/slice.rs",
    "alloc/src/str.rs",
    "alloc/src/string.rs",
    "alloc/src/sync.rs",
    "alloc/src/vec/mod.rs",
    "core/src/clone.rs",
    "core/src/cmp.rs",
    "core/src/convert",
    "core/src/default.rs",
    "core/src/fmt/mod.rs",
    "core/src/iter/traits",
    "core/src/macros",
    "core/src/option.rs",
    "core/src/result.rs",
    "core/src/slice/mod.rs",
    "core/src/str/mod.rs",
    "core/src/time.rs",
    "std/src/collections",
    "std/src/fs.rs",
    "std/src/io/mod.rs",
    "std/src/macros.rs",
    "std/src/path.rs",
    "std/src/thread",
    "std/src/time.rs",
];

/// Others of the compiler's own say what a macro or a type is.
const ATTRIBUTES: [&str; 11] = [
    "stable(",
    "unstable(",
    "rustc_const_stable",
    "rustc_const_unstable",
    "rustc_diagnostic_item",
    "rustc_inherit_overflow_checks",
    "rustc_allow_const_fn_unstable",
    "must_use",
    "inline",
    "cold",
    "doc = ",
];

/// Copies the source, without what is not needed.
pub fn write(library: &Path, to: &Path) -> Result<()> {
    for name in CRATES {
        let source = library.join(name).join("src");
        if source.exists() {
            copy(library, &source, to)?;
        }
    }
    Ok(())
}

fn copy(library: &Path, folder: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if name != "tests" && name != "benches" {
                copy(library, &path, to)?;
            }
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let within = path.strip_prefix(library)?;
            let is_documented = DOCUMENTED.iter().any(|part| within.starts_with(part));
            let place = to.join(within);
            fs::create_dir_all(place.parent().unwrap_or(to))?;
            fs::write(place, strip(&fs::read_to_string(&path)?, is_documented))?;
        }
    }
    Ok(())
}

/// A line goes only if it is wholly a comment or an attribute: what spans several lines stays.
fn strip(source: &str, is_documented: bool) -> String {
    let is_needed = |line: &&str| {
        let text = line.trim();
        if text.starts_with("///") || text.starts_with("//!") {
            return is_documented;
        }
        let attribute =
            text.strip_prefix("#[").or_else(|| text.strip_prefix("#![")).filter(|_| text.ends_with(']'));
        !text.starts_with("//")
            && !attribute.is_some_and(|text| ATTRIBUTES.iter().any(|name| text.starts_with(name)))
    };
    let mut stub = String::with_capacity(source.len());
    for line in source.lines().filter(is_needed) {
        stub.push_str(line);
        stub.push('\n');
    }
    stub
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_stay_and_comments_go() {
        let source = "//! Of a module.\n#![stable(feature = \"x\")]\n/// Of a function.\n    #[inline]\n#[cfg(unix)]\n\
            #[rustc_builtin_macro]\n#[rustc_const_stable(\n    feature = \"y\",\n)]\npub fn f() {} // kept\n// gone\n";
        let code = "#[cfg(unix)]\n#[rustc_builtin_macro]\n#[rustc_const_stable(\n    feature = \"y\",\n)]\npub fn f() {} // kept\n";
        assert_eq!(strip(source, false), code);
        assert_eq!(strip(source, true), format!("//! Of a module.\n/// Of a function.\n{code}"));
    }
}
