"""`sawyer compare` with tiny models, and servers on this machine for the remote ones."""

import json
import re
import shutil
from io import StringIO
from itertools import cycle

import pytest

from sawyer.apps import compare as work
from sawyer.apps.compare_request import Request
from sawyer.data.files import write_records
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.pipeline.progress import Voice
from tests.apps.conftest import stopping_after
from tests.rollout.chat_server import completion, refusal

HARM = "<script>alert('a')</script> <img src=x onerror=alert(1)>"
TINY = {"max_tokens": 6}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Memory is not given back after each model: that takes longer than a tiny model does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("answering", "measuring"):
            patch.setattr(f"sawyer.apps.{module}.release", lambda: None)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_policy, tiny_tokenizer):
    """Models, a reward model, and verifiable prompts in a file: `place / "a"`, ..."""
    folder = tmp_path_factory.mktemp("compare")
    for name, seed in (("a", 0), ("b", 1)):
        tiny_policy("llama", seed).save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    model = load_sequence_classifier(str(folder / "a"), fresh_head=True, seed=1)
    save_model(model, load_tokenizer(str(folder / "a")), folder / "reward")
    write_records(folder / "prompts.jsonl", make_prompts(5, "test"))
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    """`run(*models, **request)`: the result of a small comparison, one answer to each of four prompts.

    Unless `whole`, nothing is read by the reference and no page is drawn.
    """

    def call(*models, out="out", whole=False, **asked):
        if not whole:
            monkeypatch.setattr(work, "_read", lambda *arguments: None)
            monkeypatch.setattr("sawyer.pipeline.report.comparison.page", lambda *arguments: "")
        names = tuple(str(place / name) if (place / name).exists() else name for name in models)
        asked = {"sampling": TINY, "limit": 4, "n": 1, "draws": 100, "feedback": ("length",)} | asked
        return work.compare(
            Request(names, str(place / "prompts.jsonl"), out=tmp_path / out, **asked), Voice(StringIO())
        )

    return call


@pytest.fixture(scope="module")
def grid(place, tmp_path_factory):
    """Two models that are the same and a third, by two ways of decoding, by gold and by a reward model."""
    out = tmp_path_factory.mktemp("grid") / "out"
    request = Request(
        (str(place / "a"), str(place / "a"), str(place / "b")), str(place / "prompts.jsonl"), out=out, limit=3,
        feedback=("verifiable", str(place / "reward")), decoding=("greedy,nucleus",), sampling=TINY, draws=100,
    )  # fmt: skip
    return out, work.compare(request, Voice(StringIO()))


def test_models_decodings_and_feedback_are_all_compared(grid):
    out, result = grid
    assert [model["name"] for model in result["models"]] == ["a", "a (2)", "b"]
    assert [(one["name"], one["samples"]) for one in result["decodings"]] == [("greedy", 1), ("nucleus", 2)]
    assert [(one["name"], one["role"]) for one in result["feedback"]] == [("gold", "gold"), ("reward", "reward model")]
    assert len(result["figures"]) == 6
    assert result["tests"] == 3 * 2 * 2
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 3 * (1 + 2)
    assert json.loads((out / "comparison.json").read_text())["headline"] == result["headline"]


def test_two_identical_models_are_told_to_be_no_different(grid):
    _, result = grid
    same = [one for one in result["comparisons"] if (one["model"], one["against"]) == ("a (2)", "a")]
    assert {found["verdict"] for one in same for found in one["rewards"].values()} == {"none"}
    greedy = next(one for one in same if one["decoding"] == "greedy")
    assert greedy["rewards"]["reward"]["sd"] == 0
    drawn = {
        name: [row["text"] for row in map(json.loads, (grid[0] / "completions.jsonl").read_text().splitlines())
               if (row["model"], row["decoding"]) == (name, "nucleus")]
        for name in ("a", "a (2)")
    }  # fmt: skip
    assert drawn["a"] != drawn["a (2)"], "their answers are drawn apart"


def test_figures_of_local_models(grid):
    _, result = grid
    by = {(one["model"], one["decoding"]): one for one in result["figures"]}
    assert by["a", "nucleus"]["kl"]["mean"] == 0, "the first model is the reference"
    assert by["b", "nucleus"]["kl"]["mean"] > 0
    assert not by["b", "nucleus"]["kl_unbiased"]
    assert by["b", "nucleus"]["perplexity"]["mean"] > by["a", "nucleus"]["perplexity"]["mean"] > 1
    assert {"self_bleu", "dispersion", "entropy"} <= by["a", "nucleus"].keys()
    assert "self_bleu" not in by["a", "greedy"]
    assert by["a", "greedy"]["perplexity"]["mean"] < by["a", "nucleus"]["perplexity"]["mean"]


def test_the_page_is_whole(grid):
    html = (grid[0] / "comparison.html").read_text()
    assert html.count("<svg") == 2 + 2 * 2
    assert html.count('class="completion"') == 3 * 6
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert "script" not in html.replace("no script", "")


def test_the_table_fits_and_one_sentence_ends_it(command, place, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "out"
    arguments = ("compare", place / "a", place / "b", "--prompts", place / "prompts.jsonl", "--limit", 2)
    arguments += ("--max-tokens", 4, "--feedback", "verifiable", "--feedback", "length", "--out", out, "--draws", 200)
    code, said, err = command(*arguments)
    assert code == 0, err
    tables = [line for line in said.splitlines()[:-2] if not line.startswith("note: ")]
    assert max(map(len, tables)) <= 80
    assert said.splitlines()[-1].startswith(("b is ", "No difference in gold can be told between b and a"))
    again = json.loads(command(*arguments, "--json")[1])
    assert again["decodings"][0]["sampling"] == {"temperature": 1.0, "max_tokens": 4}
    assert "another comparison; give another --out, or --overwrite" in command(*arguments, "--n", 3)[2]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_what_was_interrupted_goes_on_and_ends_alike(run, monkeypatch):
    whole = run("a", "b", out="whole")
    with monkeypatch.context() as patch:
        made = stopping_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            run("a", "b")
        assert len(made) == 1
    made = stopping_after(9, monkeypatch)
    assert run("a", "b") == whole
    assert len(made) == 1, "the first model's answers were kept"


def test_a_model_that_cannot_be_fetched_is_refused_before_another_answers(run, monkeypatch):
    monkeypatch.setattr(work.Bench, "answers", lambda *arguments: pytest.fail("a model answered"))
    with pytest.raises(SawyerError, match="nomodel is not a local folder and could not be fetched"):
        run("a", "nomodel")


def test_another_model_or_feedback_costs_its_own_work_alone(run, monkeypatch):
    run("a", "b")
    made = stopping_after(0, monkeypatch)
    found = run("a", "b", feedback=("length", "random"), overwrite=True)
    assert [one["name"] for one in found["feedback"]] == ["length", "random"]
    assert made == []


# --- remote models, and what may go wrong -----------------------------------------------------------------------------


def test_a_remote_model_that_means_harm_and_answers_nothing_at_times(run, serve, tmp_path):
    texts = cycle(["", HARM, HARM, HARM])
    server = serve(lambda request: completion(next(texts)))
    result = run("a", f"m@{server.url}", n=2, whole=True)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "&lt;script&gt;alert(" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "2 of 8 answers of m are empty; they count as they are judged" in result["notes"]
    assert any("KL, perplexity and entropy of m are left out" in note for note in result["notes"])
    remote = result["figures"][1]
    assert remote["empty"] == 2
    assert "tokens" not in remote
    assert "dispersion" in remote


def test_a_judge_that_fails_half_way_loses_nothing(run, serve, monkeypatch):
    down = [3]

    def judge(request):
        down[0] -= 1
        return refusal(401, "no credit") if down[0] < 0 else completion("[[A]]")

    server = serve(judge)
    with pytest.raises(SawyerError, match=r"--feedback judge:m@.*no credit.*run the same command again to go on"):
        run("a", "b", feedback=("length", f"judge:m@{server.url}"))
    answered = 3
    down[0] = 99
    server.requests.clear()
    made = stopping_after(0, monkeypatch)
    result = run("a", "b", feedback=("length", f"judge:m@{server.url}"))
    assert made == []
    assert len(server.requests) <= 8 - answered + 1
    judged = result["comparisons"][0]["preferences"]["judge m"]
    assert (judged["pairs"], judged["both_orders"], judged["consistent"]) == (4, 4, 0)
    assert judged["win_rate"]["mean"] == 0.5, "a judge that always says A is for nobody when both orders are asked"


def test_ratings_are_a_distribution_and_missing_ones_are_counted(run, serve):
    ratings = cycle(["[[7]]", "[[7]]", "[[7]]", "no idea"])
    server = serve(lambda request: completion(next(ratings)))
    result = run("a", "b", feedback=(f"rating:m@{server.url}",))
    rated = [one["rewards"]["rating m"] for one in result["figures"]]
    assert {one["mean"] for one in rated} == {7}
    assert sum(one["missing"] for one in rated) == 2
    assert "2 questions to rating m got no verdict, which is a draw, or no rating" in result["notes"]


def test_a_model_with_another_tokenizer_keeps_what_can_be_compared(run, place):
    if not (place / "other").exists():
        shutil.copytree(place / "b", place / "other")
        file = place / "other" / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        file.write_text(json.dumps(tokenizer))
    result = run("a", "other", whole=True)
    left = "KL and perplexity of other are left out: their tokenizers have different vocabularies"
    assert any(note.startswith(left) for note in result["notes"])
    figures = result["figures"][1]
    assert "entropy" in figures
    assert "kl" not in figures
    assert "perplexity" not in figures
    assert "length" in result["comparisons"][0]["rewards"]


def test_trainings_of_several_seeds_are_paired_by_seed(run, place, tmp_path):
    for seed, name in ((0, "a"), (3, "b")):
        shutil.copytree(place / name, tmp_path / "five" / f"seed-{seed}" / "ppo")
    (tmp_path / "five" / "seeds.json").write_text(json.dumps({"recipe": "r", "seeds": [0, 3]}))
    result = run("a", str(tmp_path / "five" / "ppo"))
    assert result["trained_seeds"]
    assert result["decodings"][0]["seeds"] == [0, 3]
    found = result["comparisons"][0]["rewards"]["length"]
    assert list(found["over_seeds"]["by_seed"]) == ["0", "3"]
    assert (found["low"], found["p_value"]) == (found["over_seeds"]["low"], found["over_seeds"]["p_value"])
    with pytest.raises(SawyerError, match="answer with the seeds of their trainings"):
        run("a", str(tmp_path / "five" / "ppo"), seeds=(1,))


def test_prompts_that_were_trained_on_are_counted_and_left_out_where_asked(run, monkeypatch):
    def shared(prompts, models):
        return {"b": {0: "prompts/train.jsonl:3"}}

    monkeypatch.setattr(work, "shared_with_training", shared)
    result = run("a", "b", out="kept")
    first = "1 of 4 prompts were in the training data of b, or share 13 words in a row with it"
    assert result["notes"][0] == f"{first} (the first with prompts/train.jsonl:3)"
    assert result["prompts"]["n"] == 4
    dropped = run("a", "b", out="dropped", drop_shared=True)
    assert dropped["prompts"]["n"] == 3
