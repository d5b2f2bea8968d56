"""The rules while a training runs: its figures alone, each finding once."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.diagnosis import findings
from pipelines.health.evidence import Evidence, Facts, Row
from pipelines.health.finding import Finding


class Watch:
    """The findings of a training that were not reported yet."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = list(rows)  # those from before a resume: what they showed has been reported
        self.earlier = len(self.rows)
        self.reported: set[str] = set()

    def see(self, row: Row) -> None:
        """One more row."""
        self.rows.append(row)

    def news(self, facts: Facts, settings: Mapping[str, Any] | None = None) -> list[Finding]:
        """What the rules find in all rows so far, and have not found before. settings: by keys as typed."""
        settings = settings or {}
        for count in range(1, self.earlier + 1):
            if self.rows[count - 1]["split"] == "validation":
                earlier = findings(Evidence(facts, self.rows[:count], settings=settings))
                self.reported |= {finding.rule for finding in earlier}
        self.earlier = 0
        found = [finding for finding in findings(Evidence(facts, self.rows, settings=settings))
                 if finding.rule not in self.reported]
        self.reported |= {finding.rule for finding in found}
        return found
