"""What the documents say is what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import Field, create_model

from features.core.strict import Strict
from jobs import describe_tables
from jobs.running import settings_page
from jobs.running.settings import Settings
from jobs.running.settings_files import load, read
from tests.data.programme import CHECKOUT

ROOTS = "bench|conf|docs|features|jobs|setup|tests|training"
DOCUMENTS = [
    *(CHECKOUT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]


def test_tables_page_is_written_from_the_schemas() -> None:
    configs = [str(CHECKOUT / f"conf/{name}.yaml") for name in ("complete_journey", "local")]
    written = (CHECKOUT / "docs/tables.md").read_text(encoding="utf-8")
    assert written == describe_tables.page(load(configs)), "run `make docs`"


def test_settings_page_is_written_from_the_settings() -> None:
    base = read([str(CHECKOUT / "conf/base.yaml")])
    written = (CHECKOUT / "docs/settings.md").read_text(encoding="utf-8")
    assert written == settings_page.settings_page(base), "run `make docs`"


def test_every_key_of_the_shared_yaml_is_on_the_settings_page() -> None:
    page = (CHECKOUT / "docs/settings.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    for key in _keys(read([str(CHECKOUT / "conf/base.yaml")])):
        assert any(key == name or key.startswith(f"{name}.") for name in described), key


def test_a_setting_without_a_description_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    below = create_model("Below", __base__=Strict, told=(int, Field(description="a count")), silent=(int, 1))
    monkeypatch.setattr(settings_page, "Settings", create_model("Above", __base__=Settings, below=(below, ...)))
    with pytest.raises(ValueError, match=r"below\.silent"):
        settings_page.settings_page({})


def test_every_link_leads_to_a_file() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            path = link.partition("#")[0]
            if path and not re.match(r"[a-z]+:", path):
                assert (document.parent / path).exists(), f"{document.relative_to(CHECKOUT)} links to {link}"


def test_every_path_that_a_document_names_exists() -> None:
    named = rf"`((?:{ROOTS})/[\w./-]*)"
    for document in DOCUMENTS:
        for path in re.findall(named, document.read_text(encoding="utf-8")):
            assert (CHECKOUT / path).exists(), f"{document.relative_to(CHECKOUT)} names {path}"


def test_every_page_that_settings_and_makefile_name_exists() -> None:
    for file in [CHECKOUT / "Makefile", *(CHECKOUT / "conf").glob("*.yaml")]:
        for path in re.findall(r"\b((?:docs|tests)/[\w/]+\.(?:md|py))", file.read_text(encoding="utf-8")):
            assert (CHECKOUT / path).exists(), f"{file.name} names {path}"


def test_every_target_that_a_document_names_can_be_made() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"\bmake ([a-z-]+)[`\n ]+(?:MINUTES|#|`|$)", document.read_text(encoding="utf-8")):
            assert target in targets, f"{document.name} names make {target}"
        for target in re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8")):
            assert target in targets, f"{document.name} names make {target}"


def test_every_job_and_option_that_a_document_names_exists() -> None:
    for document in DOCUMENTS:
        for job in re.findall(r"-m (jobs\.\w+)|`(jobs\.\w+)`", document.read_text(encoding="utf-8")):
            name = "".join(job)
            assert Path(CHECKOUT, *name.split(".")).with_suffix(".py").exists(), f"{document.name} names {name}"


def test_every_setting_that_a_guide_names_exists() -> None:
    page = (CHECKOUT / "docs/settings.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([\w.]+)", page, re.MULTILINE))
    groups = {name.partition(".")[0] for name in described}
    for document in [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs/guide").glob("*.md"))]:
        for name in re.findall(r"`(\w+\.[\w.]+?)(?:[:=][^`]*)?`", document.read_text(encoding="utf-8")):
            if name.partition(".")[0] in groups - {"features", "spark"}:  # folders, and options of Spark itself
                found = name in described or any(key.startswith(f"{name}.") for key in described)
                assert found, f"{document.name} names the setting {name}"


def test_both_environments_complete_every_data_set() -> None:
    for data in ("complete_journey", "points_programme"):
        for environment in ("local", "cluster"):
            load([str(CHECKOUT / f"conf/{data}.yaml"), str(CHECKOUT / f"conf/{environment}.yaml")])


def _keys(content: dict[str, object], path: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"
