"""Steps in a thread of their own, which must end whenever they are told to."""

import time
from threading import Thread

from phichat.transcript.debounce import DEBOUNCE_S, DebouncedWorker


def test_a_stop_is_heard_at_any_moment() -> None:
    tickers = [DebouncedWorker(lambda: True) for _ in range(200)]

    def live(ticker: DebouncedWorker) -> None:
        ticker.trigger()
        time.sleep(DEBOUNCE_S)  # it begins its step now
        ticker.stop()

    lives = [Thread(target=live, args=(ticker,), daemon=True) for ticker in tickers]
    for one in lives:
        one.start()
    until = time.monotonic() + 10
    for one in lives:
        one.join(max(0.0, until - time.monotonic()))
    assert not any(one.is_alive() for one in lives), "a stop went unheard"


def test_a_step_that_fails_is_tried_again() -> None:
    tried: list[float] = []

    def step() -> bool:
        tried.append(time.monotonic())
        return len(tried) > 1

    ticker = DebouncedWorker(step)
    ticker.trigger()
    until = time.monotonic() + 10
    while len(tried) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    ticker.stop()
    assert len(tried) == 2
