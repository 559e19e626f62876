//! A model's tokenizer, and what is done without one.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::error::{Error, ErrorKind, Result};

/// Text to ids and back; ids alone where a model came without a tokenizer.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    inner: Option<tokenizers::Tokenizer>,
    alphabet: Alphabet,
    /// The largest id of any token.
    largest: usize,
}

/// What the characters of tokens stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    /// Themselves.
    Text,
    /// Bytes, each.
    Bytes,
    /// Themselves, with `▁` for a space and `<0xE2>` for a byte: SentencePiece's.
    Pieces,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Tokenizer {
    /// For a model without a tokenizer.
    pub(crate) fn none() -> Self {
        Tokenizer { inner: None, alphabet: Alphabet::Text, largest: 0 }
    }

    /// Reads a `tokenizer.json`.
    pub(crate) fn from_bytes(origin: &str, bytes: &[u8]) -> Result<Self> {
        let broken = |cause: Cause| {
            Error::new(ErrorKind::Tokenizer, format!("{origin} is not a tokenizer"))
                .caused_by(cause)
                .help("it must be a tokenizer.json as Hugging Face's tokenizers library writes it")
        };
        let inner = guarded(|| read(bytes)).map_err(broken)?;
        Self::checked(origin, inner)
    }

    /// Reads GPT-2's own two files.
    pub(crate) fn from_vocab_and_merges(vocab: &Path, merges: &Path) -> Result<Self> {
        let origin = vocab.display().to_string();
        let broken = |cause: Cause| {
            Error::new(
                ErrorKind::Tokenizer,
                format!("{origin} and {} are not a byte-level BPE", merges.display()),
            )
            .caused_by(cause)
            .help("vocab.json maps tokens to ids, merges.txt lists pairs of them, one a line")
        };
        let (vocab, merges) = (vocab.to_string_lossy(), merges.to_string_lossy());
        let inner = guarded(|| {
            let bpe = BPE::from_file(&vocab, &merges).build()?;
            let mut inner = tokenizers::Tokenizer::new(bpe);
            inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
            inner.with_decoder(Some(ByteLevel::default()));
            if inner.token_to_id(END_OF_TEXT).is_some() {
                inner.add_special_tokens([AddedToken::from(END_OF_TEXT, true)])?;
            }
            Ok(inner)
        });
        Self::checked(&origin, inner.map_err(broken)?)
    }

    /// The largest id of any token, where a vocabulary of this size has not got it.
    pub(crate) fn beyond(&self, d_vocab: usize) -> Option<usize> {
        Some(self.largest).filter(|&largest| self.inner.is_some() && largest >= d_vocab)
    }

    fn checked(origin: &str, mut inner: tokenizers::Tokenizer) -> Result<Self> {
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        // Both would change what the user wrote without a word.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|cause| {
            Error::new(ErrorKind::Tokenizer, format!("{origin} cannot be used"))
                .caused_by(cause)
                .help("take the tokenizer that came with the weights")
        })?;
        let alphabet = inner.get_decoder().map_or(Alphabet::Text, alphabet);
        Ok(Tokenizer { inner: Some(inner), alphabet, largest })
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let inner = self.inner.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Tokenizer, "this model came without a tokenizer: it cannot read text").help(
                "give token ids instead, as vec![1, 2, 3], or put tokenizer.json into the model's folder",
            )
        })?;
        let encoding = guarded(|| inner.encode(text, false)).map_err(|cause| {
            Error::new(ErrorKind::Tokenizer, format!("the tokenizer failed on {:?}", excerpt(text)))
                .caused_by(cause)
                .help("its file may be damaged: take the one that came with the weights, or give token ids")
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids; without a tokenizer, the ids with spaces between.
    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        match &self.inner {
            Some(inner) => guarded(|| inner.decode(ids, false)).unwrap_or_else(|_| self.labels(ids).concat()),
            None => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        }
    }

    pub(crate) fn labels(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|&id| self.label(id)).collect()
    }

    /// What one token says. Bytes that are no character by themselves are written `\xE2`.
    fn label(&self, id: u32) -> String {
        let Some(inner) = &self.inner else { return id.to_string() };
        let Some(token) = inner.id_to_token(id) else { return format!("[{id}]") };
        if inner.get_added_tokens_decoder().contains_key(&id) {
            return token;
        }
        let bytes = match self.alphabet {
            Alphabet::Text => None,
            Alphabet::Bytes => token.chars().map(byte_of).collect::<Option<Vec<u8>>>(),
            Alphabet::Pieces => match piece_of_a_byte(&token) {
                Some(byte) => Some(vec![byte]),
                None => return token.replace('▁', " "),
            },
        };
        let Some(bytes) = bytes else { return token };
        let chunks = bytes.utf8_chunks();
        chunks.fold(String::new(), |text, chunk| {
            let strange = chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}"));
            text + chunk.valid() + &strange.collect::<String>()
        })
    }

    /// The id of a token as its file writes it.
    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.as_ref().and_then(|inner| inner.token_to_id(token))
    }

    /// A token as its file writes it.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.inner.as_ref().and_then(|inner| inner.id_to_token(id))
    }

    pub(crate) fn end_of_text(&self) -> Option<u32> {
        self.id_of(END_OF_TEXT)
    }

    /// Ids that stand for no text, such as the end of a text.
    pub(crate) fn special_ids(&self) -> Vec<u32> {
        let Some(inner) = &self.inner else { return Vec::new() };
        let added = inner.get_added_tokens_decoder();
        let mut ids: Vec<u32> =
            added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }
}

/// Nearly all tokenizers are BPEs. Of a model that may be of any kind the library first makes a tree, and then another, which
/// takes several times as long as reading a BPE.
fn read(bytes: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    type OfBpe =
        TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    match serde_json::from_slice::<OfBpe>(bytes) {
        Ok(tokenizer) => Ok(tokenizer.into()),
        Err(_) => tokenizers::Tokenizer::from_bytes(bytes),
    }
}

fn alphabet(decoder: &DecoderWrapper) -> Alphabet {
    match decoder {
        DecoderWrapper::ByteLevel(_) => Alphabet::Bytes,
        DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_) => Alphabet::Pieces,
        DecoderWrapper::Sequence(all) => {
            let each = all.get_decoders().iter().map(alphabet);
            each.reduce(|first, then| if first == Alphabet::Text { then } else { first })
                .unwrap_or(Alphabet::Text)
        }
        _ => Alphabet::Text,
    }
}

/// The byte that a piece such as `<0xE2>` stands for.
fn piece_of_a_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)
}

/// As much of a text as an error shows.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 40;
    text.chars().take(LONGEST).collect()
}

const END_OF_TEXT: &str = "<|endoftext|>";

/// The byte that a character of the byte-level alphabet stands for: printable Latin-1 stands for itself, the
/// other bytes are counted up from U+0100.
fn byte_of(c: char) -> Option<u8> {
    let stands_for_itself = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|&b| stands_for_itself(b)),
        code => (0..=255u8).filter(|&b| !stands_for_itself(b)).nth(code as usize - 0x100),
    }
}

/// Runs a call into the tokenizers library, which panics on some damaged files.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("the tokenizers library panicked".into()))
}
