//! Language models without images: Llama, Mistral, Qwen2 and Qwen3. Their fields are read by `hub::text`.

use crate::hub::names::{DECODER, HEAD, NamingScheme, Schemes};

pub(in crate::hub) const SCHEMES: Schemes =
    Schemes { family: "a language model", all: &[NamingScheme(&[(DECODER, DECODER), (HEAD, HEAD)])] };
