"""All cases, one module per topology."""

from cases import Case

from topologies import awaited, flatness, frames, idle, many_to_many, memory, objects, one_to_one, ping_pong, startup, tasks

CASES: list[Case] = [
    case
    for module in (one_to_one, many_to_many, objects, ping_pong, awaited, frames, flatness, idle, memory, startup, tasks)
    for case in module.CASES
]
