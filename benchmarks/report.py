"""The table of all rows: one line for each contender, the project's own first."""

from benchmarks.runner import Row

HEADINGS = ("work", "sizes", "contender", "time", "fastest", "/ ours", "speed", "floor", "/ floor", "peak MiB")
NOTED = 0.2  # seconds above a floor that was measured, from which a note gives them


def table(rows: list[Row]) -> str:
    """Columns aligned; times are medians, per unit where a work has one. `/ ours`: that time over the project's own."""
    lines: list[tuple[str, ...]] = [HEADINGS]
    for row in rows:
        lines += [line(row, name) for name in row["contenders"]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for cells in lines:
        aligned = [cell.ljust(width) if number < 3 else cell.rjust(width)
                   for number, (cell, width) in enumerate(zip(cells, widths))]
        text.append("  ".join(aligned).rstrip())
    return "\n".join([text[0], "-" * len(text[0]), *text[1:], *footnotes(rows)])


def line(row: Row, name: str) -> tuple[str, ...]:
    facts, ours, first = row["contenders"][name], row["contenders"][row["ours"]], name == row["ours"]
    head = (row["title"], row["label"]) if first else ("", "")
    if "median_s" not in facts:
        return (*head, name, "left out", "", "", "", "", "", "")
    ratio = "" if first else number(facts["median_s"] / ours["median_s"])
    floor = row["floor"]["seconds"] if first else None
    note = " (estimated)" if "estimated" in facts else f", {facts['threads']} thread" if "threads" in facts else ""
    return (
        *head,
        name + note,
        duration(facts["median_s"]),
        duration(facts["fastest_s"]),
        ratio,
        f"{1 / facts['median_s']:,.0f} {row['unit']}s/s" if row["unit"] else "",
        duration(floor) if floor else "",
        number(row["ratio_to_floor"]) if first else "",
        "" if facts.get("peak_mib") is None else f"{facts['peak_mib']:,.0f}",
    )


def footnotes(rows: list[Row]) -> list[str]:
    """What was left out and why, seconds above a measured floor, first runs that took long, checks."""
    notes = []
    for row in rows:
        where = f"{row['title']}, {row['label']}"
        for name, facts in row["contenders"].items():
            if "left_out" in facts:
                notes.append(f"{where}: {name} left out: {facts['left_out']}")
        ours, floor = row["contenders"][row["ours"]], row["floor"]
        if "contender" in floor and ours["median_s"] - floor["seconds"] > NOTED:
            notes.append(f"{where}: {duration(ours['median_s'] - floor['seconds'])} above {floor['contender']}")
        if ours["first_s"] > 1 + 2 * ours["median_s"]:
            notes.append(f"{where}: the first run took {duration(ours['first_s'])}")
        notes += [f"{where}: {name}: {value:g}" for name, value in row["checks"].items()]
    return ["", *notes] if notes else []


def duration(seconds: float) -> str:
    """Three digits, in the unit that suits: 1.23 s, 45.6 ms, 7.89 us, 12.3 ns; 1,230 s."""
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if seconds >= scale or unit == "ns":
            return f"{number(seconds / scale)} {unit}"
    raise AssertionError(seconds)


def number(value: float) -> str:
    """Three digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def machine_lines(machine: dict) -> str:
    rates = machine["rates"]
    return "\n".join([
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['device']}, "
        f"torch {machine['torch']}, bfloat16: {machine['bfloat16']}, load {machine['load']}, {machine['date']}",
        f"reached in this run: float32 {rates['float32'] / 1e9:,.0f} GFLOP/s, bfloat16 {rates['bfloat16'] / 1e9:,.0f} "
        f"GFLOP/s, memory {rates['memory'] / 1e9:.1f} GB/s, cache {rates['cache'] / 1e9:.1f} GB/s",
    ])
