//! `sft`: supervised fine-tuning on rows; pre-training and rejection fine-tuning are the same kind over other rows.

use anyhow::Result;

use crate::stages::common::{self, check_responses};
use crate::stages::loaded_model::Model;
use crate::stages::overlong::{self, Fitted, Long, fit};
use crate::stages::training_common::{self, Keep, training_table};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::jsonl;
use ablate_data::records::Row;
use ablate_nn::train::{self, OptimizerConfig, SftConfig};

pub static KIND: Kind = Kind {
    name: "sft",
    version: 6,
    about: "supervised fine-tuning on rows",
    outputs: &[OutputSpec::new("model", ArtifactKind::Checkpoint), OutputSpec::new("curve.jsonl", ArtifactKind::Curve)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Model,
    parse,
    schema: schema_of::<Table>,
};

training_table! {
/// The keys of the kind. Defaults are the paper's: one epoch of batches of 32 at 5e-6.
struct Table {
    model: Reference,
    data: Reference,
    /// What becomes of rows that are longer than the model takes.
    #[serde(default)]
    too_long: Long,
}}

#[derive(Debug)]
struct Sft {
    model: Reference,
    data: Reference,
    too_long: Long,
    train: SftConfig,
    keep: Keep,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let (epochs, batch) = (table.epochs.unwrap_or(1), table.batch.unwrap_or(32));
    let length_window = table.length_window.unwrap_or(training_common::LENGTH_WINDOW);
    let optimizer = table.optimizer(OptimizerConfig::default());
    let (tuning, keep) = (table.tuning(), table.keep());
    let errors = training_common::check_training(&optimizer, &tuning, epochs, batch, length_window, keep);
    if !errors.is_empty() {
        return Err(errors);
    }
    let train = SftConfig { epochs, batch, length_window, optimizer, tuning };
    Ok(Box::new(Sft { model: table.model, data: table.data, too_long: table.too_long, train, keep }))
}

impl Stage for Sft {
    fn identify(&self, manifest: &mut Manifest) {
        let Sft { model: _, data: _, too_long, train, keep: _ } = self;
        let SftConfig { epochs, batch, length_window, optimizer, tuning } = train;
        manifest.value("epochs", epochs);
        manifest.value("batch", batch);
        manifest.value("length_window", length_window);
        training_common::identify_optimizer(manifest, optimizer);
        training_common::identify_tuning(manifest, tuning);
        manifest.value_unless("too_long", too_long, &Long::Error);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            common::input("model", &self.model, &[ArtifactKind::Checkpoint]),
            common::input("data", &self.data, &[ArtifactKind::Rows]),
        ]
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let model = Model::read(ctx, "model")?;
        let rows: Vec<Row> = jsonl::read(&ctx.input("data")?.path)?;
        check_responses(rows.iter().map(|row| (&row.id, &row.dataset, &row.response)))?;
        let (chat, named) = (&model.chat, ("rows", "the end of their response"));
        let Fitted { places, sequences, warnings } =
            fit(&rows, named, self.too_long, |row| chat.encode_row(row), |row| chat.truncate_row(row))?;
        let seen = training_common::seen(ctx, "model", &model, &overlong::at(rows, &places))?;
        let resources = training_common::resources(ctx)?;
        let state = self.keep.state(ctx);
        let Model { checkpoint, images, chat: _ } = model;
        let trained = train::sft(checkpoint, &sequences, &*images, &self.train, ctx.seed, &state, &resources)?;
        let summary = training_common::finish(ctx, &trained, "model", &seen, resources.device)?;
        Ok(summary.with("rows", sequences.len()).with_warnings(warnings))
    }
}
