//! The files of SentencePiece's unigrams (Kudo and Richardson 2018): T5's `spiece.model`, and Marian's `source.spm` and `target.spm`, whose
//! pieces have the ids of `vocab.json`.

use std::collections::HashMap;

use prost::Message;
use tokenizers::AddedToken;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use crate::error::{Error, ErrorKind, Result};
use crate::files::TextFile;
use crate::json::parse;
use crate::tokenizer::tokenizer::{Cause, Pipeline, guarded};
use crate::tokenizer::unigrams::{Charsmap, SPACE, Unigram, Unigrams};

const END: &str = "</s>";

/// As they were found.
pub(crate) struct SentencePieceFiles {
    /// The pieces; nothing where texts cannot be cut.
    pub(crate) pieces: Option<TextFile>,
    /// The ids of Marian's pieces, which are elsewhere the pieces' places.
    pub(crate) vocab: Option<TextFile>,
    /// How many `<extra_id_0>` T5 has behind its pieces.
    pub(crate) extra_ids: usize,
}

/// What of SentencePiece's `ModelProto` is needed.
#[derive(Clone, PartialEq, Message)]
struct ModelFile {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceEntry>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerEntry>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceEntry {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerEntry {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerEntry {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Kinds of pieces.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;
/// The kind of models whose pieces each have a likelihood.
const UNIGRAM: i32 = 1;

impl Pipeline {
    /// Reads a SentencePiece's pieces, and the ids that are given to them elsewhere.
    pub(crate) fn from_sentence_piece_files(files: SentencePieceFiles) -> Result<Self> {
        let ids = files.vocab.map(Ids::read).transpose()?;
        let Some(file) = files.pieces else {
            let ids = ids.ok_or_else(|| Error::new(ErrorKind::Tokenizer, "there are no pieces"))?;
            return ids.without_pieces();
        };
        let name = file.name();
        let broken = |why: Cause| {
            Error::new(ErrorKind::Tokenizer, format!("{name} is no file of SentencePiece's unigrams"))
                .caused_by(why)
                .help("it must be what SentencePiece wrote: take the one that came with the weights")
        };
        let bytes = file.read_bytes()?;
        let said = guarded(|| Ok(ModelFile::decode(bytes.as_slice())?)).map_err(broken)?;
        let model = SentencePiece::checked(said).map_err(|why| broken(why.into()))?;
        match ids {
            Some(ids) => model.with_ids(ids).map_err(broken),
            None => model.with_places(files.extra_ids).map_err(broken),
        }
    }
}

/// The ids of Marian's pieces.
struct Ids {
    file: String,
    /// In the order of the ids.
    names: Vec<String>,
}

impl Ids {
    fn read(file: TextFile) -> Result<Ids> {
        let name = file.name();
        let help =
            "vocab.json maps each piece to its id, all from 0 on: take the one that came with the weights";
        let wrong = |what: String| Error::new(ErrorKind::Tokenizer, format!("{name} {what}")).help(help);
        let ids: HashMap<String, u32> = parse(&name, &file.read()?)?;
        let count = ids.len();
        let mut names: Vec<Option<String>> = vec![None; count];
        for (piece, id) in ids {
            match names.get_mut(id as usize) {
                Some(place) if place.is_none() => *place = Some(piece),
                Some(_) => return Err(wrong(format!("gives two pieces the id {id}"))),
                None => return Err(wrong(format!("gives {piece:?} the id {id}, and has {count} pieces"))),
            }
        }
        let names = names.into_iter().flatten().collect::<Vec<_>>();
        for needed in [END, "<unk>"] {
            if !names.iter().any(|name| name == needed) {
                return Err(wrong(format!("has no {needed}")));
            }
        }
        Ok(Ids { file: name, names })
    }

    /// Texts of ids alone: what cuts texts is not there.
    fn without_pieces(self) -> Result<Pipeline> {
        let broken = |cause: Cause| {
            Error::new(ErrorKind::Tokenizer, format!("{} is no vocabulary", self.file)).caused_by(cause)
        };
        let inner =
            guarded(|| named(&self.names, ["<unk>", END, "<pad>"].map(String::from))).map_err(broken)?;
        Ok(Pipeline::checked(&self.file, inner)?.cuts_nothing())
    }
}

/// A tokenizer that knows the names of ids, and those that stand for no text.
fn named(
    names: &[String],
    special: impl IntoIterator<Item = String>,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let ids = names.iter().zip(0..).map(|(name, id)| (name.clone(), id)).collect();
    let mut inner =
        tokenizers::Tokenizer::new(WordLevel::builder().vocab(ids).unk_token("<unk>".into()).build()?);
    inner.with_decoder(Some(Metaspace::new(SPACE, PrependScheme::Always, true)));
    inner.add_special_tokens(special.into_iter().map(|name| AddedToken::from(name, true)))?;
    Ok(inner)
}

/// A file of pieces that can be used.
struct SentencePiece {
    pieces: Vec<PieceOfFile>,
    byte_fallback: bool,
    charsmap: Option<Charsmap>,
    /// Whether a space is put before a text.
    prefixes: bool,
    removes_spaces: bool,
}

struct PieceOfFile {
    text: String,
    score: f32,
    kind: i32,
}

impl SentencePiece {
    fn checked(file: ModelFile) -> std::result::Result<SentencePiece, String> {
        let trainer = file.trainer.unwrap_or_default();
        let normalizer = file.normalizer.unwrap_or_default();
        match trainer.model_type.unwrap_or(UNIGRAM) {
            UNIGRAM => {}
            2 => return Err("its pieces are joined pair by pair (BPE), and only unigrams are read".into()),
            other => return Err(format!("its model type is {other}, and only unigrams are read")),
        }
        if trainer.treat_whitespace_as_suffix == Some(true) {
            return Err("spaces stand behind its words, and only those before them are read".into());
        }
        if normalizer.escape_whitespaces == Some(false) {
            return Err("its spaces stand for themselves, and only those that are written ▁ are read".into());
        }
        if file.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        let mut seen = HashMap::new();
        let (mut pieces, mut unknown) = (Vec::new(), 0);
        for (place, entry) in file.pieces.into_iter().enumerate() {
            let (text, score) = (entry.piece.unwrap_or_default(), entry.score.unwrap_or(0.0));
            let kind = entry.kind.unwrap_or(NORMAL);
            if text.is_empty() || !score.is_finite() {
                return Err(format!("piece {place} is {text:?}, with a score of {score}"));
            }
            if let Some(before) = seen.insert(text.clone(), place) {
                return Err(format!("piece {place} is {text:?}, as piece {before} is"));
            }
            unknown += usize::from(kind == UNKNOWN);
            pieces.push(PieceOfFile { text, score, kind });
        }
        if unknown != 1 {
            return Err(format!("{unknown} of its pieces stand for what is unknown, and one must"));
        }
        let charsmap = normalizer.precompiled_charsmap.filter(|bytes| !bytes.is_empty());
        Ok(SentencePiece {
            pieces,
            byte_fallback: trainer.byte_fallback.unwrap_or(false),
            charsmap: charsmap.map(|bytes| Charsmap::read(&bytes)).transpose()?,
            prefixes: normalizer.add_dummy_prefix.unwrap_or(true),
            removes_spaces: normalizer.remove_extra_whitespaces.unwrap_or(true),
        })
    }

    /// What cuts texts into pieces of these ids; what has none is `unknown`.
    fn unigrams(
        self,
        id_of: impl Fn(usize, &str) -> Option<u32>,
        unknown: u32,
        end: Option<u32>,
    ) -> Unigrams {
        let bytes = |byte: u8| {
            let name = format!("<0x{byte:02X}>");
            let place = self.pieces.iter().position(|piece| piece.kind == BYTE && piece.text == name)?;
            id_of(place, &name)
        };
        let bytes = self.byte_fallback.then(|| (0..=255).map(bytes).collect::<Option<Vec<u32>>>()).flatten();
        let cut =
            self.pieces.iter().enumerate().filter(|(_, piece)| matches!(piece.kind, NORMAL | USER_DEFINED));
        let pieces = cut.map(|(place, piece)| {
            let id = id_of(place, &piece.text).unwrap_or(unknown);
            (piece.text.clone(), Unigram { id, score: piece.score, is_given: piece.kind == USER_DEFINED })
        });
        let mut unigrams = Unigrams::new(pieces, unknown);
        unigrams.bytes = bytes;
        unigrams.end = end;
        unigrams.charsmap = self.charsmap;
        unigrams.prefixes = self.prefixes;
        unigrams.removes_spaces = self.removes_spaces;
        unigrams
    }

    /// T5's: the end behind a text, and `<extra_id_0>` with the last id.
    fn with_places(self, extra_ids: usize) -> std::result::Result<Pipeline, Cause> {
        let names: Vec<String> = self.pieces.iter().map(|piece| piece.text.clone()).collect();
        let controls = self.pieces.iter().filter(|piece| matches!(piece.kind, UNKNOWN | CONTROL));
        let special: Vec<String> = controls.map(|piece| piece.text.clone()).collect();
        let special = special.into_iter().chain((0..extra_ids).rev().map(|id| format!("<extra_id_{id}>")));
        let place =
            |of: &dyn Fn(&PieceOfFile) -> bool| self.pieces.iter().position(of).map(|place| place as u32);
        let (end, unknown) = (place(&|piece| piece.text == END), place(&|piece| piece.kind == UNKNOWN));
        let inner = guarded(|| named(&names, special))?;
        let unigrams = self.unigrams(|place, _| Some(place as u32), unknown.unwrap_or(0), end);
        Ok(Pipeline::checked("the file of pieces", inner)?.with_unigrams(unigrams))
    }

    /// Marian's: ids of another file, in which pieces may be lacking, and others be there.
    fn with_ids(self, ids: Ids) -> std::result::Result<Pipeline, Cause> {
        let by_name: HashMap<String, u32> = ids.names.iter().cloned().zip(0..).collect();
        let id_of = |name: &str| by_name.get(name).copied();
        let (end, unknown) = (id_of(END), id_of("<unk>").unwrap_or(0));
        let inner = guarded(|| named(&ids.names, ["<unk>", END, "<pad>"].map(String::from)))?;
        let mut unigrams = self.unigrams(|_, piece| id_of(piece), unknown, end);
        unigrams.names = Some(by_name);
        Ok(Pipeline::checked(&ids.file, inner)?.with_unigrams(unigrams))
    }
}
