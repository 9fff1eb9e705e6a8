"""What the scale `paper` costs: `python benchmarks/costs.py`.

One unit of each long job (a training step, a picture, a sentence) is run at the papers' sizes, which gives its seconds here; its floating-point operations and the operators it calls are counted.
How many units there are follows from the scale's settings and the official data sets' sizes. No GPU is timed: GPU hours are those of one that does 20 · 10¹² operations a second and 100,000 operators
a second, whichever takes longer, which is a rule of thumb and no measurement.
"""
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cgsaliency.data.text import Vocabulary
from cgsaliency.models.action import ActionRecogniser
from cgsaliency.models.areas import Areas, areas_loss
from cgsaliency.models.backbone import NETWORKS
from cgsaliency.models.captioning import captioning_loss
from cgsaliency.models.mean_pool import MeanPool
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss
from measure import seconds, write_rows

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {name: own for name, own in yaml.safe_load((ROOT / "nbs/papers/scales/paper.yaml").read_text()).items()}
FLOPS, OPERATORS = 20e12, 1e5
FLICKR30K, COCO, MSRVTT, MSVD = {"train": 29000, "all": 31014, "test": 1000}, {"train": 82783, "all": 123287, "test": 5000}, {"train": 6513, "all": 10000}, {"train": 1200, "all": 1970}
UCF101 = {"train": 9537, "all": 13320, "frames": 186, "with boxes": 3207}
THUMOS14 = {"val": 200, "all": 413, "frames": 6400}      # frames of a clip and of a film, about
WORDS, LENGTH = 7000, 20


class Operators(TorchDispatchMode):
    "Counts what is called."
    count = 0
    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        Operators.count += 1
        return operator(*args, **(kwargs or {}))


class Recurrences:
    "Counts what torch's own LSTM does, which the counters above take for one operator without operations."
    operations = calls = 0
    lstm = torch.lstm

    @classmethod
    def counted(cls, inputs, state, weights, *more):
        items, steps = inputs.shape[:2]
        passes = 3 if torch.is_grad_enabled() else 1      # forth, and back to inputs and to weights
        cls.operations += passes * 2 * items * steps * (weights[0].numel() + weights[1].numel())
        cls.calls += passes * 2 * steps
        return cls.lstm(inputs, state, weights, *more)


VOCABULARY = Vocabulary.of([[f"w{k}" for k in range(WORDS)]])


def trained(model, loss, batch):
    "A training step, without the optimiser."
    model.train()
    def step():
        model.zero_grad()
        loss(model, batch).backward()
    return step


def said(items, captions): return torch.randint(1, WORDS, (items, captions, LENGTH))


def units() -> dict:
    "What is run once, by name."
    torch.manual_seed(0)
    inception, vgg, picture = NETWORKS["inception_v3"].build().eval(), torchvision.models.vgg16(num_classes=102), torch.rand(4, 3, 224, 224)
    pictures, films = torch.rand(20, 64, 2048), torch.rand(5, 26, 2048)
    soft, s2vt, pool, aoa = (SETTINGS[name] for name in ("cgvs/crops", "cgvs/captioner", "ebr/captioner", "aoa/captioners"))
    reader, recogniser = S2VT(VOCABULARY, **s2vt["sizes"]).eval(), ActionRecogniser(tuple(f"c{k}" for k in range(101)), 4096, hidden=256)
    areas = Areas(Vocabulary.of([[f"w{k}" for k in range(6324)]]), 512, **aoa["sizes"], image=4096)
    clips, labels = torch.rand(24, 16, 4096), torch.randint(101, (24,))
    def seen(network, four): return lambda: torch.inference_mode()(network)(four)
    def cgvs():
        with torch.inference_mode(): reader.logits(reader.begin(torch.rand(64, 1, 2048)), torch.randint(1, WORDS, (64, 12)))
    def frames():
        vgg.train(); vgg.zero_grad()
        F.cross_entropy(vgg(picture), torch.randint(101, (4,))).backward()
    def recognised():
        recogniser.train(); recogniser.zero_grad()
        F.cross_entropy(recogniser.scores(clips).mean(1), labels).backward()
    return {
        "a picture through Inception v3": (seen(inception, torch.rand(4, 3, 299, 299)), 4),
        "a picture through VGG-16": (seen(vgg.eval(), picture), 4),
        "a picture through VGG-16, forth and back": (frames, 4),
        "a step of S2VT, 64 descriptors": (trained(S2VT(VOCABULARY, **s2vt["sizes"]), captioning_loss, (pictures, said(20, 5))), 1),
        "a step of soft attention, 64 descriptors": (trained(SoftAttention(VOCABULARY, 2048, **soft["soft"], max_words=24), attention_loss, (pictures, said(20, 5))), 1),
        "a step of S2VT, 26 frames": (trained(S2VT(VOCABULARY, **s2vt["sizes"]), captioning_loss, (films, said(5, 20))), 1),
        "a step of soft attention, 26 frames": (trained(SoftAttention(VOCABULARY, 2048, **soft["soft"], max_words=24), attention_loss, (films, said(5, 20))), 1),
        "a step of the captioner of means": (trained(MeanPool(VOCABULARY, 2048, **pool["sizes"]), captioning_loss, (pictures[:, :1], said(20, 5))), 1),
        "a step of areas of attention, 49 regions": (trained(areas, areas_loss, (torch.rand(10, 49, 512), said(10, 5).clamp(max=6323), torch.rand(10, 4096))), 1),
        "a step of the recogniser": (recognised, 1),
        "CGVS of a sentence": (cgvs, 1)}


def jobs() -> dict[str, dict[str, float]]:
    "How many units each notebook of the scale runs, in training and in explaining the test set."
    steps = lambda section, items, own=None: (own or SETTINGS[section]["training"])["epochs"] * items // (own or SETTINGS[section]["training"])["batch_size"]
    seeds = len(SETTINGS["aoa/captioners"]["seeds"])
    step, finetuned = "a step of areas of attention, 49 regions", steps("aoa/finetuned", COCO["train"]) * seeds
    films = {one: (MSRVTT[one] + MSVD[one]) for one in ("train", "all")}
    trained_frames = SETTINGS["ebr/frames"]["frames"] * UCF101["train"] + SETTINGS["ebr/frames"]["frames of films"] * THUMOS14["val"]
    images, clips = SETTINGS["ebr/captioner"]["images"]["training"], SETTINGS["ebr/captioner"]["films"]["training"]
    sentences = 5 * FLICKR30K["test"]
    return {
        "cgvs/backbone": {"a picture through Inception v3": FLICKR30K["all"]},
        "cgvs/captioner": {"a step of S2VT, 64 descriptors": steps("cgvs/captioner", FLICKR30K["train"])},
        "cgvs/crops": {"a picture through Inception v3": FLICKR30K["all"], "a step of S2VT, 64 descriptors": steps("cgvs/crops", FLICKR30K["train"]), "a step of soft attention, 64 descriptors": 2 * steps("cgvs/crops", FLICKR30K["train"])},
        "cgvs/films": {"a picture through Inception v3": 26 * films["all"], "a step of S2VT, 26 frames": steps("cgvs/films", films["train"]), "a step of soft attention, 26 frames": steps("cgvs/films", films["train"])},
        "cgvs/table1": {"CGVS of a sentence": sentences},
        "cgvs/table2": {"CGVS of a sentence": 2 * sentences},
        "ebr/frames": {"a picture through VGG-16, forth and back": SETTINGS["ebr/frames"]["training"]["epochs"] * trained_frames, "a picture through VGG-16": UCF101["all"] * UCF101["frames"] + THUMOS14["all"] * THUMOS14["frames"]},
        "ebr/recogniser": {"a step of the recogniser": 3 * steps("ebr/recogniser", UCF101["train"])},
        "ebr/table1": {"a picture through VGG-16, forth and back": 6 * UCF101["with boxes"] * SETTINGS["ebr/table1"]["frames"]},
        "ebr/captioner": {"a step of the captioner of means": 3 * steps("", FLICKR30K["train"], images) + steps("", MSRVTT["train"], clips)},
        "ebr/table5": {"CGVS of a sentence": sentences},
        "aoa/eyes": {"a picture through VGG-16": COCO["all"] + FLICKR30K["all"]},
        "aoa/captioners": {step: seeds * len(SETTINGS["aoa/captioners"]["models"]) * steps("aoa/captioners", COCO["train"])},
        "aoa/kinds": {step: seeds * len(SETTINGS["aoa/kinds"]["models"]) * steps("aoa/kinds", COCO["train"])},
        "aoa/numbers": {step: seeds * len(SETTINGS["aoa/numbers"]["models"]) * steps("aoa/numbers", COCO["train"])},
        "aoa/finetuned": {step: (len(SETTINGS["aoa/finetuned"]["models"]) + 1) * finetuned, "a picture through VGG-16, forth and back": len(SETTINGS["aoa/finetuned"]["models"]) * finetuned * SETTINGS["aoa/finetuned"]["training"]["batch_size"]},
        "aoa/flickr30k": {step: seeds * steps("aoa/flickr30k", FLICKR30K["train"])}}


def held() -> dict[str, tuple[float, float]]:
    "GB of features on disk, and the most that a notebook holds in memory, by paper: two bytes a number."
    cells, gamma, picture, features = 64 * 2048, 512 * 14 * 14, 3 * 224 * 224, 4096
    watched = UCF101["all"] * UCF101["frames"] + THUMOS14["all"] * THUMOS14["frames"]
    return {"cgvs": (2e-9 * (2 * FLICKR30K["all"] * cells + 26 * 2048 * (MSRVTT["all"] + MSVD["all"])), 2e-9 * FLICKR30K["train"] * cells),
            "ebr": (2e-9 * watched * features, 2e-9 * UCF101["train"] * UCF101["frames"] * features),
            "aoa": (2e-9 * (COCO["all"] + FLICKR30K["all"]) * gamma, 2e-9 * COCO["train"] * (gamma + picture))}


if __name__ == "__main__":
    torch.set_num_threads(2)
    found, torch.lstm = {}, Recurrences.counted
    for name, (work, number) in units().items():
        took, = seconds(torch.device("cpu"), 3, work)
        Operators.count = Recurrences.operations = Recurrences.calls = 0
        with FlopCounterMode(display=False) as flops, Operators(): work()
        found[name] = (took / number, (flops.get_total_flops() + Recurrences.operations) / number, (Operators.count + Recurrences.calls) / number)
    rows = [row for name, (took, flops, operators) in found.items() for row in (
        (f"{name}: here", took, "s", ""), (f"{name}: operations", flops / 1e9, "10^9", ""), (f"{name}: operators called", round(operators), "calls", ""))]
    for section, wanted in jobs().items():
        here = sum(found[name][0] * number for name, number in wanted.items()) / 3600
        gpu = sum(max(found[name][1] / FLOPS, found[name][2] / OPERATORS) * number for name, number in wanted.items()) / 3600
        rows += [(f"paper: {section}", here, "h", "on this machine"), (f"paper: {section}, GPU", gpu, "h", "a GPU of 20e12 operations and 1e5 operators a second")]
    for paper, (disk, memory) in held().items(): rows += [(f"paper: {paper}, features on disk", disk, "GB", ""), (f"paper: {paper}, in memory at once", memory, "GB", "")]
    write_rows(ROOT / "benchmarks/results/costs.csv", f"{platform.machine()} CPU, {torch.get_num_threads()} threads", rows)
