"""One line of figures at the end of a test run: what all fault runs did together."""

import pytest

from tests.faults.rounds import Figures

FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    """Nothing was done yet."""
    config.stash[FIGURES] = Figures()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Those of the whole test run, to add to."""
    return request.config.stash[FIGURES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say them."""
    figures = terminalreporter.config.stash.get(FIGURES, Figures())
    if figures.rounds:
        terminalreporter.write_line(f"faults: {figures}")
