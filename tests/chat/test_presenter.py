"""The dispatch of events to presenters."""

from typing import get_args

import pytest

from phichat.chat.presenter import TurnPresenter, method_name, present
from phichat.events import Event, TextDelta


@pytest.mark.parametrize("event_type", get_args(Event))
def test_every_event_has_a_method(event_type: type[Event]) -> None:
    assert vars(TurnPresenter)[method_name(event_type)].__annotations__["event"] == f"events.{event_type.__name__}"


def test_every_method_is_for_an_event() -> None:
    methods = {name for name in vars(TurnPresenter) if name.startswith("on_")}
    assert methods == {method_name(event_type) for event_type in get_args(Event)}


def test_the_method_of_the_event_is_called() -> None:
    class Shown(TurnPresenter):
        text = ""

        def on_text_delta(self, event: TextDelta) -> None:
            self.text += event.text

    shown = Shown()
    present(TextDelta("Hi"), shown)
    assert shown.text == "Hi"
