//! Text and token ids: how a model reads the one as the other.

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::model::input::{Input, Sequences, Tokens};
use crate::model::model::Model;
use crate::model::run::Pieces;
use crate::model::translate::Search;
use crate::network::dims::Dims;
use crate::network::spec::{Readout, Reads, StackSpec};
use crate::network::start::Batch;

impl Model {
    /// One text or one sequence of ids, as the model reads it, with its labels. Draws itself as a table, so that
    /// the BOS token is there to see.
    pub fn to_tokens(&self, input: impl Into<Input>) -> Result<Tokens> {
        let mut all = self.tokenize(&input.into())?;
        match (all.pop(), all.is_empty()) {
            (Some(tokens), true) => Ok(tokens),
            (_, _) => Err(Error::new(ErrorKind::Input, "there are several texts where one is taken")
                .help("give one text at a time")),
        }
    }

    /// What each token of an input says: the labels of [`to_tokens`](Model::to_tokens).
    pub fn to_str_tokens(&self, input: impl Into<Input>) -> Result<Vec<String>> {
        Ok(self.to_tokens(input)?.labels().to_vec())
    }

    /// The id of a piece of text that is one token, as it stands in mid-text: most words there begin with a space. Fails, naming
    /// the tokens, if it is several, or one that the model has not.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let cat = model.to_single_token(" cat")?;
    /// assert_eq!(model.to_string(&[cat]), " cat");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn to_single_token(&self, text: &str) -> Result<u32> {
        match self.tokenizer.single(text)? {
            Ok(id) if id as usize >= self.dims().d_vocab => Err(self.beyond(id, "")),
            Ok(id) => Ok(id),
            Err(ids) => Err(Error::new(
                ErrorKind::Input,
                format!("{text:?} is {} tokens, not one: {:?}", ids.len(), self.tokenizer.labels(&ids)),
            )
            .help("words in mid-sentence carry their leading space: try it with or without one")),
        }
    }

    /// The text of token ids: of a whole text where they begin with BOS, and else of a piece of one, whose leading space is kept.
    /// (Llama's tokenizer, and all that SentencePiece made, put a space of their own before a text.)
    #[allow(clippy::inherent_to_string_shadow_display)]
    pub fn to_string(&self, ids: &[u32]) -> String {
        match self.bos().is_some() && ids.first().copied() == self.bos() {
            true => self.tokenizer.decode(ids),
            false => self.tokenizer.decode_continuation(ids),
        }
    }

    /// Ids that stand for no text.
    pub(crate) fn special_ids(&self) -> Vec<u32> {
        let mut ids = self.tokenizer.special_ids();
        ids.extend(self.bos().iter().chain(&self.eos));
        ids
    }

    /// The token that stands for what is to be told, where the tokenizer has one.
    pub(crate) fn mask(&self) -> Option<u32> {
        self.tokenizer.mask()
    }

    /// The token that stands for none: what fills, or what begins a text.
    pub(crate) fn filling(&self) -> Option<u32> {
        self.tokenizer.filling().or_else(|| self.bos())
    }

    /// What token ids say, one by one.
    pub(crate) fn labels(&self, ids: &[u32]) -> Vec<String> {
        self.tokenizer.labels(ids)
    }

    /// The sequences of a model that reads one text. Fails where they are pairs.
    pub(crate) fn tokenize(&self, input: &Input) -> Result<Vec<Tokens>> {
        some(input)?;
        (0..input.len()).map(|index| self.tokenize_one(input, index)).collect()
    }

    /// One of an input's sequences. Of thousands, all need not be tokens at once.
    pub(crate) fn tokenize_one(&self, input: &Input, index: usize) -> Result<Tokens> {
        let inputs = self.inputs_of_stacks(input)?;
        let [(stack, input)] = inputs.as_slice() else {
            self.spec().only_stack("what is read as a single text")?;
            return Err(Error::new(ErrorKind::Input, "a pair is given where one text is read"));
        };
        self.sequence(stack, input, index)
    }

    /// The tokens of every stack, sequence by sequence.
    pub(crate) fn pieces(&self, input: &Input) -> Result<Pieces> {
        some(input)?;
        let mut all = Pieces::new();
        for (stack, input) in self.inputs_of_stacks(input)? {
            let each = (0..input.len()).map(|index| self.sequence(stack, input, index));
            all.insert(stack.stack, each.collect::<Result<_>>()?);
        }
        Ok(all)
    }

    /// What an encoder reads of one of an input's sources.
    pub(crate) fn source_of(&self, input: &Input, index: usize) -> Result<Tokens> {
        let [encoder, _] = self.spec().encoder_and_decoder("a source")?;
        self.sequence(encoder, input, index)
    }

    /// The same input where it has targets; sources alone with what the model writes of each, greedily.
    pub(crate) fn with_targets(&self, input: &Input) -> Result<Input> {
        if input.second.is_some() || !self.spec().is_encoder_decoder() {
            return Ok(input.clone());
        }
        some(input)?;
        let written = self.translate(input, &Search::default())?;
        let targets: Vec<Vec<u32>> = written.iter().map(|translation| translation.ids().to_vec()).collect();
        Ok(Input::pair(input, targets))
    }

    /// Those of one sequence of each. Of thousands, all need not be tokens at once.
    pub(crate) fn pieces_of_one(&self, input: &Input, index: usize) -> Result<Pieces> {
        let stacks = self.inputs_of_stacks(input)?.into_iter();
        stacks.map(|(stack, input)| Ok((stack.stack, vec![self.sequence(stack, input, index)?]))).collect()
    }

    /// What each stack reads of an input.
    pub(super) fn inputs_of_stacks<'a>(
        &'a self,
        input: &'a Input,
    ) -> Result<Vec<(&'a StackSpec, &'a Input)>> {
        match (self.spec().stacks(), &input.second) {
            ([stack], None) => Ok(vec![(stack, input)]),
            ([stack], Some(second)) if self.spec().is_framed(stack) && stack.reads == Reads::Tokens => {
                as_many((input, "first texts"), (second, "second ones"))?;
                Ok(vec![(stack, input)])
            }
            ([_], Some(_)) => {
                Err(Error::new(ErrorKind::Input, "a pair is given to a model that reads one text")
                    .help("give the text alone"))
            }
            ([first, second], Some(target)) => {
                let [of_first, of_second] =
                    [first, second].map(|spec| format!("inputs for the {}", spec.stack));
                as_many((input, &of_first), (target, &of_second))?;
                Ok(vec![(first, input), (second, target)])
            }
            ([_, _], None) if self.spec().is_encoder_decoder() => Err(Error::new(
                ErrorKind::Input,
                "a source is given without its target, which the decoder is to write",
            )
            .help(
                "give a pair, as `Input::pair(\"The cat sat.\", \"Le chat s'est assis.\")`; what the model writes itself is seen by \
                 `translate`, and by a run",
            )),
            (stacks, _) => {
                let names: Vec<&str> = stacks.iter().map(|spec| spec.stack.name()).collect();
                let first = match stacks.first().map(|spec| spec.reads) {
                    Some(Reads::Patches { .. }) => "Picture::open(\"cats.png\")?, \"a photo of a cat\"",
                    _ => "\"The cat sat.\", \"Le chat s'est assis.\"",
                };
                Err(Error::new(
                    ErrorKind::Input,
                    format!("this model has stacks that each read something: {}", names.join(", ")),
                )
                .help(format!("give a pair, as `Input::pair({first})`")))
            }
        }
    }

    fn sequence(&self, stack: &StackSpec, input: &Input, index: usize) -> Result<Tokens> {
        if stack.crosses.is_some() && stack.sees.is_causal() {
            return self.target(stack, input, index).map_err(|error| input.with_input_index(error, index));
        }
        let tokens = match (&input.sequences, stack.reads) {
            (Sequences::Pictures(pictures), reads) => {
                pictures[index].open().and_then(|picture| Tokens::of_picture(&picture, reads))
            }
            (_, Reads::Patches { .. }) => Err(Error::new(
                ErrorKind::Input,
                format!("the {} stack reads pictures, and is given something else", stack.stack),
            )
            .help("give a picture, as `Picture::open(\"cats.png\")?`")),
            (Sequences::Texts(texts), Reads::Tokens) if self.spec().is_framed(stack) => {
                self.framed(stack, input, &texts[index], index)
            }
            (Sequences::Texts(texts), Reads::Tokens) => {
                self.encoded(&texts[index], input.bos).and_then(|ids| self.checked(stack, ids))
            }
            (Sequences::Ids(_), Reads::Tokens)
                if input.second.is_some() && self.spec().stacks().len() == 1 =>
            {
                Err(Error::new(ErrorKind::Input, "a pair of token ids is given where one sequence is read")
                    .help("give a pair of texts; or one sequence of ids, with what stands between the two"))
            }
            (Sequences::Ids(ids), Reads::Tokens) => {
                let tokens = self.checked(stack, ids[index].clone());
                match &input.types {
                    Some(types) => tokens.and_then(|tokens| self.typed(stack, tokens, types.to_vec())),
                    None => tokens,
                }
            }
        };
        let tokens = tokens.map_err(|error| input.with_input_index(error, index))?;
        // The tokenizer is asked where there can be a mask, and is not read for it elsewhere.
        Ok(match self.spec().readout() {
            Readout::Masked(_) => {
                let only = match self.mask().map(|mask| tokens.positions_of(mask)).as_deref() {
                    Some([only]) => Some(*only),
                    _ => None,
                };
                tokens.with_mask(only)
            }
            _ => tokens,
        })
    }

    /// A target as a decoder reads it: the start, and all of the target but its last token, the end. It writes all.
    fn target(&self, stack: &StackSpec, input: &Input, index: usize) -> Result<Tokens> {
        let mut ids = match &input.sequences {
            Sequences::Ids(ids) => ids[index].clone(),
            Sequences::Texts(texts) if texts[index].is_empty() => {
                return Err(Error::new(ErrorKind::Input, "the target is empty: there is nothing to write")
                    .help(
                        "give what the source says; or leave targets out, and what the model writes is taken",
                    ));
            }
            Sequences::Texts(texts) => {
                let (mut ids, _) = self.tokenizer.encode_framed(&texts[index], None, true)?;
                if !ids.last().is_some_and(|last| self.eos.contains(last)) {
                    ids.extend(self.eos.first());
                }
                ids
            }
            Sequences::Pictures(_) => {
                return Err(Error::new(ErrorKind::Input, "a decoder writes text, and is given a picture")
                    .help("give the target as text, or as token ids"));
            }
        };
        let checked = self.checked(stack, ids.clone())?;
        let Some(last) = ids.pop() else { return Ok(checked) };
        ids.insert(0, self.decoder_start()?);
        let label = checked.labels().last().cloned().unwrap_or_default();
        Ok(self.checked(stack, ids)?.with_then(last, label))
    }

    /// One text, or two in one sequence, as the tokenizer's template frames them.
    fn framed(&self, stack: &StackSpec, input: &Input, text: &str, index: usize) -> Result<Tokens> {
        // Of several stacks the second reads the other, by itself.
        let beside = input.second.as_deref().filter(|_| self.spec().stacks().len() == 1);
        let second = match beside.map(|second| &second.sequences) {
            None => None,
            Some(Sequences::Texts(texts)) => Some(texts[index].as_str()),
            Some(_) => {
                return Err(Error::new(ErrorKind::Input, "a text is paired with what is none")
                    .help("give two texts, as `Input::pair(\"How old are you?\", \"I am six.\")`"));
            }
        };
        if text.is_empty() || second.is_some_and(str::is_empty) {
            let which = if text.is_empty() { "the text" } else { "the second text" };
            return Err(Error::new(ErrorKind::Input, format!("{which} is empty: there is nothing to run"))
                .help("give some text; one text alone is no pair"));
        }
        if input.bos == Some(true) {
            return Err(Error::new(
                ErrorKind::Input,
                "this model reads text as its tokenizer frames it, and no BOS is put before",
            )
            .help("give the text without `with_bos`; `no_bos` leaves the frame away, too"));
        }
        let tokenizer = self.tokenizer_of(stack.stack);
        let (ids, types) = tokenizer.encode_framed(text, second, input.bos != Some(false))?;
        let tokens = self.checked(stack, ids)?;
        if types.iter().all(|&of| of == 0) {
            return Ok(tokens);
        }
        self.typed(stack, tokens, types)
    }

    /// Tokens with which of two texts each is of, where the model embeds that.
    fn typed(&self, stack: &StackSpec, tokens: Tokens, types: Vec<u32>) -> Result<Tokens> {
        match (stack.token_types, types.iter().max()) {
            (0, _) => Ok(tokens),
            (known, Some(&most)) if most as usize >= known => Err(Error::new(
                ErrorKind::Input,
                format!("the tokenizer tells {} texts apart, and the model {known}", most + 1),
            )
            .help("take the tokenizer that came with the weights")),
            _ => Ok(tokens.with_types(types)),
        }
    }

    fn encoded(&self, text: &str, bos: Option<bool>) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Input, "the text is empty: there is nothing to run")
                .help("give some text; to run the BOS token alone, give its id"));
        }
        let bos = match (&self.bos, bos) {
            (Err(why), Some(true)) => {
                return Err(Error::new(
                    ErrorKind::Input,
                    format!("there is no BOS to put before text: {why}"),
                )
                .help(
                    "run the text without one; or name one of the vocabulary in config.json, as bos_token_id",
                ));
            }
            (bos, asked) => bos.as_ref().ok().filter(|_| asked.unwrap_or(self.prepends_bos())).copied(),
        };
        Ok(bos.into_iter().chain(self.tokenizer.encode(text)?).collect())
    }

    pub(crate) fn checked(&self, stack: &StackSpec, ids: Vec<u32>) -> Result<Tokens> {
        let Dims { n_ctx, d_vocab, .. } = stack.dims;
        if ids.is_empty() {
            return Err(Error::new(ErrorKind::Input, "the input has no tokens: there is nothing to run")
                .help("give at least one token"));
        }
        if ids.len() > n_ctx {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the input has {} tokens, but the model reads at most {n_ctx}", ids.len()),
            )
            .help(format!("cut it to {n_ctx} tokens, BOS included, or run it in parts")));
        }
        if let Some(position) = ids.iter().position(|&id| id as usize >= d_vocab) {
            return Err(self.beyond(ids[position], &format!(" at position {position}")));
        }
        let labels = self.tokenizer_of(stack.stack).labels(&ids);
        let has_bos = self.bos().is_some() && ids.first().copied() == self.bos();
        Ok(Tokens::new(ids, labels, has_bos))
    }

    /// What is said of a token that the model cannot read.
    fn beyond(&self, id: u32, place: &str) -> Error {
        let d_vocab = self.dims().d_vocab;
        let ids = format!("the vocabulary has {d_vocab} tokens: ids are 0 to {}", d_vocab - 1);
        match self.tokenizer.token(id) {
            Some(token) => {
                let what =
                    format!("the model has no token {token:?} (id {id}){place}, though its tokenizer has");
                Error::new(ErrorKind::Input, what).help(format!(
                    "{ids}; write the text without it; if it is an ordinary word, the tokenizer is another model's"
                ))
            }
            None => Error::new(ErrorKind::Input, format!("token id {id}{place} is out of range")).help(ids),
        }
    }

    /// What the stacks read, filled up with BOS.
    pub(crate) fn batch(&self, pieces: &Pieces) -> Result<Batch> {
        let fill = self.bos().unwrap_or(0);
        pieces.iter().try_fold(Batch::default(), |batch, (&stack, tokens)| {
            let reads = self.spec().stack(stack)?.reads;
            if let Some(positions) = reads.positions() {
                let pixels: Vec<f32> = tokens.iter().filter_map(Tokens::pixels).flatten().copied().collect();
                let shape = (tokens.len(), positions, reads.numbers_of_patch());
                return Ok(batch.with(stack, Tensor::from_vec(pixels, shape, self.device())?, None));
            }
            let ids: Vec<&[u32]> = tokens.iter().map(Tokens::ids).collect();
            let batch = batch.with_filled(self.spec(), stack, &ids, fill, self.network.device())?;
            if tokens.iter().all(|tokens| tokens.token_types().is_none()) {
                return Ok(batch);
            }
            let longest = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
            let types = tokens.iter().flat_map(|tokens| {
                let mut types = tokens.token_types().unwrap_or_default().to_vec();
                types.resize(longest, 0);
                types
            });
            let types = Tensor::from_vec(types.collect(), (ids.len(), longest), self.network.device())?;
            Ok(batch.with_types(stack, types))
        })
    }
}

/// Fails unless there are as many of the one as of the other.
fn as_many((a, of_a): (&Input, &str), (b, of_b): (&Input, &str)) -> Result<()> {
    match (a.len(), b.len()) {
        (a, b) if a == b => Ok(()),
        (a, b) => Err(Error::new(ErrorKind::Input, format!("there are {a} {of_a}, and {b} {of_b}"))
            .help("give as many of the one as of the other")),
    }
}

/// Fails if there is nothing to run.
fn some(input: &Input) -> Result<()> {
    match input.len() {
        0 => Err(Error::new(ErrorKind::Input, "there is no text and there are no ids to run")
            .help("give at least one")),
        _ => Ok(()),
    }
}
