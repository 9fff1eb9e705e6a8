"""All tables and figures: one rule per notebook. `make reproduce` calls it with a scale and folders."""

import re, shlex, sys
from functools import cache
from pathlib import Path

from cgsaliency.core.errors import InputError
from cgsaliency.reproduce.scale_config import (
    SCALES,
    load_plan,
    load_scale,
    merge_settings,
    merged_settings,
    notebook_of,
    scale_path,
)
from cgsaliency.reproduce.trained_weights import PUT_VARIABLE, TRAININGS, WEIGHTS_VARIABLE, ShippedWeights

SCALE = config.get("scale", "toybox")  # one of SCALES, or the path of a YAML file
NAME = Path(SCALE).stem
if not scale_path(SCALE).is_file():
    raise WorkflowError(f"there is no scale '{SCALE}': choose one of {', '.join(SCALES)}, or give a YAML file")
try:
    SETTINGS, PLAN_RESOURCES = load_scale(SCALE), load_plan(SCALE)  # read once; each rule uses its section
except InputError as error:
    raise WorkflowError(str(error))
SECTIONS = [name for name in SETTINGS if name != "all"]
ARTIFACTS, REPORTS = f"{config.get('artifacts', 'artifacts')}/{NAME}", f"{config.get('reports', 'reports')}/{NAME}"
SYNTHETIC = "synth_flickr30k" in SECTIONS
DATA = f"{ARTIFACTS}/data" if SYNTHETIC else str(config.get("data") or "")
if SYNTHETIC and config.get("data"):
    raise WorkflowError(f"scale {NAME} generates synthetic data: omit DATA, or choose SCALE=sample or SCALE=paper")
if not SYNTHETIC and not Path(DATA or "nowhere").is_dir():
    reason = f" ('{DATA}' is not a folder)" if DATA else ""
    command = f"make reproduce SCALE={NAME} DATA=folder"
    raise WorkflowError(f"scale {NAME} needs the folder of the data sets: {command}{reason}")

# What is trained is decided here, before anything runs: sections whose weights do not fit, or without weights.
WEIGHTS = str(config.get("weights") or "weights")  # a folder, or `none`: everything is trained
SHIPPED = ShippedWeights(
    SCALE, Path(DATA), None if WEIGHTS == "none" else Path(WEIGHTS), Path(".make/data_digests.json")
)
TRAINED = [section for section in TRAININGS if SHIPPED.trains(section) and SHIPPED.refusal(section)]
GROUPS = dict.fromkeys(name for section in TRAINED for name in TRAININGS[section].data)
DRAWN = [name for name in GROUPS if f"synth_{name}" in SECTIONS]  # data sets whose training data are drawn


@cache
def imported_modules(path: Path) -> list[Path]:
    "Return the modules of the package that the file imports."
    text = path.read_text(encoding="utf-8")
    names = [f"cgsaliency.{dotted}" for dotted in re.findall(r"\bcgsaliency\.([\w.]+) import", text)]
    for dots, dotted in re.findall(r"^from (\.+)([\w.]+) import", text, re.MULTILINE):
        names.append(".".join([*path.parent.parts[:len(path.parent.parts) - len(dots) + 1], dotted]))
    return [module for name in names if (module := Path(*name.split(".")).with_suffix(".py")).is_file()]


def code_files(section: str) -> list[str]:
    """Return the notebook and all modules of the package that it imports, directly or indirectly. A change of one of
    them makes the notebook run again."""
    files, queue = [], [Path(f"nbs/papers/{notebook_of(section)}.ipynb")]
    while queue:
        path = queue.pop()
        files.append(str(path))
        queue += [module for module in imported_modules(path) if str(module) not in files and module not in queue]
    return sorted(files)


def settings(section: str) -> dict:
    "Return the settings of a section, with those of all sections."
    return merged_settings(SETTINGS, section)


def setting(section: str, key: str, default=()):
    "Return a setting of a section, or the default if the scale does not have the section."
    return settings(section)[key] if section in SECTIONS else default


# The outputs of each notebook besides its report: `writes_artifacts` that others read, `tables` and `figures` named
# after it. `depends_on` names the notebooks that run before it, if the scale has them; `reads_rows` names those whose
# rows of a table it reads, if the scale has them; `extra_inputs` are files.
# Rules of a higher `priority` run first: the chain to the first table, then the longest chains, so that only short
# notebooks remain at the end. The resources that a notebook requests (GPUs, memory, disk, hours) are in the scale's
# plan, cgsaliency/reproduce/plans/<scale>.yaml, for scales that need more than a laptop.
TABLE, ROWS = [".csv", ".rows.parquet", ".claims.csv"], [".csv", ".rows.parquet"]
BACKBONE, CAPTIONER = "synth_flickr30k cgvs/backbone", "synth_flickr30k cgvs/backbone cgvs/captioner"
BENCHMARKS = "benchmarks/results"
THUMOS14_EXAMPLES = "abcdefgh"[: len(setting("ebr/thumos14_video", "examples"))]
THUMOS14_FIGURES = [letter + part for letter in THUMOS14_EXAMPLES for part in ("_paper", "_code", "_curves")]


def claims_of(paper: str) -> list[str]:
    "Return the files of the claims of a paper's tables."
    return [f"{REPORTS}/{paper}/{name}.claims.csv" for name in setting(f"{paper}/claims", "tables")]


PLAN = {
    "synth_flickr30k": dict(writes_artifacts=True, priority=9),
    "synth_coco": dict(writes_artifacts=True, priority=8),
    "synth_msvd_msrvtt": dict(writes_artifacts=True, priority=5),
    "synth_ucf101_thumos14": dict(writes_artifacts=True, priority=4),

    "cgvs/backbone": dict(depends_on="synth_flickr30k", writes_artifacts=True, priority=9),
    "cgvs/captioner": dict(depends_on=BACKBONE, writes_artifacts=True, priority=9),
    "cgvs/table1": dict(depends_on=CAPTIONER, tables=TABLE, figures=["", "_example", "_heatmaps"], priority=9),
    "cgvs/captioners_crop": dict(depends_on=BACKBONE, writes_artifacts=True, priority=3),
    "cgvs/table2": dict(
        depends_on=f"{BACKBONE} cgvs/captioners_crop", tables=TABLE, figures=["", "_maps"], priority=1
    ),
    "cgvs/captioners_video": dict(depends_on=f"{BACKBONE} synth_msvd_msrvtt", writes_artifacts=True, priority=3),
    "cgvs/table3": dict(
        depends_on=f"{BACKBONE} cgvs/captioners_crop cgvs/captioners_video", tables=TABLE, figures=[""]
    ),
    "cgvs/figure1": dict(
        depends_on=f"{CAPTIONER} cgvs/captioners_video",
        figures=["a", "b"] if "cgvs/captioners_video" in SECTIONS else ["a"],
    ),
    "cgvs/figure2": dict(depends_on=f"{CAPTIONER} cgvs/captioners_video", figures=[""]),
    "cgvs/figure3": dict(depends_on=CAPTIONER, figures=[""]),
    "cgvs/figure4": dict(
        depends_on=CAPTIONER, reads_rows="cgvs/table1", tables=TABLE, figures=["", "_common_scale"]
    ),
    "cgvs/figure5": dict(
        depends_on=f"{BACKBONE} cgvs/captioners_video", figures=["", "b"], tables=[".gif", ".mp4", *ROWS]
    ),
    "cgvs/protocol": dict(depends_on="synth_flickr30k", tables=[".csv"]),
    "cgvs/scan_order": dict(depends_on=CAPTIONER, writes_artifacts=True, tables=[".csv"], figures=[""]),
    "cgvs/error_analysis": dict(depends_on=CAPTIONER, tables=[".csv"], figures=[""]),

    "ebr/frame_cnn": dict(depends_on="synth_ucf101_thumos14", writes_artifacts=True, priority=4),
    "ebr/action_lstm": dict(depends_on="ebr/frame_cnn", writes_artifacts=True, tables=[".claims.csv"], priority=4),
    "ebr/table1": dict(depends_on="ebr/frame_cnn ebr/action_lstm", tables=TABLE, figures=["", "_maps"], priority=1),
    "ebr/table2": dict(depends_on="ebr/action_lstm", tables=TABLE, figures=[""]),
    "ebr/table3": dict(
        depends_on="ebr/frame_cnn ebr/action_lstm", tables=[*TABLE, ".scores.parquet"], figures=[""]
    ),
    "ebr/table4": dict(
        depends_on="synth_ucf101_thumos14",
        tables=TABLE,
        figures=[""],
        extra_inputs=[f"{REPORTS}/ebr/table3.scores.parquet"],
    ),
    "ebr/figure1": dict(depends_on="ebr/frame_cnn ebr/action_lstm", figures=["a", "b"]),
    "ebr/figure2": dict(figures=[""]),
    "ebr/figure3": dict(figures=[""]),
    "ebr/figure4": dict(figures=[""]),
    "ebr/figure5": dict(depends_on="ebr/frame_cnn ebr/action_lstm", figures=[""]),
    "ebr/figure6": dict(depends_on="ebr/frame_cnn ebr/action_lstm", figures=["a", "b"]),
    "ebr/figure7": dict(depends_on="ebr/action_lstm", tables=[".claims.csv"], figures=[""]),
    "ebr/evidence_over_time": dict(depends_on="ebr/action_lstm", figures=["", "_boundaries"]),
    "ebr/thumos14_video": dict(depends_on="ebr/frame_cnn ebr/action_lstm", figures=THUMOS14_FIGURES),
    "ebr/captioner": dict(depends_on=f"{BACKBONE} synth_msvd_msrvtt", writes_artifacts=True, priority=5),
    "ebr/table5": dict(depends_on=f"{CAPTIONER} ebr/captioner", tables=TABLE, figures=["", "_maps"], priority=1),
    "ebr/figure8": dict(
        depends_on=f"{BACKBONE} cgvs/captioners_video ebr/captioner", tables=ROWS, figures=["a", "b", "c", "d"]
    ),
    "ebr/figure9": dict(depends_on=f"{BACKBONE} ebr/captioner", figures=["", "_annotated"]),
    "ebr/section6": dict(
        depends_on=f"{CAPTIONER} cgvs/captioners_video ebr/captioner",
        tables=TABLE,
        extra_inputs=[f"{BENCHMARKS}/excitation_captions.csv"],
    ),
    "ebr/protocol": dict(depends_on="synth_ucf101_thumos14", tables=[".csv"], figures=[""]),
    "method_comparison": dict(
        depends_on=f"{BACKBONE} cgvs/captioners_crop ebr/captioner",
        tables=ROWS,
        figures=["", "_maps"],
        extra_inputs=[f"{BENCHMARKS}/explainers.csv"],
        priority=1,
    ),

    "aoa/proposals": dict(
        depends_on="synth_coco", writes_artifacts=True, priority=5, prepares="aoa/train_region_types aoa/finetuned"
    ),
    "aoa/region_encoder": dict(depends_on="synth_flickr30k synth_coco", writes_artifacts=True, priority=5),
    "aoa/parameterizations": dict(
        depends_on="synth_coco aoa/region_encoder aoa/train_terms",
        writes_artifacts=True,
        tables=ROWS,
        figures=[""],
        priority=2,
    ),
    "aoa/train_terms": dict(depends_on="synth_coco aoa/region_encoder", writes_artifacts=True, priority=5),
    "aoa/train_region_types": dict(
        depends_on="synth_coco aoa/proposals aoa/region_encoder aoa/train_terms", writes_artifacts=True, priority=5
    ),
    "aoa/finetuned": dict(
        depends_on="synth_coco aoa/proposals aoa/region_encoder aoa/train_terms aoa/train_region_types",
        writes_artifacts=True,
        priority=5,
    ),
    "aoa/ensemble": dict(depends_on="synth_coco aoa/region_encoder", writes_artifacts=True, priority=3),
    "aoa/flickr30k": dict(
        depends_on="synth_flickr30k aoa/region_encoder", writes_artifacts=True, tables=ROWS, priority=2
    ),
    "aoa/table1": dict(depends_on="synth_coco aoa/region_encoder aoa/train_terms", tables=TABLE, figures=[""]),
    "aoa/table2": dict(
        depends_on="synth_coco aoa/region_encoder aoa/train_terms aoa/train_region_types aoa/finetuned",
        tables=TABLE,
        figures=[""],
        reads_rows="aoa/table1",
        priority=1,
    ),
    "aoa/table3": dict(
        depends_on=f"{BACKBONE} cgvs/captioners_crop aoa/region_encoder aoa/flickr30k aoa/train_region_types",
        tables=TABLE,
        figures=["_maps"],
    ),
    "aoa/table4": dict(
        depends_on="synth_coco aoa/region_encoder aoa/finetuned aoa/ensemble",
        tables=TABLE,
        figures=[""],
        reads_rows="aoa/table2",
    ),
    "aoa/figure1": dict(figures=["", "b"]),
    "aoa/figure2": dict(figures=["", "b"]),
    "aoa/figure3": dict(figures=["", "b"]),
    "aoa/figure4": dict(
        depends_on="synth_coco aoa/proposals aoa/region_encoder aoa/train_terms aoa/train_region_types",
        tables=TABLE,
        figures=[""],
        reads_rows="aoa/table2",
    ),
    "aoa/figure5": dict(
        depends_on=(
            "synth_flickr30k synth_coco aoa/proposals aoa/region_encoder aoa/train_terms aoa/train_region_types"
            " aoa/flickr30k"
        ),
        tables=TABLE,
        figures=["", "_areas"],
    ),
    "aoa/timing": dict(tables=TABLE, extra_inputs=[f"{BENCHMARKS}/areas_of_attention.csv"]),

    "cgvs/claims": dict(
        tables=[".csv"],
        figures=[""],
        extra_inputs=[*claims_of("cgvs"), f"{BENCHMARKS}/attention.csv", f"{BENCHMARKS}/cgvs_video.csv"],
    ),
    "ebr/claims": dict(tables=[".csv"], figures=[""], extra_inputs=claims_of("ebr")),
    "aoa/claims": dict(tables=[".csv"], figures=[""], extra_inputs=claims_of("aoa")),
    "claims": dict(
        tables=[".csv"],
        figures=[""],
        extra_inputs=[
            "cgsaliency/reproduce/data/paper_claims.csv",
            "cgsaliency/reproduce/data/claim_causes.csv",
            *(f"{REPORTS}/{paper}/claims.csv" for paper in setting("claims", "papers")),
        ],
    ),
}
for source, sections in ((f"scale {NAME}", SECTIONS), (f"the plan of scale {NAME}", PLAN_RESOURCES or {})):
    if unknown := [section for section in sections if section != "all" and section not in PLAN]:
        raise WorkflowError(f"{source}: there is no notebook {', '.join(unknown)}: the Snakefile has {', '.join(PLAN)}")


def inputs_of(section: str) -> list[str]:
    "Return the input files of a section's rule."
    plan = PLAN[section]
    dependencies = [name for name in plan.get("depends_on", "").split() if name in SECTIONS]
    tables = [name for name in plan.get("reads_rows", "").split() if name in SECTIONS]
    return [
        *code_files(section),
        *(f"{ARTIFACTS}/{name}.json" for name in dependencies),
        *(f"{REPORTS}/{name}.rows.parquet" for name in tables),
        *plan.get("extra_inputs", ()),
        *weights_of(section),
    ]


def training_data_of(name: str) -> str:
    "Return the file that is written when the training data of a group of data sets are drawn."
    return f"{ARTIFACTS}/train_data/{name}.json"


def weights_of(section: str) -> list[str]:
    """Return the card of the weights that a section takes; if it trains, or prepares what others train with, the files
    of the training data."""
    if section in TRAININGS and SHIPPED.trains(section) and section not in TRAINED:
        return [str(SHIPPED.card_path(section))]
    training = [name for name in (section, *PLAN[section].get("prepares", "").split()) if name in TRAINED]
    groups = dict.fromkeys(group for name in training for group in TRAININGS[name].data)
    return [training_data_of(group) for group in groups if group in DRAWN]


def outputs_of(section: str) -> list[str]:
    "Return the output files of a section's rule."
    plan = PLAN[section]
    figures = [f"{name}.{ending}" for name in plan.get("figures", ()) for ending in ("png", "pdf")]
    artifacts = [f"{ARTIFACTS}/{section}.json"] * plan.get("writes_artifacts", False)
    endings = (".ipynb", ".html", *plan.get("tables", ()), *figures)
    return [f"{REPORTS}/{section}{ending}" for ending in endings] + artifacts


def lock(section: str) -> str:
    """Return the path of the section's lock file. A notebook of a killed run can continue for a moment: the next run
    waits for its lock. `cgsaliency status` reads the locks to list running notebooks."""
    return str(Path(REPORTS, section).with_name(f".{Path(section).name}.lock"))


# A notebook can have several `processes`, which share training and explaining.
LAUNCHER = (
    "-m accelerate.commands.launch --multi_gpu --num_machines 1 --main_process_port 0 --mixed_precision no"
    " --dynamo_backend no --num_processes"
)


def processes(section: str) -> int:
    "Return the number of processes of a section."
    return settings(section).get("processes", 1)


def cores(section: str) -> int:
    "Return the number of cores of a section."
    return processes(section) * settings(section).get("cores", settings(section)["threads"])


def plan_of(section: str) -> dict:
    "Return the planned resources of a section."
    return merge_settings(PLAN_RESOURCES.get("all", {}), PLAN_RESOURCES.get(section, {}))


def gpus(section: str) -> int:
    "Return the number of GPUs of a section."
    return processes(section) * plan_of(section)["gpu"] if PLAN_RESOURCES else 0


def run(section: str) -> str:
    "Return the command that runs a section."
    # waiting threads release their core to other notebooks
    put = str(config.get("put") or "")
    reads_weights = section in TRAININGS or "prepares" in PLAN[section]
    variables = [f"{WEIGHTS_VARIABLE}={shlex.quote(WEIGHTS)}"] if reads_weights else []
    if put and section in TRAINED:  # only these: another command would make a section run again
        variables.append(f"{PUT_VARIABLE}={shlex.quote(put)}")
    passive = cores(section) < processes(section) * settings(section)["threads"]
    python, module = sys.executable, "-m cgsaliency.reproduce"
    launcher = f"{module}.run_section"
    if processes(section) > 1:
        launcher = f"{LAUNCHER} {processes(section)} {module}.execute"
    return " ".join(
        [
            *(["OMP_WAIT_POLICY=PASSIVE"] if passive else []),
            *variables,
            *([f"{python} {module}.with_gpus {gpus(section)}"] if gpus(section) else []),
            f"{python} {module}.with_lock '{lock(section)}' {python}",
            f"{launcher} {section} '{SCALE}' '{DATA}' '{ARTIFACTS}' '{REPORTS}'",
            *map(shlex.quote, inputs_of(section)),
        ]
    )


def resources_of(section: str) -> dict[str, int]:
    "Return the resources of a section's rule, by Snakemake's names."
    if PLAN_RESOURCES is None:
        return {}
    plan = plan_of(section)
    return {
        "gpu": gpus(section),
        "mem_mb": 1024 * plan["memory_gib"],
        "disk_mb": 1000 * plan["disk_gb"],
        "runtime": 60 * plan["hours"],
    }


rule all:
    input: [f"{REPORTS}/{section}.ipynb" for section in SECTIONS], f"{REPORTS}/index.html"

# `make weights` trains the sections whose weights do not fit, and puts their files into place.
rule weights:
    input: [f"{ARTIFACTS}/{section}.json" for section in TRAINED if TRAININGS[section].travels]

DRAWING_CODE = [*map(str, sorted(Path("cgsaliency/synth").glob("*.py"))), "cgsaliency/reproduce/training_data.py"]
for name in DRAWN:
    rule:
        name: f"draw_{name}"
        input: DRAWING_CODE
        output: training_data_of(name)
        params:
            settings=str(settings(f"synth_{name}")),
            command=f"{sys.executable} -m cgsaliency.reproduce.training_data {name} '{SCALE}' '{ARTIFACTS}/train_data'",
        priority: 9
        shell: "{params.command}"

rule index:
    input:
        [f"{REPORTS}/{section}.ipynb" for section in SECTIONS],
        f"{REPORTS}/claims.csv",
        "cgsaliency/reproduce/index.py",
    output: f"{REPORTS}/index.html"
    shell: f"{sys.executable} -m cgsaliency.reproduce.index {NAME} '{REPORTS}' {' '.join(SECTIONS)}"

# Numbers depend on the number of threads, which the scale fixes. Each rule takes that many cores, or `cores` of the
# scale; as many rules run in parallel as CORES allows.
for section in SECTIONS:
    rule:
        name: section.replace("/", "_")
        input: inputs_of(section)
        output: outputs_of(section)
        params: settings=str(settings(section)), command=run(section)
        priority: PLAN[section].get("priority", 0)
        threads: cores(section)
        resources: **resources_of(section)
        shell: "{params.command}"
