"""Video loaders on the official files and on real clips, where they are."""
from collections import Counter

from cgsaliency.data.frames import evenly, read_frames
from cgsaliency.data.msrvtt import part_of, read_msrvtt
from cgsaliency.data.msvd import NUMBERS, read_mapping


def test_msrvtt_official_counts(shared_data):
    captions = read_msrvtt(shared_data / "msrvtt")
    assert Counter(part_of(name) for name in captions) == {"train": 6513, "val": 497, "test": 2990}
    assert all(len(own) == 20 for own in captions.values())


def test_msvd_official_mapping(shared_data):
    numbers = read_mapping(shared_data / "msvd/captions/youtube_video_to_id_mapping.txt")
    assert sorted(numbers.values()) == [number for part in NUMBERS.values() for number in part]


def test_real_clips_give_the_frames_asked_for(shared_data):
    for path in sorted((shared_data / "msvd/videos").glob("*.avi"))[:4]:
        clip = read_frames(path)
        assert len(clip.frames) == 26 and clip.indices == tuple(evenly(clip.total)) and clip.indices[-1] == clip.total - 1
        assert list(clip.times) == sorted(clip.times) and clip.times[0] == 0 and clip.frames[0].size == (clip.width, clip.height)
