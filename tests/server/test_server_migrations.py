from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

import server.migrations
from common.errors import StateError
from server.state.store import Store, history
from server.state.tables import REVISION, Base, ReleaseRow, RunRow

#: What the first simulations wrote, before there were revisions.
OLD = """
CREATE TABLE runs (name VARCHAR NOT NULL, config JSON NOT NULL, source VARCHAR NOT NULL,
  travelling JSON NOT NULL, fence INTEGER NOT NULL, created VARCHAR NOT NULL, PRIMARY KEY (name));
CREATE TABLE rounds (run VARCHAR NOT NULL, number INTEGER NOT NULL, kind VARCHAR NOT NULL,
  "release" VARCHAR NOT NULL, cohort JSON NOT NULL, outcome VARCHAR NOT NULL,
  reason VARCHAR NOT NULL, result VARCHAR NOT NULL, seconds FLOAT NOT NULL, refused JSON NOT NULL,
  started VARCHAR NOT NULL, PRIMARY KEY (run, number), FOREIGN KEY(run) REFERENCES runs (name));
CREATE TABLE replies (run VARCHAR NOT NULL, round INTEGER NOT NULL, plant VARCHAR NOT NULL,
  outcome VARCHAR NOT NULL, reason VARCHAR NOT NULL, weight INTEGER NOT NULL, scores JSON NOT NULL,
  seconds JSON NOT NULL, notes JSON NOT NULL, bytes_up INTEGER NOT NULL,
  bytes_down INTEGER NOT NULL, PRIMARY KEY (run, round, plant),
  FOREIGN KEY(run, round) REFERENCES rounds (run, number));
CREATE TABLE releases (run VARCHAR NOT NULL, number INTEGER NOT NULL, round INTEGER,
  hash VARCHAR NOT NULL, parent VARCHAR, created VARCHAR NOT NULL, PRIMARY KEY (run, number),
  FOREIGN KEY(run, round) REFERENCES rounds (run, number),
  FOREIGN KEY(run) REFERENCES runs (name));
INSERT INTO runs VALUES ('run', '{"seed": 4}', 'h0', '["a"]', 3, '2026-01-01T00:00:00+00:00');
INSERT INTO rounds VALUES ('run', 1, 'train', 'h0', '["ash"]', 'committed', '', 'h1', 2.5, '{}',
  '2026-01-01T00:00:00+00:00');
INSERT INTO replies VALUES ('run', 1, 'ash', 'done', '', 7, '{}', '{}', '{}', 10, 20);
INSERT INTO releases VALUES ('run', 0, NULL, 'h0', NULL, '2026-01-01T00:00:00+00:00');
INSERT INTO releases VALUES ('run', 1, 1, 'h1', 'h0', '2026-01-01T00:00:00+00:00');
"""


def connect(home: Path, url: str) -> Connection:
    return create_engine(url or f"sqlite:///{home / 'state.db'}", poolclass=NullPool).connect()


def write_old(home: Path) -> None:
    with sqlite3.connect(home / "state.db") as plain:
        plain.executescript(OLD)
    plain.close()


def test_the_tables_are_those_of_the_code(tmp_path: Path, empty_database: str) -> None:
    database = empty_database
    Store(tmp_path, database)
    with connect(tmp_path, database) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        # A unique column is an index here and a constraint there.
        found = [
            change
            for change in compare_metadata(context, Base.metadata)
            if not str(change[0]).endswith(("_constraint", "_index"))
        ]
        assert found == []
        assert context.get_current_revision() == REVISION


def test_the_newest_revision_is_the_one_that_the_code_names() -> None:
    script = ScriptDirectory(str(server.migrations.FOLDER))
    assert script.get_heads() == [REVISION]
    known = [revision.revision for revision in script.walk_revisions()]
    assert sorted(known) == list(server.migrations.KNOWN)


def test_a_simulation_from_before_goes_on(tmp_path: Path) -> None:
    write_old(tmp_path)
    (entry,) = history(tmp_path)
    assert (entry["seed"], entry["release"], entry["replies"]["ash"]["weight"]) == (4, "h1", 7)
    with Store(tmp_path).reading() as session:
        run = session.get_one(RunRow, "run")
        assert (run.number, run.base, run.fence, run.state) == (1, 0, 3, "stopped")
        assert session.get_one(ReleaseRow, 1).parent == "h0"
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []


def test_a_simulation_from_before_that_was_over_is_finished(tmp_path: Path) -> None:
    write_old(tmp_path)
    with sqlite3.connect(tmp_path / "state.db") as plain:
        plain.execute(
            "INSERT INTO rounds VALUES ('run', 2, 'adopt', 'h1', '[]', 'committed', '', 'h1', 1, "
            "'{}', '')"
        )
    plain.close()
    with Store(tmp_path).reading() as session:
        assert session.get_one(RunRow, "run").state == "finished"


def test_an_upgrade_that_is_cut_off_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_old(tmp_path)

    def fail(*args: object, **words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.rename_table", fail)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path)
    with sqlite3.connect(tmp_path / "state.db") as plain:
        names = {name for (name,) in plain.execute("SELECT name FROM sqlite_master")}
        assert plain.execute("SELECT count(*) FROM releases").fetchone() == (2,)
    plain.close()
    assert not names & {"chain", "alembic_version", "plants"}
    assert len(history(tmp_path)) == 1


def test_a_later_version_is_one_line(tmp_path: Path, database: str) -> None:
    Store(tmp_path, database)
    with connect(tmp_path, database) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        connection.commit()
    with pytest.raises(StateError, match=r"later version of Transferline \(state 0999"):
        Store(tmp_path, database)


def test_an_old_run_of_a_real_folder_is_continued(centre, make_centre) -> None:  # type: ignore[no-untyped-def]
    """The rows of a run, put back into the tables of the first revision, then continued."""
    centre.configure(rounds=2)
    expected = centre.open().run().hash
    rows = {}
    with sqlite3.connect(centre.home / "state.db") as plain:
        plain.row_factory = sqlite3.Row
        for table, condition in (
            ("runs", "1"),
            ("rounds", "number < 2"),
            ("replies", "round < 2"),
            ("releases", "number < 2"),
        ):
            query = f"SELECT * FROM {table} WHERE {condition}"
            rows[table] = [dict(row) for row in plain.execute(query)]
    plain.close()
    for path in centre.home.glob("state.db*"):
        path.unlink()
    with sqlite3.connect(centre.home / "state.db") as plain:
        plain.executescript(OLD.split("INSERT")[0])
        for table, found in rows.items():
            columns = [info[1] for info in plain.execute(f"PRAGMA table_info({table})")]
            for row in found:
                marks = ",".join("?" * len(columns))
                names = ",".join(f'"{column}"' for column in columns)
                values = [row[column] for column in columns]
                plain.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
    plain.close()
    assert json.loads(rows["runs"][0]["config"])["rounds"] == 2
    centre.plants.asked.clear()
    assert centre.open().run().hash == expected
    assert centre.plants.asked == []  # the outboxes answered round 2 and the order to adopt
