"""What doctor.py finds wrong with the run, and which setting to change."""

from pipelines.evaluation.checkup import check, command
from pipelines.reporting.html import Html, join, tag
from pipelines.reporting.subject import Reported

TITLE, ORDER = "Doctor's findings", 70


def section(reported: Reported) -> Html:
    checkup = check(reported.loaded)
    seen = tag("p", f"Looked at: {', '.join(checkup.looked_at)}.", class_="soft")
    if not checkup.findings:
        return join(tag("p", "Nothing found."), seen)
    parts = []
    for finding in checkup.findings:
        parts.append(tag(
            "div", tag("h3", f"{finding.rule} ({finding.stage.replace('stage', 'stage ')})"),
            tag("p", sentence(finding.evidence), " ", sentence(finding.meaning)),
            tag("p", tag("strong", "Change: "), finding.advice, ".") if finding.advice else None,
            tag("pre", command(finding.changes[0], reported.run.root.resolve().name)) if finding.changes else None,
            class_="finding"))
    return join(parts, seen)


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return f"{words[:1].upper()}{words[1:]}."
