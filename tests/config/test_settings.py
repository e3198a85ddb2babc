"""Settings from flags, environment and file."""

from pathlib import Path

import pytest

from phichat.config import settings
from phichat.errors import ConfigError, UsageError


def load(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> settings.Config:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return settings.load_config(flags, file, environ or {})


def test_defaults_without_a_file(tmp_path: Path) -> None:
    assert settings.load_config({}, tmp_path / "none.toml", {}) == settings.Config()


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    text = 'model = "file"\ntemperature = 0.1\ntop-k = 7\n'
    environ = {"PHICHAT_MODEL": "environment"}
    assert load(tmp_path, text).model == "file"
    assert load(tmp_path, text, environ).model == "environment"
    both = load(tmp_path, text, environ, model="flag", temperature="0.9", seed=None)
    assert (both.model, both.sampling.temperature, both.sampling.top_k) == ("flag", 0.9, 7)


def test_engine_options_and_aliases(tmp_path: Path) -> None:
    found = load(tmp_path, 'n_gpu_layers = "all"\ncache_type_k = "q8_0"\nnum_ctx = 4096\nkeep_alive = "5m"\n')
    assert (found.engine.n_gpu_layers, found.engine.cache_type_k, found.engine.ctx_size) == ("all", "q8_0", 4096)
    assert found.keep_alive == 300


@pytest.mark.parametrize(
    ("value", "size"), [("0", 0), (0, 0), ("4GB", 4 * 10**9), ("1.5 mb", 1_500_000), (123, 123), ("2TB", 2 * 10**12)]
)
def test_sizes_are_bytes_or_have_a_unit(value: object, size: int) -> None:
    assert settings.parse_option("state_budget", value) == ("state_budget", size)


def test_no_log_from_the_environment(tmp_path: Path) -> None:
    assert not load(tmp_path, "log = true", {"PHICHAT_NO_LOG": "1"}).log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "abc"),
        ("temperature", "nan"),
        ("top_p", "1.5"),
        ("top_k", "1.5"),
        ("seed", "-1"),
        ("max_tokens", "0"),
        ("n_gpu_layers", "many"),
        ("cache_type_k", "q9"),
        ("threads", "0"),
        ("state_budget", "much"),
        ("state_budget", "-1GB"),
        ("state_budget", "GB"),
        ("nonsense", "1"),
    ],
)
def test_unusable_options_name_the_option_and_what_it_takes(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.parse_option(name, value)
    assert name in str(caught.value)
    assert caught.value.next_step


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for text in ("temperature = ", "temperature = true", 'colour = "red"'):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, text)
        assert "config.toml" in str(caught.value)
