"""The sampler pages are what the registry says today, say everything that a page should, and their code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from discrete_ebm import docs_pages
from discrete_ebm.samplers import names, registry

NAMES = docs_pages._own_names()


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return docs_pages.pages()


def test_the_pages_of_the_repository_are_up_to_date(written: dict[str, str]) -> None:
    there = {file.name: file.read_text(encoding="utf-8") for file in docs_pages.DIRECTORY.glob("*.md")}
    assert there.keys() == written.keys(), "run: python -m discrete_ebm.docs_pages"
    for name, text in written.items():
        assert there[name] == text, f"{name} is out of date; run: python -m discrete_ebm.docs_pages"


def test_every_registered_sampler_of_ours_has_a_page(written: dict[str, str]) -> None:
    now = docs_pages._own_names()  # a plug-in may have been imported since this file was collected
    assert set(written) == {"README.md", *(f"{name}.md" for name in now)}
    assert {"gibbs", "gwg", "langevin"} <= set(NAMES) <= set(names())


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_a_reader_needs(name: str, written: dict[str, str]) -> None:
    text = written[f"{name}.md"]
    for fact in ("spaces", "invariant law", "exact", "reversible", "gradient", "cost of a step", "source"):
        assert re.search(rf"^\| {fact} \| (?!see below)\S", text, re.MULTILINE), f"{name}: {fact} is empty"
    assert "**When to use it.** " in text, f"{name}: use_when is empty in its SamplerSpec"
    for key, default, meaning in docs_pages.settings(registry.spec(name)):
        assert f"| `{key}` | `{default}` |" in text
        assert meaning or name == "molecular", f"{name}: {key} is not explained in the Args of its class"
    assert "## In code" in text


@pytest.mark.parametrize("name", [name for name in NAMES if name != "molecular"])
def test_the_code_of_a_page_runs(name: str, written: dict[str, str]) -> None:
    code = re.findall(r"```python\n(.*?)```", written[f"{name}.md"], re.DOTALL)
    assert len(code) == 1
    small = code[0].replace("n_chains=64, n_steps=1000", "n_chains=3, n_steps=20").replace("(16, 16)", "(4, 4)")
    exec(compile(small, f"{name}.md", "exec"), {"print": lambda *_: None})


def test_the_index_lists_every_page_and_every_choice(written: dict[str, str]) -> None:
    for name in NAMES:
        assert f"[`{name}`]({name}.md)" in written["README.md"]
    for kind, picked, _ in docs_pages.choices():
        assert f"| {kind} | `{picked}` |" in written["README.md"]


def test_writing_says_what_changed_and_removes_pages_of_samplers_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs_pages, "pages", lambda: {"README.md": "all\n", "gibbs.md": "one\n"})
    (tmp_path / "gone.md").write_text("old\n")
    (tmp_path / "gibbs.md").write_text("one\n")
    assert docs_pages.main([str(tmp_path), "--check"]) == 1
    assert "out of date" in capsys.readouterr().out
    assert {file.name for file in docs_pages.write(tmp_path)} == {"gone.md", "README.md"}
    assert docs_pages.write(tmp_path) == []
    assert docs_pages.main([str(tmp_path), "--check"]) == 0


def test_args_of_a_docstring_are_read_line_by_line() -> None:
    text = "    one: first\n        and more.\n    two, three: both: of them.\nNot an argument: at all."
    assert docs_pages._arguments(text) == {"one": "first and more.", "two": "both: of them.", "three": "both: of them."}
