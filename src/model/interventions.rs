//! Interventions: models that are made to do something differently.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{AxisKind, Head, Hook, IntoHook, Site, head as head_at};
use crate::model::edit::{Ablation, AttentionEdge, Change, Component, Components, Edit};
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::NamedTensor;
use crate::network::record::Record;
use crate::network::start::Batch;

impl Model {
    /// The model with components ablated. It shares this one's weights.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let reference = model.run_with_cache("the quick brown fox jumps over the lazy dog")?;
    /// let without = model.ablate(head(1, 0), Ablation::Mean(&reference))?;
    /// println!("{without:?}");
    /// assert!(model.ablate(head(9, 0), Ablation::Zero).is_err());
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn ablate(&self, components: impl Into<Components>, ablation: Ablation) -> Result<Model> {
        let Components(components) = components.into();
        if components.is_empty() {
            return Err(Error::new(ErrorKind::Edit, "no component to ablate: the model would be the same")
                .help("name at least one head, as head(1, 0), or an MLP, as mlp(0)"));
        }
        let mut by_hook: BTreeMap<Hook, Vec<usize>> = BTreeMap::new();
        for component in &components {
            self.check_component(*component)?;
            let (hook, index) = component.hook_and_index();
            by_hook.entry(hook).or_default().extend(index);
        }
        let names: Vec<String> = components.iter().map(Component::to_string).collect();
        let change =
            |(hook, indices): (Hook, Vec<usize>)| Ok((hook, self.ablation(hook, &indices, ablation)?));
        let changes = by_hook.into_iter().map(change).collect::<Result<_>>()?;
        Ok(self.with_edit(Edit::new(format!("{} {ablation}-ablated", names.join(", ")), changes)))
    }

    fn ablation(&self, hook: Hook, indices: &[usize], ablation: Ablation) -> Result<Arc<Change>> {
        let dims = self.spec().stack_of(hook)?.dims;
        // 1 where the activation stays, 0 where it goes, over the axes after the position.
        let indexed = |axis: &AxisKind| matches!(axis, AxisKind::Head | AxisKind::DMlp);
        let after_position = hook.site().axes()[1..].iter();
        let shape: Vec<usize> =
            after_position.map(|axis| if indexed(axis) { dims.axis_len(*axis, 1, 1) } else { 1 }).collect();
        let gone = |index: usize| indices.is_empty() || indices.contains(&index);
        let stays: Vec<f32> = (0..shape.iter().product()).map(|i| f32::from(u8::from(!gone(i)))).collect();
        let stays = Tensor::from_vec(stays, shape, self.network.device())?;
        let goes = (1.0 - &stays)?;
        let whole = |run: &Run| -> Result<Tensor> { Ok(run.whole(hook)?.to_device(self.network.device())?) };
        let fill = match ablation {
            Ablation::Zero => None,
            Ablation::Mean(reference) => {
                Some(reference.mean_over_positions(hook)?.to_device(self.network.device())?)
            }
            Ablation::Resample(run) => Some(whole(run)?),
        };
        let by_position = matches!(ablation, Ablation::Resample(_));
        Ok(Arc::new(move |activation, start| {
            let kept = activation.broadcast_mul(&stays)?;
            let Some(fill) = &fill else { return Ok(kept) };
            let fill =
                if by_position { rows(fill, hook, 1, start, activation.dim(1)?)? } else { fill.clone() };
            Ok(kept.broadcast_add(&fill.broadcast_mul(&goes)?)?)
        }))
    }

    /// The model with an activation of another run put in its place: of all heads or one, at all positions or some.
    /// The other run must have kept that hook, and have as many tokens as what is run.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let clean = model.run_with_cache("the cat sat the cat")?;
    /// let patched = model.patch(("z", 1), Some(0), Some(&[5]), &clean)?;
    /// println!("{:?}", patched.logits("the cat sat the one")?);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn patch(
        &self,
        hook: impl IntoHook,
        head: Option<usize>,
        positions: Option<&[usize]>,
        from: &Run,
    ) -> Result<Model> {
        let hook = self.hook(hook)?;
        let source = from.whole(hook)?.to_device(self.network.device())?;
        let site = hook.site();
        let Some(position_dim) = site.position_axis().map(|dim| dim + 1) else {
            if head.is_some() || positions.is_some() {
                return Err(Error::new(ErrorKind::Edit, format!("`{hook}` has neither heads nor positions"))
                    .help("give None for both: it is put in place as a whole"));
            }
            let change = move |activation: &Tensor, _: usize| Ok(source.broadcast_as(activation.dims())?);
            return Ok(self.with_edit(Edit::new(format!("{hook} patched"), vec![(hook, Arc::new(change))])));
        };
        let head_dim = match (head, site.head_axis().map(|dim| dim + 1)) {
            (None, _) => None,
            (Some(index), Some(dim)) => {
                let spec = self.spec().stack_of(hook)?;
                let own =
                    Head { attn: hook.attn(), ..head_at(hook.layer().unwrap_or(0), index).of(spec.stack) };
                if site.is_kv() {
                    self.spec().check_kv_head(own)?;
                } else {
                    self.spec().check_head(own)?;
                }
                Some((dim, index))
            }
            (Some(_), None) => {
                return Err(Error::new(
                    ErrorKind::Edit,
                    format!(
                        "`{hook}` has no heads: axes {:?}",
                        site.axes().iter().map(|axis| axis.name()).collect::<Vec<_>>()
                    ),
                )
                .help("give None for the head, or a hook such as (\"z\", 1)"));
            }
        };
        let len = source.dim(position_dim)?;
        let chosen: Vec<usize> = positions.map_or_else(|| (0..len).collect(), <[usize]>::to_vec);
        if chosen.is_empty() {
            return Err(Error::new(ErrorKind::Edit, "no position to patch: the model would be the same")
                .help("give None for all positions, or at least one"));
        }
        if let Some(position) = chosen.iter().find(|&&position| position >= len) {
            return Err(Error::new(
                ErrorKind::Edit,
                format!("there is no position {position} in a run of {len} tokens"),
            )
            .help(format!("positions are 0 to {}", len - 1)));
        }
        let what = format!(
            "{hook}{} patched at {}",
            head.map(|head| format!(" of head {head}")).unwrap_or_default(),
            positions.map_or("every position".to_string(), |positions| format!("{positions:?}")),
        );
        let first = chosen.iter().copied().min().unwrap_or(0);
        let change = move |activation: &Tensor, start: usize| {
            let seen = activation.dim(position_dim)?;
            let source = rows(&source, hook, position_dim, start, seen)?;
            if source.dims()[1..] != activation.dims()[1..] {
                return Err(other_length(hook, len, activation.dim(position_dim)? + start));
            }
            let mut mask = vec![0f32; seen];
            chosen.iter().filter(|&&p| p >= start).for_each(|&p| mask[p - start] = 1.0);
            let mut shape = vec![1; activation.rank()];
            shape[position_dim] = seen;
            let mut mask = Tensor::from_vec(mask, shape, activation.device())?;
            if let Some((dim, index)) = head_dim {
                let heads = activation.dim(dim)?;
                let mut shape = vec![1; activation.rank()];
                shape[dim] = heads;
                let one: Vec<f32> = (0..heads).map(|head| f32::from(u8::from(head == index))).collect();
                mask = mask.broadcast_mul(&Tensor::from_vec(one, shape, activation.device())?)?;
            }
            let chosen = mask.broadcast_as(activation.dims())?.ne(0f32)?;
            // Masked scores are -inf on both sides: a choice, not arithmetic, keeps them so.
            Ok(chosen.where_cond(
                &source.broadcast_as(activation.dims())?.contiguous()?,
                &activation.contiguous()?,
            )?)
        };
        Ok(self.with_edit(Edit::new(what, vec![(hook, Arc::new(change))]).starting_at(first)))
    }

    /// The model with a direction added to an activation at every position: steering (Turner et al. 2023).
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let direction = model.run_with_cache("king")?.resid_pre(1)?.select("position", 1)?;
    /// let steered = model.steer(("resid_pre", 1), &direction, 4.0)?;
    /// println!("{}", steered.generate("the", &Sampling::default())?);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn steer(&self, hook: impl IntoHook, direction: &NamedTensor, coefficient: f64) -> Result<Model> {
        let hook = self.hook(hook)?;
        check_direction(direction, coefficient)?;
        if coefficient == 0.0 {
            return Err(Error::new(
                ErrorKind::Edit,
                format!("0 times `{}` changes nothing", direction.name()),
            )
            .help("give a coefficient that is not 0"));
        }
        let scaled = (direction.tensor().to_device(self.network.device())? * coefficient)?;
        let what = format!("{coefficient} x {} added at {hook}", direction.name());
        let change = move |activation: &Tensor, _: usize| Ok(activation.broadcast_add(&scaled)?);
        self.with_edit(Edit::new(what, vec![(hook, Arc::new(change))])).tried_at(hook)
    }

    /// The model with what an activation has of a direction set to a number at every position: 0 takes the direction away (Arditi et al.
    /// 2024, "Refusal in Language Models Is Mediated by a Single Direction", 2.4). How long the direction is plays no part.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let direction = model.run_with_cache("king")?.resid_pre(1)?.select("position", 1)?;
    /// let without = model.ablate_direction(("resid_pre", 1), &direction, 0.0)?;
    /// println!("{without:?}");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn ablate_direction(&self, hook: impl IntoHook, direction: &NamedTensor, to: f64) -> Result<Model> {
        let hook = self.hook(hook)?;
        check_direction(direction, to)?;
        let values = direction.tensor().to_device(self.network.device())?;
        let unit = values.broadcast_div(&values.sqr()?.sum_all()?.sqrt()?)?;
        let what = format!("what {hook} has of {} set to {to}", direction.name());
        let change = move |activation: &Tensor, _: usize| {
            let along = activation.broadcast_mul(&unit)?.sum_keepdim(D::Minus1)?;
            Ok((activation - (along - to)?.broadcast_mul(&unit)?)?)
        };
        self.with_edit(Edit::new(what, vec![(hook, Arc::new(change))])).tried_at(hook)
    }

    /// The model with something taken away from what heads mix at one position: `[head, d_head]`.
    pub(crate) fn without_message(&self, hook: Hook, position: usize, taken: Tensor) -> Model {
        let change = move |z: &Tensor, start: usize| {
            let Some(at) = position.checked_sub(start).filter(|&at| z.dim(1).is_ok_and(|len| at < len))
            else {
                return Ok(z.clone());
            };
            let own = (z.narrow(1, at, 1)?.broadcast_sub(&taken.unsqueeze(0)?.unsqueeze(0)?))?;
            let after = z.dim(1)? - at - 1;
            Ok(Tensor::cat(&[z.narrow(1, 0, at)?, own, z.narrow(1, at + 1, after)?], 1)?)
        };
        let what = format!("a message to {position} taken from {hook}");
        self.with_edit(Edit::new(what, vec![(hook, Arc::new(change))]).starting_at(position))
    }

    /// The model with attention edges cut before the softmax: the query cannot look at the key, and what it paid there
    /// goes to other keys. An edge beyond the end of a run waits for a longer one, in generation say.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let cut = model.knock_out(&[AttentionEdge { head: head(1, 0), query: 6, key: 4 }])?;
    /// let pattern = cut.run_with_cache("the cat sat the cat sat")?.pattern(1)?;
    /// assert_eq!(pattern.value(&[0, 6, 4])?, 0.0);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn knock_out(&self, edges: &[AttentionEdge]) -> Result<Model> {
        if edges.is_empty() {
            return Err(Error::new(ErrorKind::Edit, "no edge to knock out: the model would be the same")
                .help("name at least one: AttentionEdge { head: head(1, 0), query: 6, key: 4 }"));
        }
        let mut attentions: BTreeMap<Hook, BTreeMap<(usize, usize), Vec<usize>>> = BTreeMap::new();
        for &AttentionEdge { head, query, key } in edges {
            self.spec().check_head(head)?;
            let hook = head.hook(Site::AttnScores);
            let queries = self.spec().stack_of(hook)?;
            let sources = self.spec().stack_of_axis(hook, AxisKind::Key)?;
            let looks_back = queries.stack == sources.stack && queries.sees.is_causal();
            let (n_queries, n_keys) = (queries.dims.n_ctx, sources.dims.n_ctx);
            if query >= n_queries || key >= n_keys || looks_back && key > query {
                let error =
                    Error::new(ErrorKind::Edit, format!("there is no edge from query {query} to key {key}"));
                return Err(match looks_back {
                    true => error.help(format!("a query looks back: key <= query < {n_queries}")),
                    false => error.help(format!("query < {n_queries}, key < {n_keys}")),
                });
            }
            let keys = attentions.entry(hook).or_default().entry((head.head, query)).or_default();
            if !keys.contains(&key) {
                keys.push(key);
            }
            if looks_back && keys.len() > query {
                return Err(no_key_left(query, head));
            }
        }
        let changes = attentions.into_iter().map(|(hook, cuts)| {
            let change = move |scores: &Tensor, start: usize| {
                let (_, heads, queries, keys) = scores.dims4()?;
                let mut cut = vec![0f32; heads * queries * keys];
                for (&(head, query), gone) in &cuts {
                    if (start..start + queries).contains(&query) {
                        let row = (head * queries + query - start) * keys;
                        // An edge beyond the end of a run waits for a longer one.
                        gone.iter()
                            .filter(|key| **key < keys)
                            .for_each(|key| cut[row + key] = f32::NEG_INFINITY);
                    }
                }
                let cut = Tensor::from_vec(cut, (1, heads, queries, keys), scores.device())?;
                let scores = scores.broadcast_add(&cut)?;
                // Another edit may have cut the keys that this one left.
                let best: Vec<Vec<Vec<f32>>> = scores.max(3)?.to_vec3()?;
                for (head, query) in cuts.keys().filter(|(_, query)| (start..start + queries).contains(query))
                {
                    if best.iter().any(|row| row[*head][query - start] == f32::NEG_INFINITY) {
                        let of = head_at(hook.layer().unwrap_or(0), *head).of(hook.stack());
                        return Err(no_key_left(*query, Head { attn: hook.attn(), ..of }));
                    }
                }
                Ok(scores)
            };
            let change: Arc<Change> = Arc::new(change);
            (hook, change)
        });
        let label = format!("{} attention edges knocked out", edges.len());
        Ok(self.with_edit(Edit::new(label, changes.collect())))
    }

    /// The model with a change of one's own at a hook. The closure gets the activation, batch first, and gives one of
    /// the same shape; it is tried on a short input at once.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let halved = model.edit(("mlp_out", 0), "MLP 0 halved", |x| Ok((x * 0.5)?))?;
    /// assert_ne!(halved.loss("the cat sat")?, model.loss("the cat sat")?);
    /// assert!(model.edit(("mlp_out", 0), "wrong", |x| Ok(x.sum(1)?)).is_err());
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn edit(
        &self,
        hook: impl IntoHook,
        what: impl Into<String>,
        change: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Model> {
        let hook = self.hook(hook)?;
        self.edit_with(hook, what.into(), change).tried_at(hook)
    }

    /// An edit of the crate's own, which needs no trial.
    pub(crate) fn edit_with(
        &self,
        hook: Hook,
        what: String,
        change: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Model {
        self.with_edit(Edit::new(what, vec![(hook, Arc::new(move |x, _| change(x)))]))
    }

    /// The edits, in the order in which they were made.
    pub fn edits(&self) -> Vec<String> {
        self.edits.iter().map(Edit::to_string).collect()
    }

    fn with_edit(&self, edit: Edit) -> Model {
        let mut model = self.clone();
        model.edits.push(edit);
        model
    }

    /// Tries the edits on a short input, so that a change that cannot work is known where it was made.
    fn tried_at(self, hook: Hook) -> Result<Model> {
        let mut batch = Batch::default();
        for spec in self.spec().stacks() {
            let ids = vec![self.bos().unwrap_or(0); spec.dims.n_ctx.min(2)];
            let read = match spec.reads.positions() {
                None => Tensor::new(vec![ids], self.device())?,
                Some(positions) => {
                    let shape = (1, positions, spec.reads.numbers_of_patch());
                    Tensor::zeros(shape, DType::F32, self.device())?
                }
            };
            batch = batch.with(spec.stack, read, None);
        }
        self.execute(batch.into(), None, &mut Record::new([hook]))?;
        Ok(self)
    }

    /// Fails if the model has no such component.
    fn check_component(&self, component: Component) -> Result<()> {
        match component {
            Component::Head(head) => self.spec().check_head(head).map(drop),
            Component::Mlp(mlp) => self.hook(mlp.hook(Site::MlpOut)).map(drop),
            Component::Neuron(mlp, index) => {
                let dims = self.spec().stack_of(self.hook(mlp.hook(Site::MlpPost))?)?.dims;
                if index < dims.d_mlp {
                    return Ok(());
                }
                Err(Error::new(
                    ErrorKind::Address,
                    format!("there is no {component}: an MLP has {} neurons", dims.d_mlp),
                )
                .help(format!("neurons are 0 to {}", dims.d_mlp - 1)))
            }
        }
    }
}

/// The rows of another run's activation that stand at positions `start` and after.
fn rows(source: &Tensor, hook: Hook, dim: usize, start: usize, len: usize) -> Result<Tensor> {
    let known = source.dim(dim)?;
    if start + len > known || (start == 0 && len != known) {
        return Err(other_length(hook, known, start + len));
    }
    Ok(source.narrow(dim, start, len)?)
}

/// Fails unless a tensor is a direction, and a number finite.
fn check_direction(direction: &NamedTensor, number: f64) -> Result<()> {
    let values = direction.to_vec()?;
    if direction.axes().len() != 1 || !number.is_finite() {
        let what = format!(
            "{number} and `{}` of shape {:?} are no number and no direction",
            direction.name(),
            direction.shape()
        );
        return Err(Error::new(ErrorKind::Edit, what)
            .help("give a NamedTensor of one axis, as wide as the activation, and a number that is finite"));
    }
    if values.iter().any(|value| !value.is_finite()) || values.iter().all(|value| *value == 0.0) {
        return Err(Error::new(ErrorKind::Edit, format!("`{}` is zero or not finite", direction.name()))
            .help("a direction has a length"));
    }
    Ok(())
}

fn no_key_left(query: usize, head: Head) -> Error {
    Error::new(ErrorKind::Edit, format!("query {query} of {head} would have no key left"))
        .help("leave it at least one, the first token say; or ablate the head")
}

fn other_length(hook: Hook, known: usize, run: usize) -> Error {
    Error::new(
        ErrorKind::Edit,
        format!("the activation for `{hook}` is of {known} tokens, but {run} are run"),
    )
    .help("take it from a run of as many tokens")
}
