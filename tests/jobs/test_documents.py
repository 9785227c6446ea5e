"""What the documents say is what the code does."""

from __future__ import annotations

import re

from jobs.describe_tables import page
from jobs.running.settings_files import load
from tests.data.programme import CHECKOUT


def test_tables_page_is_written_from_the_schemas() -> None:
    configs = [str(CHECKOUT / f"conf/{name}.yaml") for name in ("complete_journey", "local")]
    assert (CHECKOUT / "docs/tables.md").read_text(encoding="utf-8") == page(load(configs)), "run `make docs`"


def test_every_file_that_a_document_names_exists() -> None:
    for document in [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"`((?:conf|docs|features|training|jobs|tests|setup|bench)/[\w./]+\.\w+)`", text)
        named += re.findall(r"\]\(([\w./]+)\)", text)
        for path in named:
            found = (CHECKOUT / path).exists() or (document.parent / path).exists()
            assert found, f"{document.name} names {path}"


def test_every_target_that_a_document_names_can_be_made() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]:
        for target in re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8")):
            assert target in targets, f"{document.name} names make {target}"


def test_both_environments_complete_every_data_set() -> None:
    for data in ("complete_journey", "points_programme"):
        for environment in ("local", "cluster"):
            load([str(CHECKOUT / f"conf/{data}.yaml"), str(CHECKOUT / f"conf/{environment}.yaml")])
