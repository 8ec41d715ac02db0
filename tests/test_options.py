"""Options made from settings classes."""

import sys
import types
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field, model_validator
from typer.testing import CliRunner

from sawyer.errors import SawyerError
from sawyer.options import given, settings_from, with_settings
from sawyer.settings import Settings


class Kinds(Settings):
    rate: float = Field(default=1.0, ge=0)
    """How fast."""
    most: int | None = None
    """How many."""
    name: str = "x"
    """What it is called."""
    mode: Literal["a", "b"] | None = None
    """Which way."""
    on: bool = False
    """Whether."""
    ends: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Where it ends."""
    ids: list[int] = Field(default_factory=list)
    """Which ones."""
    bias: dict[int, float] = Field(default_factory=dict)
    """By how much."""
    early: bool | Literal["never"] = False
    """When."""

    @model_validator(mode="after")
    def _consistent(self):
        if self.rate == 7 and self.on:
            raise ValueError("rate 7 and on contradict each other")
        return self


@pytest.fixture
def parse(monkeypatch):
    """`parse(*words)`: the settings that a command line gives; with `help` its help."""
    module = types.ModuleType("kinds")
    module.Kinds = Kinds
    monkeypatch.setitem(sys.modules, "kinds", module)
    app, made = typer.Typer(rich_markup_mode=None), []

    @app.command(cls=with_settings("kinds:Kinds"))
    def verb(context: typer.Context, own: int = 3) -> None:
        made.append(settings_from(Kinds, given(context, Kinds)))

    def call(*words):
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None:
            raise result.exception
        return result.output if "--help" in words else made[-1]

    return call


def test_what_is_not_given_is_at_its_default(parse):
    assert parse() == Kinds()


def test_values_are_read_as_their_settings_want_them(parse):
    assert parse("--rate", "1e-3", "--most", "4", "--mode", "b", "--on").model_dump() == {
        **Kinds().model_dump(), "rate": 1e-3, "most": 4, "mode": "b", "on": True,
    }  # fmt: skip
    assert parse("--most", "null").most is None
    assert parse("--name", "1.50").name == "1.50"
    assert parse("--ends", "no", "--ends", "\n\n").ends == ("no", "\n\n")
    assert parse("--ids", "1", "--ids", "2").ids == [1, 2]
    assert parse("--bias", "{3: 1.5}").bias == {3: 1.5}
    assert (parse("--early", "never").early, parse("--early", "true").early) == ("never", True)
    assert parse("--no-on").on is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "-1"), "--rate: rate should be greater than or equal to 0, not -1"),
        (("--most", "1.5"), "--most: most should be a valid integer"),
        (("--most", "{"), "--most: most should be a valid integer"),
        (("--mode", "c"), "--mode: mode should be 'a' or 'b', not 'c'"),
        (("--rate", "7", "--on"), "rate 7 and on contradict each other"),
    ],
)
def test_a_wrong_value_is_a_sentence_that_names_the_option(parse, words, said):
    with pytest.raises(SawyerError) as caught:
        parse(*words)
    assert str(caught.value).startswith(said)


def test_help_says_what_each_is_and_its_default(parse):
    text = " ".join(parse("--help").split())
    for part in ("--rate NUMBER How fast. Default: 1.0.", "--most INTEGER How many.", "--on / --no-on", "--mode a|b"):
        assert part in text
    assert "--early never|true|false" in text or "--early true|false|never" in text
