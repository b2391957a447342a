"""Programs of several processes that are copies (forks) of one."""

import json
import multiprocessing
import os
import sys
import tempfile
from multiprocessing import connection


def run(folder, *calls):
    """Run functions, of arguments and a folder, in a process each.

    Where one fails, the others, which may wait for it, are ended.
    """
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=function, args=(*arguments, folder))
        for function, *arguments in calls
    ]
    for process in processes:
        process.start()
    running = list(processes)
    while running:
        connection.wait([process.sentinel for process in running])
        running = [p for p in running if p.exitcode is None]
        if any(process.exitcode for process in processes):
            for process in running:
                process.terminate()
            sys.exit("a process failed")


def save(facts, folder, name="alone"):
    with open(f"{folder}/{name}.json", "w") as file:
        json.dump(facts, file)


def said_by(program):
    """What the processes of a program saved, by their names, as JSON."""
    facts = {}
    with tempfile.TemporaryDirectory() as folder:
        program(folder)
        for entry in os.scandir(folder):
            name, dot_json = os.path.splitext(entry.name)
            if dot_json == ".json":
                with open(entry) as file:
                    facts[name] = json.load(file)
    return json.dumps(facts)
