"""What is made of measurements, and how it is remembered."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.engine.protocol import Trial
from phichat.engine.tuner import SpinTrial, chosen, chosen_spin
from phichat.engine.tuning import Threads, Tunings, candidates, fastest


@given(st.integers(1, 256), st.integers(1, 512))
def test_the_usual_number_is_tried_first_and_none_twice(physical: int, logical: int) -> None:
    counts = candidates(physical, logical)
    assert counts[0] == physical
    assert len(set(counts)) == len(counts) <= 8
    assert all(1 <= count <= max(physical, min(logical, 2 * physical)) for count in counts)


def test_few_cores_are_all_tried_and_the_logical_ones_too() -> None:
    assert candidates(4, 8) == (4, 1, 2, 3, 8)
    assert candidates(2, 2) == (2, 1)
    assert candidates(4, 128) == (4, 1, 2, 3, 8)


@given(st.lists(st.floats(1, 1e5), min_size=3, max_size=6), st.data())
def test_what_is_within_the_noise_keeps_the_usual_choice(usual: list[float], data: st.DataObject) -> None:
    ratios = data.draw(st.lists(st.floats(0.5, 1.029), min_size=len(usual), max_size=len(usual)))
    measured = [rate * ratio for rate, ratio in zip(usual, ratios, strict=True)]
    assert fastest({4: usual, 2: measured}, 4) == 4


def test_one_round_that_was_lost_keeps_the_usual_choice() -> None:
    assert fastest({4: [10, 10, 10], 2: [15, 15, 9.9]}, 4) == 4
    assert fastest({4: [10, 10, 10], 2: [15, 15, 10.1], 3: [12, 12, 12]}, 4) == 2


def test_reading_and_writing_are_chosen_apart() -> None:
    trials = [
        Trial(4, (100.0,) * 3, (10.0,) * 3),
        Trial(2, (60.0,) * 3, (12.0,) * 3),
        Trial(8, (120.0,) * 3, (6.0,) * 3),
    ]
    assert chosen(trials) == Threads(2, 8)


def test_spinning_longer_must_not_cost_more_beside_another_program_than_it_gains_alone() -> None:
    usual = SpinTrial(1000, (100.0,) * 4, (40.0,) * 4)
    assert chosen_spin([usual, SpinTrial(10_000, (110.0,) * 4, (20.0,) * 4)]) == 1000
    assert chosen_spin([usual, SpinTrial(10_000, (110.0,) * 4, (40.0,) * 4)]) == 10_000


def test_what_was_found_holds_for_models_of_that_size_and_this_library(tmp_path: Path) -> None:
    library = tmp_path / "libllama.so"
    library.write_bytes(b"")
    (tmp_path / "libggml.so").write_bytes(b"one")
    known = Tunings(tmp_path / "cache" / "tuning.json")
    assert known.threads(library, 5 << 30, offloaded=False) is None
    known.remember_threads(library, 5 << 30, Threads(3, 4), offloaded=False)
    known.remember_spin_count(5 << 30, 300)
    assert known.threads(library, 6 << 30, offloaded=False) == Threads(3, 4)
    assert known.spin_count(6 << 30) == 300
    assert known.threads(library, 6 << 30, offloaded=True) is None
    assert known.threads(library, 60 << 20, offloaded=False) is None
    assert known.spin_count(60 << 20) is None
    (tmp_path / "libggml.so").write_bytes(b"another")
    assert known.threads(library, 6 << 30, offloaded=False) is None


@pytest.mark.parametrize("bad", [0, -1, 2.5, "4", None, [2], 10**9])
def test_a_damaged_file_is_no_measurement(tmp_path: Path, bad: object) -> None:
    file = tmp_path / "tuning.json"
    known = Tunings(file)
    known.remember_threads(tmp_path / "lib.so", 1 << 30, Threads(3, 4), offloaded=False)
    known.remember_spin_count(1 << 30, 300)
    entries = json.loads(file.read_text())
    damaged = {key: {**entry, "threads": bad, "spin_count": bad} for key, entry in entries.items()}
    for content in ("", "[]", "{", json.dumps(damaged), json.dumps(dict.fromkeys(entries, bad))):
        file.write_text(content)
        assert known.threads(tmp_path / "lib.so", 1 << 30, offloaded=False) is None
        assert known.spin_count(1 << 30) is None
