"""All rules, asked one after another.

A rule is one file of `rules/`: its docstring says what it finds and why its threshold is where it is, `STAGES` of which
stages it can be asked, and `find(...)` is a pure function of fields of `Evidence`, which it names as its parameters. It
is asked where all of them are known; one with a default is not required. Files are found by looking.
"""

import importlib
import inspect
import pkgutil
from dataclasses import replace
from functools import cache
from types import ModuleType

from pipelines.health import rules
from pipelines.health.evidence import Evidence
from pipelines.health.finding import Finding


@cache
def all_rules() -> dict[str, ModuleType]:
    """Every rule by its name, in the order in which findings are reported: `ORDER`, the most basic first."""
    names = [found.name for found in pkgutil.iter_modules(rules.__path__)]
    modules = [importlib.import_module(f"{rules.__name__}.{name}") for name in names]
    modules.sort(key=lambda module: (module.ORDER, module.__name__))
    return {module.__name__.rpartition(".")[2].replace("_", " "): module for module in modules}


def findings(evidence: Evidence) -> list[Finding]:
    """All that the rules find, the most basic first."""
    found = []
    for name, rule in all_rules().items():
        if evidence.facts.stage not in rule.STAGES or (given := asked(rule, evidence)) is None:
            continue
        finding = rule.find(**given)
        if finding is not None:
            found.append(replace(finding, rule=name, stage=evidence.facts.stage))
    return found


def asked(rule: ModuleType, evidence: Evidence) -> dict | None:
    """The arguments of a rule; None where something that it needs is not known."""
    given = {}
    for name, parameter in inspect.signature(rule.find).parameters.items():
        value = getattr(evidence, name)
        if value is not None:
            given[name] = value
        elif parameter.default is parameter.empty:
            return None
    return given
