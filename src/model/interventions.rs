//! Interventions: models that are made to do something differently.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{AxisKind, Head, Hook, IntoHook, Site};
use crate::model::edit::{Ablation, AttentionEdge, Change, Component, Components, Edit};
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::NamedTensor;
use crate::network::record::Record;
use crate::network::start::Start;

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
                .help("name at least one head, as head(1, 0), or an MLP, as Component::Mlp(0)"));
        }
        let mut by_hook: BTreeMap<(usize, Site), (Hook, Vec<usize>)> = BTreeMap::new();
        for component in &components {
            self.check_component(*component)?;
            let (hook, index) = component.hook_and_index();
            let entry = by_hook.entry((hook.layer().unwrap_or(0), hook.site())).or_insert((hook, Vec::new()));
            entry.1.extend(index);
        }
        let names: Vec<String> = components.iter().map(Component::to_string).collect();
        let change =
            |(hook, indices): (Hook, Vec<usize>)| Ok((hook, self.ablation(hook, &indices, ablation)?));
        let changes = by_hook.into_values().map(change).collect::<Result<_>>()?;
        Ok(self.with_edit(Edit::new(format!("{} {ablation}-ablated", names.join(", ")), changes)))
    }

    fn ablation(&self, hook: Hook, indices: &[usize], ablation: Ablation) -> Result<Arc<Change>> {
        let dims = *self.dims();
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
            return Err(Error::new(ErrorKind::Edit, format!("`{hook}` has no positions to patch")));
        };
        let head_dim = match (head, site.head_axis().map(|dim| dim + 1)) {
            (None, _) => None,
            (Some(index), Some(dim)) => {
                Head { layer: hook.layer().unwrap_or(0), head: index }
                    .check(self.dims().n_layers, self.heads_at(hook.site()))?;
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
        let values = direction.to_vec()?;
        if direction.axes().len() != 1 || !coefficient.is_finite() || coefficient == 0.0 {
            return Err(Error::new(
                ErrorKind::Edit,
                format!(
                    "{coefficient} times `{}` of shape {:?} is no direction",
                    direction.name(),
                    direction.shape()
                ),
            )
            .help(
                "give a NamedTensor of one axis, as wide as the activation, and a coefficient that is not 0",
            ));
        }
        if values.iter().any(|value| !value.is_finite()) || values.iter().all(|value| *value == 0.0) {
            return Err(Error::new(ErrorKind::Edit, format!("`{}` is zero or not finite", direction.name()))
                .help("a direction has a length"));
        }
        let scaled = (direction.tensor().to_device(self.network.device())? * coefficient)?;
        let what = format!("{coefficient} x {} added at {hook}", direction.name());
        let change = move |activation: &Tensor, _: usize| Ok(activation.broadcast_add(&scaled)?);
        self.with_edit(Edit::new(what, vec![(hook, Arc::new(change))])).tried_at(hook)
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
        let dims = *self.dims();
        if edges.is_empty() {
            return Err(Error::new(ErrorKind::Edit, "no edge to knock out: the model would be the same")
                .help("name at least one: AttentionEdge { head: head(1, 0), query: 6, key: 4 }"));
        }
        let mut layers: BTreeMap<usize, BTreeMap<(usize, usize), Vec<usize>>> = BTreeMap::new();
        for &AttentionEdge { head, query, key } in edges {
            dims.check_head(head)?;
            if key > query || query >= dims.n_ctx {
                return Err(Error::new(
                    ErrorKind::Edit,
                    format!("there is no edge from query {query} to key {key}"),
                )
                .help(format!("a query looks back: key <= query < {}", dims.n_ctx)));
            }
            let keys = layers.entry(head.layer).or_default().entry((head.head, query)).or_default();
            if !keys.contains(&key) {
                keys.push(key);
            }
            if keys.len() > query {
                return Err(no_key_left(query, head));
            }
        }
        let changes = layers.into_iter().map(|(layer, cuts)| {
            let change = move |scores: &Tensor, start: usize| {
                let (_, heads, queries, keys) = scores.dims4()?;
                let mut cut = vec![0f32; heads * queries * keys];
                for (&(head, query), gone) in &cuts {
                    if (start..start + queries).contains(&query) {
                        let row = (head * queries + query - start) * keys;
                        gone.iter().for_each(|key| cut[row + key] = f32::NEG_INFINITY);
                    }
                }
                let cut = Tensor::from_vec(cut, (1, heads, queries, keys), scores.device())?;
                let scores = scores.broadcast_add(&cut)?;
                // Another edit may have cut the keys that this one left.
                let best: Vec<Vec<Vec<f32>>> = scores.max(3)?.to_vec3()?;
                for (head, query) in cuts.keys().filter(|(_, query)| (start..start + queries).contains(query))
                {
                    if best.iter().any(|row| row[*head][query - start] == f32::NEG_INFINITY) {
                        return Err(no_key_left(*query, Head { layer, head: *head }));
                    }
                }
                Ok(scores)
            };
            let change: Arc<Change> = Arc::new(change);
            (Site::AttnScores.at(layer), change)
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
        let ids = vec![self.bos().unwrap_or(0); self.dims().n_ctx.min(2)];
        let ids = Tensor::new(vec![ids], self.network.device())?;
        self.execute(Start::Tokens(ids), None, &mut Record::new([hook]))?;
        Ok(self)
    }

    /// Fails if the model has no such component.
    fn check_component(&self, component: Component) -> Result<()> {
        let dims = self.dims();
        match component {
            Component::Head(head) => dims.check_head(head).map(|_| ()),
            Component::Mlp(layer) => self.hook(Site::MlpOut.at(layer)).map(|_| ()),
            Component::Neuron { layer, index } => {
                self.hook(Site::MlpPost.at(layer))?;
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
