//! Opening a model: the built-in one, a folder as Hugging Face lays it out, a repository of the hub, a GGUF file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::Deserialize;

use super::hub::{self, Hub};
use super::tokenizer::{BpeFiles, Tokenizer};
use super::{Build, Model, gguf, known};
use crate::error::{Error, ErrorKind, Result, nearest};
use crate::memory;
use crate::network;
use crate::network::config::parse;
use crate::network::pickle;
use crate::network::weights::{CONFIG, Weights, map};

/// The name of the model that is part of this crate.
pub(crate) const BUILT_IN: &str = "built-in";

/// The files that may hold a model's weights, or say which files do, in the order in which they are taken.
pub(super) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

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

/// What a tokenizer consists of.
enum TokenizerFiles {
    Json(PathBuf),
    Bpe(BpeFiles),
    None,
}

/// Where the files of a model come from.
enum Source {
    Folder(PathBuf),
    Hub(Box<Hub>),
}

impl Source {
    fn cached(&self, file: &str) -> Option<PathBuf> {
        match self {
            Source::Folder(folder) => Some(folder.join(file)).filter(|path| path.exists()),
            Source::Hub(hub) => hub.cached(file),
        }
    }

    /// The first of several files that there is; what need not be fetched goes before.
    fn first(&mut self, files: &[&'static str]) -> Result<Option<(&'static str, PathBuf)>> {
        if let Some(found) = files.iter().find_map(|&file| Some((file, self.cached(file)?))) {
            return Ok(Some(found));
        }
        if let Source::Hub(hub) = self {
            for &file in files {
                if let Some(path) = hub.find(file)? {
                    return Ok(Some((file, path)));
                }
            }
        }
        Ok(None)
    }

    /// The path of a file that must be there; in a folder, reading it says whether it is.
    fn require(&mut self, file: &str) -> Result<PathBuf> {
        match self {
            Source::Folder(folder) => Ok(folder.join(file)),
            Source::Hub(hub) => hub.require(file),
        }
    }
}

pub(super) fn open(name: &str, device: &Device) -> Result<Model> {
    if name == BUILT_IN {
        return built_in(device);
    }
    let path = Path::new(name);
    if path.is_dir() {
        let short = path.file_name().map_or_else(|| name.into(), |last| last.to_string_lossy().into_owned());
        return from_files(&short, name, Source::Folder(path.into()), device);
    }
    if path.exists() {
        return one_file(path, device);
    }
    let (repo, revision) = match name.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision)),
        None => (name, None),
    };
    if let Some(repos) = known::repositories(repo) {
        return from_files(name, repos[0], Source::Hub(Box::new(Hub::new(repos, revision)?)), device);
    }
    if hub::is_repo(repo) && repo.contains('/') && !is_file_name(repo) {
        return from_files(name, repo, Source::Hub(Box::new(Hub::new(&[repo], revision)?)), device);
    }
    let help = match nearest(repo, known::names()) {
        Some(guess) if !is_file_name(repo) => format!("did you mean `{guess}`?"),
        _ => "give \"built-in\", a name that `known_models()` or `headlight models` lists, `owner/name` of the Hugging Face hub, the path of a \
              folder with config.json and model.safetensors, or that of a GGUF file"
            .into(),
    };
    Err(Error::new(ErrorKind::File, format!("there is no model, folder or file `{name}`")).help(help))
}

fn is_file_name(name: &str) -> bool {
    [".gguf", ".safetensors", ".bin", ".json"].iter().any(|end| name.to_ascii_lowercase().ends_with(end))
}

fn one_file(path: &Path, device: &Device) -> Result<Model> {
    let name = path.display().to_string();
    let mut begin = [0; 4];
    let begins = path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok();
    let is_gguf = begins && &begin == b"GGUF" || name.to_ascii_lowercase().ends_with(".gguf");
    if !is_gguf {
        return Err(Error::new(ErrorKind::File, format!("`{name}` is not a folder and not a GGUF file"))
            .help("a model is opened by its folder, which holds config.json and the weights, or by its GGUF file"));
    }
    let found = gguf::read(path, device)?;
    let short = path.file_stem().map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned());
    let said = format!("what {name} says");
    let tokenizer = found.tokenizer;
    assemble(&short, &said, &found.config, &found.weights, |_| {
        tokenizer.map_or_else(|| Ok(Tokenizer::none()), |tokenizer| tokenizer.read())
    })
}

/// A model by its files; `origin` is what errors call them.
fn from_files(name: &str, origin: &str, mut source: Source, device: &Device) -> Result<Model> {
    let config = source.require("config.json")?;
    let text = read_text(&config, "a model folder holds config.json and model.safetensors")?;
    let weights = weights(origin, &mut source, device)?;
    // What the tokenizer consists of is there before the weights are loaded.
    let tokenizer = match source.first(&["tokenizer.json", "vocab.json"])? {
        Some(("vocab.json", vocab)) => match source.first(&["merges.txt"])? {
            Some((_, merges)) => {
                let config = source.first(&["tokenizer_config.json"])?.map(|(_, config)| config);
                TokenizerFiles::Bpe(BpeFiles { vocab, merges, config })
            }
            None => TokenizerFiles::None,
        },
        Some((_, json)) => TokenizerFiles::Json(json),
        None => TokenizerFiles::None,
    };
    let model = assemble(name, &config.display().to_string(), &text, &weights, |family| match &tokenizer {
        TokenizerFiles::Bpe(files) => Tokenizer::from_bpe_files(files, family),
        TokenizerFiles::Json(json) => {
            let help = "it must be a tokenizer.json as Hugging Face's tokenizers library writes it";
            Tokenizer::from_bytes(&json.display().to_string(), read_text(json, help)?.as_bytes())
        }
        TokenizerFiles::None => Ok(Tokenizer::none()),
    });
    weights.let_go();
    model
}

fn built_in(device: &Device) -> Result<Model> {
    let weights = include_bytes!("../../assets/built-in/model.safetensors");
    let config = include_str!("../../assets/built-in/config.json");
    let tokenizer = include_bytes!("../../assets/built-in/tokenizer.json");
    let weights = Weights::from_static("the built-in model", weights, device)?;
    assemble(BUILT_IN, "the built-in config.json", config, &weights, |_| {
        Tokenizer::from_bytes("the built-in tokenizer.json", tokenizer)
    })
}

fn assemble(
    name: &str,
    config_path: &str,
    config: &str,
    weights: &Weights,
    tokenizer: impl FnOnce(&str) -> Result<Tokenizer> + Send,
) -> Result<Model> {
    let header: Header = parse(config_path, config)?;
    let Some(architecture) = architecture(&header) else {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{config_path} has neither model_type nor architectures"),
        )
        .help("say what it is, as \"model_type\": \"gpt2\""));
    };
    memory::check(weights.device(), weights.bytes(), || {
        (
            name,
            "weights are 4 bytes a number here, however they are stored: close what else is running, let go of other models, or open a smaller one",
        )
    })?;
    memory::keep_between_runs();
    let (architecture, path, text) = (architecture.to_string(), config_path.to_string(), config.to_string());
    let family = architecture.clone();
    let build = Build::new(move |weights| network::load(&architecture, &path, &text, weights));
    // Reading a tokenizer takes one thread about as long as reading the weights takes the others.
    let (network, tokenizer) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| tokenizer(&family));
        (build.network(weights), tokenizer.join())
    });
    let network = network?;
    let tokenizer = tokenizer.map_err(|_| {
        Error::new(ErrorKind::Tokenizer, format!("the tokenizer of {name} could not be read"))
            .help("its file may be damaged: take the one that came with the weights")
    })??;
    let d_vocab = network.dims().d_vocab;
    tokenizer.check_fits(d_vocab)?;
    let bos = header.bos_token_id.or_else(|| tokenizer.end_of_text());
    let eos = match &header.eos_token_id {
        Some(OneOrMany::One(id)) => vec![*id],
        Some(OneOrMany::Many(ids)) => ids.clone(),
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

/// The weights of one file, or of the shards that an index names.
fn weights(origin: &str, source: &mut Source, device: &Device) -> Result<Weights> {
    let (first, path) = match source.first(&WEIGHTS)? {
        Some(found) => found,
        None => (WEIGHTS[0], source.require(WEIGHTS[0])?),
    };
    let files = match first.ends_with(".index.json") {
        true => {
            let shards = shards(&path)?;
            shards.iter().map(|shard| source.require(shard)).collect::<Result<Vec<PathBuf>>>()?
        }
        false => vec![path],
    };
    if first.starts_with("model.safetensors") {
        return Weights::from_files(origin, &files, device);
    }
    let mut all = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let map = map(&file, "a model folder holds its weights, or the shards that its index names")?;
        let places = pickle::places(&name, &map)?;
        all.push((name, map, places));
    }
    Ok(Weights::from_places(origin, CONFIG, all, device))
}

fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let path = index.display().to_string();
    let index: Index = parse(&path, &read_text(index, "it names the shard of each weight")?)?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    let is_beside = |shard: &String| Path::new(shard).file_name() == Some(shard.as_ref());
    match shards.iter().find(|shard| !is_beside(shard)) {
        Some(outside) => Err(Error::new(
            ErrorKind::File,
            format!("{path} names the shard `{outside}`, which is not in its folder"),
        )
        .help("an index names plain files beside it")),
        None => Ok(shards),
    }
}

/// A text file of a sane size.
pub(super) fn read_text(path: &Path, help: &str) -> Result<String> {
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
