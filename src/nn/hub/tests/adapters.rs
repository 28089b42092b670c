//! LoRA adapters of PEFT.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::{Dtype, writer, writer::Output};
use super::{message, put};
use crate::adapter::{Adapter, LoraConfig, LowRank};
use crate::architecture::Family;
use crate::tests::support::small_config;
use crate::{Checkpoint, Pattern};
use ablate_core::base::{Seed, files};

/// `adapter_config.json` as PEFT 0.21 writes it.
const PEFT: &str = r#"{
  "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
  "base_model_name_or_path": null, "bias": "none", "corda_config": null, "ensure_weight_tying": false,
  "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
  "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
  "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 4, "lora_bias": false, "lora_dropout": 0.05,
  "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
  "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 2,
  "rank_pattern": {}, "revision": null, "target_modules": ["q_proj", "down_proj"], "target_parameters": null,
  "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false,
  "use_qalora": false, "use_rslora": false, "velora_config": null
}"#;

/// Writes an adapter's file with both matrices of these modules, 3 inputs and 1 output each.
fn put_modules(folder: &Path, modules: &[&str], rank: usize) {
    let values: Vec<f32> = (0..3 * rank).map(|at| at as f32).collect();
    let mut outputs = Vec::new();
    for module in modules {
        let mut add = |half: &str, shape: [usize; 2]| {
            let name = format!("base_model.model.{module}.lora_{half}.weight");
            let values = &values[..shape[0] * shape[1]];
            outputs.push(Output { name, shape: shape.to_vec(), dtype: Dtype::F32, values });
        };
        add("A", [rank, 3]);
        add("B", [1, rank]);
    }
    let outputs: Vec<&Output> = outputs.iter().collect();
    writer::write_file(&folder.join("adapter_model.safetensors"), &outputs, writer::FORMAT).unwrap();
}

fn low_rank() -> LowRank {
    LowRank { inputs: 3, outputs: 1, down: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], up: vec![0.0, 1.0] }
}

#[test]
fn module_names_of_three_transformers_versions() {
    let ours = [
        "model.layers.0.self_attn.q_proj",
        "multi_modal_projector.linear_1",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1",
    ];
    let names: [[&str; 3]; 3] = [
        [
            "model.language_model.layers.0.self_attn.q_proj",
            "model.multi_modal_projector.linear_1",
            "model.vision_tower.encoder.layers.0.mlp.fc1",
        ],
        [
            "model.language_model.layers.0.self_attn.q_proj",
            "model.multi_modal_projector.linear_1",
            "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1",
        ],
        [
            "language_model.model.layers.0.self_attn.q_proj",
            "multi_modal_projector.linear_1",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1",
        ],
    ];
    for modules in names {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "adapter_config.json", PEFT);
        put_modules(folder.path(), &modules, 2);
        let adapter = Adapter::read(folder.path(), Family::Llava).unwrap();
        assert_eq!(adapter.modules.keys().collect::<Vec<_>>(), ours);
        assert!(adapter.modules.values().all(|module| *module == low_rank()));
        assert_eq!((adapter.rank, adapter.alpha, adapter.dropout), (2, 4.0, 0.05));
        assert!((adapter.scale() - 2.0).abs() < 1e-12);
    }
}

#[test]
fn an_adapter_round_trips() {
    let modules = BTreeMap::from([
        ("model.layers.0.self_attn.q_proj".to_string(), low_rank()),
        ("vision_tower.vision_model.encoder.layers.1.mlp.fc2".to_string(), low_rank()),
    ]);
    let adapter = Adapter { rank: 2, alpha: 3.0, dropout: 0.0, rank_stabilized: true, modules };
    assert!((adapter.scale() - 3.0 / 2f64.sqrt()).abs() < 1e-12);
    let folder = tempfile::tempdir().unwrap();
    adapter.write(folder.path(), Family::Llava, Some("models/base"), Dtype::F32).unwrap();
    assert_eq!(Adapter::read(folder.path(), Family::Llava).unwrap(), adapter);
    let config = files::read_text(&folder.path().join("adapter_config.json")).unwrap();
    expect_test::expect![[r#"
        {
          "base_model_name_or_path": "models/base",
          "bias": "none",
          "fan_in_fan_out": false,
          "inference_mode": true,
          "init_lora_weights": true,
          "lora_alpha": 3,
          "lora_dropout": 0.0,
          "modules_to_save": null,
          "peft_type": "LORA",
          "r": 2,
          "target_modules": [
            "model.language_model.layers.0.self_attn.q_proj",
            "model.vision_tower.encoder.layers.1.mlp.fc2"
          ],
          "task_type": "CAUSAL_LM",
          "use_dora": false,
          "use_rslora": true
        }
    "#]]
    .assert_eq(&config);
}

/// The error of an adapter whose config has one text replaced.
fn of_config(from: &str, to: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    assert!(PEFT.contains(from), "{from}");
    put(folder.path(), "adapter_config.json", &PEFT.replace(from, to));
    put_modules(folder.path(), &["model.layers.0.self_attn.q_proj"], 2);
    message(Adapter::read(folder.path(), Family::Decoder), folder.path()).replace("`DIR/adapter_config.json`: ", "")
}

#[test]
fn unsupported_adapters_are_refused() {
    let cases = [
        ("\"LORA\"", "\"IA3\""),
        ("\"bias\": \"none\"", "\"bias\": \"all\""),
        ("\"use_dora\": false", "\"use_dora\": true"),
        ("\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 4}"),
        ("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_proj\": 4}"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]"),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\""),
        ("\"target_modules\": [\"q_proj\", \"down_proj\"]", "\"target_modules\": 3"),
        ("\"lora_dropout\": 0.05", "\"lora_dropout\": 1.0"),
        ("\"r\": 2", "\"r\": 0"),
        ("\"lora_alpha\": 4", "\"lora_alpha\": -1"),
        ("\"task_type\": \"CAUSAL_LM\"", "\"task_type\": \"SEQ_CLS\""),
        ("\"layer_replication\": null", "\"layer_replication\": [[0, 4]]"),
        ("\"peft_type\": \"LORA\",", ""),
    ];
    let messages: Vec<String> = cases.into_iter().map(|(from, to)| of_config(from, to)).collect();
    expect_test::expect![[r#"
        `peft_type` is "IA3": only "LORA" is supported
        `bias` is "all": only "none" is supported
        `use_dora` is true: only false is supported
        `fan_in_fan_out` is true: only false is supported
        `rank_pattern` is {"q_proj":4}: only {} is supported
        `alpha_pattern` is {"q_proj":4}: only {} is supported
        `modules_to_save` is not supported and may change the arithmetic: it is ["lm_head"]
        `init_lora_weights` is "pissa": only "gaussian" is supported
        `target_modules` must be a string or a list of strings
        `lora_dropout` must be a number from 0 to below 1, not 1.0
        `r` must be a whole number from 1 to 1048576, not 0
        `lora_alpha` must be a number above 0, not -1
        `task_type` is "SEQ_CLS": only "CAUSAL_LM" is supported
        `layer_replication` is not supported and may change the arithmetic: it is [[0,4]]
        `peft_type` is missing"#]]
    .assert_eq(&messages.join("\n"));
}

#[test]
fn arrays_without_an_adapter_are_refused() {
    let read = |write: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "adapter_config.json", PEFT);
        write(folder.path());
        message(Adapter::read(folder.path(), Family::Decoder), folder.path())
            .replace("`DIR/adapter_model.safetensors`", "FILE")
    };
    let of = |modules: &[&str], rank: usize| read(&|folder| put_modules(folder, modules, rank));
    let one = |name: &str| {
        let name = format!("base_model.model.{name}");
        let array = Output { name, shape: vec![2, 3], dtype: Dtype::F32, values: &[0.0; 6] };
        let path = |folder: &Path| folder.join("adapter_model.safetensors");
        read(&|folder| writer::write_file(&path(folder), &[&array], writer::FORMAT).unwrap())
    };
    let messages = [
        of(&[], 2),
        of(&["model.layers.0.mlp.up_proj"], 4),
        of(&["model.layers.0.mlp.up_proj", "score"], 2),
        one("model.layers.0.mlp.up_proj.lora_A.weight"),
        one("lm_head.weight"),
    ];
    expect_test::expect![[r"
        FILE: contains no LoRA module
        FILE: the module `model.layers.0.mlp.up_proj` has A of shape [4, 3] and B of shape [1, 4], not of rank 2
        FILE: the model has no module `score`
        FILE: array `base_model.model.model.layers.0.mlp.up_proj.lora_B.weight` is missing
        FILE: array `base_model.model.lm_head.weight` is not a matrix of a LoRA module"]]
    .assert_eq(&messages.join("\n"));
}

#[test]
fn an_adapter_of_a_model_in_own_layout_round_trips() {
    let model = Checkpoint::initialize(&small_config(), 20, 1, Seed(1)).unwrap();
    let lora = LoraConfig { rank: 2, alpha: 3.7, dropout: 0.1, targets: vec![Pattern("*".to_string())] };
    let mut adapter = Adapter::initialize(&model, &lora, Seed(2)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    adapter.write(folder.path(), Family::Own, None, Dtype::F32).unwrap();
    assert_eq!(Adapter::read(folder.path(), Family::Own).unwrap(), adapter);
    for module in adapter.modules.values_mut() {
        module.down.fill(f32::MAX);
        module.up.fill(f32::MAX);
    }
    let error = adapter.merge(&mut model.clone()).unwrap_err().to_string();
    assert!(error.ends_with("are NaN or infinite after the adapter was added"), "{error}");
}
