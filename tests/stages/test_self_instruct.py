"""Stage `self_instruct`: what it writes, and that nothing that was answered is asked for again."""

import json
import re

import pytest

from sawyer.data.files import read_records
from sawyer.data.formats import load_any
from sawyer.data.records import Conversation, Prompt
from sawyer.errors import SawyerError
from sawyer.pipeline.context import Context
from sawyer.pipeline.recipe import load_recipe
from sawyer.pipeline.stages import self_instruct
from tests.rollout.chat_server import ChatServer, completion

VERBS = ("Describe", "Compare", "Explain", "Praise", "Paint", "Mend", "Count", "Sell")
THINGS = ("two old bridges", "a wet garden", "the moon", "seven keys", "my bicycle", "green tea", "our town hall")


def model(request):
    """Lists what it was not shown before, needs an input for what is old, and repeats one task as its answer."""
    text = request["messages"][-1]["content"]
    if "Go on with the list" in text:
        shown = request["messages"][1]["content"]
        every = [f"{verb} {thing} in plain words." for verb in VERBS for thing in THINGS]
        first = int(re.search(r"numbered (\d+)", text)[1])
        new = [one for one in every if one not in shown][len(shown) % 20 :: 5][:4]
        return completion("\n".join(f"{first + i}. {one}" for i, one in enumerate(["Show me the map.", *new])))
    if "Task: " in text:
        return completion("They are from 1903." if "old" in text else "<noinput>")
    return completion(text if "moon" in text else f"Here is something on it, {len(text)} letters long.")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """`stage(answer, name, **settings)`: folder and figures of a run against a server that answers so."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    servers = []

    def run(answer=model, name="run", server=None, **settings):
        servers.append(server or ChatServer(answer))
        folder, scratch = tmp_path / name / "folder", tmp_path / name / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(exist_ok=True)
        asked = {
            "instructions": 12, "requests": 2, "ask_for": 5, "min_yield": 0.01, "max_overlap": 0.9,
            "remote": "m", "api": {"endpoint": servers[-1].url, "retries": 0, "concurrency": 1}, **settings,
        }  # fmt: skip
        context = Context("tasks", folder, scratch, seed=3)
        figures = self_instruct.STAGE.run(self_instruct.Settings(**asked), context)
        context.close()
        return folder, figures, servers[-1]

    yield run
    for server in {id(server): server for server in servers}.values():
        server.stop()


def test_tasks_are_written_as_conversations_and_as_alpacas_rows(stage):
    folder, figures, _ = stage(split={"train": 0.7, "validation": 0.3})
    parts = {part: read_records(folder / f"{part}.jsonl", kind=Conversation) for part in ("train", "validation")}
    rows, _ = load_any(folder / "alpaca.json")
    assert sorted(map(repr, (r.messages for r in rows))) == sorted(repr(r.messages) for p in parts.values() for r in p)
    raw = json.loads((folder / "alpaca.json").read_text())
    assert all((row["input"] == "They are from 1903.") == ("old" in row["instruction"]) for row in raw)
    assert figures["train"] + figures["validation"] == len(raw)
    assert len(raw) == 12 - figures["tasks_dropped"]["the output repeats the task"]
    proposals = json.loads((folder / "instructions.json").read_text())
    assert figures["proposals"] == len(proposals)
    assert figures["dropped"]["it has a forbidden word"] == sum("map" in one["instruction"] for one in proposals) > 1
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["kept"] for line in metrics) == figures["instructions"] == 12


def test_without_outputs_it_makes_prompts(stage):
    folder, figures, server = stage(inputs=False, outputs=False)
    assert all(isinstance(record, Prompt) for record in read_records(folder / "train.jsonl"))
    assert figures["train"] == 12
    assert not (folder / "alpaca.json").exists()
    assert len(server.requests) == 2 * figures["rounds"]


def test_a_stage_that_was_stopped_goes_on_to_the_same_result_and_asks_for_nothing_twice(stage):
    whole, figures, server = stage(instructions=8)
    answered = [0]

    def breaks_off(request):
        answered[0] += 1
        return model(request) if answered[0] <= 10 else (500, {}, "{}")

    second = ChatServer(breaks_off)
    with pytest.raises(SawyerError):
        stage(name="again", server=second, instructions=8)
    refused = len(second.requests) - 10
    second.answer = model
    folder, again, _ = stage(name="again", server=second, instructions=8)
    assert again == figures
    assert len(second.requests) - refused == len(server.requests)
    for file in ("train.jsonl", "alpaca.json", "instructions.json", "metrics.jsonl"):
        assert (folder / file).read_bytes() == (whole / file).read_bytes()


def test_a_model_that_cuts_its_answers_short_is_named(stage):
    def cut(request):
        reply = model(request)
        if "Go on" not in request["messages"][-1]["content"]:
            reply["choices"][0]["finish_reason"] = "length"
        return reply

    with pytest.raises(SawyerError, match=r"none became a task \(4: the output was cut at `max_tokens`\)"):
        stage(cut, inputs=False, instructions=4)


RECIPE = """
name: r
model: smollm2
stages:
  tasks: {{stage: self_instruct, {settings}}}
  sft: {{model: base, data: tasks, part: {part}}}
"""


@pytest.mark.parametrize(
    ("settings", "part", "said"),
    [
        ("instructions: 4", "train", "`model` of the recipe writes the instructions"),
        ("model: base, remote: m", "train", "`model` of the recipe writes the instructions"),
        ("model: base, api: {retries: 1}", "train", "`api` is for a `remote` model"),
        ("remote: m, chat_template: plain", "train", "are for a `model` of the recipe"),
        ("model: base, outputs: false, output_examples: 2", "train", "`output_examples` is for `outputs`"),
        ("model: base, split: {train: 0.5}", "train", "must add up to 1"),
        ("model: base, split: {metrics: 1.0}", "train", "cannot be called 'metrics'"),
        ("model: base, seeds: /nowhere/seeds.jsonl", "train", "/nowhere/seeds.jsonl"),
        ("model: base", "test", "has no part 'test'"),
    ],
)
def test_mistakes_are_found_before_anything_is_asked(settings, part, said, tmp_path):
    from sawyer.pipeline.plan import plan

    file = tmp_path / "r.yaml"
    file.write_text(RECIPE.format(settings=settings, part=part))
    with pytest.raises(SawyerError, match=re.escape(said)):
        plan(load_recipe(str(file), []))


def test_seeds_without_outputs_are_no_examples_of_outputs(stage, tmp_path):
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "Say hello to my neighbour."}\n')
    with pytest.raises(SawyerError, match="has none"):
        stage(seeds=str(tmp_path / "seeds.jsonl"), output_examples=1)
