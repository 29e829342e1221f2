"""The Makefile tells what it can do, and the README names only what there is."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
PHONY = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split())


def make(*words: str) -> str:
    # A make above this one, such as that of `make test`, would make this one tell of its folder.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", *words], cwd=ROOT, env=alone, check=True, capture_output=True, text=True)
    return done.stdout


def test_every_target_has_a_help_text() -> None:
    assert {"help", "setup", "run", "test", "check-runners", "check-resume", "compare-fashion"} <= TARGETS
    for target in TARGETS:
        assert re.search(rf"^{target}:.*## [A-Z]", MAKEFILE, re.MULTILINE), target


def test_every_target_is_phony_for_a_file_of_its_name_may_appear() -> None:
    assert PHONY == TARGETS


def test_help_lists_every_target_and_is_the_default() -> None:
    listed = [line.split()[0] for line in make("help").splitlines()]
    assert sorted(listed) == sorted(TARGETS)
    assert make() == make("help")


def test_the_readme_names_only_targets_that_there_are() -> None:
    named = set(re.findall(r"`make ([a-z-]+)", README)) | set(
        re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    )
    assert {"run", "test"} <= named <= TARGETS


def test_the_readme_links_only_to_files_that_there_are() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
    steps = re.findall(r"^test: \S+ ([a-z ]+)##", MAKEFILE, re.MULTILINE)[0].split()
    assert steps == ["lint", "types", "layers", "unit"]
