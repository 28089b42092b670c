//! Logits, losses and gradients against PyTorch (`tests/golden/make_golden.py`), for our operations and dfdx's.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use dfdx::prelude::Cpu;
use serde::Deserialize;

use super::support::relative_error;
use crate::cpu::CpuOps;
use crate::dfdx::DfdxOps;
use crate::gradients::{GradientAccumulator, Shard};
use crate::model::Model;
use crate::ops::AutogradOps;
use crate::session::Session;
use crate::tests::support::{self, RESOURCES};
use crate::train::dpo::Preference;
use crate::train::preference::{PreferenceLoss, Reduction};
use crate::train::run::Objective;
use crate::train::sft::{CrossEntropy, sequence};
use crate::trainable_model::TrainableModel;
use crate::{Batch, Checkpoint, ImageShape, PixelSource, PixelValues, Sequence, arrays};
use ablate_core::base::files;
use ablate_data::tokens::{TokenPair, TokenRow};

#[derive(Deserialize)]
struct Data {
    rows: Vec<Row>,
    pairs: Vec<Pair>,
    beta: f64,
    sft_weight: f64,
    images: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct Row {
    image: Option<String>,
    tokens: Vec<u32>,
    loss: Vec<bool>,
}

#[derive(Deserialize)]
struct Pair {
    chosen: Row,
    rejected: Row,
}

impl Row {
    fn images(&self) -> Vec<String> {
        self.image.iter().cloned().collect()
    }

    fn token_row(&self) -> TokenRow {
        TokenRow { tokens: self.tokens.clone(), loss: self.loss.clone(), images: self.images() }
    }
}

struct Golden {
    data: Data,
    policy: Checkpoint,
    reference: Checkpoint,
    expected: BTreeMap<String, Vec<f32>>,
}

fn golden() -> Golden {
    let data: Data = files::read_json(&support::golden("data.json")).unwrap();
    let policy = Checkpoint::read(&support::golden("policy")).unwrap();
    let reference = Checkpoint::read(&support::golden("reference")).unwrap();
    let mut names = vec![("sft.loss".to_string(), vec![1]), ("dpo.loss".to_string(), vec![1])];
    for (index, row) in data.rows.iter().enumerate() {
        names.push((format!("logits.{index}"), vec![row.tokens.len() - 1, policy.architecture.vocab]));
    }
    for parameter in policy.list() {
        names.push((format!("sft.{}", parameter.name), parameter.shape.clone()));
        names.push((format!("dpo.{}", parameter.name), parameter.shape));
    }
    let (values, _) = arrays::read(&support::golden("expected.safetensors"), &names).unwrap();
    let expected = names.into_iter().map(|(name, _)| name).zip(values).collect();
    Golden { data, policy, reference, expected }
}

impl PixelSource for Data {
    fn shape(&self, _: &str) -> Result<ImageShape> {
        Ok(ImageShape::single(8, 8, 8))
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let values = self.images.get(key).context("no such image")?;
        Ok(PixelValues { shape: self.shape(key)?, values: values.as_slice().into() })
    }
}

impl Golden {
    fn batch(&self, model: &Checkpoint, sequences: &[Sequence], padded: bool) -> Batch {
        Batch::new(&model.architecture, sequences, padded, &self.data).unwrap()
    }

    /// Gradients of the mean loss over all examples, in one shard, and the loss.
    fn gradients<O: AutogradOps<Weights: Default, Gradients = Shard>>(
        &self,
        objective: &impl Objective,
        count: usize,
    ) -> (Vec<Vec<f32>>, f64) {
        let examples: Vec<usize> = (0..count).collect();
        let sequences: Vec<Sequence> = examples.iter().flat_map(|&example| objective.sequences(example)).collect();
        let batch = self.batch(&self.policy, &sequences, O::NEEDS_PADDING);
        let totals = objective.totals(&examples);
        let slopes = |sums: &[[f64; 2]]| Ok(objective.slopes(&examples, totals, sums));
        let trainable_model = TrainableModel::new(self.policy.clone(), None, |_| true);
        let model = Model::new(&O::Weights::default(), &trainable_model).unwrap();
        let sum = Arc::new(GradientAccumulator::new(&trainable_model));
        let shard = Shard::new(&sum, 0);
        let stats = model.forward_backward::<O, _>(&shard, &batch, &objective.groups(&batch), &slopes).unwrap();
        shard.finish().unwrap();
        (sum.take(), stats.loss)
    }

    fn check<O: AutogradOps<Weights: Default, Gradients = Shard>>(
        &self,
        name: &str,
        objective: &impl Objective,
        examples: usize,
    ) {
        let (gradients, loss) = self.gradients::<O>(objective, examples);
        let expected = f64::from(self.expected[&format!("{name}.loss")][0]);
        assert!((loss / expected - 1.0).abs() < 1e-5, "{name}: loss {loss}, not {expected}");
        let mut wrong = Vec::new();
        for (parameter, ours) in self.policy.list().into_iter().zip(&gradients) {
            let error = relative_error(ours, &self.expected[&format!("{name}.{}", parameter.name)]);
            if error > 1e-4 {
                wrong.push((parameter.name, error));
            }
        }
        assert!(wrong.is_empty(), "{name}: gradients are off by {wrong:?}");
    }

    fn preference<'a>(&self, pairs: &'a [TokenPair]) -> Preference<'a> {
        let session = Session::new(&TrainableModel::frozen(&self.reference), &RESOURCES).unwrap();
        let build = |index: usize| {
            let pair: &TokenPair = &pairs[index];
            Ok(self.batch(&self.reference, &[sequence(&pair.chosen), sequence(&pair.rejected)], false))
        };
        let ratio = |_: usize, batch: &Batch, values: &[f32]| {
            let sums = batch.sum_by_row(values);
            sums[0] - sums[1]
        };
        let reference = session.log_probs(pairs.len(), &build, &ratio).unwrap();
        let reduction = Reduction { weights: None, mean: false };
        let loss = PreferenceLoss::Sigmoid { label_smoothing: 0.0 };
        let Data { beta, sft_weight, .. } = self.data;
        Preference { pairs, reference, reduction, loss, beta, sft_weight }
    }
}

#[test]
fn logits_match_pytorch() {
    let golden = golden();
    let session = Session::new(&TrainableModel::frozen(&golden.policy), &RESOURCES).unwrap();
    for (index, row) in golden.data.rows.iter().enumerate() {
        // Every position is selected, so that all logits are computed.
        let loss = vec![true; row.tokens.len()];
        let sequence = Sequence { tokens: &row.tokens, loss: &loss, images: &row.images() };
        let ours = session.logits(&golden.batch(&golden.policy, &[sequence], false)).unwrap();
        let error = relative_error(&ours, &golden.expected[&format!("logits.{index}")]);
        assert!(error < 1e-5, "row {index}: {error:e}");
    }
}

#[test]
fn cross_entropy_matches_pytorch() {
    let golden = golden();
    let rows: Vec<TokenRow> = golden.data.rows.iter().map(Row::token_row).collect();
    let objective = CrossEntropy { rows: &rows };
    golden.check::<CpuOps>("sft", &objective, rows.len());
    golden.check::<DfdxOps<Cpu>>("sft", &objective, rows.len());
}

#[test]
fn preference_loss_matches_pytorch() {
    let golden = golden();
    let pair =
        |Pair { chosen, rejected }: &Pair| TokenPair { chosen: chosen.token_row(), rejected: rejected.token_row() };
    let pairs: Vec<TokenPair> = golden.data.pairs.iter().map(pair).collect();
    let objective = golden.preference(&pairs);
    golden.check::<CpuOps>("dpo", &objective, pairs.len());
    golden.check::<DfdxOps<Cpu>>("dpo", &objective, pairs.len());
}
