//! A model's tokenizer, and what is done without one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use tokenizers::models::bpe::BPE;
use tokenizers::{
    Decoder, DecoderWrapper, Model as _, NormalizedString, NormalizerWrapper, OffsetReferential, OffsetType,
    PostProcessorWrapper, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper, Token, TokenizerImpl,
};

use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::pieces::Pieces;
use crate::tokenizer::unigrams::Unigrams;

/// Text to ids and back; ids alone where a model came without a tokenizer, or with one that cannot be read. It is read when it is first
/// asked for something.
///
/// Some tokenizers mark the beginning of a text with a space of their own, which text does not have. A piece of text that
/// continues another has no such mark: it is read and written by the functions that say so.
pub(crate) struct Tokenizer(LazyLock<Result<Option<Pipeline>>, Reader>);

type Reader = Box<dyn FnOnce() -> Result<Option<Pipeline>> + Send>;

/// What a tokenizer's files say.
#[derive(Debug)]
pub(crate) struct Pipeline {
    inner: tokenizers::Tokenizer,
    /// What joins pieces, where `inner` cannot.
    pieces: Option<Pieces>,
    alphabet: Alphabet,
    /// The largest id of any token.
    largest: usize,
    /// What cuts texts, where that is no part of `inner`.
    unigrams: Option<Unigrams>,
    /// Whether it can cut texts.
    cuts: bool,
}

/// What the characters of tokens stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    /// Themselves.
    Text,
    /// Bytes, each.
    Bytes,
    /// Themselves, with this one for a space, and `<0xE2>` for a byte: SentencePiece's.
    Pieces(char),
}

pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Pipeline {
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

    /// Joins pieces as SentencePiece does, by their scores.
    pub(crate) fn with_pieces(self, pieces: Pieces) -> Self {
        Pipeline { pieces: Some(pieces), ..self }
    }

    /// Cuts texts as SentencePiece's unigrams do.
    pub(super) fn with_unigrams(self, unigrams: Unigrams) -> Self {
        Pipeline { unigrams: Some(unigrams), ..self }
    }

    /// For ids alone.
    pub(super) fn cuts_nothing(self) -> Self {
        Pipeline { cuts: false, ..self }
    }

    /// The ids that unigrams cut a text into, where they do: of each stretch between tokens that stand for no text.
    fn cut_by_unigrams(&self, unigrams: &Unigrams, text: &str, begins: bool) -> tokenizers::Result<Vec<u32>> {
        let (language, rest) = unigrams.language(text);
        let mut ids: Vec<u32> = language.into_iter().collect();
        let cut = self.inner.get_added_vocabulary().extract_and_normalize(None::<&NormalizerWrapper>, rest);
        for (index, (stretch, _, tokens)) in
            cut.get_splits(OffsetReferential::Original, OffsetType::None).into_iter().enumerate()
        {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => ids.extend(unigrams.cut(stretch, begins || index > 0)),
            }
        }
        Ok(ids)
    }

    pub(super) fn checked(origin: &str, mut inner: tokenizers::Tokenizer) -> Result<Self> {
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        // Both would change what the user wrote without a word.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|cause| {
            Error::new(ErrorKind::Tokenizer, format!("{origin} cannot be used"))
                .caused_by(cause)
                .help("take the tokenizer that came with the weights")
        })?;
        let alphabet = inner.get_decoder().map_or(Alphabet::Text, alphabet);
        Ok(Pipeline { inner, pieces: None, alphabet, largest, unigrams: None, cuts: true })
    }
}

impl Tokenizer {
    /// One that is read when it is first asked for something.
    pub(crate) fn unread(read: impl FnOnce() -> Result<Option<Pipeline>> + Send + 'static) -> Self {
        // A poisoned lock would panic ever after.
        let guarded = || {
            catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Tokenizer, "the tokenizer could not be read")
                    .help("its file may be damaged: take the one that came with the weights"))
            })
        };
        Tokenizer(LazyLock::new(Box::new(guarded)))
    }

    /// For a model without a tokenizer.
    pub(crate) fn none() -> Self {
        Tokenizer::unread(|| Ok(None))
    }

    /// Reads it, if there is one. Fails if it is damaged.
    pub(crate) fn check(&self) -> Result<()> {
        self.0.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// What is known of it: nothing where it cannot be read, which whoever asks for a text's ids is told.
    fn known(&self) -> Option<&Pipeline> {
        self.0.as_ref().ok()?.as_ref()
    }

    /// The largest id of any token, where a vocabulary of this size has not got it.
    pub(crate) fn beyond(&self, d_vocab: usize) -> Option<usize> {
        self.known().map(|known| known.largest).filter(|&largest| largest >= d_vocab)
    }

    /// The ids of a text.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_at(text, true)
    }

    /// The ids of a text, or of two in one sequence, with what the tokenizer's own template puts before, between and behind them where
    /// that is asked for; and of which of the two each is.
    pub(crate) fn encode_framed(
        &self,
        text: &str,
        second: Option<&str>,
        framed: bool,
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        let known = self.readable()?;
        let inner = &known.inner;
        if let Some(unigrams) = &known.unigrams {
            let of = |text: &str| guarded(|| known.cut_by_unigrams(unigrams, text, true));
            let mut ids = of(text).map_err(|cause| failed_on(text, cause))?;
            if let Some(second) = second {
                ids.extend(of(second).map_err(|cause| failed_on(second, cause))?);
            }
            ids.extend(unigrams.end.filter(|_| framed));
            let types = vec![0; ids.len()];
            return Ok((ids, types));
        }
        let encoded = guarded(|| match second {
            Some(second) => inner.encode((text, second), framed),
            None => inner.encode(text, framed),
        });
        let encoded = encoded.map_err(|cause| failed_on(text, cause))?;
        Ok((encoded.get_ids().to_vec(), encoded.get_type_ids().to_vec()))
    }

    /// The token that stands for what is to be told.
    pub(crate) fn mask(&self) -> Option<u32> {
        ["[MASK]", "<mask>"].into_iter().find_map(|token| self.id_of(token))
    }

    /// The token that fills.
    pub(crate) fn filling(&self) -> Option<u32> {
        ["[PAD]", "<pad>"].into_iter().find_map(|token| self.id_of(token))
    }

    fn readable(&self) -> Result<&Pipeline> {
        let known = self.0.as_ref().map_err(Clone::clone)?.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Tokenizer, "this model came without a tokenizer: it cannot read text").help(
                "give token ids instead, as vec![1, 2, 3], or put tokenizer.json into the model's folder",
            )
        })?;
        if known.cuts {
            return Ok(known);
        }
        Err(Error::new(ErrorKind::Tokenizer, "this model came without what cuts a target's text into pieces").help(
            "give the target as token ids (--target-tokens), or leave it out, and what the model writes is taken; or put target.spm into \
             the model's folder",
        ))
    }

    /// The ids of a text that continues another.
    pub(crate) fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_at(text, false)
    }

    fn encode_at(&self, text: &str, begins: bool) -> Result<Vec<u32>> {
        let known = self.readable()?;
        let inner = &known.inner;
        if let Some(unigrams) = &known.unigrams {
            return guarded(|| known.cut_by_unigrams(unigrams, text, begins))
                .map_err(|cause| failed_on(text, cause));
        }
        let ids = guarded(|| {
            let mut cut = inner.get_added_vocabulary().extract_and_normalize(inner.get_normalizer(), text);
            if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut cut)?;
            }
            if !begins {
                unmark(known.alphabet, text, &mut cut)?;
            }
            cut.tokenize(|stretch| match &known.pieces {
                Some(pieces) => {
                    let ids = pieces.encode(stretch.get()).into_iter();
                    Ok(ids.map(|id| Token::new(id, String::new(), (0, 0))).collect())
                }
                None => inner.get_model().tokenize(stretch.get()),
            })?;
            let splits = cut.get_splits(OffsetReferential::Normalized, OffsetType::None);
            Ok(splits
                .iter()
                .filter_map(|(.., tokens)| tokens.as_ref())
                .flatten()
                .map(|token| token.id)
                .collect())
        });
        ids.map_err(|cause| failed_on(text, cause))
    }

    /// The text of ids, from its beginning; without a tokenizer, the ids with spaces between.
    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        let Some(Pipeline { inner, .. }) = self.known() else { return numbers(ids) };
        // Tokens that stand for no text, such as a BOS, come before a beginning.
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let (before, text) = ids.split_at(ids.iter().take_while(|id| added.contains_key(id)).count());
        let text = guarded(|| inner.decode(text, false)).unwrap_or_else(|_| self.labels(text).concat());
        self.labels(before).concat() + &text
    }

    /// The text of ids that continue another text.
    pub(crate) fn decode_continuation(&self, ids: &[u32]) -> String {
        // Decoders look at what is first: this is, and is taken away again.
        const BEFORE: &str = "a";
        let Some(Pipeline { inner, .. }) = self.known() else { return numbers(ids) };
        let tokens = ids.iter().filter_map(|&id| inner.id_to_token(id));
        let tokens: Vec<String> = [BEFORE.to_string()].into_iter().chain(tokens).collect();
        let text = guarded(|| match inner.get_decoder() {
            Some(decoder) => decoder.decode(tokens),
            None => Ok(tokens.join(" ")),
        });
        let text = text.ok().and_then(|text| Some(text.strip_prefix(BEFORE)?.to_string()));
        text.unwrap_or_else(|| self.labels(ids).concat())
    }

    /// The id of a piece of text that is one token, where it is. A piece is as it stands in mid-text, or as its label has it.
    pub(crate) fn single(&self, text: &str) -> Result<std::result::Result<u32, Vec<u32>>> {
        let ids = self.encode_continuation(text)?;
        let labelled = self.id_of(text);
        Ok(match (ids.as_slice(), labelled) {
            ([id], _) => Ok(*id),
            (_, Some(id)) if self.label(id) == text => Ok(id),
            _ => Err(ids),
        })
    }

    pub(crate) fn labels(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|&id| self.label(id)).collect()
    }

    /// What one token says. Bytes that are no character by themselves are written `\xE2`.
    fn label(&self, id: u32) -> String {
        let Some(Pipeline { inner, alphabet, .. }) = self.known() else { return id.to_string() };
        let Some(token) = inner.id_to_token(id) else { return format!("[{id}]") };
        if inner.get_added_tokens_decoder().contains_key(&id) {
            return token;
        }
        let bytes = match *alphabet {
            Alphabet::Text => None,
            Alphabet::Bytes => token.chars().map(byte_of).collect::<Option<Vec<u8>>>(),
            Alphabet::Pieces(space) => match piece_of_a_byte(&token) {
                Some(byte) => Some(vec![byte]),
                None => return token.replace(space, " "),
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
        self.known().and_then(|known| known.inner.token_to_id(token))
    }

    /// A token as its file writes it.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.known().and_then(|known| known.inner.id_to_token(id))
    }

    pub(crate) fn end_of_text(&self) -> Option<u32> {
        self.id_of(END_OF_TEXT)
    }

    /// Ids that stand for no text, such as the end of a text.
    pub(crate) fn special_ids(&self) -> Vec<u32> {
        let Some(Pipeline { inner, .. }) = self.known() else { return Vec::new() };
        let added = inner.get_added_tokens_decoder();
        let mut ids: Vec<u32> =
            added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }
}

fn failed_on(text: &str, cause: Cause) -> Error {
    Error::new(ErrorKind::Tokenizer, format!("the tokenizer failed on {:?}", excerpt(text)))
        .caused_by(cause)
        .help("its file may be damaged: take the one that came with the weights, or give token ids")
}

/// Takes away the mark of a beginning: a space more than the text has.
fn unmark(alphabet: Alphabet, text: &str, cut: &mut PreTokenizedString) -> tokenizers::Result<()> {
    let (mark, spaces) = match alphabet {
        Alphabet::Text => return Ok(()),
        Alphabet::Bytes => ('Ġ', text.chars().take_while(|&c| c == ' ').count()),
        Alphabet::Pieces(mark) => (mark, text.chars().take_while(|&c| c == ' ' || c == mark).count()),
    };
    let mut marks = 0;
    for (stretch, _, tokens) in cut.get_splits(OffsetReferential::Normalized, OffsetType::None) {
        let leading = if tokens.is_some() { 0 } else { stretch.chars().take_while(|&c| c == mark).count() };
        marks += leading;
        if leading == 0 || leading < stretch.chars().count() {
            break;
        }
    }
    if marks <= spaces {
        return Ok(());
    }
    cut.split(|index, stretch| {
        let rest = stretch.get().strip_prefix(mark).filter(|_| index == 0).map(NormalizedString::from);
        Ok([rest.unwrap_or(stretch)])
    })
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
    const SPACE: char = '▁';
    match decoder {
        DecoderWrapper::ByteLevel(_) => Alphabet::Bytes,
        DecoderWrapper::Metaspace(metaspace) => Alphabet::Pieces(metaspace.get_replacement()),
        DecoderWrapper::ByteFallback(_) => Alphabet::Pieces(SPACE),
        // What a replacement replaces is private to the library.
        DecoderWrapper::Replace(replace) => match serde_json::to_value(replace) {
            Ok(entry) if entry["pattern"]["String"] == SPACE.to_string() => Alphabet::Pieces(SPACE),
            _ => Alphabet::Text,
        },
        DecoderWrapper::Sequence(all) => {
            let each = all.get_decoders().iter().map(alphabet);
            each.reduce(|first, then| if first == Alphabet::Text { then } else { first })
                .unwrap_or(Alphabet::Text)
        }
        _ => Alphabet::Text,
    }
}

fn numbers(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
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

pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

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
pub(super) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("the tokenizers library panicked".into()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::tokenizer::byte_level::ByteLevel;

    /// A model whose pieces are these words, and all that lies between them and their letters.
    fn bpe(space: char, words: &[&str], byte_fallback: bool) -> Value {
        let (mut vocab, mut merges) = (vec!["<unk>".to_string(), "<s>".to_string()], Vec::new());
        let letters = ('a'..='z').chain(['.', '\'', space, 'Ċ', '\n']);
        vocab.extend(letters.map(String::from));
        vocab.extend((0..if byte_fallback { 256 } else { 0 }).map(|byte| format!("<0x{byte:02X}>")));
        for word in words {
            let word = word.replace(' ', &space.to_string());
            for (at, next) in word.char_indices().skip(1) {
                let pair = (word[..at].to_string(), next.to_string());
                let joined = format!("{}{}", pair.0, pair.1);
                if !vocab.contains(&joined) {
                    vocab.push(joined);
                    merges.push(json!([pair.0, pair.1]));
                }
            }
        }
        let vocab: serde_json::Map<String, Value> =
            (0..).zip(vocab).map(|(id, text)| (text, json!(id))).collect();
        json!({
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": byte_fallback,
            "vocab": vocab, "merges": merges,
        })
    }

    const WORDS: [&str; 8] = [" the", " cat", " sat", " on", " mat", "the", "sat", "  "];

    fn tokenizer(model: Value, normalizer: Value, pre_tokenizer: Value, decoder: Value) -> Tokenizer {
        let added = json!({
            "id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        });
        let json = json!({
            "version": "1.0", "added_tokens": [added], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "decoder": decoder, "model": model,
        });
        let pipeline = Pipeline::from_bytes("test", json.to_string().as_bytes()).expect("a tokenizer");
        Tokenizer::unread(|| Ok(Some(pipeline)))
    }

    /// One of each way to say where a word begins, and whether it writes every text as it read it.
    fn kinds() -> Vec<(&'static str, Tokenizer, bool)> {
        let byte_level = |class: &str, add_prefix_space: bool| {
            let level = ByteLevel::of_class(class).expect("a class");
            let entries = level.entries(add_prefix_space);
            let [normalizer, cut, decoder] =
                ["normalizer", "pre_tokenizer", "decoder"].map(|name| entries[name].clone());
            tokenizer(bpe('Ġ', &WORDS, false), normalizer, cut, decoder)
        };
        let spaced = || json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let unspaced = || json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let stripped = || json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        let sequence = |of: &str, steps: Vec<Value>| json!({"type": "Sequence", of: steps});
        let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
        let unigram = || {
            let pieces = WORDS.map(|word| json!([word.replace(' ', "▁"), -1.0]));
            let letters = ('a'..='z').chain(['▁', '.', '\'']).map(|c| json!([c, -9.0]));
            let pieces: Vec<Value> = [json!(["<unk>", -20.0]), json!(["<s>", 0.0])]
                .into_iter()
                .chain(pieces)
                .chain(letters)
                .collect();
            json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false})
        };
        let pieces = ["[UNK]", "<s>", "the", "cat", "sat", "on", "mat", "##s", "##at", "c", "."];
        let pieces: serde_json::Map<String, Value> =
            (0..).zip(pieces).map(|(id, text)| (text.into(), json!(id))).collect();
        let word_piece = json!({
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": pieces,
        });
        let fallback = json!({"type": "ByteFallback"});
        let fuse = json!({"type": "Fuse"});
        vec![
            ("byte-level", byte_level("GPT2Tokenizer", false), true),
            ("byte-level, Qwen's", byte_level("Qwen2Tokenizer", false), true),
            ("byte-level with a space before", byte_level("GPT2Tokenizer", true), false),
            (
                "Llama's: a space before, bytes for what is in no piece",
                tokenizer(
                    bpe('▁', &WORDS, true),
                    sequence("normalizers", vec![json!({"type": "Prepend", "prepend": "▁"}), spaced()]),
                    Value::Null,
                    sequence("decoders", vec![unspaced(), fallback.clone(), fuse.clone(), stripped()]),
                ),
                true,
            ),
            (
                "the same without bytes",
                tokenizer(
                    bpe('▁', &WORDS, false),
                    sequence("normalizers", vec![json!({"type": "Prepend", "prepend": "▁"}), spaced()]),
                    Value::Null,
                    sequence("decoders", vec![unspaced(), fuse.clone(), stripped()]),
                ),
                true,
            ),
            (
                "Gemma's: no space before",
                tokenizer(
                    bpe('▁', &WORDS, true),
                    spaced(),
                    Value::Null,
                    sequence("decoders", vec![unspaced(), fallback, fuse]),
                ),
                true,
            ),
            (
                "Metaspace before the first",
                tokenizer(
                    bpe('▁', &WORDS, true),
                    Value::Null,
                    metaspace("first", false),
                    metaspace("first", false),
                ),
                false,
            ),
            (
                "Metaspace before each, Unigram",
                tokenizer(unigram(), Value::Null, metaspace("always", true), metaspace("always", true)),
                false,
            ),
            (
                "T5's: cut at spaces before",
                tokenizer(
                    unigram(),
                    Value::Null,
                    sequence(
                        "pretokenizers",
                        vec![json!({"type": "WhitespaceSplit"}), metaspace("always", true)],
                    ),
                    metaspace("always", true),
                ),
                false,
            ),
            (
                "WordPiece",
                tokenizer(
                    word_piece,
                    json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
                    json!({"type": "BertPreTokenizer"}),
                    json!({"type": "WordPiece", "prefix": "##", "cleanup": false}),
                ),
                false,
            ),
        ]
    }

    /// What follows is cut, written and named as it is where it follows: the library's own reading of both in one is the truth.
    #[test]
    fn a_continuation_is_what_it_is_in_the_whole() -> Result<()> {
        let before = ["the", "the cat", "the cat sat on the"];
        let after = [" mat", " the cat", " sat on", "s", ".", " cats", "  mat", " sat on the mat."];
        for (kind, tokenizer, exact) in kinds() {
            for (before, after) in before.iter().flat_map(|before| after.map(|after| (*before, after))) {
                let what = format!("{kind}: {before:?} and {after:?}");
                if kind == "WordPiece" && !after.starts_with(' ') {
                    continue; // It knows no spaces: what is not in mid-word begins one.
                }
                let whole = format!("{before}{after}");
                let ids = tokenizer.encode(before)?;
                let following = tokenizer.encode_continuation(after)?;
                let inner = &tokenizer.known().expect("it has one").inner;
                let truth = inner.encode(whole.as_str(), false).expect("it is text");
                assert_eq!([ids.as_slice(), &following].concat(), truth.get_ids(), "{what}");
                let written = tokenizer.decode(&ids) + &tokenizer.decode_continuation(&following);
                let spaced = tokenizer.decode(truth.get_ids());
                assert_eq!(written, spaced, "{what}");
                if exact {
                    assert_eq!(tokenizer.decode_continuation(&following), after, "{what}");
                    assert_eq!(spaced, whole, "{what}");
                    assert_eq!(tokenizer.labels(&following).concat(), after, "{what}");
                }
            }
            // What a label says is found again.
            for id in tokenizer.encode("the cat sat on the mat")? {
                let label = tokenizer.label(id);
                assert_eq!(tokenizer.single(&label)?, Ok(id), "{kind}: {label:?}");
            }
            assert_eq!(tokenizer.decode(&[1]), "<s>", "{kind}");
            let begun = [&[1], tokenizer.encode("the cat")?.as_slice()].concat();
            assert_eq!(tokenizer.decode(&begun).trim_start_matches("<s>").trim_start(), "the cat", "{kind}");
        }
        Ok(())
    }

    #[test]
    fn a_mid_word_piece_is_another_than_a_word() -> Result<()> {
        let (_, llama, _) = kinds().swap_remove(3);
        let (word, inner) = (llama.single(" the")?, llama.single("the")?);
        assert!(word.is_ok() && inner.is_ok() && word != inner, "{word:?} {inner:?}");
        assert!(llama.single(" the cat")?.is_err());
        assert_eq!(llama.single("<s>")?, Ok(1));
        let [begins, continues] = [llama.encode("the")?, llama.encode_continuation("the")?];
        assert_eq!((begins, continues), (vec![word.unwrap_or(0)], vec![inner.unwrap_or(0)]));
        Ok(())
    }
}
