"""What one run of phichat works with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from phichat.config.settings import Config
from phichat.paths import Paths


@dataclass(frozen=True, slots=True)
class AppContext:
    """Settings and locations of one run; made once by a command and handed to every service."""

    config: Config
    paths: Paths

    def with_config(self, **changes: Any) -> Self:
        """Return a context whose settings differ in `changes`, names of fields of Config."""
        return replace(self, config=replace(self.config, **changes))
