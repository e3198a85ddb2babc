"""The dispatch of events to presenters."""

import re
from typing import get_args
from unittest.mock import create_autospec, sentinel

import pytest

from phichat.chat.presenter import TurnPresenter, present
from phichat.events import Event, TextDelta


@pytest.mark.parametrize("event_type", get_args(Event))
def test_each_event_reaches_the_method_of_its_name(event_type: type[Event]) -> None:
    presenter = create_autospec(TurnPresenter, instance=True)
    event = object.__new__(event_type)
    present(event, presenter)
    name = "on" + re.sub(r"(?=[A-Z])", "_", event_type.__name__).lower()
    assert [(call[0], call[1][0] is event) for call in presenter.method_calls] == [(name, True)]


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(AssertionError):
        present(sentinel.event, TurnPresenter())


def test_a_presenter_overrides_what_it_shows() -> None:
    class Shown(TurnPresenter):
        text = ""

        def on_text_delta(self, event: TextDelta) -> None:
            self.text += event.text

    shown = Shown()
    present(TextDelta("Hi"), shown)
    assert shown.text == "Hi"
