"""The UCF101 loader on broken files, one fault at a time, and on the official files and real clips."""

import pickle
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from assertions import assert_input_error, damage_file
from cgsaliency.core.records import ActionInterval
from cgsaliency.data.media import fps_and_duration, frame_timestamps, video_size, write_video
from cgsaliency.data.ucf101 import (
    CLASSES24,
    MAX_CLIP_FRAMES,
    load_ucf101,
    read_classes,
    read_corrected_boxes,
    read_fold,
    read_xgtf,
)

# Annotations as XML

XGTF_HEAD = (
    '<?xml version="1.0"?><viper xmlns="http://lamp.cfar.umd.edu/viper#"'
    ' xmlns:data="http://lamp.cfar.umd.edu/viperdata#"><config/><data><sourcefile filename="a.avi"><file id="0"'
    ' name="Information">{}</file>'
)
ATTRIBUTE = '<attribute name="{}"><data:{} value="{}"/></attribute>'
XGTF_TAIL = "</sourcefile></data></viper>"


def person_xml(spans: dict[str, tuple], flags: dict[str, str], flag: str = "Diving") -> str:
    boxes = "".join(
        '<data:bbox framespan="{}" x="{}" y="{}" width="{}" height="{}"/>'.format(span, *box)
        for span, box in spans.items()
    )
    flag_elements = "".join(f'<data:bvalue framespan="{span}" value="{value}"/>' for span, value in flags.items())
    return (
        f'<object framespan="1:9" id="3" name="PERSON"><attribute name="Location">{boxes}</attribute><attribute'
        f' name="{flag}">{flag_elements}</attribute></object>'
    )


@pytest.fixture
def write_xgtf(tmp_path):
    def write(
        *people: str, attributes: str = ATTRIBUTE.format("NUMFRAMES", "dvalue", 20), name: str = "v_Diving_g01_c01"
    ) -> Path:
        path = tmp_path / f"{name}.xgtf"
        path.write_text(XGTF_HEAD.format(attributes) + "".join(people) + XGTF_TAIL)
        return path

    return write


BOX = (10, 20, 30, 40)


def reference_tubes(spans: list, flags: list, last: int) -> list[dict[int, tuple]]:
    """Compute tubes frame by frame, from 1: the first span that covers a frame gives its box; each unbroken run of
    flagged frames is a tube."""
    tubes, was_active = [], False
    for frame in range(1, last + 1):
        is_active = any(first <= frame <= end and active for (first, end), active in flags)
        if is_active and not was_active:
            tubes.append({})
        box = next((box for (first, end), box in spans if first <= frame <= end), None)
        if is_active and box:
            tubes[-1][frame - 1] = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        was_active = is_active
    return [tube for tube in tubes if tube]


@pytest.mark.parametrize("seed", range(40))
def test_random_spans_give_the_frames_of_the_slow_reference(write_xgtf, seed):
    rng = Random(seed)

    def span() -> tuple[int, int]:
        first = rng.randrange(0, 24)
        return first, first + rng.randrange(0, 9)

    spans = {
        f"{first}:{end}": (
            (first, end),
            (rng.randrange(200), rng.randrange(100), rng.randrange(1, 60), rng.randrange(1, 60)),
        )
        for first, end in (span() for _ in range(6))
    }
    flags = {f"{first}:{end}": ((first, end), rng.random() < 0.7) for first, end in (span() for _ in range(5))}
    flags["1:2"] = ((1, 2), True)
    spans["2:2"] = ((2, 2), BOX)
    path = write_xgtf(
        person_xml(
            {key: box for key, (_, box) in spans.items()},
            {key: "true" if active else "false" for key, (_, active) in flags.items()},
        )
    )
    tubes = [dict(zip(action.frames, action.boxes)) for action in read_xgtf(path).actions]
    assert tubes == reference_tubes(list(spans.values()), list(flags.values()), 20)


OLD_NAMES = {
    "basketball_shooting": "Basketball",
    "biking": "Biking",
    "diving": "Diving",
    "golf_swing": "GolfSwing",
    "horse_riding": "HorseRiding",
    "soccer_juggling": "SoccerJuggling",
    "tennis_swing": "TennisSwing",
    "trampoline_jumping": "TrampolineJumping",
    "volleyball_spiking": "VolleyballSpiking",
    "walking": "WalkingWithDog",
}


@pytest.mark.parametrize("name", CLASSES24)
def test_each_class_is_found_by_all_its_names_and_no_other(write_xgtf, name):
    for flag in [name, f" {name} ", *(old_name for old_name, new_name in OLD_NAMES.items() if new_name == name)]:
        path = write_xgtf(
            person_xml({"1:5": BOX}, {"1:5": "true"}, flag),
            person_xml({"1:5": (90, 9, 9, 9)}, {"1:5": "false"}, flag),
            name=f"v_{name}_g01_c01",
        )
        (action,), clip = read_xgtf(path).actions, read_xgtf(path)
        assert (action.name, action.boxes[0], clip.num_frames, clip.width, clip.height) == (
            name,
            (10, 20, 40, 60),
            20,
            320,
            240,
        )
    others = [
        *(other_name for other_name in CLASSES24 if other_name != name),
        *(old_name for old_name, new_name in OLD_NAMES.items() if new_name != name),
    ]
    path = write_xgtf(
        person_xml({"1:5": BOX}, {"1:5": "true"}, name),
        *(person_xml({"1:5": (90, 9, 9, 9)}, {"1:5": "true"}, other) for other in others),
        name=f"v_{name}_g01_c01",
    )
    assert len(read_xgtf(path).actions) == 1


def test_a_clip_without_a_length_ends_with_its_last_box(write_xgtf):
    tubes = read_xgtf(
        write_xgtf(person_xml({"6:10": BOX}, {"1:20": "true"}), attributes='<attribute name="NUMFRAMES"/>')
    )
    assert tubes.num_frames == 10
    # a huge span does not fill the memory
    assert (
        read_xgtf(write_xgtf(person_xml({"1:999999999": BOX}, {"1:999999999": "true"}), attributes="")).num_frames
        == MAX_CLIP_FRAMES
    )


def test_other_attributes_of_the_file_are_ignored(write_xgtf):
    attributes = (
        '<attribute name="SOURCETYPE"><data:lvalue value="SEQUENCE"/></attribute><attribute'
        ' name="FRAMERATE"><data:fvalue value="1.0"/></attribute><attribute name="H-FRAME-SIZE"/>'
    )
    tubes = read_xgtf(
        write_xgtf(
            person_xml({"6:10": BOX}, {"1:20": "true"}),
            attributes=attributes
            + ATTRIBUTE.format("NUMFRAMES", "dvalue", 20)
            + ATTRIBUTE.format("V-FRAME-SIZE", "dvalue", 50),
        )
    )
    assert (tubes.num_frames, tubes.width, tubes.height, tubes.actions[0].start, tubes.actions[0].boxes[0]) == (
        20,
        320,
        50,
        0.2,
        (10, 20, 40, 50),
    )


@pytest.mark.parametrize("value", ["many", "nan", "inf", "1e9", ""])
def test_malformed_numbers_are_reported(write_xgtf, value):
    assert_input_error(
        lambda: read_xgtf(
            write_xgtf(
                person_xml({"1:5": BOX}, {"1:5": "true"}), attributes=ATTRIBUTE.format("NUMFRAMES", "dvalue", value)
            )
        ),
        "v_Diving_g01_c01.xgtf, NUMFRAMES: field 'value' is",
        "expected a number",
    )
    assert_input_error(
        lambda: read_xgtf(write_xgtf(person_xml({"1:5": (value, 1, 2, 3)}, {"1:5": "true"}))),
        "object 3: field 'x' is",
        "expected a number",
    )


def test_an_action_in_frames_without_boxes_gives_no_tube(write_xgtf):
    assert_input_error(
        lambda: read_xgtf(write_xgtf(person_xml({"1:5": BOX}, {"6:9": "true"}))),
        "v_Diving_g01_c01.xgtf: has no box of a person",
    )
    assert (
        len(
            read_xgtf(
                write_xgtf(person_xml({"1:5": BOX}, {"6:9": "true"}), person_xml({"1:5": BOX}, {"5:9": "true"}))
            ).actions
        )
        == 1
    )


def test_overlapping_spans_gaps_and_boxes_beyond_the_border_are_corrected(write_xgtf):
    "Of the frames with boxes, one is in a gap, two boxes lie outside the image, and those at the border are clipped."
    # x, y, width, height: over the left border, over the lower right corner of 320 × 240
    left, right = (-10, 20, 30, 40), (310, 230, 60, 40)
    spans = {"5:8": BOX, "1:6": left, "10:12": right, "9:9": (400, 9, 20, 20), "13:13": (9, 300, 20, 20)}
    (action,) = read_xgtf(write_xgtf(person_xml(spans, {"1:20": "true"}))).actions
    assert action.frames == (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11) and (action.start, action.end) == (0, 12 / 25)
    # where two spans overlap, the first one in the file counts
    assert Counter(action.boxes) == {(0, 20, 20, 60): 4, (10, 20, 40, 60): 4, (310, 230, 320, 240): 3}


@pytest.mark.parametrize("box", [(400, 9, 20, 20), (-50, 9, 50, 20), (9, 240, 20, 20), (9, 9, 0, 20), (9, 9, -5, 20)])
def test_a_clip_without_a_box_inside_the_image_is_reported(write_xgtf, box):
    assert (
        "on_error='skip'"
        in assert_input_error(
            lambda: read_xgtf(write_xgtf(person_xml({"1:5": box}, {"1:5": "true"}))),
            "v_Diving_g01_c01.xgtf: has no box of a person",
        ).hint
    )


@pytest.mark.parametrize("span", ["5", "1-5", "a:b", "-1:5", "", "1:5:9", "99999999999:1"])
def test_malformed_spans_are_reported(write_xgtf, span):
    assert_input_error(
        lambda: read_xgtf(write_xgtf(person_xml({span: BOX}, {"1:5": "true"}))),
        "v_Diving_g01_c01.xgtf, object 3: field 'framespan' is",
        "expected '<first>:<last>'",
        "boxes='corrected'",
    )
    assert_input_error(
        lambda: read_xgtf(write_xgtf(person_xml({"1:5": BOX}, {span: "true"}))),
        "v_Diving_g01_c01.xgtf, object 3: field 'framespan' is",
        "expected '<first>:<last>'",
    )


@pytest.mark.parametrize("length", [0, 1, 30, 200, 500])
def test_truncated_xml_is_reported_with_a_hint(write_xgtf, length):
    path = write_xgtf(person_xml({"1:5": BOX}, {"1:5": "true"}))
    path.write_text(path.read_text()[:length])
    assert (
        "boxes='corrected'"
        in assert_input_error(lambda: read_xgtf(path), "v_Diving_g01_c01.xgtf: is not valid XML").hint
    )


def test_xml_with_entities_is_rejected(write_xgtf):
    path = write_xgtf(person_xml({"1:5": BOX}, {"1:5": "true"}))
    _, _, body = path.read_text().partition("?>")
    for entities in ['<!ENTITY a SYSTEM "file:///etc/hostname">', '<!ENTITY a "b"><!ENTITY c "&a;&a;&a;">']:
        path.write_text(f"<!DOCTYPE viper [{entities}]>{body.replace('PERSON', '&a;')}")
        assert_input_error(lambda: read_xgtf(path), "is not valid XML")
    path.write_bytes(b'<?xml version="1.0" encoding="nowhere"?>' + body.encode())
    assert_input_error(lambda: read_xgtf(path), "is not valid XML")


# Corrected boxes as a pickle


def write_pickle(path: Path, **changes) -> Path:
    tube = {
        "label": 5,
        "sf": np.uint16(0),
        "ef": np.uint8(2),
        "boxes": np.array([[250, 9, 60, 40]] * 2, np.uint8),
    } | changes
    path.write_bytes(
        pickle.dumps({"Diving/v_Diving_g01_c01": {"label": 5, "numf": np.uint8(9), "annotations": [tube]}}, protocol=3)
    )
    return path


def test_small_integers_do_not_overflow(tmp_path):
    (tubes,) = read_corrected_boxes(write_pickle(tmp_path / "pyannot.pkl")).values()
    assert (
        tubes.actions == (ActionInterval("Diving", 0, 2 / 25, boxes=((250, 9, 310, 49),) * 2, frames=(0, 1)),)
        and tubes.num_frames == 9
    )


def test_pickles_of_python_2_are_read(tmp_path):
    "Arrays of such pickles hold their bytes as Latin-1 text."
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nI4\ntcnumpy\ndtype\n"
        b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\xfa\\t<('\ntb"
    )
    path = tmp_path / "pyannot.pkl"
    path.write_bytes(
        b"(dS'Diving/v_Diving_g01_c01'\n(dS'numf'\nI9\nsS'label'\nI5\nsS'annotations'\n((dS'label'\nI5\nsS'sf'\nI3\nsS'ef'\nI4\nsS'boxes'\n"
        + array
        + b"slss."
    )
    assert read_corrected_boxes(path)["Diving/v_Diving_g01_c01"].actions[0].boxes == ((250, 9, 310, 49),)


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'echo ran'\ntR.",
        b"cbuiltins\neval\n(S'1/0'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfrombuffer\n.",
        b"\x80\x02\x82\x01.",
        b"cnumpy\ndtype.fields.__get__\n.",
        b"",
        b"\x00",
        b"((((",
    ],
)
def test_pickles_that_load_other_objects_are_rejected(tmp_path, content):
    path = tmp_path / "pyannot.pkl"
    path.write_bytes(content)
    assert_input_error(lambda: read_corrected_boxes(path), "pyannot.pkl: is not a complete pickle of boxes")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": 6}, "label 6 is not Diving"),
        ({"label": 99}, "out of range"),
        ({"label": "Diving"}, "no tubes as expected"),
        ({"ef": 3}, "frames 0 to 3 have boxes of shape (2, 4)"),
        ({"sf": -1, "ef": 1}, "frames -1 to 1"),
        ({"ef": 0}, "frames 0 to 0"),
        ({"boxes": [[1, 2, 3, 4]] * 2}, "'list' object has no attribute"),
        ({"boxes": np.zeros((2, 3), int)}, "shape (2, 3)"),
    ],
)
def test_inconsistent_tubes_are_reported(tmp_path, change, message):
    assert_input_error(
        lambda: read_corrected_boxes(write_pickle(tmp_path / "pyannot.pkl", **change)),
        "clip 'Diving/v_Diving_g01_c01'",
        message,
    )


# Lists, clips and boxes together

LIST_FILES = {
    "classInd.txt": "1 Diving\n2 GolfSwing\n",
    "trainlist01.txt": "Diving/v_Diving_g05_c01.avi 1\nGolfSwing/v_GolfSwing_g02_c01.avi 2\n",
    "testlist01.txt": "Diving/v_Diving_g01_c01.avi\nGolfSwing/v_GolfSwing_g01_c01.avi\n",
}


@pytest.fixture
def dataset(tmp_path) -> Path:
    "Two test clips of 9 frames, with their boxes, in a folder like UCF101's."
    for name in ("Diving", "GolfSwing"):
        write_video(
            tmp_path / f"UCF-101/{name}/v_{name}_g01_c01.avi",
            [Image.new("RGB", (64, 48), (20 * k, 80, 90)) for k in range(9)],
        )
        path = tmp_path / f"UCF101_24_Annotations/{name}/v_{name}_g01_c01.xgtf"
        path.parent.mkdir(parents=True)
        path.write_text(
            XGTF_HEAD.format(ATTRIBUTE.format("NUMFRAMES", "dvalue", 9))
            + person_xml({"1:9": BOX}, {"1:9": "true"}, name)
            + XGTF_TAIL
        )
    (tmp_path / "ucfTrainTestlist").mkdir()
    for file, text in LIST_FILES.items():
        (tmp_path / "ucfTrainTestlist" / file).write_text(text)
    return tmp_path


LIST_FAULTS = {  # file, its content (None: no file), location and text of the error
    "no classes": ("classInd.txt", None, "classInd.txt", "is not there"),
    "classes cut off": (
        "classInd.txt",
        "1 Diving\n2",
        "classInd.txt, line 2",
        "expected '<number> <Class>', found '2'",
    ),
    "classes cut to nothing": ("classInd.txt", "", "classInd.txt", "names no class"),
    "a class lost": ("classInd.txt", "1 Diving\n", "list01.txt, line 2", "class 'GolfSwing' is not in classInd.txt"),
    "no test list": ("testlist01.txt", None, "testlist01.txt", "is not there"),
    "no training list": ("trainlist01.txt", None, "trainlist01.txt", "is not there"),
    "a test list cut off": (
        "testlist01.txt",
        "Diving/v_Diving_g01_c01.avi\nGolfSwing/v_GolfSwing_g01",
        "testlist01.txt, line 2",
        "expected '<Class>/v_<Class>_gXX_cYY.avi'",
    ),
    "a training list cut off": (
        "trainlist01.txt",
        "Diving/v_Diving_g05_c01.avi 1\nGolfSwing/v_Golf",
        "trainlist01.txt, line 2",
        "expected '<Class>/v_<Class>_gXX_cYY.avi'",
    ),
    "a number of another class": (
        "trainlist01.txt",
        "Diving/v_Diving_g05_c01.avi 2\n",
        "trainlist01.txt, line 1",
        "gives class 2 for 'Diving', which is 1 in classInd.txt",
    ),
    "a group on both sides": (
        "trainlist01.txt",
        "Diving/v_Diving_g01_c02.avi 1\n",
        "ucfTrainTestlist",
        "fold 1 has Diving/v_Diving_g01 and 0 more groups in both",
    ),
    "bytes that are no text": ("testlist01.txt", b"Diving/v_Div\xff", "testlist01.txt", "is not UTF-8 text"),
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_missing_and_truncated_lists_are_reported(dataset, fault):
    assert [sample.id for sample in load_ucf101(dataset).samples] == ["v_Diving_g01_c01", "v_GolfSwing_g01_c01"]
    file, text, location, message = LIST_FAULTS[fault]
    damage_file(dataset / "ucfTrainTestlist" / file, text)
    # broken lists are never skipped, only broken clips
    for arguments in ({}, {"on_error": "skip"}, {"split": "train", "on_error": "skip"}):
        error = assert_input_error(lambda: load_ucf101(dataset, **arguments), message)
        assert error.location.endswith(location) and "lists" in error.hint


@pytest.mark.parametrize("length", range(len(LIST_FILES["testlist01.txt"]) - 1))
def test_lists_truncated_within_a_line_are_reported(dataset, length):
    "A list that is truncated between two lines looks like a shorter list."
    path, text = dataset / "ucfTrainTestlist/testlist01.txt", LIST_FILES["testlist01.txt"]
    path.write_text(text[:length])
    if text[:length] in ("Diving/v_Diving_g01_c01.avi", "Diving/v_Diving_g01_c01.avi\n"):
        assert len(read_fold(dataset)["test"]) == 1
    elif length == 0:
        assert read_fold(dataset)["test"] == ()
        assert_input_error(lambda: load_ucf101(dataset), "no test sample can be used")
        (dataset / "ucfTrainTestlist/trainlist01.txt").write_text("")
        assert_input_error(lambda: read_fold(dataset), "names no clip of fold 1")
    else:
        assert_input_error(lambda: read_fold(dataset), "testlist01.txt", "Fetch the data set's lists again")


CLIP_FAULTS = {
    "no video": ("UCF-101/{0}/v_{0}_g01_c01.avi", lambda path: path.unlink(), "there is no such video"),
    "a video cut off": (
        "UCF-101/{0}/v_{0}_g01_c01.avi",
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "is cut off: it has",
    ),
    "a video without its last byte": (
        "UCF-101/{0}/v_{0}_g01_c01.avi",
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "is cut off: it has",
    ),
    "no video but text": (
        "UCF-101/{0}/v_{0}_g01_c01.avi",
        lambda path: path.write_text("text " * 99),
        "cannot be decoded completely",
    ),
    "no boxes": ("UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf", lambda path: path.unlink(), "is not there"),
    "XML cut off": (
        "UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf",
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        "is not valid XML",
    ),
    "boxes outside": (
        "UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf",
        lambda path: path.write_text(path.read_text().replace('x="10"', 'x="900"')),
        "has no box of a person",
    ),
    "a number that is none": (
        "UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf",
        lambda path: path.write_text(path.read_text().replace('x="10"', 'x="1O"')),
        "field 'x' is '1O'; expected a number",
    ),
}


@pytest.mark.parametrize("fault", CLIP_FAULTS)
def test_broken_clips_raise_or_are_skipped_and_counted(dataset, fault):
    file, damage, message = CLIP_FAULTS[fault]
    path = dataset / file.format("Diving")
    damage(path)
    assert "etch" in assert_input_error(lambda: load_ucf101(dataset, boxes="official"), path.name, message).hint
    remaining = load_ucf101(dataset, boxes="official", on_error="skip")
    assert (
        [sample.id for sample in remaining.samples] == ["v_GolfSwing_g01_c01"]
        and remaining.skipped_note.startswith("1 of 2 test samples left out: ")
        and message in remaining.skipped_note
        and path.name in remaining.skipped_note
    )
    damage(dataset / file.format("GolfSwing"))
    assert_input_error(
        lambda: load_ucf101(dataset, boxes="official", on_error="skip"),
        "no test sample can be used; the first",
        message,
    )


def test_unknown_classes_are_reported(dataset):
    assert_input_error(
        lambda: load_ucf101(dataset, classes=["Diving", "Juggling"]),
        "there is no class 'Juggling'",
        "Choose classes of classInd.txt",
    )
    assert_input_error(
        lambda: load_ucf101(dataset, classes=["Archery"], boxes="official"),
        "there is no class 'Archery' with boxes",
        "CLASSES24",
    )
    (dataset / "UCF-101/Diving/v_Diving_g01_c01.avi").rename(dataset / "UCF-101/v_Archery_g01_c01.avi")
    path = dataset / "UCF101_24_Annotations/Diving/v_Diving_g01_c01.xgtf"
    assert_input_error(
        lambda: read_xgtf(path.rename(path.with_name("v_Archery_g01_c01.xgtf"))),
        "v_Archery_g01_c01.xgtf: is not named v_<Class>_gXX_cYY.xgtf with one of the 24 classes",
        "Keep the official names",
    )


# The official files and real clips


@pytest.fixture(scope="module")
def ucf101(shared_data) -> Path:
    return shared_data / "ucf101"


@pytest.fixture(scope="module")
def corrected_boxes(ucf101) -> dict:
    return read_corrected_boxes(ucf101 / "ucf24_annotations/pyannot.pkl")


def test_official_lists_are_complete_and_share_no_group(ucf101):
    classes = read_classes(ucf101)
    assert (
        len(classes) == 101
        and classes[0] == "ApplyEyeMakeup"
        and classes[100] == "YoYo"
        and classes[36] == "HandstandPushups"
        and set(CLASSES24) < set(classes)
    )
    for fold, num_test in (1, 3783), (2, 3734), (3, 3696):
        splits = read_fold(ucf101, fold)
        groups = {split: {clip.rpartition("_c")[0] for clip in dataset} for split, dataset in splits.items()}
        assert len(splits["test"]) == num_test and sum(map(len, splits.values())) == 13320 == len(
            set().union(*map(set, splits.values()))
        )
        assert not (
            groups["train"] & groups["val"] or groups["train"] & groups["test"] or groups["val"] & groups["test"]
        )
        assert (
            {clip.split("/")[0] for clip in splits["val"]}
            == set(classes)
            == {clip.split("/")[0] for clip in splits["train"]}
        )  # each class can be validated
        assert {clip[-6:-4] for clip in splits["val"]} <= {"05", "10", "15", "20", "25"}


def test_corrected_boxes_are_complete(corrected_boxes, ucf101):
    tubes = [action for clip in corrected_boxes.values() for action in clip.actions]
    boxes = np.array([box for action in tubes for box in action.boxes])
    assert (len(corrected_boxes), len(tubes), len(boxes)) == (3194, 4458, 573_862) and (
        boxes[:, 2].max(),
        boxes[:, 3].max(),
        boxes.min(),
    ) == (320, 240, 1)
    assert (
        sum(clip.num_frames for clip in corrected_boxes.values()) == 555_157
        and sum(len({frame for action in clip.actions for frame in action.frames}) for clip in corrected_boxes.values())
        == 478_863
    )
    assert all(
        action.frames == tuple(range(action.frames[0], action.frames[-1] + 1)) and action.name == name.split("/")[0]
        for name, clip in corrected_boxes.items()
        for action in clip.actions
    )
    assert (
        sum(action.frames[-1] >= clip.num_frames for clip in corrected_boxes.values() for action in clip.actions) == 0
    )
    listed = [clip for clip in read_fold(ucf101)["test"] if clip.split("/")[0] in CLASSES24]
    assert (len(listed), sum(clip in corrected_boxes for clip in listed)) == (914, 910)


def test_real_clips_are_loaded_and_missing_ones_skipped(ucf101):
    splits = {split: load_ucf101(ucf101, split, on_error="skip") for split in ("train", "test")}
    assert [len(splits[split].samples) + len(splits[split].skipped) for split in splits] == [
        len(read_fold(ucf101)[split]) for split in splits
    ] and sum(len(split.samples) for split in splits.values()) == 19
    assert Counter(sample.actions[0].name for split in splits.values() for sample in split.samples) == {
        "Diving": 5,
        "ApplyEyeMakeup": 5,
        "BenchPress": 5,
        "Lunges": 1,
        "Archery": 1,
        "BaseballPitch": 1,
        "Rowing": 1,
    }
    assert [sample.id for sample in splits["train"].samples] == ["v_Rowing_g16_c03"]
    assert_input_error(lambda: load_ucf101(ucf101, "val", on_error="skip"), "no val sample can be used")
    assert all(
        (sample.width, sample.height, sample.captions) == (320, 240, ())
        for split in splits.values()
        for sample in split.samples
    )
    assert_input_error(lambda: load_ucf101(ucf101), "there is no such video")


def test_real_clips_have_corrected_boxes_in_seconds_of_the_file(ucf101, corrected_boxes):
    dataset = load_ucf101(ucf101, boxes="corrected", on_error="skip")
    assert [sample.id for sample in dataset.samples] == [f"v_Diving_g01_c0{k}" for k in range(1, 6)] and len(
        dataset.skipped
    ) == 909
    for sample in dataset.samples:
        times, clip = frame_timestamps(sample.path), corrected_boxes[f"Diving/{sample.id}"]
        assert len(times) == clip.num_frames and [
            (action.name, action.frames, action.boxes) for action in sample.actions
        ] == [(action.name, action.frames, action.boxes) for action in clip.actions]
        for action in sample.actions:
            assert action.start == pytest.approx(times[action.frames[0]]) and action.end == pytest.approx(
                times[action.frames[-1]] + times[1]
            )  # in seconds of this file, which does not have 25 frames a second
            assert action.end != pytest.approx((action.frames[-1] + 1) / 25)
    assert_input_error(
        lambda: load_ucf101(ucf101, boxes="official", on_error="skip", classes=["Diving"]),
        "no test sample can be used",
        "Diving_g01_c01.xgtf: is not there",
    )


def test_scaled_boxes_lie_inside_clips_of_another_size(ucf101, corrected_boxes):
    paths = sorted((ucf101 / "ucf24_demo_mp4").glob("*.mp4"))
    assert len(paths) == 8
    for path in paths:
        clip = corrected_boxes[f"{path.stem.split('_')[1]}/{path.stem}"]
        (width, height), frames = video_size(path), len(frame_timestamps(path))
        assert (width, height) == (340, 256) and frames == clip.num_frames, (path.name, frames, clip.num_frames)
        for action in clip.actions:
            boxes = np.array(action.boxes) * ([width / clip.width, height / clip.height] * 2)
            assert (
                (boxes >= 0).all()
                and (boxes[:, 2] <= width).all()
                and (boxes[:, 3] <= height).all()
                and action.frames[-1] < frames
            )


def test_fps_and_duration_of_real_clips_match_their_frames(shared_data):
    paths = [*(shared_data / "ucf101").rglob("*.avi"), *(shared_data / "ucf101").rglob("*.mp4")]
    rates = Counter()
    for path in paths:
        times, (rate, seconds) = frame_timestamps(path), fps_and_duration(path)
        rates[round(rate, 2)] += 1
        assert rate == pytest.approx((len(times) - 1) / times[-1], rel=0.002) and seconds == pytest.approx(
            len(times) / rate, abs=0.02
        ), path.name
    # the annotations assume 25 for all
    assert len(paths) == 27 and rates.keys() == {25.0, 29.97}, rates
