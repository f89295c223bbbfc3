#!/usr/bin/env python3
"""Writes the tables and plots of the documentation from benches/figures.json.

    benches/figures.py                                      write them
    benches/figures.py --bench FILE --peers FILE            take figures from these files into figures.json first
    benches/figures.py --check                              exit with 1 if a page or a plot does not follow from it

FILE of --bench is what `naq bench --json VERB` prints, of several verbs one after another, or packaging/figures; of
--peers, what benches/peers/run.py writes. Tables that a file does not have stay as they are. In README.md and docs/*.md the lines
between `<!-- figures:NAME -->` and `<!-- /figures -->` are replaced; the plots are docs/figures/*.svg. In docs/figures.md a
block of which nothing has been measured says so; elsewhere it is empty.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import textwrap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import plots

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benches/figures.json"
PLOTS = ROOT / "docs/figures"
ALL_TABLES = ROOT / "docs/figures.md"
NOT_MEASURED = "*Not measured yet.*"
PEERS_ALT = "Jobs a second of naq and of other queues"
FUNCTIONS_ALT = "Calls a second of a Python function with naq and with other queues"
BLOCK = re.compile(r"(<!-- figures:([a-z-]+) -->\n)(.*?)(<!-- /figures -->)", re.S)


def number(value, decimals=0):
    return f"{value:,.{decimals}f}"


def markdown(header, rows):
    """A table. Columns of numbers are aligned to the right. Columns without a figure, as an earlier version of
    `naq bench` leaves them, are left out."""
    if not rows:
        return ""
    kept = [at for at in range(len(header)) if any(row[at] != "–" for row in rows)]
    header, *rows = ([line[at] for at in kept] for line in [header, *rows])
    right = [
        at > 0 and all(re.fullmatch(r"[-–0-9.,×*% ]*(ms|µs|MiB|s)?", str(row[at])) for row in rows)
        for at in range(len(header))
    ]
    lines = [header, ["---:" if is_right else "---" for is_right in right], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


# -- what `naq bench` measures


def cell(row, column, decimals=0, unit=""):
    """A figure of a row; a dash if it could not be measured, and so was left out."""
    return number(row[column], decimals) + unit if column in row else "–"


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
        header += ["CPU: of the limit", "CPU next to the job"]
    rows = []
    for row in usual + others:
        slots = cell(row, "concurrency") + (f", {row['program']}" if row in others else "")
        line = [slots, cell(row, "spawn_limit_per_s"), cell(row, "jobs_per_s"), cell(row, "of_limit", 2)]
        if cpu:
            measured = cpu.get((row.get("program"), row["concurrency"]), {})
            line += [cell(measured, "of_limit", 2), cell(measured, "overhead_us", unit=" µs")]
        rows.append(line)
    return markdown(header, rows)


def table_of(bench, table, first, columns):
    """A table with a row for each row. The first column is text; of the others the field, the heading and a format."""
    rows = []
    for row in bench.get(table, []):
        rows.append([row[first[0]], *(cell(row, column, *form) for column, _, form in columns)])
    return markdown([first[1], *(heading for _, heading, _ in columns)], rows)


RATE, RATIO, MS, US_FINE = (0, ""), (2, ""), (2, " ms"), (3, " ms")


def enqueue(bench):
    columns = [("bare_per_s", "bare publishes/s", RATE), ("naq_per_s", "naq/s", RATE), ("of_bare", "of bare", RATIO)]
    return table_of(bench, "enqueue", ("enqueue", "enqueue"), columns)


def latency(bench):
    columns = [("p50_ms", "p50", MS), ("p99_ms", "p99", MS), ("of_floor", "of the floor", RATIO)]
    return table_of(bench, "latency", ("latency", "latency"), columns)


def hops(bench):
    columns = [("p50_ms", "p50", US_FINE), ("p99_ms", "p99", US_FINE)]
    return table_of(bench, "latency hops", ("hop", "hop"), columns)


def values(bench, table, column):
    rows = [
        [row[column], cell(row, "value", 0 if row["value"] >= 100 else 1), row["unit"]] for row in bench.get(table, [])
    ]
    return markdown([column, "value", "unit"], rows)


def memory(bench):
    return table_of(bench, "memory", ("worker", "worker"), [("pss_mib", "memory (PSS)", (1, " MiB"))])


def growth(bench):
    rows = []
    for row in bench.get("growth", []):
        decimals = 0 if min(row.get("with", 0), row.get("without", 0)) >= 100 else 3
        figures = [cell(row, "with", decimals), cell(row, "without", decimals), row["unit"], cell(row, "ratio", 2)]
        rows.append([row["what"], *figures])
    return markdown(["with much of something", "with", "without", "unit", "with : without"], rows)


def functions(bench):
    columns = [
        ("slots", "slots", RATE),
        ("calls_per_s", "calls/s", RATE),
        ("us_per_call", "processor time a call", (0, " µs")),
        ("p50_ms", "one call, p50", MS),
        ("p99_ms", "one call, p99", MS),
        ("worker_p50_ms", "at the worker, p50", MS),
        ("worker_p99_ms", "at the worker, p99", MS),
    ]
    return table_of(bench, "functions", ("function", "function"), columns)


def functions_memory(bench):
    columns = [
        ("slots", "slots", RATE),
        ("processes", "processes", RATE),
        ("processes_pss_mib", "their memory (PSS)", (1, " MiB")),
        ("worker_pss_mib", "with the worker", (1, " MiB")),
    ]
    return table_of(bench, "functions memory", ("warm", "warm"), columns)


def web_pages(bench):
    columns = [("kib", "KiB", (1, ""))]
    for prefix, words in (("", ""), ("watched_", "watched: ")):
        columns += [
            (f"{prefix}p50_ms", f"{words}p50", MS),
            (f"{prefix}p99_ms", "p99", MS),
            (f"{prefix}per_s", "per s", RATE),
        ]
    rows = [row | {"page": f"`{row['page']}`"} for row in bench.get("web pages", [])]
    return table_of({"web pages": rows}, "web pages", ("page", "page"), columns)


def web_throughput(bench):
    columns = [
        ("jobs_per_s", "jobs/s", RATE),
        ("of_without", "of without", RATIO),
        ("server_us_per_job", "nats-server, a job", (0, " µs")),
        ("dashboard_us_per_job", "dashboard, a job", (0, " µs")),
    ]
    return table_of(bench, "web throughput", ("16 slots", "16 slots"), columns)


def packages(bench):
    columns = [
        ("mib", "size", (1, " MiB")),
        ("install_s", "installed after", (2, " s")),
        ("first_job_s", "and the first job", (3, " s")),
    ]
    return table_of(bench, "packages", ("package", "package"), columns)


def machine(bench):
    """What the figures of `naq bench` were measured on."""
    row = bench.get("machine", [{}])[0]
    if not row:
        return ""
    # its address says nothing
    server = f", {row['server'].split(' at ')[0]}" if "server" in row else ""
    processors = f"{row['processors']:g} processors ({row['architecture']})"
    return f"Measured with {processors}, Linux {row['kernel']}{server}, naq {row['naq']}.\n"


# -- what benches/peers/run.py measures


def is_ours(system):
    return system.startswith("naq")


def by_system(peers):
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
    table = by_system(peers)
    if not table:
        return ""
    slots = sorted({row["slots"] for row in peers["commands"]})
    most = slots[-1] if 16 not in slots else 16

    def rate(system):
        return table[system].get(most, {}).get("per_s", 0)

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
    table = by_system(peers)
    if not table:
        return None
    slots = sorted({row["slots"] for row in peers["commands"]})[:3]
    most = slots[-1]

    def rate(system):
        return table[system].get(most, {}).get("per_s", 0)

    rows, limits = [], []
    for system in ordered(table, rate):
        figures = [table[system].get(count, {}).get("per_s") for count in slots]
        is_queue = next(iter(table[system].values()))["is_queue"]
        row = (
            system,
            "ours" if is_ours(system) else "theirs" if is_queue else "limit",
            [*figures, table[system].get(most, {}).get("cpu_ms")],
        )
        (rows if is_queue else limits).append(row)
    panels = [(f"{count} slot{'s' if count > 1 else ''}\njobs a second", number) for count in slots]
    panels.append((f"{most} slots\nCPU time a job", lambda value: f"{value:.2f} ms"))
    subtitle = f"echo hello, queued, run, its output stored. {on_what(peers)} Dashed: no queue."
    return plots.columns("naq next to other queues", subtitle, panels, rows + ([None] if limits else []) + limits)


def on_what(peers):
    return f"{peers['machine']['cores']} cores, median of {peers['settings']['rounds']} interleaved rounds."


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
    header = [
        f"a Python function, {slots} slots",
        "calls/s",
        "processor time a call",
        "one call, p50",
        "p99",
        f"memory, {eight} slots",
    ]
    return markdown(header, rows)


def milliseconds(value):
    return f"{value:.1f} ms"


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
        rows.append(
            (system, "ours" if is_ours(system) else "theirs", [row["per_s"], row["cpu_ms"], row["p50_ms"], pss])
        )
    slots = next(iter(given.values()))["slots"]
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
    subtitle = f"A function that counts words, its result stored. {on_what(peers)}"
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
    ran, ran_theirs = (times.get(row["runs"], f"{row['runs']} times") for row in (ours, theirs))
    return (
        f"A job of {ours['job_s']:g} s ran {ran} with an `ack_wait` of {ours['window_s']:g} s, and {ran_theirs} with "
        f"Celery on Redis, `acks_late` and a visibility\ntimeout of {theirs['window_s']:g} s.\n"
    )


def peers_machine(peers):
    if not peers:
        return ""
    measured, versions = peers["machine"], peers["versions"]
    disk = {"none": "which writes nothing to disk", "everysec": "which writes to disk every second"}
    words = (
        f"Measured on {peers['date']} with {measured['cores']} cores ({measured['cpu']}), Linux {measured['kernel']}, "
        f"nats-server {versions['nats-server']}, Redis {versions.get('Redis', '–')} "
        f"({disk[peers['settings']['redis_disk']]}), Python {versions['Python']}, Node {versions.get('Node', '–')}; "
        f"{peers['settings']['rounds']} rounds."
    )
    return textwrap.fill(words, 120) + "\n"


# -- plots of `naq bench`


def limit_plot(bench):
    usual, _ = by_program(bench, "jobs")
    if not usual:
        return None
    rows = [(slots_of(row), row["jobs_per_s"], row["spawn_limit_per_s"]) for row in usual]
    subtitle = "Jobs of /bin/true a second, of the limit (dashed): to start, read and reap it in a bare loop."
    return plots.shares("naq next to the machine's limit", subtitle, rows, number)


def slots_of(row):
    return f"{row['concurrency']:g} slot{'s' if row['concurrency'] > 1 else ''}"


def cpu_plot(bench):
    usual, others = by_program(bench, "jobs cpu")
    rows = []
    for row in usual + others:
        parts = ("child_us", "worker_us", "spawners_us", "server_us", "producer_us")
        if all(part in row for part in (*parts, "limit_us")):
            name = slots_of(row) + (", static program" if row in others else "")
            rows.append((name, [row[part] for part in parts], row["limit_us"]))
    if not rows:
        return None
    subtitle = "Processor time a job, by process. The mark: a bare loop that starts and reaps the job."
    processes = ["the job", "worker", "spawners", "nats-server", "producer"]
    return plots.stacks("What a job costs", subtitle, processes, "bare loop", rows, lambda value: f"{number(value)} µs")


def growth_plot(bench):
    rows = [(row["what"], row["ratio"]) for row in bench.get("growth", []) if row["unit"] == "jobs/s"]
    if not rows:
        return None
    return plots.ratios(
        "Jobs a second with much of something", "With it, divided by without it: at the mark nothing is lost.", rows
    )


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
        "schedule": values(bench, "schedule", "schedule"),
        "memory": memory(bench),
        "packages": packages(bench),
        "growth": picture("growth", "Rates with much of something, and without", growth_plot(bench)) + growth(bench),
        "functions": functions(bench),
        "functions-memory": functions_memory(bench),
        "web": values(bench, "web", "dashboard"),
        "web-pages": web_pages(bench),
        "web-throughput": web_throughput(bench),
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
            if page == ALL_TABLES:
                block = block or NOT_MEASURED
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
            if "error" in row:
                raise SystemExit(f"{file}: a verb failed: {row['error']}")
            if "bench" not in row:
                continue
            name = row.pop("bench")
            if row.get("build") == "debug":
                raise SystemExit(f"{file}: figures of a debug build are none")
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
            print(
                f"{file.relative_to(ROOT)} does not follow from benches/figures.json: run benches/figures.py",
                file=sys.stderr,
            )
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
