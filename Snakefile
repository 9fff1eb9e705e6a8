"""Every table and figure: one rule a notebook, run by papermill. `make reproduce` calls it with a scale and folders."""
import re, shlex, sys
from functools import cache
from pathlib import Path

from cgsaliency.core.errors import BadInput
from cgsaliency.core.scales import load_scale, merge_settings

NAME = config.get("scale", "toybox")
SCALE, PLANNED = (f"nbs/papers/{folder}/{NAME}.yaml" for folder in ("scales", "plans"))
if not Path(SCALE).is_file(): raise WorkflowError(f"there is no scale '{NAME}': choose one of {', '.join(sorted(path.stem for path in Path(SCALE).parent.glob('*.yaml')))}")
try: SETTINGS, ASKED = load_scale(SCALE), load_scale(PLANNED) if Path(PLANNED).is_file() else None      # read once: each rule asks for its own
except BadInput as error: raise WorkflowError(str(error))
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
# What a notebook asks of the machine (GPUs, memory, disk, hours) stands in nbs/papers/plans/<scale>.yaml, for scales that are more than a laptop's.
TABLE, ROWS = [".csv", ".rows.parquet", ".claims.csv"], [".csv", ".rows.parquet"]
SEEN, SPOKEN = "toybox cgvs/backbone", "toybox cgvs/backbone cgvs/captioner"
BENCHES = "benchmarks/results"
PLAN = {
    "toybox": dict(trains=True, priority=9),
    "toycoco": dict(trains=True, priority=8),
    "toyfilms": dict(trains=True, priority=5),
    "toyacts": dict(trains=True, priority=4),

    "cgvs/backbone": dict(after="toybox", trains=True, priority=9),
    "cgvs/captioner": dict(after=SEEN, trains=True, priority=9),
    "cgvs/table1": dict(after=SPOKEN, files=TABLE, pictures=["", "_example", "_heatmaps"], priority=9),
    "cgvs/crops": dict(after=SEEN, trains=True, priority=3),
    "cgvs/table2": dict(after=f"{SEEN} cgvs/crops", files=TABLE, pictures=["", "_maps"], priority=1),
    "cgvs/films": dict(after=f"{SEEN} toyfilms", trains=True, priority=3),
    "cgvs/table3": dict(after=f"{SEEN} cgvs/crops cgvs/films", files=TABLE, pictures=[""]),
    "cgvs/figure1": dict(after=f"{SPOKEN} cgvs/films", pictures=["a", "b"] if "cgvs/films" in SECTIONS else ["a"]),
    "cgvs/figure2": dict(after=f"{SPOKEN} cgvs/films", pictures=[""]),
    "cgvs/figure3": dict(after=SPOKEN, pictures=[""]),
    "cgvs/figure4": dict(after=SPOKEN, pictures=[""]),
    "cgvs/figure5": dict(after=f"{SEEN} cgvs/films", pictures=["", "b"], files=[".gif", ".mp4", *ROWS]),
    "cgvs/protocol": dict(after="toybox", files=[".csv"]),
    "cgvs/limits": dict(after=SPOKEN, files=[".csv"], pictures=[""]),

    "ebr/frames": dict(after="toyacts", trains=True, priority=4),
    "ebr/recogniser": dict(after="ebr/frames", trains=True, files=[".claims.csv"], priority=4),
    "ebr/table1": dict(after="ebr/frames ebr/recogniser", files=TABLE, pictures=["", "_maps"], priority=1),
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
    "ebr/captioner": dict(after=f"{SEEN} toyfilms", trains=True, priority=5),
    "ebr/table5": dict(after=f"{SPOKEN} ebr/captioner", files=TABLE, pictures=["", "_maps"], priority=1),
    "ebr/figure8": dict(after=f"{SEEN} cgvs/films ebr/captioner", files=ROWS, pictures=["", "b"]),
    "ebr/figure9": dict(after=f"{SEEN} ebr/captioner", pictures=[""]),
    "ebr/section6": dict(after=f"{SPOKEN} cgvs/films ebr/captioner", files=TABLE, reads=[f"{BENCHES}/words.csv"]),
    "ebr/protocol": dict(after="toyacts", files=[".csv"], pictures=[""]),
    "face_to_face": dict(after=f"{SEEN} cgvs/crops ebr/captioner", files=ROWS, pictures=["", "_maps"], reads=[f"{BENCHES}/explainers.csv"], priority=1),

    "aoa/proposals": dict(after="toycoco", trains=True, priority=5),
    "aoa/eyes": dict(after="toybox toycoco", trains=True, priority=5),
    "aoa/captioners": dict(after="toycoco aoa/eyes", trains=True, priority=5),
    "aoa/kinds": dict(after="toycoco aoa/proposals aoa/eyes", trains=True, priority=5),
    "aoa/finetuned": dict(after="toycoco aoa/proposals aoa/eyes aoa/captioners aoa/kinds", trains=True, priority=5),
    "aoa/numbers": dict(after="toycoco aoa/eyes", trains=True, priority=3),
    "aoa/flickr30k": dict(after="toybox aoa/eyes", trains=True, files=ROWS, priority=2),
    "aoa/table1": dict(after="toycoco aoa/eyes aoa/captioners", files=TABLE, pictures=[""]),
    "aoa/table2": dict(after="toycoco aoa/eyes aoa/captioners aoa/kinds aoa/finetuned", files=TABLE, pictures=[""], priority=1),
    "aoa/table3": dict(after=f"{SEEN} cgvs/crops aoa/eyes aoa/flickr30k aoa/kinds", files=TABLE, pictures=["_maps"]),
    "aoa/table4": dict(after="toycoco aoa/eyes aoa/finetuned", files=TABLE, pictures=[""]),
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
if unknown := [section for section in ASKED or {} if section != "all" and section not in PLAN]: raise WorkflowError(f"{PLANNED}: there is no notebook {', '.join(unknown)}: the plan of the Snakefile knows {', '.join(PLAN)}")


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
LAUNCHER = "-m accelerate.commands.launch --multi_gpu --num_machines 1 --main_process_port 0 --mixed_precision no --dynamo_backend no --num_processes"
def processes(section: str) -> int: return settings(section).get("processes", 1)
def cores(section: str) -> int: return processes(section) * settings(section).get("cores", settings(section)["threads"])
def planned(section: str) -> dict: return merge_settings(ASKED.get("all", {}), ASKED.get(section, {}))
def gpus(section: str) -> int: return processes(section) * planned(section)["gpu"] if ASKED else 0
def run(section: str) -> str:
    launched = f"{LAUNCHER} {processes(section)} " if processes(section) > 1 else ""
    polite = "OMP_WAIT_POLICY=PASSIVE " if cores(section) < processes(section) * settings(section)["threads"] else ""     # threads that wait leave their core to the notebook beside this one
    devices = f"{sys.executable} tools/with_gpus.py {gpus(section)} " if gpus(section) else ""
    return f"{polite}{devices}{sys.executable} tools/alone.py '{lock(section)}' {sys.executable} {launched}tools/execute.py {section} {SCALE} '{DATA}' '{ARTIFACTS}' '{REPORTS}' {' '.join(map(shlex.quote, needs(section)))}"

def asks(section: str) -> dict[str, int]:
    if ASKED is None: return {}
    own = planned(section)
    return {"gpu": gpus(section), "mem_mb": 1024 * own["memory_gib"], "disk_mb": 1000 * own["disk_gb"], "runtime": 60 * own["hours"]}


rule all:
    input: [f"{REPORTS}/{section}.ipynb" for section in SECTIONS], f"{REPORTS}/index.html"

# What `make reproduce` asks for before all the rest, so that there is a table to look at soon: it takes both cores, which other notebooks would never leave free together.
FIRST = [section for section in ("toycoco", "cgvs/backbone") if section in SECTIONS and ASKED is None]
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
