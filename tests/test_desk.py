"""What a chat has at hand."""

from pathlib import Path

from phichat.config import Config
from phichat.desk import Desk
from phichat.engine.cancel import Cancel
from phichat.engine.scripted import Reply, ScriptedBackend
from phichat.engine.states import WHOLE, StateFolder
from phichat.messages import GenerationParams
from phichat.paths import Paths


def test_what_is_removed_in_a_chat_leaves_no_kv_state(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path)
    desk, folder = Desk(Config(), paths, lambda model: ScriptedBackend([Reply(["So."])])), StateFolder(paths.states)
    paths.states.mkdir()
    talks = [desk.new_talk(), desk.new_talk(), desk.new_talk()]
    for talk in talks:
        list(talk.send("Why?", GenerationParams(), Cancel()))
        assert talk.id is not None
        folder.new_file("0" * 64, talk.id, 1.0).with_suffix(WHOLE).touch()
    shortened, deleted, stays = talks
    shortened.remove(shortened.branch[0].id)
    assert deleted.id is not None
    desk.delete(deleted.id)
    assert [file.owner for file in folder.files()] == [stays.id]
    desk.close()
