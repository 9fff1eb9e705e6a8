"""What each notebook of scale `paper` costs: time, memory and disk. `python benchmarks/costs.py` measures, counts and
writes `results/costs.csv`.

One unit of each long job (`units.py`) is run at the papers' sizes in a process of its own, on one core: its seconds
of processor time, the most memory that the process had, its floating-point operations and the operators that it
calls. How many units a notebook runs follows from the settings of the scale and the sizes of the official data sets.
Memory adds to the largest of its units what the notebook holds besides: the records, captions, features that it
keeps, and batches that are read ahead. Where the rehearsal took more, what it took counts. Disk is what a notebook
leaves in the folder of artefacts, and what it needs while it trains.

No GPU is timed here. GPU hours are those of one that does 20 · 10¹² operations a second and starts 100,000 operators
a second, whichever takes longer, a rule of thumb; images and videos are read by four processes of this machine's
speed meanwhile. `gpu.py` measures the same units on a GPU. METEOR and CIDEr-D are not counted, nor are pages and
figures: for these, each notebook gets the time that all of it takes at scale `toybox`.
"""

import argparse, csv, multiprocessing, platform, sys, tempfile, time
from pathlib import Path
from typing import Callable, Iterator

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RESULTS = Path(__file__).resolve().parent / "results"
FLOPS, OPERATORS = 20e12, 1e5  # a second, of the GPU of the rule of thumb
READERS, CORES = 4, 2  # processes that read images and videos beside a GPU; cores of the machine without one

# Sizes of the official data sets: images or videos of each part (of UCF101 split 1, whose validation part are the
# groups of which five is a divisor), and frames of a video, about.
FLICKR30K = {"train": 29_000, "val": 1_014, "test": 1_000}
COCO = {
    "train": 113_287,
    "val": 5_000,
    "test": 5_000,
}  # with the 30,504 images that the split calls 'restval', which `load_coco` takes by default; without them 82,783
MSRVTT = {"train": 6_513, "val": 497, "test": 2_990}
MSVD = {"train": 1_200, "val": 100, "test": 670}
UCF101 = {"train": 7_377, "val": 2_160, "test": 3_783}
THUMOS14 = {"val": 200, "test": 212}
BOXED_CLIPS = 914  # of UCF101's test part, in the 24 classes with boxes
ACTIONS = 3_007  # in THUMOS14's validation videos; about as many stretches of background lie between them
FRAMES = {"MSR-VTT": 400, "MSVD": 290, "UCF101": 186, "THUMOS14": 6_400}
CAPTIONS, PHRASES = 5, 2.9  # of an image of Flickr30k; phrases with boxes of a caption

# What the loaders of the data sets need at most, GiB; `volume.py` measures them.
LOADED = {"flickr30k": 2.0, "coco": 4.0, "msrvtt": 1.5, "msvd": 1.0, "ucf101": 0.5, "thumos14": 0.5}
AHEAD = 8  # batches that are held at the same time, being read, copied and computed with
CUDA = 3.0  # GiB of main memory that CUDA's libraries take

READ_IMAGE, READ_FRAME = "an image read and resized", "a frame of a video read and resized"
PROPOSALS, DESCRIPTORS = "Edge Boxes of an image", "Inception-v3 features of an image"
HOST = (READ_IMAGE, READ_FRAME, PROPOSALS)
Counts = dict[str, float]


def total(parts: dict[str, int]) -> int:
    return sum(parts.values())


# What each notebook runs


def steps(settings: dict, items: float, val: float = 0) -> float:
    "Training steps of all epochs; an item of the validation part costs a third of one that is trained on."
    training = settings["training"]
    return training["epochs"] * (items + val / 3) / training["batch_size"]


def counts(settings: dict[str, dict]) -> dict[str, Counts]:
    """Return how many units each notebook runs. What several notebooks need, and the first of them makes, is counted
    for each of them."""
    return {
        **_cgvs(settings),
        **_ebr(settings),
        **_aoa(settings),
        "face_to_face": _face_to_face(settings["face_to_face"]),
    }


def _cgvs(settings: dict[str, dict]) -> dict[str, Counts]:
    image, (train, val, test) = DESCRIPTORS, FLICKR30K.values()
    epochs = settings["cgvs/captioner"]["training"]["epochs"]
    of_crops, sentences = steps(settings["cgvs/crops"], train, val), CAPTIONS * test
    films, frames = settings["cgvs/films"], settings["cgvs/films"]["frames"]
    seen, unseen = (
        sum(own[part] for own in (MSRVTT, MSVD) for part in parts) for parts in (("train", "val"), ("test",))
    )
    read = {
        name: sum(FRAMES[label] * own[part] for label, own in (("MSR-VTT", MSRVTT), ("MSVD", MSVD)) for part in parts)
        for name, parts in (("seen", ("train", "val")), ("unseen", ("test",)))
    }
    of_films = sum(steps(films, own["train"], own["val"]) for own in (MSRVTT, MSVD))
    held_out = MSRVTT["val"] + MSVD["val"]
    return {
        "cgvs/backbone": {image: total(FLICKR30K), READ_IMAGE: total(FLICKR30K)},
        "cgvs/captioner": {
            "training step, S2VT, images": steps(settings["cgvs/captioner"], train, val),
            "greedy caption, S2VT": (epochs + 1) * val,
        },
        "cgvs/table1": {"CGVS of a sentence, S2VT": sentences},
        "cgvs/crops": {
            image: train + val,
            READ_IMAGE: train + val,
            "training step, S2VT, images": of_crops,
            "training step, soft attention, images": of_crops,
            "training step, supervised attention, images": of_crops,
            "greedy caption, S2VT": val,
            "greedy caption, soft attention": 2 * val,
        },
        "cgvs/table2": {
            image: test,
            READ_IMAGE: test,
            "CGVS of a sentence, S2VT": sentences + test,
            "attention of a sentence, soft attention": 2 * (sentences + test),
            "caption by a beam of 5, S2VT": test,
            "caption by a beam of 5, soft attention": 2 * test,
        },
        "cgvs/films": {
            image: frames * seen,
            READ_FRAME: read["seen"],
            "training step, S2VT, videos": of_films,
            "training step, soft attention, videos": of_films,
            "greedy caption, S2VT": held_out,
            "greedy caption, soft attention": held_out,
        },
        "cgvs/table3": {
            image: frames * unseen,
            READ_FRAME: read["unseen"],
            "greedy caption, S2VT": test + unseen,
            "greedy caption, soft attention": test + unseen,
        },
        "cgvs/figure4": {"CGVS of a sentence, S2VT": CAPTIONS * settings["cgvs/figure4"]["judged"]},
    }


def _ebr(settings: dict[str, dict]) -> dict[str, Counts]:
    image, (train, val, test) = DESCRIPTORS, FLICKR30K.values()
    ucf, thumos = total(UCF101) * FRAMES["UCF101"], total(THUMOS14) * FRAMES["THUMOS14"]
    own, frame = settings["ebr/frames"], "VGG-16 fc7 of a frame"
    training_frames = own["frames"] * UCF101["train"] + own["frames of films"] * THUMOS14["val"]
    recogniser = settings["ebr/recogniser"]
    epochs, windows = (
        recogniser["training"]["epochs"],
        FRAMES["UCF101"] * 2 / settings["ebr/table2"]["frames"],
    )  # test clips of 16 frames, one every 8
    trained_on = 3 * UCF101["train"] + 2 * ACTIONS
    clips = FRAMES["THUMOS14"] * THUMOS14["test"] / settings["ebr/table3"]["frames"]
    evidence = {
        f"{label} ('{variant}') of a clip in time": 1 for label in ("EB-R", "cEB-R") for variant in ("code", "paper")
    }
    contrastive = {name: 1 for name in evidence if name.startswith("cEB-R")}
    through_frames = ("six explanations by EB of a frame", "two explanations by gradients of a frame")
    shown, sentences = settings["ebr/figure5"], CAPTIONS * test
    captioner = settings["ebr/captioner"]

    def times(number: float, units: Counts) -> Counts:
        return {name: number * one for name, one in units.items()}

    return {
        "ebr/frames": {
            "training step, VGG-16 on frames": steps(own, training_frames),
            frame: own["training"]["epochs"] * own["frames"] * UCF101["val"] + ucf + thumos,
            READ_FRAME: 1.5 * (ucf + thumos)
            + FRAMES["UCF101"] * (UCF101["train"] + UCF101["val"])
            + FRAMES["THUMOS14"] * THUMOS14["val"],
        },  # for the index, to learn from, to extract
        "ebr/recogniser": {
            "training step, LSTM on frames": steps(recogniser, trained_on),
            "scores of a clip in time": windows * (3 * epochs * UCF101["val"] + 2 * UCF101["test"]),
        },
        "ebr/table1": {
            READ_FRAME: BOXED_CLIPS * FRAMES["UCF101"],
            **dict.fromkeys(through_frames, BOXED_CLIPS * settings["ebr/table1"]["frames"]),
        },
        "ebr/table2": times(
            len(settings["ebr/table2"]["lengths"]) * settings["ebr/table2"]["films"],
            {"scores of a clip in time": 1, **evidence},
        ),
        "ebr/table3": times(1.1 * clips, {"scores of a clip in time": 1, **contrastive}),  # classes in a video
        "ebr/table4": times(1.1 * clips, contrastive),
        "ebr/figure5": {
            READ_FRAME: 2 * shown["judged"] * FRAMES["UCF101"],
            "cEB-R ('code') of a frame": 2 * shown["judged"] * shown["frames"],
        },
        "ebr/figure7": times(settings["ebr/figure7"]["films"], contrastive),
        "ebr/captioner": {
            image: 2 * (train + val) + captioner["films"]["frames"] * (MSRVTT["train"] + MSRVTT["val"]),
            READ_IMAGE: 2 * (train + val),
            READ_FRAME: FRAMES["MSR-VTT"] * (MSRVTT["train"] + MSRVTT["val"]),
            "training step, mean pooling, images": 3 * steps(captioner["images"], train, val),
            "training step, mean pooling, videos": steps(captioner["films"], MSRVTT["train"], MSRVTT["val"]),
            "greedy caption, mean pooling": 3 * val + MSRVTT["val"],
        },
        "ebr/table5": {
            "CGVS of a sentence, S2VT": sentences,
            "CGVS of a sentence, mean pooling": sentences,
            "cEB-R ('code') of a sentence, mean pooling": (1 + PHRASES) * sentences,
            "cEB-R ('paper') of a sentence, mean pooling": sentences,
            "EB-R ('code') of a sentence, mean pooling": 2 * sentences,
        },
        "ebr/section6": {
            image: settings["ebr/section6"]["films"] * MSRVTT["test"],
            READ_FRAME: FRAMES["MSR-VTT"] * MSRVTT["test"],
            "greedy caption, mean pooling": 2 * test + MSRVTT["test"],
            "greedy caption, S2VT": test + MSRVTT["test"],
            "cEB-R ('code') of a sentence, mean pooling": 2 * sentences,
        },
    }


def _aoa(settings: dict[str, dict]) -> dict[str, Counts]:
    gamma, images = "VGG-16 conv5 map of an image", total(COCO) + total(FLICKR30K)
    found = {"aoa/eyes": {gamma: images, READ_IMAGE: images}, "aoa/proposals": {PROPOSALS: total(COCO)}}
    for section in ("captioners", "kinds", "numbers", "flickr30k", "finetuned"):
        own, parts = settings[f"aoa/{section}"], FLICKR30K if section == "flickr30k" else COCO
        seeds, models = len(own["seeds"]), own.get("models") or {"transformers": {"eyes": own["eyes"]}}
        each = seeds * steps(own, parts["train"], parts["val"])
        found[f"aoa/{section}"] = run = {
            f"training step, areas of attention, {section}/{name}": each for name in models
        }
        looks = [model["eyes"]["kind"] for model in models.values()]
        if section == "finetuned":
            run["training step, areas of attention, captioners/full"] = each  # the control
            read = own["training"]["epochs"] * (parts["train"] + parts["val"]) + parts["test"]
            run |= {READ_IMAGE: seeds * len(models) * read, gamma: seeds * len(models) * parts["test"]}
            looks.append("grid")
        for label, number in (
            ("captioners/full", sum(kind == "grid" for kind in looks)),
            ("kinds/transformers", sum(kind != "grid" for kind in looks)),
        ):
            if number:
                run[f"greedy caption, areas of attention, {label}"] = seeds * number * parts["test"]
    seeds, test = len(settings["aoa/table4"]["seeds"]), FLICKR30K["test"]
    members = 2 * seeds + seeds * (seeds - 1)  # that say a caption: alone, in ensembles without one, in that of all
    found["aoa/table4"] = {
        READ_IMAGE: seeds * COCO["test"],
        gamma: seeds * COCO["test"],
        "caption by a beam of 3, areas of attention, kinds/transformers": members * COCO["test"],
    }
    lookers = 2 * len(settings["aoa/table3"]["seeds"])
    found["aoa/table3"] = {
        DESCRIPTORS: test,
        READ_IMAGE: test,
        "greedy caption, areas of attention, kinds/transformers": lookers * test,
        "greedy caption, soft attention": 2 * test,
        "area attention of a sentence": (2 * lookers + 14) * test,
        "attention of a sentence, soft attention": 4 * test,
    }
    return found


def _face_to_face(settings: dict) -> Counts:
    """The method comparison: all explainers of three captioners, their faithfulness on descriptors and on pixels, and
    with weights drawn anew."""
    asked = 2 * settings["levels"] * PHRASES  # levels of deletion and of insertion, for each phrase
    explained, pixels, found = (
        settings["judged"] + settings["randomised"],
        settings["pixels"],
        {READ_IMAGE: FLICKR30K["test"], DESCRIPTORS: FLICKR30K["test"]},
    )
    alone = {
        "S2VT": {},
        "soft attention": {"attention of a sentence, soft attention": 1},
        "mean pooling": {
            "cEB-R ('code') of a sentence, mean pooling": 1,
            "cEB-R ('paper') of a sentence, mean pooling": 1,
            "EB-R ('code') of a sentence, mean pooling": 1,
        },
    }
    for name, own in alone.items():
        explainers = len(own) + 8  # CGVS, four of gradients, three references
        found |= {
            f"CGVS of a sentence, {name}": explained,
            f"gradient of a sentence, {name}": 3 * explained,
            f"integrated gradients of a sentence, {name}": explained,
        }
        found |= {label: explained for label in own}
        found[f"forward pass of a sentence in a batch, {name}"] = asked * explainers * (settings["judged"] + pixels)
        found[DESCRIPTORS] += asked * explainers * pixels
    return found


# What each notebook holds and leaves

CELLS, CONV5, FC7 = 64 * 2048, 512 * 14 * 14, 4096  # numbers of an image: descriptors, γ; of a frame: fc7
GIB, GB = 2**30, 1e9
HALF, FLOAT, LONG, BYTE = 2, 4, 8, 1


def loads(section: str) -> tuple[str, ...]:
    "The data sets whose records the notebook loads."
    own = {
        "cgvs/films": ("msrvtt", "msvd"),
        "cgvs/table3": ("flickr30k", "msrvtt", "msvd"),
        "cgvs/figure1": ("flickr30k", "msrvtt"),
        "cgvs/figure2": ("flickr30k", "msrvtt"),
        "cgvs/figure5": ("msrvtt",),
        "ebr/captioner": ("flickr30k", "msrvtt"),
        "ebr/section6": ("flickr30k", "msrvtt"),
        "ebr/table5": ("flickr30k",),
        "ebr/figure8": ("msrvtt",),
        "ebr/figure9": ("flickr30k",),
        "aoa/eyes": ("coco", "flickr30k"),
        "aoa/flickr30k": ("flickr30k",),
        "aoa/table3": ("flickr30k",),
        "aoa/figure5": ("flickr30k",),
        "face_to_face": ("flickr30k",),
    }
    if section in own:
        return own[section]
    paper, _, name = section.partition("/")
    if (
        not name
        or name in ("claims", "timing")
        or section in ("aoa/figure1", "aoa/figure2", "aoa/figure3", "ebr/figure2", "ebr/figure3", "ebr/figure4")
    ):
        return ()
    return {"cgvs": ("flickr30k",), "ebr": ("ucf101", "thumos14"), "aoa": ("coco",)}[paper]


def kept(section: str, settings: dict[str, dict]) -> float:
    """Bytes of captions and features that the notebook holds besides the records: features of training parts stay on
    disk and are read in batches."""
    train, val, test, own = FLICKR30K["train"], FLICKR30K["val"], FLICKR30K["test"], settings[section]
    batch = own.get("training", None) or {}
    cells, words = AHEAD * FLOAT * CELLS * batch.get("batch_size", 64), 25 * LONG

    def said(images: float, captions: int, length: int) -> float:
        return images * captions * (length + 1) * LONG

    if section == "cgvs/captioner":
        return cells + said(train + val, CAPTIONS, own["sizes"]["max_words"])
    if section == "cgvs/crops":
        return (
            cells
            + said(train + val, CAPTIONS, own["max_words"])
            + 2 * HALF * train * CAPTIONS * (own["max_words"] + 1) * 64
        )  # with the maps that attention learns from
    if section == "cgvs/films":
        return AHEAD * FLOAT * own["frames"] * 2048 * batch["batch_size"] + said(
            MSRVTT["train"], own["captions"], own["max_words"]
        )
    if section == "ebr/captioner":
        return (
            2 * FLOAT * 2048 * (train + val)
            + FLOAT * 2048 * MSRVTT["train"]
            + said(train, CAPTIONS, own["max_words"])
            + said(MSRVTT["train"], 20, own["max_words"])
        )
    if section in (
        "cgvs/table1",
        "cgvs/table2",
        "cgvs/figure4",
        "ebr/table5",
        "ebr/figure9",
        "ebr/section6",
        "face_to_face",
        "aoa/table3",
    ):
        return (HALF + FLOAT) * test * CELLS
    if section == "cgvs/table3":
        return (HALF + FLOAT) * 26 * 2048 * MSRVTT["test"] + HALF * test * CELLS
    if section == "ebr/frames":
        return AHEAD * (BYTE + FLOAT) * 3 * 320 * 240 * batch["batch_size"] + 2 * FLOAT * FC7 * FRAMES["THUMOS14"]
    if section in ("ebr/table3", "ebr/table4", "ebr/recogniser"):
        return (
            2 * FLOAT * FC7 * FRAMES["THUMOS14"] + AHEAD * FLOAT * FC7 * 24 * FRAMES["UCF101"]
        )  # a video at a time, or a batch of them
    if section in ("ebr/table2", "ebr/figure7"):
        return 2 * FLOAT * FC7 * own["frames"] * 64 * 2  # videos of which a batch is put together
    if section in ("ebr/table1", "ebr/figure1", "ebr/figure5", "ebr/figure6"):
        return 2 * FLOAT * 3 * 320 * 240 * max(FRAMES["UCF101"], 128)
    if section in ("aoa/captioners", "aoa/kinds", "aoa/numbers", "aoa/finetuned"):
        boxes = AHEAD * 4 * FLOAT * own["proposals"]["number"] * batch["batch_size"] if "proposals" in own else 0
        return (
            AHEAD * FLOAT * max(CONV5, 3 * 224 * 224) * batch["batch_size"]
            + said(COCO["train"] + COCO["val"], own["captions"], own["max_words"])
            + boxes
        )
    if section == "aoa/flickr30k":
        return AHEAD * FLOAT * CONV5 * batch["batch_size"] + said(train + val, own["captions"], own["max_words"])
    if section == "aoa/table4":
        return AHEAD * len(own["seeds"]) * FLOAT * (CONV5 + 3 * 224 * 224) * 50
    return words


def left(section: str, settings: dict[str, dict], parameters: dict[str, int]) -> tuple[float, float]:
    """GB that the notebook leaves in the folder of artefacts, and GB that it needs besides while it trains: a
    checkpoint of the largest model, with Adam's two moments."""
    own, seeds = settings[section], len(settings[section].get("seeds", ())) or 1
    sizes: list[float] = []
    features = {
        "cgvs/backbone": HALF * CELLS * total(FLICKR30K),
        "cgvs/crops": HALF * CELLS * (FLICKR30K["train"] + FLICKR30K["val"]),
        "cgvs/table2": HALF * CELLS * FLICKR30K["test"],
        "cgvs/films": HALF * 26 * 2048 * (total(MSRVTT) + total(MSVD) - MSRVTT["test"] - MSVD["test"]),
        "cgvs/table3": HALF * 26 * 2048 * (MSRVTT["test"] + MSVD["test"]),
        "ebr/frames": 3
        * BYTE
        * (
            320
            * 240
            * (
                settings["ebr/frames"]["frames"] * UCF101["train"]
                + settings["ebr/frames"]["frames of films"] * THUMOS14["val"]
            )
            + 224 * 224 * settings["ebr/frames"]["frames"] * UCF101["val"]
        )
        + HALF * FC7 * (total(UCF101) * FRAMES["UCF101"] + total(THUMOS14) * FRAMES["THUMOS14"]),
        "aoa/eyes": HALF * CONV5 * (total(COCO) + total(FLICKR30K)),
        "aoa/proposals": total(COCO) * settings.get("aoa/proposals", {}).get("most", 100) * 5 * FLOAT,
    }
    if section in ("cgvs/captioner",):
        sizes = [parameters["S2VT, images"]]
    if section == "cgvs/crops":
        sizes = [parameters[f"{name}, images"] for name in ("S2VT", "soft attention", "supervised attention")]
    if section == "cgvs/films":
        sizes = 2 * [parameters["S2VT, videos"], parameters["soft attention, videos"]]
    if section == "ebr/captioner":
        sizes = 3 * [parameters["mean pooling, images"]] + [parameters["mean pooling, videos"]]
    if section == "ebr/frames":
        sizes = [parameters["VGG-16 on frames"]]
    if section == "ebr/recogniser":
        sizes = 3 * [parameters["LSTM on frames"]]
    if section.startswith("aoa/") and "training" in own and own["training"]:
        models = own.get("models") or {"transformers": {}}
        sizes = seeds * [parameters[f"areas of attention, {section.removeprefix('aoa/')}/{name}"] for name in models]
        if section == "aoa/finetuned":
            sizes += seeds * [parameters["areas of attention, captioners/full"]]
    return (features.get(section, 0) + FLOAT * sum(sizes)) / GB, 3 * FLOAT * max(sizes, default=0) / GB


# Measuring


class Recurrences:
    "Counts what torch's own LSTM does, which the other counters take for one operator without operations."

    operations = calls = 0

    @classmethod
    def counting(cls, lstm: Callable) -> Callable:
        def counted(inputs, state, weights, *more):
            import torch

            items, length = inputs.shape[:2]
            passes = (
                3 if torch.is_grad_enabled() and weights[0].requires_grad else 1
            )  # forth, and back to inputs and to weights
            cls.operations += passes * 2 * items * length * (weights[0].numel() + weights[1].numel())
            cls.calls += passes * 2 * length
            return lstm(inputs, state, weights, *more)

        return counted


def operations(work: Callable[[], object]) -> tuple[float, int]:
    "Return the floating-point operations of one call, by PyTorch's own formulas, and how many operators it calls."
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Operators(TorchDispatchMode):
        "Count what is called; `FlopCounterMode` counts by module, too, and fails in `torch.autograd.grad`."

        flops = calls = 0

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if (formula := flop_registry.get(operator._overloadpacket)) is None:
                with self:
                    parts = operator.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            result = operator(*args, **kwargs)
            Operators.calls += 1
            if formula:
                Operators.flops += formula(*args, **kwargs, out_val=result)
            return result

    Recurrences.operations = Recurrences.calls = 0
    before, torch.lstm = torch.lstm, Recurrences.counting(torch.lstm)
    try:
        with Operators():
            work()
    finally:
        torch.lstm = before
    return Operators.flops + Recurrences.operations, Operators.calls + Recurrences.calls


def most_memory() -> float:
    "Return the GiB of main memory that this process had at most."
    from memory import highest_memory

    return highest_memory() / GIB


def host_work(name: str) -> Callable[[], object]:
    "Return a call that reads an image, 64 frames of a video, or finds the proposals of an image."
    import numpy as np
    from PIL import Image

    from cgsaliency.core.geometry import View
    from cgsaliency.data.frames import picture_of, pictures_of, read_frames, write_video
    from cgsaliency.data.proposals import edge_boxes

    noise = np.random.default_rng(0).integers(0, 256, (64, 24, 32, 3), dtype=np.uint8)

    def photograph(k: int, width: int, height: int) -> Image.Image:
        return Image.fromarray(noise[k]).resize((width, height), Image.Resampling.BICUBIC)

    if name == PROPOSALS:
        from units import paper_settings

        most = paper_settings()["aoa/proposals"]["most"]
        return lambda: edge_boxes(photograph(0, 500, 375), most)
    folder = Path(tempfile.mkdtemp())
    if name == READ_IMAGE:
        photograph(0, 500, 375).save(folder / "0.jpg", quality=90)
        return lambda: pictures_of([folder / "0.jpg"], [View.whole(500, 375, 299)], threads=1)
    write_video(folder / "0.mp4", [photograph(k, 320, 240) for k in range(64)], 25)
    return lambda: [
        picture_of(frame, View.whole(320, 240, 224)) for frame in read_frames(folder / "0.mp4", None).frames
    ]


def measured_unit(name: str, repeats: int) -> dict[str, float]:
    "Return seconds, memory, operations and operators of one unit, in this process, on one core."
    import torch

    from units import paper_sizes, units

    torch.set_num_threads(1)
    before = most_memory()
    if name == "modules":
        return {"memory": 0.0}
    if name in HOST:
        work, number = host_work(name), 64 if name == READ_FRAME else 1
    else:
        unit = units(paper_sizes(images=4, frames=4))[name]
        work, number = unit.make(torch.device("cpu")), unit.per_call
    flops, operators = operations(work)  # which warms up, too
    memory, took = most_memory() - before, []
    for _ in range(repeats):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return {
        "seconds": min(took) / number,
        "memory": memory,
        "parameters": getattr(work, "parameters", 0),
        **({} if name in HOST else {"operations": flops / number, "operators": operators / number}),
    }


def in_a_process(name: str, repeats: int) -> dict[str, float]:
    "Return what `measured_unit` finds in a process of its own, which has the modules of this one."
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(measured_unit(name, repeats)))
    process.start()
    while process.is_alive() and queue.empty():
        process.join(0.05)
    if queue.empty():
        sys.exit(f"unit '{name}' could not be measured: its process ended with {process.exitcode}")
    found = queue.get()
    process.join()
    return found | {"memory": found["memory"] + most_memory()}  # a child is not charged for what it only shares


# Tables


def read_costs(path: Path = RESULTS / "costs.csv") -> dict[str, float]:
    "Return the values of the table by name."
    with path.open() as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def toybox_hours() -> dict[str, float]:
    "Return the hours that each notebook takes at scale `toybox`."
    with (RESULTS / "notebooks.csv").open() as file:
        return {
            row["name"].removeprefix("toybox: "): float(row["value"]) / 3600
            for row in csv.DictReader(file)
            if row["name"].startswith("toybox: ") and row["unit"] == "s" and not row["name"].endswith(", processor time")
        }


def rehearsed_memory() -> dict[str, float]:
    "Return the GiB that each notebook had at most in the rehearsal, which has the papers' networks and images."
    path = RESULTS / "rehearsal.csv"
    if not path.is_file():
        return {}
    begin, end = "rehearsal: ", ", largest memory"
    found = read_costs(path).items()
    return {
        name[len(begin) : -len(end)]: value for name, value in found if name.startswith(begin) and name.endswith(end)
    }


def hours(found: Counts, seconds: dict[str, float], host: dict[str, float], readers: int = READERS) -> float:
    "Return the hours of a notebook on a device, which waits for the processes that read where these take longer."
    device = sum(number * seconds[name] for name, number in found.items() if name not in HOST)
    reading = sum(number * host[name] for name, number in found.items() if name in HOST) / readers
    return max(device, reading) / 3600


def table(
    units: dict[str, dict[str, float]], settings: dict[str, dict], sections: list[str]
) -> Iterator[tuple[str, float, str, str]]:
    "Yield the rows of each notebook: hours, memory and disk."
    here, rest = {name: one["seconds"] for name, one in units.items() if "seconds" in one}, toybox_hours()
    rule = {
        name: max(one["operations"] / FLOPS, one["operators"] / OPERATORS)
        for name, one in units.items()
        if "operations" in one
    }
    modules, wanted, rehearsed = units["modules"]["memory"], counts(settings), rehearsed_memory()
    parameters = {
        name.removeprefix("training step, "): one["parameters"] for name, one in units.items() if one.get("parameters")
    }
    for section in sections:
        found = wanted.get(section, {})
        alone = rest.get(section, 0.1)
        on_cores = sum(number * here[name] for name, number in found.items()) / CORES / 3600
        device = any(name not in HOST for name in found)
        largest = (
            2 * 3 * FLOAT * max([0.0, *(units[name].get("parameters", 0) for name in found)]) / GIB
        )  # a checkpoint on its way to the disk
        held = kept(section, settings) / GIB + max([0.0, *(LOADED[name] for name in loads(section))]) + largest
        on_cpu = max([modules, *(units[name]["memory"] for name in found)]) + held
        memory = max(on_cpu, modules + (CUDA if device else 0.0) + held, rehearsed.get(section, 0.0))
        disk, training = left(section, settings, parameters)
        yield f"paper: {section}, two cores", on_cores + alone, "h", "processor time here, on two cores"
        if device:
            yield (
                f"paper: {section}, GPU",
                hours(found, rule, here) + alone,
                "h",
                "a GPU of 20e12 operations and 1e5 operators a second",
            )
        yield (
            f"paper: {section}, memory",
            memory,
            "GiB",
            "records, what is held, and the largest unit on a CPU" + ", or CUDA's libraries" * device,
        )
        if disk:
            yield f"paper: {section}, disk", disk, "GB", "left when it is done"
        if training:
            yield f"paper: {section}, disk while it trains", training, "GB", "besides what is left"


def rows(units: dict[str, dict[str, float]]) -> Iterator[tuple[str, float, str, str]]:
    "Yield all rows of `results/costs.csv`."
    from units import paper_settings

    for name, one in units.items():
        if "seconds" in one:
            yield f"{name}: here", one["seconds"], "s", "processor time of one core"
        if one.get("operations"):
            yield f"{name}: operations", one["operations"] / 1e9, "10^9", ""
            yield f"{name}: operators called", one["operators"], "calls", ""
        yield f"{name}: memory", one["memory"], "GiB", "of a process that runs it on a CPU"
        if one.get("parameters"):
            yield f"{name}: trained parameters", one["parameters"] / 1e6, "10^6", ""
    settings = paper_settings()
    yield from table(units, settings, [name for name in settings if name != "all"])


COLUMNS = {
    "here": ("seconds", 1),
    "operations": ("operations", 1e9),
    "operators called": ("operators", 1),
    "memory": ("memory", 1),
    "trained parameters": ("parameters", 1e6),
}


def units_in(known: dict[str, float]) -> dict[str, dict[str, float]]:
    "Return what each unit takes, as the rows of the table say."
    units: dict[str, dict[str, float]] = {}
    for name, value in known.items():
        unit, _, what = name.rpartition(": ")
        if what in COLUMNS and not name.startswith("paper: "):
            units.setdefault(unit, {})[COLUMNS[what][0]] = value * COLUMNS[what][1]
    for name, one in units.items():
        if "seconds" in one:
            one.setdefault("operations", 0.0), one.setdefault("operators", 0.0)
    return units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        default="",
        metavar="WORD",
        help="measure anew only units whose name has this in it; the others are taken from the table",
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="of each unit, after one that warms up; the shortest counts"
    )
    parser.add_argument(
        "--counted", action="store_true", help="measure nothing; count anew with the units that results/costs.csv holds"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "costs.csv")
    given = parser.parse_args()
    import torch

    from measure import write_rows
    from units import paper_sizes, units

    torch.set_num_threads(1)  # a process that has used more cannot be forked safely
    found = units_in(read_costs(given.out)) if given.out.exists() and (given.counted or given.only) else {}
    for name in () if given.counted else ("modules", *units(paper_sizes()), *HOST):
        if given.only not in name:
            continue
        found[name] = in_a_process(name, given.repeats)
        print(name, {key: float(f"{value:.4g}") for key, value in found[name].items()}, flush=True)
    write_rows(given.out, f"{platform.machine()} CPU, one core", list(rows(found)))


if __name__ == "__main__":
    main()
