import itertools
import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Ge

from my_run.distributed.devices import find_devices
from my_run.run.start import check_settings
from my_run.settings.config_file import (
    as_yaml,
    check_readable,
    load_config,
    parse_config,
)
from my_run.settings.errors import SettingError
from my_run.settings.start_up import with_num_processes

from .launching import launch
from .tiny.config import TrainConfig


def test_flags_set_their_fields() -> None:
    config = parse_config(TrainConfig, ["--learning-rate", "0.5", "--max-steps", "7", "--compile"])

    assert config == TrainConfig(learning_rate=0.5, max_steps=7, compile=True)


def test_a_saved_config_reads_back_and_flags_override_it(tmp_path: Path) -> None:
    saved = TrainConfig(seed=3, max_steps=5, learning_rate=1e-7, run_dir=tmp_path / "elsewhere")
    file = str(tmp_path / "config.yaml")
    Path(file).write_text(as_yaml(saved), encoding="utf-8")

    assert load_config(TrainConfig, tmp_path / "config.yaml") == TrainConfig(
        seed=3, max_steps=5, learning_rate=1e-7
    )
    config = parse_config(TrainConfig, ["--seed", "4", "--config", file])
    assert (config.seed, config.max_steps) == (4, 5)
    assert parse_config(TrainConfig, [f"--config={file}"]).seed == 3
    longer = parse_config(TrainConfig, ["--config", file, "--epochs=3"])
    assert (longer.epochs, longer.max_steps) == (3, None)
    assert (
        parse_config(TrainConfig, ["--config", file, "--epochs=3", "--max-steps", "9"]).max_steps
        == 9
    )


def test_paths_are_absolute_and_read_back_as_they_were(tmp_path: Path) -> None:
    saved = TrainConfig(files=(Path("a.txt"), tmp_path / "b.txt"))
    assert saved.files == (Path("a.txt").absolute(), tmp_path / "b.txt")
    file = tmp_path / "config.yaml"
    for config in (saved, TrainConfig()):
        file.write_text(as_yaml(config), encoding="utf-8")
        assert load_config(TrainConfig, file) == config
        assert parse_config(TrainConfig, ["--config", str(file)]) == config
    replaced = parse_config(TrainConfig, ["--config", str(file), "--files", str(tmp_path / "c")])
    assert replaced.files == (tmp_path / "c",)


def test_yaml_no_is_read_as_a_precision(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("mixed_precision: no\nexact: off\n", encoding="utf-8")
    config = load_config(TrainConfig, file)

    assert (config.mixed_precision, config.exact) == ("no", False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("learning_rat: 1", "unknown settings: learning_rat"),
        ("learning_rate: fast", "could not convert"),
        ("learning_rate: [", "cannot be read"),
        ("just text", "name: value"),
        ("epochs: 0", "at least 1"),
        ("epochs: true", "True"),
        ("exact: maybe", "maybe"),
    ],
)
def test_an_invalid_config_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(SettingError, match=reason) as error:
        parse_config(TrainConfig, ["--config", str(file)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--learing-rate", "1"], "did you mean --learning-rate"),
        (["--learning-rate", "-1"], r"learning_rate \(-1.0\).*at least 0; try --learning-rate"),
        (["--learning-rate", "nan"], "finite"),
        (["--weight-decay", "inf"], "finite"),
        (["--epochs", "2.5"], "--epochs"),
        (["--max-steps", "0"], "at least 1"),
        (["--seed", "-1"], "at least 0"),
        (["--placement", "tpu"], "invalid choice 'tpu'"),
        (["--max-steps"], "--max-steps"),
        (["--config"], "--config needs a file"),
        (["--config", "a.yaml", "--config", "b.yaml"], "--config was given twice"),
        (["--config", "missing.yaml"], "missing.yaml cannot be read"),
        (["step"], "step"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(arguments: list[str], reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as error:
        parse_config(TrainConfig, arguments)
    assert "\n" not in str(error.value)


def test_a_wrong_flag_is_named_on_a_terminal_that_draws_no_boxes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("PYTHONIOENCODING", "ascii"), ("PYTHONUTF8", "0"), ("LC_ALL", "C")):
        monkeypatch.setenv(name, value)
    done = launch("train", "--learing-rate", "1")

    assert done.stderr == (
        "error: Unrecognized options: --learing-rate, 1; did you mean --learning-rate?\n"
    )


def test_at_least_one_process_is_started() -> None:
    settings = with_num_processes(TrainConfig)
    for number in (0, -1):
        with pytest.raises(SettingError, match=r"at least 1; try --num-processes 1"):
            parse_config(settings, ["--num-processes", str(number)])


def test_accumulation_follows_from_the_batch_sizes() -> None:
    config = TrainConfig(global_batch_size=96, micro_batch_size=8)

    assert [config.gradient_accumulation_steps(size) for size in (1, 2, 3, 12)] == [12, 6, 4, 1]


def test_sizes_that_do_not_divide_name_the_nearest_that_do() -> None:
    with pytest.raises(SettingError) as error:
        TrainConfig(global_batch_size=32, micro_batch_size=5)
    assert str(error.value) == (
        "global_batch_size (32) must be a multiple of micro_batch_size x data_parallel_size "
        "(5 x 1 = 5); try --micro-batch-size 4 or --global-batch-size 30 or --global-batch-size 35"
    )


@pytest.mark.parametrize("data_parallel_size", [1, 2, 3, 8])
def test_every_size_that_an_error_advises_works(data_parallel_size: int) -> None:
    num_errors = 0
    for global_batch_size, micro_batch_size in itertools.product(range(1, 25), repeat=2):
        sizes = {"global_batch_size": global_batch_size, "micro_batch_size": micro_batch_size}
        try:
            check_sizes(data_parallel_size, **sizes)
        except SettingError as error:
            num_errors += 1
            sizes_advised, _, devices = str(error).partition("; try ")[2].partition("; or use ")
            advice = sizes_advised.split(" or ")
            if devices:
                fewer = int(devices.split()[0])
                assert fewer < data_parallel_size
                check_sizes(fewer, **sizes)
            # The config itself asks for one replica, before it knows how many there are.
            replicas = data_parallel_size if f"x {data_parallel_size} =" in str(error) else 1
            for flag, size in (text.split() for text in advice):
                name = flag.removeprefix("--").replace("-", "_")
                check_sizes(replicas, **{**sizes, name: int(size)})
    assert num_errors > 100


def check_sizes(data_parallel_size: int, **sizes: int) -> None:
    TrainConfig(**sizes).gradient_accumulation_steps(data_parallel_size)  # type: ignore[arg-type]


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass(frozen=True)
class Augmentation:
    """Settings within a setting."""

    scale: Annotated[float, Ge(0)] = 0.1
    is_flipped: bool = True
    masks: tuple[Path, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OwnConfig(TrainConfig):
    """Settings as a user adds them."""

    data_dir: Path | None = None
    size: Size = Size.SMALL
    augmentation: Augmentation = Augmentation(scale=0.2)
    weights: dict[str, float] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    classes: set[int] = field(default_factory=set)
    prompt: str = "-"
    crop: tuple[int, int] | None = None
    is_shuffled: bool = field(default_factory=lambda: False)
    pairs: list[tuple[int, float]] = field(default_factory=list)
    sizes: tuple[int, ...] = (16, 32)
    names: list[str] = field(default_factory=list)
    verbose: bool | None = None
    max_grad_norm: float = 0.5


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--data-dir", "a b/c", "--sizes", "8", "--names", "x", "y"],
        ["--sizes"],
        ["--size", "LARGE", "--weights", "a", "0.5", "b", "2", "--classes", "3", "1"],
        ["--augmentation.no-is-flipped", "--augmentation.masks", "a", "b", "--prompt=--x y"],
        ["--verbose", "False", "--is-shuffled", "--crop", "3", "4"],
        ["--verbose", "True", "--crop", "None"],
        ["--augmentation.scale", "0", "--augmentation.sizes", "a", "1", "--folders", "x", "data"],
    ],
)
def test_settings_of_any_type_read_back(flags: list[str], tmp_path: Path) -> None:
    config = parse_config(OwnConfig, flags)
    file = tmp_path / "config.yaml"
    file.write_text(as_yaml(config), encoding="utf-8")

    assert load_config(OwnConfig, file) == config
    assert config.data_dir is None or config.data_dir == Path.cwd() / "a b" / "c"
    assert all(folder == Path.cwd() / "data" for folder in config.folders.values())
    assert all(mask.is_absolute() for mask in config.augmentation.masks)
    assert json.loads(json.dumps(config.saved())) == config.saved()
    check_readable(config)


def test_a_setting_that_the_file_cannot_hold_is_refused_before_training() -> None:
    config = OwnConfig(pairs=[(1, 2.0)])
    with pytest.raises(
        SettingError, match=r"cannot hold pairs \(\[\[1, 2\.0\]\]\) and give it back"
    ):
        check_settings(config, find_devices(config, "single"))
    with pytest.raises(SettingError, match=r"cannot hold prompt \(<object"):
        check_readable(OwnConfig(prompt=object()))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class PairedConfig(OwnConfig):
    first: str | None = None
    second: str | None = None
    label: int | str = "a"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.first) != bool(self.second):
            raise SettingError("first needs second")


def test_only_the_setting_that_the_file_cannot_hold_is_named() -> None:
    with pytest.raises(SettingError, match=r"cannot hold label \('5'\) and give it back"):
        check_readable(PairedConfig(first="x", second="y", label="5"))


@pytest.mark.parametrize("flags", [["--names"], ["--names", "--sizes", "3"]])
def test_a_list_without_a_value_is_refused_where_it_is_empty_anyway(flags: list[str]) -> None:
    with pytest.raises(SettingError, match=r"^--names got no value; give one, or leave it out"):
        parse_config(OwnConfig, flags)


def test_a_text_that_is_the_name_of_a_list_is_no_flag(tmp_path: Path) -> None:
    assert parse_config(OwnConfig, ["--prompt", "names", "--seed", "3"]).prompt == "names"
    file = tmp_path / "config.yaml"
    file.write_text("names: [a, b]", encoding="utf-8")
    assert parse_config(OwnConfig, ["--config", str(file), "--names"]).names == []


def test_a_repeated_setting_keeps_its_bounds() -> None:
    with pytest.raises(SettingError, match=r"at least 0; try --max-grad-norm 0\.5$"):
        OwnConfig(max_grad_norm=-1.0)
    with pytest.raises(
        SettingError, match=r"^augmentation\.scale \(-1\).*--augmentation\.scale 0\.1$"
    ):
        OwnConfig(augmentation=Augmentation(scale=-1))


def test_a_number_of_any_length_is_checked() -> None:
    assert parse_config(TrainConfig, ["--max-steps", "1" + 400 * "0"]).max_steps == 10**400
