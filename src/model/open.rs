//! Opening a model: the built-in one, or a folder as Hugging Face lays it out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::Device;
use serde::Deserialize;

use super::tokenizer::Tokenizer;
use super::{Build, Model};
use crate::error::{Error, ErrorKind, Result, nearest};
use crate::network;
use crate::network::config::parse;
use crate::network::weights::Weights;

/// The name of the model that is part of this crate.
pub(crate) const BUILT_IN: &str = "built-in";

/// What of `config.json` holds for every architecture.
#[derive(Deserialize)]
struct Header {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a token id or a list of them")]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn open(name: &str, device: &Device) -> Result<Model> {
    if name == BUILT_IN {
        return built_in(device);
    }
    let folder = Path::new(name);
    if !folder.is_dir() {
        let (what, help) = if folder.exists() {
            (format!("`{name}` is not a folder"), "a model is opened by its folder, which holds config.json")
        } else if nearest(name, [BUILT_IN]).is_some() {
            (format!("there is no model or folder `{name}`"), "did you mean `built-in`?")
        } else {
            (
                format!("there is no model or folder `{name}`"),
                "give \"built-in\", or the path of a folder with config.json and model.safetensors",
            )
        };
        return Err(Error::new(ErrorKind::File, what).help(help));
    }
    let config = folder.join("config.json");
    let text = read(&config, "a model folder holds config.json and model.safetensors")?;
    let weights = Weights::from_files(folder, weight_files(folder)?, device)?;
    let short = folder.file_name().map_or_else(|| name.into(), |last| last.to_string_lossy().into_owned());
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    assemble(&short, &config.display().to_string(), &text, &weights, |d_vocab| {
        let json = folder.join("tokenizer.json");
        if json.exists() {
            let text =
                read(&json, "it must be a tokenizer.json as Hugging Face's tokenizers library writes it")?;
            Tokenizer::from_bytes(&json.display().to_string(), text.as_bytes(), d_vocab)
        } else if vocab.exists() && merges.exists() {
            Tokenizer::from_vocab_and_merges(&vocab, &merges, d_vocab)
        } else {
            Ok(Tokenizer::none())
        }
    })
}

fn built_in(device: &Device) -> Result<Model> {
    let weights = include_bytes!("../../assets/built-in/model.safetensors");
    let config = include_str!("../../assets/built-in/config.json");
    let tokenizer = include_bytes!("../../assets/built-in/tokenizer.json");
    let weights = Weights::from_static("the built-in model", weights, device)?;
    assemble(BUILT_IN, "the built-in config.json", config, &weights, |d_vocab| {
        Tokenizer::from_bytes("the built-in tokenizer.json", tokenizer, d_vocab)
    })
}

fn assemble(
    name: &str,
    config_path: &str,
    config: &str,
    weights: &Weights,
    tokenizer: impl FnOnce(usize) -> Result<Tokenizer>,
) -> Result<Model> {
    let header: Header = parse(config_path, config)?;
    let Some(architecture) = architecture(&header) else {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{config_path} has neither model_type nor architectures"),
        )
        .help("say what it is, as \"model_type\": \"gpt2\""));
    };
    let (architecture, path, text) = (architecture.to_string(), config_path.to_string(), config.to_string());
    let build = Build::new(move |weights| network::load(&architecture, &path, &text, weights));
    let network = build.network(weights)?;
    let d_vocab = network.dims().d_vocab;
    let tokenizer = tokenizer(d_vocab)?;
    let bos = header.bos_token_id.or_else(|| tokenizer.end_of_text());
    let eos = match header.eos_token_id {
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
        None => tokenizer.end_of_text().into_iter().collect(),
    };
    for (what, id) in
        bos.iter().map(|id| ("bos_token_id", id)).chain(eos.iter().map(|id| ("eos_token_id", id)))
    {
        if *id as usize >= d_vocab {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{config_path} says {what} = {id}, but the vocabulary has {d_vocab} tokens"),
            )
            .help(format!("token ids are 0 to {}", d_vocab - 1)));
        }
    }
    Ok(Model::assembled(name, network, build, tokenizer, bos, eos))
}

fn architecture(header: &Header) -> Option<&str> {
    header.model_type.as_deref().or(header.architectures.first().map(String::as_str))
}

/// One file, or the shards that an index names.
fn weight_files(folder: &Path) -> Result<BTreeSet<String>> {
    const ONE: &str = "model.safetensors";
    let index = folder.join("model.safetensors.index.json");
    if folder.join(ONE).exists() || !index.exists() {
        return Ok(BTreeSet::from([ONE.to_string()]));
    }
    let path = index.display().to_string();
    let index: Index = parse(&path, &read(&index, "it names the shard of each weight")?)?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref())) {
        Some(outside) => Err(Error::new(
            ErrorKind::File,
            format!("{path} names the shard `{outside}`, which is not in its folder"),
        )
        .help("an index names plain files beside it")),
        None => Ok(shards),
    }
}

/// A text file of a sane size.
fn read(path: &Path, help: &str) -> Result<String> {
    const LIMIT: u64 = 256 << 20;
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::File, format!("cannot read {}", path.display())).caused_by(error).help(help)
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    // A pipe would be waited for.
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::File, format!("{} is not a file", path.display())).help(help));
    }
    let len = metadata.len();
    if len > LIMIT {
        return Err(Error::new(ErrorKind::File, format!("{} has {len} bytes", path.display()))
            .help(format!("at most {LIMIT} are read: it cannot be the file of a model")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
