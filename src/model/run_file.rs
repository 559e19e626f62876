//! Runs as files: safetensors that Python opens too.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::files;
use crate::hook::{AxisKind, Site};
use crate::memory::{self, floats};
use crate::model::input::Tokens;
use crate::model::run::Run;
use crate::network::spec::ArchSpec;

impl Run {
    /// Writes the activations as safetensors under TransformerLens's names, for Python; masked scores are -inf.
    /// The metadata `tokens` is the ids as JSON, `[1, 2]` for one input and `[[1, 2], [3, 4]]` for several.
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
        let alone = self.tokens.len() == 1;
        let ids: Vec<&[u32]> = self.tokens.iter().map(Tokens::ids).collect();
        let labels: Vec<&[String]> = self.tokens.iter().map(Tokens::labels).collect();
        let bos: Vec<bool> = self.tokens.iter().map(Tokens::starts_with_bos).collect();
        let metadata = HashMap::from([
            ("tokens".to_string(), if alone { json!(ids[0]) } else { json!(ids) }.to_string()),
            ("str_tokens".to_string(), if alone { json!(labels[0]) } else { json!(labels) }.to_string()),
            ("starts_with_bos".to_string(), json!(bos).to_string()),
            ("model".to_string(), self.model.clone()),
            ("n_layers".to_string(), self.n_layers.to_string()),
            ("anatomy".to_string(), json!(self.spec).to_string()),
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
        fn list<T: serde::de::DeserializeOwned>(text: &str) -> Option<Vec<Vec<T>>> {
            serde_json::from_str(text).ok().or_else(|| Some(vec![serde_json::from_str(text).ok()?]))
        }
        let ids: Option<Vec<Vec<u32>>> = list(text("tokens")?);
        let labels: Option<Vec<Vec<String>>> = list(text("str_tokens")?);
        let bos: Option<Vec<bool>> = serde_json::from_str(text("starts_with_bos")?).ok();
        let n_layers: Option<usize> = text("n_layers")?.parse().ok();
        let (Some(ids), Some(labels), Some(bos), Some(n_layers)) = (ids, labels, bos, n_layers) else {
            return Err(failed("has metadata that does not say its tokens"));
        };
        if !(1..=MOST_LAYERS).contains(&n_layers) {
            return Err(failed(&format!("says that its model had {n_layers} layers")));
        }
        // Files from before there were other architectures say nothing.
        let spec: ArchSpec = match metadata.and_then(|all| all.get("anatomy")) {
            None => ArchSpec::GPT2,
            Some(text) => serde_json::from_str(text).map_err(|error| {
                failed("has metadata that does not say what the model is built of (`anatomy`)")
                    .caused_by(error)
            })?,
        };
        let len = ids.first().map_or(0, Vec::len);
        let fits = ids.len() == labels.len() && ids.len() == bos.len() && len > 0;
        if !fits || ids.iter().zip(&labels).any(|(ids, labels)| [ids.len(), labels.len()] != [len, len]) {
            return Err(failed(&format!(
                "has metadata that contradicts itself: {} inputs of {len} tokens with {} lists of labels",
                ids.len(),
                labels.len()
            )));
        }
        let alone = ids.len() == 1;
        let tokens: Vec<Tokens> = (ids.into_iter().zip(labels).zip(bos))
            .map(|((ids, labels), has_bos)| Tokens::new(ids, labels, has_bos))
            .collect();
        let largest = tokens.iter().flat_map(|tokens| tokens.ids()).max().map_or(0, |&id| id as usize);
        let mut activations = Vec::new();
        for hook in spec.hooks(n_layers) {
            let Ok(view) = file.tensor(&hook.to_string()) else { continue };
            if view.dtype() != Dtype::F32 {
                return Err(failed(&format!("has `{hook}` in {:?}, not F32", view.dtype())));
            }
            let tensor = Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), &Device::Cpu)?;
            let tensor = if alone { tensor.unsqueeze(0)? } else { tensor };
            let axes = hook.site().axes();
            let wanted = |axis: &AxisKind| axis.is_of_tokens().then_some(len);
            let lens = std::iter::once(Some(tokens.len())).chain(axes.iter().map(wanted));
            if hook.site() == Site::UnembedOut && tensor.dims().last().is_some_and(|&len| len <= largest) {
                return Err(failed(&format!(
                    "has `{hook}` in shape {:?}, but its tokens have ids up to {largest}",
                    view.shape()
                )));
            }
            let fits = tensor.rank() == axes.len() + 1
                && lens.zip(tensor.dims()).all(|(wanted, &len)| len > 0 && wanted.is_none_or(|w| w == len));
            if !fits {
                return Err(failed(&format!(
                    "has `{hook}` in shape {:?}, which does not fit its tokens",
                    view.shape()
                )));
            }
            activations.push((hook, tensor));
        }
        Ok(Run { model: text("model")?.clone(), spec, n_layers, tokens, activations })
    }
}

/// More than any model has: a file that claims more is not believed.
const MOST_LAYERS: usize = 10_000;

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
