//! What verbs print with --json.

use headlight::{NamedTensor, Result};
use serde_json::{Value, json};

/// A value on one line.
pub fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// Numbers as arrays in arrays, one for each axis; NaN and infinities as null.
pub fn nested(named: &NamedTensor) -> Result<Value> {
    Ok(arrays(&named.shape(), &named.to_vec()?))
}

fn arrays(shape: &[usize], values: &[f32]) -> Value {
    match shape {
        [] | [_] => json!(values),
        [first, rest @ ..] => {
            let size = values.len() / (*first).max(1);
            Value::Array(values.chunks(size.max(1)).map(|part| arrays(rest, part)).collect())
        }
    }
}
