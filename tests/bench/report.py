"""What was found, against what was asked for: tables for people, JSON for programs."""

NAMES = {"settled": "settled", "bare": "bare loop", "minimal": "bare, minimal", "node": "Node fetch"}

# Share of the machine's CPU time: above it neighbours decide the figures.
NOISY = 0.05


def target(text, wanted, figure, reached):
    return {"target": text, "wanted": wanted, "figure": figure, "reached": bool(reached)}


def find_ratio(throughput, key, other, of="items_s", one=("settled", 100)):
    for r in throughput["ratios"] + throughput["flatness"]:
        if r["of"] == of and r["one"] == list(one) and r["other"] == [other, key]:
            return r
    return None


def throughput_targets(throughput):
    for other, wanted in (("bare", 0.75), ("node", 10)):
        r = find_ratio(throughput, 100, other)
        if r:
            yield target(f"items/s at batches of 100, over {NAMES[other]}", f">= {wanted}",
                         f"{r['median']:.2f} ({r['min']:.2f}..{r['max']:.2f})", r["median"] >= wanted)
    for of, what in (("cpu_us_item", "CPU time per item"), ("items_s", "time per item")):
        r = find_ratio(throughput, 100, "settled", of, ("settled", 10000))
        if r:
            # Items/s is the inverse of a cost.
            cost = r["median"] if of == "cpu_us_item" else 1 / r["median"]
            yield target(f"{what}, batches of 10,000 over 100", "<= 1.15", f"{cost:.2f}", cost <= 1.15)


def abort_targets(rows):
    rows = [row for row in rows if not row["loaded"]]
    worst = max(rows, key=lambda row: row["detected_us"]["p99"])
    yield target("abort: detection p99, worst row", "<= 1.00 ms", f"{worst['detected_us']['p99'] / 1000:.2f} ms "
                 f"({worst['in_flight']} in flight, {worst['kind']})", worst["detected_us"]["p99"] <= 1000)
    for n, limit_ms in ((50, 2), (500, 10)):
        p99 = max(row["removed_us"]["p99"] for row in rows if row["in_flight"] == n)
        yield target(f"abort: all removed p99, {n} in flight", f"<= {limit_ms} ms", f"{p99 / 1000:.2f} ms",
                     p99 <= limit_ms * 1000)


def memory_targets(memory):
    idle = memory["idle"]["vmrss"]
    yield target("idle resident memory", "<= 12 MB", f"{idle / 1e6:.1f} MB", idle <= 12e6)
    for row in memory["queued"]:
        yield target(f"memory per queued item beyond its payload, {row['items']} queued", "<= 400 B",
                     f"{row['per_item_beyond_payload']:.0f} B", row["per_item_beyond_payload"] <= 400)


def jobs_targets(jobs):
    r = jobs["settle"]["ratio"]
    yield target("jobs of 100 settled, over synchronous in memory", ">= 0.6",
                 f"{r['median']:.2f} ({r['min']:.2f}..{r['max']:.2f})", r["median"] >= 0.6)
    accepted = jobs["accept"]["items_s"]
    yield target("accepted alone, batches of 1,000", ">= 50,000 items/s", f"{accepted:,.0f} items/s",
                 accepted >= 50000)
    w = jobs["waiting"]
    held, items = w["memory"]["vmrss"], w["items"]
    yield target(f"resident with {items:,} items waiting", "<= 150 MB", f"{held / 1e6:.0f} MB", held <= 150e6)
    yield target("restart after kill -9 to ready", "<= 5 s", f"{w['restart_s']:.2f} s", w["restart_s"] <= 5)
    yield target("GET of a batch meanwhile, p99", "<= 5 ms", f"{w['get_us_p99'] / 1000:.2f} ms",
                 w["get_us_p99"] <= 5000)
    kept = w["settle_ratio"]["median"]
    yield target("jobs settled meanwhile, over an empty store", ">= 0.8", f"{kept:.2f}", kept >= 0.8)
    g = jobs["watch"]
    yield target(f"GET with {g['pollers']:,} pollers, {g['readers']:,} event readers, p99", "<= 20 ms",
                 f"{g['get_us_p99'] / 1000:.2f} ms", g["get_us_p99"] <= 20000)


def neighbour_targets(n):
    for key, text, wanted, ok in (("throughput_ratio", "throughput", ">= 0.9", lambda v: v >= 0.9),
                                  ("p99_ratio", "p99 of a batch", "<= 2", lambda v: v <= 2)):
        r = n[key]
        yield target(f"healthy service's {text} beside three in trouble, over alone", wanted,
                     f"{r['median']:.2f} ({r['min']:.2f}..{r['max']:.2f})", ok(r["median"]))


def overload_targets(short_of, o):
    over = o["over"]
    what = f"{short_of}: {o['offered_ratio']:.1f} times the peak for {over['seconds']:.0f} s"
    yield target(f"{what}: goodput over the peak", ">= 0.9", f"{o['goodput_ratio']:.2f}", o["goodput_ratio"] >= 0.9)
    p99 = over["refused_us"]["p99"]
    yield target(f"{what}: refusals p99", "<= 10 ms", f"{p99 / 1000:.2f} ms", p99 <= 10000)
    yield target(f"{what}: most memory held", "<= 512 MB", f"{o['rss_most'] / 1e6:.0f} MB", o["rss_most"] <= 512e6)
    yield target(f"{short_of}: normal again after", "<= 5 s", f"{o['recovery_s']} s", o["recovery_s"] <= 5)


def targets(found):
    rows = list(throughput_targets(found["throughput"])) if "throughput" in found else []
    if "abort" in found:
        rows += abort_targets(found["abort"])
    if "memory" in found:
        rows += memory_targets(found["memory"])
    if "jobs" in found:
        rows += jobs_targets(found["jobs"])
    if "neighbour" in found:
        rows += neighbour_targets(found["neighbour"])
    if "overload" in found:
        for short_of, o in found["overload"].items():
            rows += overload_targets(short_of, o)
    return rows


def table(head, rows):
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        first, *rest = (str(cell) for cell in row)
        print("  " + "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:]))]).rstrip())
    print()


def print_throughput(found):
    print(f"Throughput (median of {found['rounds']} rounds, min..max)")
    rows = []
    for c in found["cells"]:
        s, cpu = c["items_s"], c["cpu_us_item"]
        rows.append((NAMES[c["sender"]], c["batch"], f"{s['median']:,.0f}", f"{s['min']:,.0f}..{s['max']:,.0f}",
                     f"{cpu['median']:.1f}", f"{cpu['min']:.1f}..{cpu['max']:.1f}", f"{c['busy']['median']:.0%}"))
    table(("sender", "batch", "items/s", "spread", "CPU us/item", "spread", "of its core"), rows)


def print_ratios(found):
    rows = []
    for r in found["ratios"] + found["flatness"]:
        what = {"items_s": "items/s", "cpu_us_item": "CPU/item"}[r["of"]]
        rows.append((f"{what}: {NAMES[r['one'][0]]} {r['one'][1]}", f"{NAMES[r['other'][0]]} {r['other'][1]}",
                     f"{r['median']:.2f}", f"{r['min']:.2f}..{r['max']:.2f}"))
    print("Ratios, computed in each round")
    table(("", "over", "ratio", "spread"), rows)


def print_abort(rows):
    print("Abort, ms from the client's close (under load: while batches of 100 fill both cores; shown, not judged)")
    out = []
    for row in rows:
        for key, name in (("detected_us", "detected"), ("removed_us", "all removed"), ("last_fin_us", "last FIN")):
            d = row[key]
            loaded = ", under load" if row["loaded"] else ""
            out.append((f"{row['in_flight']} in flight, {row['kind']}{loaded}", name,
                        *(f"{d[p] / 1000:.2f}" for p in ("p50", "p90", "p99", "max")), d["n"]))
    table(("", "until", "p50", "p90", "p99", "max", "aborts"), out)


def print_memory(memory):
    idle = memory["idle"]
    print(f"Memory: idle RSS {idle['vmrss'] / 1e6:.1f} MB, of it proportional (Pss) {idle['pss'] / 1e6:.1f} MB")
    rows = []
    for kind in ("queued", "in_flight"):
        for row in memory[kind]:
            rows.append((f"{row['items']:,} {kind.replace('_', ' ')}", f"{row['before']['vmrss'] / 1e6:.1f}",
                         f"{row['held']['vmrss'] / 1e6:.1f}", f"{row['held']['vmhwm'] / 1e6:.1f}",
                         f"{row['per_item']:.0f}", f"{row['per_item_beyond_payload']:.0f}",
                         f"{row['per_item_beyond_request']:.0f}"))
    table(("batch", "RSS before MB", "held MB", "peak MB", "B/item", "beyond payload", "beyond request"), rows)


def print_jobs(jobs):
    print("Jobs, kept on disk")
    s, a, w, g = jobs["settle"], jobs["accept"], jobs["waiting"], jobs["watch"]
    rows = [(f"{name}, batches of 100", f"{c['items_s']['median']:,.0f} items/s",
             f"{c['items_s']['min']:,.0f}..{c['items_s']['max']:,.0f}", f"{c['cpu_us_item']['median']:.1f} CPU us/item")
            for name, c in (("synchronous, memory", s["sync"]), ("jobs", s["jobs"]))]
    rows += [("accepted alone, batches of 1,000", f"{a['items_s']:,.0f} items/s",
              f"202 after {a['batch_us_p50'] / 1000:.1f} ms, p99 {a['batch_us_p99'] / 1000:.1f} ms",
              f"disk: {a['fdatasync_s']:,.0f} fdatasync/s"),
             (f"{w['items']:,} items waiting", f"{w['memory']['vmrss'] / 1e6:.0f} MB resident",
              f"restart {w['restart_s']:.2f} s", f"file {w['file_bytes'] / 1e6:.0f} MB"),
             ("GET of a waiting batch of 1,000", f"p50 {w['get_us_p50'] / 1000:.2f} ms",
              f"p99 {w['get_us_p99'] / 1000:.2f} ms", f"max {w['get_us_max'] / 1000:.2f} ms"),
             (f"GET with {g['pollers']:,} pollers, {g['readers']:,} readers", f"p50 {g['get_us_p50'] / 1000:.2f} ms",
              f"p99 {g['get_us_p99'] / 1000:.2f} ms", f"max {g['get_us_max'] / 1000:.2f} ms")]
    table(("", "", "", ""), rows)


def print_neighbour(n):
    print(f"Noisy neighbours: {n['neighbours']}; {n['rounds']} rounds")
    rows = []
    for name in ("alone", "beside"):
        c = n[name]
        rows.append((name, f"{c['items_s']['median']:,.0f}", f"{c['items_s']['min']:,.0f}..{c['items_s']['max']:,.0f}",
                     *(f"{c[key]['median'] / 1000:.2f}" for key in ("batch_us_p50", "batch_us_p99"))))
    table(("healthy service", "items/s", "spread", "p50 ms", "p99 ms"), rows)


def print_overload(short_of, o):
    print(f"Overload, short of {short_of}: the peak is {o['peak_items_s']:,.0f} items/s, and {o['peak_after_items_s']:,.0f} afterwards; "
          f"at most {o['rss_most'] / 1e6:.0f} MB held, {o['rss_before'] / 1e6:.0f} MB before")
    rows = []
    for name in ("before", "over", "after"):
        p = o[name]
        rows.append((f"{name}, {p['rate']:,.0f} batches/s", f"{p['sent']:,}", f"{p['unsent']:,}",
                     *(f"{p[key]['n']:,}" for key in ("ok_us", "partial_us", "refused_us", "failed_us")),
                     f"{p['good_items'] / p['seconds']:,.0f}",
                     *(f"{p[key]['p99'] / 1000:.2f}" for key in ("ok_us", "refused_us")),
                     *(f"{p[key] / p['seconds']:.0%}" for key in ("cpu_seconds", "client_cpu_seconds"))))
    table(("", "sent", "not sent", "ok", "partly", "refused", "failed", "good items/s", "ok p99 ms", "refused p99 ms",
           "of its core", "client's"), rows)


def print_facts(facts):
    for key, value in facts.items():
        print(f"  {key}: {value}")
    print()


def print_shapes(shapes):
    print("One request of each sender, as the downstream gets it")
    table(("sender", "bytes", "body", "headers"),
          [(NAMES[k], s["bytes"], s["body_bytes"], " ".join(s["headers"])) for k, s in shapes.items()])


def print_noise(share):
    if share > NOISY:
        print(f"NOISY: others used {share:.0%} of this machine's CPU time. Nothing below is fit to be quoted;\n"
              "CPU time per item suffers least.\n")


def show(found):
    print_facts(found["facts"])
    print_noise(found["noise"])
    if "requests" in found:
        print_shapes(found["requests"])
    if "throughput" in found:
        print_throughput(found["throughput"])
        print_ratios(found["throughput"])
    if "abort" in found:
        print_abort(found["abort"])
    if "memory" in found:
        print_memory(found["memory"])
    if "jobs" in found:
        print_jobs(found["jobs"])
    if "neighbour" in found:
        print_neighbour(found["neighbour"])
    if "overload" in found:
        for short_of, o in found["overload"].items():
            print_overload(short_of, o)
    print_noise(found["noise"])
    if found["targets"]:
        print("Targets")
        table(("", "wanted", "found", ""), [(t["target"], t["wanted"], t["figure"],
                                             "reached" if t["reached"] else "NOT REACHED") for t in found["targets"]])
