"""Random arguments: both commands end with a stated exit code and one sentence, whatever they are given."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discrete_ebm.cli import cli as discrete
from discrete_ebm.cli_support import run
from graph_ebm.cli import cli as molecular
from tests.fuzz import strategies

GROUPS = {"discrete-ebm": discrete, "graph-ebm": molecular}
CODES = {0, 2, 3, 130}
VALUES = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "nan", "inf", "1e999", "9" * 30, "x", "none", "/", "/nowhere/x", ".", "ising",
                     "rbm", "gibbs", "gwg", "cuda:99", "cpu", "true", "=", "a=b", "--", "-", "\0", "é", "C(", "[#6]",
                     "qed", "qed:max"]),
    st.text(max_size=12), st.integers().map(str))  # fmt: skip


def options(group: click.Group) -> dict[str, list[str]]:
    """Option names of every command, so that arguments get past the first check."""
    return {name: sorted(flag for one in command.params for flag in one.opts)
            for name, command in group.commands.items()}


@st.composite
def arguments(draw: st.DrawFn, group: click.Group) -> list[str]:
    known = options(group)
    command = draw(st.sampled_from(sorted(known)))
    pieces = st.one_of(st.sampled_from(known[command] or ["--help"]), VALUES)
    whole = st.lists(pieces, max_size=5).map(lambda rest: [command, *rest])
    return draw(st.one_of(whole, st.lists(VALUES, max_size=4)))


def check(program: str, given_: list[str]) -> None:
    """A stated exit code; where it is not 0, one sentence that begins with the command's name."""
    group, said, told = GROUPS[program], io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        code = run(group, given_, prog_name=program)
    assert code in CODES, (given_, code)
    assert "Traceback" not in told.getvalue()
    if code:
        assert len(told.getvalue().strip().splitlines()) == 1, (given_, told.getvalue())
        assert told.getvalue().startswith(program)


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands take their arguments and stop, so that no example trains for ten minutes."""
    for group in GROUPS.values():
        for command in _all(group):
            if command.callback is not None:
                monkeypatch.setattr(command, "callback", lambda *args, **options: None)


def _all(group: click.Group) -> list[click.Command]:
    found: list[click.Command] = []
    for command in group.commands.values():
        found += _all(command) if isinstance(command, click.Group) else [command]
    return found


@pytest.mark.parametrize("program", GROUPS)
def test_a_few_random_arguments_in_every_run(program: str, cut_short: None) -> None:
    @strategies.short(40)
    @given(arguments(GROUPS[program]))
    def each(given_: list[str]) -> None:
        check(program, given_)

    each()


@pytest.mark.parametrize("program", GROUPS)
def test_an_argument_with_a_nul_is_refused(program: str) -> None:
    """Found by the test below: no shell gives one, a caller of ``main`` may."""
    for command in GROUPS[program].commands:
        check(program, [command, "\0"])


@pytest.mark.fuzz
@pytest.mark.parametrize("program", GROUPS)
def test_random_arguments_end_in_a_sentence(program: str, cut_short: None) -> None:
    @strategies.fuzz()
    @given(arguments(GROUPS[program]))
    def each(given_: list[str]) -> None:
        check(program, given_)

    each()


LISTS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "samplers": ("discrete-ebm", lambda value: ["samplers", value]),
    "sample": ("discrete-ebm", lambda value: ["sample", value, "--steps", "2"]),
    "moves": ("graph-ebm", lambda value: ["moves", value]),
    "properties": ("graph-ebm", lambda value: ["properties", value]),
}


@pytest.mark.fuzz
@pytest.mark.parametrize("name", LISTS)
def test_commands_that_answer_at_once_do_so_for_real(name: str, monkeypatch: pytest.MonkeyPatch,
                                                     tmp_path_factory: pytest.TempPathFactory) -> None:
    program, made = LISTS[name]
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))

    @strategies.fuzz(0.1)
    @given(VALUES.filter(lambda value: value not in ("ising", "rbm")))
    def each(value: str) -> None:
        check(program, made(value))

    each()
