//! Kinds for the engine's tests. They write text, note that they ran, and fail in the way that a marker file asks for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use ablate_core::base::{Detached, files};
use ablate_core::stage::{
    ArtifactKind, ConfigError, EstimateContext, HubRepository, Input, InputSource, Kind, Manifest, OutputSpec, Pool,
    Reference, Registry, RequestEstimate, Stage, StageContext, Summary, Work, config,
};

pub(crate) static REGISTRY: &Registry = &[&TEXT, &MODEL, &TEXT_V2, &TEACHER];

/// Concatenates the rows of its inputs and adds a word.
static TEXT: Kind = Kind {
    name: "text",
    version: 1,
    about: "concatenates rows",
    outputs: &[OutputSpec::new("rows.jsonl", ArtifactKind::Rows), OutputSpec::new("facts.json", ArtifactKind::Facts)],
    fan_out: &[],
    seeded: false,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: config::schema_of::<Value>,
};

/// A later version of `text`.
static TEXT_V2: Kind = Kind { version: 2, name: "text", ..copy(&TEXT) };

/// Like `text`, but writes a checkpoint and has a seed.
static MODEL: Kind = Kind {
    name: "model",
    outputs: &[OutputSpec::new("model", ArtifactKind::Checkpoint)],
    seeded: true,
    pool: Pool::Model,
    ..copy(&TEXT)
};

static TEACHER: Kind = Kind { name: "teacher", pool: Pool::Teacher, ..copy(&TEXT) };

const fn copy(kind: &Kind) -> Kind {
    Kind {
        name: kind.name,
        version: kind.version,
        about: kind.about,
        outputs: kind.outputs,
        fan_out: kind.fan_out,
        seeded: kind.seeded,
        pool: kind.pool,
        work: kind.work,
        parse: kind.parse,
        schema: kind.schema,
    }
}

fn parse(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    config::parse::<TextStage>(table).map(|stage| Box::new(stage) as Box<dyn Stage>)
}

/// Only `word` and `trim` are part of the identity, so a test can change the rest without a new fingerprint.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextStage {
    /// The folder of the test. Each execution adds a line to its file `ran`. A file `<name>.<fault>` makes the stage fail
    /// in that way.
    folder: PathBuf,
    name: String,
    #[serde(default)]
    word: String,
    #[serde(default)]
    trim: bool,
    /// Whether it would send a request per row of its inputs.
    #[serde(default)]
    requests: bool,
    path: Option<String>,
    #[serde(default)]
    from: Vec<Reference>,
}

impl TextStage {
    fn has_fault(&self, fault: &str) -> bool {
        self.folder.join(format!("{}.{fault}", self.name)).exists()
    }
}

impl Stage for TextStage {
    fn identify(&self, manifest: &mut Manifest) {
        let TextStage { folder: _, name: _, word, trim, requests: _, path: _, from: _ } = self;
        manifest.value("word", word);
        manifest.value_unless("trim", trim, &false);
    }

    fn inputs(&self) -> Vec<Input> {
        let external = self.path.iter().map(|path| Input {
            role: "path".to_string(),
            source: InputSource::External {
                path: self.folder.join(path).display().to_string(),
                hub: HubRepository::Any,
            },
        });
        let accepts = &[ArtifactKind::Rows, ArtifactKind::Checkpoint];
        let stages = self.from.iter().enumerate().map(|(index, reference)| Input {
            role: format!("from.{index}"),
            source: InputSource::Stage { reference: reference.clone(), accepts },
        });
        external.chain(stages).collect()
    }

    fn estimate_requests(&self, ctx: &EstimateContext) -> Result<Option<RequestEstimate>> {
        if !self.requests {
            return Ok(None);
        }
        let mut estimate = RequestEstimate { basis: format!("seed {}", ctx.seed.0), ..RequestEstimate::default() };
        for input in ctx.inputs.values() {
            estimate.requests += files::read_text(&input.path)?.lines().count() as u64;
        }
        Ok(Some(estimate))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        use std::io::Write;
        // In one write: a test that waits for the line may kill this process as soon as a part of it is there.
        files::append(&self.folder.join("ran"))?.write_all(format!("{}\n", self.name).as_bytes())?;
        if !ctx.retry.is_empty() {
            let kinds: Vec<&str> = ctx.retry.iter().map(String::as_str).collect();
            let line = format!("{}: {}\n", self.name, kinds.join(" "));
            files::append(&self.folder.join("retried"))?.write_all(line.as_bytes())?;
        }
        ctx.progress.step(1, 2, "rows");
        if self.has_fault("resume") {
            let checkpoint = ctx.scratch.join("checkpoint");
            if !checkpoint.exists() {
                files::write_atomic(&checkpoint, b"half")?;
                files::write_atomic(&ctx.output("rows.jsonl"), b"\"half\"\n")?;
                bail!("the power failed");
            }
            ctx.progress.note("resumed".to_string());
        }
        if ctx.detach && self.has_fault("detach") {
            files::write_atomic(&ctx.scratch.join("batch"), b"batch 7")?;
            return Err(anyhow::Error::new(Detached("batch 7 with 2 requests".to_string())).context("cannot ask"));
        }
        if self.has_fault("fail") {
            return Err(anyhow::anyhow!("the disk is on fire").context("cannot train"));
        }
        assert!(!self.has_fault("panic"), "a bug in the stage");
        if self.has_fault("abort") {
            std::process::abort();
        }
        while self.has_fault("wait") {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.has_fault("edit-input") {
            files::write_atomic(&self.folder.join(self.path.as_deref().unwrap_or_default()), b"edited")?;
        }
        let mut rows = Vec::new();
        for input in ctx.inputs.values() {
            let file = if input.path.is_dir() { input.path.join("weights") } else { input.path.clone() };
            for line in files::read_text(&file)?.lines() {
                let text = serde_json::from_str(line).unwrap_or_else(|_| line.to_string());
                rows.push(if self.trim { text.trim().to_string() } else { text });
            }
        }
        rows.push(self.word.clone());
        let text: String = rows.iter().map(|row| json!(row).to_string() + "\n").collect();
        let outputs: &[&str] = if self.has_fault("model") { &["model/weights"] } else { &["rows.jsonl", "facts.json"] };
        for output in outputs {
            let nan = *output == "facts.json" && self.has_fault("nan");
            let facts = if nan { json!({ "loss": f64::NAN }) } else { json!({ "rows": rows.len() }) };
            let text = if *output == "facts.json" { facts.to_string() } else { text.clone() };
            if !self.has_fault("no-output") {
                files::write_atomic(&ctx.output(output), text.as_bytes())?;
            }
        }
        let mut summary = Summary::default().with("rows", rows.len());
        if self.has_fault("long-events") {
            let long = "x".repeat(3 << 20);
            ctx.progress.note(long.clone());
            summary = summary.with("long", long);
        }
        Ok(summary)
    }
}
