//! Text to ids and back.

mod bpe_files;
mod byte_level;
mod pieces;
mod sentence_piece;
#[allow(clippy::module_inception)]
mod tokenizer;
mod unigrams;
mod word_piece;

pub(crate) use bpe_files::{BpeFiles, SpecialToken};
pub(crate) use byte_level::ALL as BYTE_LEVELS;
pub(crate) use pieces::Pieces;
pub(crate) use sentence_piece::SentencePieceFiles;
pub(crate) use tokenizer::{Pipeline, Tokenizer};
pub(crate) use word_piece::WordPieceFiles;
