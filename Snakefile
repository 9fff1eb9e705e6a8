"""Every table and figure: one rule a notebook, run by papermill. `make reproduce` calls it with a scale and folders."""
import re, sys
from functools import cache
from pathlib import Path

import yaml

NAME = config.get("scale", "toybox")
SCALE = f"nbs/papers/scales/{NAME}.yaml"
if not Path(SCALE).is_file(): raise WorkflowError(f"there is no scale '{NAME}': choose one of {', '.join(sorted(path.stem for path in Path(SCALE).parent.glob('*.yaml')))}")
SETTINGS = yaml.safe_load(Path(SCALE).read_text())      # read once: each rule asks for its own
SECTIONS = [name for name in SETTINGS if name != "all"]
ARTIFACTS, REPORTS = f"{config.get('artifacts', 'artifacts')}/{NAME}", f"{config.get('reports', 'reports')}/{NAME}"
DRAWN = "toybox" in SECTIONS
DATA = f"{ARTIFACTS}/data" if DRAWN else str(config.get("data") or "")
if DRAWN and config.get("data"): raise WorkflowError(f"scale {NAME} draws its own data: leave DATA out, or choose SCALE=sample or SCALE=paper")
if not DRAWN and not Path(DATA or "nowhere").is_dir(): raise WorkflowError(f"scale {NAME} needs the folder of the data sets: make reproduce SCALE={NAME} DATA=folder" + (f" ('{DATA}' is none)" if DATA else ""))


@cache
def imported(path: Path) -> list[Path]:
    "The modules of the package that the file imports."
    text = path.read_text(encoding="utf-8")
    names = [f"cgsaliency.{dotted}" for dotted in re.findall(r"\bcgsaliency\.([\w.]+) import", text)]
    for dots, dotted in re.findall(r"^from (\.+)([\w.]+) import", text, re.MULTILINE):
        names.append(".".join([*path.parent.parts[:len(path.parent.parts) - len(dots) + 1], dotted]))
    return [module for name in names if (module := Path(*name.split(".")).with_suffix(".py")).is_file()]

def code(section: str) -> list[str]:
    "The notebook and every module of the package that it imports, directly or not: when one changes, the notebook runs again."
    found, waiting = [], [Path(f"nbs/papers/{section}.ipynb")]
    while waiting:
        path = waiting.pop()
        found.append(str(path))
        waiting += [module for module in imported(path) if str(module) not in found and module not in waiting]
    return sorted(found)

def settings(section: str) -> dict: return {**(SETTINGS.get("all") or {}), **SETTINGS[section]}


def threads_of(section: str) -> int: return settings(section)["threads"] if section in SECTIONS else 1
def chosen(section: str) -> str: return str(settings(section))
def made(*names: str) -> list[str]: return [f"{ARTIFACTS}/{name}.json" for name in names]
def pages(section: str) -> list[str]: return [f"{REPORTS}/{section}.ipynb", f"{REPORTS}/{section}.html"]
def table(section: str) -> list[str]: return [f"{REPORTS}/{section}.{ending}" for ending in ("csv", "rows.parquet", "claims.csv")]
def pictures(*names: str) -> list[str]: return [f"{REPORTS}/{name}.{ending}" for name in names for ending in ("png", "pdf")]


# A notebook of a killed run may live on for a moment: the lock makes the next one wait for it.
def run(section: str) -> str:
    return f"{sys.executable} tools/alone.py .make/jobs/{NAME}.{section.replace('/', '.')}.lock {sys.executable} tools/execute.py {section} {SCALE} '{DATA}' '{ARTIFACTS}' '{REPORTS}'"


DATA_MADE = made("toybox") if DRAWN else []
COCO_MADE = made("toycoco") if DRAWN else []
FILMS_MADE = made("toyfilms") if DRAWN else []
ACTS_MADE = made("toyacts") if DRAWN else []
KINDS = made("aoa/kinds") if "aoa/kinds" in SECTIONS else []   # captioners of MSCOCO, where there are enough pictures to train on
FILMS = made("cgvs/films") if "cgvs/films" in SECTIONS else []   # captioners of films, where the data have any

rule all:
    input: [f"{REPORTS}/{section}.ipynb" for section in SECTIONS], f"{REPORTS}/index.html"

rule index:
    input: [f"{REPORTS}/{section}.ipynb" for section in SECTIONS], f"{REPORTS}/claims.csv", "tools/index.py"
    output: f"{REPORTS}/index.html"
    shell: f"{sys.executable} tools/index.py {NAME} '{REPORTS}' {' '.join(SECTIONS)}"

# Numbers depend on the threads of a notebook, which its scale fixes: each rule takes as many, and as many rules as CORES allow run side by side.

rule toybox:
    input: code("toybox")
    output: pages("toybox"), made("toybox")
    params: chosen("toybox") if DRAWN else ""
    threads: threads_of("toybox")
    shell: run("toybox")

rule toycoco:
    input: code("toycoco")
    output: pages("toycoco"), made("toycoco")
    params: chosen("toycoco") if DRAWN else ""
    threads: threads_of("toycoco")
    shell: run("toycoco")

rule toyfilms:
    input: code("toyfilms")
    output: pages("toyfilms"), made("toyfilms")
    params: chosen("toyfilms") if DRAWN else ""
    threads: threads_of("toyfilms")
    shell: run("toyfilms")

rule toyacts:
    input: code("toyacts")
    output: pages("toyacts"), made("toyacts")
    params: chosen("toyacts") if DRAWN else ""
    threads: threads_of("toyacts")
    shell: run("toyacts")

rule cgvs_backbone:
    input: code("cgvs/backbone"), DATA_MADE
    output: pages("cgvs/backbone"), made("cgvs/backbone")
    params: chosen("cgvs/backbone")
    threads: threads_of("cgvs/backbone")
    shell: run("cgvs/backbone")

# The longest chains go first: what is left at the end should be short.
rule cgvs_captioner:
    priority: 1
    input: code("cgvs/captioner"), DATA_MADE, made("cgvs/backbone")
    output: pages("cgvs/captioner"), made("cgvs/captioner")
    params: chosen("cgvs/captioner")
    threads: threads_of("cgvs/captioner")
    shell: run("cgvs/captioner")

rule cgvs_table1:
    input: code("cgvs/table1"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner")
    output: pages("cgvs/table1"), table("cgvs/table1"), pictures("cgvs/table1", "cgvs/table1_example", "cgvs/table1_heatmaps")
    params: chosen("cgvs/table1")
    threads: threads_of("cgvs/table1")
    shell: run("cgvs/table1")

rule cgvs_crops:
    priority: 3
    input: code("cgvs/crops"), DATA_MADE, made("cgvs/backbone")
    output: pages("cgvs/crops"), made("cgvs/crops")
    params: chosen("cgvs/crops")
    threads: threads_of("cgvs/crops")
    shell: run("cgvs/crops")

rule cgvs_table2:
    input: code("cgvs/table2"), DATA_MADE, made("cgvs/backbone", "cgvs/crops")
    output: pages("cgvs/table2"), table("cgvs/table2"), pictures("cgvs/table2", "cgvs/table2_maps")
    params: chosen("cgvs/table2")
    threads: threads_of("cgvs/table2")
    shell: run("cgvs/table2")

rule cgvs_table3:
    input: code("cgvs/table3"), DATA_MADE, made("cgvs/backbone", "cgvs/crops"), FILMS
    output: pages("cgvs/table3"), table("cgvs/table3"), pictures("cgvs/table3")
    params: chosen("cgvs/table3")
    threads: threads_of("cgvs/table3")
    shell: run("cgvs/table3")

rule cgvs_figure1:
    input: code("cgvs/figure1"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner"), FILMS
    output: pages("cgvs/figure1"), pictures("cgvs/figure1a", *(["cgvs/figure1b"] if FILMS else []))
    params: chosen("cgvs/figure1")
    threads: threads_of("cgvs/figure1")
    shell: run("cgvs/figure1")

rule cgvs_figure3:
    input: code("cgvs/figure3"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner")
    output: pages("cgvs/figure3"), pictures("cgvs/figure3")
    params: chosen("cgvs/figure3")
    threads: threads_of("cgvs/figure3")
    shell: run("cgvs/figure3")

rule cgvs_figure4:
    input: code("cgvs/figure4"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner")
    output: pages("cgvs/figure4"), pictures("cgvs/figure4")
    params: chosen("cgvs/figure4")
    threads: threads_of("cgvs/figure4")
    shell: run("cgvs/figure4")

rule cgvs_claims:
    input: code("cgvs/claims"), [f"{REPORTS}/cgvs/{name}.claims.csv" for name in settings("cgvs/claims")["tables"]], ["benchmarks/results/attention.csv", "benchmarks/results/spacetime.csv"]
    output: pages("cgvs/claims"), f"{REPORTS}/cgvs/claims.csv", pictures("cgvs/claims")
    params: chosen("cgvs/claims")
    threads: threads_of("cgvs/claims")
    shell: run("cgvs/claims")

if FILMS:
    rule cgvs_films:
        priority: 2
        input: code("cgvs/films"), FILMS_MADE, made("cgvs/backbone")
        output: pages("cgvs/films"), FILMS
        params: chosen("cgvs/films")
        threads: threads_of("cgvs/films")
        shell: run("cgvs/films")

    rule cgvs_figure5:
        input: code("cgvs/figure5"), made("cgvs/backbone"), FILMS
        output: pages("cgvs/figure5"), pictures("cgvs/figure5", "cgvs/figure5b"), [f"{REPORTS}/cgvs/figure5.{ending}" for ending in ("gif", "mp4", "csv", "rows.parquet")]
        params: chosen("cgvs/figure5")
        threads: threads_of("cgvs/figure5")
        shell: run("cgvs/figure5")

if "cgvs/protocol" in SECTIONS:
    rule cgvs_protocol:
        input: code("cgvs/protocol"), DATA_MADE
        output: pages("cgvs/protocol"), f"{REPORTS}/cgvs/protocol.csv"
        params: chosen("cgvs/protocol")
        threads: threads_of("cgvs/protocol")
        shell: run("cgvs/protocol")

if "cgvs/limits" in SECTIONS:
    rule cgvs_limits:
        input: code("cgvs/limits"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner")
        output: pages("cgvs/limits"), f"{REPORTS}/cgvs/limits.csv", pictures("cgvs/limits")
        params: chosen("cgvs/limits")
        threads: threads_of("cgvs/limits")
        shell: run("cgvs/limits")

rule cgvs_figure2:
    input: code("cgvs/figure2"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner"), FILMS
    output: pages("cgvs/figure2"), pictures("cgvs/figure2")
    params: chosen("cgvs/figure2")
    threads: threads_of("cgvs/figure2")
    shell: run("cgvs/figure2")

FRAMES = made("ebr/frames") if "ebr/frames" in SECTIONS else []   # the network for frames, where there are clips to see

if FRAMES:
    rule ebr_frames:
        input: code("ebr/frames"), ACTS_MADE
        output: pages("ebr/frames"), FRAMES
        params: chosen("ebr/frames")
        threads: threads_of("ebr/frames")
        shell: run("ebr/frames")

    rule ebr_table1:
        input: code("ebr/table1"), FRAMES, made("ebr/recogniser")
        output: pages("ebr/table1"), table("ebr/table1"), pictures("ebr/table1", "ebr/table1_maps")
        params: chosen("ebr/table1")
        threads: threads_of("ebr/table1")
        shell: run("ebr/table1")

    rule ebr_table3:
        input: code("ebr/table3"), FRAMES, made("ebr/recogniser")
        output: pages("ebr/table3"), table("ebr/table3"), pictures("ebr/table3")
        params: chosen("ebr/table3")
        threads: threads_of("ebr/table3")
        shell: run("ebr/table3")

    rule ebr_table4:
        input: code("ebr/table4"), FRAMES, made("ebr/recogniser")
        output: pages("ebr/table4"), table("ebr/table4"), pictures("ebr/table4")
        params: chosen("ebr/table4")
        threads: threads_of("ebr/table4")
        shell: run("ebr/table4")

    rule ebr_figure1:
        input: code("ebr/figure1"), FRAMES, made("ebr/recogniser")
        output: pages("ebr/figure1"), pictures("ebr/figure1")
        params: chosen("ebr/figure1")
        threads: threads_of("ebr/figure1")
        shell: run("ebr/figure1")

    rule ebr_figure5:
        input: code("ebr/figure5"), FRAMES, made("ebr/recogniser")
        output: pages("ebr/figure5"), pictures(*(f"ebr/figure5{'abcdefgh'[k]}" for k in range(len(settings("ebr/figure5")["shown"]))))
        params: chosen("ebr/figure5")
        threads: threads_of("ebr/figure5")
        shell: run("ebr/figure5")

    rule ebr_figure6:
        input: code("ebr/figure6"), FRAMES, made("ebr/recogniser")
        output: pages("ebr/figure6"), pictures(*(f"ebr/figure6{'abcdefgh'[k]}{part}" for k in range(len(settings("ebr/figure6")["shown"])) for part in ("", "_curve")))
        params: chosen("ebr/figure6")
        threads: threads_of("ebr/figure6")
        shell: run("ebr/figure6")

rule ebr_recogniser:
    input: code("ebr/recogniser"), FRAMES
    output: pages("ebr/recogniser"), made("ebr/recogniser"), f"{REPORTS}/ebr/recogniser.claims.csv"
    params: chosen("ebr/recogniser")
    threads: threads_of("ebr/recogniser")
    shell: run("ebr/recogniser")

rule ebr_table2:
    input: code("ebr/table2"), made("ebr/recogniser")
    output: pages("ebr/table2"), table("ebr/table2"), pictures("ebr/table2")
    params: chosen("ebr/table2")
    threads: threads_of("ebr/table2")
    shell: run("ebr/table2")

rule ebr_figure2:
    input: code("ebr/figure2")
    output: pages("ebr/figure2"), pictures("ebr/figure2")
    params: chosen("ebr/figure2")
    threads: threads_of("ebr/figure2")
    shell: run("ebr/figure2")

rule ebr_figure3:
    input: code("ebr/figure3")
    output: pages("ebr/figure3"), pictures("ebr/figure3")
    params: chosen("ebr/figure3")
    threads: threads_of("ebr/figure3")
    shell: run("ebr/figure3")

rule ebr_figure4:
    input: code("ebr/figure4")
    output: pages("ebr/figure4"), pictures("ebr/figure4")
    params: chosen("ebr/figure4")
    threads: threads_of("ebr/figure4")
    shell: run("ebr/figure4")

rule ebr_figure7:
    input: code("ebr/figure7"), made("ebr/recogniser")
    output: pages("ebr/figure7"), pictures("ebr/figure7"), f"{REPORTS}/ebr/figure7.claims.csv"
    params: chosen("ebr/figure7")
    threads: threads_of("ebr/figure7")
    shell: run("ebr/figure7")

rule ebr_captioner:
    priority: 2
    input: code("ebr/captioner"), DATA_MADE, FILMS_MADE, made("cgvs/backbone")
    output: pages("ebr/captioner"), made("ebr/captioner")
    params: chosen("ebr/captioner")
    threads: threads_of("ebr/captioner")
    shell: run("ebr/captioner")

rule ebr_table5:
    input: code("ebr/table5"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner", "ebr/captioner")
    output: pages("ebr/table5"), table("ebr/table5"), pictures("ebr/table5", "ebr/table5_maps")
    params: chosen("ebr/table5")
    threads: threads_of("ebr/table5")
    shell: run("ebr/table5")

rule ebr_figure9:
    input: code("ebr/figure9"), DATA_MADE, made("cgvs/backbone", "ebr/captioner")
    output: pages("ebr/figure9"), pictures("ebr/figure9")
    params: chosen("ebr/figure9")
    threads: threads_of("ebr/figure9")
    shell: run("ebr/figure9")

rule ebr_section6:
    input: code("ebr/section6"), DATA_MADE, made("cgvs/backbone", "cgvs/captioner", "ebr/captioner"), FILMS, "benchmarks/results/words.csv"
    output: pages("ebr/section6"), table("ebr/section6")
    params: chosen("ebr/section6")
    threads: threads_of("ebr/section6")
    shell: run("ebr/section6")

if FILMS:
    rule ebr_figure8:
        input: code("ebr/figure8"), made("cgvs/backbone", "ebr/captioner"), FILMS
        output: pages("ebr/figure8"), pictures("ebr/figure8", "ebr/figure8b"), [f"{REPORTS}/ebr/figure8.{ending}" for ending in ("csv", "rows.parquet")]
        params: chosen("ebr/figure8")
        threads: threads_of("ebr/figure8")
        shell: run("ebr/figure8")

rule face_to_face:
    input: code("face_to_face"), DATA_MADE, made("cgvs/backbone", "cgvs/crops", "ebr/captioner"), "benchmarks/results/explainers.csv"
    output: pages("face_to_face"), [f"{REPORTS}/face_to_face.{ending}" for ending in ("csv", "rows.parquet")], pictures("face_to_face", "face_to_face_maps")
    params: chosen("face_to_face")
    threads: threads_of("face_to_face")
    shell: run("face_to_face")

rule ebr_claims:
    input: code("ebr/claims"), [f"{REPORTS}/ebr/{name}.claims.csv" for name in settings("ebr/claims")["tables"]]
    output: pages("ebr/claims"), f"{REPORTS}/ebr/claims.csv", pictures("ebr/claims")
    params: chosen("ebr/claims")
    threads: threads_of("ebr/claims")
    shell: run("ebr/claims")

if "ebr/protocol" in SECTIONS:
    rule ebr_protocol:
        input: code("ebr/protocol"), ACTS_MADE
        output: pages("ebr/protocol"), f"{REPORTS}/ebr/protocol.csv", pictures("ebr/protocol")
        params: chosen("ebr/protocol")
        threads: threads_of("ebr/protocol")
        shell: run("ebr/protocol")

rule aoa_figure1:
    input: code("aoa/figure1")
    output: pages("aoa/figure1"), pictures("aoa/figure1", "aoa/figure1b")
    params: chosen("aoa/figure1")
    threads: threads_of("aoa/figure1")
    shell: run("aoa/figure1")

rule aoa_figure2:
    input: code("aoa/figure2")
    output: pages("aoa/figure2"), pictures("aoa/figure2", "aoa/figure2b")
    params: chosen("aoa/figure2")
    threads: threads_of("aoa/figure2")
    shell: run("aoa/figure2")

rule aoa_figure3:
    input: code("aoa/figure3")
    output: pages("aoa/figure3"), pictures("aoa/figure3", "aoa/figure3b")
    params: chosen("aoa/figure3")
    threads: threads_of("aoa/figure3")
    shell: run("aoa/figure3")

if "aoa/eyes" in SECTIONS:
    rule aoa_eyes:
        priority: 3
        input: code("aoa/eyes"), DATA_MADE, COCO_MADE
        output: pages("aoa/eyes"), made("aoa/eyes")
        params: chosen("aoa/eyes")
        threads: threads_of("aoa/eyes")
        shell: run("aoa/eyes")

    rule aoa_flickr30k:
        priority: 2
        input: code("aoa/flickr30k"), DATA_MADE, made("aoa/eyes")
        output: pages("aoa/flickr30k"), made("aoa/flickr30k"), [f"{REPORTS}/aoa/flickr30k.{ending}" for ending in ("csv", "rows.parquet")]
        params: chosen("aoa/flickr30k")
        threads: threads_of("aoa/flickr30k")
        shell: run("aoa/flickr30k")

    rule aoa_table3:
        input: code("aoa/table3"), DATA_MADE, made("aoa/eyes", "aoa/flickr30k", "cgvs/backbone", "cgvs/crops"), KINDS
        output: pages("aoa/table3"), table("aoa/table3"), pictures("aoa/table3_maps")
        params: chosen("aoa/table3")
        threads: threads_of("aoa/table3")
        shell: run("aoa/table3")

    rule aoa_figure5:
        input: code("aoa/figure5"), DATA_MADE, made("aoa/eyes", "aoa/flickr30k")
        output: pages("aoa/figure5"), pictures("aoa/figure5_areas")
        params: chosen("aoa/figure5")
        threads: threads_of("aoa/figure5")
        shell: run("aoa/figure5")

if "aoa/captioners" in SECTIONS:
    rule aoa_captioners:
        priority: 2
        input: code("aoa/captioners"), COCO_MADE, made("aoa/eyes")
        output: pages("aoa/captioners"), made("aoa/captioners")
        params: chosen("aoa/captioners")
        threads: threads_of("aoa/captioners")
        shell: run("aoa/captioners")

    rule aoa_kinds:
        priority: 2
        input: code("aoa/kinds"), COCO_MADE, made("aoa/eyes")
        output: pages("aoa/kinds"), made("aoa/kinds")
        params: chosen("aoa/kinds")
        threads: threads_of("aoa/kinds")
        shell: run("aoa/kinds")

    rule aoa_numbers:
        input: code("aoa/numbers"), COCO_MADE, made("aoa/eyes")
        output: pages("aoa/numbers"), made("aoa/numbers")
        params: chosen("aoa/numbers")
        threads: threads_of("aoa/numbers")
        shell: run("aoa/numbers")

    rule aoa_finetuned:
        priority: 2
        input: code("aoa/finetuned"), COCO_MADE, made("aoa/eyes"), made("aoa/captioners", "aoa/kinds")
        output: pages("aoa/finetuned"), made("aoa/finetuned")
        params: chosen("aoa/finetuned")
        threads: threads_of("aoa/finetuned")
        shell: run("aoa/finetuned")

    rule aoa_table1:
        input: code("aoa/table1"), COCO_MADE, made("aoa/eyes"), made("aoa/captioners")
        output: pages("aoa/table1"), table("aoa/table1"), pictures("aoa/table1")
        params: chosen("aoa/table1")
        threads: threads_of("aoa/table1")
        shell: run("aoa/table1")

    rule aoa_table2:
        input: code("aoa/table2"), COCO_MADE, made("aoa/eyes"), made("aoa/captioners", "aoa/kinds", "aoa/finetuned")
        output: pages("aoa/table2"), table("aoa/table2"), pictures("aoa/table2")
        params: chosen("aoa/table2")
        threads: threads_of("aoa/table2")
        shell: run("aoa/table2")

    rule aoa_table4:
        input: code("aoa/table4"), COCO_MADE, made("aoa/eyes"), made("aoa/finetuned")
        output: pages("aoa/table4"), table("aoa/table4"), pictures("aoa/table4")
        params: chosen("aoa/table4")
        threads: threads_of("aoa/table4")
        shell: run("aoa/table4")

    rule aoa_figure4:
        input: code("aoa/figure4"), COCO_MADE, made("aoa/eyes"), made("aoa/captioners", "aoa/kinds", "aoa/numbers")
        output: pages("aoa/figure4"), table("aoa/figure4"), pictures("aoa/figure4")
        params: chosen("aoa/figure4")
        threads: threads_of("aoa/figure4")
        shell: run("aoa/figure4")

rule aoa_timing:
    input: code("aoa/timing"), "benchmarks/results/areas.csv"
    output: pages("aoa/timing"), table("aoa/timing")
    params: chosen("aoa/timing")
    threads: threads_of("aoa/timing")
    shell: run("aoa/timing")

rule aoa_claims:
    input: code("aoa/claims"), [f"{REPORTS}/aoa/{name}.claims.csv" for name in settings("aoa/claims")["tables"]]
    output: pages("aoa/claims"), f"{REPORTS}/aoa/claims.csv", pictures("aoa/claims")
    params: chosen("aoa/claims")
    threads: threads_of("aoa/claims")
    shell: run("aoa/claims")

rule claims:
    input: code("claims"), "cgsaliency/reproduce/claimed.csv", [f"{REPORTS}/{paper}/claims.csv" for paper in settings("claims")["papers"]]
    output: pages("claims"), f"{REPORTS}/claims.csv", pictures("claims")
    params: chosen("claims")
    threads: threads_of("claims")
    shell: run("claims")
