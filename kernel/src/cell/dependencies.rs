//! `:dep` for a crate that is there already.

use std::collections::BTreeMap;

use semver::{Version, VersionReq};

use crate::cell::lex::code_start;

/// The dependencies that every session begins with.
pub const PRELOADED: [&str; 3] = ["headlight", "candle-core", "evcxr_input"];

/// A `:dep` for a crate that the template holds in a way that does not serve it.
#[derive(Debug, PartialEq)]
pub struct VersionConflict {
    pub name: String,
    pub requested: String,
    pub available: String,
}

/// Each `:dep` for a crate that the template holds asks for it as it is there: nothing is built, and there is no second
/// copy. What every session begins with is left out, so that the notebook is also one for stock evcxr.
pub fn use_available(code: &str, available: &BTreeMap<String, String>) -> Result<String, VersionConflict> {
    let mut lines = Vec::new();
    // Later lines may be within a text.
    let (commands, code) = code.split_at(code_start(code));
    for line in commands.lines() {
        let Some(dependency) = line.trim_start().strip_prefix(":dep ") else {
            lines.push(line.to_string());
            continue;
        };
        let (name, requested) = dependency.split_once('=').unwrap_or((dependency, "\"*\""));
        let (name, requested) = (name.trim(), requested.trim());
        let Some((name, value)) =
            available.get_key_value(name).or_else(|| available.get_key_value(&name.replace('_', "-")))
        else {
            lines.push(line.to_string());
            continue;
        };
        if name != "headlight" && !serves(value, requested) {
            let (name, requested, available) = (name.clone(), requested.to_string(), value.clone());
            return Err(VersionConflict { name, requested, available });
        }
        // Where there was a line there is one: the numbers of the others must not change.
        let is_preloaded = PRELOADED.contains(&name.as_str());
        lines.push(if is_preloaded { String::new() } else { format!(":dep {name} = {value}") });
    }
    lines.extend(code.lines().map(str::to_string));
    Ok(lines.join("\n"))
}

/// Whether a dependency that is there, as Cargo.toml has it, is all that another one asks for.
fn serves(available: &str, requested: &str) -> bool {
    let field = |value: &str, key: &str| -> Option<toml::Value> {
        let table: toml::Table = format!("x = {value}").parse().ok()?;
        match table.get("x")? {
            version @ toml::Value::String(_) if key == "version" => Some(version.clone()),
            table => table.get(key).cloned(),
        }
    };
    let asks_for_more =
        ["features", "git", "path", "registry"].iter().any(|key| field(requested, key).is_some());
    let version = |value: &str| Some(field(value, "version")?.as_str()?.to_string());
    let Some(own) = version(available).and_then(|own| Version::parse(own.trim_start_matches('=')).ok())
    else {
        return false;
    };
    let is_met = |request: String| VersionReq::parse(&request).is_ok_and(|request| request.matches(&own));
    !asks_for_more && version(requested).is_none_or(is_met)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_serves_as_cargo_would_have_it() {
        let available = BTreeMap::from([
            ("headlight".to_string(), "{ package = \"headlight-session\" }".to_string()),
            ("candle-core".to_string(), "{ version = \"=0.11.1\", default-features = false }".to_string()),
            ("plotly".to_string(), "{ version = \"=1.5.2\" }".to_string()),
        ]);
        let plotly = ":dep plotly = { version = \"=1.5.2\" }";
        for (line, left) in [
            (":dep headlight = { path = \"..\" }", ""),
            (":dep candle-core", ""),
            (":dep candle-core = \"*\"", ""),
            (":dep candle-core = \"0.11\"", ""),
            (":dep candle_core = { version = \"0.11.1\" }", ""),
            (":dep candle-core = { default-features = false }", ""),
            (":dep candle-core = \">=0.11\"", ""),
            (":dep candle-core = \"^0.11, <0.12\"", ""),
            (":dep candle-core = \"=0.11.1\"", ""),
            (":dep candle-core = \"0.11.*\"", ""),
            (":dep plotly = \"1.2\"", plotly),
            (":dep plotly = \"~1.5\"", plotly),
            (":dep ndarray = \"0.16\"", ":dep ndarray = \"0.16\""),
            ("let x = 1;", "let x = 1;"),
        ] {
            let code = use_available(&format!("{line}\nlet y = 2;"), &available);
            assert_eq!(code, Ok(format!("{left}\nlet y = 2;")), "of {line}");
        }
        // Later lines may be within a text.
        let code = "  // x\n:dep headlight\nlet x = \"\n:dep headlight\n\";";
        assert_eq!(use_available(code, &available), Ok(code.replacen(":dep headlight", "", 1)));
        for line in [
            ":dep candle-core = \"0.10\"",
            ":dep candle-core = \"0.11.9\"",
            ":dep candle-core = \"=0.11.0\"",
            ":dep candle-core = \">=0.12\"",
            ":dep candle-core = \"0.11, <0.11.1\"",
            ":dep candle-core = \"newest\"",
            ":dep candle-core = { git = \"x\" }",
            ":dep plotly = \"~1.2\"",
            ":dep plotly = \"2\"",
        ] {
            assert!(use_available(line, &available).is_err(), "{line}");
        }
    }
}
