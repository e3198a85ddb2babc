"""Numbers of the quantization types in GGUF files, and llama.cpp's architectures that cannot chat.

`GGML_TYPES`: `enum ggml_type` of ggml.h; weights and bytes per block are those of the `block_*` structs of
ggml-common.h. `FILE_TYPES`: the mixture that a whole file was quantized with, `enum llama_ftype` of llama.h.
"""

from typing import NamedTuple


class GgmlType(NamedTuple):
    """A quantization type. block_size: weights in a block. type_size: bytes of a block."""

    name: str
    block_size: int
    type_size: int

    def row_bytes(self, weights: int) -> int:
        """Return the bytes of a row of that many weights, rounded up to whole blocks."""
        return -(-weights // self.block_size) * self.type_size


# One row per type reads as a table; the formatter would make five lines of each.
# fmt: off
GGML_TYPES: dict[int, GgmlType] = {
    0: GgmlType("F32", 1, 4), 1: GgmlType("F16", 1, 2), 30: GgmlType("BF16", 1, 2), 28: GgmlType("F64", 1, 8),
    24: GgmlType("I8", 1, 1), 25: GgmlType("I16", 1, 2), 26: GgmlType("I32", 1, 4), 27: GgmlType("I64", 1, 8),
    2: GgmlType("Q4_0", 32, 18), 3: GgmlType("Q4_1", 32, 20), 6: GgmlType("Q5_0", 32, 22), 7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34), 9: GgmlType("Q8_1", 32, 40),
    10: GgmlType("Q2_K", 256, 84), 11: GgmlType("Q3_K", 256, 110), 12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176), 14: GgmlType("Q6_K", 256, 210), 15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66), 17: GgmlType("IQ2_XS", 256, 74), 22: GgmlType("IQ2_S", 256, 82),
    18: GgmlType("IQ3_XXS", 256, 98), 21: GgmlType("IQ3_S", 256, 110), 19: GgmlType("IQ1_S", 256, 50),
    29: GgmlType("IQ1_M", 256, 56), 20: GgmlType("IQ4_NL", 32, 18), 23: GgmlType("IQ4_XS", 256, 136),
    34: GgmlType("TQ1_0", 256, 54), 35: GgmlType("TQ2_0", 256, 66), 39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36), 41: GgmlType("Q1_0", 128, 18), 42: GgmlType("Q2_0", 64, 18),
}

FILE_TYPES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}

# Architectures of llama.cpp that read text but do not write it.
EMBEDDING_ARCHITECTURES = frozenset({
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
    "gemma-embedding", "llama-embed", "t5encoder",
})
PROJECTOR_ARCHITECTURES = frozenset({"clip", "mmproj"})
SPEECH_ARCHITECTURES = frozenset({"wavtokenizer-dec", "qwen3tts", "pockettts"})
DRAFT_ARCHITECTURES = frozenset({"eagle3", "dflash", "gemma4-assistant"})
# fmt: on


def find_type(name: str) -> GgmlType:
    """Return the type with ggml's name, in upper or lower case. Raises KeyError."""
    return {kind.name: kind for kind in GGML_TYPES.values()}[name.upper()]
