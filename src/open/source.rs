//! Opening a model: the built-in one, a folder as Hugging Face lays it out, a repository of the hub, a GGUF file.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::files::{TextFile, read_text};
use crate::hub::Hub;
use crate::json::parse;
use crate::model::decoding::Decoding;
use crate::model::model::Model;
use crate::network::arch::{bos_and_eos, start_and_end};
use crate::network::config::ConfigFile;
use crate::network::weights::file::{CONFIG, Weights};
use crate::network::weights::mapping::Mapping;
use crate::network::weights::pickle;
use crate::open::built_in::{BUILT_IN, BuiltIn};
use crate::open::known;
use crate::open::known::WEIGHTS;
use crate::tokenizer::{BpeFiles, Pipeline, SentencePieceFiles, SpecialToken, Tokenizer, WordPieceFiles};
use crate::{gguf, hub, memory};

/// What of `config.json` holds for every architecture.
#[derive(Deserialize)]
struct Header {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    /// Nothing where the file says nothing, which is other than null.
    #[serde(default, deserialize_with = "said")]
    bos_token_id: Option<Option<i64>>,
    #[serde(default, deserialize_with = "said")]
    eos_token_id: Option<Option<OneOrMany>>,
    decoder_start_token_id: Option<i64>,
    pad_token_id: Option<i64>,
}

fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "expected a token id or a list of them")]
enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}

impl OneOrMany {
    fn ids(&self) -> Vec<i64> {
        match self {
            OneOrMany::One(id) => vec![*id],
            OneOrMany::Many(ids) => ids.clone(),
        }
    }
}

/// What of `generation_config.json` ends a text.
#[derive(Default, Deserialize)]
struct Generation {
    bos_token_id: Option<i64>,
    eos_token_id: Option<OneOrMany>,
    decoder_start_token_id: Option<i64>,
}

/// What of `tokenizer_config.json` and `special_tokens_map.json` begins and ends a text.
#[derive(Default, Deserialize)]
struct SpecialTokens {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

/// What files beside `config.json` say of the tokens that begin and end a text.
#[derive(Default)]
struct Beside {
    generation: Generation,
    /// All of `generation_config.json`.
    all: Option<Value>,
    tokens: SpecialTokens,
}

impl Beside {
    fn read(source: &mut Source) -> Result<Beside> {
        let all: Option<Value> = source.beside("generation_config.json")?;
        let generation = match &all {
            Some(all) => Generation::deserialize(all).map_err(|error| {
                Error::new(ErrorKind::Config, "generation_config.json is not what it should be")
                    .caused_by(error)
                    .help("it says which tokens begin and end a text: mend it, or take it away")
            })?,
            None => Generation::default(),
        };
        let first: SpecialTokens = source.beside("tokenizer_config.json")?.unwrap_or_default();
        let then: SpecialTokens = source.beside("special_tokens_map.json")?.unwrap_or_default();
        let tokens = SpecialTokens {
            bos_token: first.bos_token.or(then.bos_token),
            eos_token: first.eos_token.or(then.eos_token),
        };
        Ok(Beside { generation, all, tokens })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// What a tokenizer consists of.
enum TokenizerFiles {
    Json(TextFile),
    Bpe(BpeFiles),
    WordPiece(WordPieceFiles),
    SentencePiece(SentencePieceFiles),
    None,
}

/// How many `<extra_id_0>` a T5's `tokenizer_config.json` says.
#[derive(Default, Deserialize)]
struct ExtraIds {
    extra_ids: Option<usize>,
    /// Whether Marian's two languages have vocabularies of their own.
    separate_vocabs: Option<bool>,
}

impl TokenizerFiles {
    /// They are there when a model is opened, and are read when text is first asked about.
    fn find(source: &mut Source) -> Result<TokenizerFiles> {
        let open = |path: PathBuf| {
            TextFile::open(&path, "it must be what Hugging Face's tokenizers or transformers wrote")
        };
        let config = |source: &mut Source| {
            let found = source.first(&["tokenizer_config.json"])?;
            found.map(|(_, config)| open(config)).transpose()
        };
        Ok(match source.first(&["tokenizer.json", "vocab.json", "vocab.txt", "spiece.model"])? {
            Some(("spiece.model", pieces)) => {
                let said: ExtraIds = source.beside("tokenizer_config.json")?.unwrap_or_default();
                // The most that any has is 100.
                let extra_ids = said.extra_ids.unwrap_or(100).min(10_000);
                TokenizerFiles::SentencePiece(SentencePieceFiles {
                    pieces: Some(open(pieces)?),
                    vocab: None,
                    extra_ids,
                })
            }
            Some(("vocab.txt", vocab)) => {
                TokenizerFiles::WordPiece(WordPieceFiles { vocab: open(vocab)?, config: config(source)? })
            }
            Some(("vocab.json", vocab)) => match source.first(&["merges.txt"])? {
                Some((_, merges)) => {
                    let (vocab, merges) = (open(vocab)?, open(merges)?);
                    TokenizerFiles::Bpe(BpeFiles { vocab, merges, config: config(source)? })
                }
                None => match source.first(&["source.spm"])? {
                    Some((_, pieces)) => {
                        let (pieces, vocab) = (Some(open(pieces)?), Some(open(vocab)?));
                        TokenizerFiles::SentencePiece(SentencePieceFiles { pieces, vocab, extra_ids: 0 })
                    }
                    None => TokenizerFiles::None,
                },
            },
            Some((_, json)) => TokenizerFiles::Json(open(json)?),
            None => TokenizerFiles::None,
        })
    }

    /// What a decoder writes with, where that is another than what its encoder reads with: Marian's `target.spm`, or, without it, the names of
    /// ids alone.
    fn of_target(source: &mut Source) -> Result<Option<TokenizerFiles>> {
        let open =
            |path: PathBuf| TextFile::open(&path, "it must be what SentencePiece or transformers wrote");
        let is_marian = source.first(&["source.spm"])?.is_some();
        let pieces = source.first(&["target.spm"])?;
        if !is_marian && pieces.is_none() {
            return Ok(None);
        }
        let said: ExtraIds = source.beside("tokenizer_config.json")?.unwrap_or_default();
        let vocab = match said.separate_vocabs {
            Some(true) => source.first(&["target_vocab.json"])?,
            _ => source.first(&["vocab.json"])?,
        };
        let Some((_, vocab)) = vocab else { return Ok(Some(TokenizerFiles::None)) };
        let pieces = pieces.map(|(_, path)| open(path)).transpose()?;
        let files = SentencePieceFiles { pieces, vocab: Some(open(vocab)?), extra_ids: 0 };
        Ok(Some(TokenizerFiles::SentencePiece(files)))
    }

    fn unread(self, family: &str) -> Tokenizer {
        let family = family.to_string();
        Tokenizer::unread(move || {
            Ok(match self {
                TokenizerFiles::WordPiece(files) => Some(Pipeline::from_word_piece_files(files)?),
                TokenizerFiles::SentencePiece(files) => Some(Pipeline::from_sentence_piece_files(files)?),
                TokenizerFiles::Bpe(files) => Some(Pipeline::from_bpe_files(files, &family)?),
                TokenizerFiles::Json(json) => {
                    Some(Pipeline::from_bytes(&json.name(), json.read()?.as_bytes())?)
                }
                TokenizerFiles::None => None,
            })
        })
    }
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

    /// What a small file says that a model may lack. The hub is asked for it only while a model is being fetched.
    fn beside<T: DeserializeOwned>(&mut self, file: &str) -> Result<Option<T>> {
        let path = match self {
            Source::Hub(hub) if hub.is_fetching() => hub.find(file)?,
            _ => self.cached(file),
        };
        let Some(path) = path else { return Ok(None) };
        let help = "it says which tokens begin and end a text: mend it, or take it away";
        let text = read_text(&path, help)?;
        parse(&path.display().to_string(), &text).map(Some).map_err(|error| error.help(help))
    }

    /// The path of a file that must be there; in a folder, reading it says whether it is.
    fn require(&mut self, file: &str) -> Result<PathBuf> {
        match self {
            Source::Folder(folder) => Ok(folder.join(file)),
            Source::Hub(hub) => hub.require(file),
        }
    }
}

impl Model {
    /// Opens a model by its name:
    ///
    /// - `"built-in"`, a small GPT-2, `"built-in-sentiment"`, a small BERT that tells whether a review of a film is positive, and
    ///   `"built-in-translator"`, a small Marian from English to French: they need no file and no network
    /// - a folder: `config.json`, `model.safetensors` (or the shards of `model.safetensors.index.json`, or
    ///   `pytorch_model.bin`), and `tokenizer.json` or `vocab.json` with `merges.txt`
    /// - a GGUF file
    /// - a name that [`known_models`](crate::known_models) lists, as `"gpt2"`, or any `owner/name` of the Hugging Face hub, with `@revision`
    ///   after it if one wants. What is not in the cache that Python's libraries share is fetched into it.
    ///
    /// What is a path that exists goes before a name. The hub is asked only for files that the cache does not hold;
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean in Python.
    ///
    /// Matrices of weights stay in their files, in the type that these have, and are read as they are needed: leave a file as it is while a
    /// model of it lives. What is computed is f32.
    ///
    /// A folder without a tokenizer opens too; token ids are then the labels, and text is refused. A tokenizer is read when it is first
    /// used, and if it is damaged, text is refused then, with the reason.
    ///
    /// With the GNU allocator of Linux the process from then on keeps up to an eighth of what memory is free (2 GB at most) of what
    /// it lets go, for runs to come.
    ///
    /// ```
    /// let model = headlight::Model::open("built-in")?;
    /// println!("{model:?}");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn open(name: &str) -> Result<Model> {
        Model::open_on(name, &Device::Cpu)
    }

    /// Opens a model on a device of candle's, such as a GPU (features `cuda` and `metal`).
    pub fn open_on(name: &str, device: &Device) -> Result<Model> {
        open(name, device)
    }
}

/// What tests open by name, beside what everybody does.
#[cfg(test)]
pub(crate) static TOYS: std::sync::OnceLock<OpenByName> = std::sync::OnceLock::new();

#[cfg(test)]
type OpenByName = fn(&str) -> Option<Result<Model>>;

fn open(name: &str, device: &Device) -> Result<Model> {
    if let Some(own) = BUILT_IN.iter().find(|own| own.name == name) {
        return built_in(own, device);
    }
    #[cfg(test)]
    if let Some(toy) = TOYS.get().and_then(|open| open(name)) {
        return toy;
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
    let header = parse(&said, &found.config)?;
    assemble(&short, &said, &found.config, (&header, &Beside::default()), &found.weights, |_| found.tokenizer)
}

/// A model by its files; `origin` is what errors call them.
fn from_files(name: &str, origin: &str, source: Source, device: &Device) -> Result<Model> {
    with_weights(name, source, |source| weights(origin, source, device))
}

/// The model that a folder describes, of weights that it does not hold.
pub(crate) fn untrained(folder: &Path, initial: &Weights) -> Result<Model> {
    with_weights("in training", Source::Folder(folder.into()), |_| Ok(initial))
}

fn with_weights<W: Borrow<Weights>>(
    name: &str,
    mut source: Source,
    weights: impl FnOnce(&mut Source) -> Result<W>,
) -> Result<Model> {
    let config = source.require("config.json")?;
    let text = read_text(&config, "a model folder holds config.json and model.safetensors")?;
    let config = config.display().to_string();
    let header = parse(&config, &text)?;
    let weights = weights(&mut source)?;
    let tokenizer = TokenizerFiles::find(&mut source)?;
    // Two stacks that read two languages may have a tokenizer each.
    let target = TokenizerFiles::of_target(&mut source)?;
    let beside = Beside::read(&mut source)?;
    let header: &Header = &header;
    let mut model = assemble(name, &config, &text, (header, &beside), weights.borrow(), |family| {
        tokenizer.unread(family)
    })?;
    if let Some(target) = target.filter(|_| model.spec().is_encoder_decoder()) {
        let family = architecture(header).unwrap_or_default();
        let reads = std::mem::replace(&mut model.tokenizer, target.unread(family).into());
        model.source_tokenizer = Some(reads);
    }
    Ok(model)
}

fn built_in(own: &'static BuiltIn, device: &Device) -> Result<Model> {
    let BuiltIn { name, weights, config, tokenizer, generation, .. } = own;
    let weights = Weights::from_static(&format!("the model {name}"), weights, device)?;
    let path = format!("the config.json of {name}");
    let header = parse(&path, config)?;
    let all =
        generation.map(|text| parse(&format!("the generation_config.json of {name}"), text)).transpose()?;
    let beside = Beside { all, ..Beside::default() };
    assemble(name, &path, config, (&header, &beside), &weights, |_| {
        Tokenizer::unread(move || {
            Pipeline::from_bytes(&format!("the tokenizer.json of {name}"), tokenizer).map(Some)
        })
    })
}

fn assemble(
    name: &str,
    config_path: &str,
    config: &str,
    (header, beside): (&Header, &Beside),
    weights: &Weights,
    tokenizer: impl FnOnce(&str) -> Tokenizer,
) -> Result<Model> {
    let Some(said) = architecture(header) else {
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
    let config = ConfigFile { architecture: said.into(), path: config_path.into(), text: config.into() };
    let network = Arc::new(config.network(weights)?);
    let tokenizer = tokenizer(said);
    let d_vocab = network.dims().d_vocab;
    if !network.spec().last_stack().sees.is_causal() {
        let bos = Err("its tokenizer frames text by a template of its own".into());
        let (name, config, tokenizer) = (name.into(), config.into(), tokenizer.into());
        return Ok(Model {
            name,
            network,
            config,
            tokenizer,
            source_tokenizer: None,
            bos,
            eos: Vec::new(),
            decoding: None,
            edits: Vec::new(),
        });
    }
    if network.spec().is_encoder_decoder() {
        let (start, end) = start_and_end(said);
        let beside_generation = beside.all.as_ref();
        let entries: Value = parse(config_path, &config.text)?;
        let start = decoder_start(config_path, (header, beside), start, d_vocab);
        let eos = eos((header, beside), &tokenizer, end, d_vocab)?;
        let said = beside.all.as_ref().unwrap_or(&entries);
        let decoding = Decoding::read(said, &eos, d_vocab).map_err(|error| {
            let path = if beside_generation.is_some() { "generation_config.json" } else { config_path };
            Error::new(ErrorKind::Config, format!("{path} says of generation what cannot be read"))
                .caused_by(error)
                .help("mend that entry, or take it out")
        })?;
        let (name, config, tokenizer) = (name.into(), config.into(), tokenizer.into());
        let (decoding, edits) = (Some(decoding.into()), Vec::new());
        let source_tokenizer = None;
        return Ok(Model {
            name,
            network,
            config,
            tokenizer,
            source_tokenizer,
            bos: start,
            eos,
            decoding,
            edits,
        });
    }
    let default = bos_and_eos(said);
    let bos = bos(config_path, (header, beside), &tokenizer, default.map(|(bos, _)| bos), d_vocab)?;
    let eos = eos((header, beside), &tokenizer, default.map(|(_, eos)| eos), d_vocab)?;
    let (name, config, tokenizer, edits) = (name.into(), config.into(), tokenizer.into(), Vec::new());
    let (source_tokenizer, decoding) = (None, None);
    Ok(Model { name, network, config, tokenizer, source_tokenizer, bos, eos, decoding, edits })
}

/// The token that a decoder begins with, by the first file that names one of the vocabulary, or why there is none.
fn decoder_start(
    config_path: &str,
    (header, beside): (&Header, &Beside),
    default: Option<u32>,
    d_vocab: usize,
) -> std::result::Result<u32, Arc<str>> {
    let said = [
        beside.generation.decoder_start_token_id,
        header.decoder_start_token_id,
        default.map(i64::from),
        header.pad_token_id,
    ];
    let found = said.into_iter().flatten().find_map(|id| in_vocabulary(id, d_vocab));
    found.ok_or_else(|| format!("{config_path} names none of the {d_vocab} that there are").into())
}

/// A token id that a file names, if the vocabulary has it.
fn in_vocabulary(id: i64, d_vocab: usize) -> Option<u32> {
    u32::try_from(id).ok().filter(|&id| (id as usize) < d_vocab)
}

/// The token that begins a text, by the first file that names one of the vocabulary, or why there is none. The tokenizer is read if no
/// other does. Fails if it is damaged.
fn bos(
    config_path: &str,
    (header, beside): (&Header, &Beside),
    tokenizer: &Tokenizer,
    default: Option<u32>,
    d_vocab: usize,
) -> Result<std::result::Result<u32, Arc<str>>> {
    let known = |id| in_vocabulary(id, d_vocab);
    let said = [header.bos_token_id.flatten(), beside.generation.bos_token_id];
    if let Some(id) = said.into_iter().flatten().find_map(known) {
        return Ok(Ok(id));
    }
    tokenizer.check()?;
    let token = beside.tokens.bos_token.as_ref().and_then(|token| tokenizer.id_of(token.text()));
    let default = default.filter(|_| header.bos_token_id.is_none());
    let mut all = [token, tokenizer.end_of_text(), default].into_iter().flatten().map(i64::from);
    Ok(all.find_map(known).ok_or_else(|| match header.bos_token_id.flatten() {
        Some(id) => {
            format!("{config_path} says bos_token_id = {id}, but the vocabulary has {d_vocab} tokens").into()
        }
        None => "none of the model's files names one".into(),
    }))
}

/// The tokens that end a text, by the first file that names any: `generation_config.json` goes before, as when
/// transformers generates, and the tokenizer, which is read if no other does, last. What is beyond the vocabulary ends nothing. Fails if
/// the tokenizer is damaged.
fn eos(
    (header, beside): (&Header, &Beside),
    tokenizer: &Tokenizer,
    default: Option<u32>,
    d_vocab: usize,
) -> Result<Vec<u32>> {
    let said = beside.generation.eos_token_id.clone().or_else(|| header.eos_token_id.clone().flatten());
    let ids = match said {
        Some(said) => said.ids(),
        None => {
            tokenizer.check()?;
            let token = beside.tokens.eos_token.as_ref().and_then(|token| tokenizer.id_of(token.text()));
            let default = default.filter(|_| header.eos_token_id.is_none());
            let id = token.or_else(|| tokenizer.end_of_text()).or(default);
            id.map(i64::from).into_iter().collect()
        }
    };
    let known = |id| in_vocabulary(id, d_vocab);
    Ok(ids.into_iter().filter_map(known).collect())
}

fn architecture(header: &Header) -> Option<&str> {
    let class = header.architectures.as_ref().and_then(|all| all.first());
    header.model_type.as_deref().or(class.map(String::as_str))
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
        let map =
            Mapping::open(&file, "a model folder holds its weights, or the shards that its index names")?;
        let places = pickle::places(&name, map.bytes())?;
        all.push((Arc::new(map.into()), places));
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
