"""Loaders of actions on broken files, one fault at a time, and on the official files and real clips, where they are; what a recogniser makes of short clips and unknown classes."""
import pickle, shutil
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from faults import refused, spoil
from PIL import Image

from cgsaliency.core.records import Action
from cgsaliency.data.frames import read_frames, stated_pace, video_size, video_times, write_video
from cgsaliency.data.joined import joined
from cgsaliency.data.thumos14 import CLASSES20, LATE, WRONG, load_thumos14, read_actions, read_detection_classes, read_intervals
from cgsaliency.data.ucf101 import CLASSES24, LONGEST, load_ucf101, read_classes, read_corrected, read_split, read_xgtf
from cgsaliency.explain.excitation import excitation
from cgsaliency.explain.frames import bp_r, eb_r
from cgsaliency.explain.gradient import gradient, gradient_in_time
from cgsaliency.explain.recurrent import evidence_in_time
from cgsaliency.models.action import SOURCE as FC7, ActionRecogniser, ToyVGG, clips_of, train_recogniser, video_probabilities
from cgsaliency.models.fit import Recipe
from cgsaliency.models.sequences import Sequences


# UCF101: XML of many hands

HEAD = '<?xml version="1.0"?><viper xmlns="http://lamp.cfar.umd.edu/viper#" xmlns:data="http://lamp.cfar.umd.edu/viperdata#"><config/><data><sourcefile filename="a.avi"><file id="0" name="Information">{}</file>'
FACT = '<attribute name="{}"><data:{} value="{}"/></attribute>'
TAIL = "</sourcefile></data></viper>"


def person(spans: dict[str, tuple], flags: dict[str, str], flag: str = "Diving") -> str:
    boxes = "".join('<data:bbox framespan="{}" x="{}" y="{}" width="{}" height="{}"/>'.format(span, *box) for span, box in spans.items())
    acts = "".join(f'<data:bvalue framespan="{span}" value="{value}"/>' for span, value in flags.items())
    return f'<object framespan="1:9" id="3" name="PERSON"><attribute name="Location">{boxes}</attribute><attribute name="{flag}">{acts}</attribute></object>'


@pytest.fixture
def written(tmp_path):
    def write(*people: str, facts: str = FACT.format("NUMFRAMES", "dvalue", 20), name: str = "v_Diving_g01_c01") -> Path:
        path = tmp_path / f"{name}.xgtf"
        path.write_text(HEAD.format(facts) + "".join(people) + TAIL)
        return path
    return write


BOX = (10, 20, 30, 40)


def slow_tubes(spans: list, flags: list, last: int) -> list[dict[int, tuple]]:
    "Frame by frame, from 1: the first span that covers it gives the box; each unbroken run of flagged frames is a tube."
    tubes, before = [], False
    for frame in range(1, last + 1):
        acts = any(first <= frame <= end and true for (first, end), true in flags)
        if acts and not before: tubes.append({})
        box = next((box for (first, end), box in spans if first <= frame <= end), None)
        if acts and box: tubes[-1][frame - 1] = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        before = acts
    return [tube for tube in tubes if tube]


@pytest.mark.parametrize("seed", range(40))
def test_any_spans_give_the_frames_that_the_slow_way_gives(written, seed):
    chance = Random(seed)
    def span() -> tuple[int, int]:
        first = chance.randrange(0, 24)
        return first, first + chance.randrange(0, 9)
    spans = {f"{first}:{end}": ((first, end), (chance.randrange(200), chance.randrange(100), chance.randrange(1, 60), chance.randrange(1, 60))) for first, end in (span() for _ in range(6))}
    flags = {f"{first}:{end}": ((first, end), chance.random() < 0.7) for first, end in (span() for _ in range(5))}
    flags["1:2"] = ((1, 2), True)
    spans["2:2"] = ((2, 2), BOX)
    path = written(person({key: box for key, (_, box) in spans.items()}, {key: "true" if true else "false" for key, (_, true) in flags.items()}))
    made = [dict(zip(action.frames, action.boxes)) for action in read_xgtf(path).actions]
    assert made == slow_tubes(list(spans.values()), list(flags.values()), 20)


OLD = {"basketball_shooting": "Basketball", "biking": "Biking", "diving": "Diving", "golf_swing": "GolfSwing", "horse_riding": "HorseRiding", "soccer_juggling": "SoccerJuggling", "tennis_swing": "TennisSwing",
       "trampoline_jumping": "TrampolineJumping", "volleyball_spiking": "VolleyballSpiking", "walking": "WalkingWithDog"}


@pytest.mark.parametrize("name", CLASSES24)
def test_a_class_is_found_by_each_of_its_names_and_by_no_other(written, name):
    for flag in [name, f" {name} ", *(old for old, new in OLD.items() if new == name)]:
        path = written(person({"1:5": BOX}, {"1:5": "true"}, flag), person({"1:5": (90, 9, 9, 9)}, {"1:5": "false"}, flag), name=f"v_{name}_g01_c01")
        ((action,), only) = read_xgtf(path).actions, read_xgtf(path)
        assert (action.name, action.boxes[0], only.length, only.width, only.height) == (name, (10, 20, 40, 60), 20, 320, 240)
    others = [*(one for one in CLASSES24 if one != name), *(old for old, new in OLD.items() if new != name)]
    path = written(person({"1:5": BOX}, {"1:5": "true"}, name), *(person({"1:5": (90, 9, 9, 9)}, {"1:5": "true"}, other) for other in others), name=f"v_{name}_g01_c01")
    assert len(read_xgtf(path).actions) == 1


def test_a_clip_without_a_stated_length_ends_with_its_last_box(written):
    tubes = read_xgtf(written(person({"6:10": BOX}, {"1:20": "true"}), facts='<attribute name="NUMFRAMES"/>'))
    assert tubes.length == 10
    assert read_xgtf(written(person({"1:999999999": BOX}, {"1:999999999": "true"}), facts="")).length == LONGEST     # and is no reason to fill the memory


def test_what_else_the_file_says_of_itself_does_no_harm(written):
    facts = '<attribute name="SOURCETYPE"><data:lvalue value="SEQUENCE"/></attribute><attribute name="FRAMERATE"><data:fvalue value="1.0"/></attribute><attribute name="H-FRAME-SIZE"/>'
    tubes = read_xgtf(written(person({"6:10": BOX}, {"1:20": "true"}), facts=facts + FACT.format("NUMFRAMES", "dvalue", 20) + FACT.format("V-FRAME-SIZE", "dvalue", 50)))
    assert (tubes.length, tubes.width, tubes.height, tubes.actions[0].start, tubes.actions[0].boxes[0]) == (20, 320, 50, 0.2, (10, 20, 40, 50))


@pytest.mark.parametrize("value", ["many", "nan", "inf", "1e9", ""])
def test_numbers_that_are_none_are_named(written, value):
    refused(lambda: read_xgtf(written(person({"1:5": BOX}, {"1:5": "true"}), facts=FACT.format("NUMFRAMES", "dvalue", value))), "v_Diving_g01_c01.xgtf, NUMFRAMES: field 'value' says", "expected a number")
    refused(lambda: read_xgtf(written(person({"1:5": (value, 1, 2, 3)}, {"1:5": "true"}))), "object 3: field 'x' says", "expected a number")


def test_a_person_who_acts_where_he_has_no_box_gives_no_tube(written):
    refused(lambda: read_xgtf(written(person({"1:5": BOX}, {"6:9": "true"}))), "v_Diving_g01_c01.xgtf: has no box of a person")
    assert len(read_xgtf(written(person({"1:5": BOX}, {"6:9": "true"}), person({"1:5": BOX}, {"5:9": "true"}))).actions) == 1


def test_overlaps_gaps_and_boxes_beyond_the_border_are_put_right_frame_by_frame(written):
    "Of twelve frames with a box or two one is a gap, two lie outside and five are cut; what is left is counted."
    left, right = (-10, 20, 30, 40), (310, 230, 60, 40)             # x, y, width, height: over the left border, over the lower right corner of 320 × 240
    spans = {"5:8": BOX, "1:6": left, "10:12": right, "9:9": (400, 9, 20, 20), "13:13": (9, 300, 20, 20)}
    (action,) = read_xgtf(written(person(spans, {"1:20": "true"}))).actions
    assert action.frames == (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11) and (action.start, action.stop) == (0, 12 / 25)
    assert Counter(action.boxes) == {(0, 20, 20, 60): 4, (10, 20, 40, 60): 4, (310, 230, 320, 240): 3}      # where two spans overlap, the first in the file holds


@pytest.mark.parametrize("box", [(400, 9, 20, 20), (-50, 9, 50, 20), (9, 240, 20, 20), (9, 9, 0, 20), (9, 9, -5, 20)])
def test_a_clip_whose_boxes_all_lie_outside_or_are_empty_is_named(written, box):
    assert "broken='skip'" in refused(lambda: read_xgtf(written(person({"1:5": box}, {"1:5": "true"}))), "v_Diving_g01_c01.xgtf: has no box of a person").remedy


@pytest.mark.parametrize("span", ["5", "1-5", "a:b", "-1:5", "", "1:5:9", "99999999999:1"])
def test_a_span_of_another_form_is_named(written, span):
    refused(lambda: read_xgtf(written(person({span: BOX}, {"1:5": "true"}))), "v_Diving_g01_c01.xgtf, object 3: field 'framespan' says", "expected '<first>:<last>'", "boxes='corrected'")
    refused(lambda: read_xgtf(written(person({"1:5": BOX}, {span: "true"}))), "v_Diving_g01_c01.xgtf, object 3: field 'framespan' says", "expected '<first>:<last>'")


@pytest.mark.parametrize("kept", [0, 1, 30, 200, 500])
def test_xml_cut_off_is_named_with_what_to_do(written, kept):
    path = written(person({"1:5": BOX}, {"1:5": "true"}))
    path.write_text(path.read_text()[:kept])
    assert "boxes='corrected'" in refused(lambda: read_xgtf(path), "v_Diving_g01_c01.xgtf: is not whole XML").remedy


def test_xml_that_names_other_files_or_grows_is_refused(written):
    path = written(person({"1:5": BOX}, {"1:5": "true"}))
    _, _, body = path.read_text().partition("?>")
    for entities in ['<!ENTITY a SYSTEM "file:///etc/hostname">', '<!ENTITY a "b"><!ENTITY c "&a;&a;&a;">']:
        path.write_text(f"<!DOCTYPE viper [{entities}]>{body.replace('PERSON', '&a;')}")
        refused(lambda: read_xgtf(path), "is not whole XML")
    path.write_bytes(b'<?xml version="1.0" encoding="nowhere"?>' + body.encode())
    refused(lambda: read_xgtf(path), "is not whole XML")


# UCF101: the pickle

def pickled(path: Path, **more) -> Path:
    tube = {"label": 5, "sf": np.uint16(0), "ef": np.uint8(2), "boxes": np.array([[250, 9, 60, 40]] * 2, np.uint8)} | more
    path.write_bytes(pickle.dumps({"Diving/v_Diving_g01_c01": {"label": 5, "numf": np.uint8(9), "annotations": [tube]}}, protocol=3))
    return path


def test_small_numbers_do_not_run_over(tmp_path):
    (tubes,) = read_corrected(pickled(tmp_path / "pyannot.pkl")).values()
    assert tubes.actions == (Action("Diving", 0, 2 / 25, boxes=((250, 9, 310, 49),) * 2, frames=(0, 1)),) and tubes.length == 9


def test_a_pickle_of_python_2_is_read(tmp_path):
    "Its arrays hold their bytes as text of Latin-1."
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nI4\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\xfa\\t<('\ntb"
    path = tmp_path / "pyannot.pkl"
    path.write_bytes(b"(dS'Diving/v_Diving_g01_c01'\n(dS'numf'\nI9\nsS'label'\nI5\nsS'annotations'\n((dS'label'\nI5\nsS'sf'\nI3\nsS'ef'\nI4\nsS'boxes'\n" + array + b"slss.")
    assert read_corrected(path)["Diving/v_Diving_g01_c01"].actions[0].boxes == ((250, 9, 310, 49),)


@pytest.mark.parametrize("given", [b"cos\nsystem\n(S'echo ran'\ntR.", b"cbuiltins\neval\n(S'1/0'\ntR.", b"cnumpy\nload\n(S'x'\ntR.", b"cnumpy.core.multiarray\nfrombuffer\n.", b"\x80\x02\x82\x01.", b"cnumpy\ndtype.fields.__get__\n.", b"", b"\x00", b"(((("])
def test_a_pickle_that_asks_for_anything_else_is_refused(tmp_path, given):
    path = tmp_path / "pyannot.pkl"
    path.write_bytes(given)
    refused(lambda: read_corrected(path), "pyannot.pkl: is no whole pickle of boxes")


@pytest.mark.parametrize("wrong, says", [({"label": 6}, "label 6 is not Diving"), ({"label": 99}, "out of range"), ({"label": "Diving"}, "no tubes as expected"), ({"ef": 3}, "frames 0 to 3 have boxes of shape (2, 4)"), ({"sf": -1, "ef": 1}, "frames -1 to 1"),
                                         ({"ef": 0}, "frames 0 to 0"), ({"boxes": [[1, 2, 3, 4]] * 2}, "'list' object has no attribute"), ({"boxes": np.zeros((2, 3), int)}, "shape (2, 3)")])
def test_tubes_that_contradict_themselves_are_named(tmp_path, wrong, says):
    refused(lambda: read_corrected(pickled(tmp_path / "pyannot.pkl", **wrong)), "clip 'Diving/v_Diving_g01_c01'", says)


# UCF101: lists, clips and boxes together

LISTED = {"classInd.txt": "1 Diving\n2 GolfSwing\n", "trainlist01.txt": "Diving/v_Diving_g05_c01.avi 1\nGolfSwing/v_GolfSwing_g02_c01.avi 2\n", "testlist01.txt": "Diving/v_Diving_g01_c01.avi\nGolfSwing/v_GolfSwing_g01_c01.avi\n"}


@pytest.fixture
def clips(tmp_path) -> Path:
    "Two test clips of 9 frames, with their boxes, in a folder like UCF101's."
    for name in ("Diving", "GolfSwing"):
        write_video(tmp_path / f"UCF-101/{name}/v_{name}_g01_c01.avi", [Image.new("RGB", (64, 48), (20 * k, 80, 90)) for k in range(9)])
        path = tmp_path / f"UCF101_24_Annotations/{name}/v_{name}_g01_c01.xgtf"
        path.parent.mkdir(parents=True)
        path.write_text(HEAD.format(FACT.format("NUMFRAMES", "dvalue", 9)) + person({"1:9": BOX}, {"1:9": "true"}, name) + TAIL)
    (tmp_path / "ucfTrainTestlist").mkdir()
    for file, text in LISTED.items(): (tmp_path / "ucfTrainTestlist" / file).write_text(text)
    return tmp_path


LISTS = {   # the file, what it says instead (None: it is not there), where the error says it is, and what it says
    "no classes": ("classInd.txt", None, "classInd.txt", "is not there"),
    "classes cut off": ("classInd.txt", "1 Diving\n2", "classInd.txt, line 2", "expected '<number> <Class>', found '2'"),
    "classes cut to nothing": ("classInd.txt", "", "classInd.txt", "names no class"),
    "a class lost": ("classInd.txt", "1 Diving\n", "list01.txt, line 2", "class 'GolfSwing' is not in classInd.txt"),
    "no test list": ("testlist01.txt", None, "testlist01.txt", "is not there"),
    "no training list": ("trainlist01.txt", None, "trainlist01.txt", "is not there"),
    "a test list cut off": ("testlist01.txt", "Diving/v_Diving_g01_c01.avi\nGolfSwing/v_GolfSwing_g01", "testlist01.txt, line 2", "expected '<Class>/v_<Class>_gXX_cYY.avi'"),
    "a test list cut to nothing": ("testlist01.txt", "\n", "testlist01.txt", "names no clip"),
    "a training list cut off": ("trainlist01.txt", "Diving/v_Diving_g05_c01.avi 1\nGolfSwing/v_Golf", "trainlist01.txt, line 2", "expected '<Class>/v_<Class>_gXX_cYY.avi'"),
    "a number of another class": ("trainlist01.txt", "Diving/v_Diving_g05_c01.avi 2\n", "trainlist01.txt, line 1", "says class 2 of 'Diving', which is 1 in classInd.txt"),
    "a group on both sides": ("trainlist01.txt", "Diving/v_Diving_g01_c02.avi 1\n", "ucfTrainTestlist", "split 1 has Diving/v_Diving_g01 and 0 more groups in both"),
    "bytes that are no text": ("testlist01.txt", b"Diving/v_Div\xff", "testlist01.txt", "is not UTF-8 text"),
}


@pytest.mark.parametrize("fault", LISTS)
def test_a_list_that_is_missing_or_cut_off_is_named(clips, fault):
    assert [record.id for record in load_ucf101(clips).records] == ["v_Diving_g01_c01", "v_GolfSwing_g01_c01"]
    file, text, where, says = LISTS[fault]
    spoil(clips / "ucfTrainTestlist" / file, text)
    for choice in ({}, {"broken": "skip"}, {"part": "train", "broken": "skip"}):            # a broken list is no broken clip: it is never skipped
        error = refused(lambda: load_ucf101(clips, **choice), says)
        assert error.where.endswith(where) and "lists" in error.remedy


@pytest.mark.parametrize("length", range(len(LISTED["testlist01.txt"]) - 1))
def test_a_list_cut_anywhere_within_a_line_is_named(clips, length):
    "Cut between two lines it cannot be told from a shorter one."
    path, text = clips / "ucfTrainTestlist/testlist01.txt", LISTED["testlist01.txt"]
    path.write_text(text[:length])
    if text[:length] in ("Diving/v_Diving_g01_c01.avi", "Diving/v_Diving_g01_c01.avi\n"): assert len(read_split(clips)["test"]) == 1
    else: refused(lambda: read_split(clips), "testlist01.txt", "Fetch the data set's lists again")


CLIPS = {
    "no video": ("UCF-101/{0}/v_{0}_g01_c01.avi", lambda path: path.unlink(), "there is no such video"),
    "a video cut off": ("UCF-101/{0}/v_{0}_g01_c01.avi", lambda path: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]), "is cut off: it has"),
    "a video without its last byte": ("UCF-101/{0}/v_{0}_g01_c01.avi", lambda path: path.write_bytes(path.read_bytes()[:-1]), "is cut off: it has"),
    "no video but text": ("UCF-101/{0}/v_{0}_g01_c01.avi", lambda path: path.write_text("text " * 99), "cannot be decoded whole"),
    "no boxes": ("UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf", lambda path: path.unlink(), "is not there"),
    "XML cut off": ("UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf", lambda path: path.write_bytes(path.read_bytes()[:300]), "is not whole XML"),
    "boxes outside": ("UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf", lambda path: path.write_text(path.read_text().replace('x="10"', 'x="900"')), "has no box of a person"),
    "a number that is none": ("UCF101_24_Annotations/{0}/v_{0}_g01_c01.xgtf", lambda path: path.write_text(path.read_text().replace('x="10"', 'x="1O"')), "field 'x' says '1O'; expected a number"),
}


@pytest.mark.parametrize("fault", CLIPS)
def test_a_broken_clip_is_refused_or_left_out_and_counted(clips, fault):
    file, damage, says = CLIPS[fault]
    path = clips / file.format("Diving")
    damage(path)
    assert "etch" in refused(lambda: load_ucf101(clips, boxes="official"), path.name, says).remedy
    rest = load_ucf101(clips, boxes="official", broken="skip")
    assert [record.id for record in rest.records] == ["v_GolfSwing_g01_c01"] and rest.footnote.startswith("1 of 2 test records left out: ") and says in rest.footnote and path.name in rest.footnote
    damage(clips / file.format("GolfSwing"))
    refused(lambda: load_ucf101(clips, boxes="official", broken="skip"), "no test record can be used; the first", says)


def test_a_class_that_the_lists_do_not_know_is_named(clips):
    refused(lambda: load_ucf101(clips, classes=["Diving", "Juggling"]), "there is no class 'Juggling'", "Choose of classInd.txt")
    refused(lambda: load_ucf101(clips, classes=["Archery"], boxes="official"), "there is no class 'Archery' with boxes", "CLASSES24")
    (clips / "UCF-101/Diving/v_Diving_g01_c01.avi").rename(clips / "UCF-101/v_Archery_g01_c01.avi")
    path = clips / "UCF101_24_Annotations/Diving/v_Diving_g01_c01.xgtf"
    refused(lambda: read_xgtf(path.rename(path.with_name("v_Archery_g01_c01.xgtf"))), "v_Archery_g01_c01.xgtf: is not named v_<Class>_gXX_cYY.xgtf with one of the 24 classes", "Keep the official names")


# What a recogniser is given

@pytest.fixture(scope="module")
def recogniser() -> ActionRecogniser:
    torch.manual_seed(0)
    return ActionRecogniser(("Diving", "GolfSwing"), features=6, hidden=5).eval()


def test_a_clip_of_fewer_frames_than_a_network_looks_at(clips, recogniser, tmp_path):
    "Nothing is dropped, and what is shown twice is counted."
    (record,) = load_ucf101(clips, boxes="official", classes=["Diving"]).records
    clip = read_frames(record.path, 16)
    assert (clip.total, len(clip.frames)) == (9, 16) and clip.indices == (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8) and max(action.frames[-1] for action in record.actions) == 8
    assert clips_of(9) == [range(9)] and clips_of(15) == [range(15)] and clips_of(16) == [range(16)] and clips_of(17) == [range(16), range(1, 17)]
    values = torch.rand(9, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(video_probabilities(recogniser, values), recogniser.scores(values[None]).softmax(-1)[0].mean(0), atol=1e-6)          # its nine frames, none of them twice
    trained, history = train_recogniser(tmp_path / "recogniser", ("Diving", "GolfSwing"), {"features": 6, "hidden": 5}, [values, values.flip(1)], torch.tensor([0, 1]), Recipe(epochs=1, batch_size=2), progress=False)
    assert len(history) == 1 and video_probabilities(trained, values).shape == (2,)
    film, _ = joined([("Diving", 9), ("GolfSwing", 30)], "two", 24, None, seed=0)
    assert film.source.count(0) == 12 and sorted({frame for source, frame in zip(film.source, film.frame) if source == 0}) == list(range(9))
    assert evidence_in_time(recogniser, values[None], 1).shape == (1, 9, 6)
    refused(lambda: clips_of(0), "video: has no frame", "Leave it out")
    refused(lambda: joined([("Diving", 0), ("GolfSwing", 30)], "two", 16, None, seed=0), "source 0: has 0 frames", "Leave it out")


def test_a_class_that_the_model_does_not_know_is_named(recogniser):
    values, frames = torch.rand(1, 9, 6), torch.rand(2, 3, 112, 112)
    for number in (2, -1):
        for explain in (evidence_in_time, gradient_in_time): refused(lambda: explain(recogniser, values, number), f"class: number {number}; the recogniser knows 2", "Count them from 0")
    network = ToyVGG(2, width=8, units=6).eval()
    for explain in (eb_r, bp_r): refused(lambda: explain(network, FC7, recogniser, frames, {"Juggling": 7}, "features.9"), "class: number 7; the recogniser knows 2", "Count them from 0")
    for explain in (excitation, gradient): refused(lambda: explain(network, frames, {"Juggling": 7}, "features.9"), "class 'Juggling': has number 7; the network knows 2 classes", "Count them from 0")
    test = Sequences(("a", "b"), ("Diving", "Juggling"), (values[0], values[0]), (25.0, 25.0))
    refused(lambda: test.numbers(recogniser.classes), "are of class 'Juggling', which is not among Diving, GolfSwing", "Take the classes of the training videos")


# UCF101: the official files and real clips

@pytest.fixture(scope="module")
def ucf101(shared_data) -> Path: return shared_data / "ucf101"


@pytest.fixture(scope="module")
def corrected(ucf101) -> dict: return read_corrected(ucf101 / "ucf24_annotations/pyannot.pkl")


def test_ucf101s_lists_are_whole_and_share_no_group(ucf101):
    classes = read_classes(ucf101)
    assert len(classes) == 101 and classes[0] == "ApplyEyeMakeup" and classes[100] == "YoYo" and classes[36] == "HandstandPushups" and set(CLASSES24) < set(classes)
    for split, test in (1, 3783), (2, 3734), (3, 3696):
        parts = read_split(ucf101, split)
        groups = {part: {clip.rpartition("_c")[0] for clip in clips} for part, clips in parts.items()}
        assert len(parts["test"]) == test and sum(map(len, parts.values())) == 13320 == len(set().union(*map(set, parts.values())))
        assert not (groups["train"] & groups["val"] or groups["train"] & groups["test"] or groups["val"] & groups["test"])
        assert {clip.split("/")[0] for clip in parts["val"]} == set(classes) == {clip.split("/")[0] for clip in parts["train"]}    # each class can be validated
        assert {clip[-6:-4] for clip in parts["val"]} <= {"05", "10", "15", "20", "25"}


def test_the_corrected_boxes_are_all_there(corrected, ucf101):
    tubes = [action for clip in corrected.values() for action in clip.actions]
    boxes = np.array([box for action in tubes for box in action.boxes])
    assert (len(corrected), len(tubes), len(boxes)) == (3194, 4458, 573_862) and (boxes[:, 2].max(), boxes[:, 3].max(), boxes.min()) == (320, 240, 1)
    assert sum(clip.length for clip in corrected.values()) == 555_157 and sum(len({frame for action in clip.actions for frame in action.frames}) for clip in corrected.values()) == 478_863
    assert all(action.frames == tuple(range(action.frames[0], action.frames[-1] + 1)) and action.name == name.split("/")[0] for name, clip in corrected.items() for action in clip.actions)
    assert sum(action.frames[-1] >= clip.length for clip in corrected.values() for action in clip.actions) == 0
    listed = [clip for clip in read_split(ucf101)["test"] if clip.split("/")[0] in CLASSES24]
    assert (len(listed), sum(clip in corrected for clip in listed)) == (914, 910)


def test_the_real_clips_are_loaded_and_the_others_listed(ucf101):
    found = {part: load_ucf101(ucf101, part, broken="skip") for part in ("train", "test")}
    assert [len(found[part].records) + len(found[part].skipped) for part in found] == [len(read_split(ucf101)[part]) for part in found] and sum(len(part.records) for part in found.values()) == 19
    assert Counter(record.actions[0].name for part in found.values() for record in part.records) == {"Diving": 5, "ApplyEyeMakeup": 5, "BenchPress": 5, "Lunges": 1, "Archery": 1, "BaseballPitch": 1, "Rowing": 1}
    assert [record.id for record in found["train"].records] == ["v_Rowing_g16_c03"]
    refused(lambda: load_ucf101(ucf101, "val", broken="skip"), "no val record can be used")
    assert all((record.width, record.height, record.sentences) == (320, 240, ()) for part in found.values() for record in part.records)
    refused(lambda: load_ucf101(ucf101), "there is no such video")


def test_real_clips_with_corrected_boxes(ucf101, corrected):
    found = load_ucf101(ucf101, boxes="corrected", broken="skip")
    assert [record.id for record in found.records] == [f"v_Diving_g01_c0{k}" for k in range(1, 6)] and len(found.skipped) == 909
    for record in found.records:
        times, clip = video_times(record.path), corrected[f"Diving/{record.id}"]
        assert len(times) == clip.length and [(action.name, action.frames, action.boxes) for action in record.actions] == [(action.name, action.frames, action.boxes) for action in clip.actions]
        for action in record.actions:
            assert action.start == pytest.approx(times[action.frames[0]]) and action.stop == pytest.approx(times[action.frames[-1]] + times[1])      # seconds of this file, which does not run at 25
            assert action.stop != pytest.approx((action.frames[-1] + 1) / 25)
    refused(lambda: load_ucf101(ucf101, boxes="official", broken="skip", classes=["Diving"]), "no test record can be used", "Diving_g01_c01.xgtf: is not there")


def test_scaled_boxes_lie_inside_the_clips_of_another_size(ucf101, corrected):
    paths = sorted((ucf101 / "ucf24_demo_mp4").glob("*.mp4"))
    assert len(paths) == 8
    for path in paths:
        clip = corrected[f"{path.stem.split('_')[1]}/{path.stem}"]
        (width, height), frames = video_size(path), len(video_times(path))
        assert (width, height) == (340, 256) and frames == clip.length, (path.name, frames, clip.length)
        for action in clip.actions:
            boxes = np.array(action.boxes) * ([width / clip.width, height / clip.height] * 2)
            assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all() and action.frames[-1] < frames


def test_a_container_says_how_fast_and_how_long_its_real_clip_runs(shared_data):
    paths = [*(shared_data / "ucf101").rglob("*.avi"), *(shared_data / "ucf101").rglob("*.mp4")]
    rates = Counter()
    for path in paths:
        times, (rate, seconds) = video_times(path), stated_pace(path)
        rates[round(rate, 2)] += 1
        assert rate == pytest.approx((len(times) - 1) / times[-1], rel=0.002) and seconds == pytest.approx(len(times) / rate, abs=0.02), path.name
    assert len(paths) == 27 and rates.keys() == {25.0, 29.97}, rates                           # described as 25 throughout


# THUMOS14

@pytest.fixture(scope="module")
def thumos14(shared_data) -> Path: return shared_data / "thumos14"


def test_thumos14s_annotations_are_all_there(thumos14):
    for part, videos, sure, ambiguous in ("test", 213, 3358, 99), ("val", 200, 3007, 89):
        actions = read_actions(thumos14, part)
        counted = Counter(action.ambiguous for own in actions.values() for action in own)
        assert (len(actions), counted[False], counted[True]) == (videos, sure, ambiguous)
        assert {action.name for own in actions.values() for action in own if not action.ambiguous} == set(CLASSES20)
        order = [*CLASSES20, "Ambiguous"]
        assert all([order.index(action.name) for action in own] == sorted(order.index(action.name) for action in own) for own in actions.values())
    usable = {name: own for name, own in read_actions(thumos14).items() if not all(action.ambiguous for action in own)}
    assert len(usable) == 212 and sum(map(len, usable.values())) == 3454                       # as R-C3D counts them
    assert set(WRONG) <= set(usable) and {name for name in LATE if "test" in name} <= set(usable) and {name for name in LATE if "validation" in name} <= set(read_actions(thumos14, "val"))


def test_the_order_of_the_files_is_kept(thumos14):
    for part in ("val", "test"):
        actions, folder = read_actions(thumos14, part), thumos14 / "annotation" / f"annotation_{part}"
        for name in (*CLASSES20, "Ambiguous"):
            listed = read_intervals(folder / f"{name}_{part}.txt")
            made = {video: [(action.start, action.stop) for action in own if action.name == name] for video, own in actions.items()}
            assert all(made[video] == [(start, stop) for other, start, stop in listed if other == video] for video in made)
        assert any([action.start for action in own] != sorted(action.start for action in own) for own in actions.values())       # else sorting would not show


def test_who_dives_from_a_cliff_dives(thumos14):
    for part in ("val", "test"):
        for own in read_actions(thumos14, part).values():
            dives = {name: {(action.start, action.stop) for action in own if action.name == name} for name in ("CliffDiving", "Diving")}
            assert dives["CliffDiving"] <= dives["Diving"]


def test_thumos14s_list_of_classes_is_one_of_two(thumos14):
    numbers = read_detection_classes(thumos14 / "annotation/annotation_test/detclasslist.txt")
    assert list(numbers) == list(CLASSES20) and list(numbers.values()) == list(range(1, 21))    # this copy counts from 1; the evaluation kit's has the numbers of UCF101


def test_thumos14_numbers_are_those_of_ucf101(ucf101):
    classes = read_classes(ucf101)
    assert all(classes[number - 1] == name for name, number in CLASSES20.items())


def test_thumos14s_records_without_videos(thumos14):
    test, val = load_thumos14(thumos14, videos=False), load_thumos14(thumos14, "val", videos=False)
    assert (len(test.records), len(val.records), val.skipped) == (210, 200, ()) and test.footnote.startswith("3 of 213 test records left out: ")
    assert {name for name, _ in test.skipped} == {"video_test_0000270", "video_test_0001292", "video_test_0001496"} and all(name in reason for name, reason in test.skipped)
    assert [record.id for record in test.records] == sorted(record.id for record in test.records) and all(record.path.name == f"{record.id}.mp4" for record in test.records)
    refused(lambda: load_thumos14(thumos14), "video_test_0000004.mp4: there is no such video")
    refused(lambda: load_thumos14(thumos14, "train"), "has no temporal annotations of part 'train'")


@pytest.fixture
def drawn(tmp_path) -> Path:
    "One video of 2 s with one instance, and all files of classes."
    folder = tmp_path / "annotation/annotation_val"
    folder.mkdir(parents=True)
    for name in (*CLASSES20, "Ambiguous"): (folder / f"{name}_val.txt").write_text("")
    (folder / "GolfSwing_val.txt").write_text("video_validation_0000051  0.2 1.9\n")
    write_video(tmp_path / "videos/video_validation_0000051.mp4", [Image.new("RGB", (64, 36), (9 * k, 80, 90)) for k in range(20)], rate=10)
    return tmp_path


INTERVALS = {   # the file, what it says instead (None: it is not there), where the error says it is, and what it says
    "no file of a class": ("Shotput_val.txt", None, "Shotput_val.txt", "is not there"),
    "no ambiguous ones": ("Ambiguous_val.txt", None, "Ambiguous_val.txt", "is not there"),
    "cut off in the name": ("GolfSwing_val.txt", "video_validation_0000051  0.2 1.9\nvideo_valid", "GolfSwing_val.txt, line 2", "expected '<video>  <start> <stop>', found 'video_valid'"),
    "cut off in a number": ("GolfSwing_val.txt", "video_validation_0000051  0.2 1.", "GolfSwing_val.txt, line 1", "expected '<video>  <start> <stop>'"),
    "cut off before the stop": ("GolfSwing_val.txt", "video_validation_0000051  0.2", "GolfSwing_val.txt, line 1", "expected '<video>  <start> <stop>'"),
    "the wrong way round": ("GolfSwing_val.txt", "video_validation_0000051  1.9 0.2\n", "GolfSwing_val.txt, line 1", "begins at 1.9 s and ends at 0.2 s"),
    "of no length": ("GolfSwing_val.txt", "video_validation_0000051  1.9 1.9\n", "GolfSwing_val.txt, line 1", "begins at 1.9 s and ends at 1.9 s"),
    "no number": ("GolfSwing_val.txt", "video_validation_0000051  0.2 nan\n", "GolfSwing_val.txt, line 1", "expected '<video>  <start> <stop>'"),
    "another part's": ("GolfSwing_val.txt", "video_test_0000051  0.2 1.9\n", "GolfSwing_val.txt", "speaks of 'video_test_0000051', which is no video of part 'val'"),
    "bytes that are no text": ("GolfSwing_val.txt", b"video\xff", "GolfSwing_val.txt", "is not UTF-8 text"),
    "a class list cut off": ("detclasslist.txt", "33 GolfSwing\n4", "detclasslist.txt, line 2", "expected '<number> <Class>', found '4'"),
    "a class list cut to nothing": ("detclasslist.txt", "", "detclasslist.txt", "names no class"),
    "a class without its file": ("detclasslist.txt", "33 GolfSwing\n34 Juggling\n", "Juggling_val.txt", "is not there"),
}


@pytest.mark.parametrize("fault", INTERVALS)
def test_annotations_that_are_missing_or_cut_off_are_named(drawn, fault):
    file, text, where, says = INTERVALS[fault]
    spoil(drawn / "annotation/annotation_val" / file, text)
    for choice in ({}, {"broken": "skip"}, {"videos": False}):
        error = refused(lambda: load_thumos14(drawn, "val", **choice), says)
        assert error.where.endswith(where) and error.remedy.startswith("Fetch ")


def test_an_interval_past_the_end_is_cut_and_one_behind_it_is_an_error(drawn):
    file = drawn / "annotation/annotation_val/GolfSwing_val.txt"
    for start, stop, made in (0.2, 1.9, (0.2, 1.9)), (0.2, 2.4, (0.2, 2.0)), (1.9, 9.9, (1.9, 2.0)):
        file.write_text(f"video_validation_0000051  {start} {stop}\n")
        assert load_thumos14(drawn, "val").records[0].actions == (Action("GolfSwing", *made),)
    file.write_text("video_validation_0000051  2.0 2.4\n")
    refused(lambda: load_thumos14(drawn, "val"), "video_validation_0000051.mp4: runs 2.0 s, but GolfSwing is annotated from 2.0 s")
    refused(lambda: load_thumos14(drawn, "val", broken="skip"), "no val record can be used", "runs 2.0 s")
    shutil.copy(drawn / "videos/video_validation_0000051.mp4", drawn / "videos/video_validation_0000052.mp4")
    file.write_text("video_validation_0000051  2.0 2.4\nvideo_validation_0000052  0.5 2.4\n")
    assert refused(lambda: load_thumos14(drawn, "val"), "GolfSwing is annotated from 2.0 s").remedy == "The video is cut off or another one: fetch it again"
    rest = load_thumos14(drawn, "val", broken="skip")                                       # the one is counted and the other cut
    assert [(record.id, record.actions[0].stop) for record in rest.records] == [("video_validation_0000052", 2.0)] and rest.footnote.startswith("1 of 2 val records left out: ") and "video_validation_0000051.mp4: runs 2.0 s" in rest.footnote
    file.write_text("video_validation_0000051  2.0 2.4\n")
    assert load_thumos14(drawn, "val", videos=False).records[0].actions[0].stop == 2.4


def test_a_published_late_interval_is_dropped_but_not_the_video_without_any_left(drawn):
    (drawn / "videos/video_validation_0000051.mp4").rename(drawn / "videos/video_validation_0000364.mp4")
    file = drawn / "annotation/annotation_val/GolfSwing_val.txt"
    file.write_text("video_validation_0000364  0.2 1.9\nvideo_validation_0000364  2.1 2.4\n")
    assert load_thumos14(drawn, "val").records[0].actions == (Action("GolfSwing", 0.2, 1.9),)
    file.write_text("video_validation_0000364  2.1 2.4\n")
    refused(lambda: load_thumos14(drawn, "val"), "video_validation_0000364.mp4: runs 2.0 s, and all it is annotated with begins after that")


@pytest.mark.parametrize("fault, says", [(lambda path: path.unlink(), "there is no such video"), (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is cut off"), (lambda path: path.write_text("text " * 99), "cannot be decoded whole")])
def test_a_broken_video_is_refused_or_left_out_and_listed(drawn, fault, says):
    path = drawn / "videos/video_validation_0000051.mp4"
    (drawn / "annotation/annotation_val/Diving_val.txt").write_text("video_validation_0000052  0.5 1.0\n")
    shutil.copy(path, path.with_name("video_validation_0000052.mp4"))
    fault(path)
    refused(lambda: load_thumos14(drawn, "val"), says, path.name)
    rest = load_thumos14(drawn, "val", broken="skip")
    assert [record.id for record in rest.records] == ["video_validation_0000052"] and [name for name, _ in rest.skipped] == ["video_validation_0000051"] and says in rest.footnote
