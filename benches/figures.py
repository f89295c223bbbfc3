#!/usr/bin/env python3
"""Writes the tables and plots of the documentation from benches/figures.json.

    benches/figures.py                                      write them
    benches/figures.py --bench FILE --peers FILE            take figures from these files into figures.json first
    benches/figures.py --check                              exit with 1 if a page or a plot does not follow from it

FILE of --bench is what `naq bench --json VERB` prints, of several verbs one after another; of --peers, what
benches/peers/run.py writes. Tables that a file does not have stay as they are. In README.md and docs/*.md the lines between
`<!-- figures:NAME -->` and `<!-- /figures -->` are replaced; the plots are docs/figures/*.svg.
"""

import argparse
import json
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import plots

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benches/figures.json"
PLOTS = ROOT / "docs/figures"
PEERS_ALT = "Jobs a second of naq and of other queues"
FUNCTIONS_ALT = "Calls a second of a Python function with naq and with other queues"
BLOCK = re.compile(r"(<!-- figures:([a-z-]+) -->\n)(.*?)(<!-- /figures -->)", re.S)


def number(value, decimals=0):
    return f"{value:,.{decimals}f}"


def markdown(header, rows):
    """A table. Columns of numbers are aligned to the right."""
    if not rows:
        return ""
    right = [at > 0 and all(re.fullmatch(r"[-–0-9.,×*% ]*(ms|µs|MiB)?", str(row[at])) for row in rows) for at in range(len(header))]
    lines = [header, ["---:" if is_right else "---" for is_right in right], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


# -- what `naq bench` measures


def by_program(bench, name):
    """Rows of a table of jobs, those of the usual program first."""
    rows = bench.get(name, [])
    usual = [row for row in rows if "true" in row.get("program", "true")]
    return usual, [row for row in rows if row not in usual]


def jobs(bench):
    usual, others = by_program(bench, "jobs")
    cpu = {(row.get("program"), row["concurrency"]): row for row in bench.get("jobs cpu", [])}
    header = ["slots", "spawn limit, jobs/s", "naq, jobs/s", "of the limit"]
    if cpu:
        header += ["processor time: of the limit", "next to the job"]
    rows = []
    for row in usual + others:
        slots = f"{row['concurrency']:g}"
        if row in others:
            slots += f", {row['program']}"
        line = [slots, number(row["spawn_limit_per_s"]), number(row["jobs_per_s"]), number(row["of_limit"], 2)]
        measured = cpu.get((row.get("program"), row["concurrency"]), {})
        if cpu:
            line.append(number(measured["of_limit"], 2) if "of_limit" in measured else "–")
            line.append(f"{measured['overhead_us']:.0f} µs" if "overhead_us" in measured else "–")
        rows.append(line)
    return markdown(header, rows)


def enqueue(bench):
    rows = [[row["enqueue"], number(row["bare_per_s"]), number(row["naq_per_s"]), number(row["of_bare"], 2)] for row in bench.get("enqueue", [])]
    return markdown(["enqueue", "bare publishes/s", "naq/s", "of bare"], rows)


def latency(bench):
    given = bench.get("latency", [])
    has_floor = any("of_floor" in row for row in given)
    rows = []
    for row in given:
        line = [row["latency"], f"{row['p50_ms']:.2f} ms", f"{row['p99_ms']:.2f} ms"]
        rows.append(line + ([number(row["of_floor"], 2) if "of_floor" in row else "–"] if has_floor else []))
    return markdown(["latency", "p50", "p99", *(["of the floor"] if has_floor else [])], rows)


def hops(bench):
    rows = [[row["hop"], f"{row['p50_ms']:.3f} ms", f"{row['p99_ms']:.3f} ms"] for row in bench.get("latency hops", [])]
    return markdown(["hop", "p50", "p99"], rows)


def values(bench, table, column, title):
    rows = [[row[column], number(row["value"], 0 if row["value"] >= 100 else 1), row["unit"]] for row in bench.get(table, [])]
    return markdown([title, "value", "unit"], rows)


def memory(bench):
    rows = [[row["worker"], f"{row['pss_mib']:.1f} MiB"] for row in bench.get("memory", [])]
    return markdown(["worker", "memory (PSS)"], rows)


def growth(bench):
    rows = []
    for row in bench.get("growth", []):
        decimals = 0 if min(row["with"], row["without"]) >= 100 else 3
        of = number(row["ratio"], 2)
        rows.append([row["what"], number(row["with"], decimals), number(row["without"], decimals), row["unit"], of])
    return markdown(["with much of it, and without", "with", "without", "unit", "with : without"], rows)


def functions(bench):
    rows = []
    for row in bench.get("functions", []):
        line = [row["function"], f"{row['slots']:g}", number(row["calls_per_s"])]
        line.append(f"{row['us_per_call']:.0f} µs" if "us_per_call" in row else "–")
        rows.append(line + [f"{row['p50_ms']:.2f} ms", f"{row['p99_ms']:.2f} ms"])
    return markdown(["function", "slots", "calls/s", "processor time a call", "p50, idle", "p99, idle"], rows)


def web_pages(bench):
    rows = []
    for row in bench.get("web pages", []):
        line = [f"`{row['page']}`", number(row["kib"], 1)]
        for watched in ("", "watched_"):
            line += [number(row[watched + "p50_ms"], 2), number(row[watched + "p99_ms"], 2), number(row[watched + "per_s"])]
        rows.append(line)
    return markdown(["page", "KiB", "p50 ms", "p99 ms", "per s", "watched: p50 ms", "p99 ms", "per s"], rows)


def machine(bench):
    """What the figures of `naq bench` were measured on."""
    row = bench.get("machine", [{}])[0]
    if not row:
        return ""
    server = f", {row['server']}" if "server" in row else ""
    return f"Measured with {row['processors']:g} processors ({row['architecture']}), Linux {row['kernel']}{server}, naq {row['naq']}.\n"


# -- what benches/peers/run.py measures


def is_ours(system):
    return system.startswith("naq")


def median_by_system(peers):
    """The rows of a system by its number of slots."""
    table = {}
    for row in peers.get("commands", []):
        table.setdefault(row["system"], {})[row["slots"]] = row
    return table


def ordered(systems, figure):
    """The largest figure first."""
    return sorted(systems, key=lambda system: -figure(system))


def with_version(peers, system):
    """A system's name with its version."""
    product = "RQ" if system.startswith("RQ") else system
    version = peers["versions"].get(product) if not is_ours(system) else None
    return f"{system} {version}" if version else system


def peers_table(peers):
    table = median_by_system(peers)
    if not table:
        return ""
    slots = sorted({row["slots"] for row in peers["commands"]})
    most = slots[-1] if 16 not in slots else 16
    rate = lambda system: table[system].get(most, {}).get("per_s", 0)
    queues = [system for system in table if next(iter(table[system].values()))["is_queue"]]
    rows = []
    for system in ordered(queues, rate) + ordered([system for system in table if system not in queues], rate):
        name = with_version(peers, system) + ("" if system in queues else " *(no queue)*")
        line = [f"**{name}**" if is_ours(system) else name]
        for count in slots:
            line.append(number(table[system][count]["per_s"]) if count in table[system] else "–")
        cpu = table[system].get(most)
        rows.append([*line, f"{cpu['cpu_ms']:.2f} ms" if cpu else "–"])
    header = ["jobs/s with slots:", *(str(count) for count in slots), f"processor time a job, {most} slots"]
    return markdown(header, rows)


def peers_plot(peers):
    table = median_by_system(peers)
    if not table:
        return None
    slots = sorted({row["slots"] for row in peers["commands"]})[:3]
    most = slots[-1]
    rate = lambda system: table[system].get(most, {}).get("per_s", 0)
    rows, limits = [], []
    for system in ordered(table, rate):
        figures = [table[system].get(count, {}).get("per_s") for count in slots]
        is_queue = next(iter(table[system].values()))["is_queue"]
        row = (system, "ours" if is_ours(system) else "theirs" if is_queue else "limit", [*figures, table[system].get(most, {}).get("cpu_ms")])
        (rows if is_queue else limits).append(row)
    panels = [(f"{count} slot{'s' if count > 1 else ''}\njobs a second", number) for count in slots]
    panels.append((f"{most} slots\nCPU time a job", lambda value: f"{value:.2f} ms"))
    subtitle = f"echo hello, queued, run, its output stored. Median of {peers['settings']['rounds']} interleaved rounds, {on_what(peers)}. Dashed: no queue, nothing stored."
    return plots.columns("naq next to other queues", subtitle, panels, rows + ([None] if limits else []) + limits)


def on_what(peers):
    measured = peers["machine"]
    return f"{measured['cores']} cores"


def functions_table(peers):
    rows = []
    given = {row["system"]: row for row in peers.get("functions", [])}
    memory_of = {row["system"]: row for row in peers.get("memory", [])}
    for system in ordered(given, lambda system: given[system]["per_s"]):
        row = given[system]
        name = with_version(peers, system)
        pss = f"{memory_of[system]['pss_mib']:.0f} MiB" if system in memory_of else "–"
        line = [f"**{name}**" if is_ours(system) else name, number(row["per_s"]), f"{row['cpu_ms']:.2f} ms"]
        rows.append([*line, f"{row['p50_ms']:.1f} ms", f"{row['p99_ms']:.1f} ms", pss])
    if not rows:
        return ""
    slots = next(iter(given.values()))["slots"]
    eight = next(iter(memory_of.values()))["slots"] if memory_of else 8
    header = [f"a Python function, {slots} slots", "calls/s", "processor time a call", "one call, p50", "p99", f"memory, {eight} slots"]
    return markdown(header, rows)


def functions_plot(peers):
    given = {row["system"]: row for row in peers.get("functions", [])}
    if not given:
        return None
    memory_of = {row["system"]: row for row in peers.get("memory", [])}
    order = ordered(given, lambda system: given[system]["per_s"])
    rows = []
    for system in order:
        row = given[system]
        pss = memory_of[system]["pss_mib"] if system in memory_of else None
        rows.append((system, "ours" if is_ours(system) else "theirs", [row["per_s"], row["cpu_ms"], row["p50_ms"], pss]))
    slots = next(iter(given.values()))["slots"]
    milliseconds = lambda value: f"{value:.1f} ms"
    panels = [
        (f"{slots} slots\ncalls a second", number),
        (f"{slots} slots\nCPU time a call", milliseconds),
        ("idle worker\none call, median", milliseconds),
    ]
    if memory_of:
        eight = next(iter(memory_of.values()))["slots"]
        panels.append((f"{eight} slots, idle\nmemory (PSS)", lambda value: f"{value:.0f} MiB"))
    else:
        rows = [(name, style, figures[:3]) for name, style, figures in rows]
    subtitle = f"A function that counts words, its result stored. Median of {peers['settings']['rounds']} interleaved rounds, {on_what(peers)}."
    return plots.columns("Calls of a Python function", subtitle, panels, rows)


def visibility_table(peers):
    rows = []
    for row in peers.get("visibility", []):
        name = with_version(peers, row["system"])
        line = [f"**{name}**" if is_ours(name) else f"{name} on Redis, `acks_late`"]
        rows.append([*line, f"{row['job_s']:g} s", f"{row['window_s']:g} s", str(row["runs"])])
    return markdown(["a job longer than the broker's window", "the job", "the window", "runs"], rows)


def visibility_sentence(peers):
    runs = {row["system"]: row for row in peers.get("visibility", [])}
    if not {"naq", "Celery"} <= set(runs):
        return ""
    ours, theirs = runs["naq"], runs["Celery"]
    times = {1: "once", 2: "twice"}
    count = lambda row: times.get(row["runs"], f"{row['runs']} times")
    return (
        f"A job of {ours['job_s']:g} s ran {count(ours)} with an `ack_wait` of {ours['window_s']:g} s, and {count(theirs)} with "
        f"Celery on Redis, `acks_late` and a visibility\ntimeout of {theirs['window_s']:g} s.\n"
    )


def peers_machine(peers):
    if not peers:
        return ""
    measured, versions = peers["machine"], peers["versions"]
    redis = {"none": "which writes nothing to disk", "everysec": "which writes to disk every second"}[peers["settings"]["redis_disk"]]
    return (
        f"Measured on {peers['date']} with {measured['cores']} cores ({measured['cpu']}), Linux {measured['kernel']}, nats-server "
        f"{versions['nats-server']},\nRedis {versions.get('Redis', '–')} ({redis}), Python {versions['Python']}, Node "
        f"{versions.get('Node', '–')}; {peers['settings']['rounds']} rounds.\n"
    )


# -- plots of `naq bench`


def limit_plot(bench):
    usual, _ = by_program(bench, "jobs")
    if not usual:
        return None
    rows = [(slots_of(row), row["jobs_per_s"], row["spawn_limit_per_s"]) for row in usual]
    subtitle = "Jobs of /bin/true a second, of the limit (dashed): starting it, reading its output and reaping it in a bare loop."
    return plots.shares("naq next to the machine's limit", subtitle, rows, number)


def slots_of(row):
    return f"{row['concurrency']:g} slot{'s' if row['concurrency'] > 1 else ''}"


def cpu_plot(bench):
    usual, others = by_program(bench, "jobs cpu")
    rows = []
    for row in usual + others:
        parts = ("child_us", "worker_us", "spawners_us", "server_us", "producer_us")
        if all(part in row for part in parts):
            name = slots_of(row) + (", static program" if row in others else "")
            rows.append((name, [row[part] for part in parts], row["limit_us"]))
    if not rows:
        return None
    subtitle = "Processor time a job, by process. The mark is that of the bare loop: the job and its start, nothing else."
    processes = ["the job", "worker", "spawners", "nats-server", "producer"]
    return plots.stacks("What a job costs", subtitle, processes, "bare loop", rows, lambda value: f"{number(value)} µs")


def growth_plot(bench):
    rows = [(row["what"], row["ratio"]) for row in bench.get("growth", []) if row["unit"] == "jobs/s"]
    if not rows:
        return None
    return plots.ratios("Jobs a second with much of something", "With it, divided by without it: at the mark nothing is lost.", rows)


def blocks(figures):
    """The text of each block, by its name. Empty if nothing of it has been measured."""
    bench, peers = figures.get("bench", {}), figures.get("peers", {})
    return {
        "machine": machine(bench),
        "jobs": picture("limit", "Jobs a second next to the spawn limit", bench and limit_plot(bench)) + jobs(bench),
        "cpu": picture("cpu", "Processor time of a job by process", cpu_plot(bench)),
        "enqueue": enqueue(bench),
        "latency": latency(bench),
        "hops": hops(bench),
        "schedule": values(bench, "schedule", "schedule", "schedules"),
        "memory": memory(bench),
        "growth": picture("growth", "Rates with much of something, and without", growth_plot(bench)) + growth(bench),
        "functions": functions(bench),
        "web": values(bench, "web", "dashboard", "dashboard"),
        "web-pages": web_pages(bench),
        "peers-plot": picture("peers", PEERS_ALT, peers_plot(peers)),
        "peers": picture("peers", PEERS_ALT, peers_plot(peers)) + peers_table(peers),
        "peer-functions-plot": picture("functions", FUNCTIONS_ALT, functions_plot(peers)) + visibility_sentence(peers),
        "peer-functions": picture("functions", FUNCTIONS_ALT, functions_plot(peers)) + functions_table(peers),
        "visibility": visibility_table(peers),
        "peers-machine": peers_machine(peers),
    }


def all_plots(figures):
    bench, peers = figures.get("bench", {}), figures.get("peers", {})
    drawn = {
        "limit": limit_plot(bench),
        "cpu": cpu_plot(bench),
        "growth": growth_plot(bench),
        "peers": peers_plot(peers),
        "functions": functions_plot(peers),
    }
    return {PLOTS / f"{name}.svg": svg for name, svg in drawn.items() if svg}


def picture(name, words, svg):
    return f"![{words}]({{figures}}/{name}.svg)\n\n" if svg else ""


def pages(figures):
    """The pages that have blocks, as they should be."""
    texts = blocks(figures)
    found = {}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        folder = os.path.relpath(PLOTS, page.parent)

        def replaced(match, page=page, folder=folder):
            start, name, _, end = match.groups()
            if name not in texts:
                raise SystemExit(f"{page.relative_to(ROOT)}: no block is called {name}; there are {', '.join(texts)}")
            # blank lines, since a table in HTML would not be one
            block = texts[name].replace("{figures}", folder).strip("\n")
            return f"{start}\n{block}\n\n{end}" if block else f"{start}{end}"

        if BLOCK.search(text):
            found[page] = BLOCK.sub(replaced, text)
    return found


def take(figures, bench_files, peers_file):
    """Takes figures from files."""
    tables = {}
    for file in bench_files:
        for line in pathlib.Path(file).read_text().splitlines():
            if not line.startswith("{"):
                continue
            row = json.loads(line)
            if "bench" not in row:
                continue
            name = row.pop("bench")
            if name == "machine":
                # each verb describes it; those with servers of their own leave the server out
                row = tables.get(name, [{}])[0] | row
                tables[name] = [row]
            else:
                tables.setdefault(name, []).append(row)
    figures["bench"] = figures.get("bench", {}) | tables
    if peers_file:
        new = json.loads(pathlib.Path(peers_file).read_text())
        old = figures.get("peers", {})
        for part in ("commands", "functions", "memory", "visibility"):
            new[part] = new[part] or old.get(part, [])
        figures["peers"] = new


def compact(figures):
    """JSON with a row a line, so that a change of a figure is a change of its line."""
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    # what has no objects or arrays in it goes to one line
    text = re.sub(r"[{\[]\n[^{}\[\]]*?[}\]]", lambda found: re.sub(r"\n\s*", " ", found[0]), text)
    return text + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", action="append", default=[], metavar="FILE", help="output of naq bench --json")
    parser.add_argument("--peers", metavar="FILE", help="output of benches/peers/run.py")
    parser.add_argument("--check", action="store_true", help="change nothing, and say what does not follow")
    options = parser.parse_args()
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if options.bench or options.peers:
        take(figures, options.bench, options.peers)
    wanted = pages(figures) | all_plots(figures)
    if not options.check:
        wanted[FIGURES] = compact(figures)
    old = set(PLOTS.glob("*.svg")) - set(wanted)
    wrong = [file for file, text in wanted.items() if not file.exists() or file.read_text() != text]
    if options.check:
        for file in [*wrong, *sorted(old)]:
            print(f"{file.relative_to(ROOT)} does not follow from benches/figures.json: run benches/figures.py", file=sys.stderr)
        return 1 if wrong or old else 0
    PLOTS.mkdir(exist_ok=True)
    for file in wrong:
        file.write_text(wanted[file])
        print(file.relative_to(ROOT))
    for file in old:
        file.unlink()
        print(f"{file.relative_to(ROOT)} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
