"""Settings and locations of one run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from phichat.config.settings import Config
from phichat.paths import Paths


@dataclass(frozen=True, slots=True)
class AppContext:
    """Settings, locations and environment variables of one run; made once by a command and handed to every service."""

    config: Config
    paths: Paths
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def with_config(self, **changes: Any) -> Self:
        """Return a context whose settings differ in `changes`, names of fields of Config."""
        return replace(self, config=replace(self.config, **changes))
