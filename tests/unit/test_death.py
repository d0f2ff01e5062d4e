"""Processes that fork, exit and are killed, and what the others see of it."""

from __future__ import annotations

import os
import signal
import time

import pytest
from conftest import wait_until

import shmq


def hold(name, held):
    q = shmq.Queue.attach(name)
    lease = q.receive()
    shmq.Queue.attach(held).put(lease.data)
    time.sleep(600)


def echo(q, answers):
    answers.put(q.get(timeout=60) * 2)


def leave_with_a_lease(name):
    shmq.Queue.attach(name).receive()
    # the interpreter ends with the lease alive


def storm(name, answers):
    q, out = shmq.Queue.attach(name), shmq.Queue.attach(answers)
    while True:
        with q.receive() as lease:
            out.put(lease.data)


def touch(q, lease, answers):
    try:
        lease.ack()
    except shmq.LeaseLost as error:
        answers.put(str(error))
    q.put("from the child")


def test_what_a_killed_holder_had_comes_back_to_a_waiting_consumer(make, children):
    q, held = make(), make()
    q.put("work")
    holder = children.start(hold, q.name, held.name)
    assert held.get(timeout=30) == "work"
    holder.kill()
    lease = q.receive(timeout=30)
    assert (lease.data, lease.delivery_count) == ("work", 2)
    lease.ack()
    shmq.verify(q)


def test_a_handle_goes_to_children_of_every_start_method(make, any_children):
    q, answers = make(), make()
    any_children.start(echo, q, answers)
    q.put(21)
    assert answers.get(timeout=60) == 42
    any_children.join()


def test_a_process_that_exits_with_a_lease_gives_it_back(make, any_children):
    q = make()
    q.put("x")
    any_children.start(leave_with_a_lease, q.name)
    any_children.join()
    assert q.receive(timeout=30).data == "x"


def test_a_forked_child_has_a_port_of_its_own_and_no_part_in_the_parents_lease(make, children):
    q, answers = make(), make()
    q.put("the parent's")
    lease = q.receive()
    children.start(touch, q, lease, answers)
    assert "parent" in answers.get(timeout=30)
    children.join()
    assert q.get(timeout=30) == "from the child"
    lease.ack()
    assert q.empty()


def test_nothing_is_lost_when_workers_are_killed_at_random(make, children):
    q, answers = make(slots=64), make(slots=4096)
    total, seen = 600, set()
    workers = [children.start(storm, q.name, answers.name) for _ in range(3)]
    for i in range(total):
        q.put(i)
        if i % 30 == 29:
            victim = workers.pop(0)
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            workers.append(children.start(storm, q.name, answers.name))
    deadline = time.monotonic() + 60
    while len(seen) < total:
        assert time.monotonic() < deadline, f"lost {sorted(set(range(total)) - seen)}: {q.stats()}"
        try:
            seen.add(answers.get(timeout=1))
        except shmq.Empty:
            pass
    children.kill()
    q._reap()
    answers._reap()
    wait_until(lambda: q.stats().leased == 0)
    shmq.verify(q)
    shmq.verify(answers)


def test_more_dead_processes_than_ports_do_not_fill_the_table(make, children):
    q, held = make(ports=3), make()
    for _ in range(5):
        q.put("x")
        holder = children.start(hold, q.name, held.name)
        held.get(timeout=30)
        holder.kill()
        holder.join()
        q.get(timeout=30)
    with shmq.Queue.attach(q.name), shmq.Queue.attach(q.name), pytest.raises(shmq.TooManyPorts, match="pid"):
        shmq.Queue.attach(q.name)
