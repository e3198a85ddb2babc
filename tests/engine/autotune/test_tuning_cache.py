"""What is made of measurements, and how it is remembered."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.engine.autotune.tuner import (
    BatchCost,
    SpinTrial,
    compute_batch_costs,
    select_exact_costs,
    select_spin_count,
    select_threads,
)
from phichat.engine.autotune.tuning_cache import (
    ComputeSettings,
    Threads,
    TuningCache,
    list_thread_candidates,
    select_fastest,
)
from phichat.engine.ipc.protocol import BatchCostResult, ThreadTrial
from support.hardware_fixtures import PHI4, PHI4_MINI

FOUND = ComputeSettings(Threads(3, 4), ((2, 1.25), (5, 2.0)))


@given(st.integers(1, 256), st.integers(1, 512))
def test_the_usual_number_is_tried_first_and_none_twice(physical: int, logical: int) -> None:
    counts = list_thread_candidates(physical, logical)
    assert counts[0] == physical
    assert len(set(counts)) == len(counts) <= 8
    assert all(1 <= count <= max(physical, min(logical, 2 * physical)) for count in counts)


def test_few_cores_are_all_tried_and_the_logical_ones_too() -> None:
    assert list_thread_candidates(4, 8) == (4, 1, 2, 3, 8)
    assert list_thread_candidates(2, 2) == (2, 1)
    assert list_thread_candidates(4, 128) == (4, 1, 2, 3, 8)


@given(st.lists(st.floats(1, 1e5), min_size=3, max_size=6), st.data())
def test_what_is_within_the_noise_keeps_the_usual_choice(usual: list[float], data: st.DataObject) -> None:
    ratios = data.draw(st.lists(st.floats(0.5, 1.029), min_size=len(usual), max_size=len(usual)))
    measured = [rate * ratio for rate, ratio in zip(usual, ratios, strict=True)]
    assert select_fastest({4: usual, 2: measured}, 4) == 4


def test_one_round_that_was_lost_keeps_the_usual_choice() -> None:
    assert select_fastest({4: [10, 10, 10], 2: [15, 15, 9.9]}, 4) == 4
    assert select_fastest({4: [10, 10, 10], 2: [15, 15, 10.1], 3: [12, 12, 12]}, 4) == 2


def test_reading_and_writing_are_chosen_apart() -> None:
    trials = [
        ThreadTrial(4, (100.0,) * 3, (10.0,) * 3),
        ThreadTrial(2, (60.0,) * 3, (12.0,) * 3),
        ThreadTrial(8, (120.0,) * 3, (6.0,) * 3),
    ]
    assert select_threads(trials) == Threads(2, 8)


def test_spinning_longer_must_not_cost_more_beside_another_program_than_it_gains_alone() -> None:
    usual = SpinTrial(1000, (100.0,) * 4, (40.0,) * 4)
    assert select_spin_count([usual, SpinTrial(10_000, (110.0,) * 4, (20.0,) * 4)]) == 1000
    assert select_spin_count([usual, SpinTrial(10_000, (110.0,) * 4, (40.0,) * 4)]) == 10_000


def test_batches_that_round_otherwise_are_not_for_guessing() -> None:
    weighed = BatchCostResult(((1.0, 2.0), (1.5, 2.4), (2.0, 5.0), (2.0, 4.0)), (True, True, False, True))
    batches = compute_batch_costs((1, 2, 4, 5), weighed)
    assert batches[1] == BatchCost(4, 2.25, exact=False)
    assert select_exact_costs(batches) == ((2, 1.35), (5, 2.0))


def test_what_was_found_holds_for_such_models_and_this_library(tmp_path: Path) -> None:
    library = tmp_path / "libllama.so"
    library.write_bytes(b"")
    (tmp_path / "libggml.so").write_bytes(b"one")
    known = TuningCache(tmp_path / "cache" / "tuning.json")
    larger = replace(PHI4_MINI, file_size=PHI4_MINI.file_size + (1 << 20))
    assert known.get_settings(library, PHI4_MINI, offloaded=False) is None
    known.store_settings(library, PHI4_MINI, FOUND, offloaded=False)
    known.store_spin_count(5 << 30, 300)
    assert known.get_settings(library, larger, offloaded=False) == FOUND
    assert known.get_spin_count(6 << 30) == 300
    assert known.get_settings(library, PHI4_MINI, offloaded=True) is None
    assert known.get_settings(library, replace(larger, file_size=100 << 20), offloaded=False) is None
    assert known.get_settings(library, PHI4, offloaded=False) is None
    assert known.get_spin_count(60 << 20) is None
    (tmp_path / "libggml.so").write_bytes(b"another")
    assert known.get_settings(library, PHI4_MINI, offloaded=False) is None


@pytest.mark.parametrize("bad", [0, -1, 2.5, "4", None, [2], 10**9])
def test_a_damaged_file_is_no_measurement(tmp_path: Path, bad: object) -> None:
    file, library = tmp_path / "tuning.json", tmp_path / "lib.so"
    known = TuningCache(file)
    known.store_settings(library, PHI4_MINI, FOUND, offloaded=False)
    known.store_spin_count(1 << 30, 300)
    entries = json.loads(file.read_text())
    damaged = {key: {**entry, "threads": bad, "spin_count": bad} for key, entry in entries.items()}
    for content in ("", "[]", "{", json.dumps(damaged), json.dumps(dict.fromkeys(entries, bad))):
        file.write_text(content)
        assert known.get_settings(library, PHI4_MINI, offloaded=False) is None
        assert known.get_spin_count(1 << 30) is None
    file.write_text(json.dumps({key: {**entry, "batch_costs": [[2, 1.5], [bad]]} for key, entry in entries.items()}))
    assert known.get_settings(library, PHI4_MINI, offloaded=False) == ComputeSettings(FOUND.threads)
