"""What every benchmark needs: contenders, without a process for each where that is not what is tested."""

import json

import pytest

from benchmarks import measure, worker


@pytest.fixture
def here(monkeypatch, tmp_path):
    """`here(apart)`: from now on the worker does a benchmark's jobs in this process, where everything is imported
    already, except those of which `apart(job)` is true: they get a process of their own, as in earnest all of them do.
    Returns the list of these. The matrices by which the machine's peak is measured are small."""

    def use(apart=lambda job: False):
        in_own_process, jobs, count = measure.in_own_process, [], 0

        def run(job):
            nonlocal count
            count += 1
            if apart(job):
                jobs.append(job)
                return in_own_process(job)
            job_file, result_file = (tmp_path / f"{name}-{count}.json" for name in ("job", "result"))
            job_file.write_text(json.dumps(job))
            worker.main(job_file, result_file)
            return json.loads(result_file.read_text())

        monkeypatch.setattr(measure, "SIZES", (64,))
        monkeypatch.setattr(measure, "in_own_process", run)
        return jobs

    return use
