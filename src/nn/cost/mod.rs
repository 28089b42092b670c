//! What a pass costs on a GPU.
