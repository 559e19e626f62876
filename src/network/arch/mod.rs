//! Architectures, a file each, and the table that finds them.

mod attention_only;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod llama;
mod mistral;
mod qwen;
mod table;

pub(crate) use table::bos_and_eos;
