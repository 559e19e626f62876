//! A GGUF file's tokenizer, written as the `tokenizer.json` that it was made from.

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::gguf::header::{Header, truncate};
use crate::tokenizer::{BYTE_LEVELS, Pieces, Pipeline};

/// The sorts of token that `tokenizer.ggml.token_type` tells apart.
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// The tokenizer; nothing for a file without one.
pub(crate) fn read(header: &Header) -> Result<Option<Pipeline>> {
    // llama.cpp calls one that is not there by either name.
    match header.optional("tokenizer.ggml.model", Header::text)? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(_) => {}
    }
    let tokens: Vec<String> =
        header.texts("tokenizer.ggml.tokens")?.into_iter().map(|token| token.into_owned()).collect();
    let kinds = header.optional("tokenizer.ggml.token_type", Header::numbers)?.unwrap_or_default();
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(refusal(
            format!("{} has {} tokens and {} types of them", header.path, tokens.len(), kinds.len()),
            "convert the model again",
        ));
    }
    let kind = |id: usize| kinds.get(id).copied().unwrap_or(1.0);
    let added: Vec<Value> = (0..tokens.len())
        .filter(|&id| [CONTROL, USER_DEFINED].contains(&kind(id)))
        .map(|id| {
            json!({
                "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind(id) == CONTROL,
            })
        })
        .collect();
    let (mut json, pieces) = match header.text("tokenizer.ggml.model")? {
        "gpt2" => (byte_level(header, &tokens)?, None),
        "llama" => {
            let unknown = (0..tokens.len()).find(|&id| kind(id) == UNKNOWN);
            (sentence_pieces(header, &tokens, unknown)?, Some(pieces(header, &tokens, unknown)?))
        }
        other => {
            return Err(refusal(
                format!("{} has a tokenizer of type `{}`, which is not known", header.path, truncate(other)),
                "types gpt2 and llama are read: take another file, or the model in Hugging Face's format",
            ));
        }
    };
    json["version"] = json!("1.0");
    json["added_tokens"] = json!(added);
    let origin = format!("the tokenizer of {}", header.path);
    let pipeline = Pipeline::from_bytes(&origin, json.to_string().as_bytes())?;
    Ok(Some(match pieces {
        Some(pieces) => pipeline.with_pieces(pieces),
        None => pipeline,
    }))
}

fn refusal(what: String, help: &str) -> Error {
    Error::new(ErrorKind::Tokenizer, what).help(help)
}

fn vocab(tokens: &[String]) -> Map<String, Value> {
    tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect()
}

fn byte_level(header: &Header, tokens: &[String]) -> Result<Value> {
    let said = header.optional("tokenizer.ggml.pre", Header::text)?;
    let is_old = ["gpt2", "gptneox"].contains(&header.text("general.architecture")?);
    // Files of before the entry was there, or written without knowing it.
    let name = match said {
        None | Some("default") if is_old => "gpt-2",
        None => "none",
        Some(name) => name,
    };
    let Some(level) = BYTE_LEVELS.iter().find(|level| level.ggml.contains(&name)) else {
        let known: Vec<&str> = BYTE_LEVELS.iter().flat_map(|level| level.ggml).copied().collect();
        let error = Error::new(
            ErrorKind::Tokenizer,
            format!("{} cuts text by `{}`, which is not known", header.path, truncate(name)),
        );
        return Err(match nearest(name, known.iter().copied()) {
            Some(guess) => {
                error.help(format!("the nearest that is known is `{guess}`, but text would be cut otherwise"))
            }
            None => error.help(format!("known: {}", known.join(", "))),
        });
    };
    let mut json = level.entries(false);
    json["model"] = json!({
        "type": "BPE", "fuse_unk": false, "byte_fallback": false, "ignore_merges": level.ignore_merges,
        "vocab": vocab(tokens), "merges": header.texts("tokenizer.ggml.merges")?,
    });
    Ok(json)
}

/// The pieces, which the library cannot join as SentencePiece does.
fn pieces(header: &Header, tokens: &[String], unknown: Option<usize>) -> Result<Pieces> {
    let scores = header.numbers("tokenizer.ggml.scores")?;
    if scores.len() != tokens.len() {
        let what = format!("{} has {} tokens and {} scores of them", header.path, tokens.len(), scores.len());
        return Err(refusal(what, "convert the model again"));
    }
    let scored = tokens.iter().cloned().zip(scores.into_iter().map(|score| score as f32));
    Ok(Pieces::new(scored, unknown.map(|id| id as u32)))
}

/// What SentencePiece's BPE does before and after its pieces are joined.
fn sentence_pieces(header: &Header, tokens: &[String], unknown: Option<usize>) -> Result<Value> {
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefixed = header.optional("tokenizer.ggml.add_space_prefix", Header::flag)?.unwrap_or(true);
    let mut normalizers = vec![space];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "unk_token": unknown.map(|id| &tokens[id]), "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocab(tokens), "merges": [],
        },
    }))
}
