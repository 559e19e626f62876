//! What cargo knows of the crates of a session, as JSON that is read and handed on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What rust-analyzer reads in any session.
pub const ALWAYS: [&str; 4] = ["ctx", "headlight-session", "headlight", "candle-core"];

pub fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

/// What rust-analyzer needs to know the types of cells: headlight, candle's tensors and what the cells ask for; not the two
/// hundred crates of the template below these, which it would take seconds to read.
pub fn prune(mut metadata: Value, template: &Value, requested: &BTreeMap<String, String>) -> Value {
    let below: BTreeSet<&str> = packages(template).filter_map(|package| package["id"].as_str()).collect();
    let keep = |package: &&Value| {
        let name = package["name"].as_str().unwrap_or_default();
        let new = !below.contains(package["id"].as_str().unwrap_or_default());
        ALWAYS.contains(&name) || requested.contains_key(name) || new
    };
    let ids: Vec<Value> = packages(&metadata).filter(keep).map(|package| package["id"].clone()).collect();
    if let Some(packages) = metadata["packages"].as_array_mut() {
        packages.retain(|package| ids.contains(&package["id"]));
    }
    if let Some(nodes) = metadata["resolve"]["nodes"].as_array_mut() {
        nodes.retain(|node| ids.contains(&node["id"]));
        for node in nodes {
            for (list, id) in [("deps", "pkg"), ("dependencies", "")] {
                if let Some(dependencies) = node[list].as_array_mut() {
                    dependencies.retain(|dependency| {
                        ids.contains(if id.is_empty() { dependency } else { &dependency[id] })
                    });
                }
            }
        }
    }
    metadata
}

/// Whether packages that both have are there with other features.
pub fn features_differ(one: &Value, other: &Value) -> bool {
    let features = |metadata: &Value| -> BTreeMap<String, BTreeSet<String>> {
        let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
        let strings = |list: &Value| list.as_array().into_iter().flatten().map(Value::to_string).collect();
        nodes.map(|node| (node["id"].to_string(), strings(&node["features"]))).collect()
    };
    let (one, other) = (features(one), features(other));
    one.iter().any(|(id, features)| other.get(id).is_some_and(|others| others != features))
}
