"""`make gpu-check`: the paths that only a GPU can show, as short parts with a time limit each. See docs/gpu.md.

    __main__.py     flags, the order of work, the exit status
    plan.py         the parts: order, limits, which run side by side
    driver.py       runs parts as processes of their own, and ends them in time
    report.py       results.jsonl, the log, the table
    recorder.py     how a part records its checks
    verbs.py        commands of the project as processes; launch.py changes what they cannot be asked for
    inputs.py       inputs made beforehand
    precision.py    TF32 on or off
    pack.py         a checkpoint as a few files
    timing.py       medians, FLOPs, peaks of the cards
    wheels.py       packages that the machine lacks: gathered into a folder here, unpacked there
    parts/          one file per part
"""
