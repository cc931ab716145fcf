"""Writes a model with random weights, and serves it by llama.cpp until the input ends.

A second argument is the name of the model, which then makes embeddings.

It runs with the packages of `requirements.txt`, and prints the server's address.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def _letters() -> list[str]:
    """The characters that stand for bytes in byte-level BPE."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _write(path: str) -> None:
    """A llama of two layers whose tokens are the bytes, as GGUF."""
    import numpy as np

    gguf: Any = importlib.import_module("gguf")  # it is not installed where types are checked

    hidden, inner, heads, layers = 64, 96, 4, 2
    tokens = [*_letters(), "<s>", "</s>"]
    draw = np.random.default_rng(0)
    made = gguf.GGUFWriter(path, "llama")
    made.add_context_length(2048)
    made.add_embedding_length(hidden)
    made.add_block_count(layers)
    made.add_feed_forward_length(inner)
    made.add_head_count(heads)
    made.add_head_count_kv(heads)
    made.add_layer_norm_rms_eps(1e-6)
    made.add_rope_dimension_count(hidden // heads)
    made.add_vocab_size(len(tokens))
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre("default")
    made.add_token_list(tokens)
    made.add_token_types([1] * 256 + [3, 3])
    made.add_token_merges(["a b"])
    made.add_bos_token_id(256)
    made.add_eos_token_id(257)
    made.add_chat_template(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )

    def tensor(name: str, *shape: int) -> None:
        values = (
            draw.standard_normal(shape) / shape[-1] ** 0.5 if len(shape) > 1 else np.ones(shape)
        )
        made.add_tensor(f"{name}.weight", values.astype(np.float32))

    tensor("token_embd", len(tokens), hidden)
    tensor("output", len(tokens), hidden)
    tensor("output_norm", hidden)
    for n in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{n}.{name}", hidden, hidden)
        for name in ("ffn_gate", "ffn_up"):
            tensor(f"blk.{n}.{name}", inner, hidden)
        tensor(f"blk.{n}.ffn_down", hidden, inner)
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{n}.{name}", hidden)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def _main(path: str, name: str = "") -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    _write(path)
    params: Any = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel = 4096, 4
    params.warmup = False
    params.cpuparams.n_threads = 1
    if name:
        params.model_alias, params.embedding = {name}, True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main(*sys.argv[1:])
