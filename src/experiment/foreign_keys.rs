//! Keys of other tools (transformers, TRL, PEFT, axolotl, LLaMA-Factory, vLLM, Hydra), and what they are called here. An unknown
//! key is looked up before a key of a similar name is suggested.

use super::diagnostics::list;
use ablate_core::stage::{ConfigError, ConfigErrorKind};

/// Keys of other tools with one meaning.
struct ForeignKeys {
    names: &'static [&'static str],
    /// The keys that have this meaning here, the first that a table has. A dotted key is in a table inside the table. Empty if
    /// there is none.
    ours: &'static [&'static str],
    /// What differs, or what to do instead.
    note: &'static str,
    /// Whether the names mean this only in a table that has one of the keys.
    only_there: bool,
}

const fn same(names: &'static [&'static str], ours: &'static [&'static str]) -> ForeignKeys {
    ForeignKeys { names, ours, note: "", only_there: false }
}

const fn differs(names: &'static [&'static str], ours: &'static [&'static str], note: &'static str) -> ForeignKeys {
    ForeignKeys { names, ours, note, only_there: false }
}

const fn none(names: &'static [&'static str], note: &'static str) -> ForeignKeys {
    ForeignKeys { names, ours: &[], note, only_there: false }
}

/// Names with other meanings in other tables.
const fn of_file(names: &'static [&'static str], ours: &'static [&'static str]) -> ForeignKeys {
    ForeignKeys { names, ours, note: "", only_there: true }
}

const KEYS: &[ForeignKeys] = &[
    // The length of training and its batches.
    same(&["num_train_epochs", "num_epochs", "n_epochs", "max_epochs"], &["epochs"]),
    same(&["max_steps", "num_train_steps", "num_training_steps", "train_steps"], &["steps"]),
    differs(
        &["per_device_train_batch_size", "train_batch_size", "batch_size", "global_batch_size"],
        &["batch"],
        "the rows of one optimizer step, over all accumulated passes and devices",
    ),
    differs(
        &["gradient_accumulation_steps", "accumulate_grad_batches"],
        &["micro_batch"],
        "the rows of one pass: gradients are accumulated over `batch / micro_batch` passes",
    ),
    same(&["micro_batch_size", "per_device_batch_size"], &["micro_batch"]),
    same(&["dataloader_drop_last", "drop_last"], &["last_batch"]),
    differs(&["group_by_length"], &["length_window"], "a number of batches"),
    same(&["use_gradient_checkpointing", "activation_checkpointing", "recompute"], &["gradient_checkpointing"]),
    // The optimizer.
    same(&["learning_rate"], &["lr"]),
    same(&["lr_scheduler_type", "lr_scheduler", "scheduler"], &["schedule"]),
    differs(&["warmup_ratio"], &["warmup"], "a share of the steps, as `warmup_ratio` is"),
    differs(&["warmup_steps", "num_warmup_steps"], &["warmup"], "a share of the steps, not their number"),
    differs(&["min_lr", "cosine_min_lr_ratio", "min_lr_ratio", "min_lr_rate"], &["final_lr"], "a share of `lr`"),
    same(&["max_grad_norm", "grad_clip", "gradient_clip_val", "clip_grad_norm"], &["clip"]),
    differs(&["adam_beta1", "adam_beta2", "adam_betas", "beta1", "beta2"], &["betas"], "a list of both numbers"),
    same(&["adam_epsilon", "adam_eps", "epsilon"], &["eps"]),
    same(&["wd"], &["weight_decay"]),
    none(&["optim", "optimizer"], "the optimizer is always AdamW"),
    differs(
        &["bf16", "fp16", "tf32", "torch_dtype", "mixed_precision", "half_precision"],
        &["precision", "dtype"],
        "a name, such as \"bf16\"",
    ),
    differs(
        &["freeze_vision_tower", "freeze_vision_model", "freeze_multi_modal_projector", "unfrozen_parameters"],
        &["freeze"],
        "a list of parts or patterns, such as [\"vision\", \"projector\"]",
    ),
    // Adapters.
    same(&["lora_r", "lora_rank", "peft_r", "r"], &["lora.rank", "rank"]),
    same(&["lora_alpha"], &["lora.alpha", "alpha"]),
    same(&["lora_dropout"], &["lora.dropout", "dropout"]),
    same(&["lora_target", "lora_target_modules", "target_modules"], &["lora.targets", "targets"]),
    same(&["peft_config", "use_lora", "use_peft", "finetuning_type"], &["lora"]),
    none(&["load_in_4bit", "load_in_8bit", "quantization_bit"], "quantized weights are not supported"),
    // Preferences.
    same(&["loss_type", "pref_loss", "dpo_loss"], &["loss"]),
    same(&["pref_beta", "dpo_beta"], &["beta"]),
    same(&["dpo_label_smoothing", "label_smoothing_factor"], &["label_smoothing"]),
    same(&["rpo_alpha", "pref_ftx", "dpo_ftx"], &["sft_weight"]),
    same(&["ref_model", "reference_model", "ref_model_name_or_path"], &["reference"]),
    // Models and data.
    same(
        &["model_name_or_path", "base_model", "pretrained_model_name_or_path", "model_name"],
        &["policy", "model", "path"],
    ),
    same(&["train_dataset", "dataset", "datasets", "train_file", "data_path"], &["data", "pairs", "items", "path"]),
    same(&["eval_dataset", "test_dataset"], &["benchmark"]),
    differs(
        &["max_seq_length", "max_seq_len", "cutoff_len", "sequence_len", "max_length", "model_max_length"],
        &["too_long"],
        "what happens to a row that is longer than the model's context; there is no other limit",
    ),
    differs(
        &["assistant_only_loss", "train_on_inputs", "train_on_prompt", "completion_only_loss"],
        &["mask_history"],
        "the loss covers responses only, never prompts",
    ),
    none(&["packing", "sample_packing"], "rows are not packed together"),
    // Generation.
    same(&["max_new_tokens", "max_completion_length", "max_gen_toks", "max_completion_tokens"], &["max_tokens"]),
    same(&["num_return_sequences", "num_generations", "num_samples", "n_samples", "n"], &["samples"]),
    differs(&["do_sample"], &["temperature"], "0 is greedy decoding"),
    same(&["stop_sequences", "stop_strings", "stop_token_ids", "until"], &["stop"]),
    same(&["rep_pen", "repeat_penalty"], &["repetition_penalty"]),
    same(&["system_prompt"], &["system", "prompt"]),
    same(&["api_base", "base_url", "openai_api_base"], &["url"]),
    same(&["max_concurrency", "num_concurrent", "num_workers"], &["concurrency"]),
    same(&["limit", "max_samples", "num_fewshot_samples"], &["take"]),
    // Runs.
    same(&["save_steps", "save_every", "checkpoint_every"], &["keep_steps"]),
    none(&["seed", "random_seed", "data_seed"], "seeds are in the table `[seeds]` of the file: `values = [0, 1, 2]`"),
    none(&["output_dir", "save_path", "log_dir", "logging_dir"], "results are linked in `out/` by stage and output"),
    none(
        &["logging_steps", "log_every", "report_to"],
        "every step is in `curve.jsonl`, and reports have event files for TensorBoard",
    ),
    none(&["save_strategy", "save_total_limit"], "the last checkpoint is the result; `ablate gc` removes old results"),
    none(&["resume_from_checkpoint"], "the same command resumes an interrupted stage"),
    none(
        &["num_gpus", "n_gpu", "gpus", "device_map", "local_rank"],
        "devices are in the table `[settings]` of the file",
    ),
    // The file as a whole.
    of_file(&["run_name", "experiment_name", "project"], &["name"]),
    of_file(&["description"], &["about"]),
    of_file(&["defaults", "includes", "inherits"], &["extends"]),
    of_file(&["stages", "tasks", "pipeline"], &["stage"]),
    of_file(&["axes", "sweep", "sweeper", "grid", "search_space"], &["axis"]),
    of_file(&["variables", "params"], &["vars"]),
    of_file(&["reports", "plots", "tables"], &["report"]),
];

/// Explains the unknown keys that other tools have. A missing key that is present under a foreign name is not reported as another error.
pub(crate) fn explain(mut errors: Vec<ConfigError>) -> Vec<ConfigError> {
    let mut present: Vec<(Vec<String>, &str)> = Vec::new();
    for error in &mut errors {
        let (ConfigErrorKind::UnknownKey { similar, known }, Some((name, table))) =
            (&mut error.kind, error.path.split_last())
        else {
            continue;
        };
        let Some(entry) = KEYS.iter().find(|entry| entry.names.contains(&name.as_str())) else { continue };
        let has = |ours: &&&str| known.contains(&ours.split('.').next().unwrap_or_default().to_string());
        let note = if entry.note.is_empty() { String::new() } else { format!(": {}", entry.note) };
        let ours = entry.ours.iter().find(has);
        if ours.is_none() && entry.only_there {
            continue;
        }
        error.help = Some(match (ours, entry.ours) {
            (Some(ours), _) => {
                if !ours.contains('.') {
                    present.push((table.to_vec(), ours));
                    *similar = Some((*ours).to_string());
                }
                format!("the key of ablate is `{ours}`{note}")
            }
            (None, []) => format!("ablate has no such key{note}"),
            (None, [ours, ..]) => format!(
                "elsewhere the key of ablate is `{ours}`, which this table does not have; its keys are {}",
                list(&*known)
            ),
        });
    }
    let is_present = |error: &ConfigError| match &error.kind {
        ConfigErrorKind::MissingKey { key } => present.iter().any(|(table, ours)| *table == error.path && ours == key),
        _ => false,
    };
    errors.retain(|error| !is_present(error));
    errors
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_foreign_key_is_listed_once() {
        let mut seen = BTreeSet::new();
        for name in KEYS.iter().flat_map(|entry| entry.names) {
            assert!(seen.insert(name), "`{name}` has two meanings");
        }
    }

    #[test]
    fn a_name_of_the_whole_file_means_nothing_in_other_tables() {
        let kind = ConfigErrorKind::UnknownKey { similar: None, known: vec!["batch".to_string()] };
        let error = ConfigError {
            kind,
            path: vec!["pipeline".to_string()],
            message: String::new(),
            help: Some("as before".into()),
        };
        assert_eq!(explain(vec![error.clone()]), [error]);
    }

    #[test]
    fn a_missing_key_under_a_foreign_name_is_one_error() {
        let error = |kind, path: &[&str]| ConfigError {
            kind,
            path: path.iter().map(ToString::to_string).collect(),
            message: String::new(),
            help: None,
        };
        let known = vec!["lr".to_string(), "lora".to_string()];
        let unknown = |name| error(ConfigErrorKind::UnknownKey { similar: None, known: known.clone() }, &[name]);
        let missing = |key: &str| error(ConfigErrorKind::MissingKey { key: key.to_string() }, &[]);
        let errors = vec![unknown("learning_rate"), unknown("lora_r"), missing("lr"), missing("lora")];
        let explained = explain(errors);
        let help: Vec<_> = explained.iter().map(|error| error.help.as_deref()).collect();
        assert_eq!(help, [Some("the key of ablate is `lr`"), Some("the key of ablate is `lora.rank`"), None]);
    }
}
