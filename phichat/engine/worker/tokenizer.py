"""Tokenizer of a model: text to token ids and back, and the ids that only a template may write."""

import ctypes
import re
from typing import Any

_CONTROL_TOKEN_PATTERN = re.compile(r"<[|\uff5c].*[|\uff5c]>|\[/?[A-Z_]+\]|</?s>|<(start|end)_of_turn>")
"""Spelling of the control tokens of chat models, also where a file declares them user-defined."""
_MERGE_BARRIER = b"\x01"  # a byte that is part of no merge, see `tokenize_continuation`


class Tokenizer:
    """llama.cpp's own tokenizer for one model."""

    def __init__(self, lib: Any, model: Any) -> None:
        self._lib = lib
        self._vocab = lib.llama_model_get_vocab(model)
        self.is_spm = lib.llama_vocab_type(self._vocab) == lib.LLAMA_VOCAB_TYPE_SPM
        self._pieces: dict[int, bytes] = {}
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self.bos = self._token_text(lib.llama_vocab_bos(self._vocab))
        self.eos = self._token_text(lib.llama_vocab_eos(self._vocab))

    def tokenize(self, text: bytes, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Tokenize as llama.cpp does. add_special: with the BOS token where the model wants one, never with EOS,
        because a prompt is to be continued. parse_special: turn the spelling of control tokens into these tokens."""
        lib, vocab, n = self._lib, self._vocab, -len(text) - 8
        while n < 0:
            ids = (lib.llama_token * -n)()
            n = lib.llama_tokenize(vocab, text, len(text), ids, len(ids), add_special, parse_special)
        tokens = list(ids[:n])
        if add_special and lib.llama_vocab_get_add_eos(vocab) and tokens[-1:] == [lib.llama_vocab_eos(vocab)]:
            tokens.pop()
        return tokens

    def tokenize_continuation(self, text: bytes, *, parse_special: bool) -> list[int]:
        """Tokenize text in the middle of a prompt.

        SentencePiece vocabularies put a space before every text. Here that space comes before a byte that merges
        with nothing, and both are cut off again.
        """
        if self.is_spm and text:
            barrier = self.tokenize(_MERGE_BARRIER)
            tokens = self.tokenize(_MERGE_BARRIER + text, parse_special=parse_special)
            if tokens[: len(barrier)] == barrier:
                return tokens[len(barrier) :]
        return self.tokenize(text, parse_special=parse_special)

    def token_to_piece(self, token: int) -> bytes:
        """Return the bytes of a generated token; none for a control token other than the marks of reasoning."""
        if token not in self._pieces:
            special, n = self._token_text(token) in ("<think>", "</think>"), -256
            while n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
            self._pieces[token] = buffer.raw[:n]
        return self._pieces[token]

    def is_eog(self, token: int) -> bool:
        """Return True for any of the model's end-of-generation tokens."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def has_special_token(self, text: str) -> bool:
        """Return True if the text is a single reserved token."""
        return [self._token_text(token) for token in self.tokenize(text.encode(), parse_special=True)] == [text]

    def find_special_tokens(self, text: str, template: str) -> set[str]:
        """Return the spelling of the reserved tokens that llama.cpp would parse out of the text.

        Reserved are control, unknown and end-of-generation tokens, and user-defined ones that are spelled like
        markup or that the template writes (some files declare the marks of a turn as user-defined). User-defined
        white space or HTML is text.
        """
        names = {token: self._token_text(token) for token in self.tokenize(text.encode(), parse_special=True)}
        found = {token: name for token, name in names.items() if len(name) > 1 and name in text}
        return {name for token, name in found.items() if self._is_reserved(token, name, template)}

    def _is_reserved(self, token: int, name: str, template: str) -> bool:
        lib = self._lib
        attributes = lib.llama_vocab_get_attr(self._vocab, token)
        if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN) or self.is_eog(token):
            return True
        is_markup = not name.isspace() and (_CONTROL_TOKEN_PATTERN.fullmatch(name) is not None or name in template)
        return is_markup and bool(attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def tokenize_as_text(self, name: str) -> list[int]:
        """Return tokens that spell a reserved token without being it.

        llama.cpp finds user-defined tokens even without parse_special, and a SentencePiece merge may result in a
        control token; both are broken up after the first character.
        """
        tokens = self.tokenize_continuation(name.encode(), parse_special=False)
        if len(name) > 1 and any(self._token_text(token) == name for token in tokens):
            return self.tokenize_continuation(name[0].encode(), parse_special=False) + self.tokenize_as_text(name[1:])
        return tokens

    def _token_text(self, token: int) -> str:
        if not 0 <= token < self.size:
            return ""
        return (self._lib.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")
