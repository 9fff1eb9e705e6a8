"""Features of videos: nothing is written for a video that is broken in the middle."""

from assertions import assert_input_error
from cgsaliency.core.records import Sample
from cgsaliency.data.media import (
    video_size,
)
from cgsaliency.features.backbone import Backbone
from cgsaliency.features.extractor import DescriptorExtractor
from cgsaliency.features.video import VideoDescriptorExtractor


def test_no_feature_is_written_for_a_video_that_is_broken_in_the_middle(videos, tmp_path):
    "Its first frame can be decoded, so it is listed; the error is noticed when the video is read."
    content = videos["mp4"].read_bytes()
    (tmp_path / "broken.mp4").write_bytes(
        content[: len(content) // 3] + bytes(len(content) // 3) + content[len(content) // 3 * 2 :]
    )
    samples = [
        Sample("good", videos["mp4"], 96, 64),
        Sample("broken", tmp_path / "broken.mp4", *video_size(tmp_path / "broken.mp4")),
    ]
    extractor = VideoDescriptorExtractor(DescriptorExtractor(Backbone("toynet"), rows=2, columns=2), num_frames=3)
    assert_input_error(
        lambda: extractor.cache(tmp_path / "features", samples, progress=False),
        "broken.mp4: cannot be decoded completely",
    )
    assert not list((tmp_path / "features").rglob("*.safetensors"))
    assert extractor.cache(tmp_path / "features", samples[:1], progress=False).shape == (3, 96)
    assert list((tmp_path / "features").rglob("*.safetensors"))
