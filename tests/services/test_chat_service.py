"""What a chat has at hand."""

from pathlib import Path

from phichat.cancel import CancelToken
from phichat.config.settings import Config
from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.types import SamplingParams


def test_what_is_removed_in_a_chat_leaves_no_kv_state(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path)
    desk, folder = (
        ChatService(AppContext(Config(), paths), lambda model: ScriptedBackend([ScriptedReply(["So."])])),
        KvStore(paths.kv_store),
    )
    paths.kv_store.mkdir()
    talks = [desk.new_conversation(), desk.new_conversation(), desk.new_conversation()]
    for talk in talks:
        list(talk.send("Why?", SamplingParams(), CancelToken()))
        assert talk.id is not None
        folder.make_partial_path("0" * 64, talk.id, 1.0).with_suffix(COMPLETE_SUFFIX).touch()
    shortened, deleted, stays = talks
    shortened.remove_turn(shortened.branch[0].id)
    assert deleted.id is not None
    desk.transcripts.soft_delete(deleted.id)
    assert [file.conversation_key for file in folder.list_files()] == [stays.id]
    desk.close()


def test_a_resumed_conversation_has_its_system_prompt_unless_another_is_given(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path)

    def start(system: str | None) -> ChatService:
        context = AppContext(Config(model="scripted", system=system), paths)
        return ChatService(context, lambda model: ScriptedBackend([ScriptedReply(["So."])]))

    first = start("be brief")
    list(first.new_conversation().send("Why?", SamplingParams(), CancelToken()))
    first.close()
    for given, expected in ((None, "be brief"), ("be kind", "be kind")):
        service = start(given)
        assert service.initial_conversation(None, resume_latest=True).system == expected
        assert service.new_conversation().system == given
        service.close()


def test_a_fork_leaves_the_original_unchanged(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path)
    service = ChatService(AppContext(Config(), paths), lambda model: ScriptedBackend([ScriptedReply(["So."])] * 2))
    original = service.new_conversation()
    for prompt in ("one", "two"):
        list(original.send(prompt, SamplingParams(), CancelToken()))
    fork = service.fork_conversation(original, original.branch[0].id)
    assert original.id is not None
    assert [turn.prompt for turn in fork.branch] == ["one"]
    assert [turn.prompt for turn in service.open_conversation(original.id).branch] == ["one", "two"]
    service.close()
