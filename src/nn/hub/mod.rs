//! Reads and writes model folders in Hugging Face's layout: Llama, Mistral, Qwen2 and Qwen3 decoders, alone or with a CLIP
//! or SigLIP vision tower as LLaVA and LLaVA-NeXT, or as Idefics3 and SmolVLM;
//! and Qwen2-VL, Qwen2.5-VL and Qwen3-VL.
//!
//! ```text
//! folder/
//!   config.json                      architecture           (config: families, text, rope; fields and their lists)
//!   model.safetensors                weights in F32, F16 or BF16     (reader: header, dtype; writer; names, model)
//!   model.safetensors.index.json     or: the file of each array, with
//!   model-00001-of-00002.safetensors
//! adapter folder/
//!   adapter_config.json              LoRA in PEFT's layout    (adapter)
//!   adapter_model.safetensors
//! ```
//!
//! An error about a folder names the file and the field or array.

pub mod adapter;
pub mod config;
pub mod dtype;
pub mod model;
pub mod names;
pub mod reader;
pub mod writer;

mod dynamic_fields;
pub(crate) mod families;
mod fields;
mod gemma3_decoder;
mod header;
mod ignored_fields;
mod layer_types;
mod restricted_fields;
mod rope;
mod text;
mod vision_fields;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use dtype::Dtype;
pub use model::StorageFormat;
pub use names::NamingScheme;
pub use reader::WeightFiles;
pub use writer::Output;
