"""The tasks of `quantfl bench bytes`: descriptions in models/, each with its splits and shares of boards
asked per round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantfl.emulation.base import ROOT
from quantfl.errors import DataError
from quantfl.fleet import config
from quantfl.fleet.config import RunConfig

MODELS = ROOT / "models"


@dataclass(frozen=True)
class Source:
    """A description; backbone: what it was pre-trained on. train, test: samples used of the data set, None:
    all."""

    name: str
    path: str
    backbone: str
    train: int | None = None
    test: int | None = None
    natural: bool = False  # the data come by writer, subject or speaker
    few: int = 20  # boards where all of them take part in every round

    @property
    def file(self) -> Path:
        return MODELS / self.path


SOURCES = (
    Source("mnist", "femnist_mnist/mnist.toml", "letters of FEMNIST", 24_000),
    Source("cifar100", "cifar100/cifar100.toml", "CIFAR-10 (MLPerf Tiny's ResNet8)", 20_000, 2500),
    Source(
        "cifar100-mobilenet",
        "cifar100_mobilenet/cifar100_mobilenet.toml",
        "ImageNet (MobileNetV1 0.25, 64 components)",
        20_000,
        2500,
    ),
    Source("femnist", "femnist_writers/femnist.toml", "40 other writers of FEMNIST", natural=True),
    Source("activity", "activity/activity.toml", "phones of 8 other subjects", natural=True),
    Source(
        "spoken-digits",
        "spoken_digits/spoken_digits.toml",
        "Speech Commands (MLPerf Tiny's KWS)",
        natural=True,
    ),
)
DIGITS = Source("digits", "digits/demo.toml", "upright digits", few=8)
SPLITS = ("dirichlet:0.3", "dirichlet:0.1", "iid")


@dataclass(frozen=True)
class Task:
    """A task with split and participation. central: all schemes are compared on it; on the others the main
    ones."""

    source: Source
    split: str
    participation: float
    config: RunConfig
    central: bool

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def label(self) -> str:
        return f"{self.name}, {self.split}, {self.participation:.0%}"


def task(
    source: Source,
    split: str,
    participation: float,
    *,
    central: bool,
    rounds: int | None = None,
    honest: bool = True,
) -> Task:
    """honest: no board lies. Codecs are compared without the test that compares boards; `quantfl bench
    attacks` says what that test costs honest fleets."""
    c = config.load(source.file)
    boards = c.fleet.size if source.natural or participation < 1 else source.few
    update = {
        "run": c.run.model_copy(
            update={"participation": participation} | ({"rounds": rounds} if rounds else {})
        ),
        "fleet": c.fleet.model_copy(update={"emulate": "inproc", "boards": boards}),
        "data": c.data.model_copy(update={"split": split, "test_samples": source.test}),
    }
    if honest:
        update["admission"] = c.admission.model_copy(update={"outliers": False, "refusals": 0})
    return Task(source, split, participation, c.model_copy(update=update), central)


def present(source: Source) -> bool:
    """Whether its data and its model are here."""
    from quantfl.data.dataset import find

    folders = {
        "cifar100-mobilenet": "cifar100",
        "femnist": "femnist_leaf",
        "activity": "har_spsw",
        "spoken-digits": "fsdd",
    }
    if not source.file.exists():
        return False
    if source.name == "digits":
        return True
    try:
        find(folders.get(source.name, source.name), None)
    except DataError:
        return False
    return True


def tasks(quick: bool) -> list[Task]:
    """All that the data here allow. quick: digits, and MNIST, activity and spoken digits with fewer
    rounds."""
    found: list[Task] = []
    if quick:
        found.append(task(DIGITS, "dirichlet:0.3", 1.0, central=True))
        for source in SOURCES:
            if present(source) and source.name in ("mnist", "activity", "spoken-digits"):
                split = "by-group" if source.natural else SPLITS[0]
                found.append(task(source, split, 0.1, central=source.name == "mnist", rounds=30))
        return found
    for source in SOURCES:
        if not present(source):
            continue
        for split in ("by-group",) if source.natural else SPLITS:
            for participation in (0.1, 1.0):
                found.append(
                    task(
                        source,
                        split,
                        participation,
                        central=participation < 1 and split in ("by-group", SPLITS[0]),
                    )
                )
    return found or [task(DIGITS, "dirichlet:0.3", 1.0, central=True)]
