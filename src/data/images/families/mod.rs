//! The families of models: how they resize and split images, and how an image is written into a conversation.

pub(crate) mod gemma3;
pub(super) mod idefics3;
pub(super) mod internvl;
pub(super) mod llava;
mod markup;
pub(super) mod qwen2_vl;
