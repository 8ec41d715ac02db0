"""Reference log-probs in a run's folder: stages and later runs find there what is theirs, and nothing else."""

import json

import pytest
import yaml

from sawyer.data.records import Comparison, user

ROWS = [Comparison((user(f"{i}?"),), (f"yes {i}", "no")).row() for i in range(8)]
SMALL = {"model": "base", "data": "pairs", "batch_size": 4, "learning_rate": 1e-3, "max_tokens": 250, "kl_every": 0}


@pytest.fixture
def sawyer(tmp_path, saved_policy, command):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"stage": "data", "source": {"source": "file", "path": str(tmp_path / "rows.jsonl")}}
    model = saved_policy()

    def run(**stages):
        recipe = {"name": "x", "model": model, "stages": {"pairs": data, **stages}}
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        code, _, error = command("run", tmp_path / "x.yaml", "--out", tmp_path / "out")
        assert code == 0, error
        return sorted(path.name for path in (tmp_path / "out" / ".cache" / "reference").iterdir())

    return run


def test_stages_and_runs_of_one_folder_share_them(sawyer, tmp_path, monkeypatch):
    dpo, ipo = {"dpo": SMALL}, {"ipo": {"stage": "preference", "loss": "ipo", **SMALL}}
    first = sawyer(**dpo)
    assert len(first) == 1
    with monkeypatch.context() as patch:
        patch.setattr("sawyer.train.reference.score_trees", lambda *_, **__: pytest.fail("they are in the cache"))
        assert sawyer(**dpo, **ipo) == first
        assert sawyer(dpo={**SMALL, "learning_rate": 1e-4}, **ipo) == first
    # a policy that has learned is another reference, although the data is the same
    onward = {"next": {"stage": "dpo", **SMALL, "model": "dpo"}}
    assert len(sawyer(**dpo, **onward)) == 2
    assert not list((tmp_path / "out").glob("*/.cache"))
