"""A constitution's file, and what is wrong with it."""

import pytest

from sawyer.errors import SawyerError
from sawyer.pipeline.constitution import load_constitution

GOOD = """# ours
principles:
  - Be kind.
  - {principle: "Be
     true.", weight: 0.5, name: truth}
examples:
  - {prompt: a, response: b, principle: c, critique: d, revision: e}
"""


def test_our_own_constitution_has_sixteen_principles_and_examples():
    found = load_constitution()
    assert len(found.principles) == 16
    assert len({principle.text for principle in found.principles}) == 16
    assert {principle.weight for principle in found.principles} == {1.0, 2.0}
    assert len(found.examples) == 3


def test_principles_are_texts_or_mappings(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    found = load_constitution(file)
    assert [(p.text, p.weight, p.name) for p in found.principles] == [
        ("Be kind.", 1.0, "principle 1"),
        ("Be true.", 0.5, "truth"),
    ]
    assert found.examples[0].critique == "d"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", ":1: a constitution is a mapping with `principles`"),
        ("\n", ":1: a constitution is a mapping"),
        ("principles: []\n", ":1: the constitution has no principles"),
        ("# nothing\nexamples: []\nprinciples:\n", ":3: the constitution has no principles"),
        ("principles: be kind\n", ":1: the constitution has no principles"),
        ("principle: [a]\n", ":1: a constitution has no 'principle'; did you mean 'principles'"),
        ("principles:\n  - a\n  - {principle: b, weight: -1}\n", ":3: principles.1.weight should be greater than 0"),
        ("principles:\n  - {principle: b, weight: 0}\n", ":2: principles.0.weight should be greater than 0"),
        ("principles:\n  - {principle: b, weight: .inf}\n", ":2: principles.0.weight"),
        ("principles:\n  - {principle: b, weight: much}\n", ":2: principles.0.weight should be a valid number"),
        ("principles:\n  - {principle: b, wieght: 2}\n", ":2: principles.0 has no setting 'wieght'; did you mean"),
        ('principles:\n  - ""\n', ":2: principles.0.principle: it is empty"),
        ("principles:\n  - 3\n", ":2: principles.0 should be"),
        ("principles:\n  - a\n  - a\n", ":3: principle 2 has the name or the text of principle 1"),
        ("principles: [a]\nexamples:\n  - {prompt: a}\n", ":3: examples.0 needs the setting 'response'"),
        ("principles: [a\n", "not well-formed YAML"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path, text, said):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(SawyerError) as error:
        load_constitution(file)
    assert str(error.value).startswith(str(file))
    assert said in str(error.value)
