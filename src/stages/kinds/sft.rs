//! `sft`: supervised fine-tuning on rows. Pre-training and rejection-sampling fine-tuning use the same kind with other
//! rows.

use anyhow::Result;

use crate::stages::common::{self, check_history, check_responses};
use crate::stages::loaded_model::LoadedModel;
use crate::stages::too_long::{self, Encoded, TooLongAction, encode};
use crate::stages::training_common;
use crate::stages::training_table::{self, CheckpointInterval, training_table};
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
    Training, Work,
};
use ablate_data::jsonl;
use ablate_data::records::Row;
use ablate_nn::Precision;
use ablate_nn::train::{self, OptimizerConfig, SftConfig};

pub static KIND: Kind = Kind {
    name: "sft",
    version: 7,
    about: "supervised fine-tuning on rows",
    outputs: &[
        OutputSpec::new(training_common::MODEL, ArtifactKind::Checkpoint),
        OutputSpec::new("curve.jsonl", ArtifactKind::Curve),
    ],
    fan_out: &[],
    seeded: true,
    pool: Pool::Model,
    work: Work::training,
    parse,
    schema: schema_of::<Table>,
};

training_table! {
/// The keys of the kind. The defaults are the paper's: one epoch, batches of 32 rows, a learning rate of 5e-6.
struct Table {
    model: Reference,
    data: Reference,
    /// Whether the loss covers only the last response of a conversation, not those of its earlier turns.
    #[serde(default)]
    mask_history: bool,
    /// What happens to rows that exceed the context length.
    #[serde(default)]
    too_long: TooLongAction,
}}

#[derive(Debug)]
struct Sft {
    model: Reference,
    data: Reference,
    mask_history: bool,
    too_long: TooLongAction,
    train: SftConfig,
    precision: Precision,
    interval: CheckpointInterval,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let batches = table.batches();
    let optimizer = table.optimizer(OptimizerConfig::default());
    let (tuning, interval) = (table.tuning(), table.checkpoint_interval());
    let errors = training_table::check_training(&table.lengths(), &batches, &optimizer, &tuning, interval);
    if !errors.is_empty() {
        return Err(errors);
    }
    let train = SftConfig { batches, optimizer, tuning };
    let Table { model, data, mask_history, too_long, precision, .. } = table;
    Ok(Box::new(Sft { model, data, mask_history, too_long, train, precision, interval }))
}

impl Stage for Sft {
    fn identify(&self, manifest: &mut Manifest) {
        let Sft { model: _, data: _, mask_history, too_long, train, precision, interval: _ } = self;
        let SftConfig { batches, optimizer, tuning } = train;
        training_common::identify_batches(manifest, batches);
        training_common::identify_optimizer(manifest, optimizer);
        training_common::identify_tuning(manifest, tuning);
        manifest.value_unless("precision", precision, &Precision::F32);
        manifest.value_unless("mask_history", mask_history, &false);
        manifest.value_unless("too_long", too_long, &TooLongAction::Error);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            common::stage_input("model", &self.model, &[ArtifactKind::Checkpoint]),
            common::stage_input("data", &self.data, &[ArtifactKind::Rows]),
        ]
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("model"))
    }

    fn base_input(&self, output: &str) -> Option<&'static str> {
        training_common::base_input(&self.train.tuning, output, "model")
    }

    fn training(&self) -> Option<Training> {
        Some(training_common::training(&self.train.batches))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let model = LoadedModel::load(ctx, "model")?;
        let rows: Vec<Row> = jsonl::read(&ctx.input("data")?.path)?;
        check_responses(rows.iter().map(|row| (&row.id, &row.dataset, &row.response)))?;
        if !self.mask_history {
            check_history(&rows)?;
        }
        let (chat, mask_history, words) = (&model.chat, self.mask_history, ("rows", "the end of their response"));
        let whole = |row: &Row| chat.encode_row(row, mask_history);
        let cut = |row: &Row| chat.truncate_row(row, mask_history);
        let Encoded { indices, sequences, warnings } = encode(&rows, words, self.too_long, whole, cut)?;
        let sampler = self.train.sampler(&sequences, ctx.seed).map_err(wrong_input)?;
        let rows = too_long::select(rows, &indices);
        let seen = training_common::training_index(ctx, "model", &model, &rows, |row| &row.dataset, &sampler)?;
        drop(rows);
        let resources = training_common::resources(ctx, self.precision)?;
        let state = self.interval.train_state(ctx);
        let LoadedModel { checkpoint, images, chat: _ } = model;
        let trained = train::sft(checkpoint, &sequences, &*images, &self.train, ctx.seed, &state, &resources)?;
        let summary = training_common::write_outputs(ctx, &trained, "model", &seen, resources.device)?;
        Ok(summary.with("rows", sequences.len()).with_warnings(warnings))
    }
}
