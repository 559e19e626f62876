//! The files of a byte-level BPE before there was a `tokenizer.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::error::{Error, ErrorKind, Result};
use crate::files::TextFile;
use crate::json::parse;
use crate::tokenizer::byte_level::ByteLevel;
use crate::tokenizer::tokenizer::{Cause, END_OF_TEXT, Pipeline, guarded};

/// As they were found.
pub(crate) struct BpeFiles {
    pub(crate) vocab: TextFile,
    pub(crate) merges: TextFile,
    /// `tokenizer_config.json`, where there is one.
    pub(crate) config: Option<TextFile>,
}

/// What `tokenizer_config.json` says of it.
#[derive(Default, Deserialize)]
struct BpeConfig {
    tokenizer_class: Option<String>,
    add_prefix_space: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<u32, AddedToken>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    cls_token: Option<SpecialToken>,
    sep_token: Option<SpecialToken>,
    mask_token: Option<SpecialToken>,
}

/// A token that begins or ends a text, by its text or with all that is to be said of it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a token's text, or an object with its `content`")]
pub(crate) enum SpecialToken {
    Text(String),
    Added {
        content: String,
        /// Whether it takes the space before it along.
        #[serde(default)]
        lstrip: bool,
    },
}

impl SpecialToken {
    /// What a file says of it, or what is usual.
    pub(super) fn text_or(token: &Option<SpecialToken>, usual: &str) -> String {
        token.as_ref().map_or(usual, SpecialToken::text).to_string()
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            SpecialToken::Text(text) | SpecialToken::Added { content: text, .. } => text,
        }
    }
}

impl Pipeline {
    /// Reads `vocab.json` and `merges.txt`, which do not say how text is cut: that is known of a class of transformers, or else
    /// of the family of the model.
    pub(crate) fn from_bpe_files(files: BpeFiles, family: &str) -> Result<Self> {
        let (vocab, merges) = (files.vocab.name(), files.merges.name());
        let config: BpeConfig = match files.config {
            Some(file) => parse(&file.name(), &file.read()?)?,
            None => BpeConfig::default(),
        };
        // Classes that stand for any tokenizer say nothing.
        let class = config.tokenizer_class.as_deref();
        let class = class.filter(|class| !["PreTrainedTokenizerFast", "TokenizersBackend"].contains(class));
        let level = match class {
            Some(class) => ByteLevel::of_class(class),
            None => ByteLevel::of_family(family),
        };
        let Some(level) = level else {
            let said = match class {
                Some(class) => format!("tokenizer_config.json says tokenizer_class = {class}"),
                None => format!("there is no tokenizer_class, and the family {family} has none such"),
            };
            return Err(Error::new(
                ErrorKind::Tokenizer,
                format!("{vocab} and {merges} do not say how text is cut: {said}"),
            )
            .help(format!(
                "known of these two files are {}; for others, write a tokenizer.json with transformers: \
                 AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
                ByteLevel::classes().join(", ")
            )));
        };
        let broken = |cause: Cause| {
            Error::new(ErrorKind::Tokenizer, format!("{vocab} and {merges} are not a byte-level BPE"))
                .caused_by(cause)
                .help("vocab.json maps tokens to ids, merges.txt lists pairs of them, one a line")
        };
        let (vocab_text, merges_text) = (files.vocab.read()?, files.merges.read()?);
        let inner = guarded(|| {
            let ids: Value = serde_json::from_str(&vocab_text)?;
            let pairs: Vec<&str> = merges_text.lines().collect();
            let bpe = json!({
                "type": "BPE", "vocab": ids, "merges": pairs, "ignore_merges": level.ignore_merges,
            });
            let mut inner = tokenizers::Tokenizer::new(serde_json::from_str::<BPE>(&bpe.to_string())?);
            let entries = level.entries(config.add_prefix_space.unwrap_or(false));
            inner.with_normalizer(entry::<Option<NormalizerWrapper>>(&entries, "normalizer")?)?;
            inner.with_pre_tokenizer(entry::<Option<PreTokenizerWrapper>>(&entries, "pre_tokenizer")?);
            inner.with_decoder(entry::<Option<DecoderWrapper>>(&entries, "decoder")?);
            Ok(inner)
        });
        let mut inner = inner.map_err(broken)?;
        config.add_tokens(&mut inner)?;
        if level.is_framed {
            config.frame(&mut inner).map_err(broken)?;
        }
        Self::checked(&vocab, inner)
    }
}

impl BpeConfig {
    /// Puts RoBERTa's template around texts, and adds the tokens that it has whether or not a file says so.
    fn frame(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let of = SpecialToken::text_or;
        let [cls, sep] = [of(&self.cls_token, "<s>"), of(&self.sep_token, "</s>")];
        let mask = of(&self.mask_token, "<mask>");
        let template = RobertaProcessing::new(named(inner, &sep)?, named(inner, &cls)?)
            .add_prefix_space(self.add_prefix_space.unwrap_or(false));
        let mut special = special_tokens(inner, &[&cls, &sep, "<unk>", "<pad>"]);
        if inner.token_to_id(&mask).is_some() {
            let lstrip = matches!(&self.mask_token, Some(SpecialToken::Added { lstrip: true, .. }));
            special.push(AddedToken::from(mask, true).lstrip(lstrip));
        }
        guarded(|| inner.add_special_tokens(special))?;
        inner.with_post_processor(Some(template));
        Ok(())
    }

    /// Adds the tokens that it names, each under the id that it says.
    fn add_tokens(&self, inner: &mut tokenizers::Tokenizer) -> Result<()> {
        let failed = |cause: Cause| {
            Error::new(ErrorKind::Tokenizer, "the tokens that tokenizer_config.json adds cannot be added")
                .caused_by(cause)
                .help("take the file that came with vocab.json, or take it away")
        };
        for (&id, token) in &self.added_tokens_decoder {
            guarded(|| inner.add_tokens([token.clone()])).map_err(failed)?;
            let given = inner.token_to_id(&token.content);
            if given != Some(id) {
                return Err(Error::new(
                    ErrorKind::Tokenizer,
                    format!(
                        "tokenizer_config.json says that `{}` is token {id}, but behind vocab.json it is {}",
                        token.content,
                        given.map_or_else(|| "none".into(), |given| given.to_string())
                    ),
                )
                .help("take vocab.json and tokenizer_config.json from the same model"));
            }
        }
        let named = [&self.bos_token, &self.eos_token, &self.unk_token, &self.pad_token];
        let named = named.into_iter().flatten().map(SpecialToken::text);
        // Of GPT-2's and all that followed, whether or not a file says so.
        let end = Some(END_OF_TEXT).filter(|end| inner.token_to_id(end).is_some());
        let special: Vec<AddedToken> = named.chain(end).map(|text| AddedToken::from(text, true)).collect();
        guarded(|| inner.add_special_tokens(special)).map_err(failed)?;
        Ok(())
    }
}

/// A token with its id. Fails if there is none.
pub(super) fn named(inner: &tokenizers::Tokenizer, token: &str) -> tokenizers::Result<(String, u32)> {
    let id = inner.token_to_id(token).ok_or_else(|| Cause::from(format!("there is no {token}")))?;
    Ok((token.to_string(), id))
}

/// Those of some tokens that the vocabulary has, as special ones.
pub(super) fn special_tokens(inner: &tokenizers::Tokenizer, tokens: &[&str]) -> Vec<AddedToken> {
    let there = tokens.iter().filter(|token| inner.token_to_id(token).is_some());
    there.map(|token| AddedToken::from(*token, true)).collect()
}

/// An entry of a `tokenizer.json`.
fn entry<T: DeserializeOwned>(entries: &Value, name: &str) -> serde_json::Result<T> {
    T::deserialize(&entries[name])
}
