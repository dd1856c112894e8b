"""The journal: written before the change, undone in reverse, whole after any kill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fake_card import FakeCard, settings

from shardserver.errors import DeviceUnavailableError, ShardserverError
from shardserver.nic import apply, changes, journal
from shardserver.nic.changes import Wishes
from shardserver.nic.journal import Journal

WISHES = Wishes("netmap", "off", True, 2, ("symmetric", "equal:1"))


def wanted() -> list[changes.Change]:
    plan = changes.plan("eth0", settings(), WISHES)
    return [*plan.before_open, *plan.after_open]


def opened(card: Any, directory: Path) -> Journal:
    return Journal(card, journal.header(card, 7, "server", "web"), directory)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    """A card that every `Card(name)` leads to."""
    made = FakeCard(settings())

    class Same:
        def __init__(self, _name: str) -> None:
            pass

        def __enter__(self) -> FakeCard:
            return made

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(journal, "Card", Same)
    monkeypatch.setattr(journal, "current_name", lambda _record: "eth0")
    return made


def test_all_is_undone_in_reverse_and_the_file_is_gone(card: FakeCard, tmp_path: Path) -> None:
    made = opened(card, tmp_path)
    for change in wanted():
        made.change(change)
    assert card.now != settings()
    del card.calls[:]
    assert made.undo() == journal.Outcome()
    made.close()
    assert card.now == settings()
    assert card.own_table, "the driver's own table was restored as one set by hand"
    assert card.calls == ["set_flag", "set_features", "set_rss", "set_channels"]
    assert list(tmp_path.iterdir()) == []


def test_a_change_is_on_disk_before_it_is_made(
    card: FakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = opened(card, tmp_path)
    seen: list[tuple[int, bool]] = []
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(fd))

    def look(_card: object, _change: object) -> None:
        record = journal.load(made.path)
        assert record
        seen.append((len(record.changes), len(synced) == len(record.changes)))

    monkeypatch.setattr(apply, "make", look)
    for change in wanted():
        made.change(change)
    assert seen == [(1, True), (2, True), (3, True), (4, True)]
    made.close()


@pytest.mark.parametrize("made_n", range(5))
@pytest.mark.parametrize("torn", ["", '{"type":"flag","fl'])
def test_a_kill_anywhere_is_undone_by_restore(
    card: FakeCard, tmp_path: Path, made_n: int, torn: str
) -> None:
    """`made_n` changes are made, the next is written down in part, in full, or not at all."""
    made = opened(card, tmp_path)
    for change in wanted()[:made_n]:
        made.change(change)
    made.close()  # as the kernel does it: the lock is free, nothing is undone
    with made.path.open("a") as file:
        file.write(torn)
    (record,) = journal.records([tmp_path])
    assert (record.pid, len(record.changes)) == (0, made_n)
    assert journal.restore(record) == journal.Outcome()
    assert card.now == settings()
    assert list(tmp_path.iterdir()) == []


def test_a_change_that_was_written_but_not_made_is_undone_without_harm(
    card: FakeCard, tmp_path: Path
) -> None:
    made = opened(card, tmp_path)
    for change in wanted():
        journal._line(made._fd, change)
    made.close()
    (record,) = journal.records([tmp_path])
    assert journal.restore(record) == journal.Outcome()
    assert card.now == settings()


@pytest.mark.parametrize("call", ["set_channels", "set_rss", "set_features", "set_flag"])
def test_a_refused_change_undoes_those_before_it(card: FakeCard, tmp_path: Path, call: str) -> None:
    made = opened(card, tmp_path)
    card.refuses = {call}
    with pytest.raises(DeviceUnavailableError, match="the driver refuses"):
        for change in wanted():
            made.change(change)
    assert made.undo() == journal.Outcome()  # what was refused has nothing to undo
    made.close()
    assert card.now == settings()
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_silently_does_nothing_is_found_out(card: FakeCard, tmp_path: Path) -> None:
    made = opened(card, tmp_path)
    card.set_channels = lambda _wanted: None  # type: ignore[method-assign]
    with pytest.raises(DeviceUnavailableError, match="kept the number of queues"):
        made.change(wanted()[0])
    made.close()


def test_what_cannot_be_undone_keeps_the_journal(card: FakeCard, tmp_path: Path) -> None:
    made = opened(card, tmp_path)
    for change in wanted():
        made.change(change)
    card.refuses = {"set_features"}
    outcome = made.undo()
    made.close()
    assert len(outcome.stays) == 1
    assert "offloads off" in outcome.stays[0]
    (record,) = journal.records([tmp_path])
    card.refuses = set()
    assert journal.restore(record) == journal.Outcome()
    assert card.now == settings()


def test_what_somebody_else_changed_is_told_and_left_alone(card: FakeCard, tmp_path: Path) -> None:
    made = opened(card, tmp_path)
    made.change(wanted()[-1])
    card.set_features({"rx-hashing": False})
    outcome = made.undo()
    made.close()
    assert not outcome.stays
    assert [line.partition(":")[0] for line in outcome.foreign] == ["rx-hashing"]
    assert not card.now.features["rx-hashing"].wanted
    assert list(tmp_path.iterdir()) == []


def test_a_living_keeper_is_seen(card: FakeCard, tmp_path: Path) -> None:
    made = opened(card, tmp_path)
    (record,) = journal.records([tmp_path])
    assert record.pid == os.getpid()
    assert journal.stale([tmp_path], 7) == []
    made.close()
    (record,) = journal.records([tmp_path])
    assert record.pid == 0
    assert [stale.path for stale in journal.stale([tmp_path], 7)] == [made.path]
    assert journal.stale([tmp_path], 8) == []


def test_journals_of_another_boot_are_removed_and_of_other_namespaces_left(
    card: FakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(card, tmp_path).close()
    monkeypatch.setattr(journal, "namespace", lambda: "elsewhere")
    assert journal.records([tmp_path]) == []
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(journal, "boot_id", lambda: "later")
    assert journal.records([tmp_path]) == []
    assert list(tmp_path.iterdir()) == []


def test_an_interface_that_is_gone_has_nothing_to_undo(
    card: FakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = opened(card, tmp_path)
    made.change(wanted()[0])
    made.close()
    monkeypatch.setattr(journal, "current_name", lambda _record: "")
    (record,) = journal.records([tmp_path])
    assert journal.restore(record) == journal.Outcome()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nic-n1-1-server.journal"
    path.write_text("hello\n")
    with pytest.raises(ShardserverError, match="not a journal"):
        journal.records([tmp_path])


def test_a_journal_that_was_never_finished_is_removed(card: FakeCard, tmp_path: Path) -> None:
    half, other = tmp_path / "nic-n1-7-server.new", tmp_path / "web.log"
    for path in (half, other):
        path.write_text("{")
    assert journal.records([tmp_path]) == []
    journal.remove_half_made([tmp_path])
    assert list(tmp_path.iterdir()) == [other]


def test_who_restores_holds_the_journal(
    card: FakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = opened(card, tmp_path)
    made.change(wanted()[0])
    monkeypatch.setattr(journal, "_LOCK_S", 0.05)
    (record,) = journal.records([tmp_path])
    with pytest.raises(DeviceUnavailableError, match="uses it and undoes its changes"):
        journal.restore(record)
    assert card.now != settings()
    made.close()
    assert journal.restore(record) == journal.Outcome()
    assert card.now == settings()
    card.set_flag(0x100, True)
    assert journal.restore(record) == journal.Outcome()  # somebody was faster: nothing is done
    assert card.now.promisc


def test_changes_made_after_the_journal_was_read_are_undone_too(
    card: FakeCard, tmp_path: Path
) -> None:
    made = opened(card, tmp_path)
    (record,) = journal.records([tmp_path])
    for change in wanted():
        made.change(change)
    made.close()
    assert journal.restore(record) == journal.Outcome()
    assert card.now == settings()


def test_a_directory_that_others_can_write_to_is_not_believed(
    card: FakeCard, tmp_path: Path
) -> None:
    """Or a forged journal in /tmp would change the card of whoever restores."""
    opened(card, tmp_path).close()
    assert len(journal.records([tmp_path])) == 1
    for mode in (0o777, 0o720):
        tmp_path.chmod(mode)
        assert journal.records([tmp_path]) == []
    tmp_path.chmod(0o700)
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    assert journal.records([link]) == []


def test_the_namespace_and_the_boot_have_names() -> None:
    assert journal.namespace() == journal.namespace() != ""
    assert len(journal.boot_id()) == 36


def test_root_keeps_journals_where_no_service_manager_cleans() -> None:
    environment = {"RUNTIME_DIRECTORY": "/run/x"}
    assert journal.directories(environment, 0) == (Path("/run/shardserver"), Path("/run/x"))
    assert journal.directories(environment, 1000) == (Path("/run/x"),)


def test_the_first_directory_that_can_be_made_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    second = tmp_path / "own"
    assert journal.make_directory([tmp_path / "file" / "x", second]) == second
    assert second.is_dir()
