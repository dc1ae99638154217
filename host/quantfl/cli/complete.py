"""What the shell offers after Tab (`quantfl --install-completion`): kinds of boards, data sets, runs, ports.

A completion never fails and never talks to a board.
"""

from __future__ import annotations

from pathlib import Path


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def kinds(incomplete: str) -> list[str]:
    """Kinds of virtual boards."""
    from quantfl.emulation import BOARD_KINDS

    return _beginning(list(BOARD_KINDS), incomplete)


def data_sets(incomplete: str) -> list[str]:
    """Names of data sets, and the beginnings of those that name a file."""
    from quantfl.data.dataset import LOADERS, SOURCES

    return _beginning([*LOADERS, *(f"{kind}:" for kind in SOURCES)], incomplete)


def radios(incomplete: str) -> list[str]:
    """Radios of the energy table."""
    from quantfl.link.energy import RADIOS

    return _beginning(list(RADIOS), incomplete)


def ports(incomplete: str) -> list[str]:
    """Serial ports of this machine, and those that QUANTFL_PORTS lists."""
    from quantfl.link.ports import listed, serial_ports

    return _beginning([*(p.url for p in serial_ports()), *listed()], incomplete)


def runs(incomplete: str) -> list[str]:
    """Folders of runs: below the present folder, below runs/, and below what is typed."""
    from quantfl.fleet.checkpoint import RunFolder

    typed = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    found = {path for folder in (Path(), Path("runs"), typed) for path in RunFolder(folder).runs_below()}
    return _beginning(sorted(map(str, found)), incomplete)


def templates(incomplete: str) -> list[str]:
    """Templates of `quantfl new`."""
    from quantfl.project.new import NAMES

    return _beginning(list(NAMES), incomplete)


def project_boards(incomplete: str) -> list[str]:
    """Boards that a project's firmware can be for."""
    from quantfl.project.new import BOARDS

    return _beginning(list(BOARDS), incomplete)
