//! Model folders in Hugging Face's layout, in and out: Llama, Mistral, Qwen2 and Qwen3 decoders, alone or with a CLIP
//! or SigLIP tower as LLaVA and LLaVA-NeXT. Knows no tensor, no device and no tokenizer.
//!
//! ```text
//! folder/
//!   config.json                      what the model is        (config: text, vision, rope; fields, harmless, inert)
//!   model.safetensors                its weights, in F32, F16 or BF16        (weights: header, number; writer)
//!   model.safetensors.index.json     or: which array lies in which of        (names, model)
//!   model-00001-of-00002.safetensors
//! adapter folder/
//!   adapter_config.json              LoRA in PEFT's layout    (adapter)
//!   adapter_model.safetensors
//! ```
//!
//! A folder that is wrong in any way is an error that names the file and the field or array.

pub mod adapter;
pub mod config;
pub mod model;
pub mod names;
pub mod number;
pub mod weights;
pub mod writer;

mod fields;
mod harmless;
mod header;
mod inert;
mod rope;
mod text;
mod vision;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use model::Form;
pub use names::Scheme;
pub use number::Dtype;
pub use weights::Folder;
pub use writer::Output;
