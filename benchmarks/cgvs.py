"""What CGVS costs beside the captioner's own passes: `python benchmarks/cgvs.py`.

64 regions and a sentence of 12 words, at the paper's sizes, against one teacher-forced pass over a batch of 64 sentences of 12 words
after 64 descriptors each; also the loop over descriptors one at a time and the same with Eq. 6.
"""
import torch

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.s2vt import S2VT
from measure import main, seconds


def measured(device: torch.device, repeats: int, words: int = 7000, regions: int = 64, length: int = 12):
    "Rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    model = S2VT(Vocabulary.of([names])).to(device).eval()
    side = int(regions ** 0.5)
    descriptors = Descriptors(torch.rand(regions, 2048, device=device), Grid.even(side, side, 299, 299), View.whole(500, 375, 299))
    sentence = names[:length]
    indices = model.encode_words(sentence)[0].to(device)
    batch, said = descriptors.values.expand(64, -1, -1).contiguous(), indices.expand(64, -1).contiguous()

    with torch.inference_mode():
        forced, spoken, batched, looped, divergence = seconds(device, repeats,
            lambda: model.log_probs(batch, said), lambda: model.log_probs(batch[:1, :1].expand(64, -1, -1), said),
            lambda: cgvs(model, descriptors, sentence), lambda: cgvs(model, descriptors, sentence, passes=1), lambda: cgvs(model, descriptors, sentence, form="divergence"))
    yield "teacher-forced pass, 64 sentences of 12 words after 64 descriptors", forced, "s", ""
    yield "cgvs, 64 regions and 12 words, in one batch", batched / forced, "ratio", "teacher-forced pass"
    yield "cgvs, the same in batches of one region", looped / forced, "ratio", "teacher-forced pass"
    yield "cgvs, the same with the divergence (Eq. 6)", divergence / forced, "ratio", "teacher-forced pass"
    yield "teacher-forced pass, 64 sentences of 12 words after 1 descriptor", spoken / forced, "ratio", "teacher-forced pass"


if __name__ == "__main__": main(__file__, __doc__, measured)
