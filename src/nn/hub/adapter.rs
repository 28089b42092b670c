//! Reads and writes LoRA adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`. The caller checks
//! that the model has these modules with these sizes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use super::dtype::Dtype;
use super::families;
use super::fields::{Fields, Problems};
use super::reader::WeightFiles;
use super::writer::{self, Output};
use crate::adapter::{Adapter, LowRank};
use crate::architecture::Family;
use ablate_core::base::files;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The prefix of a module's name in the name of an array.
const PREFIX: &str = "base_model.model.";
/// Largest size of the config in bytes.
const MAX_CONFIG: u64 = 4 << 20;

impl Adapter {
    /// Reads the folder of an adapter for a model of a family.
    pub fn read(folder: &Path, family: Family) -> Result<Adapter> {
        let path = folder.join(CONFIG);
        let length = path.metadata().with_context(|| format!("cannot read `{}`", path.display()))?.len();
        if length > MAX_CONFIG {
            bail!("`{}` has {length} bytes: a config has at most {MAX_CONFIG}", path.display());
        }
        let object: Map<String, Value> = files::read_json(&path)?;
        let mut adapter = read_config(&object).with_context(|| format!("`{}`", path.display()))?;
        adapter.modules = read_modules(&folder.join(WEIGHTS), adapter.rank, family)?;
        Ok(adapter)
    }

    /// Writes the folder's two files so that PEFT loads them for a model of transformers 5. `base` is the path of that model
    /// for PEFT.
    pub fn write(&self, folder: &Path, family: Family, base: Option<&str>, dtype: Dtype) -> Result<()> {
        let scheme = families::schemes(family).in_memory();
        let targets: Vec<String> = self.modules.keys().map(|module| scheme.to_file(module)).collect();
        let mut outputs = Vec::with_capacity(2 * targets.len());
        for (target, LowRank { inputs, outputs: rows, down, up }) in targets.iter().zip(self.modules.values()) {
            let mut add = |half: &str, shape: [usize; 2], values| {
                let name = format!("{PREFIX}{target}.lora_{half}.weight");
                outputs.push(Output { name, shape: shape.to_vec(), dtype, values });
            };
            add("A", [self.rank, *inputs], down);
            add("B", [*rows, self.rank], up);
        }
        let outputs: Vec<&Output> = outputs.iter().collect();
        writer::write_file(&folder.join(WEIGHTS), &outputs, writer::FORMAT)?;
        // PEFT writes whole numbers as such.
        let whole = self.alpha.fract() == 0.0 && self.alpha.abs() < 1e15;
        let config = json!({
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": if whole { json!(self.alpha as i64) } else { json!(self.alpha) },
            "lora_dropout": self.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.rank_stabilized,
        });
        files::write_json(&folder.join(CONFIG), &config)
    }
}

/// Fields that select modules, which follow from the arrays, or that only matter in training.
const IGNORED: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
];

/// Reads the fields of `LoraConfig` of PEFT 0.21. The modules are read from the arrays.
fn read_config(object: &Map<String, Value>) -> Result<Adapter> {
    let problems = Problems::default();
    let fields = Fields::new(object, String::new(), &problems);
    if !fields.has("peft_type") {
        fields.wrong("peft_type", "is missing");
    }
    fields.only("peft_type", &json!("LORA"));
    fields.only("task_type", &json!("CAUSAL_LM"));
    fields.only("bias", &json!("none"));
    for name in ["fan_in_fan_out", "lora_bias", "use_dora", "use_qalora"] {
        fields.only(name, &json!(false));
    }
    for name in ["rank_pattern", "alpha_pattern"] {
        fields.only(name, &json!({}));
    }
    // The other initializations also change the base model.
    let initialization = fields.value("init_lora_weights").filter(|value| !value.is_boolean());
    if initialization.is_some() {
        fields.only("init_lora_weights", &json!("gaussian"));
    }
    let targets = fields.value("target_modules");
    let texts = |list: &Vec<Value>| list.iter().all(Value::is_string);
    if !targets.is_none_or(|targets| targets.is_string() || targets.as_array().is_some_and(texts)) {
        fields.wrong("target_modules", "must be a string or a list of strings");
    }
    let dropout = match fields.value("lora_dropout").map(|value| (value, value.as_f64())) {
        None => 0.0,
        Some((_, Some(dropout))) if (0.0..1.0).contains(&dropout) => dropout,
        Some((value, _)) => {
            fields.wrong("lora_dropout", format!("must be a number from 0 to below 1, not {value}"));
            0.0
        }
    };
    let adapter = Adapter {
        rank: fields.size("r", 8),
        alpha: fields.positive("lora_alpha", 8.0),
        dropout,
        rank_stabilized: fields.flag("use_rslora", false),
        modules: BTreeMap::new(),
    };
    fields.finish_strict(IGNORED, &[]);
    let problems = problems.wrong.into_inner();
    if problems.is_empty() { Ok(adapter) } else { bail!("{}", problems.join("; ")) }
}

fn read_modules(path: &Path, rank: usize, family: Family) -> Result<BTreeMap<String, LowRank>> {
    let file = WeightFiles::open_file(path)?;
    let context = || format!("`{}`", path.display());
    // Two entries per module: A and B.
    let mut halves = Vec::new();
    for name in file.names() {
        let inner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix(".lora_A.weight").or_else(|| rest.strip_suffix(".lora_B.weight")));
        match inner {
            Some(module) => halves.push(module),
            None => return Err(anyhow!("array `{name}` is not a matrix of a LoRA module")).with_context(context),
        }
    }
    halves.dedup();
    if halves.is_empty() {
        return Err(anyhow!("contains no LoRA module")).with_context(context);
    }
    // The names depend on the version of transformers that PEFT wrapped.
    let scheme = families::schemes(family).find(&halves).with_context(context)?;
    let mut modules = BTreeMap::new();
    for module in halves {
        let Some(parameter) = scheme.to_parameter(module) else {
            return Err(anyhow!("the model has no module `{module}`")).with_context(context);
        };
        let (down, up) = (format!("{PREFIX}{module}.lora_A.weight"), format!("{PREFIX}{module}.lora_B.weight"));
        let (inputs, outputs) = match (file.shape(&down)?, file.shape(&up)?) {
            (&[first, inputs], &[outputs, second]) if first == rank && second == rank => (inputs, outputs),
            (first, second) => {
                let shapes = format!("A of shape {first:?} and B of shape {second:?}");
                return Err(anyhow!("the module `{module}` has {shapes}, not of rank {rank}")).with_context(context);
            }
        };
        let (down, up) = (file.array(&down, &[rank, inputs])?, file.array(&up, &[outputs, rank])?);
        modules.insert(parameter, LowRank { inputs, outputs, down, up });
    }
    Ok(modules)
}
