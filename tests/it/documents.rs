//! What documents show of the code is the code.

use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path)
}

/// Lines without what they are indented by.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// Each block of Rust in it follows the name of the file that it is taken from.
#[test]
fn blocks_of_the_page_on_architectures_are_taken_from_the_source() {
    let page = read("docs/add-an-architecture.md");
    let blocks: Vec<(&str, &str)> = page
        .match_indices("```rust,ignore\n")
        .map(|(at, begin)| {
            let (before, rest) = (&page[..at], &page[at + begin.len()..]);
            let named = before.rfind("`src/").expect("a file is named before the block") + 1;
            let file = &before[named..named + before[named..].find('`').expect("the name ends")];
            (file, &rest[..rest.find("```").expect("the block ends")])
        })
        .collect();
    assert!(blocks.len() >= 3, "there are only {} blocks", blocks.len());
    for (file, block) in blocks {
        let (source, block) = (read(file), lines(block));
        let is_there = lines(&source).windows(block.len()).any(|window| window == block);
        assert!(is_there, "this is not in {file}: {}", block.join("\n"));
    }
}

/// Paths that documents name exist.
#[test]
fn documents_name_files_that_are_there() {
    let mut named = 0;
    for document in
        ["README.md", "ARCHITECTURE.md", "DESIGN.md", "CONTRIBUTING.md", "docs/add-an-architecture.md"]
    {
        let text = read(document);
        for path in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/", "benches/", "kernel/", "oracle/", "examples/", "docs/"]
                .iter()
                .any(|root| path.starts_with(root));
            if is_path && !path.contains(['{', '*', ' ', '<']) {
                let full = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
                assert!(fs::exists(&full).unwrap_or(false), "{document} names `{path}`, which is not there");
                named += 1;
            }
        }
    }
    assert!(named > 20, "only {named} paths were found");
}
