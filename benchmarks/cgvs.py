"""The cost of CGVS relative to the captioner's forward passes: `python benchmarks/cgvs.py`.

64 regions and a caption of 12 words, at the paper's sizes, relative to one teacher-forced pass over a batch of 64
captions of 12 words after 64 descriptors each; also with one descriptor per batch, and with the loss of Eq. 6."""

import torch

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.s2vt import S2VT
from measure import main, seconds


def measured(device: torch.device, repeats: int, words: int = 7000, regions: int = 64, length: int = 12):
    "Yield rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    model = S2VT(Vocabulary.from_captions([names])).to(device).eval()
    side = int(regions**0.5)
    descriptors = Descriptors(
        torch.rand(regions, 2048, device=device), CellGrid.uniform(side, side, 299, 299), ImageCrop.full(500, 375, 299)
    )
    caption = names[:length]
    indices = model.encode_words(caption)[0].to(device)
    batch, token_ids = descriptors.features.expand(64, -1, -1).contiguous(), indices.expand(64, -1).contiguous()

    with torch.inference_mode():
        teacher_forced, one_descriptor, batched, looped, kl = seconds(
            device,
            repeats,
            lambda: model.log_probs(batch, token_ids),
            lambda: model.log_probs(batch[:1, :1].expand(64, -1, -1), token_ids),
            lambda: cgvs(model, descriptors, caption),
            lambda: cgvs(model, descriptors, caption, batch_size=1),
            lambda: cgvs(model, descriptors, caption, loss="kl"),
        )
    yield "teacher-forced pass, 64 sentences of 12 words after 64 descriptors", teacher_forced, "s", ""
    yield "cgvs, 64 regions and 12 words, in one batch", batched / teacher_forced, "ratio", "teacher-forced pass"
    yield "cgvs, the same in batches of one region", looped / teacher_forced, "ratio", "teacher-forced pass"
    yield "cgvs, the same with loss='kl' (Eq. 6)", kl / teacher_forced, "ratio", "teacher-forced pass"
    yield (
        "teacher-forced pass, 64 sentences of 12 words after 1 descriptor",
        one_descriptor / teacher_forced,
        "ratio",
        "teacher-forced pass",
    )


if __name__ == "__main__":
    main(__file__, __doc__, measured)
