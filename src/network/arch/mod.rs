//! Architectures, a file each, and the table that finds them.

mod attention_only;
mod bart;
mod bert;
mod distilbert;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod heads;
mod llama;
mod marian;
mod mistral;
mod qwen;
mod roberta;
mod t5;
mod table;

pub(crate) use table::{bos_and_eos, start_and_end};
