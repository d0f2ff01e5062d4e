# Rows: what a look at a segment tells, by name. Times are seconds of time.monotonic().

Process = namedtuple("Process", "pid alive here")
AttachedPort = namedtuple("AttachedPort", "number owner pid alive in_exchange")
Cell = namedtuple("Cell", "state owner slot leased_at") # an in-flight cell; `owner`: the port's number
CellCounts = namedtuple("CellCounts", "spare warm idle loaned leased held orphan")
Occupied = namedtuple("Occupied", "state owner message_id since ends begun failed nbytes") # a cell with a message, or a loan
Exchange = namedtuple("Exchange", "cell gives takes") # one that is begun, and perhaps not done: two slots
Placement = namedtuple("Placement", "total named out_of_step cells exchanges") # where each slot is
Counters = namedtuple("Counters", "puts gets receives acks nacks redeliveries")
Events = namedtuple("Events", "expired deaths dead_lettered")
Waiters = namedtuple("Waiters", "consumers producers")
