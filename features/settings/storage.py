"""Settings of the storage root, with the places below it, and of the Spark session."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from features.core.strict import Strict


class Storage(Strict):
    """Where tables, bundles and reports are stored."""

    root: str = Field(
        min_length=1, description="path or URI of the folder that holds everything: file:, s3a:, hdfs:, abfss:"
    )

    @property
    def base(self) -> str:
        """The root as a URI or absolute path: Delta takes no relative one."""
        has_scheme = re.match(r"^[a-z][a-z0-9+.-]+:", self.root)
        return (self.root if has_scheme else str(Path(self.root).absolute())).rstrip("/")

    def table(self, name: str) -> str:
        """URI of a Delta table."""
        return f"{self.base}/tables/{name}"

    @property
    def models(self) -> str:
        """URI under which bundles lie."""
        return f"{self.base}/models"

    @property
    def pretrained(self) -> str:
        """URI under which bundles of pretrained encoders lie."""
        return f"{self.base}/pretrained"

    @property
    def reports(self) -> str:
        """URI under which reports lie."""
        return f"{self.base}/reports"

    @property
    def staging(self) -> str:
        """URI of what training stages and keeps for a restart."""
        return f"{self.base}/staging"


class SparkSettings(Strict):
    """How the Spark session is started."""

    master: str | None = Field(None, description="Spark's master URL; leave it unset under spark-submit")
    app_name: str = Field(description="application name that Spark's pages show")
    options: dict[str, str | int | bool] = Field(
        default_factory=dict, description="Spark options by name; they cannot change the time zone, ANSI mode or Delta"
    )
