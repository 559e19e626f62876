//! The files of a WordPiece before there was a `tokenizer.json`: BERT's `vocab.txt`.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, decoders};

use crate::error::{Error, ErrorKind, Result};
use crate::files::TextFile;
use crate::json::parse;
use crate::tokenizer::bpe_files::{SpecialToken, named, special_tokens};
use crate::tokenizer::tokenizer::{Cause, Pipeline, guarded};

/// As they were found.
pub(crate) struct WordPieceFiles {
    pub(crate) vocab: TextFile,
    /// `tokenizer_config.json`, where there is one.
    pub(crate) config: Option<TextFile>,
}

/// What `tokenizer_config.json` says of it; what it does not is as transformers' `BertTokenizer` has it.
#[derive(Deserialize)]
#[serde(default)]
struct WordPieceConfig {
    do_lower_case: bool,
    /// Nothing: where text is made lower case.
    strip_accents: Option<bool>,
    tokenize_chinese_chars: bool,
    added_tokens_decoder: BTreeMap<u32, AddedToken>,
    unk_token: Option<SpecialToken>,
    sep_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    cls_token: Option<SpecialToken>,
    mask_token: Option<SpecialToken>,
}

impl Default for WordPieceConfig {
    fn default() -> WordPieceConfig {
        WordPieceConfig {
            do_lower_case: true,
            strip_accents: None,
            tokenize_chinese_chars: true,
            added_tokens_decoder: BTreeMap::new(),
            unk_token: None,
            sep_token: None,
            pad_token: None,
            cls_token: None,
            mask_token: None,
        }
    }
}

impl Pipeline {
    /// Reads `vocab.txt`, which has a piece a line.
    pub(crate) fn from_word_piece_files(files: WordPieceFiles) -> Result<Self> {
        let vocab = files.vocab.name();
        let config: WordPieceConfig = match files.config {
            Some(file) => parse(&file.name(), &file.read()?)?,
            None => WordPieceConfig::default(),
        };
        let of = SpecialToken::text_or;
        let [unknown, sep, cls] =
            [of(&config.unk_token, "[UNK]"), of(&config.sep_token, "[SEP]"), of(&config.cls_token, "[CLS]")];
        let [pad, mask] = [of(&config.pad_token, "[PAD]"), of(&config.mask_token, "[MASK]")];
        let broken = |cause: Cause| {
            Error::new(ErrorKind::Tokenizer, format!("{vocab} is not a WordPiece's"))
                .caused_by(cause)
                .help("vocab.txt lists pieces, one a line, [UNK], [CLS] and [SEP] among them")
        };
        let text = files.vocab.read()?;
        let inner = guarded(|| {
            let vocab = WordPiece::read_bytes(text.as_bytes())?;
            let pieces = WordPiece::builder().vocab(vocab).unk_token(unknown.clone()).build()?;
            let mut inner = tokenizers::Tokenizer::new(pieces);
            let framed = BertProcessing::new(named(&inner, &sep)?, named(&inner, &cls)?);
            named(&inner, &unknown)?;
            inner.with_normalizer(Some(BertNormalizer::new(
                true,
                config.tokenize_chinese_chars,
                config.strip_accents,
                config.do_lower_case,
            )))?;
            inner.with_pre_tokenizer(Some(BertPreTokenizer));
            inner.with_post_processor(Some(framed));
            inner.with_decoder(Some(decoders::wordpiece::WordPiece::default()));
            let special = special_tokens(&inner, &[&unknown, &sep, &cls, &pad, &mask]);
            inner.add_special_tokens(special)?;
            for token in config.added_tokens_decoder.values() {
                inner.add_tokens([token.clone()])?;
            }
            Ok(inner)
        });
        Self::checked(&vocab, inner.map_err(broken)?)
    }
}
