//! Runs as files: safetensors that Python opens too.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::files;
use crate::hook::{AxisKind, Stack};
use crate::memory::{self, floats};
use crate::model::input::Tokens;
use crate::model::run::{Pieces, Run};
use crate::network::dims::Dims;
use crate::network::spec::{ArchSpec, Reads};

impl Run {
    /// Writes the activations as safetensors under TransformerLens's names, for Python; masked scores are -inf.
    /// The metadata `tokens` is the ids as JSON, `[1, 2]` for one input and `[[1, 2], [3, 4]]` for several; of a model of several
    /// stacks that for each, as `{"encoder": [1, 2], "decoder": [3]}`. `then` is what a decoder writes behind the last token that it
    /// reads of a target, with what that says.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let run = Model::open("built-in")?.run_with_cache("the cat sat")?;
    /// let path = std::env::temp_dir().join(format!("headlight-doc-{}.safetensors", std::process::id()));
    /// run.save(&path)?;
    /// assert_eq!(Run::open(&path)?.tokens(), run.tokens());
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let of_inputs = |each: &dyn Fn(&Tokens) -> Value| {
            let of_stack = |tokens: &[Tokens]| match tokens {
                [alone] => each(alone),
                several => several.iter().map(each).collect(),
            };
            match self.pieces.len() {
                1 => self.pieces.values().map(|tokens| of_stack(tokens)).collect::<Vec<_>>().remove(0),
                _ => {
                    let named =
                        self.pieces.iter().map(|(stack, tokens)| (stack.name().into(), of_stack(tokens)));
                    Value::Object(named.collect())
                }
            }
            .to_string()
        };
        let metadata = HashMap::from([
            ("headlight_run".to_string(), FORMAT.to_string()),
            ("tokens".to_string(), of_inputs(&|tokens| json!(tokens.ids()))),
            ("str_tokens".to_string(), of_inputs(&|tokens| json!(tokens.labels()))),
            ("starts_with_bos".to_string(), of_inputs(&|tokens| json!(tokens.starts_with_bos()))),
            ("then".to_string(), of_inputs(&|tokens| json!(tokens.then()))),
            ("model".to_string(), self.model.clone()),
            ("spec".to_string(), json!(*self.spec).to_string()),
        ]);
        let tensors = self.activations.iter().map(|(hook, _)| {
            let tensor = self.named(*hook)?.tensor().to_device(&Device::Cpu)?;
            Ok((hook.to_string(), SavedTensor(tensor)))
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        // One is written after another: brought in order where it is not, and as bytes.
        let copies = |tensor: &Tensor| if tensor.is_contiguous() { 1 } else { 2 };
        let size =
            |SavedTensor(tensor): &SavedTensor| floats(tensor.dims().iter().copied().chain([copies(tensor)]));
        let largest = tensors.iter().map(|(_, stored)| size(stored)).max().unwrap_or(0);
        memory::check(&Device::Cpu, largest, || ("to save a run", ""))
            .map_err(|error| error.remedied_by(Remedy::KeepLess))?;
        files::write_by(path, |beside| {
            safetensors::serialize_to_file(tensors, Some(metadata), beside).map_err(std::io::Error::other)
        })
    }

    /// Reads what [`save`](Run::save) wrote.
    pub fn open(path: impl AsRef<Path>) -> Result<Run> {
        let path = path.as_ref();
        let failed = |what: &str| {
            Error::new(ErrorKind::File, format!("{} {what}", path.display()))
                .help("give a file that `run.save(...)` or `headlight cache` wrote")
        };
        let len = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        // As a file, and as activations.
        memory::check(&Device::Cpu, len.saturating_mul(2), || {
            (format!("to read {}", path.display()), "save fewer activations, and read those")
        })?;
        let bytes = std::fs::read(path).map_err(|error| failed("cannot be read").caused_by(error))?;
        let unsound = |error| failed("is not a sound safetensors file").caused_by(error);
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(unsound)?;
        let file = SafeTensors::deserialize(&bytes).map_err(unsound)?;
        let metadata = header.metadata().as_ref();
        let text = |key: &str| {
            metadata
                .and_then(|all| all.get(key))
                .ok_or_else(|| failed(&format!("has no `{key}` in its metadata")))
        };
        match metadata.and_then(|all| all.get("headlight_run")).map(String::as_str) {
            Some(FORMAT) => {}
            Some(other) => return Err(failed(&format!("is of format {other}, and {FORMAT} is read here"))),
            None => {
                return Err(failed(&format!(
                    "says no format: it is older than format {FORMAT}, from before models had several stacks"
                )));
            }
        }
        let spec: ArchSpec = serde_json::from_str(text("spec")?).map_err(|error| {
            failed("has metadata that does not say what the model is built of (`spec`)").caused_by(error)
        })?;
        let then = metadata.and_then(|all| all.get("then")).map_or("null", String::as_str);
        let said = [text("tokens")?, text("str_tokens")?, text("starts_with_bos")?, then];
        let pieces = read_pieces(&spec, said).map_err(|what| failed(&format!("has metadata that {what}")))?;
        let batch = pieces.values().next().map_or(0, Vec::len);
        let mut activations = Vec::new();
        for hook in spec.hooks() {
            let Ok(view) = file.tensor(&hook.to_string()) else { continue };
            if view.dtype() != Dtype::F32 {
                return Err(failed(&format!("has `{hook}` in {:?}, not F32", view.dtype())));
            }
            let tensor = Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), &Device::Cpu)?;
            let tensor = if batch == 1 { tensor.unsqueeze(0)? } else { tensor };
            let len = |axis: &AxisKind| -> Result<usize> {
                let stack = spec.stack_of_axis(hook, *axis)?.stack;
                let tokens = pieces.get(&stack).and_then(|tokens| tokens.first()).map_or(0, Tokens::len);
                spec.axis_len(hook, *axis, tokens, tokens)
            };
            let wanted = hook.site().axes().iter().map(len).collect::<Result<Vec<_>>>()?;
            let wanted = std::iter::once(batch).chain(wanted);
            if !wanted.eq(tensor.dims().iter().copied()) {
                return Err(failed(&format!(
                    "has `{hook}` in shape {:?}, which does not fit its tokens and its model's sizes",
                    view.shape()
                )));
            }
            activations.push((hook, tensor));
        }
        Ok(Run { model: text("model")?.clone(), spec: spec.into(), pieces, activations })
    }
}

/// The version of the format.
const FORMAT: &str = "2";

/// The tokens of each stack, or what is wrong with what is said of them.
fn read_pieces(spec: &ArchSpec, [ids, labels, bos, then]: [&str; 4]) -> std::result::Result<Pieces, String> {
    let of = |text: &str, stack: Stack| -> Option<Value> {
        let all: Value = serde_json::from_str(text).ok()?;
        if spec.stacks().len() == 1 { Some(all) } else { all.get(stack.name()).cloned() }
    };
    /// One input's, or a list of several.
    fn list<T: DeserializeOwned>(value: Option<Value>) -> std::result::Result<Vec<T>, String> {
        let value = value.unwrap_or_default();
        let one = T::deserialize(&value).map(|one| vec![one]);
        one.or_else(|_| serde_json::from_value(value)).map_err(|_| "does not say its tokens".into())
    }
    let mut pieces = Pieces::new();
    for own in spec.stacks() {
        let ids: Vec<Vec<u32>> = list(of(ids, own.stack))?;
        let labels: Vec<Vec<String>> = list(of(labels, own.stack))?;
        let bos: Vec<bool> = list(of(bos, own.stack))?;
        let mut then: Vec<Option<(u32, String)>> = list(of(then, own.stack))?;
        then.resize(ids.len(), None);
        let (count, len) = (labels.len(), labels.first().map_or(0, Vec::len));
        // Patches have no ids.
        let ids_of_each = if own.reads == Reads::Tokens { len } else { 0 };
        let all_so_long = ids.iter().all(|ids| ids.len() == ids_of_each)
            && labels.iter().all(|labels| labels.len() == len)
            && own.reads.positions().is_none_or(|positions| positions == len);
        if len == 0 || !all_so_long || (ids.len(), bos.len()) != (count, count) {
            let (count, len) = (ids.len(), ids.first().map_or(0, Vec::len));
            let labels = labels.len();
            return Err(format!(
                "contradicts itself: {count} inputs of {len} tokens with {labels} lists of labels"
            ));
        }
        let told = then.iter().flatten().map(|(id, _)| id);
        let largest = ids.iter().flatten().chain(told).max().copied().unwrap_or(0) as usize;
        if len > own.dims.n_ctx || ids_of_each > 0 && largest >= own.dims.d_vocab {
            let Dims { n_ctx, d_vocab, .. } = own.dims;
            return Err(format!(
                "contradicts itself: {len} tokens with ids up to {largest}, of a model that reads {n_ctx} of {d_vocab}"
            ));
        }
        if let Some(other) = pieces.values().map(Vec::len).find(|&other| other != count) {
            return Err(format!("contradicts itself: {other} inputs of one stack, and {count} of another"));
        }
        let tokens =
            ids.into_iter().zip(labels).zip(bos).zip(then).map(|(((ids, labels), has_bos), then)| {
                let tokens = Tokens::new(ids, labels, has_bos);
                match then {
                    Some((id, label)) => tokens.with_then(id, label),
                    None => tokens,
                }
            });
        let tokens = tokens.collect();
        pieces.insert(own.stack, tokens);
    }
    Ok(pieces)
}

/// An activation as safetensors writes it.
struct SavedTensor(Tensor);

impl safetensors::View for SavedTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Views of others, as of an input among several, lie in another order.
        let Ok(tensor) = self.0.contiguous() else { return Cow::Borrowed(&[]) };
        let (storage, layout) = tensor.storage_and_layout();
        let bytes = match (&*storage, layout.contiguous_offsets()) {
            (candle_core::Storage::Cpu(cpu), Some((start, end))) => cpu
                .as_slice::<f32>()
                .map(|values| values[start..end].iter().flat_map(|value| value.to_le_bytes()).collect()),
            _ => Ok(Vec::new()),
        };
        Cow::Owned(bytes.unwrap_or_default())
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * size_of::<f32>()
    }
}
