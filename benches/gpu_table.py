"""The table of benches/gpu.py: medians over turns, ratios to yardsticks, goals and whether they are met."""

import statistics

# Of the dense bf16 rate of an H100 or H200.
PEAK = 989e12
# What is published, as TFLOP/s by pass and length, at D 128 (FlashAttention-3; the best found for the backward pass).
ATTENTION = {"forward": {2048: 560, 4096: 667, 8192: 685, 16384: 616}, "backward": {1024: 219, 2048: 347, 4096: 468, 8192: 539}}
# llmq on one H100, tokens/s.
STEPS = {"0.5B": 149e3, "1.5B": 59e3, "7B": 13.9e3}
# Unsloth on one H200, rank 16, 2 x 2048 packed.
LORA = {"0.6B": 21.7e3, "1.7B": 21.4e3, "4B": 12.8e3, "8B": 9.1e3}


def rate(row):
    """A row's speed, as people say it."""
    seconds = row["seconds"]
    if row["section"] in ("step", "lora"):
        share = f", {row['flops'] / seconds / PEAK:.1%} MFU" if row["section"] == "step" else ""
        return f"{row['tokens'] / seconds:,.0f} tokens/s{share}"
    if row["section"] == "generate":
        return f"{row['tokens'] / seconds:,.0f} tokens/s"
    if row["flops"]:
        return f"{row['flops'] / seconds / 1e12:,.1f} TFLOP/s"
    return f"{row['bytes'] / seconds / 1e9:,.0f} GB/s"


def medians(rows):
    """(section, case) -> {who: row with the median of its turns}, in the order of the first turn."""
    found = {}
    for row in rows:
        if "seconds" in row:
            found.setdefault((row["section"], row["case"]), {}).setdefault(row["who"], []).append(row)
    middle = lambda turns: turns[-1] | {"seconds": statistics.median(t["seconds"] for t in turns), "turns": len(turns)}
    return {key: {who: middle(turns) for who, turns in by.items()} for key, by in found.items()}


def goals(section, case, row, measured):
    """(what, found, first, goal) that a row is held to; ratios above are better."""
    ours = row["isogloss"]
    seconds = ours["seconds"]
    others = [other["seconds"] for who, other in row.items() if who != "isogloss"]
    best = min(others) / seconds if others else None
    tera = ours["flops"] / seconds / 1e12
    copy = measured.get(("copy", "copy"), {}).get("isogloss")
    of = ours["with"]
    if section == "gemm":
        first, goal = (0.85, 1.0) if of["kind"] == "forward" else (0.80, 0.97)
        if best:
            yield "of cuBLASLt", best, first, goal
    if section == "attention" and of["kind"] == "dense" and of["size"] == 128:
        length = of["documents"][1]
        published = ATTENTION[of["pass"]].get(length)
        if best:
            yield "of SDPA", best, None, None
        if of["pass"] == "forward" and published:
            yield "of FlashAttention-3", tera / published, 300 / published if length == 8192 else None, 0.9
        if of["pass"] == "backward" and published:
            yield "of the best published", tera / published, 300 / published if length == 8192 else None, 480 / published if length == 8192 else None
    if section == "attention" and of["kind"] in ("shared", "packed"):
        dense = [r["isogloss"] for (s, c), r in measured.items() if s == "attention" and "isogloss" in r
                 and r["isogloss"]["with"]["kind"] == "dense" and r["isogloss"]["with"]["pass"] == of["pass"]
                 and r["isogloss"]["with"]["size"] == of["size"]]
        if dense:
            lengths = [b - a for a, b in zip(of["documents"], of["documents"][1:])]
            # The dense length whose tokens see as many others on average.
            mean = sum(n * n for n in lengths) / sum(lengths)
            near = min(dense, key=lambda r: abs(r["with"]["documents"][1] - mean))
            yield f"of our own dense rate at T {near['with']['documents'][1]}", tera / (near["flops"] / near["seconds"] / 1e12), 0.8, 0.9
    if section == "head":
        if best:
            yield "of chunked torch", best, None, None
        if of["pass"] != "forward":
            yield "TFLOP/s", tera, 273, 600
    if section == "rows" and copy:
        yield "of a copy", (ours["bytes"] / seconds) / (copy["bytes"] / copy["seconds"]), 0.8, 0.9
    if section == "step":
        name = case.split()[1].rstrip(",")
        if best:
            yield "of torch.compile", best, None, 1.0
        if name in STEPS:
            yield "of llmq on an H100", ours["tokens"] / seconds / STEPS[name], None, None
        yield "MFU", ours["flops"] / seconds / PEAK, 0.4 if name == "7B" else None, 0.6 if name == "7B" else None
    if section == "lora":
        name = case.split()[1].rstrip(",")
        if best:
            yield "of torch with PEFT", best, None, None
        if name in LORA:
            yield "of Unsloth on an H200", ours["tokens"] / seconds / LORA[name], 1.0, None
    if section == "generate":
        if of["slots"] == 1 and copy:
            yield "of what memory allows", (ours["bytes"] / seconds) / (copy["bytes"] / copy["seconds"]), 0.7, 0.85
        if best:
            yield "of transformers", best, None, 5.0 if of["slots"] == 64 else None


def verdict(found, first, goal):
    if goal is not None and found >= goal:
        return "goal"
    if first is not None and found >= first:
        return "first"
    return "" if first is None and goal is None else "no"


def lines(rows):
    """(section, cells) of the table."""
    measured = medians(rows)
    for (section, case), by in measured.items():
        if "isogloss" not in by:
            continue
        others = "; ".join(f"{who} {rate(row)}" for who, row in by.items() if who != "isogloss")
        held = list(goals(section, case, by, measured)) or [("", None, None, None)]
        for i, (what, found, first, goal) in enumerate(held):
            show = lambda x: "" if x is None else f"{x:,.2f}" if x < 20 else f"{x:,.0f}"
            head = [case, rate(by["isogloss"]), others] if i == 0 else ["", "", ""]
            yield section, [*head, f"{show(found)} {what}".strip(), show(first), show(goal), "" if found is None else verdict(found, first, goal)]


def page(rows):
    """The whole page."""
    machines = [row for row in rows if row["section"] == "machine"]
    text = ["# Speed on a card", ""]
    for row in machines:
        if "versions" in row:
            text.append(f"- {row['date']}, commit {row['commit'] or 'unknown'}: `{row['command']}`; {row['card'] or 'no nvidia-smi'}; "
                        f"{row['nvcc'] or 'no nvcc'}; " + ", ".join(f"{k} {v}" for k, v in row["versions"].items()))
        else:
            line = f"- engine: {row['name']}, {row['multiprocessors']} multiprocessors, {row['compiler'] or 'emulated'}"
            text += [line] if line not in text else []
    text += ["", "N(0,1) data; caches flushed before each run; the median of a measurement's runs, then of the turns in which ours and",
             "theirs alternate. FLOPs of causal attention count half the square, a backward pass 2.5 times the forward; MFU is of 989",
             "TFLOP/s and leaves recomputation out. A weight's gradient is added to f32 by us and written as bf16 by cuBLASLt, which is",
             "4 bytes a value in our disfavour. *met*: the goal, the first mark, or neither.", ""]
    section = None
    for part, cells in lines(rows):
        if part != section:
            section = part
            text += ["", f"## {section}", "", "| what | ours | yardsticks | ratio | first | goal | met |", "|---|---|---|---|---|---|---|"]
        text.append("| " + " | ".join(cells) + " |")
    errors = [row for row in rows if "error" in row]
    if errors:
        text += ["", "## What failed", ""] + [f"- {row['section']} {row.get('case', '')}, {row['who']}: {row['error'][:300]}" for row in errors]
    return "\n".join(text) + "\n"


def summary(rows):
    """One line a section: how many marks are met."""
    counts = {}
    for section, cells in lines(rows):
        if cells[-1]:
            counts.setdefault(section, []).append(cells[-1])
    return "\n".join(f"{section:10} goal met {marks.count('goal')}, first {marks.count('first')}, neither {marks.count('no')}" for section, marks in counts.items())
