"""Golden digests of what is drawn: files of every writer of drawn data, and results of every function that draws.

`python tests/synth/test_golden_bytes.py --write` writes the digests to tests/golden/drawn_bytes.json; `--all` compares
all of them, including videos of scale toybox, which take too long for the tests.

Names of the package are used in the imports and in the first section only; names in the file of digests are plain words
that do not change. The digest of a dataclass is that of its values in the order of its fields: new names change none.
"""

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from cgsaliency.core.geometry import ImageCrop
from cgsaliency.data.concat_videos import gather_frame_features, make_concat_videos
from cgsaliency.data.media import write_video
from cgsaliency.data.msvd import load_msvd
from cgsaliency.evaluate.faithfulness import rank_regions
from cgsaliency.explain.baselines import random_map
from cgsaliency.features.proposals import sample_boxes
from cgsaliency.reproduce.rehearsal import write_random_weights, write_rehearsal_data
from cgsaliency.synth.action_videos import (
    motion_extent,
    render_video,
    sample_action_clip,
    sample_placement,
    sample_untrimmed_video,
)
from cgsaliency.synth.actors import (
    MOTIONS,
    Placement,
    draw_action_frame,
    gait_keyframes,
    interpolate_pose,
    sample_appearance,
)
from cgsaliency.synth.image_captions import sample_image_captions
from cgsaliency.synth.scenes import (
    BACKGROUNDS,
    FIGURE_SHAPES,
    INSTRUMENTS,
    PERSON_TYPES,
    Bias,
    Scene,
    draw_background,
    draw_figure,
    draw_instrument,
    draw_object,
    draw_person,
    render,
    sample_scene,
)
from cgsaliency.synth.videos import (
    MOTION_PATTERNS,
    MOTIONS_OF_KINDS,
    animate_actor,
    sample_spans,
    sample_video,
    sample_video_captions,
    trajectory,
)
from cgsaliency.synth.write_coco import coco_ids, coco_instances, plain_caption, write_coco
from cgsaliency.synth.write_flickr30k import annotation_xml, entities_line, write_flickr30k
from cgsaliency.synth.write_msvd_msrvtt import add_phrases, write_msrvtt, write_msvd
from cgsaliency.synth.write_ucf101_thumos14 import write_thumos14, write_ucf101, xgtf_xml
from cgsaliency.toy import color_models
from cgsaliency.toy.color_models import ColorClassifier, ColorImageCaptioner, train_on_color_scenes

GOLDEN = Path(__file__).parents[1] / "golden" / "drawn_bytes.json"


# Names of the package
# Arguments are passed by position; attributes and names in modules that are read below are defined here.
scenes_of_video = lambda video: video.frames  # noqa: E731
captions_of_sample = lambda sample: sample.captions  # noqa: E731
maps_of_explanation = lambda explanation: explanation.saliency  # noqa: E731
descriptor_values = lambda descriptors: descriptors.features  # noqa: E731
color_images_described = lambda images: descriptor_values(ColorImageCaptioner().encode_images(images))  # noqa: E731
COLOR_SCENES = color_models.color_scenes
COLOR_IMAGE = color_models.ball_on_grass
COLOR_VIDEO = color_models.rolling_ball
COLOR_PIXELS = color_models.cells_to_image
COLOR_FITS = color_models.reference_color_scores
COLOR_CELLS = color_models.color_descriptors


def color_answers(values: torch.Tensor, token_ids: torch.Tensor) -> list[torch.Tensor]:
    "Return the outputs of the color captioner for descriptors, and ids and positions of words."
    captioner = ColorImageCaptioner()
    known = captioner.encode_words(["a", "big", "red", "ball", "on", "grass"])
    return [captioner.log_probs(values, token_ids), captioner.attention(values, token_ids), *known]


def read_frames_of_clips(video: Any) -> torch.Tensor:
    "Return the clip and the frame of each frame of a video of two clips."
    return gather_frame_features(lambda clip, frames: torch.tensor([[clip, frame] for frame in frames]), video)


# Neutral name: what writes a data set into the folder, of which each file is compared.
WRITERS: dict[str, Callable[[Path], Any]] = {
    "flickr30k layout, seed 0": lambda root: write_flickr30k(root, 6, 3, 3, 0),
    "flickr30k layout, seed 7, center bias 0 and context bias 0": lambda root: write_flickr30k(
        root, 5, 2, 2, 7, Bias(0.0, 0.0)
    ),
    "coco layout, seed 0": lambda root: write_coco(root, 8, 2, 3, 0),
    "coco layout, seed 7, center bias 1 and context bias 1": lambda root: write_coco(root, 4, 1, 2, 7, Bias(1.0, 1.0)),
    "msvd layout, seed 0": lambda root: write_msvd(root, 6, 2, 4, 0),
    "msvd layout, seed 7": lambda root: write_msvd(root, 2, 1, 1, 7),
    "msr-vtt layout, seed 0": lambda root: write_msrvtt(root, 6, 2, 4, 0),
    "msr-vtt layout, seed 7": lambda root: write_msrvtt(root, 2, 1, 1, 7),
    "ucf101 layout, seed 0": lambda root: write_ucf101(root, 2, 1, 2, 0),
    "ucf101 layout, seed 7": lambda root: write_ucf101(root, 1, 1, 1, 7),
    "thumos14 layout, seed 0": lambda root: write_thumos14(root, 3, 6, 0),
    "thumos14 layout, seed 7": lambda root: write_thumos14(root, 1, 1, 7),
    "rehearsal data and weights, seed 0": lambda root: write_rehearsal(root),
    "random weights of squeezenet1_1, seed 5": lambda root: write_random_weights(
        "squeezenet1_1", root / "weights.safetensors", 5
    ),
    "videos of other rates and qualities": lambda root: write_videos(root),
}

# Neutral name: what writes a data set of scale toybox, of which each kind of file has one digest.
SUMMED: dict[str, Callable[[Path], Any]] = {
    "toybox scale, flickr30k": lambda root: write_flickr30k(root, 4000, 200, 1000, 0),
    "toybox scale, coco": lambda root: write_coco(root, 3000, 200, 1000, 0),
}

# As SUMMED, but compared with `--all` alone.
LONG: dict[str, Callable[[Path], Any]] = {
    "random weights of vgg16, seed 0": lambda root: write_random_weights("vgg16", root / "weights.safetensors", 0),
    "toybox scale, msvd": lambda root: write_msvd(root, 800, 60, 300, 0),
    "toybox scale, msr-vtt": lambda root: write_msrvtt(root, 800, 60, 300, 0),
    "toybox scale, ucf101": lambda root: write_ucf101(root, 18, 7, 6, 0),
    "toybox scale, thumos14": lambda root: write_thumos14(root, 60, 100, 0),
}


def write_rehearsal(root: Path) -> None:
    "Write all data sets and the weights of Inception; those of VGG, which are large, exist already."
    weights_file = root / "given/weights/vgg16_imagenet.safetensors"
    weights_file.parent.mkdir(parents=True)
    weights_file.write_text("given\n")
    write_rehearsal_data(root / "data", root / "given", 0)


def write_videos(root: Path) -> None:
    "Write one scene as videos of other rates, qualities and time stamps."
    scenes = scenes_of_video(sample_video(0, 1, 2))[:6]
    frames = [render(scene) for scene in scenes]
    write_video(root / "a.mp4", frames, 30, 8)
    write_video(root / "b.avi", frames, 12, 1)
    write_video(root / "c.mp4", frames, 25, 3, [0, 1, 3, 4, 8, 9])


# Drawing functions

DRAWINGS: dict[str, Callable[[], Any]] = {}


def drawing(name: str) -> Callable:
    "Register a function whose results are compared under the neutral name."

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        DRAWINGS[name] = function
        return function

    return register


def blank(width: int = 160, height: int = 120, place: str = "park", ground: int = 66) -> Scene:
    "Return an empty scene."
    return Scene(width, height, place, ground)


@drawing("image scenes, seed 0")
def _() -> Any:
    return [sample_scene(0, index) for index in range(60)]


@drawing("image scenes, seed 9, each bias 0 and 1")
def _() -> Any:
    biases = [Bias(center, context) for center in (0.0, 1.0) for context in (0.0, 1.0)]
    return [sample_scene(9, index, bias) for index in range(10) for bias in biases]


@drawing("pixels of image scenes, seed 0")
def _() -> Any:
    return [render(sample_scene(0, index)) for index in range(60)]


@drawing("captions of images, seed 0")
def _() -> Any:
    return [sample_image_captions(sample_scene(0, index), Random(f"golden {index}"), 9) for index in range(60)]


@drawing("annotations of images, seed 0")
def _() -> Any:
    results = []
    for index in range(20):
        scene, chains = sample_scene(0, index), {}
        captions = sample_image_captions(scene, Random(f"golden {index}"))
        lines = [entities_line(caption, chains, 50) for caption in captions]
        results.append(
            (lines, annotation_xml(scene, "a & b.jpg", chains), [plain_caption(caption) for caption in captions])
        )
        results.append(coco_instances(scene, index, 900))
    return results


@drawing("ids of coco layout")
def _() -> Any:
    return [coco_ids(split, k) for split in ("train", "restval", "val", "test") for k in (0, 1, 2, 1000, 249_994)]


@drawing("every figure")
def _() -> Any:
    results = []
    for kind in FIGURE_SHAPES:
        for mirrored in (False, True):
            scene = blank()
            box = draw_figure(scene, kind, (200, 90, 40), (30.5, 20.25, 81.3, 60.7), mirrored)
            results.append((kind, box, scene, render(scene)))
    return results


@drawing("every object in random colors")
def _() -> Any:
    results = []
    for kind in FIGURE_SHAPES:
        for number, mirrored in enumerate((None, False, True)):
            scene = blank()
            scene_object = draw_object(
                scene, Random(f"object {kind} {number}"), kind, (120.5, 80.0, 60.0, 50.0), mirrored
            )
            results.append((scene_object, scene))
    return results


@drawing("every person and instrument")
def _() -> Any:
    results = []
    for kind in PERSON_TYPES:
        for pose in ("plain", "holding", "raised"):
            for number in range(6):
                scene, rng = blank(), Random(f"person {kind} {pose} {number}")
                objects = draw_person(scene, rng, kind, 70.5, 110.0, 84.0, pose)
                objects.append(draw_instrument(scene, rng, objects[0], 70.5, 110.0, 84.0, number / 2))
                results.append((objects, scene, render(scene)))
    return [results, list(INSTRUMENTS)]


@drawing("every background")
def _() -> Any:
    results = []
    for place in BACKGROUNDS:
        for number in range(6):
            scene = blank(150, 110, place, 60)
            results.append((draw_background(scene, Random(f"background {place} {number}")), scene, render(scene)))
    return results


@drawing("video scripts of one event, seed 0")
def _() -> Any:
    return [sample_video(0, index, 1) for index in range(40)]


@drawing("video scripts of two events, seed 0")
def _() -> Any:
    return [sample_video(0, index, 2) for index in range(40)]


@drawing("video scripts, seed 9, each bias 0 and 1")
def _() -> Any:
    biases = [Bias(center, context) for center in (0.0, 1.0) for context in (0.0, 1.0)]
    return [sample_video(9, index, 1 + index % 2, bias) for index in range(6) for bias in biases]


@drawing("pixels of video scripts, seed 0")
def _() -> Any:
    videos = [sample_video(0, index, events) for index in range(12) for events in (1, 2)]
    return [render(scene) for video in videos for scene in scenes_of_video(video)[::6]]


@drawing("captions of videos, seed 0")
def _() -> Any:
    videos = [sample_video(0, index, events) for index in range(60) for events in (1, 2)]
    return [sample_video_captions(video, Random(f"golden {k}"), 12) for k, video in enumerate(videos)]


@drawing("every motion of every actor")
def _() -> Any:
    results = []
    for kind, names in MOTIONS_OF_KINDS.items():
        for name in sorted(set(names)):
            for number, other in enumerate((None, 20.0, 120.0)):
                scenes = [blank() for _ in range(14)]
                rng = Random(f"motion {kind} {name} {number}")
                each = animate_actor(scenes, rng, kind, MOTION_PATTERNS[name], Bias(number / 2, 1.0), other)
                results.append((each, scenes, render(scenes[-1])))
    return results


@drawing("trajectories and spans")
def _() -> Any:
    paths = [
        trajectory(pattern, 30, 40.0, start, forward)
        for pattern in MOTION_PATTERNS.values()
        for start in (0.0, 13.5, 40.0)
        for forward in (True, False)
    ]
    spans = [
        sample_spans(Random(f"spans {k}"), total, events, cut)
        for k in range(20)
        for total in (28, 44)
        for events, cut in ((1, False), (2, False), (2, True))
    ]
    return paths, spans


@drawing("poses of every action class")
def _() -> Any:
    poses = {name: [interpolate_pose(motion, k / 40) for k in range(41)] for name, motion in MOTIONS.items()}
    extents = {name: motion_extent(name) for name in MOTIONS}
    gaits = [gait_keyframes(0.1, 0.9, 0.2, 1.7, 7, gait) for gait in ("run", "walk", "carry")]
    return poses, extents, gaits, MOTIONS


@drawing("actors of every action class")
def _() -> Any:
    results = []
    for name, motion in MOTIONS.items():
        for k in range(9):
            scene, look = blank(), sample_appearance(Random(f"look {name} {k}"))
            box = draw_action_frame(scene, motion, k / 8, look, Placement(60.5, 104.0, 61.0, k % 2 == 0))
            results.append((box, look, scene, render(scene)))
    return results


@drawing("placements of action classes")
def _() -> Any:
    pairs = [[name] for name in MOTIONS] + [list(pair) for pair in pairwise(MOTIONS)]
    return [
        sample_placement(Random(f"placement {k}"), names, 60, Bias(bias, 0.5))
        for k, names in enumerate(pairs)
        for bias in (0.0, 0.3, 1.0)
    ]


def sample_action_clips() -> list[Any]:
    "Return scripts of clips of every action class."
    return [sample_action_clip(0, name, group, clip) for name in MOTIONS for group in (1, 2, 3) for clip in (1, 2)]


@drawing("action clip scripts, seed 0")
def _() -> Any:
    return sample_action_clips()


@drawing("action clip scripts, seed 9, each bias 0 and 1")
def _() -> Any:
    biases = [Bias(center, context) for center in (0.0, 1.0) for context in (0.0, 1.0)]
    return [sample_action_clip(9, name, 4, 1, bias) for name in MOTIONS for bias in biases]


@drawing("boxes of action clips as xml, seed 0")
def _() -> Any:
    return [xgtf_xml(clip, "a & b.avi") for clip in sample_action_clips()]


@drawing("pixels of action clips, seed 0")
def _() -> Any:
    clips = [sample_action_clip(0, name, 1, 1) for name in MOTIONS]
    return [image for clip in clips for image in render_video(scenes_of_video(clip))[::5]]


@drawing("untrimmed video scripts, seed 0")
def _() -> Any:
    return [sample_untrimmed_video(0, index) for index in range(12)]


@drawing("untrimmed video scripts, seed 9, bias 0")
def _() -> Any:
    return [sample_untrimmed_video(9, index, Bias(0.0, 0.0)) for index in range(8)]


@drawing("pixels of untrimmed videos, seed 0")
def _() -> Any:
    videos = [sample_untrimmed_video(0, index) for index in range(8)]
    return [image for video in videos for image in render_video(scenes_of_video(video)[::40])]


@drawing("phrases that are read back, msvd layout")
def _() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "msvd"
        write_msvd(root, 2, 1, 2, 3)
        samples = add_phrases(load_msvd(root, "test").samples, root / "phrases.json")
        return [captions_of_sample(sample) for sample in samples]


@drawing("color scenes")
def _() -> Any:
    images, captions = COLOR_SCENES(40, 0)
    cells = descriptor_values(COLOR_CELLS(COLOR_VIDEO()))
    seen = color_images_described([COLOR_PIXELS(COLOR_IMAGE())])
    pixels = [COLOR_PIXELS(image) for image in images[:8]]
    return images, captions, COLOR_SCENES(5, 7), COLOR_IMAGE(), COLOR_VIDEO(), cells, rounded(seen), pixels


@drawing("color models")
def _() -> Any:
    classifier = ColorClassifier()
    image, token_ids = COLOR_IMAGE().reshape(1, -1, 3), torch.tensor([[0, 1, 2, 3, 4, 5]])
    scores = [*color_answers(image, token_ids), COLOR_FITS(image)]
    weights = list(classifier.state_dict().values())
    scores.append(classifier(COLOR_IMAGE().permute(2, 0, 1)[None]).detach())
    return [rounded(values) for values in (*scores, *weights)]


@drawing("a model trained on color scenes")
def _() -> Any:
    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        regions, token_ids = batch
        return nn.functional.cross_entropy(model(regions.mean(1)), token_ids[:, 0, 1])

    model = train_on_color_scenes(lambda vocabulary: nn.Linear(7, len(vocabulary)), loss, 0.05, 6, 3)
    return [rounded(parameter.detach()) for parameter in model.parameters()]


@drawing("videos of two clips")
def _() -> Any:
    sources = [(name, 9 + 4 * k) for k in range(5) for name in ("run", "jump", "dive")]
    layouts = [(layout, None, seed) for layout in ("rand+GT", "GT+rand") for seed in (0, 7)]
    layouts += [("rand+GT+rand", length, 7) for length in (1, 5, 14)]
    videos = [
        video for layout, length, seed in layouts for video in make_concat_videos(sources, layout, 16, length, seed)
    ]
    return videos, [read_frames_of_clips(video) for video in videos]


@drawing("random maps and orders")
def _() -> Any:
    view = ImageCrop(200, 150, 0, 0, 200, 150, 224, 224)
    maps = [maps_of_explanation(random_map(("a dog", "grass"), view, "1000/2", seed, 12)) for seed in (0, 7)]
    orders = [rank_regions(torch.tensor([0.0, 2.0] * 18), "1000/2/3", seed) for seed in (0, 7)]
    return maps, orders


@drawing("random choices of boxes")
def _() -> Any:
    boxes, mask = torch.arange(2 * 9 * 4.0).reshape(2, 9, 4), torch.arange(18).reshape(2, 9) % 4 > 0
    return [sample_boxes(boxes, mask, number, torch.Generator().manual_seed(number)) for number in (3, 8)]


# Digests


def rounded(values: torch.Tensor) -> torch.Tensor:
    "Round to 4 decimals, because machines compute different last digits."
    return values.double().mul(10_000).round().long()


def plain(value: Any) -> list:
    "Return a value as a list for JSON, without names of classes and fields. Raises TypeError for other types."
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, torch.Tensor):
        return [list(value.shape), value.tolist()]
    if isinstance(value, Image.Image):
        return [value.mode, list(value.size), hashlib.sha256(value.tobytes()).hexdigest()]
    raise TypeError(f"{type(value)} has no digest")


def value_digest(value: Any) -> str:
    "Return the SHA-256 of the value."
    return hashlib.sha256(json.dumps(value, default=plain).encode()).hexdigest()


def file_digests(root: Path) -> dict[str, str]:
    "Return the SHA-256 of each file by its path below the folder, sorted."
    digests = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digests[path.relative_to(root).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def kind_digests(root: Path) -> dict[str, str]:
    "Return one SHA-256 for each type of file, over the paths and digests of its files."
    kinds: dict[str, list] = {}
    for path, digest in file_digests(root).items():
        kinds.setdefault(f"*{Path(path).suffix}", []).append((path, digest))
    return {kind: value_digest(files) for kind, files in sorted(kinds.items())}


def written(name: str) -> dict[str, str]:
    "Write the data set of that name and return its digests."
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "drawn"
        if name in WRITERS:
            WRITERS[name](root)
            return file_digests(root)
        (SUMMED | LONG)[name](root)
        return kind_digests(root)


def environment() -> dict[str, str]:
    "Return what else the bytes of encoded files and of random weights depend on."
    import av

    vector = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return {
        "machine": platform.machine() + (" with AVX2" if vector else ""),
        "pillow": Image.__version__,
        "av": av.__version__,
        "torch": torch.__version__.split("+")[0],
    }


# Tests

ENCODED = (
    ".jpg",
    ".avi",
    ".mp4",
    ".safetensors",
)  # their bytes depend on encoders or on the generator of random weights


def golden() -> dict[str, Any]:
    "Return the golden digests."
    return json.loads(GOLDEN.read_text())


def differences(digests: dict[str, str], golden_digests: dict[str, str], encoded: bool | None = None) -> dict[str, str]:
    "Return which files differ, are new or missing: of encoded files (True), of others (False), or of all (None)."
    states = {}
    for path in sorted(digests.keys() | golden_digests.keys()):
        if digests.get(path) != golden_digests.get(path) and encoded in (None, path.endswith(ENCODED)):
            states[path] = (
                "differs"
                if path in digests and path in golden_digests
                else "is new"
                if path in digests
                else "is missing"
            )
    return states


@pytest.fixture(scope="module", params=[*WRITERS, *SUMMED])
def files(request) -> tuple[dict[str, str], dict[str, str]]:
    "Return the digests of the written files and the golden digests."
    return written(request.param), golden()["files"][request.param]


@pytest.mark.slow
def test_text_files_are_the_same(files):
    digests, golden_digests = files
    assert golden_digests and differences(digests, golden_digests, encoded=False) == {}


@pytest.mark.slow
def test_encoded_files_are_the_same(files):
    "Pixels before they are encoded are compared below, on every machine."
    digests, golden_digests = files
    current, recorded = environment(), golden()["made with"]
    if current["machine"] != recorded["machine"]:
        pytest.skip(f"encoders may round otherwise on {current['machine']} than on {recorded['machine']}")
    assert differences(digests, golden_digests, encoded=True) == {}, (
        f"encoded with {current}; the digests were made with {recorded}"
    )


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_the_same(name):
    assert value_digest(DRAWINGS[name]()) == golden()["drawings"][name]


def test_every_digest_is_compared():
    golden_digests = golden()
    assert (
        golden_digests["files"].keys() == (WRITERS | SUMMED | LONG).keys()
        and golden_digests["drawings"].keys() == DRAWINGS.keys()
    )


def test_another_seed_writes_other_files(tmp_path):
    write_flickr30k(tmp_path / "other", 6, 3, 3, 1)
    states = differences(file_digests(tmp_path / "other"), golden()["files"]["flickr30k layout, seed 0"])
    assert len([path for path in states if path.endswith((".jpg", ".xml"))]) == 24 and set(states.values()) == {
        "differs"
    }


# Command


def compute(names: Iterable[str]) -> dict[str, Any]:
    "Return the content of the digests' file, with the data sets of these names."
    drawings = {name: value_digest(function()) for name, function in DRAWINGS.items()}
    return {"made with": environment(), "files": {name: written(name) for name in names}, "drawings": drawings}


def main(arguments: list[str]) -> int:
    "Write the digests, or compare all of them; return the exit code."
    if arguments not in (["--write"], ["--all"]):
        print(__doc__, file=sys.stderr)
        return 2
    computed = compute(WRITERS | SUMMED | LONG)
    if arguments == ["--write"]:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(computed, indent=1) + "\n")
        return 0
    golden_digests, wrong = golden(), 0
    pairs = {name: (digests, golden_digests["files"].get(name, {})) for name, digests in computed["files"].items()}
    for name, pair in {**pairs, "drawings": (computed["drawings"], golden_digests["drawings"])}.items():
        for path, state in differences(*pair).items():
            print(f"{name}: {path} {state}")
            wrong += 1
    print(f"{wrong} digests differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
