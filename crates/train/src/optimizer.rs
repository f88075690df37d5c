//! The optimiser: AdamW over what is trained of a model, with its moments and their way into and out
//! of a checkpoint. The arithmetic of one tensor is in [`crate::ops::adamw`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::model::adapter::Trained;
use crate::model::weights::Spec;
use crate::model::{Decoder, Gradients};
use crate::ops::{AdamWStep, Backend, Cpu, Kind};

/// AdamW with decoupled weight decay on matrices alone, not on norms and biases.
pub struct AdamW<B: Backend = Cpu> {
    /// Decay of the first moment, 0.9.
    pub beta1: f32,
    /// Decay of the second moment, 0.999.
    pub beta2: f32,
    /// Added to the root of the second moment, 1e-8.
    pub eps: f32,
    /// Share of the learning rate by which matrices shrink at each step, 0.
    pub weight_decay: f32,
    /// Steps done.
    steps: u64,
    /// First and second moments.
    moments: [Trained<B::Tensor>; 2],
    specs: Arc<Trained<Spec>>,
}

/// A moment by its name in a checkpoint.
pub type Named<'a> = (String, Cow<'a, [f32]>);

/// What the moments are called in a checkpoint, as PyTorch calls them.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl<B: Backend + Clone> AdamW<B> {
    /// Moments at zero and the usual constants, which the caller may change before the first step.
    #[must_use]
    pub fn new(model: &Decoder<B>) -> Self {
        let specs = model.trained_specs();
        let zeros = || specs.map(|spec| model.backend().zeros(Kind::Moment, spec.elements()));
        let moments = [zeros(), zeros()];
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, steps: 0, moments, specs }
    }

    /// Moves everything that is trained against its gradient.
    pub fn step(&mut self, model: &mut Decoder<B>, gradients: &Gradients<B>, learning_rate: f32) {
        self.steps += 1;
        let backend = model.backend().clone();
        let [first, second] = &mut self.moments;
        let moments = first.all_mut().into_iter().zip(second.all_mut());
        let tensors = model.trained_mut().into_iter().zip(gradients.tensors().all());
        for ((spec, (parameter, gradient)), (first, second)) in
            self.specs.all().into_iter().zip(tensors).zip(moments)
        {
            let step = AdamWStep {
                step: self.steps,
                learning_rate,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: if spec.decays() { self.weight_decay } else { 0.0 },
            };
            backend.adamw(&step, parameter, gradient, [first, second]);
        }
    }
}

impl<B: Backend + Clone> AdamW<B> {
    /// Steps done, and the moments as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`.
    #[must_use]
    pub fn state(&self, backend: &B) -> (u64, Vec<Named<'_>>) {
        let mut all = Vec::new();
        for (moment, tensors) in MOMENTS.iter().zip(&self.moments) {
            for (spec, tensor) in self.specs.all().into_iter().zip(tensors.all()) {
                let values = backend.view(tensor, spec.elements());
                all.extend(spec.parts.iter().map(|part| {
                    let part_values = match &values {
                        Cow::Borrowed(values) => Cow::Borrowed(&values[part.range.clone()]),
                        Cow::Owned(values) => Cow::Owned(values[part.range.clone()].to_vec()),
                    };
                    (format!("{moment}.{}", part.name), part_values)
                }));
            }
        }
        (self.steps, all)
    }

    /// Takes up the state that [`AdamW::state`] gave.
    ///
    /// # Errors
    /// If a moment is missing, of another length, or of a parameter that the model does not have.
    pub fn restore(
        &mut self,
        backend: &B,
        steps: u64,
        moments: &[(String, Vec<f32>)],
    ) -> Result<()> {
        let mut given: BTreeMap<&str, &[f32]> =
            moments.iter().map(|(name, values)| (&name[..], &values[..])).collect();
        let specs = Arc::clone(&self.specs);
        for (moment, tensors) in MOMENTS.iter().zip(&mut self.moments) {
            for (spec, tensor) in specs.all().into_iter().zip(tensors.all_mut()) {
                let mut values = vec![0.0; spec.elements()];
                restore_one(moment, spec, &mut values, &mut given)?;
                *tensor = backend.tensor(Kind::Moment, values);
            }
        }
        ensure!(
            given.is_empty(),
            "the optimiser's state has {} too many: {:?}",
            given.len(),
            given.keys().next()
        );
        self.steps = steps;
        Ok(())
    }
}

fn restore_one(
    moment: &str,
    spec: &Spec,
    tensor: &mut [f32],
    given: &mut BTreeMap<&str, &[f32]>,
) -> Result<()> {
    for part in &spec.parts {
        let name = format!("{moment}.{}", part.name);
        let values = given.remove(&name[..]);
        let found = values.map_or(0, <[f32]>::len);
        ensure!(
            found == part.range.len(),
            "{name}: {found} values in the state, {} in the model",
            part.range.len()
        );
        tensor[part.range.clone()].copy_from_slice(values.unwrap_or_default());
    }
    Ok(())
}
