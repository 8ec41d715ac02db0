"""A source's settings say where the data is; loading gives each record once and a report."""

import json
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from sawyer.data.files import RawRow
from sawyer.data.hub import HubRows
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, assistant, user
from sawyer.data.sources import (
    FileSettings,
    HHSettings,
    HubSettings,
    SourceSettings,
    VerifiableSettings,
    as_conversations,
    as_prompts,
    load_source,
)
from sawyer.errors import SawyerError
from tests.data import layouts

Q, A, B = user("Why?"), assistant("Because."), assistant("No.")
HH_INFO = {"source": "hh", "labelled_by": "people", "models": ["an Anthropic model"] * 2}
HH_ROW = {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."}
PAIR = Comparison((Q,), ("Because.", "No."))
HH_PAIR = Comparison((Q,), ("Because.", "No."), None, HH_INFO)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_source_field_chooses_the_settings():
    adapter = TypeAdapter(SourceSettings)
    assert adapter.validate_python({"source": "verifiable", "n": 3}) == VerifiableSettings(n=3)
    assert adapter.validate_python({"source": "file", "path": "a.json"}).format == "auto"
    assert adapter.validate_python({"source": "hh"}).hub == "Anthropic/hh-rlhf"
    for wrong in ({"source": "web"}, {"source": "file"}, {"source": "verifiable", "n": 1, "colour": "red"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_several_files_become_one_set_without_repetitions(tmp_path):
    rows = [{"prompt": f"Why {i}?", "completion": "So."} for i in range(6)]
    paths = [jsonl(tmp_path / "a.jsonl", rows[:4]), jsonl(tmp_path / "b.jsonl", rows[3:])]
    records, report = load_source(FileSettings(path=paths))
    assert [record.messages[0]["content"] for record in records] == [f"Why {i}?" for i in range(6)]
    assert (report.kept, report.dropped) == (6, {"the record was there before": 1})


def test_shuffling_is_reproducible_and_comes_before_the_limit(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": f"Why {i}?"} for i in range(50)])
    first, again, plain = (
        load_source(FileSettings(path=path, limit=10, shuffle_seed=seed))[0] for seed in (1, 1, None)
    )
    assert first == again != plain
    assert len(first) == 10
    assert plain == load_source(FileSettings(path=path))[0][:10]


def test_files_of_different_records_are_not_mixed(tmp_path):
    paths = [jsonl(tmp_path / "a.jsonl", [{"prompt": "Why?"}]), jsonl(tmp_path / "b.jsonl", [{"messages": [Q, A]}])]
    with pytest.raises(SawyerError, match="different records, prompts and conversations"):
        load_source(FileSettings(path=paths))


def test_hh_is_read_from_local_files(tmp_path):
    assert load_source(HHSettings(path=jsonl(tmp_path / "a.jsonl", [HH_ROW])))[0] == [HH_PAIR]


def test_of_a_copy_of_the_hubs_folder_the_subsets_are_read(tmp_path):
    for subset in ("helpful-base", "helpful-online", "red-team-attempts"):
        (tmp_path / subset).mkdir()
        said = {side: text.replace("Why", subset) for side, text in HH_ROW.items()}
        jsonl(tmp_path / subset / "train.jsonl", [said])

    def prompts(**settings):
        return [record.prompt[0]["content"] for record in load_source(HHSettings(path=str(tmp_path), **settings))[0]]

    assert prompts() == ["helpful-base?"]
    assert prompts(subsets=["helpful-online", "helpful-base"]) == ["helpful-online?", "helpful-base?"]
    assert len(prompts(subsets=["none-of-them"])) == 3


def test_the_hub_is_asked_for_what_the_settings_say(monkeypatch):
    import datasets

    asked = []

    def load_dataset(repo, **where):
        asked.append((repo, where))
        return [HH_ROW]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    records, report = load_source(HHSettings(subsets=["helpful-base"], split="test"))
    assert (records, report.revisions) == ([HH_PAIR], {})
    assert load_source(HubSettings(repo="some/set", subset="en", revision="v2"))[0] == [PAIR]
    assert asked == [
        ("Anthropic/hh-rlhf", {"split": "test", "revision": None, "data_dir": "helpful-base"}),
        ("some/set", {"split": "train", "revision": "v2", "name": "en"}),
    ]


def test_rows_of_the_hub_are_numbered_and_taken_one_by_one():
    rows = HubRows([{"a": 1}, {"a": 2}, {"a": 3}])
    assert [(row.number, row.value["a"]) for row in rows] == [(1, 1), (2, 2), (3, 3)]
    assert (len(rows), rows[-1]) == (3, RawRow(3, {"a": 3}))
    assert rows[:2] == list(rows)[:2]
    assert not HubRows([])


def test_the_commit_of_a_hub_data_set_is_told(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda repo, **where: layouts.Loaded([HH_ROW]))
    assert load_source(HHSettings())[1].revisions == {"Anthropic/hh-rlhf": "ab" * 20}
    assert load_source(HubSettings(repo="some/set"))[1].revisions == {"some/set": "ab" * 20}


def test_without_a_network_the_hub_is_one_sentence(monkeypatch):
    import datasets

    def load_dataset(repo, **where):
        raise ConnectionError("Couldn't reach the hub\nTraceback and more")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(SawyerError, match="helpful-base cannot be had from the Hugging Face hub") as caught:
        load_source(HHSettings())
    assert "\n" not in str(caught.value)


def test_the_generator_is_a_source_of_prompts_and_of_demonstrations():
    prompts, report = load_source(VerifiableSettings(n=5))
    shown, _ = load_source(VerifiableSettings(n=5, form="demonstrations"))
    assert report.kept == 5
    assert as_prompts(shown) == prompts


def test_records_are_seen_as_conversations_by_their_good_answers():
    talk = Conversation((Q, A))
    good, bad = Labelled((Q,), "Because.", True), Labelled((Q,), "No.", False)
    assert as_conversations([PAIR, talk, good, bad]) == [talk] * 3
    with pytest.raises(SawyerError, match="no answer to imitate"):
        as_conversations([bad, Prompt((Q,))])


def test_records_are_seen_as_prompts_each_once():
    assert as_prompts([PAIR, Conversation((Q, A)), Prompt((Q,)), Prompt((user("How?"),))]) == [
        Prompt((Q,)),
        Prompt((user("How?"),)),
    ]
    with pytest.raises(SawyerError, match="no prompt"):
        as_prompts([Conversation((A, Q, B))])


def test_importing_the_data_rooms_is_light():
    code = (
        "import sys, sawyer.data.sources, sawyer.data.splits, sawyer.feedback.rules, sawyer.feedback.annotator;"
        "print([m for m in ('torch', 'datasets', 'transformers', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_who_wrote_and_labelled_completions_is_not_said_of_the_prompt_alone():
    pair = Comparison((Q,), ("Because.", "No."), None, {"source": "hh", "labelled_by": "people", "models": ["a", "b"]})
    assert as_prompts([pair])[0].info == {"source": "hh"}
    assert as_conversations([pair])[0].info == {"source": "hh", "models": ["a"]}
