//! Every architecture that can be opened, by the names that files give it.

use crate::error::{Error, ErrorKind, Result};
use crate::network::arch::{
    attention_only, bart, bert, distilbert, gpt_neo, gpt_neox, gpt2, gptj, llama, marian, mistral, qwen,
    roberta, t5,
};
use crate::network::config::ConfigFile;
use crate::network::network::Network;
use crate::network::weights::file::Weights;

/// What is known of an architecture.
struct Architecture {
    /// The `model_type` of its `config.json`.
    name: &'static str,
    /// How the name of its class begins there.
    class: &'static str,
    /// The tokens that begin and end a text, where no file of the model says so: transformers' defaults.
    bos_and_eos: Option<(u32, u32)>,
    load: fn(&ConfigFile, &Weights) -> Result<Network>,
}

/// Every architecture that can be opened.
const ARCHITECTURES: [Architecture; 16] = [
    Architecture {
        name: "gpt2",
        class: "GPT2",
        bos_and_eos: Some((50256, 50256)),
        load: |file, weights| {
            file.load(gpt2::Config::default(), &gpt2::NAMES, |config| {
                gpt2::load(config, &file.head()?, weights)
            })
        },
    },
    Architecture {
        name: "gpt_neo",
        class: "GPTNeoFor",
        bos_and_eos: Some((50256, 50256)),
        load: |file, weights| {
            file.load(gpt_neo::Config::default(), &gpt_neo::NAMES, |config| {
                gpt_neo::load(config, &file.head()?, weights)
            })
        },
    },
    Architecture {
        name: "gpt_neox",
        class: "GPTNeoX",
        bos_and_eos: Some((0, 2)),
        load: |file, weights| {
            file.load(gpt_neox::Config::default(), &[], |config| {
                gpt_neox::load(config, &file.head()?, weights)
            })
        },
    },
    Architecture {
        name: "gptj",
        class: "GPTJ",
        bos_and_eos: Some((50256, 50256)),
        load: |file, weights| {
            file.load(gptj::Config::default(), &gptj::NAMES, |config| {
                gptj::load(config, &file.head()?, weights)
            })
        },
    },
    Architecture {
        name: "llama",
        class: "Llama",
        bos_and_eos: Some((1, 2)),
        load: |file, weights| {
            file.load(llama::Config::default(), &[], |config| llama::load(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "mistral",
        class: "Mistral",
        bos_and_eos: Some((1, 2)),
        load: |file, weights| {
            file.load(mistral::Config::default(), &[], |config| mistral::load(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "qwen2",
        class: "Qwen2For",
        bos_and_eos: None,
        load: |file, weights| {
            file.load(qwen::qwen2(), &[], |config| qwen::load_qwen2(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "qwen3",
        class: "Qwen3For",
        bos_and_eos: None,
        load: |file, weights| {
            file.load(qwen::qwen3(), &[], |config| qwen::load_qwen3(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "bert",
        class: "BertFor",
        bos_and_eos: None,
        load: |file, weights| {
            file.load(bert::Config::default(), &[], |config| bert::load(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "roberta",
        class: "RobertaFor",
        bos_and_eos: Some((0, 2)),
        load: |file, weights| {
            file.load(roberta::config(), &[], |config| roberta::load(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "distilbert",
        class: "DistilBert",
        bos_and_eos: None,
        load: |file, weights| {
            file.load(distilbert::Config::default(), &distilbert::NAMES, |config| {
                distilbert::load(config, &file.head()?, weights)
            })
        },
    },
    Architecture {
        name: "t5",
        class: "T5",
        bos_and_eos: None,
        load: |file, weights| {
            file.load(t5::Config::default(), &t5::NAMES, |config| t5::load(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "mt5",
        class: "MT5",
        bos_and_eos: None,
        load: |file, weights| {
            file.load(t5::mt5(), &t5::NAMES, |config| t5::load_mt5(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "bart",
        class: "Bart",
        bos_and_eos: Some((0, 2)),
        load: |file, weights| {
            file.load(bart::Config::default(), &bart::NAMES, |config| {
                bart::load(config, &file.head()?, weights)
            })
        },
    },
    Architecture {
        name: "marian",
        class: "Marian",
        bos_and_eos: None,
        load: |file, weights| {
            file.load(marian::config(), &bart::NAMES, |config| marian::load(config, &file.head()?, weights))
        },
    },
    Architecture {
        name: "attn-only",
        class: "AttentionOnly",
        bos_and_eos: None,
        load: |file, weights| {
            let defaults = attention_only::Config::default();
            file.load(defaults, &attention_only::NAMES, |config| attention_only::load(config, weights))
        },
    },
];

/// What is near to one of these, and different: by its `model_type`, with what is different.
const DIFFERENT: [(&str, &str); 18] = [
    ("xlm-roberta", "its tokenizer is SentencePiece's, with ids of its own"),
    ("camembert", "its tokenizer is SentencePiece's, with ids of its own"),
    ("modernbert", "its positions are rotary, its norms come first and its MLPs are gated"),
    ("deberta", "its attention keeps words and positions apart"),
    ("deberta-v2", "its attention keeps words and positions apart"),
    ("electra", "its embeddings may be narrower than its stream, and it tells replaced tokens"),
    ("albert", "its layers share their weights, and its embeddings are narrower than its stream"),
    ("xlm", "its languages have embeddings"),
    ("longformer", "its attention is local, with some global positions"),
    ("mbart", "its norms come first, and its languages are tokens that texts begin with"),
    ("m2m_100", "its norms come first, and its languages are tokens that texts begin with"),
    ("nllb-moe", "its MLPs are mixtures of experts"),
    ("pegasus", "its norms come first"),
    ("blenderbot", "its norms come first"),
    ("blenderbot-small", "its vocabulary and its tokenizer are of its own kind"),
    ("umt5", "each of its layers has a bias by distance of its own"),
    ("longt5", "its encoder's attention is local"),
    ("switch_transformers", "its MLPs are mixtures of experts"),
];

/// The architecture that a `model_type` or a class names.
fn architecture(said: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|known| known.name == said || said.starts_with(known.class))
}

/// The tokens that begin and end a text in an architecture, where no file of the model says so.
pub(crate) fn bos_and_eos(architecture_said: &str) -> Option<(u32, u32)> {
    architecture(architecture_said)?.bos_and_eos
}

/// The tokens that a decoder begins and ends with where no file of the model says so: transformers' defaults.
pub(crate) fn start_and_end(architecture_said: &str) -> (Option<u32>, Option<u32>) {
    match architecture(architecture_said).map(|known| known.name) {
        Some("t5" | "mt5") => (Some(0), Some(1)),
        Some("bart") => (Some(2), Some(2)),
        Some("marian") => (Some(58100), Some(0)),
        _ => (None, None),
    }
}

impl ConfigFile {
    /// Builds the network of weights under Hugging Face's names (TransformerLens's for models of attention alone).
    pub(crate) fn network(&self, weights: &Weights) -> Result<Network> {
        match architecture(&self.architecture) {
            Some(known) => (known.load)(self, weights),
            None => {
                if let Some((name, why)) = DIFFERENT.iter().find(|(name, _)| *name == self.architecture) {
                    let what =
                        format!("{} is of architecture `{name}`, which is not known: {why}", self.path);
                    return Err(Error::new(ErrorKind::Config, what)
                        .help("BERT, RoBERTa and DistilBERT are known of encoders; T5, mT5, BART and Marian of what reads with an encoder and writes with a decoder"));
                }
                let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
                Err(Error::new(
                    ErrorKind::Config,
                    format!("{} is of architecture `{}`, which is not known", self.path, self.architecture),
                )
                .help(format!("known architectures: {}", known.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers' classes say of the tokens that begin and end a text, which is not seen from outside.
    #[test]
    fn what_begins_and_ends_texts() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/defaults.json");
        let all: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).expect("the file")).expect("JSON");
        let known = all["bos_and_eos"].as_object().expect("a table");
        for Architecture { name, bos_and_eos, .. } in &ARCHITECTURES {
            let expected = known.get(*name).map(|ids| (ids[0].as_u64(), ids[1].as_u64()));
            let expected = expected.and_then(|(bos, eos)| Some((bos? as u32, eos? as u32)));
            assert_eq!(*bos_and_eos, expected, "{name}");
        }
        assert_eq!(known.len(), ARCHITECTURES.len() - 1);
        let known = all["start_and_eos"].as_object().expect("a table");
        for Architecture { name, .. } in &ARCHITECTURES {
            let (start, end) = start_and_end(name);
            let Some(expected) = known.get(*name) else {
                assert_eq!((start, end), (None, None), "{name}");
                continue;
            };
            // T5's class has no default, and all its files say the padding.
            let expected_start = expected[0].as_u64().or((*name == "t5").then_some(0));
            assert_eq!(start.map(u64::from), expected_start, "{name}");
            assert_eq!(end.map(u64::from), expected[1].as_u64(), "{name}");
        }
        assert_eq!(known.len(), 4);
    }
}
