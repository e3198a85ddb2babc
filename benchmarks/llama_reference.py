"""The low-level loop of llama.cpp, as the reference that phichat is compared with.

As a script it loads a model and evaluates one prompt in a fresh process, and says in JSON what that took:

    python benchmarks/llama_reference.py MODEL.gguf --prompt "Say hi" --ctx-size 8192 --threads 2
"""

from __future__ import annotations

import argparse
import codecs
import ctypes
import json
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import llama_cpp.llama_cpp as lib
from jinja2.sandbox import ImmutableSandboxedEnvironment

YES, NO = True, False

# ctypes keeps no reference of its own to the callback.
_silence = lib.llama_log_callback(lambda *_: None)


class Reference:
    """A model and a context, evaluated in batches of 512 with flash attention left to llama.cpp."""

    def __init__(self, path: str, n_ctx: int, threads: int, batch: int = 512) -> None:
        lib.llama_log_set(_silence, None)
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocab = lib.llama_model_get_vocab(self._model)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, batch, batch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.no_perf = True
        self._context = lib.llama_init_from_model(self._model, params)
        self._batch = batch
        self._greedy = lib.llama_sampler_init_greedy()
        self._token = (lib.llama_token * 1)()

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's own chat template, rendered as transformers does it."""
        source = lib.llama_model_chat_template(self._model, None)
        if not source:
            raise SystemExit("the model brings no chat template")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        names = {
            "bos_token": self._name(lib.llama_vocab_bos(self._vocab)),
            "eos_token": self._name(lib.llama_vocab_eos(self._vocab)),
        }
        text = environment.from_string(source.decode()).render(messages=messages, add_generation_prompt=True, **names)
        adds_bos = lib.llama_vocab_get_add_bos(self._vocab)
        return text.removeprefix(names["bos_token"]) if adds_bos and names["bos_token"] else text

    def _name(self, token: int) -> str:
        return (lib.llama_vocab_get_text(self._vocab, token) or b"").decode() if token >= 0 else ""

    def tokenize(self, text: str) -> list[int]:
        """Ids of a rendered prompt."""
        data = text.encode()
        ids = (lib.llama_token * (len(data) + 8))()
        n = lib.llama_tokenize(self._vocab, data, len(data), ids, len(ids), YES, YES)
        return list(ids[:n])

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Append tokens to the context."""
        for start in range(0, len(tokens), self._batch):
            part = tokens[start : start + self._batch]
            self._decode((lib.llama_token * len(part))(*part), len(part))
        lib.llama_synchronize(self._context)

    def _decode(self, array: Any, size: int) -> None:
        result = lib.llama_decode(self._context, lib.llama_batch_get_one(array, size))
        if result:
            raise SystemExit(f"llama_decode returned {result}")

    def clear(self) -> None:
        """An empty context."""
        lib.llama_memory_clear(lib.llama_get_memory(self._context), YES)

    def next(self) -> int:
        """The likeliest next token."""
        return int(lib.llama_sampler_sample(self._greedy, self._context, -1))

    def append(self, token: int) -> None:
        """Evaluate one token."""
        self._token[0] = token
        self._decode(self._token, 1)

    def greedy(self, prompt: Sequence[int], most: int) -> list[int]:
        """At most so many tokens of a greedy reply, from an empty context."""
        self.clear()
        self.evaluate(prompt)
        said: list[int] = []
        while True:
            token = self.next()
            if lib.llama_vocab_is_eog(self._vocab, token):
                return said
            said.append(token)
            if len(said) == most:
                return said
            self.append(token)

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say; an unfinished character at the end is left out."""
        buffer = ctypes.create_string_buffer(4096)
        sizes = (lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, NO) for token in tokens)
        pieces = b"".join(buffer.raw[: max(size, 0)] for size in sizes)
        return codecs.getincrementaldecoder("utf-8")("replace").decode(pieces)


def main() -> None:
    """Load, evaluate, sample one token, and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt", default="Say hi")
    parser.add_argument("--ctx-size", type=int, default=4096)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    start = perf_counter()
    reference = Reference(given.model, given.ctx_size, given.threads)
    loaded = perf_counter()
    tokens = reference.tokenize(reference.render([{"role": "user", "content": given.prompt}]))
    prepared = perf_counter()
    reference.evaluate(tokens)
    reference.next()
    took = {"load_s": loaded - start, "evaluate_s": perf_counter() - prepared, "prompt_tokens": len(tokens)}
    sys.stdout.write(json.dumps(took) + "\n")


if __name__ == "__main__":
    main()
