"""Video loaders on broken files, one fault at a time, and on the official files and real clips, where they are."""
import gc, io, json, os, re, shutil, subprocess, sys, time, weakref, zipfile
from collections import Counter
from fractions import Fraction
from functools import partial
from operator import attrgetter
from pathlib import Path
from random import Random
from unittest.mock import patch

import av
import psutil
import pytest
from dying import forked, was_killed
from faults import refused
from PIL import Image, ImageDraw

from cgsaliency.core.records import Record
from cgsaliency.data import frames as media
from cgsaliency.data.frames import evenly, frames_in_chunks, read_frames, stated_pace, video_size, video_times, write_video
from cgsaliency.data.msrvtt import load_msrvtt, part_of, read_msrvtt
from cgsaliency.data.msvd import NUMBERS, load_msvd, read_descriptions, read_mapping
from cgsaliency.data.thumos14 import load_thumos14
from cgsaliency.data.toyacts import make_thumos14, make_ucf101
from cgsaliency.data.toyfilms import make_msrvtt, make_msvd
from cgsaliency.data.ucf101 import load_ucf101
from cgsaliency.data.video_index import VideoIndex
from cgsaliency.data.video_reader import iterate_chunks, iterate_clips
from cgsaliency.models.backbone import Backbone
from cgsaliency.models.clips import ClipDescriber
from cgsaliency.models.descriptors import Describer


def running(k: int) -> Image.Image:
    picture = Image.effect_noise((96, 64), 40).convert("RGB")
    ImageDraw.Draw(picture).rectangle((2 * k, 20, 2 * k + 12, 40), fill=(200, 30, 30))
    return picture


# Video files

@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    "A film of 40 frames by the ending of its file; 'fast' is an MP4 that begins with its index, as those made for the web do."
    folder = tmp_path_factory.mktemp("films")
    made = {ending: write_video(folder / f"film.{ending}", [running(k) for k in range(40)]) for ending in ("avi", "mp4")}
    made["fast"] = folder / "fast.mp4"
    with av.open(str(made["mp4"])) as given, av.open(str(made["fast"]), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return made


def without_frames(path: Path) -> None:
    "A container that announces a video stream and holds no frame."
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()


FAULTS = {
    "missing": (lambda path: path.unlink(), "there is no such video"),
    "a folder": (lambda path: path.unlink() or path.mkdir(), "there is no such video"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be decoded whole"),
    "text": (lambda path: path.write_text("A dog runs through the park.\n" * 50), "cannot be decoded whole"),
    "random bytes": (lambda path: path.write_bytes(Random(0).randbytes(5000)), "cannot be decoded whole"),
    "nearly all cut off": (lambda path: path.write_bytes(path.read_bytes()[:300]), "is cut off: it has 300 of"),
    "half cut off": (lambda path: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]), "is cut off"),
    "the last byte cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is cut off"),
}


@pytest.mark.parametrize("kind", ["avi", "mp4", "fast"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_video_is_named_with_what_to_do(films, tmp_path, kind, fault):
    path = Path(shutil.copy(films[kind], tmp_path))
    damage, says = FAULTS[fault]
    assert read_frames(path).total == 40
    damage(path)
    for use in (video_size, video_times, read_frames):
        error = refused(lambda: use(path), says, path.name)
        assert "etch the" in error.remedy
    assert [one.name for one in tmp_path.iterdir()] in ([path.name], [])


@pytest.mark.parametrize("ending, says", [("avi", "has no frame"), ("mp4", "holds no video stream")])   # MP4 leaves an empty stream out
def test_a_video_without_frames(tmp_path, ending, says):
    path = tmp_path / f"none.{ending}"
    without_frames(path)
    assert path.stat().st_size > 200
    for use in (video_size, video_times, read_frames): refused(lambda: use(path), says, path.name)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 8000
        for plane in frame.planes: plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    refused(lambda: read_frames(path), "song.mp4: holds no video stream")


def test_fewer_frames_than_asked_for(tmp_path):
    clip = read_frames(write_video(tmp_path / "short.avi", [running(k) for k in range(5)], rate=10))
    assert clip.total == 5 and clip.indices == tuple(evenly(5)) and Counter(clip.indices) == {0: 4, 1: 6, 2: 6, 3: 6, 4: 4}
    assert clip.times == pytest.approx([k / 10 for k in clip.indices]) and len(clip.frames) == 26


def test_a_variable_rate_keeps_its_stamps(tmp_path):
    stamps = [0, 1, 2, 30, 31, 80, 81, 82, 83, 200]
    clip = read_frames(write_video(tmp_path / "late.mp4", [running(k) for k in range(10)], rate=25, times=stamps), 4)
    assert clip.indices == (0, 3, 6, 9) and clip.times == pytest.approx([stamps[k] / 25 for k in clip.indices])


def test_frames_that_are_coded_out_of_order_have_ascending_times(tmp_path):
    "AVI holds no time of display, and FFmpeg's guesses swap neighbours of such films."
    path = tmp_path / "b.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(30):
            frame = av.VideoFrame.from_image(running(k))
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container: guessed = [frame.time for frame in container.decode(video=0)]
    assert guessed != sorted(guessed)                        # else this film tests nothing
    assert video_times(path) == pytest.approx([k / 25 for k in range(30)])


def test_a_film_that_cannot_be_written_leaves_nothing_and_keeps_the_one_before(films, tmp_path):
    path = Path(shutil.copy(films["avi"], tmp_path / "film.avi"))
    before = path.read_bytes()
    with pytest.raises(AttributeError): write_video(path, [running(0), running(1), None])
    with pytest.raises(AttributeError): write_video(tmp_path / "new.mp4", [running(0), None])
    refused(lambda: write_video(path, []), "film.avi: has no frame to write")
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["film.avi"]


def test_no_feature_is_written_of_a_film_that_breaks_in_the_middle(films, tmp_path):
    "Its first frame decodes, so that it is listed; the fault shows when the film is read."
    whole = films["mp4"].read_bytes()
    (tmp_path / "broken.mp4").write_bytes(whole[:len(whole) // 3] + bytes(len(whole) // 3) + whole[len(whole) // 3 * 2:])
    records = [Record("good", films["mp4"], 96, 64), Record("broken", tmp_path / "broken.mp4", *video_size(tmp_path / "broken.mp4"))]
    describer = ClipDescriber(Describer(Backbone("toynet"), rows=2, columns=2), frames=3)
    refused(lambda: describer.store(tmp_path / "features", records, progress=False), "broken.mp4: cannot be decoded whole")
    assert not list((tmp_path / "features").rglob("*.safetensors"))
    assert describer.store(tmp_path / "features", records[:1], progress=False).shape == (3, 96)
    assert list((tmp_path / "features").rglob("*.safetensors"))


# Both data sets: a listed clip whose video is missing or broken

SETS = {"msrvtt": (make_msrvtt, load_msrvtt, "TestVideo/video{}.mp4"), "msvd": (make_msvd, load_msvd, "YouTubeClips/{}.avi")}


@pytest.fixture(scope="module", params=SETS)
def name(request) -> str: return request.param


@pytest.fixture(scope="module")
def whole(name, tmp_path_factory) -> Path: return SETS[name][0](tmp_path_factory.mktemp("drawn") / name, 1, 1, 3, seed=11)


@pytest.fixture
def copy(whole, tmp_path) -> Path: return Path(shutil.copytree(whole, tmp_path / "data"))


@pytest.mark.parametrize("fault", ["missing", "text", "half cut off"])
def test_a_listed_clip_without_its_video_is_refused_or_left_out_and_listed(name, whole, copy, fault):
    _, load, _ = SETS[name]
    records = load(whole).records
    path = copy / records[1].path.relative_to(whole)
    damage, says = FAULTS[fault]
    damage(path)
    refused(lambda: load(copy), says, path.name)
    rest = load(copy, broken="skip")
    assert [record.id for record in rest.records] == [records[0].id, records[2].id]
    ((_, reason),) = rest.skipped
    assert says in reason and path.name in reason and rest.footnote == f"1 of 3 test records left out: {reason}"
    assert [record.id for record in load(copy, "train").records] == [record.id for record in load(whole, "train").records]   # other parts do not suffer
    for record in records: (copy / record.path.relative_to(whole)).unlink(missing_ok=True)
    refused(lambda: load(copy, broken="skip"), "no test record can be used; the first")


# MSR-VTT's lists

def rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def msrvtt(tmp_path) -> Path: return make_msrvtt(tmp_path / "msrvtt", 1, 1, 3, seed=11)


LISTS = {   # what happens to the test clips' list, where the error says it is, and what it says
    "the re-release": (lambda content: content.update(sentences=[]), "test_videodatainfo.json", "re-release of 2017"),
    "the re-release without even the list": (lambda content: content.pop("sentences"), "test_videodatainfo.json", "has no list 'sentences'"),
    "videos that are no list": (lambda content: content.update(videos={}), "test_videodatainfo.json", "has no list 'videos'"),
    "a clip twice": (lambda content: content["videos"].append(content["videos"][0]), "test_videodatainfo.json, video 3", "'video7010' is listed twice"),
    "a clip of a number": (lambda content: content["videos"][1].update(video_id=7011), "test_videodatainfo.json, video 1", "no field 'video_id'"),
    "a sentence about another clip": (lambda content: content["sentences"][5].update(video_id="video7099"), "test_videodatainfo.json, sentence 5", "'video7099', which is not among its videos"),
    "a sentence without text": (lambda content: content["sentences"][5].update(caption=None), "test_videodatainfo.json, sentence 5", "field 'caption'"),
    "an empty sentence": (lambda content: content["sentences"][5].update(caption="  "), "test_videodatainfo.json, sentence 5", "field 'caption' is empty"),
    "a sentence without number": (lambda content: content["sentences"][5].pop("sen_id"), "test_videodatainfo.json, sentence 5", "field 'sen_id'"),
    "a number twice": (lambda content: [one.update(sen_id=7) for one in content["sentences"][:2]], "test_videodatainfo.json, sentence 1", "another sentence with sen_id 7"),
    "no sentence of one clip": (lambda content: content.update(sentences=[one for one in content["sentences"] if one["video_id"] != "video7012"]), "test_videodatainfo.json", "1 clips have no sentence, such as video7012"),
    "a clip of no part": (lambda content: [one.update(video_id="video10000") for one in content["videos"] + content["sentences"] if one["video_id"] == "video7012"], "video10000", "is not named video0 to video9999"),
}


@pytest.mark.parametrize("fault", LISTS)
def test_a_list_of_msrvtt_that_contradicts_itself(msrvtt, fault):
    change, where, says = LISTS[fault]
    rewrite(msrvtt / "test_videodatainfo.json", change)
    for part in ("test", "train"): assert where in refused(lambda: load_msrvtt(msrvtt, part, broken="skip"), says).where   # a broken list is no broken clip: it is never skipped


def test_the_re_release_is_refused_alone_and_beside_the_lists_of_2016(msrvtt):
    released = {"info": {}, "videos": [{"video_id": f"video{k}", "id": k} for k in range(10000, 10003)], "sentences": []}
    (msrvtt / "test_2017_videodatainfo.json").write_text(json.dumps(released))
    refused(lambda: load_msrvtt(msrvtt), "test_2017_videodatainfo.json", "re-release of 2017", "JSON files of 2016")
    for path in msrvtt.glob("*_videodatainfo.json"):
        if "2017" not in path.name: path.unlink()
    refused(lambda: load_msrvtt(msrvtt), "test_2017_videodatainfo.json", "re-release of 2017")


def test_two_lists_with_the_same_clip(msrvtt):
    content = json.loads((msrvtt / "test_videodatainfo.json").read_text())
    one = {"videos": content["videos"][:1], "sentences": [sentence for sentence in content["sentences"] if sentence["video_id"] == content["videos"][0]["video_id"]]}
    (msrvtt / "extra_videodatainfo.json").write_text(json.dumps(one))
    refused(lambda: load_msrvtt(msrvtt), "test_videodatainfo.json: lists 'video7010', as another file does", "Leave one of them out")


def test_archives_are_read_and_broken_ones_named(msrvtt):
    before = read_msrvtt(msrvtt)
    archive = msrvtt / "annotation.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(msrvtt.glob("*_videodatainfo.json")): packed.write(path, f"lists/{path.name}")
    assert read_msrvtt(msrvtt) == before                       # those that lie unpacked count once
    for path in msrvtt.glob("*_videodatainfo.json"): path.unlink()
    assert read_msrvtt(msrvtt) == before
    content = archive.read_bytes()
    for broken in (content[:len(content) // 2], b"", b"no archive", content[:200] + bytes(200) + content[400:]):
        archive.write_bytes(broken)
        refused(lambda: read_msrvtt(msrvtt), "annotation.zip: cannot be read whole", "Fetch the archive again")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as cut: cut.writestr("test_videodatainfo.json", '{"videos": [')
    archive.write_bytes(packed.getvalue())
    refused(lambda: read_msrvtt(msrvtt), "annotation.zip, test_videodatainfo.json: is not whole JSON")
    archive.unlink()
    refused(lambda: read_msrvtt(msrvtt), "holds no *_videodatainfo.json")


@pytest.mark.parametrize("content", [b"", b'{"videos": [{"video_id": "vid', b"\xff\xfe\x00", b"[]", b"null"])
def test_json_that_is_cut_off_or_of_another_kind(msrvtt, content):
    (msrvtt / "test_videodatainfo.json").write_bytes(content)
    refused(lambda: load_msrvtt(msrvtt, "train"), "test_videodatainfo.json")


# MSVD's lists

HEADER = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"


@pytest.fixture
def msvd(tmp_path) -> Path:
    "Three test clips whose sentences are a table, as Microsoft published it; the second clip has only sentences in other languages."
    root = tmp_path / "msvd"
    names = ["ab-_c_d_1_15", "x1_0_4", "NA_3_9"]
    for name in names: write_video(root / f"YouTubeClips/{name}.avi", [running(k) for k in range(3)])
    (root / "youtube_mapping.txt").write_text("".join(f"{name} vid{1301 + k}\n" for k, name in enumerate(names)))
    (root / "MSR Video Description Corpus.csv").write_text(HEADER + "".join(f"{row}\n" for row in (
        "ab-_c_d,1,15,7,clean,9,English,A dog's ball rolls.", "ab-_c_d,1,15,7,clean,9,German,Ein Ball rollt.", 'ab-_c_d,1,15,7,clean,9,English,"A ball, red, rolls"', "ab-_c_d,1,15,8,clean,9,English,",
        "x1,0,4,7,unverified,9,Serbian,Лопта.", "x1,0,4,7,clean,9,English,", "x1,0,4,7,clean,9,English,...", "NA,3,9,7,clean,9,English,null", "NA,3,9,7,clean,9,Hindi,")))
    return root


def test_sentences_of_other_languages_and_none_are_left_out(msvd):
    assert read_descriptions(msvd) == {"ab-_c_d_1_15": ("A dog's ball rolls.", "A ball, red, rolls"), "x1_0_4": ("...",), "NA_3_9": ("null",)}   # names and words that a table might take for 'nothing'
    refused(lambda: load_msvd(msvd), "descriptions of clip x1_0_4 (vid1302): there is no English sentence", "broken='skip'")
    rest = load_msvd(msvd, broken="skip")
    assert [(record.id, [str(sentence) for sentence in record.sentences]) for record in rest.records] == [("vid1301", ["a dog's ball rolls", "a ball red rolls"]), ("vid1303", ["null"])]
    assert [name for name, _ in rest.skipped] == ["x1_0_4"] and "1 of 3 test records left out" in rest.footnote


TABLES = {   # a table's last line, and what is said about it
    "too few fields": ("ab-_c_d,1", "row 3: has neither Language nor Description"),
    "too many fields": ("ab-_c_d,1,15,7,clean,9,English,A dog, runs", "cannot be read"),
    "a quote that stays open": ('ab-_c_d,1,15,7,clean,9,English,"A dog', "cannot be read"),
    "a start of words": ("ab-_c_d,one,15,7,clean,9,English,A dog", "row 3: VideoID, Start and End are 'ab-_c_d', 'one', '15'"),
    "no start": ("ab-_c_d,,15,7,clean,9,English,A dog", "row 3: VideoID, Start and End are"),
    "half seconds": ("ab-_c_d,1.5,15,7,clean,9,English,A dog", "expected a name and two whole numbers"),
    "no video": (",1,15,7,clean,9,English,A dog", "row 3: VideoID, Start and End are ''"),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_row_of_another_form(msvd, fault):
    row, says = TABLES[fault]
    (msvd / "MSR Video Description Corpus.csv").write_text(f"{HEADER}ab-_c_d,1,15,7,clean,9,English,A ball\n{row}\n")
    refused(lambda: load_msvd(msvd, broken="skip"), "MSR Video Description Corpus.csv", says)


def test_a_table_of_other_columns_bytes_or_languages(msvd):
    table = msvd / "MSR Video Description Corpus.csv"
    for content, says in [("VideoID,Start,End\nx,1,4\n".encode(), "cannot be read"), (b"", "cannot be read"), (b"\xff\xfe" + HEADER.encode("utf-16-le"), "cannot be read"),
                          ((HEADER + "x1,0,4,7,clean,9,German,Ein Ball\n").encode(), "has no English sentence")]:
        table.write_bytes(content)
        refused(lambda: load_msvd(msvd), says)
    table.unlink()
    refused(lambda: load_msvd(msvd), "holds neither AllVideoDescriptions.txt nor")


def test_the_older_text_form(msvd):
    text = msvd / "AllVideoDescriptions.txt"        # it comes first where both are there
    for content, says in [("# by people\n\nab-_c_d_1_15 A ball\nx1_0_4\n", "AllVideoDescriptions.txt, line 4"), ("x1_0_4    \n", "AllVideoDescriptions.txt, line 1"), ("x1 A ball\n", "expected '<video>_<start>_<end> <sentence>', found 'x1 A ball'"),
                          ("# nothing but this\n", "has no English sentence")]:
        text.write_text(content)
        refused(lambda: load_msvd(msvd, broken="skip"), says)
    text.write_bytes(b"x1_0_4 A \xff ball\n")
    refused(lambda: load_msvd(msvd), "AllVideoDescriptions.txt: is not UTF-8 text")
    text.write_text("x1_0_4 A ball!\n")
    assert [record.id for record in load_msvd(msvd, broken="skip").records] == ["vid1302"]


MAPPINGS = {
    "a clip twice": ("ab-_c_d_1_15 vid1301\nab-_c_d_1_15 vid1302\nNA_3_9 vid1303\nx1_0_4 vid1304\n", "youtube_mapping.txt, line 2", "listed twice"),
    "a number twice": ("ab-_c_d_1_15 vid1301\nx1_0_4 vid1301\n", "youtube_mapping.txt, line 2", "vid1301 is listed twice"),
    "a line of another form": ("ab-_c_d_1_15 vid1301\nx1_0_4 1302\n", "youtube_mapping.txt, line 2", "expected '<clip> vid<N>'"),
    "a clip with sentences left out": ("ab-_c_d_1_15 vid1301\nx1_0_4 vid1302\n", "youtube_mapping.txt", "lacks 1 clips that have sentences, such as NA_3_9"),
    "empty": ("", "youtube_mapping.txt", "lacks 3 clips"),
}


@pytest.mark.parametrize("fault", MAPPINGS)
def test_a_mapping_that_contradicts_itself_or_the_descriptions(msvd, fault):
    content, where, says = MAPPINGS[fault]
    (msvd / "youtube_mapping.txt").write_text(content)
    assert refused(lambda: load_msvd(msvd, broken="skip"), says).where.endswith(where)
    (msvd / "youtube_mapping.txt").unlink()
    refused(lambda: load_msvd(msvd), "youtube_mapping.txt: is not there")


# The official files and real clips

def test_msrvtt_official_counts(shared_data):
    captions = read_msrvtt(shared_data / "msrvtt")
    assert Counter(part_of(name) for name in captions) == {"train": 6513, "val": 497, "test": 2990}
    assert all(len(own) == 20 for own in captions.values())


def test_msrvtts_archive_cut_off_and_its_clips_without_videos(shared_data, tmp_path):
    whole = (shared_data / "msrvtt/test_videodatainfo.json.zip").read_bytes()
    (tmp_path / "test_videodatainfo.json.zip").write_bytes(whole)
    refused(lambda: load_msrvtt(tmp_path), "TestVideo/video7010.mp4: there is no such video")
    refused(lambda: load_msrvtt(tmp_path, broken="skip"), "no test record can be used; the first")
    (tmp_path / "test_videodatainfo.json.zip").write_bytes(whole[:len(whole) // 2])
    refused(lambda: load_msrvtt(tmp_path), "test_videodatainfo.json.zip: cannot be read whole")


def test_msvd_official_mapping(shared_data):
    numbers = read_mapping(shared_data / "msvd/captions/youtube_video_to_id_mapping.txt")
    assert sorted(numbers.values()) == [number for part in NUMBERS.values() for number in part]


def test_real_clips_give_the_frames_asked_for(shared_data):
    paths = sorted((shared_data / "msvd/videos").glob("*.avi"))
    assert len(paths) == 12
    for path in paths:
        clip, times = read_frames(path), video_times(path)
        assert len(clip.frames) == 26 and clip.indices == tuple(evenly(clip.total)) and clip.indices[-1] == clip.total - 1
        assert clip.times == tuple(times[k] for k in clip.indices) and clip.times[0] == 0 and clip.frames[0].size == (clip.width, clip.height) == video_size(path)
        assert all(one < other for one, other in zip(times, times[1:]))
        start, stop = map(int, re.search(r"_(\d+)_(\d+)$", path.stem).groups())
        assert abs(times[-1] - (stop - start)) < 0.1 * (stop - start) + 1      # the name says the seconds


def test_a_real_clip_cut_off_is_refused(shared_data, tmp_path):
    path = sorted((shared_data / "msvd/videos").glob("*.avi"))[0]
    (tmp_path / path.name).write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    for use in (video_size, read_frames): refused(lambda: use(tmp_path / path.name), f"{path.name}: is cut off")


# The index of the videos, and worker processes

ALL = ("frame_size", "pace", "frame_times")


def opens_none(*_, **__):
    raise AssertionError("a video was opened")


@pytest.mark.parametrize("fault", [None, "missing", "half cut off"])
def test_with_an_index_the_records_are_the_same_and_a_second_loading_opens_no_video(name, copy, tmp_path, fault):
    _, load, _ = SETS[name]
    if fault: FAULTS[fault][0](load(copy).records[1].path)
    plain = load(copy, broken="skip")
    assert load(copy, broken="skip", index=VideoIndex(tmp_path / "index")) == plain
    with patch("av.open", opens_none):
        again = load(copy, broken="skip", index=VideoIndex(tmp_path / "index"))
    assert again == plain and len(again.skipped) == bool(fault)
    if fault: refused(lambda: load(copy, index=VideoIndex(tmp_path / "index")), FAULTS[fault][1])


def test_records_of_actions_are_the_same_with_an_index(tmp_path):
    clips, films = make_ucf101(tmp_path / "ucf101", 1, 1, 1, seed=3), make_thumos14(tmp_path / "thumos14", 1, 1, seed=3)
    loads = {"frames": partial(load_ucf101, clips, "test"), "boxes": partial(load_ucf101, clips, "test", boxes="official"), "films": partial(load_thumos14, films, "test")}
    for kind, load in loads.items():
        plain = load()
        assert load(index=VideoIndex(tmp_path / kind)) == plain
        with patch("av.open", opens_none): assert load(index=VideoIndex(tmp_path / kind)) == plain


def test_several_processes_fill_one_index(films, tmp_path):
    paths = [Path(shutil.copy(films["avi"], tmp_path / f"{k}.avi")) for k in range(40)]

    def fill(mine: list[Path]) -> None:
        index = VideoIndex(tmp_path / "index")
        for path in mine: index.frame_times(path)

    for number in [forked(partial(fill, paths[k::4] + paths[:5])) for k in range(4)]: assert not was_killed(number)
    lines = (tmp_path / "index/videos.jsonl").read_text().splitlines()
    assert {json.loads(line)["path"] for line in lines} == {str(path) for path in paths}
    with patch("av.open", opens_none):
        index = VideoIndex(tmp_path / "index")
        assert {index.frame_times(path) for path in paths} == {tuple(k / 25 for k in range(40))}


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_an_index_whose_writer_died_within_a_line_goes_on(films, tmp_path, cut):
    paths = [Path(shutil.copy(films["avi"], tmp_path / f"{k}.avi")) for k in range(3)]
    VideoIndex(tmp_path).build(paths[:2], ALL)
    whole = VideoIndex(tmp_path).path.read_bytes()
    VideoIndex(tmp_path).path.write_bytes(whole[:-cut])
    index = VideoIndex(tmp_path)
    assert index.known_times(paths[0]) and not index.known_times(paths[1])
    for _ in range(2): assert not index.build(paths, ALL)
    with patch("av.open", opens_none): assert [len(VideoIndex(tmp_path).frame_times(path)) for path in paths] == [40] * 3
    assert len(VideoIndex(tmp_path).path.read_text().splitlines()) == 4


def test_a_broken_video_is_never_in_the_index(films, tmp_path):
    for fault, (damage, says) in FAULTS.items():
        path = Path(shutil.copy(films["mp4"], tmp_path / "film.mp4"))
        damage(path)
        index = VideoIndex(tmp_path / "index")
        (error,) = index.build([path], ALL).values()
        assert says in str(error)
        for use in (video_size, video_times): refused(lambda: use(path, index), says, path.name)
        refused(lambda: read_frames(path, index=index), says)
        refused(lambda: list(iterate_clips([path], index=index)), says)
        refused(lambda: list(iterate_chunks([path], index=index)), says)
        assert not index.path.exists(), fault
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["avi", "mp4"])
def test_a_video_of_variable_rate_or_order_is_read_alike_with_an_index(films, tmp_path, kind):
    stamps = [0, 1, 2, 30, 31, 80, 81, 82, 83, 200]
    late = write_video(tmp_path / "late.mp4", [running(k) for k in range(10)], rate=25, times=stamps)
    for path in late, films[kind]:
        index = VideoIndex(tmp_path / "index")
        for _ in range(2):
            for count in 1, 4, 26, 100:
                plain, known = read_frames(path, count), read_frames(path, count, index=index)
                assert (plain.times, plain.indices, plain.total) == (known.times, known.indices, known.total)
                assert [one.tobytes() for one in plain.frames] == [one.tobytes() for one in known.frames]
        assert index.frame_times(path) == video_times(path)


def test_no_decode_more_than_needed(films):
    with patch("cgsaliency.data.frames._decoded", wraps=media._decoded) as decoded:
        for count in None, 1, 26: read_frames(films["avi"], count)
        assert decoded.call_count == 3
        list(frames_in_chunks(films["avi"], 7))
        assert decoded.call_count == 4


def test_frames_in_chunks_hold_no_more_than_a_chunk(tmp_path):
    path = write_video(tmp_path / "long.avi", [running(k % 40) for k in range(300)])
    held = []
    for chunk in frames_in_chunks(path, 10):
        held = [one for one in held if one() is not None] + [weakref.ref(frame) for frame in chunk]
        del chunk
        gc.collect()
        assert len([one for one in held if one() is not None]) <= 10


def test_workers_give_what_one_process_gives_and_stop_when_they_are_ahead(films, tmp_path):
    paths = [Path(shutil.copy(films["avi"], tmp_path / f"{k}.avi")) for k in range(12)]
    index = VideoIndex(tmp_path / "index")
    clips = iterate_clips(paths, 4, attrgetter("indices"), workers=2, ahead=1, index=index)
    first = next(clips)
    time.sleep(1.5)
    known = sum(index.known_times(path) is not None for path in paths)
    assert first == (0, 13, 26, 39) and 1 <= known <= 7                    # the one that was taken; in each worker a result that waits, one on its way, one made
    assert [first, *clips] == list(iterate_clips(paths, 4, attrgetter("indices"))) and all(index.known_times(path) for path in paths)


KILLED = """
import itertools, sys, time
from cgsaliency.data.parallel import ordered_results

if __name__ == "__main__":
    results = ordered_results(itertools.count, [0, 1], workers=2, ahead=2)
    next(results)
    import multiprocessing
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


def test_workers_of_a_process_that_is_killed_end(tmp_path):
    (tmp_path / "work.py").write_text(KILLED)
    work = subprocess.Popen([sys.executable, tmp_path / "work.py"], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    workers = [int(number) for number in work.stdout.readline().split()]
    assert len(workers) == 2 and all(psutil.pid_exists(number) for number in workers)
    work.kill()
    work.wait()
    work.stdout.close()
    gone, left = psutil.wait_procs([psutil.Process(number) for number in workers if psutil.pid_exists(number)], timeout=20)
    assert not left


def test_real_clips_are_read_alike_by_workers_and_with_an_index(shared_data, tmp_path):
    paths = sorted((shared_data / "msvd/videos").glob("*.avi"))[:4] + sorted((shared_data / "ucf101").rglob("*.mp4"))[:2]
    index = VideoIndex(tmp_path)
    assert not index.build(paths, ALL, workers=2, progress=False)
    for path, clip in zip(paths, iterate_clips(paths, 8, workers=2, index=index), strict=True):
        plain = read_frames(path, 8)
        assert (clip.times, clip.indices, clip.total, clip.width, clip.height) == (plain.times, plain.indices, plain.total, plain.width, plain.height)
        assert [one.tobytes() for one in clip.frames] == [one.tobytes() for one in plain.frames]
        assert index.pace(path) == stated_pace(path) and index.frame_times(path) == video_times(path) and index.frame_size(path) == video_size(path)
