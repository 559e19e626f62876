//! Reading a `config.json`, and what must hold of its sizes in any architecture.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::json::{LONGEST_SHOWN, parse};
use crate::network::dims::Dims;

/// The text of a `config.json`: with weights, a network.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    /// A `model_type`, or a class.
    pub(crate) architecture: String,
    /// What errors call the file.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl ConfigFile {
    /// Builds what the file describes. An entry that it lacks is as in `defaults`, which are those of the class that reads such
    /// files in transformers. Entries have other names, too: of pairs of any name and the usual one, the last that is there
    /// counts. An error names the sizes that the file lacks.
    pub(crate) fn load<T: Serialize + DeserializeOwned, N>(
        &self,
        defaults: T,
        names: &[(&str, &str)],
        load: impl FnOnce(&T) -> Result<N>,
    ) -> Result<N> {
        let said: Map<String, Value> = parse(&self.path, &self.text)?;
        let mut entries = said.clone();
        for (name, usual) in names {
            if let Some(value) = said.get(*name) {
                entries.insert(usual.to_string(), value.clone());
            }
        }
        let failed = |error: serde_json::Error| {
            Error::new(ErrorKind::Config, format!("{} is not what it should be", self.path)).caused_by(error)
        };
        let defaults: Map<String, Value> =
            serde_json::to_value(&defaults).and_then(serde_json::from_value).map_err(failed)?;
        let with = |entries: Map<String, Value>| {
            let all = defaults.clone().into_iter().chain(entries);
            serde_json::from_value::<T>(Value::Object(all.collect()))
        };
        let config = with(entries.clone()).map_err(|error| {
            let is_wrong = |(name, value): (&String, &Value)| {
                let error = with([(name.clone(), value.clone())].into_iter().collect()).err()?;
                Some(wrong_entry(&self.path, name, value, &defaults[name]).caused_by(error))
            };
            entries.iter().find_map(is_wrong).unwrap_or_else(|| failed(error))
        })?;
        load(&config).map_err(|error| {
            let lacks = |(name, value): (&String, &Value)| {
                (value.is_u64() && !entries.contains_key(name)).then(|| format!("{name} is {value}"))
            };
            let lacking: Vec<String> = defaults.iter().filter_map(lacks).collect();
            if lacking.is_empty() || !matches!(error.kind(), ErrorKind::Config | ErrorKind::Weights) {
                return error;
            }
            let lacking = lacking.join(", ");
            error.help_too(format!("by default, as {} says nothing of them, {lacking}", self.path))
        })
    }
}

fn wrong_entry(path: &str, name: &str, value: &Value, default: &Value) -> Error {
    let shown: String = format!("\"{name}\": {value}").chars().take(LONGEST_SHOWN).collect();
    let help = match default {
        Value::Null => "mend that entry, or take it out".to_string(),
        default => format!("mend that entry, or take it out: it is then {default}"),
    };
    Error::new(ErrorKind::Config, format!("{path} is not what it should be, at `{shown}`")).help(help)
}

pub(crate) fn invalid_config<T>(what: String, help: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Config, what).help(help))
}

/// A size for which there is no default.
pub(crate) fn required(name: &str, size: Option<usize>) -> Result<usize> {
    match size {
        Some(size) => Ok(size),
        None => invalid_config(
            format!("config.json has no {name}"),
            format!("write it in, as \"{name}\": 64; the shapes of the weights tell which it is"),
        ),
    }
}

/// Fails for an entry that is set to what is not known here.
pub(crate) fn reject_if(is_set: bool, entry: &str, help: &str) -> Result<()> {
    if is_set { invalid_config(format!("config.json says {entry}"), help) } else { Ok(()) }
}

/// A size under the name that it has in the file.
pub(crate) type NamedSize = (&'static str, usize);

/// The sizes of an architecture, as its config.json calls them.
pub(crate) struct RawDims {
    pub(crate) layers: NamedSize,
    pub(crate) heads: NamedSize,
    pub(crate) key_value_heads: Option<NamedSize>,
    pub(crate) width: NamedSize,
    pub(crate) head_width: Option<NamedSize>,
    /// Nothing where there are no MLPs.
    pub(crate) neurons: Option<NamedSize>,
    pub(crate) vocabulary: NamedSize,
    pub(crate) context: NamedSize,
}

impl RawDims {
    /// The sizes, once they are known to make sense.
    pub(crate) fn dims(&self) -> Result<Dims> {
        let given = [self.layers, self.heads, self.width, self.vocabulary, self.context];
        let others = [self.key_value_heads, self.head_width, self.neurons];
        for (name, size) in given.into_iter().chain(others.into_iter().flatten()) {
            // Products of two sizes stay far from overflow.
            if size == 0 || size > u32::MAX as usize {
                return invalid_config(
                    format!("the config has {name} = {size}"),
                    "every size of a model is at least 1 and below 2^32",
                );
            }
        }
        let ((heads_name, n_heads), (width_name, d_model)) = (self.heads, self.width);
        let d_head = match self.head_width {
            Some((_, width)) => width,
            None if d_model.is_multiple_of(n_heads) => d_model / n_heads,
            None => {
                return invalid_config(
                    format!("the config has {width_name} = {d_model} and {heads_name} = {n_heads}"),
                    format!(
                        "{width_name} is {heads_name} times the width of a head: it must be divisible by {heads_name}"
                    ),
                );
            }
        };
        let n_key_value_heads = match self.key_value_heads {
            Some((name, shared)) if !n_heads.is_multiple_of(shared) => {
                return invalid_config(
                    format!("the config has {heads_name} = {n_heads} and {name} = {shared}"),
                    format!(
                        "as many query heads share each key head: {heads_name} must be divisible by {name}"
                    ),
                );
            }
            Some((_, shared)) => shared,
            None => n_heads,
        };
        Ok(Dims {
            n_layers: self.layers.1,
            n_heads,
            n_key_value_heads,
            d_model,
            d_head,
            d_mlp: self.neurons.map_or(0, |(_, neurons)| neurons),
            d_vocab: self.vocabulary.1,
            n_ctx: self.context.1,
        })
    }
}

/// A norm's epsilon.
pub(crate) fn check_epsilon(name: &str, eps: f64) -> Result<f64> {
    let narrow = eps as f32;
    if narrow.is_finite() && narrow > 0.0 {
        return Ok(eps);
    }
    invalid_config(format!("config.json says {name} = {eps}"), "it is a small positive number, 1e-5 in GPT-2")
}

/// How many entries of each head rotary positions turn.
pub(crate) fn check_rotary_dims(what: String, width: usize, d_head: usize) -> Result<usize> {
    // Tables are made of it before a weight has shown that a head is so wide.
    const MOST: usize = 1 << 16;
    if width > MOST {
        return invalid_config(
            format!("{what}, so rotary positions turn {width} entries of a head"),
            format!("no head is known to be wider than {MOST}: is its width right?"),
        );
    }
    if width >= 2 && width <= d_head && width.is_multiple_of(2) {
        return Ok(width);
    }
    invalid_config(
        format!("{what}, so rotary positions turn {width} of the {d_head} entries of a head"),
        "they turn pairs: an even number of entries, at least 2 and at most all",
    )
}
