"""What tests of data share."""

import pytest
from pydantic import TypeAdapter

from sawyer.data.sources import SourceSettings, load_source
from tests.data.layouts import write


@pytest.fixture
def load(tmp_path):
    """`load(source, rows, **settings)`: records and report of a set whose one file holds these rows."""

    def call(source, rows, **settings):
        path = write(tmp_path, rows)
        return load_source(TypeAdapter(SourceSettings).validate_python({"source": source, "path": path, **settings}))

    return call
