"""Small GGUF files for tests: a llama that llama.cpp really loads and decodes with, and files of any metadata.

Weights are random, so what the model writes is noise; the tokenizers are real in kind (byte-level BPE and
SentencePiece) and keep every text, for all 256 bytes have a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import gguf

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

_MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "l d", "Ġw or", "Ġwor ld", "Ġ t", "Ġt he", "i n", "Ġ a")
_PIECES = ("▁hello", "▁world", "▁the", "▁a", "he", "ll", "in", "▁", "\n", "e", "t", "a", "o", "n", "i", "s", "r", "h")
_WEIGHTS = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
}
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}


def write_tiny_llama(
    path: Path,
    *,
    vocab: Literal["bpe", "spm"] = "bpe",
    template: str | None = "",
    name: str = "tiny",
    layers: int = 2,
    width: int = 64,
    context_length: int = 2048,
    weights: Literal["F32", "F16", "Q8_0", "Q4_0"] = "F32",
    tied: bool = False,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """A llama of some 100,000 weights; returns path.

    template: None for none, "" for the one that suits the vocabulary (ChatML with bpe, Phi-3 with spm).
    width: of the embedding, a multiple of 64. metadata: further keys, see `add_metadata`.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[weights])
    writer.add_block_count(layers)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_rope_freq_base(10000.0)
    size = _add_bpe(writer) if vocab == "bpe" else _add_spm(writer)
    writer.add_vocab_size(size)
    if template is not None:
        writer.add_chat_template(template or (CHATML if vocab == "bpe" else PHI3))
    add_metadata(writer, metadata or {})
    random = np.random.default_rng(seed)
    kind = _WEIGHTS[weights]

    def matrix(tensor: str, rows: int, columns: int) -> None:
        values = random.normal(0.0, columns**-0.5, (rows, columns)).astype(np.float32)
        writer.add_tensor(tensor, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def ones(tensor: str) -> None:
        writer.add_tensor(tensor, np.ones(width, dtype=np.float32))

    matrix("token_embd.weight", size, width)
    for layer in range(layers):
        ones(f"blk.{layer}.attn_norm.weight")
        matrix(f"blk.{layer}.attn_q.weight", width, width)
        matrix(f"blk.{layer}.attn_k.weight", width // 2, width)
        matrix(f"blk.{layer}.attn_v.weight", width // 2, width)
        matrix(f"blk.{layer}.attn_output.weight", width, width)
        ones(f"blk.{layer}.ffn_norm.weight")
        matrix(f"blk.{layer}.ffn_gate.weight", 2 * width, width)
        matrix(f"blk.{layer}.ffn_up.weight", 2 * width, width)
        matrix(f"blk.{layer}.ffn_down.weight", width, 2 * width)
    ones("output_norm.weight")
    if not tied:
        matrix("output.weight", size, width)
    return _finish(writer, path)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    architecture: str = "llama",
) -> Path:
    """A GGUF of any metadata, with tensors of zeros (F32, shapes as in numpy). Returns path."""
    writer = gguf.GGUFWriter(path, architecture)
    add_metadata(writer, metadata)
    for name, shape in (tensors or {}).items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    return _finish(writer, path)


def add_metadata(writer: gguf.GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Keys of bool, int (u32), float (f32), str, and sequences of them."""
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level BPE vocabulary: printable ones for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _add_bpe(writer: gguf.GGUFWriter) -> int:
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = controls + byte_letters() + [merge.replace(" ", "") for merge in _MERGES]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    _add_tokens(writer, tokens, [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(value=False)
    return len(tokens)


def _add_spm(writer: gguf.GGUFWriter) -> int:
    controls = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_PIECES, *controls]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(_PIECES)
    kinds += [gguf.TokenType.CONTROL] * len(controls)
    writer.add_tokenizer_model("llama")
    _add_tokens(writer, tokens, kinds)
    writer.add_token_scores([0.0] * 259 + [-float(rank + 1) for rank in range(len(_PIECES))] + [0.0] * len(controls))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(value=True)
    return len(tokens)


def _add_tokens(writer: gguf.GGUFWriter, tokens: Sequence[str], kinds: Sequence[gguf.TokenType]) -> None:
    writer.add_token_list(list(tokens))
    writer.add_token_types([int(kind) for kind in kinds])
