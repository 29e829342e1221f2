"""How a kfp component enters a step."""

from pathlib import Path

import pytest

from components.entry import enter
from training.artefact import open_artefact


def test_a_step_runs_from_plain_values(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    enter("dataset", {"data": {"source": {"name": "digits"}, "split": {"seed": 3.0}}}, {}, str(out))
    assert open_artefact(out, "snapshot").inputs == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"source": {"name": "npz", "path": "/no/such.npz"}}, "/no/such.npz: no such file"),
        ({"source": {"name": "nmist"}}, "data.source"),
        ({"sorce": {}}, "data.sorce"),
        ("digits", "data"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: object, words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        enter("dataset", {"data": data}, {}, str(tmp_path / "out"))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        enter("dataset", {"data": {}}, {}, str(tmp_path / "file" / "out"))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/file")
    assert "check that the folder is there" in line
