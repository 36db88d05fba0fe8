"""Conformance: the contract of a stage, as tests that anyone runs on their own: `pytest --gpt-tui-stage pkg:Class`.

A pytest plugin: one test a rule. What fails is told in a sentence. The rules themselves are in conformance_rules.py.
"""

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --gpt-tui-stage."""
    parser.addoption(
        "--gpt-tui-stage", action="append", default=[], metavar="PACKAGE.MODULE:CLASS",
        help="run the contract of gpt-tui's stages on this class; repeatable",
    )  # fmt: skip


def pytest_collection(session: pytest.Session) -> None:
    """Collect the contract alone where no tests were named beside it."""
    named = session.config.args_source is pytest.Config.ArgsSource.ARGS
    if session.config.getoption("--gpt-tui-stage") and not named:
        session.config.args = []


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Add the contract of each stage to what is collected."""
    report = yield
    if isinstance(collector, pytest.Session):
        for target in collector.config.getoption("--gpt-tui-stage"):
            report.result.append(_Contract.from_parent(collector, name=target))  # type: ignore[attr-defined]
    return report


class _Contract(pytest.Collector):
    """The rules for one class."""

    def collect(self) -> Iterator[pytest.Item]:
        from samplers.conformance_rules import RULES

        for rule in RULES:
            yield _Rule.from_parent(self, name=rule.__name__, target=self.name, rule=rule)


class _Rule(pytest.Item):
    """One rule for one class."""

    def __init__(self, *, target: str, rule: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._target, self._rule = target, rule

    def runtest(self) -> None:
        from samplers.conformance_rules import load_target

        self._rule(load_target(self._target))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from samplers.conformance_rules import BrokenRuleError

        if isinstance(excinfo.value, BrokenRuleError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        return self._target, None, f"{self._target}: {self.name.replace('_', ' ')}"
