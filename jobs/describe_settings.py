"""Prints docs/settings.md: every key of the YAML files, with its meaning, allowed values and default."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.running.command import parser, print_page
from jobs.running.settings_files import read
from jobs.running.settings_page import settings_page

ARGUMENTS = parser(
    "describe_settings",
    reads="YAML files whose values are the defaults.",
    writes="a Markdown page to the standard output.",
    example="--config conf/base.yaml",
    as_of=None,
)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return print_page(ARGUMENTS, lambda options: settings_page(read(options.config, options.set)), argv)


if __name__ == "__main__":
    sys.exit(entry())
