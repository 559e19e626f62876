//! Architectures, a file each, and the table that finds them.

mod attention_only;
mod bert;
mod distilbert;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod heads;
mod llama;
mod mistral;
mod qwen;
mod roberta;
mod table;

pub(crate) use table::bos_and_eos;
