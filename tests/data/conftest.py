"""Fixtures of the tests of data sets."""

import shutil
from pathlib import Path

import pytest

from video_helpers import VIDEO_DATASETS


@pytest.fixture(scope="module", params=VIDEO_DATASETS)
def dataset_name(request) -> str:
    "The name of a data set of captioned videos."
    return request.param


@pytest.fixture(scope="module")
def video_dataset(dataset_name, tmp_path_factory) -> Path:
    "The folder of a synthetic data set of captioned videos in the official format, with three test videos."
    write, _ = VIDEO_DATASETS[dataset_name]
    return write(tmp_path_factory.mktemp("dataset") / dataset_name, 1, 1, 3, seed=11)


@pytest.fixture
def video_dataset_copy(video_dataset, tmp_path) -> Path:
    "A copy of the data set that a test may damage."
    return Path(shutil.copytree(video_dataset, tmp_path / "data"))
