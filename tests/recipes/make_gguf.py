"""Writes the language model of a checkpoint of `make_checkpoint.py` as a GGUF file, the format of llama.cpp.

    python make_gguf.py CHECKPOINT FILE
"""

import json
import sys
from pathlib import Path

import gguf
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    """`blk.0.attn_q.bias` for `model.layers.0.self_attn.q_proj.bias`."""
    module, kind = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        layer, module = module.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[module]}.{kind}"
    return f"{NAMES[module]}.{kind}"


def add_tokenizer(writer, folder, eos):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    bytes_ = tokenizer["model"]["vocab"]
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    kinds = [(token, gguf.TokenType.NORMAL) for token in sorted(bytes_, key=bytes_.get)]
    kinds += [(token, gguf.TokenType.CONTROL) for token in sorted(special, key=special.get)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([token for token, _ in kinds])
    writer.add_token_types([kind for _, kind in kinds])
    # The list must not be empty. No text in UTF-8 contains the byte 0xff, which this letter stands for.
    writer.add_token_merges(["ÿ ÿ"])
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))


def main():
    folder, path = Path(sys.argv[1]), sys.argv[2]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    add_tokenizer(writer, folder, config["eos_token_id"])
    for name, values in load_file(folder / "model.safetensors").items():
        if name.startswith("language_model."):
            writer.add_tensor(gguf_name(name.removeprefix("language_model.")), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
