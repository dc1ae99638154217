"""A run's description, FLEET.toml: every field validated, every error with file and key or line.

Paths in the file are relative to the file. The docstring below a key is its line in docs/FLEET.md:
`python tools/reference.py` writes it there.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from quantfl.core.codec import LEVELS, Codec
from quantfl.core.head import FitConfig
from quantfl.emulation.base import BOARD_KINDS
from quantfl.errors import UsageError
from quantfl.link.ble_turns import DEFAULT_CONNECTIONS
from quantfl.link.energy import RADIOS, joules
from quantfl.link.ports import same_port
from quantfl.strategy import registry
from quantfl.strategy.admission import Bounds
from quantfl.strategy.aggregators import find_aggregator
from quantfl.strategy.base import Strategy
from quantfl.strategy.closed_form import StatsSpec
from quantfl.strategy.rate_control import DOWNLINK, UPLINK, StepSchedule, schedule
from quantfl.suggest import meant


@dataclass(frozen=True)
class Unit:
    """The unit of a key, for its documentation."""

    name: str


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunTable(_Table):
    """[run]: what is repeated, how often, and where it is written."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "run"
    """The run's name."""
    rounds: Annotated[int, Field(ge=1, le=65535), Unit("rounds")] = 20
    """How many rounds count before the run ends."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Decides the split of the data, the choice of boards and every other draw of the run."""
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of boards that is asked in each round."""
    min_boards: Annotated[int, Field(ge=1)] = 1
    """With fewer ready boards the run does not start. With fewer contributing boards a round does not
    count."""
    wait_for: Annotated[int, Field(ge=1), Unit("boards")] | None = None
    """A round ends as soon as so many boards have contributed. The others are asked again in later rounds.
    None: it waits for all, up to `deadline_s`."""
    wait_s: Annotated[float, Field(ge=0), Unit("s")] = 120.0
    """How long a round with too few contributing boards is tried again. Then the run stops with exit code
    8, and can be resumed."""
    deadline_s: Annotated[float, Field(gt=0), Unit("s")] = 60.0
    """The time that boards have for a round."""
    setup_s: Annotated[float, Field(gt=0), Unit("s")] = 120.0
    """The time that boards have to be set up."""
    evaluate_every: Annotated[int, Field(ge=1), Unit("rounds")] = 1
    """The host evaluates the head on its test data every so many rounds."""
    out: str | None = None
    """The folder of everything that is written. None: `runs/NAME`."""


class ModelTable(_Table):
    """[model]: a package, or a .tflite or .keras file that is converted first."""

    path: str
    """A package, a full int8 `.tflite`, or a `.keras` model, which also needs `calibrate`."""
    cut: str | None = None
    """The layer at whose input the model is cut, as in `quantfl convert --cut`."""
    calibrate: str | None = None
    """A file of real inputs, as in `quantfl convert --calibrate`."""
    train: Literal["all", "scales", "scales+head"] | None = None
    """What is trained, as in `quantfl convert --train`."""
    recompute: bool = False
    """Boards cache inputs instead of features, as in `quantfl convert --recompute`."""


class BoardTable(_Table):
    """[[fleet.board]]: one board, by its port or by its id."""

    url: str = ""
    """Where the board is: a serial port, or a URL such as `ble://NAME`. Write Windows names in single
    quotes: `'COM3'`."""
    id: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{2,64}$")] | None = None
    """The board's unique id, or its beginning, as `quantfl devices` shows it. It stands in place of `url`.
    The board is found at whatever port it is plugged in."""
    samples: str | None = None
    """The channel through which an emulated board gets its samples."""
    name: str | None = None
    """What the board is called in tables and in the ledger. None: its URL."""

    @model_validator(mode="before")
    @classmethod
    def _place(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("id"), str) and "url" not in raw:
            return raw | {"url": f"id://{raw['id'].lower()}"}
        if isinstance(raw, dict) and "url" not in raw:
            raise ValueError("needs url, or the board's id")
        return raw


class FleetTable(_Table):
    """[fleet]: either emulated boards that the run boots itself, or boards at ports."""

    emulate: str | None = None
    """The kind of boards that the run boots itself: `auto`, `inproc`, `twin`, `native`, `qemu_m4` or
    another emulated core of docs/BOARDS.md."""
    boards: Annotated[int, Field(ge=1)] = 8
    """How many boards the run boots."""
    board: tuple[BoardTable, ...] = ()
    """Boards at ports, one table each. Give them or `emulate`, not both."""
    ble_connections: Annotated[int, Field(ge=1, le=64)] = DEFAULT_CONNECTIONS
    """How many boards are connected at once at the BLE adapter. More boards than that take turns."""
    ble_packet: Annotated[Literal[27, 251], Unit("bytes")] = 251
    """The size of a link-layer packet in the ledger's model of BLE. 27 stands for boards without
    data-length extension."""

    @field_validator("emulate")
    @classmethod
    def _emulate(cls, value: str | None) -> str | None:
        if value not in (None, "auto", *BOARD_KINDS):
            raise ValueError(f"must be one of auto, {', '.join(BOARD_KINDS)}{meant(value, BOARD_KINDS)}")
        return value

    @model_validator(mode="after")
    def _one_of(self) -> FleetTable:
        if (self.emulate is None) == (not self.board):
            raise ValueError("give either emulate (boards the run boots) or [[fleet.board]] tables with urls")
        names, ports = [b.name or b.url for b in self.board], [same_port(b.url) for b in self.board]
        for i, board in enumerate(self.board):
            if names[i] in names[:i] or ports[i] in ports[:i]:
                raise ValueError(f"two [[fleet.board]] tables are called {names[i]} or are at {board.url}")
        return self

    @property
    def size(self) -> int:
        return len(self.board) if self.board else self.boards


class DataTable(_Table):
    """[data]: what is fed to emulated boards, how it is split, and what the host evaluates on."""

    name: str = "digits"
    """A data set of docs/DATA.md, or data of your own: `npz:FILE`, `csv:FILE`, `csv:FOLDER`, `images:FOLDER`,
    `edge-impulse:FOLDER`, `wav:FOLDER` or `python:FILE.py`. `python:` runs the file's code, so the file has
    to be your own."""
    path: str | None = None
    """The folder of the data set. None: it is looked for as docs/DATA.md says."""
    split: str = "dirichlet:0.3"
    """How samples are divided between boards: `iid`, `dirichlet:ALPHA`, or `by-group` (also called
    `by-writer`), which keeps all samples of a group on one board."""
    samples_per_board: Annotated[int, Field(ge=1), Unit("samples")] | None = None
    """At most so many samples are fed to a board. None: all."""
    test_samples: Annotated[int, Field(ge=1), Unit("samples")] | None = None
    """At most so many samples are used to evaluate on the host. None: all."""


class TrainTable(_Table):
    """[train]: hyper-parameters of the local fits."""

    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.05
    """The learning rate of SGD on the board."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The momentum of SGD on the board."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """The weight decay of SGD on the board."""
    prox: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """FedProx's µ: how strongly a fit is held near the global head."""
    epochs: Annotated[int, Field(ge=1, le=65535), Unit("epochs")] = 1
    """How often a board goes over its samples in one round."""
    batch: Annotated[int, Field(ge=1, le=65535), Unit("samples")] = 10
    """The size of a minibatch."""
    holdout: Annotated[int, Field(ge=0, le=255)] = 0
    """Every k-th sample is held back, to evaluate on the board. 0: none."""
    personal: bool = False
    """A board keeps a personalised head where it is better on the samples held back (docs/TRAINING.md)."""

    @model_validator(mode="after")
    def _held_back(self) -> TrainTable:
        if self.personal and self.holdout == 0:
            raise ValueError(
                "personalised heads are compared on samples held back: set holdout to at least 2"
            )
        return self

    @field_validator("holdout")
    @classmethod
    def _not_all(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1 would hold back every sample; use 0 or at least 2")
        return value

    def fit(self) -> FitConfig:
        return FitConfig(**self.model_dump(exclude={"personal"}))


Default = tuple[float, float, tuple[float, float]]


class CodecTable(_Table):
    """[uplink] and [downlink]: how deltas are coded in that direction."""

    default: ClassVar[Default] = UPLINK

    codec: Literal["fp32", "bu", "bq", "dz"] = "dz"
    """How deltas are coded (docs/CODEC.md)."""
    levels: int = 64
    """The number of buckets of `bu` and `bq`: 4, 8, 16, 32, 64 or 256."""
    per_tensor: bool = False
    """`bu` and `bq` have one range for each tensor instead of one for each message."""
    means: bool = False
    """`bu` and `bq` reconstruct a value at the mean of its bucket instead of the bucket's midpoint."""
    coded: bool = False
    """`bu` and `bq` send indices through an entropy coder. This needs at most 64 levels."""
    step: Annotated[float, Field(ge=0.0625, le=64), Unit("rms of the delta")] | None = None
    """The step of `dz` in the first round. None: the rate control chooses it. A step that is given stays
    as it is."""
    step_end: Annotated[float, Field(ge=0.0625, le=64), Unit("rms of the delta")] | None = None
    """The step of `dz` in the last round. None: the rate control chooses it."""

    @field_validator("levels")
    @classmethod
    def _known(cls, value: int) -> int:
        if value not in LEVELS:
            raise ValueError(f"must be one of {', '.join(map(str, LEVELS))}")
        return value

    @model_validator(mode="after")
    def _codable(self) -> CodecTable:
        if self.coded and self.codec in ("bu", "bq") and self.levels > 64:
            raise ValueError("coded = true is possible with at most 64 levels")
        return self

    def make(self) -> Codec:
        """The codec of this direction. Its step is the one given, else the first of the default schedule."""
        step = self.default[0] if self.step is None else self.step
        return Codec(self.codec, self.levels, self.per_tensor, self.means, step, self.coded)

    def schedule(self, clients: int) -> StepSchedule:
        """Steps from the first round to the last. clients: in a round. What is not given is the rate
        control's to choose."""
        return schedule(self.default, self.step, self.step_end, clients)


class UplinkTable(CodecTable):
    """[uplink]: how deltas are coded on their way from the boards."""

    default: ClassVar[Default] = UPLINK

    residual_decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The part of a board's residual that is left for every round the board sat out."""


class DownlinkTable(CodecTable):
    """[downlink]: how deltas are coded on their way to the boards."""

    default: ClassVar[Default] = DOWNLINK

    dither: Annotated[float, Field(ge=0, le=1), Unit("steps")] = 0.8
    """The spread of the boards' roundings. 0: all boards hold the same head."""


class StartTable(_Table):
    """[start]: a first head in closed form, from sufficient statistics of the boards' features."""

    how: Literal["auto", "closed-form", "none"] = "auto"
    """Whether the first head is computed in closed form. `auto` does so where the uplink's codec is `dz`, the
    estimate of bytes says that it pays, and the head is calibrated on boards it has not seen
    (docs/CODEC.md)."""
    boards: Annotated[int, Field(ge=1)] = 25
    """How many boards are asked for their sufficient statistics."""
    scatter_step: Annotated[float, Field(ge=0.0625, le=15)] = 0.4
    """The step with which the scatter of the features is quantised (docs/CODEC.md)."""
    sums_step: Annotated[float, Field(ge=0.0625, le=15)] = 0.4
    """The step with which the class sums are quantised (docs/CODEC.md)."""
    dims: Annotated[int, Field(ge=0, le=65535)] = 0
    """The number of dimensions of a random sketch of the features. 0: no sketch."""

    def spec(self, seed: int) -> StatsSpec:
        return StatsSpec(self.scatter_step, self.sums_step, self.dims, seed & 0xFFFFFFFF)


class BudgetTable(_Table):
    """[budget]: what a link may cost over all rounds. Both directions and all overhead but noise count."""

    bytes_per_link: Annotated[int, Field(ge=1), Unit("bytes")] | None = None
    """How many bytes a link may carry. None: no limit."""
    joules_per_link: Annotated[float, Field(gt=0), Unit("J")] | None = None
    """How much energy a link may cost, by the energy per bit of `radio`. None: no limit."""
    radio: str = "ble"
    """The radio whose energy per bit counts: `ble`, `wifi`, `lora-sf7`, `lora-sf12`, `uart-115200` or
    `uart-921600` (docs/LEDGER.md)."""
    nj_per_bit: Annotated[float, Field(gt=0), Unit("nJ/bit")] | None = None
    """The energy per bit of a radio of your own. It replaces that of `radio`."""

    @field_validator("radio")
    @classmethod
    def _radio(cls, value: str) -> str:
        if value not in RADIOS:
            raise ValueError(f"must be one of {', '.join(RADIOS)}{meant(value, RADIOS)}")
        return value

    def limit(self) -> float | None:
        """Bytes per link, None: no limit."""
        limits = [] if self.bytes_per_link is None else [float(self.bytes_per_link)]
        if self.joules_per_link is not None:
            limits.append(self.joules_per_link / joules(1, self.radio, self.nj_per_bit))
        return min(limits, default=None)


class AdmissionTable(_Table):
    """[admission]: which deltas are refused."""

    max_norm: Annotated[float, Field(gt=0)] | None = None
    """A delta with a larger l2 norm is refused. None: no such bound."""
    times_median: Annotated[float, Field(ge=0)] = 2.5
    """The same bound in units of the median of the round's non-zero norms, from three norms on. 0: no
    such bound."""
    max_samples: Annotated[float, Field(ge=1), Unit("samples")] | None = None
    """The largest weight of a board whose number of samples only the board itself knows. None: twice the
    median of the round's claims."""
    replays: bool = True
    """A delta of 16 bytes or more is refused when it equals one that was admitted in an earlier round, from
    whatever board."""
    outliers: bool = True
    """A board's delta is refused when its deltas have led elsewhere than the other boards' for some rounds,
    from five deltas a round on."""
    refusals: Annotated[int, Field(ge=0)] = 3
    """After so many refused deltas a board is left out. Four admitted deltas take one refusal back.
    At most a minority of the boards is left out. 0: never."""

    @field_validator("times_median")
    @classmethod
    def _above(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("below 1 would refuse the median itself; use 0 for no bound, or at least 1")
        return value

    def bounds(self) -> Bounds:
        return Bounds(**self.model_dump())


class KeysTable(_Table):
    """[keys]: with a key file, all links of the run are authenticated and encrypted (docs/SECURITY.md)."""

    file: str | None = None
    """The key file. It is made where it is absent and the run boots the boards itself, which then get their
    keys from it. Packages are signed where the file has the signing key. None: links are plain."""


class StrategyTable(_Table):
    """[strategy]: how deltas become a new head. Keys that are not listed here are the strategy's own."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: str = "fedavg"
    """`fedavg`, `fedavgm`, `fedadagrad`, `fedadam`, `fedyogi`, or a strategy that an installed package adds
    (docs/EXTENDING.md)."""
    aggregator: str = "mean"
    """How a round's deltas become one: `mean`, or a rule that stands against boards that lie: `median`,
    `trimmed_mean`, `krum`, `multi_krum`, `bulyan`, `norm_clipped_mean` or `geometric_median`.
    docs/SECURITY.md says which to choose."""
    weighting: Literal["samples", "equal"] = "samples"
    """The weight of a client in the mean: its number of samples, or the same for all."""
    liars: Annotated[float, Field(ge=0, lt=0.5)] = 0.3
    """The share of the boards that may lie, for `trimmed_mean`, `krum`, `multi_krum` and `bulyan`."""
    clip: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """For `norm_clipped_mean`: the longest delta, in units of the round's median norm."""

    @field_validator("aggregator")
    @classmethod
    def _aggregator(cls, value: str) -> str:
        try:
            find_aggregator(value)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _options(self) -> StrategyTable:
        try:
            options = self.options()
        except UsageError as error:
            raise ValueError(str(error)) from None
        except ValidationError as error:
            first = error.errors()[0]
            key, known = _key(first["loc"]), ", ".join(registry.find(self.name).options.model_fields)
            if first["type"] == "extra_forbidden":
                meant = _meant(("strategy", key))
                text = f"strategy.{key} is no key of {self.name}{meant}; its keys are {known}"
                raise ValueError(text) from None
            raise ValueError(f"strategy.{key}: {first['msg']} (got {first.get('input')!r})") from None
        # A default that is written out is the same description as its absence.
        object.__setattr__(self, "__pydantic_extra__", options.model_dump())
        return self

    def options(self) -> registry.Options:
        """The strategy's own keys, with its defaults."""
        return registry.find(self.name).options.model_validate(self.model_extra or {})

    def make(self, parts: registry.Parts) -> Strategy:
        """The strategy, from the parts of a run."""
        return registry.find(self.name).make(parts, self.options())


class RunConfig(_Table):
    """A whole FLEET.toml."""

    model: ModelTable
    fleet: FleetTable
    run: RunTable = RunTable()
    data: DataTable = DataTable()
    train: TrainTable = TrainTable()
    uplink: UplinkTable = UplinkTable()
    downlink: DownlinkTable = DownlinkTable()
    start: StartTable = StartTable()
    budget: BudgetTable = BudgetTable()
    admission: AdmissionTable = AdmissionTable()
    strategy: StrategyTable = StrategyTable()
    keys: KeysTable = KeysTable()

    @model_validator(mode="after")
    def _enough(self) -> RunConfig:
        if self.run.min_boards > self.fleet.size:
            raise ValueError(
                f"run.min_boards is {self.run.min_boards}, but the fleet has {self.fleet.size} boards"
            )
        if self.run.wait_for is not None and self.run.wait_for < self.run.min_boards:
            raise ValueError(
                f"run.wait_for is {self.run.wait_for}, but a round counts with {self.run.min_boards} boards "
                "only (run.min_boards)"
            )
        return self


def _key(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the file"


def _known(table: type[BaseModel], prefix: str = "") -> list[str]:
    """All keys of a description, dotted."""
    keys = []
    for name, field in table.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        kind = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        keys += [prefix + name] if kind is None else _known(kind, f"{prefix}{name}.")
    return keys


def _meant(location: tuple[int | str, ...]) -> str:
    """A question about a key that is like one of ours, or stands in the wrong table."""
    given = ".".join(str(part) for part in location if isinstance(part, str))
    known = [*RunConfig.model_fields, *_known(RunConfig)]
    last = given.rsplit(".", 1)[-1]
    there = [key for key in known if key.rsplit(".", 1)[-1] == last] or difflib.get_close_matches(
        given, known, 1, 0.75
    )
    return f" (is {there[0]} meant?)" if there else ""


def parse(text: str, source: str = "FLEET.toml") -> RunConfig:
    """A description from TOML text. UsageError names `source` and the line or key."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: not TOML: {error}") from None
    return validate(raw, source)


def validate(raw: dict[str, Any], source: str = "the description") -> RunConfig:
    """A description from nested dicts. UsageError names `source` and the key."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"no such key{_meant(first['loc'])}; see docs/FLEET.md"
        elif first["type"] == "missing":
            message = "is missing"
        given = first.get("input")
        shown = (
            f" (got {given!r})" if isinstance(given, str | int | float) and first["type"] != "missing" else ""
        )
        raise UsageError(f"{source}: {_key(first['loc'])}: {message}{shown}{more}") from None


def load(path: Path) -> RunConfig:
    """Read FLEET.toml. UsageError when it is absent, unreadable or wrong."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A description's text; a byte order mark before UTF-8 is left out. UsageError when it is no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte {error.start + 1} is not UTF-8 text; save the file as UTF-8 in your editor"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
