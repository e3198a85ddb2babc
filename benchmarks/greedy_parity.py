"""Greedy answers of phichat, compared with llama.cpp's own token for token.

Each prompt goes through `phichat ask --temp 0`, and through llama.cpp's low-level API with the model's
template rendered by hand, the same batch, threads and flash attention setting. Text and number of
tokens must be the same.

    python benchmarks/greedy_parity.py MODEL.gguf [--max-tokens 48]
"""

from __future__ import annotations

import argparse

from common import ask_json, phichat_home, say
from llama_reference import Reference

_PARAGRAPH = (
    "The lighthouse keeper wrote down the weather every evening: wind from the west, rain before midnight, "
    "fog at {}. Ships passed, some of them in sight, and each was given a line in the book. "
)
PROMPTS = (
    "What is the capital of France?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "def quicksort(items):\n    if len(items) <= 1:\n        return items\n    # complete this function",
    "Explain this SQL: SELECT name, COUNT(*) FROM users GROUP BY name HAVING COUNT(*) > 1;",
    "Wie heißt die Hauptstadt von Österreich, und warum ist sie berühmt?",
    "Übersetze ins Englische: „Die größten Bären fressen süße Äpfel.“",
    "日本の首都はどこですか。簡単に答えてください。",
    "Привет! Расскажи короткую сказку о медведе.",
    "مرحبا، كيف حالك؟",
    "What do these emoji mean? 🦊👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 👍🏽",
    "Compute 17 * 23 step by step.",
    "Solve for x: x² − 5x + 6 = 0. Use ∑, √ and ≤ in your explanation.",
    "List five fruits as a JSON array.",
    "hi",
    "    leading spaces,\ttabs\tand\n\n\n\nblank lines   ",
    "<b>HTML</b> & entities &lt;i&gt; with {{ braces }} and {% percent %} and $HOME and \\n \\x1b",
    "Repeat exactly: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0123456789 0123456789",
    "Summarise this:\n\n" + "".join(_PARAGRAPH.format(hour) for hour in range(6)),
    "Summarise this:\n\n" + "".join(_PARAGRAPH.format(hour) for hour in range(32)),
    "e\u0301 is not \u00e9; zero\u200bwidth; Z\u0351\u036b\u0343\u036a\u0302algo; \ufb01 ligature; \u00a0; \U0001d54f",
)


def main() -> None:
    """Compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    same = tokens = 0
    reference: Reference | None = None
    with phichat_home() as env:
        flags = ("-m", given.model, "--temp", 0, "--max-tokens", given.max_tokens, "--threads", given.threads)
        for prompt in PROMPTS:
            ours = ask_json(env, *flags, "--", prompt)
            reference = reference or Reference(given.model, ours["context"]["n_ctx"], given.threads)
            ids = reference.tokenize(reference.render([{"role": "user", "content": prompt}]))
            said = reference.greedy(ids, given.max_tokens)
            theirs = (reference.text(said), len(ids), len(said))
            usage = ours["usage"]
            found = (ours["text"], usage["prompt_tokens"], usage["completion_tokens"])
            equal = found == theirs
            same += equal
            tokens += len(said)
            say(f"{'same' if equal else 'DIFFERENT':9}  {len(ids):5} + {len(said):3} tokens  {prompt[:60]!r}")
            if not equal:
                say(f"  phichat:   {found!r}\n  llama.cpp: {theirs!r}")
    say(f"\n{same} of {len(PROMPTS)} answers identical, {tokens:,} generated tokens compared")
    if same < len(PROMPTS):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
