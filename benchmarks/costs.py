"""The cost of each notebook of scale `paper`: time, memory and disk. `python benchmarks/costs.py` measures the units,
computes the costs and writes `results/costs.csv`.

One unit of each long job (`units.py`) runs at the papers' sizes in a separate process, on one core. The process
measures its CPU time, its peak memory, the floating-point operations and the number of called operators. The settings
of the scale and the sizes of the official data sets determine how many units a notebook runs. The memory of a notebook
is that of its largest unit plus its data: records, captions, features and prefetched batches; if `make rehearse`
measured more, it is the measured value. The disk space is that of the artifacts, plus the checkpoint during training.

No GPU is timed here. GPU hours assume a GPU with 20 · 10¹² operations per second and 100,000 operators per second,
whichever takes longer; four processes read images and videos at this machine's speed at the same time. `gpu.py`
measures the same units on a GPU. METEOR, CIDEr-D, HTML reports and figures are not counted: for them, the complete time
of the notebook at scale `toybox` is added.
"""

import argparse
import csv
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RESULTS = Path(__file__).resolve().parent / "results"
FLOPS, OPERATORS = 20e12, 1e5  # per second, of the assumed GPU
READERS, CORES = 4, 2  # processes that read images and videos for a GPU; cores of a machine without a GPU

# Sizes of the official data sets: images or videos of each part (UCF101: split 1, its validation part consists of the
# groups divisible by five), and approximate frames of a video.
FLICKR30K = {"train": 29_000, "val": 1_014, "test": 1_000}
COCO = {"train": 82_783, "val": 5_000, "test": 5_000}
RESTVAL = 30_504  # images of MSCOCO that only the ensemble is trained with, too
MSRVTT = {"train": 6_513, "val": 497, "test": 2_990}
MSVD = {"train": 1_200, "val": 100, "test": 670}
UCF101 = {"train": 7_377, "val": 2_160, "test": 3_783}
THUMOS14 = {"val": 200, "test": 212}
NUM_CLASSES = 101  # of UCF101
BOXED_CLIPS = 3_207  # of UCF101's three parts, in the 24 classes with boxes
ACTIONS = 3_007  # in THUMOS14's validation videos; about as many background segments lie between them
FRAMES = {"MSR-VTT": 400, "MSVD": 290, "UCF101": 186, "THUMOS14": 6_400}
CAPTIONS, PHRASES = 5, 2.9  # of an image of Flickr30k; phrases with boxes of a caption
GREEDY_CAPTIONS = 100  # test images of each captioner of aoa that also get a caption by greedy search

# Peak memory of the data sets' loaders, GiB; `dataset_scaling.py` measures it.
LOADED = {"flickr30k": 2.0, "coco": 4.0, "msrvtt": 1.5, "msvd": 1.0, "ucf101": 0.5, "thumos14": 0.5}
NUM_BATCHES = 8  # batches in memory at the same time: being read, copied and used
CUDA = 3.0  # GiB of main memory of CUDA's libraries

READ_IMAGE, READ_FRAME = "an image read and resized", "a frame of a video read and resized"
PROPOSALS, DESCRIPTORS = "Edge Boxes of an image", "Inception-v3 features of an image"
GAMMA, CANVAS_MAP = "VGG-16 conv5 map of an image", "VGG-16 map of an image for proposals"
HOST = (READ_IMAGE, READ_FRAME, PROPOSALS)
Counts = dict[str, float]


def total(parts: dict[str, int]) -> int:
    "Return the size of a data set."
    return sum(parts.values())


# Units of each notebook


def steps(settings: dict, items: float, val: float = 0) -> float:
    "Return the training steps of all epochs; a validation item costs a third of a training item."
    training = settings["training"]
    return training["epochs"] * (items + val / 3) / training["batch_size"]


def counts(settings: dict[str, dict]) -> dict[str, Counts]:
    """Return how many units each notebook runs.

    Units that several notebooks share are counted for each of them, although only the first one runs them."""
    return {
        **_cgvs(settings),
        **_ebr(settings),
        **_aoa(settings),
        "method_comparison": _method_comparison(settings["method_comparison"]),
    }


def _cgvs(settings: dict[str, dict]) -> dict[str, Counts]:
    image, (train, val, test) = DESCRIPTORS, FLICKR30K.values()
    epochs = settings["cgvs/captioner"]["training"]["epochs"]
    crop_steps, sentences = steps(settings["cgvs/captioners_crop"], train), CAPTIONS * test
    crop_epochs = settings["cgvs/captioners_crop"]["training"]["epochs"]
    num_mean = {name: settings[f"cgvs/{name}"]["num_mean_images"] for name in ("table1", "table2")}
    videos, frames = settings["cgvs/captioners_video"], settings["cgvs/captioners_video"]["num_frames"]
    num_test = MSRVTT["test"] + MSVD["test"]
    num_trained = total(MSRVTT) + total(MSVD) - num_test  # with the validation part
    test_frames = FRAMES["MSR-VTT"] * MSRVTT["test"] + FRAMES["MSVD"] * MSVD["test"]
    trained_frames = FRAMES["MSR-VTT"] * total(MSRVTT) + FRAMES["MSVD"] * total(MSVD) - test_frames
    video_steps = sum(steps(videos, split_sizes["train"], split_sizes["val"]) for split_sizes in (MSRVTT, MSVD))
    held_out = MSRVTT["val"] + MSVD["val"]
    return {
        "cgvs/backbone": {image: total(FLICKR30K), READ_IMAGE: total(FLICKR30K)},
        "cgvs/captioner": {
            "training step, S2VT, images": steps(settings["cgvs/captioner"], train, val),
            "greedy caption, S2VT": (epochs + 1) * val,
        },
        # each sentence, one of another image for each, and the sentences of the mean map
        "cgvs/table1": {"CGVS of a sentence, S2VT": 2 * sentences + CAPTIONS * num_mean["table1"]},
        "cgvs/captioners_crop": {
            image: train + val,
            READ_IMAGE: train + val,
            "training step, S2VT, images": crop_steps,
            "training step, soft attention, images": crop_steps,
            "training step, supervised attention, images": crop_steps,
            "greedy caption, S2VT": (crop_epochs + 1) * val,
            "greedy caption, soft attention": 2 * (crop_epochs + 1) * val,
        },
        "cgvs/table2": {
            image: test,
            READ_IMAGE: test,
            "CGVS of a sentence, S2VT": 2 * sentences + CAPTIONS * num_mean["table2"] + test,
            "attention of a sentence, soft attention": 2 * (sentences + test),
            "caption by a beam of 5, S2VT": test,
            "caption by a beam of 5, soft attention": 2 * test,
        },
        "cgvs/captioners_video": {
            image: frames * num_trained,
            READ_FRAME: trained_frames,
            "training step, S2VT, videos": video_steps,
            "training step, soft attention, videos": video_steps,
            "greedy caption, S2VT": held_out,
            "greedy caption, soft attention": held_out,
        },
        "cgvs/table3": {
            image: frames * num_test,
            READ_FRAME: test_frames,
            "greedy caption, S2VT": test + num_test,
            "greedy caption, soft attention": test + num_test,
        },
        "cgvs/figure4": {
            "CGVS of a sentence, S2VT": (CAPTIONS + 1) * settings["cgvs/figure4"]["num_evaluated"],
            "greedy caption, S2VT": settings["cgvs/figure4"]["num_evaluated"],
        },
    }


def _ebr(settings: dict[str, dict]) -> dict[str, Counts]:
    image, (train, val, test) = DESCRIPTORS, FLICKR30K.values()
    ucf, thumos = total(UCF101) * FRAMES["UCF101"], total(THUMOS14) * FRAMES["THUMOS14"]
    config, frame = settings["ebr/frame_cnn"], "VGG-16 fc7 of a frame"
    finetuning = config["finetuning"]
    clip_frames = finetuning["clip_length"]
    training_frames = config["frames_per_clip"] * UCF101["train"] + config["frames_per_video"] * THUMOS14["val"]
    classifier = settings["ebr/action_lstm"]
    epochs = classifier["training"]["epochs"]
    windows = FRAMES["UCF101"] * 2 / settings["ebr/table2"]["num_frames"]  # test clips of 16 frames, one every 8
    num_trained = 3 * UCF101["train"] + 2 * ACTIONS
    clips = FRAMES["THUMOS14"] * THUMOS14["test"] / settings["ebr/table3"]["num_frames"]
    evidence = {
        f"{label} ('{variant}') of a clip in time": 1 for label in ("EB-R", "cEB-R") for variant in ("code", "paper")
    }
    contrastive = {name: 1 for name in evidence if name.startswith("cEB-R")}
    frame_units = ("six explanations by EB of a frame", "two explanations by gradients of a frame")
    table1, figure5, sentences = settings["ebr/table1"], settings["ebr/figure5"], CAPTIONS * test
    captioner = settings["ebr/captioner"]

    def times(number: float, units: Counts) -> Counts:
        return {name: number * unit_costs for name, unit_costs in units.items()}

    return {
        "ebr/frame_cnn": {
            # a clip of the fine-tuning counts as so many frames
            "training step, VGG-16 on frames": steps(config, training_frames)
            + finetuning["training"]["epochs"] * clip_frames * UCF101["train"] / config["training"]["batch_size"],
            frame: config["training"]["epochs"] * config["frames_per_clip"] * UCF101["val"]
            + finetuning["training"]["epochs"] * clip_frames * UCF101["val"]
            + ucf
            + UCF101["test"] * FRAMES["UCF101"]  # class scores of single frames
            + thumos,
            # for the index, training and feature extraction
            READ_FRAME: (
                1.5 * (ucf + thumos)
                + FRAMES["UCF101"] * (UCF101["train"] + UCF101["val"])
                + FRAMES["THUMOS14"] * THUMOS14["val"]
            ),
        },
        "ebr/action_lstm": {
            "training step, LSTM on frames": steps(classifier, num_trained),
            "scores of a clip in time": windows * (3 * epochs * UCF101["val"] + 2 * UCF101["test"]),
        },
        "ebr/table1": {
            READ_FRAME: BOXED_CLIPS * FRAMES["UCF101"],
            # of the frame CNN, and of the fine-tuned one at each layer or for each length of clips
            frame_units[0]: (2 + len(table1["layers"])) * BOXED_CLIPS * FRAMES["UCF101"],
            frame_units[1]: (1 + len(table1["clip_lengths"])) / 2 * BOXED_CLIPS * FRAMES["UCF101"],
            # of the class for each length of clips, of another class, and of all classes; a clip here has 128 frames
            **times(BOXED_CLIPS * FRAMES["UCF101"] / 128 * (len(table1["clip_lengths"]) + 1 + NUM_CLASSES), evidence),
        },
        "ebr/table2": times(
            len(settings["ebr/table2"]["action_lengths"]) * settings["ebr/table2"]["num_videos"],
            {"scores of a clip in time": 1, **evidence},
        ),
        "ebr/table3": times(1.1 * clips, {"scores of a clip in time": 1, **contrastive}),  # classes of a video
        "ebr/table4": times(1.1 * clips, contrastive),
        "ebr/figure5": {
            READ_FRAME: len(figure5["classes"]) * FRAMES["UCF101"],
            "EB-R ('code') of a frame": len(figure5["classes"]) * figure5["num_frames"],
            "cEB-R ('code') of a frame": len(figure5["classes"]) * figure5["num_frames"],
        },
        "ebr/figure7": times(settings["ebr/figure7"]["num_videos"], contrastive),
        "ebr/evidence_over_time": times(settings["ebr/evidence_over_time"]["num_videos"], contrastive),
        "ebr/captioner": {
            image: 2 * (train + val) + captioner["videos"]["num_frames"] * (MSRVTT["train"] + MSRVTT["val"]),
            READ_IMAGE: 2 * (train + val),
            READ_FRAME: FRAMES["MSR-VTT"] * (MSRVTT["train"] + MSRVTT["val"]),
            "training step, mean pooling, images": 3 * steps(captioner["images"], train, val),
            "training step, mean pooling, videos": steps(captioner["videos"], MSRVTT["train"], MSRVTT["val"]),
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
            image: settings["ebr/section6"]["num_frames"] * MSRVTT["test"],
            READ_FRAME: FRAMES["MSR-VTT"] * MSRVTT["test"],
            "greedy caption, mean pooling": 2 * test + MSRVTT["test"],
            "greedy caption, S2VT": test + MSRVTT["test"],
            "cEB-R ('code') of a sentence, mean pooling": 2 * sentences,
        },
    }


REGION_MODELS = {
    "grid": "train_terms/full",
    "spatial_transformers": "train_region_types/spatial_transformers",
    "proposals": "train_region_types/proposals",
}  # whose captions were measured, by region type


def _beam_captions(captions: Counts) -> Counts:
    "Return the units of these numbers of captions by region type; one of greedy search counts as one of a beam."
    label = "caption by a beam of 3, areas of attention"
    return {f"{label}, {REGION_MODELS[region_type]}": number for region_type, number in captions.items()}


def _region_types(section_settings: dict) -> list[str]:
    "Return the region types of the trained models."
    return [model["encoder_kwargs"]["region_type"] for model in section_settings["models"].values()]


def _aoa(settings: dict[str, dict]) -> dict[str, Counts]:
    images, with_canvas = total(COCO) + total(FLICKR30K), total(COCO)
    unit_counts = {
        "aoa/region_encoder": {GAMMA: images, CANVAS_MAP: with_canvas, READ_IMAGE: images + with_canvas},
        "aoa/proposals": {PROPOSALS: total(COCO)},
    }
    for section in ("train_terms", "parameterizations", "train_region_types", "flickr30k", "finetuned"):
        config, parts = settings[f"aoa/{section}"], FLICKR30K if section == "flickr30k" else COCO
        seeds, epochs, region_types = len(config["seeds"]), config["training"]["epochs"], _region_types(config)
        steps_per_model = seeds * steps(config, parts["train"], parts["val"])
        unit_counts[f"aoa/{section}"] = run = {
            f"training step, areas of attention, {section}/{name}": steps_per_model for name in config["models"]
        }
        if section == "finetuned":
            run["training step, areas of attention, train_terms/full"] = steps_per_model  # the control
            num_images = epochs * (parts["train"] + parts["val"]) + parts["test"]
            run |= {READ_IMAGE: seeds * len(region_types) * num_images}
            run |= {GAMMA: seeds * len(region_types) * (epochs * parts["val"] + parts["test"])}
            region_types.append("grid")
        # validation in each epoch, the test images, and some of them by greedy search
        captions = seeds * (epochs * parts["val"] + parts["test"] + GREEDY_CAPTIONS)
        run |= _beam_captions({name: captions * region_types.count(name) for name in dict.fromkeys(region_types)})
    unit_counts["aoa/ensemble"] = _aoa_ensemble(settings["aoa/ensemble"])
    seeds, test = len(settings["aoa/table4"]["seeds"]), FLICKR30K["test"]
    unit_counts["aoa/table4"] = {  # each member of the ensemble has its own CNN
        READ_IMAGE: COCO["test"],
        GAMMA: seeds * COCO["test"],
        **_beam_captions({"spatial_transformers": seeds * COCO["test"]}),
    }
    figure4 = settings["aoa/figure4"]
    num_captions = len(figure4["seeds"]) * COCO["test"]
    unit_counts["aoa/figure4"] = _beam_captions(
        {
            "grid": (1 + len(figure4["strides"])) * num_captions,
            "spatial_transformers": len(figure4["strides"]) * num_captions,
            "proposals": len(figure4["num_proposals"]) * num_captions,
        }
    )
    figure5 = settings["aoa/figure5"]
    num_captions = len(figure5["seeds"]) * figure5["num_images"]
    unit_counts["aoa/figure5"] = {
        **_beam_captions(dict.fromkeys(figure5["captioners"], num_captions)),
        "area attention of a sentence": (len(figure5["captioners"]) + CAPTIONS) * num_captions,
    }
    captioners = 2 * len(settings["aoa/table3"]["seeds"])
    unit_counts["aoa/table3"] = {
        DESCRIPTORS: test,
        READ_IMAGE: test,
        **_beam_captions({"spatial_transformers": captioners * test}),
        "greedy caption, soft attention": 2 * test,
        "area attention of a sentence": ((CAPTIONS + 3) * captioners + 14) * test,  # phrases of all captions, nouns
        "attention of a sentence, soft attention": 2 * (CAPTIONS + 3) * test,
    }
    return unit_counts


def _aoa_ensemble(settings: dict) -> Counts:
    "Return the units of the ensemble: members in three stages, with images that are flipped at random."
    seeds, num_train = len(settings["seeds"]), COCO["train"] + RESTVAL
    epochs = {name: settings["training"]["epochs"] for name in settings["models"]}
    epochs["finetuned"] = settings["finetuning"]["epochs"]
    label = "training step, areas of attention, ensemble"
    unit_counts = {
        f"{label}/{name}": seeds * steps({"training": stage}, num_train, COCO["val"])
        for name in settings["models"]
        for stage in [settings["finetuning" if name == "finetuned" else "training"]]
    }
    captions = {"grid": 0, "spatial_transformers": 0}
    for name, config in settings["models"].items():
        number = seeds * (epochs[name] * COCO["val"] + COCO["test"] + GREEDY_CAPTIONS)
        captions[config["encoder_kwargs"]["region_type"]] += number
    maps = 2 * num_train + seeds * (epochs["finetuned"] * COCO["val"] + COCO["test"])
    images = 2 * num_train + seeds * (epochs["finetuned"] * (num_train + COCO["val"]) + COCO["test"])
    return unit_counts | {GAMMA: maps, READ_IMAGE: images} | _beam_captions(captions)


def _method_comparison(settings: dict) -> Counts:
    """Return the units of the method comparison: all explainers of three captioners, their faithfulness on descriptors
    and on pixels, and with randomized weights."""
    num_masked = 2 * settings["num_levels"] * PHRASES  # levels of deletion and of insertion, for each phrase
    num_explained, num_pixels = settings["num_evaluated"] + settings["num_randomized"], settings["num_pixel_evaluated"]
    unit_counts = {READ_IMAGE: FLICKR30K["test"], DESCRIPTORS: FLICKR30K["test"]}
    specific_explainers = {
        "S2VT": {},
        "soft attention": {"attention of a sentence, soft attention": 1},
        "mean pooling": {
            "cEB-R ('code') of a sentence, mean pooling": 1,
            "cEB-R ('paper') of a sentence, mean pooling": 1,
            "EB-R ('code') of a sentence, mean pooling": 1,
        },
    }
    for name, captioner_explainers in specific_explainers.items():
        explainers = len(captioner_explainers) + 11  # CGVS, four of gradients, six baselines
        unit_counts |= {  # of CGVS also the baselines "other sentence" and "mean map"
            f"CGVS of a sentence, {name}": 2 * num_explained + settings["num_mean_images"],
            f"gradient of a sentence, {name}": 3 * num_explained,
            f"integrated gradients of a sentence, {name}": num_explained,
        }
        unit_counts |= {label: num_explained for label in captioner_explainers}
        unit_counts[f"forward pass of a sentence in a batch, {name}"] = (
            num_masked * explainers * (settings["num_evaluated"] + num_pixels)
        )
        unit_counts[DESCRIPTORS] += num_masked * explainers * num_pixels
    return unit_counts


# Memory and disk space of each notebook

CELLS, CONV5, FC7 = 64 * 2048, 512 * 14 * 14, 4096  # values of an image: descriptors, γ; of a frame: fc7
GIB, GB = 2**30, 1e9
HALF, FLOAT, LONG, BYTE = 2, 4, 8, 1


def loads(section: str) -> tuple[str, ...]:
    "Return the data sets whose records the notebook loads."
    datasets_by_section = {
        "cgvs/captioners_video": ("msrvtt", "msvd"),
        "cgvs/table3": ("flickr30k", "msrvtt", "msvd"),
        "cgvs/figure1": ("flickr30k", "msrvtt"),
        "cgvs/figure2": ("flickr30k", "msrvtt"),
        "cgvs/figure5": ("msrvtt",),
        "ebr/captioner": ("flickr30k", "msrvtt"),
        "ebr/section6": ("flickr30k", "msrvtt"),
        "ebr/table5": ("flickr30k",),
        "ebr/figure8": ("msrvtt",),
        "ebr/figure9": ("flickr30k",),
        "aoa/region_encoder": ("coco", "flickr30k"),
        "aoa/flickr30k": ("flickr30k",),
        "aoa/table3": ("flickr30k",),
        "aoa/figure5": ("coco", "flickr30k"),
        "method_comparison": ("flickr30k",),
    }
    if section in datasets_by_section:
        return datasets_by_section[section]
    paper, _, name = section.partition("/")
    if (
        not name
        or name in ("claims", "timing")
        or section in ("aoa/figure1", "aoa/figure2", "aoa/figure3", "ebr/figure2", "ebr/figure3", "ebr/figure4")
    ):
        return ()
    return {"cgvs": ("flickr30k",), "ebr": ("ucf101", "thumos14"), "aoa": ("coco",)}[paper]


def data_memory(section: str, settings: dict[str, dict]) -> float:
    """Return the bytes of the notebook's captions and features, without the records. Features of training parts stay
    on disk and are read in batches."""
    (train, val, test), config = FLICKR30K.values(), settings[section]
    training = config.get("training", None) or {}
    batches, words = NUM_BATCHES * FLOAT * CELLS * training.get("batch_size", 64), 25 * LONG

    def caption_memory(images: float, captions: int, length: int) -> float:
        return images * captions * (length + 1) * LONG

    if section == "cgvs/captioner":
        return batches + caption_memory(train + val, CAPTIONS, config["model_kwargs"]["max_words"])
    if section == "cgvs/captioners_crop":
        return (
            batches
            + caption_memory(train + val, CAPTIONS, config["max_words"])
            + 2 * HALF * train * CAPTIONS * (config["max_words"] + 1) * 64
        )  # with the maps that supervise the attention
    if section == "cgvs/captioners_video":
        return NUM_BATCHES * FLOAT * config["num_frames"] * 2048 * training["batch_size"] + caption_memory(
            MSRVTT["train"], config["num_captions"], config["max_words"]
        )
    if section == "ebr/captioner":
        return (
            2 * FLOAT * 2048 * (train + val)
            + FLOAT * 2048 * MSRVTT["train"]
            + caption_memory(train, CAPTIONS, config["max_words"])
            + caption_memory(MSRVTT["train"], 20, config["max_words"])
        )
    if section in (
        "cgvs/table1",
        "cgvs/table2",
        "cgvs/figure4",
        "ebr/table5",
        "ebr/figure9",
        "ebr/section6",
        "method_comparison",
        "aoa/table3",
    ):
        return (HALF + FLOAT) * test * CELLS
    if section == "cgvs/table3":
        return (HALF + FLOAT) * 26 * 2048 * MSRVTT["test"] + HALF * test * CELLS
    if section == "ebr/frame_cnn":
        return (
            NUM_BATCHES * (BYTE + FLOAT) * 3 * 320 * 240 * training["batch_size"] + 2 * FLOAT * FC7 * FRAMES["THUMOS14"]
        )
    if section in ("ebr/table3", "ebr/table4", "ebr/action_lstm"):
        return (
            2 * FLOAT * FC7 * FRAMES["THUMOS14"] + NUM_BATCHES * FLOAT * FC7 * 24 * FRAMES["UCF101"]
        )  # one video, or a batch of videos
    if section in ("ebr/table2", "ebr/figure7"):
        return 2 * FLOAT * FC7 * config["num_frames"] * 64 * 2  # the videos of a batch
    if section in ("ebr/table1", "ebr/figure1", "ebr/figure5", "ebr/figure6"):
        return 2 * FLOAT * 3 * 320 * 240 * max(FRAMES["UCF101"], 128)
    if section in (
        "aoa/train_terms",
        "aoa/parameterizations",
        "aoa/train_region_types",
        "aoa/finetuned",
        "aoa/ensemble",
    ):
        boxes = (
            NUM_BATCHES * 4 * FLOAT * config["proposals"]["num_boxes"] * training["batch_size"]
            if "proposals" in config
            else 0
        )
        return (
            NUM_BATCHES * FLOAT * max(CONV5, 3 * 224 * 224) * training["batch_size"]
            + caption_memory(COCO["train"] + RESTVAL + COCO["val"], config["num_captions"], config["max_words"])
            + boxes
        )
    if section == "aoa/flickr30k":
        return NUM_BATCHES * FLOAT * CONV5 * training["batch_size"] + caption_memory(
            train + val, config["num_captions"], config["max_words"]
        )
    if section == "aoa/table4":
        return NUM_BATCHES * len(config["seeds"]) * FLOAT * (CONV5 + 3 * 224 * 224) * 50
    return words


def disk_space(section: str, settings: dict[str, dict], parameters: dict[str, int]) -> tuple[float, float]:
    """Return the GB of the notebook's artifacts, and the additional GB during training: a checkpoint of the largest
    model, with Adam's two moments."""
    config, seeds = settings[section], len(settings[section].get("seeds", ())) or 1
    sizes: list[float] = []
    features = {
        "cgvs/backbone": HALF * CELLS * total(FLICKR30K),
        "cgvs/captioners_crop": HALF * CELLS * (FLICKR30K["train"] + FLICKR30K["val"]),
        "cgvs/table2": HALF * CELLS * FLICKR30K["test"],
        "cgvs/captioners_video": HALF * 26 * 2048 * (total(MSRVTT) + total(MSVD) - MSRVTT["test"] - MSVD["test"]),
        "cgvs/table3": HALF * 26 * 2048 * (MSRVTT["test"] + MSVD["test"]),
        "ebr/frame_cnn": (
            3
            * BYTE
            * (
                320
                * 240
                * (
                    settings["ebr/frame_cnn"]["frames_per_clip"] * UCF101["train"]
                    + settings["ebr/frame_cnn"]["frames_per_video"] * THUMOS14["val"]
                )
                + 224 * 224 * settings["ebr/frame_cnn"]["frames_per_clip"] * UCF101["val"]
                + 320 * 240 * settings["ebr/frame_cnn"]["finetuning"]["clip_length"] * UCF101["train"]
                + 224 * 224 * settings["ebr/frame_cnn"]["finetuning"]["clip_length"] * UCF101["val"]
            )
            + HALF * FC7 * ((total(UCF101) + UCF101["test"]) * FRAMES["UCF101"] + total(THUMOS14) * FRAMES["THUMOS14"])
        ),
        # γ; and the maps of canvases of 450 × 450 pixels, which have 28 × 28 cells
        "aoa/region_encoder": HALF * CONV5 * (5 * total(COCO) + total(FLICKR30K)),
        "aoa/ensemble": HALF * CONV5 * 2 * (COCO["train"] + RESTVAL),  # and of the mirror images
        "aoa/proposals": total(COCO) * settings.get("aoa/proposals", {}).get("max_proposals", 100) * 5 * FLOAT,
    }
    if section == "cgvs/captioner":
        sizes = [parameters["S2VT, images"]]
    if section == "cgvs/captioners_crop":
        sizes = [parameters[f"{name}, images"] for name in ("S2VT", "soft attention", "supervised attention")]
    if section == "cgvs/captioners_video":
        sizes = 2 * [parameters["S2VT, videos"], parameters["soft attention, videos"]]
    if section == "ebr/captioner":
        sizes = 3 * [parameters["mean pooling, images"]] + [parameters["mean pooling, videos"]]
    if section == "ebr/frame_cnn":
        sizes = 2 * [parameters["VGG-16 on frames"]] + [parameters["LSTM on frames"]]
    if section == "ebr/action_lstm":
        sizes = 3 * [parameters["LSTM on frames"]]
    if section.startswith("aoa/") and "training" in config and config["training"]:
        name_of_models = f"areas of attention, {section.removeprefix('aoa/')}"
        sizes = seeds * [parameters[f"{name_of_models}/{name}"] for name in config["models"]]
        if section == "aoa/finetuned":
            sizes += seeds * [parameters["areas of attention, train_terms/full"]]
    return (features.get(section, 0) + FLOAT * sum(sizes)) / GB, 3 * FLOAT * max(sizes, default=0) / GB


# Measuring


class Recurrences:
    "Count the operations of torch.lstm, which the other counters count as one operator without operations."

    operations = calls = 0

    @classmethod
    def counting(cls, lstm: Callable) -> Callable:
        def counted(inputs, state, weights, *args):
            import torch

            items, length = inputs.shape[:2]
            # forward, and backward to inputs and to weights
            passes = 3 if torch.is_grad_enabled() and weights[0].requires_grad else 1
            cls.operations += passes * 2 * items * length * (weights[0].numel() + weights[1].numel())
            cls.calls += passes * 2 * length
            return lstm(inputs, state, weights, *args)

        return counted


def operations(call: Callable[[], object]) -> tuple[float, int]:
    "Return the floating-point operations of a call, by PyTorch's formulas, and the number of called operators."
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Operators(TorchDispatchMode):
        "Count the called operators; `FlopCounterMode` also counts by module, and fails in `torch.autograd.grad`."

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
    original, torch.lstm = torch.lstm, Recurrences.counting(torch.lstm)
    try:
        with Operators():
            call()
    finally:
        torch.lstm = original
    return Operators.flops + Recurrences.operations, Operators.calls + Recurrences.calls


def peak_memory() -> float:
    "Return the peak main memory of this process, GiB."
    from memory import highest_memory

    return highest_memory() / GIB


def host_call(name: str) -> Callable[[], object]:
    "Return a function that reads an image, reads 64 frames of a video, or computes the proposals of an image."
    import numpy as np
    from PIL import Image

    from cgsaliency.core.geometry import ImageCrop
    from cgsaliency.data.media import load_inputs, read_frames, to_input, write_video
    from cgsaliency.features.proposals import edge_boxes

    noise = np.random.default_rng(0).integers(0, 256, (64, 24, 32, 3), dtype=np.uint8)

    def random_image(k: int, width: int, height: int) -> Image.Image:
        return Image.fromarray(noise[k]).resize((width, height), Image.Resampling.BICUBIC)

    if name == PROPOSALS:
        from units import paper_settings

        max_proposals = paper_settings()["aoa/proposals"]["max_proposals"]
        return lambda: edge_boxes(random_image(0, 500, 375), max_proposals)
    folder = Path(tempfile.mkdtemp())
    if name == READ_IMAGE:
        random_image(0, 500, 375).save(folder / "0.jpg", quality=90)
        return lambda: load_inputs([folder / "0.jpg"], [ImageCrop.full(500, 375, 299)], threads=1)
    write_video(folder / "0.mp4", [random_image(k, 320, 240) for k in range(64)], 25)
    return lambda: [
        to_input(frame, ImageCrop.full(320, 240, 224)) for frame in read_frames(folder / "0.mp4", None).frames
    ]


def measure_unit(name: str, repeats: int) -> dict[str, float]:
    "Measure seconds, memory, operations and operators of a unit, in this process, on one core."
    import torch

    from units import paper_sizes, units

    torch.set_num_threads(1)
    start_memory = peak_memory()
    if name == "modules":
        return {"memory": 0.0}
    if name in HOST:
        call, per_call = host_call(name), 64 if name == READ_FRAME else 1
    else:
        unit = units(paper_sizes(images=4, frames=4))[name]
        call, per_call = unit.make(torch.device("cpu")), unit.per_call
    flops, operators = operations(call)  # this call is also the warm-up
    memory, times = peak_memory() - start_memory, []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return {
        "seconds": min(times) / per_call,
        "memory": memory,
        "parameters": getattr(call, "parameters", 0),
        **({} if name in HOST else {"operations": flops / per_call, "operators": operators / per_call}),
    }


def measure_in_process(name: str, repeats: int) -> dict[str, float]:
    "Return the result of `measure_unit` in a forked process, which shares the imported modules."
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(measure_unit(name, repeats)))
    process.start()
    while process.is_alive() and queue.empty():
        process.join(0.05)
    if queue.empty():
        sys.exit(f"unit '{name}' could not be measured: its process ended with {process.exitcode}")
    result = queue.get()
    process.join()
    return result | {"memory": result["memory"] + peak_memory()}  # the shared modules are not counted in the child


# Tables


def read_costs(path: Path = RESULTS / "costs.csv") -> dict[str, float]:
    "Read the values of the table by name."
    with path.open() as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def toybox_hours() -> dict[str, float]:
    "Read the hours of each notebook at scale `toybox`."
    with (RESULTS / "notebooks.csv").open() as file:
        return {
            row["name"].removeprefix("toybox: "): float(row["value"]) / 3600
            for row in csv.DictReader(file)
            if row["name"].startswith("toybox: ")
            and row["unit"] == "s"
            and not row["name"].endswith(", processor time")
        }


def rehearsed_memory() -> dict[str, float]:
    "Read each notebook's peak memory in `make rehearse`, which has the papers' networks and image sizes, GiB."
    path = RESULTS / "rehearsal.csv"
    if not path.is_file():
        return {}
    begin, end = "rehearsal: ", ", largest memory"
    rows = read_costs(path).items()
    return {
        name[len(begin) : -len(end)]: value for name, value in rows if name.startswith(begin) and name.endswith(end)
    }


def hours(unit_counts: Counts, seconds: dict[str, float], host: dict[str, float], readers: int = READERS) -> float:
    "Return the hours of a notebook on a device: computing or reading, whichever takes longer."
    device = sum(number * seconds[name] for name, number in unit_counts.items() if name not in HOST)
    reading = sum(number * host[name] for name, number in unit_counts.items() if name in HOST) / readers
    return max(device, reading) / 3600


def table(
    units: dict[str, dict[str, float]], settings: dict[str, dict], sections: list[str]
) -> Iterator[tuple[str, float, str, str]]:
    "Yield the rows of each notebook: hours, memory and disk space."
    cpu_seconds = {name: unit_costs["seconds"] for name, unit_costs in units.items() if "seconds" in unit_costs}
    toybox, rehearsed, units_by_section = toybox_hours(), rehearsed_memory(), counts(settings)
    gpu_seconds = {
        name: max(unit_costs["operations"] / FLOPS, unit_costs["operators"] / OPERATORS)
        for name, unit_costs in units.items()
        if "operations" in unit_costs
    }
    modules = units["modules"]["memory"]
    parameters = {
        name.removeprefix("training step, "): unit_costs["parameters"]
        for name, unit_costs in units.items()
        if unit_costs.get("parameters")
    }
    for section in sections:
        unit_counts = units_by_section.get(section, {})
        overhead = toybox.get(section, 0.1)  # hours
        cpu_hours = sum(number * cpu_seconds[name] for name, number in unit_counts.items()) / CORES / 3600
        needs_device = any(name not in HOST for name in unit_counts)
        # a checkpoint that is being written
        checkpoint = 2 * 3 * FLOAT * max([0.0, *(units[name].get("parameters", 0) for name in unit_counts)]) / GIB
        records = max([0.0, *(LOADED[name] for name in loads(section))])
        data = data_memory(section, settings) / GIB + records + checkpoint
        cpu_memory = max([modules, *(units[name]["memory"] for name in unit_counts)]) + data
        memory = max(cpu_memory, modules + (CUDA if needs_device else 0.0) + data, rehearsed.get(section, 0.0))
        disk, training = disk_space(section, settings, parameters)
        yield f"paper: {section}, two cores", cpu_hours + overhead, "h", "processor time here, on two cores"
        if needs_device:
            yield (
                f"paper: {section}, GPU",
                hours(unit_counts, gpu_seconds, cpu_seconds) + overhead,
                "h",
                "a GPU of 20e12 operations and 1e5 operators a second",
            )
        yield (
            f"paper: {section}, memory",
            memory,
            "GiB",
            "records, what is held, and the largest unit on a CPU" + ", or CUDA's libraries" * needs_device,
        )
        if disk:
            yield f"paper: {section}, disk", disk, "GB", "left when it is done"
        if training:
            yield f"paper: {section}, disk while it trains", training, "GB", "besides what is left"


def rows(units: dict[str, dict[str, float]]) -> Iterator[tuple[str, float, str, str]]:
    "Yield all rows of `results/costs.csv`."
    from units import paper_settings

    for name, unit_costs in units.items():
        if "seconds" in unit_costs:
            yield f"{name}: here", unit_costs["seconds"], "s", "processor time of one core"
        if unit_costs.get("operations"):
            yield f"{name}: operations", unit_costs["operations"] / 1e9, "10^9", ""
            yield f"{name}: operators called", unit_costs["operators"], "calls", ""
        yield f"{name}: memory", unit_costs["memory"], "GiB", "of a process that runs it on a CPU"
        if unit_costs.get("parameters"):
            yield f"{name}: trained parameters", unit_costs["parameters"] / 1e6, "10^6", ""
    settings = paper_settings()
    yield from table(units, settings, [name for name in settings if name != "all"])


COLUMNS = {
    "here": ("seconds", 1),
    "operations": ("operations", 1e9),
    "operators called": ("operators", 1),
    "memory": ("memory", 1),
    "trained parameters": ("parameters", 1e6),
}


def units_in(cost_table: dict[str, float]) -> dict[str, dict[str, float]]:
    "Return the costs of each unit in the rows of the table."
    units: dict[str, dict[str, float]] = {}
    for name, value in cost_table.items():
        unit, _, column = name.rpartition(": ")
        if column in COLUMNS and not name.startswith("paper: "):
            units.setdefault(unit, {})[COLUMNS[column][0]] = value * COLUMNS[column][1]
    for unit_costs in units.values():
        if "seconds" in unit_costs:
            unit_costs.setdefault("operations", 0.0)
            unit_costs.setdefault("operators", 0.0)
    return units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        default="",
        metavar="WORD",
        help="measure only units whose name contains WORD; the others are read from the table",
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="repeats of each unit, after a warm-up; the minimum counts"
    )
    parser.add_argument(
        "--counted", action="store_true", help="do not measure; compute the costs with the units of results/costs.csv"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "costs.csv")
    args = parser.parse_args()
    import torch

    from measure import write_rows
    from units import paper_sizes, units

    torch.set_num_threads(1)  # a process with more threads cannot be forked safely
    costs_by_unit = units_in(read_costs(args.out)) if args.out.exists() and (args.counted or args.only) else {}
    for name in () if args.counted else ("modules", *units(paper_sizes()), *HOST):
        if args.only not in name:
            continue
        costs_by_unit[name] = measure_in_process(name, args.repeats)
        print(name, {key: float(f"{value:.4g}") for key, value in costs_by_unit[name].items()}, flush=True)
    write_rows(args.out, f"{platform.machine()} CPU, one core", list(rows(costs_by_unit)))


if __name__ == "__main__":
    main()
