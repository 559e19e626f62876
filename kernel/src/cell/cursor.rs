//! What stands at the cursor, and what is told of it.

/// Documentation without the lines of its examples that rustdoc hides.
pub fn without_hidden_lines(documentation: &str) -> String {
    // A heading is of words.
    let is_code = |text: &str| text.contains([';', '(', '{', '}', ':']);
    let hidden = |line: &str| line == "#" || line.strip_prefix("# ").is_some_and(is_code);
    let lines: Vec<&str> = documentation.lines().filter(|line| !hidden(line)).collect();
    lines.join("\n")
}

/// The name at a byte of the code, with the path or the calls that lead to it: where they start and where it ends.
pub fn name_around(code: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = code.as_bytes();
    let in_name = |at: usize| bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let mut end = at.min(bytes.len());
    while in_name(end) {
        end += 1;
    }
    // Behind an opening bracket it is the function that is asked for.
    while end > 0 && matches!(bytes[end - 1], b'(' | b'!' | b'?' | b';' | b' ') {
        end -= 1;
    }
    if end == 0 || !in_name(end - 1) {
        return None;
    }
    let mut start = end;
    let mut depth = 0;
    while start > 0 {
        match bytes[start - 1] {
            b')' | b']' | b'>' => depth += 1,
            b'(' | b'[' | b'<' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            b':' | b'.' | b'?' => {}
            _ if in_name(start - 1) => {}
            _ => break,
        }
        start -= 1;
    }
    code.is_char_boundary(start).then_some((start, end))
}

/// Where the name of a variable ends whose fields and methods are asked for, by what is completed from `start` on; and the name.
pub fn variable_before(code: &str, start: usize) -> Option<(usize, &str)> {
    let end = code.get(..start)?.trim_end().strip_suffix('.')?.trim_end().len();
    let begin = code[..end].rfind(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let begin = begin.map_or(0, |at| at + code[at..].chars().next().map_or(1, char::len_utf8));
    let is_alone = !code[..begin].ends_with(['.', ':']);
    let name = &code[begin..end];
    (is_alone && !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()))
        .then_some((end, name))
}

/// The type that documentation gives for a variable.
pub fn type_in(documentation: &str, variable: &str) -> Option<String> {
    documentation.lines().find_map(|line| {
        let declared = line.trim().strip_prefix("let ")?.trim_start_matches("mut ").strip_prefix(variable)?;
        Some(declared.strip_prefix(':')?.trim().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_lines_of_examples_are_left_out() {
        let docs = "Opens.\n# Errors\nNone.\n# use a::b;\nlet x = 1;\n# Ok::<(), E>(())\n#\n";
        assert_eq!(without_hidden_lines(docs), "Opens.\n# Errors\nNone.\nlet x = 1;");
    }

    #[test]
    fn a_variable_is_found_before_its_dot() {
        for (code, found) in [
            ("run.", Some("run")),
            ("let é = 1; f(run .", Some("run")),
            ("r2d2.\n", Some("r2d2")),
            ("é.", Some("é")),
            ("run.pattern(1)?.", None),
            ("a.run.", None),
            ("Run::", None),
            ("a::run.", None),
            ("1.", None),
            (".", None),
            ("", None),
        ] {
            assert_eq!(variable_before(code, code.len()).map(|(_, name)| name), found, "{code}");
        }
        assert_eq!(
            type_in("text\nlet mut run: headlight::Run\n---", "run").as_deref(),
            Some("headlight::Run")
        );
        assert_eq!(type_in("let running: Run", "run"), None);
    }

    #[test]
    fn a_name_is_found_around_the_cursor() {
        for (code, at, name) in [
            ("Model::open", 9, "Model::open"),
            ("Model::open", 2, "Model"),
            ("let r = model.run_with_cache(\"a b\")?;", 20, "model.run_with_cache"),
            (
                "let p = model.run_with_cache(\"a b\")?.pattern(1)?;",
                43,
                "model.run_with_cache(\"a b\")?.pattern",
            ),
            ("show(", 5, "show"),
            ("Vec::<i32>::new()", 13, "Vec::<i32>::new"),
            ("f(model)", 4, "model"),
        ] {
            assert_eq!(
                name_around(code, at).map(|(start, end)| &code[start..end]),
                Some(name),
                "{code} at {at}"
            );
        }
        assert_eq!(name_around("1 + é", 6), None);
        assert_eq!(name_around("", 0), None);
    }
}
