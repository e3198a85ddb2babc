"""A model's vocabulary: text to token ids and back, and which ids only a template may write."""

from __future__ import annotations

import ctypes
import re
from typing import Any

_CONTROL_TOKEN_PATTERN = re.compile(r"<[|\uff5c].*[|\uff5c]>|\[/?[A-Z_]+\]|</?s>|<(start|end)_of_turn>")
"""How the control tokens of chat models are spelled, also where a file declares them user-defined."""

# The guard of `continuation`: a byte that stands in no merge.
_MERGE_BARRIER = b"\x01"


class Tokenizer:
    """llama.cpp's own tokenizer for one model."""

    def __init__(self, lib: Any, model: Any) -> None:
        self._lib = lib
        self._vocab = lib.llama_model_get_vocab(model)
        self._buffer = ctypes.create_string_buffer(256)
        self.is_spm = lib.llama_vocab_type(self._vocab) == lib.LLAMA_VOCAB_TYPE_SPM
        self._pieces: dict[int, bytes] = {}
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self.bos = self._token_text(lib.llama_vocab_bos(self._vocab))
        self.eos = self._token_text(lib.llama_vocab_eos(self._vocab))

    def tokenize(self, text: bytes, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """llama.cpp's tokenization. add_special: with the BOS token where the model wants one; an
        EOS token is never added, for a prompt is there to be continued."""
        capacity = len(text) + 8
        while True:
            ids = (self._lib.llama_token * capacity)()
            n = self._lib.llama_tokenize(self._vocab, text, len(text), ids, capacity, add_special, parse_special)
            if n >= 0:
                break
            capacity = -n
        tokens = list(ids[:n])
        adds_eos = add_special and self._lib.llama_vocab_get_add_eos(self._vocab)
        if adds_eos and tokens and tokens[-1] == self._lib.llama_vocab_eos(self._vocab):
            tokens.pop()
        return tokens

    def tokenize_continuation(self, text: bytes, *, parse_special: bool) -> list[int]:
        """The tokens of text that stands in the middle of a prompt.

        SentencePiece vocabularies put a space before every text they are given. A byte that merges
        with nothing stands before it here and is cut off again with that space.
        """
        if not self.is_spm or not text:
            return self.tokenize(text, parse_special=parse_special)
        barrier = self.tokenize(_MERGE_BARRIER)
        tokens = self.tokenize(_MERGE_BARRIER + text, parse_special=parse_special)
        if tokens[: len(barrier)] != barrier:
            return self.tokenize(text, parse_special=parse_special)
        return tokens[len(barrier) :]

    def token_to_piece(self, token: int) -> bytes:
        """The bytes that a generated token says; a control token says none, but the marks of
        reasoning are kept."""
        piece = self._pieces.get(token)
        if piece is None:
            renders_special = self._token_text(token) in ("<think>", "</think>")
            size = len(self._buffer)
            n = self._lib.llama_token_to_piece(self._vocab, token, self._buffer, size, 0, renders_special)
            if n < 0:
                self._buffer = ctypes.create_string_buffer(-n)
                n = self._lib.llama_token_to_piece(self._vocab, token, self._buffer, -n, 0, renders_special)
            piece = self._pieces[token] = self._buffer.raw[: max(n, 0)]
        return piece

    def is_eog(self, token: int) -> bool:
        """Whether it is any of the model's end-of-generation tokens."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def has_special_token(self, text: str) -> bool:
        """Whether this text is one token that the vocabulary reserves."""
        ids = self.tokenize(text.encode(), parse_special=True)
        return len(ids) == 1 and self._token_text(ids[0]) == text

    def find_special_tokens(self, text: str, template: str) -> set[str]:
        """The control tokens that llama.cpp would find in text if it were asked to parse them.

        Reserved is what the vocabulary declares as control or unknown, what ends a generation, and
        user-defined tokens that are spelled like markup or that the template itself writes (some
        files declare the marks of a turn as user-defined). User-defined white space or HTML is text.
        """
        found = set()
        for token in set(self.tokenize(text.encode(), parse_special=True)):
            name = self._token_text(token)
            if len(name) > 1 and name in text and self._is_reserved(token, name, template):
                found.add(name)
        return found

    def _is_reserved(self, token: int, name: str, template: str) -> bool:
        lib = self._lib
        attributes = lib.llama_vocab_get_attr(self._vocab, token)
        if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN) or self.is_eog(token):
            return True
        if not attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED or name.isspace():
            return False
        return bool(_CONTROL_TOKEN_PATTERN.fullmatch(name)) or name in template

    def tokenize_as_text(self, name: str) -> list[int]:
        """The tokens that spell a reserved text without being it.

        A user-defined token is found even when nothing is to be parsed, and a SentencePiece merge
        may arrive at a control token; both are broken up after the first character.
        """
        tokens = self.tokenize_continuation(name.encode(), parse_special=False)
        if len(name) > 1 and any(self._token_text(token) == name for token in tokens):
            return self.tokenize_continuation(name[0].encode(), parse_special=False) + self.tokenize_as_text(name[1:])
        return tokens

    def _token_text(self, token: int) -> str:
        if not 0 <= token < self.size:
            return ""
        return (self._lib.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")
