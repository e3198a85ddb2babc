"""An answer cut into blocks while it grows."""

from __future__ import annotations

import pytest

from phichat.tui.render.blocks import StreamingBlocks

ANSWER = """# Title

A paragraph
of two lines.

```python title
import os

print(os.name)
```

1. one
2. two

~~~
``` not a fence
~~~
````text
```
still inside
````

| a | b |
|---|---|
"""
ANSWER += "".join(f"| {number} | some words |\n" for number in range(120))
ANSWER += "\n" + "".join(f"{number}. an item\n\n   of two paragraphs\n" for number in range(1, 100))


@pytest.mark.parametrize("step", [7, 40])
def test_an_answer_that_grew_has_the_blocks_of_the_whole(step: int) -> None:
    whole, growing = StreamingBlocks(), StreamingBlocks()
    whole.update(ANSWER)
    for end in range(step, len(ANSWER) + step, step):
        growing.update(ANSWER[:end])
    assert list(growing.blocks) == list(whole.blocks)
    assert any(block.table_header for block in whole.blocks)
    assert [block.language for block in whole.blocks if block.is_code] == ["python", "", "text"]


def test_a_long_open_block_of_code_is_kept_whole_for_copying() -> None:
    answer, code = StreamingBlocks(), "".join(f"x = {number}\n" for number in range(1_000))
    answer.update(f"```python\n{code}")
    [block] = answer.blocks
    assert block.code == code
    assert "\n".join(piece.text for piece in block.items) == code.removesuffix("\n")
    assert (block.line, block.items[1].text.split("\n")[0]) == (1, "x = 50")
