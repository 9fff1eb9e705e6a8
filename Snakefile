"""Every table and figure: one rule a notebook, run by papermill. `make reproduce` calls it with a scale and folders."""
import re, shlex, sys
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
def of(section: str, key: str, other=()): return settings(section)[key] if section in SECTIONS else other


# What each notebook does besides its page: `trains` what others take up, leaves `files` and `pictures` of its own name; `after` which others it runs, where the scale has them; what it `reads` besides.
# Rules of a higher `priority` go first: the chain to the first table, then the longest chains, so that what is left at the end is short.
# On a cluster the official data ask for `gpu`s, `gib` of memory and `hours`: 4 and 16 where nothing is said.
TABLE, ROWS = [".csv", ".rows.parquet", ".claims.csv"], [".csv", ".rows.parquet"]
SEEN, SPOKEN = "toybox cgvs/backbone", "toybox cgvs/backbone cgvs/captioner"
LONG = dict(gpu=1, gib=64, hours=24)
BENCHES = "benchmarks/results"
PLAN = {
    "toybox": dict(trains=True, priority=9),
    "toycoco": dict(trains=True, priority=8),
    "toyfilms": dict(trains=True, priority=5),
    "toyacts": dict(trains=True, priority=4),

    "cgvs/backbone": dict(after="toybox", trains=True, gpu=1, gib=64, hours=12, priority=9),
    "cgvs/captioner": dict(after=SEEN, trains=True, **LONG, priority=9),
    "cgvs/table1": dict(after=SPOKEN, files=TABLE, pictures=["", "_example", "_heatmaps"], gpu=1, hours=12, priority=9),
    "cgvs/crops": dict(after=SEEN, trains=True, **LONG, priority=3),
    "cgvs/table2": dict(after=f"{SEEN} cgvs/crops", files=TABLE, pictures=["", "_maps"], gpu=1, hours=12, priority=1),
    "cgvs/films": dict(after=f"{SEEN} toyfilms", trains=True, **LONG, priority=3),
    "cgvs/table3": dict(after=f"{SEEN} cgvs/crops cgvs/films", files=TABLE, pictures=[""], gpu=1, hours=12),
    "cgvs/figure1": dict(after=f"{SPOKEN} cgvs/films", pictures=["a", "b"] if "cgvs/films" in SECTIONS else ["a"]),
    "cgvs/figure2": dict(after=f"{SPOKEN} cgvs/films", pictures=[""]),
    "cgvs/figure3": dict(after=SPOKEN, pictures=[""]),
    "cgvs/figure4": dict(after=SPOKEN, pictures=[""]),
    "cgvs/figure5": dict(after=f"{SEEN} cgvs/films", pictures=["", "b"], files=[".gif", ".mp4", *ROWS]),
    "cgvs/protocol": dict(after="toybox", files=[".csv"]),
    "cgvs/limits": dict(after=SPOKEN, files=[".csv"], pictures=[""]),

    "ebr/frames": dict(after="toyacts", trains=True, **LONG, priority=4),
    "ebr/recogniser": dict(after="ebr/frames", trains=True, files=[".claims.csv"], **LONG, priority=4),
    "ebr/table1": dict(after="ebr/frames ebr/recogniser", files=TABLE, pictures=["", "_maps"], gpu=1, hours=24, priority=1),
    "ebr/table2": dict(after="ebr/recogniser", files=TABLE, pictures=[""]),
    "ebr/table3": dict(after="ebr/frames ebr/recogniser", files=TABLE, pictures=[""]),
    "ebr/table4": dict(after="ebr/frames ebr/recogniser", files=TABLE, pictures=[""]),
    "ebr/figure1": dict(after="ebr/frames ebr/recogniser", pictures=[""]),
    "ebr/figure2": dict(pictures=[""]),
    "ebr/figure3": dict(pictures=[""]),
    "ebr/figure4": dict(pictures=[""]),
    "ebr/figure5": dict(after="ebr/frames ebr/recogniser", pictures=["abcdefgh"[k] for k in range(len(of("ebr/figure5", "shown")))]),
    "ebr/figure6": dict(after="ebr/frames ebr/recogniser", pictures=["abcdefgh"[k] + part for k in range(len(of("ebr/figure6", "shown"))) for part in ("", "_curve")]),
    "ebr/figure7": dict(after="ebr/recogniser", files=[".claims.csv"], pictures=[""]),
    "ebr/captioner": dict(after=f"{SEEN} toyfilms", trains=True, **LONG, priority=5),
    "ebr/table5": dict(after=f"{SPOKEN} ebr/captioner", files=TABLE, pictures=["", "_maps"], gpu=1, hours=12, priority=1),
    "ebr/figure8": dict(after=f"{SEEN} cgvs/films ebr/captioner", files=ROWS, pictures=["", "b"]),
    "ebr/figure9": dict(after=f"{SEEN} ebr/captioner", pictures=[""]),
    "ebr/section6": dict(after=f"{SPOKEN} cgvs/films ebr/captioner", files=TABLE, reads=[f"{BENCHES}/words.csv"]),
    "ebr/protocol": dict(after="toyacts", files=[".csv"], pictures=[""]),
    "face_to_face": dict(after=f"{SEEN} cgvs/crops ebr/captioner", files=ROWS, pictures=["", "_maps"], reads=[f"{BENCHES}/explainers.csv"], priority=1),

    "aoa/eyes": dict(after="toybox toycoco", trains=True, gpu=1, gib=128, hours=24, priority=5),
    "aoa/captioners": dict(after="toycoco aoa/eyes", trains=True, gpu=1, gib=128, hours=48, priority=5),
    "aoa/kinds": dict(after="toycoco aoa/eyes", trains=True, gpu=1, gib=128, hours=48, priority=5),
    "aoa/finetuned": dict(after="toycoco aoa/eyes aoa/captioners aoa/kinds", trains=True, gpu=1, gib=128, hours=48, priority=5),
    "aoa/numbers": dict(after="toycoco aoa/eyes", trains=True, gpu=1, gib=128, hours=48, priority=3),
    "aoa/flickr30k": dict(after="toybox aoa/eyes", trains=True, files=ROWS, gpu=1, gib=128, hours=24, priority=2),
    "aoa/table1": dict(after="toycoco aoa/eyes aoa/captioners", files=TABLE, pictures=[""]),
    "aoa/table2": dict(after="toycoco aoa/eyes aoa/captioners aoa/kinds aoa/finetuned", files=TABLE, pictures=[""], priority=1),
    "aoa/table3": dict(after=f"{SEEN} cgvs/crops aoa/eyes aoa/flickr30k aoa/kinds", files=TABLE, pictures=["_maps"], gpu=1),
    "aoa/table4": dict(after="toycoco aoa/eyes aoa/finetuned", files=TABLE, pictures=[""], gpu=1),
    "aoa/figure1": dict(pictures=["", "b"]),
    "aoa/figure2": dict(pictures=["", "b"]),
    "aoa/figure3": dict(pictures=["", "b"]),
    "aoa/figure4": dict(after="toycoco aoa/eyes aoa/captioners aoa/kinds aoa/numbers", files=TABLE, pictures=[""]),
    "aoa/figure5": dict(after="toybox aoa/eyes aoa/flickr30k", pictures=["_areas"]),
    "aoa/timing": dict(files=TABLE, reads=[f"{BENCHES}/areas.csv"]),

    "cgvs/claims": dict(files=[".csv"], pictures=[""], reads=[*(f"{REPORTS}/cgvs/{name}.claims.csv" for name in of("cgvs/claims", "tables")), f"{BENCHES}/attention.csv", f"{BENCHES}/spacetime.csv"]),
    "ebr/claims": dict(files=[".csv"], pictures=[""], reads=[f"{REPORTS}/ebr/{name}.claims.csv" for name in of("ebr/claims", "tables")]),
    "aoa/claims": dict(files=[".csv"], pictures=[""], reads=[f"{REPORTS}/aoa/{name}.claims.csv" for name in of("aoa/claims", "tables")]),
    "claims": dict(files=[".csv"], pictures=[""], reads=["cgsaliency/reproduce/claimed.csv", *(f"{REPORTS}/{paper}/claims.csv" for paper in of("claims", "papers"))]),
}
if unknown := [section for section in SECTIONS if section not in PLAN]: raise WorkflowError(f"{SCALE}: no notebook is planned for {', '.join(unknown)}: the plan of the Snakefile knows {', '.join(PLAN)}")


def needs(section: str) -> list[str]:
    plan = PLAN[section]
    return [*code(section), *(f"{ARTIFACTS}/{before}.json" for before in plan.get("after", "").split() if before in SECTIONS), *plan.get("reads", ())]

def leaves(section: str) -> list[str]:
    plan = PLAN[section]
    drawn = [f"{part}.{ending}" for part in plan.get("pictures", ()) for ending in ("png", "pdf")]
    return [f"{REPORTS}/{section}{ending}" for ending in (".ipynb", ".html", *plan.get("files", ()), *drawn)] + [f"{ARTIFACTS}/{section}.json"] * plan.get("trains", False)

# A notebook of a killed run may live on for a moment: the lock beside its page makes the next one wait for it, and tells `cgsaliency status` that it is at work.
def lock(section: str) -> str: return str(Path(REPORTS, section).with_name(f".{Path(section).name}.lock"))
# A scale may give a notebook several `processes`, which share training and explaining.
LAUNCHER = "-m accelerate.commands.launch --num_machines 1 --main_process_port 0 --mixed_precision no --dynamo_backend no --num_processes"
def processes(section: str) -> int: return settings(section).get("processes", 1)
def cores(section: str) -> int: return processes(section) * settings(section).get("cores", settings(section)["threads"])
def run(section: str) -> str:
    launched = f"{LAUNCHER} {processes(section)} " if processes(section) > 1 else ""
    polite = "OMP_WAIT_POLICY=PASSIVE " if cores(section) < processes(section) * settings(section)["threads"] else ""     # threads that wait leave their core to the notebook beside this one
    return f"{polite}{sys.executable} tools/alone.py '{lock(section)}' {sys.executable} {launched}tools/execute.py {section} {SCALE} '{DATA}' '{ARTIFACTS}' '{REPORTS}' {' '.join(map(shlex.quote, needs(section)))}"

def asks(section: str) -> dict[str, int]: return {"gpu": processes(section) * PLAN[section].get("gpu", 0), "mem_mb": 1000 * PLAN[section].get("gib", 16), "runtime": 60 * PLAN[section].get("hours", 4)} if NAME == "paper" else {}


rule all:
    input: [f"{REPORTS}/{section}.ipynb" for section in SECTIONS], f"{REPORTS}/index.html"

# What `make reproduce` asks for before all the rest, so that there is a table to look at soon: it takes both cores, which other notebooks would never leave free together.
FIRST = [section for section in ("toycoco", "cgvs/backbone") if section in SECTIONS and NAME != "paper"]
rule first:
    input: [f"{ARTIFACTS}/{section}.json" for section in FIRST]

rule index:
    input: [f"{REPORTS}/{section}.ipynb" for section in SECTIONS], f"{REPORTS}/claims.csv", "tools/index.py"
    output: f"{REPORTS}/index.html"
    shell: f"{sys.executable} tools/index.py {NAME} '{REPORTS}' {' '.join(SECTIONS)}"

# Numbers depend on the threads of a notebook, which its scale fixes: each rule takes as many cores, or those that the scale says, and as many rules as CORES allow run side by side.
for section in SECTIONS:
    rule:
        name: section.replace("/", "_")
        input: needs(section)
        output: leaves(section)
        params: settings=str(settings(section)), command=run(section)
        priority: PLAN[section].get("priority", 0)
        threads: cores(section)
        resources: **asks(section)
        shell: "{params.command}"
