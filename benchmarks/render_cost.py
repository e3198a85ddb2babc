"""CPU time of one screen update of a growing answer that is one huge block, without a terminal.

python benchmarks/render_cost.py [CHARACTERS]
"""

from __future__ import annotations

import sys
import time

from phichat.events import TextDelta
from phichat.tui.render.renderer import Renderer, RenderTheme
from phichat.tui.turn_view import TurnView

ANSWERS = {
    "many blocks": "A paragraph of `words` that is wrapped.\n\n```python\nx = 1\n```\n\n",
    "code": "    value = compute(value, 'text', 42)  # a comment\n",
    "list": "- an item with **some** words and `code`\n",
    "table": "| one | two | three hundred |\n",
    "paragraph": "many words in one line ",
}
HEADS = {"code": "```python\n", "table": "| a | b | c |\n|---|---|---|\n"}
LOOK = RenderTheme(
    dark=True,
    prompt="blue",
    muted="grey50",
    accent="cyan",
    notice="yellow",
    warning="yellow",
    error="red",
    code_background="default",
)


def main() -> None:
    characters = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    for name, unit in ANSWERS.items():
        text = HEADS.get(name, "") + unit * (characters // len(unit))
        turn, renderer, known, took = TurnView("prompt"), Renderer(LOOK, 100), [], []
        step = characters // 50  # each fiftieth is one update; what lies between them is left out
        for begin in range(0, len(text), step):
            turn.apply_event(TextDelta(text[begin : begin + step - 20]))
            for piece in turn.render_items():
                if piece not in known:
                    renderer.render_lines(piece)
            known = turn.render_items()
            turn.apply_event(TextDelta(text[begin + step - 20 : begin + step]))
            began = time.process_time()
            pieces = turn.render_items()
            for piece in (new for at, new in enumerate(pieces) if at >= len(known) or known[at] != new):
                renderer.render_lines(piece)
            took.append(time.process_time() - began)
        sys.stdout.write(f"{name}: last update {took[-1] * 1000:.1f} ms, worst {max(took) * 1000:.1f} ms\n")


if __name__ == "__main__":
    main()
