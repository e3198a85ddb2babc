"""What a chat has at hand."""

from pathlib import Path

from phichat.cancel import CancelToken
from phichat.config.settings import Config
from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.engine.scripted_backend import FakeBackend, FakeReply
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.types import SamplingParams


def test_what_is_removed_in_a_chat_leaves_no_kv_state(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path)
    desk, folder = (
        ChatService(AppContext(Config(), paths), lambda model: FakeBackend([FakeReply(["So."])])),
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
